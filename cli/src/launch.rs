//! Farms on this machine: real processes over real QUIC on loopback, started and ended by a client.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use farm_proto::ticket::Ticket;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::home::Home;

/// How long a scheduler may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a process may take to end by itself before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a farm on this machine could not be started, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("cannot start {what}")]
    Spawn {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the {what} ended ({status}){log}")]
    Ended { what: &'static str, status: ExitStatus, log: LogTail },
    #[error("the scheduler was not up within {} s{log}", START_TIMEOUT.as_secs())]
    Slow { log: LogTail },
    #[error("cannot use {path}")]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the scheduler said something else than where it listens: {0:?}")]
    Announcement(String),
}

impl LaunchError {
    /// What the process that ended told its user to do about it.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Ended { log, .. } | Self::Slow { log } => log.hint.as_deref(),
            Self::Spawn { .. } | Self::Folder { .. } | Self::Announcement(_) => None,
        }
    }
}

/// What a process said last, for an error message: its own error where it told one, else the end of its log.
#[derive(Debug)]
pub struct LogTail {
    text: String,
    hint: Option<String>,
}

impl LogTail {
    fn read(path: &Path) -> Self {
        Self::of(&String::from_utf8_lossy(&fs::read(path).unwrap_or_default()))
    }

    fn of(log: &str) -> Self {
        if let Some((message, hint)) = last_error(log) {
            return Self { text: format!(": {message}"), hint };
        }
        let lines: Vec<_> = log.lines().rev().take(5).collect();
        let mut text = String::new();
        for line in lines.iter().rev() {
            text.push_str(if text.is_empty() { "; it said last:\n    " } else { "\n    " });
            text.push_str(line);
        }
        Self { text, hint: None }
    }
}

impl std::fmt::Display for LogTail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// The last error in a log and its hint, in either of the forms in which `farm` tells errors.
fn last_error(log: &str) -> Option<(String, Option<String>)> {
    #[derive(Deserialize)]
    struct Told {
        error: Error,
    }
    #[derive(Deserialize)]
    struct Error {
        message: String,
        hint: Option<String>,
    }

    let lines: Vec<_> = log.lines().collect();
    lines.iter().enumerate().rev().find_map(|(number, line)| {
        if let Some(message) = line.strip_prefix("error: ") {
            let hint = lines.get(number + 1).and_then(|next| next.strip_prefix("hint: "));
            return Some((message.to_owned(), hint.map(str::to_owned)));
        }
        let Told { error } = serde_json::from_str(line).ok()?;
        Some((error.message, error.hint))
    })
}

/// What `farm scheduler --output json` prints on stdout once it listens. The names are a promise.
#[derive(Debug, Serialize, Deserialize)]
pub struct Announcement {
    pub address: SocketAddr,
    /// Files that hold one ticket each.
    pub admin_ticket: PathBuf,
    pub worker_ticket: PathBuf,
    /// Where it listens for HTTP, if it does.
    #[serde(default)]
    pub http: Option<SocketAddr>,
}

/// How many workers, of how many slots each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workers {
    pub workers: u32,
    pub slots: u32,
}

impl Workers {
    /// One worker with a slot per core; or `asked` workers with a slot each.
    pub fn on_this_machine(asked: Option<u32>) -> Self {
        asked.map_or_else(|| Self { workers: 1, slots: cores() }, |workers| Self { workers, slots: 1 })
    }

    /// Tasks that run at the same time.
    pub const fn total_slots(self) -> u32 {
        self.workers * self.slots
    }
}

/// Cores that this process may use.
pub fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32)
}

/// A scheduler and workers that end with this value, and with this process however it ends.
#[derive(Debug)]
pub struct LocalFarm {
    /// Lets its bearer do everything.
    pub admin: Ticket,
    scheduler: Part,
    workers: Vec<Part>,
    folder: tempfile::TempDir,
}

#[derive(Debug)]
struct Part {
    what: &'static str,
    child: Child,
    log: PathBuf,
    /// The process ends when this is closed, by whatever closes it.
    lifeline: Option<ChildStdin>,
}

impl LocalFarm {
    /// Starts a farm whose state is temporary. `exe` is the `farm` binary.
    ///
    /// # Errors
    ///
    /// A process cannot be started, or ends at once.
    pub async fn start(exe: &Path, workers: Workers) -> Result<Self, LaunchError> {
        let folder = tempfile::Builder::new().prefix("farm-").tempdir();
        let folder = folder.map_err(|source| LaunchError::Folder { path: std::env::temp_dir(), source })?;
        let state = folder.path().join("state");
        let log = folder.path().join("scheduler.log");
        let mut command = Command::new(exe);
        command
            .args(["scheduler", "--listen", "127.0.0.1:0", "--output", "json", "--end-with-stdin", "--ephemeral"])
            .arg("--state")
            .arg(&state);
        let mut scheduler = Part::spawn("scheduler", command, log)?;
        let announced = scheduler.announcement().await?;
        let admin = read_ticket(&announced.admin_ticket)?;
        let worker_ticket = read_ticket(&announced.worker_ticket)?;
        let mut parts = Vec::new();
        for number in 0..workers.workers {
            let log = folder.path().join(format!("worker-{number}.log"));
            let mut command = worker_command(exe, &worker_ticket, number, workers.slots);
            // Nobody brings back the scheduler of such a farm.
            command.args(["--end-with-stdin", "--wait", "0s"]);
            parts.push(Part::spawn("worker", command, log)?);
        }
        Ok(Self { admin, scheduler, workers: parts, folder })
    }

    /// Returns when the scheduler or the last worker has ended, which none does unless something is wrong.
    pub async fn failure(&mut self) -> LaunchError {
        loop {
            if let Some(error) = self.scheduler.ended() {
                return error;
            }
            let mut ended: Vec<_> = self.workers.iter_mut().map(Part::ended).collect();
            if ended.iter().all(Option::is_some)
                && let Some(Some(error)) = ended.pop()
            {
                return error;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ends all processes and removes everything they left.
    pub async fn stop(mut self) {
        for part in &mut self.workers {
            part.lifeline = None;
        }
        for part in &mut self.workers {
            if tokio::time::timeout(STOP_TIMEOUT, part.child.wait()).await.is_err() {
                // It has had its time. Fails only if it has just ended.
                let _ = part.child.kill().await;
            }
        }
        // Nothing of its state is to last, so it need not put it in order; this takes a millisecond instead of a second.
        let _ = self.scheduler.child.kill().await;
        // What cannot be removed lies in the system's temporary folder.
        let _ = self.folder.close();
    }
}

impl Part {
    fn spawn(what: &'static str, mut command: Command, log: PathBuf) -> Result<Self, LaunchError> {
        let file = fs::File::create(&log).map_err(|source| LaunchError::Folder { path: log.clone(), source })?;
        // A process group of its own: Ctrl-C in the terminal is for the client, which then ends these in order.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file).process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(|source| LaunchError::Spawn { what, source })?;
        let lifeline = child.stdin.take();
        Ok(Self { what, child, log, lifeline })
    }

    fn process(&self) -> Option<Process> {
        self.child.id().and_then(Process::of)
    }

    fn ended(&mut self) -> Option<LaunchError> {
        let status = self.child.try_wait().ok()??;
        Some(LaunchError::Ended { what: self.what, status, log: LogTail::read(&self.log) })
    }

    async fn announcement(&mut self) -> Result<Announcement, LaunchError> {
        let Some(stdout) = self.child.stdout.take() else {
            return Err(LaunchError::Announcement("no standard output".to_owned()));
        };
        let mut line = String::new();
        let mut stdout = BufReader::new(stdout);
        let read = tokio::time::timeout(START_TIMEOUT, stdout.read_line(&mut line)).await;
        match read {
            Err(_) => return Err(LaunchError::Slow { log: LogTail::read(&self.log) }),
            Ok(Err(source)) => return Err(LaunchError::Spawn { what: self.what, source }),
            Ok(Ok(0)) => {
                let status = self.child.wait().await;
                let status = status.map_err(|source| LaunchError::Spawn { what: self.what, source })?;
                return Err(LaunchError::Ended { what: self.what, status, log: LogTail::read(&self.log) });
            }
            Ok(Ok(_)) => {}
        }
        serde_json::from_str(&line).map_err(|_| LaunchError::Announcement(line))
    }
}

fn worker_command(exe: &Path, ticket: &Ticket, number: u32, slots: u32) -> Command {
    let mut command = Command::new(exe);
    command.args(["worker", "--name", &format!("local-{number}"), "--slots", &slots.to_string()]);
    // Not on the command line, where every user of the machine could read it.
    command.env("FARM_TICKET", ticket.to_string());
    command
}

fn read_ticket(path: &Path) -> Result<Ticket, LaunchError> {
    let folder = |source| LaunchError::Folder { path: path.to_owned(), source };
    let text = fs::read_to_string(path).map_err(folder)?;
    text.parse().map_err(|error| folder(io::Error::other(error)))
}

/// The local farm that stays, as `farm up` records it in `farm.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StandingFarm {
    pub scheduler: Process,
    pub workers: Vec<Process>,
    pub admin_ticket: PathBuf,
    pub size: Workers,
    /// Where it listens.
    pub address: SocketAddr,
}

/// A process, told apart from a later one with the same id by when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    started: u64,
}

impl Process {
    fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, started: start_time(pid)? })
    }

    /// Whether it still runs; a zombie does not.
    pub fn is_alive(self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    fn signal(self, signal: rustix::process::Signal) {
        if self.is_alive()
            && let Some(pid) = rustix::process::Pid::from_raw(self.pid.cast_signed())
        {
            // Fails only if it has just ended.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

/// Field 22 of `/proc/PID/stat` (proc(5)), in clock ticks since boot; `None` if there is no such process, or only its
/// zombie.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Field 2, the name, is in parentheses and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

impl StandingFarm {
    /// The farm that is recorded in `home`, if its scheduler is alive.
    pub fn find(home: &Home) -> Option<Self> {
        let recorded = Self::recorded(home)?;
        recorded.scheduler.is_alive().then_some(recorded)
    }

    /// The farm that is recorded in `home`, alive or not.
    pub fn recorded(home: &Home) -> Option<Self> {
        let text = fs::read(record(home)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// The ticket of its administrator.
    ///
    /// # Errors
    ///
    /// The file that holds it cannot be read.
    pub fn ticket(&self) -> Result<Ticket, LaunchError> {
        read_ticket(&self.admin_ticket)
    }

    /// Starts processes that outlive this one, and records them. The state is that of the last such farm.
    ///
    /// `former` is one whose scheduler has died: the new one listens where it did, unless another address is asked for,
    /// and those of its workers that still wait for it are taken over.
    ///
    /// # Errors
    ///
    /// A process cannot be started, or ends at once.
    pub async fn start(
        exe: &Path,
        home: &Home,
        listen: Option<SocketAddr>,
        size: Workers,
        former: Option<&Self>,
    ) -> Result<Self, LaunchError> {
        let folder = home.local_farm();
        let io = |source| LaunchError::Folder { path: folder.clone(), source };
        farm_link::identity::private_folder(&folder).map_err(io)?;
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        // Somebody else may listen there by now.
        let same = former.map(|former| former.address).filter(|address| UdpSocket::bind(address).is_ok());
        let listen = listen.or(same).unwrap_or(anywhere);
        let log = folder.join("scheduler.log");
        let mut command = Command::new(exe);
        command.args(["scheduler", "--new-session", "--output", "json", "--listen", &listen.to_string(), "--state"]);
        command.arg(home.standing_state());
        let mut scheduler = Self::spawn("scheduler", command, log)?;
        let announced = scheduler.announcement().await?;
        let worker_ticket = read_ticket(&announced.worker_ticket)?;
        let mut workers = former.map_or_else(Vec::new, |former| former.waiting_for(announced.address, size));
        for number in workers.len() as u32..size.workers {
            let mut command = worker_command(exe, &worker_ticket, number, size.slots);
            command.arg("--new-session");
            let worker = Self::spawn("worker", command, folder.join(format!("worker-{number}.log")))?;
            workers.push(worker.process().ok_or_else(|| io(gone()))?);
        }
        let farm = Self {
            scheduler: scheduler.process().ok_or_else(|| io(gone()))?,
            workers,
            admin_ticket: announced.admin_ticket,
            size,
            address: announced.address,
        };
        let text = serde_json::to_vec_pretty(&farm).map_err(|error| io(error.into()))?;
        fs::write(record(home), text).map_err(io)?;
        Ok(farm)
    }

    /// Its workers that wait for a scheduler at this address, if they are what is wanted; others are ended.
    fn waiting_for(&self, address: SocketAddr, size: Workers) -> Vec<Process> {
        if self.address == address && self.size == size && self.workers.iter().all(|worker| worker.is_alive()) {
            return self.workers.clone();
        }
        self.kill_workers();
        Vec::new()
    }

    fn spawn(what: &'static str, mut command: Command, log: PathBuf) -> Result<Part, LaunchError> {
        let file = fs::File::create(&log).map_err(|source| LaunchError::Folder { path: log.clone(), source })?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        let child = command.spawn().map_err(|source| LaunchError::Spawn { what, source })?;
        Ok(Part { what, child, log, lifeline: None })
    }

    /// Ends its workers at once, with whatever they are doing.
    pub fn kill_workers(&self) {
        self.workers.iter().for_each(|worker| worker.signal(rustix::process::Signal::KILL));
    }

    /// Waits until all its processes have ended, after [`crate::client::Client::shutdown`]; ends those that do not, and
    /// removes the record.
    ///
    /// # Errors
    ///
    /// The record cannot be removed.
    pub async fn await_end(&self, home: &Home) -> Result<(), LaunchError> {
        let all = || self.workers.iter().chain([&self.scheduler]).copied();
        for signal in [None, Some(rustix::process::Signal::TERM), Some(rustix::process::Signal::KILL)] {
            if let Some(signal) = signal {
                all().for_each(|process| process.signal(signal));
            }
            let since = Instant::now();
            while all().any(Process::is_alive) && since.elapsed() < STOP_TIMEOUT {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        let path = record(home);
        fs::remove_file(&path).map_err(|source| LaunchError::Folder { path, source })
    }
}

fn gone() -> io::Error {
    io::Error::other("a process ended right after its start")
}

fn record(home: &Home) -> PathBuf {
    home.local_farm().join("farm.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_process_that_ended_is_told_as_its_own() {
        let text = LogTail::of("INFO made the farm's CA\nerror: cannot listen\nhint: --listen takes another\n");
        assert_eq!(
            (text.to_string().as_str(), text.hint.as_deref()),
            (": cannot listen", Some("--listen takes another"))
        );
        let json = LogTail::of(r#"{"error":{"code":70,"hint":null,"message":"the disk is full"}}"#);
        assert_eq!((json.to_string().as_str(), json.hint), (": the disk is full", None));
    }

    #[test]
    fn of_one_that_died_without_a_word_the_end_of_the_log_is_told() {
        let log: String = (1..=9).map(|number| format!("line {number}\n")).collect();
        let tail = LogTail::of(&log).to_string();
        assert_eq!(
            tail.lines().map(str::trim).collect::<Vec<_>>()[1..],
            ["line 5", "line 6", "line 7", "line 8", "line 9"]
        );
        assert_eq!(LogTail::of("").to_string(), "");
    }
}
