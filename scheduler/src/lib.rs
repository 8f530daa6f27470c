//! The scheduler of a farm: the shell around [`farm_core`].
//!
//! The core decides; this crate listens, stores and sends. One process, one thread, one [`Scheduler`]:
//!
//! ```text
//!   peers ⇄ QUIC ⇄ serve (a task a stream) ⇄ farm (the core's one owner) ⇄ core
//!                    │                          │
//!                    ├ identity: who is who     └ results: what came out, by job
//!                    └ blobs: modules, arguments and inputs, files by digest
//! ```
//!
//! ```no_run
//! # async fn example() -> Result<(), farm_scheduler::SchedulerError> {
//! use farm_scheduler::{Options, Scheduler};
//!
//! let scheduler = Scheduler::start(Options::new("/var/lib/farm")).await?;
//! let handle = scheduler.handle();
//! println!("{}", scheduler.admin_ticket("farm.example.org")?);
//! scheduler.run().await?; // until someone calls handle.shutdown()
//! # drop(handle); Ok(()) }
//! ```
//!
//! # What is promised
//!
//! * What is sent to a client as a job's result has been stored before, and can be had again.
//! * A job is accepted, and a blob is stored, as a whole or not at all; what a full disk refuses is said to be refused.
//! * A peer can waste its own connection and nothing else: frames, streams, handshakes and connections are bounded, and
//!   whoever breaks the protocol is closed with a [number](farm_proto::close).
//!
//! # Non-goals, for now
//!
//! Surviving a restart: blobs and identities do, jobs do not.

mod blobs;
mod error;
mod farm;
mod identity;
mod job;
mod memory;
mod options;
mod results;
mod scheduler;
mod serve;
mod state_dir;
mod sync;

pub use crate::error::{SchedulerError, TicketRefused};
pub use crate::options::Options;
pub use crate::scheduler::{Handle, Scheduler};
