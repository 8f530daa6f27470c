//! Where things are in this checkout.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// The checkout that the task works on.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    /// Where host builds go: [`Workspace::output`], unless `CARGO_TARGET_DIR` or cargo's configuration say otherwise.
    cargo_target: PathBuf,
}

impl Workspace {
    pub(crate) fn locate() -> Result<Self> {
        // `cargo run` says where the package is now; the compiled-in path is for a binary started by hand.
        let package =
            env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = package.parent().context("xtask's package has no parent folder")?.to_path_buf();
        // Wherever cargo was told to build, this very binary is `<target>/debug/xtask`.
        let executable = env::current_exe().context("cannot tell where xtask itself is")?;
        let cargo_target =
            executable.ancestors().nth(2).context("xtask is not in a cargo target folder")?.to_path_buf();
        Ok(Self { root, cargo_target })
    }

    /// The top folder of the repository.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path as a person at the top of the checkout types it.
    pub(crate) fn relative<'p>(&self, path: &'p Path) -> &'p Path {
        path.strip_prefix(&self.root).unwrap_or(path)
    }

    /// Where tasks put what is not cargo's, always `target` of this checkout.
    pub(crate) fn output(&self) -> PathBuf {
        self.root.join("target")
    }

    /// The example modules, built.
    pub(crate) fn guests(&self) -> PathBuf {
        self.output().join("guests")
    }

    /// The `farm` binary of the profile that demo and tests use.
    pub(crate) fn farm(&self) -> PathBuf {
        self.cargo_target.join("debug").join("farm")
    }

    /// `cargo SUBCOMMAND …` for the binary that is tested: with fail points, at which it can be made to die.
    pub(crate) fn cargo_for_tests<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut cargo = self.cargo(arguments);
        cargo.args(["--features", "farm-link/__failpoints"]);
        cargo
    }

    /// `cargo SUBCOMMAND …` in this workspace with this target folder.
    pub(crate) fn cargo<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(cargo);
        command.args(arguments).current_dir(&self.root).env("CARGO_TARGET_DIR", &self.cargo_target);
        command
    }
}
