//! A SLURM cluster for one test.
//!
//! A [`Slurm`] is real: `slurmctld`, a `slurmd` for each node and a `munged`, with all their files in one temporary
//! folder. It is up in a third of a second, any number of them run side by side, and when it is dropped no process is
//! left, whatever its jobs have made of themselves.
//!
//! ```no_run
//! use farm_tests::slurm::{Options, Slurm};
//!
//! let Some(slurm) = Slurm::start(Options { slurmd_timeout: 2, message_timeout: 2, ..Options::default() }) else {
//!     return; // It has said why.
//! };
//! let job = slurm.submit(&["--nodelist=n1", "--wrap", "sleep 100"]);
//! slurm.until_job(&job, "RUNNING");
//! slurm.node("n1").crash();
//! slurm.until_node("n1", "down*");
//! ```
//!
//! * [`Slurm::environment`] is all that other programs need to find the cluster.
//! * Each cluster has addresses of its own, 127.x.y.1 for the controller, those behind it for the nodes, and always the
//!   same ports. Jobs reach this machine's 127.0.0.1.
//! * Daemons and jobs are in process namespaces of their own. A job's `$$` is not the id that the test sees.

mod machine;
mod options;

pub use machine::Machine;
pub use options::{Options, Place, Preemption, Proctrack};

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use std::{env, io, thread};

use crate::{cell, wait_for, wait_up_to};

/// Where slurmctld listens.
pub const CONTROLLER_PORT: u16 = 16817;
/// Where every slurmd listens.
pub const NODE_PORT: u16 = 16818;

/// Where control groups are, if SLURM can use them: version 1, which needs no systemd.
const FREEZER: &str = "/sys/fs/cgroup/freezer";
/// Paths of sockets have to be shorter than 108 bytes, and steps of jobs make some deep in our folder.
const LONGEST_FOLDER: usize = 60;
/// What a cluster needs of Debian's `slurmctld`, `slurmd`, `slurm-client` and `munge`.
const PROGRAMS: [&str; 7] = ["slurmctld", "slurmd", "munged", "sbatch", "scontrol", "sinfo", "squeue"];

/// A running cluster. Ended when dropped.
#[derive(Debug)]
pub struct Slurm {
    // In the order in which they are dropped.
    nodes: Vec<Machine>,
    controller: Machine,
    munge: Machine,
    prefix: Vec<String>,
    folder: tempfile::TempDir,
    cgroups: Option<Cgroups>,
    _addresses: UdpSocket,
}

/// A job, as `squeue` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// `12`, or `12_3` for an element of an array.
    pub id: String,
    /// `PENDING`, `RUNNING`, `COMPLETING`, `COMPLETED`, `NODE_FAIL` …
    pub state: String,
    pub name: String,
    pub comment: String,
    /// Where it runs or ran; empty as long as it waits.
    pub nodes: String,
    pub reason: String,
}

impl Slurm {
    /// Starts a cluster and waits until all of its nodes are idle. `None`, once it has printed why, where this machine
    /// has no SLURM or does not allow what a cluster takes.
    ///
    /// # Panics
    ///
    /// If it does not come up.
    pub fn start(options: Options) -> Option<Self> {
        let cgroup = options.proctrack == Proctrack::Cgroup;
        let missing = cell::missing(&PROGRAMS);
        let missing =
            missing.or_else(|| (cgroup && !Path::new(FREEZER).is_dir()).then(|| format!("{FREEZER} is not there")));
        if let Some(reason) = missing {
            cell::skip(&format!("no SLURM: {reason}"));
            return None;
        }
        let slurm = Self::new(&options);
        let slurm = slurm.unwrap_or_else(|error| panic!("cannot set SLURM up: {error}"));
        slurm.munge.start();
        wait_for("munged's socket", || slurm.path().join("run/munge").exists().then_some(()));
        slurm.controller.start();
        slurm.until_controller();
        slurm.nodes.iter().for_each(Machine::start);
        for node in &slurm.nodes {
            slurm.until_node(node.name(), "idle");
        }
        Some(slurm)
    }

    /// Writes the files.
    fn new(options: &Options) -> io::Result<Self> {
        let folder = folder()?;
        let path = folder.path();
        for name in ["etc", "run", "state", "spool", "log"] {
            fs::create_dir(path.join(name))?;
        }
        let (addresses, first) = addresses()?;
        let nth = |place: &Place, n: u32| IpAddr::from(place.address.unwrap_or_else(|| (u32::from(first) + n).into()));
        let controller = nth(&options.controller, 0);
        let nodes: Vec<(String, IpAddr)> =
            (1..).zip(options.node_names()).map(|(n, name)| (name.clone(), nth(&options.place(&name), n))).collect();

        let conf = path.join("etc/slurm.conf");
        fs::write(&conf, options.conf(path, controller, &nodes))?;
        let cgroups = match options.proctrack {
            Proctrack::Cgroup => {
                let conf = "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\n";
                fs::write(path.join("etc/cgroup.conf"), conf)?;
                Some(Cgroups::reserve(nodes.iter().map(|(name, _)| name.clone()).collect())?)
            }
            _ => {
                if version() >= (24, 5) {
                    // Else control groups are used all the same. Earlier ones do not know the word.
                    fs::write(path.join("etc/cgroup.conf"), "CgroupPlugin=disabled\n")?;
                }
                None
            }
        };
        let hosts = path.join("etc/hosts");
        let mut lines = format!("127.0.0.1 localhost\n{controller} ctl\n");
        for (name, address) in &nodes {
            lines.push_str(&format!("{address} {name}\n"));
        }
        fs::write(&hosts, lines)?;
        let key = path.join("etc/munge.key");
        fs::write(&key, random::<128>()?)?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;

        let start = path.join("log/start.log");
        let machine = |name: &str, program: &[&str], place: &Place| Machine::new(name, program, place, &hosts, &start);
        let file = |name: &str| path.join(name).display().to_string();
        let munge = [
            // It may say that folders above its own are not as it would like them.
            "munged",
            "--foreground",
            "--force",
            &format!("--key-file={}", file("etc/munge.key")),
            &format!("--socket={}", file("run/munge")),
            &format!("--pid-file={}", file("run/munged.pid")),
            &format!("--seed-file={}", file("state/munge.seed")),
            &format!("--log-file={}", file("log/munged.log")),
        ];
        let conf = conf.display().to_string();
        let node = |name: &str| machine(name, &["slurmd", "-D", "-N", name, "-f", &conf], &options.place(name));
        Ok(Self {
            nodes: nodes.iter().map(|(name, _)| node(name)).collect(),
            controller: machine("ctl", &["slurmctld", "-D", "-f", &conf], &options.controller),
            munge: machine("munge", &munge, &Place::default()),
            prefix: options.controller.prefix.clone(),
            folder,
            cgroups,
            _addresses: addresses,
        })
    }

    /// Its folder, in which [`Slurm::command`] runs. Everyone may look into it.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Its `slurm.conf`.
    pub fn conf(&self) -> PathBuf {
        self.path().join("etc/slurm.conf")
    }

    /// The environment in which `sbatch` and the others find it.
    pub fn environment(&self) -> [(&'static str, String); 1] {
        [("SLURM_CONF", self.conf().display().to_string())]
    }

    /// A command where the controller is, with nothing in its environment that the test has.
    pub fn command(&self, program: &str) -> Command {
        let mut command = cell::command(cell::behind(&self.prefix, program));
        command.envs(self.environment()).current_dir(self.path());
        command
    }

    /// The machine of slurmctld, `ctl`.
    pub fn controller(&self) -> &Machine {
        &self.controller
    }

    /// One of its nodes.
    ///
    /// # Panics
    ///
    /// If there is no node of that name.
    pub fn node(&self, name: &str) -> &Machine {
        let node = self.nodes.iter().find(|node| node.name() == name);
        node.unwrap_or_else(|| panic!("there is no node `{name}`"))
    }

    /// Runs `sbatch` and gives the job's id. What the job prints goes to `slurm-ID.out` in [`Slurm::path`].
    ///
    /// # Panics
    ///
    /// If the job is refused.
    #[track_caller]
    pub fn submit(&self, arguments: &[&str]) -> String {
        self.printed(self.command("sbatch").arg("--parsable").args(arguments)).trim().to_owned()
    }

    /// All jobs that it knows, also those that have ended.
    ///
    /// # Panics
    ///
    /// If the controller does not answer.
    #[track_caller]
    pub fn jobs(&self) -> Vec<Job> {
        let format = "--format=%i|%T|%j|%k|%N|%r";
        let lines = self.printed(self.command("squeue").args(["--noheader", "--array", "--states=all", format]));
        lines.lines().map(Job::parse).collect()
    }

    /// One of its jobs, if it knows it.
    #[track_caller]
    pub fn job(&self, id: &str) -> Option<Job> {
        self.jobs().into_iter().find(|job| job.id == id)
    }

    /// Waits until a job is in that state.
    ///
    /// # Panics
    ///
    /// If that does not happen.
    #[track_caller]
    pub fn until_job(&self, id: &str, state: &str) -> Job {
        until(&format!("job {id} to be {state}"), || self.job(id).filter(|job| job.state == state))
    }

    /// The state of a node, as `sinfo` shows it: `idle`, `mixed`, `allocated`, `drained`, `down`; with a `*` while it
    /// does not answer.
    ///
    /// # Panics
    ///
    /// If the controller does not answer.
    #[track_caller]
    pub fn node_state(&self, node: &str) -> String {
        let lines = self.printed(self.command("sinfo").args(["--noheader", "--Node", "--format=%T", "--nodes", node]));
        lines.lines().next().unwrap_or_default().to_owned()
    }

    /// Has the controller change the state of a node: `DOWN`, `DRAIN`, `RESUME` …
    ///
    /// # Panics
    ///
    /// If it refuses.
    #[track_caller]
    pub fn set_node_state(&self, node: &str, state: &str) {
        let (node, state) = (format!("NodeName={node}"), format!("State={state}"));
        self.printed(self.command("scontrol").args(["update", &node, &state, "Reason=test"]));
    }

    /// Waits until a node is in that state.
    ///
    /// # Panics
    ///
    /// If that does not happen.
    #[track_caller]
    pub fn until_node(&self, node: &str, state: &str) {
        until(&format!("{node} to be {state}"), || (self.node_state(node) == state).then_some(()));
    }

    /// Waits until the controller answers, as it has to be started first.
    ///
    /// # Panics
    ///
    /// If that does not happen.
    #[track_caller]
    pub fn until_controller(&self) {
        until("slurmctld to answer", || {
            let output = self.command("scontrol").arg("ping").output().ok()?;
            String::from_utf8_lossy(&output.stdout).contains("is UP").then_some(())
        });
    }

    /// The end of what a daemon has logged, by the name of its machine.
    pub fn log(&self, machine: &str) -> String {
        let name = if machine == "ctl" { "slurmctld.log".to_owned() } else { format!("slurmd-{machine}.log") };
        cell::tail(&self.path().join("log").join(name), 60)
    }

    #[track_caller]
    fn printed(&self, command: &mut Command) -> String {
        let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {}: {said}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("--- the end of slurmctld.log\n{}", self.log("ctl"));
            for node in &self.nodes {
                println!("--- the end of {}'s log\n{}", node.name(), self.log(node.name()));
            }
            println!("--- start.log\n{}", cell::tail(&self.path().join("log/start.log"), 20));
        }
        self.nodes.iter().chain([&self.controller, &self.munge]).for_each(Machine::crash);
        drop(self.cgroups.take());
    }
}

impl Job {
    fn parse(line: &str) -> Self {
        // The reason comes last: it alone may have anything in it.
        let mut fields = line.splitn(6, '|').map(str::to_owned);
        let mut next = || fields.next().unwrap_or_default();
        let (id, state, name, comment, nodes, reason) = (next(), next(), next(), next(), next(), next());
        Self { id, state, name, comment, nodes, reason }
    }
}

/// Like [`wait_for`], for questions that take a process each.
#[track_caller]
fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    wait_for(what, || {
        let found = condition();
        if found.is_none() {
            thread::sleep(Duration::from_millis(20));
        }
        found
    })
}

/// An empty folder that everyone may look into.
fn folder() -> io::Result<tempfile::TempDir> {
    let temporary = env::temp_dir();
    let temporary = if temporary.as_os_str().len() > LONGEST_FOLDER { Path::new("/tmp") } else { &temporary };
    let folder = tempfile::Builder::new().prefix("farm-slurm-").tempdir_in(temporary)?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}

/// The first of 255 addresses that no other cluster on this machine uses, for as long as the socket lives.
///
/// Free ports could be taken by somebody else before SLURM has them; these addresses nobody else wants.
fn addresses() -> io::Result<(UdpSocket, Ipv4Addr)> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let mut failed = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..1000 {
        // Tests of one process side by side, and those of another far from them.
        let n = (std::process::id() as u16).wrapping_mul(251).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let [high, low] = n.to_be_bytes();
        let first = Ipv4Addr::new(127, high.max(1), low, 1);
        match UdpSocket::bind((first, CONTROLLER_PORT)) {
            Ok(socket) => return Ok((socket, first)),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes)
}

/// Year and month of the release, from `slurm-wlm 22.05.8`.
fn version() -> (u32, u32) {
    let output = cell::command(["slurmctld", "-V"]).output();
    let printed = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let number = printed.split_whitespace().nth(1).unwrap_or_default();
    let mut parts = number.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// The right to use the control groups of nodes with these names; removes them when dropped.
#[derive(Debug)]
struct Cgroups {
    nodes: Vec<String>,
    _lock: File,
}

impl Cgroups {
    /// Waits for other clusters: the groups are named by nodes, and all of them have a node `n1`.
    fn reserve(nodes: Vec<String>) -> io::Result<Self> {
        // One that always is there, above those that SLURM itself locks.
        let lock = File::open("/sys/fs/cgroup")?;
        lock.lock()?;
        Ok(Self { nodes, _lock: lock })
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for node in &self.nodes {
            let group = Path::new(FREEZER).join(format!("slurm_{node}"));
            // A group stays for a moment after the last process in it.
            let removed =
                wait_up_to(Duration::from_secs(5), || (remove_groups(&group) || !group.exists()).then_some(()));
            if removed.is_none() {
                println!("cannot remove {}", group.display());
            }
        }
    }
}

/// Removes a control group and those below it. Their files cannot be removed, and need not be.
fn remove_groups(group: &Path) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    fs::remove_dir(group).is_ok()
}
