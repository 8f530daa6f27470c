//! Who is who in a farm.
//!
//! A farm has one [CA](ca), made when its scheduler first starts. The scheduler's certificate is made by it anew at
//! each start and is known by the CA alone. Everyone else enrols: a [ticket's secret](secret) buys a certificate that
//! says, in a URI, [what its bearer may do, how it is called](caller), and which ticket it is of. What is known of a ticket
//! is a [row](crate::store::TicketRow); whether it is still good is asked at each [connection](admission).

pub(crate) mod admission;
pub(crate) mod ca;
pub(crate) mod caller;
pub(crate) mod secret;

use std::time::Duration;

use farm_proto::ids::JobId;
use farm_proto::ticket::Role;

use crate::SchedulerError;
use crate::state_dir::{IDENTITY, StateDir};

/// The longest name of a user or worker.
pub(crate) const MAX_NAME: usize = 64;
/// The longest time for which a ticket is valid: ten years.
pub(crate) const MAX_TICKET: Duration = Duration::from_secs(10 * 365 * 86_400);

/// How long a certificate is valid. Whoever uses it renews it long before; a worker enrols when it starts, so that its own
/// may be short, while a user's has to last from one use of the farm to the next.
pub(crate) const fn certificate_validity(role: Role) -> Duration {
    match role {
        Role::Admin | Role::User => Duration::from_secs(90 * 86_400),
        Role::Worker => Duration::from_secs(7 * 86_400),
    }
}

/// Whether anybody may know a farm by what is in its state folder: its CA and its secret then are as old as the farm, and
/// to make others would lock everybody out. If not, its first scheduler has died before all of it was made.
pub(crate) fn in_use(state: &StateDir, last_job: JobId) -> Result<bool, SchedulerError> {
    let is_there = |name| Ok::<_, SchedulerError>(state.read(name)?.is_some());
    // In this order they are made.
    let [ca, secret, admin, worker] = IDENTITY;
    Ok(last_job > JobId(0) || is_there(admin)? || is_there(worker)? || (is_there(secret)? && !is_there(ca)?))
}

/// Whether a name is fit for certificates, logs and file names.
pub(crate) fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(fits)
}
