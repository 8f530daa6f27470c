//! Attempts that go on where the last one was.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};

/// How an [`attempt`] ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt<R> {
    /// What the function gave; nothing if it [suspended](crate::suspend) itself.
    pub value: Option<R>,
    /// What the next attempt would be given: the last state that was kept, in this attempt or before.
    pub state: Option<Vec<u8>>,
}

/// Runs `f` as an attempt of a task: [`restored`](crate::restored) gives `state`, and
/// [`should_stop`](crate::should_stop) is true once this attempt has kept as many checkpoints as `stop_after` says
/// (`usize::MAX`: never).
///
/// ```
/// # extern crate farm_sdk as farm;
/// use farm::testing::attempt;
///
/// fn count_to_ten() -> u8 {
///     let mut count = farm::restored().map_or(0, |state| state[0]);
///     while count < 10 {
///         count += 1;
///         farm::checkpoint([count]).expect("a small state");
///         if farm::should_stop() {
///             farm::suspend([count]);
///         }
///     }
///     count
/// }
///
/// let first = attempt(None, 3, count_to_ten);
/// assert_eq!((first.value, first.state.as_deref()), (None, Some(&[3][..])));
/// assert_eq!(attempt(first.state, usize::MAX, count_to_ten).value, Some(10));
/// ```
///
/// # Panics
///
/// As `f` does.
pub fn attempt<R>(state: Option<Vec<u8>>, stop_after: usize, f: impl FnOnce() -> R) -> Attempt<R> {
    let outer = CARRIED.replace(Some(Carried { restored: state.clone(), kept: state, left: stop_after }));
    let ended = panic::catch_unwind(AssertUnwindSafe(f));
    let state = CARRIED.replace(outer).and_then(|carried| carried.kept);
    match ended {
        Ok(value) => Attempt { value: Some(value), state },
        Err(reason) if is_suspension(&*reason) => Attempt { value: None, state },
        Err(reason) => panic::resume_unwind(reason),
    }
}

struct Carried {
    restored: Option<Vec<u8>>,
    kept: Option<Vec<u8>>,
    /// Checkpoints until it should stop.
    left: usize,
}

/// What [`suspend`] unwinds with.
struct Suspended;

fn is_suspension(reason: &(dyn Any + Send)) -> bool {
    reason.is::<Suspended>()
}

thread_local! {
    static CARRIED: RefCell<Option<Carried>> = const { RefCell::new(None) };
}

pub(crate) fn should_stop() -> bool {
    CARRIED.with_borrow(|carried| carried.as_ref().is_some_and(|carried| carried.left == 0))
}

pub(crate) fn keep(state: &[u8]) {
    CARRIED.with_borrow_mut(|carried| {
        if let Some(carried) = carried {
            carried.kept = Some(state.to_vec());
            carried.left = carried.left.saturating_sub(usize::from(carried.left != usize::MAX));
        }
    });
}

pub(crate) fn restored() -> Option<Vec<u8>> {
    CARRIED.with_borrow(|carried| carried.as_ref()?.restored.clone())
}

pub(crate) fn suspend() -> ! {
    // Nothing is wrong, so that no hook has anything to report.
    panic::resume_unwind(Box::new(Suspended))
}
