//! What the core keeps of each job, worker and owner.

mod job;
mod owner;
mod pool;
mod worker;

pub(crate) use self::job::{EndedJob, Inputs, Job, Left, Phase, is_in, numbers_in};
pub(crate) use self::owner::{OwnerId, Owners};
pub(crate) use self::pool::Pool;
pub(crate) use self::worker::{Asked, Held, Load, Place, Worker};
