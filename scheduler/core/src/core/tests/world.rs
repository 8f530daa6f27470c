//! A seeded farm in virtual time: a real core among simulated workers, users and a disk, and everything that can go
//! wrong between them.
//!
//! After each step the core's invariants are checked; at the end, every accepted task has exactly one stored outcome,
//! and the right one. A seed that fails says how to run it again.

mod calm;
mod oracle;
mod worker;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use farm_proto::ids::{JobId, WorkerId};
use farm_proto::message::Batch;

use self::oracle::{Oracle, Truth};
use self::worker::{Answer, SimWorker};
use super::{Dice, MS};
use crate::{Command, Config, Core, Departure, Event, Fact, FactSeq, NewJob, Time};

/// Seeds of an ordinary run.
const SEEDS: u64 = 500;
/// Nothing goes wrong after this.
const CALM: Time = Time(1_500 * MS);
/// More steps than this are a livelock.
const MAX_STEPS: u64 = 60_000;
/// A world that is not at rest by then has lost something.
const MAX_TIME: Time = Time(3_600_000 * MS);

/// Something that is going to happen.
enum Action {
    /// A user submits a job, or cancels one.
    User,
    /// Something goes wrong.
    Mishap,
    /// The disk has what was written to it.
    Commit { life: u64 },
    /// The core's deadline.
    Deadline,
    /// A command reaches a worker.
    Deliver { worker: WorkerId, command: Command },
    /// An answer reaches the core.
    Answer { worker: WorkerId, answer: Answer },
    /// A slot of a worker has finished what it ran, if it still runs it.
    Finished { worker: WorkerId, slot: usize, run: u64 },
    /// A worker sends what is finished.
    Flush { worker: WorkerId },
    /// The scheduler notices that a worker is gone.
    Noticed { worker: WorkerId, how: Departure },
    /// A worker dials in.
    Join,
}

struct World {
    dice: Dice,
    now: Time,
    core: Core,
    workers: BTreeMap<WorkerId, SimWorker>,
    /// Workers whose end the core has not been told of.
    gone: BTreeSet<WorkerId>,
    oracle: Oracle,
    /// What is to happen, by time and then by when it was decided.
    agenda: BinaryHeap<Reverse<(Time, u64)>>,
    actions: BTreeMap<u64, Action>,
    decided: u64,
    deadline: Option<Time>,
    /// Facts on disk, facts on their way there, and how long a commit takes.
    disk: Vec<Fact>,
    writing: Vec<Fact>,
    commit: Option<Duration>,
    /// Counts the scheduler's restarts, and the facts that the present core was made of.
    life: u64,
    replayed: u64,
    next_worker: u64,
    jobs_to_come: u64,
    owners: u64,
    chaos: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let commit = [None, Some(0), Some(1), Some(20)][dice.below(4) as usize].map(Duration::from_millis);
        let mut world = Self {
            now: Time::ZERO,
            core: Core::new(Config::default()),
            workers: BTreeMap::new(),
            gone: BTreeSet::new(),
            oracle: Oracle::default(),
            agenda: BinaryHeap::new(),
            actions: BTreeMap::new(),
            decided: 0,
            deadline: None,
            disk: Vec::new(),
            writing: Vec::new(),
            commit,
            life: 0,
            replayed: 0,
            next_worker: 1,
            jobs_to_come: 1 + dice.below(6),
            owners: 1 + dice.below(3),
            chaos: !dice.once_in(5),
            dice,
        };
        for _ in 0..=world.dice.below(4) {
            world.later(50, Action::Join);
        }
        world.later(50, Action::User);
        if world.chaos {
            world.later(200, Action::Mishap);
        }
        world
    }

    /// Lets something happen within so many milliseconds.
    fn later(&mut self, ms: u64, action: Action) {
        let at = self.now + Duration::from_nanos(self.dice.below(ms * MS));
        self.at(at, action);
    }

    fn at(&mut self, time: Time, action: Action) {
        self.decided += 1;
        self.agenda.push(Reverse((time, self.decided)));
        self.actions.insert(self.decided, action);
    }

    /// Lets the next thing happen. Returns false if there is nothing.
    fn step(&mut self) -> bool {
        let Some(Reverse((time, decided))) = self.agenda.pop() else { return false };
        let action = self.actions.remove(&decided).expect("what was decided happens once");
        self.now = time;
        match action {
            Action::User => self.user(),
            Action::Mishap => self.mishap(),
            Action::Commit { life } if life == self.life => self.committed(),
            Action::Commit { .. } => {}
            Action::Deadline => {
                self.deadline = None;
                if self.core.next_deadline().is_some_and(|due| due <= self.now) {
                    self.tell(Event::Timeout, None);
                }
            }
            Action::Deliver { worker, command } => self.deliver(worker, command),
            Action::Answer { worker, answer } => self.answered(worker, answer),
            Action::Finished { worker, slot, run } => self.finished(worker, slot, run),
            Action::Flush { worker } => self.flush(worker),
            Action::Noticed { worker, how } => self.noticed(worker, how),
            Action::Join => self.join(),
        }
        if let Some(due) = self.core.next_deadline()
            && self.deadline.is_none_or(|set| due < set)
        {
            self.deadline = Some(due);
            self.at(due.max(self.now), Action::Deadline);
        }
        self.core.check_invariants();
        true
    }

    /// Tells the core, and does what it asks for.
    fn tell(&mut self, event: Event<'_>, in_hand: Option<&Batch>) {
        let what = format!("{event:?}");
        self.core.handle(self.now, event).unwrap_or_else(|refused| panic!("{refused}: {what}"));
        self.drain(in_hand);
    }

    fn drain(&mut self, mut in_hand: Option<&Batch>) {
        while let Some(command) = self.core.poll_command() {
            match command {
                Command::Persist { seq, fact } => {
                    self.oracle.written(self.life, seq, &fact, in_hand);
                    if matches!(fact, Fact::Outcomes { .. }) {
                        in_hand = None;
                    }
                    self.write(fact);
                }
                Command::JobAccepted { job } => self.oracle.accepted(job),
                Command::JobStarted { .. } => {}
                Command::OutcomesStored { job, seq } => self.oracle.stored(self.life, job, seq),
                Command::JobEnded { job, state } => self.oracle.ended(job, state),
                Command::SendLease { worker, .. }
                | Command::Recall { worker, .. }
                | Command::CancelJob { worker, .. }
                | Command::ForgetJob { worker, .. }
                | Command::WorkerMayLeave { worker } => self.send(worker, command),
            }
        }
    }

    fn write(&mut self, fact: Fact) {
        self.writing.push(fact);
        match self.commit {
            None => self.committed(),
            Some(time) if self.writing.len() == 1 => {
                self.at(self.now + time, Action::Commit { life: self.life });
            }
            Some(_) => {}
        }
    }

    fn committed(&mut self) {
        self.disk.append(&mut self.writing);
        let seq = FactSeq(self.disk.len() as u64 - self.replayed);
        self.core.handle(self.now, Event::Persisted { seq }).expect("facts that were asked for");
        // The drain that this is called from goes on; if it is not, nobody else does it.
        if self.commit.is_some() {
            self.drain(None);
        }
    }

    fn user(&mut self) {
        if self.jobs_to_come == 0 {
            return;
        }
        self.jobs_to_come -= 1;
        let tasks = match self.dice.below(5) {
            0 => self.dice.below(3),
            1 => 1,
            2 => self.dice.below(600),
            _ => self.dice.below(60),
        };
        let spec = NewJob {
            priority: self.dice.below(3) as i32,
            retries: self.dice.below(4) as u32,
            max_failures: self.dice.once_in(4).then(|| self.dice.below(20)),
            arg_bytes: if self.dice.once_in(4) { 1 << 20 } else { 0 },
            ..NewJob::new(format!("user {}", self.dice.below(self.owners)), tasks)
        };
        let job = self.core.next_job();
        let truth = Truth::draw(&mut self.dice, self.chaos);
        self.oracle.submitted(job, &spec, truth);
        self.tell(Event::JobSubmitted { job, spec }, None);
        self.later(400, Action::User);
    }

    fn mishap(&mut self) {
        if self.now >= CALM {
            return;
        }
        let any = self.dice.below(self.workers.len() as u64) as usize;
        let worker = self.workers.keys().copied().nth(any);
        match (self.dice.below(9), worker) {
            (0 | 1, Some(worker)) => self.lose(worker, Departure::Lost),
            (2, Some(worker)) => self.lose(worker, Departure::Planned),
            (3, Some(worker)) => {
                self.workers.get_mut(&worker).expect("a worker").draining = true;
                self.tell(Event::WorkerDraining { worker }, None);
            }
            (4 | 5, Some(worker)) => self.kill_slot(worker),
            (6, _) => {
                let job = JobId(1 + self.dice.below(self.core.next_job().0));
                if self.core.job(job).is_some() && self.dice.once_in(2) {
                    self.oracle.cancelled(job);
                    self.tell(Event::JobCancelled { job }, None);
                }
            }
            (7, _) => self.later(100, Action::Join),
            (8, _) if self.dice.once_in(3) => self.restart(),
            _ => {}
        }
        self.later(150, Action::Mishap);
    }

    /// The scheduler dies and comes back from what is on its disk. Its workers dial in again as new ones, with nothing.
    fn restart(&mut self) {
        self.life += 1;
        self.writing.clear();
        let first_lease = self.core.next_lease();
        let config = Config { first_lease, ..Config::default() };
        self.core = Core::replay(config, self.disk.iter().cloned()).expect("facts of a core");
        self.replayed = self.disk.len() as u64;
        self.oracle.restarted(self.core.next_job());
        for _ in 0..self.workers.len() {
            self.later(100, Action::Join);
        }
        self.workers.clear();
        self.gone.clear();
        self.drain(None);
    }

    /// Whether everything has come to its end.
    fn is_done(&self) -> bool {
        self.jobs_to_come == 0 && self.core.live_jobs() == 0 && self.oracle.is_done() && self.now >= CALM
    }

    fn check_end(&self) {
        self.oracle.check(&self.core);
        for view in self.core.workers() {
            assert_eq!((view.leased, view.leases), (0, 0), "worker {} holds what is over", view.worker);
        }
        let again = Core::replay(Config::default(), self.disk.iter().cloned()).expect("facts of a core");
        again.check_invariants();
        for view in self.core.jobs() {
            let other = again.job(view.job).expect("a job that is on disk");
            assert_eq!((view.state, view.counts, view.reason), (other.state, other.counts, other.reason));
        }
    }
}

/// Prints how to run a seed again if its world falls apart.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {0} failed; again: FARM_CORE_SEED={0} cargo test -p farm-core world", self.0);
        }
    }
}

fn run(seed: u64) -> u64 {
    let _replay = Replay(seed);
    let mut world = World::new(seed);
    let mut steps = 0;
    while !world.is_done() {
        if world.core.workers().count() == 0 && world.now >= CALM {
            world.join();
        }
        if !world.step() {
            // Time passes until the calm.
            assert!(world.now < CALM, "the world stands still: {:?}", world.core.jobs().collect::<Vec<_>>());
            world.now = CALM;
        }
        steps += 1;
        assert!(steps < MAX_STEPS, "livelock at {}: {:?}", world.now, world.core.jobs().collect::<Vec<_>>());
        assert!(world.now < MAX_TIME, "hours later: {:?}", world.core.jobs().collect::<Vec<_>>());
    }
    // What is still on its way comes to nothing.
    for _ in 0..MAX_STEPS {
        if !world.step() {
            break;
        }
    }
    world.check_end();
    steps
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the test is told by a person which seeds to run")]
fn a_world_of_mishaps_loses_nothing() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    if let Some(seed) = number("FARM_CORE_SEED") {
        println!("seed {seed}: {} steps", run(seed));
        return;
    }
    let seeds = number("FARM_CORE_SEEDS").unwrap_or(SEEDS);
    let steps: u64 = (0..seeds).map(run).sum();
    println!("{seeds} seeds, {steps} steps");
}
