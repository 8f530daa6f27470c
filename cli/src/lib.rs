//! The client of a farm, as a library: what the `farm` binary is made of.
//!
//! * [`client::Client`] speaks to a scheduler: submit, watch, cancel, status.
//! * [`args`] and [`blobs`] read what a job needs, [`results`] writes what it gives.
//! * [`modules`] turns what a user has into what a farm runs; [`guest`] makes and builds function crates.
//! * [`launch`] starts farms on this machine.
//! * [`exit_codes`] is what scripts may count on.

pub mod args;
pub mod blobs;
pub mod client;
pub mod exit_codes;
pub mod guest;
pub mod home;
pub mod launch;
pub mod modules;
pub mod results;
