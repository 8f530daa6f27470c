//! The signals that ask a worker to end.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug)]
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    asked: bool,
}

#[derive(Debug)]
pub(super) enum Signalled {
    Once,
    Again,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            asked: false,
        })
    }

    /// The next request to end. Cancel-safe.
    pub(super) async fn next(&mut self) -> Signalled {
        // Neither ever ends.
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        if std::mem::replace(&mut self.asked, true) { Signalled::Again } else { Signalled::Once }
    }
}
