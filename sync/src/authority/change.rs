//! Taking in records and closings, and finding out whose limits that changes.
//!
//! The paths of all whom a record can reach are compared before and after: of a grant that is who gets it, of what touches
//! an admin everybody whom that let in.

use std::collections::{BTreeMap, BTreeSet};

use super::paths::{Path, Paths};
use super::{Authority, CutList, Judgement, REDEEMS_MAX, RecordAt, Revocation, Said, Spot, What, secrets};
use crate::id::{ChainId, DeviceId, DocId, EntryId};
use crate::record::{CUT_PARTS_MAX, ChainEnds, Record, Right, Subject, commitment};

impl Authority {
    /// Takes in a record. Records of one chain come in its order, everything else in any; one that is known changes nothing.
    pub fn note(&mut self, at: RecordAt, record: &Record) {
        let spot = (at.chain, at.n);
        self.devices.insert(at.chain, at.device);
        let pending = self.pending.remove(&at.chain);
        match record {
            Record::Cuts { entries } => self.note_cuts(spot, pending, entries),
            Record::Revoke { records, parts } => self.note_revocation(&at, pending, record, records, *parts),
            Record::Grant { subject, right, gateway, .. } => {
                let what = What::Grant { subject: *subject, right: *right, gateway: *gateway };
                self.change(&at, record, |authority| authority.say(&at, what));
            }
            Record::Invite { key, right, uses } => {
                let what = What::Invite { key: *key, right: *right, uses: *uses };
                self.change(&at, record, |authority| authority.say(&at, what));
            }
            Record::Redeem { invite, key, signature } => {
                if at.n == 1 && secrets::signed(&self.space, invite, &at.device, key, signature) {
                    let what = What::Redeem { invite: *invite, key: *key };
                    self.change(&at, record, |authority| authority.say(&at, what));
                }
            }
            Record::Member { identity, device, name, .. } => {
                let what = What::Member { identity: *identity, device: *device, name: name.clone() };
                self.change(&at, record, |authority| authority.say(&at, what));
            }
            Record::Identity { root, next } => {
                let Some(identity) = record.identity() else { return };
                self.change(&at, record, |authority| authority.found(identity, &at, (root.0, *next)));
            }
            Record::Rotate { root, first, next, cuts } => {
                let Some(identity) = record.identity() else { return };
                self.change(&at, record, |authority| {
                    authority.rotate(identity, &at, (root.0, *first), *next, cuts);
                });
            }
            Record::Erase { .. } | Record::Erased { .. } | Record::Successor { .. } | Record::Place { .. } => {
                self.about.note(&at, record);
            }
            Record::Header { .. } | Record::Tombstone { .. } | Record::Adopt { .. } | Record::Unknown { .. } => {}
        }
    }

    /// Who says what comes in a chain of the authority log.
    pub(crate) fn open(&mut self, chain: ChainId, device: DeviceId) {
        self.devices.insert(chain, device);
    }

    /// The chain of the authority log is closed at `n`: its device signed two histories. Records from `n` on do not count; of
    /// several closings the least is in force.
    pub fn close(&mut self, chain: ChainId, n: u64) {
        if self.closed_at(&chain) <= n.max(1) {
            return;
        }
        let device = self.devices.get(&chain).copied();
        let mut starts: Vec<Subject> = device.into_iter().map(Subject::from).collect();
        starts.extend(device.and_then(|device| self.identities_of.get(&device)).into_iter().flatten());
        self.compare(starts, |authority| {
            authority.closed.insert(chain, n.max(1));
        });
        self.generation += 1;
        let generation = self.generation;
        self.touched.extend(device.map(|device| (device, generation)));
    }

    /// What is to become of records `first …` of a chain, new to it, before they are noted. What a newcomer says to come in
    /// (a redemption, the founding of its identity, a rotation) counts towards its own right. It counts as the first of a
    /// chain only: further on it could lie behind what was refused.
    ///
    /// It takes any right to say any record; whether one counts is another question. To ask more here for some kinds would make
    /// what is held, and what comes after it in its chain, depend on whether a grant came before what cut it.
    ///
    /// Records of which a part stays are taken whole: they travel under one tip.
    pub fn judge(
        &mut self,
        device: &DeviceId,
        chain: &ChainId,
        first: u64,
        records: &[(EntryId, Record)],
    ) -> Judgement {
        let at = |id: &EntryId| RecordAt { device: *device, chain: *chain, n: first, id: *id };
        let undo = match records.first().filter(|_| first == 1) {
            Some((id, Record::Redeem { invite, key, signature })) => {
                let signed = secrets::signed(&self.space, invite, device, key, signature);
                if signed && !self.edges.contains_key(id) && self.redeems_of(invite) >= REDEEMS_MAX {
                    return Judgement::Full;
                }
                if signed { self.enter(at(id), &records[0].1) } else { None }
            }
            Some((id, record)) => self.enter(at(id), record),
            None => None,
        };
        let judgement = match self.ever(device, Right::Relay) {
            false => Judgement::Wait,
            true if first > self.holds_upto(chain, device) => Judgement::Cut,
            true => Judgement::Admit,
        };
        undo.into_iter().for_each(|undo| self.undo(undo));
        judgement
    }

    /// Redemptions of an invite that are not taken back.
    pub(super) fn redeems_of(&self, invite: &EntryId) -> usize {
        let mut paths = Paths::new(self, false);
        let redeems = self.redeems.get(invite).into_iter().flatten();
        let mut counts = |id: &EntryId| {
            let by = self.edges[id].by;
            paths.of(&by).iter().any(|path| path.edges.contains(id))
        };
        redeems.filter(|id| counts(id)).count()
    }

    fn note_cuts(&mut self, spot: Spot, pending: Option<(u64, Vec<CutList>)>, entries: &[(DocId, ChainEnds)]) {
        let (chain, n) = spot;
        let (_, mut parts) = pending.filter(|(next, _)| *next == n).unwrap_or_default();
        if parts.len() >= CUT_PARTS_MAX as usize {
            parts.remove(0);
        }
        parts.push(CutList::of_record(entries));
        self.pending.insert(chain, (n + 1, parts));
    }

    /// A revocation that lacks a part says nothing.
    fn note_revocation(
        &mut self,
        at: &RecordAt,
        pending: Option<(u64, Vec<CutList>)>,
        record: &Record,
        records: &[EntryId],
        parts: u32,
    ) {
        let (next, lists) = pending.unwrap_or_default();
        let lists = if next == at.n { lists } else { Vec::new() };
        let Some(first) = lists.len().checked_sub(parts as usize) else { return };
        let spot = (at.chain, at.n);
        if self.revocations.contains_key(&spot) {
            return;
        }
        let revocation = Revocation { records: records.to_vec(), stays: CutList::join(lists[first..].iter()) };
        drop(lists);
        self.change(at, record, |authority| {
            for id in &revocation.records {
                authority.revoked.entry(*id).or_default().entry(at.device).or_default().insert(spot);
            }
            authority.revoked_by.entry(at.device).or_default().insert(spot);
            authority.revocations.insert(spot, revocation);
        });
    }

    fn say(&mut self, at: &RecordAt, what: What) {
        let spot = (at.chain, at.n);
        if let Some(said) = self.edges.get_mut(&at.id) {
            if let Err(place) = said.spots.binary_search(&spot) {
                said.spots.insert(place, spot);
            }
            return;
        }
        match &what {
            What::Grant { subject, .. } => {
                self.grants_to.entry(*subject).or_default().insert(at.id);
                self.given_by.entry(at.device).or_default().insert(at.id);
            }
            What::Invite { .. } => drop(self.given_by.entry(at.device).or_default().insert(at.id)),
            What::Redeem { invite, .. } => {
                self.grants_to.entry(at.device.into()).or_default().insert(at.id);
                self.redeems.entry(*invite).or_default().insert(at.id);
            }
            What::Member { identity, device, .. } => {
                let known = self.identities.entry(*identity).or_default();
                known.said.entry(at.device).or_default().insert(at.id);
                if known.keys.contains(&at.device) {
                    known.members.entry(*device).or_default().insert(at.id);
                    self.identities_of.entry(*device).or_default().insert(*identity);
                }
            }
        }
        self.edges.insert(at.id, Said { by: at.device, spots: vec![spot], what });
    }

    fn found(&mut self, identity: Subject, at: &RecordAt, founding: ([u8; 32], [u8; 32])) {
        let known = self.identities.entry(identity).or_default();
        known.founding = Some(founding);
        if at.n == 1 {
            known.posts.entry(at.device).or_default().insert((at.chain, at.n));
        }
        self.link(identity);
    }

    fn rotate(
        &mut self,
        identity: Subject,
        at: &RecordAt,
        founding: ([u8; 32], [u8; 32]),
        next: [u8; 32],
        cuts: &ChainEnds,
    ) {
        let known = self.identities.entry(identity).or_default();
        let fulfils = commitment(&at.device, &next);
        let (_, _, spots) = known.rotations.entry(fulfils).or_insert((at.device, next, BTreeSet::new()));
        spots.insert((at.chain, at.n));
        known.ends.insert((at.chain, at.n), cuts.clone());
        self.found(identity, at, founding);
    }

    /// Looks for root keys that have become known, and takes up what they said.
    fn link(&mut self, identity: Subject) {
        let Some(known) = self.identities.get_mut(&identity) else { return };
        let keys = known.keys_ever();
        for key in keys.iter().filter(|key| !known.keys.contains(key)) {
            self.identities_of.entry(*key).or_default().insert(identity);
            for id in known.said.get(key).into_iter().flatten() {
                if let Some(Said { what: What::Member { device, .. }, .. }) = self.edges.get(id) {
                    known.members.entry(*device).or_default().insert(*id);
                    self.identities_of.entry(*device).or_default().insert(identity);
                }
            }
        }
        known.keys = keys;
    }

    fn change(&mut self, at: &RecordAt, record: &Record, apply: impl FnOnce(&mut Authority)) {
        let starts = self.touches(at, record);
        self.compare(starts, apply);
    }

    /// Whom a record can touch. Nobody, if its device has no say in it: else anybody could make every peer look at all whom
    /// an admin let in. Should the device come to have a say, it is that record which touches them.
    pub(super) fn touches(&self, at: &RecordAt, record: &Record) -> Vec<Subject> {
        let mut paths = Paths::new(self, true);
        match record {
            Record::Grant { subject, right, .. } if paths.has_say(&at.device, *right) => vec![*subject],
            Record::Invite { right, .. } if paths.has_say(&at.device, *right) => self.whom(&at.id),
            Record::Redeem { .. } => vec![at.device.into()],
            Record::Member { identity, device, .. } => {
                let is_key = self.identities.get(identity).is_some_and(|known| known.keys.contains(&at.device));
                if is_key { vec![(*device).into()] } else { Vec::new() }
            }
            Record::Revoke { records, .. } => {
                let counts = |id: &&EntryId| {
                    let right = match self.edges.get(*id).map(|said| &said.what) {
                        Some(What::Grant { right, .. } | What::Invite { right, .. }) => *right,
                        _ => Right::Relay,
                    };
                    let is_one = |whom: &Subject| self.act_for(whom).contains(&at.device);
                    let is_key = match self.edges.get(*id).map(|said| &said.what) {
                        Some(What::Member { identity, .. }) => is_one(identity),
                        _ => false,
                    };
                    is_key || paths.has_say(&at.device, right) || self.whom(id).iter().any(is_one)
                };
                records.iter().filter(counts).flat_map(|id| self.whom(id)).collect::<Vec<_>>()
            }
            Record::Identity { root, next } | Record::Rotate { root, first: next, .. } => {
                let Some(identity) = record.identity() else { return Vec::new() };
                let known = self.identities.get(&identity);
                let (keys, awaited) = super::Identity::line(known, (root.0, *next));
                let links = match record {
                    Record::Rotate { next, .. } => awaited.contains(&commitment(&at.device, next)),
                    _ => keys.contains(&at.device),
                };
                if !links {
                    return Vec::new();
                }
                // Also those whom a key named before it was known as one.
                let said = known.into_iter().flat_map(|known| known.said.values()).flatten();
                let named = said.flat_map(|id| self.whom(id));
                [identity, (*root).into(), at.device.into()].into_iter().chain(named).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Applies a change that begins with these, and notes whose paths are others after it.
    fn compare(&mut self, starts: Vec<Subject>, apply: impl FnOnce(&mut Authority)) {
        let reached = self.reach(starts);
        let before = self.standing(&reached);
        apply(self);
        let after = self.standing(&reached);
        // Whoever had no right at all until now had nothing that could have been cut.
        let changed = before.iter().zip(&after).map(|((before, had), (after, _))| *had && before != after);
        let changed: Vec<DeviceId> = reached.into_iter().zip(changed).filter(|(_, is)| *is).map(|(d, _)| d).collect();
        if !changed.is_empty() {
            self.generation += 1;
            let generation = self.generation;
            self.touched.extend(changed.into_iter().map(|device| (device, generation)));
        }
    }

    fn standing(&self, devices: &BTreeSet<DeviceId>) -> Vec<(Vec<Path>, bool)> {
        let mut paths = Paths::new(self, false);
        let mut ever = Paths::new(self, true);
        let mut of = |device: &DeviceId| {
            let found = paths.of(device);
            let had = self.open || !found.is_empty() || !ever.of(device).is_empty();
            (found, had)
        };
        devices.iter().map(&mut of).collect()
    }

    /// The devices that act for these, and all whom those let in or put out: whose limits can depend on theirs.
    fn reach(&self, mut subjects: Vec<Subject>) -> BTreeSet<DeviceId> {
        let (mut seen, mut devices) = (BTreeSet::new(), BTreeSet::new());
        while let Some(subject) = subjects.pop() {
            if !seen.insert(subject) {
                continue;
            }
            for device in self.act_for(&subject) {
                if !devices.insert(device) {
                    continue;
                }
                let given = self.given_by.get(&device).into_iter().flatten();
                subjects.extend(given.flat_map(|id| self.whom(id)));
                let revoked = self.revoked_by.get(&device).into_iter().flatten();
                let records = revoked.filter_map(|spot| self.revocations.get(spot)).flat_map(|r| &r.records);
                subjects.extend(records.flat_map(|id| self.whom(id)));
            }
        }
        devices
    }

    /// Whom a record that gives something gives it to.
    pub(super) fn whom(&self, id: &EntryId) -> Vec<Subject> {
        match self.edges.get(id).map(|said| (&said.what, said.by)) {
            Some((What::Grant { subject, .. }, _)) => vec![*subject],
            Some((What::Member { device, .. }, _)) => vec![(*device).into()],
            Some((What::Redeem { .. }, by)) => vec![by.into()],
            // Redemptions may be here before their invite.
            Some((What::Invite { .. }, _)) | None => {
                let redeems = self.redeems.get(id).into_iter().flatten();
                redeems.filter_map(|id| self.edges.get(id)).map(|said| said.by.into()).collect()
            }
        }
    }

    /// The device that a subject is, and if it is an identity its root keys and devices, in force or not.
    pub(super) fn act_for(&self, subject: &Subject) -> BTreeSet<DeviceId> {
        let mut devices = BTreeSet::from([subject.device()]);
        if let Some(known) = self.identities.get(subject) {
            devices.extend(known.founding.map(|(root, _)| DeviceId(root)));
            devices.extend(known.rotations.values().map(|(key, ..)| *key));
            devices.extend(&known.keys);
            devices.extend(known.members.keys());
        }
        devices
    }

    /// Takes in a record for a look only.
    fn enter(&mut self, at: RecordAt, record: &Record) -> Option<Undo> {
        match record {
            Record::Redeem { invite, key, .. } => {
                let undo = Undo::Redeem(at.id, at.device, *invite, self.edges.get(&at.id).cloned());
                self.say(&at, What::Redeem { invite: *invite, key: *key });
                return Some(undo);
            }
            Record::Identity { .. } | Record::Rotate { .. } => {}
            _ => return None,
        }
        let identity = record.identity()?;
        let undo = Undo::Identity(identity, self.identities.get(&identity).cloned());
        match record {
            Record::Rotate { root, first, next, cuts } => {
                self.rotate(identity, &at, (root.0, *first), *next, cuts);
            }
            Record::Identity { root, next } => self.found(identity, &at, (root.0, *next)),
            _ => {}
        }
        Some(undo)
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Redeem(id, _, _, Some(before)) => drop(self.edges.insert(id, before)),
            Undo::Redeem(id, device, invite, None) => {
                self.edges.remove(&id);
                remove_from(&mut self.grants_to, &device.into(), &id);
                remove_from(&mut self.redeems, &invite, &id);
            }
            Undo::Identity(identity, before) => {
                let acting = |known: &super::Identity| -> BTreeSet<DeviceId> {
                    known.keys.iter().chain(known.members.keys()).copied().collect()
                };
                let old = before.as_ref().map(acting).unwrap_or_default();
                let after = match before {
                    Some(before) => self.identities.insert(identity, before),
                    None => self.identities.remove(&identity),
                };
                for device in after.as_ref().map(acting).unwrap_or_default().difference(&old) {
                    remove_from(&mut self.identities_of, device, &identity);
                }
            }
        }
    }
}

/// What takes back a record that was only looked at.
enum Undo {
    Redeem(EntryId, DeviceId, EntryId, Option<Said>),
    Identity(Subject, Option<super::Identity>),
}

fn remove_from<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}
