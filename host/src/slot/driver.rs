//! The agent's side of a slot: keeps a process alive, and knows at any time what became of each task it was given.
//!
//! A [`Driver`] runs as a task of its own on the agent's thread. It is told [`Order`]s and tells [`Event`]s; the latter
//! through a bounded channel, and while that is full it leaves outcomes in the ring, where the slot then waits for
//! space. Orders are obeyed all the same.
//!
//! For each chunk exactly the tasks it was given come back, as outcomes, as lost, or as returned; then the chunk has
//! ended.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use bytes::Bytes;
use farm_proto::columns::{Columns, ColumnsBuilder};
use farm_proto::ids::JobId;
use farm_proto::message::Batch;
use farm_proto::outcome::{Failure, FailureKind};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::child::{Chunk, Happened, Process, Said, SlotCommand};
use super::outputs::KeptFolders;
use super::ring::{ANNOUNCE_AFTER_NS, Corrupt};
use super::shared::now_ns;

/// When to look into the ring after an announcement, should nothing follow; see [`super::ring`].
const LOOK_AFTER: Duration = Duration::from_nanos(ANNOUNCE_AFTER_NS * 3 / 2);
/// How long the task that runs in a cancelled job may go on, in case that saves the process. Cancelling takes at most
/// 50 ms.
const CANCEL_GRACE: Duration = Duration::from_millis(15);
/// Events that wait for the agent before the ring is left alone.
const OUTBOX: usize = 2;
/// The first pause after a process that died at once; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Processes in a row that may die without having done anything.
const MAX_DEATHS: u32 = 5;
/// A process that has lived for this long did not die of its start.
const LONG_LIFE: Duration = Duration::from_secs(1);

/// What a slot is to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// At most one chunk more than the slot is at.
    Run(Chunk),
    /// Give back what is not started of a chunk.
    TakeBack { tag: u64 },
    /// Stop tasks of this job.
    Cancel(JobId),
    /// Close the job's sandbox.
    Forget(JobId),
    /// Let tasks know that the worker is about to go, from now on.
    Leave,
}

/// What became of orders.
#[derive(Debug)]
pub(crate) enum Event {
    Results {
        tag: u64,
        batch: Batch,
        results: Columns,
        /// Where the files are that its tasks left, by offset.
        kept: KeptFolders,
    },
    /// The process died of this task.
    Lost {
        tag: u64,
        task: u64,
        message: String,
    },
    /// Not run to their end, and will not be: not started, cut off, or given back by themselves.
    Returned {
        tag: u64,
        first: u64,
        count: u32,
    },
    /// Everything of the chunk has been answered.
    Ended {
        tag: u64,
    },
    Progress {
        job: JobId,
        task: u64,
        done: u64,
        total: u64,
    },
    /// A task that runs keeps this for its next attempt, in the place of what it kept before.
    Checkpoint {
        tag: u64,
        task: u64,
        state: Bytes,
    },
    /// The job's module cannot be opened.
    JobFailed {
        job: JobId,
        failure: Failure,
    },
    /// Process after process dies at its start. It is tried again all the same.
    Broken {
        message: String,
    },
}

/// Why a process is being killed by us.
#[derive(Debug)]
enum Doom {
    Timeout { task: u64, limit_ms: u64, ran_ns: u64 },
    Cancel,
    Corrupt(Corrupt),
}

#[derive(Debug)]
pub(crate) struct Driver {
    slot: usize,
    command: SlotCommand,
    process: Option<Process>,
    outbox: VecDeque<Event>,
    /// Chunks that came while there was no process.
    waiting: VecDeque<Chunk>,
    doom: Option<Doom>,
    /// Whether there may be something in the ring.
    look: bool,
    look_at: Option<Instant>,
    watch_at: Option<Instant>,
    /// Jobs with a task that may still run, and when that is over.
    cancelled: Vec<(JobId, Instant)>,
    start_at: Option<Instant>,
    deaths: u32,
    /// Whether the worker is about to go.
    leaving: bool,
}

impl Driver {
    /// A slot without a process; [`Self::run`] starts one.
    pub(crate) fn new(slot: usize, command: SlotCommand) -> Self {
        Self {
            slot,
            command,
            process: None,
            outbox: VecDeque::new(),
            waiting: VecDeque::new(),
            doom: None,
            look: false,
            look_at: None,
            watch_at: None,
            cancelled: Vec::new(),
            start_at: Some(Instant::now()),
            deaths: 0,
            leaving: false,
        }
    }

    /// Drives the slot until `orders` or `events` are closed. No process is left then, not even a dead one; nor if the
    /// future is dropped, except that the dead one stays until the runtime gets round to it.
    pub(crate) async fn run(
        mut self,
        mut orders: mpsc::UnboundedReceiver<Order>,
        events: mpsc::Sender<(usize, Event)>,
    ) {
        loop {
            if self.start_at.is_some_and(|at| at <= Instant::now()) {
                self.start();
            }
            let deadline = self.deadline();
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => break,
                },
                permit = events.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => if let Some(event) = self.outbox.pop_front() {
                        permit.send((self.slot, event));
                    },
                    Err(_) => break,
                },
                happened = happen(self.process.as_mut()) => match happened {
                    Happened::Rang(rang) => self.look |= rang,
                    Happened::Ended(status) => self.bury(status),
                },
                () = sleep_until(deadline) => self.tick(),
            }
            if self.look && self.outbox.len() < OUTBOX {
                self.listen();
            }
        }
        if let Some(mut process) = self.process.take() {
            process.kill();
            // It has been killed, so this does not last.
            process.ended().await;
        }
    }

    fn start(&mut self) {
        self.start_at = None;
        match Process::start(&self.command, self.slot) {
            Ok(process) => {
                tracing::debug!(slot = self.slot, pid = process.pid(), "slot process started");
                if self.leaving {
                    process.leave();
                }
                self.process = Some(process);
                for chunk in std::mem::take(&mut self.waiting) {
                    self.give(chunk);
                }
            }
            Err(error) => {
                let message = format!("cannot start {}: {error}", self.command.exe.display());
                self.pause(message);
            }
        }
    }

    /// A process died of nothing that it was given: the next one has to wait a little.
    fn pause(&mut self, message: String) {
        tracing::warn!(slot = self.slot, deaths = self.deaths + 1, "{message}");
        self.start_at = Some(Instant::now() + FIRST_PAUSE * 2u32.pow(self.deaths.min(6)));
        self.deaths += 1;
        if self.deaths >= MAX_DEATHS {
            for chunk in std::mem::take(&mut self.waiting) {
                self.return_all(chunk.tag, chunk.first, chunk.count);
            }
            self.outbox.push_back(Event::Broken { message });
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Run(chunk) => {
                if self.process.is_some() && self.doom.is_none() {
                    self.give(chunk);
                } else {
                    self.waiting.push_back(chunk);
                }
            }
            Order::TakeBack { tag } => self.take_back(tag),
            Order::Leave => {
                self.leaving = true;
                self.process.iter().for_each(Process::leave);
            }
            Order::Cancel(job) => self.cancel(job),
            Order::Forget(job) => {
                if let Some(process) = &mut self.process {
                    process.forget(job);
                    self.send();
                }
            }
        }
    }

    fn give(&mut self, chunk: Chunk) {
        let Some(process) = &mut self.process else {
            return self.waiting.push_back(chunk);
        };
        let (tag, first, count, job) = (chunk.tag, chunk.first, chunk.count, chunk.setup.job);
        let was_idle = process.current().is_none();
        if let Err(error) = process.give(chunk) {
            let failure = Failure::new(FailureKind::BadArguments, error.to_string());
            self.outbox.push_back(Event::JobFailed { job, failure });
            return self.return_all(tag, first, count);
        }
        self.send();
        if was_idle {
            self.look_at = Some(Instant::now() + LOOK_AFTER);
            self.arm_watch();
        }
    }

    fn send(&mut self) {
        if let Some(process) = &mut self.process
            && process.send().is_err()
        {
            process.cut_off();
        }
    }

    fn return_all(&mut self, tag: u64, first: u64, count: u32) {
        if count > 0 {
            self.outbox.push_back(Event::Returned { tag, first, count });
        }
        self.outbox.push_back(Event::Ended { tag });
    }

    fn take_back(&mut self, tag: u64) {
        if self.doom.is_some() {
            // Everything unstarted is about to come back.
            return;
        }
        if let Some(at) = self.waiting.iter().position(|chunk| chunk.tag == tag) {
            if let Some(chunk) = self.waiting.remove(at) {
                self.return_all(chunk.tag, chunk.first, chunk.count);
            }
            return;
        }
        let Some(process) = &mut self.process else {
            return;
        };
        match process.take_back(tag) {
            Ok(Some((first, count))) => {
                self.outbox.push_back(Event::Returned { tag, first, count });
            }
            Ok(None) => {}
            Err(corrupt) => self.kill(Doom::Corrupt(corrupt)),
        }
    }

    fn cancel(&mut self, job: JobId) {
        let mut tags: Vec<_> =
            self.waiting.iter().filter(|chunk| chunk.setup.job == job).map(|chunk| chunk.tag).collect();
        let given = self.process.iter().flat_map(Process::given);
        let held = given.filter(|given| given.job() == job);
        let before = tags.len();
        tags.extend(held.map(|given| given.chunk.tag));
        if tags.len() > before {
            self.cancelled.push((job, Instant::now() + CANCEL_GRACE));
        }
        for tag in tags {
            self.take_back(tag);
        }
    }

    fn kill(&mut self, doom: Doom) {
        if let Some(process) = &mut self.process {
            tracing::debug!(slot = self.slot, pid = process.pid(), ?doom, "killing the slot process");
            process.kill();
            self.doom.get_or_insert(doom);
            self.look = false;
        }
    }

    fn listen(&mut self) {
        self.look = false;
        let Some(process) = &mut self.process else {
            return;
        };
        let current = process.current().map(|given| given.chunk.tag);
        let mut said = VecDeque::new();
        let result = process.listen(&mut said);
        let now_at = process.current().map(|given| given.chunk.tag);
        said.into_iter().for_each(|said| self.pass_on(said));
        if let Err(corrupt) = result {
            return self.kill(Doom::Corrupt(corrupt));
        }
        self.look_at = now_at.map(|_| Instant::now() + LOOK_AFTER);
        if now_at != current {
            self.arm_watch();
        }
    }

    fn pass_on(&mut self, said: Said) {
        self.deaths = 0;
        match said {
            Said::Outcomes { tag, batch, results, kept } => {
                self.outbox.push_back(Event::Results { tag, batch, results, kept });
            }
            Said::Ended { tag, unstarted } => {
                let (first, count) = unstarted.unwrap_or_default();
                self.return_all(tag, first, count);
            }
            Said::OpenFailed { job, failure } => {
                self.outbox.push_back(Event::JobFailed { job, failure });
            }
            Said::Progress { job, task, done, total } => {
                self.outbox.push_back(Event::Progress { job, task, done, total })
            }
            Said::Checkpoint { tag, task, state } => {
                self.outbox.push_back(Event::Checkpoint { tag, task, state });
            }
            Said::Suspended { tag, task } => self.outbox.push_back(Event::Returned { tag, first: task, count: 1 }),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        // Each has the same time, so the first is the earliest.
        let cancel = self.cancelled.first().map(|(_, at)| *at);
        [self.look_at, self.watch_at, cancel, self.start_at].into_iter().flatten().min()
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if self.look_at.is_some_and(|at| at <= now) {
            // One look after each announcement is enough; see the ring. `listen` would arm the next one.
            if self.outbox.len() < OUTBOX {
                self.listen();
            } else {
                self.look = true;
            }
            self.look_at = None;
        }
        if self.watch_at.is_some_and(|at| at <= now) {
            self.watch();
        }
        while let Some((job, at)) = self.cancelled.first().copied()
            && at <= now
        {
            self.cancelled.remove(0);
            self.listen();
            let current = self.process.as_ref().and_then(Process::current);
            if current.is_some_and(|given| given.job() == job) {
                self.kill(Doom::Cancel);
            }
        }
    }

    /// Sets the time at which the current chunk's limit may be hit, counted from the running task's start.
    fn arm_watch(&mut self) {
        let process = self.process.as_ref();
        let limit = process.and_then(Process::current).and_then(|given| given.chunk.setup.limits.timeout_ms);
        // A limit that no clock reaches is none.
        self.watch_at = limit.and_then(|limit| {
            let started = process.and_then(Process::task_started_ns);
            let ran = started.map_or(0, |started| now_ns().saturating_sub(started));
            Instant::now().checked_add(Duration::from_millis(limit).saturating_sub(Duration::from_nanos(ran)))
        });
    }

    /// Kills the process if its task has run for longer than it may.
    fn watch(&mut self) {
        if self.is_over_limit().is_some() {
            // Its outcome may be there, unannounced.
            self.listen();
        }
        match self.is_over_limit() {
            Some((task, limit_ms, ran_ns)) if self.doom.is_none() => {
                self.watch_at = None;
                self.kill(Doom::Timeout { task, limit_ms, ran_ns });
            }
            Some(_) => self.watch_at = None,
            None => self.arm_watch(),
        }
    }

    fn is_over_limit(&self) -> Option<(u64, u64, u64)> {
        let process = self.process.as_ref()?;
        let given = process.current()?;
        let limit_ms = given.chunk.setup.limits.timeout_ms?;
        let ran_ns = now_ns().saturating_sub(process.task_started_ns()?);
        (ran_ns >= limit_ms.saturating_mul(1_000_000)).then(|| (given.expected(), limit_ms, ran_ns))
    }

    /// Makes an outcome for a task that was stopped.
    fn stopped(&mut self, tag: u64, task: u64, ran_ns: u64, failure: Failure) {
        let mut results = ColumnsBuilder::new();
        results.end_item();
        let batch = Batch {
            first: task,
            count: 1,
            failures: vec![(0, failure)],
            captured: Vec::new(),
            run_ns: ran_ns,
            fetch_ns: 0,
            compile_ns: 0,
        };
        self.outbox.push_back(Event::Results { tag, batch, results: results.finish(), kept: Vec::new() });
    }

    /// The process is dead: saves what it has done, and gives back the rest.
    fn bury(&mut self, status: Option<ExitStatus>) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        let doom = self.doom.take();
        (self.look, self.look_at, self.watch_at) = (false, None, None);
        self.cancelled.clear();
        let mut said = VecDeque::new();
        if !matches!(doom, Some(Doom::Corrupt(_)))
            && let Err(corrupt) = process.listen_to_the_dead(&mut said)
        {
            tracing::warn!(slot = self.slot, %corrupt, "what the dead slot left is cut short");
        }
        said.into_iter().for_each(|said| self.pass_on(said));
        let message = how_it_died(doom.as_ref(), status);
        let over = process.over().filter(|_| doom.is_none());
        process.clear_out();
        let mut blame = process.has_begun() || matches!(doom, Some(Doom::Corrupt(_)));
        // Otherwise the next one would most likely die as this one did, and do no work either.
        let is_worth_another = blame || process.born.elapsed() >= LONG_LIFE;
        for given in process.into_given() {
            let tag = given.chunk.tag;
            let task = given.expected();
            let left = given.chunk.count - given.received;
            let mut gone = 0;
            if left > 0 && std::mem::take(&mut blame) {
                gone = 1;
                let limits = given.chunk.setup.outputs.as_ref().map(|outputs| &outputs.limits);
                match &doom {
                    Some(Doom::Timeout { task: late, limit_ms, ran_ns }) if *late == task => {
                        self.stopped(tag, task, *ran_ns, timed_out(*limit_ms));
                    }
                    None if let Some((over, limits)) = over.zip(limits) => {
                        self.stopped(tag, task, 0, over.failure(limits));
                    }
                    // The task ended just before the blow, or is one of a job that nobody wants any more.
                    Some(Doom::Timeout { .. } | Doom::Cancel) => gone = 0,
                    Some(Doom::Corrupt(_)) | None => {
                        let message = message.clone();
                        self.outbox.push_back(Event::Lost { tag, task, message });
                    }
                }
            }
            self.return_all(tag, task + u64::from(gone), left - gone);
        }
        match doom {
            Some(Doom::Timeout { .. } | Doom::Cancel) => self.start_at = Some(Instant::now()),
            _ if over.is_some() => {
                self.deaths = 0;
                self.start_at = Some(Instant::now());
            }
            _ if is_worth_another => {
                self.deaths = 0;
                tracing::warn!(slot = self.slot, "{message}; starting another");
                self.start_at = Some(Instant::now());
            }
            _ => self.pause(message),
        }
    }
}

fn timed_out(limit_ms: u64) -> Failure {
    let message = format!("stopped after {limit_ms} ms, the time limit of a task in this job");
    Failure::new(FailureKind::Timeout, message)
}

fn how_it_died(doom: Option<&Doom>, status: Option<ExitStatus>) -> String {
    match (doom, status) {
        (Some(Doom::Corrupt(corrupt)), _) => {
            format!("the slot process was killed because {corrupt}")
        }
        (_, Some(status)) => match (status.signal(), status.code()) {
            (Some(9), _) => "the slot process was killed (signal 9), by hand or for want of memory".to_owned(),
            (Some(signal), _) => format!("the slot process died of signal {signal}"),
            (None, Some(code)) => format!("the slot process ended with exit code {code}"),
            (None, None) => "the slot process ended".to_owned(),
        },
        (_, None) => "the slot process cannot be watched any more".to_owned(),
    }
}

/// Waits for the process to do something, or for ever if there is none. Cancel-safe.
async fn happen(process: Option<&mut Process>) -> Happened {
    match process {
        Some(process) => process.happen().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
