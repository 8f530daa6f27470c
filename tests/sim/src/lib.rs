//! A seeded farm in virtual time: the scheduler's real core among simulated workers, clients, a network and a disk, and
//! everything that can go wrong between them.
//!
//! One number, the seed, decides everything that happens in a [`run`]: how many workers and clients there are, what they
//! do, how long each message takes, when connections break, when processes die, freeze and come back, and at which
//! moment the scheduler goes down. The same seed always gives the same world, so that whatever goes wrong can be
//! looked at again.
//!
//! After each step the core's own invariants are checked, and what it says is compared with a plain model that has one
//! entry a task. Whatever is told to anyone has to be on the simulated disk at that moment. At the end, every task of
//! every accepted job has exactly one stored outcome, and one that it can have; every client has got every batch once;
//! workers have forgotten every job; and replaying the disk gives the same core.
//!
//! A world that falls apart panics, as a test does.

#![expect(clippy::expect_used, reason = "the panic is the report: what is expected here is what is being tested")]

#[cfg(test)]
mod calm;
mod client;
mod dice;
mod disk;
mod ends;
mod mishap;
mod model;
mod network;
mod profile;
mod shell;
mod stats;
mod truth;
mod why;
mod worker;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use crate::stats::Stats;
use crate::world::World;

/// What became of a world.
#[derive(Debug)]
pub struct Report {
    pub stats: Stats,
    /// What happened, line by line, if it was asked for.
    pub trace: Vec<String>,
    /// What went wrong.
    pub failure: Option<String>,
}

/// Lets the world of this seed happen.
pub fn run(seed: u64, traced: bool) -> Report {
    let mut world = World::new(seed, traced);
    let failure = catch_unwind(AssertUnwindSafe(|| world.run())).err().map(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
    });
    Report { stats: world.stats, trace: world.take_trace(), failure }
}

/// Seeds that failed once, from `seeds.txt`: one a line, then what it found.
pub fn regressions() -> Vec<u64> {
    let lines = include_str!("../seeds.txt").lines();
    let seeds = lines.filter_map(|line| line.split_whitespace().next()?.parse().ok());
    seeds.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_world() {
        for seed in 0..40 {
            let (one, other) = (run(seed, true), run(seed, true));
            assert!(one.failure.is_none(), "seed {seed}: {:?}", one.failure);
            assert!(one.trace.len() > 20, "seed {seed}: nothing happened");
            assert_eq!(one.trace, other.trace, "seed {seed}");
            assert_eq!(one.stats, other.stats, "seed {seed}");
            // Looking on changes nothing.
            assert_eq!(one.stats, run(seed, false).stats, "seed {seed}");
        }
    }

    #[test]
    fn seeds_that_failed_once_do_not_fail() {
        for seed in regressions() {
            assert_eq!(run(seed, false).failure, None, "again: cargo xtask sim --seed {seed} --trace");
        }
    }

    #[test]
    fn worlds_differ() {
        let traces: std::collections::BTreeSet<_> = (0..20).map(|seed| run(seed, true).trace).collect();
        assert_eq!(traces.len(), 20);
    }
}
