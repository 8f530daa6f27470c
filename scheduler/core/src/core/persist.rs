//! Facts: asking for them to be stored, and what is released once they are.

use farm_proto::ids::JobId;

use crate::command::{Command, Fact, FactSeq};
use crate::core::Core;
use crate::event::Refused;
use crate::state::Phase;

/// What happens when a fact is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deferred {
    /// The job may begin.
    Open(JobId),
    /// Outcomes may be told.
    Stored(JobId),
    /// The job is over.
    Close(JobId),
}

impl Core {
    /// Asks for a fact to be stored.
    pub(super) fn persist(&mut self, fact: Fact) {
        self.last_fact.0 += 1;
        self.commands.push_back(Command::Persist { seq: self.last_fact, fact });
    }

    /// Does this once everything that has been asked to be stored is.
    pub(super) fn once_stored(&mut self, deferred: Deferred) {
        if self.last_fact <= self.persisted {
            self.release(self.last_fact, deferred);
        } else {
            self.deferred.push_back((self.last_fact, deferred));
        }
    }

    pub(super) fn facts_persisted(&mut self, seq: FactSeq) -> Result<(), Refused> {
        if seq > self.last_fact {
            return Err(Refused::NoSuchFact(seq));
        }
        self.persisted = self.persisted.max(seq);
        while let Some(&(fact, deferred)) = self.deferred.front()
            && fact <= self.persisted
        {
            self.deferred.pop_front();
            self.release(fact, deferred);
        }
        Ok(())
    }

    fn release(&mut self, seq: FactSeq, deferred: Deferred) {
        match deferred {
            Deferred::Open(id) => {
                self.commands.push_back(Command::JobAccepted { job: id });
                // It may have been cancelled in the meantime.
                if let Some(job) = self.jobs.get_mut(&id)
                    && job.phase == Phase::Storing
                {
                    job.phase = Phase::Live;
                    self.sync_runnable(id);
                    self.settle(id);
                }
            }
            Deferred::Stored(job) => self.commands.push_back(Command::OutcomesStored { job, seq }),
            Deferred::Close(job) => self.close_job(job),
        }
    }
}
