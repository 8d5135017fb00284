//! Where a peer can be dialled. Addresses come from strangers too (peer exchange, trackers), so parsing is strict and
//! bounded, and whatever parses prints back to text that parses to the same address.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use commonhold_sync::id::DeviceId;

/// Longest text of an address, in bytes. A host name has at most 253; the rest leaves room for a path.
pub const ADDRESS_BYTES_MAX: usize = 512;
/// Sockets that a QUIC address names at most: each gets packets when it is dialled, and a stranger may have written it.
const SOCKETS_MAX: usize = 8;

/// Where a peer can be dialled or listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// `ws://host:port/path`, or `wss://host:port/path` inside TLS. A missing port is 80, or 443 with TLS; a missing path is `/`.
    WebSocket {
        /// Whether it is inside TLS. The certificate must be for the host.
        tls: bool,
        /// A name, an IPv4 address, or an IPv6 address without brackets.
        host: String,
        /// TCP port; 0 asks the system for one when listening.
        port: u16,
        /// Begins with `/`.
        path: String,
    },
    /// `quic://endpoint?addr=IP:PORT,IP:PORT&relay=https://host`: to dial, with at least one socket or a relay.
    Quic {
        /// The key that the other end proves; it lives as long as its listener, and is not the device's.
        endpoint: [u8; 32],
        /// Where it may be reached directly.
        sockets: Vec<SocketAddr>,
        /// The relay at which it may be reached, `https://host:port`.
        relay: Option<String>,
    },
    /// `quic://IP:PORT?relay=https://host`: to listen. What others dial is told once the listener is there.
    QuicSocket {
        /// Port 0 asks the system for one.
        socket: SocketAddr,
        /// The relay at which to be reached too.
        relay: Option<String>,
    },
    /// `mem:name`: another peer of this process.
    Memory(String),
}

/// Text that is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// More than [`ADDRESS_BYTES_MAX`] bytes.
    #[error("an address has at most {ADDRESS_BYTES_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// None of `ws://`, `wss://`, `quic://` and `mem:`.
    #[error("expected an address that begins with ws://, wss://, quic:// or mem:, found {0:?}")]
    Scheme(String),
    /// Neither a form to dial nor one to listen.
    #[error("expected quic://ENDPOINT?addr=IP:PORT to dial or quic://IP:PORT to listen, found {0:?}")]
    Quic(String),
    /// Not a socket that can be dialled.
    #[error("{0:?} is not an IP address and a port that can be dialled")]
    Socket(String),
    /// More sockets than a QUIC address may name.
    #[error("a QUIC address names at most {SOCKETS_MAX} sockets")]
    Sockets,
    /// Not `https://host`, or a second one.
    #[error("expected one relay as https://HOST:PORT, found {0:?}")]
    Relay(String),
    /// The host or the name is empty or has a character that does not belong there.
    #[error("{0:?} is not a host")]
    Host(String),
    /// Not a number up to 65,535.
    #[error("{0:?} is not a port")]
    Port(String),
    /// The path has a character outside printable ASCII, or a fragment.
    #[error("{0:?} is not a path")]
    Path(String),
}

impl Address {
    /// Whether it leads to this very machine, whoever dials it; also if one of several ways does.
    pub fn is_of_this_machine(&self) -> bool {
        match self {
            Address::WebSocket { host, .. } => is_host_of_this_machine(host),
            Address::Quic { sockets, relay, .. } => {
                sockets.iter().any(|socket| is_ip_of_this_machine(socket.ip()))
                    || relay.as_deref().and_then(relay_host).is_some_and(|host| is_host_of_this_machine(&host))
            }
            Address::QuicSocket { socket, .. } => is_ip_of_this_machine(socket.ip()),
            Address::Memory(_) => true,
        }
    }

    /// The address of the network in it, the first of several, unless it has a name instead.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Address::WebSocket { host, .. } => host.parse().ok(),
            Address::Quic { sockets, .. } => sockets.first().map(SocketAddr::ip),
            Address::QuicSocket { socket, .. } => Some(socket.ip()),
            Address::Memory(_) => None,
        }
    }
}

fn is_ip_of_this_machine(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback() || ip.is_unspecified()
}

fn is_host_of_this_machine(host: &str) -> bool {
    match host.parse() {
        Ok(ip) => is_ip_of_this_machine(ip),
        Err(_) => host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost"),
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.len() > ADDRESS_BYTES_MAX {
            return Err(AddressError::TooLong(text.len()));
        }
        if let Some(name) = text.strip_prefix("mem:") {
            return match !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()) {
                true => Ok(Address::Memory(name.to_owned())),
                false => Err(AddressError::Host(name.to_owned())),
            };
        }
        if let Some(rest) = text.strip_prefix("quic://") {
            return parse_quic(rest);
        }
        let (tls, rest) = match (text.strip_prefix("ws://"), text.strip_prefix("wss://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err(AddressError::Scheme(text.to_owned())),
        };
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
        if !path.bytes().all(|b| b.is_ascii_graphic() && !b"#\"<>\\^`{|}".contains(&b)) {
            return Err(AddressError::Path(path));
        }
        let (host, port) = split_port(authority, if tls { 443 } else { 80 })?;
        Ok(Address::WebSocket { tls, host, port, path })
    }
}

fn parse_quic(text: &str) -> Result<Address, AddressError> {
    let fault = || AddressError::Quic(text.to_owned());
    let (head, query) = text.split_once('?').map_or((text, None), |(head, query)| (head, Some(query)));
    let (mut sockets, mut relay) = (Vec::new(), None);
    for part in query.into_iter().flat_map(|query| query.split('&')) {
        match part.split_once('=') {
            Some(("addr", list)) => {
                for socket in list.split(',') {
                    sockets.push(parse_socket(socket).ok_or_else(|| AddressError::Socket(socket.to_owned()))?);
                }
            }
            Some(("relay", url)) if relay.is_none() && relay_host(url).is_some() => {
                relay = Some(url.trim_end_matches('/').to_owned());
            }
            Some(("relay", url)) => return Err(AddressError::Relay(url.to_owned())),
            _ => return Err(fault()),
        }
    }
    if sockets.len() > SOCKETS_MAX {
        return Err(AddressError::Sockets);
    }
    let address = match (head.parse::<DeviceId>(), head.parse::<SocketAddr>()) {
        (Ok(endpoint), _) if !sockets.is_empty() || relay.is_some() => {
            Address::Quic { endpoint: endpoint.0, sockets, relay }
        }
        (_, Ok(socket)) if sockets.is_empty() && !head.contains('%') => Address::QuicSocket { socket, relay },
        _ => return Err(fault()),
    };
    // Some IP addresses have a shorter form than the one they are shown in.
    match address.to_string().len() {
        length if length > ADDRESS_BYTES_MAX => Err(AddressError::TooLong(length)),
        _ => Ok(address),
    }
}

/// One that others can dial: a scope means something on its own machine only.
fn parse_socket(text: &str) -> Option<SocketAddr> {
    let socket: SocketAddr = text.parse().ok()?;
    let leads = socket.port() != 0 && !socket.ip().is_unspecified() && !socket.ip().is_multicast();
    (leads && !text.contains('%')).then_some(socket)
}

fn relay_host(url: &str) -> Option<String> {
    let authority = url.strip_prefix("https://")?;
    split_port(authority.strip_suffix('/').unwrap_or(authority), 443).ok().map(|(host, _)| host)
}

fn split_port(authority: &str, default: u16) -> Result<(String, u16), AddressError> {
    let fault = || AddressError::Host(authority.to_owned());
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(fault)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| fault())?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(fault)?) })
        }
        None => {
            let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
            if host.is_empty() || !host.bytes().all(fits) {
                return Err(fault());
            }
            (host, port)
        }
    };
    let port = match port {
        None => default,
        // `u16::from_str` accepts a sign; an address does not.
        Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse().map_err(|_| AddressError::Port(text.to_owned()))?
        }
        Some(text) => return Err(AddressError::Port(text.to_owned())),
    };
    Ok((host.to_owned(), port))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::WebSocket { tls, host, port, path } => {
                let scheme = if *tls { "wss" } else { "ws" };
                match host.contains(':') {
                    true => write!(f, "{scheme}://[{host}]:{port}{path}"),
                    false => write!(f, "{scheme}://{host}:{port}{path}"),
                }
            }
            Address::Quic { endpoint, sockets, relay } => {
                write!(f, "quic://{}", DeviceId(*endpoint))?;
                for (at, socket) in sockets.iter().enumerate() {
                    write!(f, "{}{socket}", if at == 0 { "?addr=" } else { "," })?;
                }
                let sign = if sockets.is_empty() { '?' } else { '&' };
                relay.iter().try_for_each(|relay| write!(f, "{sign}relay={relay}"))
            }
            Address::QuicSocket { socket, relay } => {
                write!(f, "quic://{socket}")?;
                relay.iter().try_for_each(|relay| write!(f, "?relay={relay}"))
            }
            Address::Memory(name) => write!(f, "mem:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_print_back_to_the_text_that_names_them() {
        for (text, shown) in [
            ("ws://example.org", "ws://example.org:80/"),
            ("ws://example.org:8080/sync", "ws://example.org:8080/sync"),
            ("ws://127.0.0.1:0/?a=b", "ws://127.0.0.1:0/?a=b"),
            ("ws://h?a", "ws://h:80/?a"),
            ("ws://[::1]:9000/x", "ws://[::1]:9000/x"),
            ("ws://[::1]", "ws://[::1]:80/"),
            ("wss://example.org", "wss://example.org:443/"),
            ("wss://[::1]:9000/x?y", "wss://[::1]:9000/x?y"),
            ("mem:alice", "mem:alice"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse::<Address>().unwrap(), address);
        }
    }

    #[test]
    fn text_that_is_no_address_is_refused() {
        for bad in [
            "",
            "ws://",
            "ws:///x",
            "wss://",
            "wss://a:b",
            "wsss://a",
            "http://a",
            "ws://a:b",
            "ws://a:+1",
            "ws://a:",
            "ws://a:65536",
            "ws://user@a",
            "ws://a b",
            "ws://a/ b",
            "ws://a/#b",
            "ws://[::1",
            "ws://[zz]:1",
            "ws://[::1]1",
            "ws://::1",
            "ws://a\r\nX: y",
            "ws://a/\r\n",
            "mem:",
            "mem:a b",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
        assert!(matches!(format!("mem:{}", "a".repeat(600)).parse::<Address>(), Err(AddressError::TooLong(604))));
    }

    #[test]
    fn quic_addresses_print_back_to_the_text_that_names_them() {
        let id = "0a".repeat(32);
        for (text, shown) in [
            ("ID?addr=192.0.2.1:7", "ID?addr=192.0.2.1:7"),
            ("ID?addr=192.0.2.1:7&addr=[2001:DB8::1]:8", "ID?addr=192.0.2.1:7,[2001:db8::1]:8"),
            ("ID?relay=https://a.example/&addr=192.0.2.1:7", "ID?addr=192.0.2.1:7&relay=https://a.example"),
            ("ID?relay=https://[2001:db8::1]:4433", "ID?relay=https://[2001:db8::1]:4433"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            ("[::1]:9?relay=https://a.example:1", "[::1]:9?relay=https://a.example:1"),
        ] {
            let [text, shown] = [text, shown].map(|text| format!("quic://{}", text.replace("ID", &id)));
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse::<Address>().unwrap(), address);
        }
        let dialled: Address = format!("quic://{id}?addr=192.0.2.1:7,192.0.2.2:7").parse().unwrap();
        assert_eq!(dialled.ip(), Some("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn text_that_is_no_quic_address_is_refused() {
        let id = "0a".repeat(32);
        for bad in [
            "",
            "ID",
            "ID?",
            "ID?addr=",
            "ID?addr=a:1",
            "ID?addr=192.0.2.1",
            "ID?addr=192.0.2.1:0",
            "ID?addr=0.0.0.0:1",
            "ID?addr=224.0.0.1:1",
            "ID?addr=[fe80::1%2]:1",
            "ID?addr=192.0.2.1:1,",
            "ID?addr=192.0.2.1:1&x=y",
            "ID?addr=192.0.2.1:1#ID",
            "ID0?addr=192.0.2.1:1",
            "ID?relay=http://a",
            "ID?relay=https://",
            "ID?relay=https://a/b",
            "ID?relay=https://u@a",
            "ID?relay=https://a&relay=https://b",
            "0.0.0.0",
            "0.0.0.0:0?addr=192.0.2.1:1",
            "example.org:1",
        ] {
            let text = format!("quic://{}", bad.replace("ID", &id));
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
        let many = |count| format!("quic://{id}?addr={}", vec!["192.0.2.1:1"; count].join(","));
        assert!(many(SOCKETS_MAX).parse::<Address>().is_ok());
        assert_eq!(many(SOCKETS_MAX + 1).parse::<Address>(), Err(AddressError::Sockets));
    }

    #[test]
    fn what_leads_to_this_machine_is_recognised() {
        let local = |text: &str| text.parse::<Address>().unwrap().is_of_this_machine();
        for text in [
            "ws://127.9.0.1:1/",
            "ws://[::1]:1/",
            "ws://0.0.0.0:1/",
            "ws://[::ffff:127.0.0.1]:1/",
            "ws://LocalHost/",
            "wss://LocalHost/",
            "quic://0.0.0.0:1",
            "mem:a",
        ] {
            assert!(local(text), "{text}");
        }
        let quic = |ways: &str| local(&format!("quic://{}?{ways}", "0a".repeat(32)));
        assert!(quic("addr=192.0.2.1:1,127.0.0.1:1") && quic("addr=192.0.2.1:1&relay=https://localhost:1"));
        assert!(!quic("addr=192.0.2.1:1&relay=https://example.org"));
        for text in ["ws://192.0.2.1/", "ws://example.org/", "ws://[2001:db8::1]/"] {
            assert!(!local(text), "{text}");
        }
    }
}
