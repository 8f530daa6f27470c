//! How the parts of a farm reach each other.
//!
//! farm-proto says what is said; this crate carries it over QUIC for clients, workers and schedulers alike:
//!
//! * [`transport`]: the settings of quinn and of the socket, each with its reason,
//! * [`stream`]: frames on QUIC streams,
//! * [`dial`]: from a ticket to a connection, enrolling on the way,
//! * [`identity`]: the certificate and key that enrolment gives, in memory and on disk.
//!
//! It is a crate of its own because farm-proto does no I/O and the worker never pulls in the scheduler.

pub mod dial;
pub mod identity;
pub mod stream;
pub mod transport;

use std::io;
use std::time::Duration;

use farm_proto::frame::FrameError;

/// Why two parts of a farm cannot talk.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("cannot resolve {host}")]
    Resolve {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("no answer from {address} within {} s", .after.as_secs())]
    Unreachable { address: String, after: Duration },
    #[error("the scheduler at {address} is not the one that the ticket is for")]
    WrongFarm { address: String },
    #[error("the ticket was refused: {reason}")]
    Refused { reason: String },
    #[error("cannot connect to {address}")]
    Connect {
        address: String,
        #[source]
        source: quinn::ConnectionError,
    },
    #[error("the connection was lost")]
    Lost(#[source] quinn::ConnectionError),
    #[error("the peer stopped in the middle of a frame")]
    CutOff,
    #[error("the peer ended the stream (code {0})")]
    Stopped(u64),
    #[error("the peer sent something unreadable")]
    Frame(#[from] FrameError),
    #[error("the peer sent something out of order: {0}")]
    Unexpected(&'static str),
    #[error("cannot make a key or a certificate")]
    Certificate(#[from] rcgen::Error),
    #[error("TLS is not set up right")]
    Tls(#[from] rustls::Error),
    #[error("cannot open a UDP socket")]
    Socket(#[source] io::Error),
    #[error("cannot keep the identity in {path}")]
    Store {
        path: std::path::PathBuf,
        #[source]
        source: io::Error,
    },
}

impl From<quinn::ReadError> for LinkError {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::Reset(code) => Self::Stopped(code.into_inner()),
            quinn::ReadError::ConnectionLost(source) => Self::Lost(source),
            quinn::ReadError::ClosedStream | quinn::ReadError::IllegalOrderedRead => {
                Self::Unexpected("read after the end of a stream")
            }
            quinn::ReadError::ZeroRttRejected => Self::Unexpected("0-RTT, which is never used"),
        }
    }
}

impl From<quinn::WriteError> for LinkError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::Stopped(code) => Self::Stopped(code.into_inner()),
            quinn::WriteError::ConnectionLost(source) => Self::Lost(source),
            quinn::WriteError::ClosedStream => Self::Unexpected("write after the end of a stream"),
            quinn::WriteError::ZeroRttRejected => Self::Unexpected("0-RTT, which is never used"),
        }
    }
}

impl From<quinn::ConnectionError> for LinkError {
    fn from(error: quinn::ConnectionError) -> Self {
        Self::Lost(error)
    }
}
