//! `farm scheduler` and `farm worker`: the processes of a farm.

use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use farm_client::exit_codes;
use farm_client::home::Home;
use farm_client::launch::{Announcement, cores};
use farm_host::agent::{self, AgentOptions};
use farm_proto::ticket::{Role, Ticket};
use farm_scheduler::config::Config;
use farm_scheduler::{Durability, Handle, Options, Scheduler};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::{last_words, print, tell};
use crate::cli::{Output, PartArgs, SchedulerArgs, WorkerArgs};
use crate::report::Report;

/// Sends the log to stderr. `FARM_LOG` chooses what is in it, as in `FARM_LOG=farm_scheduler=debug`; parts of a farm say
/// what happens, commands only what is wrong.
pub(crate) fn start_log(is_part: bool) {
    let default = if is_part { "info" } else { "warn" };
    let filter = EnvFilter::try_from_env("FARM_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    // Fails only if there is one already.
    let _ = log.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init();
}

/// Leaves the terminal's session if the process is to outlive it, and gives a future that is ready when whoever started
/// the process is gone; if that is not to end it, never.
fn owner_gone(part: PartArgs) -> impl Future<Output = ()> {
    if part.new_session
        && let Err(error) = rustix::process::setsid()
    {
        tracing::debug!(%error, "stays in the session of its parent");
    }
    let (gone, mut is_gone) = tokio::sync::mpsc::channel::<()>(1);
    if part.end_with_stdin {
        // A thread of its own: a read that blocks for the whole life of the process is nothing for the runtime, which
        // would wait for it at its end.
        std::thread::spawn(move || {
            let mut sink = [0; 64];
            while matches!(io::stdin().read(&mut sink), Ok(1..)) {}
            drop(gone);
        });
        return futures_util::future::Either::Left(async move {
            is_gone.recv().await;
            tracing::info!("whoever started this process is gone");
        });
    }
    futures_util::future::Either::Right(std::future::pending())
}

pub(crate) async fn scheduler(args: SchedulerArgs, output: Output) -> Result<u8, Report> {
    let owner_gone = owner_gone(args.part);
    let cannot = |error: io::Error| Report::internal("cannot wait for signals").because(&error);
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    // Removed when this ends.
    let temporary = match args.state {
        None if args.ephemeral => Some(temporary_state()?),
        _ => None,
    };
    let state = args.state.or_else(|| Some(temporary.as_ref()?.path().to_owned()));
    let state = state.unwrap_or_else(|| Home::from_env().scheduler());
    let mut options = Options::new(state).listen(args.listen);
    options.advertise = args.public_host;
    options.durability = if args.ephemeral { Durability::Ephemeral } else { Durability::Synced };
    options.keep_results = args.keep_results.0;
    options.heartbeat = args.heartbeat;
    options.config = configuration(args.config)?;
    options.certificate_validity = args.certificate_validity;
    options.http = args.http;
    let state = options.state.clone();
    let scheduler = Scheduler::start(options).await?;
    let announcement = Announcement {
        address: scheduler.local_addr(),
        admin_ticket: state.join("admin.ticket"),
        worker_ticket: state.join("worker.ticket"),
        http: scheduler.http_addr(),
    };
    match output {
        Output::Json => {
            let line = serde_json::to_string(&announcement).map_err(io::Error::from)?;
            print(&format!("{line}\n"))?;
        }
        Output::Text => tell(&format!(
            "listening on {}\nfor workers:        FARM_TICKET=$(cat {}) farm worker\nfor administrators: export FARM_TICKET=$(cat {})\n\
             for users:          farm ticket create --role user --name NAME",
            announcement.address,
            announcement.worker_ticket.display(),
            announcement.admin_ticket.display(),
        )),
    }
    let handle = scheduler.handle();
    let mut run = std::pin::pin!(scheduler.run());
    tokio::select! {
        result = &mut run => {
            result?;
            return Ok(exit_codes::OK);
        }
        // Whoever made the farm is gone, and nobody brings it back.
        () = owner_gone => handle.shutdown(),
        _ = terminate.recv() => stop(&handle, temporary.is_some()),
        _ = interrupt.recv() => stop(&handle, temporary.is_some()),
    }
    run.await?;
    drop(temporary);
    Ok(exit_codes::OK)
}

/// What is in the file that was named; without one, in the usual place, if it is there.
fn configuration(named: Option<PathBuf>) -> Result<Config, Report> {
    let usual = || Some(Home::from_env().config_file()).filter(|path| path.exists());
    let Some(path) = named.or_else(usual) else { return Ok(Config::default()) };
    let config = Config::read(&path)?;
    tracing::info!(path = %path.display(), "configured");
    Ok(config)
}

/// Stops a scheduler that was told to; one whose state goes with it does not come back.
fn stop(handle: &Handle, is_temporary: bool) {
    if is_temporary {
        tracing::info!("told to end, and the farm with it");
        handle.shutdown();
    } else {
        tracing::info!("told to stop; workers and clients wait for a scheduler to come back here");
        handle.stop();
    }
}

fn temporary_state() -> Result<tempfile::TempDir, Report> {
    let folder = tempfile::Builder::new().prefix("farm-scheduler-").tempdir();
    folder.map_err(|error| Report::internal("cannot make a temporary folder").because(&error))
}

pub(crate) async fn worker(args: WorkerArgs) -> Result<u8, Report> {
    let result = run_worker(args).await;
    if let Err(report) = &result {
        last_words::send(report);
    }
    result
}

/// Removed with this value.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %self.0.display(), %error, "cannot remove it");
        }
    }
}

/// How long the SLURM job may stay that this process is of, as far as it says so. Both ends are by the same clock, which
/// need not be this host's.
fn time_of_job() -> Option<Duration> {
    let seconds = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let (start, end) = (seconds("SLURM_JOB_START_TIME")?, seconds("SLURM_JOB_END_TIME")?);
    end.checked_sub(start).map(Duration::from_secs)
}

async fn run_worker(args: WorkerArgs) -> Result<u8, Report> {
    let scratch = args.scratch.map(Scratch);
    let owner_gone = owner_gone(args.part);
    let Some(ticket) = args.ticket else {
        return Err(Report::usage("a worker needs a ticket")
            .hint("FARM_TICKET or --ticket; a scheduler writes worker.ticket into its state folder"));
    };
    let ticket: Ticket = ticket.parse()?;
    if ticket.role != Role::Worker {
        return Err(Report::usage(format!("this is a ticket for a {}, not for a worker", ticket.role)).hint(
            "a scheduler writes worker.ticket into its state folder; `farm ticket create --role worker` makes others",
        ));
    }
    let slots = args.slots.unwrap_or_else(cores);
    if slots > cores() {
        tracing::warn!(slots, cores = cores(), "more slots than cores: tasks will wait for each other");
    }
    let name = args.name.unwrap_or_else(|| {
        std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map_or_else(|_| "worker".to_owned(), |name| name.trim().to_owned())
    });
    let home = Home::from_env();
    let cache = scratch.as_ref().map_or_else(|| home.cache(), |scratch| scratch.0.as_path());
    let options = AgentOptions::new(name, slots as usize, cache);
    let mut options = options.map_err(|error| Report::internal("cannot find the farm binary").because(&error))?;
    options.wait = args.wait;
    options.first_wait = args.first_wait;
    options.grace = args.grace;
    options.stay = args.time.into_iter().chain(time_of_job()).min();
    tokio::select! {
        result = agent::run(&ticket, options) => result?,
        () = owner_gone => {
            // What the dropped agent leaves undone, its slots' ends and its goodbye to the scheduler, takes a moment.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(exit_codes::OK)
}
