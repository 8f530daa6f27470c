use crate::core::Core;
use crate::*;
use farm_proto::ids::*; use farm_proto::message::Batch; use farm_proto::outcome::Failure;
impl Core {
    /// Drops what is left of an ended job. Its id stays taken. Returns whether there was one, and it had ended.
    pub fn forget(&mut self, job: JobId) -> bool { todo!() }
    /// Checks that the state makes sense; for tests and fuzzers.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn check_invariants(&self) { todo!() }
    pub(super) fn job_submitted(&mut self, job: JobId, spec: NewJob) -> Result<(), Refused> { todo!() }
    pub(super) fn job_cancelled(&mut self, job: JobId) -> Result<(), Refused> { todo!() }
    pub(super) fn job_failed_on(&mut self, w: WorkerId, job: JobId, f: &Failure) -> Result<(), Refused> { todo!() }
    pub(super) fn facts_persisted(&mut self, seq: FactSeq) -> Result<(), Refused> { todo!() }
    pub(super) fn worker_joined(&mut self, w: WorkerId, slots: u32) -> Result<(), Refused> { todo!() }
    pub(super) fn worker_draining(&mut self, w: WorkerId) -> Result<(), Refused> { todo!() }
    pub(super) fn worker_left(&mut self, w: WorkerId, how: Departure) -> Result<(), Refused> { todo!() }
    pub(super) fn batch_arrived(&mut self, w: WorkerId, l: LeaseId, b: &Batch) -> Result<(), Refused> { todo!() }
    pub(super) fn task_lost(&mut self, w: WorkerId, l: LeaseId, task: u64) -> Result<(), Refused> { todo!() }
    pub(super) fn tasks_returned(&mut self, w: WorkerId, l: LeaseId, first: u64, count: u32) -> Result<(), Refused> { todo!() }
    pub(super) fn release_retries(&mut self) { todo!() }
    pub(super) fn dispatch(&mut self) { todo!() }
    pub(super) fn shorten_tail(&mut self) { todo!() }
}
