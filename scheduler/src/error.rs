//! Why a scheduler does not start, or stops.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What can go wrong with a scheduler as a whole. What goes wrong with a request is told to whoever made it
/// ([`farm_proto::message::RequestError`]); a peer that misbehaves is closed.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("cannot listen on {address} for HTTP")]
    ListenHttp {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("{path} belongs to a scheduler that is running ({holder})")]
    InUse {
        path: PathBuf,
        /// What that scheduler wrote about itself: process and address.
        holder: String,
    },
    #[error("cannot use {path}")]
    State {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} does not hold {expected}: the folder is not a farm's, or damaged")]
    Foreign { path: PathBuf, expected: &'static str },
    #[error(
        "{path} is of version {found}, and this program knows versions up to {known}: it was written by a newer one"
    )]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error("{path} is damaged: {place}")]
    Corrupt {
        path: PathBuf,
        /// Table and row, or what else is wrong where.
        place: String,
    },
    #[error("{path} is missing, and whoever has a way into this farm has it by that file")]
    Incomplete { path: PathBuf },
    #[error("{path} is not empty")]
    NotEmpty { path: PathBuf },
    #[error("cannot make a key or a certificate")]
    Certificate(#[from] rcgen::Error),
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    #[error("{0}")]
    Ticket(#[from] TicketRefused),
}

/// Why no ticket can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketRefused {
    #[error(
        "{0:?} is no name for a ticket: 1 to {max} letters, digits, and `.`, `_`, `-`, `@`",
        max = crate::identity::MAX_NAME
    )]
    Name(String),
    #[error("{0:?} is no name for a cluster: 1 to 32 letters, digits, `-` and `_`, and a letter or digit first")]
    Cluster(String),
    #[error("only workers belong to a cluster, not {0}s")]
    NoCluster(farm_proto::ticket::Role),
    #[error("a ticket that cannot be used even once is no ticket")]
    Uses,
    #[error("a ticket cannot be valid for no time at all, or for more than {max} days",
        max = crate::identity::MAX_TICKET.as_secs() / 86_400)]
    Validity,
}
