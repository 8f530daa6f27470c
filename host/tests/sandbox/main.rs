//! The sandbox from the outside: modules in, outcomes out. One program, because linking an engine takes its time.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test's panic is its report")]

mod argument;
mod artefact;
mod checkpoint;
mod command;
mod component;
mod core;
mod handler;
mod hostile;
mod module;
mod sdk;
mod support;
