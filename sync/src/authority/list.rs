//! What is known, for people: who gave what to whom, and who acts for whom.

use std::collections::{BTreeMap, BTreeSet};

use super::paths::Paths;
use super::{Authority, What};
use crate::id::{ChainId, DeviceId, EntryId};
use crate::record::{ChainEnds, ROTATE_CUTS_MAX, Record, Right, Subject};

/// What a listed record gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EdgeKind {
    /// A right to a device or an identity.
    Grant,
    /// The right of an invite to the device that redeemed it.
    Redeemed {
        /// The record id of the invite.
        invite: EntryId,
    },
    /// To act for an identity.
    Member {
        /// Which.
        identity: Subject,
        /// The device's name.
        name: String,
    },
    /// A right to whoever holds the secret; `subject` is all zero.
    Invite {
        /// Devices that were expected.
        uses: u32,
        /// Devices that redeemed it and were not put out. More than `uses` are a warning that the secret is out.
        used: usize,
    },
}

/// A record that gives something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Edge {
    /// Its id, by which it is revoked.
    pub record: EntryId,
    /// Who said it; of a redemption who gave the invite.
    pub by: DeviceId,
    /// To whom.
    pub subject: Subject,
    /// What sort.
    pub kind: EdgeKind,
    /// What right; none where it is the identity's.
    pub right: Option<Right>,
    /// With the right to vouch for foreign actors.
    pub gateway: bool,
    /// Whether it was given by somebody who could.
    pub counts: bool,
    /// Whether a revocation or rotation ends what it gives, and everything by it.
    pub revoked: bool,
}

impl Edge {
    /// Whether it gives what it says now.
    pub fn in_force(&self) -> bool {
        self.counts && !self.revoked
    }
}

impl Authority {
    /// The identity that a device acts for, by a membership in force: of several, the least.
    pub fn identity_of(&self, device: &DeviceId) -> Option<[u8; 32]> {
        let mut known = self.identities_of(device).peekable();
        // Most act for nobody, and are asked about often.
        known.peek()?;
        let paths = Paths::new(self, false);
        known.filter(|identity| self.is_member(&paths, identity, device)).map(|identity| identity.0).min()
    }

    fn is_member(&self, paths: &Paths, identity: &Subject, device: &DeviceId) -> bool {
        let records = self.identities.get(identity).and_then(|of| of.members.get(device));
        let in_force = |id: &EntryId| paths.membership(identity, id, device) == (true, false);
        records.is_some_and(|records| records.iter().any(in_force))
    }

    /// Whether a device acts for one of these identities, by a membership in force.
    pub fn acts_for(&self, device: &DeviceId, identities: &BTreeSet<Subject>) -> bool {
        let mut known = self.identities_of(device).filter(|identity| identities.contains(identity)).peekable();
        if known.peek().is_none() {
            return false;
        }
        let paths = Paths::new(self, false);
        known.any(|identity| self.is_member(&paths, identity, device))
    }

    /// All grants, redemptions, members and invites, by record id.
    pub fn edges(&self) -> Vec<Edge> {
        let mut paths = Paths::new(self, false);
        self.edges.keys().filter_map(|id| self.edge(&mut paths, id)).collect()
    }

    fn edge(&self, paths: &mut Paths<'_>, id: &EntryId) -> Option<Edge> {
        let said = self.edges.get(id)?;
        let given = paths.given(id);
        let edge = Edge {
            record: *id,
            by: said.by,
            subject: Subject([0; 32]),
            kind: EdgeKind::Grant,
            right: None,
            gateway: false,
            counts: given.is_some(),
            revoked: false,
        };
        Some(match &said.what {
            What::Grant { subject, right, gateway } => {
                let revoked = paths.is_revoked(id);
                Edge { subject: *subject, right: Some(*right), gateway: *gateway, revoked, ..edge }
            }
            What::Redeem { invite, .. } => {
                let (right, by) = match self.edges.get(invite).map(|invite| (&invite.what, invite.by)) {
                    Some((What::Invite { right, .. }, by)) => (Some(*right), by),
                    _ => (None, said.by),
                };
                let (subject, kind) = (said.by.into(), EdgeKind::Redeemed { invite: *invite });
                Edge { subject, kind, right, by, revoked: paths.is_revoked(id), ..edge }
            }
            What::Invite { right, uses, .. } => {
                let kind = EdgeKind::Invite { uses: *uses, used: self.redeems_of(id) };
                Edge { kind, right: Some(*right), revoked: paths.is_revoked(id), ..edge }
            }
            What::Member { identity, device, name } => {
                let (counts, revoked) = paths.membership(identity, id, device);
                let kind = EdgeKind::Member { identity: *identity, name: name.clone() };
                Edge { subject: (*device).into(), kind, counts, revoked, ..edge }
            }
        })
    }

    /// The devices that a record lets act: whose chains a revocation of it ends. In force or not.
    pub fn devices_by(&self, record: &EntryId) -> BTreeSet<DeviceId> {
        let whom = self.whom(record);
        match self.edges.get(record).map(|said| &said.what) {
            Some(What::Grant { subject, .. }) => self.act_for(subject),
            _ => whom.iter().map(Subject::device).collect(),
        }
    }

    /// The devices that have any right from now on, as far as they are known by name: where anyone may write, there may be more.
    pub fn devices(&self) -> BTreeSet<DeviceId> {
        let subjects = self.root.iter().chain(self.grants_to.keys());
        let granted = subjects.filter(|subject| !self.identities.contains_key(subject)).map(Subject::device);
        let members = self.identities.values().flat_map(|identity| identity.members.keys().copied());
        let has_right = |device: &DeviceId| !self.in_force(device).is_empty();
        granted.chain(members).filter(has_right).collect()
    }

    /// The identities that a device acts for or did.
    pub fn identities_of(&self, device: &DeviceId) -> impl Iterator<Item = &Subject> {
        self.identities_of.get(device).into_iter().flatten()
    }

    /// A grant that is a new one, though the same was given and taken back: what is said to let somebody in again.
    pub fn grant_again(&self, by: &DeviceId, subject: Subject, right: Right, gateway: bool) -> Record {
        self.said_again(by, |again| Record::Grant { subject, right, gateway, again })
    }

    /// The same for a device of an identity, let in by the root key `by`.
    pub fn member_again(&self, by: &DeviceId, identity: Subject, device: DeviceId, name: &str) -> Record {
        self.said_again(by, |again| Record::Member { identity, device, name: name.to_owned(), again })
    }

    /// The first of these records that was not taken back.
    fn said_again(&self, by: &DeviceId, record: impl Fn(u32) -> Record) -> Record {
        let mut again = 0;
        loop {
            let record = record(again);
            match self.revoked.contains_key(&Record::id(&self.space, by, &record.to_bytes())) {
                true => again += 1,
                false => return record,
            }
        }
    }

    /// The root keys of an identity, the first one first, in force or not; none if it has said nothing here.
    pub fn root_keys(&self, identity: &Subject) -> &[DeviceId] {
        self.identities.get(identity).map_or(&[], |known| &known.keys)
    }

    /// Whether an identity was ever given anything, or is the root.
    pub fn is_concerned(&self, identity: &Subject) -> bool {
        self.root == Some(*identity) || self.grants_to.contains_key(identity)
    }

    /// What a rotation by the root key `key` says of the chains of older keys, where `ends` is what is held of them. What it said
    /// before it says again: of several, the least is in force. Beyond [`ROTATE_CUTS_MAX`] chains, those that let nobody in who
    /// is still in go first.
    pub(crate) fn rotation_cuts(&self, identity: &Subject, key: &DeviceId, ends: BTreeMap<ChainId, u64>) -> ChainEnds {
        let known = self.identities.get(identity);
        let mut said = known.into_iter().flat_map(|known| known.rotations.values()).filter(|(by, ..)| by == key);
        let said = said.next().and_then(|(_, _, spots)| known?.ends.get(spots.first()?));
        if let Some(said) = said {
            return said.clone();
        }
        let mut paths = Paths::new(self, false);
        let mut chains_in_force = BTreeSet::new();
        for id in known.into_iter().flat_map(|known| known.members.values()).flatten() {
            if self.edge(&mut paths, id).is_some_and(|edge| edge.in_force()) {
                chains_in_force.extend(self.edges[id].spots.iter().map(|(chain, _)| *chain));
            }
        }
        let mut cuts: ChainEnds = ends.into_iter().collect();
        cuts.sort_by_key(|(chain, _)| (!chains_in_force.contains(chain), *chain));
        cuts.truncate(ROTATE_CUTS_MAX);
        cuts.sort();
        cuts
    }
}
