//! The bookkeeping in worlds of chance: slots that behave as drivers promise to, a scheduler that may ask for anything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farm_proto::columns::ColumnsBuilder;
use farm_proto::ids::{Digest, JobId, LeaseId};
use farm_proto::job::{Args, CommandOptions, JobSpec, Limits, ModuleKind, ModuleRef, Mounts, Profile, ResultEncoding};
use farm_proto::message::{Batch, Lease, WorkerControl, WorkerWork};
use farm_proto::outcome::{Failure, FailureKind};
use farm_proto::why::Stage;

use super::outbox::Outbox;
use super::prepare::Prepared;
use super::resume::resume;
use super::work::{Effect, Tally, Work};
use crate::slot::{Chunk, Event, Order};

/// xorshift: the tests need numbers, not good ones.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn spec(args: Args) -> JobSpec {
    JobSpec {
        cluster: None,
        time_request_ms: None,
        name: None,
        module: ModuleRef { digest: Digest::of(b"m"), size: 1, kind: ModuleKind::Core, result: ResultEncoding::Json },
        function: "f".to_owned(),
        args,
        limits: Limits::default(),
        profile: Profile::Fast,
        env: Vec::new(),
        inputs: Vec::new(),
        mounts: Mounts::default(),
        command: CommandOptions::default(),
        retries: 0,
        max_failures: None,
        priority: 0,
        after: Vec::new(),
        fold: false,
    }
}

fn prepared() -> Result<Prepared, Failure> {
    Ok(Prepared { artefact: PathBuf::from("/a"), inputs: None, outputs: None, secrets: None })
}

/// A lease as the scheduler knows it: which of its tasks have been answered.
struct Known {
    job: JobId,
    first: u64,
    answered: Vec<bool>,
}

struct World {
    random: Random,
    work: Work,
    now: Instant,
    slots: Vec<VecDeque<(Chunk, u32)>>,
    leases: BTreeMap<LeaseId, Known>,
    cancelled: Vec<JobId>,
    preparing: Vec<JobId>,
    has_columns: BTreeMap<JobId, bool>,
    next_task: BTreeMap<JobId, u64>,
    next_lease: u64,
    drained: bool,
    outbox: Outbox,
    /// Of every lease: the tasks without an acknowledged answer.
    unacknowledged: BTreeMap<LeaseId, (JobId, BTreeSet<u64>)>,
    /// What was sent on this connection and is not acknowledged.
    sent: VecDeque<WorkerWork>,
    acknowledged: u64,
    /// Jobs that the scheduler says nothing more of.
    over: Vec<JobId>,
    told: Vec<WorkerControl>,
    /// What each task has kept last, and what the scheduler was told of it.
    kept: BTreeMap<(JobId, u64), Bytes>,
    told_kept: BTreeMap<(JobId, u64), Bytes>,
}

/// What a message is about.
fn tasks(message: &WorkerWork) -> (LeaseId, u64, u32) {
    match message {
        WorkerWork::Results { lease, batch } => (*lease, batch.first, batch.count),
        WorkerWork::Lost { lease, task, .. } => (*lease, *task, 1),
        WorkerWork::Returned { lease, first, count } => (*lease, *first, *count),
        WorkerWork::Checkpoint { lease, task } => (*lease, *task, 0),
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let slots = 1 + random.below(4) as usize;
        Self {
            random,
            work: Work::new(slots),
            now: Instant::now(),
            slots: vec![VecDeque::new(); slots],
            leases: BTreeMap::new(),
            cancelled: Vec::new(),
            preparing: Vec::new(),
            has_columns: BTreeMap::new(),
            next_task: BTreeMap::new(),
            next_lease: 1,
            drained: false,
            outbox: Outbox::default(),
            unacknowledged: BTreeMap::new(),
            sent: VecDeque::new(),
            acknowledged: 0,
            over: Vec::new(),
            told: Vec::new(),
            kept: BTreeMap::new(),
            told_kept: BTreeMap::new(),
        }
    }

    fn tells(&mut self, event: Event) {
        self.work.slot_says(event, self.now);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.work.next_effect() {
            match effect {
                Effect::Send(job, message, payload) => {
                    self.outbox.push(job, message.clone(), payload.clone());
                    self.answer(message, &payload);
                }
                Effect::SendWithFiles(..) => unreachable!("no task leaves files"),
                Effect::Control(message) => {
                    if let WorkerControl::JobFailed { job, .. } = &message {
                        self.cancelled.push(*job);
                    }
                    self.told.push(message);
                }
                Effect::Abandon(_) => {}
                Effect::Prepare(job, _) => self.preparing.push(job),
                Effect::Order(slot, order) => self.order(slot, order),
                Effect::Broken(message) => panic!("{message}"),
            }
        }
        for slot in &self.slots {
            assert!(slot.len() <= 2, "a slot holds {} chunks", slot.len());
        }
    }

    fn answer(&mut self, message: WorkerWork, payload: &Bytes) {
        let (lease, first, count) = tasks(&message);
        if let WorkerWork::Checkpoint { .. } = message {
            let known = &self.leases[&lease];
            assert!(!known.answered[(first - known.first) as usize], "a checkpoint of an answered task");
            self.told_kept.insert((known.job, first), payload.clone());
            return;
        }
        if let WorkerWork::Lost { .. } | WorkerWork::Returned { .. } = message {
            let job = self.leases[&lease].job;
            for task in first..first + u64::from(count) {
                let [kept, told] = [&self.kept, &self.told_kept].map(|states| states.get(&(job, task)));
                assert_eq!(kept, told, "task {task} goes back without its last state");
            }
        }
        if let WorkerWork::Results { batch, .. } = &message {
            let results = farm_proto::columns::Columns::decode(batch.count.into(), payload.clone());
            // Each slot echoes the task's number.
            for (offset, result) in results.expect("columns").iter().enumerate() {
                assert_eq!(result, (batch.first + offset as u64).to_le_bytes());
            }
        }
        assert!(count > 0, "an answer for nothing");
        let known = self.leases.get_mut(&lease).expect("an answer for no lease");
        assert!(!self.cancelled.contains(&known.job), "an answer for a cancelled job");
        for task in first..first + u64::from(count) {
            let answered = &mut known.answered[(task - known.first) as usize];
            assert!(!*answered, "task {task} is answered twice");
            *answered = true;
        }
        if known.answered.iter().all(|answered| *answered) {
            self.leases.remove(&lease);
        }
    }

    fn order(&mut self, slot: usize, order: Order) {
        match order {
            Order::Run(chunk) => {
                assert!(chunk.count > 0);
                for offset in 0..chunk.count {
                    let kept = self.kept.get(&(chunk.setup.job, chunk.first + u64::from(offset)));
                    let restored = chunk.restored.iter().find(|(at, _)| *at == offset).map(|(_, state)| state);
                    assert_eq!(kept, restored, "a task does not begin where it was");
                }
                if self.has_columns[&chunk.setup.job] {
                    assert_eq!(chunk.arguments.len(), chunk.count as usize);
                    for (offset, argument) in chunk.arguments.iter().enumerate() {
                        assert_eq!(argument, (chunk.first + offset as u64).to_string().as_bytes());
                    }
                }
                self.slots[slot].push_back((chunk, 0));
            }
            Order::TakeBack { tag } => {
                let held = self.slots[slot].iter_mut().find(|(chunk, _)| chunk.tag == tag);
                if let Some((chunk, done)) = held {
                    let started = *done + u32::from(self.random.below(2) == 0);
                    let end = chunk.count.min(started);
                    let (first, count) = (chunk.first + u64::from(end), chunk.count - end);
                    chunk.count = end;
                    if count > 0 {
                        self.work.slot_says(Event::Returned { tag, first, count }, self.now);
                    }
                }
            }
            Order::Cancel(job) => {
                let (stays, goes) = self.slots[slot].drain(..).partition(|(chunk, _)| chunk.setup.job != job);
                self.slots[slot] = stays;
                let goes: VecDeque<(Chunk, u32)> = goes;
                for (chunk, _) in goes {
                    self.work.slot_says(Event::Ended { tag: chunk.tag }, self.now);
                }
            }
            Order::Forget(_) | Order::Leave => {}
        }
    }

    /// Some tasks of a slot end, or its process does.
    fn slot_step(&mut self) {
        let slot = self.random.below(self.slots.len() as u64) as usize;
        let Some((chunk, done)) = self.slots[slot].front_mut() else {
            return;
        };
        let (tag, task, left) = (chunk.tag, chunk.first + u64::from(*done), chunk.count - *done);
        if left > 0 && self.random.below(3) == 0 {
            let (job, state) = (chunk.setup.job, Bytes::from(self.random.below(1 << 60).to_le_bytes().to_vec()));
            if !self.cancelled.contains(&job) {
                self.kept.insert((job, task), state.clone());
            }
            self.tells(Event::Checkpoint { tag, task, state });
            if self.random.below(2) == 0 {
                return;
            }
        }
        let Some((_, done)) = self.slots[slot].front_mut() else {
            return;
        };
        if left > 0 && self.random.below(40) == 0 {
            let dead: Vec<_> = self.slots[slot].drain(..).collect();
            self.tells(Event::Lost { tag, task, message: "dead".to_owned() });
            for (at, (chunk, done)) in dead.into_iter().enumerate() {
                let gone = done + u32::from(at == 0);
                let (tag, first, count) = (chunk.tag, chunk.first + u64::from(gone), chunk.count - gone);
                if count > 0 {
                    self.tells(Event::Returned { tag, first, count });
                }
                self.tells(Event::Ended { tag });
            }
            return;
        }
        let count = left.min(1 + self.random.below(100) as u32);
        if count > 0 {
            *done += count;
            let mut results = ColumnsBuilder::new();
            (0..u64::from(count)).for_each(|offset| results.push(&(task + offset).to_le_bytes()));
            let run_ns = u64::from(count) * (1 << self.random.below(30));
            let batch = Batch {
                first: task,
                count,
                failures: Vec::new(),
                captured: Vec::new(),
                run_ns,
                fetch_ns: 0,
                compile_ns: 0,
            };
            self.tells(Event::Results { tag, batch, results: results.finish(), kept: Vec::new() });
        }
        if let Some((chunk, done)) = self.slots[slot].front()
            && chunk.count == *done
        {
            let tag = chunk.tag;
            self.slots[slot].pop_front();
            self.tells(Event::Ended { tag });
        }
    }

    /// The link takes some messages, and the scheduler acknowledges some of those that it has got.
    fn link_step(&mut self) {
        for _ in 0..self.random.below(4) {
            self.sent.extend(self.outbox.take_unsent().map(|(message, _)| message));
        }
        for _ in 0..self.random.below(4) {
            let Some(message) = self.sent.pop_front() else {
                break;
            };
            let (lease, first, count) = tasks(&message);
            if let Some((_, tasks)) = self.unacknowledged.get_mut(&lease) {
                (first..first + u64::from(count)).for_each(|task| assert!(tasks.remove(&task)));
            }
            self.acknowledged += 1;
        }
        self.outbox.stored(self.acknowledged).expect("no more than was sent");
    }

    /// The connection is lost, slots work on, and there is another one.
    fn reconnect(&mut self) {
        (0..self.random.below(20)).for_each(|_| self.slot_step());
        self.work.forget_cancelled(self.now);
        let _ = self.outbox.restart(|job| self.work.knows(job));
        self.sent.clear();
        self.acknowledged = 0;
        self.over = self.cancelled.clone();
        let resume = resume(&self.work, &self.outbox);
        for (job, stamp) in &resume.jobs {
            assert!(*stamp == 1 && self.has_columns.contains_key(job));
        }
        let over = &self.over;
        let claimed = resume.claims.iter().filter(|claim| !over.contains(&claim.job)).map(|claim| {
            let tasks = claim.tasks.iter().flat_map(|(start, end)| *start..*end).collect();
            (claim.lease, (claim.job, tasks))
        });
        let expected = self.unacknowledged.iter().filter(|(_, (job, tasks))| !over.contains(job) && !tasks.is_empty());
        let expected: BTreeMap<_, _> = expected.map(|(lease, claim)| (*lease, claim.clone())).collect();
        assert_eq!(claimed.collect::<BTreeMap<_, (_, BTreeSet<_>)>>(), expected);
        self.carry_out();
        self.told.clear();
        self.work.reconnected();
        self.carry_out();
        assert_eq!(self.told.contains(&WorkerControl::Draining), self.drained);
    }

    fn scheduler_step(&mut self) {
        let job = JobId(1 + self.random.below(4));
        if self.over.contains(&job) {
            return;
        }
        match self.random.below(30) {
            0..3 => {
                let columns = self.random.below(2) == 0;
                let args = if columns { Args::Inline { count: 1 } } else { Args::Range { start: 0, end: 1 } };
                self.has_columns.entry(job).or_insert(columns);
                self.work.job(job, 1, spec(args), self.now);
            }
            3..6 => {
                if let Some(job) = self.preparing.pop() {
                    let result = match self.random.below(20) {
                        0 => Err(Failure::new(FailureKind::BadModule, "bad")),
                        _ => prepared(),
                    };
                    self.work.prepared(job, result, self.now);
                }
            }
            6..20 => self.lease(job),
            20..24 => {
                let at = self.random.below(8) as usize;
                if let Some(lease) = self.leases.keys().nth(at).copied() {
                    let keep = self.random.below(3) as u32 * 20;
                    self.work.recall(lease, keep, self.now);
                }
            }
            24 if self.random.below(6) == 0 => {
                self.cancelled.push(job);
                self.work.cancel(job, self.now);
                self.leases.retain(|_, known| known.job != job);
            }
            26 if self.random.below(10) == 0 => self.reconnect(),
            25 if self.random.below(50) == 0 => {
                self.drained = true;
                self.work.drain(self.now);
            }
            _ => {
                self.now += Duration::from_millis(self.random.below(20));
                self.work.tick(self.now);
            }
        }
        self.carry_out();
        let cancelled = &self.cancelled;
        self.leases.retain(|_, known| !cancelled.contains(&known.job));
    }

    fn lease(&mut self, job: JobId) {
        let Some(columns) = self.has_columns.get(&job).copied() else {
            return;
        };
        let count = self.random.below(200) as u32;
        let next = self.next_task.entry(job).or_insert(0);
        let first = *next;
        *next += u64::from(count);
        let lease = LeaseId(self.next_lease);
        self.next_lease += 1;
        let mut arguments = ColumnsBuilder::new();
        if columns {
            (first..*next).for_each(|task| arguments.push(task.to_string().as_bytes()));
        }
        if count > 0 && !self.cancelled.contains(&job) {
            let answered = vec![false; count as usize];
            self.leases.insert(lease, Known { job, first, answered });
            self.unacknowledged.insert(lease, (job, (first..*next).collect()));
        }
        let payload = arguments.finish().encode();
        let lease = Lease { lease, job, first, count, attempts: vec![(0, 1)] };
        self.work.lease(lease, payload, self.now).expect("good columns");
    }

    /// Everything that can still be answered is.
    fn settle(&mut self) {
        while let Some(job) = self.preparing.pop() {
            self.work.prepared(job, prepared(), self.now);
            self.carry_out();
        }
        for _ in 0..1_000_000 {
            if self.leases.is_empty() {
                break;
            }
            self.slot_step();
        }
        assert!(self.leases.is_empty(), "{} leases are never answered", self.leases.len());
        assert!(!self.drained || self.work.is_drained());
    }
}

#[test]
fn every_task_is_answered_once_whatever_happens() {
    for seed in 1..300 {
        let mut world = World::new(seed);
        for _ in 0..600 {
            match world.random.below(6) {
                0..2 => world.scheduler_step(),
                2 => world.link_step(),
                _ => world.slot_step(),
            }
        }
        world.settle();
        world.reconnect();
        while world.outbox.has_unsent() || !world.sent.is_empty() {
            world.link_step();
        }
        assert!(world.outbox.is_empty());
    }
}

/// A worker with two slots, and a job whose tasks need nothing.
fn two_slots() -> World {
    let mut world = World::new(1);
    world.work = Work::new(2);
    world.slots = vec![VecDeque::new(); 2];
    world.has_columns.insert(JobId(1), false);
    world.work.job(JobId(1), 1, spec(Args::Range { start: 0, end: 1000 }), world.now);
    world.work.prepared(JobId(1), prepared(), world.now);
    world
}

fn lease(world: &mut World, lease: u64, first: u64, count: u32) {
    let known = Known { job: JobId(1), first, answered: vec![false; count as usize] };
    world.leases.insert(LeaseId(lease), known);
    let lease = Lease { lease: LeaseId(lease), job: JobId(1), first, count, attempts: Vec::new() };
    world.work.lease(lease, Bytes::new(), world.now).expect("a range");
    world.carry_out();
}

fn outcome(task: u64, run: Duration) -> (Batch, farm_proto::columns::Columns) {
    let mut results = ColumnsBuilder::new();
    results.push(&task.to_le_bytes());
    let run_ns = run.as_nanos() as u64;
    (
        Batch { first: task, count: 1, failures: Vec::new(), captured: Vec::new(), run_ns, fetch_ns: 0, compile_ns: 0 },
        results.finish(),
    )
}

fn finish_first(world: &mut World, slot: usize, run: Duration) {
    let (chunk, done) = world.slots[slot].front_mut().expect("a chunk");
    let (tag, task) = (chunk.tag, chunk.first + u64::from(*done));
    *done += 1;
    let is_last = *done == chunk.count;
    let (batch, results) = outcome(task, run);
    world.tells(Event::Results { tag, batch, results, kept: Vec::new() });
    if is_last {
        world.slots[slot].pop_front();
        world.tells(Event::Ended { tag });
    }
}

#[test]
fn the_first_tasks_go_out_one_by_one_and_short_ones_in_chunks_after_that() {
    let mut world = two_slots();
    lease(&mut world, 1, 0, 1000);
    let counts: Vec<_> = world.slots.iter().map(|slot| slot.len()).collect();
    assert_eq!(counts, [1, 1]);
    assert!(world.slots.iter().flatten().all(|(chunk, _)| chunk.count == 1));
    finish_first(&mut world, 0, Duration::from_micros(100));
    assert_eq!(world.slots[0].len(), 2, "short tasks are queued");
    assert_eq!(world.slots[0][0].0.count, 100);
}

#[test]
fn long_tasks_go_out_one_by_one() {
    let mut world = two_slots();
    lease(&mut world, 1, 0, 10);
    for _ in 0..4 {
        finish_first(&mut world, 0, Duration::from_millis(50));
        assert_eq!(world.slots[0].len(), 1);
        assert_eq!(world.slots[0][0].0.count, 1);
    }
}

#[test]
fn an_idle_slot_gets_what_a_slow_one_has_not_started() {
    let mut world = two_slots();
    lease(&mut world, 1, 0, 2);
    finish_first(&mut world, 0, Duration::from_micros(100));
    finish_first(&mut world, 1, Duration::from_micros(100));
    lease(&mut world, 2, 2, 40);
    // Slot 0 works off all that it is given; slot 1 sits at its first task.
    while !world.slots[0].is_empty() {
        finish_first(&mut world, 0, Duration::from_micros(100));
    }
    assert!(world.slots[1].iter().map(|(chunk, _)| chunk.count).sum::<u32>() > 1);
    let deadline = world.work.next_deadline().expect("something to divide");
    world.now = deadline;
    world.work.tick(deadline);
    world.carry_out();
    assert!(world.slots[1].iter().map(|(chunk, _)| chunk.count).sum::<u32>() <= 2);
    assert!(!world.slots[0].is_empty(), "the idle slot has got nothing");
}

#[test]
fn a_drained_worker_hands_back_what_has_not_begun_and_in_the_end_what_has() {
    let mut world = two_slots();
    lease(&mut world, 1, 0, 10);
    world.drained = true;
    world.work.drain(world.now);
    world.carry_out();
    assert_eq!(world.leases[&LeaseId(1)].answered.iter().filter(|answered| **answered).count(), 8);
    assert!(!world.work.is_drained());
    world.work.stop();
    // `order` lets chunks go without a word, as for a cancelled job; drivers give back what they had.
    let running: Vec<_> = world.slots.iter().flatten().map(|(chunk, _)| (chunk.tag, chunk.first)).collect();
    assert_eq!(running.len(), 2);
    for (tag, first) in running {
        world.work.slot_says(Event::Returned { tag, first, count: 1 }, world.now);
    }
    world.carry_out();
    assert!(world.work.is_drained());
    assert_eq!(world.work.tally(), Tally { finished: 0, returned: 10 });
}

/// What was told of job 1's preparation since this was asked last.
fn stages(world: &mut World) -> Vec<Stage> {
    world.carry_out();
    let told = world.told.drain(..);
    told.map(|message| match message {
        WorkerControl::Preparing { job: JobId(1), stage } => stage,
        other => panic!("{other:?}"),
    })
    .collect()
}

#[test]
fn preparation_is_told_while_tasks_wait_for_it() {
    let mut world = World::new(1);
    world.has_columns.insert(JobId(1), false);
    world.work.job(JobId(1), 1, spec(Args::Range { start: 0, end: 1000 }), world.now);
    world.work.stage(JobId(1), Stage::Fetching, world.now);
    assert_eq!(stages(&mut world), []);
    world.now += Duration::from_secs(1);
    lease(&mut world, 1, 0, 1);
    lease(&mut world, 2, 1, 1);
    assert_eq!(stages(&mut world), [Stage::Fetching]);
    world.now += Duration::from_secs(2);
    world.work.stage(JobId(1), Stage::Compiling, world.now);
    assert_eq!(stages(&mut world), [Stage::Compiling]);
    world.work.reconnected();
    assert_eq!(stages(&mut world), [Stage::Compiling]);
    world.now += Duration::from_secs(4);
    world.work.prepared(JobId(1), prepared(), world.now);
    assert_eq!(stages(&mut world), [Stage::Ready]);
    world.work.reconnected();
    assert_eq!(stages(&mut world), []);
    // From the lease's coming on.
    finish_first(&mut world, 0, Duration::from_millis(1));
    let (message, _) = world.outbox.take_unsent().expect("an answer");
    let WorkerWork::Results { batch, .. } = message else {
        panic!("{message:?}");
    };
    assert_eq!((batch.fetch_ns, batch.compile_ns), (2_000_000_000, 4_000_000_000));
}

#[test]
fn a_failure_is_told_until_the_scheduler_knows() {
    let mut world = World::new(1);
    world.work.job(JobId(1), 1, spec(Args::Range { start: 0, end: 1000 }), world.now);
    let failure = Failure::new(FailureKind::BadModule, "bad");
    world.work.prepared(JobId(1), Err(failure.clone()), world.now);
    let told = [WorkerControl::JobFailed { job: JobId(1), failure }];
    world.carry_out();
    assert_eq!(world.told, told);
    for _ in 0..2 {
        world.told.clear();
        world.work.forget_cancelled(world.now);
        assert_eq!(world.work.jobs(), [(JobId(1), 1)]);
        world.work.reconnected();
        world.carry_out();
        assert_eq!(world.told, told);
    }
    world.told.clear();
    world.work.cancel(JobId(1), world.now);
    world.work.forget_cancelled(world.now);
    world.work.reconnected();
    world.carry_out();
    assert_eq!(world.told, []);
    assert_eq!(world.work.jobs(), []);
}
