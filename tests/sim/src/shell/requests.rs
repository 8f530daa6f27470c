//! What clients ask for.

use farm_core::{Event, NewJob, Refused};
use farm_proto::ids::JobId;

use super::Watch;
use crate::client::{Request, Response};
use crate::disk::{Key, Op};
use crate::model::{Phase, Place};
use crate::stats::Kind;
use crate::worker::Pid;
use crate::world::{Action, Known, World, note};

impl World {
    /// A request arrives.
    pub(crate) fn requested(&mut self, client: usize, request: Request) {
        note!(self, "client {client} asks for {request:?}");
        if self.shell.is_none() {
            return;
        }
        match request {
            Request::Submit { key } => self.submit_asked(key),
            Request::Retry { key, job, failed } => self.retry_asked(key, job, failed),
            Request::Watch { key, job, from, stream } => {
                let now = self.now;
                self.shell().watches.insert(stream, Watch { key, job, next: from, arrival: now });
                self.serve(job);
            }
            Request::Cancel { job } => {
                if let Some(known) = self.known.get_mut(&job)
                    && self.shell.as_ref().is_some_and(|shell| shell.core.job(job).is_some())
                {
                    if self.shell.as_ref().is_some_and(|shell| shell.model.jobs[&job].is_over()) {
                        self.stats.add(Kind::CancelLate);
                    }
                    known.cancel_asked = true;
                    self.tell(Event::JobCancelled { job });
                }
            }
            Request::Delete { key, job } => self.delete_asked(key, job),
            Request::Why { job } => self.ask_why(job),
            Request::Drain { pid } => self.drain_asked(pid),
        }
    }

    fn respond(&mut self, key: Key, response: Response) {
        let loss = self.profile.client_loss;
        if self.is_calm() || !self.dice.once_in(loss) {
            self.later(10, Action::Response { key, response });
        }
    }

    fn submit_asked(&mut self, key: Key) {
        if self.answered_before(key) {
            return;
        }
        let spec = self.submissions[&key].spec.clone();
        self.submit(key, spec);
    }

    /// Whether the submission is known already. If it is stored, its client is told again.
    fn answered_before(&mut self, key: Key) -> bool {
        let Some(&job) = self.shell().by_key.get(&key) else { return false };
        if self.disk.jobs.contains_key(&job) && self.shell().model.jobs[&job].phase != Phase::Storing {
            self.job_accepted(job);
        }
        true
    }

    fn submit(&mut self, key: Key, spec: NewJob) {
        let skip = u64::from(self.dice.once_in(10));
        let shell = self.shell();
        let job = JobId(shell.core.next_job().0 + skip);
        let expected = refusal(shell, &spec);
        let result = self.try_tell(Event::JobSubmitted { job, spec: spec.clone() });
        assert_eq!(result.err(), expected, "the submission of {spec:?}");
        if expected.is_some() {
            self.count(Kind::BadSubmission);
            return self.respond(key, Response::Refused);
        }
        let truth = self.submissions[&key].truth.clone();
        let known = Known { key, truth, accepted: false, cancel_asked: false, ended: None };
        self.known.insert(job, known);
        let shell = self.shell();
        shell.by_key.insert(key, job);
        shell.model.submitted(job, spec);
        self.drain();
    }

    /// A job's acceptance may be told.
    pub(crate) fn job_accepted(&mut self, job: JobId) {
        let known = self.known.get_mut(&job).expect("a job that was submitted");
        known.accepted = true;
        let key = known.key;
        self.respond(key, Response::Accepted(job));
    }

    fn retry_asked(&mut self, key: Key, job: JobId, failed: bool) {
        if self.answered_before(key) {
            return;
        }
        let shell = self.shell();
        let without = shell.core.without_value(job, failed);
        let ended = shell.model.jobs.get(&job).filter(|job| matches!(job.phase, Phase::Ended(_)));
        let expected = ended.map(|ended| {
            let wanted = |task: &u64| match ended.place(*task) {
                Place::Done(ending) => ending.is_some(),
                _ => !failed,
            };
            (0..ended.spec.tasks).filter(wanted).collect::<Vec<_>>()
        });
        assert_eq!(without.as_deref().map(crate::model::flat), expected, "tasks of job {job} without a value");
        let tasks = expected.map_or(0, |tasks| tasks.len() as u64);
        if tasks == 0 {
            self.count(Kind::NothingToRetry);
            return self.respond(key, Response::Refused);
        }
        self.count(Kind::RetryJob);
        self.submit(key, NewJob::new("a second try", tasks));
    }

    fn delete_asked(&mut self, key: Key, job: JobId) {
        let shell = self.shell();
        let needed = |(_, other): (_, &crate::model::ModelJob)| {
            let needs = other.spec.after.contains(&job) || other.spec.input.is_some_and(|input| input.job == job);
            needs && !matches!(other.phase, Phase::Ended(_))
        };
        let needed = shell.model.jobs.iter().any(needed);
        let ended = shell.model.jobs.get(&job).is_some_and(|job| matches!(job.phase, Phase::Ended(_)));
        let gone = shell.core.forget(job);
        assert_eq!(gone, ended && !needed, "whether job {job} can be deleted (ended: {ended}, needed: {needed})");
        if !gone {
            self.count(Kind::DeleteRefused);
            return self.respond(key, Response::NotDeleted);
        }
        shell.model.jobs.remove(&job);
        shell.by_key.remove(&key);
        shell.queue.push(Op::Delete { job, asked_by: key });
        self.start_commit();
    }

    /// A deletion is on disk.
    pub(super) fn deletion_stored(&mut self, job: JobId, key: Key) {
        if let Some(stored) = self.disk.jobs.get(&job)
            && let Some(state) = stored.ended
        {
            self.graves.insert(job, (state, stored.outcomes.clone()));
        }
        self.count(Kind::Deleted);
        self.submissions.get_mut(&key).expect("a submission").delete_stored = true;
        self.respond(key, Response::Deleted);
    }

    fn drain_asked(&mut self, pid: Pid) {
        let Some((worker, _)) = self.listed(pid) else { return };
        self.count(Kind::Drained);
        self.order(worker, farm_proto::message::SchedulerControl::Drain);
        self.worker_drains(worker);
    }
}

/// Why the core has to refuse this job.
fn refusal(shell: &super::Shell, spec: &NewJob) -> Option<Refused> {
    let needs = spec.after.iter().copied().chain(spec.input.map(|input| input.job));
    for job in needs {
        if !shell.model.jobs.contains_key(&job) {
            return Some(Refused::NoSuchJob(job));
        }
    }
    let input = spec.input?;
    let fits = input.fan_in > 0
        && spec.tasks == shell.model.jobs[&input.job].spec.tasks.div_ceil(u64::from(input.fan_in.max(1)));
    (!fits).then_some(Refused::BadInput(input.job))
}
