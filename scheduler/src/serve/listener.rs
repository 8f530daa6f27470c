//! Taking connections, up to a number.

use std::sync::Arc;
use std::time::Duration;

use farm_link::transport;
use farm_proto::{ALPN, ALPN_ENROL, close};
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, Endpoint, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Shared, connection, enrol};
use crate::SchedulerError;
use crate::identity::ca::Ca;

/// Handshakes at a time. Each costs a millisecond of a core.
const HANDSHAKES: usize = 256;
/// With so many handshakes under way, whoever comes has to show first that it can be reached at its address.
const RETRY_FROM: usize = 64;
/// Enrolments at a time.
const ENROLMENTS: usize = 64;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The server's side of TLS and QUIC.
pub(crate) fn config(ca: &Ca, heartbeat: Duration) -> Result<quinn::ServerConfig, SchedulerError> {
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(ca.server_config()?));
    config.transport_config(transport::config(heartbeat));
    // Connections are taken as they come; these bound what piles up in between.
    config.max_incoming(HANDSHAKES * 4).incoming_buffer_size(64 << 10);
    Ok(config)
}

/// Takes connections until the endpoint is closed.
pub(crate) async fn run(endpoint: Endpoint, shared: Arc<Shared>) {
    let connections = Arc::new(Semaphore::new(shared.options.max_connections));
    let gate =
        Gate { handshakes: Arc::new(Semaphore::new(HANDSHAKES)), enrolments: Arc::new(Semaphore::new(ENROLMENTS)) };
    let mut tasks = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "serving a connection panicked; this is a bug");
                }
                continue;
            }
        };
        let Some(incoming) = incoming else { break };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            tracing::warn!(peer = %incoming.remote_address(), "too many connections: one refused");
            incoming.refuse();
            continue;
        };
        if let Some((incoming, handshake)) = gate.admit(incoming) {
            let (shared, gate) = (Arc::clone(&shared), gate.clone());
            tasks.spawn(async move {
                serve(incoming, handshake, &gate, shared).await;
                drop(permit);
            });
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// Bounds on what strangers can make us do.
#[derive(Debug, Clone)]
struct Gate {
    handshakes: Arc<Semaphore>,
    enrolments: Arc<Semaphore>,
}

impl Gate {
    fn admit(&self, incoming: Incoming) -> Option<(Incoming, OwnedSemaphorePermit)> {
        let crowded = self.handshakes.available_permits() + RETRY_FROM < HANDSHAKES;
        if crowded && incoming.may_retry() {
            // Only fails where `may_retry` is false.
            let _ = incoming.retry();
            return None;
        }
        match Arc::clone(&self.handshakes).try_acquire_owned() {
            Ok(handshake) => Some((incoming, handshake)),
            // An honest peer sends its first packet again.
            Err(_) => {
                incoming.ignore();
                None
            }
        }
    }
}

async fn serve(incoming: Incoming, handshake: OwnedSemaphorePermit, gate: &Gate, shared: Arc<Shared>) {
    let peer = incoming.remote_address();
    let connecting = match incoming.accept() {
        Ok(connecting) => connecting,
        Err(error) => return tracing::debug!(%peer, %error, "no connection"),
    };
    let connection = match timeout(HANDSHAKE, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "no handshake"),
        Err(_) => return tracing::debug!(%peer, "no handshake in time"),
    };
    drop(handshake);
    match protocol(&connection).as_deref() {
        Some(ALPN) => connection::serve(connection, shared).await,
        Some(ALPN_ENROL) => match gate.enrolments.try_acquire() {
            Ok(_permit) => enrol::serve(&connection, &shared).await,
            Err(_) => connection.close(close::INTERNAL.into(), b"too many enrolments at a time"),
        },
        // TLS agrees on one of those that the listener names, or fails.
        other => {
            let theirs = other.map(String::from_utf8_lossy).unwrap_or_default();
            let ours = String::from_utf8_lossy(ALPN);
            let version = env!("CARGO_PKG_VERSION");
            tracing::warn!(%peer, %theirs, "a peer of another version");
            let reason = format!("the scheduler speaks {ours} (farm {version}), this end {theirs}");
            connection.close(close::VERSION.into(), reason.as_bytes());
        }
    }
}

fn protocol(connection: &Connection) -> Option<Vec<u8>> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    data.protocol
}
