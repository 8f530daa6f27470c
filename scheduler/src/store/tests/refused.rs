//! State folders that are not opened, and what is said of them.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::world::{SOUND, World, row};
use crate::store::Durability;
use crate::{SchedulerError, admin};

/// A closed store of one job.
fn world() -> (World, PathBuf) {
    let mut world = World::new(Durability::Synced);
    world.accept(row(1, 10));
    world.close();
    let database = world.path().join("farm.sqlite");
    (world, database)
}

fn pragma(database: &Path, pragma: &str, value: i32) {
    let connection = Connection::open(database).unwrap();
    connection.pragma_update(None, pragma, value).unwrap();
}

#[test]
fn a_newer_database() {
    let (mut world, database) = world();
    pragma(&database, "user_version", 99);
    let before = fs::read(&database).unwrap();
    let error = world.try_open().unwrap_err();
    assert!(matches!(&error, SchedulerError::Newer { found: 99, known: 1, .. }), "{error}");
    assert!(error.to_string().contains("99"), "{error}");
    assert!(matches!(admin::check(world.path()), Err(SchedulerError::Newer { .. })));
    assert!(matches!(admin::backup(world.path(), &world.path().join("b")), Err(SchedulerError::Newer { .. })));
    assert!(matches!(admin::gc(world.path()), Err(SchedulerError::Newer { .. })));
    assert!(fs::read(&database).unwrap() == before, "it is left as it was");
    pragma(&database, "user_version", 0);
    assert!(matches!(world.try_open(), Err(SchedulerError::Corrupt { .. })));
}

#[test]
fn a_database_of_something_else() {
    let (mut world, database) = world();
    pragma(&database, "application_id", 7);
    assert!(matches!(world.try_open(), Err(SchedulerError::Foreign { .. })));
    fs::write(&database, b"a text about farms, rather long, so that it cannot be a header of a database\n".repeat(9))
        .unwrap();
    let error = world.try_open().unwrap_err();
    assert!(matches!(&error, SchedulerError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("farm.sqlite"), "{error}");
}

#[test]
fn a_database_that_is_gone_or_empty() {
    let (mut world, database) = world();
    fs::write(&database, b"").unwrap();
    let error = world.try_open().unwrap_err();
    assert!(matches!(&error, SchedulerError::Corrupt { .. }), "{error}");
    fs::remove_file(&database).unwrap();
    let error = world.try_open().unwrap_err();
    assert!(matches!(&error, SchedulerError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("gone"), "{error}");
    // Whoever wants a new farm says so.
    fs::remove_file(world.path().join("farm.mark")).unwrap();
    assert!(world.reopen().is_empty());
}

#[test]
fn an_interrupted_beginning_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("farm.sqlite.new"), b"half of a database").unwrap();
    fs::write(folder.path().join("farm.mark"), b"").unwrap();
    let state = crate::state_dir::StateDir::open(folder.path()).unwrap();
    crate::store::Store::open(&state, Durability::Synced).unwrap();
}

#[test]
fn an_older_database_than_was_acknowledged() {
    let (mut world, database) = world();
    let old = fs::read(&database).unwrap();
    world.reopen();
    world.accept(row(2, 10));
    world.close();
    fs::write(&database, old).unwrap();
    let error = world.try_open().unwrap_err();
    assert!(matches!(&error, SchedulerError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("acknowledged"), "{error}");
    let faults = admin::check(world.path()).unwrap().faults;
    assert!(faults.len() == 1 && faults[0].contains("acknowledged"), "{faults:?}");
    // A mark that is itself damaged accuses nobody, but is told of.
    let mark = fs::File::options().write(true).open(world.path().join("farm.mark")).unwrap();
    mark.write_all_at(&[1; 1024], 0).unwrap();
    let faults = admin::check(world.path()).unwrap().faults;
    assert!(faults.len() == 1 && faults[0].contains("farm.mark"), "{faults:?}");
    assert_eq!(world.reopen().len(), 1);
    assert_eq!(admin::check(world.path()).unwrap().faults, SOUND, "it is written again");
}

#[test]
fn a_folder_that_is_none_or_of_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nowhere");
    for path in [folder.path(), &nowhere] {
        assert!(matches!(admin::check(path), Err(SchedulerError::Foreign { .. })));
        assert!(matches!(admin::gc(path), Err(SchedulerError::Foreign { .. })));
        assert!(matches!(admin::backup(path, &folder.path().join("to")), Err(SchedulerError::Foreign { .. })));
    }
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is made");
}
