//! A link that can be cut.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::Scheduler;

/// How soon its threads notice that it is over.
const GLANCE: Duration = Duration::from_millis(50);

/// Forwards datagrams to a scheduler and back, for as long as it lives and is not [cut](Self::cut).
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    is_cut: AtomicBool,
    is_over: AtomicBool,
}

impl Relay {
    /// A relay to that scheduler.
    ///
    /// # Panics
    ///
    /// If no port is free.
    pub fn new(scheduler: &Scheduler) -> Self {
        let to = scheduler.address.parse().unwrap_or_else(|error| panic!("{error}: {}", scheduler.address));
        let (front, address) = socket().unwrap_or_else(|error| panic!("no socket for a relay: {error}"));
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            // It ends with an error only where the test ends as well.
            let _ = forward(&Arc::new(front), to, &shared);
        });
        Self { address, state }
    }

    /// The ticket, leading through this relay.
    ///
    /// # Panics
    ///
    /// If it is none.
    pub fn ticket(&self, ticket: &str) -> String {
        let (scheme, rest) = ticket.split_once("://").unwrap_or_else(|| panic!("no ticket: {ticket}"));
        let (_, rest) = rest.split_once('/').unwrap_or_else(|| panic!("no ticket: {ticket}"));
        format!("{scheme}://{}/{rest}", self.address)
    }

    /// Drops everything from now on, in both directions, without a word to anybody.
    pub fn cut(&self) {
        self.state.is_cut.store(true, Ordering::Relaxed);
    }

    /// Forwards again.
    pub fn mend(&self) {
        self.state.is_cut.store(false, Ordering::Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
    }
}

fn socket() -> io::Result<(UdpSocket, SocketAddr)> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(GLANCE))?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}

/// Takes datagrams from all sides and passes them on, each side's by a socket of its own.
fn forward(front: &Arc<UdpSocket>, to: SocketAddr, state: &Arc<State>) -> io::Result<()> {
    let mut backs: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    pump(
        state,
        |datagram| front.recv_from(datagram),
        |datagram, from| {
            if let Some(back) = backs.get(&from) {
                return back.send(datagram).map(drop);
            }
            let back = Arc::new(socket()?.0);
            back.connect(to)?;
            back.send(datagram)?;
            backs.insert(from, Arc::clone(&back));
            let (front, state) = (Arc::clone(front), Arc::clone(state));
            std::thread::spawn(move || {
                let receive = |datagram: &mut [u8]| back.recv(datagram).map(|size| (size, to));
                pump(&state, receive, |datagram, _| front.send_to(datagram, from).map(drop))
            });
            Ok(())
        },
    )
}

/// Passes datagrams on until it is over.
fn pump(
    state: &State,
    mut receive: impl FnMut(&mut [u8]) -> io::Result<(usize, SocketAddr)>,
    mut send: impl FnMut(&[u8], SocketAddr) -> io::Result<()>,
) -> io::Result<()> {
    let mut datagram = vec![0; 1 << 16];
    while !state.is_over.load(Ordering::Relaxed) {
        // Nothing came, or the other side is not there: then a datagram is lost, as they are.
        let Ok((size, from)) = receive(&mut datagram) else { continue };
        if !state.is_cut.load(Ordering::Relaxed) {
            let _ = send(&datagram[..size], from);
        }
    }
    Ok(())
}
