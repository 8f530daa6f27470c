//! Workers as processes, against a scheduler that says what the test wants.

use std::time::{Duration, Instant};

use bytes::Bytes;
use farm_proto::close;
use farm_proto::ids::{Digest, JobId, LeaseId};
use farm_proto::job::Input;
use farm_proto::message::{SchedulerControl, WorkerControl};
use farm_proto::outcome::FailureKind;
use farm_proto::why::Stage;
use rustix::process::Signal;

use crate::farm::{Answer, Farm, flatten, inline};
use crate::guests::{COUNTS, FUNCTIONS, LARGE, READS_INPUT, SQUARE};
use crate::processes::{eventually, is_alive, marked, send, within};

crate::tests![
    a_range_is_worked_off,
    columns_are_worked_off_on_two_slots,
    a_module_is_fetched_once,
    a_compiled_module_outlives_its_worker,
    a_cancelled_job_makes_room_at_once,
    what_is_recalled_comes_back,
    a_killed_slot_is_replaced,
    a_task_over_its_time_fails,
    a_module_that_cannot_be_opened_fails_its_job,
    a_module_that_does_not_compile_fails_its_job,
    a_blob_that_the_scheduler_lacks_fails_the_job,
    inputs_are_mounted_and_removed,
    inputs_do_not_lead_outside,
    exit_is_at_once,
    a_scheduler_that_ends_ends_its_workers,
    a_killed_worker_leaves_no_slot,
    large_results_wait_for_a_slow_link,
    progress_is_told_now_and_then,
    preparation_is_told_and_accounted_for,
];

fn a_range_is_worked_off() {
    let mut farm = Farm::new(1);
    farm.job(1, SQUARE, "square", |_| {});
    farm.lease(1, 1, 1000, 5000);
    let answers = farm.answers(1, 1000, 5000);
    for (task, answer) in (1000_u64..).zip(answers) {
        assert_eq!(answer, Answer::Value((task * task).to_string()));
    }
    assert!(farm.end().success());
}

fn columns_are_worked_off_on_two_slots() {
    let mut farm = Farm::new(2);
    farm.job(1, SQUARE, "square", inline);
    let arguments: Vec<_> = (0..3000).map(|item: i64| (7 * item).to_string()).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    farm.lease_with(1, 1, 50, &arguments);
    for (argument, answer) in arguments.iter().zip(farm.answers(1, 50, 3000)) {
        let argument: i64 = argument.parse().unwrap();
        assert_eq!(answer, Answer::Value((argument * argument).to_string()));
    }
}

fn a_module_is_fetched_once() {
    let mut farm = Farm::new(2);
    for job in 1..4 {
        farm.job(job, SQUARE, "square", |_| {});
        farm.lease(job, job, 0, 10);
    }
    let mut left = 30;
    while left > 0 {
        let (message, payload) = farm.answer();
        left -= flatten(message, payload).len();
    }
    assert_eq!(farm.scheduler.blobs.lock().unwrap().fetched.len(), 1);
}

fn a_compiled_module_outlives_its_worker() {
    let mut farm = Farm::new(1);
    farm.job(1, SQUARE, "square", |_| {});
    farm.lease(1, 1, 0, 1);
    farm.answers(1, 0, 1);
    farm.restart();
    farm.job(1, SQUARE, "square", |_| {});
    farm.lease(1, 1, 0, 1);
    farm.answers(1, 0, 1);
    assert_eq!(farm.scheduler.blobs.lock().unwrap().fetched.len(), 1);
}

fn a_cancelled_job_makes_room_at_once() {
    let mut farm = Farm::new(1);
    farm.job(1, FUNCTIONS, "spin", |_| {});
    farm.job(2, FUNCTIONS, "square", |_| {});
    let mut lease = 0;
    within(Duration::from_millis(50), || {
        let job = 10 + lease;
        lease += 2;
        farm.job(job, FUNCTIONS, "spin", |_| {});
        // Task 0 never ends; task 1 waits behind it.
        farm.lease(job, lease, 0, 2);
        std::thread::sleep(Duration::from_millis(100));
        let slots = farm.slots();
        let begun = Instant::now();
        farm.control(&SchedulerControl::CancelJob { job: JobId(job) });
        eventually("killed", || !slots.iter().any(|slot| is_alive(*slot)));
        let took = begun.elapsed();
        // Nothing of the job is answered, and the next one is.
        farm.lease(job, 900 + lease, 2, 2);
        farm.lease(2, lease + 1, 3, 1);
        assert_eq!(farm.answers(lease + 1, 3, 1), [Answer::Value("9".to_owned())]);
        farm.control(&SchedulerControl::ForgetJob { job: JobId(job) });
        took
    });
}

fn what_is_recalled_comes_back() {
    let mut farm = Farm::new(1);
    farm.job(1, FUNCTIONS, "sleep", inline);
    farm.lease_with(1, 1, 0, &["100"; 20]);
    let (first, payload) = farm.answer();
    let mut answers = flatten(first, payload);
    farm.control(&SchedulerControl::Recall { lease: LeaseId(1), keep: 3 });
    while answers.len() < 20 {
        let (message, payload) = farm.answer();
        answers.extend(flatten(message, payload));
    }
    answers.sort_by_key(|(_, task, _)| *task);
    let returned: Vec<_> = answers.iter().filter(|(_, _, answer)| *answer == Answer::Returned).collect();
    // One had ended, up to two were running, three were kept; the rest comes from the end.
    assert!((13..=16).contains(&returned.len()), "{answers:?}");
    assert!(answers[20 - returned.len()..].iter().all(|(_, _, answer)| *answer == Answer::Returned), "{answers:?}");
    assert_eq!(answers.iter().map(|(_, task, _)| *task).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
}

fn a_killed_slot_is_replaced() {
    // Quick tasks make for chunks; the slot is killed in a long one in the middle.
    const LONG: usize = 50;
    let mut items = ["1"; 200];
    items[LONG] = "1000";
    let mut farm = Farm::new(1);
    farm.job(1, FUNCTIONS, "sleep", inline);
    farm.lease_with(1, 1, 0, &items);
    let mut answers = Vec::new();
    while answers.len() < LONG {
        let (message, payload) = farm.answer();
        answers.extend(flatten(message, payload));
    }
    std::thread::sleep(Duration::from_millis(100));
    farm.slots().into_iter().for_each(|slot| send(slot, Signal::KILL));
    while answers.len() < 200 {
        let (message, payload) = farm.answer();
        answers.extend(flatten(message, payload));
    }
    answers.sort_by_key(|(_, task, _)| *task);
    for (at, (_, task, answer)) in answers.iter().enumerate() {
        assert_eq!(*task, at as u64);
        match at {
            LONG => assert!(matches!(answer, Answer::Lost(_)), "{answer:?}"),
            _ => assert_eq!(*answer, Answer::Value("1".to_owned()), "task {task}"),
        }
    }
}

fn a_task_over_its_time_fails() {
    let mut farm = Farm::new(1);
    farm.job(1, FUNCTIONS, "spin", |spec| spec.limits.timeout_ms = Some(50));
    farm.lease(1, 1, 0, 3);
    let answers = farm.answers(1, 0, 3);
    assert_eq!(answers[0], Answer::Failed(FailureKind::Timeout));
    assert_eq!(answers[1..], [Answer::Value("1".to_owned()), Answer::Value("2".to_owned())]);
}

fn failure_of(farm: &mut Farm, job: u64) -> (FailureKind, String) {
    match farm.message() {
        WorkerControl::JobFailed { job: of, failure } => {
            assert_eq!(of, JobId(job));
            (failure.kind, failure.message)
        }
        other => panic!("{other:?}"),
    }
}

fn a_module_that_cannot_be_opened_fails_its_job() {
    let mut farm = Farm::new(2);
    farm.job(1, SQUARE, "cube", |_| {});
    farm.lease(1, 1, 0, 1000);
    let (kind, message) = failure_of(&mut farm, 1);
    assert_eq!(kind, FailureKind::NoSuchFunction);
    assert!(message.contains("square"), "{message}");
    // It works on, and answers nothing of that job.
    farm.job(2, SQUARE, "square", |_| {});
    farm.lease(2, 2, 4, 1);
    assert_eq!(farm.answers(2, 4, 1), [Answer::Value("16".to_owned())]);
}

fn a_module_that_does_not_compile_fails_its_job() {
    let mut farm = Farm::new(1);
    let broken = Bytes::from_static(b"\0asm\x01\0\0\0\x63");
    let digest = farm.scheduler.put(broken.clone());
    farm.job(1, SQUARE, "square", |spec| (spec.module.digest, spec.module.size) = (digest, broken.len() as u64));
    farm.lease(1, 1, 0, 5);
    assert_eq!(failure_of(&mut farm, 1).0, FailureKind::BadModule);
}

fn a_blob_that_the_scheduler_lacks_fails_the_job() {
    let mut farm = Farm::new(1);
    let lacking = Digest::of(b"nothing like it");
    farm.job(1, SQUARE, "square", |spec| spec.module.digest = lacking);
    farm.lease(1, 1, 0, 5);
    let (_, message) = failure_of(&mut farm, 1);
    assert!(message.contains(&lacking.short()), "{message}");
}

fn inputs_are_mounted_and_removed() {
    let mut farm = Farm::new(1);
    let digest = farm.scheduler.put("hello");
    farm.job(1, READS_INPUT, "", |spec| {
        inline(spec);
        spec.inputs = vec![Input { path: "a/b.txt".to_owned(), digest, size: 5 }];
    });
    farm.lease_with(1, 1, 0, &["\"\"", "\"\""]);
    let answers = farm.answers(1, 0, 2);
    assert_eq!(answers, [Answer::Value("hello".to_owned()), Answer::Value("hello".to_owned())]);
    let cache = farm.folder.path().join("cache");
    let folders = || {
        let runs = std::fs::read_dir(&cache).unwrap().flatten();
        let runs = runs.filter(|entry| entry.file_name().to_string_lossy().starts_with("run-"));
        runs.map(|run| std::fs::read_dir(run.path()).unwrap().count()).sum::<usize>()
    };
    assert_eq!(folders(), 1);
    farm.control(&SchedulerControl::ForgetJob { job: JobId(1) });
    eventually("removed", || folders() == 0);
}

fn inputs_do_not_lead_outside() {
    let mut farm = Farm::new(1);
    let digest = farm.scheduler.put("evil");
    for (job, path) in (1..).zip(["../a", "/etc/farm", "a/../../b"]) {
        farm.job(job, READS_INPUT, "", |spec| {
            spec.inputs = vec![Input { path: path.to_owned(), digest, size: 4 }];
        });
        let (kind, message) = failure_of(&mut farm, job);
        assert_eq!(kind, FailureKind::BadArguments);
        assert!(message.contains(path), "{message}");
    }
}

fn exit_is_at_once() {
    let mut farm = Farm::new(2);
    farm.job(1, FUNCTIONS, "spin", inline);
    farm.lease_with(1, 1, 0, &["0", "0"]);
    std::thread::sleep(Duration::from_millis(100));
    assert!(farm.end().success());
}

fn a_scheduler_that_ends_ends_its_workers() {
    let mut farm = Farm::new(1);
    farm.connected.connection.close(close::SHUTDOWN.into(), b"");
    assert!(farm.ended().success());
}

fn a_killed_worker_leaves_no_slot() {
    let mut farm = Farm::new(2);
    farm.job(1, FUNCTIONS, "spin", inline);
    farm.lease_with(1, 1, 0, &["0", "0"]);
    eventually("two slots", || farm.slots().len() == 2);
    farm.worker.kill().unwrap();
    farm.worker.wait().unwrap();
    eventually("gone", || marked(farm.mark()).is_empty());
}

fn large_results_wait_for_a_slow_link() {
    let mut farm = Farm::new(2);
    farm.job(1, LARGE, "", inline);
    farm.lease_with(1, 1, 0, &["\"\""; 100]);
    // Half a gigabyte, of which nothing is read at first.
    std::thread::sleep(Duration::from_millis(1500));
    let status = std::fs::read_to_string(format!("/proc/{}/status", farm.worker.id())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 150 << 10, "the worker holds {kib} KiB");
    for answer in farm.answers(1, 0, 100) {
        assert!(matches!(answer, Answer::Value(text) if text.len() == 80 * 65_536));
    }
}

fn progress_is_told_now_and_then() {
    let mut farm = Farm::new(1);
    farm.job(1, COUNTS, "count", inline);
    let begun = Instant::now();
    farm.lease_with(1, 1, 7, &["300"]);
    assert_eq!(farm.answers(1, 7, 1), [Answer::Value("300".to_owned())]);
    let most = 2 + begun.elapsed().as_millis() / 100;
    farm.control(&SchedulerControl::Drain);
    let mut last = 0;
    let mut count = 0;
    loop {
        match farm.message() {
            WorkerControl::Progress { job: JobId(1), task: 7, done, total: 300 } => {
                assert!(done > last);
                last = done;
                count += 1;
            }
            WorkerControl::Draining => break,
            other => panic!("{other:?}"),
        }
    }
    assert!((1..=most).contains(&count), "told {count} times, at most {most} were due");
}

fn preparation_is_told_and_accounted_for() {
    const DELAY: Duration = Duration::from_millis(300);
    let mut farm = Farm::new(1);
    farm.scheduler.delay_blobs(DELAY);
    farm.job(1, SQUARE, "square", |_| {});
    farm.lease(1, 1, 0, 1);
    for expected in [Stage::Fetching, Stage::Compiling, Stage::Ready] {
        assert_eq!(farm.any_message(), WorkerControl::Preparing { job: JobId(1), stage: expected });
    }
    let (fetch_ns, compile_ns) = preparation(&mut farm);
    // From the lease on, which came a little later than the job did.
    assert!(u128::from(fetch_ns) > DELAY.as_nanos() / 2, "{fetch_ns} ns");
    assert!(compile_ns > 0);
    // To the next lease it is ready from the start, and nobody waits for it.
    farm.lease(1, 2, 1, 1);
    assert_eq!(preparation(&mut farm), (0, 0));
    farm.control(&SchedulerControl::Drain);
    assert_eq!(farm.any_message(), WorkerControl::Draining);
}

fn preparation(farm: &mut Farm) -> (u64, u64) {
    match farm.answer().0 {
        farm_proto::message::WorkerWork::Results { batch, .. } => (batch.fetch_ns, batch.compile_ns),
        other => panic!("{other:?}"),
    }
}
