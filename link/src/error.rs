//! Why two parts of a farm cannot talk, and whether it is worth trying again.

use std::io;
use std::time::Duration;

use farm_proto::frame::FrameError;
use farm_proto::{ALPN, close};
use quinn::{ConnectionError, TransportErrorCode};

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
    /// It closed the connection with [`close::REVOKED`], and says why.
    #[error("{reason}")]
    Revoked { reason: String },
    #[error("the certificate that was kept for this farm has run out, or is gone")]
    NoIdentity,
    #[error("cannot connect to {address}")]
    Connect {
        address: String,
        #[source]
        source: ConnectionError,
    },
    #[error(
        "the scheduler speaks another version of the protocol than this program, which speaks {}: {reason}",
        String::from_utf8_lossy(ALPN)
    )]
    Version { reason: String },
    #[error("the connection was lost")]
    Lost(#[source] ConnectionError),
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
            quinn::ReadError::ConnectionLost(source) => source.into(),
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
            quinn::WriteError::ConnectionLost(source) => source.into(),
            quinn::WriteError::ClosedStream => Self::Unexpected("write after the end of a stream"),
            quinn::WriteError::ZeroRttRejected => Self::Unexpected("0-RTT, which is never used"),
        }
    }
}

impl From<ConnectionError> for LinkError {
    fn from(error: ConnectionError) -> Self {
        if let Some(reason) = version_mismatch(&error) {
            return Self::Version { reason };
        }
        match error {
            ConnectionError::ApplicationClosed(closed) if closed.error_code == close::REVOKED.into() => {
                Self::Revoked { reason: String::from_utf8_lossy(&closed.reason).into_owned() }
            }
            error => Self::Lost(error),
        }
    }
}

impl LinkError {
    /// Whether dialling (again) may help: the peer is not there, or was and is expected back. What it refuses, it will
    /// refuse again, and so it is with what cannot be understood.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Resolve { .. } | Self::Unreachable { .. } | Self::CutOff | Self::Socket(_) => true,
            Self::Connect { source, .. } | Self::Lost(source) => match source {
                ConnectionError::ApplicationClosed(closed) => is_passing_code(closed.error_code.into_inner()),
                ConnectionError::ConnectionClosed(closed) => !is_of_tls(closed.error_code),
                ConnectionError::TransportError(error) => !is_of_tls(error.code),
                ConnectionError::VersionMismatch => false,
                ConnectionError::Reset
                | ConnectionError::TimedOut
                | ConnectionError::LocallyClosed
                | ConnectionError::CidsExhausted => true,
            },
            Self::Stopped(code) => is_passing_code(*code),
            Self::WrongFarm { .. }
            | Self::Refused { .. }
            | Self::Revoked { .. }
            | Self::NoIdentity
            | Self::Version { .. }
            | Self::Frame(_)
            | Self::Unexpected(_)
            | Self::Certificate(_)
            | Self::Tls(_)
            | Self::Store { .. } => false,
        }
    }

    /// Whether the peer was there, and went. Of other [passing](Self::is_passing) errors, nobody knows whether there is a
    /// peer at all.
    pub fn has_answered(&self) -> bool {
        match self {
            Self::Lost(_) | Self::CutOff | Self::Stopped(_) => true,
            Self::Connect { source, .. } => matches!(source, ConnectionError::Reset),
            _ => false,
        }
    }

    /// With which of the [numbered reasons](close) the peer closed the connection, if that is what it did.
    pub fn close_code(&self) -> Option<u64> {
        match self {
            Self::Lost(ConnectionError::ApplicationClosed(closed))
            | Self::Connect { source: ConnectionError::ApplicationClosed(closed), .. } => {
                Some(closed.error_code.into_inner())
            }
            _ => None,
        }
    }
}

/// Codes that we do not know are from a peer that we would not understand.
fn is_passing_code(code: u64) -> bool {
    [close::INTERNAL, close::RESTART, close::SILENT].into_iter().any(|passing| u64::from(passing) == code)
}

/// Whether a certificate was refused, or the like: the code is a TLS alert.
fn is_of_tls(code: TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}

/// What the peer says of its version, if that is why it does not talk.
fn version_mismatch(error: &ConnectionError) -> Option<String> {
    /// The TLS alert `no_application_protocol`.
    const NO_ALPN: u8 = 120;
    let alert = match error {
        ConnectionError::ApplicationClosed(closed) if closed.error_code == close::VERSION.into() => {
            return Some(String::from_utf8_lossy(&closed.reason).into_owned());
        }
        ConnectionError::ConnectionClosed(closed) => closed.error_code,
        ConnectionError::TransportError(error) => error.code,
        _ => return None,
    };
    (alert == TransportErrorCode::crypto(NO_ALPN)).then(|| "it does not know that one".to_owned())
}

#[cfg(test)]
mod tests {
    use quinn::{ApplicationClose, VarInt};

    use super::*;

    fn closed(code: u32) -> LinkError {
        let reason = "speaks farm/9".into();
        ConnectionError::ApplicationClosed(ApplicationClose { error_code: VarInt::from_u32(code), reason }).into()
    }

    #[test]
    fn only_what_passes_is_worth_another_dial() {
        for code in [close::INTERNAL, close::RESTART, close::SILENT] {
            assert!(closed(code).is_passing(), "{code}");
        }
        for code in [close::DONE, close::PROTOCOL, close::FORBIDDEN, close::SHUTDOWN, close::BAD_TICKET, 77] {
            assert!(!closed(code).is_passing(), "{code}");
        }
        assert!(LinkError::from(ConnectionError::TimedOut).is_passing());
        assert!(LinkError::from(ConnectionError::Reset).is_passing());
        assert!(!LinkError::Refused { reason: String::new() }.is_passing());
    }

    #[test]
    fn a_revoked_ticket_is_told_apart() {
        let error = closed(close::REVOKED);
        assert!(matches!(&error, LinkError::Revoked { reason } if reason == "speaks farm/9"), "{error:?}");
        assert!(!error.is_passing());
    }

    #[test]
    fn another_version_is_told_apart() {
        let error = closed(close::VERSION);
        assert!(matches!(error, LinkError::Version { .. }), "{error:?}");
        assert!(!error.is_passing());
        let text = error.to_string();
        assert!(text.contains("farm/2") && text.contains("farm/9"), "{text}");
    }
}
