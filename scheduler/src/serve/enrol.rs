//! Enrolment: a ticket's secret against a certificate.

use std::time::Duration;

use bytes::Bytes;
use farm_link::failpoint;
use farm_link::stream::{FrameReader, FrameWriter};
use farm_proto::close;
use farm_proto::message::{Enrol, Enrolled};
use quinn::Connection;
use tokio::time::timeout;

use super::{Fault, Shared};
use crate::farm::Bearer;
use crate::identity::ca::SigningRequest;

/// How long a connection of a stranger lasts.
const LIFETIME: Duration = Duration::from_secs(10);
/// The longest request of a stranger, in bytes.
const LONGEST: usize = 64 << 10;

/// Serves a connection of a stranger: one request, one answer.
pub(super) async fn serve(connection: &Connection, shared: &Shared) {
    let code = match timeout(LIFETIME, enrol(connection, shared)).await {
        Ok(Ok(code)) => code,
        Ok(Err(Fault::Gone)) => close::DONE,
        Ok(Err(fault)) => {
            tracing::warn!(peer = %connection.remote_address(), %fault, "no enrolment");
            fault.code()
        }
        Err(_) => close::PROTOCOL,
    };
    connection.close(code.into(), b"");
}

async fn enrol(connection: &Connection, shared: &Shared) -> Result<u32, Fault> {
    let (send, receive) = connection.accept_bi().await.map_err(|_| Fault::Gone)?;
    let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::with_limit(receive, LONGEST));
    let (request, _) = reader.expect::<Enrol>().await?;
    failpoint::hit("scheduler.enrol");
    let (answer, code) = answer(connection, shared, &request).await;
    writer.send(&answer, Bytes::new()).await?;
    writer.finish();
    // The peer closes when it has the answer. If it does not, the lifetime ends it.
    connection.closed().await;
    Ok(code)
}

/// Decides on a request. Logs who was let in or refused and why, never the secret.
async fn answer(connection: &Connection, shared: &Shared, request: &Enrol) -> (Enrolled, u32) {
    let peer = connection.remote_address();
    let refused = |reason: String, code| {
        tracing::warn!(%peer, reason, "enrolment refused");
        (Enrolled::Refused { reason }, code)
    };
    let unusable = |error: rcgen::Error| refused(format!("the signing request is unusable: {error}"), close::PROTOCOL);
    let ticket = match shared.secrets.check(&request.secret) {
        Ok(ticket) => ticket,
        Err(void) => return refused(void.to_string(), close::BAD_TICKET),
    };
    // First, as it takes nothing of the ticket.
    let csr = match SigningRequest::read(&request.csr) {
        Ok(csr) => csr,
        Err(error) => return unusable(error),
    };
    let Bearer { caller, validity } = match shared.farm.enrol(ticket).await {
        Ok(Ok(bearer)) => bearer,
        Ok(Err(void)) => return refused(void.to_string(), close::BAD_TICKET),
        Err(error) => return refused(error.to_string(), close::INTERNAL),
    };
    match shared.ca.certify(&caller, &csr, validity) {
        Ok(chain) => {
            tracing::info!(%peer, %caller, cluster = caller.cluster, %ticket, "enrolled");
            (Enrolled::Certificate { chain }, close::DONE)
        }
        Err(error) => unusable(error),
    }
}
