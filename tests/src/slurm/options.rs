//! What a cluster is like, and the configuration that says so to SLURM.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use super::{CONTROLLER_PORT, NODE_PORT};

/// What a cluster is like; the default suits most tests.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many nodes the default partition `cms` has: `n1`, `n2` …
    pub nodes: usize,
    /// How many nodes the partition `debug` has, where jobs may take five minutes: `d1` …
    pub debug_nodes: usize,
    /// CPUs of a node. They need not be there.
    pub cpus: u32,
    /// Memory of a node in MiB. It need not be there.
    pub memory: u32,
    /// After how many seconds of silence a node is down. With this and [`Options::message_timeout`] at 2 a crash shows
    /// after some 6 s, with the defaults after 19 s; with small ones a busy machine makes nodes look dead.
    pub slurmd_timeout: u32,
    /// After how many seconds one program gives up on another.
    pub message_timeout: u32,
    /// Seconds from SIGTERM to SIGKILL; slurmd takes no less than 5.
    pub kill_wait: u32,
    /// For how many seconds jobs that have ended are shown.
    pub min_job_age: u32,
    /// Adds a partition `urgent` on the nodes of `cms`, whose jobs push those of `cms` aside.
    pub preemption: Option<Preemption>,
    /// Whether jobs that can never run are refused, instead of being kept in the queue.
    pub enforce_part_limits: bool,
    /// How the processes of a job are found.
    pub proctrack: Proctrack,
    /// More lines for `slurm.conf`.
    pub extra: Vec<String>,
    /// Where the controller runs, and the commands.
    pub controller: Place,
    /// Where nodes run that are not simply on this machine, by their names.
    pub places: Vec<(String, Place)>,
}

/// What becomes of a job of `cms` when one of `urgent` needs its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preemption {
    /// It is put back into the queue, under the same id.
    Requeue,
    /// It is ended after so many seconds.
    Cancel { grace: u32 },
}

/// How SLURM finds the processes of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proctrack {
    /// By who started whom: a process that makes itself a daemon outlives its job.
    LinuxProc,
    /// By process group; likewise.
    Pgid,
    /// By control group, as on most real clusters: everything ends with the job. One such cluster at a time on a
    /// machine; others wait for it.
    Cgroup,
}

/// Where something runs.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// Put in front of the program, and has to become it: `nsenter --net=/proc/1/ns/net --`, or
    /// `unshare --mount sh -c 'mount -t tmpfs tmpfs /scratch; exec "$@"' -`.
    pub prefix: Vec<String>,
    /// Where the others reach it, if not on this machine's loopback.
    pub address: Option<Ipv4Addr>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 2,
            debug_nodes: 1,
            cpus: 2,
            memory: 4000,
            slurmd_timeout: 10,
            message_timeout: 5,
            kill_wait: 5,
            min_job_age: 300,
            preemption: None,
            enforce_part_limits: false,
            proctrack: Proctrack::LinuxProc,
            extra: Vec::new(),
            controller: Place::default(),
            places: Vec::new(),
        }
    }
}

impl Options {
    /// The names of all nodes.
    pub(super) fn node_names(&self) -> Vec<String> {
        let nodes = (1..=self.nodes).map(|n| format!("n{n}"));
        nodes.chain((1..=self.debug_nodes).map(|n| format!("d{n}"))).collect()
    }

    pub(super) fn place(&self, node: &str) -> Place {
        let place = self.places.iter().find(|(name, _)| name == node);
        place.map(|(_, place)| place.clone()).unwrap_or_default()
    }

    /// `slurm.conf`, for files in `folder`, the controller's host `ctl`, and nodes with these addresses.
    ///
    /// The scheduler looks at the queue at once and not every few seconds, and a job that is put back waits for 6 s and
    /// not for two minutes (`cred_expire`).
    pub(super) fn conf(&self, folder: &Path, controller: IpAddr, nodes: &[(String, IpAddr)]) -> String {
        let folder = folder.display();
        let proctrack = match self.proctrack {
            Proctrack::LinuxProc => "linuxproc",
            Proctrack::Pgid => "pgid",
            Proctrack::Cgroup => "cgroup",
        };
        let Self { slurmd_timeout, message_timeout, kill_wait, min_job_age, cpus, memory, .. } = self;
        let mut conf = format!(
            "\
ClusterName=farmtest
SlurmctldHost=ctl({controller})
SlurmctldPort={CONTROLLER_PORT}
SlurmdPort={NODE_PORT}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/{proctrack}
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
ReturnToService=2
SlurmdTimeout={slurmd_timeout}
MessageTimeout={message_timeout}
SlurmctldTimeout=5
KillWait={kill_wait}
MinJobAge={min_job_age}
CompleteWait=0
"
        );
        if self.enforce_part_limits {
            conf.push_str("EnforcePartLimits=ALL\n");
        }
        for (name, address) in nodes {
            line(&mut conf, format_args!("NodeName={name} NodeAddr={address} CPUs={cpus} RealMemory={memory}"));
        }
        self.partitions(&mut conf);
        for extra in &self.extra {
            line(&mut conf, format_args!("{extra}"));
        }
        conf
    }

    fn partitions(&self, conf: &mut String) {
        let list = |letter: char, count| (1..=count).map(|n| format!("{letter}{n}")).collect::<Vec<_>>().join(",");
        let cms = list('n', self.nodes);
        if self.nodes > 0 {
            let grace = match self.preemption {
                Some(Preemption::Cancel { grace }) => grace,
                _ => 0,
            };
            line(
                conf,
                format_args!(
                    "PartitionName=cms Nodes={cms} Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime={grace}"
                ),
            );
        }
        if self.debug_nodes > 0 {
            let debug = list('d', self.debug_nodes);
            line(conf, format_args!("PartitionName=debug Nodes={debug} MaxTime=00:05:00 DefaultTime=00:01:00"));
        }
        if let Some(preemption) = self.preemption {
            let mode = match preemption {
                Preemption::Requeue => "REQUEUE",
                Preemption::Cancel { .. } => "CANCEL",
            };
            line(conf, format_args!("PreemptType=preempt/partition_prio\nPreemptMode={mode}"));
            line(conf, format_args!("PartitionName=urgent Nodes={cms} MaxTime=INFINITE PriorityTier=10"));
        }
    }
}

fn line(conf: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a `String` cannot fail.
    let _ = writeln!(conf, "{line}");
}
