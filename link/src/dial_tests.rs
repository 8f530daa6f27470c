//! Dialling a scheduler that is just a listener.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use farm_proto::ALPN;
use farm_proto::ids::Digest;
use farm_proto::ticket::{Role, Ticket};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{ConnectionError, Endpoint, ServerConfig};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::runtime::{Builder, Runtime};

use crate::dial::{SERVER_NAME, connect_as};
use crate::identity::Identity;
use crate::{LinkError, transport};

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// A scheduler that takes connections, and dies with its runtime.
fn listen(identity: &Identity, port: u16, alpn: &[u8]) -> Option<(Runtime, u16)> {
    let runtime = runtime();
    let guard = runtime.enter();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(identity.chain.clone(), identity.private_key())
        .expect("a certificate");
    tls.alpn_protocols = vec![alpn.to_vec()];
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).expect("a cipher for QUIC")));
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

/// A scheduler's identity: leaf, then CA.
fn identity() -> Identity {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).expect("a CA").der().clone();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new([SERVER_NAME.to_owned()]).expect("a name");
    let leaf = params.signed_by(&key, &issuer).expect("a certificate").der().clone();
    Identity { chain: vec![leaf, ca], key: PrivatePkcs8KeyDer::from(key.serialize_der()) }
}

fn ticket(identity: &Identity, port: u16) -> Ticket {
    Ticket {
        host: "127.0.0.1".to_owned(),
        port,
        role: Role::Worker,
        ca: Digest::of(&identity.chain[1]),
        secret: "unused".to_owned(),
    }
}

#[test]
fn a_scheduler_that_was_killed_and_is_back_is_noticed_at_once() {
    let identity = identity();
    let (scheduler, port) = listen(&identity, 0, ALPN).expect("a free port");
    let ticket = ticket(&identity, port);
    let ours = runtime();
    let link = ours.block_on(connect_as(&ticket, &identity)).expect("a connection");
    // Without a word to anyone: tasks are dropped where they stand.
    scheduler.shutdown_background();
    let _again = (0..500)
        .find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            listen(&identity, port, ALPN)
        })
        .expect("the same port");
    let closed = async { tokio::time::timeout(transport::PATIENCE / 2, link.connection.closed()).await };
    let closed = ours.block_on(closed).expect("it is noticed");
    assert_eq!(closed, ConnectionError::Reset);
}

#[test]
fn a_scheduler_of_another_version_is_told_apart() {
    let identity = identity();
    let (_scheduler, port) = listen(&identity, 0, b"farm/1").expect("a free port");
    let dialled = runtime().block_on(connect_as(&ticket(&identity, port), &identity));
    let error = dialled.map(drop).expect_err("another version");
    assert!(matches!(error, LinkError::Version { .. }), "{error:?}");
    assert!(error.to_string().contains("farm/2"), "{error}");
    assert!(!error.is_passing());
}
