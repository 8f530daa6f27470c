//! Where a worker keeps files.
//!
//! ```text
//! CACHE/blobs/DIGEST           fetched modules and inputs
//! CACHE/artefacts/…            compiled modules
//! CACHE/run-PID-RANDOM/job-…/  inputs of running jobs under their own names; gone with the worker
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use farm_link::identity::private_folder;
use tempfile::TempDir;

use super::AgentError;
use super::blobs::prune;

#[derive(Debug)]
pub(super) struct Folders {
    pub(super) blobs: PathBuf,
    pub(super) artefacts: PathBuf,
    /// Of this worker alone; removed with this value.
    pub(super) run: TempDir,
}

impl Folders {
    /// Makes the folders that are not there, and tidies up what earlier workers left.
    ///
    /// # Errors
    ///
    /// They cannot be made or read.
    pub(super) fn open(cache: &Path, limit: u64) -> Result<Self, AgentError> {
        let open = || {
            let (blobs, artefacts) = (cache.join("blobs"), cache.join("artefacts"));
            for folder in [&blobs, &artefacts] {
                private_folder(folder)?;
                prune(folder, limit)?;
            }
            remove_orphans(cache)?;
            let prefix = format!("run-{}-", std::process::id());
            let run = tempfile::Builder::new().prefix(&prefix).tempdir_in(cache)?;
            Ok(Self { blobs, artefacts, run })
        };
        open().map_err(|source| AgentError::Cache { path: cache.to_owned(), source })
    }
}

/// Removes the folders of workers that died before they could do so.
fn remove_orphans(cache: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("run-")?.split('-').next()?.parse::<u32>().ok());
        // A process id that is in use again keeps a few links for a while longer, no more.
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
