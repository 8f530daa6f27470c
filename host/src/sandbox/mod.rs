//! The sandbox: one fresh instance for each call, with nothing in it but what the job names.
//!
//! A slot process opens a [`Sandbox`] for each job it has tasks of and calls it once a task, synchronously and in one
//! thread. All sandboxes of a process share its engines (see [`Layout`]).
//!
//! # What it promises
//!
//! * A guest sees its argument, the job's environment and inputs, and nothing that another task left behind.
//! * Memory, output, result and stack are bounded; a guest that wants more ends with a [`Failure`] of the right kind.
//! * [`Sandbox::call`] does not panic, whatever the module does.
//!
//! # What it does not
//!
//! Wall time. A guest may loop or sleep for ever, which is ended by ending its process; that is why a slot is one. With
//! [`Profile::Metered`] its fuel ends it.
//!
//! # Numbers that JSON does not have
//!
//! NaN and the infinities are the strings `"NaN"`, `"Infinity"` and `"-Infinity"` both ways, for core modules and typed
//! components. SDK functions write their own JSON, in which they are `null`. Integers of 64 bits are exact throughout.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farm_proto::ids::JobId;
use farm_proto::job::{CommandOptions, Limits, ModuleKind, Profile, ResultEncoding};
use farm_proto::outcome::{Captured, Failure, FailureKind};
use serde::de::IgnoredAny;
use wasmtime::component::Component;
use wasmtime::{AsContextMut as _, Engine, Module};
use wasmtime_wasi::p1::WasiP1Ctx;

use crate::artefact::{self, Code};

mod bench;
mod checkpoint;
mod command;
mod core;
mod engine;
mod failure;
mod host;
mod limiter;
mod sdk;
mod state;
mod typed;
mod values;
mod wasi;

pub use bench::instances_per_second;
pub use checkpoint::Carrier;
pub use engine::{Layout, ParseLayoutError, compatibility};

pub(crate) use command::check_invocation;
pub(crate) use engine::compiler;
pub(crate) use failure::bytes as size_in_words;
pub(crate) use wasi::{SECRETS, enter_runtime};

use self::failure::Stop;
use self::state::{Facts, Shared, State};

/// How much stack a guest has. Deep recursion is ordinary in some programs; a native one has 8 MiB.
pub const STACK_SIZE: usize = 64 << 20;

/// What a thread that calls a [`Sandbox`] should have: the guest's stack, and the host's own.
///
/// A thread with less works as well; it then gets a stack of this size for each call, which takes microseconds.
pub const THREAD_STACK_SIZE: usize = STACK_SIZE + HOST_STACK_SIZE;

/// For the host's functions, on top of the deepest guest, and as much again for what the thread has used before.
const HOST_STACK_SIZE: usize = 2 << 20;

/// With less than this left, a call gets a stack of its own.
const NEEDED_STACK: usize = STACK_SIZE + HOST_STACK_SIZE / 2;

/// Told of a guest's progress: index of the task, steps done, steps in all.
type ProgressFn = Arc<dyn Fn(u64, u64, u64) + Send + Sync>;

/// What all tasks of a job have in common.
#[derive(Debug, Clone)]
pub struct SandboxSpec {
    pub kind: ModuleKind,
    /// Ignored for commands.
    pub function: String,
    pub limits: Limits,
    pub profile: Profile,
    /// The guest's environment; it has no other.
    pub env: Vec<(String, String)>,
    /// A directory that the guest sees at `/in`, read-only.
    pub inputs: Option<PathBuf>,
    /// A directory that the guest sees at `/out` and may write to. It is opened anew at each call.
    pub outputs: Option<PathBuf>,
    /// A directory that the guest sees at `/secrets`, read-only. As well.
    pub secrets: Option<PathBuf>,
    pub command: CommandOptions,
    pub result: ResultEncoding,
}

impl SandboxSpec {
    const fn has_directories(&self) -> bool {
        self.inputs.is_some() || self.outputs.is_some() || self.secrets.is_some()
    }
}

/// One call.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    pub job: JobId,
    pub index: u64,
    pub attempt: u32,
    pub argument: &'a [u8],
}

/// How a call ended. Without a failure its value stands at the end of the result buffer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ended {
    pub failure: Option<Failure>,
    pub captured: Captured,
    /// What it cost, of a metered job.
    pub fuel_used: Option<u64>,
    /// It has no outcome: the task has kept a state, and is to be run again, on another worker.
    pub suspended: bool,
}

impl Ended {
    /// Before it has begun.
    pub(crate) fn failed(failure: Failure) -> Self {
        Self { failure: Some(failure), ..Self::default() }
    }
}

/// A compiled module, ready to be called any number of times.
pub struct Sandbox {
    engine: &'static Engine,
    shared: Arc<Shared>,
    callable: Callable,
    uses_wasi: bool,
    progress: Option<ProgressFn>,
}

enum Callable {
    Sdk(sdk::Sdk),
    Typed(typed::Typed),
    Core(core::Core),
    Command(command::Command),
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").field("spec", &self.shared.spec).finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Opens an artefact that [`artefact::Cache`] gave out.
    ///
    /// # Errors
    ///
    /// [`FailureKind::BadModule`] where the module cannot be linked, and [`FailureKind::NoSuchFunction`], which lists
    /// what there is. Both concern the whole job. [`FailureKind::WorkerLost`] where the artefact cannot be read: another
    /// worker may have a better one.
    pub fn open(artefact: &Path, spec: SandboxSpec) -> Result<Self, Failure> {
        let mut last = None;
        for engine in engines(&spec)? {
            match artefact::load(engine, artefact) {
                Ok(code) => return Self::of_code(engine, &code, spec),
                // A module that is too big for the pool can still do without.
                Err(error) => last = Some(error),
            }
        }
        // A file that cannot be opened is the worker's fault: the module did compile.
        Err(last.map_or_else(|| Failure::new(FailureKind::WorkerLost, "no engine"), Failure::from))
    }

    fn of_code(engine: &'static Engine, code: &Code, spec: SandboxSpec) -> Result<Self, Failure> {
        let (callable, uses_wasi) = match (code, spec.kind) {
            (Code::Component(component), ModuleKind::Sdk) => {
                (Callable::Sdk(sdk::Sdk::new(component)?), component_uses_wasi(component))
            }
            (Code::Component(component), ModuleKind::Component) => {
                (Callable::Typed(typed::Typed::new(component, &spec.function)?), component_uses_wasi(component))
            }
            (Code::Component(component), ModuleKind::Command) => {
                (Callable::Command(command::Command::of_component(component)?), true)
            }
            (Code::Module(module), ModuleKind::Core) => {
                (Callable::Core(core::Core::new(module, &spec.function)?), module_uses_wasi(module))
            }
            (Code::Module(module), ModuleKind::Command) => {
                (Callable::Command(command::Command::of_module(module)?), true)
            }
            (Code::Component(_), ModuleKind::Core) | (Code::Module(_), ModuleKind::Sdk | ModuleKind::Component) => {
                let message = "the job names another kind of module than this is";
                return Err(Failure::new(FailureKind::BadModule, message));
            }
        };
        let hostcall_bytes = hostcall_bytes(code, &spec);
        let shared = Shared::new(spec, hostcall_bytes);
        Ok(Self { engine, shared, callable, uses_wasi, progress: None })
    }

    /// Has `progress` told of what guests say of theirs: index of the task, steps done, steps in all. It is called as
    /// often as the guest pleases, and the guest waits for it.
    pub fn set_progress(&mut self, progress: Box<dyn Fn(u64, u64, u64) + Send + Sync>) {
        self.progress = Some(Arc::from(progress));
    }

    /// Has tasks leave their states there, and get them from there. Without, there is none, and what they keep is dropped.
    /// To be called once.
    pub fn set_carrier(&mut self, carrier: Box<dyn Carrier>) {
        // A second one would be a mistake of the caller's, of which the first does not suffer.
        let _ = self.shared.carrier.set(carrier);
    }

    /// Whether guests can have files at all.
    pub const fn uses_wasi(&self) -> bool {
        self.uses_wasi
    }

    /// Runs one task in an instance of its own, and appends its value to `result`.
    ///
    /// After a failure `result` is as it was before. Blocks for as long as the guest runs, and must not be called from
    /// within an asynchronous task.
    pub fn call(&mut self, task: Task<'_>, result: &mut Vec<u8>) -> Ended {
        let start = result.len();
        let run = AssertUnwindSafe(|| self.run(&task, result));
        // What is left behind by a panic is the store, which is dropped, and the end of `result`, which is cut off.
        let ended = stacker::maybe_grow(NEEDED_STACK, THREAD_STACK_SIZE, || catch_unwind(run));
        let ended = ended.unwrap_or_else(|panic| {
            let message = panic_message(panic.as_ref());
            Ended::failed(Failure::new(FailureKind::Trap, format!("a defect of the sandbox: {message}")))
        });
        if ended.failure.is_some() || ended.suspended {
            result.truncate(start);
        }
        ended
    }

    fn run(&self, task: &Task<'_>, result: &mut Vec<u8>) -> Ended {
        let mut state = State::new(&self.shared, Facts::of(task), self.progress.as_ref());
        let failed = Ended::failed;
        let mut runtime = None;
        if self.uses_wasi {
            match self.prepare_wasi(&mut state, task) {
                Ok(guard) => runtime = Some(guard),
                Err(failure) => return failed(failure),
            }
        }
        let mut store = match state.into_store(self.engine) {
            Ok(store) => store,
            Err(error) => {
                return failed(Failure::new(FailureKind::Trap, format!("a defect of the sandbox: {error:#}")));
            }
        };
        let ended = match &self.callable {
            Callable::Sdk(sdk) => sdk.call(&mut store, &self.shared.spec.function, task.argument, result),
            Callable::Typed(typed) => typed.call(&mut store, task.argument, result),
            Callable::Core(core) => core.call(&mut store, task.argument, result),
            Callable::Command(command) => command.call(&mut store, result),
        };
        let suspended = ended.as_ref().is_err_and(Stop::is_suspension);
        let failure = ended.err().filter(|_| !suspended).map(|stop| failure::explain(stop, &store));
        let fuel_used = match self.shared.spec.profile {
            Profile::Fast => None,
            Profile::Metered => state::fuel_used(&store.as_context_mut()),
        };
        let captured = store.data_mut().take_captured();
        drop(store);
        drop(runtime);
        Ended { failure, captured, fuel_used, suspended }
    }

    /// Everything of WASI that can fail, before the guest begins.
    fn prepare_wasi(&self, state: &mut State, task: &Task<'_>) -> Result<tokio::runtime::EnterGuard<'static>, Failure> {
        let of_host = |error: String| Failure::new(FailureKind::WorkerLost, error);
        let guard = enter_runtime().map_err(|error| of_host(format!("cannot start a thread for WASI: {error}")))?;
        if matches!(self.callable, Callable::Command(_)) {
            state.invocation = command::invocation(task.argument)?;
        }
        if self.shared.spec.has_directories() || matches!(self.callable, Callable::Command(_)) {
            state.open_wasi().map_err(|error| of_host(format!("cannot open what the task is to see: {error:#}")))?;
        }
        Ok(guard)
    }
}

/// Runs a program with a WASI context of the caller's own, and gives its exit code.
///
/// # Errors
///
/// The artefact cannot be opened, is no program, or traps.
pub(crate) fn run_program(artefact: &Path, context: WasiP1Ctx) -> Result<i32, Failure> {
    let spec = SandboxSpec {
        kind: ModuleKind::Command,
        function: String::new(),
        limits: Limits { memory: u64::MAX, ..Limits::default() },
        profile: Profile::Fast,
        env: Vec::new(),
        inputs: None,
        outputs: None,
        secrets: None,
        command: CommandOptions::default(),
        result: ResultEncoding::Text,
    };
    let sandbox = Sandbox::open(artefact, spec)?;
    let Callable::Command(command) = &sandbox.callable else {
        return Err(Failure::new(FailureKind::BadModule, "the module is no program"));
    };
    let of_host = |error: String| Failure::new(FailureKind::WorkerLost, error);
    let _runtime = enter_runtime().map_err(|error| of_host(format!("cannot start a thread for WASI: {error}")))?;
    let task = Task { job: JobId(0), index: 0, attempt: 0, argument: b"" };
    let mut state = State::new(&sandbox.shared, Facts::of(&task), None);
    state.wasi = Some(wasi::Wasi::of_program(context));
    let run = || {
        let mut store = state.into_store(sandbox.engine).map_err(|error| of_host(format!("{error:#}")))?;
        command.run(&mut store).map_err(|stop| failure::explain(stop, &store))
    };
    stacker::maybe_grow(NEEDED_STACK, THREAD_STACK_SIZE, run)
}

/// The engines that may run a job, best first.
fn engines(spec: &SandboxSpec) -> Result<Vec<&'static Engine>, Failure> {
    /// The pool's memories are no larger.
    const LARGEST_POOLED_MEMORY: u64 = 1 << 32;
    let layout = Layout::of_process();
    let mut engines = Vec::with_capacity(2);
    if layout == Layout::Reserved && spec.limits.memory <= LARGEST_POOLED_MEMORY {
        engines.extend(engine::pooled(spec.profile));
    }
    match engine::on_demand(spec.profile, layout) {
        Ok(engine) => engines.push(engine),
        Err(error) if engines.is_empty() => {
            let message = format!("this machine cannot run WebAssembly: {error:#}");
            return Err(Failure::new(FailureKind::WorkerLost, message));
        }
        Err(_) => {}
    }
    Ok(engines)
}

/// How many bytes may cross at once. A component's values are made in the host's memory from what the guest says their
/// size is, so that this bounds them; in a core module it only bounds single reads and writes.
fn hostcall_bytes(code: &Code, spec: &SandboxSpec) -> usize {
    /// Lets short texts through whatever the limit on results is: log lines, errors, panics.
    const SMALLEST: u64 = 64 << 10;
    /// A `Val` is some tens of bytes, of which a JSON text needs at least two.
    const VAL_FOR_TEXT: u64 = 16;
    let bytes = match (code, spec.kind) {
        (Code::Module(_), _) | (_, ModuleKind::Command) => spec.limits.memory.max(1 << 30),
        (_, ModuleKind::Component) => spec.limits.result.saturating_mul(VAL_FOR_TEXT),
        (_, _) => spec.limits.result,
    };
    usize::try_from(bytes.max(SMALLEST)).unwrap_or(usize::MAX)
}

fn component_uses_wasi(component: &Component) -> bool {
    component.component_type().imports(component.engine()).any(|(name, _)| name.starts_with("wasi:"))
}

fn module_uses_wasi(module: &Module) -> bool {
    module.imports().any(|import| import.module() == "wasi_snapshot_preview1")
}

/// Links a component, once for all of its instances.
fn component_linker(component: &Component) -> Result<wasmtime::component::InstancePre<State>, Failure> {
    let link = || {
        let mut linker = wasmtime::component::Linker::new(component.engine());
        host::add_to_component_linker(&mut linker)?;
        checkpoint::add_to_component_linker(component, &mut linker)?;
        if component_uses_wasi(component) {
            wasmtime_wasi::p2::add_to_linker_sync(&mut linker)?;
        }
        linker.instantiate_pre(component)
    };
    link().map_err(cannot_link)
}

/// Links a core module, once for all of its instances.
fn core_linker(module: &Module) -> Result<wasmtime::InstancePre<State>, Failure> {
    let link = || {
        let mut linker = wasmtime::Linker::new(module.engine());
        host::add_to_core_linker(&mut linker)?;
        checkpoint::add_to_core_linker(module, &mut linker)?;
        if module_uses_wasi(module) {
            wasmtime_wasi::p1::add_to_linker_sync(&mut linker, State::wasi)?;
        }
        linker.instantiate_pre(module)
    };
    link().map_err(cannot_link)
}

fn cannot_link(error: wasmtime::Error) -> Failure {
    Failure::new(FailureKind::BadModule, format!("the module needs imports that are not offered: {error:#}"))
}

fn bad_arguments(error: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::BadArguments, error.to_string())
}

/// Appends `value` without copying it where nothing is there yet.
fn append(mut value: Vec<u8>, result: &mut Vec<u8>) {
    /// Below this a copy is cheaper than a new allocation for the next task's result.
    const LARGE: usize = 64 << 10;
    if result.is_empty() && value.len() >= LARGE {
        *result = value;
    } else {
        result.append(&mut value);
    }
}

/// Appends a JSON text as one line, if it is one.
fn check_json(text: Vec<u8>, result: &mut Vec<u8>) -> Result<(), Failure> {
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(&text) {
        let message = format!("the function's result is not JSON: {error}");
        return Err(Failure::new(FailureKind::ReturnedError, message));
    }
    if text.contains(&b'\n') {
        crate::module::compact_json(&text, result);
    } else {
        append(text, result);
    }
    Ok(())
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without words")
}

/// Asks an SDK component for its description, with bounded time and memory.
///
/// # Errors
///
/// It does not compile, does not answer in time, or traps.
pub(crate) fn describe(component: &[u8]) -> Result<String, Failure> {
    let limits = Limits { memory: 256 << 20, fuel: Some(1_000_000_000), result: 16 << 20, ..Limits::default() };
    let spec = SandboxSpec {
        kind: ModuleKind::Sdk,
        function: String::new(),
        limits,
        profile: Profile::Metered,
        env: Vec::new(),
        inputs: None,
        outputs: None,
        secrets: None,
        command: CommandOptions::default(),
        result: ResultEncoding::Json,
    };
    let engine = engine::on_demand(spec.profile, Layout::of_process())
        .map_err(|error| Failure::new(FailureKind::WorkerLost, format!("{error:#}")))?;
    let bad_module = |error: wasmtime::Error| Failure::new(FailureKind::BadModule, format!("{error:#}"));
    let component = Component::new(engine, component).map_err(bad_module)?;
    let sdk = sdk::Sdk::new(&component)?;
    let hostcall_bytes = usize::try_from(spec.limits.result).unwrap_or(usize::MAX);
    let task = Task { job: JobId(0), index: 0, attempt: 0, argument: b"" };
    let state = State::new(&Shared::new(spec, hostcall_bytes), Facts::of(&task), None);
    let of_host = |error: std::io::Error| Failure::new(FailureKind::WorkerLost, error.to_string());
    let ask = || {
        let _runtime = enter_runtime().map_err(of_host)?;
        let mut store = state.into_store(engine).map_err(bad_module)?;
        sdk.describe(&mut store).map_err(|stop: Stop| failure::explain(stop, &store))
    };
    // A thread of its own: it has the stack, and the caller's may be one that must not block.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(THREAD_STACK_SIZE).spawn_scoped(scope, ask);
        thread.map_err(of_host)?.join().unwrap_or_else(|panic| {
            let message = format!("a defect of the sandbox: {}", panic_message(panic.as_ref()));
            Err(Failure::new(FailureKind::WorkerLost, message))
        })
    })
}
