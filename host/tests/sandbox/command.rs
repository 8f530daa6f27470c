//! WASI programs.

use farm_host::module::encode_argument;
use farm_proto::job::{ModuleKind, Profile, StdoutMode};
use farm_proto::outcome::FailureKind;

use crate::support::{Guest, printer};

/// Copies standard input to standard output, in pieces of 64 bytes.
const CAT: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (loop $again
            (i32.store (i32.const 0) (i32.const 64))
            (i32.store (i32.const 4) (i32.const 64))
            (if (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
            (if (i32.load (i32.const 8)) (then
                (i32.store (i32.const 4) (i32.load (i32.const 8)))
                (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)) (then unreachable))
                (br $again))))))"#;

/// Writes the block that `list` fills (arguments or environment) to standard output, NULs and all.
fn prints_list(list: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "{list}_sizes_get" (func $sizes (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "{list}_get" (func $get (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "_start")
                (drop (call $sizes (i32.const 0) (i32.const 4)))
                (drop (call $get (i32.const 1024) (i32.const 4096)))
                (i32.store (i32.const 0) (i32.const 4096))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
    )
}

#[test]
fn a_string_is_its_input_and_its_output_the_result() {
    let guest = Guest::new(CAT);
    let text = "zeile ü\n".repeat(1000);
    assert_eq!(guest.value(&serde_json::to_string(&text).unwrap()), text);
}

#[test]
fn of_other_json_it_reads_the_text() {
    let guest = Guest::new(CAT);
    assert_eq!(guest.value("[1, 2]"), "[1,2]");
    assert_eq!(guest.value("17"), "17");
    assert_eq!(guest.value(r#"{"stdin": {"base64": "YWJj"}}"#), "abc");
}

#[test]
fn arguments_come_after_the_name() {
    let guest = Guest::new(prints_list("args"));
    assert_eq!(guest.value(r#"{"args": ["-n", 5]}"#), "main.wasm\0-n\x005\0");
    // Found before it is sent, and by the sandbox as well.
    let mut sandbox = guest.open().unwrap();
    let argument = br#"{"args": 5}"#;
    let refused = encode_argument(ModuleKind::Command, &guest.info.functions[0], argument, &mut Vec::new());
    assert_eq!(refused.unwrap_err().path, "$.args");
    let failure = crate::support::call(&mut sandbox, argument).1.failure.unwrap();
    assert_eq!(failure.kind, FailureKind::BadArguments);
    assert!(failure.message.starts_with("$.args: expected"), "{failure}");
}

#[test]
fn a_task_may_overrule_the_jobs_environment() {
    let guest = Guest::new(prints_list("environ"))
        .job(|spec| spec.env = vec![("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())]);
    assert_eq!(guest.value(r#""""#), "A=1\0B=2\0");
    assert_eq!(guest.value(r#"{"env": {"A": "x", "C": 3}}"#), "B=2\0A=x\0C=3\0");
}

#[test]
fn exit_codes_that_are_not_good_fail_with_the_last_words() {
    let guest = Guest::new(printer(2, "what went wrong\n", 1, 10));
    let (_, ended) = guest.call(r#""""#);
    let failure = ended.failure.unwrap();
    assert_eq!(failure.kind, FailureKind::ReturnedError);
    assert_eq!(failure.message, "the program ended with exit code 10: what went wrong");
    assert_eq!(ended.captured.stderr, b"what went wrong\n");
    let guest = guest.job(|spec| spec.command.ok_exit = vec![0, 10, 20]);
    assert_eq!(guest.value(r#""""#), "");
}

#[test]
fn json_on_standard_output_is_checked_and_made_one_line() {
    let json = |text| Guest::new(printer(1, text, 1, 0)).job(|spec| spec.command.stdout = StdoutMode::Json);
    assert_eq!(json("{\n  \"a b\": [1,\n 2]\n}\n").value(r#""""#), r#"{"a b":[1,2]}"#);
    for broken in ["", "{", "1 2", "hello"] {
        let message = json(broken).fails(r#""""#, FailureKind::ReturnedError);
        assert!(message.starts_with("standard output is not one JSON text"), "{message}");
    }
}

#[test]
fn bytes_that_are_no_text_need_base64() {
    let module = printer(1, "\u{1}", 1, 0).replace("\\u{1}", "\\ff");
    let guest = Guest::new(module);
    guest.fails(r#""""#, FailureKind::ReturnedError);
    let guest = guest.job(|spec| spec.command.stdout = StdoutMode::Base64);
    assert_eq!(guest.call(r#""""#).0, [0xff]);
}

#[test]
fn a_panic_is_read_from_standard_error() {
    let text = "thread 'main' panicked at src/main.rs:3:5:\nboom\nnote: run with `RUST_BACKTRACE=1`\n";
    let module = printer(2, text, 1, 0).replace("(call $exit (i32.const 0))", "unreachable");
    let guest = Guest::new(module);
    assert_eq!(guest.fails(r#""""#, FailureKind::Panic), "boom, src/main.rs:3");
}

#[test]
fn a_trap_comes_with_the_last_words() {
    let module = printer(2, "about to fail\n", 1, 0).replace("(call $exit (i32.const 0))", "unreachable");
    let message = Guest::new(module).fails(r#""""#, FailureKind::Trap);
    assert_eq!(message, "the guest gave up (`unreachable`); its last words: about to fail");
}

/// Prints eight random bytes and the time.
const RANDOM: &str = r#"(module
    (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (drop (call $random (i32.const 64) (i32.const 8)))
        (drop (call $clock (i32.const 0) (i64.const 0) (i32.const 72)))
        (i32.store (i32.const 0) (i32.const 64))
        (i32.store (i32.const 4) (i32.const 16))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

#[test]
fn chance_and_time_are_the_same_for_a_metered_task_and_not_for_others() {
    let run = |profile| {
        let guest = Guest::with_profile(RANDOM, profile).job(|spec| spec.command.stdout = StdoutMode::Base64);
        guest.call(r#""""#).0
    };
    assert_eq!(run(Profile::Metered), run(Profile::Metered));
    assert_ne!(run(Profile::Fast), run(Profile::Fast));
}

#[test]
fn nothing_is_mounted_but_the_inputs() {
    // Opens `/in/data` or fails with the code that `path_open` gives.
    let module = r#"(module
        (import "wasi_snapshot_preview1" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (data (i32.const 512) "data")
        (func (export "_start") (local $errno i32)
            (local.set $errno (call $open (i32.const 3) (i32.const 0) (i32.const 512) (i32.const 4)
                (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 0)))
            (if (local.get $errno) (then (call $exit (local.get $errno))))
            (i32.store (i32.const 8) (i32.const 1024))
            (i32.store (i32.const 12) (i32.const 100))
            (drop (call $read (i32.load (i32.const 0)) (i32.const 8) (i32.const 1) (i32.const 4)))
            (i32.store (i32.const 12) (i32.load (i32.const 4)))
            (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))))"#;
    let inputs = tempfile::tempdir().unwrap();
    std::fs::write(inputs.path().join("data"), "of the job").unwrap();
    let guest = Guest::new(module);
    let badf = "the program ended with exit code 8";
    assert_eq!(guest.fails(r#""""#, FailureKind::ReturnedError), badf);
    let guest = guest.job(|spec| spec.inputs = Some(inputs.path().to_path_buf()));
    assert_eq!(guest.value(r#""""#), "of the job");
    let guest = guest.job(|spec| spec.inputs = Some(inputs.path().join("gone")));
    guest.fails(r#""""#, FailureKind::WorkerLost);
}

#[test]
fn what_other_kinds_print_is_captured() {
    let module = printer(1, "hello\n", 2, 0).replace(r#"(export "_start")"#, r#"(export "f")"#);
    let module = module.replace("(call $exit (i32.const 0))", "");
    let guest = Guest::new(module).job(|spec| spec.limits.output = 8);
    let (result, ended) = guest.call("null");
    assert_eq!((result.as_slice(), ended.failure), (&b"null"[..], None));
    assert_eq!(ended.captured.stdout, b"hello\nhe");
    assert!(ended.captured.truncated);
}

/// A component that exports `wasi:cli/run` and ends with an error.
const FAILING_COMPONENT: &str = r#"(component
    (core module $m (func (export "run") (result i32) (i32.const 1)))
    (core instance $i (instantiate $m))
    (func $run (result (result)) (canon lift (core func $i "run")))
    (instance $api (export "run" (func $run)))
    (export "wasi:cli/run@0.2.3" (instance $api)))"#;

#[test]
fn a_component_is_a_program_as_well() {
    let guest = Guest::new(FAILING_COMPONENT);
    let message = guest.fails(r#""""#, FailureKind::ReturnedError);
    assert_eq!(message, "the program ended with exit code 1");
    let guest = guest.job(|spec| spec.command.ok_exit = vec![1]);
    assert_eq!(guest.value(r#""""#), "");
}
