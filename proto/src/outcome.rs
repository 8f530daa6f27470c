//! How tasks end.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::Digest;

/// Why a task has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The guest did what WebAssembly forbids: out of bounds, `unreachable`, stack overflow, …
    Trap,
    /// The guest ran to its end and said that it failed; a command's exit code was not one of the good ones.
    ReturnedError,
    /// The guest panicked.
    Panic,
    /// The wall time of the attempt was up.
    Timeout,
    OutOfFuel,
    MemoryLimit,
    ResultTooLarge,
    /// The module does not compile, or wants imports that are not offered. Ends the job.
    BadModule,
    NoSuchFunction,
    BadArguments,
    Cancelled,
    /// The process that ran the task died, more often than is put up with.
    WorkerLost,
    /// A result that the task needs as its argument will never be there.
    InputFailed,
    /// There was more in `/out` than the job's limit.
    OutputTooLarge,
    /// Something in `/out` is no plain file, or cannot be kept.
    BadOutput,
}

impl FailureKind {
    /// Whether another attempt may end differently and is made if the job asks for retries. Limits are not retried: a
    /// task that hits one would hit it again.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Trap | Self::ReturnedError | Self::Panic)
    }

    /// Whether no task of the job can do better, so that the job fails once instead of a million times.
    pub const fn fails_job(self) -> bool {
        matches!(self, Self::BadModule | Self::NoSuchFunction)
    }

    /// The name that is used in JSON and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::ReturnedError => "returned-error",
            Self::Panic => "panic",
            Self::Timeout => "timeout",
            Self::OutOfFuel => "out-of-fuel",
            Self::MemoryLimit => "memory-limit",
            Self::ResultTooLarge => "result-too-large",
            Self::BadModule => "bad-module",
            Self::NoSuchFunction => "no-such-function",
            Self::BadArguments => "bad-arguments",
            Self::Cancelled => "cancelled",
            Self::WorkerLost => "worker-lost",
            Self::InputFailed => "input-failed",
            Self::OutputTooLarge => "output-too-large",
            Self::BadOutput => "bad-output",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failed attempt, told so that a person can act on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    /// One line where possible.
    pub message: String,
    /// Innermost frame first; empty where the guest had no frame.
    pub backtrace: Vec<GuestFrame>,
}

impl Failure {
    /// A failure without a backtrace.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), backtrace: Vec::new() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

/// One frame of a guest's stack.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GuestFrame {
    /// Demangled, or `wasm function 12`.
    pub function: String,
    /// Where the module carries DWARF.
    pub file: Option<String>,
    pub line: Option<u32>,
}

/// What a task left behind beside its result: what it printed, and its files. All empty for most tasks, and then not sent
/// at all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// Not for commands: their stdout is the result.
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Lines given to the host's `log`, each ending in a newline and beginning with its level.
    pub log: String,
    /// Whether something was dropped because of the job's limit.
    pub truncated: bool,
    /// What was in `/out`, ascending by path. The scheduler has their content as blobs. None of a task that failed.
    pub files: Vec<OutputFile>,
}

/// A file that a task left in `/out`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    /// Below `/out`; see [`is_below`](crate::job::is_below).
    pub path: String,
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

impl Captured {
    pub const fn is_empty(&self) -> bool {
        self.stdout.is_empty() && self.stderr.is_empty() && self.log.is_empty() && self.files.is_empty()
    }
}
