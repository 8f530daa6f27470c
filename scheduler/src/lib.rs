//! The scheduler of a farm: the shell around [`farm_core`].
//!
//! The core decides; this crate listens, stores and sends. One process, one thread, one [`Scheduler`]:
//!
//! ```text
//!   peers ⇄ QUIC ⇄ serve (a task a stream) ⇄ farm (the core's one owner) ⇄ core
//!                    │                          │
//!                    ├ identity: who is who     └ store: jobs and what came out of them
//!                    └ blobs: modules, arguments and inputs, files by digest
//! ```
//!
//! ```no_run
//! # async fn example() -> Result<(), farm_scheduler::SchedulerError> {
//! use farm_scheduler::{Options, Scheduler};
//!
//! let mut scheduler = Scheduler::start(Options::new("/var/lib/farm")).await?;
//! let handle = scheduler.handle();
//! println!("{}", scheduler.admin_ticket("farm.example.org")?);
//! scheduler.run().await?; // until someone calls handle.shutdown()
//! # drop(handle); Ok(()) }
//! ```
//!
//! # What is promised
//!
//! * What was acknowledged is on disk: a job that was accepted, an outcome that was told, a cancellation, a deletion. A
//!   scheduler that is killed comes back with all of it ([`Durability`] says what can be traded for speed).
//! * A task's first stored outcome stands; a client that follows a job gets each outcome once, across restarts.
//! * A job is accepted, and a blob is stored, as a whole or not at all; what a full disk refuses is said to be refused.
//! * A peer can waste its own connection and nothing else: frames, streams, handshakes and connections are bounded, and
//!   whoever breaks the protocol is closed with a [number](farm_proto::close).
//!
//! # Non-goals
//!
//! A task may run more than once. A disk that loses what it said it had synced is noticed, not survived.

pub mod admin;
mod blobs;
mod clock;
mod cluster;
pub mod config;
mod error;
mod farm;
mod http;
mod identity;
mod job;
mod memory;
mod options;
mod scheduler;
mod serve;
mod state_dir;
mod store;
mod sync;

pub use crate::cluster::provider::{LocalConfig, SlurmConfig, SpecRefused};
pub use crate::error::{SchedulerError, TicketRefused};
pub use crate::options::{Durability, Options};
pub use crate::scheduler::{Handle, Scheduler};
