//! Workers as processes of this host.
//!
//! They outlive the scheduler: a worker waits for it to come back, and whoever comes back knows it by its record, one
//! file a worker in a folder of the scheduler's state:
//!
//! ```text
//! LEASE.json    process, cluster, farm, and how it ended
//! LEASE.log     its stderr
//! ```
//!
//! A process is told apart from a later one with the same id by when it started. There is never one without a record: it
//! starts as a shell that waits for the word that the record is there, and ends if it does not get it.

mod record;

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use farm_link::identity::private_folder;
use farm_proto::cluster::Plan;
use rustix::process::Signal;

use self::record::{Process, Record};
use super::{LocalConfig, Member, Order, ProviderError, QueueState, lease, quoted, quoted_line, tail};
use crate::sync::locked;

/// How long a process may take to end that was told to. Its own grace time is less.
const KILL_AFTER: Duration = Duration::from_secs(30);
/// How long what has ended is told, as SLURM does.
const REMEMBERED: Duration = Duration::from_secs(300);
/// A log that has become longer begins again.
const MAX_LOG: u64 = 4 << 20;

/// Waits for the word, then becomes the worker. The ticket comes with the word.
const SHELL: &str = "IFS= read -r FARM_TICKET || exit 1\nexport FARM_TICKET\n";

#[derive(Debug)]
pub(crate) struct Local {
    config: LocalConfig,
    folder: PathBuf,
    program: PathBuf,
    /// By lease, those that this scheduler started: their ends have a status.
    children: Mutex<HashMap<String, Child>>,
}

impl Local {
    /// Workers are processes of `program`, with records in `folder`, which is made.
    ///
    /// # Errors
    ///
    /// The folder cannot be made.
    pub(crate) fn new(config: LocalConfig, folder: PathBuf, program: PathBuf) -> Result<Self, ProviderError> {
        private_folder(&folder).map_err(state_error(&folder))?;
        Ok(Self { config, folder, program, children: Mutex::default() })
    }

    pub(super) async fn submit(&self, order: &Order) -> Result<(), ProviderError> {
        for lease in order.leases() {
            self.start(order, &lease)?;
        }
        Ok(())
    }

    fn start(&self, order: &Order, lease: &str) -> Result<(), ProviderError> {
        let log_path = self.log(lease);
        // Appended to, so that it can begin again while it is written.
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path);
        let log = log.map_err(state_error(&log_path))?;
        let mut command = Command::new("sh");
        command.arg("-c").arg(self.shell(order)).args(self.words(order, lease));
        command.envs(order.spec.env.iter().map(|(name, value)| (name, value))).env_remove("FARM_TICKET");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        // Of its own: a terminal's Ctrl-C is for the scheduler.
        let mut child = command.process_group(0).spawn().map_err(state_error(Path::new("sh")))?;
        let word = child.stdin.take();
        let record = Record {
            farm: order.farm.clone(),
            cluster: order.spec.name.clone(),
            lease: lease.to_owned(),
            process: Process::of(child.id()),
            ends_s: order.spec.time_s.map(|time| unix_s().saturating_add(time)),
            told_s: None,
            ended: None,
        };
        let written = record.write(&self.folder);
        locked(&self.children).insert(lease.to_owned(), child);
        // Without the word, which goes with `word`, the shell ends.
        written?;
        if let Some(mut word) = word {
            // If it is gone already, its end says so.
            let _ = word.write_all(format!("{}\n", order.ticket).as_bytes());
        }
        Ok(())
    }

    fn shell(&self, order: &Order) -> String {
        let prologue = self.config.prologue(&order.spec).map(|commands| commands + "\n").unwrap_or_default();
        format!("{SHELL}{prologue}exec \"$0\" \"$@\" </dev/null")
    }

    fn words(&self, order: &Order, lease: &str) -> Vec<String> {
        let program = order.spec.worker_binary.clone().unwrap_or_else(|| self.program.display().to_string());
        let slots = order.spec.cores.to_string();
        let words = [program.as_str(), "worker", "--name", lease, "--slots", &slots];
        let mut words = words.map(str::to_owned).to_vec();
        words.extend(order.spec.time_s.map(|time| format!("--time={time}s")));
        words
    }

    pub(super) fn poll(&self, farm: &str) -> Result<Vec<Member>, ProviderError> {
        let mut members = Vec::new();
        for mut record in Record::all(&self.folder)? {
            if record.farm != farm {
                continue;
            }
            let is_alive = self.look_at(&mut record)?;
            if record.ended.as_ref().is_some_and(|ended| ended.at_s.saturating_add(REMEMBERED.as_secs()) < unix_s()) {
                self.forget(&record.lease);
                continue;
            }
            if is_alive {
                self.bound_log(&record.lease);
            }
            members.push(self.member(record));
        }
        Ok(members)
    }

    /// Writes down the end of a process, and ends one whose time is over. Whether it is alive.
    fn look_at(&self, record: &mut Record) -> Result<bool, ProviderError> {
        if record.ended.is_some() {
            return Ok(false);
        }
        let status = self.status(&record.lease);
        let is_alive = status.is_none() && record.process.is_some_and(Process::is_alive);
        if !is_alive {
            record.end(unix_s(), status.map_or_else(|| "ended".to_owned(), end_word));
            record.write(&self.folder)?;
        } else if record.ends_s.is_some_and(|ends| ends <= unix_s()) && record.told_s.is_none() {
            record.told_s = Some(unix_s());
            record.write(&self.folder)?;
            end(record);
        }
        Ok(is_alive)
    }

    /// How a process of ours has ended, if it has.
    fn status(&self, lease: &str) -> Option<ExitStatus> {
        let mut children = locked(&self.children);
        let status = children.get_mut(lease)?.try_wait().ok()??;
        children.remove(lease);
        Some(status)
    }

    fn member(&self, record: Record) -> Member {
        let reason = record.ended.is_some().then(|| self.log_tail(&record.lease)).flatten();
        Member {
            id: record.lease.clone(),
            cluster: record.cluster,
            lease: record.lease,
            state: record.ended.map_or(QueueState::Running, |ended| QueueState::Ended(ended.word)),
            reason,
            node: record.process.map(|process| format!("process {}", process.pid)),
            ends: record.ends_s.map(|ends| SystemTime::UNIX_EPOCH + Duration::from_secs(ends)),
        }
    }

    pub(super) fn cancel(&self, ids: &[String]) -> Result<(), ProviderError> {
        let all = Record::all(&self.folder)?;
        for record in all.iter().filter(|record| ids.contains(&record.lease) && record.ended.is_none()) {
            end(record);
        }
        Ok(())
    }

    pub(super) fn plan(&self, order: &Order) -> Plan {
        let command = |lease: String| {
            let words = self.words(order, &lease);
            match self.config.prologue(&order.spec) {
                None => quoted_line(&words),
                Some(commands) => {
                    format!("sh -c {} {}", quoted(&format!("{commands}\nexec \"$0\" \"$@\"")), quoted_line(&words))
                }
            }
        };
        let env: String = order.spec.env.iter().map(|(name, value)| format!("{name}={} ", quoted(value))).collect();
        let commands = (0..order.count).map(|index| format!("{env}{}", command(lease(&order.base, index))));
        Plan { script: String::new(), commands: commands.collect() }
    }

    pub(super) fn log_tail(&self, lease: &str) -> Option<String> {
        let mut file = fs::File::open(self.log(lease)).ok()?;
        let length = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(8 << 10))).ok()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let text = tail(&text);
        (!text.is_empty()).then(|| text.to_owned())
    }

    fn bound_log(&self, lease: &str) {
        let path = self.log(lease);
        if fs::metadata(&path).is_ok_and(|data| data.len() > MAX_LOG) {
            // Fails if the folder is being taken away, which other things complain of.
            let _ = OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(0));
        }
    }

    fn forget(&self, lease: &str) {
        // In this order: a log without a record would stay for good. What is gone already need not be removed.
        let _ = fs::remove_file(self.log(lease));
        let _ = fs::remove_file(Record::path(&self.folder, lease));
    }

    fn log(&self, lease: &str) -> PathBuf {
        self.folder.join(format!("{lease}.log"))
    }
}

/// Tells a worker to end, and makes it.
fn end(record: &Record) {
    let Some(process) = record.process else { return };
    // Not its group: its slots are the worker's to end. A shell that has not become it yet just ends.
    process.signal(Signal::TERM);
    tokio::spawn(async move {
        tokio::time::sleep(KILL_AFTER).await;
        process.kill_group();
    });
}

fn end_word(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn state_error(path: &Path) -> impl FnOnce(std::io::Error) -> ProviderError {
    let path = path.display().to_string();
    move |source| ProviderError::State { path, source }
}

#[cfg(test)]
mod tests;
