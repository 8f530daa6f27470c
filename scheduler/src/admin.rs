//! What is done with a state folder from outside: looking whether it is whole, copying it, and freeing what nobody needs.
//!
//! [`check`] and [`backup`] only read, and may be run beside the folder's scheduler. [`gc`] takes the folder's lock.

mod backup;
mod check;
mod gc;

pub use self::backup::{BackupReport, backup};
pub use self::check::{CheckReport, check};
pub use self::gc::{GRACE, GcReport, gc, gc_older_than};

#[cfg(test)]
mod tests;
