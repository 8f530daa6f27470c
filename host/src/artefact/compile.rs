//! Compiling, in a process of its own.
//!
//! Compilers are large programs which are fed by strangers. A module that makes one run for hours, eat all memory or
//! crash must cost no more than its own job: so a worker starts a child, which bounds its own memory and is killed when
//! its time is up.
//!
//! What parent and child say to each other is no interface: both are the same program.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use farm_proto::ids::Digest;
use farm_proto::job::Profile;
use rustix::process::{Resource, Rlimit, Signal};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use super::{ArtefactError, Cache, precompile, profile_name};
use crate::sandbox::{Layout, compiler, size_in_words};

/// The hidden subcommand of the program that a [`Compiler`] starts: it hands the arguments after it to
/// [`compile_main`].
pub const COMPILE_COMMAND: &str = "compile-module";

/// What the child's exit code says. Others are those of a process that failed before or in [`compile_main`].
mod exit {
    pub(super) const BAD_MODULE: u8 = 65;
    pub(super) const NO_OUTPUT: u8 = 73;
    pub(super) const DISK_FULL: u8 = 74;
    pub(super) const USAGE: u8 = 64;
}

/// Compiles modules into a [`Cache`], one child process for each.
#[derive(Debug, Clone)]
pub struct Compiler {
    program: PathBuf,
    cache: Cache,
    memory: u64,
    timeout: Duration,
}

impl Compiler {
    /// Address space that one compilation may use on a machine of one core: enough for a CPython with numpy.
    pub const MEMORY: u64 = 8 << 30;
    /// For each further core. A thread reserves its stack and an arena of the allocator without using them.
    const MEMORY_OF_THREAD: u64 = 192 << 20;
    /// Time that one compilation may take: ten times what the largest known module takes on two cores.
    pub const TIMEOUT: Duration = Duration::from_secs(600);

    /// A compiler that starts `program` (usually [`std::env::current_exe`]) with [`COMPILE_COMMAND`].
    pub fn new(program: impl Into<PathBuf>, cache: Cache) -> Self {
        let memory = Self::MEMORY + threads() * Self::MEMORY_OF_THREAD;
        Self { program: program.into(), cache, memory, timeout: Self::TIMEOUT }
    }

    /// Bounds the address space of a child, in bytes.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// Bounds the time of a child.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The folder that it compiles into.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The artefact of a module for the engines of this process: from the cache, or made now.
    ///
    /// `module` is a file of prepared bytes, and `digest` theirs. Dropping the future kills the child and leaves nothing
    /// behind that [`Cache::get`] would take. Two calls for one module at a time do the work twice and give the same.
    ///
    /// # Errors
    ///
    /// See [`ArtefactError`]; [`ArtefactError::is_of_module`] tells the job's faults from the worker's.
    pub async fn compile(&self, module: &Path, digest: &Digest, profile: Profile) -> Result<PathBuf, ArtefactError> {
        let artefact = self.cache.path(digest, profile)?;
        if self.cache.get(digest, profile)?.is_some() {
            return Ok(artefact);
        }
        let temporary = self.cache.temporary()?;
        let started = tokio::time::Instant::now();
        self.run(module, &temporary, profile).await?;
        tracing::info!(%digest, elapsed = ?started.elapsed(), "compiled a module");
        self.cache.adopt(&temporary, &artefact)?;
        Ok(artefact)
    }

    async fn run(&self, module: &Path, output: &Path, profile: Profile) -> Result<(), ArtefactError> {
        let program = |source| ArtefactError::io(&self.program, source);
        let mut child = Command::new(&self.program)
            .arg(COMPILE_COMMAND)
            .arg(profile_name(profile))
            .arg(Layout::of_process().as_str())
            .arg(self.memory.to_string())
            .arg(self.timeout.as_secs().saturating_add(1).to_string())
            .arg(module)
            .arg(output)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(program)?;
        let mut stderr = child.stderr.take();
        let run = async {
            let mut text = Vec::new();
            if let Some(stderr) = &mut stderr {
                // Bounded, because what a compiler says of a hostile module is no more trusted than the module.
                stderr.take(64 << 10).read_to_end(&mut text).await?;
            }
            Ok((child.wait().await?, text))
        };
        match tokio::time::timeout(self.timeout, run).await {
            Ok(ended) => {
                let (status, stderr) = ended.map_err(program)?;
                self.read_end(status, &String::from_utf8_lossy(&stderr))
            }
            Err(_) => {
                // Waits for its end as well.
                _ = child.kill().await;
                Err(ArtefactError::TimedOut { seconds: self.timeout.as_secs() })
            }
        }
    }

    fn read_end(&self, status: ExitStatus, stderr: &str) -> Result<(), ArtefactError> {
        let message = stderr.trim().to_owned();
        let directory = || self.cache.directory().to_path_buf();
        match status.code() {
            Some(0) => Ok(()),
            Some(code) if code == i32::from(exit::BAD_MODULE) => Err(ArtefactError::BadModule(message)),
            Some(code) if code == i32::from(exit::DISK_FULL) => Err(ArtefactError::DiskFull { path: directory() }),
            Some(code) if code == i32::from(exit::NO_OUTPUT) => {
                Err(ArtefactError::Io { path: directory(), source: std::io::Error::other(message) })
            }
            code => {
                // Rust's allocator says so before it aborts; threads and maps fail with the kernel's words.
                let memory = ["memory allocation of", "Cannot allocate memory", "os error 12", "os error 11"];
                if memory.iter().any(|words| stderr.contains(words)) {
                    return Err(ArtefactError::OutOfMemory { limit: size_in_words(self.memory) });
                }
                let cause = match (code, status.signal()) {
                    (Some(code), _) => format!("exit code {code}"),
                    (None, Some(signal)) => format!("signal {signal}"),
                    (None, None) => "an unknown cause".to_owned(),
                };
                let last = message.lines().next_back().unwrap_or_default();
                Err(ArtefactError::Died { cause: if last.is_empty() { cause } else { format!("{cause}: {last}") } })
            }
        }
    }
}

/// How many threads a compiler may use.
fn threads() -> u64 {
    std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64)
}

/// The child: what a program does after [`COMPILE_COMMAND`], with the arguments that follow it.
pub fn compile_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    crate::signals::leave_to_agent();
    let args: Vec<OsString> = args.into_iter().collect();
    match Job::parse(&args).ok_or_else(|| Ending { code: exit::USAGE, message: "wrong arguments".to_owned() }) {
        Ok(job) => match job.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(ending) => ending.report(),
        },
        Err(ending) => ending.report(),
    }
}

/// How the child ends that has no artefact.
struct Ending {
    code: u8,
    message: String,
}

impl Ending {
    fn report(self) -> ExitCode {
        // There is nobody else to tell if this fails.
        _ = writeln!(std::io::stderr(), "{}", self.message);
        ExitCode::from(self.code)
    }
}

struct Job<'a> {
    profile: Profile,
    layout: Layout,
    memory: u64,
    seconds: u64,
    module: &'a Path,
    output: &'a Path,
}

impl<'a> Job<'a> {
    fn parse(args: &'a [OsString]) -> Option<Self> {
        let [profile, layout, memory, seconds, module, output] = args else {
            return None;
        };
        let number = |text: &OsStr| text.to_str()?.parse().ok();
        let profile = [Profile::Fast, Profile::Metered].into_iter().find(|known| profile == profile_name(*known))?;
        Some(Self {
            profile,
            layout: layout.to_str()?.parse().ok()?,
            memory: number(memory)?,
            seconds: number(seconds)?,
            module: Path::new(module),
            output: Path::new(output),
        })
    }

    fn run(&self) -> Result<(), Ending> {
        self.bound();
        let mut bytes = Vec::new();
        fs::File::open(self.module).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(|error| Ending {
            code: exit::NO_OUTPUT,
            message: format!("{}: {error}", self.module.display()),
        })?;
        let bad_module = |error: wasmtime::Error| Ending { code: exit::BAD_MODULE, message: format!("{error:#}") };
        let engine = compiler(self.profile, self.layout).map_err(bad_module)?;
        let artefact = precompile(&engine, &bytes).map_err(bad_module)?;
        fs::write(self.output, artefact).map_err(|error| match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Ending { code: exit::DISK_FULL, message: error.to_string() }
            }
            _ => Ending { code: exit::NO_OUTPUT, message: format!("{}: {error}", self.output.display()) },
        })
    }

    /// Takes away from this process what it must not use. Where the kernel refuses, the parent's clock still runs.
    fn bound(&self) {
        let lower = |resource: Resource, limit: u64| {
            let now = rustix::process::getrlimit(resource);
            let limit = now.current.map_or(limit, |current| current.min(limit));
            _ = rustix::process::setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) });
        };
        lower(Resource::As, self.memory);
        lower(Resource::Cpu, self.seconds.saturating_mul(threads() + 1));
        lower(Resource::Core, 0);
        _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    }
}
