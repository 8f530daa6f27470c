//! Schedulers that die or stop, and come back: whoever waits for them goes on, and nothing is lost or done twice.

use std::fs;

use farm_tests::{World, wait_for};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::support::{Farm, kinds, module, squares, takes_less_than};
use crate::wat;

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a process id");
    rustix::process::kill_process(pid, signal).expect("it ran");
}

/// Whether a thread of the process computes, or is about to.
fn computes(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut states = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("stat")).ok()?;
        // The name before it, in parentheses, may have spaces.
        text.rsplit_once(')')?.1.trim_start().chars().next()
    });
    states.any(|state| state == 'R')
}

/// Waits until a process has waited for something for a while.
fn until_idle(pid: u32) {
    let mut idle = 0;
    wait_for("an idle slot", || {
        idle = if computes(pid) { 0 } else { idle + 1 };
        (idle >= 20).then_some(())
    });
}

/// A job of 3000 tasks, during which the scheduler ends by that signal and comes back.
fn interrupted_by(end: Signal) {
    let mut farm = Farm::new(2);
    let m = module(&farm.world, &wat::busy(2_000_000));
    let mut client = farm.farm(&["submit", m, "--range", "0..3000", "--format", "ndjson"]).start();
    farm.wait_until("1", "is under way", |status| status["counts"]["succeeded"].as_u64() > Some(100));
    farm.stop_scheduler(end);
    client.until_it_says("the scheduler does not answer; waiting up to");
    assert!(farm.workers.iter_mut().all(farm_tests::Worker::is_running), "workers wait as well");
    farm.restart_scheduler();
    let finished = client.wait().with_code(0);
    finished.says(&["note: the scheduler is back after"]);
    // `kinds` checks that each task has exactly one line.
    assert_eq!(json!(kinds(&finished)), squares(3000));
    let workers = farm.await_workers(2);
    let mut pids: Vec<_> = workers.iter().filter_map(|worker| worker["pid"].as_u64()).collect();
    let mut before: Vec<_> = farm.workers.iter().map(|worker| u64::from(worker.pid())).collect();
    pids.sort_unstable();
    before.sort_unstable();
    assert_eq!(pids, before, "the workers are those that were there before");
    let status = farm.job("1");
    assert_eq!((&status["state"], &status["counts"]["succeeded"]), (&json!("done"), &json!(3000)));
    assert_eq!(status["retried"], 0);
    farm.world.check_state();
}

#[test]
fn a_client_gets_each_result_once_though_the_scheduler_was_killed() {
    interrupted_by(Signal::KILL);
}

#[test]
fn a_client_gets_each_result_once_though_the_scheduler_was_stopped() {
    interrupted_by(Signal::TERM);
}

#[test]
fn a_result_that_was_made_while_the_scheduler_was_away_is_not_made_again() {
    let mut farm = Farm::new(1);
    let m = module(&farm.world, &wat::busy(3_000_000_000));
    let job = farm.occupy(&[m, "--args", "[7]"]);
    let slots = farm.workers[0].slot_pids();
    assert_eq!(slots.len(), 1);
    farm.stop_scheduler(Signal::KILL);
    until_idle(slots[0]);
    // It could not run anything now.
    signal(slots[0], Signal::STOP);
    farm.restart_scheduler();
    let status = farm.wait_until(&job, "is done", |status| status["state"] == "done");
    assert_eq!(status["retried"], 0);
    assert_eq!(farm.farm(&["job", "results", &job]).succeeds().json(), json!([49]));
    assert_eq!(farm.workers[0].slot_pids(), slots);
    signal(slots[0], Signal::CONT);
    // The slot is as good as before.
    assert_eq!(farm.farm(&["submit", m, "--args", "[3]"]).succeeds().json(), json!([9]));
}

#[test]
fn a_task_that_runs_meanwhile_goes_on_running() {
    let mut farm = Farm::new(1);
    let m = module(&farm.world, wat::SPIN);
    let job = farm.occupy(&[m, "--args", "[2, 0, 3]"]);
    farm.wait_until(&job, "hangs", |status| status["counts"]["succeeded"] == 1);
    let slots = farm.workers[0].slot_pids();
    for _ in 0..4 {
        farm.stop_scheduler(Signal::KILL);
        farm.restart_scheduler();
        let why = farm.wait_for_cause(&format!("{job}:1"), "running");
        assert_eq!(why["worker_name"], "w0");
        assert_eq!(farm.workers[0].slot_pids(), slots, "nobody has stopped it");
    }
    // Nor does it count as a crash, of which three would end it.
    let status = farm.job(&job);
    assert_eq!((&status["state"], &status["retried"]), (&json!("running"), &json!(0)));
    farm.farm(&["job", "cancel", &job]).succeeds();
    assert_eq!(farm.farm(&["submit", m, "--args", "[3]"]).succeeds().json(), json!([9]));
}

#[test]
fn a_detached_job_goes_on() {
    let mut farm = Farm::new(1);
    let m = module(&farm.world, &wat::busy(1_000_000));
    let job = farm.detach(&[m, "--range", "0..2000"]);
    farm.wait_until(&job, "is under way", |status| status["counts"]["succeeded"].as_u64() > Some(0));
    farm.stop_scheduler(Signal::KILL);
    farm.restart_scheduler();
    assert_eq!(farm.farm(&["job", "results", &job]).succeeds().json(), squares(2000));
}

#[test]
fn what_is_over_is_the_same_afterwards() {
    let mut farm = Farm::new(1);
    let m = module(&farm.world, wat::EVEN);
    farm.farm(&["submit", m, "--range", "0..1000", "--name", "evens", "--priority", "3"]).fails(1);
    farm.farm(&["submit", m, "--args", "[1, 2, 3]", "--max-failures", "0"]).fails(7);
    let spin = farm_tests::wat(&farm.world, "spin", wat::SPIN);
    let third = farm.farm(&["submit", "--detach", "--args", "[2, 0]"]).with([&spin]).succeeds();
    assert_eq!(third.text().trim(), "3");
    farm.wait_until("3", "hangs", |status| status["counts"]["succeeded"] == 1);
    farm.farm(&["job", "cancel", "3"]).succeeds();
    let picture = |farm: &Farm| {
        let jobs = farm.farm(&["jobs", "--output", "json"]).succeeds().json();
        let results = ["1", "2", "3"].map(|job| {
            let results = farm.farm(&["job", "results", job, "--output", "json"]).run();
            (results.code(), results.json())
        });
        (jobs, results)
    };
    let before = picture(&farm);
    assert_eq!(before.1.each_ref().map(|(code, _)| *code), [Some(1), Some(7), Some(7)]);
    for end in [Signal::KILL, Signal::TERM] {
        farm.stop_scheduler(end);
        farm.restart_scheduler();
        let after = picture(&farm);
        assert_eq!(after.0, before.0);
        assert!(after.1 == before.1, "results have changed: {:?}", after.1);
    }
    farm.world.check_state();
}

#[test]
fn no_job_has_the_number_of_one_that_was_deleted() {
    let mut farm = Farm::new(1);
    let m = module(&farm.world, wat::SQUARE);
    for job in ["1", "2"] {
        assert_eq!(farm.detach(&[m, "--args", "[3]"]), job);
        farm.wait_until(job, "is done", |status| status["state"] == "done");
    }
    farm.farm(&["job", "delete", "2"]).succeeds();
    farm.stop_scheduler(Signal::KILL);
    farm.restart_scheduler();
    farm.farm(&["job", "show", "2"]).fails(8).explains(&["there is no job 2"]);
    assert_eq!(farm.detach(&[m, "--args", "[4]"]), "3");
    assert_eq!(farm.farm(&["job", "results", "3"]).succeeds().json(), json!([16]));
}

#[test]
fn a_folder_has_one_scheduler_at_a_time() {
    let mut farm = Farm::new(0);
    let state = farm.world.state();
    let start = |farm: &Farm| farm.world.farm(["scheduler", "--listen", "127.0.0.1:0", "--state"]).with([&state]);
    let second = start(&farm).fails(70);
    let holder = format!("process {}, listening on {}", farm.scheduler.pid(), farm.scheduler.address);
    second.says(&["error: ", "belongs to a scheduler that is running", &holder]).hints(&["--state"]);
    // One that is frozen still has it.
    farm.scheduler.signal(Signal::STOP);
    start(&farm).fails(70).says(&[&holder]);
    farm.scheduler.signal(Signal::CONT);
    farm.status();
    // One that has died does not.
    farm.stop_scheduler(Signal::KILL);
    farm.restart_scheduler();
    farm.status();
}

#[test]
fn whoever_comes_while_the_scheduler_is_away() {
    let mut farm = Farm::new(0);
    let m = module(&farm.world, wat::SQUARE);
    farm.stop_scheduler(Signal::KILL);
    // A worker waits from the first.
    let mut worker = farm.world.worker(&farm.scheduler, "early", 1);
    worker.until_it_logs("dialling again");
    // A person is told.
    for args in [&["submit", m, "--args", "[1]"][..], &["jobs"], &["why", "1"]] {
        farm.farm(args).fails(5).explains(&["no answer from", &farm.scheduler.address]);
    }
    assert!(worker.is_running());
    farm.restart_scheduler();
    assert_eq!(farm.farm(&["submit", m, "--args", "[5]"]).succeeds().json(), json!([25]));
    assert_eq!(farm.await_workers(1)[0]["pid"], worker.pid());
}

#[test]
fn ctrl_c_ends_a_client_whose_scheduler_is_away() {
    let mut farm = Farm::new(1);
    let m = module(&farm.world, wat::SPIN);
    let mut client = farm.farm(&["submit", m, "--args", "[2, 0]", "--format", "ndjson"]).start();
    client.until_it_prints("4");
    farm.stop_scheduler(Signal::KILL);
    client.until_it_says("waiting up to");
    client.signal(Signal::INT);
    let finished = takes_less_than(20, || client.wait()).with_code(130);
    finished.says(&["interrupted: cancelling job 1", "the scheduler does not answer", "job 1 may go on"]);
    // As it does.
    farm.restart_scheduler();
    farm.wait_until("1", "runs", |status| status["state"] == "running" && status["counts"]["leased"] == 1);
}

#[test]
fn a_worker_gives_up_after_its_wait_and_others_take_its_tasks() {
    let mut farm = Farm::new(0);
    let worker = farm.world.worker_with(&farm.scheduler.worker_ticket(), "hasty", 1, &["--wait", "1s"], &[]);
    farm.await_workers(1);
    let m = module(&farm.world, wat::SPIN);
    let job = farm.occupy(&[m, "--args", "[2, 0]"]);
    farm.stop_scheduler(Signal::KILL);
    let ended = takes_less_than(60, || worker.wait());
    ended.with_code(5).says(&["error: gave up waiting for the scheduler", "hint: --wait"]);
    wait_for("the end of the slots", || farm.world.parts("slot").is_empty().then_some(()));
    farm.restart_scheduler();
    let _other = farm.world.worker(&farm.scheduler, "patient", 1);
    let why = farm.wait_for_cause(&format!("{job}:1"), "running");
    assert_eq!(why["worker_name"], "patient");
}

/// Everything at once: jobs that wait for each other, and for a worker, over several lives.
#[test]
fn what_waits_goes_on_waiting_for_the_same() {
    let mut farm = Farm::new(0);
    let m = module(&farm.world, wat::SQUARE);
    let first = farm.detach(&[m, "--range", "0..500"]);
    let second = farm.detach(&[m, "--args-from", &first]);
    let third = farm.detach(&[m, "--args", "[5]", "--after", &second]);
    let picture = |farm: &Farm| [&first, &second, &third].map(|job| farm.why(job));
    let before = picture(&farm);
    farm.stop_scheduler(Signal::KILL);
    farm.restart_scheduler();
    assert_eq!(picture(&farm), before);
    let _worker = farm.world.worker(&farm.scheduler, "late", 1);
    assert_eq!(farm.farm(&["job", "results", &third]).succeeds().json(), json!([25]));
    let expected: Value = (0..500_u64).map(|x| x * x * x * x).collect();
    assert_eq!(farm.farm(&["job", "results", &second]).succeeds().json(), expected);
}

#[test]
fn a_farm_without_a_store_forgets() {
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    let scheduler = world.scheduler_at("127.0.0.1:0", &["--ephemeral"], &[]);
    let _worker = world.worker(&scheduler, "w0", 1);
    let submit = world.farm(["submit", m, "--range", "0..1000"]).with_env("FARM_TICKET", scheduler.admin_ticket());
    assert_eq!(submit.succeeds().json(), squares(1000));
    scheduler.signal(Signal::TERM);
    assert_eq!(scheduler.wait().code(), Some(0));
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
