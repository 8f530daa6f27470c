//! A scheduler that says what a test wants it to: real QUIC, no core behind it.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use farm_link::dial::SERVER_NAME;
use farm_link::identity::{Identity, path_in};
use farm_link::stream::{FrameReader, FrameWriter};
use farm_link::transport;
use farm_proto::ALPN;
use farm_proto::ids::{Digest, WorkerId};
use farm_proto::message::{Open, Request, RequestError, Response, Resume, SchedulerControl, WorkerHello};
use farm_proto::ticket::{Role, Ticket};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::task::JoinHandle;

pub(crate) type Stream = (FrameWriter, FrameReader);

/// What workers may fetch, and what they did fetch.
#[derive(Debug, Default)]
pub(crate) struct Blobs {
    pub(crate) known: HashMap<Digest, Bytes>,
    pub(crate) fetched: Vec<Digest>,
    delay: Duration,
}

pub(crate) struct Scheduler {
    endpoint: Endpoint,
    /// Turns everyone away, in silence, while it runs.
    away: Option<JoinHandle<()>>,
    pub(crate) ticket: Ticket,
    pub(crate) blobs: Arc<Mutex<Blobs>>,
}

/// A worker that has connected.
pub(crate) struct Connected {
    pub(crate) connection: Connection,
    pub(crate) hello: WorkerHello,
    pub(crate) resume: Resume,
    pub(crate) control: Stream,
    pub(crate) work: Stream,
}

impl Scheduler {
    /// Listens, and puts a worker's identity into `identities`, so that none need enrol.
    pub(crate) fn start(identities: &Path, heartbeat: Duration) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap().der().clone();
        let issuer = Issuer::new(params, key);
        let signed = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new([name.to_owned()]).unwrap();
            let chain = vec![params.signed_by(&key, &issuer).unwrap().der().clone(), ca.clone()];
            Identity { chain, key: PrivatePkcs8KeyDer::from(key.serialize_der()) }
        };
        let fingerprint = Digest::of(&ca);
        let endpoint = listen(&signed(SERVER_NAME), heartbeat);
        let ticket = Ticket {
            host: "127.0.0.1".to_owned(),
            port: endpoint.local_addr().unwrap().port(),
            role: Role::Worker,
            ca: fingerprint,
            secret: "unused".to_owned(),
        };
        signed("worker").save(&path_in(identities, &ticket)).unwrap();
        Self { endpoint, away: None, ticket, blobs: Arc::default() }
    }

    /// Goes away: it hears nobody any more. Connections are the caller's to close.
    pub(crate) fn stop(&mut self) {
        let endpoint = self.endpoint.clone();
        self.away = Some(tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                incoming.ignore();
            }
        }));
    }

    /// Is back at the same address.
    pub(crate) fn start_again(&mut self) {
        self.away.take().unwrap().abort();
    }

    /// Lets everyone who fetches a blob wait.
    pub(crate) fn delay_blobs(&self, delay: Duration) {
        self.blobs.lock().unwrap().delay = delay;
    }

    /// Offers a blob.
    pub(crate) fn put(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        self.blobs.lock().unwrap().known.insert(digest, bytes);
        digest
    }

    /// The next worker to connect, welcomed; its requests are answered from now on.
    pub(crate) async fn accept(&self) -> Connected {
        let connection = self.endpoint.accept().await.unwrap().await.unwrap();
        let mut control = accept_stream(&connection).await;
        let (hello, resume) = match control.1.expect().await.unwrap().0 {
            Open::Control { hello, resume } => (hello, resume),
            other => panic!("{other:?}"),
        };
        let welcome = SchedulerControl::Welcome { worker: WorkerId(1) };
        control.0.send(&welcome, Bytes::new()).await.unwrap();
        let mut work = accept_stream(&connection).await;
        assert_eq!(work.1.expect::<Open>().await.unwrap().0, Open::Work);
        tokio::spawn(serve(connection.clone(), Arc::clone(&self.blobs)));
        Connected { connection, hello, resume, control, work }
    }
}

fn listen(identity: &Identity, heartbeat: Duration) -> Endpoint {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(identity.chain.iter().map(CertificateDer::clone).collect(), identity.private_key())
        .unwrap();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicServerConfig::try_from(tls).unwrap();
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport::config(heartbeat));
    let socket = transport::socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let runtime = Arc::new(quinn::TokioRuntime);
    Endpoint::new(transport::endpoint_config(), Some(config), socket, runtime).unwrap()
}

async fn accept_stream(connection: &Connection) -> Stream {
    let (send, receive) = connection.accept_bi().await.unwrap();
    (FrameWriter::new(send), FrameReader::new(receive))
}

async fn serve(connection: Connection, blobs: Arc<Mutex<Blobs>>) {
    while let Ok((send, receive)) = connection.accept_bi().await {
        let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::new(receive));
        let Ok((Open::Request(Request::GetBlob { digest }), _)) = reader.expect().await else {
            panic!("a worker asks for blobs only");
        };
        let (bytes, delay) = {
            let mut blobs = blobs.lock().unwrap();
            blobs.fetched.push(digest);
            (blobs.known.get(&digest).cloned(), blobs.delay)
        };
        tokio::time::sleep(delay).await;
        match bytes {
            Some(bytes) => {
                let size = bytes.len() as u64;
                // Fails if the connection is gone.
                if writer.send(&Response::Blob { size }, Bytes::new()).await.is_ok() {
                    let _ = writer.raw(bytes).await;
                }
            }
            None => {
                let refusal = Response::Error(RequestError::NoSuchBlob(digest));
                writer.send(&refusal, Bytes::new()).await.unwrap();
            }
        }
        writer.finish();
    }
}
