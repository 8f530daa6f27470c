//! Workers that lose their scheduler, and come back.

use std::time::Duration;

use farm_proto::close;
use farm_proto::ids::{JobId, LeaseId};
use farm_proto::message::{Claim, SchedulerControl, WorkerControl, WorkerWork};
use farm_proto::outcome::FailureKind;
use farm_proto::why::Stage;
use rustix::process::Signal;

use crate::farm::{Answer, Farm, STAMP, Setup, flatten, inline};
use crate::guests::{FUNCTIONS, LARGE, SQUARE};
use crate::processes::{marked, send};

crate::tests![
    a_lost_connection_costs_nothing,
    a_worker_works_on_while_its_scheduler_is_away,
    what_was_handed_back_and_lost_is_claimed_and_told_again,
    a_frozen_worker_comes_back,
    a_scheduler_may_come_later_than_its_workers,
    a_scheduler_that_stays_away_ends_its_workers_with_an_error,
    a_worker_that_does_not_wait_ends_at_once,
    refusals_are_not_retried,
    another_version_is_told_of,
    a_failed_job_is_told_of_again,
    a_cancelled_job_is_not_brought_back,
    another_job_of_the_same_number_replaces_it,
    a_fetch_goes_on_with_the_next_connection,
    answers_that_are_not_stored_are_kept_up_to_a_limit,
    an_acknowledgement_of_nothing_is_refused,
];

fn claim(lease: u64, tasks: &[(u64, u64)]) -> Claim {
    Claim { lease: LeaseId(lease), job: JobId(1), tasks: tasks.to_vec() }
}

fn one_answer(farm: &mut Farm) -> (LeaseId, u64, Answer) {
    let (message, payload) = farm.answer();
    let mut answers = flatten(message, payload);
    assert_eq!(answers.len(), 1, "{answers:?}");
    answers.remove(0)
}

fn a_lost_connection_costs_nothing() {
    let mut farm = Farm::new(1);
    farm.job(1, FUNCTIONS, "sleep", inline);
    farm.lease_with(1, 1, 10, &["500"; 5]);
    assert_eq!(one_answer(&mut farm).1, 10);
    farm.acknowledges = false;
    assert_eq!(one_answer(&mut farm).1, 11);
    farm.break_off(close::INTERNAL);
    assert_eq!(farm.connected.resume.jobs, [(JobId(1), STAMP)]);
    assert_eq!(farm.connected.resume.claims, [claim(1, &[(11, 15)])]);
    farm.acknowledges = true;
    // First what may have been lost, then the rest, each once.
    for task in 11..15 {
        assert_eq!(one_answer(&mut farm), (LeaseId(1), task, Answer::Value("500".to_owned())));
    }
    // The job is still known, and its module.
    farm.lease_with(1, 2, 15, &["1"]);
    assert_eq!(one_answer(&mut farm), (LeaseId(2), 15, Answer::Value("1".to_owned())));
    farm.break_off(close::SILENT);
    assert_eq!(farm.connected.resume.claims, []);
    assert_eq!(farm.scheduler.blobs.lock().unwrap().fetched.len(), 1);
    assert!(farm.end().success());
}

fn a_worker_works_on_while_its_scheduler_is_away() {
    let mut farm = Farm::new(2);
    farm.job(1, FUNCTIONS, "sleep", inline);
    farm.lease_with(1, 1, 0, &["20"; 20]);
    farm.acknowledges = false;
    let (message, payload) = farm.answer();
    let before = flatten(message, payload).len();
    assert!(before < 20);
    farm.stop_scheduler(close::RESTART);
    // Time for all of it.
    std::thread::sleep(Duration::from_millis(1500));
    farm.start_scheduler_again();
    assert_eq!(farm.connected.resume.claims, [claim(1, &[(0, 20)])]);
    // All of it is there, and the first answers, which were not acknowledged, come again.
    for answer in farm.answers(1, 0, 20) {
        assert_eq!(answer, Answer::Value("20".to_owned()));
    }
    farm.acknowledge();
    farm.lease_with(1, 2, 20, &["1"]);
    assert_eq!(one_answer(&mut farm).1, 20);
    assert!(farm.end().success());
}

fn what_was_handed_back_and_lost_is_claimed_and_told_again() {
    let mut farm = Farm::new(1);
    farm.acknowledges = false;
    farm.job(1, FUNCTIONS, "sleep", inline);
    farm.lease_with(1, 1, 0, &["0", "0", "1", "1"]);
    std::thread::sleep(Duration::from_millis(300));
    // Task 0 is running.
    farm.control(&SchedulerControl::Recall { lease: LeaseId(1), keep: 1 });
    let (message, _) = farm.answer();
    let returned = WorkerWork::Returned { lease: LeaseId(1), first: 2, count: 2 };
    assert_eq!(message, returned);
    let slots = farm.slots();
    slots.into_iter().for_each(|slot| send(slot, Signal::KILL));
    let (lost, _) = farm.answer();
    assert!(matches!(lost, WorkerWork::Lost { lease: LeaseId(1), task: 0, .. }), "{lost:?}");
    farm.break_off(close::RESTART);
    // Task 1 runs now.
    assert_eq!(farm.connected.resume.claims, [claim(1, &[(0, 4)])]);
    assert_eq!(farm.answer().0, returned);
    assert_eq!(farm.answer().0, lost);
    farm.acknowledge();
    farm.break_off(close::RESTART);
    assert_eq!(farm.connected.resume.claims, [claim(1, &[(1, 2)])]);
    assert!(farm.end().success());
}

fn a_frozen_worker_comes_back() {
    let mut farm = Farm::with(Setup { heartbeat: Duration::from_secs(1), ..Setup::default() });
    farm.job(1, FUNCTIONS, "sleep", inline);
    farm.lease_with(1, 1, 0, &["1", "2000"]);
    assert_eq!(one_answer(&mut farm).1, 0);
    farm.settle();
    send(farm.worker.id(), Signal::STOP);
    let connection = farm.connected.connection.clone();
    let closed = farm.runtime.block_on(connection.closed());
    assert_eq!(closed, quinn::ConnectionError::TimedOut);
    send(farm.worker.id(), Signal::CONT);
    farm.accept_again();
    assert_eq!(farm.connected.resume.claims, [claim(1, &[(1, 2)])]);
    assert_eq!(one_answer(&mut farm), (LeaseId(1), 1, Answer::Value("2000".to_owned())));
    assert!(farm.end().success());
}

fn a_scheduler_may_come_later_than_its_workers() {
    let mut farm = Farm::with_late_scheduler(Setup::default(), Duration::from_secs(6));
    farm.job(1, SQUARE, "square", |_| {});
    farm.lease(1, 1, 7, 1);
    assert_eq!(one_answer(&mut farm), (LeaseId(1), 7, Answer::Value("49".to_owned())));
    assert!(farm.end().success());
}

fn a_scheduler_that_stays_away_ends_its_workers_with_an_error() {
    let mut farm = Farm::with(Setup { wait: Duration::from_secs(1), ..Setup::default() });
    farm.stop_scheduler(close::RESTART);
    assert!(!farm.ended().success());
    assert!(farm.stderr().contains("gave up waiting for the scheduler"), "{}", farm.stderr());
}

fn a_worker_that_does_not_wait_ends_at_once() {
    let mut farm = Farm::with(Setup { wait: Duration::ZERO, ..Setup::default() });
    farm.stop_scheduler(close::RESTART);
    assert!(!farm.ended().success());
    assert!(farm.stderr().contains("the connection was lost"), "{}", farm.stderr());
}

fn refusals_are_not_retried() {
    for code in [close::PROTOCOL, close::FORBIDDEN, close::BAD_TICKET] {
        let mut farm = Farm::new(1);
        farm.connected.connection.close(code.into(), b"so it is");
        assert!(!farm.ended().success());
        assert!(farm.stderr().contains("so it is"), "{}", farm.stderr());
    }
}

fn another_version_is_told_of() {
    let mut farm = Farm::new(1);
    farm.connected.connection.close(close::VERSION.into(), b"this farm speaks farm/9");
    assert!(!farm.ended().success());
    let stderr = farm.stderr();
    assert!(stderr.contains("farm/2") && stderr.contains("farm/9"), "{stderr}");
}

fn a_failed_job_is_told_of_again() {
    let mut farm = Farm::new(1);
    farm.job(1, SQUARE, "cube", |_| {});
    farm.lease(1, 1, 0, 1000);
    let failed = farm.message();
    let WorkerControl::JobFailed { job: JobId(1), failure } = &failed else {
        panic!("{failed:?}");
    };
    assert_eq!(failure.kind, FailureKind::NoSuchFunction);
    farm.break_off(close::RESTART);
    assert_eq!(farm.connected.resume.jobs, [(JobId(1), STAMP)]);
    assert_eq!(farm.connected.resume.claims, []);
    assert_eq!(farm.message(), failed);
    // Once it is cancelled, the scheduler knows.
    farm.control(&SchedulerControl::CancelJob { job: JobId(1) });
    farm.job(2, SQUARE, "square", |_| {});
    farm.lease(2, 2, 4, 1);
    assert_eq!(one_answer(&mut farm).1, 4);
    farm.break_off(close::RESTART);
    assert_eq!(farm.connected.resume.jobs, [(JobId(2), STAMP)]);
    farm.control(&SchedulerControl::Drain);
    assert_eq!(farm.message(), WorkerControl::Draining);
}

fn a_cancelled_job_is_not_brought_back() {
    let mut farm = Farm::new(1);
    farm.acknowledges = false;
    farm.job(1, FUNCTIONS, "sleep", inline);
    farm.lease_with(1, 1, 0, &["1", "0"]);
    assert_eq!(one_answer(&mut farm).1, 0);
    farm.control(&SchedulerControl::CancelJob { job: JobId(1) });
    farm.job(2, FUNCTIONS, "square", |_| {});
    farm.lease(2, 2, 3, 1);
    assert_eq!(one_answer(&mut farm), (LeaseId(2), 3, Answer::Value("9".to_owned())));
    farm.break_off(close::RESTART);
    assert_eq!(farm.connected.resume.jobs, [(JobId(2), STAMP)]);
    assert_eq!(farm.connected.resume.claims, [Claim { lease: LeaseId(2), job: JobId(2), tasks: vec![(3, 4)] }]);
    assert_eq!(one_answer(&mut farm).0, LeaseId(2));
    assert!(farm.end().success());
}

fn another_job_of_the_same_number_replaces_it() {
    let mut farm = Farm::new(1);
    farm.job(1, FUNCTIONS, "sleep", inline);
    farm.lease_with(1, 1, 0, &["1", "0", "0"]);
    assert_eq!(one_answer(&mut farm).1, 0);
    farm.break_off(close::RESTART);
    // The same again changes nothing.
    farm.job(1, FUNCTIONS, "sleep", inline);
    farm.break_off(close::RESTART);
    assert_eq!(farm.connected.resume.jobs, [(JobId(1), STAMP)]);
    assert_eq!(farm.connected.resume.claims, [claim(1, &[(1, 3)])]);
    // Another one ends the hour-long task, of which nothing is heard any more.
    farm.stamped_job(1, STAMP + 1, SQUARE, "square", |_| {});
    farm.lease(1, 2, 5, 1);
    assert_eq!(one_answer(&mut farm), (LeaseId(2), 5, Answer::Value("25".to_owned())));
    farm.break_off(close::RESTART);
    assert_eq!(farm.connected.resume.jobs, [(JobId(1), STAMP + 1)]);
    assert!(farm.end().success());
}

fn a_fetch_goes_on_with_the_next_connection() {
    let mut farm = Farm::new(1);
    farm.scheduler.delay_blobs(Duration::from_secs(600));
    farm.job(1, SQUARE, "square", |_| {});
    farm.lease(1, 1, 6, 1);
    let fetching = WorkerControl::Preparing { job: JobId(1), stage: Stage::Fetching };
    assert_eq!(farm.any_message(), fetching);
    farm.scheduler.delay_blobs(Duration::ZERO);
    farm.break_off(close::RESTART);
    assert_eq!(farm.connected.resume.claims, [claim(1, &[(6, 7)])]);
    assert_eq!(farm.any_message(), fetching);
    assert_eq!(one_answer(&mut farm), (LeaseId(1), 6, Answer::Value("36".to_owned())));
    assert!(farm.end().success());
}

fn answers_that_are_not_stored_are_kept_up_to_a_limit() {
    const LIMIT: usize = 64 << 20;
    const RESULT: usize = 80 * 65_536;
    let mut farm = Farm::new(1);
    farm.acknowledges = false;
    farm.job(1, LARGE, "", inline);
    farm.lease_with(1, 1, 0, &["\"\""; 40]);
    let mut count = 0;
    while let Some((message, _)) = farm.answer_within(Duration::from_secs(4)) {
        assert!(matches!(message, WorkerWork::Results { .. }), "{message:?}");
        count += 1;
    }
    // What was full with one more, and what a slot had told already.
    let full = LIMIT.div_ceil(RESULT);
    assert!((full..=full + 2).contains(&count), "{count} results of {RESULT} bytes");
    // Nothing of that is lost, nor does it keep the rest from coming.
    farm.break_off(close::RESTART);
    farm.acknowledges = true;
    for answer in farm.answers(1, 0, 40) {
        assert!(matches!(answer, Answer::Value(text) if text.len() == RESULT));
    }
    assert!(farm.end().success());
    assert_eq!(marked(farm.mark()), [] as [u32; 0]);
}

fn an_acknowledgement_of_nothing_is_refused() {
    let mut farm = Farm::new(1);
    farm.control(&SchedulerControl::Stored { messages: 1 });
    assert!(!farm.ended().success());
    assert!(farm.stderr().contains("acknowledged"), "{}", farm.stderr());
}
