//! Core modules: numbers in, numbers out.

use farm_proto::outcome::FailureKind;

use crate::support::Guest;

fn identity(ty: &str) -> Guest {
    Guest::new(format!(r#"(module (func (export "f") (param $x {ty}) (result {ty}) (local.get $x)))"#))
}

#[test]
fn a_number_goes_through() {
    assert_eq!(identity("i32").value("-7"), "-7");
    assert_eq!(identity("i64").value("42"), "42");
    assert_eq!(identity("f32").value("0.1"), "0.1");
    assert_eq!(identity("f64").value("0.1"), "0.1");
    assert_eq!(identity("f64").value("3"), "3.0");
}

#[test]
fn integers_beyond_the_53_bits_of_a_float_are_exact() {
    let guest = identity("i64");
    for value in [(1_i64 << 53) + 1, i64::MAX, i64::MIN] {
        assert_eq!(guest.value(&value.to_string()), value.to_string());
    }
}

#[test]
fn integers_have_no_sign_as_parameters() {
    assert_eq!(identity("i32").value("4294967295"), "-1");
    assert_eq!(identity("i64").value("18446744073709551615"), "-1");
}

#[test]
fn integers_out_of_range_are_bad_arguments() {
    let i32 = identity("i32");
    assert_eq!(
        i32.fails("4294967296", FailureKind::BadArguments),
        "$: expected an integer from -2147483648 to 4294967295, found 4294967296"
    );
    identity("i64").fails("18446744073709551616", FailureKind::BadArguments);
    identity("i64").fails("-9223372036854775809", FailureKind::BadArguments);
    assert!(i32.fails("1.5", FailureKind::BadArguments).ends_with("found 1.5"));
    assert!(i32.fails(r#""1""#, FailureKind::BadArguments).ends_with(r#"found "1""#));
}

#[test]
fn what_is_no_finite_number_is_a_string() {
    for ty in ["f32", "f64"] {
        for text in [r#""NaN""#, r#""Infinity""#, r#""-Infinity""#] {
            assert_eq!(identity(ty).value(text), text);
        }
    }
    assert_eq!(identity("f64").value("-0.0"), "-0.0");
    assert!(identity("f32").fails("1e300", FailureKind::BadArguments).starts_with("$: expected a number"));
}

#[test]
fn several_parameters_come_by_position_or_by_name() {
    let guest = Guest::new(
        r#"(module (func (export "sub") (param $a i32) (param $b i32) (result i32)
            (i32.sub (local.get $a) (local.get $b))))"#,
    );
    let names: Vec<&str> = guest.info.functions[0].params.iter().map(|param| param.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(guest.value("[5, 3]"), "2");
    assert_eq!(guest.value(r#"{"b": 3, "a": 5}"#), "2");
    guest.fails("[5]", FailureKind::BadArguments);
    guest.fails("[5, 3, 1]", FailureKind::BadArguments);
    guest.fails("5", FailureKind::BadArguments);
    assert!(guest.fails(r#"[5, "x"]"#, FailureKind::BadArguments).starts_with("$[1]: expected an integer"));
}

#[test]
fn several_results_are_an_array_and_none_is_null() {
    let guest = Guest::new(
        r#"(module
            (func (export "pair") (result i32 f64) (i32.const 1) (f64.const 0.5))
            (func (export "none")))"#,
    );
    assert_eq!(guest.value("[]"), "[1,0.5]");
    assert_eq!(guest.function("none").value("null"), "null");
}

#[test]
fn the_functions_that_there_are_are_listed() {
    let guest = Guest::new(
        r#"(module
            (func (export "_initialize"))
            (func (export "a"))
            (func (export "vector") (param v128))
            (func (export "b")))"#,
    );
    let names: Vec<&str> = guest.info.functions.iter().map(|function| function.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let failure = guest.function("c").open().unwrap_err();
    assert_eq!(failure.kind, FailureKind::NoSuchFunction);
    assert_eq!(failure.message, "no function `c`; there are: a, vector, b");
}

#[test]
fn a_reactor_is_initialised_before_each_call() {
    let guest = Guest::new(
        r#"(module
            (global $ready (mut i32) (i32.const 0))
            (func (export "_initialize") (global.set $ready (i32.add (global.get $ready) (i32.const 1))))
            (func (export "ready") (result i32) (global.get $ready)))"#,
    );
    assert_eq!(guest.value("null"), "1");
}

#[test]
fn each_call_has_a_fresh_instance() {
    let guest = Guest::new(
        r#"(module
            (memory 1)
            (global $count (mut i32) (i32.const 0))
            (func (export "count") (result i32)
                (global.set $count (i32.add (global.get $count) (i32.const 1)))
                (i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const 1)))
                (i32.add (global.get $count) (i32.load (i32.const 8)))))"#,
    );
    let mut sandbox = guest.open().unwrap();
    for _ in 0..100 {
        let (result, ended) = crate::support::call(&mut sandbox, b"null");
        assert_eq!((result.as_slice(), ended.failure), (&b"2"[..], None));
    }
}

#[test]
fn results_are_appended() {
    let mut sandbox = identity("i32").open().unwrap();
    let mut result = Vec::new();
    for (index, argument) in ["1", "x", "22"].iter().enumerate() {
        let task = farm_host::sandbox::Task {
            job: farm_proto::ids::JobId(1),
            index: index as u64,
            attempt: 0,
            argument: argument.as_bytes(),
        };
        sandbox.call(task, &mut result);
    }
    assert_eq!(result, b"122");
}

#[test]
fn assemblyscripts_abort_tells_its_message_and_place() {
    let guest = Guest::new(
        r#"(module
            (import "env" "abort" (func $abort (param i32 i32 i32 i32)))
            (memory (export "memory") 1)
            (data (i32.const 8) "\04\00\00\00n\00o\00")
            (data (i32.const 24) "\08\00\00\00a\00.\00t\00s\00")
            (func (export "f") (call $abort (i32.const 12) (i32.const 28) (i32.const 3) (i32.const 5)) unreachable))"#,
    );
    let failure = guest.failure("null");
    assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Panic, "no, a.ts:3"));
    assert!(!failure.backtrace.is_empty());
}

#[test]
fn a_module_of_a_hundred_tables_does_without_the_pool() {
    let tables = "(table 1 funcref)".repeat(100);
    let guest = Guest::new(format!(r#"(module {tables} (func (export "f") (result i32) (i32.const 1)))"#));
    assert_eq!(guest.value("null"), "1");
}
