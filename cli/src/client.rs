//! A client's connection to a farm.

use std::path::Path;

use bytes::Bytes;
use farm_link::LinkError;
use farm_link::dial::{self, Link};
use farm_link::stream::FrameReader;
use farm_proto::close;
use farm_proto::columns::{Columns, ColumnsError};
use farm_proto::ids::{Digest, JobId};
use farm_proto::job::{JobSpec, JobStatus};
use farm_proto::message::{Batch, FarmStatus, Open, Request, RequestError, Response};
use farm_proto::ticket::{Role, Ticket};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How much of a blob is handed to the transport at once, in bytes.
const BLOB_CHUNK: usize = 256 << 10;
/// Blobs that are uploaded side by side: enough that many small ones do not wait for each other's round trips.
const PARALLEL_UPLOADS: usize = 16;

/// Why a farm did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the farm refused: {0}")]
    Refused(#[from] RequestError),
    #[error("the farm sent something unreadable")]
    Columns(#[from] ColumnsError),
    #[error("cannot read what is to be uploaded")]
    Source(#[source] std::io::Error),
    #[error("the farm answered out of turn: {0}")]
    Unexpected(&'static str),
}

/// Where the bytes of a blob come from when a farm lacks it.
pub trait BlobSource: Sync {
    /// The bytes named `digest`, and how many they are; `None` if this source knows no such blob.
    ///
    /// # Errors
    ///
    /// The bytes cannot be read.
    fn open(
        &self,
        digest: &Digest,
    ) -> impl Future<Output = std::io::Result<Option<(u64, Box<dyn AsyncRead + Unpin + Send>)>>> + Send;
}

/// A farm, as its user sees it. Cheap to clone; every request has a stream of its own, so requests do not wait for each
/// other.
#[derive(Debug, Clone)]
pub struct Client {
    link: Link,
}

impl Client {
    /// Dials the farm of `ticket`; see [`dial::connect`] for `identities`.
    ///
    /// # Errors
    ///
    /// The farm cannot be reached, is another one, or refuses the ticket.
    pub async fn connect(ticket: &Ticket, identities: Option<&Path>) -> Result<Self, ClientError> {
        Ok(Self { link: dial::connect(ticket, identities).await? })
    }

    /// Says goodbye, so that the farm need not find out.
    pub async fn close(&self) {
        self.link.close(close::DONE).await;
    }

    async fn ask(&self, request: Request, payload: Bytes) -> Result<FrameReader, ClientError> {
        let (mut writer, reader) = self.link.open().await?;
        writer.send(&Open::Request(request), payload).await?;
        writer.finish();
        Ok(reader)
    }

    async fn ask_once(&self, request: Request) -> Result<Response, ClientError> {
        let mut reader = self.ask(request, Bytes::new()).await?;
        let (response, _) = reader.expect().await?;
        refused(response)
    }

    /// Starts a job, uploading what the farm lacks of its blobs first. `payload` holds the columns of inline arguments.
    /// `uploaded` is told the size of each blob that was sent.
    ///
    /// The watch tells the results from the start if `watch` is set, and otherwise nothing but the job's id.
    ///
    /// # Errors
    ///
    /// The farm refuses the job, a blob cannot be read, or the connection is lost. If it is lost before the id was
    /// received, the job may have been accepted.
    pub async fn submit(
        &self,
        spec: &JobSpec,
        payload: Bytes,
        blobs: &impl BlobSource,
        watch: bool,
        uploaded: &dyn Fn(u64),
    ) -> Result<Watch, ClientError> {
        loop {
            let request = Request::Submit { spec: Box::new(spec.clone()), watch };
            let mut reader = self.ask(request, payload.clone()).await?;
            let (response, _) = reader.expect().await?;
            match refused(response)? {
                Response::Accepted { job } => return Ok(Watch { job, reader }),
                Response::Missing { digests } if !digests.is_empty() => {
                    self.upload(&digests, blobs, uploaded).await?;
                }
                _ => return Err(ClientError::Unexpected("neither accepted nor missing blobs")),
            }
        }
    }

    /// Uploads blobs, several at a time.
    ///
    /// # Errors
    ///
    /// As [`Self::submit`]; also if `blobs` does not have one of them.
    pub async fn upload(
        &self,
        digests: &[Digest],
        blobs: &impl BlobSource,
        uploaded: &dyn Fn(u64),
    ) -> Result<(), ClientError> {
        use futures_util::stream::{self, StreamExt, TryStreamExt};
        stream::iter(digests)
            .map(|digest| self.put_blob(digest, blobs))
            .buffer_unordered(PARALLEL_UPLOADS)
            .try_for_each(|size| {
                uploaded(size);
                std::future::ready(Ok(()))
            })
            .await
    }

    async fn put_blob(&self, digest: &Digest, blobs: &impl BlobSource) -> Result<u64, ClientError> {
        let opened = blobs.open(digest).await.map_err(ClientError::Source)?;
        let (size, mut source) = opened.ok_or(RequestError::NoSuchBlob(*digest))?;
        let (mut writer, mut reader) = self.link.open().await?;
        writer.send(&Open::Request(Request::PutBlob { digest: *digest, size }), Bytes::new()).await?;
        loop {
            let mut chunk = Vec::with_capacity(BLOB_CHUNK);
            if (&mut source).take(BLOB_CHUNK as u64).read_to_end(&mut chunk).await.map_err(ClientError::Source)? == 0 {
                break;
            }
            if let Err(error) = writer.raw(chunk.into()).await {
                // The farm has stopped reading: it has the blob already, or says what is wrong.
                if !matches!(error, LinkError::Stopped(_)) {
                    return Err(error.into());
                }
                break;
            }
        }
        writer.finish();
        let (response, _) = reader.expect().await?;
        match refused(response)? {
            Response::Stored => Ok(size),
            _ => Err(ClientError::Unexpected("no word of a stored blob")),
        }
    }

    /// Results of a job, from batch number `from` on; with `follow`, until the job ends.
    ///
    /// # Errors
    ///
    /// There is no such job, or the connection is lost.
    pub async fn watch(&self, job: JobId, from: u64, follow: bool) -> Result<Watch, ClientError> {
        let reader = self.ask(Request::Watch { job, from, follow }, Bytes::new()).await?;
        Ok(Watch { job, reader })
    }

    /// The jobs that this user may see.
    ///
    /// # Errors
    ///
    /// The connection is lost.
    pub async fn jobs(&self) -> Result<Vec<JobStatus>, ClientError> {
        match self.ask_once(Request::Jobs).await? {
            Response::Jobs(jobs) => Ok(jobs),
            _ => Err(ClientError::Unexpected("no list of jobs")),
        }
    }

    /// How one job is doing.
    ///
    /// # Errors
    ///
    /// There is no such job, or the connection is lost.
    pub async fn job(&self, job: JobId) -> Result<JobStatus, ClientError> {
        self.status(Request::Job { job }).await
    }

    /// Cancels a job; one that has ended stays as it is.
    ///
    /// # Errors
    ///
    /// There is no such job, or the connection is lost.
    pub async fn cancel(&self, job: JobId) -> Result<JobStatus, ClientError> {
        self.status(Request::Cancel { job }).await
    }

    async fn status(&self, request: Request) -> Result<JobStatus, ClientError> {
        match self.ask_once(request).await? {
            Response::Status(status) => Ok(*status),
            _ => Err(ClientError::Unexpected("no status of a job")),
        }
    }

    /// How the farm is doing.
    ///
    /// # Errors
    ///
    /// The connection is lost.
    pub async fn farm(&self) -> Result<FarmStatus, ClientError> {
        match self.ask_once(Request::Farm).await? {
            Response::Farm(status) => Ok(status),
            _ => Err(ClientError::Unexpected("no status of the farm")),
        }
    }

    /// Makes a ticket that lets its bearer enrol for `valid_s` seconds from now.
    ///
    /// # Errors
    ///
    /// Only admins may; or the connection is lost.
    pub async fn ticket(&self, role: Role, name: &str, valid_s: u64) -> Result<String, ClientError> {
        let name = name.to_owned();
        match self.ask_once(Request::Ticket { role, name, valid_s }).await? {
            Response::Ticket { ticket } => Ok(ticket),
            _ => Err(ClientError::Unexpected("no ticket")),
        }
    }

    /// Ends the farm: its scheduler, and with it its workers.
    ///
    /// # Errors
    ///
    /// Only admins may; or the connection is lost.
    pub async fn shutdown(&self) -> Result<(), ClientError> {
        match self.ask_once(Request::Shutdown).await? {
            Response::Stopping => Ok(()),
            _ => Err(ClientError::Unexpected("no word of an end")),
        }
    }
}

fn refused(response: Response) -> Result<Response, ClientError> {
    match response {
        Response::Error(error) => Err(error.into()),
        response => Ok(response),
    }
}

/// What a job has to tell, as it comes.
#[derive(Debug)]
pub struct Watch {
    job: JobId,
    reader: FrameReader,
}

/// One thing that a job tells.
#[derive(Debug)]
pub enum Update {
    /// Outcomes, with the results of the tasks that succeeded. Batches come in no particular order of tasks, each outcome
    /// once.
    Results { seq: u64, batch: Batch, results: Columns },
    /// How the job is doing. The last update is one of these.
    Status(JobStatus),
}

impl Watch {
    pub const fn job(&self) -> JobId {
        self.job
    }

    /// The next update; `None` after the last.
    ///
    /// # Errors
    ///
    /// The connection is lost, or the farm sent something unreadable.
    pub async fn next(&mut self) -> Result<Option<Update>, ClientError> {
        let Some((response, payload)) = self.reader.next().await? else {
            return Ok(None);
        };
        match refused(response)? {
            Response::Results { seq, batch } => {
                let results = Columns::decode(batch.count.into(), payload)?;
                Ok(Some(Update::Results { seq, batch, results }))
            }
            Response::Status(status) => Ok(Some(Update::Status(*status))),
            _ => Err(ClientError::Unexpected("neither results nor a status")),
        }
    }
}
