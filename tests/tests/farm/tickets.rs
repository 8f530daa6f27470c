//! `farm ticket`, and what its bearers may do.

use farm_tests::World;
use serde_json::{Value, json};

use crate::support::{Farm, module, takes_less_than};
use crate::wat;

fn ticket(farm: &Farm, role: &str, name: &str) -> String {
    farm.farm(&["ticket", role, "--name", name]).succeeds().text().trim().to_owned()
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
    world.farm(["ticket", "admin", "--ticket", &user]).fails(6).explains(&["refused", "admin"]);
    let admin = ticket(&farm, "admin", "root");
    let theirs = world.farm(["ticket", "user", "--ticket", &admin]).succeeds();
    assert!(theirs.text().contains("/user?"), "{}", theirs.text());
    world.farm(["ticket", "boss", "--ticket", &admin]).fails(2).says(&["admin, user and worker"]);
}

#[test]
fn a_worker_works_and_does_nothing_else() {
    let farm = Farm::new(0);
    let ticket = ticket(&farm, "worker", "helper");
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    for args in [&["submit", m, "--args", "[1]"][..], &["jobs"], &["status"], &["ticket", "user"]] {
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
    world.farm(["ticket", "user", "--ticket", &promoted]).fails(6).explains(&["error: "]);
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
    let short = |role: &str| farm.farm(&["ticket", role, "--valid", "1s"]).succeeds().text().trim().to_owned();
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
