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
    #[error("cannot write what was fetched")]
    Write(#[source] std::io::Error),
    /// Nothing was submitted.
    #[error("{} changed while it was being uploaded: no job was started", .0.display())]
    Changed(std::path::PathBuf),
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
        if error.close_code() == Some(close::SHUTDOWN.into()) { Self::Ended } else { Self::Link(error) }
    }
}

impl ClientError {
    /// Whether the scheduler may only be away: the same request, made again once it is back, may well succeed.
    pub fn is_passing(&self) -> bool {
        match self {
            // Only our own [`Client::close`](super::Client::close) does that.
            Self::Link(LinkError::Lost(ConnectionError::LocallyClosed)) => false,
            Self::Link(error) => error.is_passing(),
            // What follows is the end of the connection, which says whether it comes back.
            Self::Refused(RequestError::ShuttingDown) => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(code: u32) -> ClientError {
        let closed = quinn::ApplicationClose { error_code: code.into(), reason: bytes::Bytes::new() };
        LinkError::from(ConnectionError::ApplicationClosed(closed)).into()
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
