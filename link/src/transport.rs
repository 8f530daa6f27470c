//! The settings of quinn and of the socket, the same on both ends but for the patience with a silent peer.
//!
//! They were measured on loopback with one stream, a gigabyte, and two processes; a figure behind a setting is what it
//! was worth there.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{EndpointConfig, MtuDiscoveryConfig, TransportConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::reset::{RandomIds, ResetKey};

/// After how long a scheduler gives up a peer that says nothing, unless it is told otherwise. Keep-alives make a living
/// one speak.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// For how long whoever dials would bear with a silent scheduler. The two ends agree on the shorter time (RFC 9000,
/// section 10.1), so that it is the scheduler's which counts.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Keep-alives go out five times in the time after which a peer is given up, so that three of them may be lost, and at
/// least this often: whoever dials does not know how patient the scheduler is. Were that less patient still, its own
/// keep-alives, which are answered, would keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Without it the first 2 MB on a new connection wait for delayed acknowledgements (29 ms instead of 2).
const INITIAL_WINDOW: u64 = 1 << 20;
/// Where the path allows it, larger datagrams halve the cost per byte. The kernel takes ten of them at once, 65 507
/// bytes in all, which bounds them: with 8 000 nearly every send is refused, and taken for loss.
const LARGEST_DATAGRAM: u16 = 6500;
/// The kernel's default of 208 KiB loses a thousand packets a gigabyte.
const SOCKET_BUFFER: usize = 4 << 20;
/// Streams that a peer may have open. quinn allocates for all of them at each handshake, so it is no larger than needed.
const STREAMS: u32 = 128;

/// How connections behave, if a peer that says nothing is to be dead after `idle`, and not much before.
pub fn config(idle: Duration) -> Arc<TransportConfig> {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(LARGEST_DATAGRAM);
    let mut cubic = CubicConfig::default();
    cubic.initial_window(INITIAL_WINDOW);
    let keep_alive = KEEP_ALIVE.min(idle / 5);
    // The idle time-out begins anew with the first packet after the peer's last, which is a keep-alive at the latest.
    let silence = idle.saturating_sub(keep_alive);
    let millis = VarInt::from_u32(u32::try_from(silence.as_millis()).unwrap_or(u32::MAX));
    let mut config = TransportConfig::default();
    config
        .mtu_discovery_config(Some(mtu))
        .congestion_controller_factory(Arc::new(cubic))
        .max_idle_timeout(Some(millis.into()))
        .keep_alive_interval(Some(keep_alive))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0));
    Arc::new(config)
}

/// How endpoints behave.
pub fn endpoint_config() -> EndpointConfig {
    sized(EndpointConfig::default())
}

/// How the endpoint of a scheduler behaves that keeps `secret` from one life to the next: peers of an earlier one are
/// told with their next packet that their connections are gone.
pub fn endpoint_config_with(secret: &[u8]) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(ResetKey::of(secret)));
    config.cid_generator(|| Box::new(RandomIds::new()));
    sized(config)
}

fn sized(mut config: EndpointConfig) -> EndpointConfig {
    // Fails only outside 1 200..=65 527.
    if config.max_udp_payload_size(LARGEST_DATAGRAM).is_err() {
        tracing::warn!("datagrams stay at quinn's default size");
    }
    config
}

/// A UDP socket with large buffers. The kernel may grant less, which costs speed only.
///
/// # Errors
///
/// The address is taken, or not one of this machine.
pub fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    for result in [socket.set_recv_buffer_size(SOCKET_BUFFER), socket.set_send_buffer_size(SOCKET_BUFFER)] {
        if let Err(error) = result {
            tracing::debug!(%error, "the socket keeps its default buffers");
        }
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}
