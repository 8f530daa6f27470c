//! The part of the shell: numbers jobs and workers, keeps facts, and does one event and one full drain at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use farm_core::{Command, Config, Core, Departure, Event, Fact, FactSeq, NewJob, TaskInput, Time, Waiting};
use farm_proto::ids::{ClusterId, JobId, LeaseId, WorkerId};
use farm_proto::message::{Batch, Claim, Lease, Resume};
use farm_proto::outcome::{Failure, FailureKind};
use farm_proto::why::Stage;

use super::operation::{ClaimOfOld, Invention, Number, Operation, Pick, Settings, Submission};
use super::oracle::Oracle;

const MS: u64 = 1_000_000;
/// Each life of a scheduler has its own leases.
const LIFE: u64 = 1 << 40;
/// Leases to choose from.
const LEASES: usize = 48;
/// More facts than this in a row are a livelock.
const COMMANDS: usize = 1 << 20;

pub(super) struct Driver {
    core: Core,
    config: Config,
    oracle: Oracle,
    now: Time,
    prompt_disk: bool,
    life: u64,
    /// Facts on disk, and those on their way.
    disk: Vec<Fact>,
    writing: Vec<Fact>,
    /// The number of the last fact on disk.
    stored: u64,
    /// All that have not been forgotten, and the id of the next.
    jobs: Vec<JobId>,
    next_job: u64,
    /// Those that are connected, and how many have ever been.
    workers: Vec<WorkerId>,
    worker_count: u64,
    /// The last ones that were given out.
    leases: Vec<(WorkerId, Lease)>,
    ended: BTreeSet<JobId>,
}

impl Driver {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut config = Config {
            crash_limit: u32::from(settings.crash_limit % 4) + 1,
            lease_time: Duration::from_millis(u64::from(settings.lease_ms) + 1),
            first_lease: LeaseId(LIFE),
            ..Config::default()
        };
        if settings.small_leases {
            config.max_lease_tasks = 3;
        }
        Self {
            core: Core::new(config.clone()),
            config,
            oracle: Oracle::default(),
            now: Time::ZERO,
            prompt_disk: settings.prompt_disk,
            life: 1,
            disk: Vec::new(),
            writing: Vec::new(),
            stored: 0,
            jobs: Vec::new(),
            next_job: 1,
            workers: Vec::new(),
            worker_count: 0,
            leases: Vec::new(),
            ended: BTreeSet::new(),
        }
    }

    pub(super) fn step(&mut self, operation: Operation) {
        match operation {
            Operation::Cancel(_, seldom)
            | Operation::Drain { seldom, .. }
            | Operation::JobFailed { seldom, .. }
            | Operation::PassAny(_, seldom)
            | Operation::Restart { seldom, .. }
                if !seldom.happens() => {}
            Operation::Submit(submission) => self.submit(&submission),
            Operation::Cancel(job, _) => self.tell(Event::JobCancelled { job: self.job(job) }),
            Operation::Stored(count) => self.store(usize::from(count)),
            Operation::StoredAny(number) if number.get() > self.core.last_fact().0 => {
                self.tell(Event::Persisted { seq: FactSeq(number.get()) });
            }
            // One that was told before.
            Operation::StoredAny(number) => {
                self.tell(Event::Persisted { seq: FactSeq(number.get().min(self.stored)) });
            }
            Operation::Join { slots, claims, inventions, jobs } => {
                let claims = claims.iter().filter_map(|claim| self.claim(claim));
                let claims = claims.chain(inventions.iter().map(|invention| self.invent(invention))).collect();
                let resume = Resume { jobs: jobs.iter().map(|&pick| (self.job(pick), 0)).collect(), claims };
                self.join(slots.get_u32(), &resume);
            }
            Operation::JoinAgain { worker } => {
                if let Some(worker) = worker.of(&self.workers) {
                    self.tell(Event::WorkerJoined {
                        worker,
                        cluster: ClusterId::DEFAULT,
                        slots: 1,
                        ends: None,
                        resume: &Resume::default(),
                    });
                }
            }
            Operation::Leave { worker, is_lost } => {
                let worker = self.worker(worker);
                let how = if is_lost { Departure::Lost } else { Departure::Planned };
                self.tell(Event::WorkerLeft { worker, how });
                self.workers.retain(|other| *other != worker);
            }
            Operation::Drain { worker, .. } => self.tell(Event::WorkerDraining { worker: self.worker(worker) }),
            Operation::Preparing { worker, job, stage } => {
                let stage = [Stage::Fetching, Stage::Compiling, Stage::Ready][usize::from(stage % 3)];
                self.tell(Event::WorkerPreparing { worker: self.worker(worker), job: self.job(job), stage });
            }
            Operation::JobFailed { worker, job, .. } => {
                let failure = Failure::new(FailureKind::BadModule, "no");
                self.tell(Event::JobFailed { worker: self.worker(worker), job: self.job(job), failure: &failure });
            }
            Operation::Pass { ms } => self.pass(Time(self.now.0.saturating_add(u64::from(ms) * MS))),
            Operation::PassUntilDeadline => {
                if let Some(due) = self.core.next_deadline() {
                    self.pass(due.max(self.now));
                }
            }
            Operation::PassAny(time, _) => self.pass(Time(time.get())),
            Operation::Forget(job) => self.forget(self.job(job)),
            Operation::Ask { job, task } => {
                self.core.why(self.job(job), task.get());
                self.check_why(self.job(job));
            }
            Operation::Restart { written, is_short, .. } => self.restart(usize::from(written), is_short),
            answer => self.answer(answer),
        }
        self.check();
    }

    /// Answers of workers.
    fn answer(&mut self, operation: Operation) {
        match operation {
            Operation::Results { lease, from, count, failures, run_ms } => {
                let Some((worker, lease)) = self.lease(lease) else { return };
                let from = u32::from(from) % lease.count;
                let count = count.get_u32().clamp(1, lease.count - from);
                let mut failures: Vec<_> =
                    failures.iter().map(|&(offset, kind)| (u32::from(offset) % count, failure(kind))).collect();
                failures.sort_by_key(|(offset, _)| *offset);
                failures.dedup_by_key(|(offset, _)| *offset);
                let batch = batch(lease.first + u64::from(from), count, failures, u64::from(run_ms) * MS);
                self.arrive(worker, lease.lease, &batch);
            }
            Operation::Finished { lease, run_ms } => {
                let Some((worker, lease)) = self.lease(lease) else { return };
                let batch = batch(lease.first, lease.count, Vec::new(), u64::from(run_ms) * MS);
                self.arrive(worker, lease.lease, &batch);
            }
            Operation::Lost { lease, offset } => {
                let Some((worker, lease)) = self.lease(lease) else { return };
                let task = lease.first + u64::from(u32::from(offset) % lease.count);
                self.tell(Event::TaskLost { worker, lease: lease.lease, task });
            }
            Operation::Returned { lease, from, count } => {
                let Some((worker, lease)) = self.lease(lease) else { return };
                let from = u32::from(from) % lease.count;
                let count = count.get_u32().clamp(1, lease.count - from);
                let first = lease.first + u64::from(from);
                self.tell(Event::TasksReturned { worker, lease: lease.lease, first, count });
            }
            Operation::AnyResults { worker, lease, first, count, failures, run_ns } => {
                let failures = failures.iter().map(|&(offset, kind)| (offset.get_u32(), failure(kind))).collect();
                let batch = batch(first.get(), count.get_u32(), failures, run_ns.get());
                self.arrive(self.worker(worker), self.any_lease(lease), &batch);
            }
            Operation::AnyLost { worker, lease, task } => {
                let (worker, lease) = (self.worker(worker), self.any_lease(lease));
                self.tell(Event::TaskLost { worker, lease, task: task.get() });
            }
            Operation::AnyReturned { worker, lease, first, count } => {
                let (worker, lease) = (self.worker(worker), self.any_lease(lease));
                self.tell(Event::TasksReturned { worker, lease, first: first.get(), count: count.get_u32() });
            }
            _ => {}
        }
    }

    /// One that there is, if there is any, or was.
    fn job(&self, pick: Pick) -> JobId {
        pick.of(&self.jobs).unwrap_or(JobId(1))
    }

    fn worker(&self, pick: Pick) -> WorkerId {
        // As if one more were connected: the last of those that have gone.
        let gone = (1..=self.worker_count).rev().map(WorkerId).find(|id| !self.workers.contains(id));
        let all: Vec<_> = self.workers.iter().copied().chain(gone).collect();
        pick.of(&all).unwrap_or(WorkerId(0))
    }

    fn lease(&self, pick: Pick) -> Option<(WorkerId, Lease)> {
        let all: Vec<_> = self.leases.iter().collect();
        pick.of(&all).cloned()
    }

    /// One of this life, or a number of its own.
    fn any_lease(&self, number: Number) -> LeaseId {
        match number.get() {
            small @ 0..200 => LeaseId(self.config.first_lease.0 + small),
            other => LeaseId(other),
        }
    }

    fn submit(&mut self, submission: &Submission) {
        let job = JobId(self.next_job.saturating_add(u64::from(submission.gap / 64)));
        let input = submission.input.map(|(of, fan_in)| TaskInput { job: self.job(of), fan_in: u32::from(fan_in % 5) });
        let results = input.and_then(|input| Some((self.core.job(input.job)?.counts.total(), input.fan_in)));
        let tasks = match results {
            Some((results, fan_in)) if fan_in > 0 && submission.fits => results.div_ceil(u64::from(fan_in)),
            _ => submission.tasks.get(),
        };
        let after = submission.after.map(|of| self.job(of)).into_iter();
        let spec = NewJob {
            priority: submission.priority.into(),
            retries: u32::from(submission.retries % 4),
            max_failures: submission.max_failures.map(Number::get),
            arg_bytes: submission.arg_bytes.get(),
            task_ns: submission.task_ns.map(Number::get),
            after: after.chain(submission.after_any.map(|number| JobId(number.get()))).collect(),
            input,
            ..NewJob::new(["ada", "ben", "cleo"][usize::from(submission.owner % 3)], tasks)
        };
        if self.try_tell(Event::JobSubmitted { job, spec }, None) {
            self.next_job = job.0 + 1;
            self.jobs.push(job);
        }
    }

    fn join(&mut self, slots: u32, resume: &Resume) {
        let worker = WorkerId(self.worker_count + 1);
        self.worker_count += 1;
        if self.try_tell(Event::WorkerJoined { worker, cluster: ClusterId::DEFAULT, slots, ends: None, resume }, None) {
            self.workers.push(worker);
            // What is left of these is its own, and it may answer.
            for (holder, lease) in &mut self.leases {
                if resume.claims.iter().any(|claim| claim.lease == lease.lease && claim.job == lease.job) {
                    *holder = worker;
                }
            }
        }
    }

    fn claim(&self, claim: &ClaimOfOld) -> Option<Claim> {
        let (_, lease) = self.lease(claim.lease)?;
        let end = lease.first + u64::from(lease.count);
        let start = (lease.first + u64::from(claim.skip % 16)).min(end);
        let tasks = match u64::from(claim.every % 8) {
            0 if start < end => vec![(start, end)],
            0 => Vec::new(),
            every => (start..end).step_by(every as usize + 1).take(64).map(|task| (task, task + 1)).collect(),
        };
        Some(Claim { lease: lease.lease, job: lease.job, tasks })
    }

    fn invent(&self, invention: &Invention) -> Claim {
        let first = if invention.is_old { self.config.first_lease.0 - LIFE } else { self.config.first_lease.0 };
        let job = invention.any_job.map_or_else(|| self.job(invention.job), |number| JobId(number.get()));
        let tasks = invention.tasks.iter().map(|(start, end)| (start.get(), end.get())).collect();
        Claim { lease: LeaseId(first.saturating_add(invention.lease.get())), job, tasks }
    }

    fn pass(&mut self, now: Time) {
        self.now = now;
        self.tell(Event::Timeout);
    }

    fn forget(&mut self, job: JobId) {
        let is_over = self.core.job(job).is_some_and(|view| view.state.is_final());
        let is_needed = self.core.dependants(job).next().is_some();
        assert_eq!(self.core.forget(job), is_over && !is_needed, "whether job {job} could be forgotten");
        if is_over && !is_needed {
            assert_eq!(self.core.job(job), None);
            self.jobs.retain(|other| *other != job);
            // Its end is stored, so no fact of it is on its way.
            self.disk.retain(|fact| fact.job() != job);
        }
    }

    /// Everything on disk, of which the first so many that were on their way, makes the next core.
    fn restart(&mut self, written: usize, is_short: bool) {
        let before: Vec<_> = self.core.jobs().filter(|view| view.state.is_final()).collect();
        let written = written.min(self.writing.len());
        self.disk.extend(self.writing.drain(..written));
        self.writing.clear();
        self.stored = 0;
        self.life += 1;
        self.config.first_lease = LeaseId(self.life * LIFE);
        self.workers.clear();
        self.core = self.replay(is_short);
        self.oracle = Oracle::default();
        self.disk.iter().for_each(|fact| self.oracle.fact(fact, None));
        self.jobs = self.core.jobs().map(|view| view.job).collect();
        self.jobs.sort_unstable();
        self.ended = self.jobs.iter().copied().filter(|job| self.oracle.end(*job).is_some()).collect();
        for view in before {
            let after = self.core.job(view.job).unwrap_or_else(|| panic!("job {} is lost", view.job));
            let of = |view: &farm_core::JobView| (view.state, view.counts, view.retried, view.reason.clone());
            assert_eq!(of(&after), of(&view), "job {} has changed", view.job);
        }
        self.drain(None);
    }

    fn replay(&self, is_short: bool) -> Core {
        let ended = |fact: &&Fact| matches!(fact, Fact::JobEnded { .. });
        let over: BTreeSet<_> = self.disk.iter().filter(ended).map(Fact::job).collect();
        let needless = |fact: &Fact| {
            is_short && over.contains(&fact.job()) && matches!(fact, Fact::Outcomes { .. } | Fact::TaskFailed { .. })
        };
        let facts = self.disk.iter().filter(|fact| !needless(fact)).cloned();
        Core::replay(self.config.clone(), facts).unwrap_or_else(|error| panic!("{error}: {:?}", self.disk))
    }

    /// The first so many facts that are on their way are on disk.
    fn store(&mut self, count: usize) {
        let count = count.min(self.writing.len());
        self.disk.extend(self.writing.drain(..count));
        self.stored += count as u64;
        self.tell(Event::Persisted { seq: FactSeq(self.stored) });
    }

    fn tell(&mut self, event: Event<'_>) {
        self.try_tell(event, None);
    }

    fn arrive(&mut self, worker: WorkerId, lease: LeaseId, batch: &Batch) {
        self.try_tell(Event::BatchArrived { worker, lease, batch }, Some(batch));
    }

    /// Returns whether it was not refused.
    fn try_tell(&mut self, event: Event<'_>, batch: Option<&Batch>) -> bool {
        let before = self.core.totals();
        if let Err(refused) = self.core.handle(self.now, event) {
            assert_eq!(self.core.totals(), before, "changed, and refused: {refused}");
            assert_eq!(self.core.poll_command(), None, "a command, and refused: {refused}");
            return false;
        }
        self.drain(batch);
        true
    }

    fn drain(&mut self, mut batch: Option<&Batch>) {
        for count in 0.. {
            assert!(count < COMMANDS, "commands without end");
            let Some(command) = self.core.poll_command() else { break };
            self.command(command, &mut batch);
        }
    }

    fn command(&mut self, command: Command, batch: &mut Option<&Batch>) {
        match command {
            Command::Persist { seq, fact } => {
                assert_eq!(seq.0, self.stored + self.writing.len() as u64 + 1, "the numbers of facts have a gap");
                let is_outcomes = matches!(fact, Fact::Outcomes { .. });
                assert!(!is_outcomes || batch.is_some(), "outcomes of no batch: {fact:?}");
                self.oracle.fact(&fact, if is_outcomes { batch.take() } else { None });
                self.writing.push(fact);
                if self.prompt_disk {
                    self.disk.append(&mut self.writing);
                    self.stored = seq.0;
                    self.core.handle(self.now, Event::Persisted { seq }).unwrap_or_else(|refused| panic!("{refused}"));
                }
            }
            Command::SendLease { worker, lease, .. } => self.sent(worker, lease),
            Command::OutcomesStored { seq, .. } => assert!(seq.0 <= self.stored, "{seq:?} is not stored"),
            Command::JobAccepted { job } => {
                let is_stored = |fact: &Fact| matches!(fact, Fact::JobAccepted { .. }) && fact.job() == job;
                assert!(self.disk.iter().any(is_stored), "job {job} is not stored");
            }
            Command::JobEnded { job, state } => {
                let is_stored = |fact: &Fact| matches!(fact, Fact::JobEnded { .. }) && fact.job() == job;
                assert!(self.disk.iter().any(is_stored), "the end of job {job} is not stored");
                assert_eq!(self.oracle.end(job), Some(state), "the end of job {job}");
                assert!(self.ended.insert(job), "job {job} ended twice");
            }
            Command::Recall { worker, .. } | Command::WorkerMayLeave { worker } => {
                assert!(self.core.worker(worker).is_some(), "worker {worker} is gone");
            }
            Command::JobStarted { .. } | Command::CancelJob { .. } | Command::ForgetJob { .. } => {}
        }
    }

    fn sent(&mut self, worker: WorkerId, lease: Lease) {
        assert!(self.core.worker(worker).is_some(), "a lease for worker {worker}, which is gone");
        assert!(self.config.first_lease <= lease.lease && lease.lease < self.core.next_lease(), "{lease:?}");
        assert!(self.leases.iter().all(|(_, other)| other.lease < lease.lease), "the number is not new: {lease:?}");
        assert!(0 < lease.count && lease.count <= self.config.max_lease_tasks, "{lease:?}");
        let ascend = lease.attempts.windows(2).all(|pair| pair[0].0 < pair[1].0);
        assert!(ascend && lease.attempts.iter().all(|&(at, attempt)| at < lease.count && attempt > 0), "{lease:?}");
        if self.leases.len() == LEASES {
            self.leases.remove(0);
        }
        self.leases.push((worker, lease));
    }

    fn check(&self) {
        self.core.check_invariants();
        self.core.jobs().for_each(|view| self.oracle.check(&view));
    }

    /// Each task that has no outcome is in one group, and the first of each waits for what the group says.
    fn check_why(&self, id: JobId) {
        let (Some(groups), Some(view)) = (self.core.why_all(id), self.core.job(id)) else { return };
        self.oracle.check_without_value(&self.core, id);
        let open = view.counts.waiting + view.counts.leased + view.counts.cancelled;
        let grouped: u64 = groups.iter().map(|group| group.count).sum();
        assert_eq!(grouped, open, "tasks that wait in job {id}: {groups:?}");
        for group in groups {
            let first = self.core.why(id, group.first);
            let fits = match (group.waiting, first) {
                // All of what the group waits for.
                (Waiting::Input { job: all, first, end }, Some(Waiting::Input { job, first: from, end: to })) => {
                    all == job && first == from && to <= end
                }
                (waiting, lone) => Some(waiting) == lone,
            };
            assert!(fits, "task {} of job {id} waits for {first:?}, not for {:?}", group.first, group.waiting);
        }
    }

    /// What is on disk in the end makes a core that shows the same, however much of it is told.
    pub(super) fn end(mut self) {
        self.store(usize::MAX);
        self.jobs.clone().into_iter().for_each(|job| self.check_why(job));
        let shown = |mut core: Core| {
            core.check_invariants();
            let jobs: Vec<_> = core.jobs().collect();
            let mut commands = Vec::new();
            while let Some(command) = core.poll_command() {
                commands.push(command);
            }
            (jobs, commands)
        };
        assert_eq!(shown(self.replay(false)), shown(self.replay(true)), "facts of ended jobs say something");
        self.restart(0, false);
        self.check();
    }
}

fn batch(first: u64, count: u32, failures: Vec<(u32, Failure)>, run_ns: u64) -> Batch {
    Batch { first, count, failures, captured: Vec::new(), run_ns, fetch_ns: 0, compile_ns: 0 }
}

fn failure(kind: u8) -> Failure {
    use FailureKind::{BadModule, NoSuchFunction, Panic, ReturnedError, Timeout, Trap, WorkerLost};
    let kinds = [Trap, Panic, ReturnedError, Trap, Timeout, WorkerLost, Panic, BadModule];
    let kind = if kind == u8::MAX { NoSuchFunction } else { kinds[usize::from(kind % 8)] };
    Failure::new(kind, "no")
}
