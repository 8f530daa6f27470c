//! Workers that are told to leave.

use std::time::Duration;

use farm_proto::close;
use farm_proto::ids::LeaseId;
use farm_proto::message::{SchedulerControl, WorkerControl};
use rustix::process::Signal;

use crate::farm::{Answer, Farm, Setup, flatten, inline};
use crate::guests::FUNCTIONS;
use crate::processes::{eventually, send};

crate::tests![
    a_drained_worker_hands_back_finishes_and_leaves,
    sigterm_drains,
    what_runs_for_too_long_is_handed_back,
    an_idle_worker_leaves_at_once,
    a_drained_worker_waits_until_its_answers_are_stored,
    a_second_signal_is_at_once,
    a_warned_worker_finishes_until_it_is_told_to_end,
    slots_leave_it_to_their_agent_when_to_end,
    a_drained_worker_that_lost_its_scheduler_delivers_if_it_can,
    a_drained_worker_that_lost_its_scheduler_leaves_all_the_same,
];

/// The rest of the answers, sorted by task.
fn rest(farm: &mut Farm, mut answers: Vec<(LeaseId, u64, Answer)>, count: usize) -> Vec<(LeaseId, u64, Answer)> {
    while answers.len() < count {
        let (message, payload) = farm.answer();
        answers.extend(flatten(message, payload));
    }
    answers.sort_by_key(|(_, task, _)| *task);
    assert_eq!(answers.iter().map(|(_, task, _)| *task).collect::<Vec<_>>(), (0..count as u64).collect::<Vec<_>>());
    answers
}

fn hands_back_finishes_and_leaves(mut farm: Farm, slots: usize, drain: impl FnOnce(&mut Farm)) {
    farm.job(1, FUNCTIONS, "sleep", inline);
    farm.lease_with(1, 1, 0, &["700"; 6]);
    // The first tasks go out one by one.
    std::thread::sleep(Duration::from_millis(300));
    drain(&mut farm);
    assert_eq!(farm.message(), WorkerControl::Draining);
    // Too late.
    farm.lease_with(1, 2, 6, &["700"; 6]);
    for (lease, task, answer) in rest(&mut farm, Vec::new(), 12) {
        if lease == LeaseId(1) && task < slots as u64 {
            assert_eq!(answer, Answer::Value("700".to_owned()), "task {task}");
        } else {
            assert_eq!(answer, Answer::Returned, "task {task}");
        }
    }
    assert!(farm.ended().success());
}

fn a_drained_worker_hands_back_finishes_and_leaves() {
    hands_back_finishes_and_leaves(Farm::new(2), 2, |farm| farm.control(&SchedulerControl::Drain));
}

fn sigterm_drains() {
    hands_back_finishes_and_leaves(Farm::new(1), 1, |farm| send(farm.worker.id(), Signal::TERM));
}

/// A farm with a worker that runs a task which takes an hour, and has two more.
fn busy(grace: Duration) -> Farm {
    let mut farm = Farm::with(Setup { grace, ..Setup::default() });
    farm.job(1, FUNCTIONS, "sleep", inline);
    farm.lease_with(1, 1, 0, &["1", "0", "0"]);
    let (message, payload) = farm.answer();
    assert_eq!(flatten(message, payload), [(LeaseId(1), 0, Answer::Value("1".to_owned()))]);
    farm
}

fn what_runs_for_too_long_is_handed_back() {
    let mut farm = busy(Duration::from_millis(300));
    send(farm.worker.id(), Signal::TERM);
    assert_eq!(farm.message(), WorkerControl::Draining);
    let first = vec![(LeaseId(1), 0, Answer::None)];
    let answers = rest(&mut farm, first, 3);
    assert!(answers[1..].iter().all(|(_, _, answer)| *answer == Answer::Returned), "{answers:?}");
    assert!(farm.ended().success());
}

fn an_idle_worker_leaves_at_once() {
    let mut farm = Farm::new(1);
    send(farm.worker.id(), Signal::TERM);
    let connection = farm.connected.connection.clone();
    match farm.runtime.block_on(connection.closed()) {
        quinn::ConnectionError::ApplicationClosed(closed) => assert_eq!(closed.error_code, close::DONE.into()),
        other => panic!("{other}"),
    }
    assert!(farm.ended().success());
}

fn a_drained_worker_waits_until_its_answers_are_stored() {
    let mut farm = busy(Duration::from_millis(100));
    farm.acknowledges = false;
    send(farm.worker.id(), Signal::TERM);
    let first = vec![(LeaseId(1), 0, Answer::None)];
    rest(&mut farm, first, 3);
    std::thread::sleep(Duration::from_millis(300));
    assert!(farm.worker.try_wait().unwrap().is_none(), "left without an acknowledgement");
    farm.acknowledge();
    assert!(farm.ended().success());
}

fn a_second_signal_is_at_once() {
    let mut farm = busy(Duration::from_secs(600));
    send(farm.worker.id(), Signal::TERM);
    assert_eq!(farm.message(), WorkerControl::Draining);
    assert!(farm.worker.try_wait().unwrap().is_none());
    send(farm.worker.id(), Signal::INT);
    assert!(farm.ended().success());
}

fn a_warned_worker_finishes_until_it_is_told_to_end() {
    let mut farm = busy(Duration::from_millis(100));
    send(farm.worker.id(), Signal::USR1);
    assert_eq!(farm.message(), WorkerControl::Draining);
    // Batch systems may warn more than once.
    send(farm.worker.id(), Signal::USR1);
    std::thread::sleep(Duration::from_millis(500));
    assert!(farm.worker.try_wait().unwrap().is_none(), "gave up what it ran");
    send(farm.worker.id(), Signal::TERM);
    let first = vec![(LeaseId(1), 0, Answer::None)];
    let answers = rest(&mut farm, first, 3);
    assert!(answers[1..].iter().all(|(_, _, answer)| *answer == Answer::Returned), "{answers:?}");
    assert!(farm.ended().success());
}

fn slots_leave_it_to_their_agent_when_to_end() {
    hands_back_finishes_and_leaves(Farm::new(1), 1, |farm| {
        // As SLURM does: to all processes of the job.
        let agent = farm.worker.id();
        let children = std::fs::read_to_string(format!("/proc/{agent}/task/{agent}/children")).unwrap();
        assert!(!children.is_empty());
        for child in children.split_whitespace() {
            send(child.parse().unwrap(), Signal::USR1);
            send(child.parse().unwrap(), Signal::TERM);
        }
        send(agent, Signal::TERM);
    });
}

fn a_drained_worker_that_lost_its_scheduler_delivers_if_it_can() {
    let mut farm = busy(Duration::from_secs(4));
    send(farm.worker.id(), Signal::TERM);
    assert_eq!(farm.message(), WorkerControl::Draining);
    farm.break_off(close::RESTART);
    // What was said on the last connection may have been lost with it.
    assert_eq!(farm.message(), WorkerControl::Draining);
    assert_eq!(farm.connected.resume.claims.len(), 1);
    assert_eq!(farm.connected.resume.claims[0].tasks, [(1, 3)]);
    let first = vec![(LeaseId(1), 0, Answer::None)];
    rest(&mut farm, first, 3);
    assert!(farm.ended().success());
}

fn a_drained_worker_that_lost_its_scheduler_leaves_all_the_same() {
    let mut farm = busy(Duration::from_millis(500));
    farm.stop_scheduler(close::RESTART);
    // It has noticed when it does not read any more; a signal before that is as good.
    send(farm.worker.id(), Signal::TERM);
    eventually("left", || farm.worker.try_wait().unwrap().is_some());
    assert!(farm.ended().success());
}
