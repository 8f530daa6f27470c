//! What can be chosen when a scheduler is started.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use farm_link::transport::IDLE_TIMEOUT;

use crate::config::Config;

/// How a scheduler is set up. [`Options::new`] fills in what most farms want.
#[derive(Debug, Clone)]
pub struct Options {
    /// The UDP address to listen on. Port 0 takes a free one: ask [`Scheduler::local_addr`](crate::Scheduler::local_addr).
    pub listen: SocketAddr,
    /// The TCP address for HTTP, which nodes of a cluster fetch the program from. None: there is no HTTP.
    pub http: Option<SocketAddr>,
    /// The folder that the scheduler has to itself: identity, blobs, results. Made if it is not there.
    pub state: PathBuf,
    /// The host that tickets lead to. Without it, the address that the scheduler listens on, or, if that is every
    /// address of the machine, the one that the caller reached it by.
    pub advertise: Option<String>,
    /// Connections at a time. Whoever comes when there are as many is turned away at once, before any handshake.
    pub max_connections: usize,
    /// The largest blob that is stored, in bytes.
    pub max_blob: u64,
    /// What is allowed to whom.
    pub config: Config,
    /// How tasks are handed out.
    pub core: farm_core::Config,
    /// What a crash may cost.
    pub durability: Durability,
    /// How long jobs that are over are kept with their results; none for ever.
    pub keep_results: Option<Duration>,
    /// How long certificates are valid, if not as long as usual: for tests of what happens when they run out.
    pub certificate_validity: Option<Duration>,
    /// A peer that says nothing is given up after this long, or up to a fifth earlier. At least a quarter of a second.
    pub heartbeat: Duration,
}

/// What a crash of the scheduler or its machine may cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// Nothing that was acknowledged.
    #[default]
    Synced,
    /// Everything: nothing waits for the disk. For farms that go with those who made them.
    Ephemeral,
}

impl Options {
    /// How long results are kept unless the farm is told otherwise.
    pub const DEFAULT_KEEP: Duration = Duration::from_secs(7 * 86_400);
    /// The port that farms listen on unless they are told otherwise.
    pub const DEFAULT_PORT: u16 = 7117;

    /// A scheduler with `state` as its folder, on all addresses of this machine.
    pub fn new(state: impl Into<PathBuf>) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, Self::DEFAULT_PORT)),
            http: None,
            state: state.into(),
            advertise: None,
            max_connections: 4096,
            max_blob: 64 << 30,
            config: Config::default(),
            core: farm_core::Config::default(),
            durability: Durability::Synced,
            keep_results: Some(Self::DEFAULT_KEEP),
            certificate_validity: None,
            heartbeat: IDLE_TIMEOUT,
        }
    }

    /// The same, listening on `listen`.
    #[must_use]
    pub fn listen(mut self, listen: SocketAddr) -> Self {
        self.listen = listen;
        self
    }

    /// The host for tickets: `reached` is the address of ours that a caller came by, where that is known.
    pub(crate) fn ticket_host(&self, reached: Option<IpAddr>) -> String {
        let listen = self.listen.ip();
        match (&self.advertise, reached) {
            (Some(host), _) => host.clone(),
            (None, _) if !listen.is_unspecified() => listen.to_string(),
            (None, Some(reached)) => reached.to_canonical().to_string(),
            (None, None) => Ipv4Addr::LOCALHOST.to_string(),
        }
    }
}
