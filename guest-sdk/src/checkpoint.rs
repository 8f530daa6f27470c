//! How a long task goes on elsewhere when its worker goes.

/// Why [`checkpoint`] has not kept a state: it is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TooLarge {
    /// How many bytes it has.
    pub size: u64,
    /// How many it may have.
    pub limit: u64,
}

impl std::fmt::Display for TooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a checkpoint of {} bytes is more than the {} that are kept", self.size, self.limit)
    }
}

impl std::error::Error for TooLarge {}

/// Whether the task's worker is about to go: its batch system has warned it, its time is nearly over, it was drained, or
/// there are fewer workers wanted. Once it is true, it stays so.
///
/// What runs then may go on for a while, some 25 seconds where nothing else is known, and is cut off after that. A task
/// that is cut off has not failed: it runs again elsewhere, from its last [`checkpoint`]. Best is to [`suspend`] it.
///
/// Leaves the sandbox, which takes well under a microsecond. Natively false, unless [`testing::attempt`] says otherwise.
///
/// [`testing::attempt`]: crate::testing::attempt
pub fn should_stop() -> bool {
    imp::should_stop()
}

/// Keeps a state for the task's next attempt, in the place of the one that was kept last: that attempt has it from
/// [`restored`], on whichever worker, whether this one was cut off, lost with its worker, or failed and is tried again.
/// When the task has its result, the state is forgotten.
///
/// When this returns, the worker has the state: the end of this task, or of the process that it runs in, does not lose
/// it. On the scheduler's disk it is a moment later; states that come fast after one another are sent on about once a
/// second, larger ones less often (a second more for each MiB), and always before the worker goes in good order. Only a
/// worker that dies at once, or is cut off from its scheduler, loses what was kept within that time. It may wait while
/// the worker has more to send than its link takes.
///
/// Natively the state is dropped, unless [`testing::attempt`](crate::testing::attempt) looks at it.
///
/// # Errors
///
/// The state is too large: 16 MiB are the most. The one before stays.
pub fn checkpoint(state: impl AsRef<[u8]>) -> Result<(), TooLarge> {
    imp::checkpoint(state.as_ref())
}

/// The state that was kept last by an earlier attempt of this task; nothing if there is none: begin at the start then.
/// What this attempt keeps does not change it.
///
/// Each call copies the state into the function's memory. Nothing natively, unless
/// [`testing::attempt`](crate::testing::attempt) says otherwise.
pub fn restored() -> Option<Vec<u8>> {
    imp::restored()
}

/// Keeps a state, as [`checkpoint`] does, and gives the task back: it runs again on another worker, from that state. This
/// saves the time that the worker would otherwise wait for it.
///
/// Only once [`should_stop`] has said so. If it has not, or the state is too large, the task fails, with a message that
/// says it: a task that gave itself back to a worker that stays would never end.
///
/// Nothing of this attempt is kept but the state: what it has logged is not, nor its files. Natively it panics, unless
/// [`testing::attempt`](crate::testing::attempt) catches it.
pub fn suspend(state: impl AsRef<[u8]>) -> ! {
    imp::suspend(state.as_ref())
}

#[cfg(target_family = "wasm")]
mod imp {
    use super::TooLarge;
    use crate::bindings::farm::function::checkpoint::{self, Refusal};

    pub(super) fn should_stop() -> bool {
        checkpoint::should_stop()
    }

    pub(super) fn checkpoint(state: &[u8]) -> Result<(), TooLarge> {
        checkpoint::keep(state).map_err(|Refusal::TooLarge(limit)| TooLarge { size: state.len() as u64, limit })
    }

    pub(super) fn restored() -> Option<Vec<u8>> {
        checkpoint::restored()
    }

    pub(super) fn suspend(state: &[u8]) -> ! {
        checkpoint::suspend(state);
        unreachable!("the host ends the attempt")
    }
}

#[cfg(not(target_family = "wasm"))]
mod imp {
    use super::TooLarge;
    use crate::testing::carried;

    /// As hosts have it.
    const LIMIT: usize = 16 << 20;

    pub(super) fn should_stop() -> bool {
        carried::should_stop()
    }

    pub(super) fn checkpoint(state: &[u8]) -> Result<(), TooLarge> {
        if state.len() > LIMIT {
            return Err(TooLarge { size: state.len() as u64, limit: LIMIT as u64 });
        }
        carried::keep(state);
        Ok(())
    }

    pub(super) fn restored() -> Option<Vec<u8>> {
        carried::restored()
    }

    pub(super) fn suspend(state: &[u8]) -> ! {
        assert!(should_stop(), "farm::suspend was called before farm::should_stop() said so");
        if let Err(error) = checkpoint(state) {
            panic!("{error}");
        }
        carried::suspend()
    }
}
