//! Large arguments and results.

use std::fs::File;
use std::io::{BufWriter, Write};

use farm_tests::World;
use serde_json::Value;

use crate::support::module;
use crate::wat;

const MEBIBYTE: usize = 1 << 20;

#[test]
fn a_file_of_200_megabytes_takes_bounded_memory() {
    const ELEMENTS: usize = 100_000;
    const LENGTH: usize = 2_000;
    let world = World::new();
    let m = module(&world, wat::ECHO);
    let mut file = BufWriter::new(File::create(world.path().join("args.json")).expect("a file"));
    let text = "x".repeat(LENGTH);
    for index in 0..ELEMENTS {
        let start = if index == 0 { '[' } else { ',' };
        // Each of another length, so that a result in the wrong place shows.
        let end = index % 7;
        writeln!(file, "{start}\"{}\"", &text[end..]).expect("space on the disk");
    }
    file.write_all(b"]").expect("space on the disk");
    file.flush().expect("space on the disk");
    drop(file);

    let mut running =
        world.farm(["submit", m, "--function", "length", "--args", "args.json", "--out", "r.json"]).start();
    let mut peak = 0;
    while running.is_running() {
        peak = running.peak_memory().unwrap_or_default().max(peak);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    running.wait().with_code(0).says(&[]);
    let results: Vec<usize> =
        serde_json::from_slice(&std::fs::read(world.path().join("r.json")).expect("results")).expect("JSON");
    assert_eq!(results.len(), ELEMENTS);
    assert!(results.iter().enumerate().all(|(index, length)| *length == LENGTH - index % 7));
    println!("the client's peak: {} MiB", peak / MEBIBYTE as u64);
    assert!(peak > 0, "the client's memory was looked at");
    assert!(peak < 100 << 20, "the client took {} MiB for 200 MB of arguments", peak / MEBIBYTE as u64);
    world.leaves_nothing();
}

/// A text of 64 MiB, the most that a result may be, with something in its middle to tell it by.
fn text_of_64_mebibytes() -> String {
    let mut text = "x".repeat(64 * MEBIBYTE);
    text.replace_range(40 * MEBIBYTE..40 * MEBIBYTE + 6, "middle");
    text
}

/// The text goes through as argument and as result.
fn goes_through(command: &str, guest: &str, options: &[&str]) {
    let world = World::new();
    let m = module(&world, guest);
    let text = text_of_64_mebibytes();
    let args = format!("[\"{text}\"]");
    let finished = world.farm([command, m, "--args", "-"]).with(options).stdin(args).succeeds();
    let Value::Array(values) = finished.json() else { panic!("no array") };
    assert_eq!(values.len(), 1);
    // Not `assert_eq`, which would print both.
    assert!(values[0] == text.as_str(), "another text of {:?} bytes", values[0].as_str().map(str::len));
    world.leaves_nothing();
}

#[test]
fn an_argument_and_a_result_of_64_mebibytes_on_a_farm() {
    goes_through("submit", wat::CAT, &[]);
}

#[test]
fn an_argument_and_a_result_of_64_mebibytes_here() {
    goes_through("run", wat::CAT, &[]);
}

#[test]
fn a_text_of_64_mebibytes_through_a_component() {
    // As JSON, the quotes are part of the result.
    goes_through("submit", wat::ECHO, &["--function", "echo", "--max-result", "65MiB"]);
}

#[test]
fn a_byte_more_is_too_much() {
    let world = World::new();
    let m = module(&world, wat::CAT);
    let args = format!("[\"{}y\", \"small\"]", text_of_64_mebibytes());
    let finished = world.farm(["submit", m, "--args", "-", "--format", "ndjson"]).stdin(args).fails(1);
    assert_eq!(crate::support::kinds(&finished), ["result-too-large", "small"]);
}

#[test]
fn many_large_results_are_delivered_in_order() {
    let world = World::new();
    let m = module(&world, wat::CAT);
    let texts: Vec<String> = (b'a'..=b'p').map(|letter| char::from(letter).to_string().repeat(4 * MEBIBYTE)).collect();
    let args = serde_json::to_string(&texts).expect("JSON");
    let finished = world.farm(["submit", m, "--args", "-"]).stdin(args).succeeds();
    let results: Vec<String> = serde_json::from_slice(&finished.stdout).expect("an array of texts");
    assert!(results == texts, "other texts of {:?} bytes", results.iter().map(String::len).collect::<Vec<_>>());
}
