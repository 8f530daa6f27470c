//! Workers that say nothing: what they held is run elsewhere, and when they wake up they go on.

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
