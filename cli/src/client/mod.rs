//! A client's connection to a farm, which survives the scheduler's death.
//!
//! Whatever is asked while the scheduler is away is asked again when it is back: a [`Client`] dials anew by itself, and
//! everything that it asks can be repeated without harm. A submission has a key of its own for that, by which the farm
//! knows it again; a [`Watch`] knows which batch comes next. What the farm *refuses* is not asked again.

mod error;
mod line;
mod upload;
mod watch;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farm_link::dial::Dialer;
use farm_link::failpoint;
use farm_link::stream::FrameReader;
use farm_proto::close;
use farm_proto::cluster::{ClusterSpec, ClusterStatus, Plan, Scale};
use farm_proto::ids::{JobId, TicketId, WorkerId};
use farm_proto::job::{JobSpec, JobStatus};
use farm_proto::message::{FarmStatus, Open, Request, RequestError, Response, SubmitKey};
use farm_proto::secret::{SecretStatus, Secrets};
use farm_proto::ticket::{NewTicket, Ticket, TicketStatus};
use farm_proto::why::Why;

pub use self::error::ClientError;
use self::line::{Absence, Line};
pub use self::upload::{BlobSource, Opened};
pub use self::watch::{Update, Watch};

/// How long a scheduler that is away is waited for unless something else is said.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// A farm, as its user sees it. Cheap to clone; every request has a stream of its own, so requests do not wait for each
/// other.
#[derive(Debug, Clone)]
pub struct Client {
    line: Arc<Line>,
    patience: Duration,
    told: Option<Told>,
}

/// What a client says of its connection, between the answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkNews {
    /// The scheduler does not answer: it is waited for.
    Lost { cause: String, patience: Duration },
    /// It answers again.
    Back { after: Duration },
}

#[derive(Clone)]
struct Told(Arc<dyn Fn(LinkNews) + Send + Sync>);

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told")
    }
}

impl Client {
    /// Dials the farm of `ticket`; see [`Dialer`] for `identities`. Fails if nobody answers:
    /// patience begins with the first answer, and with the first connection if that does not last.
    ///
    /// # Errors
    ///
    /// The farm cannot be reached, is another one, or refuses the ticket.
    pub async fn connect(ticket: &Ticket, identities: Option<&Path>) -> Result<Self, ClientError> {
        Self::connect_by(Dialer::new(ticket.clone(), identities)).await
    }

    /// As [`Self::connect`], to wherever the dialer leads.
    ///
    /// # Errors
    ///
    /// As [`Dialer::dial`].
    pub async fn connect_by(dialer: Dialer) -> Result<Self, ClientError> {
        Ok(Self { line: Arc::new(Line::dial(dialer).await?), patience: PATIENCE, told: None })
    }

    /// How long a scheduler that has gone is waited for, instead of [`PATIENCE`]; with [`Duration::ZERO`], not at all.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Whom to tell when a request has to wait for the scheduler. A [`Watch`] tells it by its [updates](Update).
    #[must_use]
    pub fn telling(mut self, told: impl Fn(LinkNews) + Send + Sync + 'static) -> Self {
        self.told = Some(Told(Arc::new(told)));
        self
    }

    /// Says goodbye, so that the farm need not find out. What is asked later fails.
    pub async fn close(&self) {
        self.line.close(close::DONE).await;
    }

    /// Repeats an attempt for as long as the scheduler is only away.
    async fn insist<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let tell = |news| {
            if let Some(Told(told)) = &self.told {
                told(news);
            }
        };
        let mut absence: Option<Absence> = None;
        loop {
            let lost = match attempt().await {
                Err(error) if error.is_passing() => error,
                result => {
                    if let (Ok(_), Some(absence)) = (&result, absence) {
                        tell(LinkNews::Back { after: absence.lasted() });
                    }
                    return result;
                }
            };
            let is_new = absence.is_none();
            let cause = lost.to_string();
            let pause = absence.get_or_insert_with(|| Absence::begin(self.patience)).pause(lost)?;
            if is_new {
                tell(LinkNews::Lost { cause, patience: self.patience });
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn ask(&self, request: Request, payload: Bytes) -> Result<FrameReader, ClientError> {
        let (mut writer, reader) = self.line.link().await?.open().await?;
        writer.send(&Open::Request(request), payload).await?;
        writer.finish();
        Ok(reader)
    }

    async fn ask_once(&self, request: Request) -> Result<Response, ClientError> {
        let mut reader = self.ask(request, Bytes::new()).await?;
        let (response, _) = reader.expect().await?;
        refused(response)
    }

    async fn ask_until(&self, request: Request) -> Result<Response, ClientError> {
        self.insist(|| self.ask_once(request.clone())).await
    }

    /// Starts a job, uploading what the farm lacks of its blobs first. `payload` holds the columns of inline arguments.
    /// `uploaded` is told the size of each blob that was sent.
    ///
    /// The watch tells the results from the start if `watch` is set, and otherwise nothing but the job's id.
    ///
    /// The job is accepted once, even if the connection was lost before the farm's word of it came.
    ///
    /// # Errors
    ///
    /// The farm refuses the job, a blob cannot be read, or the scheduler did not come back in time: then the job may have
    /// been accepted.
    pub async fn submit(
        &self,
        spec: &JobSpec,
        payload: Bytes,
        blobs: &impl BlobSource,
        watch: bool,
        uploaded: &(dyn Fn(u64) + Sync),
    ) -> Result<Watch, ClientError> {
        let request = Request::Submit { key: random_key()?, spec: Box::new(spec.clone()), watch };
        self.insist(|| self.try_to_submit(&request, &payload, blobs, watch, uploaded)).await
    }

    async fn try_to_submit(
        &self,
        request: &Request,
        payload: &Bytes,
        blobs: &impl BlobSource,
        watch: bool,
        uploaded: &(dyn Fn(u64) + Sync),
    ) -> Result<Watch, ClientError> {
        loop {
            let mut reader = self.ask(request.clone(), payload.clone()).await?;
            let (response, _) = reader.expect().await?;
            match refused(response)? {
                Response::Accepted { job } => {
                    failpoint::hit("client.submitted");
                    let watch = if watch { Watch::on } else { Watch::of_nothing };
                    return Ok(watch(self.clone(), job, reader));
                }
                Response::Missing { digests } if !digests.is_empty() => {
                    self.try_to_upload(&digests, blobs, uploaded).await?;
                }
                _ => return Err(ClientError::Unexpected("neither accepted nor missing blobs")),
            }
        }
    }

    /// Makes a new job of those tasks of another that have no value, or with `failed` only of those that failed.
    ///
    /// # Errors
    ///
    /// There is no such job, it is not over, or has no such task; or the scheduler did not come back in time.
    pub async fn retry(&self, job: JobId, failed: bool) -> Result<JobId, ClientError> {
        match self.ask_until(Request::Retry { key: random_key()?, job, failed }).await? {
            Response::Accepted { job } => Ok(job),
            _ => Err(ClientError::Unexpected("no word of a new job")),
        }
    }

    /// Deletes a job that is over, with its results.
    ///
    /// # Errors
    ///
    /// There is no such job, it is not over, or another one needs it; or the scheduler did not come back in time.
    pub async fn delete(&self, job: JobId) -> Result<(), ClientError> {
        let repeated = std::sync::atomic::AtomicBool::new(false);
        let attempt = || async {
            let is_repeated = repeated.swap(true, std::sync::atomic::Ordering::Relaxed);
            match self.ask_once(Request::Delete { job }).await {
                // The answer to the first attempt was lost, not its effect.
                Err(ClientError::Refused(RequestError::NoSuchJob(_))) if is_repeated => Ok(Response::Deleted),
                result => result,
            }
        };
        match self.insist(attempt).await? {
            Response::Deleted => Ok(()),
            _ => Err(ClientError::Unexpected("no word of a deleted job")),
        }
    }

    /// What a job, or one of its tasks, waits for, or where its time went.
    ///
    /// # Errors
    ///
    /// There is no such job or task; or the scheduler did not come back in time.
    pub async fn why(&self, job: JobId, task: Option<u64>) -> Result<Why, ClientError> {
        match self.ask_until(Request::Why { job, task }).await? {
            Response::Why(why) => Ok(*why),
            _ => Err(ClientError::Unexpected("no reason")),
        }
    }

    /// Lets the workers of that name, or the one with that number, take nothing new and leave when they are done.
    ///
    /// # Errors
    ///
    /// Only admins may, or there is no such worker; or the scheduler did not come back in time.
    pub async fn drain(&self, worker: &str) -> Result<Vec<WorkerId>, ClientError> {
        match self.ask_until(Request::Drain { worker: worker.to_owned() }).await? {
            Response::Draining { workers } => Ok(workers),
            _ => Err(ClientError::Unexpected("no word of a worker")),
        }
    }

    /// Makes a cluster. Answered once that is stored, not when it has workers.
    ///
    /// # Errors
    ///
    /// The caller may not, there is one of that name, or no such provider; or the scheduler did not come back in time.
    pub async fn create_cluster(&self, spec: ClusterSpec, scale: Scale) -> Result<ClusterStatus, ClientError> {
        self.one_cluster(Request::CreateCluster { spec: Box::new(spec), scale }).await
    }

    /// What starting a worker of such a cluster would do.
    ///
    /// # Errors
    ///
    /// There is no such provider; or the scheduler did not come back in time.
    pub async fn plan_cluster(&self, spec: ClusterSpec) -> Result<Plan, ClientError> {
        match self.ask_until(Request::PlanCluster { spec: Box::new(spec) }).await? {
            Response::Plan(plan) => Ok(plan),
            _ => Err(ClientError::Unexpected("no plan of a cluster")),
        }
    }

    /// All clusters; `default` only if it has workers or jobs, or there is no other.
    ///
    /// # Errors
    ///
    /// The scheduler did not come back in time.
    pub async fn clusters(&self) -> Result<Vec<ClusterStatus>, ClientError> {
        match self.ask_until(Request::Clusters).await? {
            Response::Clusters(clusters) => Ok(clusters),
            _ => Err(ClientError::Unexpected("no list of clusters")),
        }
    }

    /// One cluster.
    ///
    /// # Errors
    ///
    /// There is none of that name; or the scheduler did not come back in time.
    pub async fn cluster(&self, name: &str) -> Result<ClusterStatus, ClientError> {
        self.one_cluster(Request::Cluster { name: name.to_owned() }).await
    }

    /// Wants so many workers of a cluster.
    ///
    /// # Errors
    ///
    /// There is none of that name, or it is somebody else's; or the scheduler did not come back in time.
    pub async fn scale_cluster(&self, name: &str, scale: Scale) -> Result<ClusterStatus, ClientError> {
        self.one_cluster(Request::ScaleCluster { name: name.to_owned(), scale }).await
    }

    /// Lets a cluster's workers leave, when what they run has ended or at once, and the cluster go.
    ///
    /// # Errors
    ///
    /// There is none of that name, or it is somebody else's; or the scheduler did not come back in time.
    pub async fn stop_cluster(&self, name: &str, now: bool) -> Result<ClusterStatus, ClientError> {
        self.one_cluster(Request::StopCluster { name: name.to_owned(), now }).await
    }

    async fn one_cluster(&self, request: Request) -> Result<ClusterStatus, ClientError> {
        match self.ask_until(request).await? {
            Response::Cluster(status) => Ok(*status),
            _ => Err(ClientError::Unexpected("no word of a cluster")),
        }
    }

    /// Results of a job, from batch number `from` on; with `follow`, until the job ends.
    ///
    /// # Errors
    ///
    /// The scheduler did not come back in time. That there is no such job is said by the watch.
    pub async fn watch(&self, job: JobId, from: u64, follow: bool) -> Result<Watch, ClientError> {
        Watch::open(self.clone(), job, from, follow).await
    }

    /// The jobs that this user may see.
    ///
    /// # Errors
    ///
    /// The scheduler did not come back in time.
    pub async fn jobs(&self) -> Result<Vec<JobStatus>, ClientError> {
        match self.ask_until(Request::Jobs).await? {
            Response::Jobs(jobs) => Ok(jobs),
            _ => Err(ClientError::Unexpected("no list of jobs")),
        }
    }

    /// How one job is doing.
    ///
    /// # Errors
    ///
    /// There is no such job, or the scheduler did not come back in time.
    pub async fn job(&self, job: JobId) -> Result<JobStatus, ClientError> {
        self.status(Request::Job { job }).await
    }

    /// Cancels a job; one that has ended stays as it is.
    ///
    /// # Errors
    ///
    /// There is no such job, or the scheduler did not come back in time.
    pub async fn cancel(&self, job: JobId) -> Result<JobStatus, ClientError> {
        self.status(Request::Cancel { job }).await
    }

    async fn status(&self, request: Request) -> Result<JobStatus, ClientError> {
        match self.ask_until(request).await? {
            Response::Status(status) => Ok(*status),
            _ => Err(ClientError::Unexpected("no status of a job")),
        }
    }

    /// Gives values of secrets that a job names, for tasks that start afterwards, and says what there is then. Without any,
    /// only says it.
    ///
    /// # Errors
    ///
    /// There is no such job, it is over, or it does not name one of them; or the scheduler did not come back in time.
    pub async fn secrets(&self, job: JobId, secrets: Secrets) -> Result<Vec<SecretStatus>, ClientError> {
        match self.ask_until(Request::Secrets { job, secrets }).await? {
            Response::Secrets(status) => Ok(status),
            _ => Err(ClientError::Unexpected("no word of secrets")),
        }
    }

    /// How the farm is doing.
    ///
    /// # Errors
    ///
    /// The scheduler did not come back in time.
    pub async fn farm(&self) -> Result<FarmStatus, ClientError> {
        match self.ask_until(Request::Farm).await? {
            Response::Farm(status) => Ok(status),
            _ => Err(ClientError::Unexpected("no status of the farm")),
        }
    }

    /// Makes a ticket: its text, and what the farm knows of it. If the scheduler dies before its answer has come, there may
    /// be one more that nobody has.
    ///
    /// # Errors
    ///
    /// Only admins may, or there can be no such ticket; or the scheduler did not come back in time.
    pub async fn new_ticket(&self, new: NewTicket) -> Result<(String, TicketStatus), ClientError> {
        match self.ask_until(Request::Ticket(new)).await? {
            Response::Ticket { text, status } => Ok((text, *status)),
            _ => Err(ClientError::Unexpected("no ticket")),
        }
    }

    /// The tickets that there are; the newest last.
    ///
    /// # Errors
    ///
    /// Only admins may; or the scheduler did not come back in time.
    pub async fn tickets(&self) -> Result<Vec<TicketStatus>, ClientError> {
        match self.ask_until(Request::Tickets).await? {
            Response::Tickets(tickets) => Ok(tickets),
            _ => Err(ClientError::Unexpected("no list of tickets")),
        }
    }

    /// Takes back a ticket. Whoever came with it is cut off, this client included.
    ///
    /// # Errors
    ///
    /// Only admins may, or there is no such ticket; or the scheduler did not come back in time.
    pub async fn revoke(&self, ticket: TicketId) -> Result<TicketStatus, ClientError> {
        match self.ask_until(Request::Revoke { ticket }).await? {
            Response::Revoked(status) => Ok(*status),
            _ => Err(ClientError::Unexpected("no word of a ticket")),
        }
    }

    /// Ends the farm: its scheduler, and with it its workers.
    ///
    /// # Errors
    ///
    /// Only admins may; or the connection is lost.
    pub async fn shutdown(&self) -> Result<(), ClientError> {
        match self.ask_once(Request::Shutdown).await {
            Ok(Response::Stopping) | Err(ClientError::Ended) => Ok(()),
            Ok(_) => Err(ClientError::Unexpected("no word of an end")),
            Err(error) => Err(error),
        }
    }
}

/// Drawn anew for each submission, so that no two of them are ever taken for the same.
fn random_key() -> Result<SubmitKey, ClientError> {
    let mut bytes = [0; 16];
    let provider = rustls::crypto::ring::default_provider();
    provider.secure_random.fill(&mut bytes).map_err(|_| ClientError::NoRandomness)?;
    Ok(SubmitKey(u128::from_le_bytes(bytes)))
}

fn refused(response: Response) -> Result<Response, ClientError> {
    match response {
        Response::Error(error) => Err(error.into()),
        response => Ok(response),
    }
}
