//! The machines of a cluster, and what may befall them.

use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::Signal;

use super::options::Place;
use crate::cell::{Cell, Plan};
use crate::{Process, wait_for};

/// A machine of a cluster: a node with its slurmd, or the one with slurmctld. It has its own host name, process ids and
/// mounts; files and the network are this machine's, unless its [`Place`] says otherwise.
#[derive(Debug)]
pub struct Machine {
    name: String,
    program: String,
    plan: Plan,
    /// None as long as it is without power.
    cell: Mutex<Option<Cell>>,
}

impl Machine {
    /// With a program that stays in the foreground, and `/etc/hosts` in that file.
    pub(super) fn new(name: &str, program: &[&str], place: &Place, hosts: &Path, log: &Path) -> Self {
        let set_up = format!("mount --bind '{}' /etc/hosts && hostname '{name}'", hosts.display());
        let program: Vec<String> = program.iter().map(|word| (*word).to_owned()).collect();
        let plan = Plan {
            prefix: place.prefix.clone(),
            unshare: Vec::new(),
            set_up,
            program: program.clone(),
            log: log.to_owned(),
        };
        let program = program.into_iter().next().unwrap_or_default();
        Self { name: name.to_owned(), program, plan, cell: Mutex::new(None) }
    }

    /// Its host name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its daemon runs.
    pub fn is_running(&self) -> bool {
        self.cell().as_ref().is_some_and(|cell| !cell.running(&self.program).is_empty())
    }

    /// All that runs on it, the processes of jobs as well. Ids are those that the test sees; a job sees others.
    pub fn processes(&self) -> Vec<Process> {
        self.cell().as_ref().map(Cell::processes).unwrap_or_default()
    }

    /// Starts its daemon unless it runs, after [`Machine::crash`] with nothing else on the machine. Does not wait until
    /// the others know.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start(&self) {
        if self.is_running() {
            return;
        }
        let started = self.power_up();
        started.unwrap_or_else(|error| panic!("cannot start {} on {}: {error}", self.program, self.name));
        wait_for(&format!("{} on {}", self.program, self.name), || self.is_running().then_some(()));
    }

    fn power_up(&self) -> io::Result<()> {
        let mut cell = self.cell();
        match cell.as_mut() {
            Some(cell) => cell.run(),
            None => cell.insert(Cell::new(&self.plan)?).run(),
        }
    }

    /// Ends everything on it at once, as when its power fails.
    pub fn crash(&self) {
        *self.cell() = None;
    }

    /// Kills its daemon, `kill -9`. Jobs go on.
    pub fn kill(&self) {
        self.end(Signal::KILL);
    }

    /// Asks its daemon to end, and waits until it has. Jobs go on.
    pub fn stop(&self) {
        self.end(Signal::TERM);
    }

    /// Stops everything on it, as on a machine that hangs.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets everything on it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        self.processes().iter().for_each(|process| process.signal(signal));
    }

    fn end(&self, signal: Signal) {
        let daemons = self.cell().as_ref().map(|cell| cell.running(&self.program)).unwrap_or_default();
        daemons.iter().for_each(|daemon| daemon.signal(signal));
        wait_for(&format!("the end of {} on {}", self.program, self.name), || (!self.is_running()).then_some(()));
    }

    fn cell(&self) -> MutexGuard<'_, Option<Cell>> {
        // A test that has failed still has to end what it started.
        self.cell.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
