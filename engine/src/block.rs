//! What the operator of a peer has blocked: kept in the store, taken at once, on every path by which others reach this peer.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use commonhold_sync::id::{DeviceId, DocId, SpaceId};
use commonhold_sync::peer::Blocked;
use commonhold_sync::record::Subject;
use ipnet::IpNet;
use minicbor::{Decode, Encode};

use crate::error::Error;
use crate::storage::Storage;
use crate::store::StoreError;
use crate::transport::Address;

/// Entries of a list. Each network among them is looked at for each connection: some 50 µs for all. A guess.
const BLOCKED_MAX: usize = 4_096;
/// Version of the rows that are written; others are left alone.
const ROW_VERSION: u32 = 1;

/// Something that may be blocked. As text: `peer:ID`, `network:ADDRESS/BITS`, `space:ID` or `doc:ID`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlockSubject {
    /// A device, or an identity with all devices that act for it: no connection is kept with them.
    Peer(Subject),
    /// Addresses: neither dialled nor answered.
    Network(IpNet),
    /// Named to nobody, and served to nobody.
    Space(SpaceId),
    /// Neither served nor taken.
    Document(DocId),
}

/// An entry of the list, as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockedInfo {
    /// What.
    pub subject: BlockSubject,
    /// Since when, in milliseconds since 1970 by this machine's clock.
    pub since_ms: u64,
}

/// What is blocked, as of one moment.
#[derive(Debug, Clone, Default)]
pub struct BlockList {
    since_ms: BTreeMap<BlockSubject, u64>,
}

/// What the store keeps of an entry, under its text.
#[derive(Debug, Clone, Encode, Decode)]
#[cbor(map)]
pub(crate) struct BlockRow {
    #[n(0)]
    version: u32,
    #[n(1)]
    since_ms: u64,
}

impl BlockList {
    /// Whether an address is blocked. An IPv4 address inside IPv6 is that IPv4 address.
    pub fn has_address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.since_ms
            .keys()
            .any(|subject| matches!(subject, BlockSubject::Network(network) if network.contains(&address)))
    }

    /// Whether a device is on the list itself; those that act for an identity the machine knows.
    pub(crate) fn has_device(&self, device: &DeviceId) -> bool {
        self.since_ms.contains_key(&BlockSubject::Peer((*device).into()))
    }

    /// Whether nobody is to be dialled there, or that device anywhere.
    pub(crate) fn blocks_dial(&self, device: Option<&DeviceId>, address: &Address) -> bool {
        device.is_some_and(|device| self.has_device(device)) || address.ip().is_some_and(|ip| self.has_address(ip))
    }

    /// Whether a space is blocked.
    pub fn has_space(&self, space: &SpaceId) -> bool {
        self.since_ms.contains_key(&BlockSubject::Space(*space))
    }

    /// # Errors
    /// [`Error::Blocked`] if this document, or its whole space, is blocked.
    pub(crate) fn may_open(&self, space: &SpaceId, doc: &DocId) -> Result<(), Error> {
        if self.has_space(space) {
            return Err(Error::Blocked("the space"));
        }
        match self.since_ms.contains_key(&BlockSubject::Document(*doc)) {
            true => Err(Error::Blocked("the document")),
            false => Ok(()),
        }
    }

    /// Every entry.
    pub(crate) fn all(&self) -> Vec<BlockedInfo> {
        self.since_ms.iter().map(|(subject, since_ms)| BlockedInfo { subject: *subject, since_ms: *since_ms }).collect()
    }

    /// Puts something on the list, or takes it off. Whether that changes anything.
    pub(crate) fn set(&mut self, subject: BlockSubject, blocks: bool, now_ms: u64) -> Result<bool, Error> {
        match (blocks, self.since_ms.contains_key(&subject)) {
            (true, false) if self.since_ms.len() >= BLOCKED_MAX => {
                Err(Error::TooMuch { what: "entries of the block list", max: BLOCKED_MAX })
            }
            (true, false) => Ok(self.since_ms.insert(subject, now_ms).is_none()),
            (false, true) => Ok(self.since_ms.remove(&subject).is_some()),
            (true, true) | (false, false) => Ok(false),
        }
    }

    /// What the store is to hold of an entry; `None`: nothing.
    pub(crate) fn row(&self, subject: &BlockSubject) -> Option<BlockRow> {
        self.since_ms.get(subject).map(|since_ms| BlockRow { version: ROW_VERSION, since_ms: *since_ms })
    }

    /// What concerns the machine: all but addresses.
    pub(crate) fn of_machine(&self) -> Blocked {
        let mut blocked = Blocked::default();
        for subject in self.since_ms.keys() {
            match subject {
                BlockSubject::Peer(peer) => _ = blocked.peers.insert(*peer),
                BlockSubject::Space(space) => _ = blocked.spaces.insert(*space),
                BlockSubject::Document(doc) => _ = blocked.docs.insert(*doc),
                BlockSubject::Network(_) => {}
            }
        }
        blocked
    }

    /// The list that the store keeps.
    pub(crate) fn load(storage: &Storage) -> Result<Arc<BlockList>, StoreError> {
        let rows = storage.blocked()?.into_iter().filter(|(_, row)| row.version == ROW_VERSION);
        let since_ms = rows.filter_map(|(text, row)| Some((text.parse().ok()?, row.since_ms)));
        Ok(Arc::new(BlockList { since_ms: since_ms.collect() }))
    }
}

impl BlockSubject {
    /// Whether it is this document, or the space of it.
    pub(crate) fn covers(&self, space: &SpaceId, doc: &DocId) -> bool {
        *self == BlockSubject::Space(*space) || *self == BlockSubject::Document(*doc)
    }
}

impl fmt::Display for BlockSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BlockSubject::Peer(id) => write!(f, "peer:{id}"),
            BlockSubject::Network(network) => write!(f, "network:{network}"),
            BlockSubject::Space(id) => write!(f, "space:{id}"),
            BlockSubject::Document(id) => write!(f, "doc:{id}"),
        }
    }
}

impl FromStr for BlockSubject {
    type Err = String;

    fn from_str(text: &str) -> Result<BlockSubject, String> {
        let (kind, what) = text.split_once(':').unwrap_or_default();
        let id = |_| format!("{what:?} is no id, which has 64 hex digits");
        match kind {
            "peer" => what.parse().map(BlockSubject::Peer).map_err(id),
            "space" => what.parse().map(BlockSubject::Space).map_err(id),
            "doc" => what.parse().map(BlockSubject::Document).map_err(id),
            "network" => {
                let network = what.parse::<IpNet>().or_else(|_| what.parse::<IpAddr>().map(IpNet::from));
                let network =
                    network.map_err(|_| format!("{what:?} is no address, and no network such as 192.0.2.0/24"))?;
                Ok(BlockSubject::Network(network.trunc()))
            }
            _ => Err("expected peer:ID, network:ADDRESS/BITS, space:ID or doc:ID".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> BlockList {
        let mut list = BlockList::default();
        texts.iter().for_each(|text| assert!(list.set(text.parse().unwrap(), true, 1).unwrap()));
        list
    }

    #[test]
    fn an_address_is_blocked_by_itself_by_its_network_and_in_either_form() {
        let list = list(&["network:192.0.2.7", "network:198.51.100.9/24", "network:2001:db8::/32"]);
        for blocked in ["192.0.2.7", "::ffff:192.0.2.7", "198.51.100.200", "2001:db8::1"] {
            assert!(list.has_address(blocked.parse().unwrap()), "{blocked}");
        }
        for free in ["192.0.2.8", "198.51.101.1", "2001:db9::1", "::ffff:192.0.2.8"] {
            assert!(!list.has_address(free.parse().unwrap()), "{free}");
        }
        // Written as it is meant.
        assert!(list.all().iter().any(|info| info.subject.to_string() == "network:198.51.100.0/24"));
    }

    #[test]
    fn text_that_names_nothing_is_refused_with_what_is_wrong() {
        for (text, why) in [
            ("", "expected"),
            ("192.0.2.1", "expected"),
            ("network:192.0.2.0/33", "no network"),
            ("peer:12", "64 hex"),
            ("doc:", "64 hex"),
        ] {
            let refused = text.parse::<BlockSubject>().unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }

    #[test]
    fn a_list_is_bounded_and_what_is_on_it_is_on_it_once() {
        let mut list = BlockList::default();
        let at = |n: u32| BlockSubject::Network(IpNet::from(IpAddr::from(n.to_be_bytes())));
        for n in 0..BLOCKED_MAX as u32 {
            assert!(list.set(at(n), true, 1).unwrap());
        }
        assert!(!list.set(at(7), true, 2).unwrap());
        assert_eq!(list.set(at(BLOCKED_MAX as u32), true, 1).unwrap_err().code(), "too_much");
        assert!(list.set(at(7), false, 2).unwrap() && !list.set(at(7), false, 2).unwrap());
        assert!(list.set(at(BLOCKED_MAX as u32), true, 1).unwrap());
    }
}
