//! `farm login`, `logout` and `context`: which farm a command goes to.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use farm_tests::World;
use serde_json::{Value, json};

use crate::support::{Farm, module};
use crate::wat;

/// A ticket for one use, so that nothing but the certificate can let in again.
fn once(farm: &Farm, name: &str) -> String {
    let args = ["ticket", "create", "--role", "user", "--uses", "1", "--name", name];
    farm.farm(&args).succeeds().text().trim().to_owned()
}

fn contexts(world: &World) -> Value {
    world.farm(["context", "list", "--output", "json"]).succeeds().json()
}

/// Which farm a command goes to: by the id of its scheduler's process.
fn reached(command: farm_tests::Command) -> Value {
    command.with(["--output", "json"]).succeeds().json()["pid"].clone()
}

#[test]
fn who_has_logged_in_needs_no_ticket_any_more() {
    let farm = Farm::new(1);
    let world = World::new();
    let ticket = once(&farm, "ada");
    let login = world.farm(["login", "-", "--as", "lab"]).stdin(format!("{ticket}\n")).succeeds();
    login.says(&["logged in to lab (127.0.0.1:", "as user"]);
    let m = module(&world, wat::SQUARE);
    assert_eq!(world.farm(["submit", m, "--args", "[7]"]).succeeds().json(), json!([49]));
    assert_eq!(farm.job("1")["owner"], "ada");
    let listed = contexts(&world);
    assert_eq!(
        (&listed[0]["name"], &listed[0]["role"], &listed[0]["current"]),
        (&json!("lab"), &json!("user"), &json!(true))
    );
    assert_eq!(listed[0]["address"], farm.scheduler.address.as_str());
    assert!(listed[0]["certificate_until_s"].is_u64(), "{listed}");

    // Nothing has kept the secret, and what is kept is for its owner alone.
    let secret = ticket.split("secret=").nth(1).expect("a secret");
    let folder = world.path().join("home/contexts");
    assert_eq!(fs::metadata(&folder).expect("there").permissions().mode() & 0o777, 0o700);
    let mut files = 0;
    for entry in fs::read_dir(&folder).expect("there") {
        let path = entry.expect("an entry").path();
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600, "{}", path.display());
        assert!(!fs::read_to_string(&path).expect("text").contains(secret), "{}", path.display());
        files += 1;
    }
    assert_eq!(files, 3);

    world.farm(["logout"]).succeeds().says(&["logged out of lab", "its certificate is deleted"]);
    world.farm(["jobs"]).fails(5).explains(&["no farm is up"]).hints(&["farm login"]);
    assert_eq!(fs::read_dir(&folder).expect("there").count(), 0);
}

#[test]
fn several_farms_have_names() {
    let (one, two) = (Farm::new(0), Farm::new(0));
    let world = World::new();
    world.farm(["login", &once(&one, "ada"), "--as", "one"]).succeeds();
    world.farm(["login", &once(&two, "ada"), "--as", "two"]).succeeds();
    let pids = [json!(one.scheduler.pid()), json!(two.scheduler.pid())];
    assert_eq!(reached(world.farm(["status"])), pids[1]);
    assert_eq!(reached(world.farm(["status", "--farm", "one"])), pids[0]);
    assert_eq!(reached(world.farm(["--farm", "one", "status"])), pids[0]);
    world.farm(["context", "use", "one"]).succeeds().says(&["commands go to one"]);
    assert_eq!(reached(world.farm(["status"])), pids[0]);

    // The command line, then the environment, then what was chosen, then what is up here.
    let ticket = two.scheduler.admin_ticket();
    assert_eq!(reached(world.farm(["status"]).with_env("FARM_TICKET", &ticket)), pids[1]);
    assert_eq!(reached(world.farm(["status", "--farm", "one"]).with_env("FARM_TICKET", &ticket)), pids[0]);
    let first = one.scheduler.admin_ticket();
    assert_eq!(reached(world.farm(["status", "--ticket", &first]).with_env("FARM_TICKET", &ticket)), pids[0]);
    world.farm(["status", "--farm", "one", "--ticket", &ticket]).fails(2).explains(&["--ticket and --farm"]);
    world.farm(["up", "--workers", "1"]).succeeds();
    assert_eq!(reached(world.farm(["status"])), pids[0]);
    world.farm(["logout", "one"]).succeeds().says(&["`farm context use NAME`"]);
    let local = reached(world.farm(["status"]));
    assert!(!pids.contains(&local), "the one of `farm up`: {local}");
    world.farm(["down"]).succeeds();
    let shown = world.farm(["context", "list"]).succeeds();
    assert!(shown.text().starts_with("  two "), "{}", shown.text());
}

#[test]
fn what_cannot_be_logged_in_to_leaves_nothing() {
    let (farm, other) = (Farm::new(0), Farm::new(0));
    let world = World::new();
    let worker = farm.scheduler.worker_ticket();
    world.farm(["login", &worker]).fails(2).explains(&["a worker", "`farm worker`"]).hints(&["--role user"]);
    let ticket = once(&farm, "ada");
    world.farm(["login", &ticket, "--as", "a/b"]).fails(2).explains(&["no name for a farm"]);
    world.farm(["login", "farm://nonsense"]).fails(2).hints(&["quote it"]);
    world.farm(["login", &ticket[..ticket.len() - 7]]).fails(6).explains(&["ticket was refused", "damaged"]);
    assert_eq!(contexts(&world), json!([]));

    // None of that has used up the ticket.
    world.farm(["login", &ticket]).succeeds().says(&["logged in to 127.0.0.1"]);
    world.farm(["login", &ticket]).fails(6).explains(&["used as often as it may be"]);
    assert_eq!(reached(world.farm(["status"])), json!(farm.scheduler.pid()), "what was there is still good");
    let taken = world.farm(["login", &once(&other, "ada")]).fails(2);
    taken
        .explains(&["is another farm already, at", &farm.scheduler.address])
        .hints(&["--as NAME", "farm logout 127.0.0.1"]);
    // The same farm again, as somebody else.
    world.farm(["login", &once(&farm, "bob")]).succeeds();
    world.farm(["submit", module(&world, wat::SQUARE), "--args", "[7]", "--detach"]).succeeds();
    assert_eq!(farm.job("1")["owner"], "bob");

    for command in [&["logout", "nowhere"][..], &["context", "use", "nowhere"], &["jobs", "--farm", "nowhere"]] {
        let unknown = world.farm(command).fails(8);
        unknown.explains(&["no farm is called \"nowhere\"", "there is 127.0.0.1"]).hints(&["farm context list"]);
    }
    world.farm(["logout"]).succeeds().says(&["you are logged in to no other"]);
    world.farm(["logout"]).fails(8).explains(&["not logged in"]).hints(&["farm login"]);
}

#[test]
fn a_certificate_that_has_run_out_needs_a_new_ticket() {
    let farm = Farm::with(0, &["--certificate-validity", "2s"]);
    let world = World::new();
    world.farm(["login", &once(&farm, "ada"), "--as", "lab"]).succeeds();
    // As long as it is used, it is renewed.
    for _ in 0..5 {
        std::thread::sleep(std::time::Duration::from_millis(1000));
        world.farm(["jobs"]).run();
    }
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let refused = world.farm(["jobs"]).fails(6);
    refused.explains(&["certificate", "has run out"]).hints(&["farm login"]);
}

#[test]
fn who_was_revoked_may_log_in_again_with_another_ticket() {
    let farm = Farm::new(0);
    let world = World::new();
    world.farm(["login", &once(&farm, "ada"), "--as", "lab"]).succeeds();
    let listed = farm.farm(&["ticket", "list", "--output", "json"]).succeeds().json();
    let hers = listed.as_array().expect("a list").iter().find(|ticket| ticket["name"] == "ada").expect("hers").clone();
    farm.farm(&["ticket", "revoke", hers["id"].as_str().expect("an id")]).succeeds();
    world.farm(["jobs"]).fails(6).explains(&["this ticket was revoked"]);
    world.farm(["login", &once(&farm, "ada"), "--as", "lab"]).succeeds();
    world.farm(["jobs"]).succeeds();
}
