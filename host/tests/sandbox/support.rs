//! A hostile guest's world: WAT in, an outcome out.

use std::path::{Path, PathBuf};

use farm_host::artefact::Cache;
use farm_host::module::{ModuleInfo, encode_argument, prepare};
use farm_host::sandbox::{Ended, Sandbox, SandboxSpec, Task};
use farm_proto::ids::JobId;
use farm_proto::job::{CommandOptions, Limits, Profile};
use farm_proto::outcome::{Failure, FailureKind};
use tempfile::TempDir;

/// A module, compiled into a folder of its own.
pub(crate) struct Guest {
    pub(crate) info: ModuleInfo,
    pub(crate) artefact: PathBuf,
    pub(crate) spec: SandboxSpec,
    directory: TempDir,
}

impl Guest {
    /// Prepares and compiles WAT or wasm.
    pub(crate) fn new(module: impl Into<Vec<u8>>) -> Self {
        Self::with_profile(module, Profile::Fast)
    }

    pub(crate) fn with_profile(module: impl Into<Vec<u8>>, profile: Profile) -> Self {
        let prepared = prepare(module.into()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path().join("cache")).unwrap();
        let artefact = cache.compile_here(&prepared.bytes, profile).unwrap();
        let info = prepared.info;
        let spec = SandboxSpec {
            kind: info.kind,
            function: info.functions[0].name.clone(),
            limits: Limits::default(),
            profile,
            env: Vec::new(),
            inputs: None,
            outputs: None,
            secrets: None,
            command: CommandOptions::default(),
            result: info.result_encoding(&info.functions[0], &CommandOptions::default()),
        };
        Self { info, artefact, spec, directory }
    }

    /// Changes the job.
    pub(crate) fn job(mut self, change: impl FnOnce(&mut SandboxSpec)) -> Self {
        change(&mut self.spec);
        self
    }

    pub(crate) fn function(self, name: &str) -> Self {
        self.job(|spec| spec.function = name.to_owned())
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn open(&self) -> Result<Sandbox, Failure> {
        Sandbox::open(&self.artefact, self.spec.clone())
    }

    /// Calls the function once with one element of the arguments.
    pub(crate) fn call(&self, element: &str) -> (Vec<u8>, Ended) {
        let mut sandbox = self.open().unwrap_or_else(|failure| panic!("{failure}"));
        let function = self.info.find(Some(&self.spec.function)).unwrap();
        let mut argument = Vec::new();
        encode_argument(self.spec.kind, function, element.as_bytes(), &mut argument).unwrap();
        call(&mut sandbox, &argument)
    }

    /// The value, which is text.
    pub(crate) fn value(&self, element: &str) -> String {
        let (result, ended) = self.call(element);
        assert_eq!(ended.failure, None, "with {element}");
        String::from_utf8(result).unwrap()
    }

    /// The failure.
    pub(crate) fn failure(&self, element: &str) -> Failure {
        let (result, ended) = self.call(element);
        assert!(result.is_empty(), "a failed task leaves no result: {result:?}");
        ended.failure.unwrap_or_else(|| panic!("no failure with {element}"))
    }

    /// The failure's message, after its kind was checked.
    pub(crate) fn fails(&self, element: &str, kind: FailureKind) -> String {
        let failure = self.failure(element);
        assert_eq!(failure.kind, kind, "{failure}");
        failure.message
    }
}

pub(crate) fn call(sandbox: &mut Sandbox, argument: &[u8]) -> (Vec<u8>, Ended) {
    let mut result = Vec::new();
    let ended = sandbox.call(Task { job: JobId(1), index: 0, attempt: 0, argument }, &mut result);
    (result, ended)
}

/// A built SDK module.
pub(crate) fn sdk_guest(name: &str) -> Vec<u8> {
    let directory = match std::env::var_os("FARM_GUESTS") {
        Some(directory) => PathBuf::from(directory),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests"),
    };
    let path = directory.join(name).with_extension("wasm");
    std::fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; `cargo xtask guests` makes it", path.display());
    })
}

/// A program for WASI 0.1 that writes `text` to a descriptor `times` times and then exits with `code`.
pub(crate) fn printer(descriptor: u32, text: &str, times: u32, code: u32) -> String {
    let length = text.len();
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 2)
            (data (i32.const 64) {text:?})
            (func (export "_start") (local $left i32)
                (i32.store (i32.const 0) (i32.const 64))
                (i32.store (i32.const 4) (i32.const {length}))
                (local.set $left (i32.const {times}))
                (block $done
                    (loop $again
                        (br_if $done (i32.eqz (local.get $left)))
                        (drop (call $write (i32.const {descriptor}) (i32.const 0) (i32.const 1) (i32.const 16)))
                        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                        (br $again)))
                (call $exit (i32.const {code}))))"#
    )
}
