//! Users, and how they share the farm.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use farm_proto::ids::JobId;

use crate::state::job::rank;

/// A user, in the order in which they first came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OwnerId(u32);

#[derive(Debug)]
struct Owner {
    name: String,
    /// Time of slots that this owner has used, in nanoseconds, by estimate for what is leased and by measure for what
    /// is answered; raised to the clock when it comes back after a pause.
    used: u64,
    /// Its jobs that a lease can be made of, the next one first.
    jobs: BTreeSet<(Reverse<i32>, JobId)>,
}

/// All owners, and whose turn it is: always the one who has used least.
///
/// An owner that wants nothing saves nothing up: `clock` is what the owner served last had used before, and whoever
/// comes back starts from there at least. So a newcomer is served next, and does not shut others out for what they used
/// before it came.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    ids: BTreeMap<String, OwnerId>,
    owners: Vec<Owner>,
    /// Owners with jobs that a lease can be made of, by what they have used.
    active: BTreeSet<(u64, OwnerId)>,
    clock: u64,
}

impl Owners {
    /// The owner of that name.
    pub(crate) fn id(&mut self, name: &str) -> OwnerId {
        if let Some(&id) = self.ids.get(name) {
            return id;
        }
        // More owners than a `u32` counts do not fit into memory.
        let id = OwnerId(self.owners.len() as u32);
        self.owners.push(Owner { name: name.to_owned(), used: 0, jobs: BTreeSet::new() });
        self.ids.insert(name.to_owned(), id);
        id
    }

    pub(crate) fn name(&self, owner: OwnerId) -> &str {
        &self.owners[owner.0 as usize].name
    }

    /// Whether there is any job that a lease can be made of.
    pub(crate) fn any_work(&self) -> bool {
        !self.active.is_empty()
    }

    /// Jobs that a lease can be made of, in the order in which they should be served.
    pub(crate) fn turns(&self) -> impl Iterator<Item = JobId> {
        self.active.iter().flat_map(|&(_, owner)| self.owners[owner.0 as usize].jobs.iter()).map(|&(_, job)| job)
    }

    /// How many jobs of its owner come before this one.
    pub(crate) fn jobs_before(&self, owner: OwnerId, priority: i32, job: JobId) -> u64 {
        self.owners[owner.0 as usize].jobs.range(..rank(priority, job)).count() as u64
    }

    /// Says that a lease can be made of the job.
    pub(crate) fn add(&mut self, owner: OwnerId, priority: i32, job: JobId) {
        let entry = &mut self.owners[owner.0 as usize];
        if entry.jobs.is_empty() {
            entry.used = entry.used.max(self.clock);
            self.active.insert((entry.used, owner));
        }
        entry.jobs.insert(rank(priority, job));
    }

    /// Says that no lease can be made of the job.
    pub(crate) fn remove(&mut self, owner: OwnerId, priority: i32, job: JobId) {
        let entry = &mut self.owners[owner.0 as usize];
        entry.jobs.remove(&rank(priority, job));
        if entry.jobs.is_empty() {
            self.active.remove(&(entry.used, owner));
        }
    }

    /// Charges an owner for a lease that it was just given.
    pub(crate) fn serve(&mut self, owner: OwnerId, ns: u64) {
        self.clock = self.clock.max(self.owners[owner.0 as usize].used);
        self.correct(owner, 0, ns);
    }

    /// Takes back a charge by estimate, and makes one by measure.
    pub(crate) fn correct(&mut self, owner: OwnerId, estimated: u64, measured: u64) {
        let entry = &mut self.owners[owner.0 as usize];
        let before = entry.used;
        entry.used = before.saturating_sub(estimated).saturating_add(measured);
        if !entry.jobs.is_empty() {
            self.active.remove(&(before, owner));
            self.active.insert((entry.used, owner));
        }
    }

    /// Panics if the active owners are not those with jobs.
    pub(crate) fn check_invariants(&self) {
        for (index, owner) in self.owners.iter().enumerate() {
            let id = OwnerId(index as u32);
            let is_active = self.active.contains(&(owner.used, id));
            assert_eq!(
                is_active,
                !owner.jobs.is_empty(),
                "owner {:?} is active without work or the reverse",
                owner.name
            );
        }
        let with_jobs = self.owners.iter().filter(|owner| !owner.jobs.is_empty()).count();
        assert_eq!(self.active.len(), with_jobs, "an owner is active twice");
    }

    /// Whether a lease can be made of the job, as far as its owner knows.
    pub(crate) fn has(&self, owner: OwnerId, priority: i32, job: JobId) -> bool {
        self.owners[owner.0 as usize].jobs.contains(&rank(priority, job))
    }

    /// How many jobs a lease can be made of.
    pub(crate) fn runnable(&self) -> usize {
        self.owners.iter().map(|owner| owner.jobs.len()).sum()
    }
}
