//! Who may do what in a space: a pure function of the set of authority records held, the same for every order of arrival.
//!
//! Records are facts; nothing is decided when they are [noted](Authority::note). Every question is answered from all of them,
//! in layers that only look upwards, so that there is always exactly one answer (`paths` holds the evaluation):
//!
//! 1. the root: a device, or an identity with its root keys, newest first, and their devices;
//! 2. admins, whom only the root makes and unmakes, with their root keys and devices;
//! 3. everybody else, whom the root and admins let in and put out.
//!
//! What a device may do it may by a *path*: a grant to it, or a grant to an identity and the record that makes it one of the
//! identity's devices. A revocation names records of a path and says up to where the chains of the devices behind it stay.
//! So entry n of a chain counts if on *some* path that gives the right *every* revocation in force lets it stay. What a
//! revoked admin gave within what stays of its authority chains remains given: the path begins anew at the grant.
//!
//! Not for the logs themselves: who holds them asks for [limits](Authority::limit), and again for what
//! [`Authority::affected`] names.

mod about;
mod change;
mod cuts;
mod list;
mod paths;
mod secrets;

use std::collections::{BTreeMap, BTreeSet};

pub use about::{COMPLETED_MAX, Erasure};
pub use cuts::revocation;
pub use list::{Edge, EdgeKind};
pub use secrets::{RootKeys, invite, redeem};

use crate::id::{ChainId, DeviceId, DocId, EntryId, SpaceId};
use crate::record::{ChainEnds, Genesis, Right, Subject, Writers};
use about::About;
use cuts::CutList;
use paths::{Paths, View};

/// Root keys of one identity that count, the first included: so often can it be rotated in all. Generous for a life.
pub const ROOT_KEYS_MAX: usize = 16;
/// Redemptions of one invite that are held and not taken back. More mean that its secret is out.
pub const REDEEMS_MAX: usize = 16;

/// A record's place in the authority log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RecordAt {
    /// Who said it.
    pub device: DeviceId,
    /// In which chain of the authority log.
    pub chain: ChainId,
    /// As which entry of it, from 1.
    pub n: u64,
    /// The record's id. The same bytes by the same device have one id, however often they are said.
    pub id: EntryId,
}

/// Up to where entries of a chain count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// No right is known that would let any count, but one may be on its way: wait.
    Unknown,
    /// Up to and including this number.
    Upto(u64),
    /// Without end.
    All,
}

impl Limit {
    /// The end that a log is told of: the number of the last entry that counts, unless all do.
    pub fn cut(self) -> Option<u64> {
        (self != Limit::All).then(|| self.end())
    }

    /// Number of the last entry that counts.
    pub fn end(self) -> u64 {
        match self {
            Limit::Unknown => 0,
            Limit::Upto(n) => n,
            Limit::All => u64::MAX,
        }
    }
}

/// What is asked of a right.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Needed {
    /// At least this.
    pub right: Right,
    /// And the right to vouch for foreign actors.
    pub gateway: bool,
}

impl From<Right> for Needed {
    fn from(right: Right) -> Needed {
        Needed { right, gateway: false }
    }
}

/// What is to become of records that are offered, before they are noted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judgement {
    /// Hold them.
    Admit,
    /// Their device has no right at all, as far as is known.
    Wait,
    /// All of them are beyond what stays of their chain. May change.
    Cut,
    /// An invite was redeemed so often that no more is held.
    Full,
}

/// A number in a chain of the authority log.
type Spot = (ChainId, u64);

#[derive(Clone, PartialEq, Eq, Debug)]
enum What {
    Grant { subject: Subject, right: Right, gateway: bool },
    Member { identity: Subject, device: DeviceId, name: String },
    Invite { key: [u8; 32], right: Right, uses: u32 },
    Redeem { invite: EntryId, key: [u8; 32] },
}

/// A record that may be a step of a path, or gives one.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Said {
    by: DeviceId,
    /// Wherever the device said it, ascending. It counts if one of them does.
    spots: Vec<Spot>,
    what: What,
}

#[derive(Clone, Debug)]
struct Revocation {
    records: Vec<EntryId>,
    stays: CutList,
}

/// What is known of an identity, in force or not.
#[derive(Clone, Debug, Default)]
struct Identity {
    /// First root key and what it commits to.
    founding: Option<([u8; 32], [u8; 32])>,
    /// Who said so.
    posts: BTreeMap<DeviceId, BTreeSet<Spot>>,
    /// By the commitment that they fulfil: the key, what it commits to, and where it said so.
    rotations: BTreeMap<[u8; 32], (DeviceId, [u8; 32], BTreeSet<Spot>)>,
    /// What each of those says of older keys.
    ends: BTreeMap<Spot, ChainEnds>,
    /// Members by who said them: anybody can say anything.
    said: BTreeMap<DeviceId, BTreeSet<EntryId>>,
    /// Its root keys, if nothing were ever cut.
    keys: Vec<DeviceId>,
    /// Members said by one of those.
    members: BTreeMap<DeviceId, BTreeSet<EntryId>>,
}

/// The authority records of a space, and what follows from them.
#[derive(Clone, Debug)]
pub struct Authority {
    log: DocId,
    space: SpaceId,
    root: Option<Subject>,
    /// Everybody may write.
    open: bool,
    edges: BTreeMap<EntryId, Said>,
    /// Grants and redemptions by who gets the right.
    grants_to: BTreeMap<Subject, BTreeSet<EntryId>>,
    /// Grants and invites by who gave them.
    given_by: BTreeMap<DeviceId, BTreeSet<EntryId>>,
    redeems: BTreeMap<EntryId, BTreeSet<EntryId>>,
    identities: BTreeMap<Subject, Identity>,
    /// The identities that a device is a key or member of, if nothing were ever cut.
    identities_of: BTreeMap<DeviceId, BTreeSet<Subject>>,
    revocations: BTreeMap<Spot, Revocation>,
    /// By what they take back and who says so: whoever has no power is passed over at once.
    revoked: BTreeMap<EntryId, BTreeMap<DeviceId, BTreeSet<Spot>>>,
    revoked_by: BTreeMap<DeviceId, BTreeSet<Spot>>,
    /// Cut records at the end of a chain, whose revocation is to follow: the number that it must have, or one more part.
    pending: BTreeMap<ChainId, (u64, Vec<CutList>)>,
    closed: BTreeMap<ChainId, u64>,
    devices: BTreeMap<ChainId, DeviceId>,
    about: About,
    generation: u64,
    /// When each device's limits last changed.
    touched: BTreeMap<DeviceId, u64>,
}

impl Authority {
    /// Of a space of which nothing is known.
    pub fn new(space: SpaceId) -> Authority {
        Authority {
            log: space.authority(),
            space,
            root: None,
            open: false,
            edges: BTreeMap::new(),
            grants_to: BTreeMap::new(),
            given_by: BTreeMap::new(),
            redeems: BTreeMap::new(),
            identities: BTreeMap::new(),
            identities_of: BTreeMap::new(),
            revocations: BTreeMap::new(),
            revoked: BTreeMap::new(),
            revoked_by: BTreeMap::new(),
            pending: BTreeMap::new(),
            closed: BTreeMap::new(),
            devices: BTreeMap::new(),
            about: About::default(),
            generation: 0,
            touched: BTreeMap::new(),
        }
    }

    /// Takes the root from the genesis. Until then nobody has a right.
    pub fn set_genesis(&mut self, genesis: &Genesis) {
        self.root = Some(genesis.root);
        self.open = genesis.writers == Writers::Anyone;
        self.generation += 1;
    }

    /// Up to where entries of a chain count. In the authority log also for a chain that is closed.
    ///
    /// A root key of an identity has rights in the authority log only: to write documents it is made a device too.
    pub fn limit(&self, log: &DocId, chain: &ChainId, device: &DeviceId, needed: impl Into<Needed>) -> Limit {
        self.limit_in(View::Counting, log, chain, device, needed.into())
    }

    /// The same as far as others decide: without what the device took back itself. Records beyond it need not be held.
    /// (A device that leaves says so in a record which must count, whatever it says about its own chain.)
    pub fn holds_upto(&self, chain: &ChainId, device: &DeviceId) -> u64 {
        self.limit_in(View::Held, &self.log, chain, device, Right::Relay.into()).end()
    }

    fn limit_in(&self, view: View, log: &DocId, chain: &ChainId, device: &DeviceId, needed: Needed) -> Limit {
        if self.root.is_none() {
            return Limit::Unknown;
        }
        let closed = match (view, *log == self.log) {
            (View::Counting, true) => self.closed.get(chain).map_or(u64::MAX, |n| n - 1),
            _ => u64::MAX,
        };
        let to_limit = |end: u64| if end == u64::MAX { Limit::All } else { Limit::Upto(end) };
        if self.open && is_common(needed) {
            return to_limit(closed);
        }
        let mut paths = Paths::new(self, false);
        let found = paths.of(device);
        let ends = found.iter().filter(|path| path.gives(needed) && (!path.key || *log == self.log));
        match ends.map(|path| paths.end(path, view, log, chain)).max() {
            Some(end) => to_limit(end.min(closed)),
            None if self.ever(device, needed) => Limit::Upto(0),
            None => Limit::Unknown,
        }
    }

    /// Whether the record at a place counts for what it needs of its device. A grant also needs the power to give it, which
    /// [`Authority::edges`] shows.
    pub fn counts(&self, at: &RecordAt, needed: impl Into<Needed>) -> bool {
        self.counts_at(&at.device, &at.chain, at.n, needed)
    }

    /// The same of whatever a device said as entry `n` of one of its chains of the authority log.
    pub fn counts_at(&self, device: &DeviceId, chain: &ChainId, n: u64, needed: impl Into<Needed>) -> bool {
        n <= self.limit(&self.log, chain, device, needed).end()
    }

    /// What a device may do from now on: by a path that nothing cuts.
    pub fn right_of(&self, device: &DeviceId) -> Option<Right> {
        let open = (self.root.is_some() && self.open).then_some(Right::Write);
        self.in_force(device).iter().map(|path| path.right).max().max(open)
    }

    /// Whether a device may vouch for foreign chains from now on.
    pub fn is_gateway(&self, device: &DeviceId) -> bool {
        self.in_force(device).iter().any(|path| path.gateway)
    }

    /// The records by which a device has its greatest right from now on, the grant first; none for the root's own.
    pub fn path_of(&self, device: &DeviceId) -> Vec<EntryId> {
        let paths = self.in_force(device);
        let best = paths.iter().max_by_key(|path| (path.right, path.gateway, &path.edges));
        best.map_or(Vec::new(), |path| path.edges.clone())
    }

    /// Whether a device may do something from now on, in a document or in the authority log.
    pub fn may(&self, device: &DeviceId, needed: impl Into<Needed>, document: bool) -> bool {
        let needed = needed.into();
        let open = self.root.is_some() && self.open && is_common(needed);
        open || self.in_force(device).iter().any(|path| path.gives(needed) && !(path.key && document))
    }

    fn in_force(&self, device: &DeviceId) -> Vec<paths::Path> {
        let mut paths = Paths::new(self, false).of(device);
        paths.retain(|path| path.cuts.is_empty());
        paths
    }

    /// Whether a device has, or had, such a right, if nothing were ever taken back: this only grows.
    pub fn ever(&self, device: &DeviceId, needed: impl Into<Needed>) -> bool {
        let needed = needed.into();
        let open = self.root.is_some() && self.open && is_common(needed);
        open || Paths::new(self, true).of(device).iter().any(|path| path.gives(needed))
    }

    /// Whether a device may give a right from now on: the root makes admins, admins the rest.
    pub fn may_give(&self, device: &DeviceId, right: Right) -> bool {
        let paths = self.in_force(device);
        paths.iter().any(|path| path.root || (path.right == Right::Admin && right < Right::Admin))
    }

    /// Whether a device may from now on take back every one of these records.
    pub fn may_revoke(&self, device: &DeviceId, records: &[EntryId]) -> bool {
        records.iter().all(|id| match self.edges.get(id).map(|said| (&said.what, said.by)) {
            Some((What::Grant { subject, right, .. }, _)) => {
                self.may_give(device, *right) || *subject == (*device).into() || self.is_key(subject, device)
            }
            Some((What::Member { identity, device: member, .. }, _)) => {
                member == device || self.is_key(identity, device)
            }
            Some((What::Invite { right, .. }, _)) => self.may_give(device, *right),
            Some((What::Redeem { .. }, by)) => by == *device || self.may_give(device, Right::Write),
            None => false,
        })
    }

    /// Whether a device is the newest root key of an identity.
    fn is_key(&self, identity: &Subject, device: &DeviceId) -> bool {
        let keys = Paths::new(self, false).keys(identity, &[]);
        keys.iter().any(|(key, cuts)| key == device && cuts.is_empty())
    }

    /// Whether a record that a tip may name is held: a grant, member, invite or redemption, in force or not.
    pub fn knows(&self, record: &EntryId) -> bool {
        self.edges.contains_key(record)
    }

    /// Counts up whenever limits may have changed of a device that had a right before.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The devices whose limits changed after a generation, but for those that had no right at all until then: nothing of
    /// theirs is held.
    pub fn affected(&self, since: u64) -> BTreeSet<DeviceId> {
        self.touched.iter().filter(|(_, at)| **at > since).map(|(device, _)| *device).collect()
    }

    /// Whether anything is known that can end a right.
    pub fn has_ends(&self) -> bool {
        let rotated = self.identities.values().any(|identity| !identity.rotations.is_empty());
        !self.revocations.is_empty() || !self.closed.is_empty() || rotated
    }

    fn closed_at(&self, chain: &ChainId) -> u64 {
        self.closed.get(chain).copied().unwrap_or(u64::MAX)
    }

    /// Bytes of the cut lists held, the largest part of what revocations cost.
    pub fn cut_bytes(&self) -> usize {
        self.revocations.values().map(|revocation| revocation.stays.bytes()).sum()
    }
}

/// Whether every device has this where anyone may write.
fn is_common(needed: Needed) -> bool {
    needed.right <= Right::Write && !needed.gateway
}

#[cfg(test)]
mod model;
#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests that measure, and run as many cases as asked"
)]
mod tests;
