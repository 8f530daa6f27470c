//! What goes wrong.

use crate::client::Request;
use crate::profile::Mishap;
use crate::stats::Kind;
use crate::worker::{Link, Pid};
use crate::world::{Action, World, note};

impl World {
    pub(crate) fn mishap(&mut self) {
        if self.is_calm() {
            // What was to happen at the next commit does not any more.
            if let Some(shell) = &mut self.shell {
                (shell.doom, shell.last_commit) = (None, None);
            }
            return;
        }
        let mishap = self.profile.mishap(&mut self.dice);
        note!(self, "mishap: {mishap:?}");
        self.happen(mishap);
        let pause = self.profile.pause;
        self.later(pause, Action::Mishap);
    }

    fn any_worker(&mut self) -> Option<Pid> {
        let pids: Vec<_> = self.workers.keys().copied().collect();
        (!pids.is_empty()).then(|| self.dice.pick(&pids))
    }

    fn happen(&mut self, mishap: Mishap) {
        match mishap {
            Mishap::KillWorker => {
                if let Some(pid) = self.any_worker() {
                    self.count(Kind::WorkerKilled);
                    self.kill_worker(pid);
                }
            }
            Mishap::KillSlot => {
                let Some(pid) = self.any_worker() else { return };
                let worker = self.workers.get_mut(&pid).expect("a worker");
                if let Some(running) = worker.slots.iter_mut().find_map(Option::take) {
                    self.slot_died(pid, &running);
                }
            }
            Mishap::Freeze => {
                if let Some(pid) = self.any_worker() {
                    let ms = self.dice.pick(&[100, 3_000, 12_000, 25_000]);
                    self.freeze(pid, ms);
                }
            }
            Mishap::BreakLink => {
                let Some(pid) = self.any_worker() else { return };
                if let Link::Up(conn) | Link::Dialing(conn) = self.workers[&pid].link {
                    self.break_link(conn);
                }
            }
            Mishap::BreakWatch => {
                let Some(shell) = &mut self.shell else { return };
                let streams: Vec<_> = shell.watches.keys().copied().collect();
                if streams.is_empty() {
                    return;
                }
                let stream = self.dice.pick(&streams);
                let watch = self.shell().watches.remove(&stream).expect("a watch");
                let submission = self.submissions.get_mut(&watch.key).expect("a submission");
                if submission.stream == stream && self.dice.once_in(2) {
                    // What is on its way is lost, too.
                    submission.stream = u64::MAX;
                }
            }
            Mishap::Drain => {
                if let Some(pid) = self.any_worker() {
                    self.ask(0, Request::Drain { pid });
                }
            }
            Mishap::Terminate => {
                if let Some(pid) = self.any_worker() {
                    self.count(Kind::Terminated);
                    self.drain_worker(pid, true);
                }
            }
            Mishap::CrashScheduler => {
                if self.shell.is_some() {
                    self.count(Kind::CrashAnywhere);
                    self.scheduler_dies();
                }
            }
            Mishap::CrashAtCommit => {
                let survives = self.dice.once_in(2);
                if let Some(shell) = &mut self.shell {
                    shell.last_commit = Some(survives);
                }
            }
            Mishap::CrashInDrain => {
                let doom = self.dice.below(12);
                if let Some(shell) = &mut self.shell {
                    shell.doom = Some(doom);
                }
            }
            Mishap::StopScheduler => self.scheduler_stops(),
            Mishap::Spawn => self.spawn(),
            Mishap::Cancel => {
                let jobs: Vec<_> = self.submissions.values().filter_map(|submission| submission.job()).collect();
                if !jobs.is_empty() {
                    let job = self.dice.pick(&jobs);
                    self.ask(0, Request::Cancel { job });
                }
            }
            Mishap::AskWhy => {
                let known: Vec<_> = self.known.keys().copied().collect();
                if !known.is_empty() {
                    let job = self.dice.pick(&known);
                    self.ask_why(job);
                }
            }
        }
    }
}
