//! The one connection of a client, which is made anew on demand when it is lost.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farm_link::LinkError;
use farm_link::dial::{self, Link};
use farm_link::identity::Identity;
use farm_proto::ticket::Ticket;

use super::error::ClientError;

/// The first pause between two attempts to reach a scheduler that is away; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// A farm's address, who one is there, and the connection at present.
#[derive(Debug)]
pub(super) struct Line {
    ticket: Ticket,
    /// Without a folder, whom the farm took us for lives here: tickets may be good for one time only.
    identity: Option<Identity>,
    identities: Option<PathBuf>,
    /// Locked to look at it or to replace it, never while anything is waited for.
    link: Mutex<Link>,
}

impl Line {
    pub(super) async fn dial(ticket: &Ticket, identities: Option<&Path>) -> Result<Self, ClientError> {
        let (link, identity) = match identities {
            Some(_) => (dial::connect(ticket, identities).await?, None),
            None => {
                let identity = dial::enrol(ticket).await?;
                (dial::connect_as(ticket, &identity).await?, Some(identity))
            }
        };
        let identities = identities.map(Path::to_owned);
        Ok(Self { ticket: ticket.clone(), identity, identities, link: Mutex::new(link) })
    }

    fn current(&self) -> MutexGuard<'_, Link> {
        // A link is replaced as a whole, so that one is there whatever panicked.
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection; a new one if the last was lost. Fails at once if that one said that there is no use.
    pub(super) async fn link(&self) -> Result<Link, ClientError> {
        let link = self.current().clone();
        let Some(reason) = link.connection.close_reason() else {
            return Ok(link);
        };
        let lost = ClientError::from(LinkError::Lost(reason));
        if !lost.is_passing() {
            return Err(lost);
        }
        let fresh = match &self.identity {
            Some(identity) => dial::connect_as(&self.ticket, identity).await?,
            None => dial::connect(&self.ticket, self.identities.as_deref()).await?,
        };
        let mut current = self.current();
        // Another request may have been faster: one connection is enough, and the other goes with its last handle.
        if current.connection.close_reason().is_some() {
            *current = fresh;
        }
        Ok(current.clone())
    }

    pub(super) async fn close(&self, code: u32) {
        let link = self.current().clone();
        link.close(code).await;
    }
}

/// How long a scheduler has been away, and when to try again.
#[derive(Debug)]
pub(super) struct Absence {
    since: Instant,
    attempts: u32,
    patience: Duration,
}

impl Absence {
    pub(super) fn begin(patience: Duration) -> Self {
        Self { since: Instant::now(), attempts: 0, patience }
    }

    pub(super) fn lasted(&self) -> Duration {
        self.since.elapsed()
    }

    /// How long to wait before the next attempt; the first one is made at once.
    ///
    /// # Errors
    ///
    /// The patience is over; `last` is why.
    pub(super) fn pause(&mut self, last: ClientError) -> Result<Duration, ClientError> {
        if self.patience.is_zero() {
            return Err(last);
        }
        let after = self.lasted();
        let left = self.patience.saturating_sub(after);
        if left.is_zero() {
            return Err(ClientError::Away { after, last: Box::new(last) });
        }
        let doublings = self.attempts.saturating_sub(1).min(16);
        let pause = if self.attempts == 0 { Duration::ZERO } else { FIRST_PAUSE * (1 << doublings) };
        self.attempts += 1;
        Ok(pause.min(LONGEST_PAUSE).min(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> ClientError {
        ClientError::from(LinkError::CutOff)
    }

    #[test]
    fn attempts_become_rarer_up_to_a_bound() {
        let mut absence = Absence::begin(Duration::from_secs(600));
        let pauses: Vec<_> = (0..9).map(|_| absence.pause(lost()).expect("patience").as_millis()).collect();
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1600, 3000, 3000, 3000]);
    }

    #[test]
    fn patience_ends_with_the_reason() {
        assert!(matches!(Absence::begin(Duration::ZERO).pause(lost()), Err(ClientError::Link(LinkError::CutOff))));
        let mut absence = Absence::begin(Duration::from_nanos(1));
        std::thread::sleep(Duration::from_millis(1));
        assert!(matches!(absence.pause(lost()), Err(ClientError::Away { .. })));
    }
}
