//! The child process that compiles. This program is its own child, and so has no harness.

#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use farm_host::artefact::{ArtefactError, COMPILE_COMMAND, Cache, Compiler, compile_main};
use farm_proto::ids::Digest;
use farm_proto::job::Profile;
use farm_proto::outcome::{Failure, FailureKind};
use tempfile::TempDir;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|first| first == COMPILE_COMMAND) {
        return compile_main(args.into_iter().skip(1));
    }
    let tests: [(&str, fn()); 7] = [
        ("a_module_is_compiled_once", a_module_is_compiled_once),
        ("a_module_that_does_not_compile_says_why", a_module_that_does_not_compile_says_why),
        ("a_compiler_that_takes_too_long_is_killed", a_compiler_that_takes_too_long_is_killed),
        ("a_compiler_that_needs_too_much_memory_is_told", a_compiler_that_needs_too_much_memory_is_told),
        ("a_compiler_that_dies_is_told", a_compiler_that_dies_is_told),
        ("a_folder_that_cannot_be_written_to_is_the_workers_fault", a_folder_that_cannot_be_written_to),
        ("nothing_is_left_behind", nothing_is_left_behind),
    ];
    // What a harness is asked with: a filter, or for a list.
    if args.iter().any(|arg| arg == "--list") {
        for (name, _) in tests {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let filter = args.iter().filter_map(|arg| arg.to_str()).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    for (name, test) in tests.iter().filter(|(name, _)| name.contains(filter)) {
        println!("test {name}");
        test();
    }
    ExitCode::SUCCESS
}

struct World {
    directory: TempDir,
    cache: Cache,
    module: PathBuf,
    digest: Digest,
}

impl World {
    fn new(module: &[u8]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path().join("cache")).unwrap();
        let path = directory.path().join("module.wasm");
        fs::write(&path, module).unwrap();
        Self { cache, module: path, digest: Digest::of(module), directory }
    }

    fn compiler(&self) -> Compiler {
        Compiler::new(std::env::current_exe().unwrap(), self.cache.clone())
    }

    fn compile(&self, compiler: &Compiler) -> Result<PathBuf, ArtefactError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(compiler.compile(&self.module, &self.digest, Profile::Fast))
    }

    fn files(&self) -> usize {
        fs::read_dir(self.cache.directory()).unwrap().count()
    }
}

fn small() -> Vec<u8> {
    wat::parse_str(r#"(module (func (export "f") (result i32) (i32.const 1)))"#).unwrap()
}

/// A module of many long functions.
fn large(functions: usize) -> Vec<u8> {
    let body = "(local.set 0 (i64.mul (i64.add (local.get 0) (i64.const 3)) (local.get 0)))".repeat(2000);
    let function = format!("(func (param i64) (result i64) {body} (local.get 0))");
    wat::parse_str(format!("(module {})", function.repeat(functions))).unwrap()
}

fn a_module_is_compiled_once() {
    let world = World::new(&small());
    let artefact = world.compile(&world.compiler()).unwrap();
    let made = fs::metadata(&artefact).unwrap().modified().unwrap();
    assert_eq!(world.compile(&world.compiler()).unwrap(), artefact);
    assert_eq!(fs::metadata(&artefact).unwrap().modified().unwrap(), made);
    // A damaged one is made again.
    fs::write(&artefact, "damaged").unwrap();
    world.compile(&world.compiler()).unwrap();
    assert_eq!(world.cache.get(&world.digest, Profile::Fast).unwrap(), Some(artefact));
    assert_eq!(world.files(), 2);
}

fn a_module_that_does_not_compile_says_why() {
    for bytes in [&b"\0asm\x01\0\0\0\x01\x05"[..], b"\x7fELF", b""] {
        let world = World::new(bytes);
        let error = world.compile(&world.compiler()).unwrap_err();
        assert!(matches!(error, ArtefactError::BadModule(_)), "{error:?}");
        assert_eq!(Failure::from(error).kind, FailureKind::BadModule);
        assert_eq!(world.files(), 0);
    }
}

fn a_compiler_that_takes_too_long_is_killed() {
    let world = World::new(&large(200));
    let compiler = world.compiler().timeout(Duration::from_millis(100));
    let error = world.compile(&compiler).unwrap_err();
    assert!(matches!(error, ArtefactError::TimedOut { .. }), "{error:?}");
    assert_eq!(world.files(), 0);
}

fn a_compiler_that_needs_too_much_memory_is_told() {
    let world = World::new(&large(300));
    let error = world.compile(&world.compiler().memory(40 << 20)).unwrap_err();
    assert!(matches!(error, ArtefactError::OutOfMemory { .. }), "{error:?}");
    assert_eq!(Failure::from(error).kind, FailureKind::BadModule);
    assert_eq!(world.files(), 0);
}

fn a_compiler_that_dies_is_told() {
    let world = World::new(&small());
    let script = world.directory.path().join("dies");
    fs::write(&script, "#!/bin/sh\necho last words >&2\nkill -SEGV $$\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
    let error = world.compile(&Compiler::new(&script, world.cache.clone())).unwrap_err();
    assert_eq!(error.to_string(), "the compiler died of signal 11: last words");
    let error = world.compile(&Compiler::new("/nonexistent", world.cache.clone())).unwrap_err();
    assert!(!error.is_of_module(), "{error}");
}

fn a_folder_that_cannot_be_written_to() {
    let world = World::new(&small());
    fs::remove_dir(world.cache.directory()).unwrap();
    let error = world.compile(&world.compiler()).unwrap_err();
    assert!(!error.is_of_module(), "{error}");
    assert_eq!(Failure::from(error).kind, FailureKind::WorkerLost);
    if Path::new("/dev/full").exists() {
        // What a child says of a full disk, whichever file it is.
        let script = world.directory.path().join("full");
        fs::write(&script, "#!/bin/sh\nexit 74\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
        let cache = Cache::open(world.directory.path().join("other")).unwrap();
        let error = world.compile(&Compiler::new(&script, cache)).unwrap_err();
        assert!(matches!(error, ArtefactError::DiskFull { .. }), "{error:?}");
    }
}

fn nothing_is_left_behind() {
    let world = World::new(&large(200));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let compiler = world.compiler();
    let given_up = runtime.block_on(async {
        let compiling = compiler.compile(&world.module, &world.digest, Profile::Fast);
        tokio::time::timeout(Duration::from_millis(50), compiling).await
    });
    assert!(given_up.is_err());
    assert_eq!(world.files(), 0);
}
