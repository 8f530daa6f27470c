//! Which clusters there are, as the owner knows them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use farm_proto::cluster::{self, ClusterSpec, ClusterStatus, Scale};
use farm_proto::ids::ClusterId;
use farm_proto::message::RequestError;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Reply;
use super::owner::Owner;
use crate::clock::unix_ms;
use crate::cluster::{ClusterView, Connected, FarmView, FleetViews, Wanted};
use crate::identity::caller::Caller;
use crate::store::{ClusterRow, Record};

/// How often it is shown how clusters are.
const SHOW: Duration = Duration::from_secs(1);

/// The clusters that ever were: a name keeps its number, so that jobs which wait for a cluster that is gone run when
/// there is one of that name again.
#[derive(Debug)]
pub(super) struct Clusters {
    by_name: BTreeMap<String, ClusterRow>,
    show: watch::Sender<FarmView>,
    next_show: Instant,
    fleets: watch::Receiver<FleetViews>,
    /// Who is to be told of a change when so many records are written. Ascending.
    waiting: VecDeque<(u64, Result<ClusterStatus, RequestError>, Reply<ClusterStatus>)>,
}

/// The owner's ends of what it and the provisioner show each other.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) show: watch::Sender<FarmView>,
    pub(crate) fleets: watch::Receiver<FleetViews>,
}

impl Clusters {
    pub(super) fn new(rows: Vec<ClusterRow>, board: Board) -> Self {
        let by_name = rows.into_iter().map(|row| (row.name.clone(), row)).collect();
        Self { by_name, show: board.show, next_show: Instant::now(), fleets: board.fleets, waiting: VecDeque::new() }
    }

    /// The number of the cluster of that name, which there need not be.
    pub(super) fn id(&self, name: &str) -> ClusterId {
        // A job or worker of a cluster that never was cannot be: its name was checked when it came.
        self.by_name.get(name).map_or(ClusterId::DEFAULT, |row| row.cluster)
    }

    fn live(&self, name: &str) -> Option<&ClusterRow> {
        self.by_name.get(name).filter(|row| row.wanted.is_some())
    }

    fn all_live(&self) -> impl Iterator<Item = (&ClusterRow, &Wanted)> {
        self.by_name.values().filter_map(|row| Some((row, row.wanted.as_ref()?)))
    }

    /// Whether workers can be of the cluster.
    pub(super) fn takes_workers(&self, name: &str) -> bool {
        name == cluster::DEFAULT || self.live(name).is_some()
    }

    /// When [`Owner::show_clusters`] is due.
    pub(super) fn next_show(&self) -> Option<Instant> {
        self.all_live().next().map(|_| self.next_show)
    }

    fn next_id(&self) -> ClusterId {
        let highest = self.by_name.values().map(|row| row.cluster.0).max().unwrap_or_default();
        ClusterId(highest + 1)
    }
}

impl Owner {
    /// Shows the provisioner how clusters are.
    pub(super) fn show_clusters(&mut self) {
        let now = Instant::now();
        if self.clusters.next_show().is_some_and(|due| due <= now) {
            self.show_clusters_now();
        }
    }

    fn show_clusters_now(&mut self) {
        self.clusters.next_show = Instant::now() + SHOW;
        let views = self.clusters.all_live().map(|(row, wanted)| {
            let members = self.workers.iter().filter(|(_, peer)| peer.cluster == row.name);
            let connected = members.filter_map(|(&worker, peer)| {
                let view = self.core.worker(worker)?;
                let name = peer.hello.name.clone();
                Some(Connected { worker, name, slots: view.slots, leased: view.leased, draining: view.draining })
            });
            let demand = self.core.demand(row.cluster);
            (row.name.clone(), ClusterView { wanted: wanted.clone(), demand, connected: connected.collect() })
        });
        let views = Arc::new(views.collect());
        self.clusters.show.send_replace(views);
    }

    /// The cluster that a new job is of.
    ///
    /// # Errors
    ///
    /// There is none of that name, or there are several and none was named.
    pub(super) fn cluster_for(&self, named: Option<&str>) -> Result<String, RequestError> {
        let has_by_hand = self.workers.values().any(|peer| peer.cluster == cluster::DEFAULT);
        let mut names: Vec<_> = self.clusters.all_live().filter(|(_, wanted)| !wanted.stopping).collect();
        names.sort_by_key(|(row, _)| row.cluster);
        let mut names: Vec<_> = names.into_iter().map(|(row, _)| row.name.clone()).collect();
        if has_by_hand || names.is_empty() {
            names.insert(0, cluster::DEFAULT.to_owned());
        }
        match named {
            Some(cluster::DEFAULT) => Ok(cluster::DEFAULT.to_owned()),
            Some(name) if names.iter().any(|other| other == name) => Ok(name.to_owned()),
            Some(name) => Err(RequestError::NoSuchCluster { name: name.to_owned(), there_are: names }),
            None => match <[String; 1]>::try_from(names) {
                Ok([only]) => Ok(only),
                Err(names) => Err(RequestError::WhichCluster(names)),
            },
        }
    }

    pub(super) fn create_cluster(
        &mut self,
        caller: &Caller,
        spec: ClusterSpec,
        scale: Scale,
        reply: Reply<ClusterStatus>,
    ) {
        let row = match self.new_cluster(caller, spec, scale) {
            Ok(row) => row,
            Err(error) => return drop(reply.send(Err(error))),
        };
        tracing::info!(cluster = row.name, by = %caller, "cluster made");
        self.change_cluster(row, reply);
    }

    fn new_cluster(&self, caller: &Caller, spec: ClusterSpec, scale: Scale) -> Result<ClusterRow, RequestError> {
        self.check_room()?;
        let invalid = |text: String| Err(RequestError::Invalid(text));
        let name = spec.name.clone();
        if !cluster::is_name(&name) || name == cluster::DEFAULT {
            let most = cluster::MAX_NAME;
            return invalid(format!(
                "a cluster cannot be called {name:?}: lower-case letters, digits and hyphens, a letter first, at most {most}, \
                 and not `{}`",
                cluster::DEFAULT
            ));
        }
        check_scale(scale)?;
        let former = self.clusters.by_name.get(&name);
        if let Some(former) = former {
            if former.wanted.is_some() {
                return invalid(format!("there is a cluster {name} already"));
            }
            let waits = self.core.live_jobs_of(former.cluster);
            if waits > 0 && !caller.may_see(&former.owner) {
                return invalid(format!("jobs of somebody else still wait for a cluster {name}: take another name"));
            }
        }
        self.check_limits(caller, &spec, scale)?;
        let cluster = former.map_or_else(|| self.clusters.next_id(), |former| former.cluster);
        let wanted = Wanted { spec, scale, stopping: false, now: false };
        let owner = caller.name.clone();
        Ok(ClusterRow { name, cluster, owner, created_ms: unix_ms(), wanted: Some(wanted) })
    }

    pub(super) fn scale_cluster(&mut self, caller: &Caller, name: &str, scale: Scale, reply: Reply<ClusterStatus>) {
        let row = check_scale(scale).and_then(|()| {
            let row = self.own_cluster(caller, name)?;
            let spec = row.wanted.as_ref().map(|wanted| &wanted.spec);
            spec.map_or(Ok(()), |spec| self.check_limits(caller, spec, scale)).map(|()| row.clone())
        });
        self.change_wanted(row, reply, |wanted| wanted.scale = scale);
    }

    pub(super) fn stop_cluster(&mut self, caller: &Caller, name: &str, now: bool, reply: Reply<ClusterStatus>) {
        let row = self.own_cluster(caller, name).cloned();
        self.change_wanted(row, reply, |wanted| {
            wanted.stopping = true;
            wanted.now |= now;
        });
    }

    fn change_wanted(
        &mut self,
        row: Result<ClusterRow, RequestError>,
        reply: Reply<ClusterStatus>,
        change: impl FnOnce(&mut Wanted),
    ) {
        match row {
            Ok(mut row) => {
                if let Some(wanted) = &mut row.wanted {
                    change(wanted);
                }
                self.change_cluster(row, reply);
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// A cluster that is stopping has no workers any more.
    pub(super) fn end_cluster(&mut self, name: &str) {
        let is_over = |row: &&ClusterRow| row.wanted.as_ref().is_some_and(|wanted| wanted.stopping);
        let Some(row) = self.clusters.by_name.get(name).filter(is_over) else { return };
        tracing::info!(cluster = name, "cluster gone");
        let row = ClusterRow { wanted: None, ..row.clone() };
        self.clusters.by_name.insert(row.name.clone(), row.clone());
        self.commits.add_other(Record::Cluster(Box::new(row)));
        self.show_clusters_now();
    }

    /// Takes a change in, and answers when it is stored.
    fn change_cluster(&mut self, row: ClusterRow, reply: Reply<ClusterStatus>) {
        let name = row.name.clone();
        self.clusters.by_name.insert(name.clone(), row.clone());
        self.show_clusters_now();
        let number = self.commits.add_other(Record::Cluster(Box::new(row)));
        // As it is now: one without workers that is to stop is gone by then.
        let status = self.cluster(&name);
        self.clusters.waiting.push_back((number, status, reply));
    }

    /// Tells those whose changes are stored, or, while nothing can be, that they are not. They are tried again all the
    /// same.
    pub(super) fn settle_clusters(&mut self) {
        while let Some(&(number, ..)) = self.clusters.waiting.front()
            && let Some(fate) = self.commits.fate(number)
            && let Some((_, status, reply)) = self.clusters.waiting.pop_front()
        {
            let _ = reply.send(fate.and(status));
        }
    }

    /// Whether the caller may have so many workers in this cluster, beside those of the caller's others.
    fn check_limits(&self, caller: &Caller, spec: &ClusterSpec, scale: Scale) -> Result<(), RequestError> {
        if caller.is_admin() {
            return Ok(());
        }
        let limits = self.config.limits_of(&caller.name);
        let others = self.clusters.all_live().filter(|(row, _)| row.owner == caller.name && row.name != spec.name);
        let others = others.map(|(_, wanted)| (&wanted.spec, wanted.scale));
        let (workers, slots) = others.chain([(spec, scale)]).fold((0, 0), |(workers, slots), (spec, scale)| {
            let most = match scale {
                Scale::Fixed(count) => count,
                Scale::Adaptive { max, .. } => max,
            };
            let most = u64::from(most) * u64::from(spec.nodes);
            (workers + most, slots + most * u64::from(spec.cores))
        });
        let over = |what: &str, number: u64, most: Option<u32>| match most {
            Some(most) if number > u64::from(most) => Err(RequestError::Invalid(format!(
                "your clusters may have {most} {what} all together, and this would make it {number}"
            ))),
            _ => Ok(()),
        };
        over("workers", workers, limits.workers)?;
        over("slots", slots, limits.slots)
    }

    /// A cluster that the caller may change.
    fn own_cluster(&self, caller: &Caller, name: &str) -> Result<&ClusterRow, RequestError> {
        match self.clusters.live(name) {
            Some(row) if caller.may_see(&row.owner) => Ok(row),
            Some(row) => Err(RequestError::Invalid(format!("cluster {name} is {}'s", row.owner))),
            None if name == cluster::DEFAULT => {
                Err(RequestError::Invalid("the workers of `default` are started by hand".to_owned()))
            }
            None => {
                let names = self.clusters.all_live().map(|(row, _)| row.name.clone());
                Err(RequestError::NoSuchCluster { name: name.to_owned(), there_are: names.collect() })
            }
        }
    }

    /// All clusters: `default` first, if it has a worker or there is no other.
    pub(super) fn list_clusters(&self) -> Vec<ClusterStatus> {
        let mut rows: Vec<_> = self.clusters.all_live().map(|(row, _)| row).collect();
        rows.sort_by_key(|row| row.cluster);
        let by_hand = self.default_status();
        let shows_it = by_hand.up > 0 || by_hand.jobs > 0 || rows.is_empty();
        let others = rows.into_iter().filter_map(|row| self.cluster_status(&row.name));
        shows_it.then_some(by_hand).into_iter().chain(others).collect()
    }

    pub(super) fn cluster(&self, name: &str) -> Result<ClusterStatus, RequestError> {
        if name == cluster::DEFAULT {
            return Ok(self.default_status());
        }
        self.cluster_status(name).ok_or_else(|| {
            let names = self.clusters.all_live().map(|(row, _)| row.name.clone());
            RequestError::NoSuchCluster { name: name.to_owned(), there_are: names.collect() }
        })
    }

    fn default_status(&self) -> ClusterStatus {
        let workers = self.workers.iter().filter(|(_, peer)| peer.cluster == cluster::DEFAULT);
        let slots: Vec<_> = workers.filter_map(|(&id, _)| Some(self.core.worker(id)?.slots)).collect();
        let up = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        ClusterStatus {
            cluster: ClusterId::DEFAULT,
            spec: None,
            scale: Scale::Fixed(up),
            owner: String::new(),
            age_s: self.uptime().as_secs(),
            stopping: false,
            wanted: up,
            queued: 0,
            starting: 0,
            up,
            lost: 0,
            slots: slots.into_iter().fold(0, u32::saturating_add),
            jobs: self.core.live_jobs_of(ClusterId::DEFAULT),
            workers: Vec::new(),
            short: Vec::new(),
            retry_in_s: None,
        }
    }

    fn cluster_status(&self, name: &str) -> Option<ClusterStatus> {
        let row = self.clusters.live(name)?;
        let wanted = row.wanted.as_ref()?;
        let fleet = self.clusters.fleets.borrow().get(name).cloned().unwrap_or_default();
        let connected = self.workers.iter().filter(|(_, peer)| peer.cluster == name);
        let slots = connected.filter_map(|(&id, _)| Some(self.core.worker(id)?.slots));
        Some(ClusterStatus {
            cluster: row.cluster,
            spec: Some(wanted.spec.clone()),
            scale: wanted.scale,
            owner: row.owner.clone(),
            age_s: unix_ms().saturating_sub(row.created_ms) / 1000,
            stopping: wanted.stopping,
            wanted: fleet.wanted,
            queued: fleet.numbers.queued,
            starting: fleet.numbers.starting,
            up: fleet.numbers.up,
            lost: fleet.numbers.lost,
            slots: slots.fold(0, u32::saturating_add),
            jobs: self.core.live_jobs_of(row.cluster),
            workers: fleet.members,
            short: fleet.short,
            retry_in_s: fleet.retry_in_s,
        })
    }
}

fn check_scale(scale: Scale) -> Result<(), RequestError> {
    match scale {
        Scale::Adaptive { min, max, .. } if min > max || max == 0 => {
            Err(RequestError::Invalid(format!("no number is at least {min} and at most {max}, and more than none")))
        }
        _ => Ok(()),
    }
}
