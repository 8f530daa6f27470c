//! The farm: who there is, and what happens next.

use std::collections::BTreeMap;
use std::time::Duration;

use farm_core::{Departure, Time};
use farm_proto::ids::{ClusterId, JobId, LeaseId};
use farm_proto::job::{Counts, JobState};
use farm_proto::message::{Resume, SchedulerControl, WorkerControl};
use farm_proto::why::Stage;

use crate::client::{Client, Item, Request, Response, Submission};
use crate::dice::{Dice, MS};
use crate::disk::{Disk, Key};
use crate::network::{Conn, ConnId};
use crate::profile::Profile;
use crate::shell::Shell;
use crate::stats::{Kind, Stats};
use crate::truth::{Ending, Truth};
use crate::worker::{FromWorker, Pid, WorkItem, Worker};

/// Nothing goes wrong after this.
const CALM: Time = Time(4_000 * MS);
/// More steps than this are a livelock.
const MAX_STEPS: u64 = 1_000_000;
/// A world that is not at rest by then has lost something.
const MAX_TIME: Time = Time(3_600_000 * MS);

/// Something that is going to happen.
#[derive(Debug)]
pub(crate) enum Action {
    /// A client has an idea.
    Idea {
        client: usize,
    },
    /// A client sees after a submission.
    Look {
        key: Key,
    },
    Request {
        client: usize,
        request: Request,
    },
    Response {
        key: Key,
        response: Response,
    },
    /// Something that is watched reaches the watcher.
    Watched {
        key: Key,
        stream: u64,
        item: Item,
    },
    Mishap,
    Commit {
        life: u64,
    },
    Deadline {
        life: u64,
    },
    /// The scheduler starts.
    Start,
    /// A worker starts.
    Spawn,
    Dial {
        pid: Pid,
    },
    /// A worker's first frame arrives.
    Accept {
        conn: ConnId,
        resume: Resume,
    },
    ControlToWorker {
        conn: ConnId,
        message: SchedulerControl,
    },
    WorkToWorker {
        conn: ConnId,
        item: WorkItem,
    },
    ControlFromWorker {
        conn: ConnId,
        message: WorkerControl,
    },
    WorkFromWorker {
        conn: ConnId,
        message: FromWorker,
    },
    /// The scheduler notices that a connection is over.
    SchedulerNotices {
        conn: ConnId,
        how: Departure,
    },
    /// Its worker does.
    WorkerNotices {
        conn: ConnId,
    },
    Prepared {
        pid: Pid,
        job: JobId,
        stage: Stage,
    },
    Finished {
        pid: Pid,
        run: u64,
    },
    Flush {
        pid: Pid,
    },
    Thaw {
        pid: Pid,
    },
    GraceOver {
        pid: Pid,
    },
}

/// What is known of a job that was submitted to a core, whichever life that was in.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) key: Key,
    pub(crate) truth: Truth,
    /// Whether anyone was told of it.
    pub(crate) accepted: bool,
    pub(crate) cancel_asked: bool,
    /// How it ended, as it was first told.
    pub(crate) ended: Option<(JobState, Counts, u64, Option<String>)>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) dice: Dice,
    pub(crate) now: Time,
    pub(crate) profile: Profile,
    pub(crate) chaos: bool,
    pub(crate) stats: Stats,
    /// Says what happens, if anyone wants to know.
    trace: Option<Vec<String>>,
    /// What is to happen, by time and then by when it was decided.
    agenda: BTreeMap<(Time, u64), Action>,
    decided: u64,

    /// None while the scheduler is not there.
    pub(crate) shell: Option<Shell>,
    /// Counts the scheduler's lives, from 1.
    pub(crate) life: u64,
    pub(crate) disk: Disk,
    /// How long a commit takes, in milliseconds at most.
    pub(crate) commit_ms: u64,
    /// Whether the scheduler can tell that a worker which dials in is one that it lists.
    pub(crate) knows_former: bool,
    pub(crate) known: BTreeMap<JobId, Known>,
    /// Which job each lease is of, whichever life it was given out in.
    pub(crate) lease_jobs: BTreeMap<LeaseId, JobId>,
    /// How jobs had ended that have been deleted.
    pub(crate) graves: BTreeMap<JobId, (JobState, BTreeMap<u64, Ending>)>,

    pub(crate) workers: BTreeMap<Pid, Worker>,
    pub(crate) conns: BTreeMap<ConnId, Conn>,
    pub(crate) next_pid: u64,
    /// How many clusters there are. Processes belong to them in turn, and so do jobs.
    pub(crate) clusters: u64,
    pub(crate) next_conn: u64,
    pub(crate) next_run: u64,

    pub(crate) clients: Vec<Client>,
    pub(crate) submissions: BTreeMap<Key, Submission>,
    pub(crate) next_stream: u64,
}

/// Notes what happens if a trace is wanted.
macro_rules! note {
    ($world:expr, $($text:tt)*) => {
        if $world.is_traced() {
            let text = format!($($text)*);
            $world.note(&text);
        }
    };
}
pub(crate) use note;

impl World {
    /// A world without anything in it.
    pub(crate) fn empty(seed: u64, traced: bool) -> Self {
        let mut dice = Dice::new(seed);
        let profile = Profile::draw(&mut dice);
        Self {
            now: Time::ZERO,
            chaos: true,
            stats: Stats::default(),
            trace: traced.then(Vec::new),
            agenda: BTreeMap::new(),
            decided: 0,
            shell: None,
            life: 0,
            disk: Disk::default(),
            commit_ms: dice.pick(&[0, 1, 1, 20, 200]),
            knows_former: !dice.once_in(10),
            known: BTreeMap::new(),
            lease_jobs: BTreeMap::new(),
            graves: BTreeMap::new(),
            workers: BTreeMap::new(),
            conns: BTreeMap::new(),
            next_pid: 1,
            clusters: if seed % 5 == 4 { 2 } else { 1 },
            next_conn: 1,
            next_run: 1,
            clients: Vec::new(),
            submissions: BTreeMap::new(),
            next_stream: 1,
            profile,
            dice,
        }
    }

    pub(crate) fn new(seed: u64, traced: bool) -> Self {
        let mut world = Self::empty(seed, traced);
        note!(world, "a world of {} (commits within {} ms)", world.profile.name, world.commit_ms);
        world.start();
        for _ in 0..=world.dice.below(4) {
            world.later(50, Action::Spawn);
        }
        for client in 0..=world.dice.below(3) as usize {
            let client_of_world = Client::draw(&mut world.dice);
            world.clients.push(client_of_world);
            world.later(50, Action::Idea { client });
        }
        world.later(200, Action::Mishap);
        world
    }

    pub(crate) fn is_traced(&self) -> bool {
        self.trace.is_some()
    }

    pub(crate) fn note(&mut self, text: &str) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{now} {text}"));
        }
    }

    pub(crate) fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().unwrap_or_default()
    }

    /// Lets something happen within so many milliseconds.
    pub(crate) fn later(&mut self, ms: u64, action: Action) {
        let at = self.now + self.dice.within(ms);
        self.at(at, action);
    }

    pub(crate) fn after(&mut self, span: Duration, action: Action) {
        self.at(self.now + span, action);
    }

    pub(crate) fn at(&mut self, time: Time, action: Action) {
        self.decided += 1;
        self.agenda.insert((time, self.decided), action);
    }

    /// Whether things still go wrong.
    pub(crate) fn is_calm(&self) -> bool {
        self.now >= CALM || !self.chaos
    }

    /// Lets the next thing happen. Returns false if there is nothing.
    pub(crate) fn step(&mut self) -> bool {
        let Some(((time, _), action)) = self.agenda.pop_first() else { return false };
        self.now = time;
        self.stats.steps += 1;
        self.act(action);
        self.set_alarm();
        if let Some(shell) = &self.shell {
            shell.core.check_invariants();
        }
        true
    }

    pub(crate) fn act(&mut self, action: Action) {
        let Some(action) = self.unless_frozen(action) else { return };
        match action {
            Action::Idea { client } => self.idea(client),
            Action::Look { key } => self.look(key),
            Action::Request { client, request } => self.requested(client, request),
            Action::Response { key, response } => self.responded(key, response),
            Action::Watched { key, stream, item } => self.watched(key, stream, item),
            Action::Mishap => self.mishap(),
            Action::Commit { life } if life == self.life => self.committed(),
            Action::Deadline { life } if life == self.life => self.deadline(),
            Action::Commit { .. } | Action::Deadline { .. } => {}
            Action::Start => self.start(),
            Action::Spawn => self.spawn(),
            Action::Dial { pid } => self.dial(pid),
            Action::Accept { conn, resume } => self.accept(conn, &resume),
            Action::ControlToWorker { conn, message } => self.control_at_worker(conn, message),
            Action::WorkToWorker { conn, item } => self.work_at_worker(conn, item),
            Action::ControlFromWorker { conn, message } => self.control_at_scheduler(conn, &message),
            Action::WorkFromWorker { conn, message } => self.work_at_scheduler(conn, &message),
            Action::SchedulerNotices { conn, how } => self.scheduler_notices(conn, how),
            Action::WorkerNotices { conn } => self.worker_notices(conn),
            Action::Prepared { pid, job, stage } => self.prepared(pid, job, stage),
            Action::Finished { pid, run } => self.finished(pid, run),
            Action::Flush { pid } => self.flush(pid),
            Action::Thaw { pid } => self.thaw(pid),
            Action::GraceOver { pid } => self.grace_over(pid),
        }
    }

    /// Whether everything has come to its end.
    fn is_done(&self) -> bool {
        self.is_calm()
            && self.clients.iter().all(Client::is_done)
            && self.submissions.values().all(Submission::is_done)
            && self.shell.as_ref().is_some_and(|shell| shell.is_idle())
    }

    /// Lets everything happen until all is done, then what is still on its way, and checks what is left.
    pub(crate) fn run(&mut self) {
        while !self.is_done() {
            if self.is_calm() {
                self.help();
            }
            if !self.step() {
                assert!(!self.is_calm(), "the world stands still: {}", self.state());
                self.now = CALM;
            }
            assert!(self.stats.steps < MAX_STEPS, "livelock: {}", self.state());
            assert!(self.now < MAX_TIME, "hours later: {}", self.state());
        }
        // Long enough for every silence to be noticed, and for every worker to have come back.
        let end = self.now + Duration::from_secs(120);
        while self.agenda.first_key_value().is_some_and(|(&(time, _), _)| time <= end) {
            self.step();
        }
        self.check_end();
        self.stats.virtual_ms += self.now.0 / MS;
        self.stats.outcomes += self.disk.jobs.values().map(|job| job.outcomes.len() as u64).sum::<u64>();
    }

    /// When nothing goes wrong any more, somebody sees to it that each cluster has a worker, and not only slow ones.
    fn help(&mut self) {
        let lacks = |world: &Self, cluster: u64| {
            let mut of_cluster = world.workers.values().filter(|worker| worker.cluster == ClusterId(cluster));
            !of_cluster.any(|worker| !worker.draining && !worker.is_slow())
        };
        while (0..self.clusters).any(|cluster| lacks(self, cluster)) {
            self.spawn_with(2, MS, 1);
        }
    }

    /// The cluster that the next of a series belongs to.
    pub(crate) fn cluster_of(&self, number: u64) -> ClusterId {
        ClusterId(number % self.clusters)
    }

    /// What is not over.
    fn state(&self) -> String {
        let jobs =
            self.shell.as_ref().map(|shell| shell.core.jobs().filter(|job| !job.state.is_final()).collect::<Vec<_>>());
        let workers = self.shell.as_ref().map(|shell| shell.core.workers().collect::<Vec<_>>());
        let open: Vec<_> = self.submissions.values().filter(|submission| !submission.is_done()).collect();
        format!("{jobs:?}\n{workers:?}\n{open:?}\n{:?}", self.workers)
    }

    pub(crate) fn count(&mut self, kind: Kind) {
        self.stats.add(kind);
    }
}
