//! Tests on real SLURM, and of the harness that makes a cluster for each of them.
//!
//! Where there is no SLURM, or we are not root, they say so and pass.

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
