//! The workers of one cluster, and what is to become them: pure bookkeeping, without I/O.
//!
//! [`Fleet::heard`] is told what the queue says, [`Fleet::plan`] which workers are connected and how many are wanted, and
//! gives what is to be done. Both may be called at any time; nothing depends on an answer to what was asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use farm_proto::cluster::{MemberState, MemberStatus};
use farm_proto::ids::WorkerId;
use tokio::time::Instant;

use super::provider::{Member, QueueState};

/// How long after failures in a row workers are started again.
const BACKOFF: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
    Duration::from_secs(300),
];
/// A worker whose job runs for so long without having connected will not.
const CONNECT: Duration = Duration::from_secs(300);
/// So many answers in a row without a job mean that it is gone.
const MISSES: u32 = 2;
/// A submission that no answer of the queue has shown for so long was none.
const APPEAR: Duration = Duration::from_secs(60);
/// A worker that was asked to leave and has not after so long is cancelled: its own grace time is less.
const LEAVE: Duration = Duration::from_secs(600);

/// A connected worker of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connected {
    pub(crate) worker: WorkerId,
    /// Its lease.
    pub(crate) name: String,
    pub(crate) slots: u32,
    /// Tasks that it holds.
    pub(crate) leased: u64,
    pub(crate) draining: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start so many workers. [`Fleet::submitting`] follows, then [`Fleet::submitted`].
    Submit(u32),
    /// Cancel these jobs of the queue.
    Cancel(Vec<String>),
    /// Let these workers finish what they run, and leave.
    Drain(Vec<WorkerId>),
}

/// What is known of one lease.
#[derive(Debug)]
struct Lease {
    /// When it was submitted, or first seen.
    since: Instant,
    queue: Queue,
    /// Since when its job runs without the worker being connected.
    mute: Option<Instant>,
    was_up: bool,
    /// Since when it is to go.
    leaving: Option<Instant>,
    id: Option<String>,
    node: Option<String>,
    reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Queue {
    /// Submitted, perhaps: the queue has not shown it yet.
    Unseen,
    Queued,
    Running,
    /// So many answers did not have it any more.
    Missing(u32),
}

/// How many there are of what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) queued: u32,
    pub(crate) starting: u32,
    pub(crate) up: u32,
    pub(crate) lost: u32,
}

/// The workers of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    leases: BTreeMap<String, Lease>,
    /// Failures in a row to start a worker.
    failures: u32,
    retry_at: Option<Instant>,
    /// What went wrong last, until a worker is up.
    trouble: Option<String>,
    /// What nodes said of leases before their workers could.
    reports: BTreeMap<String, String>,
    connected: BTreeMap<String, Connected>,
    /// Whether the queue has been heard since the scheduler started: before that, nothing is submitted.
    heard: bool,
    /// Why there can be no more workers, by the administrator's word.
    pub(crate) capped: Option<String>,
}

impl Fleet {
    /// The queue has been asked, and this is all it has of the cluster.
    pub(crate) fn heard(&mut self, now: Instant, members: &[Member]) {
        self.heard = true;
        let mut seen = BTreeSet::new();
        for member in members {
            // The queue remembers for a while what has ended.
            if !member.is_alive() && !self.leases.contains_key(&member.lease) {
                continue;
            }
            let lease = self.leases.entry(member.lease.clone()).or_insert_with(|| Lease::new(now));
            lease.id = Some(member.id.clone());
            lease.node.clone_from(&member.node);
            lease.reason.clone_from(&member.reason);
            match &member.state {
                QueueState::Queued => lease.queue = Queue::Queued,
                QueueState::Running => {
                    lease.queue = Queue::Running;
                    lease.mute.get_or_insert(now);
                }
                QueueState::Ended(word) => {
                    let word = word.clone();
                    self.ended(now, &member.lease, &word);
                    continue;
                }
            }
            seen.insert(member.lease.clone());
        }
        let unseen: Vec<_> = self.leases.keys().filter(|lease| !seen.contains(*lease)).cloned().collect();
        for name in unseen {
            let Some(lease) = self.leases.get_mut(&name) else { continue };
            match &mut lease.queue {
                Queue::Unseen if now < lease.since + APPEAR => {}
                Queue::Missing(misses) if *misses + 1 < MISSES => *misses += 1,
                Queue::Queued | Queue::Running => lease.queue = Queue::Missing(1),
                Queue::Unseen | Queue::Missing(_) => self.ended(now, &name, "gone from the queue"),
            }
        }
    }

    /// A node reports that it could not start the worker of a lease.
    pub(crate) fn reported(&mut self, lease: &str, text: String) {
        if self.leases.contains_key(lease) {
            self.reports.insert(lease.to_owned(), text);
        }
    }

    /// A lease is over.
    fn ended(&mut self, now: Instant, name: &str, word: &str) {
        let Some(lease) = self.leases.remove(name) else { return };
        let report = self.reports.remove(name);
        if lease.was_up || lease.leaving.is_some() || self.connected.contains_key(name) {
            return;
        }
        let id = lease.id.as_deref().unwrap_or(name);
        let of_queue = lease.reason.filter(|reason| !reason.is_empty() && reason != "None");
        let why = report.or(of_queue).map(|why| format!(": {}", why.trim_end())).unwrap_or_default();
        self.failed(now, format!("{id} ended before its worker had connected ({word}){why}"));
    }

    /// Workers could not be started.
    pub(crate) fn failed(&mut self, now: Instant, why: String) {
        tracing::warn!(why, "no worker");
        // Those that were started together fail together: that counts once.
        if self.retry_at.is_none_or(|retry| retry <= now) {
            let delay = BACKOFF[(self.failures as usize).min(BACKOFF.len() - 1)];
            self.failures = self.failures.saturating_add(1);
            self.retry_at = Some(now + delay);
        }
        self.trouble = Some(why);
    }

    /// Workers with these leases are about to be submitted.
    pub(crate) fn submitting(&mut self, now: Instant, leases: impl IntoIterator<Item = String>) {
        self.leases.extend(leases.into_iter().map(|lease| (lease, Lease::new(now))));
    }

    /// The submission of these leases was refused for sure: they are none.
    pub(crate) fn refused<'a>(&mut self, leases: impl IntoIterator<Item = &'a String>) {
        leases.into_iter().for_each(|lease| drop(self.leases.remove(lease)));
    }

    /// What is to be done so that there are `wanted` workers. `now_` has `at_once`: those that are too many are cancelled
    /// whatever they run.
    pub(crate) fn plan(&mut self, now: Instant, connected: Vec<Connected>, wanted: u32, at_once: bool) -> Vec<Action> {
        self.connected = connected.into_iter().map(|worker| (worker.name.clone(), worker)).collect();
        for name in self.connected.keys() {
            // Of a farm whose queue does not know it: started by hand with a ticket of the cluster.
            let lease = self.leases.entry(name.clone()).or_insert_with(|| Lease::new(now));
            lease.mute = None;
            if !std::mem::replace(&mut lease.was_up, true) {
                self.failures = 0;
                self.retry_at = None;
                self.trouble = None;
            }
            if self.connected.get(name).is_some_and(|worker| worker.draining) {
                lease.leaving.get_or_insert(now);
            }
        }
        self.forget_unknown();
        let mut actions = Vec::new();
        let mut cancel = self.overdue(now);
        if at_once && wanted == 0 {
            cancel.extend(self.leases.values_mut().filter_map(|lease| {
                lease.leaving.get_or_insert(now);
                lease.id.clone()
            }));
        }
        let alive = self.leases.values().filter(|lease| lease.leaving.is_none()).count();
        let alive = u32::try_from(alive).unwrap_or(u32::MAX);
        if alive < wanted {
            if self.heard && self.retry_at.is_none_or(|retry| retry <= now) {
                actions.push(Action::Submit(wanted - alive));
            }
        } else if alive > wanted {
            let drain = self.dismiss(now, alive - wanted, &mut cancel);
            if !drain.is_empty() {
                actions.push(Action::Drain(drain));
            }
        }
        cancel.sort_unstable();
        cancel.dedup();
        if !cancel.is_empty() {
            actions.push(Action::Cancel(cancel));
        }
        actions
    }

    /// Jobs that run and whose workers do not connect, or do not leave.
    fn overdue(&mut self, now: Instant) -> Vec<String> {
        let mut cancel = Vec::new();
        let mut dead = Vec::new();
        for (name, lease) in &mut self.leases {
            let is_mute = lease.mute.is_some_and(|since| since + CONNECT <= now);
            if is_mute && lease.leaving.is_none() {
                lease.leaving = Some(now);
                cancel.extend(lease.id.clone());
                dead.push(lease.id.clone().unwrap_or_else(|| name.clone()));
            }
            if lease.leaving.is_some_and(|since| since + LEAVE <= now) {
                cancel.extend(lease.id.clone());
            }
        }
        for id in dead {
            let minutes = CONNECT.as_secs() / 60;
            self.failed(now, format!("{id} has been running for {minutes} minutes without a connection to its worker"));
        }
        cancel
    }

    /// Lets so many go: those that have not started first, then those that do nothing, the youngest first.
    fn dismiss(&mut self, now: Instant, count: u32, cancel: &mut Vec<String>) -> Vec<WorkerId> {
        let mut candidates: Vec<_> = self.leases.iter_mut().filter(|(_, lease)| lease.leaving.is_none()).collect();
        candidates.sort_by_key(|(name, lease)| {
            let rank = match (self.connected.get(*name), &lease.queue) {
                (Some(worker), _) => 2 + worker.leased.min(u64::from(u32::MAX)),
                (None, Queue::Running) => 1,
                (None, _) => 0,
            };
            (rank, std::cmp::Reverse(lease.since))
        });
        let mut drain = Vec::new();
        for (name, lease) in candidates.into_iter().take(count as usize) {
            // What the queue has not shown yet has no number to be cancelled by: it is as soon as it has one.
            if lease.id.is_none() && !self.connected.contains_key(name) {
                continue;
            }
            lease.leaving = Some(now);
            match self.connected.get(name) {
                Some(worker) => drain.push(worker.worker),
                None => cancel.extend(lease.id.clone()),
            }
        }
        drain
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.heard && self.leases.is_empty()
    }

    /// A worker's connection is over: one that the queue never knew is gone with it.
    fn forget_unknown(&mut self) {
        let connected = &self.connected;
        self.leases.retain(|name, lease| {
            let by_hand = lease.was_up && lease.id.is_none() && lease.queue == Queue::Unseen;
            !by_hand || connected.contains_key(name)
        });
    }

    pub(crate) fn numbers(&self) -> Numbers {
        let mut numbers = Numbers::default();
        for (name, lease) in &self.leases {
            *match self.state_of(name, lease) {
                MemberState::Queued => &mut numbers.queued,
                MemberState::Starting => &mut numbers.starting,
                MemberState::Up | MemberState::Draining => &mut numbers.up,
                MemberState::Lost => &mut numbers.lost,
            } += 1;
        }
        numbers
    }

    fn state_of(&self, name: &str, lease: &Lease) -> MemberState {
        match (self.connected.get(name), &lease.queue) {
            (Some(worker), _) if worker.draining || lease.leaving.is_some() => MemberState::Draining,
            (Some(_), _) => MemberState::Up,
            (None, _) if lease.was_up => MemberState::Lost,
            (None, Queue::Running) => MemberState::Starting,
            (None, _) => MemberState::Queued,
        }
    }

    pub(crate) fn members(&self) -> Vec<MemberStatus> {
        let member = |(name, lease): (&String, &Lease)| MemberStatus {
            lease: name.clone(),
            state: self.state_of(name, lease),
            id: lease.id.clone(),
            node: lease.node.clone(),
            reason: lease.reason.clone(),
        };
        self.leases.iter().map(member).collect()
    }

    /// Why there are fewer workers than wanted: the queue's reasons, each once, then what went wrong last.
    pub(crate) fn short(&self) -> Vec<String> {
        let waits = |(name, lease): &(&String, &Lease)| self.state_of(name, lease) == MemberState::Queued;
        let mut reasons: BTreeMap<&str, u32> = BTreeMap::new();
        for (_, lease) in self.leases.iter().filter(waits) {
            *reasons.entry(lease.reason.as_deref().unwrap_or("submitted")).or_default() += 1;
        }
        let queue = reasons.into_iter().map(|(reason, count)| format!("{count} in the queue: {reason}"));
        queue.chain(self.capped.clone()).chain(self.trouble.clone()).collect()
    }

    pub(crate) fn retry_in(&self, now: Instant) -> Option<Duration> {
        self.retry_at.and_then(|retry| retry.checked_duration_since(now)).filter(|left| !left.is_zero())
    }
}

impl Lease {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            queue: Queue::Unseen,
            mute: None,
            was_up: false,
            leaving: None,
            id: None,
            node: None,
            reason: None,
        }
    }
}

#[cfg(test)]
mod tests;
