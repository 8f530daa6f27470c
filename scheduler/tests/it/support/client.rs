//! A client, as thin as can be.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use farm_link::LinkError;
use farm_link::dial::{self, Link};
use farm_link::stream::{FrameReader, FrameWriter};
use farm_proto::columns::{Columns, ColumnsBuilder};
use farm_proto::ids::{Digest, JobId};
use farm_proto::job::{
    ArgChunk, Args, CommandOptions, JobSpec, JobStatus, Limits, ModuleKind, ModuleRef, Mounts, Profile, ResultEncoding,
};
use farm_proto::message::{Open, Request, RequestError, Response, SubmitKey};
use farm_proto::outcome::Failure;
use farm_proto::ticket::{NewTicket, Role, Ticket, TicketStatus};

/// The only module there is in these tests.
pub(crate) const MODULE: &[u8] = b"\0asm square";

pub(crate) struct Client {
    pub(crate) link: Link,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Value(Vec<u8>),
    Failed(Failure),
}

impl Outcome {
    pub(crate) fn number(&self) -> i64 {
        match self {
            Self::Value(bytes) => std::str::from_utf8(bytes).unwrap().parse().unwrap(),
            Self::Failed(failure) => panic!("a failure instead of a number: {failure}"),
        }
    }
}

/// What a watch gave.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) outcomes: BTreeMap<u64, Outcome>,
    pub(crate) batches: u64,
    /// The last is the final one.
    pub(crate) statuses: Vec<JobStatus>,
}

impl Watched {
    pub(crate) fn status(&self) -> &JobStatus {
        self.statuses.last().expect("a watch ends with a status")
    }

    /// Checks that every task of a range job has the right value.
    pub(crate) fn assert_squares(&self, start: i64, end: i64) {
        assert_eq!(self.outcomes.len() as u64, start.abs_diff(end));
        for (outcome, n) in self.outcomes.values().zip(start..end) {
            assert_eq!(outcome.number(), n * n);
        }
    }
}

/// A job of squares, with module and arguments to be filled in.
pub(crate) fn range_job(start: i64, end: i64) -> JobSpec {
    JobSpec {
        cluster: None,
        time_request_ms: None,
        name: None,
        module: ModuleRef {
            digest: Digest::of(MODULE),
            size: MODULE.len() as u64,
            kind: ModuleKind::Core,
            result: ResultEncoding::Json,
        },
        function: "square".to_owned(),
        args: Args::Range { start, end },
        limits: Limits::default(),
        profile: Profile::Fast,
        env: Vec::new(),
        inputs: Vec::new(),
        mounts: Mounts::default(),
        command: CommandOptions::default(),
        retries: 0,
        max_failures: None,
        priority: 0,
        after: Vec::new(),
        fold: false,
    }
}

/// A key that no other submission has.
pub(crate) fn key() -> SubmitKey {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    SubmitKey(NEXT.fetch_add(1, Ordering::Relaxed).into())
}

/// The request that submits a job.
pub(crate) fn submit(spec: JobSpec, watch: bool) -> Request {
    Request::Submit { key: key(), spec: Box::new(spec), watch }
}

pub(crate) fn columns(items: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Bytes {
    let mut builder = ColumnsBuilder::new();
    items.into_iter().for_each(|item| builder.push(item.as_ref()));
    builder.finish().encode()
}

/// The stream of a watch.
pub(crate) struct Watching {
    pub(crate) job: JobId,
    pub(crate) reader: FrameReader,
}

impl Client {
    pub(crate) async fn connect(ticket: &Ticket) -> Self {
        Self { link: dial::connect(ticket, None).await.unwrap() }
    }

    pub(crate) async fn open(&self, request: Request, payload: Bytes) -> (FrameWriter, FrameReader) {
        let (mut writer, reader) = self.link.open().await.unwrap();
        writer.send(&Open::Request(request), payload).await.unwrap();
        (writer, reader)
    }

    /// Asks what has one answer.
    pub(crate) async fn ask(&self, request: Request) -> Result<Response, LinkError> {
        let (mut writer, mut reader) = self.link.open().await?;
        writer.send(&Open::Request(request), Bytes::new()).await?;
        writer.finish();
        let (response, _) = reader.expect().await?;
        assert!(reader.next::<Response>().await?.is_none(), "more than one answer");
        Ok(response)
    }

    pub(crate) async fn refused(&self, request: Request) -> RequestError {
        match self.ask(request).await.unwrap() {
            Response::Error(error) => error,
            other => panic!("not refused: {other:?}"),
        }
    }

    pub(crate) async fn put(&self, digest: Digest, bytes: &[u8]) -> Response {
        let size = bytes.len() as u64;
        let (mut writer, mut reader) = self.open(Request::PutBlob { digest, size, ask: false }, Bytes::new()).await;
        for piece in bytes.chunks(256 << 10) {
            // The scheduler may refuse before it has read everything.
            if writer.raw(Bytes::copy_from_slice(piece)).await.is_err() {
                break;
            }
        }
        writer.finish();
        reader.expect().await.unwrap().0
    }

    pub(crate) async fn put_module(&self) {
        assert_eq!(self.put(Digest::of(MODULE), MODULE).await, Response::Stored);
    }

    pub(crate) async fn get(&self, digest: Digest) -> Result<Vec<u8>, RequestError> {
        let (mut writer, mut reader) = self.open(Request::GetBlob { digest }, Bytes::new()).await;
        writer.finish();
        let size = match reader.expect().await.unwrap().0 {
            Response::Blob { size } => size,
            Response::Error(error) => return Err(error),
            other => panic!("{other:?}"),
        };
        let mut bytes = Vec::new();
        while let Some(piece) = reader.raw().await.unwrap() {
            bytes.extend_from_slice(&piece);
        }
        assert_eq!(bytes.len() as u64, size);
        Ok(bytes)
    }

    /// Cuts arguments into blobs.
    pub(crate) async fn put_chunks(&self, arguments: &[Vec<u8>], per_chunk: usize) -> Args {
        let mut chunks = Vec::new();
        for part in arguments.chunks(per_chunk) {
            let bytes = columns(part);
            let digest = Digest::of(&bytes);
            assert_eq!(self.put(digest, &bytes).await, Response::Stored);
            chunks.push(ArgChunk { digest, count: part.len() as u32, size: bytes.len() as u64 });
        }
        Args::Chunks(chunks)
    }

    /// Submits a job and leaves it.
    pub(crate) async fn detach(&self, spec: JobSpec) -> JobId {
        let request = submit(spec, false);
        match self.ask(request).await.unwrap() {
            Response::Accepted { job } => job,
            other => panic!("not accepted: {other:?}"),
        }
    }

    /// Submits a job and begins to watch it.
    pub(crate) async fn submit(&self, spec: JobSpec, payload: Bytes) -> Watching {
        let request = submit(spec, true);
        let (mut writer, mut reader) = self.open(request, payload).await;
        writer.finish();
        match reader.expect().await.unwrap().0 {
            Response::Accepted { job } => Watching { job, reader },
            other => panic!("not accepted: {other:?}"),
        }
    }

    /// Submits a job and waits for its end.
    pub(crate) async fn run(&self, spec: JobSpec, payload: Bytes) -> Watched {
        self.submit(spec, payload).await.finish().await
    }

    pub(crate) async fn watch(&self, job: JobId, from: u64, follow: bool) -> Watched {
        let (mut writer, reader) = self.open(Request::Watch { job, from, follow }, Bytes::new()).await;
        writer.finish();
        Watching { job, reader }.finish_from(from).await
    }

    pub(crate) async fn status(&self, job: JobId) -> JobStatus {
        match self.ask(Request::Job { job }).await.unwrap() {
            Response::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn cancel(&self, job: JobId) -> JobStatus {
        match self.ask(Request::Cancel { job }).await.unwrap() {
            Response::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn farm(&self) -> farm_proto::message::FarmStatus {
        match self.ask(Request::Farm).await.unwrap() {
            Response::Farm(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn ticket(&self, role: Role, name: &str, valid_s: u64) -> Result<Ticket, RequestError> {
        let new = NewTicket { role, name: name.to_owned(), cluster: None, valid_s, uses: None };
        self.new_ticket(new).await.map(|(ticket, _)| ticket)
    }

    pub(crate) async fn new_ticket(&self, new: NewTicket) -> Result<(Ticket, TicketStatus), RequestError> {
        match self.ask(Request::Ticket(new)).await.unwrap() {
            Response::Ticket { text, status } => Ok((text.parse().unwrap(), *status)),
            Response::Error(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }
}

impl Watching {
    pub(crate) async fn next(&mut self) -> Option<(Response, Bytes)> {
        self.reader.next().await.unwrap()
    }

    /// Takes in everything to the end.
    pub(crate) async fn finish(self) -> Watched {
        self.finish_from(0).await
    }

    async fn finish_from(mut self, from: u64) -> Watched {
        let mut watched = Watched { outcomes: BTreeMap::new(), batches: 0, statuses: Vec::new() };
        while let Some((response, payload)) = self.next().await {
            match response {
                Response::Results { seq, batch } => {
                    assert_eq!(seq, from + watched.batches, "batches come in order, each once");
                    watched.batches += 1;
                    let columns = Columns::decode(batch.count.into(), payload).unwrap();
                    let mut failures: BTreeMap<_, _> = batch.failures.into_iter().collect();
                    for (offset, value) in (0..batch.count).zip(columns.iter()) {
                        let outcome = match failures.remove(&offset) {
                            Some(failure) => Outcome::Failed(failure),
                            None => Outcome::Value(value.to_vec()),
                        };
                        let before = watched.outcomes.insert(batch.first + u64::from(offset), outcome);
                        assert_eq!(before, None, "a task has one outcome");
                    }
                }
                Response::Status(status) => {
                    assert_eq!(status.job, self.job);
                    watched.statuses.push(*status);
                }
                other => panic!("{other:?}"),
            }
        }
        watched
    }
}
