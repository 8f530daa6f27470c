//! What a site says about its providers, as in `[provider.slurm]` of the configuration.

use std::path::PathBuf;
use std::time::Duration;

use farm_proto::cluster::{ClusterSpec, ProviderKind};
use serde::{Deserialize, Deserializer};

/// `[provider.local]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LocalConfig {
    /// Workers of all local clusters together.
    pub max_workers: Option<u32>,
    /// Shell commands before every worker.
    pub prologue: Option<String>,
}

/// `[provider.slurm]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SlurmConfig {
    /// What clusters get that do not say.
    pub partition: Option<String>,
    pub account: Option<String>,
    pub qos: Option<String>,
    /// Partitions that clusters may name; any, if it is not said.
    pub allowed_partitions: Option<Vec<String>>,
    /// The longest time of a worker, and what clusters get that name none.
    #[serde(deserialize_with = "some_duration")]
    pub max_time: Option<Duration>,
    /// Workers of all clusters together, queued ones included.
    pub max_workers: Option<u32>,
    /// Of them, those that may wait in the queue at a time.
    pub max_queued: Option<u32>,
    /// Of them, those that may run at a time.
    pub max_running: Option<u32>,
    /// How often the queue is asked if nothing happens.
    #[serde(deserialize_with = "duration")]
    pub poll_period: Duration,
    /// Shell commands before every worker, and before what its cluster has: `. /etc/profile; module load …`.
    pub prologue: Option<String>,
    /// A command that runs another one where SLURM's are, as in `ssh login.example.org`.
    pub submit_via: Option<String>,
    /// An existing folder of the nodes for the output of jobs, which goes nowhere else.
    pub log_dir: Option<PathBuf>,
    /// How long before its end a worker takes nothing new any more. Less if that were a third of its time.
    #[serde(deserialize_with = "duration")]
    pub drain: Duration,
    /// Where nodes have the program, for clusters that do not say.
    pub worker_binary: Option<String>,
}

impl Default for SlurmConfig {
    fn default() -> Self {
        Self {
            partition: None,
            account: None,
            qos: None,
            allowed_partitions: None,
            max_time: None,
            max_workers: None,
            max_queued: None,
            max_running: None,
            poll_period: Duration::from_secs(30),
            prologue: None,
            submit_via: None,
            log_dir: None,
            drain: Duration::from_secs(90),
            worker_binary: None,
        }
    }
}

/// Why a cluster cannot be as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecRefused {
    #[error("workers of the provider `{provider}` have no {what}")]
    HasNo { provider: &'static str, what: &'static str },
    #[error("the partition {0:?} is not one that this farm may use: {list}", list = .1.join(", "))]
    Partition(String, Vec<String>),
    #[error("workers may stay for {} minutes at most", .0.as_secs() / 60)]
    Time(Duration),
    #[error("a worker has at least one core, on at least one node")]
    Nothing,
    #[error("{0:?} cannot be the name of a variable of the environment")]
    Variable(String),
    #[error("{0:?} cannot be an argument: it has a line break or a null byte in it")]
    Text(String),
    #[error("`{0}` is not for sbatch's arguments: farm sets it itself, or it would not submit what farm asks for")]
    Argument(String),
}

/// Options that would make something else of a submission than a worker that is found again.
const OURS: [&str; 13] = [
    "--array",
    "--comment",
    "--export",
    "--export-file",
    "--help",
    "--job-name",
    "--no-requeue",
    "--parsable",
    "--requeue",
    "--test-only",
    "--usage",
    "--wait",
    "--wrap",
];
const OURS_SHORT: [char; 5] = ['a', 'h', 'J', 'V', 'W'];

impl LocalConfig {
    /// What workers of a cluster get, everything said.
    ///
    /// # Errors
    ///
    /// They cannot be as they are asked for.
    pub fn resolve(&self, spec: &ClusterSpec) -> Result<ClusterSpec, SpecRefused> {
        let provider = ProviderKind::Local.as_str();
        let asked = [
            ("partition", spec.partition.is_some()),
            ("account", spec.account.is_some()),
            ("qos", spec.qos.is_some()),
            ("arguments of sbatch", !spec.sbatch_args.is_empty()),
            ("nodes", spec.nodes > 1),
        ];
        if let Some((what, _)) = asked.into_iter().find(|(_, is_asked)| *is_asked) {
            return Err(SpecRefused::HasNo { provider, what });
        }
        check(spec)?;
        Ok(spec.clone())
    }

    /// The shell commands before a worker: the site's, then the cluster's.
    pub(super) fn prologue(&self, spec: &ClusterSpec) -> Option<String> {
        joined(self.prologue.as_deref(), spec.prologue.as_deref())
    }
}

impl SlurmConfig {
    /// What workers of a cluster get, everything said: the cluster's word first, then the site's.
    ///
    /// # Errors
    ///
    /// They cannot be as they are asked for, or the site does not allow it.
    pub fn resolve(&self, spec: &ClusterSpec) -> Result<ClusterSpec, SpecRefused> {
        check(spec)?;
        let spec = self.filled(spec);
        if let Some(allowed) = &self.allowed_partitions {
            let asked = spec.partition.as_deref().unwrap_or("(the default)");
            // Several may be named at once.
            if !asked.split(',').all(|partition| allowed.iter().any(|allowed| allowed == partition)) {
                return Err(SpecRefused::Partition(asked.to_owned(), allowed.clone()));
            }
        }
        match (self.max_time, spec.time_s) {
            (Some(max), Some(time)) if time > max.as_secs() => Err(SpecRefused::Time(max)),
            _ => Ok(spec),
        }
    }

    /// Without a check.
    pub(super) fn filled(&self, spec: &ClusterSpec) -> ClusterSpec {
        ClusterSpec {
            time_s: spec.time_s.or_else(|| self.max_time.map(|time| time.as_secs())),
            partition: spec.partition.clone().or_else(|| self.partition.clone()),
            account: spec.account.clone().or_else(|| self.account.clone()),
            qos: spec.qos.clone().or_else(|| self.qos.clone()),
            worker_binary: spec.worker_binary.clone().or_else(|| self.worker_binary.clone()),
            ..spec.clone()
        }
    }

    /// The shell commands before a worker: the site's, then the cluster's.
    pub(super) fn prologue(&self, spec: &ClusterSpec) -> Option<String> {
        joined(self.prologue.as_deref(), spec.prologue.as_deref())
    }

    /// How many seconds before the end of a worker it is told.
    pub(super) fn drain_s(&self, time_s: Option<u64>) -> u64 {
        // A minute is the least that SLURM gives, and it may warn a minute early.
        let third = time_s.map_or(u64::MAX, |time| time.max(60).div_ceil(3) - 1);
        // SLURM keeps it in 16 bits.
        self.drain.as_secs().clamp(1, third.min(u64::from(u16::MAX)))
    }
}

fn joined(first: Option<&str>, then: Option<&str>) -> Option<String> {
    let commands: Vec<_> = [first, then].into_iter().flatten().map(str::trim_end).collect();
    (!commands.is_empty()).then(|| commands.join("\n"))
}

fn check(spec: &ClusterSpec) -> Result<(), SpecRefused> {
    if spec.cores == 0 || spec.nodes == 0 {
        return Err(SpecRefused::Nothing);
    }
    if let Some((name, _)) = spec.env.iter().find(|(name, _)| !super::is_variable(name)) {
        return Err(SpecRefused::Variable(name.clone()));
    }
    let texts = [&spec.partition, &spec.account, &spec.qos, &spec.worker_binary].into_iter().flatten();
    if let Some(text) = texts.chain(&spec.sbatch_args).find(|text| text.contains(['\n', '\r', '\0'])) {
        return Err(SpecRefused::Text(text.clone()));
    }
    let values = spec.env.iter().map(|(_, value)| value).chain(&spec.prologue);
    if let Some(text) = values.into_iter().find(|text| text.contains('\0')) {
        return Err(SpecRefused::Text(text.clone()));
    }
    match spec.sbatch_args.iter().find(|argument| is_ours(argument)) {
        Some(argument) => Err(SpecRefused::Argument(argument.clone())),
        None => Ok(()),
    }
}

/// Whether an argument of `sbatch` would undo what is asked of it. Abbreviations are taken into account, as getopt does.
fn is_ours(argument: &str) -> bool {
    let name = argument.split_once('=').map_or(argument, |(name, _)| name);
    if name == "--" {
        return true;
    }
    if name.starts_with("--") {
        // `--wait` is a beginning of `--wait-all-nodes`, and shorter ones are ambiguous.
        return OURS.iter().any(|ours| *ours == name || (name.len() >= 5 && ours.starts_with(name)));
    }
    name.strip_prefix('-').is_some_and(|letters| letters.starts_with(OURS_SHORT))
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

/// A time with its unit, as in `90s`; without one, seconds.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a time is written 30s, 5m, 2h or 7d")]
    enum Time {
        Seconds(u64),
        Text(String),
    }
    match Time::deserialize(deserializer)? {
        Time::Seconds(seconds) => Some(Duration::from_secs(seconds)),
        Time::Text(text) => parse_duration(&text),
    }
    .ok_or_else(|| serde::de::Error::custom("a time is written 30s, 5m, 2h or 7d"))
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit.trim() {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor).map(Duration::from_secs)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cluster::provider) fn spec(name: &str) -> ClusterSpec {
        ClusterSpec {
            name: name.to_owned(),
            provider: ProviderKind::Slurm,
            cores: 2,
            nodes: 1,
            memory: None,
            time_s: None,
            partition: None,
            account: None,
            qos: None,
            sbatch_args: Vec::new(),
            prologue: None,
            env: Vec::new(),
            worker_binary: None,
        }
    }

    #[test]
    fn a_configuration_is_read_and_typing_mistakes_are_found() {
        let text = r#"{"partition": "cms", "poll_period": "2m", "drain": 45, "max_time": "12h", "max_workers": 9}"#;
        let config: SlurmConfig = serde_json::from_str(text).unwrap();
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
        assert_eq!((config.poll_period, config.max_time, config.max_workers), (minute * 2, Some(hour * 12), Some(9)));
        assert_eq!((config.drain, config.partition.as_deref()), (Duration::from_secs(45), Some("cms")));
        assert_eq!(serde_json::from_str::<SlurmConfig>("{}").unwrap(), SlurmConfig::default());
        for wrong in [r#"{"partitions": "x"}"#, r#"{"drain": "90 parsecs"}"#, r#"{"max_time": "s"}"#] {
            let error = serde_json::from_str::<SlurmConfig>(wrong).unwrap_err().to_string();
            assert!(error.contains("unknown field") || error.contains("a time is written"), "{error}");
        }
    }

    #[test]
    fn the_cluster_has_its_word_before_the_site_within_its_bounds() {
        let config = SlurmConfig {
            partition: Some("batch".to_owned()),
            account: Some("physics".to_owned()),
            max_time: Some(Duration::from_secs(7200)),
            allowed_partitions: Some(vec!["batch".to_owned(), "long".to_owned()]),
            prologue: Some("a\n".to_owned()),
            ..SlurmConfig::default()
        };
        let resolved = config.resolve(&spec("x")).unwrap();
        assert_eq!((resolved.partition.as_deref(), resolved.time_s), (Some("batch"), Some(7200)));
        let own = ClusterSpec { partition: Some("long".to_owned()), time_s: Some(60), ..spec("x") };
        let own = config.resolve(&ClusterSpec { prologue: Some("b".to_owned()), ..own }).unwrap();
        assert_eq!((own.partition.as_deref(), own.account.as_deref()), (Some("long"), Some("physics")));
        assert_eq!(config.prologue(&own).as_deref(), Some("a\nb"));
        let elsewhere = ClusterSpec { partition: Some("long,gpu".to_owned()), ..spec("x") };
        assert!(config.resolve(&elsewhere).unwrap_err().to_string().contains("batch, long"));
        let longer = ClusterSpec { time_s: Some(7201), ..spec("x") };
        assert!(config.resolve(&longer).unwrap_err().to_string().contains("120 minutes"));
    }

    #[test]
    fn what_would_break_a_submission_is_refused() {
        let with = |argument: &str| ClusterSpec { sbatch_args: vec![argument.to_owned()], ..spec("x") };
        for wrong in ["--wrap=x", "--wra", "--comment", "-Jx", "--requeue", "--array=0-9", "-a0-9", "--", "--exp=ALL"] {
            assert!(SlurmConfig::default().resolve(&with(wrong)).is_err(), "{wrong}");
        }
        for fine in ["--gres=gpu:1", "--exclusive", "-C", "a100", "--exclude=n1", "--reservation=x", "--hint=x", "-wn1"]
        {
            assert!(SlurmConfig::default().resolve(&with(fine)).is_ok(), "{fine}");
        }
        let env = ClusterSpec { env: vec![("A B".to_owned(), String::new())], ..spec("x") };
        assert!(LocalConfig::default().resolve(&env).is_err());
        let gpu = ClusterSpec { partition: Some("gpu".to_owned()), ..spec("x") };
        assert_eq!(
            LocalConfig::default().resolve(&gpu).unwrap_err().to_string(),
            "workers of the provider `local` have no partition"
        );
    }

    #[test]
    fn the_warning_comes_in_the_last_third() {
        let config = SlurmConfig::default();
        assert_eq!(
            [None, Some(3600), Some(270), Some(60), Some(5)].map(|time| config.drain_s(time)),
            [90, 90, 89, 19, 19]
        );
    }
}
