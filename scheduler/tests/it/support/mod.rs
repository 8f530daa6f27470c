//! A scheduler in the test's own process, clients that speak the protocol, and workers that square numbers.

pub(crate) mod client;
pub(crate) mod worker;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use farm_proto::ticket::{Role, Ticket};
use farm_scheduler::{Handle, Options, Scheduler, SchedulerError};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tempfile::TempDir;
use tokio::task::JoinHandle;

pub(crate) use self::client::{Client, Outcome, range_job};
pub(crate) use self::worker::{Worker, WorkerKind};

/// A scheduler that runs in the background, in a folder of its own.
pub(crate) struct Farm {
    pub(crate) folder: TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) admin: Ticket,
    pub(crate) worker: Ticket,
    pub(crate) handle: Handle,
    running: JoinHandle<Result<(), SchedulerError>>,
}

pub(crate) fn options(state: &Path) -> Options {
    Options::new(state).listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}

impl Farm {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Options)) -> Self {
        Self::start_at(tempfile::tempdir().unwrap(), change).await
    }

    /// Stops it and starts it again, at the same place.
    pub(crate) async fn restart(self) -> Self {
        self.restart_with(|_| {}).await
    }

    pub(crate) async fn restart_with(self, change: impl FnOnce(&mut Options)) -> Self {
        let address = self.address;
        self.handle.stop();
        self.running.await.unwrap().unwrap();
        let at_same_place = |options: &mut Options| {
            options.listen = address;
            change(options);
        };
        Self::start_at(self.folder, at_same_place).await
    }

    /// Breaks it off in the midst of whatever it does, and starts it again at the same place.
    pub(crate) async fn crash(self) -> Self {
        let address = self.address;
        self.running.abort();
        let _ = self.running.await;
        // A commit that is under way holds the folder for a moment longer, and the socket is closed by a task of its own.
        until(async || !is_locked(self.folder.path()) && std::net::UdpSocket::bind(address).is_ok()).await;
        Self::start_at(self.folder, |options| options.listen = address).await
    }

    pub(crate) async fn start_at(folder: TempDir, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = options(folder.path());
        change(&mut options);
        let mut scheduler = Scheduler::start(options).await.unwrap();
        let mut ticket = |role| scheduler.ticket(role, role.as_str(), Duration::from_secs(600)).unwrap();
        let (admin, worker) = (ticket(Role::Admin), ticket(Role::Worker));
        Self {
            admin,
            worker,
            folder,
            address: scheduler.local_addr(),
            handle: scheduler.handle(),
            running: tokio::spawn(scheduler.run()),
        }
    }

    /// A client that may do everything.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.admin).await
    }

    /// A client that has its own jobs only.
    pub(crate) async fn user(&self, name: &str) -> Client {
        let ticket = self.client().await.ticket(Role::User, name, 600).await.unwrap();
        Client::connect(&ticket).await
    }

    /// A worker that squares numbers.
    pub(crate) async fn squares(&self, slots: u32) -> Worker {
        Worker::start(&self.worker, slots, WorkerKind::Squares).await
    }

    pub(crate) async fn stop(self) -> TempDir {
        self.handle.shutdown();
        self.running.await.unwrap().unwrap();
        self.folder
    }

    /// Waits for the scheduler to end by itself.
    pub(crate) async fn ended(self) -> TempDir {
        self.running.await.unwrap().unwrap();
        self.folder
    }
}

fn is_locked(folder: &Path) -> bool {
    let lock = std::fs::File::open(folder.join("lock")).unwrap();
    lock.try_lock().is_err()
}

/// Runs a test that may not hang.
pub(crate) fn limited<T>(test: impl Future<Output = T>) -> T {
    limited_to(Duration::from_secs(60), test)
}

pub(crate) fn limited_to<T>(limit: Duration, test: impl Future<Output = T>) -> T {
    let filter = std::env::var("FARM_LOG").unwrap_or_else(|_| "warn".to_owned());
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async { tokio::time::timeout(limit, test).await.expect("the test hangs") };
    runtime.block_on(test)
}

/// Waits until something is so.
pub(crate) async fn until<F: Future<Output = bool>>(mut so: impl FnMut() -> F) {
    while !so().await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A connection without a certificate.
pub(crate) async fn stranger(ticket: &Ticket, alpn: &[u8]) -> quinn::Connection {
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let endpoint = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ticket.port));
    let config = quinn::ClientConfig::new(Arc::new(tls));
    endpoint.connect_with(config, address, "farm").unwrap().await.unwrap()
}

/// Trusts everyone.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
