//! How a scheduler that was killed and started again tells its peers: QUIC's stateless reset (RFC 9000, section 10.3).
//!
//! A process that is killed says goodbye to nobody, and the next one at its address does not know the old connections.
//! With a key that outlives the process, it can answer their packets with a token that only it and the peer know. So
//! peers notice with their next packet, a keep-alive at the latest, and not by an idle time-out.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use farm_proto::ids::Digest;
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator};

/// A keyed hash: with BLAKE3, putting the key in front is one.
pub(crate) struct ResetKey(Digest);

impl ResetKey {
    /// A key that tells nothing about the secret that it is made of.
    pub(crate) fn of(secret: &[u8]) -> Self {
        Self(Digest::of(&[b"farm: stateless reset\0", secret].concat()))
    }

    fn digest(&self, data: &[u8]) -> [u8; 32] {
        Digest::of(&[&self.0.0, data].concat()).0
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(&self.digest(data));
    }

    fn signature_len(&self) -> usize {
        size_of::<Digest>()
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // quinn only signs; of two digests that are compared, no time tells anything.
        if Digest::of(signature) == Digest::of(&self.digest(data)) { Ok(()) } else { Err(CryptoError) }
    }
}

/// Names of connections that say nothing. quinn's own are marked with a key of their process, and it does not answer
/// packets with names of other processes.
pub(crate) struct RandomIds {
    hasher: RandomState,
    count: u64,
}

impl RandomIds {
    pub(crate) fn new() -> Self {
        Self { hasher: RandomState::new(), count: 0 }
    }
}

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        self.count += 1;
        ConnectionId::new(&self.hasher.hash_one(self.count).to_le_bytes())
    }

    fn cid_len(&self) -> usize {
        size_of::<u64>()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::Arc;

    use quinn::crypto::rustls::QuicServerConfig;
    use quinn::{ConnectionError, Endpoint, ServerConfig};
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls_pki_types::PrivatePkcs8KeyDer;
    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::dial::{SERVER_NAME, connect_as};
    use crate::identity::Identity;
    use crate::transport;

    fn runtime() -> Runtime {
        Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
    }

    /// A scheduler that takes connections, and dies with its runtime.
    fn listen(identity: &Identity, port: u16) -> Option<(Runtime, u16)> {
        let runtime = runtime();
        let guard = runtime.enter();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(identity.chain.clone(), identity.private_key())
            .expect("a certificate");
        tls.alpn_protocols = vec![farm_proto::ALPN.to_vec()];
        let mut config =
            ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).expect("a cipher for QUIC")));
        config.transport_config(transport::config(transport::PATIENCE));
        let socket = transport::socket(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).ok()?;
        let port = socket.local_addr().expect("an address").port();
        let settings = transport::endpoint_config_with(b"secret");
        let endpoint = Endpoint::new(settings, Some(config), socket, Arc::new(quinn::TokioRuntime)).expect("a socket");
        runtime.spawn(async move {
            let mut connections = Vec::new();
            while let Some(incoming) = endpoint.accept().await {
                connections.push(incoming.await);
            }
        });
        drop(guard);
        Some((runtime, port))
    }

    #[test]
    fn a_scheduler_that_was_killed_and_is_back_is_noticed_at_once() {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).expect("a CA").der().clone();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([SERVER_NAME.to_owned()]).expect("a name");
        let leaf = params.signed_by(&key, &issuer).expect("a certificate").der().clone();
        let identity = Identity { chain: vec![leaf, ca.clone()], key: PrivatePkcs8KeyDer::from(key.serialize_der()) };

        let (scheduler, port) = listen(&identity, 0).expect("a free port");
        let ticket = farm_proto::ticket::Ticket {
            host: "127.0.0.1".to_owned(),
            port,
            role: farm_proto::ticket::Role::Worker,
            ca: Digest::of(&ca),
            secret: "unused".to_owned(),
        };
        let ours = runtime();
        let link = ours.block_on(connect_as(&ticket, &identity)).expect("a connection");
        // Without a word to anyone: tasks are dropped where they stand.
        scheduler.shutdown_background();
        let _again = (0..500)
            .find_map(|_| {
                std::thread::sleep(Duration::from_millis(10));
                listen(&identity, port)
            })
            .expect("the same port");
        let closed = async { tokio::time::timeout(transport::PATIENCE / 2, link.connection.closed()).await };
        let closed = ours.block_on(closed).expect("it is noticed");
        assert_eq!(closed, ConnectionError::Reset);
    }
}
