//! A worker's process, and the scheduler that a test plays to it.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::Duration;

use bytes::Bytes;
use farm_host::agent::{self, AgentOptions};
use farm_proto::columns::{Columns, ColumnsBuilder};
use farm_proto::ids::{JobId, LeaseId};
use farm_proto::job::{Args, JobSpec};
use farm_proto::message::{Lease, SchedulerControl, SchedulerWork, WorkerControl, WorkerWork};
use farm_proto::outcome::FailureKind;
use farm_proto::why::Stage;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::WORKER;
use crate::guests::shipped;
use crate::processes::{children, eventually, marked};
use crate::scheduler::{Connected, Scheduler};

/// Of every job, unless a test says otherwise.
pub(crate) const STAMP: u64 = 4711;

/// The worker's process.
pub(crate) fn worker(args: &[OsString]) -> ExitCode {
    let [ticket, folder, slots, wait, grace] = args else {
        return ExitCode::from(64);
    };
    let text = |arg: &OsString| arg.to_str().unwrap().to_owned();
    let cache = Path::new(folder).join("cache");
    let mut options = AgentOptions::new("test", text(slots).parse().unwrap(), cache).unwrap();
    options.identities = Some(folder.into());
    options.wait = Duration::from_millis(text(wait).parse().unwrap());
    options.grace = Duration::from_millis(text(grace).parse().unwrap());
    // Makes the slots of this test known from all others.
    options.slot.args.push(folder.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match runtime.block_on(agent::run(&text(ticket).parse().unwrap(), options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut words = format!("worker: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                words.push_str(&format!(": {error}"));
                cause = error.source();
            }
            eprintln!("{words}");
            ExitCode::FAILURE
        }
    }
}

/// How a worker is set up.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) slots: u32,
    pub(crate) wait: Duration,
    pub(crate) grace: Duration,
    /// After which silence it is given up.
    pub(crate) heartbeat: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self { slots: 1, wait: Duration::from_secs(60), grace: AgentOptions::GRACE, heartbeat: Duration::from_secs(10) }
    }
}

pub(crate) struct Farm {
    pub(crate) worker: Child,
    pub(crate) connected: Connected,
    pub(crate) scheduler: Scheduler,
    pub(crate) runtime: Runtime,
    pub(crate) folder: TempDir,
    setup: Setup,
    /// Whether each answer is acknowledged at once.
    pub(crate) acknowledges: bool,
    /// Answers on this connection.
    received: u64,
    /// What the worker said that it is at.
    pub(crate) stages: Vec<(JobId, Stage)>,
}

impl Farm {
    pub(crate) fn new(slots: u32) -> Self {
        Self::with(Setup { slots, ..Setup::default() })
    }

    pub(crate) fn with(setup: Setup) -> Self {
        Self::with_late_scheduler(setup, Duration::ZERO)
    }

    /// A farm whose worker has been there for `late` when the scheduler comes.
    pub(crate) fn with_late_scheduler(setup: Setup, late: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Two threads, so that a test may block.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let guard = runtime.enter();
        let mut scheduler = Scheduler::start(folder.path(), setup.heartbeat);
        if !late.is_zero() {
            scheduler.stop();
        }
        drop(guard);
        let worker = start_worker(&scheduler, folder.path(), setup);
        if !late.is_zero() {
            std::thread::sleep(late);
            scheduler.start_again();
        }
        let connected = runtime.block_on(scheduler.accept());
        assert_eq!((connected.hello.slots, connected.hello.pid), (setup.slots, worker.id()));
        assert_eq!(connected.resume, farm_proto::message::Resume::default());
        Self {
            worker,
            connected,
            scheduler,
            runtime,
            folder,
            setup,
            acknowledges: true,
            received: 0,
            stages: Vec::new(),
        }
    }

    /// Another worker with the same folder, after the first one has ended.
    pub(crate) fn restart(&mut self) {
        assert!(self.end().success());
        self.worker = start_worker(&self.scheduler, self.folder.path(), self.setup);
        self.connected = self.runtime.block_on(self.scheduler.accept());
        self.received = 0;
    }

    /// Ends the connection, and waits until the worker is back.
    pub(crate) fn break_off(&mut self, code: u32) {
        self.settle();
        self.connected.connection.close(code.into(), b"");
        self.accept_again();
    }

    /// Waits until the worker is back: the same process as before.
    pub(crate) fn accept_again(&mut self) {
        let again = async { tokio::time::timeout(Duration::from_secs(20), self.scheduler.accept()).await };
        self.connected = self.runtime.block_on(again).expect("the worker is back");
        assert_eq!(self.connected.hello.pid, self.worker.id());
        self.received = 0;
    }

    /// Stops listening, and ends the connection. Everything is forgotten but what can be fetched.
    pub(crate) fn stop_scheduler(&mut self, code: u32) {
        let _guard = self.runtime.enter();
        self.scheduler.stop();
        self.connected.connection.close(code.into(), b"");
    }

    /// Listens again, at the same address.
    pub(crate) fn start_scheduler_again(&mut self) {
        self.scheduler.start_again();
        self.accept_again();
    }

    /// Gives the worker time to take in what it was told: no acknowledgement is acknowledged.
    pub(crate) fn settle(&self) {
        std::thread::sleep(Duration::from_millis(200));
    }

    /// Says that everything which came on this connection is on disk.
    pub(crate) fn acknowledge(&mut self) {
        let messages = self.received;
        self.control(&SchedulerControl::Stored { messages });
    }

    pub(crate) fn mark(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    pub(crate) fn slots(&self) -> Vec<u32> {
        let worker = self.worker.id();
        children(worker).into_iter().filter(|pid| marked(self.mark()).contains(pid)).collect()
    }

    pub(crate) fn work(&mut self, message: &SchedulerWork, payload: Bytes) {
        let writer = &mut self.connected.work.0;
        self.runtime.block_on(writer.send(message, payload)).unwrap();
    }

    pub(crate) fn control(&mut self, message: &SchedulerControl) {
        let writer = &mut self.connected.control.0;
        self.runtime.block_on(writer.send(message, Bytes::new())).unwrap();
    }

    /// Tells of a job that calls a function of a module, and offers the module.
    pub(crate) fn job(&mut self, job: u64, wat: &str, function: &str, change: impl FnOnce(&mut JobSpec)) {
        self.stamped_job(job, STAMP, wat, function, change);
    }

    pub(crate) fn stamped_job(
        &mut self,
        job: u64,
        stamp: u64,
        wat: &str,
        function: &str,
        change: impl FnOnce(&mut JobSpec),
    ) {
        let (module, mut spec) = shipped(wat, function, Args::Range { start: 0, end: 1 << 40 });
        self.scheduler.put(module);
        change(&mut spec);
        self.work(&SchedulerWork::Job { job: JobId(job), stamp, spec: Box::new(spec) }, Bytes::new());
    }

    /// Leases tasks of a range.
    pub(crate) fn lease(&mut self, job: u64, lease: u64, first: u64, count: u32) {
        let lease = Lease { lease: LeaseId(lease), job: JobId(job), first, count, attempts: Vec::new() };
        self.work(&SchedulerWork::Lease(lease), Bytes::new());
    }

    /// Leases tasks with arguments of their own.
    pub(crate) fn lease_with(&mut self, job: u64, lease: u64, first: u64, arguments: &[&str]) {
        let mut columns = ColumnsBuilder::new();
        arguments.iter().for_each(|argument| columns.push(argument.as_bytes()));
        let count = arguments.len() as u32;
        let lease = Lease { lease: LeaseId(lease), job: JobId(job), first, count, attempts: Vec::new() };
        self.work(&SchedulerWork::Lease(lease), columns.finish().encode());
    }

    pub(crate) fn answer(&mut self) -> (WorkerWork, Bytes) {
        self.answer_within(Duration::from_secs(20)).expect("an answer")
    }

    pub(crate) fn answer_within(&mut self, limit: Duration) -> Option<(WorkerWork, Bytes)> {
        let next = self.connected.work.1.expect();
        let limited = async { tokio::time::timeout(limit, next).await };
        let answer = self.runtime.block_on(limited).ok()?.unwrap();
        self.received += 1;
        if self.acknowledges {
            self.acknowledge();
        }
        Some(answer)
    }

    /// The next message that is not about preparation; what is, is noted.
    pub(crate) fn message(&mut self) -> WorkerControl {
        loop {
            match self.any_message() {
                WorkerControl::Preparing { job, stage } => self.stages.push((job, stage)),
                other => return other,
            }
        }
    }

    pub(crate) fn any_message(&mut self) -> WorkerControl {
        let next = self.connected.control.1.expect();
        let limited = async { tokio::time::timeout(Duration::from_secs(20), next).await };
        self.runtime.block_on(limited).expect("a message").unwrap().0
    }

    /// The answers to `count` tasks of a lease, by task.
    pub(crate) fn answers(&mut self, lease: u64, first: u64, count: u64) -> Vec<Answer> {
        let mut answers: Vec<_> = (0..count).map(|_| Answer::None).collect();
        let mut left = count;
        while left > 0 {
            let (message, payload) = self.answer();
            for (of, task, answer) in flatten(message, payload) {
                assert_eq!(of, LeaseId(lease));
                let place = &mut answers[(task - first) as usize];
                assert!(matches!(place, Answer::None), "task {task} is answered twice");
                *place = answer;
                left -= 1;
            }
        }
        answers
    }

    /// Waits for the worker's end, having told it to leave.
    pub(crate) fn end(&mut self) -> ExitStatus {
        self.control(&SchedulerControl::Exit);
        self.ended()
    }

    /// What it has written to stderr.
    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap()
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
        eventually("ended", || self.worker.try_wait().unwrap().is_some());
        let slots = marked(self.mark());
        assert_eq!(slots, [] as [u32; 0], "slots are left");
        self.worker.wait().unwrap()
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        // Fails if it has ended.
        let _ = self.worker.kill();
        let _ = self.worker.wait();
    }
}

/// A worker whose stderr goes to a file of that name in its folder.
fn start_worker(scheduler: &Scheduler, folder: &Path, setup: Setup) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(WORKER).arg(scheduler.ticket.to_string()).arg(folder).arg(setup.slots.to_string());
    command.args([setup.wait, setup.grace].map(|time| time.as_millis().to_string()));
    command.stderr(std::fs::File::create(folder.join("stderr")).unwrap());
    command.spawn().unwrap()
}

#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    None,
    Value(String),
    Failed(FailureKind),
    Lost(String),
    Returned,
}

pub(crate) fn flatten(message: WorkerWork, payload: Bytes) -> Vec<(LeaseId, u64, Answer)> {
    match message {
        WorkerWork::Results { lease, batch } => {
            let results = Columns::decode(batch.count.into(), payload).unwrap();
            let mut answers: Vec<_> = (batch.first..)
                .zip(results.iter())
                .map(|(task, result)| (lease, task, Answer::Value(String::from_utf8(result.to_vec()).unwrap())))
                .collect();
            for (offset, failure) in batch.failures {
                answers[offset as usize].2 = Answer::Failed(failure.kind);
            }
            answers
        }
        WorkerWork::Lost { lease, task, message } => vec![(lease, task, Answer::Lost(message))],
        WorkerWork::Returned { lease, first, count } => {
            (first..first + u64::from(count)).map(|task| (lease, task, Answer::Returned)).collect()
        }
        // It answers nothing.
        WorkerWork::Checkpoint { .. } => Vec::new(),
    }
}

pub(crate) fn inline(spec: &mut JobSpec) {
    spec.args = Args::Inline { count: 1 << 20 };
}
