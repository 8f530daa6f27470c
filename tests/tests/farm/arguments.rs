//! Arguments that are none: refused before anything is sent, with the place and what was expected there.

use farm_tests::{Finished, World, guest};

use crate::support::module;
use crate::wat;

/// Refused by `run` and by `submit`, by the latter before it starts a farm.
fn refused(world: &World, m: &str, args: &[&str], code: u8, words: &[&str]) -> Finished {
    world.farm(["run", m]).with(args).fails(code).explains(words);
    let finished = world.farm(["submit", m]).with(args).fails(code);
    finished.explains(words);
    assert!(!finished.stderr.contains("starting one"), "{}", finished.stderr);
    world.leaves_nothing();
    finished
}

#[test]
fn a_missing_file_is_told() {
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    let words = ["cannot read no/such/args.json", "No such file"];
    refused(&world, m, &["--args", "no/such/args.json"], 4, &words).hints(&["JSON array", "- for stdin"]);
    refused(&world, m, &["--args", "."], 4, &["cannot read .", "directory"]);
    refused(&world, m, &[], 2, &["which arguments?"]).hints(&["--range 0..1000"]);
    world.farm(["run", m, "--args", "[1]", "--range", "0..1"]).fails(2).says(&["cannot be used with"]);
    world.farm(["run", m, "--ndjson", "--range", "0..1"]).fails(2);
}

#[test]
fn what_is_not_json_is_told_with_line_and_column() {
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    for (text, words) in [
        ("hello", &["args.json is not JSON", "line 1 column 1"][..]),
        ("[1,\n 2", &["args.json is not JSON", "EOF", "line 2"]),
        ("[1,\n nul]", &["args.json is not JSON", "line 2"]),
        ("[1, 2,]", &["args.json is not JSON", "trailing comma"]),
        ("[1] [2]", &["args.json goes on after the end of its array", "line 1"]),
        ("[1]]", &["args.json goes on after the end of its array"]),
        ("\u{0}\u{1}", &["args.json is not JSON"]),
    ] {
        world.write("args.json", text);
        refused(&world, m, &["--args", "args.json"], 4, words);
    }
    world.write("args.json", b"[\"\xff\xfe\"]");
    refused(&world, m, &["--args", "args.json"], 4, &["args.json is not JSON"]);
    refused(&world, m, &["--args", "[1, 2"], 4, &["--args is not JSON"]);
    world.write("args.ndjson", "1\n2\nthree\n");
    refused(&world, m, &["--args", "args.ndjson"], 4, &["args.ndjson is not JSON", "line 3"]);
}

#[test]
fn what_is_no_array_is_told() {
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    for (text, found) in [
        ("{\"a\": 1}", "an object"),
        ("7", "a number"),
        ("\"text\"", "a string"),
        ("true", "a boolean"),
        ("null", "null"),
        ("", "nothing"),
        (" \n", "nothing"),
    ] {
        world.write("args.json", text);
        let words = format!("args.json holds {found}, not a JSON array");
        refused(&world, m, &["--args", "args.json"], 4, &[&words]).hints(&["one task", "--ndjson"]);
    }
    refused(&world, m, &["--args", "{\"a\": 1}"], 4, &["--args holds an object, not a JSON array"]);
}

#[test]
fn an_element_of_the_wrong_type_is_told_with_its_number_and_path() {
    let world = World::new();
    world.write("args.json", r#"[0, 1, 2, 3, 4, 5, 6, "seven", 8]"#);
    let expected = ["args.json: element 7", "$: expected an integer", "found \"seven\""];
    let square = guest("square");
    for m in [module(&world, wat::SQUARE), square.to_str().expect("a plain path")] {
        refused(&world, m, &["--args", "args.json"], 4, &expected).hints(&["farm inspect"]);
    }
    let m = module(&world, wat::PAIR);
    let args = |text| ["--function", "sub", "--args", text];
    refused(&world, m, &args("[[1, 2], [1]]"), 4, &["element 1", "found an array of 1 item"]);
    refused(&world, m, &args("[[1, 2.5]]"), 4, &["element 0", "$[1]: expected an integer", "found 2.5"]);
    refused(&world, m, &args(r#"[{"a": 1, "c": 2}]"#), 4, &["element 0", "$.c"]);
    refused(&world, m, &args(r#"[{"a": 1}]"#), 4, &["element 0", "$.b: expected a value of type i32"]);
    let m = module(&world, wat::ECHO);
    let length = ["--function", "length", "--args", r#"["a", ["b"]]"#];
    refused(&world, m, &length, 4, &["element 1", "$: expected a string", "an array of 1 item"]);
    let m = module(&world, wat::CAT);
    refused(&world, m, &["--args", r#"["a", {"args": "x"}]"#], 4, &["element 1", "$.args: expected an array"]);
}

#[test]
fn an_element_far_into_the_table_is_found_before_anything_is_sent() {
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    let mut text = (0..300_000).map(|x| x.to_string()).collect::<Vec<_>>().join(",\n");
    text.push_str(",\nnull");
    world.write("args.json", format!("[{text}]"));
    refused(&world, m, &["--args", "args.json"], 4, &["element 300000", "expected an integer", "found null"]);
}

#[test]
fn a_range_is_checked_by_its_ends() {
    let world = World::new();
    let m = module(&world, wat::PAIR);
    let sub = ["--function", "sub", "--range", "0..10"];
    refused(&world, m, &sub, 4, &["--range 0..10", "element 0", "expected an array (a: i32, b: i32)"]);
    let narrow = module(&world, r#"(module (func (export "f") (param i32) (result i32) (local.get 0)))"#);
    let words = ["--range 4294967290..4294967300", "element 9", "expected an integer from"];
    refused(&world, narrow, &["--range", "4294967290..4294967300"], 4, &words);
    for (range, word) in [("5..1", "its start"), ("5", "A..B"), ("a..b", "A..B"), ("0..99999999999999999999", "A..B")] {
        world.farm(["run", m, "--range", range]).fails(2).says(&[word]);
    }
}
