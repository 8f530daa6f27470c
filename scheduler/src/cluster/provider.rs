//! Who starts workers: this host does ([`Local`]), or SLURM ([`Slurm`]).
//!
//! A provider does three things: it submits, says what there is of a farm, and cancels. It decides nothing and remembers
//! nothing that it could not find again after a restart: what is ours is known by its name, in the queue or in a folder.
//!
//! Every worker has a *lease*, a random name that it is known by from its submission to its end. What is submitted
//! together shares a *base*: the lease of its worker `i` is `BASE-i`.

mod config;
mod local;
mod slurm;

use std::fmt;
use std::time::SystemTime;

use farm_proto::cluster::{ClusterSpec, Plan};

pub use self::config::{LocalConfig, SlurmConfig, SpecRefused};
pub(crate) use self::local::Local;
pub(crate) use self::slurm::{CommandError, Slurm};

/// How much of a log, or of a command's complaints, is told. In bytes.
const MAX_WORDS: usize = 2000;

/// Workers that are to be started, all of one cluster.
#[derive(Clone)]
pub(crate) struct Order {
    /// What jobs of this farm are known by. Hexadecimal digits.
    pub(crate) farm: String,
    pub(crate) spec: ClusterSpec,
    /// Random, of letters and digits; see [`random_base`].
    pub(crate) base: String,
    /// At least 1, and at most [`Provider::MAX_COUNT`].
    pub(crate) count: u32,
    /// A ticket for workers of this cluster. Secret: it is in no command line and no script.
    pub(crate) ticket: String,
    pub(crate) program: Program,
}

impl Order {
    /// The leases, in their order.
    pub(crate) fn leases(&self) -> Vec<String> {
        (0..self.count).map(|index| lease(&self.base, index)).collect()
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Order({} of {}, {})", self.count, self.spec.name, self.base)
    }
}

/// The lease of one worker of a submission.
fn lease(base: &str, index: u32) -> String {
    format!("{base}-{index}")
}

/// A base that no other submission has: 48 random bits as hexadecimal digits. Nobody may rely on its being a secret.
pub(crate) fn random_base() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // Its keys are the system's randomness, and others for each value.
    format!("{:012x}", RandomState::new().build_hasher().finish() >> 16)
}

/// How nodes come by the worker's program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Program {
    /// SHA-256, as hexadecimal digits: what nodes can check without a program of ours.
    pub(crate) sha256: String,
    /// In bytes.
    pub(crate) size: u64,
    /// Where it can be fetched, `http://HOST:PORT/worker/SHA256`, best first. What goes wrong on nodes is reported to
    /// the same servers. Empty if nothing is served: then [`ClusterSpec::worker_binary`] is needed.
    pub(crate) urls: Vec<String>,
}

/// A job of the queue, or a process, that is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// What [`Provider::cancel`] knows it by.
    pub(crate) id: String,
    pub(crate) cluster: String,
    pub(crate) lease: String,
    pub(crate) state: QueueState,
    /// Why it waits, or ended, in the queue's words or those of the worker's log.
    pub(crate) reason: Option<String>,
    pub(crate) node: Option<String>,
    /// When it will be ended, if that is known.
    pub(crate) ends: Option<SystemTime>,
}

impl Member {
    pub(crate) const fn is_alive(&self) -> bool {
        !matches!(self.state, QueueState::Ended(_))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum QueueState {
    Queued,
    /// It has a node; whether its worker is up, only the worker knows.
    Running,
    /// With the queue's word for how.
    Ended(String),
}

/// Why a provider did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProviderError {
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Nothing was submitted.
    #[error("{0}")]
    Refused(String),
    #[error("cannot use {path}: {source}")]
    State { path: String, source: std::io::Error },
}

impl ProviderError {
    /// Whether nothing was done, for sure. If not, [`Provider::poll`] tells.
    pub(crate) fn is_sure(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::Command(error) => error.is_sure(),
            Self::State { .. } => false,
        }
    }
}

/// Starts workers, finds them again, ends them.
#[derive(Debug)]
pub(crate) enum Provider {
    Local(Local),
    Slurm(Slurm),
}

impl Provider {
    /// Workers in one [`Order`]: queues bound their arrays, a thousand elements as a rule.
    pub(crate) const MAX_COUNT: u32 = 500;

    /// Starts all workers of an order.
    ///
    /// # Errors
    ///
    /// It may have been done although it fails, unless [`ProviderError::is_sure`]: poll before it is repeated.
    pub(crate) async fn submit(&self, order: &Order) -> Result<(), ProviderError> {
        if order.count == 0 || order.count > Self::MAX_COUNT {
            return Err(ProviderError::Refused(format!("{} workers cannot be submitted at once", order.count)));
        }
        match self {
            Self::Local(local) => local.submit(order).await,
            Self::Slurm(slurm) => slurm.submit(order).await,
        }
    }

    /// Everything of this farm, of all clusters: what waits, what runs, and for some minutes what has ended.
    ///
    /// # Errors
    ///
    /// There is no news; nothing follows from that.
    pub(crate) async fn poll(&self, farm: &str) -> Result<Vec<Member>, ProviderError> {
        match self {
            Self::Local(local) => local.poll(farm),
            Self::Slurm(slurm) => slurm.poll(farm).await,
        }
    }

    /// Ends members by their [ids](Member::id). They are told to end, and are ended if they do not; this returns before.
    /// Those that are gone already are no error.
    ///
    /// # Errors
    ///
    /// Some or all were not told.
    pub(crate) async fn cancel(&self, ids: &[String]) -> Result<(), ProviderError> {
        match self {
            Self::Local(local) => local.cancel(ids),
            Self::Slurm(slurm) => slurm.cancel(ids).await,
        }
    }

    /// What [`Self::submit`] would do.
    pub(crate) fn plan(&self, order: &Order) -> Plan {
        match self {
            Self::Local(local) => local.plan(order),
            Self::Slurm(slurm) => slurm.plan(order),
        }
    }
}

/// The end of a text, at most [`MAX_WORDS`] bytes of it, from the beginning of a line if there is one.
fn tail(text: &str) -> &str {
    let text = text.trim_end();
    let from = text.ceil_char_boundary(text.len().saturating_sub(MAX_WORDS));
    let cut = &text[from..];
    if from == 0 { cut } else { cut.split_once('\n').map_or(cut, |(_, rest)| rest) }
}

/// A word as a POSIX shell reads it.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=./:,@%+".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Words as a POSIX shell reads them.
fn quoted_line<'a>(words: impl IntoIterator<Item = &'a String>) -> String {
    words.into_iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// Whether a text can name a variable of the environment.
fn is_variable(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests;
