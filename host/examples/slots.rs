//! What handing tasks to slot processes costs on top of the sandbox: integers in, one task each.
//!
//! ```sh
//! cargo run --release -p farm-host --example slots -- M.wasm FUNCTION [SECONDS]
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
        [] => compare("", "square", "3"),
        [module, function] => compare(module, function, "3"),
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

fn compare(module: &str, function: &str, seconds: &str) -> Result<()> {
    let setup = setup(module, function)?;
    let duration = Duration::from_secs(seconds.parse()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for slots in [1, 2] {
        let bare = bare_rate(module, function, seconds, slots)?;
        let options = LocalOptions { slots, ..LocalOptions::new(SlotCommand::this_program()?) };
        let mut failed = None;
        let mut first = None;
        let mut count = 0_u64;
        let begun = Instant::now();
        let run = run_locally(setup.clone(), Arguments::Range(u64::MAX >> 8), &options, |_, outcome| {
            if let Err(failure) = outcome.result {
                failed = Some(failure.to_string());
            }
            // Starting is not what is measured.
            first.get_or_insert_with(Instant::now);
            count += 1;
            failed.is_none()
                && !first.is_some_and(|first: Instant| count.is_multiple_of(64) && first.elapsed() > duration)
        });
        runtime.block_on(run)?;
        if let Some(failed) = failed {
            return Err(failed.into());
        }
        let first = first.ok_or("nothing was run")?;
        let rate = count as f64 / first.elapsed().as_secs_f64();
        println!(
            "{slots} slots: {rate:.0} tasks/s, {:.1} % of the sandbox's {bare:.0}; the first after {:.1} ms",
            100.0 * rate / bare,
            first.duration_since(begun).as_secs_f64() * 1e3
        );
    }
    Ok(())
}

/// What that many sandboxes do at the same time, without slots around them.
fn bare_rate(module: &str, function: &str, seconds: &str, processes: usize) -> Result<f64> {
    let children: Vec<_> = (0..processes)
        .map(|_| {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["bare", module, function, seconds]).stdout(Stdio::piped()).spawn()
        })
        .collect::<std::io::Result<_>>()?;
    let mut sum = 0.0;
    for child in children {
        sum += String::from_utf8(child.wait_with_output()?.stdout)?.trim().parse::<f64>()?;
    }
    Ok(sum)
}

fn bare(module: &str, function: &str, seconds: &str) -> Result<()> {
    let JobSetup { artefact, kind, function, limits, profile, env, inputs, command, result, .. } =
        setup(module, function)?;
    let spec = SandboxSpec { kind, function, limits, profile, env, inputs, command, result };
    let duration = Duration::from_secs(seconds.parse()?);
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
        result: prepared.info.result_encoding(info, &command),
        command,
        range_start: Some(0),
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
