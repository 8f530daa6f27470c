//! `farm ticket`, and what its bearers may do.

use farm_tests::World;
use serde_json::{Value, json};

use crate::support::{Farm, module, takes_less_than};
use crate::wat;

fn ticket(farm: &Farm, role: &str, name: &str) -> String {
    farm.farm(&["ticket", "create", "--role", role, "--name", name]).succeeds().text().trim().to_owned()
}

/// The ids of the jobs that the bearer sees.
fn jobs(world: &World, ticket: &str) -> Vec<Value> {
    let jobs = world.farm(["jobs", "--output", "json", "--ticket", ticket]).succeeds().json();
    jobs.as_array().expect("a list").iter().map(|job| job["id"].clone()).collect()
}

#[test]
fn a_user_sees_only_the_jobs_of_this_user() {
    let farm = Farm::new(1);
    let (ada, bob) = (ticket(&farm, "user", "ada"), ticket(&farm, "user", "bob"));
    assert!(ada.starts_with("farm://127.0.0.1:") && ada.contains("/user?"), "{ada}");
    let (hers, his) = (World::new(), World::new());
    for (world, ticket) in [(&hers, &ada), (&his, &bob)] {
        let m = module(world, wat::SQUARE);
        let finished = world.farm(["submit", m, "--args", "[7]"]).with_env("FARM_TICKET", ticket).succeeds();
        assert_eq!(finished.json(), json!([49]));
    }
    assert_eq!(jobs(&hers, &ada), [1]);
    assert_eq!(jobs(&his, &bob), [2]);
    assert_eq!(jobs(&farm.world, &farm.scheduler.admin_ticket()), [1, 2]);
    assert_eq!(farm.job("1")["owner"], "ada");

    for args in [&["job", "show", "2"][..], &["job", "results", "2"], &["job", "cancel", "2"]] {
        hers.farm(args).with_env("FARM_TICKET", &ada).fails(8).explains(&["there is no job 2"]);
    }
    assert_eq!(hers.farm(["job", "results", "1", "--ticket", &ada]).succeeds().json(), json!([49]));
    // Whose certificate was made from the ticket need not enrol again.
    assert_eq!(jobs(&hers, &ada), [1]);
}

#[test]
fn only_an_admin_makes_tickets_and_ends_the_farm() {
    let farm = Farm::new(0);
    let user = ticket(&farm, "user", "ada");
    let world = World::new();
    world.farm(["ticket", "create", "--role", "admin", "--ticket", &user]).fails(6).explains(&["refused", "admin"]);
    let admin = ticket(&farm, "admin", "root");
    let theirs = world.farm(["ticket", "create", "--role", "user", "--ticket", &admin]).succeeds();
    assert!(theirs.text().contains("/user?"), "{}", theirs.text());
    world.farm(["ticket", "create", "--role", "boss", "--ticket", &admin]).fails(2).says(&["admin, user and worker"]);
}

#[test]
fn a_worker_works_and_does_nothing_else() {
    let farm = Farm::new(0);
    let ticket = ticket(&farm, "worker", "helper");
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    for args in [&["submit", m, "--args", "[1]"][..], &["jobs"], &["status"], &["ticket", "create", "--role", "user"]] {
        world.farm(args).with_env("FARM_TICKET", &ticket).fails(6).explains(&["role"]);
    }
    let _worker = world.worker_with(&ticket, "helper", 1, &[], &[]);
    let finished = farm.farm(&["submit", module(&farm.world, wat::SQUARE), "--args", "[9]"]).succeeds();
    assert_eq!(finished.json(), json!([81]));
}

#[test]
fn a_user_cannot_work() {
    let farm = Farm::new(0);
    let user = ticket(&farm, "user", "ada");
    let world = World::new();
    let worker = world.farm(["worker", "--slots", "1"]).with_env("FARM_TICKET", &user).fails(2);
    worker.explains(&["a ticket for a user, not for a worker"]).hints(&["worker.ticket"]);
    // Nor does it help to write another role into the ticket.
    let promoted = user.replace("/user?", "/worker?");
    let worker = world.farm(["worker", "--slots", "1"]).with_env("FARM_TICKET", &promoted);
    takes_less_than(20, || worker.fails(6)).explains(&["only workers"]).hints(&["of that role"]);
    world.leaves_nothing();
}

#[test]
fn a_wrong_ticket_is_refused() {
    let farm = Farm::new(0);
    let good = ticket(&farm, "user", "ada");
    let world = World::new();
    let (start, _) = good.split_once("secret=").expect("a secret");
    let wrong = format!("{start}secret=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    let refused = world.farm(["jobs", "--ticket", &wrong]).fails(6);
    refused.explains(&["ticket was refused"]).hints(&["farm ticket"]);
    // A role that the secret was not made for.
    let promoted = good.replace("/user?", "/admin?");
    world.farm(["ticket", "create", "--role", "user", "--ticket", &promoted]).fails(6).explains(&["error: "]);
    for (text, reason) in [
        ("farm://127.0.0.1:1/user", "ca="),
        ("http://example.org", "begins with farm://"),
        (good.split("&secret").next().expect("a start"), "secret="),
    ] {
        world.farm(["jobs", "--ticket", text]).fails(2).explains(&[reason]).hints(&["quote it"]);
    }
    world.farm(["worker", "--ticket", "nonsense"]).fails(2).explains(&["farm://"]).hints(&["quote it"]);
}

#[test]
fn a_ticket_runs_out() {
    let farm = Farm::new(0);
    let short = |role: &str| {
        farm.farm(&["ticket", "create", "--role", role, "--expires", "1s"]).succeeds().text().trim().to_owned()
    };
    let (user, worker) = (short("user"), short("worker"));
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let world = World::new();
    let refused = world.farm(["jobs", "--ticket", &user]).fails(6);
    refused.explains(&["ticket was refused"]).hints(&["farm ticket"]);
    let refused = world.farm(["worker", "--slots", "1"]).with_env("FARM_TICKET", &worker).fails(6);
    refused.explains(&["ticket was refused"]).hints(&["farm ticket"]);
}

#[test]
fn a_ticket_of_another_farm_is_noticed() {
    let (one, other) = (Farm::new(0), Farm::new(0));
    let ticket = one.scheduler.admin_ticket();
    let moved = ticket.replace(&one.scheduler.address, &other.scheduler.address);
    assert_ne!(moved, ticket);
    let world = World::new();
    let refused = world.farm(["jobs", "--ticket", &moved]).fails(6);
    refused.explains(&[&other.scheduler.address, "not the one that the ticket is for"]).hints(&["new ticket"]);
}

/// Makes a ticket; what is said of it as JSON.
fn made(farm: &Farm, args: &[&str]) -> Value {
    farm.farm(&["ticket", "create", "--output", "json"]).with(args).succeeds().json()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

#[test]
fn tickets_are_listed_without_their_secrets() {
    let farm = Farm::new(0);
    let hers = made(&farm, &["--role", "user", "--name", "ada", "--expires", "2h", "--uses", "3"]);
    let worker = made(&farm, &["--role", "worker", "--cluster", "gpu"]);
    let said = farm.farm(&["ticket", "create", "--role", "user", "--uses", "1", "--expires", "90"]).succeeds();
    said.says(&["lets in user as user for 90 s, once", "`farm ticket revoke "]);
    assert_eq!(said.text().lines().count(), 1, "one line to paste: {}", said.text());

    let listed = farm.farm(&["ticket", "list", "--output", "json"]).succeeds();
    let secret = text(&hers["ticket"]).split("secret=").nth(1).expect("a secret").to_owned();
    assert!(!listed.text().contains(&secret));
    let listed = listed.json();
    let find = |id: &Value| {
        let mut all = listed.as_array().expect("a list").iter();
        all.find(|ticket| ticket["id"] == *id).unwrap_or_else(|| panic!("no {id} in {listed}")).clone()
    };
    let found = find(&hers["id"]);
    let names = ["role", "name", "cluster", "created_by", "uses_left", "revoked_ms", "connections"];
    let values = names.map(|name| found[name].clone());
    assert_eq!(
        values,
        [json!("user"), json!("ada"), json!(null), json!("admin/admin"), json!(3), json!(null), json!(0)]
    );
    let (created, expires) = (found["created_ms"].as_u64(), found["expires_s"].as_u64());
    let life = expires.expect("a time") - created.expect("a time") / 1000;
    assert!((7199..=7201).contains(&life), "{found}");
    assert_eq!(find(&worker["id"])["cluster"], "gpu");
    let table = farm.farm(&["ticket", "list"]).succeeds();
    for part in ["ID", "ROLE", "CLUSTER", text(&hers["id"]), "ada", "gpu", "the scheduler", "for 119 min"] {
        assert!(table.text().contains(part), "{part}: {}", table.text());
    }
}

#[test]
fn a_ticket_for_one_use_lets_in_once() {
    let farm = Farm::new(0);
    let once = made(&farm, &["--role", "user", "--name", "ada", "--uses", "1"]);
    let once = text(&once["ticket"]);
    let (first, second) = (World::new(), World::new());
    assert!(jobs(&first, once).is_empty());
    let refused = second.farm(["jobs", "--ticket", once]).fails(6);
    refused.explains(&["ticket was refused", "used as often as it may be"]).hints(&["farm ticket create"]);
    // The first has a certificate for it.
    assert!(jobs(&first, once).is_empty());
}

#[test]
fn two_tickets_on_one_machine_are_two_people() {
    let farm = Farm::new(1);
    let (ada, bob) = (ticket(&farm, "user", "ada"), ticket(&farm, "user", "bob"));
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    for ticket in [&ada, &bob] {
        world.farm(["submit", m, "--args", "[7]", "--ticket", ticket]).succeeds();
    }
    assert_eq!((jobs(&world, &ada), jobs(&world, &bob)), (vec![json!(1)], vec![json!(2)]));
}

#[test]
fn who_came_with_a_revoked_ticket_is_told_so_and_leaves() {
    let farm = Farm::new(0);
    let user = made(&farm, &["--role", "user", "--name", "ada"]);
    let helper = made(&farm, &["--role", "worker", "--name", "helper"]);
    let (theirs, hers) = (World::new(), World::new());
    let mut worker = theirs.worker_with(text(&helper["ticket"]), "helper", 1, &[], &[]);
    worker.until_it_logs("at work");
    let m = module(&hers, wat::SPIN);
    let client = hers.farm(["submit", m, "--args", "[0]"]).with_env("FARM_TICKET", text(&user["ticket"])).start();
    farm.wait_until("1", "runs", |status| status["counts"]["leased"] != 0);

    let revoke = |id: &Value| farm.farm(&["ticket", "revoke", text(id)]).succeeds();
    takes_less_than(20, || {
        revoke(&user["id"]).says(&["is revoked", "nobody is ada as user by it"]);
        let client = client.wait().with_code(6);
        client.explains(&["this ticket was revoked"]).hints(&["farm ticket create"]);
        revoke(&helper["id"]);
        worker.wait().with_code(6).says(&["error: this ticket was revoked", "hint: "]);
    });
    for (world, ticket, command) in
        [(&hers, &user["ticket"], &["jobs"][..]), (&theirs, &helper["ticket"], &["worker", "--slots", "1"])]
    {
        world.farm(command).with_env("FARM_TICKET", text(ticket)).fails(6).says(&["revoked"]);
    }
    // The job does not go with whoever came for it.
    assert_eq!(farm.job("1")["state"], "running");
    let again = farm.farm(&["ticket", "revoke", text(&user["id"]), "--output", "json"]).succeeds().json();
    assert!(again["revoked_ms"].is_u64(), "{again}");
    let listed = farm.farm(&["ticket", "list"]).succeeds();
    assert_eq!(listed.text().matches(" revoked").count(), 2, "{}", listed.text());
}

#[test]
fn a_revocation_outlives_the_scheduler() {
    let mut farm = Farm::new(0);
    let user = made(&farm, &["--role", "user", "--name", "ada"]);
    let world = World::new();
    assert!(jobs(&world, text(&user["ticket"])).is_empty());
    farm.farm(&["ticket", "revoke", text(&user["id"])]).succeeds();
    farm.stop_scheduler(rustix::process::Signal::KILL);
    farm.restart_scheduler();
    world.farm(["jobs", "--ticket", text(&user["ticket"])]).fails(6).explains(&["revoked"]);
    farm.stop_scheduler(rustix::process::Signal::TERM);
    farm.world.check_state();
}

#[test]
fn what_cannot_be_a_ticket_is_not_made() {
    let farm = Farm::new(0);
    for (args, words) in [
        (&["--role", "worker", "--cluster", "a b"][..], "no name for a cluster"),
        (&["--role", "user", "--cluster", "gpu"], "only workers belong to a cluster"),
        (&["--role", "user", "--name", "a/b"], "no name for a ticket"),
        (&["--role", "user", "--expires", "0s"], "no time at all"),
        (&["--role", "user", "--expires", "5000d"], "3650 days"),
    ] {
        farm.farm(&["ticket", "create"]).with(args).fails(6).explains(&[words]);
    }
    farm.farm(&["ticket", "create"]).fails(2).says(&["--role"]);
    farm.farm(&["ticket", "create", "--role", "user", "--uses", "0"]).fails(2).says(&["--uses"]);
    let unknown = farm.farm(&["ticket", "revoke", "00000000"]).fails(8);
    unknown.explains(&["there is no ticket 00000000"]).hints(&["farm ticket list"]);
    farm.farm(&["ticket", "revoke", "nonsense"]).fails(2).says(&["8 hexadecimal digits"]);
}

#[test]
fn a_worker_outlives_its_certificate() {
    let mut farm = Farm::with(0, &["--certificate-validity", "3s"]);
    let once = made(&farm, &["--role", "worker", "--uses", "1"]);
    let world = World::new();
    let mut worker = world.worker_with(text(&once["ticket"]), "old", 1, &[], &[]);
    worker.until_it_logs("at work");
    std::thread::sleep(std::time::Duration::from_secs(7));
    // It has to show its certificate again, and has no ticket for another.
    farm.stop_scheduler(rustix::process::Signal::KILL);
    let args = ["--certificate-validity", "3s"];
    farm.scheduler = farm.world.scheduler_at(&farm.scheduler.address, &args, &[]);
    farm.await_workers(1);
    let m = module(&farm.world, wat::SQUARE);
    assert_eq!(farm.farm(&["submit", m, "--args", "[9]"]).succeeds().json(), json!([81]));
    assert!(worker.is_running(), "{}", worker.log());
}
