//! One connection of someone with a certificate.

use std::sync::Arc;

use farm_core::Departure;
use farm_link::stream::{FrameReader, FrameWriter};
use farm_proto::close;
use farm_proto::message::Open;
use farm_proto::ticket::Role;
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use rustls_pki_types::CertificateDer;
use tokio::task::JoinSet;

use super::streams::first_frame;
use super::worker::Seat;
use super::{Fault, Shared, request, worker};
use crate::farm::Said;
use crate::identity::caller::Caller;

/// What the streams of a connection share.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) caller: Caller,
    pub(super) connection: Connection,
    /// Where a worker sits down.
    pub(super) seat: Arc<Seat>,
    pub(super) shared: Arc<Shared>,
}

/// Serves a connection until it ends.
pub(super) async fn serve(connection: Connection, shared: Arc<Shared>) {
    let remote = connection.remote_address();
    let Some(caller) = certified(&connection) else {
        tracing::warn!(peer = %remote, "connection without a certificate of this farm");
        connection.close(close::FORBIDDEN.into(), b"a certificate of this farm is needed: enrol first");
        return;
    };
    let ticket = caller.ticket;
    let _admitted = match shared.admission.admit(ticket, &connection) {
        Ok(admitted) => admitted,
        Err(void) => {
            tracing::warn!(peer = %remote, %caller, %ticket, reason = %void, "a certificate that is void");
            return;
        }
    };
    tracing::info!(peer = %remote, %caller, %ticket, "connected");
    let peer = Arc::new(Peer { caller, connection, seat: Arc::default(), shared: Arc::clone(&shared) });
    let _listed = peer.shared.peers.list(&peer.connection);
    let mut streams = JoinSet::new();
    let ended = loop {
        tokio::select! {
            stream = peer.connection.accept_bi() => match stream {
                Ok(stream) => {
                    streams.spawn(serve_stream(Arc::clone(&peer), stream));
                }
                Err(error) => break error,
            },
            Some(stream) = streams.join_next() => {
                if let Err(error) = stream && error.is_panic() {
                    tracing::error!(%error, "serving a stream panicked; this is a bug");
                    peer.connection.close(close::INTERNAL.into(), b"");
                }
            }
        }
    };
    streams.shutdown().await;
    let caller = &peer.caller;
    tracing::info!(peer = %remote, %caller, reason = %ended, "disconnected");
    if let Some(worker) = peer.seat.worker() {
        let how = match departure(&ended) {
            // That is not the fault of what it ran.
            Departure::Lost if peer.shared.admission.is_revoked(ticket) => Departure::Planned,
            how => how,
        };
        peer.shared.farm.said(worker, Said::Left(how)).await;
    }
}

/// Who the certificate says the peer is. TLS has verified it, if there is one.
fn certified(connection: &Connection) -> Option<Caller> {
    let chain = connection.peer_identity()?;
    let chain = chain.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    Caller::of_certificate(chain.first()?)
}

/// A worker that says good-bye was meant to go, any other was not.
fn departure(ended: &ConnectionError) -> Departure {
    match ended {
        ConnectionError::ApplicationClosed(closed) if closed.error_code == close::DONE.into() => Departure::Planned,
        _ => Departure::Lost,
    }
}

async fn serve_stream(peer: Arc<Peer>, (send, receive): (SendStream, RecvStream)) {
    let mut writer = FrameWriter::new(send);
    let mut reader = FrameReader::new(receive);
    match dispatch(&peer, &mut writer, &mut reader).await {
        Ok(()) => writer.finish(),
        Err(Fault::Gone) => {}
        Err(fault @ Fault::Internal(_)) => {
            tracing::error!(caller = %peer.caller, %fault, "an answer broke off");
            writer.reset(fault.code());
        }
        Err(fault) => {
            let remote = peer.connection.remote_address();
            tracing::warn!(peer = %remote, caller = %peer.caller, %fault, "closing the connection");
            peer.connection.close(fault.code().into(), fault.to_string().as_bytes());
        }
    }
}

async fn dispatch(peer: &Arc<Peer>, writer: &mut FrameWriter, reader: &mut FrameReader) -> Result<(), Fault> {
    let (open, payload) = first_frame::<Open>(reader).await?;
    match open {
        Open::Request(request) => request::serve(peer, writer, reader, request, payload).await,
        _ if peer.caller.role != Role::Worker => Err(Fault::Forbidden("only workers may open worker streams")),
        Open::Control { hello, resume } => worker::serve(peer, writer, reader, hello, resume).await,
        Open::Work => worker::serve_work(peer, writer, reader).await,
    }
}
