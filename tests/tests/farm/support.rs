//! What several themes need.

use std::time::{Duration, Instant};

use farm_tests::{Finished, Scheduler, Worker, World, wait_for};
use rustix::process::Signal;
use serde_json::Value;

/// A farm of which each part can be killed.
pub(crate) struct Farm {
    // In the order in which they end.
    pub(crate) workers: Vec<Worker>,
    pub(crate) scheduler: Scheduler,
    pub(crate) world: World,
}

impl Farm {
    /// With so many workers of one slot each, all of them connected.
    pub(crate) fn new(workers: usize) -> Self {
        Self::with(workers, &[])
    }

    /// The same, with more arguments for the scheduler.
    pub(crate) fn with(workers: usize, args: &[&str]) -> Self {
        let world = World::new();
        let scheduler = world.scheduler_at("127.0.0.1:0", args, &[]);
        let names = (0..workers).map(|number| format!("w{number}"));
        let workers = names.map(|name| world.worker(&scheduler, &name, 1)).collect();
        let farm = Self { workers, scheduler, world };
        wait_for("the workers", || (farm.status()["workers"].as_array()?.len() == farm.workers.len()).then_some(()));
        farm
    }

    /// Ends the scheduler by a signal, and waits until it is gone.
    pub(crate) fn stop_scheduler(&mut self, signal: Signal) {
        self.scheduler.signal(signal);
        wait_for("the end of the scheduler", || (!self.scheduler.is_running()).then_some(()));
    }

    /// Starts the scheduler again, at its address and with its state.
    pub(crate) fn restart_scheduler(&mut self) {
        self.scheduler = self.world.scheduler_at(&self.scheduler.address, &[], &[]);
    }

    /// Waits until so many workers are connected; what `farm status` says of them.
    pub(crate) fn await_workers(&self, count: usize) -> Vec<Value> {
        wait_for(&format!("{count} workers"), || {
            self.status()["workers"].as_array().filter(|workers| workers.len() == count).cloned()
        })
    }

    /// A ticket for somebody else, with the role of a user.
    pub(crate) fn ticket_for(&self, name: &str) -> String {
        self.farm(&["ticket", "create", "--role", "user", "--name", name]).succeeds().text().trim().to_owned()
    }

    /// `farm why --output json`.
    pub(crate) fn why(&self, target: &str) -> Value {
        self.farm(&["why", target, "--output", "json"]).succeeds().json()
    }

    /// Waits until the only answer to `farm why` is of that kind; what it says.
    pub(crate) fn wait_for_cause(&self, target: &str, kind: &str) -> Value {
        wait_for(&format!("{kind} as the cause of {target}"), || {
            let why = self.why(target);
            let groups = why["groups"].as_array()?;
            (groups.len() == 1 && groups[0]["cause"] == kind).then(|| groups[0].clone())
        })
    }

    /// A command of the farm's administrator.
    pub(crate) fn farm(&self, args: &[&str]) -> farm_tests::Command {
        self.world.farm(args).with_env("FARM_TICKET", self.scheduler.admin_ticket())
    }

    /// `farm status --output json`.
    pub(crate) fn status(&self) -> Value {
        self.farm(&["status", "--output", "json"]).succeeds().json()
    }

    /// `farm job show --output json`.
    pub(crate) fn job(&self, job: &str) -> Value {
        self.farm(&["job", "show", job, "--output", "json"]).succeeds().json()
    }

    /// Submits a job and leaves it there; its id.
    pub(crate) fn detach(&self, args: &[&str]) -> String {
        let finished = self.farm(&["submit", "--detach"]).with(args).succeeds();
        finished.text().trim().to_owned()
    }

    /// Submits a job of tasks that take their time, and waits until a slot is in the midst of one; its id.
    pub(crate) fn occupy(&self, args: &[&str]) -> String {
        let job = self.detach(args);
        self.wait_until(&job, "runs", |status| status["counts"]["leased"] != 0);
        // It is held, but a worker has to prepare it first.
        std::thread::sleep(Duration::from_millis(400));
        job
    }

    /// Waits until the job's counts say so.
    pub(crate) fn wait_until(&self, job: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("job {job} {what}"), || {
            // It may not be there yet.
            let shown = self.farm(&["job", "show", job, "--output", "json"]).run();
            (shown.code() == Some(0)).then(|| shown.json()).filter(|status| is_so(status))
        })
    }
}

/// The module as a file in the world; what commands call it.
pub(crate) fn module(world: &World, text: &str) -> &'static str {
    farm_tests::wat(world, "m", text);
    "m.wat"
}

/// The outcome of each task, in order, from what `--format ndjson` printed.
pub(crate) fn outcomes(finished: &Finished) -> Vec<Value> {
    let mut lines = finished.lines();
    lines.sort_by_key(|line| line["index"].as_u64());
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["index"], index, "each task has one line");
    }
    lines
}

/// The kinds of failures and the values, in order: `["trap", 4]`.
pub(crate) fn kinds(finished: &Finished) -> Vec<Value> {
    let value = |line: Value| line.get("value").cloned().unwrap_or_else(|| line["error"]["kind"].clone());
    outcomes(finished).into_iter().map(value).collect()
}

/// Squares of `0..count`.
pub(crate) fn squares(count: u64) -> Value {
    (0..count).map(|x| x * x).collect()
}

/// Runs `action` and expects that it takes less than so many seconds, on a machine that may be busy.
#[track_caller]
pub(crate) fn takes_less_than<T>(seconds: u64, action: impl FnOnce() -> T) -> T {
    let since = Instant::now();
    let result = action();
    assert!(since.elapsed() < Duration::from_secs(seconds), "it took {:?}", since.elapsed());
    result
}
