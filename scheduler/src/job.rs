//! What a job is, beyond what the core needs to know: whether it makes sense, and its arguments.

pub(crate) mod args;
pub(crate) mod check;
mod chunk;
pub(crate) mod results;
pub(crate) mod retry;
mod subset;
