//! `/out`: from an empty folder for an attempt to a listing of what the task left in it.
//!
//! ```text
//! FOLDER/PID/now/     of the task that runs in that slot process; removed with it
//! FOLDER/PID-TIME/    what a task left, for as long as somebody has its [`KeptFolder`]
//! ```
//!
//! What is taken are plain files, each with one name. A task that leaves anything else (links, devices, pipes, sockets)
//! fails, and so does one that leaves too much. A guest writes without asking us, so a thread looks at how much it is,
//! some tens of times a second; if it is more than the limit, that thread ends the process, since nothing else stops a
//! guest (see the [sandbox](crate::sandbox)).

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use farm_proto::job::OutputLimits;
use farm_proto::outcome::{Failure, FailureKind, OutputFile};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::ring::MAX_RESULT;
use super::shared::{Shared, Word, now_ns};
use crate::sandbox::{Ended, size_in_words};

/// The least time between two looks at what a task has written.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The longest listing of one task's files, in bytes: it travels in a message, beside what the task printed.
const LISTING: usize = 1 << 20;
/// What an entry of the listing takes besides its path.
const ENTRY: usize = 48;
/// The deepest folder. Each level takes some stack to walk.
const DEEPEST: usize = 64;

/// Where tasks write, and how much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputSetup {
    /// A folder of the worker alone.
    pub folder: PathBuf,
    pub limits: OutputLimits,
}

/// The folder of what a task left, which is removed with this value.
#[derive(Debug)]
pub struct KeptFolder(PathBuf);

/// The folders of several tasks, by their offset.
pub type KeptFolders = Vec<(u32, KeptFolder)>;

impl KeptFolder {
    /// What a slot process says that it has kept; `None` if that is no name that it may have given.
    pub(super) fn named(setup: &OutputSetup, name: &str) -> Option<Self> {
        let is_ours = name.contains('-') && name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        is_ours.then(|| Self(setup.folder.join(name)))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for KeptFolder {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        let remove = move || {
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::debug!(path = %path.display(), %error, "what a task left stays for now");
            }
        };
        // It may be much, and whoever drops this has other things to do.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// The folder of a slot process.
pub(super) fn folder_of(setup: &OutputSetup, pid: u32) -> PathBuf {
    setup.folder.join(pid.to_string())
}

/// The slot's side, for one job.
pub(super) struct Outputs {
    setup: OutputSetup,
    now: PathBuf,
    guard: Arc<Guard>,
}

impl Outputs {
    pub(super) fn open(setup: OutputSetup, guard: &Arc<Guard>) -> io::Result<Self> {
        let own = folder_of(&setup, std::process::id());
        // Of a process that had the same number, nobody needs anything.
        let now = own.join("now");
        private(&own)?;
        Ok(Self { setup, now, guard: Arc::clone(guard) })
    }

    /// The folder that the guest is to see.
    pub(super) fn path(&self) -> &Path {
        &self.now
    }

    /// Makes a call with an empty `/out`, and takes what is in it afterwards: the outcome lists it, and the name is that
    /// of the [`KeptFolder`] where it is.
    pub(super) fn run(
        &self,
        call: impl FnOnce(&mut Vec<u8>) -> Ended,
        result: &mut Vec<u8>,
    ) -> (Ended, Option<String>) {
        let cannot = |error: &io::Error| Failure::new(FailureKind::WorkerLost, format!("cannot make /out: {error}"));
        if let Err(error) = clear(&self.now).and_then(|()| private(&self.now)) {
            return (Ended::failed(cannot(&error)), None);
        }
        let start = result.len();
        self.guard.watch(Some((self.now.clone(), self.setup.limits)));
        let mut ended = call(result);
        self.guard.watch(None);
        let mut kept = None;
        if ended.failure.is_none() && !ended.suspended && result.len() - start <= MAX_RESULT {
            match self.take() {
                Ok((files, name)) => (ended.captured.files, kept) = (files, name),
                Err(failure) => {
                    result.truncate(start);
                    ended.failure = Some(failure);
                }
            }
        }
        if kept.is_none() {
            // The next attempt will insist on it.
            let _ = clear(&self.now);
        }
        (ended, kept)
    }

    fn take(&self) -> Result<(Vec<OutputFile>, Option<String>), Failure> {
        let mut found = Found { limits: self.setup.limits, files: Vec::new(), entries: 0, bytes: 0, listing: 0 };
        found.walk(&self.now, "", 0)?;
        if found.files.is_empty() {
            return Ok((Vec::new(), None));
        }
        let mut files = Vec::with_capacity(found.files.len());
        for (path, size) in found.files {
            let digest = hash(&self.now.join(&path), size).map_err(|error| unreadable(&path, &error))?;
            files.push(OutputFile { path, digest, size });
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let name = format!("{}-{}", std::process::id(), now_ns());
        fs::rename(&self.now, self.setup.folder.join(&name)).map_err(|error| unreadable("", &error))?;
        Ok((files, Some(name)))
    }
}

/// What is in a folder.
struct Found {
    limits: OutputLimits,
    files: Vec<(String, u64)>,
    entries: u64,
    bytes: u64,
    listing: usize,
}

impl Found {
    fn walk(&mut self, folder: &Path, prefix: &str, depth: usize) -> Result<(), Failure> {
        let cannot = |error: &io::Error| unreadable(prefix, error);
        for entry in fs::read_dir(folder).map_err(|error| cannot(&error))? {
            let entry = entry.map_err(|error| cannot(&error))?;
            let name = entry.file_name();
            let shown = format!("{prefix}{}", name.to_string_lossy());
            let bad = |what: &str| Failure::new(FailureKind::BadOutput, format!("/out/{shown} {what}"));
            self.entries += 1;
            if self.entries > u64::from(self.limits.files) {
                return Err(Over::Files.failure(&self.limits));
            }
            if name.to_str().is_none() {
                return Err(bad("has a name that is not UTF-8"));
            }
            let metadata = entry.metadata().map_err(|error| unreadable(&shown, &error))?;
            let kind = metadata.file_type();
            if kind.is_dir() {
                if depth == DEEPEST {
                    return Err(bad("is too deep a folder"));
                }
                self.walk(&entry.path(), &format!("{shown}/"), depth + 1)?;
                continue;
            }
            if kind.is_symlink() {
                return Err(bad("is a symbolic link; only plain files are taken from /out"));
            }
            if !kind.is_file() {
                return Err(bad("is no plain file; nothing else is taken from /out"));
            }
            if metadata.nlink() != 1 {
                return Err(bad("has a second name (a hard link); only plain files with one name are taken from /out"));
            }
            self.bytes = self.bytes.saturating_add(metadata.len());
            if self.bytes > self.limits.bytes {
                return Err(Over::Bytes.failure(&self.limits));
            }
            self.listing += shown.len() + ENTRY;
            if self.listing > LISTING {
                let message =
                    format!("the names of the files in /out come to more than {}", size_in_words(LISTING as u64));
                return Err(Failure::new(FailureKind::OutputTooLarge, message));
            }
            self.files.push((shown, metadata.len()));
        }
        Ok(())
    }
}

fn unreadable(path: &str, error: &io::Error) -> Failure {
    Failure::new(FailureKind::BadOutput, format!("/out/{path} cannot be taken: {error}"))
}

fn hash(path: &Path, size: u64) -> io::Result<farm_proto::ids::Digest> {
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let file = File::options().read(true).custom_flags(no_follow).open(path)?;
    let mut hasher = blake3::Hasher::new();
    let read = io::copy(&mut file.take(size.saturating_add(1)), &mut hasher)?;
    if read != size {
        return Err(io::Error::other("it changes"));
    }
    Ok(hasher.finalize().into())
}

fn private(folder: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn clear(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What there is too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    Bytes = 1,
    Files = 2,
}

impl Over {
    /// What a slot process has said before it ended itself.
    pub(super) fn told(shared: &Shared) -> Option<Self> {
        match shared.word(Word::Over).load(Ordering::Acquire) {
            1 => Some(Self::Bytes),
            2 => Some(Self::Files),
            _ => None,
        }
    }

    pub(super) fn failure(self, limits: &OutputLimits) -> Failure {
        let most = match self {
            Self::Bytes => size_in_words(limits.bytes),
            Self::Files => format!("{} files and folders", limits.files),
        };
        let message = format!("the task left more than {most} in /out, which is the job's limit");
        Failure::new(FailureKind::OutputTooLarge, message)
    }
}

/// Looks after what the running task writes.
pub(super) struct Guard {
    watched: Mutex<Option<(PathBuf, OutputLimits)>>,
    begun: Condvar,
    shared: Arc<Shared>,
}

impl Guard {
    /// Starts the thread that looks.
    pub(super) fn start(shared: Arc<Shared>) -> io::Result<Arc<Self>> {
        let guard = Arc::new(Self { watched: Mutex::default(), begun: Condvar::new(), shared });
        let own = Arc::clone(&guard);
        thread::Builder::new().name("out".to_owned()).spawn(move || own.look())?;
        Ok(guard)
    }

    fn lock(&self) -> MutexGuard<'_, Option<(PathBuf, OutputLimits)>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, what: Option<(PathBuf, OutputLimits)>) {
        *self.lock() = what;
        self.begun.notify_one();
    }

    fn look(&self) {
        let mut pause = LOOK_EVERY;
        loop {
            let mut watched = self.lock();
            let Some((folder, limits)) = watched.clone() else {
                watched = self.begun.wait(watched).unwrap_or_else(PoisonError::into_inner);
                drop(watched);
                continue;
            };
            drop(watched);
            thread::sleep(pause);
            let begun = Instant::now();
            let over = over(&folder, &limits);
            // Whatever there is to look at, the guest has most of the time.
            pause = LOOK_EVERY.max(begun.elapsed() * 20);
            let watched = self.lock();
            if let (Some(over), Some(_)) = (over, &*watched) {
                self.shared.word(Word::Over).store(over as u64, Ordering::Release);
                // With the lock held, so that no outcome follows.
                let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
            }
        }
    }
}

/// Whether there is too much in a folder, or in files that were in it and are still open. What cannot be read is passed
/// over: the guest may be removing it.
fn over(folder: &Path, limits: &OutputLimits) -> Option<Over> {
    let device = fs::metadata(folder).ok()?.dev();
    let (mut bytes, mut entries) = (0u64, 0u64);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            entries += 1;
            if entries > u64::from(limits.files) {
                return Some(Over::Files);
            }
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                bytes = bytes.saturating_add(metadata.len());
            }
        }
    }
    for entry in fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        // Of the file itself, which has no name any more.
        if let Ok(file) = fs::metadata(entry.path())
            && file.is_file()
            && file.nlink() == 0
            && file.dev() == device
        {
            bytes = bytes.saturating_add(file.len());
        }
    }
    (bytes > limits.bytes).then_some(Over::Bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use farm_proto::ids::Digest;
    use farm_proto::outcome::Captured;

    use super::*;

    const LIMITS: OutputLimits = OutputLimits { bytes: 1000, files: 5 };

    fn run(make: impl FnOnce(&Path)) -> (tempfile::TempDir, Ended, Option<String>) {
        let place = tempfile::tempdir().expect("a folder");
        let (shared, _) = Shared::create().expect("memory");
        let guard = Guard::start(Arc::new(shared)).expect("a thread");
        let setup = OutputSetup { folder: place.path().to_owned(), limits: LIMITS };
        let outputs = Outputs::open(setup, &guard).expect("a folder");
        let call = |result: &mut Vec<u8>| {
            result.push(b'1');
            make(outputs.path());
            Ended::default()
        };
        let (ended, kept) = outputs.run(call, &mut Vec::new());
        assert!(!outputs.path().exists());
        (place, ended, kept)
    }

    fn failure(make: impl FnOnce(&Path)) -> Failure {
        let (_place, ended, kept) = run(make);
        assert_eq!((kept, ended.captured.files.len()), (None, 0));
        ended.failure.expect("a failure")
    }

    fn write(path: PathBuf, content: &[u8]) {
        fs::write(path, content).expect("a file");
    }

    #[test]
    fn files_are_listed_and_kept() {
        let (place, ended, kept) = run(|out| {
            write(out.join("b"), b"two");
            fs::create_dir_all(out.join("a/empty")).expect("folders");
            write(out.join("a/x"), b"");
        });
        let kept = place.path().join(kept.expect("kept"));
        let file = |path: &str, content: &[u8]| {
            assert_eq!(fs::read(kept.join(path)).expect("there"), content);
            OutputFile { path: path.to_owned(), digest: Digest::of(content), size: content.len() as u64 }
        };
        assert_eq!(ended.captured.files, [file("a/x", b""), file("b", b"two")]);
    }

    #[test]
    fn nothing_is_kept_of_nothing() {
        let (_place, ended, kept) = run(|out| fs::create_dir(out.join("empty")).expect("a folder"));
        assert_eq!((ended.failure, ended.captured, kept), (None, Captured::default(), None));
    }

    #[test]
    fn links_fail_the_task() {
        let said = failure(|out| symlink("/etc/passwd", out.join("x")).expect("a link"));
        assert_eq!(said.kind, FailureKind::BadOutput);
        assert!(said.message.starts_with("/out/x is a symbolic link"), "{said}");
        let said = failure(|out| {
            write(out.join("x"), b"1");
            fs::hard_link(out.join("x"), out.join("y")).expect("a link");
        });
        assert!(said.message.contains("a hard link"), "{said}");
        let said = failure(|out| drop(std::os::unix::net::UnixListener::bind(out.join("s")).expect("a socket")));
        assert!(said.message.contains("no plain file"), "{said}");
    }

    #[test]
    fn limits_are_exact() {
        assert!(run(|out| write(out.join("x"), &[0; 1000])).1.failure.is_none());
        let said = failure(|out| write(out.join("x"), &[0; 1001]));
        assert_eq!(said.kind, FailureKind::OutputTooLarge);
        let many = |count: u32| move |out: &Path| (0..count).for_each(|n| write(out.join(n.to_string()), b""));
        assert_eq!(run(many(5)).1.captured.files.len(), 5);
        assert_eq!(failure(many(6)).kind, FailureKind::OutputTooLarge);
    }

    #[test]
    fn what_has_no_name_counts_while_it_is_open() {
        let place = tempfile::tempdir().expect("a folder");
        assert_eq!(over(place.path(), &LIMITS), None);
        let file = File::create(place.path().join("x")).expect("a file");
        file.set_len(2000).expect("a length");
        assert_eq!(over(place.path(), &LIMITS), Some(Over::Bytes));
        fs::remove_file(place.path().join("x")).expect("a file");
        assert_eq!(over(place.path(), &LIMITS), Some(Over::Bytes));
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        let setup = OutputSetup { folder: "/nowhere".into(), limits: LIMITS };
        assert_eq!(
            KeptFolder::named(&setup, "12-345").map(|kept| kept.path().to_owned()),
            Some("/nowhere/12-345".into())
        );
        for bad in ["", "..", "12", "../12-1", "12-1/..", "12-a"] {
            assert!(KeptFolder::named(&setup, bad).is_none(), "{bad:?}");
        }
    }
}
