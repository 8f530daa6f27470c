//! Typed components: JSON to WIT values and back.

use farm_proto::outcome::FailureKind;
use serde_json::{Value, json};

use crate::support::Guest;

/// A component whose function `f` gives back the list that it is given. `types` declares what `item` needs.
fn echo(types: &str, item: &str) -> String {
    format!(
        r#"(component
        (core module $m
            (memory (export "memory") 1)
            (global $free (mut i32) (i32.const 1024))
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
                (local.set $at (i32.and
                    (i32.add (global.get $free) (i32.const 15)) (i32.const -16)))
                (global.set $free (i32.add (local.get $at) (local.get 3)))
                (block $enough
                    (br_if $enough (i32.le_u (global.get $free) (i32.mul (memory.size) (i32.const 65536))))
                    (drop (memory.grow (i32.add (i32.const 1) (i32.div_u (local.get 3) (i32.const 65536))))))
                (local.get $at))
            (func (export "f") (param i32 i32) (result i32)
                (i32.store (i32.const 8) (local.get 0))
                (i32.store (i32.const 12) (local.get 1))
                (i32.const 8)))
        (core instance $i (instantiate $m))
        {types}
        (func (export "f") (param "x" (list {item})) (result (list {item}))
            (canon lift (core func $i "f") (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))"#
    )
}

/// Each element goes through and comes back the same.
fn goes_through(types: &str, item: &str, values: &Value) {
    let guest = Guest::new(echo(types, item));
    let text = guest.value(&values.to_string());
    let back: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(&back, values, "of type {item}");
}

/// Each is refused, with the path of the fault and what is expected there.
fn is_refused(types: &str, item: &str, cases: &[(&str, &str)]) {
    let guest = Guest::new(echo(types, item));
    for (json, expected) in cases {
        let message = guest.fails(&format!("[{json}]"), FailureKind::BadArguments);
        assert!(message.starts_with(expected), "{json}: {message}");
    }
}

#[test]
fn numbers_keep_all_of_their_bits() {
    goes_through("", "u8", &json!([0, 255]));
    goes_through("", "s8", &json!([-128, 127]));
    goes_through("", "u16", &json!([0, 65_535]));
    goes_through("", "s16", &json!([-32_768, 32_767]));
    goes_through("", "u32", &json!([0, u32::MAX]));
    goes_through("", "s32", &json!([i32::MIN, i32::MAX]));
    goes_through("", "u64", &json!([0, u64::MAX, (1_u64 << 53) + 1]));
    goes_through("", "s64", &json!([i64::MIN, i64::MAX]));
    goes_through("", "f32", &json!([0.5, -0.0, "NaN", "Infinity", "-Infinity"]));
    goes_through("", "f64", &json!([0.1, 1e300, "NaN", "Infinity", "-Infinity"]));
}

#[test]
fn texts_and_booleans_go_through() {
    goes_through("", "bool", &json!([true, false]));
    goes_through("", "char", &json!(["a", "ü", "🐄", "\"", "\n"]));
    goes_through("", "string", &json!(["", "plain", "\u{0}\u{1f}\"\\ü🐄", "long ".repeat(5000)]));
}

const SHAPE: &str = r#"
    (type $point' (record (field "x" f64) (field "label" (option string))))
    (import "point" (type $point (eq $point')))
    (type $shape' (variant (case "none") (case "circle" f64) (case "path" (list $point))))
    (import "shape" (type $shape (eq $shape')))
    (type $colour' (enum "red" "dark-green"))
    (import "colour" (type $colour (eq $colour')))
    (type $rights' (flags "read" "write" "execute"))
    (import "rights" (type $rights (eq $rights')))"#;

#[test]
fn compound_values_go_through() {
    goes_through(SHAPE, "$point", &json!([{"x": 1.5, "label": null}, {"x": -2.0, "label": "a"}]));
    goes_through(
        SHAPE,
        "$shape",
        &json!(["none", {"circle": 2.5}, {"path": [{"x": 0.0, "label": "b"}]}, {"path": []}]),
    );
    goes_through(SHAPE, "$colour", &json!(["red", "dark-green"]));
    goes_through(SHAPE, "$rights", &json!([[], ["read"], ["read", "write", "execute"]]));
    goes_through("", "(tuple u8 string (list bool))", &json!([[1, "a", [true]], [2, "", []]]));
    goes_through("", "(option u32)", &json!([null, 7]));
    goes_through("", "(option (option u32))", &json!([null, {"some": null}, {"some": 7}]));
    goes_through("", "(result u8 (error string))", &json!([{"ok": 1}, {"err": "no"}]));
    goes_through("", "(result)", &json!([{"ok": null}, {"err": null}]));
    goes_through("", "(list (list s16))", &json!([[], [[1, -1], []]]));
}

#[test]
fn an_option_of_a_record_may_be_left_out() {
    let guest = Guest::new(echo(SHAPE, "$point"));
    assert_eq!(guest.value(r#"[{"x": 1}]"#), r#"[{"x":1.0,"label":null}]"#);
}

#[test]
fn bytes_may_come_as_base64() {
    let guest = Guest::new(echo("", "u8"));
    assert_eq!(guest.value(r#"{"base64": "AP8="}"#), "[0,255]");
    guest.fails(r#"{"base64": "?"}"#, FailureKind::BadArguments);
}

#[test]
fn what_does_not_fit_is_refused_by_its_path() {
    is_refused(
        "",
        "u8",
        &[
            ("256", "$[0]: expected an integer from 0 to 255, found 256"),
            ("-1", "$[0]: expected an integer from 0 to 255, found -1"),
            ("1.0", "$[0]: expected an integer"),
            (r#""1""#, r#"$[0]: expected an integer from 0 to 255, found "1""#),
            ("null", "$[0]: expected an integer"),
        ],
    );
    is_refused("", "char", &[(r#""ab""#, "$[0]: expected a string of one character"), (r#""""#, "$[0]: expected")]);
    is_refused("", "f32", &[("1e300", "$[0]: expected a number"), (r#""nan""#, "$[0]: expected a number")]);
    is_refused("", "string", &[("7", "$[0]: expected a string, found 7")]);
    is_refused("", "bool", &[("0", "$[0]: expected true or false, found 0")]);
    is_refused("", "(tuple u8 u8)", &[("[1]", "$[0]: expected an array of 2 items, found an array of 1 item")]);
    is_refused("", "(list u64)", &[("[1, [2]]", "$[0][1]: expected an integer")]);
    is_refused(
        SHAPE,
        "$point",
        &[
            ("{}", "$[0].x: expected a value, found nothing"),
            (r#"{"x": "a"}"#, r#"$[0].x: expected a number, "NaN", "Infinity" or "-Infinity", found "a""#),
            (r#"{"x": 1, "y": 2}"#, "$[0].y: expected only x, label, found 2"),
            ("7", "$[0]: expected an object with x, label, found 7"),
        ],
    );
    is_refused(
        SHAPE,
        "$shape",
        &[
            (r#""square""#, r#"$[0]: expected one of the cases none, circle, path, found "square""#),
            (r#""circle""#, r#"$[0]: expected {"circle": value}, for the case has one"#),
            (r#"{"none": 1}"#, "$[0].none: expected no value, for the case has none"),
            (r#"{"path": [{"x": true}]}"#, "$[0].path[0].x: expected a number"),
        ],
    );
    is_refused(SHAPE, "$colour", &[(r#""blue""#, "$[0]: expected one of red, dark-green")]);
    is_refused(SHAPE, "$rights", &[(r#"["fly"]"#, "$[0][0]: expected an array of read, write, execute")]);
    is_refused("", "(result u8)", &[("1", r#"$[0]: expected {"ok": value} or {"err": value}, found 1"#)]);
    is_refused("", "(option (option u8))", &[("1", r#"$[0]: expected null or {"some": value}"#)]);
}

/// SplitMix64, so that a failure comes again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^ (z >> 27)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn text(&mut self) -> String {
        (0..self.below(6)).filter_map(|_| char::from_u32(u32::try_from(self.below(0x2_0000)).unwrap())).collect()
    }

    /// A value of the type in `any_value_goes_through`.
    fn shape(&mut self) -> Value {
        match self.below(4) {
            0 => json!("none"),
            1 => json!({"circle": f64::from_bits(0x3ff0_0000_0000_0000 | (self.next() >> 12))}),
            _ => {
                let points: Vec<Value> = (0..self.below(4))
                    .map(|_| {
                        let label = if self.below(2) == 0 { Value::Null } else { json!(self.text()) };
                        json!({"x": f64::from(self.next() as u32), "label": label})
                    })
                    .collect();
                json!({"path": points})
            }
        }
    }

    fn value(&mut self) -> Value {
        let rights: Vec<&str> =
            ["read", "write", "execute"].into_iter().filter(|_| self.next().is_multiple_of(2)).collect();
        let nested: Vec<Value> = (0..self.below(5)).map(|_| json!(self.next() as i64)).collect();
        let result = if self.below(2) == 0 { json!({"ok": self.next()}) } else { json!({"err": self.text()}) };
        json!([self.shape(), rights, nested, result, self.below(256)])
    }
}

#[test]
fn any_value_goes_through() {
    let item = "(tuple $shape $rights (list s64) (result u64 (error string)) u8)";
    let guest = Guest::new(echo(SHAPE, item));
    for seed in 0..200 {
        let mut random = Random(seed);
        let values: Vec<Value> = (0..random.below(8)).map(|_| random.value()).collect();
        let values = Value::Array(values);
        let back: Value = serde_json::from_str(&guest.value(&values.to_string())).unwrap();
        assert_eq!(back, values, "with seed {seed}");
    }
}

/// A component of a function without memory.
fn numeric(signature: &str, core: &str) -> String {
    format!(
        r#"(component
            (core module $m (func (export "f") {core}))
            (core instance $i (instantiate $m))
            (func (export "f") {signature} (canon lift (core func $i "f"))))"#
    )
}

#[test]
fn several_parameters_come_by_position_or_by_name() {
    let guest = Guest::new(numeric(
        r#"(param "first-one" s32) (param "other" (option s32)) (result s32)"#,
        "(param i32 i32 i32) (result i32) (i32.sub (local.get 0) (local.get 2))",
    ));
    assert_eq!(guest.value("[5, 3]"), "2");
    assert_eq!(guest.value("[5]"), "5");
    assert_eq!(guest.value(r#"{"other": 3, "first-one": 5}"#), "2");
    assert_eq!(guest.value(r#"{"first-one": 5}"#), "5");
    assert!(guest.fails("[]", FailureKind::BadArguments).starts_with("$: expected an array of 2 items"));
    assert!(guest.fails(r#"{"first_one": 5}"#, FailureKind::BadArguments).contains("first-one, other"));
    assert!(guest.fails(r#"["a"]"#, FailureKind::BadArguments).starts_with("$[0]: expected"));
    assert!(guest.fails(r#"{"first-one": "a"}"#, FailureKind::BadArguments).starts_with("$.first-one: expected"));
}

#[test]
fn no_parameter_is_nothing_and_no_result_is_null() {
    let guest = Guest::new(numeric("", ""));
    for nothing in ["null", "[]", "{}"] {
        assert_eq!(guest.value(nothing), "null");
    }
    assert!(guest.fails("1", FailureKind::BadArguments).starts_with("$: expected null, [] or {}"));
}

#[test]
fn a_result_is_its_value_or_a_failure() {
    let guest =
        Guest::new(numeric(r#"(param "fail" bool) (result (result))"#, "(param i32) (result i32) (local.get 0)"));
    assert_eq!(guest.info.functions[0].result.schema, Some(json!({"type": "null"})));
    assert_eq!(guest.value("false"), "null");
    assert_eq!(guest.fails("true", FailureKind::ReturnedError), "the function returned an error");
}

#[test]
fn an_error_of_text_is_the_message() {
    let module = r#"(component
        (core module $m
            (memory (export "memory") 1)
            (data (i32.const 100) "out of cheese")
            (func (export "f") (param $n i32) (result i32)
                (i32.store (i32.const 0) (local.get $n))
                (if (local.get $n)
                    (then (i32.store (i32.const 4) (i32.const 100)) (i32.store (i32.const 8) (i32.const 13)))
                    (else (i32.store (i32.const 4) (i32.const 42))))
                (i32.const 0)))
        (core instance $i (instantiate $m))
        (func (export "f") (param "n" u32) (result (result u32 (error string)))
            (canon lift (core func $i "f") (memory (core memory $i "memory")))))"#;
    let guest = Guest::new(module);
    assert_eq!(guest.value("0"), "42");
    assert_eq!(guest.fails("1", FailureKind::ReturnedError), "out of cheese");
}

#[test]
fn functions_of_interfaces_have_the_interfaces_name() {
    let module = r#"(component
        (core module $m (func (export "f") (param i32) (result i32) (i32.mul (local.get 0) (i32.const 2))))
        (core instance $i (instantiate $m))
        (func $f (param "n" u32) (result u32) (canon lift (core func $i "f")))
        (instance $api (export "twice" (func $f)))
        (export "docs:math/api@1.2.0" (instance $api)))"#;
    let guest = Guest::new(module);
    assert_eq!(guest.info.functions[0].name, "docs:math/api@1.2.0#twice");
    assert_eq!(guest.value("21"), "42");
    for short in ["twice", "api#twice", "docs:math/api#twice"] {
        assert_eq!(guest.info.find(Some(short)).unwrap().name, "docs:math/api@1.2.0#twice");
    }
    let failure = guest.function("docs:math/api@1.2.0#thrice").open().unwrap_err();
    assert_eq!(failure.kind, FailureKind::NoSuchFunction);
    assert!(failure.message.ends_with("there are: docs:math/api@1.2.0#twice"), "{failure}");
}

#[test]
fn functions_of_resources_are_left_out() {
    let module = r#"(component
        (import "wasi:io/error@0.2.0" (instance $io (export "error" (type (sub resource)))))
        (alias export $io "error" (type $error))
        (core module $m (func (export "f") (param i32)) (func (export "g") (result i32) (i32.const 1)))
        (core instance $i (instantiate $m))
        (func (export "f") (param "r" (own $error)) (canon lift (core func $i "f")))
        (func (export "g") (result u32) (canon lift (core func $i "g"))))"#;
    let guest = Guest::new(module);
    assert_eq!(guest.info.functions.len(), 1);
    assert_eq!(guest.value("null"), "1");
    let failure = guest.function("f").open().unwrap_err();
    assert_eq!(failure.message, "`f` cannot be called with JSON: it takes or gives a resource");
}

#[test]
fn a_large_list_goes_through() {
    let guest = Guest::new(echo("", "u8"));
    let list = format!("[{}0]", "1,".repeat(1_000_000));
    assert_eq!(guest.value(&list), list);
}
