//! What tasks wait for, in words that clients understand.

use farm_core::{Time, Waiting, WaitingGroup};
use farm_proto::ids::{JobId, WorkerId};
use farm_proto::message::RequestError;
use farm_proto::why::{Cause, Stage, Why, WhyGroup};

use super::owner::Owner;
use crate::identity::caller::Caller;

impl Owner {
    pub(super) fn why(&self, caller: &Caller, job: JobId, task: Option<u64>) -> Result<Why, RequestError> {
        let record = self.visible(caller, job)?;
        let checkpoint = task.and_then(|task| record.checkpoints.of_task(task));
        let no_such_job = || RequestError::NoSuchJob(job);
        let view = self.core.job(job).ok_or_else(no_such_job)?;
        let groups = match task {
            Some(task) => {
                let tasks = view.counts.total();
                let waiting = self.core.why(job, task).ok_or(RequestError::NoSuchTask { job, task, tasks })?;
                vec![WaitingGroup { first: task, count: 1, waiting }]
            }
            None => self.core.why_all(job).ok_or_else(no_such_job)?,
        };
        let now = self.now();
        let groups = groups.into_iter().map(|group| WhyGroup {
            task: group.first,
            count: group.count,
            cause: self.cause(job, group.waiting, now),
        });
        Ok(Why { job, state: view.state, groups: groups.collect(), reason: view.reason, checkpoint })
    }

    fn cause(&self, job: JobId, waiting: Waiting, now: Time) -> Cause {
        let milliseconds = |from: Time, to: Time| u64::try_from(to.since(from).as_millis()).unwrap_or(u64::MAX);
        let cluster = || self.jobs.get(&job).map_or_else(String::new, |record| record.cluster.clone());
        match waiting {
            Waiting::Storing => Cause::Storing,
            Waiting::Held => {
                let names = self.jobs.get(&job).map(|record| record.secrets.missing());
                Cause::Secrets { names: names.unwrap_or_default() }
            }
            Waiting::After { job } => Cause::After { job },
            Waiting::Input { job, first, end } => Cause::Input { job, first, end },
            Waiting::Worker => {
                let status = self.cluster(&cluster()).ok();
                let coming = status.as_ref().map_or(0, |status| status.queued + status.starting + status.lost);
                Cause::NoWorker {
                    cluster: cluster(),
                    coming,
                    short: status.map(|status| status.short).unwrap_or_default(),
                }
            }
            Waiting::Time { needed } => {
                Cause::NoTime { cluster: cluster(), needed_ms: milliseconds(Time::ZERO, Time::ZERO + needed) }
            }
            Waiting::Slot { tasks, jobs, slots } => Cause::Slot { tasks, jobs, slots },
            Waiting::Retry { attempt, until } => Cause::Backoff { attempt, wait_ms: milliseconds(now, until) },
            Waiting::Preparing { worker, stage: Stage::Compiling } => {
                Cause::Compiling { worker, name: self.name_of(worker) }
            }
            Waiting::Preparing { worker, stage: Stage::Fetching | Stage::Ready } => {
                Cause::Fetching { worker, name: self.name_of(worker) }
            }
            Waiting::Queued { worker, tasks } => Cause::Queued { worker, name: self.name_of(worker), tasks },
            Waiting::Running { worker, since } => {
                Cause::Running { worker, name: self.name_of(worker), leased_ms: milliseconds(since, now) }
            }
            Waiting::Value => Cause::Ended { failed: false, account: None },
            Waiting::Failed => Cause::Ended { failed: true, account: None },
            Waiting::Ended => Cause::GivenUp,
        }
    }

    fn name_of(&self, worker: WorkerId) -> String {
        self.workers.get(&worker).map_or_else(String::new, |peer| peer.hello.name.clone())
    }
}
