//! A WASI program as a program: standard streams, files and exit code are its own.
//!
//! What `farm run M -- ARGV…` does. Unlike a task the program has no limits but the sandbox's, and sees what its user
//! gives it: the streams of this process, the variables and the directories that are named.

use std::path::{Path, PathBuf};

use farm_proto::outcome::{Failure, FailureKind};
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use crate::sandbox;

/// What a program gets.
#[derive(Debug, Clone, Default)]
pub struct ProgramOptions {
    /// What it is told that it is called.
    pub name: String,
    /// Its arguments, without its name.
    pub args: Vec<String>,
    /// Its environment; it sees no other variables.
    pub env: Vec<(String, String)>,
    /// Directories of this machine that it may read and write, and where it sees them.
    pub directories: Vec<(PathBuf, String)>,
}

/// Why a program did not run, or not to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    #[error("cannot open the directory {path}: {message}", path = path.display())]
    Directory { path: PathBuf, message: String },
    /// It trapped, or cannot be started at all.
    #[error(transparent)]
    Failed(#[from] ProgramFailure),
}

/// A [`Failure`] as an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProgramFailure(pub Failure);

impl From<Failure> for ProgramError {
    fn from(failure: Failure) -> Self {
        Self::Failed(ProgramFailure(failure))
    }
}

/// Runs a compiled command, of WASI 0.1 or 0.2, to its end and gives its exit code.
///
/// Blocks, and must not be called from within an asynchronous task. What reads standard input may stay behind in a
/// thread that waits for more of it; end the process afterwards.
///
/// # Errors
///
/// See [`ProgramError`]. A program that ends with an exit code has not failed, whatever the code is.
pub fn run(artefact: &Path, options: &ProgramOptions) -> Result<i32, ProgramError> {
    let mut context = WasiCtxBuilder::new();
    context
        .allow_blocking_current_thread(true)
        .inherit_stdio()
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .arg(&options.name)
        .args(&options.args)
        .envs(&options.env);
    for (host, guest) in &options.directories {
        context
            .preopened_dir(host, guest, FsPerms::ReadWrite)
            .map_err(|error| ProgramError::Directory { path: host.clone(), message: format!("{error:#}") })?;
    }
    // Standard streams are registered with a runtime when they are made.
    let _runtime = sandbox::enter_runtime()
        .map_err(|error| Failure::new(FailureKind::WorkerLost, format!("cannot start a thread for WASI: {error}")))?;
    Ok(sandbox::run_program(artefact, context.build_p1())?)
}
