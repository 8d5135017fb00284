//! Where a webhook may lead. Whoever makes one chooses what this machine connects to, so only addresses are taken that anybody on the internet
//! could reach anyway, and those of networks that the operator names.
//!
//! A name is checked by what it resolves to, each time that a connection is made, and the connection goes to the very address that was
//! checked: what a name resolves to afterwards changes nothing (DNS rebinding).

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::Uri;
use commonhold_engine::BlockList;
use hyper_util::rt::TokioIo;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tower::Service;
use url::{Host, Url};

/// Bytes of a URL. What browsers and proxies bear is about that.
pub(super) const URL_BYTES_MAX: usize = 2_048;
/// How long one address may take to be connected to, and how many of a name's are tried.
const CONNECT_PATIENCE: Duration = Duration::from_secs(4);
const ADDRESSES_MAX: usize = 4;

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

const fn v6(a: u16, b: u16, bits: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), bits)
}

/// What of IPv4 is no public address of one machine: IANA's registry of special addresses (RFC 6890 and later), multicast, and one more.
const NOT_PUBLIC_V4: [Ipv4Net; 16] = [
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    // Link-local; the metadata of most clouds is there.
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
    // Public by its number, and in Azure a service of the host for the machines on it.
    v4(168, 63, 129, 16, 32),
];

/// Of IPv6, only this is given to machines of the internet (RFC 4291, section 2.5.4).
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 3);
/// What of it is special all the same: protocol assignments with Teredo among them, documentation, and 6to4, which has an address of IPv4 inside.
const NOT_PUBLIC_V6: [Ipv6Net; 4] = [v6(0x2001, 0, 23), v6(0x2001, 0xdb8, 32), v6(0x2002, 0, 16), v6(0x3fff, 0, 20)];
/// An address of IPv4 behind a translator (RFC 6052): it is what stands in its last four bytes.
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 96);

/// Networks that the operator allows beside public addresses.
pub(crate) type Networks = Arc<[IpNet]>;

/// Whether a webhook may connect to an address.
pub(super) fn may_connect(address: IpAddr, allowed: &[IpNet]) -> bool {
    // An address of IPv4 that is written as one of IPv6 is the former.
    let address = address.to_canonical();
    if allowed.iter().any(|network| network.contains(&address)) {
        return true;
    }
    match address {
        IpAddr::V4(address) => !NOT_PUBLIC_V4.iter().any(|network| network.contains(&address)),
        IpAddr::V6(address) if NAT64.contains(&address) => {
            let [.., a, b, c, d] = address.octets();
            may_connect(Ipv4Addr::new(a, b, c, d).into(), allowed)
        }
        IpAddr::V6(address) => {
            GLOBAL_V6.contains(&address) && !NOT_PUBLIC_V6.iter().any(|network| network.contains(&address))
        }
    }
}

/// A URL to which a webhook may lead, in the form in which it is asked. The error is for whoever gave it.
pub(super) fn url(text: &str, allowed: &[IpNet]) -> Result<Uri, String> {
    if text.len() > URL_BYTES_MAX {
        return Err(format!("a URL has at most {URL_BYTES_MAX} bytes"));
    }
    let url = Url::parse(text).map_err(|error| format!("this is no URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("the URL begins with https:// or http://".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the URL has a user name or a password in it; a receiver knows this peer by its signature".into());
    }
    if url.fragment().is_some() {
        return Err("the URL has a fragment (#…), which is never sent".into());
    }
    // However it is written: `127.1`, `0x7f000001` and `[::ffff:7f00:1]` are read as what they are.
    let literal = match url.host() {
        Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
        Some(Host::Domain(_)) => None,
        None => return Err("the URL has no host".into()),
    };
    if let Some(address) = literal.filter(|address| !may_connect(*address, allowed)) {
        return Err(format!("{address} {NOT_PUBLIC}"));
    }
    if url.port() == Some(0) {
        return Err("the URL has port 0".into());
    }
    let uri: Uri = url.as_str().parse().map_err(|error| format!("this is no URL that can be asked: {error}"))?;
    match uri.to_string().len() > URL_BYTES_MAX {
        true => Err(format!("a URL has at most {URL_BYTES_MAX} bytes, once it is written in ASCII")),
        false => Ok(uri),
    }
}

/// Of an address, for people.
const NOT_PUBLIC: &str =
    "is no public address; this peer's operator names others that are allowed in webhooks.allow_networks";

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The addresses of a name.
pub(super) type Resolve = Arc<dyn Fn(String, u16) -> Boxed<io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// As this machine resolves names.
pub(super) fn system() -> Resolve {
    Arc::new(|host, port| Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) }))
}

/// Makes connections, to no address that has not been checked.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) resolve: Resolve,
    pub(super) allowed: Networks,
    /// What the operator has blocked, whatever else is allowed.
    pub(super) blocked: watch::Receiver<Arc<BlockList>>,
}

impl Connector {
    async fn connect(self, uri: Uri) -> io::Result<TokioIo<TcpStream>> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let literal = host.parse::<IpAddr>().ok();
        let found = match literal {
            Some(address) => vec![SocketAddr::new(address, port)],
            None => (self.resolve)(host, port).await?,
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let mut tried = 0;
        for address in found {
            if let Some(why) = self.refusal(address.ip()) {
                tracing::debug!(%address, why, "a webhook leads to an address that is not connected to");
                // Whoever gave a name is not told what it means in here.
                let what = literal.map_or("where the name leads".to_owned(), |address| address.to_string());
                last = io::Error::new(io::ErrorKind::PermissionDenied, format!("{what} {why}"));
                continue;
            }
            tried += 1;
            if tried > ADDRESSES_MAX {
                break;
            }
            match timeout(CONNECT_PATIENCE, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Small, and somebody waits for the answer.
                    let _ = stream.set_nodelay(true);
                    return Ok(TokioIo::new(stream));
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, "nobody took the connection in time"),
            }
        }
        Err(last)
    }

    fn refusal(&self, address: IpAddr) -> Option<&'static str> {
        if self.blocked.borrow().has_address(address) {
            return Some("is blocked by this peer's operator");
        }
        (!may_connect(address, &self.allowed)).then_some(NOT_PUBLIC)
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Boxed<io::Result<TokioIo<TcpStream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_and_allowed_networks_are_connected_to() {
        let may = |text: &str| may_connect(text.parse().unwrap(), &[]);
        for public in ["1.1.1.1", "9.9.9.9", "100.63.255.255", "172.32.0.1", "192.0.1.1", "223.255.255.255"] {
            assert!(may(public) && may(&format!("::ffff:{public}")) && may(&format!("64:ff9b::{public}")), "{public}");
        }
        for public in ["2606:4700:4700::1111", "2a00:1450::1", "2001:4860:4860::8888", "2620:fe::fe"] {
            assert!(may(public), "{public}");
        }
        for private in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
        ] {
            assert!(!may(private), "{private}");
            let inside = ["::ffff:", "::", "64:ff9b::", "64:ff9b:1::"].map(|prefix| format!("{prefix}{private}"));
            assert!(inside.iter().all(|text| !may(text)), "{private} inside an address of IPv6");
        }
        for private in [
            "::",
            "::1",
            "::1.1.1.1",
            "64:ff9b:1::1.1.1.1",
            "100::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:101:101::",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "ff0e::1",
        ] {
            assert!(!may(private), "{private}");
        }
        let allowed: [IpNet; 2] = ["127.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        for (address, may) in [
            ("127.0.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("64:ff9b::7f00:1", true),
            ("fd12::1", true),
            ("::1", false),
            ("10.0.0.1", false),
            ("1.1.1.1", true),
        ] {
            assert_eq!(may_connect(address.parse().unwrap(), &allowed), may, "{address}");
        }
    }

    #[test]
    fn urls_that_lead_nowhere_good_are_refused_with_the_reason() {
        for good in [
            "https://example.org/hook?x=1",
            "http://example.org:8080",
            "https://1.1.1.1/",
            "https://[2606:4700:4700::1111]:1/",
            "https://bücher.example/ä",
        ] {
            assert!(url(good, &[]).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", "no URL"),
            ("example.org", "no URL"),
            ("ftp://example.org/", "begins with"),
            ("file:///etc/passwd", "begins with"),
            ("https://u@example.org/", "user name"),
            ("https://:p@example.org/", "password"),
            ("https://example.org/#x", "fragment"),
            ("https://", "no URL"),
            ("http://127.0.0.1/", "127.0.0.1 is no public"),
            ("http://127.1/", "127.0.0.1 is no public"),
            ("http://0x7f000001/", "127.0.0.1 is no public"),
            ("http://2130706433/", "127.0.0.1 is no public"),
            ("http://0177.0.0.1/", "127.0.0.1 is no public"),
            ("http://[::1]/", "no public"),
            ("http://[::ffff:10.0.0.1]/", "no public"),
            ("http://169.254.169.254/latest", "no public"),
            ("http://example.org:0/", "port 0"),
            ("http://example.org:70000/", "no URL"),
        ] {
            let said = url(bad, &[]).unwrap_err();
            assert!(said.contains(why), "{bad}: {said}");
        }
        assert!(url(&format!("https://example.org/{}", "x".repeat(3_000)), &[]).is_err());
        assert!(url("http://127.0.0.1:1/", &["127.0.0.0/8".parse().unwrap()]).is_ok());
    }
}
