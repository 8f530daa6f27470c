//! The `farm` binary: the command line over `farm_client`, and the processes of a farm.

mod cli;
mod commands;
mod report;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
