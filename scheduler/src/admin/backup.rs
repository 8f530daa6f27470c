//! A copy of a state folder.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use farm_link::identity::private_folder;
use farm_proto::ids::Digest;
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use crate::SchedulerError;
use crate::blobs::path_in;
use crate::state_dir::{IDENTITY, state_error};
use crate::store::recover::DATABASE;
use crate::store::schema::connect_to_inspect;
use crate::store::{StoreError, rows};

/// A blob is gone that the copy of the database needs if its job was deleted in between: the copy is made again, so often.
const TRIES: usize = 5;

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackupReport {
    /// Blobs, which are links to the same files where that is possible.
    pub blobs: u64,
    /// Bytes of the database and of the blobs.
    pub bytes: u64,
}

/// Copies a farm to the folder `to`, from which a scheduler can be started: its identity, its jobs and their results, as
/// they are at one moment, and the blobs that these need. On the disk when this returns. Before, `to` has no database, so
/// that a copy which was interrupted is not taken for a farm.
///
/// # Errors
///
/// `to` is not empty ([`SchedulerError::NotEmpty`]), the folder is not a farm's or is damaged, or it cannot be read, or
/// `to` be written.
pub fn backup(state: &Path, to: &Path) -> Result<BackupReport, SchedulerError> {
    let source = connect_to_inspect(&state.join(DATABASE))?;
    if fs::exists(to).and_then(|exists| Ok(exists && fs::read_dir(to)?.next().is_some())).map_err(state_error(to))? {
        return Err(SchedulerError::NotEmpty { path: to.to_owned() });
    }
    private_folder(to).map_err(state_error(to))?;
    for name in IDENTITY {
        let source = state.join(name);
        match copy_file(&source, &to.join(name)) {
            // Tickets are written anew at each start.
            Err(error) if error.kind() == io::ErrorKind::NotFound && name.ends_with(".ticket") => {}
            result => result.map_err(state_error(&source))?,
        }
    }
    let new = to.join(format!("{DATABASE}.new"));
    let mut report = BackupReport::default();
    for tries in 1.. {
        let pinned = copy_database(&source, &new)?;
        match copy_blobs(&pinned, &state.join("blobs"), &to.join("blobs"))? {
            Ok(bytes) => {
                report = BackupReport { blobs: pinned.len() as u64, bytes };
                break;
            }
            Err(missing) if tries == TRIES => {
                let path = path_in(&state.join("blobs"), &missing);
                return Err(SchedulerError::Corrupt { path, place: "not there, and a job needs it".to_owned() });
            }
            Err(_) => {}
        }
    }
    let mut finish = || {
        let file = File::open(&new)?;
        file.sync_all()?;
        report.bytes += file.metadata()?.len();
        fs::rename(&new, to.join(DATABASE))?;
        File::open(to)?.sync_all()
    };
    finish().map_err(state_error(to))?;
    Ok(report)
}

/// Copies the database as it is at one moment: which blobs it needs.
fn copy_database(source: &Connection, to: &Path) -> Result<HashSet<Digest>, SchedulerError> {
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(state_error(to)(error)),
        _ => {}
    }
    let sqlite = StoreError::of(to);
    let mut copy = Connection::open(to).map_err(&sqlite)?;
    let backup = Backup::new(source, &mut copy).map_err(&sqlite)?;
    // All at once: it reads one moment's pages, while the scheduler goes on writing to its log.
    while backup.step(-1).map_err(&sqlite)? != StepResult::Done {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    drop(backup);
    let pinned = rows::pinned(&copy, to)?;
    copy.close().map_err(|(_, error)| sqlite(error))?;
    fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(state_error(to))?;
    Ok(pinned)
}

/// Links or copies blobs: their bytes, or the first that is not there.
fn copy_blobs(pinned: &HashSet<Digest>, from: &Path, to: &Path) -> Result<Result<u64, Digest>, SchedulerError> {
    let mut bytes = 0;
    let mut folders = HashSet::from([to.to_owned()]);
    private_folder(to).map_err(state_error(to))?;
    for digest in pinned {
        let (source, copy) = (path_in(from, digest), path_in(to, digest));
        if let Some(folder) = copy.parent()
            && folders.insert(folder.to_owned())
        {
            private_folder(folder).map_err(state_error(folder))?;
        }
        let place = || match fs::hard_link(&source, &copy) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
            // Another file system, or one without links.
            Err(_) => copy_file(&source, &copy),
            Ok(()) => Ok(()),
        };
        match place().and_then(|()| fs::metadata(&copy)) {
            Ok(file) => bytes += file.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Err(*digest)),
            Err(error) => return Err(state_error(&copy)(error)),
        }
    }
    for folder in folders {
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(state_error(&folder))?;
    }
    Ok(Ok(bytes))
}

/// Copies a file with its permissions; it is on the disk then.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    File::open(to)?.sync_all()
}
