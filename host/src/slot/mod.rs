//! Slots: the processes in which tasks run, one task at a time in each.
//!
//! A slot is a process so that ending one stops a guest, whatever it does, and so that two of them do not fight over
//! one address space (two threads instantiate fewer guests than one; two processes twice as many).
//!
//! ```text
//!   agent's thread                                     slot process
//!   driver ── commands: frames on a Unix socket ────►  opens sandboxes, runs chunks of tasks
//!          ◄─ bell: one byte on that socket ─────────  when something has been in the ring for a while
//!          ◄─ ring: outcomes in shared memory ───────  each as it is made
//!          ── span: how far it may go, ditto ───────►
//! ```
//!
//! * Outcomes go through **shared memory** ([`ring`](self)), one by one. A slot that is killed loses the task that it
//!   was running and nothing else.
//! * A task costs the slot two clock reads, a compare-and-swap and a copy: no system call, no allocation.
//! * The agent trusts nothing that it finds there: a guest may have got out of its sandbox.
//! * When the agent is gone, so are its slots: the socket's end ends them, in whatever they are.
//!
//! [`main`] is the life of a slot process. [`run_locally`] runs tasks in slots without a scheduler; the agent does so
//! with one.

mod batch;
mod carried;
mod child;
mod command;
mod driver;
mod fold;
mod local;
mod outputs;
mod pace;
mod process;
mod ring;
#[cfg(test)]
mod ring_tests;
mod shared;
mod span;

pub use child::SlotCommand;
pub use command::{JobFolders, JobSetup};
pub use local::{Arguments, LocalError, LocalOptions, LocalOutcome, run_locally};
pub use outputs::{KeptFolder, KeptFolders, OutputSetup};
pub use process::main;

pub(crate) use child::Chunk;
pub(crate) use driver::{Driver, Event, Order};
pub(crate) use pace::{Pace, fit};
