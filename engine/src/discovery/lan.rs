//! Finding peers on the local network: mDNS and DNS-SD (RFC 6762, RFC 6763), asked for by the configuration and off otherwise.
//!
//! Everybody on the network reads what is said there. So the names of instance and host are drawn anew in each run, no device, space
//! or document is named, and of the day's topics only the first bytes are told: who knows the id of a space recognises it, who
//! does not cannot tell today's from tomorrow's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use commonhold_sync::id::Topic;
use mdns_sd::{IfKind, Receiver, ResolvedService, ServiceDaemon, ServiceEvent, ServiceInfo, TxtProperty};

use crate::config::Lan as LanConfig;
use crate::start::random;
use crate::transport::Address;

/// Connections are TCP.
const SERVICE: &str = "_commonhold._tcp.local.";
/// Bytes of a topic that are told: enough that two of a thousand spaces on a network do not meet by chance.
const HINT_BYTES: usize = 8;
/// Topics told: three strings of a TXT record, so that the packet stays within one Ethernet frame.
const STRINGS: usize = 3;
const HINTS_PER_STRING: usize = 31;
pub(super) const TOPICS_MAX: usize = STRINGS * HINTS_PER_STRING;
/// Addresses that are tried of one peer that was found.
const ADDRESSES_MAX: usize = 4;

/// The first bytes of a topic.
pub(super) type Hint = [u8; HINT_BYTES];

pub(super) fn hint(topic: &Topic) -> Hint {
    let mut hint = [0; HINT_BYTES];
    hint.copy_from_slice(&topic.0[..HINT_BYTES]);
    hint
}

/// A peer that was found.
#[derive(Debug)]
pub(super) struct Found {
    /// Of what it announced.
    pub(super) hints: BTreeSet<Hint>,
    pub(super) addresses: Vec<Address>,
    /// Of two that find each other, one dials first.
    pub(super) dials_first: bool,
}

/// This peer on the local network, until it is dropped.
pub(super) struct Lan {
    daemon: ServiceDaemon,
    events: Receiver<ServiceEvent>,
    instance: String,
    host: String,
    /// Where others dial: the interface (unspecified: all of them), the port and the path.
    listens: (IpAddr, u16, String),
    told: Vec<Hint>,
}

/// The first address listened at that others can reach.
pub(super) fn reachable(listening: &[Address]) -> Option<(IpAddr, u16, String)> {
    listening.iter().find_map(|address| match address {
        // What is announced there are numbers, and certificates are for names.
        Address::WebSocket { tls: true, .. } => None,
        Address::WebSocket { host, port, path, .. } => {
            let ip: IpAddr = host.parse().ok()?;
            (!ip.is_loopback()).then(|| (ip, *port, path.clone()))
        }
        // What is announced there has no place for an endpoint's id.
        Address::Quic { .. } | Address::QuicSocket { .. } | Address::Memory(_) => None,
    })
}

impl Lan {
    /// Starts to look. Nothing is told before [`Lan::tell`].
    pub(super) fn start(config: &LanConfig, listens: (IpAddr, u16, String)) -> Result<Lan, String> {
        let text = |error: mdns_sd::Error| error.to_string();
        let daemon = ServiceDaemon::new().map_err(text)?;
        match config.interfaces.is_empty() {
            true => daemon.disable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6]).map_err(text)?,
            false => {
                daemon.disable_interface(IfKind::All).map_err(text)?;
                let named = config.interfaces.iter().map(|name| IfKind::Name(name.clone())).collect::<Vec<_>>();
                daemon.enable_interface(named).map_err(text)?;
            }
        }
        let name: [u8; 8] = random().map_err(|error| error.to_string())?;
        let instance: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        let host = format!("{instance}.local.");
        let events = daemon.browse(SERVICE).map_err(text)?;
        Ok(Lan { daemon, events, instance, host, listens, told: Vec::new() })
    }

    /// Says which topics this peer has, in place of those said before.
    pub(super) fn tell(&mut self, topics: &[Topic]) {
        let mut hints: Vec<Hint> = topics.iter().take(TOPICS_MAX).map(hint).collect();
        // In no order that tells of anything.
        hints.sort_unstable();
        if hints == self.told {
            return;
        }
        let mut properties: Vec<TxtProperty> = hints
            .chunks(HINTS_PER_STRING)
            .enumerate()
            .map(|(at, hints)| TxtProperty::from((format!("t{at}"), hints.concat())))
            .collect();
        let (ip, port, path) = &self.listens;
        if path != "/" {
            properties.push(TxtProperty::from(("path", path)));
        }
        let address = if ip.is_unspecified() { String::new() } else { ip.to_string() };
        let info = ServiceInfo::new(SERVICE, &self.instance, &self.host, &*address, *port, properties);
        let info = info.map(|info| if ip.is_unspecified() { info.enable_addr_auto() } else { info });
        match info.and_then(|info| self.daemon.register(info)) {
            Ok(()) => self.told = hints,
            Err(error) => tracing::warn!(%error, "cannot be found on the local network"),
        }
    }

    /// The next peer that was found, again and again while it is there. Cancel-safe.
    pub(super) async fn next(&self) -> Found {
        loop {
            match self.events.recv_async().await {
                Ok(ServiceEvent::ServiceResolved(service)) => {
                    if let Some(found) = self.found(&service) {
                        return found;
                    }
                }
                Ok(_) => {}
                // The daemon ended; nothing more is found in this run.
                Err(_) => std::future::pending().await,
            }
        }
    }

    fn found(&self, service: &ResolvedService) -> Option<Found> {
        let instance = service.fullname.strip_suffix(SERVICE)?.trim_end_matches('.');
        if instance == self.instance {
            return None;
        }
        let strings = (0..STRINGS).filter_map(|at| service.get_property_val(&format!("t{at}")).flatten());
        let hints = strings.flat_map(|told| told.as_chunks().0.iter().copied()).collect();
        let path = service.get_property_val_str("path").unwrap_or("/");
        let mut ips: Vec<IpAddr> = service.addresses.iter().map(|address| address.to_ip_addr()).collect();
        // An address that needs to be told on which interface it is cannot be dialled; IPv4 first, which is there more often.
        ips.retain(|ip| !ip.is_loopback() && !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()));
        ips.sort_unstable();
        let address = |ip: &IpAddr| {
            let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
            // Parsed like whatever comes from strangers.
            format!("ws://{host}:{}{path}", service.port).parse().ok()
        };
        let addresses: Vec<Address> = ips.iter().filter_map(address).take(ADDRESSES_MAX).collect();
        (!addresses.is_empty()).then(|| Found { hints, addresses, dials_first: *self.instance < *instance })
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        // Says goodbye on its own thread; nobody waits for it.
        let _ = self.daemon.shutdown();
    }
}
