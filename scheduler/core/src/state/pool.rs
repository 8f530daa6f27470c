//! A cluster: its workers, and whose turn it is to use them.

use std::collections::BTreeSet;

use farm_proto::ids::WorkerId;

use crate::state::{Owners, Place};

/// What is shared by the workers and jobs of one cluster, and by no others.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    pub(crate) owners: Owners,
    /// Workers that could take a lease now, by how full they are: those with free slots first.
    pub(crate) hungry: BTreeSet<(u64, WorkerId)>,
    /// Workers that hold tasks which they have probably not started, by how long these take.
    pub(crate) queued: BTreeSet<(u64, WorkerId)>,
    /// Slots of workers that take leases.
    pub(crate) total_slots: u64,
    /// Those of them that have nothing to do.
    pub(crate) free_slots: u64,
}

impl Pool {
    /// Brings a worker into the indices.
    pub(crate) fn place(&mut self, id: WorkerId, place: Place) {
        self.total_slots += place.slots;
        self.free_slots += place.free;
        self.hungry.extend(place.hungry.map(|fullness| (fullness, id)));
        self.queued.extend(place.queued.map(|ns| (ns, id)));
    }

    /// Takes a worker out of the indices, where it is at `place`.
    pub(crate) fn displace(&mut self, id: WorkerId, place: Place) {
        self.total_slots -= place.slots;
        self.free_slots -= place.free;
        if let Some(fullness) = place.hungry {
            self.hungry.remove(&(fullness, id));
        }
        if let Some(ns) = place.queued {
            self.queued.remove(&(ns, id));
        }
    }
}
