//! Arguments, checked before they are sent.

use farm_host::module::{ArgumentChecker, FunctionInfo};
use serde_json::{Value, json};

fn function(params: Value) -> FunctionInfo {
    serde_json::from_value(json!({"name": "f", "params": params})).unwrap()
}

/// A checker of one parameter.
fn of(schema: Value) -> ArgumentChecker {
    ArgumentChecker::new(&function(json!([{"name": "x", "type": "T", "schema": schema}])))
}

fn takes(checker: &ArgumentChecker, elements: &[&str]) {
    for element in elements {
        if let Err(error) = checker.check(element.as_bytes()) {
            panic!("{element}: {error}");
        }
    }
}

fn refuses(checker: &ArgumentChecker, cases: &[(&str, &str)]) {
    for (element, message) in cases {
        let error = checker.check(element.as_bytes()).expect_err(element);
        assert_eq!(error.to_string(), *message);
    }
}

#[test]
fn integers_are_checked_with_their_bounds() {
    let byte = of(json!({"type": "integer", "format": "uint8", "minimum": 0, "maximum": 255}));
    takes(&byte, &["0", "255"]);
    refuses(
        &byte,
        &[
            ("256", "$: expected an integer from 0 to 255, found 256"),
            ("-1", "$: expected an integer from 0 to 255, found -1"),
            ("1.5", "$: expected an integer from 0 to 255, found 1.5"),
            ("1e2", "$: expected an integer from 0 to 255, found 100.0"),
            (r#""7""#, r#"$: expected an integer from 0 to 255, found "7""#),
            ("null", "$: expected an integer from 0 to 255, found null"),
        ],
    );
    let long = of(json!({"type": "integer", "format": "int64"}));
    takes(&long, &["-9223372036854775808", "9223372036854775807", "9007199254740993"]);
    refuses(
        &long,
        &[(
            "9223372036854775808",
            "$: expected an integer from -9223372036854775808 to 9223372036854775807, found 9223372036854775808",
        )],
    );
    let wide = of(json!({"type": "integer", "format": "uint128", "minimum": 0}));
    takes(&wide, &["340282366920938463463374607431768211455"]);
}

#[test]
fn numbers_take_integers_too() {
    let number = of(json!({"type": "number", "format": "double"}));
    takes(&number, &["1", "-1.5", "1e300"]);
    refuses(
        &number,
        &[("true", "$: expected a number, found true"), ("[]", "$: expected a number, found an array of 0 items")],
    );
}

#[test]
fn a_fault_is_told_with_its_path() {
    let points = of(json!({
        "type": "array",
        "items": {"$ref": "#/$defs/Muon"},
        "$defs": {
            "Muon": {
                "type": "object",
                "properties": {"px1": {"type": "number"}, "charge-sign": {"type": "integer"}, "a b": {"type": "string"}},
                "required": ["px1"],
            },
        },
    }));
    takes(&points, &["[]", r#"[{"px1": 1, "unknown": true}]"#]);
    refuses(
        &points,
        &[
            (r#"[{"px1": "abc"}]"#, r#"$[0].px1: expected a number, found "abc""#),
            (r#"[{"px1": 1}, {}]"#, "$[1].px1: expected a number, found nothing"),
            (r#"[{"px1": 1, "a b": 2}]"#, r#"$[0]["a b"]: expected a string, found 2"#),
            (r#"[7]"#, "$[0]: expected an object, found 7"),
            (r#"{"px1": 1}"#, r#"$: expected an array, found an object with "px1""#),
        ],
    );
}

#[test]
fn enums_are_checked_as_serde_writes_them() {
    let shape = of(json!({
        "oneOf": [
            {"type": "string", "enum": ["Point", "Line"]},
            {"type": "object", "properties": {"Circle": {"type": "number"}}, "required": ["Circle"],
             "additionalProperties": false},
            {"description": "documented", "type": "string", "const": "Nothing"},
        ],
    }));
    takes(&shape, &[r#""Point""#, r#"{"Circle": 1.5}"#, r#""Nothing""#]);
    refuses(
        &shape,
        &[
            (r#"{"Circle": "big"}"#, r#"$.Circle: expected a number, found "big""#),
            (r#""Square""#, r#"$: expected "Point" or "Line", an object or "Nothing", found "Square""#),
        ],
    );
    let option = of(json!({"type": ["integer", "null"], "format": "int32"}));
    takes(&option, &["null", "1"]);
    refuses(&option, &[("true", "$: expected null or an integer from -2147483648 to 2147483647, found true")]);
}

#[test]
fn tuples_arrays_and_texts_have_a_length() {
    let pair = of(json!({
        "type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "maxItems": 2,
    }));
    takes(&pair, &[r#"[1, "a"]"#]);
    refuses(
        &pair,
        &[
            ("[1]", "$: expected an array of 2 items, found an array of 1 item"),
            ("[1, 2]", "$[1]: expected a string, found 2"),
        ],
    );
    let letter = of(json!({"type": "string", "minLength": 1, "maxLength": 1}));
    takes(&letter, &[r#""ü""#]);
    refuses(&letter, &[(r#""ab""#, r#"$: expected a string of 1 character, found "ab""#)]);
}

#[test]
fn maps_and_closed_objects_check_what_is_not_listed() {
    let map = of(json!({"type": "object", "additionalProperties": {"type": "integer"}}));
    takes(&map, &["{}", r#"{"any": 1}"#]);
    refuses(&map, &[(r#"{"any": "x"}"#, r#"$.any: expected an integer, found "x""#)]);
    let keyed = of(json!({
        "type": "object", "patternProperties": {"^\\d+$": {"type": "boolean"}}, "additionalProperties": false,
    }));
    takes(&keyed, &[r#"{"1": true}"#]);
    let closed = of(json!({
        "type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "additionalProperties": false,
    }));
    refuses(&closed, &[(r#"{"c": 1}"#, "$.c: expected only a and b, found 1")]);
}

#[test]
fn a_type_may_contain_itself() {
    let tree = of(json!({
        "$ref": "#/$defs/Tree",
        "$defs": {"Tree": {
            "type": "object",
            "properties": {"value": {"type": "integer"}, "children": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}},
            "required": ["value"],
        }},
    }));
    takes(&tree, &[r#"{"value": 1, "children": [{"value": 2, "children": []}]}"#]);
    refuses(
        &tree,
        &[(
            r#"{"value": 1, "children": [{"value": 2, "children": [{"value": null}]}]}"#,
            "$.children[0].children[0].value: expected an integer, found null",
        )],
    );
}

#[test]
fn what_the_checker_does_not_know_it_lets_pass() {
    takes(&of(json!({"type": "string", "format": "uuid", "pattern": "^x$"})), &[r#""anything""#]);
    takes(&of(json!({"not": {}})), &["1"]);
    takes(&of(json!({"$ref": "https://example.org/other"})), &["1"]);
    takes(&of(json!(true)), &["1", "null"]);
    refuses(&of(json!(false)), &[("1", "$: expected nothing, found 1")]);
}

#[test]
fn several_parameters_come_by_position_or_by_name() {
    let checker = ArgumentChecker::new(&function(json!([
        {"name": "text", "type": "String", "schema": {"type": "string"}},
        {"name": "times", "type": "u8", "schema": {"type": "integer", "format": "uint8"}},
        {"name": "loud", "type": "Option<bool>", "required": false, "schema": {"type": ["boolean", "null"]}},
    ])));
    takes(&checker, &[r#"["a", 1]"#, r#"["a", 1, true]"#, r#"{"times": 1, "text": "a"}"#]);
    let signature = "an array (text: String, times: u8, loud: Option<bool>) or an object with these names";
    refuses(
        &checker,
        &[
            (r#"["a"]"#, &format!("$: expected {signature}, found an array of 1 item")),
            (r#""a""#, &format!(r#"$: expected {signature}, found "a""#)),
            (r#"["a", 1, true, 2]"#, &format!("$: expected {signature}, found an array of 4 items")),
            (r#"["a", 300]"#, "$[1]: expected an integer from 0 to 255, found 300"),
            (r#"{"text": "a"}"#, "$.times: expected a value of type u8, found nothing"),
            (r#"{"text": "a", "times": "b"}"#, r#"$.times: expected an integer from 0 to 255, found "b""#),
            (
                r#"{"text": "a", "times": 1, "lout": true}"#,
                &format!("$.lout: expected {signature}, found a parameter that the function does not have"),
            ),
        ],
    );
}

#[test]
fn a_function_without_parameters_takes_nothing() {
    let checker = ArgumentChecker::new(&function(json!([])));
    takes(&checker, &["null", "[]", "{}"]);
    refuses(&checker, &[("1", "$: expected null, [] or {}, for the function takes no argument, found 1")]);
}

#[test]
fn long_values_are_told_in_short() {
    let text = format!("{:?}", "x".repeat(1000));
    let error = of(json!({"type": "integer"})).check(text.as_bytes()).unwrap_err();
    assert!(error.found.len() < 50, "{error}");
}

#[test]
fn a_million_numbers_are_checked_in_no_time() {
    let checker = of(json!({"type": "integer", "format": "int64"}));
    let started = std::time::Instant::now();
    for number in 0..1_000_000 {
        checker.check(number.to_string().as_bytes()).unwrap();
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
}
