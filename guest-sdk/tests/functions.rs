//! Functions as a module's author writes them, called as a farm calls them.

#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "helpers of tests are tests, too")]

extern crate farm_sdk as farm;

use std::collections::BTreeMap;

use farm::testing::{self, Failure, call};
use farm::{Level, Task};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Debug, Serialize, Deserialize, farm::schemars::JsonSchema)]
#[schemars(crate = "farm::schemars")]
struct Point {
    x: f64,
    y: f64,
}

/// Known to serde alone.
#[derive(Debug, Serialize, Deserialize)]
struct Opaque {
    bits: u8,
}

/// Moves a point.
///
/// By `dx` to the right, and "up" by `dy`.
#[farm::function]
fn shift(point: Point, dx: f64, r#type: Option<String>) -> Point {
    let factor = if r#type.as_deref() == Some("double") { 2.0 } else { 1.0 };
    Point { x: point.x + factor * dx, y: point.y }
}

#[farm::function]
fn nothing() {}

#[farm::function]
fn same(value: Value) -> Value {
    value
}

#[farm::function]
fn exact(x: f64) -> f64 {
    x
}

#[farm::function]
fn opaque(mut value: Opaque) -> Vec<Opaque> {
    value.bits = !value.bits;
    vec![value]
}

#[farm::function]
fn parse(text: String) -> Result<i32, std::num::ParseIntError> {
    text.parse()
}

#[farm::function]
fn keys() -> BTreeMap<(u8, u8), u8> {
    BTreeMap::from([((1, 2), 3)])
}

#[farm::function(raw)]
fn reverse(input: &[u8]) -> Vec<u8> {
    input.iter().rev().copied().collect()
}

#[farm::function(raw, name = "raw:owned")]
fn owned(mut input: Vec<u8>) -> Result<Vec<u8>, String> {
    input.pop().ok_or("there is nothing")?;
    Ok(input)
}

#[farm::function]
#[cfg(not(test))]
fn left_out(value: NoSuchType) {}

mod inner {
    use super::farm;

    /// Visible from outside of its module only to the farm.
    #[farm::function]
    fn draws(count: usize) -> Vec<f64> {
        farm::progress(0, count as u64);
        farm::debug!("{count} draws");
        let mut rng = farm::rng();
        (0..count).map(|_| rng.f64()).collect()
    }
}

fn json_call(function: &str, input: Value) -> Result<Value, Failure> {
    call(function, input.to_string()).map(|output| serde_json::from_slice(&output).expect("JSON"))
}

fn bad(function: &str, input: &str) -> String {
    match call(function, input) {
        Err(Failure::BadArguments(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn arguments_come_by_position_or_by_name() {
    let moved = json!({"x": 3.0, "y": 2.0});
    assert_eq!(json_call("shift", json!([{"x": 1.0, "y": 2.0}, 2.0, null])), Ok(moved.clone()));
    assert_eq!(json_call("shift", json!([{"x": 1.0, "y": 2.0}, 2.0])), Ok(moved.clone()));
    assert_eq!(json_call("shift", json!({"dx": 2.0, "point": {"x": 1.0, "y": 2.0}})), Ok(moved.clone()));
    let doubled = json_call("shift", json!({"dx": 1.0, "point": {"x": 1.0, "y": 2.0}, "type": "double"}));
    assert_eq!(doubled, Ok(moved));
}

#[test]
fn a_function_of_nothing_takes_what_means_nothing() {
    for input in ["null", "[]", "{}", " null\n", ""] {
        assert_eq!(call("nothing", input), Ok(b"null".to_vec()));
    }
    assert_eq!(bad("nothing", "0"), "the function takes no arguments: give null, [] or {}");
}

#[test]
fn wrong_arguments_are_told_with_their_path() {
    assert_eq!(
        bad("shift", r#"[{"x":1.0,"y":"2"},2.0]"#),
        "argument[0].y: invalid type: string \"2\", expected f64 at column 17"
    );
    let expected = "expected an array of 3 arguments (point: Point, dx: f64, type: Option<String>), or an object with \
                    these names";
    assert!(bad("shift", "7").contains(expected), "{}", bad("shift", "7"));
    assert!(bad("shift", r#"{"point":{"x":1,"y":2}}"#).contains("missing field `dx`"));
    assert!(bad("shift", r#"{"point":{"x":1,"y":2},"dx":1,"dz":1}"#).contains("unknown field `dz`"));
    assert!(bad("same", "{").starts_with("argument: EOF while parsing"));
    assert!(bad("same", "1 2").starts_with("argument: trailing characters"));
}

#[test]
fn numbers_keep_all_their_bits() {
    for value in [0.1 + 0.2, f64::MIN_POSITIVE, f64::MAX, 1.0 / 3.0, 7.823_749_823_749_827e22] {
        let text = call("exact", serde_json::to_vec(&value).expect("JSON")).expect("a result");
        assert_eq!(serde_json::from_slice::<f64>(&text).expect("a number").to_bits(), value.to_bits());
    }
    for value in [json!(u64::MAX), json!(i64::MIN), json!((1_u64 << 53) + 1)] {
        assert_eq!(json_call("same", value.clone()), Ok(value));
    }
}

#[test]
fn errors_are_told() {
    assert_eq!(json_call("parse", json!("12")), Ok(json!(12)));
    let error = Failure::ReturnedError("invalid digit found in string".to_owned());
    assert_eq!(json_call("parse", json!("a")), Err(error));
    let error = Failure::ReturnedError("the result cannot be written as JSON: key must be a string".to_owned());
    assert_eq!(json_call("keys", json!(null)), Err(error));
}

#[test]
fn raw_functions_take_and_give_bytes() {
    assert_eq!(call("reverse", b"\xff\x00abc"), Ok(b"cba\x00\xff".to_vec()));
    assert_eq!(call("raw:owned", b"ab"), Ok(b"a".to_vec()));
    assert_eq!(call("raw:owned", b""), Err(Failure::ReturnedError("there is nothing".to_owned())));
}

#[test]
fn the_functions_that_there_are_are_named() {
    let Err(Failure::NoSuchFunction(names)) = call("left_out", "null") else { panic!("it should not be there") };
    assert_eq!(names, "shift, nothing, same, exact, opaque, parse, keys, reverse, raw:owned, draws");
}

#[test]
fn random_numbers_follow_the_task() {
    let draws = |seed| testing::with_task(Task { seed, ..Task::default() }, || json_call("draws", json!(3)));
    assert_eq!(draws(5), draws(5));
    assert_ne!(draws(5), draws(6));
    assert_eq!(farm::task(), Task::default());
    farm::log(Level::Warn, String::from("anything that is text"));
}

#[test]
fn functions_are_described_with_schemas() {
    let description: Value = serde_json::from_str(&testing::describe()).expect("JSON");
    assert_eq!(description["version"], 1);
    let function = |name: &str| {
        let functions = description["functions"].as_array().expect("an array");
        functions.iter().find(|function| function["name"] == name).unwrap_or(&Value::Null).clone()
    };
    let shift = function("shift");
    assert_eq!(shift["doc"], "Moves a point.\n\nBy `dx` to the right, and \"up\" by `dy`.");
    assert_eq!(shift["raw"], false);
    let point = &shift["params"][0];
    assert_eq!((&point["name"], &point["type"], &point["required"]), (&json!("point"), &json!("Point"), &json!(true)));
    assert_eq!(point["schema"]["properties"]["x"], json!({"type": "number", "format": "double"}));
    assert_eq!(point["schema"]["required"], json!(["x", "y"]));
    assert_eq!(shift["params"][2]["name"], "type");
    assert_eq!(shift["params"][2]["required"], false);
    assert_eq!(shift["result"]["type"], "Point");
    assert_eq!(shift["result"]["schema"]["type"], "object");
    assert_eq!(shift["params"][2]["schema"]["type"], json!(["string", "null"]));

    assert_eq!(function("parse")["result"]["type"], "i32", "the type of the value, not of the Result");
    assert_eq!(function("parse")["result"]["schema"], json!({"type": "integer", "format": "int32"}));
    assert_eq!(function("opaque")["params"][0]["schema"], true, "of a type without schema nothing is known");
    assert_eq!(function("nothing")["params"], json!([]));
    let reverse = function("reverse");
    assert_eq!((&reverse["raw"], &reverse["params"][0]["type"]), (&json!(true), &json!("&[u8]")));
    assert_eq!(reverse["params"][0].get("schema"), None);
}

/// Counts to three, one step for each checkpoint: how far the last attempt was, and the end.
fn counts() -> (u8, u8) {
    let restored = farm::restored().map_or(0, |state| state[0]);
    let mut count = restored;
    while count < 3 {
        count += 1;
        farm::checkpoint([count]).expect("a small state");
        if farm::should_stop() {
            farm::suspend([count]);
        }
    }
    (restored, count)
}

#[test]
fn an_attempt_goes_on_where_the_last_one_was() {
    let first = testing::attempt(None, 1, counts);
    assert_eq!((first.value, first.state.clone()), (None, Some(vec![1])));
    let second = testing::attempt(first.state, usize::MAX, counts);
    assert_eq!((second.value, second.state), (Some((1, 3)), Some(vec![3])));
    assert_eq!(counts(), (0, 3), "without an attempt, nothing is kept");
}

#[test]
fn a_state_that_is_too_large_is_refused_and_the_last_one_stays() {
    let ended = testing::attempt(None, usize::MAX, || {
        farm::checkpoint(b"small").unwrap();
        farm::checkpoint(vec![0; (16 << 20) + 1]).unwrap_err().to_string()
    });
    assert_eq!(ended.value.unwrap(), "a checkpoint of 16777217 bytes is more than the 16777216 that are kept");
    assert_eq!(ended.state.unwrap(), b"small");
}

#[test]
#[should_panic(expected = "before farm::should_stop() said so")]
fn nothing_is_suspended_on_a_worker_that_stays() {
    testing::attempt(None, usize::MAX, || farm::suspend(b""));
}
