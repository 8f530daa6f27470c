//! The signals that ask a worker to end.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug)]
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    warning: tokio::signal::unix::Signal,
    asked: bool,
}

#[derive(Debug)]
pub(super) enum Signalled {
    /// The end is near, and will be asked for or made: SIGUSR1, as batch systems can be told to send.
    Warned,
    Once,
    Again,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            warning: signal(SignalKind::user_defined1())?,
            asked: false,
        })
    }

    /// The next request to end. Cancel-safe.
    pub(super) async fn next(&mut self) -> Signalled {
        // None ever ends.
        tokio::select! {
            biased;
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.warning.recv() => return Signalled::Warned,
        }
        if std::mem::replace(&mut self.asked, true) { Signalled::Again } else { Signalled::Once }
    }
}
