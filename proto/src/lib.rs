//! What the parts of a farm say to each other.
//!
//! Pure data: ids, jobs, outcomes, messages, frames and tickets. Nothing here reads a clock, a socket or a disk, so
//! that the client, the scheduler, its core and the worker can all depend on it, and the core builds for wasm32.
//!
//! # The protocol
//!
//! Everyone dials out to the scheduler over QUIC with the ALPN [`ALPN`], proving who they are with a certificate of
//! the farm's own CA. Whoever has none yet dials with [`ALPN_ENROL`] and trades a [ticket](ticket::Ticket)'s secret for
//! one. The certificate names the ticket; before it runs out, it is traded for another
//! ([`message::Request::Renew`]), until the ticket is revoked.
//!
//! * A **client** opens one bidirectional stream a request: a [`message::Request`] frame one way, one or more
//!   [`message::Response`] frames the other, until the scheduler finishes the stream. Blob bytes follow the frame raw.
//! * A **worker** opens two long-lived bidirectional streams: *control* ([`message::WorkerControl`] one way,
//!   [`message::SchedulerControl`] the other) and *work* ([`message::WorkerWork`] / [`message::SchedulerWork`]), so
//!   that a gigabyte of results never delays a cancel. The first frame on each says which it is. Blobs it fetches
//!   with [`message::Request::GetBlob`] on streams of their own, as a client does.
//!
//! Frames are described in [`frame`], what the bytes behind a message mean in [`columns`].
//!
//! ## Non-goals
//!
//! Compatibility between versions (the ALPN names exactly one), compression, and workers that talk to each other.

pub mod cluster;
pub mod columns;
pub mod frame;
pub mod ids;
pub mod job;
pub mod message;
pub mod outcome;
pub mod secret;
pub mod ticket;
pub mod why;

/// ALPN of the protocol; its number is raised with every incompatible change.
pub const ALPN: &[u8] = b"farm/2";
/// The number in [`ALPN`].
pub const VERSION: u32 = 2;
/// ALPN of enrolment: no client certificate, one request, then the connection is over.
pub const ALPN_ENROL: &[u8] = b"farm-enrol/1";

/// The ALPN of another version: schedulers take it, to be able to say which version they speak.
pub fn alpn_of(version: u32) -> Vec<u8> {
    format!("farm/{version}").into_bytes()
}
/// The last version whose ALPN schedulers take.
pub const LAST_KNOWN_VERSION: u32 = 64;

/// Numbered reasons with which a farm closes a connection, or resets a stream.
pub mod close {
    /// All is well: the peer is done.
    pub const DONE: u32 = 0;
    /// A frame could not be read: wrong length, wrong bytes, wrong order.
    pub const PROTOCOL: u32 = 1;
    /// The certificate names a role that may not do this.
    pub const FORBIDDEN: u32 = 2;
    /// The farm is going down, and does not come back.
    pub const SHUTDOWN: u32 = 3;
    /// The ticket's secret is wrong or its time is over.
    pub const BAD_TICKET: u32 = 4;
    /// The scheduler itself failed; its log says how.
    pub const INTERNAL: u32 = 5;
    /// The scheduler stops, and is expected back with all that it knows: dial again.
    pub const RESTART: u32 = 6;
    /// The peer speaks another version of the protocol; the reason says which one fits.
    pub const VERSION: u32 = 7;
    /// A worker that was given up because it had been silent dials in again as a new connection; this one is void.
    pub const SILENT: u32 = 8;
    /// The ticket that the peer came with was revoked, or the farm does not know it any more.
    pub const REVOKED: u32 = 9;
}
