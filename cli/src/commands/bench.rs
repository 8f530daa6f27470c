//! `farm bench`: what this machine does, measured through the same commands that users type.

mod durable;
mod latency;
mod loss;
mod recovery;
mod sandbox;
mod standing;
mod submit;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use farm_client::args::{ArgSource, Arguments};
use farm_client::exit_codes;
use farm_client::home::Home;
use farm_client::job::{Job, JobOptions};
use farm_client::launch::cores;
use farm_client::modules::LoadedModule;
use farm_host::module;
use farm_link::identity::private_folder;
use indicatif::HumanCount;
use serde::Serialize;

use super::{exe, job, print, print_json, tell};
use crate::cli::{Output, heartbeat};
use crate::report::Report;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// A module with a function of one integer that is cheap to call.
    #[arg(default_value_os_t = default_module())]
    module: PathBuf,
    /// That function.
    #[arg(long, default_value = "square", value_name = "NAME")]
    function: String,
    /// Tasks of the large jobs. The largest has ten times as many.
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    tasks: u64,
    /// How often everything is measured; medians are printed, or the worst where that is what is promised.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Measure nothing but this. May be given several times.
    #[arg(long, value_name = "WHAT")]
    only: Vec<Group>,
    /// After how much silence the farms of this take a worker for lost.
    #[arg(long, hide = true, default_value = "10s", value_parser = heartbeat, value_name = "TIME")]
    heartbeat: Duration,
    /// Measure the sandbox alone, for so many milliseconds, and print the calls a second.
    #[arg(long, hide = true, value_name = "MS")]
    sandbox_for: Option<u64>,
}

/// What is measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// Calls without a farm.
    Sandbox,
    /// Large jobs on a farm that is made for each.
    Submit,
    /// Single tasks.
    Latency,
    /// What it costs that nothing acknowledged is ever lost.
    Durable,
    /// The start of a scheduler that was killed.
    Recovery,
    /// Workers that are killed or freeze.
    Loss,
}

/// Where `cargo xtask guests` puts the example.
fn default_module() -> PathBuf {
    let folder = std::env::var_os("FARM_GUESTS").map(PathBuf::from);
    folder.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests")).join("square.wasm")
}

/// What is measured; a group that was not asked for is absent. The names are a promise.
#[derive(Debug, Serialize)]
struct Figures {
    cores: u32,
    tasks: u64,
    runs: u32,
    #[serde(flatten)]
    sandbox: Option<sandbox::Figures>,
    #[serde(flatten)]
    submit: Option<submit::Figures>,
    #[serde(flatten)]
    latency: Option<latency::Figures>,
    #[serde(flatten)]
    durable: Option<durable::Figures>,
    #[serde(flatten)]
    recovery: Option<recovery::Figures>,
    #[serde(flatten)]
    loss: Option<loss::Figures>,
}

pub(crate) async fn bench(args: BenchArgs, output: Output) -> Result<u8, Report> {
    let home = Home::from_env();
    if !args.module.exists() {
        return Err(Report::new(exit_codes::BAD_MODULE, format!("there is no file {}", args.module.display()))
            .hint("`cargo xtask guests` makes the example modules; or name a module of your own"));
    }
    let module = job::load(&args.module, &home)?;
    if let Some(milliseconds) = args.sandbox_for {
        return sandbox::child(&args, &module, Duration::from_millis(milliseconds), &home).await;
    }
    let bench = Bench { exe: exe()?, module, home, folder: tempfile::tempdir()?, args };
    let figures = tokio::select! {
        figures = bench.measure() => figures?,
        // Not at once, so that what was written goes: a state folder may be large.
        () = super::submit::interrupted() => return Err(Report::silent(exit_codes::INTERRUPTED)),
    };
    match output {
        Output::Json => print_json(&figures)?,
        Output::Text => print(&figures.describe())?,
    }
    Ok(exit_codes::OK)
}

struct Bench {
    exe: PathBuf,
    module: LoadedModule,
    home: Home,
    folder: tempfile::TempDir,
    args: BenchArgs,
}

impl Bench {
    async fn measure(&self) -> Result<Figures, Report> {
        let mut figures = Figures {
            cores: cores(),
            tasks: self.args.tasks,
            runs: self.args.runs,
            sandbox: None,
            submit: None,
            latency: None,
            durable: None,
            recovery: None,
            loss: None,
        };
        let wants = |group| self.args.only.is_empty() || self.args.only.contains(&group);
        tell("a first run, to fill the caches");
        self.submit(&["--range", "0..1"], "warm")?;
        if wants(Group::Sandbox) {
            figures.sandbox = Some(sandbox::measure(self)?);
        }
        if wants(Group::Submit) {
            figures.submit = Some(submit::measure(self, figures.sandbox.as_ref()).await?);
        }
        if wants(Group::Latency) {
            figures.latency = Some(latency::measure(self).await?);
        }
        if wants(Group::Durable) {
            figures.durable = Some(durable::measure(self).await?);
        }
        if wants(Group::Recovery) {
            figures.recovery = Some(recovery::measure(self).await?);
        }
        if wants(Group::Loss) {
            figures.loss = Some(loss::measure(self).await?);
        }
        Ok(figures)
    }

    fn median(&self, mut measure: impl FnMut() -> Result<f64, Report>) -> Result<f64, Report> {
        let mut values = (0..self.args.runs).map(|_| measure()).collect::<Result<Vec<_>, _>>()?;
        Ok(median(&mut values))
    }

    /// A folder for farms with a store, where the user's own would be: a temporary folder may lie in memory.
    fn state_folder(&self) -> Result<tempfile::TempDir, Report> {
        let scheduler = self.home.scheduler();
        let parent = scheduler.parent().unwrap_or(&scheduler);
        private_folder(parent)?;
        let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(parent)?;
        tell(&format!("farms with a store, in {}", folder.path().display()));
        Ok(folder)
    }

    /// A `farm` that knows no farm but the one it makes, with a cache of its own.
    fn farm(&self, cache: &str) -> Command {
        let mut command = Command::new(&self.exe);
        command.env("FARM_HOME", self.folder.path().join("home"));
        command.env("FARM_CACHE", self.folder.path().join(cache));
        command.env_remove("FARM_TICKET").stdin(Stdio::null());
        command
    }

    /// `farm submit` of the function that is called, as quietly as it can be.
    fn submit_command(&self, args: &[&str], cache: &str) -> Command {
        let mut command = self.farm(cache);
        command.arg("submit").arg(&self.args.module).args(["--function", &self.args.function]);
        command.args(args).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn submit(&self, args: &[&str], cache: &str) -> Result<Duration, Report> {
        let mut command = self.submit_command(args, cache);
        command.args(["--out", "/dev/null"]);
        let since = Instant::now();
        let output = command.output()?;
        let took = since.elapsed();
        succeeded(&output)?;
        Ok(took)
    }

    fn job(&self, arguments: Arguments) -> Result<Job, Report> {
        let function = self.module.function(Some(&self.args.function))?;
        Ok(Job::new(&self.module, &function, &JobOptions::default(), arguments))
    }

    fn range(&self, end: u64) -> Result<Arguments, Report> {
        let function = self.module.function(Some(&self.args.function))?;
        let source = ArgSource::Range { start: 0, end: i64::try_from(end).unwrap_or(i64::MAX) };
        Ok(Arguments::read(&source, &mut |element, out| function.encode(element, out))?)
    }
}

fn succeeded(output: &std::process::Output) -> Result<(), Report> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Report::internal(format!("`farm submit` failed: {}", said.trim())))
}

impl Figures {
    fn describe(&self) -> String {
        let mut text =
            format!("on {} cores, medians of {} runs, {} tasks\n", self.cores, self.runs, HumanCount(self.tasks));
        let groups = [
            self.sandbox.as_ref().map(sandbox::Figures::lines),
            self.submit.as_ref().map(submit::Figures::lines),
            self.latency.as_ref().map(latency::Figures::lines),
            self.durable.as_ref().map(durable::Figures::lines),
            self.recovery.as_ref().map(recovery::Figures::lines),
            self.loss.as_ref().map(loss::Figures::lines),
        ];
        for Line { what, figure, more } in groups.into_iter().flatten().flatten() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", format!("{what:<30} {figure:>12}   {more}").trim_end());
        }
        text
    }
}

/// One figure, as people read it.
struct Line {
    what: &'static str,
    figure: String,
    more: String,
}

impl Line {
    fn new(what: &'static str, figure: String, more: impl Into<String>) -> Self {
        Self { what, figure, more: more.into() }
    }
}

fn per_second(rate: f64) -> String {
    format!("{}/s", HumanCount(rate as u64))
}

/// Megabytes.
fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The size of what lies below a folder, as the disk counts it, in bytes.
fn disk_usage(folder: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { disk_usage(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(sum)
}

/// A module that is written down here.
fn module_of(text: &str) -> Result<LoadedModule, Report> {
    let prepared = module::prepare(text.into())?;
    Ok(LoadedModule { bytes: prepared.bytes.into(), info: prepared.info })
}

/// The largest value; 0 if there are none.
fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which that part of the values lies, by nearest rank; 0 if there are none.
fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (part * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_by_nearest_rank() {
        let mut values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert!((quantile(&mut values, 0.5) - 100.0).abs() < f64::EPSILON);
        assert!((quantile(&mut values, 0.99) - 198.0).abs() < f64::EPSILON);
        assert!(quantile(&mut [], 0.5).abs() < f64::EPSILON);
    }
}
