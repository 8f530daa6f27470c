//! The client of a farm, as a library: what the `farm` binary is made of.
//!
//! * [`futures`] is for programs: call a function for many arguments, gather what it gives. It begins with
//!   [`Client::function`](client::Client::function).
//! * [`client::Client`] speaks to a scheduler: submit, watch, cancel, status. It survives the scheduler's death.
//! * [`job`] and [`reduction`] are what is submitted.
//! * [`args`] and [`blobs`] read what a job needs, [`results`] and [`outputs`] write what it gives.
//! * [`modules`] turns what a user has into what a farm runs; [`guest`] makes and builds function crates.
//! * [`launch`] starts farms on this machine.
//! * [`exit_codes`] is what scripts may count on.

pub mod args;
pub mod blobs;
pub mod client;
pub mod contexts;
pub mod exit_codes;
pub mod futures;
pub mod guest;
pub mod home;
pub mod job;
pub mod launch;
pub mod modules;
pub mod outputs;
pub mod reduction;
pub mod results;
