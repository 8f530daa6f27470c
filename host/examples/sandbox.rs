//! The sandbox by itself, without a farm: what a module is, what a call gives, what a fresh instance costs.
//!
//! ```sh
//! cargo run --release -p farm-host --example sandbox -- inspect M.wasm
//! cargo run --release -p farm-host --example sandbox -- call M.wasm FUNCTION JSON
//! cargo run --release -p farm-host --example sandbox -- bench M.wasm FUNCTION JSON [PROCESSES]
//! cargo run --release -p farm-host --example sandbox -- run M.wasm [--env K=V] [--dir HOST::GUEST] [-- ARGV…]
//! ```

use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use farm_host::artefact::{COMPILE_COMMAND, Cache, Compiler, compile_main};
use farm_host::module::{ArgumentChecker, Prepared, encode_argument, prepare};
use farm_host::program::{ProgramError, ProgramOptions, run};
use farm_host::sandbox::{Sandbox, SandboxSpec, THREAD_STACK_SIZE, Task, instances_per_second};
use farm_proto::ids::JobId;
use farm_proto::job::{CommandOptions, Limits, Profile};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|first| first == COMPILE_COMMAND) {
        return compile_main(args.split_off(1));
    }
    // A slot's thread has this stack as well.
    let thread = std::thread::Builder::new().stack_size(THREAD_STACK_SIZE).spawn(move || {
        let args: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
        dispatch(&args)
    });
    let ended =
        thread.map_err(Into::into).and_then(|thread| thread.join().unwrap_or_else(|_| Err("it panicked".into())));
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[&str]) -> Result<ExitCode> {
    match args {
        ["inspect", module] => {
            let Prepared { info, .. } = prepare(std::fs::read(module)?)?;
            println!("{}", serde_json::to_string_pretty(&info)?);
        }
        ["call", module, function, json] => {
            let opened = Opened::new(module, function, json)?;
            let mut sandbox = Sandbox::open(&opened.artefact, opened.spec).map_err(|failure| failure.to_string())?;
            let mut result = Vec::new();
            let task = Task { job: JobId(1), index: 0, attempt: 0, argument: &opened.argument };
            let ended = sandbox.call(task, &mut result);
            println!("{}", String::from_utf8_lossy(&result));
            eprintln!("{ended:#?}");
        }
        ["bench", module, function, json] => bench(module, function, json, 1)?,
        ["bench", module, function, json, processes] => bench(module, function, json, processes.parse()?)?,
        ["run", rest @ ..] => return program(rest),
        _ => return Err("inspect M | call M FUNCTION JSON | bench M FUNCTION JSON [PROCESSES] | run M …".into()),
    }
    Ok(ExitCode::SUCCESS)
}

struct Opened {
    artefact: PathBuf,
    spec: SandboxSpec,
    argument: Vec<u8>,
}

impl Opened {
    fn new(module: &str, function: &str, json: &str) -> Result<Self> {
        let (prepared, artefact) = compile(Path::new(module))?;
        let function = prepared.info.find((!function.is_empty()).then_some(function))?;
        ArgumentChecker::new(function).check(json.as_bytes())?;
        let mut argument = Vec::new();
        encode_argument(prepared.info.kind, function, json.as_bytes(), &mut argument)?;
        let command = CommandOptions::default();
        let spec = SandboxSpec {
            kind: prepared.info.kind,
            function: function.name.clone(),
            limits: Limits::default(),
            profile: Profile::Fast,
            env: Vec::new(),
            inputs: None,
            outputs: None,
            secrets: None,
            result: prepared.info.result_encoding(function, &command),
            command,
        };
        Ok(Self { artefact, spec, argument })
    }
}

/// Compiles as a worker does: in a child process, into a private folder.
fn compile(module: &Path) -> Result<(Prepared, PathBuf)> {
    let prepared = prepare(std::fs::read(module)?)?;
    let cache =
        Cache::open(std::env::temp_dir().join(format!("farm-sandbox-{}", rustix::process::geteuid().as_raw())))?;
    let file = cache.directory().join(format!("{}.wasm", prepared.info.digest));
    std::fs::write(&file, &prepared.bytes)?;
    let compiler = Compiler::new(std::env::current_exe()?, cache);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let artefact = runtime.block_on(compiler.compile(&file, &prepared.info.digest, Profile::Fast))?;
    Ok((prepared, artefact))
}

fn bench(module: &str, function: &str, json: &str, processes: u32) -> Result<()> {
    const DURATION: Duration = Duration::from_secs(3);
    if processes > 1 {
        let children: Vec<_> = (0..processes)
            .map(|_| {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["bench", module, function, json]).stdout(Stdio::piped()).spawn()
            })
            .collect::<std::io::Result<_>>()?;
        let mut sum = 0.0;
        for child in children {
            let output = String::from_utf8(child.wait_with_output()?.stdout)?;
            sum += output.split(' ').next().ok_or("no output")?.parse::<f64>()?;
        }
        println!("{sum:.0} calls/s by {processes} processes");
        return Ok(());
    }
    let opened = Opened::new(module, function, json)?;
    let cpu = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let before = cpu();
    let rate = instances_per_second(&opened.artefact, opened.spec, &opened.argument, DURATION)
        .map_err(|failure| failure.to_string())?;
    // On a busy machine this is the truer number.
    let of_cpu = (cpu() - before) * 1e6 / (rate * DURATION.as_secs_f64());
    println!("{rate:.0} calls/s, {:.2} µs each, of which {of_cpu:.2} µs on the processor", 1e6 / rate);
    Ok(())
}

/// `farm run` for commands.
fn program(args: &[&str]) -> Result<ExitCode> {
    let mut options = ProgramOptions::default();
    let mut module = None;
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match *arg {
            "--env" => {
                let (name, value) = rest.next().and_then(|pair| pair.split_once('=')).ok_or("--env K=V")?;
                options.env.push((name.to_owned(), value.to_owned()));
            }
            "--dir" => {
                let (host, guest) = rest.next().and_then(|pair| pair.split_once("::")).ok_or("--dir HOST::GUEST")?;
                options.directories.push((host.into(), guest.to_owned()));
            }
            "--" => options.args.extend(rest.by_ref().map(|arg| (*arg).to_owned())),
            name => {
                options.name =
                    Path::new(name).file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
                module = Some(name);
            }
        }
    }
    let (_, artefact) = compile(Path::new(module.ok_or("which module?")?))?;
    match run(&artefact, &options) {
        // The low bits, as every operating system keeps them.
        Ok(code) => Ok(ExitCode::from((code & 0xff) as u8)),
        Err(ProgramError::Failed(failure)) => {
            eprintln!("{}", failure.0);
            for frame in failure.0.backtrace {
                eprintln!(
                    "  in {} {}:{}",
                    frame.function,
                    frame.file.unwrap_or_default(),
                    frame.line.unwrap_or_default()
                );
            }
            Ok(ExitCode::from(134))
        }
        Err(error) => Err(error.into()),
    }
}
