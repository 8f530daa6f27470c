//! A farm that cannot be reached, and addresses that are taken.

use std::net::UdpSocket;
use std::time::Duration;

use farm_tests::World;

use crate::support::{Farm, module};
use crate::wat;

/// A ticket that is well made but leads to that address.
fn ticket_for(role: &str, address: &str) -> String {
    format!("farm://{address}/{role}?ca={}&secret=AAAA", "0".repeat(64))
}

#[test]
fn a_scheduler_that_is_not_there_is_given_up_in_time() {
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    // One address where nobody listens, and one where somebody does who never answers.
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let silent = (silent.local_addr().expect("bound"), silent);
    let free = UdpSocket::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let mut running = Vec::new();
    for address in [silent.0.to_string(), free.to_string()] {
        for args in [&["submit", m, "--args", "[1]"][..], &["jobs"], &["worker", "--slots", "1", "--wait", "0s"]] {
            let role = if args[0] == "worker" { "worker" } else { "user" };
            let command = world.farm(args).with_env("FARM_TICKET", ticket_for(role, &address));
            running.push((command.start(), address.clone()));
        }
    }
    for (running, address) in running {
        let finished = running.wait().with_code(5);
        assert!(finished.took < Duration::from_secs(7), "{:?}", finished.took);
        finished.says(&["error: no answer from", &address, "within 5 s"]).hints(&["is the scheduler up", "UDP"]);
    }
    world.leaves_nothing();
}

#[test]
fn a_host_that_has_no_address_is_told() {
    let world = World::new();
    let ticket = ticket_for("user", "no-such-host.invalid:7117");
    let finished = world.farm(["jobs", "--ticket", &ticket]).fails(5);
    finished.explains(&["cannot resolve no-such-host.invalid"]).hints(&["is the scheduler up"]);
}

#[test]
fn a_port_that_is_taken_is_told() {
    let world = World::new();
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    // Without its log, in which it tells what it does.
    let finished = world.farm(["scheduler", "--listen", &address]).with_env("FARM_LOG", "off").fails(70);
    finished.explains(&["cannot listen", &address, "in use"]).hints(&["--listen", "port 0"]);
    world.farm(["scheduler", "--listen", "nonsense"]).fails(2).says(&["--listen"]);
}

#[test]
fn two_schedulers_do_not_share_a_folder() {
    let farm = Farm::new(0);
    let state = farm.world.path().join("scheduler");
    let second = farm.world.farm(["scheduler", "--listen", "127.0.0.1:0", "--state"]).with([&state]).fails(70);
    second.says(&["error: ", "scheduler"]).hints(&["--state"]);
    // The first has not suffered.
    farm.status();
}

#[test]
fn a_scheduler_keeps_its_identity() {
    let world = World::new();
    let before = world.scheduler();
    let ticket = before.admin_ticket();
    before.signal(rustix::process::Signal::TERM);
    assert_eq!(before.wait().code(), Some(0));
    let after = world.scheduler();
    let ca = |ticket: &str| ticket.split(['?', '&']).find(|part| part.starts_with("ca=")).map(str::to_owned);
    assert!(ca(&ticket).is_some());
    assert_eq!(ca(&ticket), ca(&after.admin_ticket()));
}

#[test]
fn tickets_name_the_host_that_others_reach() {
    let world = World::new();
    let mut running = world
        .farm(["scheduler", "--listen", "127.0.0.1:0", "--public-host", "farm.example.org", "--end-with-stdin"])
        .keeping_stdin()
        .start();
    running.until_it_says("for users:");
    for part in ["listening on 127.0.0.1:", "for workers:", "FARM_TICKET=$(cat", "farm ticket create --role user"] {
        assert!(running.said().contains(part), "{}", running.said());
    }
    let tickets = world.path().join("home").join("scheduler");
    let ticket = std::fs::read_to_string(tickets.join("worker.ticket")).expect("a ticket");
    assert!(ticket.starts_with("farm://farm.example.org:"), "{ticket}");
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(tickets.join("admin.ticket")).expect("a ticket").permissions().mode();
    assert_eq!(mode & 0o077, 0, "a ticket is a secret");
}
