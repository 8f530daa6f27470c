//! What a host does for an SDK function, with a handler in WAT: any language can write one.

use std::sync::{Arc, Mutex};

use farm_host::module::{Capability, ModuleError, prepare};
use farm_host::sandbox::Task;
use farm_proto::ids::JobId;
use farm_proto::job::{ModuleKind, ResultEncoding};
use farm_proto::outcome::FailureKind;
use wit_component::StringEncoding;
use wit_parser::Resolve;

use crate::support::Guest;

const DESCRIPTION: &str = r#"{"version":1,"functions":[{"name":"f","doc":"Does it.","params":[]}]}"#;

/// A handler whose every function does `body`, which leaves the address of the answer: `0` and a list, or `1` and a
/// failure. `$name` and `$input` are what it is called with; texts lie at their own addresses.
fn handler(body: &str, describe: &str) -> Vec<u8> {
    let length = DESCRIPTION.len();
    let module = format!(
        r#"(module
            (import "farm:function/host@0.1.0" "log" (func $log (param i32 i32 i32)))
            (import "farm:function/host@0.1.0" "progress" (func $progress (param i64 i64)))
            (import "farm:function/host@0.1.0" "task" (func $task (param i32)))
            (import "farm:function/panic@0.1.0" "panicked" (func $panicked (param i32 i32 i32 i32 i32 i32)))
            (memory (export "memory") 1)
            (data (i32.const 1000) {DESCRIPTION:?})
            (data (i32.const 2000) "boom")
            (data (i32.const 2100) "src/lib.rs")
            (global $free (mut i32) (i32.const 8192))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
                (local.set $at (global.get $free))
                (global.set $free (i32.and (i32.add (i32.add (global.get $free) (local.get 3)) (i32.const 15))
                    (i32.const -16)))
                (local.get $at))
            ;; Answers with the list of `length` bytes at `at`.
            (func $ok (param $at i32) (param $length i32) (result i32)
                (i32.store (i32.const 100) (i32.const 0))
                (i32.store (i32.const 104) (local.get $at))
                (i32.store (i32.const 108) (local.get $length))
                (i32.const 100))
            ;; Answers with the failure number `case` and the text at `at`.
            (func $err (param $case i32) (param $at i32) (param $length i32) (result i32)
                (i32.store (i32.const 100) (i32.const 1))
                (i32.store (i32.const 104) (local.get $case))
                (i32.store (i32.const 108) (local.get $at))
                (i32.store (i32.const 112) (local.get $length))
                (i32.const 100))
            (func (export "farm:function/handler@0.1.0#call")
                (param $name i32) (param $name_length i32) (param $input i32) (param $input_length i32) (result i32)
                {body})
            (func (export "farm:function/handler@0.1.0#describe") (result i32)
                {describe}
                (i32.store (i32.const 200) (i32.const 1000))
                (i32.store (i32.const 204) (i32.const {length}))
                (i32.const 200)))"#
    );
    let mut module = wat::parse_str(module).unwrap();
    let mut resolve = Resolve::default();
    let package = resolve.push_str("farm.wit", include_str!("../../../guest-sdk/wit/farm.wit")).unwrap();
    let world = resolve.select_world(&[package], Some("function")).unwrap();
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    module
}

fn guest(body: &str) -> Guest {
    Guest::new(handler(body, ""))
}

const ECHO: &str = "(call $ok (local.get $input) (local.get $input_length))";

#[test]
fn a_core_module_with_component_types_becomes_a_component() {
    let module = handler(ECHO, "");
    let prepared = prepare(module.clone()).unwrap();
    assert_eq!(prepared.info.kind, ModuleKind::Sdk);
    assert!(wasmparser::Parser::is_component(&prepared.bytes));
    assert_ne!(prepared.bytes, module);
    assert_eq!(prepared.info.touches, [Capability::Task]);
    assert_eq!(prepared.info.functions[0].doc, "Does it.");
    // The description went into the bytes, so that nothing runs the second time.
    let again = prepare(prepared.bytes.clone()).unwrap();
    assert_eq!((again.bytes, again.info), (prepared.bytes, prepared.info));
}

#[test]
fn a_description_that_never_ends_is_given_up() {
    let error = prepare(handler(ECHO, "(loop $again (br $again))")).unwrap_err();
    assert!(matches!(error, ModuleError::Describe { .. }));
    assert!(error.to_string().contains("used up its fuel"), "{error}");
}

#[test]
fn a_description_that_is_none_is_refused() {
    let error = prepare(handler(ECHO, r#"(i32.store8 (i32.const 1000) (i32.const 63))"#)).unwrap_err();
    assert!(matches!(error, ModuleError::Describe { .. }), "{error}");
}

#[test]
fn input_and_result_are_bytes() {
    let guest = guest(ECHO);
    assert_eq!(guest.value("[1, 2]"), "[1,2]");
    assert_eq!(guest.value(&format!("{:?}", "x".repeat(40_000))).len(), 40_002);
}

#[test]
fn a_result_that_has_to_be_json_is() {
    let guest = guest("(call $ok (i32.const 2000) (i32.const 4))");
    let message = guest.fails("[]", FailureKind::ReturnedError);
    assert!(message.starts_with("the function's result is not JSON"), "{message}");
    assert_eq!(guest.job(|spec| spec.result = ResultEncoding::Bytes).value("[]"), "boom");
}

#[test]
fn failures_have_their_kinds() {
    for (case, kind, message) in [
        (0, FailureKind::NoSuchFunction, "no function `f`; there are: boom"),
        (1, FailureKind::BadArguments, "boom"),
        (2, FailureKind::ReturnedError, "boom"),
    ] {
        let guest = guest(&format!("(call $err (i32.const {case}) (i32.const 2000) (i32.const 4))"));
        assert_eq!(guest.fails("[]", kind), message);
    }
}

#[test]
fn a_panic_is_told_with_its_place() {
    let guest = guest(
        "(call $panicked (i32.const 2000) (i32.const 4) (i32.const 2100) (i32.const 10) (i32.const 12) (i32.const 5))
        unreachable",
    );
    let failure = guest.failure("[]");
    assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Panic, "boom, src/lib.rs:12"));
    assert!(!failure.backtrace.is_empty());
}

#[test]
fn a_panic_for_want_of_memory_is_the_memory_limit() {
    let guest = guest(
        "(drop (memory.grow (i32.const 2000)))
        (call $panicked (i32.const 2000) (i32.const 4) (i32.const 2100) (i32.const 10) (i32.const 12) (i32.const 5))
        unreachable",
    );
    guest.job(|spec| spec.limits.memory = 64 << 20).fails("[]", FailureKind::MemoryLimit);
}

const LOGS: &str = r#"(local $left i32)
    (local.set $left (i32.const 100000))
    (loop $again
        (call $log (i32.const 1) (i32.const 2000) (i32.const 4))
        (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (call $ok (local.get $input) (local.get $input_length))"#;

#[test]
fn the_log_is_kept_up_to_the_limit() {
    let guest = guest(LOGS).job(|spec| spec.limits.output = 25);
    let (_, ended) = guest.call("[]");
    assert_eq!(ended.failure, None);
    assert_eq!(ended.captured.log, "warn: boom\nwarn: boom\n");
    assert!(ended.captured.truncated);
}

#[test]
fn a_line_that_is_too_long_is_cut() {
    let guest =
        guest("(call $log (i32.const 0) (i32.const 2000) (i32.const 4)) (call $ok (local.get $input) (i32.const 2))");
    let (_, ended) = guest.job(|spec| spec.limits.output = 10).call("[]");
    assert_eq!(ended.captured.log, "error: bo\n");
    assert!(ended.captured.truncated);
}

#[test]
fn progress_is_passed_on_with_the_tasks_index() {
    let guest = guest("(call $progress (i64.const 3) (i64.const 10)) (call $ok (local.get $input) (i32.const 2))");
    let mut sandbox = guest.open().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let teller = Arc::clone(&told);
    sandbox.set_progress(Box::new(move |index, done, total| teller.lock().unwrap().push((index, done, total))));
    let mut result = Vec::new();
    let ended = sandbox.call(Task { job: JobId(4), index: 17, attempt: 0, argument: b"[]" }, &mut result);
    assert_eq!(ended.failure, None);
    assert_eq!(*told.lock().unwrap(), [(17, 3, 10)]);
}

#[test]
fn a_task_knows_its_job_index_attempt_and_seed() {
    let guest = guest("(call $task (i32.const 3000)) (call $ok (i32.const 3000) (i32.const 32))")
        .job(|spec| spec.result = ResultEncoding::Bytes);
    let mut sandbox = guest.open().unwrap();
    let mut facts = |index, attempt| {
        let mut result = Vec::new();
        let ended = sandbox.call(Task { job: JobId(4), index, attempt, argument: b"[]" }, &mut result);
        assert_eq!(ended.failure, None);
        let number = |at: usize| u64::from_le_bytes(result[at..at + 8].try_into().unwrap());
        (number(0), number(8), number(16) as u32, number(24))
    };
    let (job, index, attempt, seed) = facts(17, 2);
    assert_eq!((job, index, attempt), (4, 17, 2));
    assert_eq!(facts(17, 3).3, seed);
    assert_ne!(facts(18, 2).3, seed);
}

#[test]
fn a_result_above_the_limit_is_refused_before_it_is_copied() {
    let guest = guest("(drop (memory.grow (i32.const 16000))) (call $ok (i32.const 0) (i32.const 1000000000))");
    guest.job(|spec| spec.limits.memory = 2 << 30).fails("[]", FailureKind::ResultTooLarge);
}

#[test]
fn an_answer_that_lies_outside_of_memory_is_a_trap() {
    guest("(call $ok (i32.const -16) (i32.const 100))").fails("[]", FailureKind::Trap);
    guest("(i32.const -4)").fails("[]", FailureKind::Trap);
}
