//! Schedulers, clients and workers over real connections, in one process.
//!
//! Every test has a scheduler, a state folder and a time limit of its own. `FARM_LOG=info` shows what schedulers say.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test's panic is its report")]

mod blobs;
mod checkpoint;
mod durable;
mod hostile;
mod jobs;
mod lifecycle;
mod quota;
mod revocation;
mod support;
mod tickets;
mod workers;
