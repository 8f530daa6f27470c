//! What clients ask.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;
use std::sync::Arc;

use farm_core::Event;
use farm_proto::ids::{JobId, WorkerId};
use farm_proto::job::{JobSpec, JobStatus};
use farm_proto::message::{FarmStatus, RequestError, SchedulerControl, WorkerStatus};

use super::jobs::JobRecord;
use super::owner::{Owner, Stopping};
use super::quota::blobs_of;
use super::{Ask, Reply, Source, Submission};
use crate::clock::unix_ms;
use crate::identity::caller::Caller;
use crate::store::{JobResults, JobRow};

impl Owner {
    pub(super) fn answer(&mut self, ask: Ask) {
        // Whoever has gone in the meantime needs no answer: sending one then fails, and that is all.
        match ask {
            Ask::Submit { new, reply } => self.submit(*new, reply),
            Ask::Submitted { caller, key, reply } => {
                // One that is not stored yet is found again by its submission, which waits.
                let job = self.keys.get(&(caller.name, key)).and_then(|job| self.jobs.get(job));
                let results = job.filter(|record| record.accepted).map(|record| Arc::clone(&record.results));
                let _ = reply.send(Ok(results));
            }
            Ask::Source { caller, job, reply } => {
                let _ = reply.send(self.source(&caller, job));
            }
            Ask::WithoutValue { caller, job, failed, reply } => {
                let _ = reply.send(self.without_value(&caller, job, failed));
            }
            Ask::Delete { caller, job, reply } => self.delete(&caller, job, reply),
            Ask::Why { caller, job, task, reply } => {
                let _ = reply.send(self.why(&caller, job, task));
            }
            Ask::Drain { worker, reply } => {
                let _ = reply.send(self.drain_workers(&worker));
            }
            Ask::Status { caller, job, reply } => {
                let _ = reply.send(self.status(&caller, job));
            }
            Ask::Results { caller, job, reply } => {
                let results = self.visible(&caller, job).map(|record| Arc::clone(&record.results));
                let _ = reply.send(results);
            }
            Ask::Cancel { caller, job, reply } => self.cancel(&caller, job, reply),
            Ask::Secrets { caller, job, secrets, reply } => {
                let _ = reply.send(self.secrets(&caller, job, secrets));
            }
            Ask::Jobs { caller, reply } => {
                let visible = self.jobs.iter().filter(|(_, record)| record.is_visible(&caller));
                let statuses = visible.filter_map(|(&job, record)| Some(record.status(self.core.job(job)?)));
                let _ = reply.send(Ok(statuses.collect()));
            }
            Ask::CreateCluster { caller, spec, scale, reply } => self.create_cluster(&caller, *spec, scale, reply),
            Ask::ScaleCluster { caller, name, scale, reply } => self.scale_cluster(&caller, &name, scale, reply),
            Ask::StopCluster { caller, name, now, reply } => self.stop_cluster(&caller, &name, now, reply),
            Ask::EndCluster { name } => self.end_cluster(&name),
            Ask::Clusters { reply } => {
                let _ = reply.send(Ok(self.list_clusters()));
            }
            Ask::Cluster { name, reply } => {
                let _ = reply.send(self.cluster(&name));
            }
            Ask::Overview { reply } => {
                let _ = reply.send(Ok(self.overview()));
            }
            Ask::Fits { caller, blobs, inline, reply } => {
                let _ = reply.send(self.check_quota(&caller, blobs, inline));
            }
            Ask::Ticket(ask) => self.answer_ticket(ask),
            Ask::Stop { for_good, reply } => self.stop(for_good, reply),
        }
    }

    /// A job, if there is one that the caller may see. To others it does not exist, and to nobody while it is being
    /// deleted.
    pub(super) fn visible(&self, caller: &Caller, job: JobId) -> Result<&JobRecord, RequestError> {
        let record = self.jobs.get(&job).filter(|record| record.is_visible(caller));
        record.ok_or(RequestError::NoSuchJob(job))
    }

    fn status(&self, caller: &Caller, job: JobId) -> Result<JobStatus, RequestError> {
        let record = self.visible(caller, job)?;
        let view = self.core.job(job).ok_or(RequestError::NoSuchJob(job))?;
        Ok(record.status(view))
    }

    fn source(&self, caller: &Caller, job: JobId) -> Result<Source, RequestError> {
        let encoding = self.visible(caller, job)?.result;
        let view = self.core.job(job).ok_or(RequestError::NoSuchJob(job))?;
        Ok(Source { tasks: view.counts.total(), encoding })
    }

    fn submit(&mut self, new: Submission, reply: Reply<Arc<JobResults>>) {
        let key = (new.caller.name.clone(), new.key);
        if let Some(&job) = self.keys.get(&key) {
            // Its submitter did not learn that it had arrived.
            if let Some(record) = self.jobs.get_mut(&job) {
                if record.accepted {
                    let _ = reply.send(Ok(Arc::clone(&record.results)));
                } else {
                    record.submitters.push(reply);
                }
            }
            return;
        }
        let checked = self.check_room().and_then(|()| {
            let cluster = self.cluster_for(new.spec.cluster.as_deref())?;
            self.check_quota(&new.caller, blobs_of(&new.spec), new.inline.len() as u64)?;
            Ok((cluster, self.needs_of(&new.caller, &new.spec)?))
        });
        match checked {
            Ok((cluster, needs)) => {
                let spec = JobSpec { cluster: Some(cluster), ..new.spec };
                self.take_in(Submission { spec, ..new }, needs, reply);
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn take_in(&mut self, new: Submission, needs: Vec<JobId>, reply: Reply<Arc<JobResults>>) {
        let Submission { caller, key, spec, args, inline } = new;
        let job = self.core.next_job();
        let row = Box::new(JobRow {
            job,
            key,
            owner: caller.name.clone(),
            stamp: new_stamp(),
            submitted_ms: unix_ms(),
            arg_bytes: args.bytes_per_task(),
            task_ns: self.measured.get(spec.module.digest, &spec.function),
            spec: Arc::new(spec),
            inline,
        });
        let new = self.new_job(&row);
        let (owner, name, function, tasks) = (&row.owner, row.spec.name.as_deref(), &row.spec.function, new.tasks);
        tracing::info!(%job, name, owner, function, tasks, "job submitted");
        let results = self.store.begin(job);
        let mut record = JobRecord::new(row, Arc::new(args), needs, results);
        record.submitters.push(reply);
        let needs_secrets = !record.secrets.is_empty();
        self.jobs.insert(job, record);
        self.keys.insert((caller.name.clone(), key), job);
        if let Err(refused) = self.handle(Event::JobSubmitted { job, spec: new }, None) {
            self.keys.remove(&(caller.name, key));
            for reply in self.jobs.remove(&job).into_iter().flat_map(|record| record.submitters) {
                let _ = reply.send(Err(RequestError::Invalid(refused.to_string())));
            }
        } else if needs_secrets {
            self.tell(Event::JobHeld { job }, None);
        }
    }

    pub(super) fn check_room(&self) -> Result<(), RequestError> {
        if self.stopping.is_some() {
            return Err(RequestError::ShuttingDown);
        }
        self.commits.check_trouble()?;
        match self.store.has_room() {
            Ok(true) => Ok(()),
            Ok(false) => Err(RequestError::Storage("the disk with the scheduler's state is full".to_owned())),
            Err(error) => Err(RequestError::Storage(error.to_string())),
        }
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

    fn without_value(&self, caller: &Caller, job: JobId, failed: bool) -> Result<Vec<Range<u64>>, RequestError> {
        self.visible(caller, job)?;
        self.core.without_value(job, failed).ok_or(RequestError::NotOver(job))
    }

    fn delete(&mut self, caller: &Caller, job: JobId, reply: Reply<()>) {
        if let Some(record) = self.jobs.get_mut(&job).filter(|record| caller.may_see(&record.owner))
            && let Some(deleters) = &mut record.deleting
        {
            // Somebody was faster; what comes of that is the answer to both.
            deleters.push(reply);
            return;
        }
        match self.deletable(caller, job) {
            Ok(()) => {
                tracing::info!(%job, by = %caller, "job is to be deleted");
                self.begin_to_delete(job, Some(reply));
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// Deletes a job that is over and that no other needs. Nobody sees it from now on, unless that fails.
    pub(super) fn begin_to_delete(&mut self, job: JobId, reply: Option<Reply<()>>) {
        if let Some(record) = self.jobs.get_mut(&job) {
            record.deleting = Some(reply.into_iter().collect());
            self.commits.delete(job);
        }
    }

    /// Forgets jobs whose deletion is stored, and leaves those as they were whose deletion could not be.
    pub(super) fn end_deletions(&mut self) {
        for (job, refused) in self.commits.deleted() {
            let deleters = self.jobs.get_mut(&job).and_then(|record| record.deleting.take());
            match &refused {
                Some(reason) => tracing::warn!(%job, reason, "job cannot be deleted"),
                None => {
                    tracing::info!(%job, "job deleted");
                    self.forget(job);
                    self.retention.look_at_blobs();
                }
            }
            for reply in deleters.into_iter().flatten() {
                let _ = reply.send(refused.clone().map_or(Ok(()), |reason| Err(RequestError::Storage(reason))));
            }
        }
    }

    fn deletable(&self, caller: &Caller, job: JobId) -> Result<(), RequestError> {
        if !self.status(caller, job)?.state.is_final() {
            return Err(RequestError::NotOver(job));
        }
        match self.needed_by(job) {
            Some(by) => Err(RequestError::Needed { job, by }),
            None => Ok(()),
        }
    }

    /// Drops what is known of a job that is over.
    fn forget(&mut self, job: JobId) {
        if let Some(record) = self.jobs.remove(&job) {
            self.keys.remove(&(record.owner, record.key));
        }
        self.core.forget(job);
    }

    fn drain_workers(&mut self, worker: &str) -> Result<Vec<WorkerId>, RequestError> {
        let number = worker.parse().ok();
        let named = self.workers.iter().filter(|(id, peer)| peer.hello.name == worker || Some(**id) == number);
        let workers: Vec<_> = named.map(|(&id, _)| id).collect();
        if workers.is_empty() {
            return Err(RequestError::NoSuchWorker(worker.to_owned()));
        }
        for &worker in &workers {
            self.control(worker, SchedulerControl::Drain);
            self.tell(Event::WorkerDraining { worker }, None);
        }
        Ok(workers)
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
            uptime_s: self.uptime().as_secs(),
            memory: crate::memory::resident(),
            counts: self.core.totals(),
            live_jobs: self.core.live_jobs(),
            workers: workers.collect(),
        }
    }

    fn stop(&mut self, for_good: bool, reply: Reply<()>) {
        if for_good {
            for peer in self.workers.values() {
                peer.outbox.control(SchedulerControl::Exit);
            }
        }
        let stopping = self.stopping.get_or_insert_with(|| Stopping { for_good, waiting: Vec::new() });
        stopping.for_good |= for_good;
        stopping.waiting.push(reply);
    }
}

/// Tells a job from any other that ever had its number.
fn new_stamp() -> u64 {
    // A `RandomState` is seeded at random; that is not a secret, and need not be one.
    RandomState::new().build_hasher().finish()
}
