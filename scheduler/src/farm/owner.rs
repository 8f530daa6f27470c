//! The owner's loop, and clients' questions.

use std::collections::BTreeMap;
use std::sync::Arc;

use farm_core::{Config, Core, Event, Refused, Time};
use farm_proto::ids::{JobId, WorkerId};
use farm_proto::job::{JobSpec, JobStatus};
use farm_proto::message::{FarmStatus, RequestError, SchedulerControl, WorkerHello, WorkerStatus};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::Instant;

use super::commits::Commits;
use super::jobs::{JobRecord, Jobs, new_job};
use super::measured::Measured;
use super::{Ask, Inbox, Outbox, Reply};
use crate::identity::caller::Caller;
use crate::job::args::ArgTable;
use crate::results::{JobResults, Outcomes, Store, Writer};

/// Messages that are taken in before what they led to is committed.
const BURST: usize = 512;

/// Owns the core, and all that is known of jobs and workers.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(super) core: Core,
    started: Instant,
    inbox: Inbox,
    pub(super) store: Arc<Store>,
    pub(super) commits: Commits,
    pub(super) jobs: Jobs,
    pub(super) workers: BTreeMap<WorkerId, Peer>,
    pub(super) measured: Measured,
    /// Set when no more jobs are taken: whom to tell when the last worker has gone.
    pub(super) stopping: Option<Vec<Reply<()>>>,
}

/// A worker.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) hello: WorkerHello,
    pub(super) outbox: Outbox,
    pub(super) connected: Instant,
}

impl Owner {
    pub(crate) fn new(config: Config, inbox: Inbox, store: Arc<Store>) -> Self {
        Self {
            core: Core::new(config),
            started: Instant::now(),
            inbox,
            commits: Commits::new(Writer::new(Arc::clone(&store))),
            store,
            jobs: Jobs::new(),
            workers: BTreeMap::new(),
            measured: Measured::default(),
            stopping: None,
        }
    }

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
            let room = self.commits.has_room();
            let mut stored = None;
            tokio::select! {
                count = self.inbox.asks.recv_many(&mut asks, BURST) => {
                    if count == 0 {
                        return;
                    }
                }
                _ = self.inbox.words.recv_many(&mut words, BURST), if room => {}
                seq = self.commits.finished() => stored = seq,
                () = sleep => {}
            }
            asks.drain(..).for_each(|ask| self.answer(ask));
            words.drain(..).for_each(|(worker, said)| self.hear(worker, said));
            self.take_rest();
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                self.tell(Event::Timeout, None);
            }
            while let Some(seq) = stored.take().or_else(|| self.commits.commit()) {
                self.tell(Event::Persisted { seq }, None);
            }
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
            if !self.commits.has_room() {
                break;
            }
            match self.inbox.words.try_recv() {
                Ok((worker, said)) => self.hear(worker, said),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn deadline(&self) -> Option<Instant> {
        let core = self.core.next_deadline();
        let core = core.and_then(|due| self.started.checked_add(due.since(Time::ZERO)));
        core.into_iter().chain(self.commits.retry_at()).min()
    }

    /// Tells the core what happened and does what it asks for. `in_hand`: the outcomes that the event is about.
    pub(super) fn handle(&mut self, event: Event<'_>, in_hand: Option<&Outcomes>) -> Result<(), Refused> {
        let result = self.core.handle(self.now(), event);
        while let Some(command) = self.core.poll_command() {
            self.obey(command, in_hand);
        }
        result
    }

    /// As [`Self::handle`], for what the core cannot refuse.
    pub(super) fn tell(&mut self, event: Event<'_>, in_hand: Option<&Outcomes>) {
        if let Err(refused) = self.handle(event, in_hand) {
            tracing::error!(%refused, "the core refused what should not be refused; this is a bug");
        }
    }

    fn answer(&mut self, ask: Ask) {
        // Whoever has gone in the meantime needs no answer: sending one then fails, and that is all.
        match ask {
            Ask::Submit { owner, spec, args, reply } => self.submit(owner, spec, args, reply),
            Ask::Status { caller, job, reply } => {
                let _ = reply.send(self.status(&caller, job));
            }
            Ask::Results { caller, job, reply } => {
                let results = self.visible(&caller, job).map(|record| Arc::clone(&record.results));
                let _ = reply.send(results);
            }
            Ask::Cancel { caller, job, reply } => self.cancel(&caller, job, reply),
            Ask::Jobs { caller, reply } => {
                let visible = self.jobs.iter().filter(|(_, record)| caller.may_see(&record.owner));
                let statuses = visible.filter_map(|(&job, record)| Some(record.status(self.core.job(job)?)));
                let _ = reply.send(Ok(statuses.collect()));
            }
            Ask::Overview { reply } => {
                let _ = reply.send(Ok(self.overview()));
            }
            Ask::Stop { reply } => self.stop(reply),
        }
    }

    /// A job, if there is one that the caller may see. To others it does not exist.
    fn visible(&self, caller: &Caller, job: JobId) -> Result<&JobRecord, RequestError> {
        let record = self.jobs.get(&job).filter(|record| caller.may_see(&record.owner));
        record.ok_or(RequestError::NoSuchJob(job))
    }

    fn status(&self, caller: &Caller, job: JobId) -> Result<JobStatus, RequestError> {
        let record = self.visible(caller, job)?;
        let view = self.core.job(job).ok_or(RequestError::NoSuchJob(job))?;
        Ok(record.status(view))
    }

    fn submit(&mut self, owner: String, spec: Arc<JobSpec>, args: Arc<ArgTable>, reply: Reply<Arc<JobResults>>) {
        let job = self.core.next_job();
        let results = match self.make_room(job) {
            Ok(results) => results,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        let task_ns = self.measured.get(spec.module.digest, &spec.function);
        let new = new_job(&owner, &spec, &args, task_ns);
        let (name, function, tasks) = (spec.name.clone(), spec.function.clone(), new.tasks);
        tracing::info!(%job, name, owner, function, tasks, "job submitted");
        let record = JobRecord::new(owner, spec, args, Arc::clone(&results), reply);
        self.jobs.insert(job, record);
        if let Err(refused) = self.handle(Event::JobSubmitted { job, spec: new }, None)
            && let Some(reply) = self.jobs.remove(&job).and_then(|record| record.submitter)
        {
            let _ = reply.send(Err(RequestError::Invalid(refused.to_string())));
        }
    }

    fn make_room(&self, job: JobId) -> Result<Arc<JobResults>, RequestError> {
        if self.stopping.is_some() {
            return Err(RequestError::ShuttingDown);
        }
        if let Some(trouble) = self.commits.trouble() {
            return Err(RequestError::Storage(trouble.to_owned()));
        }
        let results = self.store.begin(job);
        results.map_err(|error| RequestError::Storage(error.to_string()))
    }

    fn cancel(&mut self, caller: &Caller, job: JobId, reply: Reply<JobStatus>) {
        let status = self.status(caller, job);
        if !matches!(&status, Ok(status) if !status.state.is_final()) {
            let _ = reply.send(status);
            return;
        }
        tracing::info!(%job, by = %caller, "job cancelled");
        // Before the core hears of it: the end may be stored at once.
        if let Some(record) = self.jobs.get_mut(&job) {
            record.cancellers.push(reply);
        }
        self.tell(Event::JobCancelled { job }, None);
    }

    fn overview(&self) -> FarmStatus {
        let workers = self.workers.iter().filter_map(|(&worker, peer)| {
            let view = self.core.worker(worker)?;
            Some(WorkerStatus {
                worker,
                hello: peer.hello.clone(),
                leased: view.leased,
                finished: view.finished,
                draining: view.draining,
                connected_s: peer.connected.elapsed().as_secs(),
            })
        });
        FarmStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            memory: crate::memory::resident(),
            counts: self.core.totals(),
            live_jobs: self.core.live_jobs(),
            workers: workers.collect(),
        }
    }

    fn stop(&mut self, reply: Reply<()>) {
        for peer in self.workers.values() {
            peer.outbox.control(SchedulerControl::Exit);
        }
        self.stopping.get_or_insert_default().push(reply);
        self.stopped();
    }

    /// Tells those who wait for the workers' end, if that has come.
    pub(super) fn stopped(&mut self) {
        if self.workers.is_empty()
            && let Some(waiting) = &mut self.stopping
        {
            for reply in waiting.drain(..) {
                let _ = reply.send(Ok(()));
            }
        }
    }
}
