//! Peers: who may connect, and what each of their streams is served with.
//!
//! ```text
//! listener ── connection ┬─ enrolment              farm-enrol/1: one request, then over
//!                        ├─ request, request, …    a stream each: one request, its answers
//!                        └─ worker                 control and work, two streams for good
//! ```
//!
//! Each connection is a task, and so is each of its streams. A stream that breaks the protocol ends its connection with
//! a [numbered code](farm_proto::close); when a connection ends, so do all of its streams' tasks.

mod connection;
mod enrol;
pub(crate) mod gone;
pub(crate) mod listener;
mod request;
mod streams;
mod transfer;
mod watch;
mod worker;

pub(crate) use self::worker::Seat;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use farm_link::LinkError;
use farm_proto::close;
use farm_proto::cluster::ClusterSpec;
use farm_proto::ids::WorkerId;
use farm_proto::message::RequestError;
use farm_proto::ticket::{NewTicket, Role, Ticket};

use crate::blobs::Blobs;
use crate::cluster::Desk;
use crate::farm::Farm;
use crate::identity::admission::Admission;
use crate::identity::ca::Ca;
use crate::identity::caller::Caller;
use crate::identity::secret::Secrets;
use crate::store::{Store, TicketRow};
use crate::{Options, SchedulerError};

/// How a scheduler ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It is expected back.
    Stop,
    /// And the farm with it.
    ForGood,
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) local: SocketAddr,
    pub(crate) ca: Ca,
    pub(crate) secrets: Secrets,
    /// Whose certificates are good.
    pub(crate) admission: Arc<Admission>,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) store: Arc<Store>,
    pub(crate) farm: Farm,
    /// Who is connected from where.
    pub(crate) peers: gone::Peers,
    /// Set when the scheduler is to end.
    pub(crate) ending: tokio::sync::watch::Sender<Option<Ending>>,
    pub(crate) workers: AtomicU64,
    pub(crate) desk: Arc<Desk>,
}

impl Shared {
    /// The cluster with what the site says, if the caller may have it.
    pub(crate) fn check_cluster(&self, caller: &Caller, spec: &ClusterSpec) -> Result<ClusterSpec, RequestError> {
        if !caller.is_admin() && !self.options.config.clusters.users_may_create {
            return Err(RequestError::Forbidden(Role::Admin));
        }
        self.desk.resolve(spec)
    }

    /// Makes a ticket, and its text: it leads to the address of ours that somebody `reached`, unless the farm advertises
    /// another. `by` is for people. Whoever is handed the ticket can use it: its row is stored when this returns.
    ///
    /// # Errors
    ///
    /// There can be no such ticket, or it cannot be stored.
    pub(crate) async fn new_ticket(
        &self,
        new: NewTicket,
        by: String,
        reached: Option<IpAddr>,
    ) -> Result<(Ticket, TicketRow), RequestError> {
        let row = self.farm.new_ticket(new, by).await?;
        let ticket = self.ticket_of(&row, reached).map_err(|error| RequestError::Invalid(error.to_string()))?;
        Ok((ticket, row))
    }

    /// A ticket with a new secret.
    ///
    /// # Errors
    ///
    /// The system has no randomness to give.
    pub(crate) fn ticket_of(&self, row: &TicketRow, reached: Option<IpAddr>) -> Result<Ticket, SchedulerError> {
        Ok(Ticket {
            host: self.options.ticket_host(reached),
            port: self.local.port(),
            role: row.role,
            ca: self.ca.fingerprint(),
            secret: self.secrets.make(row.ticket, row.expires_s)?,
        })
    }

    fn next_worker(&self) -> WorkerId {
        WorkerId(self.workers.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// Why a stream is not served to its end.
#[derive(Debug, thiserror::Error)]
enum Fault {
    /// The peer has gone, or wants no more of this: nothing to be done.
    #[error("the peer has gone")]
    Gone,
    /// What the peer sends cannot be understood. Ends the connection.
    #[error("{0}")]
    Protocol(String),
    /// The peer is not who may do this. Ends the connection.
    #[error("{0}")]
    Forbidden(&'static str),
    /// Something here failed in the middle of an answer. Ends the stream.
    #[error("{0}")]
    Internal(String),
}

impl Fault {
    const fn code(&self) -> u32 {
        match self {
            Self::Gone => close::DONE,
            Self::Protocol(_) => close::PROTOCOL,
            Self::Forbidden(_) => close::FORBIDDEN,
            Self::Internal(_) => close::INTERNAL,
        }
    }
}

impl From<LinkError> for Fault {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Lost(_) | LinkError::Stopped(_) => Self::Gone,
            LinkError::Frame(error) => Self::Protocol(error.to_string()),
            other => Self::Protocol(other.to_string()),
        }
    }
}
