//! Clusters: who starts their workers, and how many.
//!
//! The [owner](crate::farm) knows which clusters there are, stores them, and shows every second how they are
//! ([`FarmView`]). The [provisioner](run) is a task beside it that sees to it that there are as many workers as are
//! wanted: it submits, asks and cancels by a [provider](provider), and never keeps the owner waiting.

mod adapt;
mod desk;
mod fleet;
pub(crate) mod provider;
mod run;

use std::collections::BTreeMap;
use std::sync::Arc;

use farm_proto::cluster::{ClusterSpec, MemberStatus, Scale};

pub(crate) use self::desk::Desk;
pub(crate) use self::fleet::{Connected, Numbers};
pub(crate) use self::run::{Provisioner, run};

/// A cluster as it was made, or scaled last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) spec: ClusterSpec,
    pub(crate) scale: Scale,
    /// It is to go as soon as its workers have.
    pub(crate) stopping: bool,
    /// Its workers are not to finish what they run.
    pub(crate) now: bool,
}

/// What the owner shows of a cluster.
#[derive(Debug, Clone)]
pub(crate) struct ClusterView {
    pub(crate) wanted: Wanted,
    /// Slots that have work, or would.
    pub(crate) demand: u64,
    pub(crate) connected: Vec<Connected>,
}

/// What the owner shows, by cluster. Not of `default`, whose workers nobody provides.
pub(crate) type FarmView = Arc<BTreeMap<String, ClusterView>>;

/// What the provisioner shows of a cluster.
#[derive(Debug, Clone, Default)]
pub(crate) struct FleetView {
    pub(crate) wanted: u32,
    pub(crate) numbers: Numbers,
    pub(crate) members: Vec<MemberStatus>,
    pub(crate) short: Vec<String>,
    pub(crate) retry_in_s: Option<u64>,
}

/// What the provisioner shows, by cluster.
pub(crate) type FleetViews = Arc<BTreeMap<String, FleetView>>;
