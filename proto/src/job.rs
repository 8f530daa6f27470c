//! What a user asks for: one function, many arguments, and options.

use serde::{Deserialize, Deserializer, Serialize};

use crate::ids::{Digest, JobId};

/// Everything there is to know about a job before it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// For people; need not be unique.
    pub name: Option<String>,
    /// Whose workers run it. None: the only cluster there is.
    pub cluster: Option<String>,
    pub module: ModuleRef,
    /// The function to call. Empty for [`ModuleKind::Command`].
    pub function: String,
    pub args: Args,
    pub limits: Limits,
    pub profile: Profile,
    /// Environment variables of the guest; it sees no others.
    pub env: Vec<(String, String)>,
    /// Files mounted read-only under `/in`.
    pub inputs: Vec<Input>,
    /// What else tasks find in their file system.
    pub mounts: Mounts,
    pub command: CommandOptions,
    /// What a task may take, in milliseconds: a worker that will be gone by then is given none.
    pub time_request_ms: Option<u64>,
    /// How often a task that failed by its own doing is run again (not after a limit was hit).
    pub retries: u32,
    /// The job is cancelled when more tasks than this have failed for good.
    pub max_failures: Option<u64>,
    /// Jobs of one user run in descending priority, then in order of age.
    pub priority: i32,
    /// Earlier jobs that have to be [done](JobState::Done) before the first task runs. If one is cancelled or fails as a
    /// whole, so does this one.
    pub after: Vec<JobId>,
    /// The function takes two: a task's argument is an array, and its result what is left when the function has been
    /// called for the first two elements, then for that and the third, and so on. An array of one is its own result.
    pub fold: bool,
}

impl JobSpec {
    /// What a worker has to know of the job: all but its argument table, which comes with the leases.
    #[must_use]
    pub fn for_worker(&self) -> Self {
        let args = match self.args {
            Args::Range { start, end } => Args::Range { start, end },
            _ => Args::Inline { count: self.args.count() },
        };
        Self { args, after: Vec::new(), ..self.clone() }
    }
}

/// A module and how it is to be called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleRef {
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    pub kind: ModuleKind,
    /// What results are: JSON texts, or bytes that the client is to encode.
    pub result: ResultEncoding,
}

/// The four kinds of module that a farm runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModuleKind {
    /// A component that exports `farm:function/handler`.
    Sdk,
    /// Any other component with typed exports.
    Component,
    /// A core module with numeric exports.
    Core,
    /// A WASI command: a core module with `_start`, or a component that exports `wasi:cli/run`.
    Command,
}

/// What the bytes of a result are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResultEncoding {
    /// A JSON text.
    Json,
    /// UTF-8 text, shown as a JSON string.
    Text,
    /// Any bytes, shown as `{"base64": "…"}`.
    Bytes,
}

/// The arguments of a job. Task `i` gets element `i`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Args {
    /// The integers `start..end` as JSON numbers; never materialised.
    Range { start: i64, end: i64 },
    /// `count` arguments as [columns](crate::columns) in the payload of the frame which carries this job. For small
    /// tables: it saves a round trip.
    Inline { count: u64 },
    /// Blobs that each hold the [columns](crate::columns) of consecutive tasks.
    Chunks(Vec<ArgChunk>),
    /// Results of an earlier job, which need not be there yet: each task waits for its own.
    Results(ResultArgs),
    /// Some of a table's arguments: what a retry is made of. Clients do not send it.
    Subset {
        /// The table of the job that was retried; never a subset itself.
        #[serde(deserialize_with = "whole")]
        of: Box<Self>,
        /// First and end (exclusive), ascending.
        tasks: Vec<(u64, u64)>,
    },
}

/// Reads arguments that are no subset, so that nobody can nest them deeper than the stack.
fn whole<'de, D: Deserializer<'de>>(from: D) -> Result<Box<Args>, D::Error> {
    #[derive(Deserialize)]
    enum Whole {
        Range { start: i64, end: i64 },
        Inline { count: u64 },
        Chunks(Vec<ArgChunk>),
        Results(ResultArgs),
    }
    Ok(Box::new(match Whole::deserialize(from)? {
        Whole::Range { start, end } => Args::Range { start, end },
        Whole::Inline { count } => Args::Inline { count },
        Whole::Chunks(chunks) => Args::Chunks(chunks),
        Whole::Results(results) => Args::Results(results),
    }))
}

/// Arguments that are results of another job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultArgs {
    pub job: JobId,
    /// How many arguments these are: as many as `job` has tasks, or groups of them.
    pub count: u64,
    /// None: each result is an argument. Otherwise, an argument is the array of so many consecutive results, the last one
    /// of what is left. At least 2.
    pub group: Option<u32>,
    /// The function takes bytes, not JSON.
    pub raw: bool,
}

impl ResultArgs {
    /// How many results go into each argument but the last.
    pub fn fan_in(&self) -> u32 {
        self.group.unwrap_or(1).max(1)
    }
}

/// One blob of an argument table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArgChunk {
    pub digest: Digest,
    /// How many arguments it holds.
    pub count: u32,
    /// In bytes.
    pub size: u64,
}

impl Args {
    /// The table that these arguments are all or some of.
    pub fn whole(&self) -> &Self {
        match self {
            Self::Subset { of, .. } => of,
            whole => whole,
        }
    }

    /// How many tasks these arguments make.
    pub fn count(&self) -> u64 {
        match self {
            Self::Range { start, end } if end > start => start.abs_diff(*end),
            Self::Range { .. } => 0,
            Self::Inline { count } => *count,
            Self::Chunks(chunks) => chunks.iter().map(|chunk| u64::from(chunk.count)).sum(),
            Self::Results(results) => results.count,
            Self::Subset { tasks, .. } => {
                tasks.iter().fold(0, |sum: u64, (start, end)| sum.saturating_add(end.saturating_sub(*start)))
            }
        }
    }
}

/// A file that every task of the job can read at `/in/{path}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Relative, `/`-separated, without `.` and `..`.
    pub path: String,
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

/// What tasks find in their file system beside [inputs](Input). Nothing, by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounts {
    /// Folders below `/in` in which no input is. Relative paths, as those of inputs are.
    pub folders: Vec<String>,
    /// With it, each attempt of a task has an empty folder `/out` of its own, to write to. The files that are in it when
    /// the task has succeeded are part of its outcome.
    pub outputs: Option<OutputLimits>,
    /// Files below `/secrets`, by name; of each, the guest's environment has the path under that name. Their content is
    /// no part of the job: it goes from client to scheduler to workers beside it, and is on nobody's disk.
    pub secrets: Vec<String>,
}

/// What a task may leave in `/out`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputLimits {
    /// In bytes, all files together.
    pub bytes: u64,
    /// Files and folders.
    pub files: u32,
}

impl Default for OutputLimits {
    fn default() -> Self {
        Self { bytes: 1 << 30, files: 1000 }
    }
}

/// Whether a path leads to somewhere below the folder that it is joined to: relative, `/`-separated, without empty, `.`
/// and `..` parts.
pub fn is_below(path: &str) -> bool {
    !path.contains('\0') && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// The most files and empty folders that a job may mount.
pub const MOST_INPUTS: usize = 100_000;

/// How an engine is set up; each profile has one engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Full speed: neither fuel nor epochs.
    #[default]
    Fast,
    /// Fuel is counted, floating point and time are the same on every machine.
    Metered,
}

/// What one task may use. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Linear memory and tables together.
    pub memory: u64,
    /// Wall time of one attempt.
    pub timeout_ms: Option<u64>,
    /// Needs [`Profile::Metered`].
    pub fuel: Option<u64>,
    /// Size of the result.
    pub result: u64,
    /// Captured stdout, stderr and log, each. What exceeds it is dropped, and the outcome says so.
    pub output: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: 1 << 30, timeout_ms: None, fuel: None, result: 64 << 20, output: 64 << 10 }
    }
}

/// How a WASI command's end is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandOptions {
    /// Whether stdout has to be one JSON text.
    pub stdout: StdoutMode,
    /// The exit codes that mean success.
    pub ok_exit: Vec<i32>,
}

impl Default for CommandOptions {
    fn default() -> Self {
        Self { stdout: StdoutMode::Text, ok_exit: vec![0] }
    }
}

/// What a WASI command's stdout is taken for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StdoutMode {
    /// Text, a JSON string in the result.
    #[default]
    Text,
    /// One JSON text, which is the result.
    Json,
    /// Any bytes, `{"base64": "…"}` in the result.
    Base64,
}

impl StdoutMode {
    /// What the result's bytes are in this mode.
    pub const fn encoding(self) -> ResultEncoding {
        match self {
            Self::Text => ResultEncoding::Text,
            Self::Json => ResultEncoding::Json,
            Self::Base64 => ResultEncoding::Bytes,
        }
    }
}

/// How far a job has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// No task has been handed out yet.
    Waiting,
    Running,
    /// Every task has an outcome.
    Done,
    /// Cancelled by a user; tasks without an outcome have none.
    Cancelled,
    /// Stopped because of `max_failures`, or because the module cannot be run at all.
    Failed,
}

impl JobState {
    /// Whether nothing will change any more.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled | Self::Failed)
    }
}

/// The tasks of a job by state. The five numbers add up to the job's tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Not handed out.
    pub waiting: u64,
    /// Handed to a worker, running or about to.
    pub leased: u64,
    pub succeeded: u64,
    pub failed: u64,
    /// Given up because the job was cancelled or failed.
    pub cancelled: u64,
}

impl Counts {
    pub const fn total(&self) -> u64 {
        // Numbers of a peer's may be any.
        self.waiting
            .saturating_add(self.leased)
            .saturating_add(self.succeeded)
            .saturating_add(self.failed)
            .saturating_add(self.cancelled)
    }
}

/// A job as the scheduler shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    pub job: JobId,
    pub name: Option<String>,
    pub owner: String,
    /// Whose workers run it.
    pub cluster: String,
    pub function: String,
    pub module: Digest,
    /// What the job's results are.
    pub result: ResultEncoding,
    pub state: JobState,
    pub counts: Counts,
    pub priority: i32,
    /// Milliseconds since the Unix epoch.
    pub submitted_ms: u64,
    /// Milliseconds since the Unix epoch, once the state is final.
    pub ended_ms: Option<u64>,
    /// Attempts beyond the first of any task.
    pub retried: u64,
    /// Why the job failed as a whole.
    pub reason: Option<String>,
    /// What each busy task last said of its progress: task, done, total.
    pub progress: Vec<(u64, u64, u64)>,
    /// Earlier jobs whose end or results it needs.
    pub needs: Vec<JobId>,
}
