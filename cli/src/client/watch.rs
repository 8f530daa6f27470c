//! Following a job, across lost connections.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use farm_link::LinkError;
use farm_link::stream::FrameReader;
use farm_proto::columns::Columns;
use farm_proto::ids::JobId;
use farm_proto::job::JobStatus;
use farm_proto::message::{Batch, Request, Response};
use futures_util::future::BoxFuture;

use super::error::ClientError;
use super::line::Absence;
use super::{Client, refused};

/// What a job has to tell, as it comes.
///
/// A lost connection does not end it: [`Self::next`] says that it is lost, dials again for as long as the
/// [client's patience](Client::with_patience) lasts, and goes on behind the last batch that it gave. So each outcome comes
/// once, whatever happens to the scheduler in between.
pub struct Watch {
    client: Client,
    job: JobId,
    /// The batch that comes next.
    next: u64,
    follow: bool,
    /// Whether the last update said that nothing more is to come.
    is_complete: bool,
    /// Since the connection was lost, until the scheduler has told something again.
    absence: Option<Absence>,
    state: State,
}

enum State {
    Open(FrameReader),
    /// Dropping [`Watch::next`] half-way leaves this, so that no attempt is begun all over again.
    Opening(BoxFuture<'static, Result<FrameReader, ClientError>>),
    Over,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Open(_) => "open",
            State::Opening(_) => "opening",
            State::Over => "over",
        };
        f.debug_struct("Watch").field("job", &self.job).field("next", &self.next).field("state", &state).finish()
    }
}

/// One thing that a job tells.
#[derive(Debug)]
pub enum Update {
    /// Outcomes, with the results of the tasks that succeeded. Batches come in no particular order of tasks, each outcome
    /// once.
    Results { seq: u64, batch: Batch, results: Columns },
    /// How the job is doing. The last update is one of these.
    Status(JobStatus),
    /// The connection was lost. The next call waits until it is there again, but for `patience` at most.
    Reconnecting { cause: String, patience: Duration },
    /// The connection is there again, and nothing was missed.
    Reconnected { after: Duration },
}

impl Watch {
    /// On a stream that has been opened already.
    pub(super) fn on(client: Client, job: JobId, reader: FrameReader) -> Self {
        Self::new(client, job, (0, true), State::Open(reader))
    }

    /// Of a job whose results nobody asked for: it gives nothing.
    pub(super) fn of_nothing(client: Client, job: JobId, _: FrameReader) -> Self {
        Self::new(client, job, (0, false), State::Over)
    }

    pub(super) async fn open(client: Client, job: JobId, from: u64, follow: bool) -> Result<Self, ClientError> {
        let reader = client.insist(|| client.ask(Request::Watch { job, from, follow }, Bytes::new())).await?;
        Ok(Self::new(client, job, (from, follow), State::Open(reader)))
    }

    fn new(client: Client, job: JobId, (next, follow): (u64, bool), state: State) -> Self {
        Self { client, job, next, follow, is_complete: false, absence: None, state }
    }

    pub const fn job(&self) -> JobId {
        self.job
    }

    /// The next update; `None` after the last. May be dropped half-way: nothing is lost then.
    ///
    /// # Errors
    ///
    /// The farm has ended or does not know the job, the scheduler did not come back in time, or it sent something
    /// unreadable. Nothing more comes then.
    pub async fn next(&mut self) -> Result<Option<Update>, ClientError> {
        let update = self.step().await;
        if let Err(error) = update {
            self.state = State::Over;
            return Err(error);
        }
        update
    }

    async fn step(&mut self) -> Result<Option<Update>, ClientError> {
        loop {
            let lost = match &mut self.state {
                State::Over => return Ok(None),
                State::Opening(opening) => match opening.await {
                    Ok(reader) => {
                        self.state = State::Open(reader);
                        let after = self.absence.as_ref().map(Absence::lasted).unwrap_or_default();
                        return Ok(Some(Update::Reconnected { after }));
                    }
                    Err(error) if error.is_passing() => error,
                    Err(error) => return Err(error),
                },
                State::Open(reader) => match frame(reader).await {
                    Ok(Some((response, payload))) => match self.take(response, payload)? {
                        Some(update) => return Ok(Some(update)),
                        None => continue,
                    },
                    Ok(None) if self.is_complete => {
                        self.state = State::Over;
                        return Ok(None);
                    }
                    Ok(None) => LinkError::CutOff.into(),
                    Err(error) if error.is_passing() => error,
                    Err(error) => return Err(error),
                },
            };
            let is_new = matches!(self.state, State::Open(_));
            let cause = lost.to_string();
            let patience = self.client.patience;
            let pause = self.absence.get_or_insert_with(|| Absence::begin(patience)).pause(lost)?;
            self.state = State::Opening(self.reopen(pause));
            if is_new {
                return Ok(Some(Update::Reconnecting { cause, patience }));
            }
        }
    }

    /// Dials once more, and asks for what is missing.
    fn reopen(&self, pause: Duration) -> BoxFuture<'static, Result<FrameReader, ClientError>> {
        let client = self.client.clone();
        let request = Request::Watch { job: self.job, from: self.next, follow: self.follow };
        Box::pin(async move {
            tokio::time::sleep(pause).await;
            client.ask(request, Bytes::new()).await
        })
    }

    /// What a response means; `None` where that is known already.
    fn take(&mut self, response: Response, payload: Bytes) -> Result<Option<Update>, ClientError> {
        self.absence = None;
        match response {
            Response::Results { seq, .. } if seq < self.next => Ok(None),
            Response::Results { seq, .. } if seq > self.next => Err(ClientError::Unexpected("a batch was left out")),
            Response::Results { seq, batch } => {
                let results = Columns::decode(batch.count.into(), payload)?;
                self.next = seq + 1;
                Ok(Some(Update::Results { seq, batch, results }))
            }
            Response::Status(status) => {
                self.is_complete = !self.follow || status.state.is_final();
                Ok(Some(Update::Status(*status)))
            }
            _ => Err(ClientError::Unexpected("neither results nor a status")),
        }
    }
}

async fn frame(reader: &mut FrameReader) -> Result<Option<(Response, Bytes)>, ClientError> {
    match reader.next().await? {
        Some((response, payload)) => Ok(Some((refused(response)?, payload))),
        None => Ok(None),
    }
}
