//! Where to listen: which ports are free, and what a busy one means.
//!
//! A busy default port is no error: a free one is taken instead. A busy address that somebody asked for is. Sockets are
//! probed before libp2p opens them, because its TCP listeners share their port with any other listener of the same user
//! that allows it, so that a second node would silently take half of the first one's connections.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol as Part;

use super::config::{DEFAULT_PORT, NetworkConfig};
use super::error::NetworkError;

/// How many free ports are tried until one is free for TCP and for UDP.
const FREE_PORT_ATTEMPTS: usize = 32;

/// One socket to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) address: Multiaddr,
    /// Whether the node must not start without it; an IPv6 socket that nobody asked for may be missing.
    pub(super) required: bool,
}

/// The kind of socket that an address names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Quic,
}

impl Kind {
    /// The kind of socket an address is reached by; none if it is neither TCP nor QUIC.
    pub(super) fn of(address: &Multiaddr) -> Option<Self> {
        let mut parts = address.iter().skip(1);
        match (parts.next(), parts.next()) {
            (Some(Part::Tcp(_)), None | Some(Part::P2p(_))) => Some(Self::Tcp),
            (Some(Part::Udp(_)), Some(Part::QuicV1)) => Some(Self::Quic),
            _ => None,
        }
    }

    /// Whether this kind of socket is switched on.
    pub(super) fn enabled(self, config: &NetworkConfig) -> bool {
        match self {
            Self::Tcp => config.tcp,
            Self::Quic => config.quic,
        }
    }

    fn address(self, ip: IpAddr, port: u16) -> Multiaddr {
        match self {
            Self::Tcp => Multiaddr::from(ip).with(Part::Tcp(port)),
            Self::Quic => Multiaddr::from(ip).with(Part::Udp(port)).with(Part::QuicV1),
        }
    }

    fn probe(self, socket: SocketAddr) -> io::Result<u16> {
        match self {
            Self::Tcp => TcpListener::bind(socket)?.local_addr(),
            Self::Quic => UdpSocket::bind(socket)?.local_addr(),
        }
        .map(|bound| bound.port())
    }
}

/// The sockets to open.
pub(super) fn sockets(config: &NetworkConfig) -> Result<Vec<Socket>, NetworkError> {
    let kinds: Vec<Kind> = [Kind::Tcp, Kind::Quic].into_iter().filter(|kind| kind.enabled(config)).collect();
    if kinds.is_empty() {
        return Err(NetworkError::NoTransport);
    }
    if config.listen.is_empty() {
        return default_sockets(&kinds, config.preferred_port);
    }
    config.listen.iter().map(|address| explicit_socket(address, &kinds)).collect()
}

/// A socket that somebody asked for.
fn explicit_socket(address: &Multiaddr, kinds: &[Kind]) -> Result<Socket, NetworkError> {
    let kind = Kind::of(address).filter(|kind| kinds.contains(kind)).ok_or_else(|| NetworkError::Listen {
        address: address.clone(),
        cause: "no transport that is switched on can listen there".into(),
    })?;
    if let Some(socket) = socket_address(address)
        && let Err(cause) = kind.probe(socket)
    {
        return Err(failure(address, cause));
    }
    Ok(Socket { address: address.clone(), required: true })
}

/// One port on every interface, the same for all kinds of sockets.
fn default_sockets(kinds: &[Kind], preferred: Option<u16>) -> Result<Vec<Socket>, NetworkError> {
    let free = (0..FREE_PORT_ATTEMPTS).filter_map(|_| kinds[0].probe((Ipv4Addr::UNSPECIFIED, 0).into()).ok());
    let port = preferred.into_iter().chain([DEFAULT_PORT]).chain(free).find(|port| is_free(kinds, *port)).ok_or_else(
        || NetworkError::AddressInUse { address: kinds[0].address(Ipv4Addr::UNSPECIFIED.into(), DEFAULT_PORT) },
    )?;
    let socket = |ip: IpAddr, kind: &Kind| Socket { address: kind.address(ip, port), required: ip.is_ipv4() };
    let v4 = kinds.iter().map(|kind| socket(Ipv4Addr::UNSPECIFIED.into(), kind));
    let v6 = kinds.iter().map(|kind| socket(Ipv6Addr::UNSPECIFIED.into(), kind));
    Ok(v4.chain(v6).collect())
}

/// Whether nobody listens on this port; a machine without IPv6 does not count as busy.
fn is_free(kinds: &[Kind], port: u16) -> bool {
    kinds.iter().all(|kind| {
        kind.probe((Ipv4Addr::UNSPECIFIED, port).into()).is_ok()
            && !matches!(kind.probe((Ipv6Addr::UNSPECIFIED, port).into()), Err(error) if is_busy(&error))
    })
}

/// The error for a socket that could not be opened.
pub(super) fn failure(address: &Multiaddr, cause: io::Error) -> NetworkError {
    match is_busy(&cause) {
        true => NetworkError::AddressInUse { address: address.clone() },
        false => NetworkError::Listen { address: address.clone(), cause: cause.into() },
    }
}

/// Whether the cause, which transports wrap in layers, is that the address is in use.
fn is_busy(error: &io::Error) -> bool {
    let mut layer: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = layer {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if error.kind() == io::ErrorKind::AddrInUse {
                return true;
            }
            // An io::Error passes over the error it wraps when asked for its source.
            if let Some(inner) = error.get_ref() {
                layer = Some(inner);
                continue;
            }
        }
        layer = error.source();
    }
    false
}

fn socket_address(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Part::Ip4(ip) => ip.into(),
        Part::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Part::Tcp(port) | Part::Udp(port) => Some((ip, port).into()),
        _ => None,
    }
}

/// The first port among addresses, TCP or UDP.
pub fn port_of(addresses: &[Multiaddr]) -> Option<u16> {
    addresses.iter().find_map(|address| Some(socket_address(address)?.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_preferred_port_is_passed_over_for_one_that_is_free_for_both_transports() {
        let taken = TcpListener::bind("0.0.0.0:0").unwrap();
        let busy = taken.local_addr().unwrap().port();
        let sockets = default_sockets(&[Kind::Tcp, Kind::Quic], Some(busy)).unwrap();
        let ports: Vec<u16> =
            sockets.iter().filter_map(|socket| socket_address(&socket.address)).map(|at| at.port()).collect();
        assert_eq!(ports.len(), 4);
        assert!(ports.iter().all(|port| *port == ports[0] && *port != busy), "{ports:?}");
    }

    #[test]
    fn a_port_that_is_busy_for_udp_alone_is_busy() {
        let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
        let busy = taken.local_addr().unwrap().port();
        assert!(!is_free(&[Kind::Tcp, Kind::Quic], busy));
    }

    #[test]
    fn an_address_in_use_is_recognised_through_layers_of_errors() {
        let busy = io::Error::from(io::ErrorKind::AddrInUse);
        assert!(is_busy(&io::Error::other(io::Error::other(busy))));
        assert!(!is_busy(&io::Error::other("something else")));
    }

    #[test]
    fn only_addresses_of_the_two_transports_have_a_kind() {
        let kind = |text: &str| Kind::of(&text.parse().unwrap());
        assert_eq!(kind("/ip4/127.0.0.1/tcp/1"), Some(Kind::Tcp));
        assert_eq!(kind("/dns4/example.org/udp/1/quic-v1"), Some(Kind::Quic));
        assert_eq!(kind("/ip4/127.0.0.1/tcp/1/ws"), None);
        assert_eq!(kind("/ip4/127.0.0.1/udp/1"), None);
        assert_eq!(kind("/memory/1"), None);
    }
}
