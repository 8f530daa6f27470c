//! The one connection of a client, which is made anew on demand when it is lost.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farm_link::LinkError;
use farm_link::dial::{Dialer, Link};

use super::error::ClientError;

/// The first pause between two attempts to reach a scheduler that is away; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// How long a scheduler is waited for that went while it was dialled for the first time. Whoever waits has been told
/// nothing yet, so it is not long.
const DIAL_PATIENCE: Duration = Duration::from_secs(60);

/// How to reach a farm, and the connection at present.
#[derive(Debug)]
pub(super) struct Line {
    /// Locked to look at it or to replace it, never while anything is waited for.
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    dialer: Dialer,
    link: Link,
}

impl Line {
    /// Dials. Fails at once if nobody answers; who answers and goes is waited for a while.
    pub(super) async fn dial(mut dialer: Dialer) -> Result<Self, ClientError> {
        let mut absence: Option<Absence> = None;
        loop {
            let lost = match dialer.dial().await {
                Ok(link) => return Ok(Self { now: Mutex::new(Now { dialer, link }) }),
                Err(error) => error,
            };
            // It was there, and went in the midst of it: then it is expected back.
            if !lost.is_passing() || !(absence.is_some() || lost.has_answered()) {
                return Err(lost.into());
            }
            let absence = absence.get_or_insert_with(|| Absence::begin(DIAL_PATIENCE));
            tokio::time::sleep(absence.pause(lost.into())?).await;
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        // What is in it is replaced as a whole, and thus good whatever panicked.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection; a new one if the last was lost. Fails at once if that one said that there is no use.
    pub(super) async fn link(&self) -> Result<Link, ClientError> {
        let link = self.now().link.clone();
        let Some(reason) = link.connection.close_reason() else {
            return Ok(link);
        };
        let lost = ClientError::from(LinkError::from(reason));
        if !lost.is_passing() {
            return Err(lost);
        }
        let mut dialer = self.now().dialer.clone();
        let link = dialer.dial().await?;
        let mut now = self.now();
        // Another request may have been faster: one connection is enough, and the other goes with its last handle.
        if now.link.connection.close_reason().is_some() {
            *now = Now { dialer, link };
        }
        Ok(now.link.clone())
    }

    pub(super) async fn close(&self, code: u32) {
        let link = self.now().link.clone();
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
