//! The scheduler of a farm as a pure state machine.
//!
//! [`Core`] decides which worker runs which tasks of which job, and what is to become of tasks whose worker, slot or
//! function failed. It does nothing else: bytes, sockets, files, clocks and chance are the business of the shell around
//! it, which tells the core what happened ([`Event`]) and does what the core asks for ([`Command`]). The same events at
//! the same times always give the same commands, so that a run can be simulated, replayed and fuzzed.
//!
//! # Goals
//!
//! * A task costs nanoseconds and, while it waits, no memory: tasks are kept as ranges ([`RangeSet`]), and only what is
//!   exceptional about a task (a second attempt, a crash) is written down, again by range.
//! * A lone task leaves at once; a million tasks leave in leases of about a tenth of a second.
//! * Nothing is promised before it is stored: a command that tells anyone of a fact is released only when the driver
//!   has said that the [`Fact`] is on disk.
//! * From state alone the core can say what a task waits for ([`Core::why`]).
//! * A connection, or a life of the scheduler, costs no work: a worker that comes back says which leases it holds, and
//!   goes on with them.
//! * A task of a job that needs another's results is leased as soon as its own are stored; what is stored costs those
//!   that wait for it by the range, not by the task.
//!
//! # Non-goals
//!
//! * **Exactly one run.** A task may run more than once; its outcome is stored once.
//! * **Durable leases, attempt numbers and crash counts.** They are not facts. After a restart, tasks without a stored
//!   outcome wait again, with all of their attempts before them, and the workers say what they hold
//!   ([`Event::WorkerJoined`]): whatever of that is still waiting becomes theirs again.
//! * **Graphs of any shape.** A job needs earlier jobs only, so that there are no cycles, and takes results in order:
//!   one by one, or in groups of the same size.
//! * **Knowing what a job is.** Modules, arguments and results are the shell's; the core knows numbers of tasks.
//! * **Heartbeats.** The transport notices that a worker is gone, and the shell reports it.

mod command;
mod config;
mod core;
mod event;
mod range_set;
mod state;
mod tally;
mod time;
mod view;

pub use crate::command::{Command, Fact, FactSeq};
pub use crate::config::Config;
pub use crate::core::{Core, ReplayError};
pub use crate::event::{Departure, Event, NewJob, Refused, TaskInput};
pub use crate::range_set::RangeSet;
pub use crate::time::Time;
pub use crate::view::{JobView, Waiting, WaitingGroup, WorkerView};
