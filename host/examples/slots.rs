//! What handing tasks to slot processes costs on top of the sandbox: integers in, one task each.
//!
//! On a machine that is busy with other things, wall time says little; the CPU time a task, of all processes together,
//! says more. Short rounds take turns, and the median of the ratios counts.
//!
//! ```sh
//! cargo run --release -p farm-host --example slots -- [M.wasm FUNCTION [SECONDS]]
//! ```
//!
//! Without a module, a function in WAT that squares its argument.

use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use farm_host::artefact::{COMPILE_COMMAND, Cache, Compiler, compile_main};
use farm_host::module::prepare;
use farm_host::sandbox::{SandboxSpec, THREAD_STACK_SIZE, instances_per_second};
use farm_host::slot::{self, Arguments, JobSetup, LocalOptions, SlotCommand, run_locally};
use farm_proto::ids::JobId;
use farm_proto::job::{CommandOptions, Limits, Profile};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const SQUARE: &str = "(module (memory 1) (func (export \"square\") (param i64) (result i64)
    (i64.mul (local.get 0) (local.get 0))))";

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match args.first().and_then(|first| first.to_str()) {
        Some(COMPILE_COMMAND) => return compile_main(args.split_off(1)),
        Some("slot") => return slot::main(),
        _ => {}
    }
    let args: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let result = match args[..] {
        ["bare", module, function, seconds] => bare(module, function, seconds),
        [] => compare("", "square", "1"),
        [module, function] => compare(module, function, "1"),
        [module, function, seconds] => compare(module, function, seconds),
        _ => Err("M.wasm FUNCTION [SECONDS]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Rounds of either kind.
const ROUNDS: usize = 7;

/// Tasks a second of wall time, and seconds of CPU time a task.
#[derive(Debug, Clone, Copy)]
struct Rate {
    wall: f64,
    cpu: f64,
}

fn compare(module: &str, function: &str, seconds: &str) -> Result<()> {
    let setup = setup(module, function)?;
    let duration = Duration::from_secs_f64(seconds.parse()?);
    for slots in [1, 2] {
        let (mut wall, mut cpu) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let bare = bare_rate(module, function, seconds, duration, slots)?;
            let ours = slot_rate(&setup, duration, slots)?;
            wall.push((ours.wall / bare.wall, ours.wall));
            cpu.push((bare.cpu / ours.cpu, ours.cpu));
        }
        let ((wall_ratio, rate), (cpu_ratio, cost)) = (median(wall), median(cpu));
        println!(
            "{slots} slots: {rate:.0} tasks/s, {:.1} % of the sandbox's; {:.2} µs of CPU a task, {:.1} % as efficient",
            100.0 * wall_ratio,
            1e6 * cost,
            100.0 * cpu_ratio
        );
    }
    Ok(())
}

fn median(mut rounds: Vec<(f64, f64)>) -> (f64, f64) {
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    rounds[rounds.len() / 2]
}

fn slot_rate(setup: &JobSetup, duration: Duration, slots: usize) -> Result<Rate> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let options = LocalOptions { slots, ..LocalOptions::new(SlotCommand::this_program()?) };
    let (mut failed, mut first, mut count) = (None, None, 0_u64);
    let cpu = cpu_time()?;
    let run = run_locally(setup.clone(), Arguments::Range(u64::MAX >> 8), &options, |_, outcome| {
        if let Err(failure) = outcome.result {
            failed = Some(failure.to_string());
        }
        count += 1;
        // Starting is not what is measured.
        let first: Instant = *first.get_or_insert_with(Instant::now);
        failed.is_none() && !(count.is_multiple_of(64) && first.elapsed() > duration)
    });
    runtime.block_on(run)?;
    if let Some(failed) = failed {
        return Err(failed.into());
    }
    let elapsed = first.ok_or("nothing was run")?.elapsed().as_secs_f64();
    Ok(Rate { wall: count as f64 / elapsed, cpu: (cpu_time()? - cpu) / count as f64 })
}

/// What that many sandboxes do at the same time, without slots around them.
fn bare_rate(module: &str, function: &str, seconds: &str, duration: Duration, processes: usize) -> Result<Rate> {
    let cpu = cpu_time()?;
    let children: Vec<_> = (0..processes)
        .map(|_| {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["bare", module, function, seconds]).stdout(Stdio::piped()).spawn()
        })
        .collect::<std::io::Result<_>>()?;
    let mut wall = 0.0;
    for child in children {
        wall += String::from_utf8(child.wait_with_output()?.stdout)?.trim().parse::<f64>()?;
    }
    Ok(Rate { wall, cpu: (cpu_time()? - cpu) / (wall * duration.as_secs_f64()) })
}

/// CPU time of this process and of those that it has started and seen end, in seconds.
fn cpu_time() -> Result<f64> {
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no /proc/self/stat")?;
    let times = fields.split_whitespace().skip(11).take(4);
    let ticks: f64 = times.map(|ticks| ticks.parse().unwrap_or(0.0)).sum();
    Ok(ticks / TICKS_A_SECOND)
}

fn bare(module: &str, function: &str, seconds: &str) -> Result<()> {
    let JobSetup { artefact, kind, function, limits, profile, env, inputs, command, result, .. } =
        setup(module, function)?;
    let spec =
        SandboxSpec { kind, function, limits, profile, env, inputs, outputs: None, secrets: None, command, result };
    let duration = Duration::from_secs_f64(seconds.parse()?);
    let run = move || instances_per_second(&artefact, spec, b"12345", duration);
    let thread = std::thread::Builder::new().stack_size(THREAD_STACK_SIZE + (256 << 10)).spawn(run)?;
    let rate = thread.join().map_err(|_| "it panicked")?.map_err(|failure| failure.to_string())?;
    println!("{rate}");
    Ok(())
}

fn setup(module: &str, function: &str) -> Result<JobSetup> {
    let bytes = if module.is_empty() { SQUARE.as_bytes().to_vec() } else { std::fs::read(module)? };
    let prepared = prepare(bytes)?;
    let info = prepared.info.find(Some(function))?;
    let command = CommandOptions::default();
    Ok(JobSetup {
        job: JobId(1),
        artefact: compile(&prepared.bytes, &prepared.info.digest)?,
        kind: prepared.info.kind,
        function: info.name.clone(),
        limits: Limits::default(),
        profile: Profile::Fast,
        env: Vec::new(),
        inputs: None,
        outputs: None,
        secrets: None,
        result: prepared.info.result_encoding(info, &command),
        command,
        range_start: Some(0),
        fold: false,
    })
}

fn compile(bytes: &[u8], digest: &farm_proto::ids::Digest) -> Result<PathBuf> {
    let folder = format!("farm-slots-{}", rustix::process::geteuid().as_raw());
    let cache = Cache::open(std::env::temp_dir().join(folder))?;
    let file: &Path = &cache.directory().join(format!("{digest}.wasm"));
    std::fs::write(file, bytes)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(Compiler::new(std::env::current_exe()?, cache).compile(file, digest, Profile::Fast))?)
}
