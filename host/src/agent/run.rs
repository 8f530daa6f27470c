//! The agent's loop.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farm_link::dial::Link;
use farm_link::{LinkError, failpoint};
use farm_proto::close;
use farm_proto::ids::JobId;
use farm_proto::job::JobSpec;
use farm_proto::message::{SchedulerControl, SchedulerWork, WorkerControl, WorkerWork};
use farm_proto::outcome::{Failure, FailureKind};
use farm_proto::secret::Secrets;
use farm_proto::ticket::Ticket;
use farm_proto::why::Stage;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::blobs::Blobs;
use super::connect::{Connector, Session, Step, is_goodbye, reason};
use super::folders::Folders;
use super::outbox::Outbox;
use super::prepare::{Prepared, Preparer};
use super::resume::resume;
use super::signals::{Signalled, Signals};
use super::streams::Streams;
use super::work::{Effect, Tally, Work};
use super::{AgentError, AgentOptions, hello};
use crate::artefact::{Cache, Compiler};
use crate::secrets::{SecretFolder, remove_orphans};
use crate::slot::{Driver, Event, Order};

/// As good as for ever: a day.
const FOR_EVER: Duration = Duration::from_secs(86_400);
/// How long before its end a worker begins to leave, or a quarter of its time if that is less.
const FAREWELL_TIME: Duration = Duration::from_secs(30);
/// How long a worker that leaves waits, after its grace time, for the scheduler to acknowledge what was handed back.
const LINGER: Duration = Duration::from_secs(3);
/// How long it gives the link to deliver its last words.
const FAREWELL: Duration = Duration::from_secs(1);

/// The whole life of a worker, from its first dial.
pub(super) async fn run(
    ticket: &Ticket,
    options: &AgentOptions,
    folders: &Folders,
    signals: Signals,
) -> Result<(), AgentError> {
    remove_orphans();
    let slots = options.slots.max(1);
    let (link, current_link) = watch::channel(None);
    let preparer = Preparer::new(
        options.name.clone(),
        Blobs::new(folders.blobs.clone(), current_link),
        Compiler::new(&options.compiler, Cache::open(folders.artefacts.clone())?),
        folders.run.path().to_owned(),
    );
    let (events, from_slots) = mpsc::channel(slots);
    let mut drivers = JoinSet::new();
    let orders = (0..slots)
        .map(|slot| {
            let (orders, theirs) = mpsc::unbounded_channel();
            drivers.spawn(Driver::new(slot, options.slot.clone()).run(theirs, events.clone()));
            orders
        })
        .collect();
    let (tell_stage, stages) = mpsc::unbounded_channel();
    // A time that no clock reaches is none.
    let ends = options.stay.and_then(|stay| Instant::now().checked_add(stay));
    let mut agent = Agent {
        ends,
        leave_from: ends.zip(options.stay).map(|(ends, stay)| ends - FAREWELL_TIME.min(stay / 4)),
        work: Work::new(slots),
        outbox: Outbox::default(),
        connector: Connector::new(
            ticket,
            options.identities.as_deref(),
            (hello(options), ends),
            (options.first_wait.unwrap_or(options.wait), options.wait),
        ),
        session: None,
        connected_before: false,
        link,
        orders,
        from_slots,
        preparer: Arc::new(preparer),
        preparing: JoinSet::new(),
        preparations: HashMap::new(),
        next_preparation: 0,
        bringing: JoinSet::new(),
        secrets: HashMap::new(),
        tell_stage,
        stages,
        signals,
        wait: options.wait,
        grace: options.grace,
        drain: None,
    };
    let result = agent.run().await;
    let Agent { session, connector, orders, from_slots, mut preparing, mut bringing, .. } = agent;
    let link = match session {
        Some(Session { link, streams, .. }) => {
            if let Ok(End::Drained) = result {
                // It may have been lost without being noticed yet.
                let _ = tokio::time::timeout(FAREWELL, streams.finish()).await;
            }
            Some(link)
        }
        None => connector.stop(),
    };
    // Kills compilers, and slots; waits for them.
    preparing.shutdown().await;
    bringing.shutdown().await;
    drop((orders, from_slots));
    while drivers.join_next().await.is_some() {}
    if let Some(link) = link {
        link.close(if let Err(AgentError::Protocol(_)) = result { close::PROTOCOL } else { close::DONE }).await;
    }
    result.map(drop)
}

/// How the agent ends if nothing has gone wrong.
#[derive(Debug)]
enum End {
    /// With everything answered that could be.
    Drained,
    Now,
}

/// What [`Agent::run`] does next.
#[must_use]
enum Next {
    GoOn,
    Leave,
}

/// The way out of a worker that was told to leave.
#[derive(Debug)]
struct Drain {
    /// What runs then is stopped.
    stop_at: Instant,
    has_stopped: bool,
    /// Then it leaves, acknowledged or not.
    leave_at: Instant,
    /// What had become of tasks before.
    before: Tally,
}

/// A job's preparation that has ended: its number, the job, and what came of it.
type Ended = (u64, JobId, Result<Prepared, Failure>);

struct Agent {
    /// When it will be gone, if that is known.
    ends: Option<Instant>,
    /// When it begins to leave, so as to be gone by then.
    leave_from: Option<Instant>,
    work: Work,
    outbox: Outbox,
    connector: Connector,
    /// `None` while the connector is on its way to one.
    session: Option<Session>,
    connected_before: bool,
    /// Tells of each new connection.
    link: watch::Sender<Option<Link>>,
    orders: Vec<mpsc::UnboundedSender<Order>>,
    from_slots: mpsc::Receiver<(usize, Event)>,
    preparer: Arc<Preparer>,
    preparing: JoinSet<Ended>,
    /// Those of jobs that are still wanted, by their number: one that was abandoned may have ended just before.
    preparations: HashMap<JobId, (u64, AbortHandle)>,
    next_preparation: u64,
    /// Files of tasks on their way to the scheduler: the number of their answer, and which tasks fail for want of them.
    bringing: JoinSet<(u64, Vec<(u32, Failure)>)>,
    /// Those of jobs that are known here, or why they cannot be kept.
    secrets: HashMap<JobId, Result<SecretFolder, String>>,
    tell_stage: mpsc::UnboundedSender<(u64, JobId, Stage)>,
    stages: mpsc::UnboundedReceiver<(u64, JobId, Stage)>,
    signals: Signals,
    wait: Duration,
    grace: Duration,
    drain: Option<Drain>,
}

impl Agent {
    async fn run(&mut self) -> Result<End, AgentError> {
        loop {
            let deadline = self.deadline();
            let is_sending = self.session.is_some() && self.outbox.has_unsent();
            let may_take = !is_sending && !self.outbox.is_full();
            let (control, work, to_work) = match &mut self.session {
                Some(Session { streams: Streams { control, work, to_work, .. }, .. }) => {
                    (Some(control), Some(work), Some(to_work))
                }
                None => (None, None, None),
            };
            // In order of urgency.
            tokio::select! {
                biased;
                signal = self.signals.next() => match signal {
                    Signalled::Warned => {
                        tracing::info!("the end is near: finishing what runs, then leaving");
                        self.drain(FOR_EVER);
                    }
                    Signalled::Once => {
                        tracing::info!("finishing what runs, then leaving; a second signal leaves at once");
                        self.drain(self.grace);
                    }
                    Signalled::Again => return Ok(End::Now),
                },
                message = receive(control) => match message {
                    Ok(message) => if let Next::Leave = self.obey(message)? {
                        return Ok(End::Now);
                    },
                    Err(error) => if let Next::Leave = self.lose(error).await? {
                        return Ok(End::Now);
                    },
                },
                step = self.connector.next() => if let Next::Leave = self.step(step).await? {
                    return Ok(End::Now);
                },
                room = room(to_work), if is_sending => match room {
                    // It is filled below.
                    Ok(()) => {}
                    Err(error) => if let Next::Leave = self.lose(error).await? {
                        return Ok(End::Now);
                    },
                },
                event = self.from_slots.recv(), if may_take => match event {
                    Some((_, event)) => self.work.slot_says(event, Instant::now()),
                    None => return Err(AgentError::Slot("the slots are gone".to_owned())),
                },
                Some((number, job, stage)) = self.stages.recv() => if self.is_wanted(number, job) {
                    self.work.stage(job, stage, Instant::now());
                },
                Some(ended) = self.preparing.join_next(), if !self.preparing.is_empty() => {
                    // Otherwise it was abandoned.
                    if let Ok((number, job, result)) = ended && self.is_wanted(number, job) {
                        self.preparations.remove(&job);
                        self.work.prepared(job, result, Instant::now());
                    }
                },
                Some(brought) = self.bringing.join_next(), if !self.bringing.is_empty() => {
                    if let Ok((number, failures)) = brought {
                        self.outbox.release(number, failures);
                    }
                },
                message = receive(work) => match message {
                    Ok((message, payload)) => self.take(message, payload)?,
                    Err(error) => if let Next::Leave = self.lose(error).await? {
                        return Ok(End::Now);
                    },
                },
                () = sleep_until(deadline) => self.work.tick(Instant::now()),
            }
            if let Some(session) = &self.session {
                self.connector.renew(&session.link);
            }
            self.carry_out()?;
            if let Some(end) = self.end()? {
                return Ok(end);
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let drain = self.drain.as_ref().map(|drain| if drain.has_stopped { drain.leave_at } else { drain.stop_at });
        let renewal = self.session.as_ref().and_then(|_| self.connector.renewal());
        let leave = self.leave_from.filter(|_| self.drain.is_none());
        [self.work.next_deadline(), self.connector.deadline(), renewal, drain, leave].into_iter().flatten().min()
    }

    /// Whether it is time to leave; stops what runs when the grace time is over.
    fn end(&mut self) -> Result<Option<End>, AgentError> {
        let now = Instant::now();
        let is_given_up = self.connector.deadline().is_some_and(|deadline| deadline <= now);
        if self.drain.is_none() && self.leave_from.is_some_and(|from| from <= now) {
            tracing::info!("its time is nearly over: handing back what does not end in it, then leaving");
            self.drain(FOR_EVER);
            self.carry_out()?;
        }
        let Some(drain) = &mut self.drain else {
            if is_given_up {
                let (waited, source) = self.connector.give_up();
                return Err(AgentError::Away { waited, source });
            }
            return Ok(None);
        };
        let is_late = drain.stop_at <= now;
        if is_late && !std::mem::replace(&mut drain.has_stopped, true) {
            self.work.stop();
            self.carry_out()?;
        }
        let is_done = self.work.is_drained() && self.outbox.is_empty();
        let is_hopeless = is_given_up || (is_late && self.session.is_none());
        let Some(drain) = &self.drain else {
            return Ok(None);
        };
        if !is_done && !is_hopeless && now < drain.leave_at {
            return Ok(None);
        }
        self.say_farewell(drain);
        Ok(Some(End::Drained))
    }

    /// Says what has become of tasks since the worker was told to leave.
    fn say_farewell(&self, drain: &Drain) {
        let Tally { finished, returned } = self.work.tally();
        let finished = finished - drain.before.finished;
        let returned = returned - drain.before.returned;
        let messages = self.outbox.len();
        if self.work.is_drained() && messages == 0 {
            tracing::info!("leaving: finished {finished} tasks since, and handed back {returned}");
        } else {
            tracing::warn!(
                "leaving: finished {finished} tasks since, and handed back {returned}; the scheduler has not acknowledged \
                 {messages} messages, so it may run some of them again"
            );
        }
    }

    /// Takes nothing new from now on. What runs may go on for `grace`, or for less if that was said before.
    fn drain(&mut self, grace: Duration) {
        let now = Instant::now();
        let stop_at = now.checked_add(grace).unwrap_or(now + FOR_EVER);
        // What it hands back then has to get there.
        let stop_at = self.ends.map_or(stop_at, |ends| stop_at.min(ends - LINGER.min(ends - now)));
        if let Some(drain) = &mut self.drain {
            drain.stop_at = drain.stop_at.min(stop_at);
            drain.leave_at = drain.stop_at + LINGER;
            return;
        }
        self.drain = Some(Drain { stop_at, has_stopped: false, leave_at: stop_at + LINGER, before: self.work.tally() });
        self.work.drain(now);
    }

    /// Goes one step further towards a connection.
    async fn step(&mut self, step: Step) -> Result<Next, AgentError> {
        match step {
            Step::Dialled(link) => {
                self.work.forget_cancelled(Instant::now());
                self.secrets.retain(|job, _| self.work.knows(*job));
                let held = self.outbox.restart(|job| self.work.knows(job));
                held.into_iter().for_each(|number| self.bring(number));
                self.connector.greet(link, resume(&self.work, &self.outbox), self.connected_before);
            }
            Step::Greeted(session) => {
                let worker = session.worker;
                let unacknowledged = self.outbox.len();
                if self.connected_before {
                    tracing::info!(%worker, unacknowledged, "connected again");
                } else {
                    tracing::info!(%worker, "at work");
                }
                self.connected_before = true;
                self.link.send_replace(Some(session.link.clone()));
                self.session = Some(*session);
                self.work.reconnected();
            }
            Step::Renewed => {}
            Step::Failed(error) => return self.lose(error).await,
        }
        Ok(Next::GoOn)
    }

    /// There is no connection any more, or still none.
    async fn lose(&mut self, error: LinkError) -> Result<Next, AgentError> {
        let error = match self.session.take() {
            Some(session) => {
                let error = reason(&session.link, error).await;
                // If it was only a stream that has ended, or cannot be understood.
                session.link.close(if error.is_passing() { close::INTERNAL } else { close::PROTOCOL }).await;
                error
            }
            None => error,
        };
        if is_goodbye(&error) {
            tracing::info!("the scheduler has ended");
            return Ok(Next::Leave);
        }
        if self.wait.is_zero() || !error.is_passing() {
            return Err(error.into());
        }
        self.connector.lost(error);
        Ok(Next::GoOn)
    }

    fn obey(&mut self, message: SchedulerControl) -> Result<Next, AgentError> {
        let now = Instant::now();
        match message {
            // Said once already; it does no harm.
            SchedulerControl::Welcome { .. } => {}
            SchedulerControl::CancelJob { job } => {
                self.work.cancel(job, now);
                self.secrets.remove(&job);
            }
            SchedulerControl::ForgetJob { job } => {
                self.work.forget(job, now);
                self.secrets.remove(&job);
            }
            SchedulerControl::Recall { lease, keep } => self.work.recall(lease, keep, now),
            SchedulerControl::Stored { messages } => {
                let stored = self.outbox.stored(messages);
                stored.map_err(|_| AgentError::Protocol("it acknowledged what it was never sent"))?;
                failpoint::hit("worker.stored");
            }
            // Once it leaves, only a signal may make it faster.
            SchedulerControl::Drain if self.drain.is_some() => {}
            SchedulerControl::Drain => {
                tracing::info!("the scheduler wants this worker to leave");
                self.drain(self.grace);
            }
            // What is done may not be stored yet: it goes when it is, see [`Self::end`].
            SchedulerControl::Exit if self.drain.is_some() && self.work.is_drained() => {}
            SchedulerControl::Exit => {
                if let Some(drain) = &self.drain {
                    self.say_farewell(drain);
                }
                return Ok(Next::Leave);
            }
        }
        Ok(Next::GoOn)
    }

    fn take(&mut self, message: SchedulerWork, payload: Bytes) -> Result<(), AgentError> {
        let now = Instant::now();
        match message {
            SchedulerWork::Job { job, stamp, spec } => {
                if !spec.mounts.secrets.is_empty() {
                    let kept = SecretFolder::new().map_err(|error| error.to_string());
                    self.secrets.insert(job, kept);
                    self.keep_secrets(job, &payload)?;
                }
                self.work.job(job, stamp, *spec, now);
                if !self.work.is_alive(job) {
                    self.secrets.remove(&job);
                }
            }
            SchedulerWork::Restored { lease, task } => self.work.restored(lease, task, payload),
            SchedulerWork::Secrets { job } => self.keep_secrets(job, &payload)?,
            SchedulerWork::Lease(lease) => {
                failpoint::hit("worker.lease");
                self.work.lease(lease, payload, now).map_err(AgentError::Protocol)?;
            }
        }
        Ok(())
    }

    /// Writes what the scheduler has sent where tasks of the job read it. Of a job that is over, nothing is kept.
    fn keep_secrets(&mut self, job: JobId, payload: &[u8]) -> Result<(), AgentError> {
        let Some(kept) = self.secrets.get_mut(&job) else {
            return Ok(());
        };
        let secrets: Secrets =
            postcard::from_bytes(payload).map_err(|_| AgentError::Protocol("secrets that cannot be read"))?;
        if let Ok(folder) = kept {
            let written = secrets.iter().try_for_each(|(name, value)| folder.write(name, value));
            if let Err(error) = written {
                tracing::warn!(%job, %error, "secrets cannot be kept");
                *kept = Err(error.to_string());
            }
        }
        Ok(())
    }

    /// Where the secrets of a job are.
    fn secrets_of(&self, job: JobId, spec: &JobSpec) -> Result<Option<PathBuf>, String> {
        match self.secrets.get(&job) {
            _ if spec.mounts.secrets.is_empty() => Ok(None),
            Some(Ok(folder)) => Ok(Some(folder.path().to_owned())),
            Some(Err(error)) => Err(error.clone()),
            None => Err("the job's secrets did not come with it".to_owned()),
        }
    }

    fn is_wanted(&self, number: u64, job: JobId) -> bool {
        self.preparations.get(&job).is_some_and(|(wanted, _)| *wanted == number)
    }

    fn carry_out(&mut self) -> Result<(), AgentError> {
        while let Some(effect) = self.work.next_effect() {
            match effect {
                Effect::Send(job, message, payload) => {
                    if let WorkerWork::Results { .. } = message {
                        failpoint::hit("worker.result");
                    }
                    self.outbox.push(job, message, payload);
                }
                Effect::SendWithFiles(job, message, payload, files) => {
                    failpoint::hit("worker.result");
                    let number = self.outbox.hold(job, message, payload, files);
                    self.bring(number);
                }
                Effect::Control(message) => self.tell(message),
                Effect::Order(slot, order) => {
                    if self.orders[slot].send(order).is_err() {
                        return Err(AgentError::Slot(format!("slot {slot} is gone")));
                    }
                }
                Effect::Prepare(job, spec) => {
                    let preparer = Arc::clone(&self.preparer);
                    let number = self.next_preparation;
                    self.next_preparation += 1;
                    let stages = self.tell_stage.clone();
                    let secrets = self.secrets_of(job, &spec);
                    let handle = self.preparing.spawn(async move {
                        // Nobody listens to a worker that ends.
                        let tell = |stage| _ = stages.send((number, job, stage));
                        (number, job, preparer.prepare(job, &spec, secrets, tell).await)
                    });
                    self.preparations.insert(job, (number, handle));
                }
                Effect::Abandon(job) => {
                    if let Some((_, handle)) = self.preparations.remove(&job) {
                        handle.abort();
                    }
                }
                Effect::Broken(message) => return Err(AgentError::Slot(message)),
            }
        }
        self.send();
        Ok(())
    }

    /// Brings the files of an answer to the scheduler.
    fn bring(&mut self, number: u64) {
        let uploads = self.outbox.uploads(number);
        let preparer = Arc::clone(&self.preparer);
        self.bringing.spawn(async move {
            let mut failures = Vec::new();
            for upload in uploads {
                let brought = match &upload.path {
                    Some(path) => {
                        preparer.blobs().put(path, upload.digest, upload.size).await.map_err(|e| e.to_string())
                    }
                    None => Err("the slot did not keep it".to_owned()),
                };
                if let Err(error) = brought {
                    let message = format!("/out/{} cannot be brought to the scheduler: {error}", upload.name);
                    failures.push((upload.offset, Failure::new(FailureKind::BadOutput, message)));
                }
            }
            (number, failures)
        });
    }

    /// Without a connection, nothing is told: the next one begins with all that matters.
    fn tell(&self, message: WorkerControl) {
        if let Some(session) = &self.session {
            // A writer that is gone has lost its connection, of which the reader tells.
            let _ = session.streams.to_control.send(message);
        }
    }

    /// Gives the link as much as it takes now: in the common case all that there is.
    fn send(&mut self) {
        let Some(session) = &self.session else {
            return;
        };
        while self.outbox.has_unsent()
            && let Ok(permit) = session.streams.to_work.try_reserve()
            && let Some(frame) = self.outbox.take_unsent()
        {
            permit.send(frame);
        }
    }
}

/// The next message, or why there will be none; waits for ever without a connection. Cancel-safe.
async fn receive<T>(stream: Option<&mut mpsc::Receiver<Result<T, LinkError>>>) -> Result<T, LinkError> {
    match stream {
        Some(stream) => stream.recv().await.unwrap_or(Err(LinkError::CutOff)),
        None => std::future::pending().await,
    }
}

/// Waits until the link takes another message. Cancel-safe.
async fn room<T>(sender: Option<&mut mpsc::Sender<T>>) -> Result<(), LinkError> {
    match sender {
        // The connection says why, if it says it at all.
        Some(sender) => sender.reserve().await.map(drop).map_err(|_| LinkError::CutOff),
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
