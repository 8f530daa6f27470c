//! Requests: one stream each.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farm_link::stream::{FrameReader, FrameWriter};
use farm_proto::cluster::ClusterStatus;
use farm_proto::ids::{Digest, JobId, TicketId};
use farm_proto::job::{Args, JobSpec};
use farm_proto::message::{Request, RequestError, Response, SubmitKey};
use farm_proto::ticket::{NewTicket, Role};
use farm_proto::why::Cause;
use tokio::time::timeout;

use super::connection::Peer;
use super::{Ending, Fault, Shared, transfer, watch};
use crate::farm::{Bearer, Submission};
use crate::identity::ca::SigningRequest;
use crate::identity::caller::Caller;
use crate::job::args::ArgTable;
use crate::job::check;
use crate::job::results::ResultTable;
use crate::job::retry;
use crate::store::JobResults;
use crate::sync::off_loop;

/// How long the answer to a shutdown may take to arrive.
const FAREWELL: Duration = Duration::from_millis(500);
/// Digests that may be asked for at once.
const MOST_DIGESTS: usize = 200_000;

/// Serves one request.
pub(super) async fn serve(
    peer: &Arc<Peer>,
    writer: &mut FrameWriter,
    reader: &mut FrameReader,
    request: Request,
    payload: Bytes,
) -> Result<(), Fault> {
    let Peer { caller, shared, .. } = &**peer;
    if let Err(error) = may(caller, &request) {
        tracing::warn!(%caller, %error, "request refused");
        return refuse(writer, error).await;
    }
    let farm = &shared.farm;
    let answer = match request {
        Request::Submit { key, spec, watch } => return submit(peer, writer, key, *spec, payload, watch).await,
        Request::Retry { key, job, failed } => {
            let accepted = retry::retry(shared, caller, key, job, failed).await;
            accepted.map(|results| Response::Accepted { job: results.job })
        }
        Request::Delete { job } => farm.delete(caller.clone(), job).await.map(|()| Response::Deleted),
        Request::Why { job, task } => why(peer, job, task).await,
        Request::Drain { worker } => farm.drain(worker).await.map(|workers| Response::Draining { workers }),
        Request::PutBlob { digest, size, ask } => {
            return transfer::put(shared, writer, reader, (digest, size, ask)).await;
        }
        Request::GetBlob { digest } => return transfer::get(peer, writer, digest).await,
        Request::Watch { job, from, follow } => match farm.results(caller.clone(), job).await {
            Ok(results) => return watch::serve(peer, writer, results, from, follow).await,
            Err(error) => Err(error),
        },
        Request::Missing { digests } if digests.len() > MOST_DIGESTS => {
            Err(RequestError::Invalid(format!("more than {MOST_DIGESTS} digests at once")))
        }
        Request::Missing { digests } => {
            let digests = missing(shared, digests).await;
            Ok(Response::Missing { digests })
        }
        Request::Secrets { job, secrets } => farm.secrets(caller.clone(), job, secrets).await.map(Response::Secrets),
        Request::Jobs => farm.jobs(caller.clone()).await.map(Response::Jobs),
        Request::Job { job } => farm.status(caller.clone(), job).await.map(status),
        Request::Cancel { job } => farm.cancel(caller.clone(), job).await.map(status),
        Request::Farm => farm.overview().await.map(Response::Farm),
        Request::CreateCluster { spec, scale } => match shared.check_cluster(caller, &spec) {
            Ok(spec) => farm.create_cluster(caller.clone(), Box::new(spec), scale).await.map(cluster),
            Err(error) => Err(error),
        },
        Request::PlanCluster { spec } => shared.desk.plan(&spec).map(Response::Plan),
        Request::Clusters => farm.clusters().await.map(Response::Clusters),
        Request::Cluster { name } => farm.cluster(name).await.map(cluster),
        Request::ScaleCluster { name, scale } => farm.scale_cluster(caller.clone(), name, scale).await.map(cluster),
        Request::StopCluster { name, now } => farm.stop_cluster(caller.clone(), name, now).await.map(cluster),
        Request::Ticket(new) => ticket(peer, new).await,
        Request::Tickets => farm.tickets().await.map(Response::Tickets),
        Request::Revoke { ticket } => return revoke(peer, writer, ticket).await,
        Request::Renew { csr } => renew(peer, &csr).await,
        Request::Shutdown => {
            tracing::info!(by = %caller, "shutdown requested");
            writer.send(&Response::Stopping, Bytes::new()).await?;
            writer.finish();
            // To be heard, not to be obeyed: the scheduler ends either way.
            let _ = timeout(FAREWELL, writer.delivered()).await;
            shared.ending.send_replace(Some(Ending::ForGood));
            return Ok(());
        }
    };
    match answer {
        Ok(answer) => Ok(writer.send(&answer, Bytes::new()).await?),
        Err(error) => refuse(writer, error).await,
    }
}

fn status(status: farm_proto::job::JobStatus) -> Response {
    Response::Status(Box::new(status))
}

/// Whether a role may ask this at all. What belongs to whom is decided later.
fn may(caller: &Caller, request: &Request) -> Result<(), RequestError> {
    let needed = match request {
        Request::Ticket(_) | Request::Tickets | Request::Revoke { .. } | Request::Drain { .. } | Request::Shutdown => {
            Role::Admin
        }
        Request::GetBlob { .. } | Request::PutBlob { .. } | Request::Renew { .. } => return Ok(()),
        Request::Submit { .. }
        | Request::Missing { .. }
        | Request::Watch { .. }
        | Request::Jobs
        | Request::Job { .. }
        | Request::Cancel { .. }
        | Request::Secrets { .. }
        | Request::Retry { .. }
        | Request::Delete { .. }
        | Request::Why { .. }
        | Request::CreateCluster { .. }
        | Request::PlanCluster { .. }
        | Request::Clusters
        | Request::Cluster { .. }
        | Request::ScaleCluster { .. }
        | Request::StopCluster { .. }
        | Request::Farm => Role::User,
    };
    match (caller.role, needed) {
        (Role::Admin, _) | (Role::User, Role::User) => Ok(()),
        _ => Err(RequestError::Forbidden(needed)),
    }
}

fn cluster(status: ClusterStatus) -> Response {
    Response::Cluster(Box::new(status))
}

pub(super) async fn refuse(writer: &mut FrameWriter, error: RequestError) -> Result<(), Fault> {
    Ok(writer.send(&Response::Error(error), Bytes::new()).await?)
}

/// Those of some blobs that are not there, each once.
async fn missing(shared: &Shared, digests: Vec<Digest>) -> Vec<Digest> {
    let mut seen = HashSet::new();
    let digests: Vec<_> = digests.into_iter().filter(|digest| seen.insert(*digest)).collect();
    let sizes = shared.blobs.sizes(digests.clone()).await;
    let absent = digests.into_iter().zip(sizes).filter(|(_, size)| size.is_none());
    absent.map(|(digest, _)| digest).collect()
}

async fn submit(
    peer: &Arc<Peer>,
    writer: &mut FrameWriter,
    key: SubmitKey,
    spec: JobSpec,
    payload: Bytes,
    watch: bool,
) -> Result<(), Fault> {
    match accept(peer, key, spec, payload).await {
        Ok(Accepted::Job(results)) => {
            let accepted = Response::Accepted { job: results.job };
            if !watch {
                return Ok(writer.send(&accepted, Bytes::new()).await?);
            }
            writer.queue(&accepted, Bytes::new()).map_err(farm_link::LinkError::from)?;
            watch::serve(peer, writer, results, 0, true).await
        }
        Ok(Accepted::NotYet(digests)) => Ok(writer.send(&Response::Missing { digests }, Bytes::new()).await?),
        Err(error) => refuse(writer, error).await,
    }
}

/// What becomes of a job.
enum Accepted {
    Job(Arc<JobResults>),
    /// These blobs have to be put first.
    NotYet(Vec<Digest>),
}

async fn accept(peer: &Peer, key: SubmitKey, spec: JobSpec, payload: Bytes) -> Result<Accepted, RequestError> {
    let Peer { caller, shared, .. } = peer;
    if let Some(results) = shared.farm.submitted(caller.clone(), key).await? {
        return Ok(Accepted::Job(results));
    }
    check::check(&spec)?;
    let inline = payload.clone();
    let args = match &spec.args {
        Args::Results(wanted) => {
            let source = shared.farm.source(caller.clone(), wanted.job).await?;
            ArgTable::Results(ResultTable::new(&shared.store, wanted, source)?)
        }
        args => ArgTable::new(args, payload)?,
    };
    let mut blobs = vec![(spec.module.digest, spec.module.size)];
    blobs.extend(spec.inputs.iter().map(|input| (input.digest, input.size)));
    if let Args::Chunks(chunks) = &spec.args {
        blobs.extend(chunks.iter().map(|chunk| (chunk.digest, chunk.size)));
    }
    let stated = blobs.clone();
    let digests = blobs.iter().map(|(digest, _)| *digest).collect();
    let sizes = shared.blobs.sizes(digests).await;
    let (mut absent, mut seen) = (Vec::new(), HashSet::new());
    for ((digest, stated), found) in blobs.into_iter().zip(sizes) {
        match found {
            None if seen.insert(digest) => absent.push(digest),
            Some(found) if found != stated => {
                let digest = digest.short();
                let text = format!("blob {digest} has {found} bytes, the job says {stated}");
                return Err(RequestError::Invalid(text));
            }
            _ => {}
        }
    }
    if !absent.is_empty() {
        // Before anything is uploaded in vain.
        shared.farm.fits(caller.clone(), stated, inline.len() as u64).await?;
        return Ok(Accepted::NotYet(absent));
    }
    args.check(&shared.blobs).await?;
    let new = Submission { caller: caller.clone(), key, spec, args, inline };
    Ok(Accepted::Job(shared.farm.submit(new).await?))
}

async fn why(peer: &Peer, job: JobId, task: Option<u64>) -> Result<Response, RequestError> {
    let Peer { caller, shared, .. } = peer;
    let mut why = shared.farm.why(caller.clone(), job, task).await?;
    for group in &mut why.groups {
        if let Cause::Ended { account, .. } = &mut group.cause {
            let (store, task) = (Arc::clone(&shared.store), group.task);
            let outcome = off_loop(move || store.outcome_of(job, task)).await;
            let outcome = outcome.map_err(|error| RequestError::Storage(error.to_string()))?;
            *account = outcome.and_then(|outcome| outcome.account);
        }
    }
    Ok(Response::Why(Box::new(why)))
}

async fn ticket(peer: &Peer, new: NewTicket) -> Result<Response, RequestError> {
    let Peer { caller, shared, connection, .. } = peer;
    let (ticket, row) = shared.new_ticket(new, caller.to_string(), connection.local_ip()).await?;
    Ok(Response::Ticket { text: ticket.to_string(), status: Box::new(row.status(0)) })
}

async fn revoke(peer: &Peer, writer: &mut FrameWriter, ticket: TicketId) -> Result<(), Fault> {
    let Peer { caller, shared, connection, .. } = peer;
    let revoked = shared.farm.revoke(ticket, caller.to_string(), Some(connection.stable_id())).await;
    match revoked {
        Ok(status) => writer.send(&Response::Revoked(Box::new(status)), Bytes::new()).await?,
        Err(error) => refuse(writer, error).await?,
    }
    if caller.ticket == ticket {
        writer.finish();
        let _ = timeout(FAREWELL, writer.delivered()).await;
        shared.admission.revoke(ticket, None);
    }
    Ok(())
}

async fn renew(peer: &Peer, csr: &[u8]) -> Result<Response, RequestError> {
    let Peer { caller, shared, .. } = peer;
    let unusable = |error: rcgen::Error| RequestError::Invalid(format!("the signing request is unusable: {error}"));
    let csr = SigningRequest::read(csr).map_err(unusable)?;
    let bearer = shared.farm.renew(caller.ticket).await?;
    let Bearer { validity, .. } = bearer.map_err(|void| RequestError::Invalid(format!("no certificate: {void}")))?;
    // Who the bearer is does not change.
    let chain = shared.ca.certify(caller, &csr, validity).map_err(unusable)?;
    tracing::info!(%caller, ticket = %caller.ticket, "certificate renewed");
    Ok(Response::Certificate { chain })
}
