//! A network for one test: a scheduler, nodes behind NAT, and a router between them that lets little through.
//!
//! ```text
//! scheduler 192.0.2.2 ── router ──┬── node 0, 10.0.0.2
//!                        NAT      ├── node 1, 10.0.1.2
//!                                 └── …
//! ```
//!
//! Nodes reach the scheduler at the ports that are open, TCP or UDP, from the router's address 192.0.2.1. The scheduler
//! reaches nodes only where [`Options::tcp_to_nodes`] says so, as SLURM's controller must. Nodes do not reach each
//! other, nor anything else. What is not let through vanishes without an answer.
//!
//! Everything is in network namespaces without a name, so that any number of these exist side by side, and the kernel
//! removes them with the [`Net`], or with a test that is killed.
//!
//! ```no_run
//! use farm_tests::net::{Net, Options};
//!
//! let Some(net) = Net::start(&Options { nodes: 1, udp: vec![7117], ..Options::default() }) else {
//!     return; // It has said why.
//! };
//! let ping = net.node(0).command("ping").args(["-c1", &net.scheduler().address().to_string()]).status();
//! ```

use std::fs::File;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::panic::resume_unwind;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::cell::{self, Cell, Plan};
use crate::slurm::Place;
use crate::wait_up_to;

/// What it takes of Debian's `iproute2`, `nftables` and `util-linux`.
const PROGRAMS: [&str; 3] = ["ip", "nft", "nsenter"];

/// What a network is like: nothing is let through by default.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How many nodes there are.
    pub nodes: u8,
    /// The scheduler's UDP ports that nodes reach.
    pub udp: Vec<u16>,
    /// The scheduler's TCP ports that nodes reach.
    pub tcp: Vec<u16>,
    /// The nodes' TCP ports that the scheduler reaches.
    pub tcp_to_nodes: Vec<u16>,
}

/// A network. Gone when dropped; what still runs in it then has no network any more.
#[derive(Debug)]
pub struct Net {
    router: Host,
    scheduler: Host,
    nodes: Vec<Host>,
}

/// A machine in the network; but for the network it is this machine.
#[derive(Debug)]
pub struct Host {
    cell: Cell,
    address: Ipv4Addr,
}

impl Net {
    /// Makes a network. `None`, once it has printed why, where this machine does not allow it.
    ///
    /// # Panics
    ///
    /// If it cannot be made for another reason.
    pub fn start(options: &Options) -> Option<Self> {
        let router = match cell::missing(&PROGRAMS) {
            Some(reason) => Err(reason),
            // A kernel may lack what this takes, or a container forbid it.
            None => router(options).map_err(|error| error.to_string()),
        };
        match router {
            Ok(router) => {
                Some(Self::new(router, options).unwrap_or_else(|error| panic!("cannot make a network: {error}")))
            }
            Err(reason) => {
                cell::skip(&format!("no network: {reason}"));
                None
            }
        }
    }

    fn new(router: Host, options: &Options) -> io::Result<Self> {
        let scheduler = Host::new(Ipv4Addr::new(192, 0, 2, 2))?;
        router.connect("wan", router.address, &scheduler)?;
        let mut nodes = Vec::new();
        for n in 0..options.nodes {
            let node = Host::new(Ipv4Addr::new(10, 0, n, 2))?;
            router.connect(&format!("node{n}"), Ipv4Addr::new(10, 0, n, 1), &node)?;
            nodes.push(node);
        }
        Ok(Self { router, scheduler, nodes })
    }

    /// Where the scheduler is.
    pub fn scheduler(&self) -> &Host {
        &self.scheduler
    }

    /// One of the nodes, from 0 on.
    ///
    /// # Panics
    ///
    /// If there are not as many.
    pub fn node(&self, n: u8) -> &Host {
        &self.nodes[usize::from(n)]
    }

    /// Cuts a node off; what it and the others send vanishes.
    ///
    /// # Panics
    ///
    /// If that fails.
    pub fn cut(&self, n: u8) {
        let rule = |way: &str| format!("add rule inet farm cut {way} node{n} drop\n");
        let cut = self.router.nft(&(rule("iifname") + &rule("oifname")));
        cut.unwrap_or_else(|error| panic!("cannot cut node {n} off: {error}"));
    }

    /// Connects all nodes again that were cut off.
    ///
    /// # Panics
    ///
    /// If that fails.
    pub fn mend(&self) {
        let mended = self.router.nft("flush chain inet farm cut\n");
        mended.unwrap_or_else(|error| panic!("cannot connect nodes again: {error}"));
    }
}

/// A router without cables. It lets nothing through from the start.
fn router(options: &Options) -> io::Result<Host> {
    let router = Host::new(Ipv4Addr::new(192, 0, 2, 1))?;
    router.nft(&rules(options))?;
    router.shell("echo 1 >/proc/sys/net/ipv4/ip_forward")?;
    Ok(router)
}

/// What the router does, for `nft`.
fn rules(options: &Options) -> String {
    let ports = |from: &str, protocol: &str, ports: &[u16]| {
        let each = ports.iter().map(|port| format!("{from} {protocol} dport {port} accept\n"));
        each.collect::<String>()
    };
    let to_scheduler = "iifname \"node*\" oifname wan";
    let [udp, tcp, to_nodes] = [
        ports(to_scheduler, "udp", &options.udp),
        ports(to_scheduler, "tcp", &options.tcp),
        ports("iifname wan oifname \"node*\"", "tcp", &options.tcp_to_nodes),
    ];
    format!(
        "table inet farm {{
            chain cut {{ }}
            chain forward {{
                type filter hook forward priority filter; policy drop;
                jump cut
                ct state established,related accept
                {udp}{tcp}{to_nodes}
            }}
            chain input {{ type filter hook input priority filter; policy drop; }}
        }}
        table ip nat {{
            chain postrouting {{ type nat hook postrouting priority srcnat; oifname wan masquerade; }}
        }}"
    )
}

impl Host {
    fn new(address: Ipv4Addr) -> io::Result<Self> {
        let plan =
            Plan { unshare: vec!["--net".to_owned()], set_up: "ip link set lo up".to_owned(), ..Plan::default() };
        Ok(Self { cell: Cell::new(&plan)?, address })
    }

    /// Lays a cable from this router to a host, which then sends everything through it.
    fn connect(&self, name: &str, address: Ipv4Addr, host: &Self) -> io::Result<()> {
        let (there, pid) = (host.address, host.cell.first());
        self.shell(&format!(
            "ip link add {name} type veth peer name eth0 netns {pid} &&
             ip addr add {address}/24 dev {name} && ip link set {name} up"
        ))?;
        host.shell(&format!(
            "ip addr add {there}/24 dev eth0 && ip link set eth0 up && ip route add default via {address}"
        ))?;
        self.until_up(name)?;
        host.until_up("eth0")
    }

    /// Waits until what is sent through a cable is not dropped any more: the kernel may take a second to notice that
    /// the other end is there.
    fn until_up(&self, cable: &str) -> io::Result<()> {
        let up = format!("ip -oneline link show dev {cable} | grep --quiet 'qdisc noqueue .*state UP'");
        let mut last = Ok(());
        wait_up_to(Duration::from_secs(10), || {
            last = self.shell(&up);
            last.is_ok().then_some(())
        });
        last
    }

    /// Its address. The router's own is what others see of nodes.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// What to put in front of a program for it to run here. It becomes that program.
    pub fn prefix(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net={}", self.cell.namespace("net").display()), "--".to_owned()]
    }

    /// A program that is to run here, in the environment of the test.
    pub fn command(&self, program: &str) -> Command {
        let prefix = self.prefix();
        let mut command = Command::new(&prefix[0]);
        command.args(&prefix[1..]).arg(program);
        command
    }

    /// Does something here, in a thread of its own. Sockets that it makes stay here, wherever they are used.
    ///
    /// # Panics
    ///
    /// If it does.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            let namespace = File::open(self.cell.namespace("net"))?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).map_err(io::Error::from)
        };
        let done = thread::scope(|scope| {
            let inside = scope.spawn(|| {
                enter().unwrap_or_else(|error| panic!("cannot enter the network of {}: {error}", self.address));
                work()
            });
            inside.join()
        });
        done.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Where a machine of a cluster is that is to run here.
    pub fn place(&self) -> Place {
        Place { prefix: self.prefix(), address: Some(self.address) }
    }

    fn shell(&self, lines: &str) -> io::Result<()> {
        self.given("", &["sh", "-c", lines])
    }

    fn nft(&self, rules: &str) -> io::Result<()> {
        self.given(rules, &["nft", "-f", "-"])
    }

    /// Runs a program with that on its standard input.
    fn given(&self, input: &str, words: &[&str]) -> io::Result<()> {
        let prefix = self.prefix();
        let mut command = cell::command(prefix.iter().map(String::as_str).chain(words.iter().copied()));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("{}: {}", words.join(" "), said.trim())))
    }
}
