//! Two small helpers around threads.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks for a moment. Nothing in this crate panics while it holds a lock, and what the locks guard makes sense at any
/// time, so that poisoning is of no account.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs what may wait for a disk on another thread.
pub(crate) async fn off_loop<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Work that has not begun is cancelled when the runtime goes, and this task goes with it.
            Err(_) => std::future::pending().await,
        },
    }
}
