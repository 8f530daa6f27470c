//! What the core keeps of each job, worker and owner.
#[derive(Debug)]
pub(crate) struct Job;
#[derive(Debug)]
pub(crate) struct Worker;
#[derive(Debug, Default)]
pub(crate) struct Owners;
