//! Workers that say nothing: what they held is run elsewhere, and when they wake up they go on.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use farm_tests::wait_for;
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Farm, kinds, module, squares};
use crate::wat;

#[test]
fn a_frozen_worker_is_given_up_and_comes_back() {
    let world = farm_tests::World::new();
    let scheduler = world.scheduler_at("127.0.0.1:0", &["--heartbeat", "1s"], &[]);
    let workers = ["w0", "w1"].map(|name| world.worker(&scheduler, name, 1)).into();
    let mut farm = Farm { workers, scheduler, world };
    let connected = |farm: &Farm| farm.status()["workers"].as_array().map_or(0, Vec::len);
    wait_for("the workers", || (connected(&farm) == 2).then_some(()));
    let m = module(&farm.world, &wat::busy(5_000_000));
    let client = farm.farm(&["submit", m, "--range", "0..2000", "--format", "ndjson"]).start();
    farm.wait_until("1", "is under way", |status| status["counts"]["succeeded"].as_u64() > Some(50));
    let pid = farm.workers[1].pid();
    farm.workers[1].signal(Signal::STOP);
    wait_for("its being given up", || (connected(&farm) == 1).then_some(()));
    farm.workers[1].signal(Signal::CONT);
    wait_for("its return", || (connected(&farm) == 2).then_some(()));
    assert!(farm.workers[1].is_running());
    assert_eq!(farm.workers[1].pid(), pid, "it is the same process");
    // `kinds` checks that each task has exactly one line.
    assert_eq!(json!(kinds(&client.wait().with_code(0))), squares(2000));
}

/// A way to a scheduler that can be cut: a relay of datagrams for one worker.
struct Link {
    address: SocketAddr,
    is_cut: Arc<AtomicBool>,
}

impl Link {
    fn to(scheduler: &str) -> Self {
        let near = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let far = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        far.connect(scheduler).expect("an address");
        let address = near.local_addr().expect("bound");
        let is_cut = Arc::new(AtomicBool::new(false));
        let cut = Arc::clone(&is_cut);
        // Ends with the test's process: it has nothing but two sockets.
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            let mut worker = None;
            let wait = Some(Duration::from_millis(1));
            near.set_read_timeout(wait).and_then(|()| far.set_read_timeout(wait)).expect("a time-out");
            loop {
                if let Ok((length, from)) = near.recv_from(&mut buffer) {
                    worker = Some(from);
                    if !cut.load(Ordering::Relaxed) {
                        let _ = far.send(&buffer[..length]);
                    }
                }
                while let Ok(length) = far.recv(&mut buffer) {
                    if let Some(worker) = worker.filter(|_| !cut.load(Ordering::Relaxed)) {
                        let _ = near.send_to(&buffer[..length], worker);
                    }
                }
            }
        });
        Self { address, is_cut }
    }
}

#[test]
fn a_worker_behind_a_dead_link_is_given_up_and_comes_back() {
    let world = farm_tests::World::new();
    let scheduler = world.scheduler_at("127.0.0.1:0", &["--heartbeat", "1s"], &[]);
    let link = Link::to(&scheduler.address);
    let ticket = scheduler.worker_ticket().replace(&scheduler.address, &link.address.to_string());
    let workers = vec![world.worker(&scheduler, "near", 1), world.worker_with(&ticket, "far", 1, &[], &[])];
    let mut farm = Farm { workers, scheduler, world };
    let connected = |farm: &Farm| farm.status()["workers"].as_array().map_or(0, Vec::len);
    wait_for("the workers", || (connected(&farm) == 2).then_some(()));
    let m = module(&farm.world, &wat::busy(5_000_000));
    let client = farm.farm(&["submit", m, "--range", "0..2000", "--format", "ndjson"]).start();
    farm.wait_until("1", "is under way", |status| status["counts"]["succeeded"].as_u64() > Some(50));
    let pid = farm.workers[1].pid();
    link.is_cut.store(true, Ordering::Relaxed);
    wait_for("its being given up", || (connected(&farm) == 1).then_some(()));
    link.is_cut.store(false, Ordering::Relaxed);
    wait_for("its return", || (connected(&farm) == 2).then_some(()));
    assert!(farm.workers[1].is_running());
    assert_eq!(farm.workers[1].pid(), pid, "it is the same process");
    // `kinds` checks that each task has exactly one line.
    assert_eq!(json!(kinds(&client.wait().with_code(0))), squares(2000));
}
