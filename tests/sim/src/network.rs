//! Connections, with what QUIC promises: each stream is in order, streams are independent of each other, and what is on
//! its way when a connection breaks is lost. Either side notices in its own time.

use farm_core::{Departure, Event, Time};
use farm_proto::ids::WorkerId;
use farm_proto::message::{Resume, SchedulerControl, WorkerControl};

use crate::dice::MS;
use crate::stats::Kind;
use crate::worker::{FromWorker, Link, Pid, WorkItem};
use crate::world::{Action, World, note};

/// After so many milliseconds of silence, a peer is given up.
pub(crate) const SILENCE: u64 = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnId(pub(crate) u64);

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) pid: Pid,
    /// The scheduler's life to which it leads.
    pub(crate) life: u64,
    /// Once accepted.
    pub(crate) worker: Option<WorkerId>,
    /// Nothing gets through any more.
    pub(crate) broken: bool,
    /// The scheduler is done with it.
    pub(crate) scheduler_gone: bool,
    /// The worker is done with it.
    pub(crate) worker_gone: bool,
    /// When the last word on each stream arrives.
    arrivals: [Time; 4],
}

/// The streams of a connection, each in one direction: down is from the scheduler to the worker.
#[derive(Debug, Clone, Copy)]
enum Stream {
    ControlDown,
    WorkDown,
    ControlUp,
    WorkUp,
}

impl World {
    /// When the next word on this stream arrives: never before the one in front of it.
    fn arrival(&mut self, id: ConnId, stream: Stream) -> Time {
        let late = self.dice.below(4);
        let spike = if self.dice.once_in(40) && self.chaos { self.dice.below(200 * MS) } else { 0 };
        let pid = self.conns[&id].pid;
        let distance = self.workers.get(&pid).map_or(MS, |worker| worker.distance);
        let conn = self.conns.get_mut(&id).expect("a connection");
        let at = Time(self.now.0 + distance * (4 + late) / 4 + spike).max(conn.arrivals[stream as usize]);
        conn.arrivals[stream as usize] = at;
        at
    }

    pub(crate) fn send_control(&mut self, conn: ConnId, message: SchedulerControl) {
        let at = self.arrival(conn, Stream::ControlDown);
        self.at(at, Action::ControlToWorker { conn, message });
    }

    pub(crate) fn send_work(&mut self, conn: ConnId, item: WorkItem) {
        let at = self.arrival(conn, Stream::WorkDown);
        self.at(at, Action::WorkToWorker { conn, item });
    }

    pub(crate) fn say_control(&mut self, conn: ConnId, message: WorkerControl) {
        let at = self.arrival(conn, Stream::ControlUp);
        self.at(at, Action::ControlFromWorker { conn, message });
    }

    pub(crate) fn say_work(&mut self, conn: ConnId, message: FromWorker) {
        let at = self.arrival(conn, Stream::WorkUp);
        self.at(at, Action::WorkFromWorker { conn, message });
    }

    /// A worker dials. Its first frame says what it still has, as of now.
    pub(crate) fn dial(&mut self, pid: Pid) {
        let Some(worker) = self.workers.get_mut(&pid) else { return };
        if worker.link != Link::Down {
            return;
        }
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        let resume = worker.resume();
        worker.link = Link::Dialing(id);
        let conn = Conn {
            pid,
            life: self.life,
            worker: None,
            broken: self.shell.is_none(),
            scheduler_gone: false,
            worker_gone: false,
            arrivals: [self.now; 4],
        };
        let dead = conn.broken;
        self.conns.insert(id, conn);
        note!(self, "{pid:?} dials: {id:?} {resume:?}");
        if dead {
            self.later(1_000, Action::WorkerNotices { conn: id });
        } else {
            let at = self.arrival(id, Stream::ControlUp);
            self.at(at, Action::Accept { conn: id, resume });
        }
    }

    /// Whether the scheduler of the present life still listens to this connection.
    pub(crate) fn is_heard(&self, conn: ConnId) -> bool {
        let conn = &self.conns[&conn];
        !conn.broken && !conn.scheduler_gone && conn.life == self.life && self.shell.is_some()
    }

    /// Whether the worker still listens to this connection.
    pub(crate) fn reaches_worker(&self, id: ConnId) -> Option<Pid> {
        let conn = &self.conns[&id];
        let worker = self.workers.get(&conn.pid)?;
        let listens = matches!(worker.link, Link::Dialing(link) | Link::Up(link) if link == id);
        (listens && !conn.broken && !conn.worker_gone).then_some(conn.pid)
    }

    /// The connection breaks. Each side notices after a while, or when its time is up.
    pub(crate) fn break_link(&mut self, id: ConnId) {
        let conn = self.conns.get_mut(&id).expect("a connection");
        if std::mem::replace(&mut conn.broken, true) {
            return;
        }
        note!(self, "{id:?} breaks");
        self.count(Kind::LinkBroken);
        let scheduler = self.dice.pick(&[20, 500, SILENCE]);
        self.later(scheduler, Action::SchedulerNotices { conn: id, how: Departure::Lost });
        let worker = self.dice.pick(&[20, 500, SILENCE]);
        self.later(worker, Action::WorkerNotices { conn: id });
    }

    /// The worker closes the connection: it leaves, or has died.
    pub(crate) fn hang_up(&mut self, id: ConnId, how: Departure) {
        let conn = self.conns.get_mut(&id).expect("a connection");
        conn.worker_gone = true;
        let ms = match how {
            // It says so itself, behind what it has sent.
            Departure::Planned => 40,
            // Nobody says anything.
            Departure::Lost => SILENCE,
        };
        let at = match how {
            Departure::Planned => self.arrival(id, Stream::WorkUp),
            Departure::Lost => self.now + self.dice.within(ms),
        };
        if how == Departure::Lost {
            self.conns.get_mut(&id).expect("a connection").broken = true;
        }
        self.at(at, Action::SchedulerNotices { conn: id, how });
    }

    /// The scheduler ends a connection from its side.
    pub(crate) fn scheduler_closes(&mut self, id: ConnId) {
        let conn = self.conns.get_mut(&id).expect("a connection");
        if !std::mem::replace(&mut conn.scheduler_gone, true) {
            let ms = self.dice.pick(&[20, 500, SILENCE]);
            let at = self.arrival(id, Stream::ControlDown) + self.dice.within(ms);
            self.at(at, Action::WorkerNotices { conn: id });
        }
    }

    pub(crate) fn scheduler_notices(&mut self, id: ConnId, how: Departure) {
        let conn = self.conns.get_mut(&id).expect("a connection");
        if std::mem::replace(&mut conn.scheduler_gone, true) || conn.life != self.life || self.shell.is_none() {
            return;
        }
        let Some(worker) = conn.worker else { return };
        note!(self, "the scheduler notices that {id:?} of worker {worker} is over: {how:?}");
        if how == Departure::Lost {
            self.count(Kind::SilentGivenUp);
        }
        self.worker_gone(worker, how);
        self.tell(Event::WorkerLeft { worker, how });
        // Nothing more is heard on it, whatever the network does.
        let ms = self.dice.pick(&[20, SILENCE]);
        self.later(ms, Action::WorkerNotices { conn: id });
    }

    pub(crate) fn worker_notices(&mut self, id: ConnId) {
        let conn = self.conns.get_mut(&id).expect("a connection");
        let pid = conn.pid;
        conn.worker_gone = true;
        let Some(worker) = self.workers.get_mut(&pid) else { return };
        if !matches!(worker.link, Link::Dialing(link) | Link::Up(link) if link == id) {
            return;
        }
        worker.link = Link::Down;
        note!(self, "{pid:?} notices that {id:?} is over");
        let backoff = self.dice.pick(&[5, 100, 1_000, 12_000]);
        self.later(backoff, Action::Dial { pid });
    }

    /// A worker's first frame arrives.
    pub(crate) fn accept(&mut self, id: ConnId, resume: &Resume) {
        if !self.is_heard(id) {
            return;
        }
        let pid = self.conns[&id].pid;
        self.join(id, pid, resume);
    }
}

impl World {
    /// The worker opens its work stream once it has been welcomed.
    pub(crate) fn work_after_control(&mut self, id: ConnId) {
        let conn = self.conns.get_mut(&id).expect("a connection");
        let welcome = conn.arrivals[Stream::ControlDown as usize];
        conn.arrivals[Stream::WorkDown as usize] = welcome;
    }
}
