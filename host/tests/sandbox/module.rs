//! What a module is, and which files are none.

use farm_host::module::{Capability, ModuleError, prepare};
use farm_proto::ids::Digest;
use farm_proto::job::ModuleKind;
use serde_json::json;

fn refused(bytes: impl Into<Vec<u8>>) -> ModuleError {
    prepare(bytes.into()).expect_err("this is no module")
}

#[test]
fn files_that_are_no_wasm_are_named() {
    assert!(matches!(refused(""), ModuleError::Empty));
    for (bytes, words) in [
        (&b"\x7fELF\x02\x01\x01\0\0\0\0\0"[..], "an ELF file"),
        (b"PK\x03\x04rest", "a ZIP archive"),
        (b"#!/bin/sh\n", "a script"),
        (b"hello", "it begins with `hello`"),
    ] {
        let message = refused(bytes).to_string();
        assert!(message.starts_with("not WebAssembly: ") && message.contains(words), "{message}");
    }
}

#[test]
fn a_precompiled_artefact_is_refused() {
    let engine = wasmtime::Engine::new(wasmtime::Config::new().concurrency_support(false)).unwrap();
    let wasm = prepare(b"(module (func (export \"f\")))".to_vec()).unwrap().bytes;
    let artefact = engine.precompile_module(&wasm).unwrap();
    let error = refused(artefact);
    assert!(matches!(error, ModuleError::Precompiled));
    assert!(error.to_string().contains("send the .wasm"));
}

#[test]
fn a_file_that_was_cut_short_says_where() {
    let whole = prepare(b"(module (func (export \"f\") (result i32) (i32.const 1)))".to_vec()).unwrap().bytes;
    for length in [2, 6, 12, whole.len() - 1] {
        let error = refused(&whole[..length]);
        assert!(matches!(error, ModuleError::Truncated { .. }), "after {length} bytes: {error}");
    }
}

#[test]
fn bytes_that_do_not_validate_say_where() {
    let mut bytes = prepare(b"(module (func (export \"f\") (result i32) (i32.const 1)))".to_vec()).unwrap().bytes;
    // `i64.const` where an `i32` has to come out.
    let operator = bytes.len() - 3;
    bytes[operator] = 0x42;
    assert!(matches!(refused(bytes), ModuleError::Invalid { .. }));
}

#[test]
fn text_that_does_not_parse_says_where() {
    let error = refused("(module (func (export \"f\") (i32.cosnt 1)))").to_string();
    assert!(error.contains("unknown operator"), "{error}");
}

#[test]
fn threads_and_garbage_collection_are_off() {
    for module in
        ["(module (memory 1 1 shared) (func (export \"f\")))", "(module (type (struct)) (func (export \"f\")))"]
    {
        assert!(matches!(refused(module), ModuleError::Invalid { .. }));
    }
}

#[test]
fn imports_that_are_not_offered_are_named() {
    let error = refused(
        r#"(module
            (import "env" "memory" (memory 1))
            (import "my" "thing" (func))
            (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
            (func (export "f")))"#,
    );
    let ModuleError::MissingImports { names } = &error else { panic!("{error}") };
    assert_eq!(names, &["env.memory", "my.thing"]);

    let error = refused(
        r#"(component
            (import "wasi:http/handler@0.2.0" (instance))
            (import "wasi:cli/stdin@0.2.0" (instance))
            (import "plain" (func)))"#,
    );
    let ModuleError::MissingImports { names } = &error else { panic!("{error}") };
    assert_eq!(names, &["wasi:http/handler@0.2.0", "plain"]);
}

#[test]
fn a_module_without_functions_has_nothing_to_call() {
    assert!(matches!(refused("(module (memory (export \"memory\") 1))"), ModuleError::NothingToCall));
    assert!(matches!(refused("(module (func (export \"f\") (param externref)))"), ModuleError::NothingToCall));
    assert!(matches!(refused("(component)"), ModuleError::NothingToCall));
}

#[test]
fn a_program_is_told_by_its_start() {
    let command = prepare(b"(module (func (export \"_start\")) (func (export \"other\")))".to_vec()).unwrap();
    assert_eq!(command.info.kind, ModuleKind::Command);
    assert_eq!(command.info.find(None).unwrap().name, "");
    let core = prepare(b"(module (func (export \"_start\") (param i32)))".to_vec()).unwrap();
    assert_eq!(core.info.kind, ModuleKind::Core);
}

#[test]
fn preparing_twice_changes_nothing() {
    for module in ["(module (func (export \"f\")))", "(component (core module (func)))"] {
        let Ok(once) = prepare(module.as_bytes().to_vec()) else { continue };
        let twice = prepare(once.bytes.clone()).unwrap();
        assert_eq!(twice.bytes, once.bytes);
        assert_eq!(once.info.digest, Digest::of(&once.bytes));
        assert_eq!(once.info.size, once.bytes.len() as u64);
    }
}

#[test]
fn what_a_module_could_touch_follows_from_its_imports() {
    let module = r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "random_get" (func (param i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "f")))"#;
    let info = prepare(module.as_bytes().to_vec()).unwrap().info;
    assert_eq!(info.touches, [Capability::Stdio, Capability::Random]);
    assert_eq!(info.imports, ["wasi_snapshot_preview1.fd_write", "wasi_snapshot_preview1.random_get"]);
}

#[test]
fn the_json_of_a_module_is_a_promise() {
    let info =
        prepare(b"(module (func (export \"add\") (param $a i32) (param f64) (result i64) (i64.const 0)))".to_vec())
            .unwrap()
            .info;
    let float = json!({"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]});
    assert_eq!(
        serde_json::to_value(&info).unwrap(),
        json!({
            "digest": info.digest.to_string(),
            "size": info.size,
            "kind": "core",
            "functions": [{
                "name": "add",
                "doc": "",
                "params": [
                    {"name": "a", "type": "i32", "required": true,
                     "schema": {"type": "integer", "minimum": -2_147_483_648_i64, "maximum": 4_294_967_295_u32}},
                    {"name": "p1", "type": "f64", "required": true, "schema": float},
                ],
                "result": {"type": "i64", "schema": {"type": "integer", "minimum": i64::MIN, "maximum": u64::MAX}},
                "raw": false,
            }],
            "imports": [],
            "touches": [],
            "has_debug_info": false,
        })
    );
}

#[test]
fn functions_are_found_by_name_or_for_being_alone() {
    let info = prepare(b"(module (func (export \"a\")) (func (export \"b\")))".to_vec()).unwrap().info;
    assert_eq!(info.find(Some("b")).unwrap().name, "b");
    assert_eq!(info.find(Some("c")).unwrap_err().to_string(), "no function `c`; there are: a, b");
    assert_eq!(info.find(None).unwrap_err().to_string(), "which function? There are: a, b");
}

#[test]
fn wit_types_are_shown_as_written() {
    let module = r#"(component
        (core module $m
            (memory (export "memory") 1)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) unreachable)
            (func (export "f") (param i32 i32 i32) (result i32) unreachable))
        (core instance $i (instantiate $m))
        (type $point' (record (field "x" f64) (field "label" (option string))))
        (import "point" (type $point (eq $point')))
        (func (export "f") (param "points" (list $point)) (param "scale" u8) (result (result $point (error string)))
            (canon lift (core func $i "f") (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))"#;
    let info = prepare(module.as_bytes().to_vec()).unwrap().info;
    assert_eq!(info.kind, ModuleKind::Component);
    let function = &info.functions[0];
    let types: Vec<&str> = function.params.iter().map(|param| param.type_text.as_str()).collect();
    assert_eq!(types, ["list<point>", "u8"]);
    assert_eq!(function.result.type_text, "result<point, string>");
    let float = json!({"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]});
    let point = json!({
        "type": "object",
        "properties": {"x": float, "label": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
        "required": ["x"],
        "additionalProperties": false,
    });
    assert_eq!(function.params[0].schema, Some(json!({"type": "array", "items": point})));
    assert_eq!(function.result.schema, Some(point));
}
