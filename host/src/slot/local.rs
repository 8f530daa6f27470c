//! Tasks in slots without a farm: for `farm run`, and for measuring.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use farm_proto::columns::{Columns, ColumnsBuilder};
use farm_proto::message::Batch;
use farm_proto::outcome::{Captured, Failure, FailureKind};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::child::{Chunk, SlotCommand};
use super::command::JobSetup;
use super::driver::{Driver, Event, Order};
use super::outputs::KeptFolder;
use super::pace::Pace;

/// Bytes of arguments in one command.
const CHUNK_BYTES: usize = 1 << 20;

/// How [`run_locally`] runs tasks.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    pub command: SlotCommand,
    /// With one slot, tasks run one after another, and outcomes come in order.
    pub slots: usize,
    /// How often a task that failed by its own doing is run again.
    pub retries: u32,
}

impl LocalOptions {
    /// One slot, no retries.
    pub const fn new(command: SlotCommand) -> Self {
        Self { command, slots: 1, retries: 0 }
    }
}

/// The arguments of the tasks.
pub enum Arguments<'a> {
    /// The integers that [`JobSetup::range_start`] begins: so many of them.
    Range(u64),
    /// One argument a task, taken as tasks are started.
    Items(&'a mut dyn Iterator<Item = Bytes>),
}

impl std::fmt::Debug for Arguments<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Range(count) => write!(f, "Range({count})"),
            Self::Items(_) => f.write_str("Items(…)"),
        }
    }
}

/// How a task ended.
#[derive(Debug)]
pub struct LocalOutcome<'a> {
    pub result: Result<&'a [u8], &'a Failure>,
    pub captured: Option<&'a Captured>,
    /// Where the files are that the task left, until the outcome has been told.
    pub files: Option<&'a Path>,
}

/// What ends a run before all tasks have ended.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// No task of the job can be run.
    #[error("{0}")]
    Job(Failure),
    #[error("no slot process can be started: {0}")]
    Slot(String),
    #[error("the slots are gone")]
    Gone(#[source] io::Error),
}

/// Runs tasks in slot processes of this machine, as a worker does: the same sandbox, limits and time-outs. A task
/// whose process dies ends with [`FailureKind::WorkerLost`].
///
/// `each` is told every outcome, with the task's number. The run ends early, without an error, when `each` says
/// `false`. Needs a tokio runtime with I/O and time. When the future is dropped, the processes are killed as soon as the
/// runtime goes on, or is dropped, too.
///
/// # Errors
///
/// The module cannot be opened, or no slot process can be started.
pub async fn run_locally(
    setup: JobSetup,
    arguments: Arguments<'_>,
    options: &LocalOptions,
    mut each: impl FnMut(u64, LocalOutcome<'_>) -> bool,
) -> Result<(), LocalError> {
    let (events, mut inbox) = mpsc::channel(2 * options.slots.max(1));
    let mut drivers = JoinSet::new();
    let orders = (0..options.slots.max(1))
        .map(|slot| {
            let (orders, theirs) = mpsc::unbounded_channel();
            drivers.spawn(Driver::new(slot, options.command.clone()).run(theirs, events.clone()));
            orders
        })
        .collect();
    drop(events);
    let mut run = Run {
        setup: Arc::new(setup),
        arguments,
        retries: options.retries,
        pace: Pace::default(),
        next: 0,
        again: VecDeque::new(),
        ready: VecDeque::new(),
        slots: orders,
        held: Vec::new(),
        next_tag: 0,
        states: BTreeMap::new(),
    };
    let result = run.run(&mut inbox, &mut each).await;
    // Ends the drivers, and they their processes.
    drop(run);
    drop(inbox);
    while drivers.join_next().await.is_some() {}
    result
}

/// Tasks that a slot holds.
#[derive(Debug)]
struct Held {
    tag: u64,
    slot: usize,
    chunk: Chunk,
}

struct Run<'a> {
    setup: Arc<JobSetup>,
    arguments: Arguments<'a>,
    retries: u32,
    pace: Pace,
    /// Number of the next task that has never been handed out.
    next: u64,
    /// Tasks that came back, in chunks.
    again: VecDeque<Chunk>,
    /// Arguments that have been taken from the iterator, of tasks from `next` on.
    ready: VecDeque<Bytes>,
    slots: Vec<mpsc::UnboundedSender<Order>>,
    held: Vec<Held>,
    next_tag: u64,
    /// What tasks have kept that run here or are to be run again.
    states: BTreeMap<u64, Bytes>,
}

impl Run<'_> {
    async fn run(
        &mut self,
        inbox: &mut mpsc::Receiver<(usize, Event)>,
        each: &mut impl FnMut(u64, LocalOutcome<'_>) -> bool,
    ) -> Result<(), LocalError> {
        loop {
            self.hand_out();
            if self.held.is_empty() {
                return Ok(());
            }
            let Some((_, event)) = inbox.recv().await else {
                return Err(LocalError::Gone(io::ErrorKind::BrokenPipe.into()));
            };
            if !self.take(event, each)? {
                return Ok(());
            }
        }
    }

    /// Gives every slot something to do, and to those with short tasks something to do next.
    fn hand_out(&mut self) {
        let depth = if self.pace.may_queue() && self.retries == 0 { 2 } else { 1 };
        for depth in 1..=depth {
            for slot in 0..self.slots.len() {
                let held = self.held.iter().filter(|held| held.slot == slot).count();
                if held < depth {
                    let Some(chunk) = self.next_chunk() else {
                        return;
                    };
                    self.held.push(Held { tag: chunk.tag, slot, chunk: chunk.clone() });
                    // A driver that is gone is noticed by its silence.
                    let _ = self.slots[slot].send(Order::Run(chunk));
                }
            }
        }
    }

    fn next_chunk(&mut self) -> Option<Chunk> {
        let tag = self.next_tag;
        self.next_tag += 1;
        if let Some(chunk) = self.again.pop_front() {
            return Some(Chunk { tag, ..chunk });
        }
        let first = self.next;
        let mut arguments = ColumnsBuilder::new();
        let left = match self.arguments {
            Arguments::Range(end) => end - self.next,
            Arguments::Items(_) => u64::MAX,
        };
        let want = self.want(left);
        let count = match &mut self.arguments {
            Arguments::Range(_) if left == 0 => 0,
            Arguments::Range(_) => want,
            Arguments::Items(items) => {
                while arguments.len() < want as usize {
                    let Some(item) = self.ready.pop_front().or_else(|| items.next()) else {
                        break;
                    };
                    if !arguments.is_empty() && arguments.bytes_len() + item.len() > CHUNK_BYTES {
                        self.ready.push_front(item);
                        break;
                    }
                    arguments.push(&item);
                }
                arguments.len() as u32
            }
        };
        if count == 0 {
            return None;
        }
        self.next += u64::from(count);
        Some(Chunk {
            tag,
            setup: Arc::clone(&self.setup),
            first,
            count,
            attempts: Vec::new(),
            arguments: arguments.finish(),
            restored: Vec::new(),
        })
    }

    /// How many tasks to hand out at once. One if tasks may be run again: in order means that the next one is not
    /// begun before.
    fn want(&self, left: u64) -> u32 {
        if self.retries > 0 { 1 } else { self.pace.chunk(left, self.slots.len()) }
    }

    /// Whether the run goes on.
    fn take(&mut self, event: Event, each: &mut impl FnMut(u64, LocalOutcome<'_>) -> bool) -> Result<bool, LocalError> {
        match event {
            Event::Results { tag, batch, results, kept } => {
                self.pace.learn(&batch);
                return Ok(self.outcomes(tag, &batch, &results, &kept, each));
            }
            Event::Lost { task, message, .. } => {
                self.states.remove(&task);
                let failure = Failure::new(FailureKind::WorkerLost, message);
                let outcome = LocalOutcome { result: Err(&failure), captured: None, files: None };
                return Ok(each(task, outcome));
            }
            Event::Returned { tag, first, count } => {
                if let Some(chunk) = self.part(tag, first, count) {
                    self.again.push_back(chunk);
                }
            }
            Event::Ended { tag } => self.held.retain(|held| held.tag != tag),
            Event::Progress { .. } => {}
            // Without retries, there is nobody to restore it.
            Event::Checkpoint { task, state, .. } if self.retries > 0 => {
                self.states.insert(task, state);
            }
            Event::Checkpoint { .. } => {}
            Event::JobFailed { failure, .. } => return Err(LocalError::Job(failure)),
            Event::Broken { message } => return Err(LocalError::Slot(message)),
        }
        Ok(true)
    }

    fn outcomes(
        &mut self,
        tag: u64,
        batch: &Batch,
        results: &Columns,
        kept: &[(u32, KeptFolder)],
        each: &mut impl FnMut(u64, LocalOutcome<'_>) -> bool,
    ) -> bool {
        let mut failures = batch.failures.iter().peekable();
        let mut captured = batch.captured.iter().peekable();
        for offset in 0..batch.count {
            let failure = failures.next_if(|(at, _)| *at == offset);
            let captured = captured.next_if(|(at, _)| *at == offset);
            let task = batch.first + u64::from(offset);
            if let Some((_, failure)) = failure
                && failure.kind.is_retryable()
                && let Some(chunk) = self.retry(tag, task)
            {
                self.again.push_front(chunk);
                continue;
            }
            self.states.remove(&task);
            let outcome = LocalOutcome {
                result: match failure {
                    Some((_, failure)) => Err(failure),
                    None => Ok(results.get(offset as usize)),
                },
                captured: captured.map(|(_, captured)| captured),
                files: kept.iter().find(|(at, _)| *at == offset).map(|(_, kept)| kept.path()),
            };
            if !each(task, outcome) {
                return false;
            }
        }
        true
    }

    /// The task once more, if it has an attempt left.
    fn retry(&self, tag: u64, task: u64) -> Option<Chunk> {
        let mut chunk = self.part(tag, task, 1)?;
        let attempt = chunk.attempts.first().map_or(0, |(_, attempt)| *attempt);
        if attempt >= self.retries {
            return None;
        }
        chunk.attempts = vec![(0, attempt + 1)];
        Some(chunk)
    }

    /// Some tasks of a chunk that a slot holds, as a chunk.
    fn part(&self, tag: u64, first: u64, count: u32) -> Option<Chunk> {
        let whole = &self.held.iter().find(|held| held.tag == tag)?.chunk;
        let from = (first - whole.first) as u32;
        let to = from + count;
        let states = self.states.range(first..first + u64::from(count));
        Some(Chunk {
            tag,
            setup: Arc::clone(&whole.setup),
            first,
            count,
            attempts: whole
                .attempts
                .iter()
                .filter(|(at, _)| (from..to).contains(at))
                .map(|(at, attempt)| (at - from, *attempt))
                .collect(),
            arguments: if whole.arguments.is_empty() {
                Columns::default()
            } else {
                whole.arguments.slice(from as usize, to as usize)
            },
            restored: states.map(|(task, state)| ((task - first) as u32, state.clone())).collect(),
        })
    }
}
