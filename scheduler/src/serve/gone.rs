//! Noticing early that a peer has gone.
//!
//! A process that is killed says nothing, and QUIC takes ten seconds to be sure. But the next packet that is sent to it
//! comes back from its host's kernel: nobody listens on that port (ICMP, port unreachable). quinn does not listen to
//! that, for good reason: anyone can forge it. So it is taken for a hint only: the peer is sent something that it has to
//! acknowledge, and is given up if nothing at all comes from it within [`ANSWER`].
//!
//! Linux hands such messages to whoever asked for them with `IP_RECVERR`, in a queue of their own beside the socket's
//! data. The next call on the socket fails as well, which quinn would take for the end of the socket, so that
//! [`Forgiving`] stands in between.

use std::collections::{HashMap, HashSet};
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Connection, Runtime, TokioRuntime, UdpPoller};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, recvmsg};
use tokio::io::Interest;
use tokio::task::JoinSet;

use super::Shared;
use crate::sync::locked;

/// How long a peer that seems to have gone may take to show that it has not.
const ANSWER: Duration = Duration::from_millis(500);
/// Errors in a row that a socket is forgiven before it gets a rest.
const FORGIVEN: usize = 64;

/// Who is connected from where.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    by_address: Mutex<HashMap<SocketAddr, Connection>>,
}

/// A peer's entry among [`Peers`]; dropped with its connection's task.
#[derive(Debug)]
pub(super) struct Listed<'a> {
    peers: &'a Peers,
    address: SocketAddr,
    connection: usize,
}

impl Peers {
    /// Lists a connection under the address that it came from. A peer that moves is found by its silence only.
    pub(super) fn list(&self, connection: &Connection) -> Listed<'_> {
        let address = canonical(connection.remote_address());
        locked(&self.by_address).insert(address, connection.clone());
        Listed { peers: self, address, connection: connection.stable_id() }
    }

    fn at(&self, address: SocketAddr) -> Option<Connection> {
        locked(&self.by_address).get(&canonical(address)).cloned()
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        let mut peers = locked(&self.peers.by_address);
        // Someone else may have come from the same address since.
        if peers.get(&self.address).is_some_and(|listed| listed.stable_id() == self.connection) {
            peers.remove(&self.address);
        }
    }
}

/// An IPv4 peer of a socket for both is written in two ways.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The messages of other hosts about what was sent to them.
#[derive(Debug)]
pub(crate) struct ErrorQueue {
    socket: tokio::net::UdpSocket,
}

/// Makes a socket fit for quinn, and its error queue.
///
/// # Errors
///
/// There are no more file descriptors, or the runtime is none for I/O.
pub(crate) fn listen(socket: UdpSocket) -> io::Result<(Arc<dyn AsyncUdpSocket>, ErrorQueue)> {
    let queue = socket.try_clone()?;
    if let Err(error) = want_errors(&socket) {
        tracing::debug!(%error, "peers that die are noticed by their silence only");
    }
    let inner = TokioRuntime.wrap_udp_socket(socket)?;
    let socket = tokio::net::UdpSocket::from_std(queue)?;
    Ok((Arc::new(Forgiving { inner }), ErrorQueue { socket }))
}

#[expect(unsafe_code, reason = "no safe crate at hand has this socket option")]
fn want_errors(socket: &UdpSocket) -> io::Result<()> {
    let (level, option) = match socket.local_addr()? {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_RECVERR),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the option's value is the `c_int` that is
    // pointed to, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Looks after peers that seem to have gone.
pub(crate) async fn watch(errors: ErrorQueue, shared: Arc<Shared>) {
    let mut suspects = HashSet::new();
    let mut questions = JoinSet::new();
    loop {
        let address = tokio::select! {
            next = errors.next() => match next {
                Ok(address) => address,
                Err(error) => {
                    tracing::debug!(%error, "peers that die are noticed by their silence from now on");
                    return std::future::pending().await;
                }
            },
            Some(Ok(cleared)) = questions.join_next() => {
                suspects.remove(&cleared);
                continue;
            }
        };
        // Each is asked by one task at a time, however many messages come about it.
        if let Some(connection) = address.and_then(|address| shared.peers.at(address))
            && suspects.insert(connection.stable_id())
        {
            questions.spawn(async move {
                make_sure(&connection).await;
                connection.stable_id()
            });
        }
    }
}

impl ErrorQueue {
    /// To whom something was sent that did not arrive.
    async fn next(&self) -> io::Result<Option<SocketAddr>> {
        self.socket.ready(Interest::ERROR).await?;
        let read = self.socket.try_io(Interest::ERROR, || {
            let mut nothing = [];
            let mut control = RecvAncillaryBuffer::default();
            // The kernel's MSG_ERRQUEUE, which rustix passes on without having a name for it.
            let flags = RecvFlags::from_bits_retain(libc::MSG_ERRQUEUE as u32) | RecvFlags::DONTWAIT;
            Ok(recvmsg(&self.socket, &mut [IoSliceMut::new(&mut nothing)], &mut control, flags)?.address)
        });
        match read {
            Ok(address) => Ok(address.and_then(|address| address.try_into().ok())),
            // The queue is empty.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

async fn make_sure(connection: &Connection) {
    let received = |connection: &Connection| connection.stats().udp_rx.datagrams;
    let before = received(connection);
    // Never read, but acknowledged. A peer that takes no datagrams is asked by the keep-alive.
    let _ = connection.send_datagram(Bytes::new());
    tokio::select! {
        () = tokio::time::sleep(ANSWER) => {}
        _ = connection.closed() => return,
    }
    if received(connection) == before {
        tracing::info!(peer = %connection.remote_address(), "nobody is there any more");
        // Should somebody be there after all, they may come again.
        connection.close(farm_proto::close::SILENT.into(), b"nobody is there");
    }
}

/// A socket that survives what other hosts say about packets that were sent to them.
#[derive(Debug)]
struct Forgiving {
    inner: Arc<dyn AsyncUdpSocket>,
}

impl AsyncUdpSocket for Forgiving {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        for _ in 0..FORGIVEN {
            match self.inner.poll_recv(context, buffers, meta) {
                Poll::Ready(Err(error)) if is_about_a_peer(&error) => {}
                other => return other,
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// What ICMP makes of a call on the socket. None of it is about the socket itself.
fn is_about_a_peer(error: &io::Error) -> bool {
    let about_peers = [
        libc::ECONNREFUSED,
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
        libc::EHOSTDOWN,
        libc::ENOPROTOOPT,
        libc::EPROTO,
        libc::EMSGSIZE,
        libc::EACCES,
        libc::EPERM,
        libc::ENONET,
        libc::EOPNOTSUPP,
    ];
    error.raw_os_error().is_some_and(|code| about_peers.contains(&code))
}
