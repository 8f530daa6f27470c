//! WASI as tasks see it: what they print is kept, what they read is theirs, and everything else is not there.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use farm_proto::job::{ModuleKind, Profile};
use farm_proto::outcome::Captured;
use rand_core::{Infallible, TryRng};
use tokio::io::AsyncWrite;
use tokio::runtime::{EnterGuard, Runtime};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::{FsPerms, HostMonotonicClock, HostWallClock, WasiCtxBuilder, WasiCtxView, WasiView, async_trait};

use super::SandboxSpec;
use super::failure::Refusal;
use super::state::{Facts, Invocation, Shared, State, mix};

/// Where a job's inputs are.
pub(super) const INPUTS: &str = "/in";
/// Where a task may leave files.
const OUTPUTS: &str = "/out";
/// Where a job's secrets are.
pub(crate) const SECRETS: &str = "/secrets";
/// What a program is told that it is called, if its job does not say.
const ARGV_0: &str = "main.wasm";
/// How much a guest may write at a time. It could make the host allocate this much.
const WRITE_PERMIT: usize = 64 << 10;

/// The WASI context of one task, for both releases of WASI.
pub(super) struct Wasi {
    context: WasiP1Ctx,
    /// `None` for a program that prints where its user sees it.
    kept: Option<Kept>,
}

/// What is kept of what a task prints.
struct Kept {
    stdout: Sink,
    stderr: Sink,
    /// Whether standard output is the result, and so not captured.
    is_command: bool,
}

impl Wasi {
    /// # Errors
    ///
    /// A directory cannot be opened. Without one this does not fail.
    fn new(
        shared: &Shared,
        facts: Facts,
        invocation: Invocation,
        directories: &[(&Path, &str, FsPerms)],
    ) -> wasmtime::Result<Box<Self>> {
        let spec = &shared.spec;
        let is_command = spec.kind == ModuleKind::Command;
        let stdout = if is_command {
            Sink::new(spec.limits.result, WhenFull::Refuse)
        } else {
            Sink::new(spec.limits.output, WhenFull::Drop)
        };
        let stderr = Sink::new(spec.limits.output, WhenFull::Drop);
        // What the task names itself comes instead of what its job does.
        let is_overridden = |name: &String| invocation.env.iter().any(|(own, _)| own == name);
        let mut env: Vec<&(String, String)> = spec.env.iter().filter(|(name, _)| !is_overridden(name)).collect();
        env.extend(&invocation.env);
        let mut builder = WasiCtxBuilder::new();
        builder
            // One task runs in one thread: it may as well block there.
            .allow_blocking_current_thread(true)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .stdin(MemoryInputPipe::new(invocation.stdin))
            .stdout(stdout.clone())
            .stderr(stderr.clone())
            .arg(ARGV_0)
            .args(&invocation.args);
        for (name, value) in env {
            builder.env(name, value);
        }
        if spec.profile == Profile::Metered {
            builder
                .wall_clock(FixedClock)
                .monotonic_clock(TickingClock::default())
                .secure_random(SplitMix::new(facts.seed))
                .insecure_random(SplitMix::new(mix(facts.seed)))
                .insecure_random_seed(mix(facts.seed).into());
        }
        for (directory, name, permissions) in directories {
            builder.preopened_dir(directory, *name, *permissions)?;
        }
        let kept = Kept { stdout, stderr, is_command };
        Ok(Box::new(Self { context: builder.build_p1(), kept: Some(kept) }))
    }

    /// The context of a program of which nothing is kept.
    pub(super) fn of_program(context: WasiP1Ctx) -> Box<Self> {
        Box::new(Self { context, kept: None })
    }

    /// Moves what was printed into `captured`.
    pub(super) fn take_output(&self, captured: &mut Captured) {
        let Some(Kept { stdout, stderr, is_command }) = &self.kept else {
            return;
        };
        if !is_command {
            let mut stdout = stdout.lock();
            captured.stdout = std::mem::take(&mut stdout.bytes);
            captured.truncated |= stdout.truncated;
        }
        let mut stderr = stderr.lock();
        captured.stderr = std::mem::take(&mut stderr.bytes);
        captured.truncated |= stderr.truncated;
    }

    /// Takes what a command wrote to its standard output.
    pub(super) fn take_result(&self) -> Vec<u8> {
        self.kept.as_ref().map_or_else(Vec::new, |kept| std::mem::take(&mut kept.stdout.lock().bytes))
    }

    /// The end of what was written to standard error.
    pub(super) fn stderr_tail(&self) -> String {
        const TAIL: usize = 8 << 10;
        let Some(kept) = &self.kept else {
            return String::new();
        };
        let stderr = kept.stderr.lock();
        let start = stderr.bytes.len().saturating_sub(TAIL);
        String::from_utf8_lossy(&stderr.bytes[start..]).into_owned()
    }
}

impl State {
    /// The task's context, made now if this is the first use of it.
    pub(super) fn wasi(&mut self) -> &mut WasiP1Ctx {
        let Self { wasi, shared, facts, invocation, .. } = self;
        let wasi = wasi.get_or_insert_with(|| match Wasi::new(shared, *facts, std::mem::take(invocation), &[]) {
            Ok(wasi) => wasi,
            // Only opening a directory fails.
            Err(error) => unreachable!("{error}"),
        });
        &mut wasi.context
    }

    /// Makes the context with the job's directories in it, which may fail.
    pub(super) fn open_wasi(&mut self) -> wasmtime::Result<()> {
        let SandboxSpec { inputs, outputs, secrets, .. } = &self.shared.spec;
        let inputs = inputs.as_deref().map(|path| (path, INPUTS, FsPerms::ReadOnly));
        let outputs = outputs.as_deref().map(|path| (path, OUTPUTS, FsPerms::ReadWrite));
        let secrets = secrets.as_deref().map(|path| (path, SECRETS, FsPerms::ReadOnly));
        let directories: Vec<_> = [inputs, outputs, secrets].into_iter().flatten().collect();
        let invocation = std::mem::take(&mut self.invocation);
        self.wasi = Some(Wasi::new(&self.shared, self.facts, invocation, &directories)?);
        Ok(())
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi().ctx()
    }
}

/// What WASI needs to be entered for as long as a guest runs: its functions are asynchronous inside.
///
/// One more thread, for timers. Not wasmtime-wasi's own runtime, which starts a thread for each core in each slot.
pub(crate) fn enter_runtime() -> io::Result<EnterGuard<'static>> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if RUNTIME.get().is_none() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("wasi").enable_all().build()?;
        // A second thread that got here first has made an equal one.
        _ = RUNTIME.set(runtime);
    }
    match RUNTIME.get() {
        Some(runtime) => Ok(runtime.enter()),
        None => Err(io::Error::other("the runtime for WASI did not start")),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WhenFull {
    /// The guest goes on as if it had been taken.
    Drop,
    /// The guest ends here.
    Refuse,
}

#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    limit: usize,
    truncated: bool,
    when_full: WhenFull,
}

/// Keeps what a guest prints, up to a limit.
#[derive(Debug, Clone)]
struct Sink(Arc<Mutex<Buffer>>);

impl Sink {
    fn new(limit: u64, when_full: WhenFull) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self(Arc::new(Mutex::new(Buffer { bytes: Vec::new(), limit, truncated: false, when_full })))
    }

    fn lock(&self) -> MutexGuard<'_, Buffer> {
        // What it holds is whole after each write.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, bytes: &[u8]) -> Result<(), Refusal> {
        let mut buffer = self.lock();
        let room = buffer.limit - buffer.bytes.len();
        if bytes.len() <= room && !buffer.truncated {
            buffer.bytes.extend_from_slice(bytes);
            return Ok(());
        }
        if buffer.when_full == WhenFull::Refuse {
            return Err(Refusal::ResultTooLarge);
        }
        if !buffer.truncated {
            buffer.bytes.extend_from_slice(&bytes[..room]);
            buffer.truncated = true;
        }
        Ok(())
    }
}

impl IsTerminal for Sink {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Sink {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Sink {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for Sink {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.push(&bytes).map_err(|refusal| StreamError::Trap(refusal.into()))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_PERMIT)
    }
}

impl AsyncWrite for Sink {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.push(bytes).map(|()| bytes.len()).map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The beginning of the year 2000, for ever: a time of zero trips programs that check their clock.
struct FixedClock;

impl HostWallClock for FixedClock {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        Duration::from_secs(946_684_800)
    }
}

/// A microsecond passes whenever somebody looks: a loop that waits for time to pass ends, and equally on all machines.
#[derive(Default)]
struct TickingClock(AtomicU64);

impl HostMonotonicClock for TickingClock {
    fn resolution(&self) -> u64 {
        1_000
    }

    fn now(&self) -> u64 {
        self.0.fetch_add(1_000, Ordering::Relaxed)
    }
}

/// SplitMix64: not secure, but the same everywhere.
struct SplitMix(u64);

impl SplitMix {
    const fn new(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        let value = mix(self.0);
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        value
    }
}

impl TryRng for SplitMix {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.next() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.next())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}
