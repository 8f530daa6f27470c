//! The simulated farm: seeds in, and out comes what went wrong.

use anyhow::{Context as _, Result};

use crate::process::run as run_command;
use crate::workspace::Workspace;

/// Builds the simulation, which takes seconds, and runs it with these options; it knows them itself.
///
/// In the `dev` profile: it keeps the assertions of the core, which are half of the point, and the other profile would
/// take longer to build than two thousand seeds to run.
pub(crate) fn run(workspace: &Workspace, options: &[&str]) -> Result<()> {
    let mut cargo = workspace.cargo(["run", "--quiet", "--package", "farm-sim", "--"]);
    run_command(cargo.args(options)).context("the simulation found something")
}
