//! What is run: WAT, one behaviour a function.

use std::path::{Path, PathBuf};

use farm_host::artefact::Cache;
use farm_host::module::prepare;
use farm_host::slot::{JobFolders, JobSetup};
use farm_proto::ids::{Digest, JobId};
use farm_proto::job::{
    Args, CommandOptions, JobSpec, Limits, ModuleKind, ModuleRef, Mounts, Profile, ResultEncoding, StdoutMode,
};

/// Functions of an integer. Those that never end do so only for 0.
pub(crate) const FUNCTIONS: &str = r#"(module
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 256)
    (func (export "square") (param i64) (result i64) (i64.mul (local.get 0) (local.get 0)))
    (func (export "trap") (param i64) (result i64) (unreachable))
    (func (export "spin") (param i64) (result i64)
        (if (i64.eqz (local.get 0)) (then (loop $again (br $again))))
        (local.get 0))
    (func (export "fill") (param i64) (result i64)
        (if (i64.eqz (local.get 0)) (then (loop $again
            (memory.fill (i32.const 0) (i32.const 1) (i32.const 16777216))
            (br $again))))
        (local.get 0))
    ;; Sleeps for so many milliseconds: for an hour if it is 0.
    (func (export "sleep") (param i64) (result i64)
        (i64.store (i32.const 0) (i64.const 0))     ;; userdata
        (i32.store8 (i32.const 8) (i32.const 0))    ;; a clock
        (i32.store (i32.const 16) (i32.const 1))    ;; the monotonic one
        (i64.store (i32.const 24) (i64.mul (i64.const 1000000)
            (select (i64.const 3600000) (local.get 0) (i64.eqz (local.get 0)))))
        (i64.store (i32.const 32) (i64.const 0))
        (i32.store16 (i32.const 40) (i32.const 0))  ;; relative
        (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
        (local.get 0))
)"#;

/// A module without imports: the quickest there is.
pub(crate) const SQUARE: &str = r#"(module (memory 1)
    (func (export "square") (param i64) (result i64) (i64.mul (local.get 0) (local.get 0))))"#;

/// Functions of two integers. They add how often their instance was called before, which is never.
pub(crate) const FOLDS: &str = r#"(module
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (global $calls (mut i64) (i64.const 0))
    (func $called (result i64)
        (global.get $calls)
        (global.set $calls (i64.add (global.get $calls) (i64.const 1000000))))
    (func (export "add") (param i64 i64) (result i64)
        (i64.add (call $called) (i64.add (local.get 0) (local.get 1))))
    (func (export "sub") (param i64 i64) (result i64)
        (i64.add (call $called) (i64.sub (local.get 0) (local.get 1))))
    ;; Sleeps for 100 ms, then adds.
    (func (export "slow") (param i64 i64) (result i64)
        (i64.store (i32.const 0) (i64.const 0))
        (i32.store8 (i32.const 8) (i32.const 0))
        (i32.store (i32.const 16) (i32.const 1))
        (i64.store (i32.const 24) (i64.const 100000000))
        (i64.store (i32.const 32) (i64.const 0))
        (i32.store16 (i32.const 40) (i32.const 0))
        (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
        (i64.add (local.get 0) (local.get 1)))
)"#;

/// A command that writes 5 MiB.
pub(crate) const LARGE: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 2)
    (func (export "_start") (local $left i32)
        (memory.fill (i32.const 65536) (i32.const 120) (i32.const 65536))
        (i32.store (i32.const 0) (i32.const 65536))
        (i32.store (i32.const 4) (i32.const 65536))
        (local.set $left (i32.const 80))
        (loop $again
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
            (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))))"#;

/// A command that writes what the file `/in/a/b.txt` holds, up to 64 bytes.
pub(crate) const READS_INPUT: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "a/b.txt")
    (func (export "_start") (local $errno i32)
        (local.set $errno (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 7) (i32.const 0)
            (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16)))
        (if (local.get $errno) (then (call $exit (local.get $errno))))
        (i32.store (i32.const 32) (i32.const 128))
        (i32.store (i32.const 36) (i32.const 64))
        (if (call $read (i32.load (i32.const 16)) (i32.const 32) (i32.const 1) (i32.const 24))
            (then (call $exit (i32.const 99))))
        (i32.store (i32.const 36) (i32.load (i32.const 24)))
        (drop (call $write (i32.const 1) (i32.const 32) (i32.const 1) (i32.const 24)))))"#;

/// A component that counts to its argument, tells each step, and takes about a millisecond for it.
pub(crate) const COUNTS: &str = r#"(component
    (import "farm:function/host@0.1.0" (instance $host
        (export "progress" (func (param "done" u64) (param "total" u64)))))
    (core func $progress (canon lower (func $host "progress")))
    (core module $m
        (import "host" "progress" (func $progress (param i64 i64)))
        (func (export "count") (param $n i64) (result i64) (local $done i64) (local $spin i32)
            (loop $step
                (local.set $done (i64.add (local.get $done) (i64.const 1)))
                (call $progress (local.get $done) (local.get $n))
                (local.set $spin (i32.const 1000000))
                (loop $again (br_if $again (local.tee $spin (i32.sub (local.get $spin) (i32.const 1)))))
                (br_if $step (i64.lt_u (local.get $done) (local.get $n))))
            (local.get $done)))
    (core instance $i (instantiate $m (with "host" (instance (export "progress" (func $progress))))))
    (func (export "count") (param "n" s64) (result s64) (canon lift (core func $i "count"))))"#;

/// A module as the client ships it, and what a scheduler says of it.
pub(crate) fn shipped(wat: &str, function: &str, args: Args) -> (Vec<u8>, JobSpec) {
    let prepared = prepare(wat.as_bytes().to_vec()).unwrap();
    let kind = prepared.info.kind;
    let module = ModuleRef {
        digest: Digest::of(&prepared.bytes),
        size: prepared.bytes.len() as u64,
        kind,
        result: if kind == ModuleKind::Command { ResultEncoding::Text } else { ResultEncoding::Json },
    };
    let spec = JobSpec {
        cluster: None,
        time_request_ms: None,
        name: None,
        module,
        function: function.to_owned(),
        args,
        limits: Limits::default(),
        profile: Profile::Fast,
        env: Vec::new(),
        inputs: Vec::new(),
        mounts: Mounts::default(),
        command: CommandOptions { stdout: StdoutMode::Text, ok_exit: vec![0] },
        retries: 0,
        max_failures: None,
        priority: 0,
        after: Vec::new(),
        fold: false,
    };
    (prepared.bytes, spec)
}

/// A module compiled into a folder, ready for slots.
pub(crate) fn setup(wat: &str, function: &str, folder: &Path) -> JobSetup {
    let (bytes, spec) = shipped(wat, function, Args::Range { start: 0, end: 1 });
    JobSetup::new(JobId(1), &spec, compiled(&bytes, folder), JobFolders::default())
}

fn compiled(bytes: &[u8], folder: &Path) -> PathBuf {
    let cache = Cache::open(folder.join("artefacts")).unwrap();
    cache.compile_here(bytes, Profile::Fast).unwrap()
}
