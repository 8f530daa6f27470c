//! Clients: they submit, wait, and ask again when they hear nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use farm_core::{NewJob, TaskInput, Time};
use farm_proto::ids::JobId;
use farm_proto::job::JobState;

use crate::dice::{Dice, MS};
use crate::disk::Key;
use crate::stats::Kind;
use crate::truth::{Ending, Truth};
use crate::worker::Pid;
use crate::world::{Action, World, note};

/// What clients ask for.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Submit { key: Key },
    Retry { key: Key, job: JobId, failed: bool },
    Watch { key: Key, job: JobId, from: u64, stream: u64 },
    Cancel { job: JobId },
    Delete { key: Key, job: JobId },
    Why { job: JobId },
    Drain { pid: Pid },
}

/// What they are answered about one of their submissions.
#[derive(Debug, Clone)]
pub(crate) enum Response {
    Accepted(JobId),
    Refused,
    Deleted,
    NotDeleted,
}

/// What comes on a stream of results.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    Batch {
        number: u64,
        rows: Vec<(u64, Ending)>,
    },
    End(JobState),
    /// There is no such job.
    Gone,
}

#[derive(Debug)]
pub(crate) struct Client {
    /// Jobs that it is going to submit.
    jobs: u64,
    /// When the last of its requests arrives.
    arrival: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// So many times.
    Asked(u32),
    Accepted(JobId),
    Refused,
}

/// A job from its client's side.
#[derive(Debug)]
pub(crate) struct Submission {
    client: usize,
    pub(crate) spec: NewJob,
    pub(crate) truth: Truth,
    retry_of: Option<(JobId, bool)>,
    pub(crate) progress: Progress,
    /// The stream that it listens to, what it has got there, and whether anything came since it last looked.
    pub(crate) stream: u64,
    seen: u64,
    pub(crate) got: BTreeMap<u64, Ending>,
    heard: bool,
    pub(crate) ended: Option<JobState>,
    /// How long it waits before it asks again, in milliseconds.
    patience: u64,
    delete_asked: bool,
    /// The deletion is on disk, and it was told so.
    pub(crate) delete_stored: bool,
    pub(crate) deleted: bool,
}

impl Client {
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        Self { jobs: 1 + dice.below(5), arrival: Time::ZERO }
    }

    /// One that only does what it is told.
    #[cfg(test)]
    pub(crate) fn idle() -> Self {
        Self { jobs: 0, arrival: Time::ZERO }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.jobs == 0
    }
}

impl Submission {
    pub(crate) fn new(client: usize, spec: NewJob, truth: Truth, retry_of: Option<(JobId, bool)>) -> Self {
        Self {
            client,
            spec,
            truth,
            retry_of,
            progress: Progress::Asked(0),
            stream: 0,
            seen: 0,
            got: BTreeMap::new(),
            heard: false,
            ended: None,
            patience: 300,
            delete_asked: false,
            delete_stored: false,
            deleted: false,
        }
    }

    pub(crate) fn job(&self) -> Option<JobId> {
        match self.progress {
            Progress::Accepted(job) => Some(job),
            Progress::Asked(_) | Progress::Refused => None,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.progress == Progress::Refused || self.ended.is_some()
    }
}

impl World {
    /// A request is on its way. Those of one client arrive in order, or not at all.
    pub(crate) fn ask(&mut self, client: usize, request: Request) {
        let loss = self.profile.client_loss;
        if !self.is_calm() && self.dice.once_in(loss) {
            return;
        }
        let delay = self.dice.within(10);
        let at = self.clients[client].arrival.max(self.now + delay);
        self.clients[client].arrival = at;
        self.at(at, Action::Request { client, request });
    }

    pub(crate) fn idea(&mut self, client: usize) {
        if self.clients[client].jobs > 0 && self.dice.below(10) < 6 {
            self.clients[client].jobs -= 1;
            let spec = NewJob { cluster: self.cluster_of(self.submissions.len() as u64), ..self.draw_job(client) };
            let truth = Truth::draw(&mut self.dice, self.profile.bad_tasks).for_tasks(spec.tasks);
            self.enter(Submission::new(client, spec, truth, None));
        } else if !self.is_calm() {
            self.second_thoughts(client);
        }
        if !self.is_calm() || self.clients[client].jobs > 0 {
            let pause = self.dice.pick(&[50, 400, 1_500]);
            self.later(pause, Action::Idea { client });
        }
    }

    pub(crate) fn enter(&mut self, submission: Submission) -> Key {
        let key = self.submissions.len() as Key + 1;
        self.submissions.insert(key, submission);
        self.look(key);
        key
    }

    /// Something about a job that has ended.
    fn second_thoughts(&mut self, client: usize) {
        let ended = self.submissions.iter().filter(|(_, submission)| submission.ended.is_some());
        let ended: Vec<_> = ended.filter_map(|(&key, submission)| Some((key, submission.job()?))).collect();
        if ended.is_empty() {
            return;
        }
        let (key, job) = self.dice.pick(&ended);
        match self.dice.below(4) {
            0 => {
                let failed = self.dice.once_in(2);
                let truth = Truth::draw(&mut self.dice, self.profile.bad_tasks).for_tasks(1_000);
                self.enter(Submission::new(client, NewJob::new("", 0), truth, Some((job, failed))));
            }
            1 | 2 => {
                self.submissions.get_mut(&key).expect("a submission").delete_asked = true;
                self.ask(client, Request::Delete { key, job });
            }
            _ => self.ask(client, Request::Why { job }),
        }
    }

    fn draw_job(&mut self, client: usize) -> NewJob {
        let dice = &mut self.dice;
        let mut tasks = match dice.below(20) {
            0 => 0,
            1..=4 => 1,
            5..=14 => 1 + dice.below(20),
            15..=18 => 1 + dice.below(100),
            _ if dice.once_in(6) => dice.below(3_000),
            _ => dice.below(400),
        };
        let mut after = Vec::new();
        let mut input = None;
        let accepted: Vec<_> =
            self.submissions.values().filter_map(|other| Some((other.job()?, other.spec.tasks))).collect();
        if !accepted.is_empty() && dice.percent(self.profile.graphs) {
            if dice.once_in(2) {
                after.push(dice.pick(&accepted).0);
                after.extend(dice.once_in(4).then(|| dice.pick(&accepted).0));
            }
            if after.is_empty() || dice.once_in(2) {
                let (job, results) = dice.pick(&accepted);
                let fan_in = dice.pick(&[1, 1, 2, 3, 8]);
                tasks = results.div_ceil(u64::from(fan_in)) + u64::from(dice.once_in(15));
                input = Some(TaskInput { job, fan_in });
            }
        }
        NewJob {
            priority: dice.below(3) as i32,
            retries: dice.below(4) as u32,
            max_failures: dice.once_in(4).then(|| dice.below(20)),
            arg_bytes: if dice.once_in(4) { 1 << 20 } else { 0 },
            after,
            input,
            ..NewJob::new(format!("user {client}"), tasks)
        }
    }

    /// A client sees after a submission: it asks, and asks again if it has heard nothing.
    pub(crate) fn look(&mut self, key: Key) {
        let stream = self.next_stream;
        let submission = self.submissions.get_mut(&key).expect("a submission");
        if submission.is_done() {
            return;
        }
        let client = submission.client;
        let heard = std::mem::replace(&mut submission.heard, false);
        let patience = submission.patience;
        submission.patience = (patience * 3 / 2).min(20_000);
        match submission.progress {
            Progress::Asked(times) => {
                submission.progress = Progress::Asked(times + 1);
                let request = match submission.retry_of {
                    None => Request::Submit { key },
                    Some((job, failed)) => Request::Retry { key, job, failed },
                };
                if times > 0 {
                    self.count(Kind::SubmittedAgain);
                }
                self.ask(client, request);
            }
            Progress::Accepted(job) if !heard => {
                self.next_stream += 1;
                if submission.stream > 0 || submission.seen > 0 {
                    self.stats.add(Kind::WatchedAgain);
                }
                submission.stream = stream;
                let from = submission.seen;
                self.ask(client, Request::Watch { key, job, from, stream });
            }
            Progress::Accepted(_) | Progress::Refused => {}
        }
        self.after(Duration::from_nanos(patience * MS), Action::Look { key });
    }

    pub(crate) fn responded(&mut self, key: Key, response: Response) {
        note!(self, "submission {key} is answered {response:?}");
        let goes_away = !self.is_calm() && self.dice.once_in(3);
        let submission = self.submissions.get_mut(&key).expect("a submission");
        match response {
            Response::Accepted(job) => match submission.progress {
                Progress::Asked(_) => {
                    submission.progress = Progress::Accepted(job);
                    submission.patience = 300;
                    let stored = self.disk.jobs.get(&job).expect("a job that was accepted is stored");
                    submission.spec = stored.spec.clone();
                    // Some go away and come back for the results.
                    if goes_away {
                        submission.heard = true;
                    }
                    self.look(key);
                }
                progress => assert_eq!(progress, Progress::Accepted(job), "a submission is accepted twice"),
            },
            Response::Refused => {
                assert!(submission.job().is_none(), "a submission is refused that was accepted");
                submission.progress = Progress::Refused;
            }
            Response::Deleted => submission.deleted = true,
            Response::NotDeleted => {}
        }
    }

    /// Something that is watched arrives.
    pub(crate) fn watched(&mut self, key: Key, stream: u64, item: Item) {
        let submission = self.submissions.get_mut(&key).expect("a submission");
        if submission.stream != stream {
            return;
        }
        submission.heard = true;
        submission.patience = 300;
        match item {
            Item::Batch { number, rows } => {
                assert_eq!(number, submission.seen, "a gap or a repetition in what submission {key} gets");
                submission.seen += 1;
                for (task, ending) in rows {
                    let before = submission.got.insert(task, ending);
                    assert_eq!(before, None, "submission {key} gets task {task} twice");
                }
            }
            Item::End(state) => submission.ended = Some(state),
            Item::Gone => panic!("job {:?} of submission {key} is gone", submission.progress),
        }
    }
}
