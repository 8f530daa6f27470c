//! How the parts of a farm reach each other.
//!
//! farm-proto says what is said; this crate carries it over QUIC for clients, workers and schedulers alike:
//!
//! * [`transport`]: the settings of quinn and of the socket, each with its reason,
//! * [`stream`]: frames on QUIC streams,
//! * [`upload`]: a blob on its way to the scheduler,
//! * [`dial`]: from a ticket to a connection, enrolling on the way,
//! * [`identity`]: the certificate and key that enrolment gives, in memory and on disk,
//! * [`certificates`]: how long those last that users hand over,
//! * [`failpoint`]: where tests make a process die.
//!
//! It is a crate of its own because farm-proto does no I/O and the worker never pulls in the scheduler.

pub mod certificates;
pub mod dial;
#[cfg(test)]
mod dial_tests;
mod error;
#[doc(hidden)]
pub mod failpoint;
pub mod identity;
mod reset;
pub mod stream;
pub mod transport;
pub mod upload;

pub use error::LinkError;
