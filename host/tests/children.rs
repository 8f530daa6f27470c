//! What needs a process of its own: the compiler, programs with their standard streams, and little address space. This
//! program is its own child, and so has no harness.

#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use farm_host::artefact::{ArtefactError, COMPILE_COMMAND, Cache, Compiler, compile_main};
use farm_host::program::{ProgramOptions, run};
use farm_host::sandbox::{Layout, Sandbox, SandboxSpec, Task};
use farm_proto::ids::{Digest, JobId};
use farm_proto::job::{CommandOptions, Limits, ModuleKind, Profile, ResultEncoding};
use farm_proto::outcome::{Failure, FailureKind};
use rustix::process::{Resource, Rlimit};
use tempfile::TempDir;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|first| first == COMPILE_COMMAND) {
        return compile_main(args.into_iter().skip(1));
    }
    if args.first().is_some_and(|first| first == "little-space") {
        return in_little_space();
    }
    if args.first().is_some_and(|first| first == "program") {
        return as_program(&args[1..]);
    }
    let tests: [(&str, fn()); 10] = [
        ("a_module_is_compiled_once", a_module_is_compiled_once),
        ("a_module_that_does_not_compile_says_why", a_module_that_does_not_compile_says_why),
        ("a_compiler_that_takes_too_long_is_killed", a_compiler_that_takes_too_long_is_killed),
        ("a_compiler_that_needs_too_much_memory_is_told", a_compiler_that_needs_too_much_memory_is_told),
        ("a_compiler_that_dies_is_told", a_compiler_that_dies_is_told),
        ("a_folder_that_cannot_be_written_to_is_the_workers_fault", a_folder_that_cannot_be_written_to),
        ("nothing_is_left_behind", nothing_is_left_behind),
        ("tasks_run_where_address_space_is_limited", tasks_run_where_address_space_is_limited),
        ("a_program_has_its_own_streams_and_exit_code", a_program_has_its_own_streams_and_exit_code),
        ("a_program_reads_and_writes_its_directories", a_program_reads_and_writes_its_directories),
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

fn child(mode: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(mode);
    command
}

fn tasks_run_where_address_space_is_limited() {
    assert!(child("little-space").status().unwrap().success());
}

/// The child: as on a machine with `ulimit -v`.
fn in_little_space() -> ExitCode {
    const SPACE: u64 = 1 << 30;
    let space = Rlimit { current: Some(SPACE), maximum: Some(SPACE) };
    rustix::process::setrlimit(Resource::As, space).unwrap();
    assert_eq!(Layout::of_process(), Layout::Compact);
    let module = r#"(module
        (memory 1)
        (func (export "f") (param $pages i32) (result i32)
            (drop (memory.grow (local.get $pages)))
            (i32.store (i32.const 65536) (i32.const 7))
            (i32.load (i32.const 65536))))"#;
    let world = World::new(&wat::parse_str(module).unwrap());
    let artefact = world.compile(&world.compiler()).unwrap();
    let spec = SandboxSpec {
        kind: ModuleKind::Core,
        function: "f".to_owned(),
        limits: Limits::default(),
        profile: Profile::Fast,
        env: Vec::new(),
        inputs: None,
        outputs: None,
        secrets: None,
        command: CommandOptions::default(),
        result: ResultEncoding::Json,
    };
    let mut sandbox = Sandbox::open(&artefact, spec).unwrap();
    let mut call = |argument: &[u8]| {
        let mut result = Vec::new();
        let ended = sandbox.call(Task { job: JobId(1), index: 0, attempt: 0, argument }, &mut result);
        (result, ended.failure)
    };
    for _ in 0..100 {
        assert_eq!(call(b"100"), (b"7".to_vec(), None));
    }
    let (_, failure) = call(b"0");
    assert_eq!(failure.unwrap().message, "out of bounds memory access");
    ExitCode::SUCCESS
}

/// The child: `farm run M -- ARGV…`, with the directory of the first argument at `/`.
fn as_program(args: &[OsString]) -> ExitCode {
    let [directory, artefact, args @ ..] = args else { panic!("too few arguments") };
    let options = ProgramOptions {
        name: "program".to_owned(),
        args: args.iter().map(|arg| arg.to_str().unwrap().to_owned()).collect(),
        env: vec![("KEY".to_owned(), "value".to_owned())],
        directories: vec![(directory.into(), "/".to_owned())],
    };
    match run(Path::new(artefact), &options) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap()),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(134)
        }
    }
}

/// Runs a program and gives its exit code, output and errors.
fn program(module: &str, directory: &Path, input: &str) -> (Option<i32>, String, String) {
    let world = World::new(&wat::parse_str(module).unwrap());
    let artefact = world.compile(&world.compiler()).unwrap();
    let mut child = child("program");
    child.args([directory, &artefact]).arg("argument");
    child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn a_program_has_its_own_streams_and_exit_code() {
    // Copies one line of input to both outputs and ends with 7; traps without input.
    let module = r#"(module
        (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start")
            (i32.store (i32.const 0) (i32.const 64))
            (i32.store (i32.const 4) (i32.const 64))
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 4)))
            (if (i32.eqz (i32.load (i32.const 4))) (then unreachable))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
            (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 16)))
            (call $exit (i32.const 7))))"#;
    let directory = tempfile::tempdir().unwrap();
    let ended = program(module, directory.path(), "a line\n");
    assert_eq!(ended, (Some(7), "a line\n".to_owned(), "a line\n".to_owned()));
    let (code, _, stderr) = program(module, directory.path(), "");
    assert_eq!((code, stderr.as_str()), (Some(134), "trap: the guest gave up (`unreachable`)\n"));
}

fn a_program_reads_and_writes_its_directories() {
    // Makes the directory `made` below its first one.
    let module = r#"(module
        (import "wasi_snapshot_preview1" "path_create_directory" (func $make (param i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (data (i32.const 64) "made")
        (func (export "_start") (call $exit (call $make (i32.const 3) (i32.const 64) (i32.const 4)))))"#;
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(program(module, directory.path(), "").0, Some(0));
    assert!(directory.path().join("made").is_dir());
    let (code, _, stderr) = program(module, &directory.path().join("gone"), "");
    assert_eq!(code, Some(134));
    assert!(stderr.starts_with("cannot open the directory "), "{stderr}");
}
