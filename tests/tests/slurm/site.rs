//! A farm whose scheduler has a SLURM.

use std::fs;
use std::path::{Path, PathBuf};

use farm_tests::slurm::{Options, Slurm};
use farm_tests::{Command, Scheduler, World, wait_for};
use rustix::process::Signal;
use serde_json::Value;

/// A private SLURM, and a scheduler on the host of its commands. Everything ends with it.
pub(crate) struct Site {
    // In the order in which they end: a worker whose scheduler is gone would wait for it.
    pub(crate) slurm: Slurm,
    pub(crate) scheduler: Scheduler,
    pub(crate) world: World,
    config: PathBuf,
    http: String,
    env: Vec<(&'static str, String)>,
}

/// How a site is, if it is not the usual one.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) slurm: Options,
    /// Shell commands before each worker.
    pub(crate) prologue: String,
    /// More lines for `[provider.slurm]` in `farm.toml`.
    pub(crate) lines: String,
    /// Where the scheduler listens, over UDP and over HTTP, if not at a free port of this machine.
    pub(crate) listens: Option<[String; 2]>,
    /// Variables of the scheduler's environment.
    pub(crate) env: Vec<(&'static str, String)>,
}

impl Site {
    /// With SLURM's usual nodes. `None`, once it has printed why, where there is no SLURM.
    pub(crate) fn start(options: Options) -> Option<Self> {
        Self::configured(options, "")
    }

    /// The same, with more lines for `[provider.slurm]` in `farm.toml`.
    pub(crate) fn configured(options: Options, lines: &str) -> Option<Self> {
        let world = World::new();
        let scratch = world.path().join("scratch");
        fs::create_dir(&scratch).unwrap_or_else(|error| panic!("cannot make {}: {error}", scratch.display()));
        // The nodes are this machine; a real one has its own.
        let prologue = format!("export TMPDIR={}", scratch.display());
        Self::planned(world, Plan { slurm: options, prologue, lines: lines.to_owned(), ..Plan::default() })
    }

    /// In a world that is there already. `None`, once it has printed why, where there is no SLURM.
    pub(crate) fn planned(world: World, plan: Plan) -> Option<Self> {
        let slurm = Slurm::start(plan.slurm)?;
        let Plan { prologue, lines, listens, mut env, .. } = plan;
        env.extend(slurm.environment());
        let config = format!("[provider.slurm]\npoll_period = \"1s\"\nprologue = '''\n{prologue}\n'''\n{lines}\n");
        let config = world.write("farm.toml", config);
        let [listen, http] = listens.unwrap_or_else(|| ["127.0.0.1:0"; 2].map(str::to_owned));
        let scheduler = scheduler(&world, &env, &config, [&listen, &http]);
        Some(Self { slurm, scheduler, world, config, http, env })
    }

    /// Kills the scheduler with -9.
    pub(crate) fn kill_scheduler(&mut self) {
        self.scheduler.signal(Signal::KILL);
        wait_for("the end of the scheduler", || (!self.scheduler.is_running()).then_some(()));
    }

    /// Starts the scheduler again, at its address and with its state.
    pub(crate) fn restart_scheduler(&mut self) {
        self.scheduler = scheduler(&self.world, &self.env, &self.config, [&self.scheduler.address, &self.http]);
    }

    /// A command of the farm's administrator.
    pub(crate) fn farm(&self, args: &[&str]) -> Command {
        self.world.farm(args).with_env("FARM_TICKET", self.scheduler.admin_ticket())
    }

    /// `farm cluster show --output json`.
    pub(crate) fn show(&self, cluster: &str) -> Value {
        self.farm(&["cluster", "show", cluster, "--output", "json"]).succeeds().json()
    }

    /// Waits until so many workers of a cluster are up, and no other is on its way; what `show` says then.
    pub(crate) fn until_up(&self, cluster: &str, count: u64) -> Value {
        let what = format!("{count} workers of {cluster}");
        self.until_cluster(cluster, &what, |status| {
            status["up"] == count && status["queued"] == 0 && status["starting"] == 0
        })
    }

    /// Waits until a cluster is so; what `show` says then.
    pub(crate) fn until_cluster(&self, cluster: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, || Some(self.show(cluster)).filter(&is_so))
    }

    /// SLURM's jobs of the farm that have not ended.
    pub(crate) fn live_jobs(&self) -> Vec<String> {
        let live = |state: &str| matches!(state, "PENDING" | "RUNNING" | "COMPLETING" | "CONFIGURING" | "SUSPENDED");
        self.slurm.jobs().into_iter().filter(|job| live(&job.state)).map(|job| job.id).collect()
    }
}

fn scheduler(world: &World, env: &[(&str, String)], config: &Path, [listen, http]: [&str; 2]) -> Scheduler {
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, &**value)).collect();
    let config = config.display().to_string();
    world.scheduler_at(listen, &["--http", http, "--config", &config], &env)
}
