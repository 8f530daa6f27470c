//! HTTP, for what has no QUIC: probes, and nodes that fetch the program of a worker.
//!
//! | request | answer |
//! |---|---|
//! | `GET /health` | `ok`, as long as the scheduler runs |
//! | `GET /worker/SHA256` | this program, if it has this digest |
//! | `POST /failed/LEASE` | nothing; the text, of 4 KiB at most, is why a worker does not start |
//!
//! Plain, as a node has nothing yet to check a certificate with: the program is known by its digest, which comes with the
//! batch script by another way. It has no secret in it. Nobody is known here, so that a report is no more than a hint:
//! who gets it has to know its lease, and what is too much is dropped.
//!
//! A connection is for one request. Their number, the size of what they say and the time that they take are bounded.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::SchedulerError;
use crate::sync::off_loop;

/// Connections at a time; others wait until one is over.
const CONNECTIONS: usize = 256;
/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(10);
/// How long the text of a report may take.
const BODY: Duration = Duration::from_secs(10);
/// How long a connection may take altogether: a node with a slow link fetches some ten megabytes.
const CONNECTION: Duration = Duration::from_secs(900);
/// Bytes of a request's head.
const MAX_HEAD: usize = 8 << 10;
const MAX_HEADERS: usize = 32;
/// Bytes of a report.
const MAX_REPORT: usize = 4 << 10;
/// Characters of a lease.
const MAX_LEASE: usize = 80;
/// Reports that nobody has read yet.
const MAX_REPORTS: usize = 256;
/// How much of the program is read at once.
const CHUNK: usize = 256 << 10;
/// After an error of the listener: too many files are open, as a rule.
const PAUSE: Duration = Duration::from_millis(100);

/// Why a worker does not start, by what runs in its place: its lease, and the text.
pub(crate) type Report = (String, String);

/// The program that is served. It is open, so that nothing on the disk makes it another one.
#[derive(Debug)]
struct Program {
    file: File,
    size: u64,
    sha256: String,
}

impl Program {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        let mut at = 0;
        while at < size {
            let chunk = read(&file, at, size)?;
            digest.update(&chunk);
            at += chunk.len() as u64;
        }
        let sha256 = digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { file, size, sha256 })
    }
}

/// What comes at an offset of a file of this size: something.
fn read(file: &File, at: u64, size: u64) -> io::Result<Bytes> {
    let mut chunk = vec![0; usize::try_from(size - at).unwrap_or(CHUNK).min(CHUNK)];
    let count = file.read_at(&mut chunk, at)?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    chunk.truncate(count);
    Ok(chunk.into())
}

/// A listener that is bound, and serves from [`Self::run`] on.
#[derive(Debug)]
pub(crate) struct Http {
    listener: TcpListener,
    local: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    program: Program,
    reports: mpsc::Sender<Report>,
}

impl Http {
    /// Listens, and opens what is served: the program at `path`. What is reported comes out of the receiver; what nobody
    /// takes from it is dropped.
    ///
    /// # Errors
    ///
    /// The address cannot be listened on, or the program cannot be read.
    pub(crate) async fn bind(
        address: SocketAddr,
        path: &Path,
    ) -> Result<(Self, mpsc::Receiver<Report>), SchedulerError> {
        let listen = |source| SchedulerError::ListenHttp { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let local = listener.local_addr().map_err(listen)?;
        let opened = path.to_owned();
        let program = off_loop(move || Program::open(&opened)).await;
        let program = program.map_err(|source| SchedulerError::State { path: path.to_owned(), source })?;
        let (reports, receiver) = mpsc::channel(MAX_REPORTS);
        Ok((Self { listener, local, shared: Arc::new(Shared { program, reports }) }, receiver))
    }

    /// The address that it listens on, with the port that it got.
    pub(crate) const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The digest of the program that is served, and its size in bytes.
    pub(crate) fn program(&self) -> (&str, u64) {
        (&self.shared.program.sha256, self.shared.program.size)
    }

    /// Serves for good.
    pub(crate) async fn run(self) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let mut tasks = JoinSet::new();
        loop {
            // It is never closed.
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "no HTTP connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            while tasks.try_join_next().is_some() {}
            let shared = Arc::clone(&self.shared);
            tasks.spawn(async move {
                if timeout(CONNECTION, serve(stream, shared)).await.is_err() {
                    tracing::debug!("an HTTP connection took too long");
                }
                drop(permit);
            });
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(request, &shared).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_headers(MAX_HEADERS).max_buf_size(MAX_HEAD);
    http.keep_alive(false);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "an HTTP connection broke");
    }
}

type Answer = Response<Either<Full<Bytes>, Download>>;

fn text(status: StatusCode, text: &'static str) -> Answer {
    let mut response = Response::new(Either::Left(Full::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

async fn answer(request: Request<Incoming>, shared: &Arc<Shared>) -> Answer {
    let path = request.uri().path().to_owned();
    let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
    match path.split('/').collect::<Vec<_>>().as_slice() {
        ["", "health"] if is_get => text(StatusCode::OK, "ok\n"),
        ["", "worker", sha256] if is_get => {
            if *sha256 == shared.program.sha256 {
                download(shared)
            } else {
                text(StatusCode::NOT_FOUND, "the scheduler is of another build\n")
            }
        }
        ["", "failed", lease] if *request.method() == Method::POST => report(lease, request.into_body(), shared).await,
        ["", "health"] | ["", "worker" | "failed", _] => text(StatusCode::METHOD_NOT_ALLOWED, "not this way\n"),
        _ => text(StatusCode::NOT_FOUND, "there is nothing here\n"),
    }
}

fn download(shared: &Arc<Shared>) -> Answer {
    let size = shared.program.size;
    let mut response = Response::new(Either::Right(Download { shared: Arc::clone(shared), at: 0, next: None }));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(size));
    response
}

async fn report(lease: &str, body: Incoming, shared: &Shared) -> Answer {
    let is_lease = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if lease.is_empty() || lease.len() > MAX_LEASE || !lease.bytes().all(is_lease) {
        return text(StatusCode::NOT_FOUND, "this is no lease\n");
    }
    let body = match timeout(BODY, Limited::new(body, MAX_REPORT).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return text(StatusCode::PAYLOAD_TOO_LARGE, "that is too much\n"),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "that takes too long\n"),
    };
    // It may end in somebody's terminal.
    let words = String::from_utf8_lossy(&body).replace(|c: char| c.is_control() && c != '\n', " ");
    // A channel that is full has more than anybody wants to know.
    let _ = shared.reports.try_send((lease.to_owned(), words));
    text(StatusCode::OK, "")
}

/// The program as a body, read as it is sent.
struct Download {
    shared: Arc<Shared>,
    at: u64,
    next: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Body for Download {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let (at, size) = (self.at, self.shared.program.size);
        if at >= size {
            return Poll::Ready(None);
        }
        let shared = Arc::clone(&self.shared);
        let next =
            self.next.get_or_insert_with(|| tokio::task::spawn_blocking(move || read(&shared.program.file, at, size)));
        let chunk =
            std::task::ready!(Pin::new(next).poll(context)).unwrap_or_else(|error| Err(io::Error::other(error)));
        self.next = None;
        Poll::Ready(Some(chunk.map(|chunk| {
            self.at += chunk.len() as u64;
            Frame::data(chunk)
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.at >= self.shared.program.size
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.shared.program.size - self.at)
    }
}

#[cfg(test)]
mod tests;
