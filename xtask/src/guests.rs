//! The example modules, built for the sandbox.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::{lock, run};
use crate::toolchain::{GuestCompiler, Source};
use crate::workspace::Workspace;

/// Builds the binary from the same artefacts as the tests.
///
/// Cargo settles the features of a dependency by what it was asked for, and with other features builds anew whatever
/// depends on it, Cranelift included. `--workspace` brings in what all members ask for, and any test, this smallest one
/// say, what the tests ask for.
const FARM: [&str; 6] = ["build", "--workspace", "--bin", "farm", "--test", "usage"];

/// Builds `farm`, then every module in `modules/` to `target/guests/NAME.wasm`, after the compiler if need be.
pub(crate) fn build(workspace: &Workspace, source: Source) -> Result<()> {
    run(&mut workspace.cargo_for_tests(FARM))?;
    let compiler = GuestCompiler::ensure(workspace, source)?;
    fs::create_dir_all(workspace.guests())?;
    let _lock = lock(&workspace.output().join("guests.lock"))?;
    for folder in modules(workspace)? {
        build_module(workspace, &compiler, &folder)?;
    }
    Ok(())
}

/// `farm build`, as a user would type it.
fn build_module(workspace: &Workspace, compiler: &GuestCompiler, folder: &Path) -> Result<()> {
    let name = folder.file_name().unwrap_or_default();
    // Whoever reads the module meanwhile, a running test say, sees the old one or the new one whole.
    let fresh = GuestCompiler::target_folder(workspace).join(name).with_extension("wasm");
    let module = workspace.guests().join(name).with_extension("wasm");
    let mut command = Command::new(workspace.farm());
    command
        .current_dir(workspace.root())
        .arg("build")
        .arg(workspace.relative(folder))
        .arg("--out")
        .arg(workspace.relative(&fresh));
    compiler.apply(workspace, &mut command);
    run(&mut command)?;
    fs::rename(&fresh, &module).with_context(|| format!("`farm build` did not write `{}`", fresh.display()))
}

/// The folders in `modules/` that hold a crate, by name.
fn modules(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let folder = workspace.root().join("modules");
    let mut modules = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read `{}`", folder.display()))? {
        let path = entry?.path();
        if path.join("Cargo.toml").exists() {
            modules.push(path);
        }
    }
    modules.sort();
    Ok(modules)
}
