//! Whether the blobs are whole, and all there.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use farm_proto::ids::{Digest, JobId};

use super::Check;
use crate::SchedulerError;
use crate::blobs::{all_in, path_in};
use crate::state_dir::state_error;
use crate::store::rows;
use crate::store::schema::connect_to_inspect;

impl Check<'_> {
    /// Whether every blob is what its name says, and every one is there that is needed.
    pub(super) fn files(&mut self) -> Result<(), SchedulerError> {
        let blobs = self.state.join("blobs");
        for (name, path) in all_in(&blobs).map_err(state_error(&blobs))? {
            let digest = name.parse::<Digest>().ok().filter(|digest| path_in(&blobs, digest) == path);
            let Some(digest) = digest else {
                self.fault(format!("{}: not the name of a blob", path.display()));
                continue;
            };
            match hash(&path) {
                Ok(Some((found, bytes))) => {
                    self.report.blobs += 1;
                    self.report.bytes += bytes;
                    if found != digest {
                        self.fault(format!("{}: not what was written", path.display()));
                    }
                }
                // Removed in between.
                Ok(None) => {}
                Err(error) => self.fault(format!("{}: {error}", path.display())),
            }
        }
        let missing: Vec<(Digest, JobId, PathBuf)> = self
            .needed
            .iter()
            .map(|(digest, job)| (*digest, *job, path_in(&blobs, digest)))
            .filter(|(_, _, path)| !path.exists())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        // Of a job that was deleted meanwhile, they may be gone.
        let pinned = rows::pinned(&connect_to_inspect(self.path)?, self.path)?;
        for (digest, job, path) in missing {
            if pinned.contains(&digest) {
                self.fault(format!("{}: not there, and job {job} needs it", path.display()));
            }
        }
        Ok(())
    }
}

/// The digest and length of a file; none if it is not there.
fn hash(path: &Path) -> io::Result<Option<(Digest, u64)>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result?,
    };
    let mut hasher = blake3::Hasher::new();
    let bytes = io::copy(&mut file, &mut hasher)?;
    Ok(Some((hasher.finalize().into(), bytes)))
}
