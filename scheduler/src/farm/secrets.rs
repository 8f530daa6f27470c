//! The values of jobs' secrets: in memory, and nowhere else.
//!
//! A job that names secrets is held in the core until all of them have been given: after its submission, and again after
//! a restart, since no disk has them. Tasks that workers have already run meanwhile: the workers have the values.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use farm_core::Event;
use farm_link::certificates;
use farm_proto::ids::{JobId, WorkerId};
use farm_proto::message::RequestError;
use farm_proto::secret::{MAX_SECRET, MAX_SECRETS, SecretStatus, SecretValue, Secrets};

use super::Order;
use super::owner::Owner;
use crate::clock::unix_ms;
use crate::identity::caller::Caller;

/// The secrets of one job.
#[derive(Debug, Default)]
pub(super) struct JobSecrets {
    values: BTreeMap<String, Option<Given>>,
    /// Workers that have been told of the job, and so have its secrets.
    told: BTreeSet<WorkerId>,
}

#[derive(Debug)]
struct Given {
    value: SecretValue,
    at_ms: u64,
    expires_ms: Option<u64>,
}

impl JobSecrets {
    pub(super) fn of(names: &[String]) -> Self {
        Self { values: names.iter().map(|name| (name.clone(), None)).collect(), told: BTreeSet::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Those that have not been given.
    pub(super) fn missing(&self) -> Vec<String> {
        self.values.iter().filter(|(_, given)| given.is_none()).map(|(name, _)| name.clone()).collect()
    }

    /// What a worker is to have.
    pub(super) fn values(&self) -> Secrets {
        let given = self.values.iter().filter_map(|(name, given)| Some((name.clone(), given.as_ref()?.value.clone())));
        given.collect()
    }

    /// The worker gets what comes from now on.
    pub(super) fn tell(&mut self, worker: WorkerId) {
        if !self.is_empty() {
            self.told.insert(worker);
        }
    }

    /// Nobody needs the values any more.
    pub(super) fn clear(&mut self) {
        self.values.values_mut().for_each(|given| *given = None);
        self.told.clear();
    }

    fn status(&self) -> Vec<SecretStatus> {
        let status = |(name, given): (&String, &Option<Given>)| SecretStatus {
            name: name.clone(),
            given_ms: given.as_ref().map(|given| given.at_ms),
            expires_ms: given.as_ref().and_then(|given| given.expires_ms),
        };
        self.values.iter().map(status).collect()
    }

    fn check(&self, job: JobId, new: &Secrets) -> Result<(), String> {
        let names = || self.values.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        if let Some((name, _)) = new.iter().find(|(name, _)| !self.values.contains_key(name)) {
            return Err(match self.is_empty() {
                true => format!("job {job} has no secrets"),
                false => format!("job {job} has no secret {name}; it has {}", names()),
            });
        }
        if let Some((name, value)) = new.iter().find(|(_, value)| value.expose().len() > MAX_SECRET) {
            let size = value.expose().len();
            return Err(format!("secret {name} has {size} bytes; the most is {MAX_SECRET}"));
        }
        let kept = self.values.iter().filter(|(name, _)| !new.iter().any(|(other, _)| other == *name));
        let kept = kept.filter_map(|(_, given)| given.as_ref()).map(|given| given.value.expose().len());
        let sum = kept.chain(new.iter().map(|(_, value)| value.expose().len())).sum::<usize>();
        if sum > MAX_SECRETS {
            return Err(format!("the job's secrets have {sum} bytes together; the most is {MAX_SECRETS}"));
        }
        Ok(())
    }
}

impl Owner {
    /// Takes in values of a job's secrets, and says what there is then. Without any, only says it.
    pub(super) fn secrets(
        &mut self,
        caller: &Caller,
        job: JobId,
        new: Secrets,
    ) -> Result<Vec<SecretStatus>, RequestError> {
        self.visible(caller, job)?;
        let is_over = self.core.job(job).is_none_or(|view| view.state.is_final());
        let record = self.jobs.get_mut(&job).ok_or(RequestError::NoSuchJob(job))?;
        if new.is_empty() {
            return Ok(record.secrets.status());
        }
        if is_over {
            return Err(RequestError::Invalid(format!("job {job} is over, and needs no secrets")));
        }
        record.secrets.check(job, &new).map_err(RequestError::Invalid)?;
        for (name, value) in new {
            if let Some(warning) = certificates::warning(value.expose(), SystemTime::now()) {
                tracing::warn!(%job, "secret {name} {warning}");
            }
            tracing::info!(%job, by = %caller, name, "secret given");
            let expires = certificates::expiry(value.expose()).and_then(|end| end.duration_since(UNIX_EPOCH).ok());
            let expires_ms = expires.map(|end| u64::try_from(end.as_millis()).unwrap_or(u64::MAX));
            record.secrets.values.insert(name, Some(Given { value, at_ms: unix_ms(), expires_ms }));
        }
        let status = record.secrets.status();
        if record.secrets.missing().is_empty() {
            for worker in &record.secrets.told {
                if let Some(peer) = self.workers.get(worker) {
                    peer.outbox.work(Order::Secrets { job, secrets: record.secrets.values() });
                }
            }
            self.tell(Event::JobReleased { job }, None);
        }
        Ok(status)
    }
}
