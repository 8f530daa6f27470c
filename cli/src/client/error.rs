//! Why a farm did not do what it was asked, and whether asking again may help.

use std::time::Duration;

use farm_link::LinkError;
use farm_proto::close;
use farm_proto::columns::ColumnsError;
use farm_proto::message::RequestError;
use quinn::ConnectionError;

/// Why a farm did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Link(LinkError),
    #[error("the farm refused: {0}")]
    Refused(#[from] RequestError),
    /// It said goodbye for good.
    #[error("the farm has ended")]
    Ended,
    /// The patience of the client is over.
    #[error("the scheduler did not come back within {}", seconds(.after))]
    Away {
        after: Duration,
        #[source]
        last: Box<Self>,
    },
    #[error("the farm sent something unreadable")]
    Columns(#[from] ColumnsError),
    #[error("cannot read what is to be uploaded")]
    Source(#[source] std::io::Error),
    #[error("the farm answered out of turn: {0}")]
    Unexpected(&'static str),
    #[error("the system has no randomness to give")]
    NoRandomness,
}

fn seconds(time: &Duration) -> String {
    if time.as_secs() >= 120 { format!("{} min", time.as_secs() / 60) } else { format!("{} s", time.as_secs()) }
}

impl From<LinkError> for ClientError {
    fn from(error: LinkError) -> Self {
        if let LinkError::Lost(ConnectionError::ApplicationClosed(closed))
        | LinkError::Connect { source: ConnectionError::ApplicationClosed(closed), .. } = &error
            && closed.error_code.into_inner() == u64::from(close::SHUTDOWN)
        {
            return Self::Ended;
        }
        Self::Link(error)
    }
}

impl ClientError {
    /// Whether the scheduler may only be away: the same request, made again once it is back, may well succeed.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Link(error) => link_passes(error),
            // What follows is the end of the connection, which says whether it comes back.
            Self::Refused(RequestError::ShuttingDown) => true,
            _ => false,
        }
    }
}

fn link_passes(error: &LinkError) -> bool {
    match error {
        LinkError::Unreachable { .. } | LinkError::Resolve { .. } | LinkError::CutOff => true,
        LinkError::Connect { source, .. } | LinkError::Lost(source) => connection_passes(source),
        LinkError::Stopped(code) => is_leave(*code),
        _ => false,
    }
}

fn connection_passes(error: &ConnectionError) -> bool {
    match error {
        ConnectionError::TimedOut | ConnectionError::Reset => true,
        ConnectionError::ApplicationClosed(closed) => is_leave(closed.error_code.into_inner()),
        // TLS alerts have 0x1xx (RFC 9001, section 4.8): the certificate is refused, and will be the next time.
        ConnectionError::ConnectionClosed(closed) => !(0x100..0x200).contains(&u64::from(closed.error_code)),
        _ => false,
    }
}

/// Whether a peer that leaves with this number is expected back. [`close::DONE`] is what one leaves with that had no time
/// to say anything.
fn is_leave(code: u64) -> bool {
    [close::RESTART, close::DONE].map(u64::from).contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(code: u32) -> ClientError {
        let closed = quinn::ApplicationClose { error_code: code.into(), reason: bytes::Bytes::new() };
        LinkError::Lost(ConnectionError::ApplicationClosed(closed)).into()
    }

    #[test]
    fn who_is_expected_back_is_waited_for() {
        assert!(closed(close::RESTART).is_passing());
        assert!(ClientError::from(LinkError::Lost(ConnectionError::TimedOut)).is_passing());
        assert!(ClientError::from(LinkError::CutOff).is_passing());
        assert!(ClientError::from(RequestError::ShuttingDown).is_passing());
    }

    #[test]
    fn an_end_and_a_refusal_are_final() {
        assert!(matches!(closed(close::SHUTDOWN), ClientError::Ended));
        for code in [close::SHUTDOWN, close::FORBIDDEN, close::PROTOCOL, close::VERSION, close::BAD_TICKET] {
            assert!(!closed(code).is_passing(), "{code}");
        }
        assert!(!ClientError::from(RequestError::NoSuchJob(farm_proto::ids::JobId(1))).is_passing());
        assert!(!ClientError::from(LinkError::Refused { reason: "old".into() }).is_passing());
    }
}
