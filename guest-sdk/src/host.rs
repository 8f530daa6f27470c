//! What a function may tell its host and ask from it.

use std::fmt;

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Something went wrong.
    Error,
    /// Something looks wrong.
    Warn,
    /// Worth knowing.
    Info,
    /// Of interest to the function's author.
    Debug,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        })
    }
}

/// What a function may know of the task that it runs for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Task {
    /// The job's number.
    pub job: u64,
    /// The position of the task's argument in the job.
    pub index: u64,
    /// 0 for the first attempt.
    pub attempt: u32,
    /// The same for every attempt of a task; differs between the tasks of a job.
    pub seed: u64,
}

/// Adds a line to the task's log. What exceeds the job's limit of captured output is dropped.
///
/// [`error!`](crate::error!), [`warn!`](crate::warn!), [`info!`](crate::info!) and [`debug!`](crate::debug!) format
/// the message as well. Natively the line goes to standard error.
pub fn log(level: Level, message: impl AsRef<str>) {
    imp::log(level, message.as_ref());
}

/// Says that `done` of `total` steps of this task are done.
///
/// Each call leaves the sandbox, which takes well under a microsecond; there is no need to call it more often than a
/// person could look. Natively it does nothing.
pub fn progress(done: u64, total: u64) {
    imp::progress(done, total);
}

/// The task that is running. Natively that is [`Task::default`], or the one of
/// [`testing::with_task`](crate::testing::with_task).
pub fn task() -> Task {
    imp::task()
}

/// Logs an error. Takes what `format!` takes.
#[macro_export]
macro_rules! error {
    ($($message:tt)+) => { $crate::log($crate::Level::Error, ::std::format!($($message)+)) };
}

/// Logs a warning. Takes what `format!` takes.
#[macro_export]
macro_rules! warn {
    ($($message:tt)+) => { $crate::log($crate::Level::Warn, ::std::format!($($message)+)) };
}

/// Logs what is worth knowing. Takes what `format!` takes.
#[macro_export]
macro_rules! info {
    ($($message:tt)+) => { $crate::log($crate::Level::Info, ::std::format!($($message)+)) };
}

/// Logs what is of interest to the function's author. Takes what `format!` takes.
#[macro_export]
macro_rules! debug {
    ($($message:tt)+) => { $crate::log($crate::Level::Debug, ::std::format!($($message)+)) };
}

#[cfg(target_family = "wasm")]
mod imp {
    use super::{Level, Task};
    use crate::bindings::farm::function::host;

    pub(super) fn log(level: Level, message: &str) {
        let level = match level {
            Level::Error => host::Level::Error,
            Level::Warn => host::Level::Warn,
            Level::Info => host::Level::Info,
            Level::Debug => host::Level::Debug,
        };
        host::log(level, message);
    }

    pub(super) fn progress(done: u64, total: u64) {
        host::progress(done, total);
    }

    pub(super) fn task() -> Task {
        let host::TaskInfo { job, index, attempt, seed } = host::task();
        Task { job, index, attempt, seed }
    }
}

#[cfg(not(target_family = "wasm"))]
mod imp {
    use super::{Level, Task};
    use crate::testing;

    pub(super) fn log(level: Level, message: &str) {
        // `eprintln!`, because the test harness captures what goes through it.
        eprintln!("[{level}] {message}");
    }

    pub(super) fn progress(_done: u64, _total: u64) {}

    pub(super) fn task() -> Task {
        testing::current_task()
    }
}
