//! Modules that are none.

use farm_tests::{Finished, World};

use crate::support::module;
use crate::wat;

/// Refused by `run`, `submit` and `inspect` alike, with exit code 3.
fn refused(world: &World, m: &str, words: &[&str]) -> Finished {
    world.farm(["inspect", m]).fails(3).explains(words);
    world.farm(["run", m, "--args", "[1]"]).fails(3).explains(words);
    let finished = world.farm(["submit", m, "--args", "[1]"]).fails(3);
    finished.explains(words);
    assert!(!finished.stderr.contains("starting one"), "{}", finished.stderr);
    world.leaves_nothing();
    finished
}

#[test]
fn a_file_that_is_missing() {
    let world = World::new();
    refused(&world, "no/such.wasm", &["there is no file no/such.wasm"]).hints(&["farm build"]);
    std::fs::create_dir(world.path().join("crate")).expect("a folder");
    refused(&world, "crate", &["crate"]).hints(&["farm build crate"]);
}

#[test]
fn files_that_are_not_wasm() {
    let world = World::new();
    for (bytes, words) in [
        (&b""[..], &["m.wasm: the file is empty"][..]),
        (b"hello world", &["m.wasm: not WebAssembly", "it begins with `hello"]),
        (b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0", &["m.wasm: not WebAssembly", "an ELF file"]),
        (b"#!/bin/sh\necho hello\n", &["not WebAssembly", "a script"]),
        (b"(module\n  (func", &["m.wasm: the WebAssembly text does not parse: expected `)` at line 2, column 8"]),
    ] {
        world.write("m.wasm", bytes);
        refused(&world, "m.wasm", words);
    }
    world.write("m.wasm", b"fn main() {}");
    refused(&world, "m.wasm", &["not WebAssembly"]).hints(&["farm build", ".wat"]);
}

#[test]
fn a_compiled_artefact_is_never_run() {
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    world.farm(["run", m, "--args", "[1]"]).succeeds();
    let artefacts = std::fs::read_dir(world.cache().join("artefacts")).expect("the cache").flatten();
    let mut artefacts = artefacts.map(|file| file.path());
    let artefact = artefacts.find(|path| path.extension().is_some_and(|extension| extension == "cwasm"));
    std::fs::copy(artefact.expect("a compiled module"), world.path().join("m.cwasm")).expect("a copy");
    refused(&world, "m.cwasm", &["m.cwasm: ", "precompiled artefact"]);
}

#[test]
fn wasm_that_is_truncated_at_any_byte() {
    let world = World::new();
    let whole = ::wat::parse_str(wat::ECHO).expect("a component");
    // In the magic number, behind the header, in the middle of sections, one byte before the end.
    for end in [9, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
        world.write("m.wasm", &whole[..end]);
        refused(&world, "m.wasm", &["m.wasm: the WebAssembly is truncated", "at byte"])
            .hints(&["copied or downloaded"]);
    }
    // Without names, so that each part of it is a part of something.
    let whole = ::wat::parse_str(r#"(module (func (export "f") (result i64) (i64.const 1)))"#).expect("a module");
    for end in 1..whole.len() {
        world.write("m.wasm", &whole[..end]);
        world.farm(["inspect", "m.wasm"]).fails(3).explains(&["m.wasm: "]);
    }
}

#[test]
fn wasm_that_is_invalid() {
    let world = World::new();
    let mut bytes = ::wat::parse_str(wat::SQUARE).expect("a module");
    // The multiplication becomes an instruction that there is not.
    let multiply = bytes.windows(2).rposition(|code| code == [0x7e, 0x0b]).expect("i64.mul, end");
    bytes[multiply] = 0xff;
    world.write("m.wasm", &bytes);
    refused(&world, "m.wasm", &["m.wasm: invalid WebAssembly at byte"]);
    module(&world, r#"(module (func (export "f") (result i32) (i64.const 1)))"#);
    refused(&world, "m.wat", &["m.wat: ", "type mismatch"]);
}

#[test]
fn imports_that_are_not_offered_are_named() {
    let world = World::new();
    let m = module(
        &world,
        r#"(module (import "env" "socket_open" (func)) (import "gpu" "launch" (func)) (func (export "f")))"#,
    );
    refused(&world, m, &["imports that are not offered: env.socket_open, gpu.launch", "offered are WASI"]);
    let m = module(&world, r#"(component (import "wasi:http/outgoing-handler@0.2.0" (instance)))"#);
    refused(&world, m, &["not offered: wasi:http/outgoing-handler@0.2.0"]);
}

#[test]
fn nothing_to_call() {
    let world = World::new();
    let m = module(&world, r#"(module (memory (export "memory") 1))"#);
    refused(&world, m, &["nothing to call"]);
}

#[test]
fn a_function_that_does_not_exist_with_those_that_do() {
    let world = World::new();
    let m = module(&world, wat::PAIR);
    for command in ["run", "submit"] {
        let finished = world.farm([command, m, "--function", "add", "--args", "[1]"]).fails(3);
        finished.explains(&["no function `add`; there are: sub, halves"]).hints(&["farm inspect"]);
        let finished = world.farm([command, m, "--args", "[1]"]).fails(3);
        finished.explains(&["which function? There are: sub, halves"]).hints(&["--function"]);
    }
    world.leaves_nothing();
}

#[test]
fn errors_are_json_for_programs() {
    let world = World::new();
    let error = world.farm(["inspect", "no.wasm", "--output", "json"]).fails(3).error_json();
    assert_eq!(error["error"]["code"], 3);
    assert_eq!(error["error"]["message"], "there is no file no.wasm");
    assert!(error["error"]["hint"].as_str().is_some_and(|hint| hint.contains("farm build")), "{error}");
}
