//! Set-up, demo and checks of this repository: `cargo xtask NAME`.
//!
//! Every task does all of its own set-up and says on stderr what it is doing. What CI runs is one of these tasks, so
//! that it can be had locally with the same command.

mod demo;
mod fuzz;
mod guests;
mod packages;
mod process;
mod pure_core;
mod sim;
mod test;
mod toolchain;
mod wasm;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::toolchain::Source;
use crate::workspace::Workspace;

const USAGE: &str = "\
Usage: cargo xtask TASK

Tasks:
  demo [--only NAME]    the examples on a local farm: squares, pi, wordcount, mandelbrot, zmumu
  test [--only STEP]    every check: fmt, clippy, doc, core, sim, build, test
  sim [--seeds N] [--seed S] [--trace]
                        a simulated farm around the real core: N seeds after those that failed once
                        (2000), from S on; or only S, step by step
  fuzz [TARGET] [--seconds N]
                        what any bytes may do: frames, ticket, core_operations, store_recovery; 60 seconds
                        each, with cargo-fuzz and a nightly compiler if they are there
  guests [--from WHERE] the example modules as target/guests/NAME.wasm; the compiler for them comes
                        from `rustup` or from Debian's packages (`debian`); `any` tries both (default)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<()> {
    match arguments {
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        ["demo"] => demo::run(&Workspace::locate()?, None),
        ["demo", "--only", name] => demo::run(&Workspace::locate()?, Some(name)),
        ["test"] => test::run(&Workspace::locate()?, None),
        ["test", "--only", step] => test::run(&Workspace::locate()?, Some(step)),
        ["sim", options @ ..] => sim::run(&Workspace::locate()?, options),
        ["fuzz", options @ ..] => fuzz::run(&Workspace::locate()?, options),
        ["guests"] => guests::build(&Workspace::locate()?, Source::Any),
        ["guests", "--from", source] => guests::build(&Workspace::locate()?, source.parse()?),
        _ => bail!("I do not understand `{}`\n\n{USAGE}", arguments.join(" ")),
    }
}
