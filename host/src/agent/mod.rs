//! The agent: the process of a worker that holds the link, the caches and the slots.
//!
//! One thread, one owner, one loop (`run.rs`). It waits for the next thing that happens (a message, a slot's event, a job
//! prepared, a signal), hands it to the bookkeeping in `work.rs`, and carries out the effects:
//!
//! ```text
//!   scheduler ◄─ streams ─► loop ◄─► work (who has what), outbox (what is not acknowledged)
//!                            │ ▲
//!          orders ───────────┘ └──── events, and jobs that are prepared
//!          ▼                              ▲
//!   slot drivers, each with a process    prepare: blobs from the scheduler, compiler child, inputs
//! ```
//!
//! **A lost connection** ends nothing but itself. Slots work on, what they make is kept, and the scheduler is dialled again
//! (`connect.rs`) for as long as [`AgentOptions::wait`] says. The next connection begins with what the worker still has
//! (`resume.rs`), then come the answers that were not acknowledged, in their order, then new ones.
//!
//! **Back-pressure**: as long as the link has not taken what was to be sent, or too much is not acknowledged, nothing more
//! is taken from the slots, which leave it in their rings and then wait. Commands of the scheduler are obeyed all the
//! same.
//!
//! **Ends**: whatever way the agent ends, its slots end with it: politely when it can say so, by the end of their socket
//! when it cannot.

mod blobs;
mod connect;
mod folders;
mod job;
mod outbox;
mod prepare;
mod ranges;
mod resume;
mod run;
mod signals;
mod states;
mod streams;
mod work;
#[cfg(test)]
mod work_tests;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use farm_link::LinkError;
use farm_proto::message::WorkerHello;
use farm_proto::ticket::Ticket;

use self::folders::Folders;
use self::signals::Signals;
use crate::artefact::ArtefactError;
use crate::slot::SlotCommand;

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
    /// For how long a scheduler is dialled that is not there, or not any more. With [`Duration::ZERO`] once, and the
    /// worker ends when it loses its connection.
    pub wait: Duration,
    /// Instead of [`Self::wait`], for how long a scheduler is dialled that has never been there: whoever has started the
    /// worker may want to know soon that it has no way to the scheduler.
    pub first_wait: Option<Duration>,
    /// How long running tasks may go on in a worker that is told to leave.
    pub grace: Duration,
    /// How long the worker may stay, counted from its start: it tells the scheduler, and leaves in time. A span, as the
    /// clocks of a site differ.
    pub stay: Option<Duration>,
}

impl AgentOptions {
    /// Of [`Self::wait`], unless it is set.
    pub const WAIT: Duration = Duration::from_secs(600);
    /// Of [`Self::grace`], unless it is set. SLURM kills 30 s after SIGTERM, and there is something to do after this
    /// time.
    pub const GRACE: Duration = Duration::from_secs(25);

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
            wait: Self::WAIT,
            first_wait: None,
            grace: Self::GRACE,
            stay: None,
        })
    }
}

/// Why a worker has ended against its will.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Link(#[from] LinkError),
    /// It was there before, or never.
    #[error("gave up waiting for the scheduler after {} s", waited.as_secs())]
    Away { waited: Duration, source: LinkError },
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

/// Connects to the scheduler of a ticket, and works for it until it says that it is enough. A scheduler that is not there,
/// or is lost, is waited for; see [`AgentOptions::wait`].
///
/// SIGTERM or SIGINT make it take nothing new, hand back what has not begun, finish what runs within
/// [`AgentOptions::grace`], and end; a second one ends it at once. SIGUSR1 makes it do the same without a time of its
/// own: whoever sends it is about to say when it is over. Must be called in a tokio runtime of one thread with
/// I/O and time enabled; nothing else should run there.
///
/// # Errors
///
/// The scheduler cannot be reached for too long; it refuses the ticket, or speaks another version; no slot process can
/// be started; or the cache folder cannot be used. No process is left then, either.
pub async fn run(ticket: &Ticket, options: AgentOptions) -> Result<(), AgentError> {
    let signals = Signals::new().map_err(AgentError::Signals)?;
    let folders = Folders::open(&options.cache, options.cache_bytes)?;
    run::run(ticket, &options, &folders, signals).await
}

/// How this process introduces itself on each of its connections.
fn hello(options: &AgentOptions) -> WorkerHello {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
    WorkerHello {
        name: options.name.clone(),
        host: host.map_or_else(|_| "unknown".to_owned(), |host| host.trim().to_owned()),
        pid: std::process::id(),
        slots: options.slots.max(1) as u32,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        // Said anew on each connection.
        ends_in_ms: None,
        // A `RandomState` is seeded at random.
        incarnation: RandomState::new().build_hasher().finish(),
    }
}
