//! The database: what is in it, how it is made, and how it is opened.
//!
//! Numbers without a sign are stored as SQLite's, which have one: only keys have to order the same way, and those are
//! refused beyond 2⁶³. `sum` and `seal` are checksums (see [`codec`](super::codec)).

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{Durability, StoreError};
use crate::SchedulerError;
use crate::state_dir::state_error;

/// "farm", in the header of the file.
const APPLICATION_ID: i32 = 0x6661_726d;
/// What makes each version of the last. The first makes one from nothing.
const MIGRATIONS: [&str; 1] = [include_str!("schema/1.sql")];
/// The version that this program writes.
const VERSION: u32 = MIGRATIONS.len() as u32;
/// How long a lock is waited for. Only `farm admin` and people have any.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// The log is written back to the database when it has as many pages, of 4096 bytes. The ballast is for that, too.
pub(super) const CHECKPOINT_PAGES: u32 = 1000;

/// A connection that writes. Makes the database if there is none.
pub(super) fn connect_to_write(path: &Path, durability: Durability) -> Result<Connection, SchedulerError> {
    if !fs::exists(path).map_err(state_error(path))? {
        create(path, durability)?;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = connect(path, flags).map_err(SchedulerError::from)?;
    let found = check_version(&connection, path)?;
    let sqlite = StoreError::of(path);
    let synchronous = match durability {
        Durability::Synced => "FULL",
        Durability::Ephemeral => "OFF",
    };
    connection.pragma_update(None, "synchronous", synchronous).map_err(&sqlite)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).map_err(&sqlite)?;
    if found < VERSION {
        migrate(&mut connection, found).map_err(&sqlite)?;
    }
    Ok(connection)
}

/// A connection that only reads.
pub(super) fn connect_to_read(path: &Path) -> Result<Connection, StoreError> {
    // To be able to take part in the log's bookkeeping, it has to be allowed to write.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = connect(path, flags)?;
    connection.pragma_update(None, "query_only", true).map_err(StoreError::of(path))?;
    Ok(connection)
}

/// A connection for those who look at a state folder that is not theirs. Leaves the files as they are, and checks what
/// they are.
pub(crate) fn connect_to_inspect(path: &Path) -> Result<Connection, SchedulerError> {
    if !fs::exists(path).map_err(state_error(path))? {
        return Err(SchedulerError::Foreign { path: path.to_owned(), expected: "a farm's database" });
    }
    let connection = connect_to_read(path)?;
    let sqlite = StoreError::of(path);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(&sqlite)?;
    let found = check_version(&connection, path)?;
    if found < VERSION {
        let place = format!("version {found} is older than this program's {VERSION}: start the scheduler once");
        return Err(SchedulerError::State { path: path.to_owned(), source: io::Error::other(place) });
    }
    Ok(connection)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let sqlite = StoreError::of(path);
    let connection = Connection::open_with_flags(path, flags).map_err(&sqlite)?;
    connection.busy_timeout(PATIENCE).map_err(&sqlite)?;
    connection.set_prepared_statement_cache_capacity(64);
    // One flipped byte must not lead outside of a page.
    connection.pragma_update(None, "cell_size_check", true).map_err(&sqlite)?;
    connection.pragma_update(None, "trusted_schema", false).map_err(&sqlite)?;
    Ok(connection)
}

/// The version of a database, which is ours.
fn check_version(connection: &Connection, path: &Path) -> Result<u32, SchedulerError> {
    let foreign = || SchedulerError::Foreign { path: path.to_owned(), expected: "a farm's database" };
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    let id = match number("application_id") {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) => return Err(foreign()),
        result => result.map_err(StoreError::of(path))?,
    };
    let version = number("user_version").map_err(StoreError::of(path))?;
    match u32::try_from(version) {
        _ if id != APPLICATION_ID => Err(foreign()),
        Ok(found) if found > VERSION => Err(SchedulerError::Newer { path: path.to_owned(), found, known: VERSION }),
        Ok(found @ 1..) => Ok(found),
        Ok(0) | Err(_) => {
            Err(SchedulerError::Corrupt { path: path.to_owned(), place: format!("header: version {version}") })
        }
    }
}

/// Makes an empty database. Under another name at first, so that one with the right name is whole: an empty file would
/// be a database without jobs to SQLite.
fn create(path: &Path, durability: Durability) -> Result<(), SchedulerError> {
    let new = path.with_extension("sqlite.new");
    for leftover in [&new, &path.with_extension("sqlite.new-journal")] {
        match fs::remove_file(leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(state_error(leftover)(error)),
            _ => {}
        }
    }
    let make = || -> rusqlite::Result<()> {
        let mut connection = Connection::open(&new)?;
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        migrate(&mut connection, 0)?;
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))
    };
    make().map_err(StoreError::of(&new))?;
    let sync = || {
        fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        if durability == Durability::Synced {
            File::open(&new)?.sync_all()?;
        }
        fs::rename(&new, path)?;
        match path.parent() {
            Some(folder) if durability == Durability::Synced => File::open(folder)?.sync_all(),
            _ => Ok(()),
        }
    };
    sync().map_err(state_error(path))
}

/// Takes a database from version `found` to ours, in one step.
fn migrate(connection: &mut Connection, found: u32) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for step in MIGRATIONS.iter().skip(found as usize) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}
