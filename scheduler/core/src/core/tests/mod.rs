//! A rig for the transitions of one family at a time. All of them together are for `tests/sim`.

#![expect(clippy::single_range_in_vec_init, reason = "sets that hold a single range are what is compared")]

mod clusters;
mod failures;
mod jobs;
mod leases;
mod needs;
mod operations;
mod persist;
mod ranges;
mod refusals;
mod replay;
mod resume;
mod tail;
mod why;
mod workers;

use std::time::Duration;

use farm_proto::ids::{ClusterId, JobId, LeaseId, WorkerId};
use farm_proto::message::{Batch, Lease, Resume};
use farm_proto::outcome::{Failure, FailureKind};

use crate::{Command, Config, Core, Departure, Event, Fact, NewJob, Refused, Time};

const MS: u64 = 1_000_000;

/// A core, a clock that is moved by hand, and a store that answers at once unless told otherwise.
struct Rig {
    core: Core,
    now: Time,
    /// Whether facts are reported as stored as soon as they are asked to be.
    acks: bool,
    facts: Vec<Fact>,
}

impl Rig {
    fn new() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        Self { core: Core::new(config), now: Time::ZERO, acks: true, facts: Vec::new() }
    }

    fn after(&mut self, span: Duration) -> &mut Self {
        self.now = self.now + span;
        self
    }

    fn try_tell(&mut self, event: Event<'_>) -> Result<Vec<Command>, Refused> {
        self.core.handle(self.now, event)?;
        Ok(self.drain())
    }

    #[track_caller]
    fn tell(&mut self, event: Event<'_>) -> Vec<Command> {
        self.try_tell(event).expect("an event that can be")
    }

    fn drain(&mut self) -> Vec<Command> {
        let mut commands = Vec::new();
        while let Some(command) = self.core.poll_command() {
            if let Command::Persist { seq, fact } = &command {
                self.facts.push(fact.clone());
                if self.acks {
                    self.core.handle(self.now, Event::Persisted { seq: *seq }).expect("a fact that was asked for");
                }
            }
            commands.push(command);
        }
        self.core.check_invariants();
        commands
    }

    fn submit(&mut self, owner: &str, tasks: u64) -> JobId {
        self.submit_spec(NewJob::new(owner, tasks)).0
    }

    fn submit_spec(&mut self, spec: NewJob) -> (JobId, Vec<Command>) {
        let job = self.core.next_job();
        (job, self.tell(Event::JobSubmitted { job, spec }))
    }

    fn join(&mut self, worker: u64, slots: u32) -> Vec<Command> {
        self.come_back(worker, slots, &Resume::default())
    }

    /// A worker joins with what it still has.
    fn come_back(&mut self, worker: u64, slots: u32, resume: &Resume) -> Vec<Command> {
        self.tell(Event::WorkerJoined {
            worker: WorkerId(worker),
            cluster: ClusterId::DEFAULT,
            slots,
            ends: None,
            resume,
        })
    }

    fn leave(&mut self, worker: u64, how: Departure) -> Vec<Command> {
        self.tell(Event::WorkerLeft { worker: WorkerId(worker), how })
    }

    /// The first `count` tasks of the lease succeed, each within `task`.
    fn succeed(&mut self, worker: u64, lease: &Lease, count: u32, task: Duration) -> Vec<Command> {
        let batch = batch(lease.first, count, u64::from(count) * task.as_nanos() as u64);
        self.tell(Event::BatchArrived { worker: WorkerId(worker), lease: lease.lease, batch: &batch })
    }

    /// The task fails; it is answered alone.
    fn fail(&mut self, worker: u64, lease: &Lease, task: u64, kind: FailureKind) -> Vec<Command> {
        let batch = failure(task, kind);
        self.tell(Event::BatchArrived { worker: WorkerId(worker), lease: lease.lease, batch: &batch })
    }

    fn counts(&self, job: JobId) -> farm_proto::job::Counts {
        self.core.job(job).expect("a job that was submitted").counts
    }
}

fn batch(first: u64, count: u32, run_ns: u64) -> Batch {
    Batch { first, count, failures: Vec::new(), captured: Vec::new(), run_ns, fetch_ns: 0, compile_ns: 0 }
}

fn failure(task: u64, kind: FailureKind) -> Batch {
    let failures = vec![(0, Failure::new(kind, "it did not work"))];
    Batch { failures, ..batch(task, 1, MS) }
}

/// The leases among the commands, and who gets them.
fn leases(commands: &[Command]) -> Vec<(u64, Lease)> {
    let of = |command: &Command| match command {
        Command::SendLease { worker, lease, .. } => Some((worker.0, lease.clone())),
        _ => None,
    };
    commands.iter().filter_map(of).collect()
}

/// The one lease among the commands.
#[track_caller]
fn lease(commands: &[Command]) -> Lease {
    let mut found = leases(commands);
    assert_eq!(found.len(), 1, "leases in {commands:?}");
    found.remove(0).1
}

/// The recalls among the commands: of whom, of what, and how many tasks are to stay.
fn recalls(commands: &[Command]) -> Vec<(u64, LeaseId, u32)> {
    let of = |command: &Command| match *command {
        Command::Recall { worker, lease, keep } => Some((worker.0, lease, keep)),
        _ => None,
    };
    commands.iter().filter_map(of).collect()
}

/// A generator of numbers that is the same everywhere: SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// True about once in `times`.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}
