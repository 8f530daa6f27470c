//! A farm that stays, whose processes can be killed one by one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use farm_client::client::Client;
use farm_client::launch::Announcement;
use farm_proto::message::FarmStatus;
use farm_proto::ticket::Ticket;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::{Bench, succeeded};
use crate::report::Report;

/// How long a scheduler may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a process may take to end by itself before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long anything else may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is looked at.
const INTERVAL: Duration = Duration::from_millis(5);

/// A scheduler and workers of their own. All end with this value.
pub(super) struct Standing<'a> {
    bench: &'a Bench,
    state: PathBuf,
    is_ephemeral: bool,
    scheduler: Child,
    admin: Ticket,
    worker_ticket: Ticket,
    workers: Vec<Child>,
}

impl<'a> Standing<'a> {
    /// A scheduler without workers, which keeps its state in a folder below `folder`.
    pub(super) async fn start(bench: &'a Bench, folder: &Path, is_ephemeral: bool) -> Result<Self, Report> {
        let state = folder.join(if is_ephemeral { "ephemeral" } else { "durable" });
        let (scheduler, announced) = scheduler(bench, &state, is_ephemeral).await?;
        let admin = ticket(&announced.admin_ticket)?;
        let worker_ticket = ticket(&announced.worker_ticket)?;
        Ok(Self { bench, state, is_ephemeral, scheduler, admin, worker_ticket, workers: Vec::new() })
    }

    pub(super) fn state(&self) -> &Path {
        &self.state
    }

    /// Starts a worker and waits until it has come.
    pub(super) async fn add_worker(&mut self, slots: u32) -> Result<(), Report> {
        let mut command = self.bench.farm("warm");
        command.args(["worker", "--end-with-stdin", "--name", "bench", "--slots", &slots.to_string()]);
        command.env("FARM_TICKET", self.worker_ticket.to_string());
        let (worker, _) = spawn(self.bench, command, "worker")?;
        self.workers.push(worker);
        let client = self.client().await?;
        let wanted = self.workers.len();
        wait_until(&client, "the worker comes", |status| status.workers.len() >= wanted).await?;
        client.close().await;
        Ok(())
    }

    pub(super) async fn client(&self) -> Result<Client, Report> {
        Ok(Client::connect(&self.admin, None).await?)
    }

    /// How long a `farm submit` takes here, from the start of the command to its end.
    pub(super) async fn submit(&self, args: &[&str]) -> Result<Duration, Report> {
        let mut command = self.bench.submit_command(args, "warm");
        command.env("FARM_TICKET", self.admin.to_string());
        let mut command = Command::from(command);
        command.kill_on_drop(true);
        let since = Instant::now();
        let output = command.output().await?;
        let took = since.elapsed();
        succeeded(&output)?;
        Ok(took)
    }

    /// Kills everything, the scheduler first.
    pub(super) async fn crash(&mut self) -> Result<(), Report> {
        self.scheduler.kill().await?;
        for mut worker in self.workers.drain(..) {
            worker.kill().await?;
        }
        Ok(())
    }

    /// Starts a scheduler on the state of one that crashed, and waits until it listens.
    pub(super) async fn start_again(&mut self) -> Result<(), Report> {
        let (scheduler, announced) = scheduler(self.bench, &self.state, self.is_ephemeral).await?;
        self.scheduler = scheduler;
        self.admin = ticket(&announced.admin_ticket)?;
        self.worker_ticket = ticket(&announced.worker_ticket)?;
        Ok(())
    }

    /// Sends a signal to the last worker.
    pub(super) fn signal_worker(&self, signal: Signal) -> Result<(), Report> {
        let id = self.workers.last().and_then(Child::id).and_then(|id| Pid::from_raw(id.cast_signed()));
        let id = id.ok_or_else(|| Report::internal("a worker ended by itself"))?;
        Ok(kill_process(id, signal).map_err(std::io::Error::from)?)
    }

    /// Kills the last worker, which may have died already.
    pub(super) async fn remove_worker(&mut self) -> Result<(), Report> {
        if let Some(mut worker) = self.workers.pop() {
            worker.kill().await?;
        }
        Ok(())
    }

    /// Lets all workers leave in order.
    pub(super) async fn end_workers(&mut self) -> Result<(), Report> {
        for worker in &mut self.workers {
            drop(worker.stdin.take());
        }
        for mut worker in self.workers.drain(..) {
            if tokio::time::timeout(STOP_TIMEOUT, worker.wait()).await.is_err() {
                worker.kill().await?;
            }
        }
        Ok(())
    }

    /// Ends everything. The state stays.
    pub(super) async fn end(mut self) -> Result<(), Report> {
        self.end_workers().await?;
        // What it keeps is thrown away.
        Ok(self.scheduler.kill().await?)
    }
}

async fn scheduler(bench: &Bench, state: &Path, is_ephemeral: bool) -> Result<(Child, Announcement), Report> {
    let mut command = bench.farm("warm");
    command.args(["scheduler", "--listen", "127.0.0.1:0", "--output", "json", "--end-with-stdin"]);
    command.arg("--state").arg(state);
    command.arg("--heartbeat").arg(format!("{}ms", bench.args.heartbeat.as_millis()));
    if is_ephemeral {
        command.arg("--ephemeral");
    }
    let (mut child, log) = spawn(bench, command, "scheduler")?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        let mut stdout = BufReader::new(stdout);
        // What is not there by then fails below.
        let _ = tokio::time::timeout(START_TIMEOUT, stdout.read_line(&mut line)).await;
    }
    let announced = serde_json::from_str(&line).map_err(|_| {
        let said = fs::read_to_string(log).unwrap_or_default();
        Report::internal(format!("a scheduler did not start: {}", said.lines().last().unwrap_or("it said nothing")))
    })?;
    Ok((child, announced))
}

fn spawn(bench: &Bench, command: std::process::Command, what: &str) -> Result<(Child, PathBuf), Report> {
    let log = bench.folder.path().join(format!("{what}.log"));
    let mut command = Command::from(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&log)?);
    // A process group of its own: Ctrl-C in the terminal is for the client, which then ends these.
    command.process_group(0).kill_on_drop(true);
    Ok((command.spawn()?, log))
}

fn ticket(path: &Path) -> Result<Ticket, Report> {
    Ok(fs::read_to_string(path)?.trim().parse()?)
}

/// Looks at the farm every few milliseconds until it is as it should be: how long that took.
pub(super) async fn wait_until(
    client: &Client,
    what: &str,
    is_so: impl Fn(&FarmStatus) -> bool,
) -> Result<Duration, Report> {
    let since = Instant::now();
    while !is_so(&client.farm().await?) {
        if since.elapsed() > PATIENCE {
            return Err(Report::internal(format!("waited in vain until {what}")));
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(since.elapsed())
}
