//! The evaluation: by which paths a device has rights, and what cuts each.
//!
//! It ends and is well defined because it only goes upwards. The paths of the root need nothing but what the root's own
//! identity says; those of admins need the power of the root; those of everybody else the power of the root and of admins.
//! Inside an identity, root keys are looked at newest first, each under what the newer ones left of it, and its devices after
//! them. What an identity says of itself is judged under what was left to it by those above (`upper`), separately for each
//! grant: so whether it counts never depends on another layer, and a peer that did not hold what lies beyond comes to the
//! same answers. Last come those who leave: what they take back of their own is judged by what others left them.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Authority, Identity, Needed, ROOT_KEYS_MAX, Said, Spot, What};
use crate::id::{ChainId, DeviceId, DocId, EntryId};
use crate::record::{Right, Subject};

/// Which cuts are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum View {
    /// Those that others made: what lies beyond them counts nowhere, and need not be held.
    Held,
    /// All.
    Counting,
}

/// Something that ends chains.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Cut {
    /// A revocation.
    Revoked(Spot),
    /// A rotation of an identity's root key.
    Rotated(Subject, Spot),
}

/// A way by which a device has a right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Path {
    pub(super) right: Right,
    pub(super) gateway: bool,
    /// It acts for the root.
    pub(super) root: bool,
    /// It acts as a root key, which is good for the authority log only.
    pub(super) key: bool,
    /// The records of the path, the grant first.
    pub(super) edges: Vec<EntryId>,
    /// What cuts it: first what others said, then what the device or its identity said of itself.
    pub(super) cuts: Vec<Cut>,
    /// How many of them others said.
    by_others: usize,
}

impl Path {
    pub(super) fn gives(&self, needed: Needed) -> bool {
        self.right >= needed.right && (self.gateway || !needed.gateway)
    }
}

/// What a record gives.
pub(super) struct Gift {
    right: Right,
    gateway: bool,
    /// The invite that it stands on.
    invite: Option<EntryId>,
}

/// How a device acts for an identity.
struct Acting {
    edge: Option<EntryId>,
    by_others: Vec<Cut>,
    own: Vec<Cut>,
}

/// Whose power it takes to give a right and to take it back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Power {
    Root,
    Admin,
}

impl Power {
    fn over(right: Right) -> Power {
        if right == Right::Admin { Power::Root } else { Power::Admin }
    }
}

/// An evaluation; it remembers who has power.
pub(super) struct Paths<'a> {
    of: &'a Authority,
    /// As if nothing were ever cut.
    ever: bool,
    powers: BTreeMap<(DeviceId, Power), Rc<[Path]>>,
}

impl<'a> Paths<'a> {
    pub(super) fn new(of: &'a Authority, ever: bool) -> Paths<'a> {
        Paths { of, ever, powers: BTreeMap::new() }
    }

    /// All paths of a device.
    pub(super) fn of(&mut self, device: &DeviceId) -> Vec<Path> {
        let mut paths = self.power(device, Power::Admin).to_vec();
        paths.extend(self.granted(device, Power::Admin));
        paths
    }

    /// Number of the last entry of a chain that a path lets count.
    pub(super) fn end(&self, path: &Path, view: View, log: &DocId, chain: &ChainId) -> u64 {
        let cuts = match view {
            View::Held => &path.cuts[..path.by_others],
            View::Counting => &path.cuts[..],
        };
        cuts.iter().map(|cut| self.cut_end(cut, log, chain)).min().unwrap_or(u64::MAX)
    }

    fn cut_end(&self, cut: &Cut, log: &DocId, chain: &ChainId) -> u64 {
        match cut {
            Cut::Revoked(spot) => self.of.revocations.get(spot).map_or(0, |r| r.stays.end(log, chain)),
            Cut::Rotated(identity, spot) => {
                let ends = self.of.identities.get(identity).and_then(|known| known.ends.get(spot));
                let end = ends.and_then(|ends| ends.iter().find(|(c, _)| c == chain));
                end.map_or(0, |(_, n)| *n)
            }
        }
    }

    /// Whether a record stays in spite of cuts, and its chain is not closed before it.
    fn stays(&self, spot: &Spot, cuts: &[Cut]) -> bool {
        let (chain, n) = spot;
        self.ever
            || (*n < self.of.closed_at(chain) && cuts.iter().all(|cut| *n <= self.cut_end(cut, &self.of.log, chain)))
    }

    /// Whether a device gives or takes such a right anywhere, cut or not.
    pub(super) fn has_say(&mut self, device: &DeviceId, right: Right) -> bool {
        !self.power(device, Power::over(right)).is_empty()
    }

    fn has_power(&mut self, device: &DeviceId, spot: &Spot, power: Power) -> bool {
        let paths = self.power(device, power);
        paths.iter().any(|path| self.stays(spot, &path.cuts))
    }

    /// The paths of a device that give power: as the root, and if need be as an admin.
    fn power(&mut self, device: &DeviceId, power: Power) -> Rc<[Path]> {
        if let Some(known) = self.powers.get(&(*device, power)) {
            return known.clone();
        }
        let paths: Rc<[Path]> = match power {
            Power::Root => self.root_paths(device),
            Power::Admin => {
                let root = self.power(device, Power::Root);
                root.iter().cloned().chain(self.granted(device, Power::Root)).collect()
            }
        };
        self.powers.insert((*device, power), paths.clone());
        paths
    }

    fn root_paths(&mut self, device: &DeviceId) -> Rc<[Path]> {
        let Some(root) = self.of.root else { return Rc::new([]) };
        let itself = Acting { edge: None, by_others: Vec::new(), own: Vec::new() };
        let (acting, is_identity) = match root == (*device).into() {
            true => (vec![itself], false),
            false => (self.acting(&root, device, &[]), true),
        };
        let path = |acting: Acting| Path {
            right: Right::Admin,
            gateway: true,
            root: true,
            key: is_identity && acting.edge.is_none(),
            edges: acting.edge.into_iter().collect(),
            by_others: acting.by_others.len(),
            cuts: [acting.by_others, acting.own].concat(),
        };
        acting.into_iter().map(path).collect()
    }

    /// The paths by grants that it takes this power to give.
    fn granted(&mut self, device: &DeviceId, power: Power) -> Vec<Path> {
        let of = self.of;
        let itself = Subject::from(*device);
        let identities = of.identities_of.get(device).into_iter().flatten().copied();
        let mut paths = Vec::new();
        for subject in [itself].into_iter().chain(identities) {
            for id in of.grants_to.get(&subject).into_iter().flatten() {
                // Which layer it belongs to comes first: the question who gave it leads one layer up, never to this one.
                if self.gift(id).is_none_or(|(gift, _)| Power::over(gift.right) != power) {
                    continue;
                }
                let Some(Gift { right, gateway, invite }) = self.given(id) else { continue };
                let named = [Some(*id), invite];
                let upper = self.taken_back(named.into_iter().flatten(), power);
                // A redemption is its device's own word: it is to be among what stays.
                if invite.is_some() && !of.edges[id].spots.iter().any(|spot| self.stays(spot, &upper)) {
                    continue;
                }
                let (left, acting) = match subject == itself {
                    true => {
                        let left = self.left(named, device, &upper, &[]);
                        (left, vec![Acting { edge: None, by_others: Vec::new(), own: Vec::new() }])
                    }
                    false => {
                        let keys = self.keys(&subject, &upper);
                        let left = keys.iter().flat_map(|(key, cuts)| self.left(named, key, &upper, cuts)).collect();
                        (left, self.acting(&subject, device, &upper))
                    }
                };
                for acting in acting {
                    let by_others = [&upper[..], &acting.by_others].concat();
                    paths.push(Path {
                        right,
                        gateway,
                        root: false,
                        key: subject != itself && acting.edge.is_none(),
                        edges: [*id].into_iter().chain(acting.edge).collect(),
                        by_others: by_others.len(),
                        cuts: [&by_others[..], &left, &acting.own].concat(),
                    });
                }
            }
        }
        paths
    }

    /// What a grant, invite or redemption gives, if whoever gave it had the power to.
    pub(super) fn given(&mut self, id: &EntryId) -> Option<Gift> {
        let (gift, giver) = self.gift(id)?;
        let power = Power::over(gift.right);
        giver.spots.iter().any(|spot| self.has_power(&giver.by, spot, power)).then_some(gift)
    }

    /// The same whoever gave it, and who.
    fn gift(&self, id: &EntryId) -> Option<(Gift, &'a Said)> {
        let said = self.of.edges.get(id)?;
        match &said.what {
            What::Grant { right, gateway, .. } => Some((Gift { right: *right, gateway: *gateway, invite: None }, said)),
            What::Invite { right, .. } => Some((Gift { right: *right, gateway: false, invite: None }, said)),
            What::Redeem { invite, key } => {
                let giver = self.of.edges.get(invite)?;
                let What::Invite { key: hash, right, .. } = &giver.what else { return None };
                let fits = blake3::hash(key).as_bytes() == hash;
                fits.then_some((Gift { right: *right, gateway: false, invite: Some(*invite) }, giver))
            }
            What::Member { .. } => None,
        }
    }

    /// The revocations of these records by those who have the power.
    fn taken_back(&mut self, records: impl Iterator<Item = EntryId>, power: Power) -> Vec<Cut> {
        let mut cuts = Vec::new();
        if self.ever {
            return cuts;
        }
        let of = self.of;
        for (device, spots) in records.filter_map(|id| of.revoked.get(&id)).flatten() {
            if !self.power(device, power).is_empty() {
                cuts.extend(spots.iter().filter(|spot| self.has_power(device, spot, power)).map(|s| Cut::Revoked(*s)));
            }
        }
        sorted(cuts)
    }

    /// Whether somebody took back what a grant, redemption or invite gives.
    pub(super) fn is_revoked(&mut self, id: &EntryId) -> bool {
        let Some(Gift { right, invite, .. }) = self.given(id) else { return false };
        let named = [Some(*id), invite];
        let upper = self.taken_back(named.into_iter().flatten(), Power::over(right));
        let left = match &self.of.edges[id].what {
            What::Grant { subject, .. } => {
                let itself = self.left(named, &subject.device(), &upper, &[]);
                let keys = self.keys(subject, &upper);
                let by_keys = keys.iter().flat_map(|(key, cuts)| self.left(named, key, &upper, cuts));
                by_keys.chain(itself).next().is_some()
            }
            What::Redeem { .. } => !self.left(named, &self.of.edges[id].by, &upper, &[]).is_empty(),
            _ => false,
        };
        left || !upper.is_empty()
    }

    /// Whether a member counts, and whether it was taken back, if nothing takes back what its identity was given.
    pub(super) fn membership(&self, identity: &Subject, id: &EntryId, device: &DeviceId) -> (bool, bool) {
        let member = self.member(id, device, &[], &self.keys(identity, &[]));
        (member.is_some(), member.is_some_and(|acting| !acting.by_others.is_empty() || !acting.own.is_empty()))
    }

    /// What a device, or a root key under its cuts, took back of a grant to itself.
    fn left(&self, records: [Option<EntryId>; 2], by: &DeviceId, upper: &[Cut], cuts: &[Cut]) -> Vec<Cut> {
        if self.ever {
            return Vec::new();
        }
        let revoked = records.iter().flatten().filter_map(|id| self.of.revoked.get(id)?.get(by)).flatten();
        let stay = revoked.filter(|spot| self.stays(spot, upper) && self.stays(spot, cuts));
        sorted(stay.map(|spot| Cut::Revoked(*spot)).filter(|cut| !upper.contains(cut)).collect())
    }

    /// The root keys of an identity, oldest first, each with the rotations by newer ones that cut it. None if the identity is
    /// not founded. `upper` is what was left to the identity by those who gave it its right.
    ///
    /// That a key was followed by another stays true whatever the newest ones say of older chains: it was fixed when the
    /// identity was founded. What a rotation says of older keys' chains they can take back.
    pub(super) fn keys(&self, identity: &Subject, upper: &[Cut]) -> Vec<(DeviceId, Vec<Cut>)> {
        let Some(known) = self.of.identities.get(identity) else { return Vec::new() };
        let Some((root, mut next)) = known.founding else { return Vec::new() };
        let mut line: Vec<(DeviceId, Vec<Spot>)> = vec![(DeviceId(root), Vec::new())];
        while line.len() < ROOT_KEYS_MAX
            && let Some((key, after, spots)) = known.rotations.get(&next)
        {
            let spots: Vec<Spot> = spots.iter().filter(|spot| self.stays(spot, upper)).copied().collect();
            if !spots.iter().any(|(_, n)| *n == 1) {
                break;
            }
            line.push((*key, spots));
            next = *after;
        }
        let posted = |(key, _): &(DeviceId, Vec<Spot>)| {
            known.posts.get(key).into_iter().flatten().any(|spot| self.stays(spot, upper))
        };
        if !line.iter().any(posted) {
            return Vec::new();
        }
        let mut newer: Vec<Cut> = Vec::new();
        let mut keys = Vec::with_capacity(line.len());
        for (key, spots) in line.into_iter().rev() {
            let stay = spots.into_iter().filter(|spot| self.stays(spot, &newer));
            let own: Vec<Cut> = stay.filter(|_| !self.ever).map(|spot| Cut::Rotated(*identity, spot)).collect();
            keys.push((key, newer.clone()));
            newer.extend(own);
        }
        keys.reverse();
        keys
    }

    /// The ways in which a device acts for an identity: as a root key, or as a device.
    fn acting(&self, identity: &Subject, device: &DeviceId, upper: &[Cut]) -> Vec<Acting> {
        let Some(known) = self.of.identities.get(identity) else { return Vec::new() };
        let keys = self.keys(identity, upper);
        let as_key = keys.iter().filter(|(key, _)| key == device);
        // What newer keys cut is held all the same: the old key's rotations may link the chain of keys under another grant.
        let as_key = as_key.map(|(_, cuts)| Acting { edge: None, by_others: Vec::new(), own: cuts.clone() });
        let members = known.members.get(device).into_iter().flatten();
        as_key.chain(members.filter_map(|id| self.member(id, device, upper, &keys))).collect()
    }

    fn member(&self, id: &EntryId, device: &DeviceId, upper: &[Cut], keys: &[(DeviceId, Vec<Cut>)]) -> Option<Acting> {
        let said = self.of.edges.get(id)?;
        let counts = |(key, cuts): &(DeviceId, Vec<Cut>), by: &DeviceId, spot: &Spot| {
            key == by && self.stays(spot, upper) && self.stays(spot, cuts)
        };
        if !keys.iter().any(|key| said.spots.iter().any(|spot| counts(key, &said.by, spot))) {
            return None;
        }
        let mut acting = Acting { edge: Some(*id), by_others: Vec::new(), own: Vec::new() };
        let Some(revoked) = self.of.revoked.get(id).filter(|_| !self.ever) else { return Some(acting) };
        for key in keys {
            let spots = revoked.get(&key.0).into_iter().flatten().filter(|spot| counts(key, &key.0, spot));
            acting.by_others.extend(spots.map(|spot| Cut::Revoked(*spot)));
        }
        acting.by_others = sorted(acting.by_others);
        let own = revoked.get(device).into_iter().flatten();
        let own = own.filter(|spot| self.stays(spot, upper) && self.stays(spot, &acting.by_others));
        let own = own.map(|spot| Cut::Revoked(*spot)).filter(|cut| !acting.by_others.contains(cut));
        acting.own = own.collect();
        Some(acting)
    }
}

impl Identity {
    /// The keys that follow from a founding by what is known of the identity, and the commitments that they fulfil or that the
    /// last of them waits to see fulfilled.
    pub(super) fn line(known: Option<&Identity>, founding: ([u8; 32], [u8; 32])) -> (Vec<DeviceId>, Vec<[u8; 32]>) {
        let (root, mut next) = founding;
        let (mut keys, mut commitments) = (vec![DeviceId(root)], vec![next]);
        while keys.len() < ROOT_KEYS_MAX
            && let Some((key, after, spots)) = known.and_then(|known| known.rotations.get(&next))
            && spots.iter().any(|(_, n)| *n == 1)
        {
            keys.push(*key);
            next = *after;
            commitments.push(next);
        }
        (keys, commitments)
    }

    /// Its root keys if nothing were ever cut.
    pub(super) fn keys_ever(&self) -> Vec<DeviceId> {
        let Some(founding) = self.founding else { return Vec::new() };
        let (mut keys, _) = Identity::line(Some(self), founding);
        if !keys.iter().any(|key| self.posts.contains_key(key)) {
            keys.clear();
        }
        keys
    }
}

fn sorted(mut cuts: Vec<Cut>) -> Vec<Cut> {
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}
