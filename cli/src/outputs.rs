//! Files that tasks left in `/out`, on their way to a folder here: `FOLDER/TASK/path`.
//!
//! Each file appears under its name when it is whole. One that is there already and right is left alone, so that what was
//! interrupted goes on where it was; one that is there and different is not replaced unless that was asked for. Nothing is
//! written outside of the folder, whatever the names say.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use farm_proto::ids::Digest;
use farm_proto::job::is_below;
use farm_proto::message::Batch;
use farm_proto::outcome::OutputFile;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tempfile::NamedTempFile;

use crate::client::{Client, ClientError};

/// Files that are fetched side by side.
const PARALLEL: usize = 8;

/// A folder for the files of tasks.
#[derive(Debug)]
pub struct OutputFolder {
    folder: PathBuf,
    replace: bool,
}

/// Why the files of a task are not in the folder.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{0} is there already, and is not the file that the task left")]
    Exists(PathBuf),
    #[error("{0} is there already, and not empty")]
    NotEmpty(PathBuf),
    #[error("task {task} left a file called {path:?}, which is no path below a folder")]
    Path { task: u64, path: String },
    #[error("{0} is a link or no folder: files of tasks are not written through it")]
    Link(PathBuf),
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
}

/// What came of some files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fetched {
    pub files: u64,
    /// In bytes.
    pub size: u64,
    /// Those that were there already.
    pub present: u64,
}

impl std::ops::AddAssign for Fetched {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.size += other.size;
        self.present += other.present;
    }
}

impl OutputFolder {
    /// A folder, which is made when it is needed. With `replace`, files that are in the way are replaced.
    pub fn new(folder: impl Into<PathBuf>, replace: bool) -> Self {
        Self { folder: folder.into(), replace }
    }

    /// A folder for a new job, in which nothing is to be yet, unless things may be replaced.
    ///
    /// # Errors
    ///
    /// Something is in it, or it cannot be read.
    pub fn for_new_job(folder: impl Into<PathBuf>, replace: bool) -> Result<Self, OutputError> {
        let new = Self::new(folder, replace);
        match fs::read_dir(&new.folder).map(Iterator::count) {
            Ok(1..) if !replace => Err(OutputError::NotEmpty(new.folder)),
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(OutputError::Write { path: new.folder, source })
            }
            _ => Ok(new),
        }
    }

    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Fetches the files of some outcomes, of one task only if that is given.
    ///
    /// # Errors
    ///
    /// See [`OutputError`]. Files that came before stay.
    pub async fn fetch(&self, client: &Client, batch: &Batch, only: Option<u64>) -> Result<Fetched, OutputError> {
        let listed = batch.captured.iter().flat_map(|(offset, captured)| {
            let task = batch.first + u64::from(*offset);
            captured
                .files
                .iter()
                .filter(move |_| only.is_none_or(|only| only == task))
                .map(move |file| (task, file.clone()))
        });
        let listed: Vec<_> = listed.collect();
        stream::iter(listed)
            .map(|(task, file)| self.fetch_one(client, task, file))
            .buffer_unordered(PARALLEL)
            .try_fold(Fetched::default(), |mut sum, fetched| {
                sum += fetched;
                std::future::ready(Ok(sum))
            })
            .await
    }

    async fn fetch_one(&self, client: &Client, task: u64, file: OutputFile) -> Result<Fetched, OutputError> {
        let Some(target) = self.wants(task, &file)? else {
            return Ok(Fetched { files: 1, size: file.size, present: 1 });
        };
        let make = || self.partial(&target);
        let partial = client.download(file.digest, file.size, &make).await?;
        persist(partial, &target)?;
        Ok(Fetched { files: 1, size: file.size, present: 0 })
    }

    /// Copies the files of one task from the folder that they are in.
    ///
    /// # Errors
    ///
    /// As [`Self::fetch`].
    pub fn copy(&self, task: u64, files: &[OutputFile], from: &Path) -> Result<Fetched, OutputError> {
        let mut sum = Fetched::default();
        for file in files {
            let mut present = 1;
            if let Some(target) = self.wants(task, file)? {
                let write = |source| OutputError::Write { path: target.clone(), source };
                let mut partial = self.partial(&target).map_err(write)?;
                let mut source = File::open(from.join(&file.path)).map_err(write)?;
                io::copy(&mut source, partial.as_file_mut()).map_err(write)?;
                persist(partial, &target)?;
                present = 0;
            }
            sum += Fetched { files: 1, size: file.size, present };
        }
        Ok(sum)
    }

    /// Where a file goes, with the folders above it made; none if it is there.
    fn wants(&self, task: u64, file: &OutputFile) -> Result<Option<PathBuf>, OutputError> {
        if !is_below(&file.path) {
            return Err(OutputError::Path { task, path: file.path.clone() });
        }
        fs::create_dir_all(&self.folder).map_err(|source| OutputError::Write { path: self.folder.clone(), source })?;
        let mut path = self.folder.join(task.to_string());
        for part in file.path.split('/') {
            make_folder(&path)?;
            path.push(part);
        }
        let error = |source| OutputError::Write { path: path.clone(), source };
        match fs::symlink_metadata(&path) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(Some(path)),
            Err(source) => Err(error(source)),
            Ok(found)
                if found.is_file() && found.len() == file.size && digest(&path).map_err(error)? == file.digest =>
            {
                Ok(None)
            }
            Ok(found) if self.replace && !found.is_dir() => Ok(Some(path)),
            Ok(_) => Err(OutputError::Exists(path)),
        }
    }

    /// A file that is to get that name.
    fn partial(&self, target: &Path) -> io::Result<NamedTempFile> {
        let folder = target.parent().unwrap_or(&self.folder);
        // Readable to whom the umask allows, as every file that a command makes.
        let permissions = PermissionsExt::from_mode(0o666);
        tempfile::Builder::new().prefix(".farm-fetch-").permissions(permissions).tempfile_in(folder)
    }
}

/// Makes a folder, if it is not there. A link to one will not do: it may lead outside.
fn make_folder(path: &Path) -> Result<(), OutputError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let is_folder = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
            if is_folder { Ok(()) } else { Err(OutputError::Link(path.to_owned())) }
        }
        result => result.map_err(|source| OutputError::Write { path: path.to_owned(), source }),
    }
}

fn persist(partial: NamedTempFile, target: &Path) -> Result<(), OutputError> {
    let written = partial.persist(target);
    written.map(drop).map_err(|error| OutputError::Write { path: target.to_owned(), source: error.error })
}

fn digest(path: &Path) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn file(path: &str, content: &[u8]) -> OutputFile {
        OutputFile { path: path.to_owned(), digest: Digest::of(content), size: content.len() as u64 }
    }

    #[test]
    fn files_come_below_their_task() {
        let place = tempfile::tempdir().expect("a folder");
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        fs::create_dir_all(from.join("a")).expect("folders");
        fs::write(from.join("a/b"), "two").expect("a file");
        let folder = OutputFolder::for_new_job(&to, false).expect("not there");
        let files = [file("a/b", b"two")];
        assert_eq!(folder.copy(7, &files, &from).expect("copied"), Fetched { files: 1, size: 3, present: 0 });
        assert_eq!(fs::read(to.join("7/a/b")).expect("there"), b"two");
        assert_eq!(folder.copy(7, &files, &from).expect("there"), Fetched { files: 1, size: 3, present: 1 });
        assert!(matches!(OutputFolder::for_new_job(&to, false), Err(OutputError::NotEmpty(_))));
        fs::write(to.join("7/a/b"), "mine").expect("a file");
        assert!(matches!(folder.copy(7, &files, &from), Err(OutputError::Exists(_))));
        assert_eq!(fs::read(to.join("7/a/b")).expect("there"), b"mine");
        OutputFolder::new(&to, true).copy(7, &files, &from).expect("replaced");
        assert_eq!(fs::read(to.join("7/a/b")).expect("there"), b"two");
        assert_eq!(fs::read_dir(to.join("7/a")).expect("a folder").count(), 1, "nothing partial stays");
    }

    #[test]
    fn nothing_is_written_outside() {
        let place = tempfile::tempdir().expect("a folder");
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        fs::create_dir_all(&from).expect("a folder");
        let folder = OutputFolder::new(&to, true);
        for path in ["../x", "/etc/x", "a/../../x", "", ".", "a//b"] {
            let error = folder.copy(0, &[file(path, b"")], &from).expect_err("refused");
            assert!(matches!(error, OutputError::Path { .. }), "{path:?}: {error}");
        }
        fs::create_dir_all(to.join("0")).expect("folders");
        symlink(&from, to.join("0/a")).expect("a link");
        symlink(&from, to.join("1")).expect("a link");
        for (task, path) in [(0, "a/x"), (1, "x")] {
            let error = folder.copy(task, &[file(path, b"")], &from).expect_err("refused");
            assert!(matches!(error, OutputError::Link(_)), "{error}");
        }
        assert_eq!(fs::read_dir(&from).expect("a folder").count(), 0);
    }
}
