use super::*;

/// A fleet, its clock, and a queue that does what it is told.
struct Rig {
    fleet: Fleet,
    now: Instant,
    queue: Vec<Member>,
    up: Vec<Connected>,
    next: u64,
}

impl Rig {
    fn new() -> Self {
        let mut rig = Self { fleet: Fleet::default(), now: Instant::now(), queue: Vec::new(), up: Vec::new(), next: 0 };
        rig.hear();
        rig
    }

    fn hear(&mut self) {
        self.fleet.heard(self.now, &self.queue);
        self.queue.retain(Member::is_alive);
    }

    fn after(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// Lets the fleet want so many, and does what it says. Gives that.
    fn want(&mut self, wanted: u32) -> Vec<Action> {
        let actions = self.fleet.plan(self.now, self.up.clone(), wanted, false);
        for action in &actions {
            match action {
                Action::Submit(count) => {
                    let leases: Vec<_> = (0..*count).map(|index| format!("l{}-{index}", self.next)).collect();
                    self.fleet.submitting(self.now, leases.clone());
                    for lease in leases {
                        self.queue.push(member(&lease, QueueState::Queued));
                    }
                    self.next += 1;
                }
                Action::Cancel(ids) => self.queue.retain(|member| !ids.contains(&member.id)),
                Action::Drain(workers) => {
                    self.up.iter_mut().filter(|up| workers.contains(&up.worker)).for_each(|up| up.draining = true);
                }
            }
        }
        actions
    }

    fn set(&mut self, lease: &str, state: QueueState) {
        self.queue.iter_mut().filter(|member| member.lease == lease).for_each(|member| member.state = state.clone());
    }

    fn connect(&mut self, lease: &str) {
        let worker = WorkerId(self.up.len() as u64 + 1);
        self.up.push(Connected { worker, name: lease.to_owned(), slots: 1, leased: 0, draining: false });
    }

    /// So many workers, up.
    fn with(count: u32) -> Self {
        let mut rig = Self::new();
        rig.want(count);
        for lease in rig.queue.iter().map(|member| member.lease.clone()).collect::<Vec<_>>() {
            rig.set(&lease, QueueState::Running);
            rig.connect(&lease);
        }
        rig.hear();
        assert_eq!(rig.want(count), []);
        rig
    }
}

fn member(lease: &str, state: QueueState) -> Member {
    Member {
        id: format!("7{lease}"),
        cluster: "cms".to_owned(),
        lease: lease.to_owned(),
        state,
        reason: Some("Priority".to_owned()),
        node: None,
        ends: None,
    }
}

#[test]
fn as_many_are_submitted_as_are_wanted() {
    let mut rig = Rig::new();
    assert_eq!(rig.want(3), [Action::Submit(3)]);
    assert_eq!(rig.want(3), [], "they are on their way");
    rig.hear();
    assert_eq!(rig.fleet.numbers(), Numbers { queued: 3, ..Numbers::default() });
    assert_eq!(rig.fleet.short(), ["3 in the queue: Priority"]);
    assert_eq!(rig.want(5), [Action::Submit(2)]);
    rig.set("l0-0", QueueState::Running);
    rig.hear();
    rig.connect("l0-0");
    assert_eq!(rig.want(5), []);
    assert_eq!(rig.fleet.numbers(), Numbers { queued: 4, up: 1, ..Numbers::default() });
}

#[test]
fn nothing_is_submitted_before_the_queue_was_heard() {
    let mut fleet = Fleet::default();
    let now = Instant::now();
    assert_eq!(fleet.plan(now, Vec::new(), 2, false), []);
    // They are of an earlier life of the scheduler.
    fleet.heard(now, &[member("a-0", QueueState::Running), member("a-1", QueueState::Queued)]);
    assert_eq!(fleet.plan(now, Vec::new(), 2, false), []);
    assert_eq!(fleet.plan(now, Vec::new(), 3, false), [Action::Submit(1)]);
}

#[test]
fn those_that_have_not_started_go_first_and_the_idle_before_the_busy() {
    let mut rig = Rig::with(3);
    rig.up[0].leased = 5;
    rig.up[2].leased = 9;
    rig.want(4);
    rig.hear();
    assert_eq!(rig.want(3), [Action::Cancel(vec!["7l1-0".to_owned()])]);
    assert_eq!(rig.want(2), [Action::Drain(vec![WorkerId(2)])], "the idle one");
    assert_eq!(rig.want(2), []);
    assert_eq!(rig.want(1), [Action::Drain(vec![WorkerId(1)])], "the one with less to do");
}

#[test]
fn what_has_no_number_yet_is_cancelled_when_it_has() {
    let mut rig = Rig::new();
    rig.want(1);
    assert_eq!(rig.want(0), [], "nobody knows its number");
    rig.hear();
    assert_eq!(rig.want(0), [Action::Cancel(vec!["7l0-0".to_owned()])]);
}

#[test]
fn a_worker_that_leaves_by_itself_is_replaced_at_once() {
    let mut rig = Rig::with(2);
    rig.up[0].draining = true;
    assert_eq!(rig.want(2), [Action::Submit(1)], "its time will be over soon");
    // And its end is no failure.
    let lease = rig.up.remove(0).name;
    rig.set(&lease, QueueState::Ended("COMPLETED".to_owned()));
    rig.hear();
    assert_eq!(rig.want(2), []);
    assert_eq!(rig.fleet.trouble, None);
}

#[test]
fn a_worker_that_was_up_is_replaced_without_delay_when_its_job_ends() {
    for word in ["TIMEOUT", "PREEMPTED", "NODE_FAIL"] {
        let mut rig = Rig::with(1);
        rig.up.clear();
        assert_eq!(rig.want(1), [], "it may come back");
        assert_eq!(rig.fleet.numbers().lost, 1);
        rig.set("l0-0", QueueState::Ended(word.to_owned()));
        rig.hear();
        assert_eq!(rig.want(1), [Action::Submit(1)], "{word}");
    }
}

#[test]
fn failures_to_start_are_told_and_delay_the_next_attempt() {
    let mut rig = Rig::new();
    for delay in [1, 5, 15, 60, 300, 300] {
        assert_eq!(rig.want(2), [Action::Submit(2)]);
        rig.hear();
        let leases: Vec<_> = rig.queue.iter().map(|member| member.lease.clone()).collect();
        rig.fleet.reported(&leases[0], "neither curl nor wget nor python3\n".to_owned());
        for lease in leases {
            rig.set(&lease, QueueState::Ended("FAILED".to_owned()));
        }
        rig.hear();
        assert_eq!(rig.want(2), [], "not at once");
        assert_eq!(rig.fleet.retry_in(rig.now), Some(Duration::from_secs(delay)));
        let told = rig.fleet.short().join("\n");
        assert!(told.contains("(FAILED)"), "{told}");
        rig.after(delay);
    }
    // One that works ends it.
    rig.want(2);
    rig.set("l6-0", QueueState::Running);
    rig.hear();
    rig.connect("l6-0");
    rig.want(2);
    assert_eq!((rig.fleet.failures, rig.fleet.retry_at), (0, None));
}

#[test]
fn what_a_node_reports_is_shown() {
    let mut rig = Rig::new();
    rig.want(1);
    rig.hear();
    rig.fleet.reported("l0-0", "no space left on /tmp\n".to_owned());
    rig.fleet.reported("somebody else's", "spam".to_owned());
    rig.set("l0-0", QueueState::Ended("FAILED".to_owned()));
    rig.hear();
    let told = rig.fleet.short().join("\n");
    assert!(told.contains("7l0-0") && told.ends_with("no space left on /tmp"), "{told}");
    assert!(rig.fleet.reports.is_empty());
}

#[test]
fn what_has_ended_is_no_failure_again() {
    let mut rig = Rig::with(2);
    rig.want(1);
    let at = rig.up.iter().position(|up| up.draining).expect("one that goes");
    let gone = rig.up.remove(at).name;
    rig.set(&gone, QueueState::Ended("exit code 0".to_owned()));
    for _ in 0..3 {
        rig.fleet.heard(rig.now, &rig.queue);
        assert_eq!(rig.want(1), []);
    }
    assert_eq!((rig.fleet.failures, rig.fleet.trouble.as_deref()), (0, None));
}

#[test]
fn missing_once_is_no_news() {
    let mut rig = Rig::with(1);
    rig.up.clear();
    let queue = std::mem::take(&mut rig.queue);
    rig.hear();
    assert_eq!(rig.want(1), []);
    rig.queue = queue;
    rig.hear();
    rig.queue.clear();
    rig.hear();
    assert_eq!(rig.want(1), [], "missing once again");
    rig.hear();
    assert_eq!(rig.want(1), [Action::Submit(1)]);
}

#[test]
fn a_submission_that_never_appears_is_made_again() {
    let mut rig = Rig::new();
    rig.want(1);
    rig.queue.clear();
    rig.hear();
    rig.after(59);
    rig.hear();
    assert_eq!(rig.want(1), []);
    rig.after(1);
    rig.hear();
    rig.after(1);
    assert_eq!(rig.want(1), [Action::Submit(1)]);
}

#[test]
fn a_job_without_a_worker_is_given_up() {
    let mut rig = Rig::new();
    rig.want(1);
    rig.set("l0-0", QueueState::Running);
    rig.hear();
    rig.after(299);
    assert_eq!(rig.want(1), []);
    rig.after(1);
    assert_eq!(rig.want(1), [Action::Cancel(vec!["7l0-0".to_owned()])]);
    assert!(rig.fleet.short().join("").contains("without a connection"), "{:?}", rig.fleet.short());
    rig.after(1);
    assert_eq!(rig.want(1), [Action::Submit(1)]);
}

#[test]
fn a_connected_worker_is_up_whatever_the_queue_says() {
    let mut rig = Rig::with(1);
    rig.set("l0-0", QueueState::Ended("NODE_FAIL".to_owned()));
    rig.hear();
    assert_eq!(rig.want(1), []);
    assert_eq!(rig.fleet.numbers().up, 1);
    // Nothing is left of it when it goes.
    rig.up.clear();
    assert_eq!(rig.want(1), [Action::Submit(1)]);
}

#[test]
fn a_cluster_that_is_to_go_at_once_is_cancelled_whole() {
    let mut rig = Rig::with(2);
    rig.want(3);
    rig.hear();
    let actions = rig.fleet.plan(rig.now, rig.up.clone(), 0, true);
    let all = ["7l0-0", "7l0-1", "7l1-0"].map(str::to_owned).to_vec();
    assert_eq!(actions, [Action::Cancel(all)]);
    rig.queue.clear();
    rig.up.clear();
    rig.hear();
    rig.hear();
    rig.want(0);
    assert!(rig.fleet.is_empty());
}
