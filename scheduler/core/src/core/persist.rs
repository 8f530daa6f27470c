//! Facts: asking for them to be stored, and what is released once they are.

use std::ops::Range;

use farm_proto::ids::JobId;

use crate::command::{Command, Fact, FactSeq};
use crate::core::Core;
use crate::event::Refused;
use crate::state::Phase;

/// What happens when a fact is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deferred {
    /// The job may begin.
    Open(JobId),
    /// Outcomes may be told; and what they are, if a job needs them.
    Stored(JobId, Option<Box<Landed>>),
    /// The job is over.
    Close(JobId),
}

/// Tasks whose outcomes are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Landed {
    /// All of them, ascending.
    pub(super) tasks: Vec<Range<u64>>,
    /// The failures among them, ascending.
    pub(super) failed: Vec<Range<u64>>,
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
        while let Some((fact, deferred)) = self.deferred.pop_front_if(|(fact, _)| *fact <= self.persisted) {
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
                    self.begin(id);
                }
            }
            Deferred::Stored(job, landed) => {
                self.commands.push_back(Command::OutcomesStored { job, seq });
                if let Some(landed) = landed {
                    self.results_landed(job, &landed);
                }
            }
            Deferred::Close(job) => self.close_job(job),
        }
    }
}
