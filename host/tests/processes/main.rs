//! The worker's processes, as processes.
//!
//! Slots, compilers and workers are programs, and need one that can be started. This test binary is that program: it
//! has a `main` of its own, which does what `farm` does when it is started as one of them, and runs the tests otherwise.
//! That is why it has its own harness (libtest-mimic: the same options and output as ever).

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test's panic is its report; clippy knows tests by the harness, which is not the usual one here"
)]

mod agent;
mod drain;
mod farm;
mod guests;
mod processes;
mod reconnect;
mod scheduler;
mod slots;

use std::ffi::OsString;
use std::process::ExitCode;

use farm_host::artefact::{COMPILE_COMMAND, compile_main};
use libtest_mimic::Trial;

/// What the first argument makes of this program, besides slot and compiler.
const WORKER: &str = "worker";

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match args.first().and_then(|first| first.to_str()) {
        Some("slot") => return farm_host::slot::main(),
        Some(COMPILE_COMMAND) => return compile_main(args.split_off(1)),
        Some(WORKER) => return farm::worker(&args[1..]),
        _ => {}
    }
    let mut tests = Vec::new();
    let mut add = |module: &str, list: &[(&str, fn())]| {
        tests.extend(list.iter().map(|(name, test)| {
            let test = *test;
            Trial::test(format!("{module}::{name}"), move || {
                test();
                Ok(())
            })
        }));
    };
    add("slots", slots::TESTS);
    add("agent", agent::TESTS);
    add("drain", drain::TESTS);
    add("reconnect", reconnect::TESTS);
    libtest_mimic::run(&libtest_mimic::Arguments::from_args(), tests).exit_code()
}

/// A list of the named functions of a module, with their names.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[(&str, fn())] = &[$((stringify!($name), $name)),*];
    };
}
pub(crate) use tests;
