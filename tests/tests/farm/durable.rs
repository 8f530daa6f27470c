//! Schedulers that go and come back: nothing that was acknowledged is lost, and nobody has to start anew.

use farm_tests::{Running, World, wait_for};
use rustix::process::Signal;

use crate::support::{Farm, kinds, module, squares, takes_less_than};
use crate::wat;

/// Ends the scheduler with this signal, does something, and starts it again.
fn without_scheduler(farm: Farm, signal: Signal, code: Option<i32>, meanwhile: impl FnOnce()) -> Farm {
    let Farm { workers, scheduler, world } = farm;
    let address = scheduler.address.clone();
    scheduler.signal(signal);
    assert_eq!(takes_less_than(30, || scheduler.wait()).code(), code);
    meanwhile();
    let scheduler = world.scheduler_at(&address, &[], &[]);
    Farm { workers, scheduler, world }
}

fn restarted_mid_job(signal: Signal, code: Option<i32>) {
    let mut farm = Farm::new(2);
    let m = module(&farm.world, &wat::busy(2_000_000));
    let mut client: Running = farm.farm(&["submit", m, "--range", "0..3000", "--format", "ndjson"]).start();
    farm.wait_until("1", "is under way", |status| status["counts"]["succeeded"].as_u64() > Some(100));
    let pids: Vec<u32> = farm.workers.iter().map(farm_tests::Worker::pid).collect();
    farm = without_scheduler(farm, signal, code, || client.until_it_says("wait"));
    // `kinds` checks that each task has exactly one line.
    assert_eq!(serde_json::json!(kinds(&client.wait().with_code(0))), squares(3000));
    wait_for("the workers", || (farm.status()["workers"].as_array()?.len() == 2).then_some(()));
    for (worker, pid) in farm.workers.iter_mut().zip(pids) {
        assert!(worker.is_running());
        assert_eq!(worker.pid(), pid);
    }
    drop((farm.workers, farm.scheduler));
    farm.world.check_state();
}

#[test]
fn a_scheduler_that_is_killed_and_started_again_loses_nothing() {
    restarted_mid_job(Signal::KILL, None);
}

#[test]
fn a_scheduler_that_is_told_to_end_is_waited_for() {
    restarted_mid_job(Signal::TERM, Some(0));
}

#[test]
fn a_worker_waits_no_longer_than_it_is_told() {
    let world = World::new();
    let scheduler = world.scheduler();
    let mut worker = world.worker_with(&scheduler.worker_ticket(), "w", 1, &["--wait", "1s"], &[]);
    worker.until_it_logs("at work");
    scheduler.signal(Signal::TERM);
    scheduler.wait();
    takes_less_than(30, || worker.wait()).with_code(5).says(&["error: "]);
    world.leaves_no_process();
}

#[test]
fn whoever_waits_for_a_scheduler_can_be_interrupted() {
    let farm = Farm::new(0);
    let m = module(&farm.world, wat::SQUARE);
    let job = farm.detach(&[m, "--range", "0..5"]);
    let mut client = farm.farm(&["job", "results", &job]).start();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let farm = without_scheduler(farm, Signal::TERM, Some(0), || {
        client.until_it_says("wait");
        client.signal(Signal::INT);
        let _ = takes_less_than(15, || client.wait()).with_code(130);
    });
    assert_eq!(farm.job(&job)["state"], "waiting");
}

#[test]
fn two_schedulers_do_not_share_a_folder() {
    let farm = Farm::new(0);
    let second = farm.world.farm(["scheduler", "--listen", "127.0.0.1:0", "--state"]).with([farm.world.state()]);
    let refused = second.run();
    assert_ne!(refused.code(), Some(0));
    refused.explains(&["scheduler"]);
    farm.status();
}

#[test]
fn numbers_of_jobs_are_not_used_again() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::SQUARE);
    for _ in 0..2 {
        farm.farm(&["submit", m, "--range", "0..5"]).succeeds();
    }
    farm.farm(&["job", "delete", "2"]).succeeds();
    let farm = without_scheduler(farm, Signal::KILL, None, || ());
    assert_eq!(farm.detach(&[m, "--range", "0..5"]), "3");
    assert_eq!(farm.farm(&["job", "results", "1"]).succeeds().json(), squares(5));
    farm.farm(&["job", "show", "2"]).fails(8).explains(&["there is no job 2"]);
}

/// With a scheduler whose clock is ahead by so many seconds.
fn started_ahead(farm: &mut Farm, seconds: &str, keep: &str) {
    let ahead = [("FARM_CLOCK_AHEAD", seconds)];
    farm.scheduler = farm.world.scheduler_at(&farm.scheduler.address, &["--keep-results", keep], &ahead);
}

#[test]
fn a_clock_that_is_set_back_loses_nothing() {
    let mut farm = Farm::new(1);
    farm.stop_scheduler(Signal::TERM);
    started_ahead(&mut farm, "43200", "1h");
    farm.await_workers(1);
    let m = module(&farm.world, &wat::busy(2_000_000));
    let first = farm.farm(&["submit", m, "--range", "0..100"]).succeeds().json();
    assert_eq!(first, squares(100));
    let client = farm.farm(&["submit", m, "--range", "0..2000"]).start();
    farm.wait_until("2", "is under way", |status| status["counts"]["succeeded"].as_u64() > Some(50));

    // It is set back by half a day, in the midst of a job.
    farm.stop_scheduler(Signal::KILL);
    started_ahead(&mut farm, "0", "5s");
    let id = farm.detach(&[m, "--range", "0..10"]);
    assert_eq!(id, "3", "numbers of jobs ascend");
    assert_eq!(client.wait().with_code(0).json(), squares(2000));
    // What ended by the new clock goes in its time, and what ended in the future is kept longer.
    wait_for("the end of its time", || (farm.farm(&["job", "show", &id]).run().code() == Some(8)).then_some(()));
    assert_eq!(farm.farm(&["job", "results", "1"]).succeeds().json(), squares(100));
    farm.farm(&["why", "1:5"]).succeeds();

    // And forward again.
    farm.stop_scheduler(Signal::TERM);
    started_ahead(&mut farm, "43200", "500ms");
    wait_for("the end of its time", || (farm.farm(&["job", "show", "1"]).run().code() == Some(8)).then_some(()));
    assert_eq!(farm.detach(&[m, "--range", "0..10"]), "4");
    farm.world.check_state();
}
