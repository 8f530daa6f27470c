//! How many tasks to hand to a slot at a time.
//!
//! Handing over costs a wake-up on either side, so short tasks go in chunks of about [`TARGET`] of work. Long ones go
//! one at a time, and the last ones of a job are shared out so that the slots finish together.

use std::time::Duration;

use farm_proto::columns::Columns;
use farm_proto::frame::TARGET_PAYLOAD;
use farm_proto::message::Batch;

/// Work in a chunk: a hundred times what handing it over costs.
const TARGET: Duration = Duration::from_millis(10);
/// Work in a chunk that is not worth dividing further.
const LEAST: Duration = Duration::from_micros(200);
/// Tasks up to this length are queued in the slot behind the chunk that it is at, so that it never waits for more.
const SHORT: Duration = Duration::from_millis(5);
/// The most tasks in a chunk, however short they are.
const MOST: u32 = 1 << 16;

/// The running estimate of how long a task of a job takes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    /// In nanoseconds; `None` before the first outcome.
    task_ns: Option<f64>,
}

impl Pace {
    /// Learns from outcomes. Older ones count half with every batch.
    pub(crate) fn learn(&mut self, batch: &Batch) {
        let mean = batch.run_ns as f64 / f64::from(batch.count.max(1));
        self.task_ns = Some(match self.task_ns {
            // The first run is the slowest: caches are cold.
            Some(old) => 0.5 * old + 0.5 * mean,
            None => mean,
        });
    }

    /// Learns from silence: tasks take longer than was thought.
    pub(crate) fn learn_slow(&mut self, ran: Duration) {
        let ran = ran.as_nanos() as f64;
        self.task_ns = Some(self.task_ns.map_or(ran, |old| old.max(0.5 * (old + ran))));
    }

    /// Whether a chunk may wait in a slot while another one runs there.
    pub(crate) fn may_queue(&self) -> bool {
        self.task_ns.is_some_and(|task| task <= SHORT.as_nanos() as f64)
    }

    /// How many of the next tasks to hand to one slot, if there are `left` and `slots` slots: at least one.
    pub(crate) fn chunk(&self, left: u64, slots: usize) -> u32 {
        let Some(task) = self.task_ns else {
            return 1;
        };
        let tasks_in = |time: Duration| (time.as_nanos() as f64 / task.max(1.0)) as u64;
        let slots = slots.max(1) as u64;
        // Two rounds, so that the second can even out the first, unless that is not worth it.
        let least = tasks_in(LEAST).min(left.div_ceil(slots));
        let count = left.div_ceil(2 * slots).max(least).min(tasks_in(TARGET));
        count.clamp(1, MOST.into()) as u32
    }
}

/// How many of the first `count` arguments go into one command: at least one.
pub(crate) fn fit(arguments: &Columns, count: u32) -> u32 {
    let mut bytes = 0;
    let fitting = arguments.iter().take(count as usize).take_while(|item| {
        bytes += item.len();
        bytes <= TARGET_PAYLOAD
    });
    (fitting.count() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(task: Duration) -> Pace {
        let mut pace = Pace::default();
        pace.learn(&Batch {
            first: 0,
            count: 10,
            failures: Vec::new(),
            captured: Vec::new(),
            run_ns: 10 * task.as_nanos() as u64,
            fetch_ns: 0,
            compile_ns: 0,
        });
        pace
    }

    #[test]
    fn the_unknown_is_tried_with_one() {
        assert_eq!(Pace::default().chunk(1_000_000, 2), 1);
        assert!(!Pace::default().may_queue());
    }

    #[test]
    fn short_tasks_go_in_chunks_and_long_ones_alone() {
        let short = pace(Duration::from_micros(4));
        assert_eq!(short.chunk(1_000_000, 2), 2500);
        assert!(short.may_queue());
        let long = pace(Duration::from_millis(50));
        assert_eq!(long.chunk(1_000_000, 2), 1);
        assert!(!long.may_queue());
    }

    #[test]
    fn the_last_tasks_are_shared_out() {
        let short = pace(Duration::from_micros(100));
        assert_eq!(short.chunk(100, 2), 25);
        assert_eq!(short.chunk(3, 2), 2);
        assert_eq!(pace(Duration::from_micros(4)).chunk(40, 2), 20);
        assert_eq!(short.chunk(1, 2), 1);
        assert_eq!(pace(Duration::from_millis(1)).chunk(4, 4), 1);
    }
}
