//! How a worker comes by a connection, and by the next one when that is lost.
//!
//! ```text
//!   away ─ backoff ─► dialling ─► greeting ─► connected
//!     ▲                  │           │            │
//!     └──── failed ──────┴───────────┴─── lost ───┘
//! ```
//!
//! Dialling and greeting are tasks of their own, so that the agent's loop goes on meanwhile. The loop has a word in
//! between the two: only then does it say what the worker still has.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farm_link::dial::{Dialer, Link};
use farm_link::{LinkError, failpoint};
use farm_proto::close;
use farm_proto::ids::WorkerId;
use farm_proto::message::{Open, Resume, SchedulerControl, WorkerHello};
use farm_proto::ticket::Ticket;
use tokio::task::JoinSet;

use super::streams::Streams;

/// The first pause in between two dials. It doubles up to [`LONGEST_PAUSE`], and is cut by up to a half at random, so
/// that a thousand workers do not come back all at once.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// A connection that has lasted for this long was a good one: the time without one counts from its end, and pauses begin
/// small again. One that is lost at once has not ended the time before it.
const STEADY: Duration = Duration::from_secs(5);
/// When a certificate that could not be renewed is tried again.
const RENEWAL_PAUSE: Duration = Duration::from_secs(60);
/// And how long it is from one renewal to the next, however short the certificates are.
const LEAST_RENEWAL: Duration = Duration::from_millis(500);
/// How long a connection may take to be seen as closed when one of its streams has ended.
const END_OF_CONNECTION: Duration = Duration::from_secs(1);

/// A connection, and the streams on it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) link: Link,
    pub(super) streams: Streams,
    pub(super) worker: WorkerId,
}

/// What a step towards a connection has come to.
#[derive(Debug)]
pub(super) enum Step {
    /// Call [`Connector::greet`].
    Dialled(Link),
    Greeted(Box<Session>),
    /// The certificate was renewed, or will be tried to be again: [`Connector::renewal`] has changed.
    Renewed,
    /// Call [`Connector::lost`], if it may help to dial again.
    Failed(LinkError),
}

/// The way to the next connection.
#[derive(Debug)]
pub(super) struct Connector {
    dialer: Dialer,
    hello: WorkerHello,
    /// When this worker will be gone, if that is known.
    ends: Option<Instant>,
    /// For how long it is tried: at first, and once there was a connection.
    wait: Duration,
    later_wait: Duration,
    /// Since when there is no connection, or none that lasts.
    away_since: Instant,
    /// Since when there is one.
    connected: Option<Instant>,
    /// Failures since then, and the last of them.
    failures: u32,
    last_error: Option<LinkError>,
    /// At most one, and a renewal.
    step: JoinSet<Done>,
    /// The connection on which hello is being said.
    greeting: Option<Link>,
    /// When the certificate is to be renewed.
    renewal: Option<Instant>,
}

/// What a step's task gives back.
#[derive(Debug)]
enum Done {
    Dialled(Dialer, Result<Link, LinkError>),
    Greeted(Result<Session, LinkError>),
    Renewed(Dialer, Result<(), LinkError>),
}

impl Connector {
    /// Begins to dial, for at most the first time. Later on, it is dialled again for at most the other after each loss.
    pub(super) fn new(
        ticket: &Ticket,
        identities: Option<&Path>,
        (hello, ends): (WorkerHello, Option<Instant>),
        (wait, later_wait): (Duration, Duration),
    ) -> Self {
        let mut connector = Self {
            dialer: Dialer::new(ticket.clone(), identities),
            hello,
            ends,
            wait,
            later_wait,
            away_since: Instant::now(),
            connected: None,
            failures: 0,
            last_error: None,
            step: JoinSet::new(),
            greeting: None,
            renewal: None,
        };
        connector.dial(Duration::ZERO);
        connector
    }

    /// When [`Self::give_up`] is due. `None` while there is a connection, and before the first dial has failed.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.last_error.as_ref()?;
        self.away_since.checked_add(self.wait)
    }

    /// No further dial: for how long there was no connection, and why there is none.
    pub(super) fn give_up(&mut self) -> (Duration, LinkError) {
        self.step.abort_all();
        let error = self.last_error.take().unwrap_or(LinkError::CutOff);
        (self.away_since.elapsed(), error)
    }

    /// Waits for the next step, for ever if none is under way. Cancel-safe.
    pub(super) async fn next(&mut self) -> Step {
        let Some(done) = self.step.join_next().await else {
            return std::future::pending().await;
        };
        if !matches!(done, Ok(Done::Renewed(..))) {
            self.greeting = None;
        }
        match done {
            Ok(Done::Dialled(dialer, result)) => {
                self.dialer = dialer;
                match result {
                    Ok(link) => Step::Dialled(link),
                    Err(error) => Step::Failed(error),
                }
            }
            Ok(Done::Renewed(dialer, result)) => {
                self.renewed(dialer, result);
                Step::Renewed
            }
            Ok(Done::Greeted(Ok(session))) => {
                self.connected = Some(Instant::now());
                self.wait = self.later_wait;
                self.last_error = None;
                self.renewal = self.dialer.renewal_in().and_then(|time| Instant::now().checked_add(time));
                Step::Greeted(Box::new(session))
            }
            Ok(Done::Greeted(Err(error))) => Step::Failed(error),
            Err(_) => Step::Failed(LinkError::Unexpected("a panic while dialling")),
        }
    }

    /// When [`Self::renew`] is due, as long as there is a connection.
    pub(super) fn renewal(&self) -> Option<Instant> {
        self.renewal
    }

    /// Renews the certificate if it is time to: a worker may live for longer than it is valid, and dial again then.
    pub(super) fn renew(&mut self, link: &Link) {
        if self.renewal.is_none_or(|due| Instant::now() < due) {
            return;
        }
        self.renewal = None;
        let (mut dialer, link) = (self.dialer.clone(), link.clone());
        self.step.spawn(async move {
            let result = dialer.renew(&link).await;
            Done::Renewed(dialer, result)
        });
    }

    fn renewed(&mut self, dialer: Dialer, result: Result<(), LinkError>) {
        let pause = match result {
            Ok(()) => {
                self.dialer = dialer;
                self.dialer.renewal_in()
            }
            // If the ticket was revoked, the connection is closed as well.
            Err(error) => {
                tracing::warn!("the certificate cannot be renewed yet: {}", words(&error));
                Some(RENEWAL_PAUSE)
            }
        };
        self.renewal = pause.and_then(|pause| Instant::now().checked_add(pause.max(LEAST_RENEWAL)));
    }

    /// Breaks off whatever is under way. Gives the connection on which hello was being said, so that goodbye can be.
    pub(super) fn stop(mut self) -> Option<Link> {
        self.step.abort_all();
        self.greeting.take()
    }

    /// Says hello on a connection. `comes_back` if there was another before.
    pub(super) fn greet(&mut self, link: Link, resume: Resume, comes_back: bool) {
        self.greeting = Some(link.clone());
        let left = self.ends.map(|ends| ends.saturating_duration_since(Instant::now()).as_millis());
        let ends_in_ms = left.map(|left| u64::try_from(left).unwrap_or(u64::MAX));
        let hello = WorkerHello { ends_in_ms, ..self.hello.clone() };
        self.step.spawn(greet(link, hello, resume, comes_back));
    }

    /// There is no connection any more, or still none: dials again, after a pause.
    pub(super) fn lost(&mut self, error: LinkError) {
        if let Some(since) = self.connected.take()
            && since.elapsed() >= STEADY
        {
            self.failures = 0;
            self.away_since = Instant::now();
        }
        let reason = words(&error);
        if self.failures == 0 {
            tracing::warn!("{reason}; dialling again for up to {} s", self.wait.as_secs());
        } else {
            tracing::debug!(failures = self.failures, "{reason}");
        }
        self.last_error = Some(error);
        let pause = pause(self.failures, RandomState::new().build_hasher().finish());
        self.failures += 1;
        self.dial(pause);
    }

    fn dial(&mut self, pause: Duration) {
        let mut dialer = self.dialer.clone();
        self.step.spawn(async move {
            tokio::time::sleep(pause).await;
            let result = dialer.dial().await;
            Done::Dialled(dialer, result)
        });
    }
}

/// How long to wait before the next dial, after so many failed in a row.
fn pause(failures: u32, random: u64) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(LONGEST_PAUSE);
    let half = whole / 2;
    half + half.mul_f64((random >> 11) as f64 / (1_u64 << 53) as f64)
}

async fn greet(link: Link, hello: WorkerHello, resume: Resume, comes_back: bool) -> Done {
    let greeting = async {
        let mut control = link.open().await?;
        control.0.send(&Open::Control { hello, resume }, Bytes::new()).await?;
        if comes_back {
            failpoint::hit("worker.resume");
        }
        let (SchedulerControl::Welcome { worker }, _) = control.1.expect().await? else {
            return Err(LinkError::Unexpected("no welcome"));
        };
        let mut work = link.open().await?;
        work.0.send(&Open::Work, Bytes::new()).await?;
        Ok((worker, Streams::start(control, work)))
    };
    // A scheduler that has much to read on its disk first need not hurry; one that is dead is noticed by its silence.
    Done::Greeted(match greeting.await {
        Ok((worker, streams)) => Ok(Session { link, streams, worker }),
        Err(error) => Err(reason(&link, error).await),
    })
}

/// Why a connection was lost of which one stream has ended: what the scheduler closed it with, if it says so.
pub(super) async fn reason(link: &Link, error: LinkError) -> LinkError {
    match error {
        LinkError::CutOff | LinkError::Stopped(_) => {
            let closed = tokio::time::timeout(END_OF_CONNECTION, link.connection.closed()).await;
            closed.map_or(error, LinkError::from)
        }
        error => error,
    }
}

/// An error with what caused it.
fn words(error: &LinkError) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

/// Whether the scheduler said that it is over for good, and all is well.
pub(super) fn is_goodbye(error: &LinkError) -> bool {
    error.close_code().is_some_and(|code| [close::DONE, close::SHUTDOWN].map(u64::from).contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_differ() {
        let shortest: Vec<_> = (0..8).map(|failures| pause(failures, 0).as_millis()).collect();
        assert_eq!(shortest, [50, 100, 200, 400, 800, 1500, 1500, 1500]);
        let longest: Vec<_> = (0..8).map(|failures| pause(failures, u64::MAX).as_millis()).collect();
        assert!(longest.iter().zip(&shortest).all(|(long, short)| long > short && *long <= 2 * short), "{longest:?}");
        assert!(pause(u32::MAX, u64::MAX) <= LONGEST_PAUSE);
    }
}
