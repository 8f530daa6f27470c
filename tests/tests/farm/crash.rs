//! Processes that are killed at the worst of moments: no result is lost, none is there twice, and each is right.
//!
//! The named moments are the fail points of `farm_link::failpoint`, which `cargo xtask test` builds into the farm under
//! test. The others are drawn at random, from seeds that stand in the names of the rounds.

use std::time::{Duration, Instant};

use farm_tests::{Finished, Running, Scheduler, Worker, World, guest, wait_for};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::squares;

/// A farm whose parts come back when they are killed.
struct Phoenix {
    workers: Vec<Worker>,
    scheduler: Option<Scheduler>,
    address: String,
    admin: String,
    worker: String,
    born: usize,
    /// How many schedulers there have been after the first.
    reborn: usize,
    world: World,
}

/// What is armed to die at a named point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Scheduler,
    Worker,
    Client,
}

impl Phoenix {
    fn new(workers: usize) -> Self {
        Self::armed(workers, &[])
    }

    fn armed(workers: usize, env: &[(&str, &str)]) -> Self {
        let world = World::new();
        let scheduler = world.scheduler_at("127.0.0.1:0", &[], env);
        let (address, admin, worker) = (scheduler.address.clone(), scheduler.admin_ticket(), scheduler.worker_ticket());
        let mut farm =
            Self { workers: Vec::new(), scheduler: Some(scheduler), address, admin, worker, born: 0, reborn: 0, world };
        (0..workers).for_each(|_| farm.add_worker(&[]));
        farm
    }

    fn add_worker(&mut self, env: &[(&str, &str)]) {
        self.born += 1;
        let name = format!("w{}", self.born);
        self.workers.push(self.world.worker_with(&self.worker, &name, 1, &[], env));
    }

    /// Brings back what has died.
    fn mend(&mut self) {
        if self.scheduler.as_mut().is_none_or(|scheduler| !scheduler.is_running()) {
            self.scheduler = None;
            self.scheduler = Some(self.world.scheduler_at(&self.address, &[], &[]));
            self.reborn += 1;
        }
        let before = self.workers.len();
        self.workers.retain_mut(Worker::is_running);
        for _ in self.workers.len()..before {
            self.add_worker(&[]);
        }
    }

    fn kill_scheduler(&mut self) {
        if let Some(scheduler) = self.scheduler.take() {
            scheduler.signal(Signal::KILL);
            scheduler.wait();
        }
    }

    fn farm(&self, args: &[&str]) -> farm_tests::Command {
        self.world.farm(args).with_env("FARM_TICKET", &self.admin)
    }

    fn submit(&self, tasks: u64, env: &[(&str, &str)]) -> Running {
        let module = guest("square");
        let mut command = self.farm(&["submit", "--range", &format!("0..{tasks}")]).with([&module]);
        for (name, value) in env {
            command.env(name, value);
        }
        command.start()
    }

    /// Waits for a command, mending the farm meanwhile. None if it was killed.
    fn wait_for(&mut self, mut running: Running) -> Option<Finished> {
        let since = Instant::now();
        while running.is_running() {
            assert!(since.elapsed() < Duration::from_secs(100), "it does not end; it said: {}", running.said());
            self.mend();
            std::thread::sleep(Duration::from_millis(20));
        }
        let finished = running.wait();
        finished.code().map(|_| finished)
    }

    /// The job that was submitted last, or none.
    fn last_job(&mut self) -> Option<u64> {
        let running = self.farm(&["jobs", "--output", "json"]).start();
        let jobs = self.wait_for(running).expect("nobody kills it").with_code(0).json();
        jobs.as_array()?.iter().filter_map(|job| job["id"].as_u64()).max()
    }

    /// The results of a job by another client.
    fn results(&mut self, job: u64) -> Value {
        let running = self.farm(&["job", "results", &job.to_string()]).start();
        self.wait_for(running).expect("nobody kills it").with_code(0).json()
    }

    /// Ends the farm and looks at what it leaves.
    fn check(mut self) {
        self.mend();
        self.farm(&["status"]).succeeds();
        self.kill_scheduler();
        self.workers.clear();
        self.world.check_state();
    }
}

/// What a client printed that was not killed, and what another gets of its job, is what it should be. Of a client that
/// was killed, the job may not have arrived.
fn expect_squares(farm: &mut Phoenix, ended: Option<Finished>, before: Option<u64>, tasks: u64) {
    let must_be_there = ended.is_some();
    if let Some(finished) = ended {
        let finished = finished.with_code(0);
        assert!(finished.json() == squares(tasks), "wrong results: {:.200}", finished.text());
    }
    match farm.last_job().filter(|job| Some(*job) != before) {
        Some(job) => assert!(farm.results(job) == squares(tasks), "wrong results of job {job}"),
        None => assert!(!must_be_there, "the job is gone"),
    }
}

fn killed_at(part: Part, point: &str) {
    const TASKS: u64 = 30_000;
    println!("killing a {part:?} at {point}");
    let bomb = [("FARM_FAILPOINT", point)];
    let armed = |of: Part| if of == part { &bomb[..] } else { &[] };
    let mut farm = Phoenix::armed(1, armed(Part::Scheduler));
    if part == Part::Worker {
        farm.add_worker(&bomb);
    }
    let running = farm.submit(TASKS, armed(Part::Client));
    let ended = farm.wait_for(running);
    match part {
        Part::Client => assert!(ended.is_none(), "the client went on beyond {point}: has this farm fail points?"),
        Part::Worker => {
            // It may be the other one's turn for a while.
            wait_for("the worker's end", || {
                let job = farm.submit(TASKS, &[]);
                farm.wait_for(job);
                (farm.born > 2).then_some(())
            });
        }
        Part::Scheduler => {
            assert_eq!(farm.reborn, 1, "the scheduler went on beyond {point}: has this farm fail points?");
        }
    }
    expect_squares(&mut farm, ended, None, TASKS);
    // It is not armed any more, and goes on.
    let running = farm.submit(100, &[]);
    let again = farm.wait_for(running).expect("nobody kills it").with_code(0);
    assert_eq!(again.json(), squares(100));
    farm.check();
}

macro_rules! points {
    ($($name:ident: $part:ident at $point:literal;)*) => {$(
        #[test]
        fn $name() {
            killed_at(Part::$part, $point);
        }
    )*};
}

points! {
    a_scheduler_that_dies_before_it_stores_a_job: Scheduler at "scheduler.accept.before-commit";
    a_scheduler_that_dies_after_it_stored_a_job: Scheduler at "scheduler.accept.after-commit";
    a_scheduler_that_dies_before_it_stores_results: Scheduler at "scheduler.batch.before-commit:3";
    a_scheduler_that_dies_after_it_stored_results: Scheduler at "scheduler.batch.after-commit:3";
    a_scheduler_that_dies_before_it_stores_an_end: Scheduler at "scheduler.end.before-commit";
    a_scheduler_that_dies_after_it_stored_an_end: Scheduler at "scheduler.end.after-commit";
    a_scheduler_that_dies_before_a_blob_has_its_name: Scheduler at "scheduler.blob.before-rename";
    a_scheduler_that_dies_after_a_blob_has_its_name: Scheduler at "scheduler.blob.after-rename";
    a_scheduler_that_dies_while_somebody_enrols: Scheduler at "scheduler.enrol:2";
    a_scheduler_that_dies_when_a_worker_joins: Scheduler at "scheduler.join";
    a_worker_that_dies_with_a_lease: Worker at "worker.lease";
    a_worker_that_dies_with_a_result: Worker at "worker.result";
    a_worker_that_dies_when_its_result_is_stored: Worker at "worker.stored";
    a_client_that_dies_before_it_knows_its_job: Client at "client.submitted";
    a_client_that_dies_with_results: Client at "client.batch";
}

/// A worker that dies as it comes back from a scheduler's death.
#[test]
fn a_worker_that_dies_when_it_comes_back() {
    const TASKS: u64 = 200_000;
    let mut farm = Phoenix::new(1);
    farm.add_worker(&[("FARM_FAILPOINT", "worker.resume:2")]);
    let running = farm.submit(TASKS, &[]);
    wait_for("results", || {
        let shown = farm.farm(&["job", "show", "1", "--output", "json"]).run();
        (shown.code() == Some(0) && shown.json()["counts"]["succeeded"] != 0).then_some(())
    });
    farm.kill_scheduler();
    let ended = farm.wait_for(running);
    expect_squares(&mut farm, ended, None, TASKS);
    farm.check();
}

/// SplitMix64, as a source of moments.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// Rounds of a large job, in each of which something is killed once or several times.
fn rounds(seed: u64, rounds: u64) {
    const TASKS: u64 = 200_000;
    let mut dice = Dice(seed);
    let mut farm = Phoenix::new(2);
    for round in 0..rounds {
        let before = farm.last_job();
        let mut client = farm.submit(TASKS, &[]);
        for _ in 0..=dice.below(3) {
            std::thread::sleep(Duration::from_millis(dice.below(700)));
            let victim = dice.below(4);
            println!("seed {seed}, round {round}: victim {victim}");
            match victim {
                0 | 1 => farm.kill_scheduler(),
                2 => {
                    let worker = dice.below(farm.workers.len() as u64) as usize;
                    farm.workers[worker].signal(Signal::KILL);
                }
                _ => client.signal(Signal::KILL),
            }
            // Some of them meet in one hole.
            if dice.below(2) == 0 {
                farm.mend();
            }
            if !client.is_running() {
                break;
            }
        }
        let ended = farm.wait_for(client);
        expect_squares(&mut farm, ended, before, TASKS);
    }
    farm.check();
}

#[test]
fn killed_at_random_moments_first() {
    rounds(1, 13);
}

#[test]
fn killed_at_random_moments_second() {
    rounds(2, 13);
}

#[test]
fn killed_at_random_moments_third() {
    rounds(3, 13);
}

#[test]
fn killed_at_random_moments_fourth() {
    rounds(4, 13);
}
