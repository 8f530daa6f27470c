//! Functions made with the SDK.

use farm_host::module::{Capability, prepare};
use farm_proto::job::{ModuleKind, Profile};
use farm_proto::outcome::FailureKind;

use crate::support::{Guest, sdk_guest};

fn square() -> Guest {
    Guest::new(sdk_guest("square")).function("square")
}

#[test]
fn a_value_comes_back() {
    assert_eq!(square().value("12"), "144");
    assert_eq!(square().value("-3037000499"), "9223372030926249001");
}

#[test]
fn a_returned_error_is_told() {
    let message = square().fails("3037000500", FailureKind::ReturnedError);
    assert!(message.contains("3037000500"), "{message}");
}

#[test]
fn a_wrong_argument_is_told_by_the_function_itself() {
    let mut sandbox = square().open().unwrap();
    let (_, ended) = crate::support::call(&mut sandbox, b"\"x\"");
    assert_eq!(ended.failure.unwrap().kind, FailureKind::BadArguments);
}

#[test]
fn an_unknown_function_is_told_with_those_that_there_are() {
    let guest = square();
    let mut sandbox = Guest::new(sdk_guest("square")).function("cube").open().unwrap();
    let (_, ended) = crate::support::call(&mut sandbox, b"1");
    let failure = ended.failure.unwrap();
    assert_eq!(failure.kind, FailureKind::NoSuchFunction);
    assert!(failure.message.starts_with("no function `cube`; there are: "), "{failure}");
    assert!(failure.message.contains(&guest.info.functions[0].name));
}

#[test]
fn the_description_is_in_the_bytes() {
    let prepared = prepare(sdk_guest("square")).unwrap();
    assert_eq!(prepared.info.kind, ModuleKind::Sdk);
    let function = prepared.info.find(Some("square")).unwrap();
    assert!(!function.doc.is_empty());
    assert_eq!(function.params[0].type_text, "i64");
    assert!(function.params[0].schema.is_some());
    let again = prepare(prepared.bytes.clone()).unwrap();
    assert_eq!(again.bytes, prepared.bytes);
    assert_eq!(again.info, prepared.info);
}

#[test]
fn a_pure_function_touches_nothing() {
    let info = square().info;
    assert!(info.touches.iter().all(|touches| *touches == Capability::Task), "{:?}", info.touches);
}

#[test]
fn a_metered_call_costs_the_same_each_time() {
    let guest = Guest::with_profile(sdk_guest("square"), Profile::Metered).function("square");
    let first = guest.call("12").1.fuel_used.unwrap();
    assert_eq!(guest.call("12").1.fuel_used, Some(first));
}

#[test]
fn a_backtrace_names_functions_files_and_lines() {
    let guest = Guest::with_profile(sdk_guest("square"), Profile::Metered).function("square");
    let needed = guest.call("12").1.fuel_used.unwrap();
    let (_, ended) = guest.job(|spec| spec.limits.fuel = Some(needed / 2)).call("12");
    let failure = ended.failure.unwrap();
    assert_eq!(failure.kind, FailureKind::OutOfFuel);
    let is_told = |frame: &farm_proto::outcome::GuestFrame| {
        frame.file.as_ref().is_some_and(|file| file.ends_with(".rs")) && frame.line.is_some()
    };
    assert!(failure.backtrace.iter().any(is_told), "{:#?}", failure.backtrace);
    assert!(failure.backtrace.iter().any(|frame| frame.function.contains("::")), "{:#?}", failure.backtrace);
}
