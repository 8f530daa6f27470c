//! Slots by themselves: hostile guests, killed processes, large and many results.

use std::time::{Duration, Instant};

use bytes::Bytes;
use farm_host::slot::{Arguments, JobSetup, LocalError, LocalOptions, SlotCommand, run_locally};
use farm_proto::outcome::{Failure, FailureKind};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::guests::{FOLDS, FUNCTIONS, LARGE, SQUARE, setup};
use crate::processes::{eventually, marked, send, within};

crate::tests![
    squares_come_in_order,
    a_hundred_thousand_tasks_on_two_slots,
    arguments_travel_in_columns,
    a_busy_loop_ends_in_time,
    a_guest_that_fills_its_memory_ends_in_time,
    a_sleeping_guest_ends_in_time,
    a_killed_slot_costs_one_attempt_of_one_task,
    results_larger_than_the_ring_arrive,
    a_run_that_is_dropped_leaves_no_process,
    a_function_that_is_not_there_ends_the_run,
    a_program_that_is_no_slot_is_told_of,
    failures_are_retried_only_as_often_as_asked,
    an_outcome_does_not_wait_for_the_next_task,
    a_fold_calls_its_function_over_an_array,
    a_fold_of_no_array_is_refused,
    the_time_limit_is_of_the_whole_fold,
    only_json_can_be_folded,
];

struct Run {
    folder: TempDir,
    setup: JobSetup,
    options: LocalOptions,
}

impl Run {
    fn new(wat: &str, function: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let setup = setup(wat, function, folder.path());
        let mut command = SlotCommand::this_program().unwrap();
        // Makes the processes of this test known from all others.
        command.args.push(folder.path().into());
        Self { folder, setup, options: LocalOptions::new(command) }
    }

    fn mark(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    fn timeout(mut self, ms: u64) -> Self {
        self.setup.limits.timeout_ms = Some(ms);
        self
    }

    fn run(
        &self,
        arguments: Arguments<'_>,
        mut each: impl FnMut(u64, Result<&[u8], &Failure>),
    ) -> Result<(), LocalError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut setup = self.setup.clone();
        if matches!(arguments, Arguments::Items(_)) {
            setup.range_start = None;
        }
        let result = runtime.block_on(run_locally(setup, arguments, &self.options, |task, outcome| {
            each(task, outcome.result);
            true
        }));
        assert_eq!(marked(self.mark()), [] as [u32; 0], "processes are left");
        result
    }

    fn run_items(&self, items: &[&str], each: impl FnMut(u64, Result<&[u8], &Failure>)) {
        let mut items = items.iter().map(|item| Bytes::copy_from_slice(item.as_bytes()));
        self.run(Arguments::Items(&mut items), each).unwrap();
    }
}

fn squares_come_in_order() {
    let mut next = 0_u64;
    Run::new(SQUARE, "square")
        .run(Arguments::Range(20_000), |task, result| {
            assert_eq!(task, next);
            assert_eq!(result.unwrap(), (task * task).to_string().as_bytes());
            next += 1;
        })
        .unwrap();
    assert_eq!(next, 20_000);
}

fn a_hundred_thousand_tasks_on_two_slots() {
    let mut run = Run::new(SQUARE, "square");
    run.options.slots = 2;
    let mut seen = vec![false; 100_000];
    run.run(Arguments::Range(100_000), |task, result| {
        assert_eq!(result.unwrap(), (task * task).to_string().as_bytes());
        assert!(!std::mem::replace(&mut seen[task as usize], true), "task {task} twice");
    })
    .unwrap();
    assert!(seen.iter().all(|seen| *seen));
}

fn arguments_travel_in_columns() {
    let items: Vec<_> = (0..5000).map(|item: i64| (item * 7 - 3).to_string()).collect();
    let borrowed: Vec<_> = items.iter().map(String::as_str).collect();
    let mut next = 0;
    Run::new(SQUARE, "square").run_items(&borrowed, |task, result| {
        let argument: i64 = items[task as usize].parse().unwrap();
        assert_eq!(result.unwrap(), (argument * argument).to_string().as_bytes());
        next += 1;
    });
    assert_eq!(next, 5000);
}

/// A task that never ends, in between two that do: how long after the first the second one's failure came.
fn time_to_stop(function: &str) -> Duration {
    let run = Run::new(FUNCTIONS, function).timeout(100);
    let mut times = Vec::new();
    run.run_items(&["1", "0", "2"], |task, result| {
        times.push(Instant::now());
        match (task, result) {
            (0, Ok(b"1")) | (2, Ok(b"2")) => {}
            (1, Err(failure)) => assert_eq!(failure.kind, FailureKind::Timeout, "{failure}"),
            (_, result) => panic!("task {task}: {result:?}"),
        }
    });
    assert_eq!(times.len(), 3);
    let took = times[1] - times[0];
    assert!(took >= Duration::from_millis(99), "stopped after {took:?} already");
    took
}

fn a_busy_loop_ends_in_time() {
    within(Duration::from_millis(150), || time_to_stop("spin"));
}

fn a_guest_that_fills_its_memory_ends_in_time() {
    within(Duration::from_millis(150), || time_to_stop("fill"));
}

fn a_sleeping_guest_ends_in_time() {
    within(Duration::from_millis(150), || time_to_stop("sleep"));
}

fn a_killed_slot_costs_one_attempt_of_one_task() {
    // Quick tasks make for chunks; the slot is killed in a long one in the middle.
    const LONG: usize = 50;
    let mut items = ["1"; 200];
    items[LONG] = "1000";
    let run = Run::new(FUNCTIONS, "sleep");
    let mut outcomes = Vec::new();
    std::thread::scope(|scope| {
        run.run_items(&items, |task, result| {
            if task == LONG as u64 - 1 {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(100));
                    marked(run.mark()).into_iter().for_each(|pid| send(pid, Signal::KILL));
                });
            }
            if let Err(failure) = result {
                assert_eq!(failure.kind, FailureKind::WorkerLost, "{failure}");
                assert!(failure.message.contains("killed"), "{failure}");
            }
            outcomes.push((task, result.is_ok()));
        });
    });
    outcomes.sort_unstable();
    let expected: Vec<_> = (0..200).map(|task| (task, task != LONG as u64)).collect();
    assert!(outcomes == expected, "{outcomes:?}");
}

fn results_larger_than_the_ring_arrive() {
    let mut count = 0;
    Run::new(LARGE, "").run_items(&["\"\""; 5], |_, result| {
        let result = result.unwrap();
        assert_eq!(result.len(), 80 * 65_536);
        assert!(result.iter().all(|byte| *byte == b'x'));
        count += 1;
    });
    assert_eq!(count, 5);
}

fn a_run_that_is_dropped_leaves_no_process() {
    let run = Run::new(FUNCTIONS, "spin");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tasks = run_locally(run.setup.clone(), Arguments::Range(1), &run.options, |_, _| true);
        let dropped = tokio::time::timeout(Duration::from_millis(300), tasks).await;
        assert!(dropped.is_err(), "a loop without end has ended");
    });
    // Or turn it once more: it is the runtime that drops what was spawned.
    drop(runtime);
    eventually("gone", || marked(run.mark()).is_empty());
}

fn a_function_that_is_not_there_ends_the_run() {
    let result = Run::new(SQUARE, "cube").run(Arguments::Range(3), |task, _| panic!("task {task} was run"));
    let Err(LocalError::Job(failure)) = result else {
        panic!("{result:?}");
    };
    assert_eq!(failure.kind, FailureKind::NoSuchFunction);
    assert!(failure.message.contains("square"), "{failure}");
}

fn a_program_that_is_no_slot_is_told_of() {
    let mut run = Run::new(SQUARE, "square");
    for program in ["/bin/false", "/nonexistent/farm"] {
        run.options.command = SlotCommand { exe: program.into(), args: Vec::new() };
        let result = run.run(Arguments::Range(3), |task, result| panic!("task {task}: {result:?}"));
        assert!(matches!(result, Err(LocalError::Slot(_))), "{result:?}");
    }
}

fn failures_are_retried_only_as_often_as_asked() {
    let mut run = Run::new(FUNCTIONS, "trap");
    run.options.retries = 2;
    let mut failed = Vec::new();
    run.run(Arguments::Range(4), |task, result| {
        assert_eq!(result.unwrap_err().kind, FailureKind::Trap);
        failed.push(task);
    })
    .unwrap();
    assert_eq!(failed, [0, 1, 2, 3]);
}

fn an_outcome_does_not_wait_for_the_next_task() {
    // Quick tasks make for chunks; then one in the middle of a chunk takes long.
    let mut items = vec!["1"; 100];
    items[90] = "700";
    let run = Run::new(FUNCTIONS, "sleep");
    within(Duration::from_millis(100), || {
        let mut before = None;
        let mut gap = None;
        run.run_items(&items, |task, _| match task {
            89 => before = Some(Instant::now()),
            90 => gap = before.map(|before| before.elapsed()),
            _ => {}
        });
        // All of the gap is the long task's own.
        Duration::from_millis(700).abs_diff(gap.unwrap())
    });
}

fn fold(wat: &str, function: &str) -> Run {
    let mut run = Run::new(wat, function);
    run.setup.fold = true;
    run
}

fn a_fold_calls_its_function_over_an_array() {
    let items = ["[1, 10, 100,\n 1000]", "[[7]]", "[ {\"a\" :\n 1} ]", "[-5,3]", "[2, \"x\", 3]"];
    let mut outcomes = Vec::new();
    fold(FOLDS, "add").run_items(&items, |_, result| {
        outcomes.push(result.map(|value| String::from_utf8(value.to_vec()).unwrap()).map_err(|failure| failure.kind));
    });
    let value = |text: &str| Ok(text.to_owned());
    // The guest counts its calls in a global, which is new for each of them.
    let expected = [value("1111"), value("[7]"), value("{\"a\":1}"), value("-2"), Err(FailureKind::BadArguments)];
    assert_eq!(outcomes, expected);
    // In order, from the left.
    fold(FOLDS, "sub").run_items(&["[100, 1, 10]"], |_, result| assert_eq!(result.unwrap(), b"89"));
}

fn a_fold_of_no_array_is_refused() {
    let mut count = 0;
    fold(FOLDS, "add").run_items(&["[]", "7", "{\"a\": 1}", "null"], |task, result| {
        let failure = result.unwrap_err();
        assert_eq!(failure.kind, FailureKind::BadArguments, "task {task}: {failure}");
        count += 1;
    });
    assert_eq!(count, 4);
}

fn the_time_limit_is_of_the_whole_fold() {
    // Each call takes a tenth of a second.
    let run = fold(FOLDS, "slow").timeout(350);
    run.run_items(&["[1, 1]", "[1, 1, 1, 1, 1, 1, 1, 1, 1]", "[1, 1]"], |task, result| match (task, result) {
        (0 | 2, Ok(value)) => assert_eq!(value, b"2"),
        (1, Err(failure)) => assert_eq!(failure.kind, FailureKind::Timeout, "{failure}"),
        (_, result) => panic!("task {task}: {result:?}"),
    });
}

fn only_json_can_be_folded() {
    let mut item = std::iter::once(Bytes::from_static(b"[1, 2]"));
    let result = fold(LARGE, "").run(Arguments::Items(&mut item), |task, result| panic!("task {task}: {result:?}"));
    let Err(LocalError::Job(failure)) = result else {
        panic!("{result:?}");
    };
    assert_eq!(failure.kind, FailureKind::BadArguments);
}
