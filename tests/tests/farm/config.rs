//! `farm.toml`: what users may keep, and what is wrong with it.

use farm_tests::World;
use serde_json::json;

use crate::support::{Farm, module};
use crate::wat;

/// A farm whose scheduler is configured so.
fn configured(text: &str) -> Farm {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("writable");
    // It is read at start.
    Farm::with(1, &["--config", file.path().to_str().expect("text")])
}

#[test]
fn a_user_keeps_no_more_than_is_allowed() {
    let farm = configured("[limits]\nstored_bytes = \"1MiB\"\n[users.bob]\nstored_bytes = \"4MiB\"\n");
    let (ada, bob) = (farm.ticket_for("ada"), farm.ticket_for("bob"));
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    world.write("a.bin", vec![1; 700 << 10]);
    world.write("b.bin", vec![2; 700 << 10]);
    let submit = |file: &str, ticket: &str| {
        let input = format!("data={file}.bin");
        world.farm(["submit", m, "--args", "[7]", "--input", &input]).with_env("FARM_TICKET", ticket)
    };
    assert_eq!(submit("a", &ada).succeeds().json(), json!([49]));
    let refused = submit("b", &ada).fails(6);
    refused.explains(&["the jobs of ada keep 700.", "KiB there", "needs 700 KiB more, of 1 MiB"]);
    refused.hints(&["farm job delete"]);
    submit("a", &bob).succeeds();
    submit("b", &bob).succeeds();
    world.farm(["job", "delete", "1"]).with_env("FARM_TICKET", &ada).succeeds();
    submit("b", &ada).succeeds();
}

#[test]
fn the_usual_file_is_read_if_it_is_there() {
    let world = World::new();
    world.write("config/farm/farm.toml", "[limits]\nslots = \"many\"\n");
    let refused = world.farm(["scheduler", "--listen", "127.0.0.1:0", "--ephemeral"]).fails(2);
    let expected = ["farm.toml, line 2, column 9: ", "invalid type", "u32"];
    refused.says(&expected).hints(&["access.md"]);
    world.write("config/farm/farm.toml", "[limits]\nslots = 4\n");
    let scheduler = world.scheduler();
    assert!(scheduler.log().contains("configured"), "{}", scheduler.log());
}

#[test]
fn what_is_wrong_with_a_file_is_named() {
    let world = World::new();
    for (text, reason) in [
        ("[limits]\nstored_byte = 1\n", "line 2, column 1: unknown field `stored_byte`"),
        ("[clusters]\nusers_may_create = 1\n", "line 2, column 20: invalid type"),
        ("[users.\"a b\"]\n", "can be nobody's"),
        ("[limits]\nstored_bytes = \"lots\"\n", "line 2, column 16: a size is written"),
    ] {
        let path = world.write("f.toml", text);
        let command = world.farm(["scheduler", "--listen", "127.0.0.1:0", "--ephemeral", "--config"]).with([&path]);
        command.fails(2).says(&["error: ", "f.toml", reason]);
    }
    let missing = world.farm(["scheduler", "--listen", "127.0.0.1:0", "--ephemeral", "--config", "none.toml"]).fails(2);
    missing.says(&["error: cannot read none.toml"]);
    world.leaves_nothing();
}
