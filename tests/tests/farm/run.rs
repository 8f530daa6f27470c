//! `farm run` with tasks: the four kinds of module, where arguments come from, where results go.

use farm_tests::{World, guest};
use serde_json::json;

use crate::support::{kinds, module, outcomes};
use crate::wat;

#[test]
fn a_core_function_takes_and_gives_numbers() {
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    let finished = world.farm(["run", m, "--args", "[3, -4, 5]"]).succeeds();
    assert_eq!(finished.json(), json!([9, 16, 25]));
    assert_eq!(finished.stderr, "");
    world.leaves_nothing();
}

#[test]
fn a_core_function_of_several_numbers_is_named_and_takes_arrays_or_objects() {
    let world = World::new();
    let m = module(&world, wat::PAIR);
    let args = r#"[[5, 3], {"b": 1, "a": -1}]"#;
    assert_eq!(world.farm(["run", m, "--function", "sub", "--args", args]).succeeds().json(), json!([2, -2]));
    let finished = world.farm(["run", m, "-f", "halves", "--args", "[1, 0.5]"]).succeeds();
    assert_eq!(finished.json(), json!([[0.5, 0.5], [0.25, 0.25]]));
}

#[test]
fn a_typed_component_takes_and_gives_texts() {
    let world = World::new();
    let m = module(&world, wat::ECHO);
    let args = json!(["", "zwei\n\"Wörter\"", "🐄"]);
    let finished = world.farm(["run", m, "-f", "echo", "--args", "-"]).stdin(args.to_string()).succeeds();
    assert_eq!(finished.json(), args);
    let finished = world.farm(["run", m, "-f", "length", "--args", r#"["abc", ""]"#]).succeeds();
    assert_eq!(finished.json(), json!([3, 0]));
}

#[test]
fn a_command_takes_a_text_or_an_object_and_its_output_is_the_result() {
    let world = World::new();
    let m = module(&world, wat::CAT);
    let args = r#"["plain\n", {"stdin": "in an object"}, {"stdin": {"base64": "YWJj"}}, [1, 2]]"#;
    let finished = world.farm(["run", m, "--args", args]).succeeds();
    assert_eq!(finished.json(), json!(["plain\n", "in an object", "abc", "[1,2]"]));
    let m = module(&world, &wat::prints_list("args"));
    let finished = world.farm(["run", m, "--args", r#"[{"args": ["-n", 5]}]"#]).succeeds();
    assert_eq!(finished.json(), json!(["main.wasm\u{0}-n\u{0}5\u{0}"]));
}

#[test]
fn a_function_of_the_sdk_takes_and_gives_json() {
    let world = World::new();
    let finished = world.farm(["run", "--args", "[12, -3037000499]"]).with([guest("square")]).succeeds();
    assert_eq!(finished.json(), json!([144, 9_223_372_030_926_249_001_i64]));
    world.leaves_nothing();
}

#[test]
fn arguments_come_from_a_file_from_stdin_or_from_a_range() {
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    world.write("args.json", "  [\n 1,\n 2 ]\n");
    assert_eq!(world.farm(["run", m, "--args", "args.json"]).succeeds().json(), json!([1, 4]));
    assert_eq!(world.farm(["run", m, "--args", "-"]).stdin("[3]").succeeds().json(), json!([9]));
    assert_eq!(world.farm(["run", m, "--range", "-2..3"]).succeeds().json(), json!([4, 1, 0, 1, 4]));
    assert_eq!(world.farm(["run", m, "--range", "1_000..1_001"]).succeeds().json(), json!([1_000_000]));
}

#[test]
fn ndjson_holds_an_argument_a_line() {
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    world.write("args.ndjson", "1\n2\n\n3");
    assert_eq!(world.farm(["run", m, "--args", "args.ndjson"]).succeeds().json(), json!([1, 4, 9]));
    world.write("lines", "4\n5\n");
    assert_eq!(world.farm(["run", m, "--args", "lines", "--ndjson"]).succeeds().json(), json!([16, 25]));
    let stdin = world.farm(["run", m, "--args", "-", "--ndjson"]).stdin("6\n7\n");
    assert_eq!(stdin.succeeds().json(), json!([36, 49]));
    // Without `--ndjson` an array of arrays is one argument each, with it one.
    let m = module(&world, wat::PAIR);
    let stdin = world.farm(["run", m, "-f", "sub", "--args", "-", "--ndjson"]).stdin("[9, 1]\n[5, 3]\n");
    assert_eq!(stdin.succeeds().json(), json!([8, 2]));
}

#[test]
fn no_arguments_are_no_results() {
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    for args in [["--args", "[]"], ["--range", "5..5"]] {
        let finished = world.farm(["run", m]).with(args).succeeds();
        assert_eq!((finished.json(), finished.stderr.as_str()), (json!([]), ""));
    }
    let finished = world.farm(["run", m, "--args", "[]", "--format", "ndjson"]).succeeds();
    assert_eq!(finished.text(), "");
}

#[test]
fn results_go_to_a_file_that_appears_when_it_is_whole() {
    let world = World::new();
    let m = module(&world, wat::EVEN);
    let finished = world.farm(["run", m, "--args", "[2, 4]", "--out", "results.json"]).succeeds();
    assert_eq!(finished.text(), "");
    let written = std::fs::read(world.path().join("results.json")).expect("the results");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&written).expect("JSON"), json!([4, 16]));
    // An error leaves what was there.
    let failed = world.farm(["run", m, "--args", "[true]", "--out", "results.json"]).fails(4);
    failed.explains(&["element 0"]);
    assert_eq!(std::fs::read(world.path().join("results.json")).expect("the results"), written);
    let names: Vec<_> =
        std::fs::read_dir(world.path()).expect("a folder").flatten().map(|file| file.file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().starts_with(".farm-results")), "{names:?}");
    // What is no file is written to as it is.
    world.farm(["run", m, "--args", "[2]", "--out", "/dev/null"]).succeeds();
    let nowhere = world.farm(["run", m, "--args", "[2]", "--out", "no/such/folder/x.json"]).fails(2);
    nowhere.explains(&["no/such/folder/x.json", "No such file"]);
}

#[test]
fn ndjson_has_a_line_for_each_task() {
    let world = World::new();
    let m = module(&world, wat::EVEN);
    let finished = world.farm(["run", m, "--args", "[2, 3, 4]", "--format", "ndjson"]).fails(1);
    assert_eq!(kinds(&finished), [json!(4), json!("trap"), json!(16)]);
    let line = &outcomes(&finished)[1];
    assert_eq!(line["error"]["message"], "the guest gave up (`unreachable`)");
    assert_eq!(line["error"]["backtrace"][0]["function"], "refuse");
}

#[test]
fn json_output_is_one_document_with_results_job_and_failures() {
    let world = World::new();
    let m = module(&world, wat::EVEN);
    let document = world.farm(["run", m, "--args", "[2, 3]", "--output", "json"]).fails(1).json();
    assert_eq!(document["results"], json!([4, null]));
    assert_eq!(document["job"]["counts"]["succeeded"], 1);
    assert_eq!(document["job"]["counts"]["failed"], 1);
    assert_eq!(document["job"]["state"], "done");
    assert_eq!(document["failures"][0]["index"], 1);
    assert_eq!(document["failures"][0]["error"]["kind"], "trap");
}

#[test]
fn failures_are_grouped_by_message_with_their_indices() {
    let world = World::new();
    let m = module(&world, wat::EVEN);
    let finished = world.farm(["run", m, "--range", "0..20"]).fails(1);
    let expected: Vec<_> = (0..20).map(|x| if x % 2 == 0 { json!(x * x) } else { json!(null) }).collect();
    assert_eq!(finished.json(), json!(expected));
    finished.says(&["10 of 20 tasks failed", "trap: the guest gave up", "tasks 1, 3, 5, 7, 9 and 5 more", "at refuse"]);
    assert_eq!(finished.stderr.matches("the guest gave up").count(), 1, "{}", finished.stderr);
}

#[test]
fn numbers_keep_all_of_their_bits() {
    let world = World::new();
    let m = module(&world, wat::IDENTITY);
    let long = json!([9_007_199_254_740_993_i64, i64::MIN, i64::MAX]);
    let real = json!([0.1, -0.0, 1e300, "NaN", "Infinity", "-Infinity"]);
    for command in ["run", "submit"] {
        for (function, values) in [("long", &long), ("real", &real)] {
            let finished = world.farm([command, m, "-f", function, "--args", "-"]).stdin(values.to_string()).succeeds();
            assert_eq!(finished.json(), *values);
        }
    }
    let beyond = world.farm(["run", m, "-f", "long", "--args", "[18446744073709551616]"]).fails(4);
    beyond.explains(&["element 0", "expected an integer from -9223372036854775808 to 18446744073709551615"]);
}
