//! The files in which blobs are.

use std::fs::{self, File, Metadata};
use std::io::{self, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use farm_link::failpoint;
use farm_link::identity::private_folder;
use farm_proto::ids::Digest;
use tempfile::{NamedTempFile, TempPath};

use crate::Durability;
use crate::SchedulerError;
use crate::state_dir::{StateDir, state_error};
use crate::sync::locked;

/// Permissions of a file that the store made for itself, and that nobody else has put or asked about since.
const OWN: u32 = 0o400;
/// Permissions of all others.
const SHARED: u32 = 0o600;
/// What the names of beginnings of blobs begin with.
const PARTIAL: &str = "part-";
/// How long the beginning of a blob is kept.
const PARTIALS_LAST: Duration = Duration::from_secs(86_400);

/// Whether the store made a file for itself, and nobody else has put or asked about it since.
fn is_own(file: &Metadata) -> bool {
    file.permissions().mode() & 0o777 == OWN
}

/// Where blobs are. Clones are the same place.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
    durability: Durability,
    /// Held while a blob gets its name, is touched, or is removed: none is removed that was touched just now.
    moving: Arc<Mutex<()>>,
}

impl Folder {
    /// The blobs of a state folder, which is made if it is not there.
    pub(crate) fn open(state: &StateDir, durability: Durability) -> Result<Self, SchedulerError> {
        let folder = Self { path: state.join("blobs"), durability, moving: Arc::clone(&state.moving) };
        let new = folder.new_path();
        private_folder(&new).map_err(state_error(&new))?;
        Ok(folder)
    }

    /// Drops what an earlier scheduler was receiving when it ended, but for what may go on.
    pub(crate) fn clear_new(&self) -> Result<(), SchedulerError> {
        let new = self.new_path();
        let clear = || {
            for entry in entries(&new)? {
                if !entry.file_name().to_string_lossy().starts_with(PARTIAL) {
                    fs::remove_file(entry.path())?;
                }
            }
            self.remove_old_partials()
        };
        clear().map_err(state_error(&new))
    }

    /// Drops beginnings of blobs that nobody has gone on with for a day.
    pub(crate) fn remove_old_partials(&self) -> io::Result<()> {
        for entry in entries(&self.new_path())? {
            let is_partial = entry.file_name().to_string_lossy().starts_with(PARTIAL);
            let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
            if is_partial && age > PARTIALS_LAST {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The file for a blob on its way in of which the beginning may be there.
    pub(super) fn partial(&self, digest: &Digest) -> io::Result<NamedTempFile> {
        let path = self.new_path().join(format!("{PARTIAL}{digest}"));
        let mut options = File::options();
        std::os::unix::fs::OpenOptionsExt::mode(options.read(true).write(true).create(true), 0o600);
        let file = options.open(&path).map_err(|error| io::Error::from(error.kind()))?;
        Ok(NamedTempFile::from_parts(file, TempPath::try_from_path(path)?))
    }

    pub(crate) fn new_path(&self) -> PathBuf {
        self.path.join("new")
    }

    /// Where a blob is, if it is there.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        path_in(&self.path, digest)
    }

    /// A file for a blob on its way in.
    pub(crate) fn new_file(&self) -> io::Result<NamedTempFile> {
        // The error is for the sender, who need not know our paths.
        NamedTempFile::new_in(self.new_path()).map_err(|error| io::Error::from(error.kind()))
    }

    /// Another file with what is there of the beginning of a blob, which somebody may be adding to.
    pub(super) fn copy_of_partial(&self, digest: &Digest) -> io::Result<NamedTempFile> {
        let mut copy = self.new_file()?;
        match File::open(self.new_path().join(format!("{PARTIAL}{digest}"))) {
            Ok(mut there) => drop(io::copy(&mut there, copy.as_file_mut())?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.kind().into()),
        }
        copy.as_file_mut().rewind()?;
        Ok(copy)
    }

    /// Gives a blob its name, now that all of it is in `file` and its digest is right. It is on the disk when this returns,
    /// unless the farm has no use for that.
    pub(crate) fn keep(&self, file: NamedTempFile, digest: &Digest) -> io::Result<()> {
        let target = self.path(digest);
        let folder = target.parent().unwrap_or(&self.path);
        let synced = self.durability == Durability::Synced;
        if !fs::exists(folder)? {
            private_folder(folder)?;
            if synced {
                File::open(&self.path)?.sync_all()?;
            }
        }
        if synced {
            file.as_file().sync_all()?;
        }
        failpoint::hit("scheduler.blob.before-rename");
        let moving = locked(&self.moving);
        file.persist(&target).map_err(|error| error.error)?;
        drop(moving);
        failpoint::hit("scheduler.blob.after-rename");
        if synced {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    /// Stores a blob that is all there, for the store itself. Whether it was not there before.
    pub(crate) fn write(&self, digest: &Digest, bytes: &[u8]) -> io::Result<bool> {
        if self.renew(digest, bytes.len() as u64) {
            return Ok(false);
        }
        let mut file = self.new_file()?;
        file.as_file_mut().write_all(bytes)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(OWN))?;
        self.keep(file, digest)?;
        Ok(true)
    }

    /// Whether a blob of that size is there; it counts as new from now on.
    fn renew(&self, digest: &Digest, size: u64) -> bool {
        let path = self.path(digest);
        let _moving = locked(&self.moving);
        let renew = || {
            let file = File::open(&path)?;
            if file.metadata()?.len() != size {
                return Ok(false);
            }
            file.set_modified(SystemTime::now())?;
            if self.durability == Durability::Synced {
                // Whoever gave it its name may have died before that was on the disk.
                File::open(path.parent().unwrap_or(&self.path))?.sync_all()?;
            }
            io::Result::Ok(true)
        };
        // Where this cannot be done, it is written again.
        renew().unwrap_or(false)
    }

    /// Removes a blob if the store made it for itself, and nobody else has put it or asked about it since.
    pub(crate) fn remove_own(&self, digest: &Digest) -> io::Result<bool> {
        let path = self.path(digest);
        let _moving = locked(&self.moving);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Ok(file) if is_own(&file) => fs::remove_file(&path).map(|()| true),
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether [`Self::remove_own`] would remove it.
    pub(crate) fn is_own(&self, digest: &Digest) -> bool {
        fs::metadata(self.path(digest)).is_ok_and(|file| is_own(&file))
    }

    /// A whole blob, as the file has it; none if it is not there.
    pub(crate) fn read(&self, digest: &Digest) -> io::Result<Option<Bytes>> {
        match fs::read(self.path(digest)) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The size of a blob, if it is there; it counts as new from now on, and as everybody's.
    pub(crate) fn touch(&self, digest: &Digest) -> Option<u64> {
        let _moving = locked(&self.moving);
        let file = File::open(self.path(digest)).ok()?;
        // Where a time cannot be set, that of the file's last change has to do.
        let _ = file.set_modified(SystemTime::now());
        let found = file.metadata().ok()?;
        if is_own(&found) {
            // A blob that may be gone in a moment is none.
            file.set_permissions(fs::Permissions::from_mode(SHARED)).ok()?;
        }
        Some(found.len())
    }

    /// Removes a blob if it is older than `older_than`: how many bytes that freed.
    pub(crate) fn remove(&self, digest: &Digest, older_than: SystemTime) -> io::Result<Option<u64>> {
        let path = self.path(digest);
        let _moving = locked(&self.moving);
        let file = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result?,
        };
        if file.modified()? > older_than {
            return Ok(None);
        }
        fs::remove_file(&path)?;
        Ok(Some(file.len()))
    }

    /// Every blob that is there.
    pub(crate) fn all(&self) -> io::Result<Vec<Digest>> {
        Ok(all_in(&self.path)?.into_iter().filter_map(|(name, _)| name.parse().ok()).collect())
    }
}

/// Where a blob is in a folder of blobs.
pub(crate) fn path_in(blobs: &Path, digest: &Digest) -> PathBuf {
    let name = digest.to_string();
    blobs.join(&name[..2]).join(name)
}

/// Names and paths of all files in a folder of blobs, but for those on their way in.
pub(crate) fn all_in(blobs: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for folder in entries(blobs)? {
        if folder.file_name() == "new" || !folder.file_type()?.is_dir() {
            continue;
        }
        for file in entries(&folder.path())? {
            files.push((file.file_name().to_string_lossy().into_owned(), file.path()));
        }
    }
    Ok(files)
}

fn entries(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result?.collect(),
    }
}
