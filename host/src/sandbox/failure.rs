//! Why a task ended without a value, told so that a person can act on it.

use farm_proto::message::MAX_CHECKPOINT;
use farm_proto::outcome::{Failure, FailureKind, GuestFrame};
use wasmtime::{Store, Trap, WasmBacktrace};

use super::STACK_SIZE;
use super::state::{PanicReport, State};

/// What a host function says to end the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the result is larger than the job allows")]
    ResultTooLarge,
    #[error("the guest aborted")]
    Aborted,
    /// No failure: the task is given back, and goes on elsewhere.
    #[error("the task is suspended")]
    Suspended,
    #[error(
        "the task was suspended on a worker that stays: a function may call `suspend` only once `should_stop` has said \
         so"
    )]
    SuspendedTooSoon,
    #[error("a checkpoint of {size} bytes is more than the {MAX_CHECKPOINT} that are kept")]
    CheckpointTooLarge { size: u64 },
    #[error("a checkpoint that is not in the module's memory")]
    OutsideMemory,
    #[error("a checkpoint of a module that exports no `memory`")]
    NoMemory,
}

/// How a call ends that gives no value.
#[derive(Debug)]
pub(super) enum Stop {
    /// The reason is known already.
    Failure(Failure),
    /// The guest was ended from below.
    Error(wasmtime::Error),
}

impl Stop {
    pub(super) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self::Failure(Failure::new(kind, message))
    }

    /// Whether the task is only given back.
    pub(super) fn is_suspension(&self) -> bool {
        matches!(self, Self::Error(error) if matches!(error.downcast_ref(), Some(Refusal::Suspended)))
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<wasmtime::Error> for Stop {
    fn from(error: wasmtime::Error) -> Self {
        Self::Error(error)
    }
}

/// A message that is longer is a dump, not a message.
const LONGEST_MESSAGE: usize = 4 << 10;

/// Finds out what a task died of. What the guest says of itself comes after what is known of it: that it was refused
/// memory explains the panic that follows.
pub(super) fn explain(stop: Stop, store: &Store<State>) -> Failure {
    let state = store.data();
    let limits = &state.shared.spec.limits;
    let (mut failure, error) = match stop {
        Stop::Failure(failure) => (failure, None),
        Stop::Error(error) => (of_error(&error, state), Some(error)),
    };
    let is_guests_own = matches!(failure.kind, FailureKind::Trap | FailureKind::Panic | FailureKind::ReturnedError);
    if state.limiter.was_denied() && is_guests_own {
        failure.kind = FailureKind::MemoryLimit;
        failure.message = format!("the task needs more memory than the job's limit of {}", bytes(limits.memory));
    }
    if let Some(trace) = error.as_ref().and_then(|error| error.downcast_ref::<WasmBacktrace>()) {
        failure.backtrace = frames(trace);
    }
    cut(&mut failure.message);
    failure
}

fn of_error(error: &wasmtime::Error, state: &State) -> Failure {
    let limits = &state.shared.spec.limits;
    match error.downcast_ref::<Refusal>() {
        Some(Refusal::ResultTooLarge) => return result_too_large(limits.result),
        Some(Refusal::Aborted) | None => {}
        Some(refusal) => return Failure::new(FailureKind::Trap, refusal.to_string()),
    }
    if let Some(report) = &state.panic {
        return of_panic(report);
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => {
            let given = limits.fuel.unwrap_or(u64::MAX);
            return Failure::new(FailureKind::OutOfFuel, format!("the task used up its fuel of {given}"));
        }
        Some(Trap::StackOverflow) => {
            let size = bytes(STACK_SIZE as u64);
            let message = format!("stack overflow: the recursion is deeper than {size} of stack can hold");
            return Failure::new(FailureKind::Trap, message);
        }
        Some(trap) => return of_trap(*trap, state),
        None => {}
    }
    let message = format!("{error:#}");
    // wasmtime has no type for it; the text is pinned by a test.
    if message.contains("fuel allocated for hostcalls has been exhausted") {
        return result_too_large(limits.result);
    }
    let kind = FailureKind::Trap;
    if error.is::<wasmtime::ThrownException>() {
        return Failure::new(kind, "an exception was thrown and not caught");
    }
    Failure::new(kind, without_backtrace(error))
}

/// A trap of a program: its own words on standard error say more than the instruction it ended at.
fn of_trap(trap: Trap, state: &State) -> Failure {
    let stderr = state.wasi.as_ref().map(|wasi| wasi.stderr_tail()).unwrap_or_default();
    if let Some(report) = rust_panic(&stderr) {
        return of_panic(&report);
    }
    let what = match trap {
        Trap::UnreachableCodeReached => "the guest gave up (`unreachable`)".to_owned(),
        other => other.to_string().trim_start_matches("wasm trap: ").to_owned(),
    };
    match last_line(&stderr) {
        Some(line) => Failure::new(FailureKind::Trap, format!("{what}; its last words: {line}")),
        None => Failure::new(FailureKind::Trap, what),
    }
}

fn of_panic(report: &PanicReport) -> Failure {
    let PanicReport { message, file, line } = report;
    let place = match (file.as_str(), line) {
        ("", _) => String::new(),
        (file, 0) => format!(", {file}"),
        (file, line) => format!(", {file}:{line}"),
    };
    Failure::new(FailureKind::Panic, format!("{message}{place}"))
}

/// What a Rust program without the SDK prints before it aborts.
///
/// `thread 'main' panicked at src/main.rs:3:5:`, newer ones with a number after the name, then the message.
fn rust_panic(stderr: &str) -> Option<PanicReport> {
    const MARK: &str = " panicked at ";
    let start = stderr.rfind(MARK)?;
    let mut lines = stderr[start + MARK.len()..].lines();
    let place = lines.next()?.trim_end_matches(':');
    let mut parts = place.rsplitn(3, ':');
    let (_column, line, file) = (parts.next()?, parts.next()?, parts.next()?);
    let message = lines.take_while(|line| !line.starts_with("note: ")).collect::<Vec<_>>().join("\n");
    Some(PanicReport { message: message.trim_end().to_owned(), file: file.to_owned(), line: line.parse().ok()? })
}

pub(super) fn last_line(text: &str) -> Option<&str> {
    text.lines().rev().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("note: run with `RUST_"))
}

pub(super) fn result_too_large(limit: u64) -> Failure {
    Failure::new(FailureKind::ResultTooLarge, format!("the result is larger than the job's limit of {}", bytes(limit)))
}

/// The causes of an error, outermost first, without the backtrace that wasmtime makes the outermost context.
fn without_backtrace(error: &wasmtime::Error) -> String {
    let skip = usize::from(error.downcast_ref::<WasmBacktrace>().is_some());
    let causes: Vec<String> = error.chain().skip(skip).map(|cause| cause.to_string()).collect();
    if causes.is_empty() { error.to_string() } else { causes.join(": ") }
}

/// A size as people write it.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| count >= *unit && count.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{} {name}", count / unit),
        None => format!("{count} bytes"),
    }
}

fn cut(message: &mut String) {
    if message.len() > LONGEST_MESSAGE {
        let mut end = LONGEST_MESSAGE;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push('…');
    }
}

/// The guest's stack, innermost first; a frame that was inlined is one of its own.
fn frames(trace: &WasmBacktrace) -> Vec<GuestFrame> {
    let mut frames = Vec::new();
    for frame in trace.frames() {
        let whole = frame.func_name().map_or_else(|| format!("wasm function {}", frame.func_index()), demangle);
        if frame.symbols().is_empty() {
            frames.push(GuestFrame { function: whole, file: None, line: None });
            continue;
        }
        for symbol in frame.symbols() {
            frames.push(GuestFrame {
                function: symbol.name().map_or_else(|| whole.clone(), demangle),
                file: symbol.file().map(str::to_owned),
                line: symbol.line(),
            });
        }
    }
    frames
}

fn demangle(name: &str) -> String {
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        return format!("{rust:#}");
    }
    if name.starts_with("_Z")
        && let Ok(symbol) = cpp_demangle::Symbol::new(name)
        && let Ok(cpp) = symbol.demangle()
    {
        return cpp.to_string();
    }
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_rust_and_cpp_are_demangled_and_others_stay() {
        assert_eq!(demangle("_ZN3foo3barE"), "foo::bar");
        assert_eq!(demangle("_ZN4core9panicking5panic17h0123456789abcdefE"), "core::panicking::panic");
        assert_eq!(demangle("_Z3addii"), "add(int, int)");
        assert_eq!(demangle("square"), "square");
    }

    #[test]
    fn a_panic_is_read_from_standard_error() {
        let old =
            "hello\n\nthread 'main' panicked at src/main.rs:3:5:\nboom\ntwice\nnote: run with `RUST_BACKTRACE=1`\n";
        let report = rust_panic(old).unwrap();
        assert_eq!((report.message.as_str(), report.file.as_str(), report.line), ("boom\ntwice", "src/main.rs", 3));
        assert_eq!(rust_panic("nothing of the kind"), None);
    }

    #[test]
    fn sizes_are_round_where_they_are() {
        assert_eq!(bytes(64 << 20), "64 MiB");
        assert_eq!(bytes(1 << 30), "1 GiB");
        assert_eq!(bytes(1000), "1000 bytes");
    }

    #[test]
    fn the_last_words_are_the_last_line_that_says_something() {
        assert_eq!(last_line("a\nb\n\nnote: run with `RUST_BACKTRACE=1` for more\n"), Some("b"));
        assert_eq!(last_line("\n"), None);
    }
}
