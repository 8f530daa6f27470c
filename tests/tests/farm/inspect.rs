//! `farm inspect`: each kind of module, for people and for programs.

use farm_tests::{World, guest};
use serde_json::{Value, json};

use crate::support::module;
use crate::wat;

fn inspected(world: &World, m: &str) -> (String, Value) {
    let text = world.farm(["inspect", m]).succeeds().text().to_owned();
    let info = world.farm(["inspect", m, "--output", "json"]).succeeds().json();
    for name in ["digest", "size", "kind", "functions", "imports", "touches", "has_debug_info"] {
        assert!(info.get(name).is_some(), "{name} is a promise: {info}");
    }
    let digest = info["digest"].as_str().expect("a text");
    assert!(digest.len() == 64 && text.contains(digest), "{text}");
    (text, info)
}

#[test]
fn a_core_module_shows_its_numeric_functions() {
    let world = World::new();
    let (text, info) = inspected(&world, module(&world, wat::PAIR));
    assert_eq!(info["kind"], "core");
    assert_eq!(info["touches"], json!([]));
    assert_eq!(info["functions"][0]["params"][1]["name"], "b");
    for part in ["core module with numeric exports", "sub(a: i32, b: i32) -> i32", "halves(x: f64)", "imports   none"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(text.contains("touches   nothing: a pure function"), "{text}");
}

#[test]
fn a_component_shows_its_wit_types() {
    let world = World::new();
    let (text, info) = inspected(&world, module(&world, wat::ECHO));
    assert_eq!(info["kind"], "component");
    for part in ["component with typed exports", "echo(text: string) -> string", "length(text: string) -> u32"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_command_shows_what_it_imports_and_could_touch() {
    let world = World::new();
    let (text, info) = inspected(&world, module(&world, &wat::prints_list("environ")));
    assert_eq!(info["kind"], "command");
    assert!(info["imports"].as_array().expect("a list").contains(&json!("wasi_snapshot_preview1.fd_write")), "{info}");
    assert!(!info["touches"].as_array().expect("a list").is_empty(), "{info}");
    for part in ["WASI command", "wasi_snapshot_preview1.environ_get", "as far as the job grants it", "its stdin"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_module_of_the_sdk_shows_documentation_and_schemas() {
    let world = World::new();
    let path = guest("square");
    let (text, info) = inspected(&world, path.to_str().expect("a plain path"));
    assert_eq!(info["kind"], "sdk");
    let function = &info["functions"][0];
    assert_eq!(function["name"], "square");
    assert_eq!(function["params"][0]["type"], "i64");
    assert_eq!(function["params"][0]["schema"]["type"], "integer");
    assert!(function["doc"].as_str().is_some_and(|doc| doc.starts_with("The square of")), "{function}");
    for part in ["SDK functions", "square(x: i64) -> ", "    The square of"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn the_digest_is_that_of_jobs() {
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    let (_, info) = inspected(&world, m);
    let document = world.farm(["run", m, "--args", "[1]", "--output", "json"]).succeeds().json();
    assert_eq!(document["job"]["module"], info["digest"]);
}
