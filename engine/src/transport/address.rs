//! Where a peer can be dialled. Addresses come from strangers too (peer exchange, trackers), so parsing is strict and
//! bounded, and whatever parses prints back to text that parses to the same address.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Longest text of an address, in bytes. A host name has at most 253; the rest leaves room for a path.
pub const ADDRESS_BYTES_MAX: usize = 512;

/// Where a peer can be dialled or listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// `ws://host:port/path`. A missing port is 80, a missing path is `/`.
    WebSocket {
        /// A name, an IPv4 address, or an IPv6 address without brackets.
        host: String,
        /// TCP port; 0 asks the system for one when listening.
        port: u16,
        /// Begins with `/`.
        path: String,
    },
    /// `mem:name`: another peer of this process.
    Memory(String),
}

/// Text that is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// `wss://` is reserved for when it is.
    #[error("TLS is not built in yet: put a proxy in front")]
    Tls,
    /// More than [`ADDRESS_BYTES_MAX`] bytes.
    #[error("an address has at most {ADDRESS_BYTES_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// Neither `ws://` nor `mem:`.
    #[error("expected an address that begins with ws:// or mem:, found {0:?}")]
    Scheme(String),
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
    /// Whether it leads to this very machine, whoever dials it.
    pub fn is_of_this_machine(&self) -> bool {
        match (self, self.ip()) {
            (_, Some(ip)) => ip.to_canonical().is_loopback() || ip.is_unspecified(),
            (Address::WebSocket { host, .. }, None) => {
                host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost")
            }
            (Address::Memory(_), None) => true,
        }
    }

    /// The address of the network in it, unless it has a name instead.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Address::WebSocket { host, .. } => host.parse().ok(),
            Address::Memory(_) => None,
        }
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
        if text.starts_with("wss://") {
            return Err(AddressError::Tls);
        }
        let rest = text.strip_prefix("ws://").ok_or_else(|| AddressError::Scheme(text.to_owned()))?;
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
        if !path.bytes().all(|b| b.is_ascii_graphic() && !b"#\"<>\\^`{|}".contains(&b)) {
            return Err(AddressError::Path(path));
        }
        let (host, port) = split_port(authority)?;
        Ok(Address::WebSocket { host, port, path })
    }
}

fn split_port(authority: &str) -> Result<(String, u16), AddressError> {
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
        None => 80,
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
            Address::WebSocket { host, port, path } if host.contains(':') => write!(f, "ws://[{host}]:{port}{path}"),
            Address::WebSocket { host, port, path } => write!(f, "ws://{host}:{port}{path}"),
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
    fn what_leads_to_this_machine_is_recognised() {
        let local = |text: &str| text.parse::<Address>().unwrap().is_of_this_machine();
        for text in [
            "ws://127.9.0.1:1/",
            "ws://[::1]:1/",
            "ws://0.0.0.0:1/",
            "ws://[::ffff:127.0.0.1]:1/",
            "ws://LocalHost/",
            "mem:a",
        ] {
            assert!(local(text), "{text}");
        }
        for text in ["ws://192.0.2.1/", "ws://example.org/", "ws://[2001:db8::1]/"] {
            assert!(!local(text), "{text}");
        }
    }

    #[test]
    fn wss_is_reserved_and_says_what_to_do() {
        let error = "wss://example.org".parse::<Address>().unwrap_err();
        assert_eq!(error.to_string(), "TLS is not built in yet: put a proxy in front");
    }
}
