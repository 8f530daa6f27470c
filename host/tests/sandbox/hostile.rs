//! Guests that misbehave, one behaviour each. Those that never end are ended by their slot, and tested there.

use std::time::{Duration, Instant};

use farm_proto::job::Profile;
use farm_proto::outcome::FailureKind;

use crate::support::{Guest, printer};

#[test]
fn unreachable_is_a_trap_with_a_backtrace() {
    let guest = Guest::new(
        r#"(module
            (func $inner unreachable)
            (func (export "outer") (call $inner)))"#,
    );
    let failure = guest.failure("null");
    assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Trap, "the guest gave up (`unreachable`)"));
    let functions: Vec<&str> = failure.backtrace.iter().map(|frame| frame.function.as_str()).collect();
    assert_eq!(functions, ["inner", "wasm function 1"]);
}

#[test]
fn other_traps_are_named() {
    for (body, message) in [
        ("(i32.load (i32.const 65536))", "out of bounds memory access"),
        ("(i32.div_s (i32.const 1) (i32.const 0))", "integer divide by zero"),
        ("(i32.trunc_f32_s (f32.const nan))", "invalid conversion to integer"),
        ("(call_indirect (result i32) (i32.const 9))", "undefined element: out of bounds table access"),
    ] {
        let module = format!(r#"(module (memory 1) (table 1 funcref) (func (export "f") (result i32) {body}))"#);
        assert_eq!(Guest::new(module).fails("null", FailureKind::Trap), message);
    }
}

#[test]
fn endless_recursion_is_told_as_such() {
    let guest = Guest::new(r#"(module (func $f (export "f") (call $f) (call $f)))"#);
    let message = guest.fails("null", FailureKind::Trap);
    assert!(message.starts_with("stack overflow"), "{message}");
}

#[test]
fn recursion_a_million_deep_is_nothing_special() {
    let guest = Guest::new(
        r#"(module
            (func $sum (export "sum") (param $n i64) (result i64)
                (if (result i64) (i64.eqz (local.get $n))
                    (then (i64.const 0))
                    (else (i64.add (local.get $n) (call $sum (i64.sub (local.get $n) (i64.const 1))))))))"#,
    );
    assert_eq!(guest.value("1000000"), "500000500000");
}

const GROWS_AND_TRAPS: &str = r#"(module
    (memory 1)
    (func (export "f")
        (loop $again
            (if (i32.eq (memory.grow (i32.const 100)) (i32.const -1)) (then unreachable))
            (br $again))))"#;

#[test]
fn a_guest_that_dies_for_want_of_memory_hit_its_limit() {
    let guest = Guest::new(GROWS_AND_TRAPS).job(|spec| spec.limits.memory = 64 << 20);
    let message = guest.fails("null", FailureKind::MemoryLimit);
    assert_eq!(message, "the task needs more memory than the job's limit of 64 MiB");
}

#[test]
fn a_guest_that_lives_with_less_memory_has_a_value() {
    let guest = Guest::new(
        r#"(module
            (memory 1)
            (func (export "f") (result i32)
                (loop $again (br_if $again (i32.ne (memory.grow (i32.const 100)) (i32.const -1))))
                (memory.size)))"#,
    );
    assert_eq!(guest.job(|spec| spec.limits.memory = 64 << 20).value("null"), "1001");
}

#[test]
fn a_memory_that_starts_above_the_limit_hit_it() {
    let guest = Guest::new(r#"(module (memory 2000) (func (export "f")))"#);
    guest.job(|spec| spec.limits.memory = 64 << 20).fails("null", FailureKind::MemoryLimit);
}

#[test]
fn tables_count_as_memory() {
    let guest = Guest::new(
        r#"(module
            (table $t 1 funcref)
            (func (export "f")
                (loop $again
                    (if (i32.eq (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1)) (then unreachable))
                    (br $again))))"#,
    );
    guest.job(|spec| spec.limits.memory = 256 << 10).fails("null", FailureKind::MemoryLimit);
}

#[test]
fn several_memories_share_the_limit() {
    let guest = Guest::new(
        r#"(module
            (memory $a 1) (memory $b 1)
            (func (export "f") (result i32 i32)
                (drop (memory.grow $a (i32.const 500)))
                (memory.grow $b (i32.const 600))
                (memory.size $a)))"#,
    );
    assert_eq!(guest.job(|spec| spec.limits.memory = 64 << 20).value("null"), "[-1,501]");
}

#[test]
fn a_gigabyte_of_output_is_cut_and_costs_nothing() {
    let line = "x".repeat(65_535) + "\n";
    let guest = Guest::new(printer(2, &line, 16 << 10, 0)).job(|spec| spec.limits.output = 1000);
    let started = Instant::now();
    let (result, ended) = guest.call(r#""""#);
    assert_eq!((result.as_slice(), ended.failure), (&b""[..], None));
    assert_eq!(ended.captured.stderr.len(), 1000);
    assert!(ended.captured.truncated);
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[test]
fn a_gigabyte_of_result_ends_at_the_limit() {
    let line = "x".repeat(65_535) + "\n";
    let guest = Guest::new(printer(1, &line, 16 << 10, 0)).job(|spec| spec.limits.result = 1 << 20);
    let message = guest.fails(r#""""#, FailureKind::ResultTooLarge);
    assert_eq!(message, "the result is larger than the job's limit of 1 MiB");
}

#[test]
fn a_component_that_returns_a_gigabyte_is_refused_before_it_is_copied() {
    let component = r#"(component
        (core module $m
            (memory (export "memory") 16384)
            (func (export "f") (result i32)
                (i32.store (i32.const 0) (i32.const 8))
                (i32.store (i32.const 4) (i32.const 1073741000))
                (i32.const 0)))
        (core instance $i (instantiate $m))
        (func (export "f") (result string) (canon lift (core func $i "f") (memory (core memory $i "memory")))))"#;
    let guest = Guest::new(component).job(|spec| {
        spec.limits.memory = 2 << 30;
        spec.limits.result = 1 << 20;
    });
    guest.fails("null", FailureKind::ResultTooLarge);
}

#[test]
fn a_text_that_grows_as_json_is_written_no_further_than_the_limit() {
    // As JSON, each of its 4 Mi NULs is six bytes.
    let component = r#"(component
        (core module $m
            (memory (export "memory") 128)
            (func (export "f") (result i32)
                (i32.store (i32.const 0) (i32.const 8))
                (i32.store (i32.const 4) (i32.const 0x400000))
                (i32.const 0)))
        (core instance $i (instantiate $m))
        (func (export "f") (result string) (canon lift (core func $i "f") (memory (core memory $i "memory")))))"#;
    let guest = Guest::new(component).job(|spec| spec.limits.result = 8 << 20);
    let (result, ended) = guest.call("null");
    assert_eq!(ended.failure.unwrap().kind, FailureKind::ResultTooLarge);
    assert!(result.is_empty() && result.capacity() <= 16 << 20, "{} bytes were taken", result.capacity());
}

#[test]
fn a_result_just_above_the_limit_is_refused() {
    let guest = Guest::new(r#"(module (func (export "f") (result i64) (i64.const 123456)))"#);
    assert_eq!(guest.value("null"), "123456");
    guest.job(|spec| spec.limits.result = 5).fails("null", FailureKind::ResultTooLarge);
}

#[test]
fn a_start_function_may_trap() {
    let guest = Guest::new(r#"(module (func $s unreachable) (start $s) (func (export "f")))"#);
    let failure = guest.failure("null");
    assert_eq!(failure.kind, FailureKind::Trap);
    assert_eq!(failure.backtrace[0].function, "s");
}

#[test]
fn an_initialisation_may_trap() {
    let guest = Guest::new(r#"(module (func (export "_initialize") unreachable) (func (export "f")))"#);
    guest.fails("null", FailureKind::Trap);
}

#[test]
fn data_that_lies_outside_of_the_memory_is_a_trap() {
    let guest = Guest::new(r#"(module (memory 1) (data (i32.const 65536) "x") (func (export "f")))"#);
    assert_eq!(guest.fails("null", FailureKind::Trap), "out of bounds memory access");
}

#[test]
fn exceptions_are_caught_where_the_guest_does() {
    let guest = Guest::new(
        r#"(module
            (tag $t (param i32))
            (func (export "f") (param $n i32) (result i32) (local $sum i32)
                (loop $again
                    (block $caught (result i32)
                        (try_table (catch $t $caught) (throw $t (local.get $n)))
                        (i32.const 0))
                    (local.set $sum (i32.add (local.get $sum)))
                    (local.set $n (i32.sub (local.get $n) (i32.const 1)))
                    (br_if $again (local.get $n)))
                (local.get $sum)))"#,
    );
    assert_eq!(guest.value("4"), "10");
    // Each of a million exceptions is freed: together they would not fit.
    assert_eq!(guest.job(|spec| spec.limits.memory = 16 << 20).value("1000000"), "1784293664");
}

#[test]
fn an_exception_that_nobody_catches_is_a_trap() {
    let guest = Guest::new(r#"(module (tag $t) (func (export "f") (throw $t)))"#);
    assert_eq!(guest.fails("null", FailureKind::Trap), "an exception was thrown and not caught");
}

#[test]
fn tail_calls_need_no_stack() {
    let guest = Guest::new(
        r#"(module
            (func $down (export "down") (param $n i64) (result i64)
                (if (i64.eqz (local.get $n)) (then (return (i64.const 7))))
                (return_call $down (i64.sub (local.get $n) (i64.const 1)))))"#,
    );
    assert_eq!(guest.value("50000000"), "7");
}

#[test]
fn a_table_of_a_hundred_thousand_functions_fits_the_pool() {
    let guest = Guest::new(
        r#"(module
            (table $t 100000 funcref)
            (elem (i32.const 99999) $f)
            (func $f (result i32) (i32.const 5))
            (func (export "f") (result i32) (call_indirect (result i32) (i32.const 99999))))"#,
    );
    assert_eq!(guest.value("null"), "5");
}

#[test]
fn a_module_of_twenty_megabytes_of_data_is_nothing_special() {
    const PAGES: usize = 320;
    let data = "\\01".repeat(PAGES * 65_536);
    let guest = Guest::new(format!(
        r#"(module
            (memory {PAGES})
            (data (i32.const 0) "{data}")
            (func (export "at") (param $i i32) (result i32) (i32.load8_u (local.get $i))))"#
    ));
    assert_eq!(guest.value("20971519"), "1");
    assert_eq!(guest.fails("20971520", FailureKind::Trap), "out of bounds memory access");
}

#[test]
fn a_64_bit_memory_works() {
    let guest = Guest::new(
        r#"(module
            (memory i64 1)
            (func (export "f") (param $at i64) (result i64)
                (i64.store (local.get $at) (i64.const 3)) (i64.load (local.get $at))))"#,
    );
    assert_eq!(guest.value("65528"), "3");
    assert_eq!(guest.fails("65536", FailureKind::Trap), "out of bounds memory access");
}

const LOOPS: &str = r#"(module (func (export "f") (loop $again (br $again))))"#;

#[test]
fn a_metered_loop_runs_out_of_fuel() {
    let guest = Guest::with_profile(LOOPS, Profile::Metered).job(|spec| spec.limits.fuel = Some(100_000));
    let (_, ended) = guest.call("null");
    let failure = ended.failure.unwrap();
    assert_eq!(
        (failure.kind, failure.message.as_str()),
        (FailureKind::OutOfFuel, "the task used up its fuel of 100000")
    );
    assert_eq!(ended.fuel_used, Some(100_000));
}

#[test]
fn a_metered_call_costs_the_same_each_time() {
    let module = r#"(module (func (export "f") (param $n i32) (loop $l
        (local.set $n (i32.sub (local.get $n) (i32.const 1))) (br_if $l (local.get $n)))))"#;
    let guest = Guest::with_profile(module, Profile::Metered);
    let costs: Vec<_> = (0..3).map(|_| guest.call("100").1.fuel_used).collect();
    assert!(costs[0].is_some_and(|fuel| fuel > 400));
    assert!(costs.iter().all(|cost| cost == &costs[0]));
}

#[test]
fn a_guest_on_a_small_thread_overflows_its_own_stack_only() {
    let guest = Guest::new(r#"(module (func $f (export "f") (call $f) (call $f)))"#);
    let mut sandbox = guest.open().unwrap();
    let thread = std::thread::Builder::new().stack_size(256 << 10);
    let ended = std::thread::scope(|scope| {
        thread.spawn_scoped(scope, || crate::support::call(&mut sandbox, b"null").1).unwrap().join().unwrap()
    });
    assert!(ended.failure.is_some_and(|failure| failure.message.starts_with("stack overflow")));
}
