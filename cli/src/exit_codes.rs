//! What the exit codes of `farm` mean. They are a promise: scripts may count on them.

/// All went well: every task of the job succeeded, or there was none.
pub const OK: u8 = 0;
/// The job ran, and some of its tasks failed. Every good result was delivered.
pub const TASKS_FAILED: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;
/// The module or an input file is missing, unreadable, or not what it should be.
pub const BAD_MODULE: u8 = 3;
/// The arguments are missing, not JSON, or not what the function takes.
pub const BAD_ARGUMENTS: u8 = 4;
/// No farm answers.
pub const UNREACHABLE: u8 = 5;
/// The farm refused: a ticket that is wrong, expired, used up or revoked (a worker ends with this, too), a role that may
/// not do this, or more than a user may keep.
pub const REFUSED: u8 = 6;
/// The job did not run to its end: it was cancelled, its module does not run, or too many tasks failed.
pub const JOB_FAILED: u8 = 7;
/// The thing that was named does not exist: a job, a ticket, a farm that one is logged in to.
pub const NOT_FOUND: u8 = 8;
/// Something failed that the user could not have known: a disk is full, a process died.
pub const INTERNAL: u8 = 70;
/// Interrupted by Ctrl-C.
pub const INTERRUPTED: u8 = 130;
