//! A job of many tasks on a cluster, while things happen to its workers.

use farm_tests::{Running, wait_for, wat};
use serde_json::Value;

use crate::site::Site;

/// A job that runs, as its user sees it.
pub(crate) struct Work {
    client: Running,
    tasks: u64,
}

impl Work {
    /// Squares so many numbers on a cluster, each after a sleep of so many milliseconds, so that neither a fast machine
    /// nor a busy one makes a difference. It is the farm's first job.
    pub(crate) fn start(site: &Site, cluster: &str, tasks: u64, milliseconds: u64) -> Self {
        // A subscription to the monotonic clock at 0: its id at 16, and the time at 24. What has happened goes to 64.
        let text = format!(
            r#"(module
                (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
                (memory (export "memory") 1)
                (func (export "nap") (param $x i64) (result i64)
                    (i32.store (i32.const 16) (i32.const 1))
                    (i64.store (i32.const 24) (i64.const {}))
                    (if (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)) (then unreachable))
                    (i64.mul (local.get $x) (local.get $x))))"#,
            milliseconds * 1_000_000
        );
        let module = wat(&site.world, "nap", &text).display().to_string();
        let range = format!("0..{tasks}");
        let submit = ["submit", &module, "--cluster", cluster, "--range", &range, "--format", "ndjson"];
        Self { client: site.farm(&submit).start(), tasks }
    }

    /// How many tasks have their results.
    pub(crate) fn done(site: &Site) -> u64 {
        // It may not be there yet.
        let shown = site.farm(&["job", "show", "1", "--output", "json"]).run();
        if shown.code() == Some(0) { shown.json()["counts"]["succeeded"].as_u64().unwrap_or(0) } else { 0 }
    }

    /// Waits until at least so many tasks have their results; how many have.
    pub(crate) fn until_done(&self, site: &Site, tasks: u64) -> u64 {
        wait_for(&format!("{tasks} results"), || Some(Self::done(site)).filter(|done| *done >= tasks))
    }

    /// Expects that it still runs: else it was too short for what was to happen meanwhile.
    pub(crate) fn is_under_way(&mut self) {
        assert!(self.client.is_running(), "the job has ended too soon");
    }

    /// Waits for its end, and expects every result, right and once.
    pub(crate) fn completes(self, site: &Site) {
        let finished = self.client.wait().with_code(0);
        let mut lines = finished.lines();
        lines.sort_by_key(|line| line["index"].as_u64());
        let results: Vec<_> = lines.iter().map(|line| (line["index"].as_u64(), line["value"].as_u64())).collect();
        let expected: Vec<_> = (0..self.tasks).map(|x| (Some(x), Some(x * x))).collect();
        assert_eq!(results, expected);
        let job = site.farm(&["job", "show", "1", "--output", "json"]).succeeds().json();
        assert_eq!((&job["counts"]["succeeded"], &job["counts"]["failed"]), (&self.tasks.into(), &0.into()), "{job}");
    }
}

/// The names of a cluster's workers that are up, sorted.
pub(crate) fn up(status: &Value) -> Vec<String> {
    let workers = status["workers"].as_array().expect("workers").iter().filter(|row| row["state"] == "up");
    let mut names: Vec<_> = workers.filter_map(|row| row["name"].as_str()).map(str::to_owned).collect();
    names.sort();
    names
}

/// Why a cluster has fewer workers than it wants, in one text.
pub(crate) fn short(status: &Value) -> String {
    let reasons = status["short"].as_array().expect("reasons").iter().filter_map(Value::as_str);
    reasons.collect::<Vec<_>>().join("\n")
}
