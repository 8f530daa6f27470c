//! From what is stored to an owner.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use farm_core::{Config, Core, Event, Fact, NewJob};
use farm_proto::cluster;
use farm_proto::ids::{JobId, LeaseId};
use tokio::time::Instant;

use super::Inbox;
use super::checkpoints::{Checkpoints, Unwritten};
use super::clusters::{Board, Clusters};
use super::commits::Commits;
use super::graph::named_by;
use super::jobs::{JobRecord, Jobs, new_job};
use super::measured::Measured;
use super::owner::Owner;
use super::retention::Retention;
use super::tickets::Tickets;
use crate::blobs::Blobs;
use crate::identity::admission::Admission;
use crate::job::args::ArgTable;
use crate::store::{JobEnd, Recovered, Store, StoredJob, Writer};
use crate::{Options, SchedulerError};

/// Leases of one life of the scheduler are numbered from here times the number of that life, which is less than 2^28.
const LEASES_PER_LIFE: u64 = 1 << 36;

impl Owner {
    /// The owner that an earlier scheduler had when it ended, but for its workers: those come back by themselves and say
    /// what they hold.
    ///
    /// # Errors
    ///
    /// What is stored contradicts itself, or lacks something.
    pub(crate) fn recover(
        options: &Options,
        inbox: Inbox,
        (store, writer, recovered): (Arc<Store>, Writer, Recovered),
        blobs: Arc<Blobs>,
        admission: Arc<Admission>,
        lock: Arc<File>,
        board: Board,
    ) -> Result<Self, SchedulerError> {
        let Recovered { life, jobs: stored, clusters, last_job, tickets } = recovered;
        let clusters = Clusters::new(clusters, board);
        let (mut jobs, mut keys, mut facts) = (Jobs::new(), HashMap::new(), Vec::new());
        let mut measured = Measured::default();
        let mut live = BTreeMap::new();
        for StoredJob { row, end, batches, bytes, checkpoints, results } in stored {
            let job = row.job;
            keys.insert((row.owner.clone(), row.key), job);
            let mut spec = new_job(&row, clusters.id(row.spec.cluster.as_deref().unwrap_or(cluster::DEFAULT)));
            if end.is_some() {
                // It waits for nothing any more, and what it waited for may have been deleted.
                spec = NewJob { after: Vec::new(), input: None, ..spec };
            }
            let tasks = spec.tasks;
            facts.push(Fact::JobAccepted { job, spec });
            facts.extend(batches.into_iter().map(|(accepted, failed)| Fact::Outcomes {
                job,
                accepted: vec![accepted],
                failed,
                leased: Duration::ZERO,
            }));
            let mut record = JobRecord::of_row(&row, named_by(&row.spec).collect(), results);
            record.accepted = true;
            record.kept.results = bytes;
            record.checkpoints = Checkpoints::recovered(checkpoints);
            match end {
                Some(end) => {
                    record.had_ended(&end);
                    if let Some(nanos) = end.task_ns {
                        measured.set(record.module, &record.function, nanos);
                    }
                    facts.push(fact_of(job, end));
                }
                None => {
                    tracing::info!(%job, tasks, "job goes on");
                    live.insert(job, row);
                }
            }
            jobs.insert(job, record);
        }
        let first_lease = LeaseId(life.saturating_mul(LEASES_PER_LIFE));
        let first_job = JobId(last_job.0.saturating_add(1));
        let config = Config { first_lease, first_job, ..options.core.clone() };
        let core = Core::replay(config, facts)
            .map_err(|error| SchedulerError::Corrupt { path: options.state.clone(), place: error.to_string() })?;
        let mut owner = Self {
            core,
            started: Instant::now(),
            inbox,
            commits: Commits::new(writer, options.durability, lock),
            store,
            blobs,
            jobs,
            unwritten: Unwritten::new(),
            keys,
            workers: BTreeMap::new(),
            owing: BTreeSet::new(),
            clusters,
            measured,
            retention: Retention::new(options.keep_results),
            tickets: Tickets::recover(tickets, admission, options),
            config: options.config.clone(),
            stopping: None,
        };
        for (job, row) in live {
            let args = ArgTable::of_row(&owner.store, &row)?;
            if let Some(record) = owner.jobs.get_mut(&job) {
                record.work = Some((Arc::new(row.spec.for_worker()), Arc::new(args)));
                if !record.secrets.is_empty() {
                    owner.tell(Event::JobHeld { job }, None);
                }
            }
        }
        // Jobs that should have ended with the last scheduler end now.
        owner.drain(None);
        Ok(owner)
    }
}

fn fact_of(job: JobId, end: JobEnd) -> Fact {
    let JobEnd { state, reason, failed, missing, retried, .. } = end;
    Fact::JobEnded { job, state, reason, failed, missing, retried }
}
