//! `farm new` and `farm build`, and what the README tells people to type.

use std::fs;
use std::path::Path;

use farm_tests::{World, compile_guests};
use serde_json::json;

fn build(world: &World, args: &[&str]) -> farm_tests::Command {
    let mut command = world.farm(["build"]).with(args);
    compile_guests(&mut command);
    command
}

/// A crate made by `farm new`, with the versions that this repository has locked: no test depends on what was released today.
fn new(world: &World, name: &str, extra: &[&str]) {
    world.farm(["new", name]).with(extra).succeeds();
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    fs::copy(lock, world.path().join(name).join("Cargo.lock")).expect("the lock file");
}

#[test]
fn a_crate_is_made_built_and_run() {
    let world = World::new();
    let made = world.farm(["new", "hello-world"]).succeeds();
    made.says(&[
        "hello-world/Cargo.toml",
        "hello-world/src/lib.rs",
        "farm build hello-world",
        "farm run hello_world.wasm",
    ]);
    world.farm(["new", "hello-world"]).fails(2).explains(&["hello-world exists already"]);
    world.farm(["new", "9lives"]).fails(2).explains(&["9lives", "begin with a letter"]);
    fs::remove_dir_all(world.path().join("hello-world")).expect("made");
    new(&world, "hello-world", &[]);

    let built = build(&world, &["hello-world"]).succeeds();
    built.says(&["building for wasm32-unknown-unknown", "as its Cargo.toml says", "hello_world.wasm: square"]);
    let args = ["run", "hello_world.wasm", "--args", "hello-world/args.json"];
    assert_eq!(world.farm(args).succeeds().json(), json!([9, 16, 25]));
    let info = world.farm(["inspect", "hello_world.wasm", "--output", "json"]).succeeds().json();
    assert_eq!((&info["kind"], &info["touches"]), (&json!("sdk"), &json!([])), "a pure function");

    let document = build(&world, &["hello-world", "--out", "x.wasm", "--output", "json"]).succeeds().json();
    assert_eq!((&document["module"], &document["functions"]), (&json!("x.wasm"), &json!(["square"])));
    assert_eq!((&document["digest"], &document["target"]), (&info["digest"], &json!("wasm32-unknown-unknown")));

    // Mistakes in the crate are shown as cargo shows them.
    fs::write(world.path().join("hello-world/src/lib.rs"), "fn broken( {}").expect("a file");
    build(&world, &["hello-world"]).fails(3).says(&["error: cargo failed", "fn broken( {}"]);
    world.leaves_nothing();
}

#[test]
fn the_target_is_chosen_by_what_the_sources_use() {
    let world = World::new();
    new(&world, "prints", &["--wasi"]);
    let folder = world.path().join("prints");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect("the manifest");
    assert!(manifest.contains("target = \"wasm32-wasip1\""), "{manifest}");
    let undecided = manifest.lines().filter(|line| !line.starts_with("target = ")).collect::<Vec<_>>().join("\n");
    fs::write(folder.join("Cargo.toml"), undecided).expect("a file");
    let source = "#[farm::function]\npub fn shout(text: String) -> String {\n    println!(\"hi\");\n    text.to_uppercase()\n}\n";
    fs::write(folder.join("src/lib.rs"), source).expect("a file");
    let built = build(&world, &["prints"]).succeeds();
    built.says(&["building for wasm32-wasip1, because of `println!`", "lib.rs:3"]);
    let finished = world.farm(["run", "prints.wasm", "--args", r#"["a"]"#, "--format", "ndjson"]).succeeds();
    assert_eq!(finished.lines()[0], json!({"index": 0, "value": "A", "stdout": "hi\n"}));

    let asked = build(&world, &["prints", "--target", "wasm32-unknown-unknown"]).succeeds();
    asked.says(&["building for wasm32-unknown-unknown, as asked"]);
}

#[test]
fn what_cannot_be_built_is_told() {
    let world = World::new();
    build(&world, &["no/such"]).fails(2).explains(&["no Cargo.toml in no/such"]).hints(&["farm new"]);
    world.write("plain/Cargo.toml", "[package]\nname = \"plain\"\nversion = \"0.1.0\"\n[workspace]\n");
    world.write("plain/src/lib.rs", "");
    build(&world, &["plain"]).fails(2).explains(&["plain is not a function crate", "cdylib"]);
    world.write("broken/Cargo.toml", "[package");
    build(&world, &["broken"]).fails(3).says(&["error: cargo failed"]);
}

/// A compiler that has no library for any other target than its own.
#[test]
fn a_missing_target_is_told_with_the_command_that_adds_it() {
    let world = World::new();
    new(&world, "hello", &[]);
    let real = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *wasm32*) ;; *) exec {real} \"$@\";; esac\n\
         case \"$*\" in *'--print target-libdir'*) echo /no/such/folder;; \
         *) echo \"error[E0463]: can't find crate for \\`core\\`\" >&2; exit 1;; esac\n"
    );
    let rustc = world.write("rustc", script);
    fs::set_permissions(&rustc, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
    let command = world.farm(["build", "hello"]).with_env("RUSTC", &rustc);
    let finished = command.with_env("CARGO_TARGET_DIR", world.path().join("target")).fails(3);
    finished.says(&["error: the Rust target wasm32-unknown-unknown is not installed"]);
    finished.hints(&["rustup target add wasm32-unknown-unknown"]);
}

/// The lines in `sh` blocks of a Markdown file.
fn shell_lines(markdown: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut in_block = false;
    for line in markdown.lines() {
        match line.trim() {
            "```sh" => in_block = true,
            "```" => in_block = false,
            line if in_block => lines.push(line.split(" #").next().unwrap_or_default().trim()),
            _ => {}
        }
    }
    lines
}

#[test]
fn the_commands_of_the_readme_work_in_a_fresh_folder() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(readme).expect("the README");
    let world = World::new();
    let mut seen = Vec::new();
    for line in shell_lines(&readme) {
        let Some(name) = line.strip_prefix("farm ").and_then(|rest| rest.split(' ').next()) else { continue };
        if !["new", "build", "run", "submit", "inspect", "up", "down", "status"].contains(&name) {
            continue;
        }
        // There is no SLURM in a fresh folder; clusters have tests of their own.
        if line.contains("--cluster") {
            continue;
        }
        seen.push(name);
        let mut command = world.shell(line);
        compile_guests(&mut command);
        command.succeeds().says(&[]);
    }
    for name in ["new", "build", "run", "submit"] {
        assert!(seen.contains(&name), "the README shows `farm {name}`: {seen:?}");
    }
    let written = fs::read(world.path().join("squares.json")).expect("what the README's submit writes");
    let squares: Vec<u64> = serde_json::from_slice(&written).expect("numbers");
    assert_eq!(squares.len(), 1_000_000);
    assert!(squares.iter().enumerate().all(|(x, square)| *square == (x as u64).pow(2)));
    if seen.contains(&"up") {
        world.farm(["down"]).run();
    }
    world.leaves_nothing();
}
