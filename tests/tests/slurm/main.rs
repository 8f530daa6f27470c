//! Tests on real SLURM, and of the harness that makes a cluster for each of them.
//!
//! Where there is no SLURM, or we are not root, they say so and pass.

#![expect(clippy::expect_used, reason = "a test's panic is its report")]

mod adapt;
mod apart;
mod bad_nodes;
mod failures;
mod gateway;
mod harness;
mod hidden;
mod network;
mod site;
mod work;
