//! The agent: the process of a worker that holds the link, the caches and the slots.
//!
//! One thread, one owner, one loop. The loop in [`run`] waits for the next thing that happens (a message, a slot's
//! event, a job prepared, a signal), hands it to the bookkeeping in `work.rs`, and carries out the effects:
//!
//! ```text
//!   scheduler ◄─ streams ─► loop ◄─► work (who has what)
//!                            │ ▲
//!          orders ───────────┘ └──── events, and jobs that are prepared
//!          ▼                              ▲
//!   slot drivers, each with a process    prepare: blobs from the scheduler, compiler child, inputs
//! ```
//!
//! **Back-pressure**: as long as the link has not taken what was to be sent, nothing more is taken from the slots, which
//! leave it in their rings and then wait. Commands of the scheduler are obeyed all the same.
//!
//! **Ends**: whatever way the agent ends, its slots end with it: politely when it can say so, by the end of their socket
//! when it cannot.

mod blobs;
mod folders;
mod prepare;
mod streams;
mod work;
#[cfg(test)]
mod work_tests;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use farm_link::LinkError;
use farm_link::dial::{self, Link};
use farm_proto::close;
use farm_proto::ids::JobId;
use farm_proto::message::{Open, SchedulerControl, SchedulerWork, WorkerHello, WorkerWork};
use farm_proto::outcome::Failure;
use farm_proto::ticket::Ticket;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use self::blobs::Blobs;
use self::folders::Folders;
use self::prepare::{Prepared, Preparer};
use self::streams::Streams;
use self::work::{Effect, Work};
use crate::artefact::{ArtefactError, Cache, Compiler};
use crate::slot::{Driver, Event, Order, SlotCommand};

/// How a worker is set up.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Processes that run tasks, one each.
    pub slots: usize,
    /// What people call the worker.
    pub name: String,
    /// Folder for blobs, compiled modules and inputs. It is made, for this user alone. Workers may share one.
    pub cache: PathBuf,
    /// How many bytes of blobs, and of compiled modules, may stay there from one worker to the next.
    pub cache_bytes: u64,
    /// Folder where the certificate is kept that the ticket is traded for; with `None` only in memory.
    pub identities: Option<PathBuf>,
    /// How slot processes are started.
    pub slot: SlotCommand,
    /// A program that calls [`crate::artefact::compile_main`] if its first argument is
    /// [`crate::artefact::COMPILE_COMMAND`].
    pub compiler: PathBuf,
}

impl AgentOptions {
    /// A worker with `slots` slots, which are started as `farm slot` with the program that is running.
    ///
    /// # Errors
    ///
    /// The system cannot say which program is running.
    pub fn new(name: impl Into<String>, slots: usize, cache: impl Into<PathBuf>) -> io::Result<Self> {
        let slot = SlotCommand::this_program()?;
        Ok(Self {
            slots,
            name: name.into(),
            cache: cache.into(),
            cache_bytes: 10 << 30,
            identities: None,
            compiler: slot.exe.clone(),
            slot,
        })
    }
}

/// Why a worker has ended against its will.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the scheduler sent something out of order: {0}")]
    Protocol(&'static str),
    #[error("no slot process can be started: {0}")]
    Slot(String),
    #[error("the cache folder {path} cannot be used: {source}", path = path.display())]
    Cache { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Artefact(#[from] ArtefactError),
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
}

/// Connects to the scheduler of a ticket, and works for it until it says that it is enough.
///
/// SIGTERM or SIGINT make it finish what it holds, then end; a second one ends it at once. Must be called in a tokio
/// runtime of one thread with I/O and time enabled; nothing else should run there.
///
/// # Errors
///
/// The scheduler cannot be reached, refuses the ticket, or is lost; no slot process can be started; or the cache folder
/// cannot be used. No process is left then, either.
pub async fn run(ticket: &Ticket, options: AgentOptions) -> Result<(), AgentError> {
    let signals = Signals::new().map_err(AgentError::Signals)?;
    let folders = Folders::open(&options.cache, options.cache_bytes)?;
    let link = dial::connect(ticket, options.identities.as_deref()).await?;
    // To come back after a lost connection is to run this once more with another link.
    let result = serve(&link, &options, &folders, signals).await;
    link.close(close::DONE).await;
    result
}

/// One connection's life.
async fn serve(link: &Link, options: &AgentOptions, folders: &Folders, signals: Signals) -> Result<(), AgentError> {
    let mut control = link.open().await?;
    let hello = hello(options);
    control.0.send(&Open::Control(hello), Bytes::new()).await?;
    match control.1.expect().await {
        Ok((SchedulerControl::Welcome { worker }, _)) => tracing::info!(%worker, "at work"),
        Ok(_) => return Err(AgentError::Protocol("no welcome")),
        Err(error) => return leave(error),
    }
    let mut work = link.open().await?;
    work.0.send(&Open::Work, Bytes::new()).await?;

    let slots = options.slots.max(1);
    let (events, from_slots) = mpsc::channel(slots);
    let mut drivers = JoinSet::new();
    let orders = (0..slots)
        .map(|slot| {
            let (orders, theirs) = mpsc::unbounded_channel();
            drivers.spawn(Driver::new(slot, options.slot.clone()).run(theirs, events.clone()));
            orders
        })
        .collect();
    let preparer = Preparer::new(
        options.name.clone(),
        Blobs::new(folders.blobs.clone(), link.clone()),
        Compiler::new(&options.compiler, Cache::open(folders.artefacts.clone())?),
        folders.run.path().to_owned(),
    );
    let mut agent = Agent {
        work: Work::new(slots),
        streams: Streams::start(control, work),
        orders,
        from_slots,
        preparer: Arc::new(preparer),
        preparing: JoinSet::new(),
        abandon: HashMap::new(),
        unsent: VecDeque::new(),
        signals,
    };
    let result = agent.run().await;
    let Agent { streams, orders, from_slots, mut preparing, .. } = agent;
    if let Ok(End::Drained) = result {
        streams.finish().await;
    }
    // Kills compilers, and slots; waits for them.
    preparing.shutdown().await;
    drop((orders, from_slots));
    while drivers.join_next().await.is_some() {}
    result.map(drop)
}

fn hello(options: &AgentOptions) -> WorkerHello {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
    WorkerHello {
        name: options.name.clone(),
        host: host.map_or_else(|_| "unknown".to_owned(), |host| host.trim().to_owned()),
        pid: std::process::id(),
        slots: options.slots.max(1) as u32,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// A connection that the scheduler closed for good is no error.
fn leave(error: LinkError) -> Result<(), AgentError> {
    match &error {
        LinkError::Lost(quinn::ConnectionError::ApplicationClosed(closed))
            if [close::DONE, close::SHUTDOWN].map(quinn::VarInt::from_u32).contains(&closed.error_code) =>
        {
            tracing::info!("the scheduler has ended");
            Ok(())
        }
        _ => Err(error.into()),
    }
}

/// What [`Agent::run`] does next.
#[must_use]
enum Next {
    GoOn,
    Leave,
}

/// How the agent ends if nothing has gone wrong.
#[derive(Debug)]
enum End {
    /// With everything answered, and the answers still to be delivered.
    Drained,
    Now,
}

struct Agent {
    work: Work,
    streams: Streams,
    orders: Vec<mpsc::UnboundedSender<Order>>,
    from_slots: mpsc::Receiver<(usize, Event)>,
    preparer: Arc<Preparer>,
    preparing: JoinSet<(JobId, Result<Prepared, Failure>)>,
    abandon: HashMap<JobId, AbortHandle>,
    /// What the link has not taken yet.
    unsent: VecDeque<(WorkerWork, Bytes)>,
    signals: Signals,
}

impl Agent {
    async fn run(&mut self) -> Result<End, AgentError> {
        loop {
            let deadline = self.work.next_deadline();
            let is_sending = !self.unsent.is_empty();
            // In order of urgency.
            tokio::select! {
                biased;
                signal = self.signals.next() => match signal {
                    Signalled::Once => {
                        tracing::info!("finishing what is held, then leaving; a second signal leaves at once");
                        self.work.drain();
                    }
                    Signalled::Again => return Ok(End::Now),
                },
                message = self.streams.control.recv() => match message {
                    Some(Ok(message)) => if let Next::Leave = obey(&mut self.work, message) {
                        return Ok(End::Now);
                    },
                    Some(Err(error)) => return leave(error).map(|()| End::Now),
                    None => return Err(AgentError::Protocol("the control stream has ended")),
                },
                permit = self.streams.to_work.reserve(), if is_sending => match permit {
                    Ok(permit) => if let Some(frame) = self.unsent.pop_front() {
                        permit.send(frame);
                    },
                    // The reader says why, if it says it at all.
                    Err(_) => return Err(AgentError::Protocol("the work stream was stopped")),
                },
                event = self.from_slots.recv(), if !is_sending => match event {
                    Some((_, event)) => self.work.slot_says(event, Instant::now()),
                    None => return Err(AgentError::Slot("the slots are gone".to_owned())),
                },
                Some(ended) = self.preparing.join_next(), if !self.preparing.is_empty() => {
                    // Otherwise it was abandoned.
                    if let Ok((job, result)) = ended {
                        self.abandon.remove(&job);
                        self.work.prepared(job, result, Instant::now());
                    }
                },
                message = self.streams.work.recv() => match message {
                    Some(Ok((message, payload))) => take(&mut self.work, message, payload)?,
                    Some(Err(error)) => return leave(error).map(|()| End::Now),
                    None => return Err(AgentError::Protocol("the work stream has ended")),
                },
                () = sleep_until(deadline) => self.work.tick(Instant::now()),
            }
            self.carry_out()?;
            if self.work.is_drained() && self.unsent.is_empty() {
                return Ok(End::Drained);
            }
        }
    }

    fn carry_out(&mut self) -> Result<(), AgentError> {
        while let Some(effect) = self.work.next_effect() {
            match effect {
                Effect::Send(message, payload) => self.unsent.push_back((message, payload)),
                // A writer that is gone has lost its connection, of which the reader tells.
                Effect::Control(message) => drop(self.streams.to_control.send(message)),
                Effect::Order(slot, order) => {
                    if self.orders[slot].send(order).is_err() {
                        return Err(AgentError::Slot(format!("slot {slot} is gone")));
                    }
                }
                Effect::Prepare(job, spec) => {
                    let preparer = Arc::clone(&self.preparer);
                    let handle = self.preparing.spawn(async move { (job, preparer.prepare(job, &spec).await) });
                    self.abandon.insert(job, handle);
                }
                Effect::Abandon(job) => {
                    if let Some(handle) = self.abandon.remove(&job) {
                        handle.abort();
                    }
                }
                Effect::Broken(message) => return Err(AgentError::Slot(message)),
            }
        }
        // The common case: the link takes it, and the loop need not turn for it.
        while let Some(frame) = self.unsent.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(frame) | mpsc::error::TrySendError::Closed(frame)) =
                self.streams.to_work.try_send(frame)
            {
                self.unsent.push_front(frame);
                break;
            }
        }
        Ok(())
    }
}

fn obey(work: &mut Work, message: SchedulerControl) -> Next {
    let now = Instant::now();
    match message {
        // Said once already; it does no harm.
        SchedulerControl::Welcome { .. } => {}
        SchedulerControl::CancelJob { job } => work.cancel(job, now),
        SchedulerControl::ForgetJob { job } => work.forget(job, now),
        SchedulerControl::Recall { lease, keep } => work.recall(lease, keep),
        SchedulerControl::Drain => work.drain(),
        SchedulerControl::Exit => return Next::Leave,
    }
    Next::GoOn
}

fn take(work: &mut Work, message: SchedulerWork, payload: Bytes) -> Result<(), AgentError> {
    match message {
        SchedulerWork::Job { job, spec } => work.job(job, *spec),
        SchedulerWork::Lease(lease) => work
            .lease(lease, payload, Instant::now())
            .map_err(|_| AgentError::Protocol("a lease without its arguments"))?,
    }
    Ok(())
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// The signals that ask a worker to end.
#[derive(Debug)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    asked: bool,
}

#[derive(Debug)]
enum Signalled {
    Once,
    Again,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            asked: false,
        })
    }

    /// The next request to end. Cancel-safe.
    async fn next(&mut self) -> Signalled {
        // Neither ever ends.
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        if std::mem::replace(&mut self.asked, true) { Signalled::Again } else { Signalled::Once }
    }
}
