//! What should come of each task, and what has.

use std::collections::{BTreeMap, BTreeSet};

use farm_proto::ids::JobId;
use farm_proto::job::JobState;
use farm_proto::message::Batch;
use farm_proto::outcome::FailureKind;

use crate::core::tests::{Dice, MS};
use crate::{Core, Fact, FactSeq, NewJob};

/// How an attempt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Value,
    Failure(FailureKind),
    KillsSlot,
    KillsWorker,
}

/// How the tasks of a job behave.
#[derive(Debug)]
pub(super) struct Truth {
    salt: u64,
    /// One task in so many is not a good one; 0 for none.
    bad: u64,
    /// Nanoseconds of most tasks. Some take ten times as long.
    time: u64,
    pub(super) bad_module: bool,
}

impl Truth {
    pub(super) fn draw(dice: &mut Dice, chaos: bool) -> Self {
        Self {
            salt: dice.next(),
            bad: if chaos { [0, 5, 30, 300][dice.below(4) as usize] } else { 0 },
            time: [MS / 20, MS, 20 * MS, 1_500 * MS][dice.below(4) as usize],
            bad_module: chaos && dice.once_in(15),
        }
    }

    /// All tasks succeed.
    pub(super) fn good(time: u64) -> Self {
        Self { salt: 0, bad: 0, time, bad_module: false }
    }

    fn dice(&self, task: u64) -> Dice {
        Dice(self.salt.wrapping_add(task.wrapping_mul(0x2545_f491_4f6c_dd1d)))
    }

    pub(super) fn time_of(&self, task: u64) -> u64 {
        let mut dice = self.dice(task);
        if dice.once_in(50) { self.time * 10 } else { self.time / 2 + dice.below(self.time) }
    }

    pub(super) fn end_of(&self, task: u64, attempt: u32) -> End {
        let mut dice = self.dice(!task);
        if self.bad == 0 || !dice.once_in(self.bad) {
            return End::Value;
        }
        match dice.below(12) {
            0..=3 if u64::from(attempt) > dice.below(3) => End::Value,
            0..=3 => End::Failure(FailureKind::ReturnedError),
            4 | 5 => End::Failure(FailureKind::Trap),
            6 | 7 => End::Failure(FailureKind::Timeout),
            8..=10 => End::KillsSlot,
            _ if dice.once_in(3) => End::KillsWorker,
            _ => End::Value,
        }
    }
}

/// One job's outcomes: `None` for a value.
#[derive(Debug)]
struct Known {
    spec: NewJob,
    truth: Truth,
    accepted: bool,
    cancelled: bool,
    ended: Option<JobState>,
    /// Outcomes that were asked to be stored.
    outcomes: BTreeMap<u64, Option<FailureKind>>,
    /// How many of these were told to be stored.
    told: u64,
    /// How often a slot died with the task, or a worker that the scheduler thought to hold it.
    crashes: BTreeMap<u64, u32>,
}

/// Everything that was asked to be stored, checked as it comes.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    jobs: BTreeMap<JobId, Known>,
    /// Facts of outcomes: what they said, until they are told to be stored.
    written: BTreeMap<(u64, FactSeq), (JobId, Vec<u64>)>,
}

impl Oracle {
    pub(super) fn submitted(&mut self, job: JobId, spec: &NewJob, truth: Truth) {
        let known = Known {
            spec: spec.clone(),
            truth,
            accepted: false,
            cancelled: false,
            ended: None,
            outcomes: BTreeMap::new(),
            told: 0,
            crashes: BTreeMap::new(),
        };
        assert!(self.jobs.insert(job, known).is_none(), "job {job} was there before");
    }

    pub(super) fn truth(&self, job: JobId) -> &Truth {
        &self.jobs[&job].truth
    }

    fn job(&mut self, job: JobId) -> &mut Known {
        self.jobs.get_mut(&job).expect("a job that was submitted")
    }

    pub(super) fn cancelled(&mut self, job: JobId) {
        self.job(job).cancelled = true;
    }

    pub(super) fn crashed(&mut self, job: JobId, task: u64) {
        *self.job(job).crashes.entry(task).or_default() += 1;
    }

    pub(super) fn accepted(&mut self, job: JobId) {
        let known = self.job(job);
        assert!(!known.accepted, "job {job} was accepted twice");
        known.accepted = true;
    }

    /// A fact is to be stored; outcomes are of the batch in hand.
    pub(super) fn written(&mut self, life: u64, seq: FactSeq, fact: &Fact, in_hand: Option<&Batch>) {
        let mut tasks = Vec::new();
        let job = fact.job();
        match fact {
            Fact::JobAccepted { .. } => return,
            Fact::JobEnded { .. } => {
                assert_eq!(self.job(job).ended, None, "job {job} ended twice");
                return;
            }
            Fact::Outcomes { accepted, failed, .. } => {
                let batch = in_hand.expect("outcomes are of a batch that was just handed in");
                let failures: BTreeMap<_, _> =
                    batch.failures.iter().map(|(offset, failure)| (u64::from(*offset), failure.kind)).collect();
                let mut found = Vec::new();
                for task in accepted.iter().cloned().flatten() {
                    let offset = task.checked_sub(batch.first).expect("a task of the batch");
                    assert!(offset < u64::from(batch.count), "task {task} is not in the batch");
                    let failure = failures.get(&offset).copied();
                    found.extend(failure.map(|_| task));
                    self.outcome(job, task, failure);
                    tasks.push(task);
                }
                assert!(failed.iter().cloned().flatten().eq(found), "failures of job {job}: {failed:?}");
            }
            Fact::TaskFailed { task, failure, .. } => {
                self.outcome(job, *task, Some(failure.kind));
                tasks.push(*task);
            }
        }
        self.written.insert((life, seq), (job, tasks));
    }

    fn outcome(&mut self, job: JobId, task: u64, failure: Option<FailureKind>) {
        let known = self.job(job);
        assert!(task < known.spec.tasks, "job {job} has no task {task}");
        assert_eq!(known.ended, None, "job {job} has ended, and goes on");
        assert!(known.outcomes.insert(task, failure).is_none(), "task {task} of job {job} has two outcomes");
        let crashes = known.crashes.get(&task).copied().unwrap_or(0);
        let ends: BTreeSet<_> = (0..16).map(|attempt| format!("{:?}", known.truth.end_of(task, attempt))).collect();
        let possible = match failure {
            None => ends.contains("Value"),
            Some(FailureKind::WorkerLost) => crashes >= 3,
            Some(kind) => ends.contains(&format!("{:?}", End::Failure(kind))),
        };
        assert!(
            possible,
            "task {task} of job {job} ended with {failure:?} after {crashes} crashes, not one of {ends:?}"
        );
    }

    /// The fact's outcomes were told to be stored.
    pub(super) fn stored(&mut self, life: u64, job: JobId, seq: FactSeq) {
        let (of, tasks) = self.written.remove(&(life, seq)).expect("outcomes that were written, told once");
        assert_eq!(of, job);
        let known = self.job(job);
        assert!(known.accepted && known.ended.is_none(), "outcomes of job {job} at the wrong time");
        known.told += tasks.len() as u64;
    }

    pub(super) fn ended(&mut self, job: JobId, state: JobState) {
        assert!(!self.written.values().any(|(of, _)| *of == job), "job {job} ended before its outcomes were told");
        let known = self.job(job);
        assert!(known.accepted, "job {job} ended before it was accepted");
        assert_eq!(known.ended.replace(state), None, "job {job} ended twice");
    }

    /// What was not stored never happened.
    pub(super) fn restarted(&mut self, next_job: JobId) {
        for (job, tasks) in std::mem::take(&mut self.written).into_values() {
            if let Some(known) = self.jobs.get_mut(&job) {
                known.outcomes.retain(|task, _| !tasks.contains(task));
            }
        }
        self.jobs.retain(|job, known| {
            let stays = *job < next_job;
            assert!(stays || !known.accepted, "job {job} was accepted and is lost");
            stays
        });
    }

    pub(super) fn is_done(&self) -> bool {
        self.written.is_empty()
    }

    pub(super) fn check(&self, core: &Core) {
        for (&job, known) in &self.jobs {
            let view = core.job(job).expect("an accepted job");
            assert!(view.state.is_final(), "job {job} has not ended");
            // A core that was made anew does not tell again how its jobs ended.
            assert!(known.ended.is_none_or(|state| state == view.state), "job {job} ended in two ways");
            let failed = known.outcomes.values().filter(|failure| failure.is_some()).count() as u64;
            assert_eq!(view.counts.failed, failed, "failures of job {job}");
            assert_eq!(view.counts.succeeded + failed, known.outcomes.len() as u64, "outcomes of job {job}");
            match view.state {
                JobState::Done => assert_eq!(known.outcomes.len() as u64, known.spec.tasks, "job {job} lost tasks"),
                JobState::Cancelled => assert!(known.cancelled, "nobody cancelled job {job}"),
                JobState::Failed => {
                    let too_many = known.spec.max_failures.is_some_and(|most| failed > most);
                    assert!(too_many || known.truth.bad_module, "job {job} failed for no reason: {:?}", view.reason);
                }
                state => panic!("job {job} is {state:?}"),
            }
        }
    }
}
