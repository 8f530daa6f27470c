//! The proof that the scheduler's core is pure: it links for a target that has no operating system at all.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::process::run;
use crate::toolchain::{GuestCompiler, Source};
use crate::workspace::Workspace;

const TARGET: &str = "wasm32-unknown-unknown";

/// Builds `farm-core` as a WebAssembly module with every function kept, called or not.
///
/// A C library, a random generator or a clock somewhere below would be an undefined symbol, which the linker names, or
/// an import.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let compiler = GuestCompiler::ensure(workspace, Source::Any)?;
    let mut cargo = workspace.cargo([
        "rustc",
        "--package",
        "farm-core",
        "--lib",
        "--crate-type",
        "cdylib",
        "--target",
        TARGET,
        "--",
        "-Clink-dead-code",
        "-Clink-arg=--no-gc-sections",
    ]);
    compiler.apply(workspace, &mut cargo);
    run(&mut cargo).context("farm-core does not build without an operating system: what does it call?")?;

    let module = GuestCompiler::target_folder(workspace).join(TARGET).join("debug").join("farm_core.wasm");
    let bytes = fs::read(&module).with_context(|| format!("cannot read `{}`", module.display()))?;
    if let Some((from, name)) = crate::wasm::first_import(&bytes)? {
        bail!("farm-core is not pure: it imports `{name}` from `{from}`");
    }
    Ok(())
}
