//! The provisioner's loop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use farm_proto::cluster::{ClusterSpec, ProviderKind, Scale};
use farm_proto::ids::TicketId;
use farm_proto::message::RequestError;
use farm_proto::ticket::{NewTicket, Role};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::adapt::Adaptation;
use super::desk::{Caps, Desk};
use super::fleet::{Action, Fleet};
use super::provider::{Provider, random_base};
use super::{ClusterView, FarmView, FleetView, FleetViews, Numbers};
use crate::serve::Shared;

/// How often it is looked whether something is to be done.
const TICK: Duration = Duration::from_secs(1);
/// The queue is not asked more often than this, whatever happens.
const SOONEST: Duration = Duration::from_secs(1);

/// How long a worker may wait in a queue until its ticket is good for nothing.
const QUEUE: Duration = Duration::from_secs(7 * 86_400);
/// How long a worker is taken to stay that has no time limit.
const STAY: Duration = Duration::from_secs(86_400);
/// For how long the same ticket is used.
const REUSE: Duration = Duration::from_secs(86_400);

/// What the provisioner needs.
#[derive(Debug)]
pub(crate) struct Provisioner {
    pub(crate) shown: watch::Receiver<FarmView>,
    pub(crate) show: watch::Sender<FleetViews>,
    /// What nodes report of leases whose workers they cannot start.
    pub(crate) reports: mpsc::Receiver<(String, String)>,
}

/// A provider, and when it is asked.
struct Source {
    provider: Arc<Provider>,
    /// How often it is asked if nothing happens.
    period: Duration,
    next: Instant,
    last: Option<Instant>,
    /// Why there is no news, if so.
    mute: Option<String>,
}

impl Source {
    fn new(provider: Arc<Provider>, period: Duration) -> Self {
        Self { provider, period, next: Instant::now(), last: None, mute: None }
    }

    /// Something has happened: it is asked soon.
    fn soon(&mut self, now: Instant) {
        self.next = self.next.min(self.last.map_or(now, |last| (last + SOONEST).max(now)));
    }
}

#[derive(Default)]
struct Cluster {
    /// What its workers enrol with: its id, its text, and until when it will do.
    ticket: Option<(TicketId, String, Instant)>,
    fleet: Fleet,
    adaptation: Adaptation,
    connected: usize,
}

/// Runs until the scheduler ends.
pub(crate) async fn run(provisioner: Provisioner, shared: Arc<Shared>) {
    let Provisioner { mut shown, show, mut reports } = provisioner;
    let desk = Arc::clone(&shared.desk);
    let sources = desk.providers().into_iter().map(|(kind, provider, period)| (kind, Source::new(provider, period)));
    let mut work = Work { sources: sources.collect(), clusters: BTreeMap::new(), desk, shared };
    loop {
        tokio::select! {
            changed = shown.changed() => if changed.is_err() { return },
            Some((lease, text)) = reports.recv() => {
                work.clusters.values_mut().for_each(|cluster| cluster.fleet.reported(&lease, text.clone()));
            }
            () = tokio::time::sleep(TICK) => {}
        }
        let view = Arc::clone(&shown.borrow_and_update());
        show.send_replace(Arc::new(work.step(&view).await));
    }
}

struct Work {
    sources: BTreeMap<ProviderKind, Source>,
    clusters: BTreeMap<String, Cluster>,
    desk: Arc<Desk>,
    shared: Arc<Shared>,
}

impl Work {
    /// Does what is to be done now.
    async fn step(&mut self, view: &FarmView) -> BTreeMap<String, FleetView> {
        let now = Instant::now();
        for (name, cluster) in view.iter() {
            let known = self.clusters.entry(name.clone()).or_default();
            if known.connected != cluster.connected.len() {
                known.connected = cluster.connected.len();
                if let Some(source) = self.sources.get_mut(&cluster.wanted.spec.provider) {
                    source.soon(now);
                }
            }
        }
        self.ask(view).await;
        for kind in [ProviderKind::Local, ProviderKind::Slurm] {
            let of_kind = || view.iter().filter(|(_, view)| view.wanted.spec.provider == kind);
            let fleets = of_kind().filter_map(|(name, _)| Some(self.clusters.get(name)?.fleet.numbers()));
            let mut room = room(self.desk.caps(kind), fleets);
            for (name, view) in of_kind() {
                self.serve(name, view, &mut room).await;
            }
        }
        self.clusters.retain(|name, _| view.contains_key(name));
        let sources = &self.sources;
        let shown = self.clusters.iter_mut().map(|(name, cluster)| {
            let wanted = view.get(name).map_or(0, |view| wanted(view, cluster, now));
            let fleet = &cluster.fleet;
            let mut short = Vec::new();
            let numbers = fleet.numbers();
            if numbers.up < wanted {
                short = fleet.short();
                let kind = view.get(name).map(|view| view.wanted.spec.provider);
                short.extend(kind.and_then(|kind| sources.get(&kind)?.mute.clone()));
            }
            let retry_in_s = fleet.retry_in(now).map(|left| left.as_secs() + 1);
            (name.clone(), FleetView { wanted, numbers, members: fleet.members(), short, retry_in_s })
        });
        shown.collect()
    }

    /// Asks the providers that are due, and tells the fleets.
    async fn ask(&mut self, view: &FarmView) {
        for (kind, source) in &mut self.sources {
            let of_kind = || view.iter().filter(|(_, view)| view.wanted.spec.provider == *kind);
            // At first, what is left of an earlier life is looked for. Nobody has to have SLURM for that.
            let is_first = source.last.is_none() && *kind == ProviderKind::Local;
            if source.next > Instant::now() || (of_kind().next().is_none() && !is_first) {
                continue;
            }
            let result = source.provider.poll(self.desk.name()).await;
            let now = Instant::now();
            source.last = Some(now);
            source.next = now + source.period;
            let members = match result {
                Ok(members) => members,
                Err(error) => {
                    tracing::warn!(provider = kind.as_str(), %error, "no news of the queue");
                    source.mute = Some(format!("the queue does not answer: {error}"));
                    continue;
                }
            };
            source.mute = None;
            let mut strays = Vec::new();
            let mut by_cluster: BTreeMap<&str, Vec<_>> =
                of_kind().map(|(name, _)| (name.as_str(), Vec::new())).collect();
            for member in members {
                match by_cluster.get_mut(member.cluster.as_str()) {
                    Some(members) => members.push(member),
                    None => strays.extend(member.is_alive().then_some(member.id)),
                }
            }
            for (name, members) in by_cluster {
                if let Some(cluster) = self.clusters.get_mut(name) {
                    cluster.fleet.heard(now, &members);
                }
            }
            if !strays.is_empty() {
                tracing::info!(?strays, "cancelling jobs of clusters that are not wanted any more");
                cancel(&source.provider, &strays).await;
            }
        }
    }

    /// Does what is to be done for one cluster.
    async fn serve(&mut self, name: &str, view: &ClusterView, room: &mut u32) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let now = Instant::now();
        let number = wanted(view, cluster, now);
        let kind = view.wanted.spec.provider;
        let Some(source) = self.sources.get_mut(&kind) else {
            return cluster.fleet.failed(now, format!("this scheduler has no provider {}", kind.as_str()));
        };
        for action in cluster.fleet.plan(now, view.connected.clone(), number, view.wanted.now) {
            match action {
                // It would not be found again.
                Action::Submit(_) if source.mute.is_some() => {}
                Action::Submit(count) => {
                    let count = count.min(*room).min(Provider::MAX_COUNT);
                    cluster.fleet.capped = (count == 0).then(|| {
                        format!(
                            "there may be no more workers of the provider {} by the site's configuration",
                            kind.as_str()
                        )
                    });
                    if count == 0 {
                        continue;
                    }
                    *room -= count;
                    let ticket = match ticket(&self.shared, &view.wanted.spec, &mut cluster.ticket).await {
                        Ok(ticket) => ticket,
                        Err(error) => {
                            cluster.fleet.failed(now, format!("no ticket for its workers: {error}"));
                            continue;
                        }
                    };
                    let order = self.desk.order(view.wanted.spec.clone(), random_base(), count, ticket);
                    let leases = order.leases();
                    cluster.fleet.submitting(now, leases.iter().cloned());
                    let result = source.provider.submit(&order).await;
                    source.soon(Instant::now());
                    match result {
                        Ok(()) => tracing::info!(cluster = name, count, base = order.base, "workers submitted"),
                        Err(error) => {
                            if error.is_sure() {
                                cluster.fleet.refused(&leases);
                            }
                            cluster.fleet.failed(Instant::now(), error.to_string());
                        }
                    }
                }
                Action::Cancel(ids) => {
                    tracing::info!(cluster = name, ?ids, "cancelling");
                    cancel(&source.provider, &ids).await;
                    source.soon(Instant::now());
                }
                Action::Drain(workers) => {
                    for worker in workers {
                        tracing::info!(cluster = name, %worker, "one worker too many");
                        let _ = self.shared.farm.drain(worker.to_string()).await;
                    }
                }
            }
        }
        if view.wanted.stopping && cluster.fleet.is_empty() {
            if let Some((ticket, ..)) = cluster.ticket.take() {
                let _ = self.shared.farm.revoke(ticket, "the end of its cluster".to_owned(), None).await;
            }
            self.shared.farm.end_cluster(name.to_owned()).await;
        }
    }
}

/// A ticket for workers of a cluster: the last one, if that will be good for long enough.
async fn ticket(
    shared: &Shared,
    spec: &ClusterSpec,
    last: &mut Option<(TicketId, String, Instant)>,
) -> Result<String, RequestError> {
    let now = Instant::now();
    if let Some((_, text, _)) = last.as_ref().filter(|(.., until)| now < *until) {
        return Ok(text.clone());
    }
    let needed = QUEUE.saturating_add(spec.time_s.map_or(STAY, Duration::from_secs));
    let new = NewTicket {
        role: Role::Worker,
        name: spec.name.clone(),
        cluster: Some(spec.name.clone()),
        valid_s: needed.saturating_add(REUSE).as_secs(),
        uses: None,
    };
    let (ticket, row) = shared.new_ticket(new, format!("cluster {}", spec.name), None).await?;
    let text = ticket.to_string();
    *last = Some((row.ticket, text.clone(), now + REUSE));
    Ok(text)
}

/// How many more workers there may be of a provider.
fn room(caps: Caps, fleets: impl Iterator<Item = Numbers>) -> u32 {
    let (queued, running) = fleets.fold((0, 0), |(queued, running), numbers| {
        (queued + numbers.queued, running + numbers.starting + numbers.up + numbers.lost)
    });
    let left = [
        caps.workers.map(|most| most.saturating_sub(queued + running)),
        caps.queued.map(|most| most.saturating_sub(queued)),
        // Those that wait will run.
        caps.running.map(|most| most.saturating_sub(queued + running)),
    ];
    left.into_iter().flatten().min().unwrap_or(u32::MAX)
}

fn wanted(view: &ClusterView, cluster: &mut Cluster, now: Instant) -> u32 {
    match view.wanted.scale {
        _ if view.wanted.stopping => 0,
        Scale::Fixed(count) => count,
        Scale::Adaptive { min, max, idle_s } => {
            let idle = Duration::from_secs(idle_s);
            cluster.adaptation.wanted(now, view.demand, view.wanted.spec.cores, (min, max), idle)
        }
    }
}

async fn cancel(provider: &Provider, ids: &[String]) {
    if let Err(error) = provider.cancel(ids).await {
        // What is still there is found again.
        tracing::warn!(%error, "cannot cancel");
    }
}
