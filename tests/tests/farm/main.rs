//! Tests of farm that cross its crates, on real processes.
//!
//! Each test has a world of its own, so that all of them run side by side.

#![expect(clippy::expect_used, reason = "a test's panic is its report")]

mod admin;
mod arguments;
mod bad_modules;
mod bench;
mod cancel;
mod checkpoint;
mod cluster;
mod command_line;
mod config;
mod crash;
mod crates;
mod disk;
mod drain;
mod durable;
mod failures;
mod futures;
mod graph;
mod harness;
mod hostile;
mod inputs;
mod inspect;
mod jobs;
mod large;
mod limits;
mod login;
mod loss;
mod network;
mod options;
mod outputs;
mod program;
mod progress;
mod retention;
mod retry;
mod rubbish;
mod run;
mod sdk;
mod secrets;
mod silence;
mod standing;
mod submit;
mod support;
mod tickets;
mod versions;
mod wat;
mod why;
