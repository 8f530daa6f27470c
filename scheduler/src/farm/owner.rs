//! The owner and its loop.

use super::checkpoints::Unwritten;
use super::clusters::Clusters;
use super::jobs::new_job;
use crate::store::JobRow;
use farm_core::NewJob;
use farm_proto::cluster;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use farm_core::{Core, Event, Refused, Time};
use farm_proto::ids::{JobId, WorkerId};
use farm_proto::message::SubmitKey;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::Instant;

use super::commits::Commits;
use super::jobs::Jobs;
use super::measured::Measured;
use super::retention::Retention;
use super::tickets::Tickets;
use super::words::Peer;
use super::{Inbox, Reply};
use crate::blobs::Blobs;
use crate::config::Config;
use crate::store::{Outcomes, Store, StoreError};

/// Messages that are taken in before what they led to is committed.
const BURST: usize = 512;

/// Owns the core, and all that is known of jobs and workers.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(super) core: Core,
    pub(super) started: Instant,
    pub(super) inbox: Inbox,
    pub(super) store: Arc<Store>,
    pub(super) blobs: Arc<Blobs>,
    pub(super) commits: Commits,
    pub(super) jobs: Jobs,
    pub(super) unwritten: Unwritten,
    /// Jobs by whom and under which key they were submitted.
    pub(super) keys: HashMap<(String, SubmitKey), JobId>,
    pub(super) workers: BTreeMap<WorkerId, Peer>,
    /// Workers that are yet to be told that what they said is stored.
    pub(super) owing: BTreeSet<WorkerId>,
    pub(super) clusters: Clusters,
    pub(super) measured: Measured,
    pub(super) retention: Retention,
    pub(super) tickets: Tickets,
    /// What each user may use.
    pub(super) config: Config,
    /// Set when no more jobs are taken.
    pub(super) stopping: Option<Stopping>,
}

/// What happens when a scheduler ends.
#[derive(Debug)]
pub(super) struct Stopping {
    /// Whether the farm ends with it.
    pub(super) for_good: bool,
    /// Whom to tell when everything is stored, and the last worker has gone if it is to.
    pub(super) waiting: Vec<Reply<()>>,
}

impl Owner {
    /// Runs until nobody holds a handle any more.
    pub(crate) async fn run(mut self) {
        let (mut asks, mut words) = (Vec::new(), Vec::new());
        loop {
            let deadline = self.deadline();
            let sleep = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let listens = self.listens();
            let mut stored = None;
            tokio::select! {
                count = self.inbox.asks.recv_many(&mut asks, BURST) => {
                    if count == 0 {
                        return;
                    }
                }
                _ = self.inbox.words.recv_many(&mut words, BURST), if listens => {}
                seq = self.commits.finished() => stored = seq,
                () = sleep => {}
            }
            asks.drain(..).for_each(|ask| self.answer(ask));
            words.drain(..).for_each(|(worker, said)| self.hear(worker, said));
            self.take_rest();
            if self.core.next_deadline().is_some_and(|due| due <= self.now()) {
                self.tell(Event::Timeout, None);
            }
            self.retain();
            self.show_clusters();
            while let Some(seq) = stored.take().or_else(|| self.commits.commit()) {
                self.tell(Event::Persisted { seq }, None);
            }
            self.end_deletions();
            self.settle_checkpoints();
            self.settle_tickets();
            self.settle_clusters();
            self.acknowledge();
            self.stopped();
        }
    }

    /// Writes what there is to be written up to that record, before it [runs](Self::run).
    ///
    /// # Errors
    ///
    /// It cannot be written now.
    pub(crate) async fn store(&mut self, record: u64) -> Result<(), StoreError> {
        let mut stored = None;
        loop {
            while let Some(seq) = stored.take().or_else(|| self.commits.commit()) {
                self.tell(Event::Persisted { seq }, None);
            }
            if self.commits.written() >= record {
                return Ok(());
            }
            if let Some(trouble) = self.commits.trouble() {
                return Err(StoreError::io(self.store.path())(std::io::Error::other(trouble.to_owned())));
            }
            stored = self.commits.finished().await;
        }
    }

    /// What has come in the meantime, from either side.
    fn take_rest(&mut self) {
        for _ in 0..BURST {
            match self.inbox.asks.try_recv() {
                Ok(ask) => self.answer(ask),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        for _ in 0..BURST {
            if !self.listens() {
                break;
            }
            match self.inbox.words.try_recv() {
                Ok((worker, said)) => self.hear(worker, said),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
    }

    /// Whether what workers say is taken in. A scheduler that is about to stop takes no more: there would be no end of
    /// what is to be stored before it does, and workers keep what it has not heard.
    fn listens(&self) -> bool {
        self.commits.has_room() && self.stopping.as_ref().is_none_or(|stopping| stopping.for_good)
    }

    pub(super) fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn deadline(&self) -> Option<Instant> {
        let core = self.core.next_deadline();
        let core = core.and_then(|due| self.started.checked_add(due.since(Time::ZERO)));
        core.into_iter()
            .chain(self.commits.retry_at())
            .chain(self.retention.next_sweep())
            .chain(self.clusters.next_show())
            .min()
    }

    /// Tells the core what happened and does what it asks for. `in_hand`: the outcomes that the event is about.
    pub(super) fn handle(&mut self, event: Event<'_>, in_hand: Option<&Outcomes>) -> Result<(), Refused> {
        let result = self.core.handle(self.now(), event);
        self.drain(in_hand);
        result
    }

    /// Does what the core asks for.
    pub(super) fn drain(&mut self, in_hand: Option<&Outcomes>) {
        while let Some(command) = self.core.poll_command() {
            self.obey(command, in_hand);
        }
    }

    /// As [`Self::handle`], for what the core cannot refuse.
    pub(super) fn tell(&mut self, event: Event<'_>, in_hand: Option<&Outcomes>) {
        if let Err(refused) = self.handle(event, in_hand) {
            tracing::error!(%refused, "the core refused what should not be refused; this is a bug");
        }
    }

    /// Tells those who wait for the end, if that has come.
    fn stopped(&mut self) {
        let Some(stopping) = &mut self.stopping else { return };
        if self.commits.is_idle() && (self.workers.is_empty() || !stopping.for_good) {
            for reply in stopping.waiting.drain(..) {
                let _ = reply.send(Ok(()));
            }
        }
    }

    /// A job as the core wants to know it.
    pub(super) fn new_job(&self, row: &JobRow) -> NewJob {
        new_job(row, self.clusters.id(row.spec.cluster.as_deref().unwrap_or(cluster::DEFAULT)))
    }

    /// For how long this scheduler has been running.
    pub(super) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}
