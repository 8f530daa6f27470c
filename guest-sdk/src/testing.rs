//! Playing the host's part in tests.
//!
//! A farm function is an ordinary function, and most tests simply call it. What remains is what the host would do:
//! [`with_task`] says which task is running, [`call`] goes the way a task goes, through JSON or raw bytes.
//!
//! ```
//! # extern crate farm_sdk as farm;
//! #[farm::function]
//! fn draw() -> f64 {
//!     farm::rng().f64()
//! }
//!
//! use farm::{Task, testing};
//!
//! let first = testing::with_task(Task { seed: 1, ..Task::default() }, draw);
//! let second = testing::with_task(Task { seed: 2, ..Task::default() }, draw);
//! assert_ne!(first, second);
//!
//! assert!(testing::call("draw", "[7]").is_err(), "it takes no arguments");
//! ```
//!
//! [`attempt`] runs a function that keeps checkpoints as one attempt of several.

#[cfg(not(target_family = "wasm"))]
pub(crate) mod carried;

#[cfg(not(target_family = "wasm"))]
pub use self::carried::{Attempt, attempt};
#[cfg(not(target_family = "wasm"))]
use crate::Task;
pub use crate::failure::Failure;
use crate::{describe, registry};

/// Calls a function as a farm does: by its name, with a JSON text, or bytes where it is raw. Gives a JSON text or
/// bytes likewise.
///
/// # Errors
///
/// What a farm would report, except for a panic, which goes through.
pub fn call(function: &str, input: impl AsRef<[u8]>) -> Result<Vec<u8>, Failure> {
    registry::call(function, input.as_ref().to_vec())
}

/// Describes all functions that are linked into the test, as the module's `describe` does: a JSON text.
pub fn describe() -> String {
    describe::describe()
}

/// Runs `f` as if it were the given task: [`task`](crate::task) and [`rng`](crate::rng) follow it on this thread.
#[cfg(not(target_family = "wasm"))]
pub fn with_task<R>(task: Task, f: impl FnOnce() -> R) -> R {
    /// Puts the former task back, also when `f` panics.
    struct Restore(Task);

    impl Drop for Restore {
        fn drop(&mut self) {
            TASK.set(self.0);
        }
    }

    let _restore = Restore(TASK.replace(task));
    f()
}

#[cfg(not(target_family = "wasm"))]
thread_local! {
    static TASK: std::cell::Cell<Task> = const { std::cell::Cell::new(Task { job: 0, index: 0, attempt: 0, seed: 0 }) };
}

#[cfg(not(target_family = "wasm"))]
pub(crate) fn current_task() -> Task {
    TASK.get()
}
