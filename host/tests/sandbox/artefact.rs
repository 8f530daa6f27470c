//! Compiled modules and the folder they are kept in. The child process that compiles has a test of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use farm_host::artefact::{ArtefactError, Cache};
use farm_host::module::prepare;
use farm_host::sandbox::{Sandbox, compatibility};
use farm_proto::ids::Digest;
use farm_proto::job::Profile;
use farm_proto::outcome::FailureKind;

use crate::support::Guest;

const ONE: &str = r#"(module (func (export "f") (result i32) (i32.const 1)))"#;

fn mode(path: &std::path::Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_folder_is_private() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b");
    Cache::open(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    mode(&path, 0o750);
    assert!(matches!(Cache::open(&path), Err(ArtefactError::NotPrivate { .. })));
}

#[test]
fn a_folder_that_cannot_be_made_says_so() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Cache::open(file.path().join("below")).unwrap_err();
    assert!(error.to_string().contains("below: "), "{error}");
}

#[test]
fn an_artefact_is_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path().join("cache")).unwrap();
    let module = prepare(ONE.as_bytes().to_vec()).unwrap().bytes;
    let digest = Digest::of(&module);
    assert_eq!(cache.get(&digest, Profile::Fast).unwrap(), None);
    let made = cache.compile_here(&module, Profile::Fast).unwrap();
    assert_eq!(cache.get(&digest, Profile::Fast).unwrap(), Some(made.clone()));
    assert_eq!(cache.get(&digest, Profile::Metered).unwrap(), None);
    let names: Vec<_> = fs::read_dir(cache.directory()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn a_damaged_artefact_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path().join("cache")).unwrap();
    let module = prepare(ONE.as_bytes().to_vec()).unwrap().bytes;
    let digest = Digest::of(&module);
    let path = cache.compile_here(&module, Profile::Fast).unwrap();
    let whole = fs::read(&path).unwrap();
    let damages: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes.clear(),
        |bytes| *bytes = b"something else".to_vec(),
        |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        },
    ];
    for damage in damages {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        assert_eq!(cache.get(&digest, Profile::Fast).unwrap(), None);
        assert!(!path.exists());
        cache.compile_here(&module, Profile::Fast).unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
}

#[test]
fn an_artefact_outside_of_a_private_folder_is_not_opened() {
    let guest = Guest::new(ONE);
    let open = guest.directory().join("foreign.cwasm");
    fs::copy(&guest.artefact, &open).unwrap();
    mode(guest.directory(), 0o755);
    let failure = Sandbox::open(&open, guest.spec.clone()).unwrap_err();
    assert_eq!(failure.kind, FailureKind::WorkerLost);
    assert!(failure.message.contains("is no folder that only this user can enter"), "{failure}");
}

#[test]
fn what_is_no_artefact_is_not_opened() {
    let guest = Guest::new(ONE);
    for contents in [&b""[..], b"\0asm\x01\0\0\0", b"\x7fELF rest"] {
        fs::write(&guest.artefact, contents).unwrap();
        let failure = guest.open().unwrap_err();
        assert_eq!(failure.kind, FailureKind::WorkerLost);
        assert!(failure.message.contains("was not compiled by this farm"), "{failure}");
    }
    fs::remove_file(&guest.artefact).unwrap();
    guest.open().unwrap_err();
}

#[test]
fn an_artefact_of_another_engine_is_not_opened() {
    let guest = Guest::new(ONE);
    let metered = Guest::with_profile(ONE, Profile::Metered);
    fs::copy(&metered.artefact, &guest.artefact).unwrap();
    let failure = guest.open().unwrap_err();
    assert!(failure.message.contains("was not compiled by this farm for this machine"), "{failure}");
}

#[test]
fn a_job_that_names_another_kind_is_refused() {
    let guest = Guest::new(ONE).job(|spec| spec.kind = farm_proto::job::ModuleKind::Sdk);
    let failure = guest.open().unwrap_err();
    assert_eq!(failure.message, "the job names another kind of module than this is");
}

#[test]
fn profiles_and_layouts_do_not_share_artefacts() {
    use farm_host::sandbox::Layout::{Compact, Reserved};
    let mut hashes = Vec::new();
    for profile in [Profile::Fast, Profile::Metered] {
        for layout in [Reserved, Compact] {
            hashes.push(compatibility(profile, layout).unwrap());
        }
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 4);
}
