//! `farm bench`: what this machine does, measured through the same commands that users type.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use farm_client::args::{ArgSource, Arguments};
use farm_client::client::{Client, Update};
use farm_client::exit_codes;
use farm_client::home::Home;
use farm_client::job::{Job, JobOptions};
use farm_client::launch::{LocalFarm, Workers, cores};
use farm_client::modules::LoadedModule;
use farm_host::sandbox::{self, SandboxSpec};
use farm_proto::job::{CommandOptions, Limits, Profile};
use indicatif::HumanCount;
use serde::Serialize;

use super::{exe, job, print, print_json, run, tell};
use crate::cli::Output;
use crate::report::Report;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// A module with a function of one integer that is cheap to call.
    #[arg(default_value_os_t = default_module())]
    module: PathBuf,
    /// That function.
    #[arg(long, default_value = "square", value_name = "NAME")]
    function: String,
    /// Tasks of the large jobs.
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    tasks: u64,
    /// How often everything is measured; medians are printed.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Measure the sandbox alone, for so many milliseconds, and print the calls a second.
    #[arg(long, hide = true, value_name = "MS")]
    sandbox_for: Option<u64>,
}

/// Where `cargo xtask guests` puts the example.
fn default_module() -> PathBuf {
    let folder = std::env::var_os("FARM_GUESTS").map(PathBuf::from);
    folder.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests")).join("square.wasm")
}

/// What is measured. The names are a promise.
#[derive(Debug, Serialize)]
struct Figures {
    cores: u32,
    tasks: u64,
    runs: u32,
    /// Calls a second, each in a fresh instance, on one core.
    sandbox_one_core_per_s: f64,
    /// The same with a process on each core.
    sandbox_all_cores_per_s: f64,
    /// Tasks a second of `farm submit --range`, from the start of the command to its end.
    submit_range_per_s: f64,
    /// As a part of `sandbox_all_cores_per_s`.
    submit_range_share: f64,
    /// Tasks a second of `farm submit --args FILE`.
    submit_args_per_s: f64,
    submit_args_share: f64,
    /// One task on a farm that is up: submit to result.
    round_trip_median_ms: f64,
    round_trip_p99_ms: f64,
    /// `farm submit` of one task with no farm up, the whole command.
    first_result_cold_ms: f64,
    /// The same where the module has been compiled before.
    first_result_warm_ms: f64,
    /// Memory of the scheduler for each waiting task of a `--range` job.
    scheduler_bytes_per_queued_task: f64,
}

pub(crate) async fn bench(args: BenchArgs, output: Output) -> Result<u8, Report> {
    let home = Home::from_env();
    if !args.module.exists() {
        return Err(Report::new(exit_codes::BAD_MODULE, format!("there is no file {}", args.module.display()))
            .hint("`cargo xtask guests` makes the example modules; or name a module of your own"));
    }
    let module = job::load(&args.module, &home)?;
    if let Some(milliseconds) = args.sandbox_for {
        return sandbox_only(&args, &module, Duration::from_millis(milliseconds), &home).await;
    }
    let bench = Bench { exe: exe()?, module, folder: tempfile::tempdir()?, args };
    let figures = bench.measure().await?;
    match output {
        Output::Json => print_json(&figures)?,
        Output::Text => print(&figures.describe())?,
    }
    Ok(exit_codes::OK)
}

/// The child that measures the sandbox: a process, because that is what a slot is.
async fn sandbox_only(args: &BenchArgs, module: &LoadedModule, time: Duration, home: &Home) -> Result<u8, Report> {
    let (artefact, _prepared) = run::compile(module, Profile::Fast, home).await?;
    let function = module.function(Some(&args.function))?;
    let spec = SandboxSpec {
        kind: module.info.kind,
        function: function.info.name.clone(),
        limits: Limits::default(),
        profile: Profile::Fast,
        env: Vec::new(),
        inputs: None,
        command: CommandOptions::default(),
        result: module.info.result_encoding(&function.info, &CommandOptions::default()),
    };
    let thread = std::thread::Builder::new().stack_size(sandbox::THREAD_STACK_SIZE);
    let measuring = thread.spawn(move || sandbox::instances_per_second(&artefact, spec, b"12345", time))?;
    let rate = measuring.join().map_err(|_| Report::internal("the measuring thread panicked"))?;
    let rate = rate.map_err(|failure| Report::new(exit_codes::JOB_FAILED, failure.to_string()))?;
    print(&format!("{rate}\n"))?;
    Ok(exit_codes::OK)
}

struct Bench {
    exe: PathBuf,
    module: LoadedModule,
    folder: tempfile::TempDir,
    args: BenchArgs,
}

impl Bench {
    async fn measure(&self) -> Result<Figures, Report> {
        let tasks = self.args.tasks;
        let range = format!("0..{tasks}");
        let table = self.folder.path().join("args.json");
        self.write_table(&table)?;
        let table = table.display().to_string();

        tell("a first run, to fill the caches");
        self.submit(&["--range", "0..1"], "warm")?;
        tell("the sandbox alone");
        let one = self.median(|| self.sandbox(1))?;
        let all = self.median(|| self.sandbox(cores()))?;
        tell(&format!("{} tasks by --range", HumanCount(tasks)));
        let by_range = self.median(|| Ok(tasks as f64 / self.submit(&["--range", &range], "warm")?.as_secs_f64()))?;
        tell(&format!("{} tasks by --args", HumanCount(tasks)));
        let by_args = self.median(|| Ok(tasks as f64 / self.submit(&["--args", &table], "warm")?.as_secs_f64()))?;
        tell("single tasks on a farm that is up");
        let (median, p99) = self.round_trips().await?;
        tell("single tasks with no farm up");
        let mut number = 0;
        let cold = self.median(|| {
            number += 1;
            Ok(milliseconds(self.submit(&["--args", "[7]"], &format!("cold-{number}"))?))
        })?;
        let warm = self.median(|| Ok(milliseconds(self.submit(&["--args", "[7]"], "warm")?)))?;
        tell("tasks that wait");
        let queued = self.queued_bytes().await?;
        Ok(Figures {
            cores: cores(),
            tasks,
            runs: self.args.runs,
            sandbox_one_core_per_s: one,
            sandbox_all_cores_per_s: all,
            submit_range_per_s: by_range,
            submit_range_share: by_range / all,
            submit_args_per_s: by_args,
            submit_args_share: by_args / all,
            round_trip_median_ms: median,
            round_trip_p99_ms: p99,
            first_result_cold_ms: cold,
            first_result_warm_ms: warm,
            scheduler_bytes_per_queued_task: queued,
        })
    }

    fn median(&self, mut measure: impl FnMut() -> Result<f64, Report>) -> Result<f64, Report> {
        let mut values = (0..self.args.runs).map(|_| measure()).collect::<Result<Vec<_>, _>>()?;
        Ok(quantile(&mut values, 0.5))
    }

    fn write_table(&self, path: &Path) -> Result<(), Report> {
        use std::io::Write as _;
        let mut file = std::io::BufWriter::new(fs::File::create(path)?);
        write!(file, "[0")?;
        for number in 1..self.args.tasks {
            write!(file, ",{number}")?;
        }
        writeln!(file, "]")?;
        Ok(file.flush()?)
    }

    /// A `farm` that knows no farm but the one it makes, with a cache of its own.
    fn farm(&self, cache: &str) -> Command {
        let mut command = Command::new(&self.exe);
        command.env("FARM_HOME", self.folder.path().join("home"));
        command.env("FARM_CACHE", self.folder.path().join(cache));
        command.env_remove("FARM_TICKET").stdin(Stdio::null());
        command
    }

    fn submit(&self, args: &[&str], cache: &str) -> Result<Duration, Report> {
        let mut command = self.farm(cache);
        command.arg("submit").arg(&self.args.module).args(["--function", &self.args.function, "--out", "/dev/null"]);
        command.args(args).stderr(Stdio::piped());
        let since = Instant::now();
        let output = command.output()?;
        let took = since.elapsed();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Report::internal(format!("`farm submit` failed: {}", said.trim())));
        }
        Ok(took)
    }

    /// Calls a second in so many processes at once.
    fn sandbox(&self, processes: u32) -> Result<f64, Report> {
        let mut children = Vec::new();
        for _ in 0..processes {
            let mut command = self.farm("warm");
            command.args(["bench", "--sandbox-for", "2000", "--function", &self.args.function]).arg(&self.args.module);
            children.push(command.stdout(Stdio::piped()).spawn()?);
        }
        let mut sum = 0.0;
        for mut child in children {
            let mut line = String::new();
            if let Some(stdout) = child.stdout.take() {
                BufReader::new(stdout).read_line(&mut line)?;
            }
            child.wait()?;
            sum += line.trim().parse::<f64>().map_err(|_| Report::internal("the sandbox could not be measured"))?;
        }
        Ok(sum)
    }

    fn job(&self, arguments: Arguments) -> Result<Job, Report> {
        let function = self.module.function(Some(&self.args.function))?;
        Ok(Job::new(&self.module, &function, &JobOptions::default(), arguments))
    }

    fn range(&self, end: i64) -> Result<Arguments, Report> {
        let function = self.module.function(Some(&self.args.function))?;
        let source = ArgSource::Range { start: 0, end };
        Ok(Arguments::read(&source, &mut |element, out| function.encode(element, out))?)
    }

    /// Median and 99th percentile, in milliseconds, of 200 single tasks after 20 that warm up.
    async fn round_trips(&self) -> Result<(f64, f64), Report> {
        const WARM_UP: usize = 20;
        let farm = LocalFarm::start(&self.exe, Workers::on_this_machine(None)).await?;
        let client = Client::connect(&farm.admin, None).await?;
        let job = self.job(self.range(1)?)?;
        let mut times = Vec::new();
        for _ in 0..WARM_UP + 200 {
            let since = Instant::now();
            let mut watch = job.submit(&client, true, &|_| {}).await?;
            while let Some(update) = watch.next().await? {
                if let Update::Results { .. } = update {
                    times.push(milliseconds(since.elapsed()));
                }
            }
        }
        client.close().await;
        farm.stop().await;
        let mut times = times.split_off(WARM_UP.min(times.len()));
        Ok((quantile(&mut times, 0.5), quantile(&mut times, 0.99)))
    }

    /// What a waiting task costs a scheduler that no worker has come to.
    async fn queued_bytes(&self) -> Result<f64, Report> {
        let farm = LocalFarm::start(&self.exe, Workers { workers: 0, slots: 1 }).await?;
        let client = Client::connect(&farm.admin, None).await?;
        let tasks = self.args.tasks;
        let job = self.job(self.range(i64::try_from(tasks).unwrap_or(i64::MAX))?)?;
        // The first job brings the module and what every first time costs.
        self.job(self.range(1)?)?.submit(&client, false, &|_| {}).await?;
        let before = client.farm().await?.memory;
        job.submit(&client, false, &|_| {}).await?;
        let after = client.farm().await?;
        client.close().await;
        farm.stop().await;
        if after.counts.waiting < tasks {
            return Err(Report::internal("the tasks do not wait"));
        }
        Ok(after.memory.saturating_sub(before) as f64 / tasks as f64)
    }
}

impl Figures {
    fn describe(&self) -> String {
        let per_second = |rate: f64| format!("{}/s", HumanCount(rate as u64));
        format!(
            "on {} cores, medians of {} runs, {} tasks\n\
             sandbox alone, one core        {:>12}   {:.2} µs a call\n\
             sandbox alone, all cores       {:>12}\n\
             farm submit --range            {:>12}   {:.0} % of the sandbox alone\n\
             farm submit --args FILE        {:>12}   {:.0} % of the sandbox alone\n\
             round trip of one task         {:>9.2} ms   p99 {:.2} ms\n\
             first result with no farm up   {:>9.0} ms   cold {:.0} ms\n\
             scheduler, a queued task       {:>9.2} B\n",
            self.cores,
            self.runs,
            HumanCount(self.tasks),
            per_second(self.sandbox_one_core_per_s),
            1e6 / self.sandbox_one_core_per_s,
            per_second(self.sandbox_all_cores_per_s),
            per_second(self.submit_range_per_s),
            100.0 * self.submit_range_share,
            per_second(self.submit_args_per_s),
            100.0 * self.submit_args_share,
            self.round_trip_median_ms,
            self.round_trip_p99_ms,
            self.first_result_warm_ms,
            self.first_result_cold_ms,
            self.scheduler_bytes_per_queued_task,
        )
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
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
