//! What survives the scheduler: facts, and the rows that they are about.

use std::collections::BTreeMap;
use std::time::Duration;

use farm_core::{Fact, FactSeq, NewJob, RangeSet};
use farm_proto::ids::JobId;
use farm_proto::job::JobState;

use crate::dice::Dice;
use crate::truth::Ending;

/// The name of a submission, drawn by its client.
pub(crate) type Key = u64;

/// A change of the disk. Those of one commit are there together or not at all.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// `rows` are the outcomes that it is about, `key` names the submission of a new job.
    Fact {
        seq: FactSeq,
        fact: Fact,
        rows: Vec<(u64, Ending)>,
        key: Option<Key>,
    },
    Delete {
        job: JobId,
        asked_by: Key,
    },
}

#[derive(Debug)]
pub(crate) struct StoredJob {
    pub(crate) key: Key,
    pub(crate) spec: NewJob,
    /// What watchers are given, numbered from 0.
    pub(crate) batches: Vec<Vec<(u64, Ending)>>,
    pub(crate) outcomes: BTreeMap<u64, Ending>,
    pub(crate) ended: Option<JobState>,
}

#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// In the order of commits, without those of deleted jobs.
    log: Vec<Fact>,
    pub(crate) jobs: BTreeMap<JobId, StoredJob>,
    pub(crate) keys: BTreeMap<Key, JobId>,
    /// The first job id that was never stored, whatever has been deleted since.
    pub(crate) next_job: u64,
}

impl Disk {
    pub(crate) fn apply(&mut self, op: Op) {
        match op {
            Op::Fact { fact, rows, key, .. } => self.store(fact, rows, key),
            Op::Delete { job, .. } => {
                if let Some(stored) = self.jobs.remove(&job) {
                    self.keys.remove(&stored.key);
                }
                self.log.retain(|fact| fact.job() != job);
            }
        }
    }

    fn store(&mut self, fact: Fact, rows: Vec<(u64, Ending)>, key: Option<Key>) {
        let job = fact.job();
        match &fact {
            Fact::JobAccepted { spec, .. } => {
                let key = key.expect("the submission of a new job");
                self.next_job = self.next_job.max(job.0 + 1);
                self.keys.insert(key, job);
                let stored =
                    StoredJob { key, spec: spec.clone(), batches: Vec::new(), outcomes: BTreeMap::new(), ended: None };
                assert!(self.jobs.insert(job, stored).is_none(), "job {job} is stored twice");
            }
            Fact::Outcomes { .. } | Fact::TaskFailed { .. } => {
                let stored = self.jobs.get_mut(&job).expect("a job whose acceptance came before");
                assert_eq!(stored.ended, None, "job {job} has ended, and goes on");
                for &(task, ending) in &rows {
                    let before = stored.outcomes.insert(task, ending);
                    assert_eq!(before, None, "task {task} of job {job} has two outcomes");
                }
                stored.batches.push(rows);
            }
            Fact::JobEnded { state, .. } => {
                let stored = self.jobs.get_mut(&job).expect("a job whose acceptance came before");
                assert_eq!(stored.ended.replace(*state), None, "job {job} ended twice");
            }
        }
        self.log.push(fact);
    }

    /// What a new life is told: everything, or without some of the outcomes of jobs that have ended. Either in the order
    /// in which it was stored, or job by job.
    pub(crate) fn facts(&self, dice: &mut Dice, in_full: bool) -> Vec<Fact> {
        let mut dropped = BTreeMap::new();
        for (&job, stored) in &self.jobs {
            dropped.insert(job, !in_full && stored.ended.is_some() && !dice.once_in(4));
        }
        let is_outcome = |fact: &Fact| matches!(fact, Fact::Outcomes { .. } | Fact::TaskFailed { .. });
        let kept = self.log.iter().filter(|fact| !(is_outcome(fact) && dropped[&fact.job()]));
        let mut facts: Vec<_> = kept.cloned().collect();
        if dice.once_in(2) {
            facts.sort_by_key(Fact::job);
        }
        if dice.once_in(2) {
            facts = self.joined(facts);
        }
        facts
    }

    /// The same with all outcomes of a job that goes on in one fact, where the last of them was.
    fn joined(&self, facts: Vec<Fact>) -> Vec<Fact> {
        let mut last = BTreeMap::new();
        let is_outcome = |fact: &Fact| matches!(fact, Fact::Outcomes { .. } | Fact::TaskFailed { .. });
        for (at, fact) in facts.iter().enumerate().filter(|(_, fact)| is_outcome(fact)) {
            last.insert(fact.job(), at);
        }
        let mut joined = Vec::new();
        for (at, fact) in facts.into_iter().enumerate() {
            let job = fact.job();
            let stored = &self.jobs[&job];
            if !is_outcome(&fact) || stored.ended.is_some() {
                joined.push(fact);
            } else if last.get(&job) == Some(&at) {
                let all: RangeSet = stored.outcomes.keys().map(|&task| task..task + 1).collect();
                let failures = stored.outcomes.iter().filter(|(_, ending)| ending.is_some());
                let failed: RangeSet = failures.map(|(&task, _)| task..task + 1).collect();
                let (accepted, failed) = (all.iter().collect(), failed.iter().collect());
                joined.push(Fact::Outcomes { job, accepted, failed, leased: Duration::ZERO });
            }
        }
        joined
    }
}
