//! What a submission of workers is made of.

use std::sync::Arc;
use std::time::Duration;

use farm_proto::cluster::{ClusterSpec, Plan, ProviderKind};
use farm_proto::message::RequestError;

use super::provider::{Order, Program, Provider};
use crate::config::ProviderConfig;

/// How often this host's workers are looked at.
const LOCAL_PERIOD: Duration = Duration::from_secs(1);

/// Makes orders out of clusters. Shared by those who carry them out and those who only show them.
pub(crate) struct Desk {
    /// What the jobs of this farm are known by.
    pub(crate) farm: String,
    pub(crate) local: Arc<Provider>,
    pub(crate) slurm: Arc<Provider>,
    pub(crate) config: ProviderConfig,
    pub(crate) program: Program,
}

/// How many workers there may be of a provider.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Caps {
    pub(crate) workers: Option<u32>,
    pub(crate) queued: Option<u32>,
    pub(crate) running: Option<u32>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("farm", &self.farm).field("config", &self.config).finish_non_exhaustive()
    }
}

impl Desk {
    pub(crate) fn name(&self) -> &str {
        &self.farm
    }

    /// The providers, and how often each is asked.
    pub(crate) fn providers(&self) -> [(ProviderKind, Arc<Provider>, Duration); 2] {
        [
            (ProviderKind::Local, Arc::clone(&self.local), LOCAL_PERIOD),
            (ProviderKind::Slurm, Arc::clone(&self.slurm), self.config.slurm.poll_period),
        ]
    }

    pub(crate) fn caps(&self, kind: ProviderKind) -> Caps {
        let ProviderConfig { local, slurm } = &self.config;
        match kind {
            ProviderKind::Local => Caps { workers: local.max_workers, ..Caps::default() },
            ProviderKind::Slurm => {
                Caps { workers: slurm.max_workers, queued: slurm.max_queued, running: slurm.max_running }
            }
        }
    }

    /// A cluster with everything that its site says where it does not.
    ///
    /// # Errors
    ///
    /// The site does not allow it, or its nodes could not come by the program.
    pub(crate) fn resolve(&self, spec: &ClusterSpec) -> Result<ClusterSpec, RequestError> {
        let ProviderConfig { local, slurm } = &self.config;
        let resolved = match spec.provider {
            ProviderKind::Local => local.resolve(spec),
            ProviderKind::Slurm => slurm.resolve(spec),
        };
        let resolved = resolved.map_err(|error| RequestError::Invalid(error.to_string()))?;
        if resolved.provider == ProviderKind::Slurm && resolved.worker_binary.is_none() && self.program.urls.is_empty()
        {
            return Err(RequestError::Invalid(
                "nodes cannot fetch the worker, as this scheduler serves no HTTP: start it with --http, or say with \
                 --worker-binary where nodes have it"
                    .to_owned(),
            ));
        }
        Ok(resolved)
    }

    /// An order for workers of a cluster, that come with this ticket.
    pub(crate) fn order(&self, spec: ClusterSpec, base: String, count: u32, ticket: String) -> Order {
        Order { farm: self.farm.clone(), spec, base, count, ticket, program: self.program.clone() }
    }

    /// What an order for one worker would do.
    ///
    /// # Errors
    ///
    /// As of [`Self::resolve`].
    pub(crate) fn plan(&self, spec: &ClusterSpec) -> Result<Plan, RequestError> {
        let spec = self.resolve(spec)?;
        let provider = match spec.provider {
            ProviderKind::Local => &self.local,
            ProviderKind::Slurm => &self.slurm,
        };
        Ok(provider.plan(&self.order(spec, "LEASE".to_owned(), 1, "TICKET".to_owned())))
    }
}
