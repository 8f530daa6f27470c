//! How the scheduler comes and goes.

use std::collections::BTreeMap;
use std::time::Duration;

use farm_core::{Config, Core, Event, FactSeq};
use farm_proto::ids::{JobId, LeaseId};

use super::Shell;
use crate::model::Model;
use crate::stats::Kind;
use crate::world::{Action, World, note};

impl World {
    /// The scheduler starts, from what is on its disk.
    pub(crate) fn start(&mut self) {
        self.life += 1;
        let in_full = self.dice.once_in(3);
        self.count(if in_full { Kind::ReplayedInFull } else { Kind::ReplayedWithout });
        let facts = self.disk.facts(&mut self.dice, in_full);
        note!(self, "the scheduler starts with {} facts, life {}", facts.len(), self.life);
        let core = Core::replay(self.config(), facts).expect("facts of a core");
        self.shell = Some(Shell {
            core,
            model: Model::from_disk(&self.disk, self.config().first_lease),
            born: self.now,
            queue: Vec::new(),
            committing: None,
            persisted: FactSeq::default(),
            conns: BTreeMap::new(),
            next_worker: 1,
            acks: BTreeMap::new(),
            by_key: self.disk.keys.clone(),
            watches: BTreeMap::new(),
            deadline: None,
            doom: None,
            last_commit: None,
        });
        for job in self.disk.jobs.keys().copied().collect::<Vec<_>>() {
            self.check_ended(job);
        }
        self.drain();
        if self.shell.as_ref().is_some_and(|shell| shell.committing.is_some()) {
            self.count(Kind::ReplayEnded);
        }
    }

    pub(crate) fn config(&self) -> Config {
        let first_job = JobId(self.disk.next_job.max(1));
        Config { first_lease: LeaseId(self.life << 40), first_job, ..Config::default() }
    }

    /// The scheduler is gone at once. What was not on disk is lost; what was on its way to workers may be.
    pub(crate) fn scheduler_dies(&mut self) {
        let broken = self.dice.once_in(2);
        self.end_life(broken);
    }

    /// The scheduler stops in good order: it writes what is to be written, says what depends on it, and tells everyone
    /// that it will be back.
    pub(crate) fn scheduler_stops(&mut self) {
        while let Some(shell) = &mut self.shell {
            let Some(ops) = shell.committing.take() else { break };
            if let Some(seq) = self.apply(ops) {
                self.shell().persisted = seq;
                self.tell(Event::Persisted { seq });
            }
            self.start_commit();
        }
        if self.shell.is_some() {
            self.count(Kind::Stopped);
            self.end_life(false);
        }
    }

    fn end_life(&mut self, broken: bool) {
        note!(self, "the scheduler is gone");
        let Some(shell) = self.shell.take() else { return };
        if !(shell.queue.is_empty() && shell.committing.is_none()) {
            self.count(Kind::FactsLost);
        }
        let life = self.life;
        let open: Vec<_> = self.conns.iter().filter(|(_, conn)| conn.life == life).map(|(&id, _)| id).collect();
        for id in open {
            self.scheduler_closes(id);
            if broken && let Some(conn) = self.conns.get_mut(&id) {
                conn.broken = true;
            }
        }
        // A job that was not stored never was.
        let disk = &self.disk;
        let submissions = &self.submissions;
        self.known.retain(|job, known| {
            let stored = disk.jobs.contains_key(job);
            let deleted = submissions.get(&known.key).is_some_and(|submission| submission.delete_stored);
            assert!(stored || deleted || !known.accepted, "job {job} was accepted, and is lost");
            stored || deleted
        });
        let pause = self.dice.pick(&[10, 300, 3_000]);
        let pause = self.dice.within(pause);
        self.after(pause + Duration::from_millis(1), Action::Start);
    }

    /// A job that has ended on disk is as it was when that was first told, and that had a reason.
    pub(crate) fn check_ended(&mut self, job: JobId) {
        let Some(shell) = &self.shell else { return };
        let Some(state) = self.disk.jobs[&job].ended else { return };
        let view = shell.core.job(job).unwrap_or_else(|| panic!("the core does not know job {job}"));
        assert_eq!(view.state, state, "how job {job} ended");
        let end = (view.state, view.counts, view.retried, view.reason);
        let known = self.known.get_mut(&job).expect("a job that is stored");
        match &known.ended {
            Some(ended) => assert_eq!(*ended, end, "how job {job} ended, then and now"),
            None => known.ended = Some(end),
        }
        self.check_reason(job, state);
    }
}
