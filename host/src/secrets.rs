//! Secrets of a job on a worker: files in memory.
//!
//! A guest reads files by way of WASI, which wants a folder. It is made where a file system is that keeps everything in
//! memory (tmpfs), for this user alone; if there is none, no secret is taken. What the kernel swaps out goes to the disk
//! as all memory does.
//!
//! The folder goes with its [`SecretFolder`]. If the worker is killed, its slots remove it; if they are killed as well, the
//! next worker of this user on this machine does.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use farm_proto::secret::{SecretValue, is_name};
use rustix::fs::FlockOperation;
use tempfile::TempDir;

/// What the folders' names begin with.
const PREFIX: &str = "farm-secrets-";
/// Numbers by which the kernel knows file systems in memory: tmpfs, ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Why there is no folder for secrets, or one of them is not in it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("no file system here keeps things in memory only: neither XDG_RUNTIME_DIR nor /dev/shm is a tmpfs")]
    NoPlace,
    #[error("cannot keep secrets in {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{0:?} is no name for a secret")]
    Name(String),
}

/// A folder of secrets, in memory, which is removed with this value.
#[derive(Debug)]
pub struct SecretFolder {
    folder: TempDir,
    /// Says to others that somebody needs the folder, for as long as the process lives.
    _lock: File,
}

impl SecretFolder {
    /// Makes an empty folder.
    ///
    /// # Errors
    ///
    /// There is no place for it.
    pub fn new() -> Result<Self, SecretError> {
        let place = place().ok_or(SecretError::NoPlace)?;
        let cannot = |source| SecretError::Io { path: place.clone(), source };
        // Another process may take it for an orphan before it is locked.
        for _ in 0..16 {
            let private = fs::Permissions::from_mode(0o700);
            let made = tempfile::Builder::new().prefix(PREFIX).permissions(private).tempdir_in(&place);
            let folder = made.map_err(cannot)?;
            let lock = File::open(folder.path()).map_err(cannot)?;
            let is_ours = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
            if is_ours && folder.path().exists() {
                return Ok(Self { folder, _lock: lock });
            }
        }
        Err(cannot(io::Error::other("others take it away")))
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a secret, or writes it anew: whoever opens it gets the old or the new one, and whole.
    ///
    /// # Errors
    ///
    /// There is no room, or the name is none.
    pub fn write(&self, name: &str, value: &SecretValue) -> Result<(), SecretError> {
        if !is_name(name) {
            return Err(SecretError::Name(name.to_owned()));
        }
        // No secret is called that.
        let new = self.path().join(".new");
        let write = || {
            let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(value.expose())?;
            fs::rename(&new, self.path().join(name))
        };
        write().map_err(|source| SecretError::Io { path: self.path().to_owned(), source })
    }
}

/// A folder in memory that this user may write to.
fn place() -> Option<PathBuf> {
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    own.into_iter().chain([PathBuf::from("/dev/shm")]).find(|path| {
        let in_memory = rustix::fs::statfs(path).is_ok_and(|found| IN_MEMORY.contains(&(found.f_type as u64)));
        in_memory && rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
    })
}

/// Removes folders whose processes were killed. What cannot be removed belongs to others.
pub(crate) fn remove_orphans() {
    let Some(place) = place() else { return };
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && let Ok(folder) = File::open(entry.path())
            && rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            match fs::remove_dir_all(entry.path()) {
                Ok(()) => tracing::info!("removed secrets of a worker that was killed"),
                Err(error) => tracing::debug!(%error, "a folder of secrets stays"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};

    use super::*;

    #[test]
    fn a_secret_is_a_file_of_this_user_in_memory() {
        let folder = SecretFolder::new().expect("a place");
        for text in ["one", "another"] {
            folder.write("TOKEN", &SecretValue::new(text.into())).expect("written");
            assert_eq!(fs::read_to_string(folder.path().join("TOKEN")).expect("there"), text);
        }
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
        assert_eq!(folder.path().metadata().expect("a folder").mode() & 0o777, 0o700);
        assert_eq!(folder.path().join("TOKEN").metadata().expect("a file").mode() & 0o777, 0o600);
        for bad in ["../x", "a/b", ""] {
            assert!(matches!(folder.write(bad, &SecretValue::default()), Err(SecretError::Name(_))));
        }
        // Not while we live.
        remove_orphans();
        let path = folder.path().to_owned();
        assert!(path.exists());
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_dead_process_left_is_removed() {
        let place = place().expect("a place");
        let orphan = place.join(format!("{PREFIX}test-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&orphan).expect("a folder");
        fs::write(orphan.join("TOKEN"), "old").expect("a file");
        remove_orphans();
        assert!(!orphan.exists());
    }
}
