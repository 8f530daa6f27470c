//! The harness: a network with NAT and a strict router between a scheduler and its nodes.

use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use farm_tests::net::{Host, Net, Options};
use farm_tests::slurm::{self, CONTROLLER_PORT, NODE_PORT, Slurm};

/// How long an answer may take. That none comes is known only after that.
const SOON: Duration = Duration::from_secs(3);

/// Sends a datagram, and gives the address that it came from.
fn datagram(from: &Host, to: &Host, port: u16) -> io::Result<IpAddr> {
    let to_address = SocketAddr::new(to.address().into(), port);
    let server = to.inside(|| UdpSocket::bind(to_address))?;
    let client = from.inside(|| UdpSocket::bind((from.address(), 0)))?;
    client.connect(to_address)?;
    client.send(b"?")?;
    server.set_read_timeout(Some(SOON))?;
    let (_, peer) = server.recv_from(&mut [0; 8])?;
    // The answer has to find its way back through the NAT.
    server.send_to(b"!", peer)?;
    client.set_read_timeout(Some(SOON))?;
    client.recv(&mut [0; 8])?;
    Ok(peer.ip())
}

/// Connects, and gives the address that the connection came from.
fn connection(from: &Host, to: &Host, port: u16) -> io::Result<IpAddr> {
    let to_address = SocketAddr::new(to.address().into(), port);
    let server = to.inside(|| TcpListener::bind(to_address))?;
    let mut client = from.inside(|| TcpStream::connect_timeout(&to_address, SOON))?;
    let (_, peer) = server.accept()?;
    client.set_read_timeout(Some(SOON))?;
    assert_eq!(client.read(&mut [0; 8])?, 0);
    Ok(peer.ip())
}

#[track_caller]
fn is_blocked(answer: io::Result<IpAddr>) {
    let kind = answer.map_err(|error| error.kind());
    assert!(matches!(kind, Err(ErrorKind::TimedOut | ErrorKind::WouldBlock)), "{kind:?}");
}

#[test]
fn only_open_ports_are_reached_and_from_the_router() {
    let options = Options { nodes: 2, udp: vec![7117], tcp: vec![7118], tcp_to_nodes: vec![9] };
    let Some(net) = Net::start(&options) else { return };
    let (scheduler, router) = (net.scheduler(), IpAddr::from([192, 0, 2, 1]));
    for n in [0, 1] {
        let node = net.node(n);
        assert_eq!(datagram(node, scheduler, 7117).expect("an open port"), router);
        assert_eq!(connection(node, scheduler, 7118).expect("an open port"), router);
        assert_eq!(connection(scheduler, node, 9).expect("an open port"), IpAddr::from(scheduler.address()));
    }
    let (one, other) = (net.node(0), net.node(1));
    std::thread::scope(|scope| {
        scope.spawn(|| is_blocked(datagram(one, scheduler, 7118)));
        scope.spawn(|| is_blocked(connection(one, scheduler, 7117)));
        scope.spawn(|| is_blocked(connection(scheduler, one, 10)));
        scope.spawn(|| is_blocked(datagram(scheduler, one, 9)));
        scope.spawn(|| is_blocked(connection(one, other, 9)));
    });
}

#[test]
fn a_node_can_be_cut_off() {
    let Some(net) = Net::start(&Options { nodes: 2, udp: vec![7117], ..Options::default() }) else { return };
    net.cut(1);
    datagram(net.node(0), net.scheduler(), 7117).expect("that of the other node");
    is_blocked(datagram(net.node(1), net.scheduler(), 7117));
    net.mend();
    datagram(net.node(1), net.scheduler(), 7117).expect("it is connected again");
}

#[test]
fn networks_do_not_see_each_other() {
    let options = Options { nodes: 1, udp: vec![7117], ..Options::default() };
    let (Some(one), Some(other)) = (Net::start(&options), Net::start(&options)) else { return };
    is_blocked(datagram(one.node(0), other.scheduler(), 7117));
    let command = one.node(0).command("ip").args(["-brief", "address"]).output().expect("ip starts");
    let printed = String::from_utf8_lossy(&command.stdout).into_owned();
    assert!(printed.contains("10.0.0.2/24") && printed.lines().count() == 2, "{printed}");
}

/// The controller is beside the scheduler, and every node in a network of its own.
#[test]
fn a_cluster_can_be_spread_over_a_network() {
    let options = Options { nodes: 2, tcp: vec![CONTROLLER_PORT], tcp_to_nodes: vec![NODE_PORT], ..Options::default() };
    let Some(net) = Net::start(&options) else { return };
    let places = vec![("n1".to_owned(), net.node(0).place()), ("n2".to_owned(), net.node(1).place())];
    let controller = net.scheduler().place();
    let Some(slurm) = Slurm::start(slurm::Options { debug_nodes: 0, controller, places, ..Default::default() }) else {
        return;
    };
    let jobs = ["n1", "n2"].map(|node| slurm.submit(&["--nodelist", node, "--wrap", "ip -brief address"]));
    for (n, job) in jobs.iter().enumerate() {
        slurm.until_job(job, "COMPLETED");
        let printed = fs::read_to_string(slurm.path().join(format!("slurm-{job}.out"))).expect("what the job printed");
        assert!(printed.contains(&format!("10.0.{n}.2/24")), "{printed}");
    }
}
