//! What tasks keep for their next attempts: who may keep it, who gets it, and when it is forgotten.

use std::collections::BTreeMap;

use bytes::Bytes;
use farm_link::dial::{self, Link};
use farm_proto::close;
use farm_proto::ids::JobId;
use farm_proto::job::JobState;
use farm_proto::message::{
    Claim, Lease, MAX_CHECKPOINT, Request, RequestError, Response, Resume, SchedulerControl, SchedulerWork,
    WorkerHello, WorkerWork,
};
use farm_proto::why::Checkpoint;
use farm_scheduler::config::Size;

use crate::support::client::{key, submit};
use crate::support::worker::{Streams, answer, hello};
use crate::support::{Client, Farm, WorkerKind, limited, range_job, until};

/// A worker by hand: its streams, what it was leased last, and what the tasks of that have kept.
struct Hand {
    hello: WorkerHello,
    link: Link,
    streams: Streams,
    job: JobId,
    stamp: u64,
    lease: Lease,
    restored: BTreeMap<u64, Bytes>,
    /// Messages on its work stream.
    sent: u64,
}

impl Hand {
    async fn start(farm: &Farm, slots: u32) -> Self {
        let hello = hello(slots);
        let link = dial::connect(&farm.worker, None).await.unwrap();
        let streams = Streams::resume(&link, hello.clone(), Resume::default()).await;
        let lease =
            Lease { lease: farm_proto::ids::LeaseId(0), job: JobId(0), first: 0, count: 0, attempts: Vec::new() };
        let restored = BTreeMap::new();
        let mut hand = Self { hello, link, streams, job: JobId(0), stamp: 0, lease, restored, sent: 0 };
        hand.next_lease().await;
        hand
    }

    async fn next_lease(&mut self) {
        self.restored.clear();
        let mut leases = Vec::new();
        loop {
            let (message, payload) = self.streams.work.1.expect().await.unwrap();
            match message {
                SchedulerWork::Lease(lease) => {
                    assert!(leases.iter().all(|of| *of == lease.lease), "states of another lease");
                    self.lease = lease;
                    return;
                }
                SchedulerWork::Job { job, stamp, .. } => (self.job, self.stamp) = (job, stamp),
                SchedulerWork::Secrets { .. } => panic!("no job has any"),
                SchedulerWork::Restored { lease, task } => {
                    leases.push(lease);
                    self.restored.insert(task, payload);
                }
            }
        }
    }

    /// Dials in again, with the lease that it had.
    async fn come_back(&mut self, farm: &Farm) {
        let Lease { lease, job, first, count, .. } = self.lease;
        let tasks = vec![(first, first + u64::from(count))];
        let resume = Resume { jobs: vec![(self.job, self.stamp)], claims: vec![Claim { lease, job, tasks }] };
        self.link = dial::connect(&farm.worker, None).await.unwrap();
        self.streams = Streams::resume(&self.link, self.hello.clone(), resume).await;
        self.sent = 0;
    }

    async fn say(&mut self, message: WorkerWork, payload: Bytes) {
        self.streams.work.0.send(&message, payload).await.unwrap();
        self.sent += 1;
    }

    async fn keep(&mut self, task: u64, state: impl Into<Bytes>) {
        self.say(WorkerWork::Checkpoint { lease: self.lease.lease, task }, state.into()).await;
    }

    async fn give_back(&mut self) {
        let Lease { lease, first, count, .. } = self.lease;
        self.say(WorkerWork::Returned { lease, first, count }, Bytes::new()).await;
    }

    async fn answer(&mut self) {
        let (batch, columns) = answer(&range_job(0, 1000), &self.lease, Bytes::new(), &WorkerKind::Squares);
        self.say(WorkerWork::Results { lease: self.lease.lease, batch }, columns).await;
    }

    /// Waits until all that it has said is stored.
    async fn stored(&mut self) {
        loop {
            if let (SchedulerControl::Stored { messages }, _) = self.streams.control.1.expect().await.unwrap() {
                assert!(messages <= self.sent, "more is stored than was sent");
                if messages == self.sent {
                    return;
                }
            }
        }
    }

    /// Leaves for good, with nothing.
    async fn leave(mut self) {
        self.stored().await;
        self.link.connection.close(77u32.into(), b"");
    }
}

async fn kept(client: &Client, job: JobId, task: u64) -> Option<Checkpoint> {
    match client.ask(Request::Why { job, task: Some(task) }).await.unwrap() {
        Response::Why(why) => why.checkpoint,
        other => panic!("{other:?}"),
    }
}

/// A farm with a job of so many tasks.
async fn farm_with(tasks: i64) -> (Farm, Client, JobId) {
    let farm = Farm::start().await;
    let client = farm.client().await;
    client.put_module().await;
    let job = client.detach(range_job(0, tasks)).await;
    (farm, client, job)
}

#[test]
fn the_last_state_goes_along_with_the_next_lease_and_is_forgotten_with_the_outcome() {
    limited(async {
        let (farm, client, job) = farm_with(2).await;
        let mut first = Hand::start(&farm, 2).await;
        assert_eq!((first.lease.count, first.restored.len()), (2, 0));
        assert_eq!(kept(&client, job, 1).await, None);
        first.keep(1, "one").await;
        first.keep(1, "another").await;
        first.give_back().await;
        first.leave().await;
        assert_eq!(kept(&client, job, 1).await.unwrap().bytes, 7);
        let mut second = Hand::start(&farm, 2).await;
        assert_eq!(second.lease.count, 2);
        assert_eq!(second.restored, BTreeMap::from([(1, "another".into())]));
        // Of the last task alone, so that the job goes on.
        second.lease = Lease { first: 1, count: 1, ..second.lease };
        second.answer().await;
        second.stored().await;
        assert_eq!(client.status(job).await.state, JobState::Running);
        assert_eq!(kept(&client, job, 1).await, None);
        second.lease = Lease { first: 0, ..second.lease };
        second.keep(1, "after its outcome").await;
        second.keep(0, "of the other").await;
        second.stored().await;
        assert_eq!(kept(&client, job, 1).await, None);
        let farm = farm.crash().await;
        let client = farm.client().await;
        let third = Hand::start(&farm, 2).await;
        assert_eq!((third.lease.first, third.lease.count), (0, 1));
        assert_eq!(third.restored, BTreeMap::from([(0, "of the other".into())]));
        assert_eq!(kept(&client, job, 1).await, None);
        let folder = farm.stop().await;
        let report = farm_scheduler::admin::check(folder.path()).unwrap();
        assert_eq!(report.faults, Vec::<String>::new());
    });
}

#[test]
fn a_state_that_is_still_being_stored_goes_along_as_well() {
    limited(async {
        let (farm, _client, _) = farm_with(1).await;
        let mut hand = Hand::start(&farm, 1).await;
        // One after another, without waiting for the disk.
        for round in 0..20_u8 {
            hand.keep(0, vec![round; 100_000]).await;
            hand.give_back().await;
            hand.next_lease().await;
            assert_eq!(hand.restored[&0], vec![round; 100_000]);
        }
        farm.stop().await;
    });
}

#[test]
fn it_outlives_the_scheduler() {
    limited(async {
        let (farm, _, job) = farm_with(1).await;
        let mut first = Hand::start(&farm, 1).await;
        let large = Bytes::from((0..MAX_CHECKPOINT).map(|n| (n / 3) as u8).collect::<Vec<_>>());
        first.keep(0, large.clone()).await;
        first.stored().await;
        let farm = farm.crash().await;
        let client = farm.client().await;
        assert_eq!(kept(&client, job, 0).await.unwrap().bytes, MAX_CHECKPOINT as u64);
        let second = Hand::start(&farm, 1).await;
        assert!(second.restored[&0] == large, "not what was kept");
        let folder = farm.stop().await;
        let report = farm_scheduler::admin::check(folder.path()).unwrap();
        assert_eq!(report.faults, Vec::<String>::new());
    });
}

/// Two workers believe that they have the same task: only one of them is right.
#[test]
fn a_twin_that_comes_back_overwrites_nothing() {
    limited(async {
        let (farm, client, job) = farm_with(1).await;
        let mut twin = Hand::start(&farm, 1).await;
        twin.keep(0, "of the twin").await;
        twin.stored().await;
        twin.link.connection.close(77u32.into(), b"");
        let mut other = Hand::start(&farm, 1).await;
        assert_eq!(other.restored[&0], "of the twin");
        other.keep(0, "later").await;
        other.stored().await;
        twin.come_back(&farm).await;
        twin.keep(0, "too late, and longer").await;
        twin.stored().await;
        assert_eq!(kept(&client, job, 0).await.unwrap().bytes, 5);
        other.link.connection.close(77u32.into(), b"");
        // Now it is the twin's again.
        twin.next_lease().await;
        assert_eq!(twin.restored[&0], "later");
        farm.stop().await;
    });
}

/// After a restart, a worker is believed what it holds. It may be of old.
#[test]
fn an_earlier_lease_does_not_overwrite_what_a_later_one_has_kept() {
    limited(async {
        let (farm, _, _) = farm_with(1).await;
        let mut early = Hand::start(&farm, 1).await;
        early.give_back().await;
        early.stored().await;
        early.link.connection.close(77u32.into(), b"");
        let mut late = Hand::start(&farm, 1).await;
        assert!(late.lease.lease > early.lease.lease);
        late.keep(0, "late").await;
        late.stored().await;
        let farm = farm.crash().await;
        let client = farm.client().await;
        // As if the acknowledgement had not arrived.
        early.come_back(&farm).await;
        until(async || client.status(JobId(1)).await.counts.leased == 1).await;
        early.keep(0, "early").await;
        early.give_back().await;
        early.leave().await;
        let third = Hand::start(&farm, 1).await;
        assert_eq!(third.restored[&0], "late");
        farm.stop().await;
    });
}

#[test]
fn what_is_too_large_is_not_taken() {
    limited(async {
        let (farm, client, job) = farm_with(1).await;
        let mut hand = Hand::start(&farm, 1).await;
        hand.keep(0, vec![0; MAX_CHECKPOINT + 1]).await;
        match hand.link.connection.closed().await {
            quinn::ConnectionError::ApplicationClosed(closed) => {
                assert_eq!(closed.error_code.into_inner(), u64::from(close::PROTOCOL));
            }
            other => panic!("not closed by the scheduler: {other}"),
        }
        assert_eq!(kept(&client, job, 0).await, None);
        farm.stop().await;
    });
}

#[test]
fn a_job_that_ends_forgets_what_its_tasks_have_kept_and_its_retry_begins_anew() {
    limited(async {
        let (farm, client, job) = farm_with(2).await;
        let mut hand = Hand::start(&farm, 2).await;
        hand.keep(0, "a").await;
        hand.keep(1, "b").await;
        hand.stored().await;
        client.cancel(job).await;
        assert_eq!(kept(&client, job, 0).await, None);
        let retried = client.ask(Request::Retry { key: key(), job, failed: false }).await.unwrap();
        assert!(matches!(retried, Response::Accepted { .. }), "{retried:?}");
        hand.next_lease().await;
        assert_eq!((hand.lease.count, hand.restored.len()), (2, 0));
        let folder = farm.stop().await;
        let report = farm_scheduler::admin::check(folder.path()).unwrap();
        assert_eq!(report.faults, Vec::<String>::new());
    });
}

/// A worker's memory is not filled with states of tasks that it has no slots for.
#[test]
fn a_lease_carries_states_as_it_carries_arguments() {
    limited(async {
        let (farm, _, _) = farm_with(4).await;
        let mut first = Hand::start(&farm, 4).await;
        for task in 0..4 {
            first.keep(task, vec![task as u8; 3 << 20]).await;
        }
        first.give_back().await;
        first.leave().await;
        let mut second = Hand::start(&farm, 4).await;
        let mut seen = Vec::new();
        while seen.len() < 4 {
            // Eight megabytes hold two of them.
            assert!((1..=2).contains(&second.lease.count), "{:?}", second.lease);
            assert_eq!(second.restored.len(), second.lease.count as usize);
            for (task, state) in &second.restored {
                assert_eq!(state.as_ref(), vec![*task as u8; 3 << 20]);
                seen.push(*task);
            }
            if seen.len() < 4 {
                second.next_lease().await;
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3]);
        farm.stop().await;
    });
}

#[test]
fn it_counts_as_what_a_user_keeps() {
    limited(async {
        let farm = Farm::start_with(|options| options.config.limits.stored_bytes = Some(Size(100_000))).await;
        let alice = farm.user("alice").await;
        alice.put_module().await;
        let job = alice.detach(range_job(0, 1)).await;
        let mut hand = Hand::start(&farm, 1).await;
        hand.keep(0, vec![0; 50_000]).await;
        hand.keep(0, vec![0; 200_000]).await;
        hand.stored().await;
        match alice.refused(submit(range_job(0, 1), false)).await {
            RequestError::OverLimit { used, .. } => assert!((200_000..201_000).contains(&used), "{used}"),
            other => panic!("{other:?}"),
        }
        alice.cancel(job).await;
        alice.detach(range_job(0, 1)).await;
        farm.stop().await;
    });
}
