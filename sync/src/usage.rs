//! What is stored here of whom, and how much may be.
//!
//! Counted are the bytes of entries and records as they came, for the device that signed them and for its space; the bytes of
//! snapshots from elsewhere, which nobody signed as a whole, for the space alone; and documents for who created them. A document
//! counts until it is deleted, however small it was packed meanwhile. A device that acts for an identity counts as that identity.
//!
//! Reaching a quota refuses what is new, and touches nothing that is held.

use std::collections::{BTreeMap, BTreeSet};

use minicbor::{Decode, Encode};

use crate::id::{DeviceId, SpaceId};
use crate::record::Subject;

/// In place of a device: what came in snapshots.
pub const UNSIGNED: DeviceId = DeviceId([0; 32]);

/// How much is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
#[cbor(map)]
pub struct Usage {
    /// As they came.
    #[n(0)]
    pub bytes: u64,
    /// Those that are not deleted.
    #[n(1)]
    pub documents: u64,
}

impl Usage {
    /// So many bytes, and no document.
    pub fn bytes(bytes: usize) -> Usage {
        Usage { bytes: bytes as u64, documents: 0 }
    }

    fn add(&mut self, more: Usage) {
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.documents = self.documents.saturating_add(more.documents);
    }

    /// Stores from before there were counts may hold a little more than was counted.
    fn remove(&mut self, less: Usage) {
        self.bytes = self.bytes.saturating_sub(less.bytes);
        self.documents = self.documents.saturating_sub(less.documents);
    }
}

/// How much may be stored; `None`: any amount.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quota {
    /// At most so many bytes.
    pub bytes: Option<u64>,
    /// At most so many documents.
    pub documents: Option<u64>,
}

impl Quota {
    fn has_room(&self, used: Usage, more: Usage) -> bool {
        let fits = |max: Option<u64>, used: u64, more: u64| {
            more == 0 || max.is_none_or(|max| used.saturating_add(more) <= max)
        };
        fits(self.bytes, used.bytes, more.bytes) && fits(self.documents, used.documents, more.documents)
    }
}

/// The quotas of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quotas {
    /// Of each space.
    pub space: Quota,
    /// Of each identity, and each device that acts for none, over all spaces. This device has none.
    pub identity: Quota,
}

/// What one device has stored in one space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UsageOf {
    /// Which space.
    pub space: SpaceId,
    /// Whose; [`UNSIGNED`] for snapshots.
    pub device: DeviceId,
    /// As whom it counts: itself, or the identity that it acts for.
    pub owner: Subject,
    /// How much.
    pub usage: Usage,
}

/// Counts.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    quotas: Quotas,
    of: BTreeMap<(SpaceId, DeviceId), Usage>,
    spaces: BTreeMap<SpaceId, Usage>,
    owners: BTreeMap<Subject, Usage>,
    /// Devices that act for an identity.
    owner_of: BTreeMap<DeviceId, Subject>,
    changed: BTreeSet<(SpaceId, DeviceId)>,
}

impl Meter {
    pub(crate) fn load(rows: Vec<(SpaceId, DeviceId, Usage)>) -> Meter {
        let mut meter = Meter::default();
        rows.into_iter().for_each(|(space, device, usage)| meter.take(space, device, usage));
        meter.changed.clear();
        meter
    }

    pub(crate) fn set_quotas(&mut self, quotas: Quotas) {
        self.quotas = quotas;
    }

    /// Whether more of a device does not fit into a space.
    pub(crate) fn is_beyond(&self, space: &SpaceId, device: Option<&DeviceId>, more: Usage) -> bool {
        let of_owner = |device| self.owners.get(&self.owner(device)).copied().unwrap_or_default();
        !self.quotas.space.has_room(self.of_space(space), more)
            || device.is_some_and(|device| !self.quotas.identity.has_room(of_owner(device), more))
    }

    fn owner(&self, device: &DeviceId) -> Subject {
        self.owner_of.get(device).copied().unwrap_or_else(|| (*device).into())
    }

    pub(crate) fn take(&mut self, space: SpaceId, device: DeviceId, more: Usage) {
        self.of.entry((space, device)).or_default().add(more);
        self.spaces.entry(space).or_default().add(more);
        self.owners.entry(self.owner(&device)).or_default().add(more);
        self.changed.insert((space, device));
    }

    pub(crate) fn give_back(&mut self, space: SpaceId, device: DeviceId, less: Usage) {
        self.of.entry((space, device)).or_default().remove(less);
        self.spaces.entry(space).or_default().remove(less);
        self.owners.entry(self.owner(&device)).or_default().remove(less);
        self.changed.insert((space, device));
    }

    /// As whom a device counts from here on, with all that it has stored.
    pub(crate) fn counts_as(&mut self, device: DeviceId, owner: Subject) {
        let before = self.owner(&device);
        if before == owner {
            return;
        }
        let all = self.of.iter().filter(|((_, of), _)| *of == device).map(|(_, usage)| *usage);
        let all = all.fold(Usage::default(), |mut sum, usage| {
            sum.add(usage);
            sum
        });
        self.owners.entry(before).or_default().remove(all);
        self.owners.entry(owner).or_default().add(all);
        match owner == Subject::from(device) {
            true => drop(self.owner_of.remove(&device)),
            false => drop(self.owner_of.insert(device, owner)),
        }
    }

    /// Whether a device counts as an identity.
    pub(crate) fn acts(&self, device: &DeviceId) -> bool {
        self.owner_of.contains_key(device)
    }

    /// All that is stored in a space.
    pub(crate) fn of_space(&self, space: &SpaceId) -> Usage {
        self.spaces.get(space).copied().unwrap_or_default()
    }

    /// Whether a device has stored something in a space.
    pub(crate) fn knows(&self, space: SpaceId, device: DeviceId) -> bool {
        self.of.contains_key(&(space, device))
    }

    /// The devices that have stored something in a space.
    pub(crate) fn devices_in(&self, space: SpaceId) -> Vec<DeviceId> {
        let all = (space, DeviceId([0; 32]))..=(space, DeviceId([u8::MAX; 32]));
        self.of.range(all).map(|((_, device), _)| *device).collect()
    }

    /// What changed since it was last asked.
    pub(crate) fn take_changed(&mut self) -> Vec<(SpaceId, DeviceId, Usage)> {
        let changed = core::mem::take(&mut self.changed).into_iter();
        changed.filter_map(|key| Some((key.0, key.1, *self.of.get(&key)?))).collect()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = UsageOf> + '_ {
        self.of.iter().map(|((space, device), usage)| UsageOf {
            space: *space,
            device: *device,
            owner: self.owner(device),
            usage: *usage,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACE: SpaceId = SpaceId([1; 32]);
    const OTHER: SpaceId = SpaceId([2; 32]);

    fn device(n: u8) -> DeviceId {
        DeviceId([n; 32])
    }

    #[test]
    fn the_devices_of_an_identity_have_one_quota_over_all_spaces_and_a_space_one_over_all_devices() {
        let mut meter = Meter::default();
        let quota = |bytes| Quota { bytes: Some(bytes), documents: Some(1) };
        meter.set_quotas(Quotas { space: quota(100), identity: quota(60) });
        meter.take(SPACE, device(1), Usage::bytes(50));
        meter.take(OTHER, device(2), Usage::bytes(10));
        let beyond = |meter: &Meter, n, bytes| meter.is_beyond(&SPACE, Some(&device(n)), Usage::bytes(bytes));
        assert!(!beyond(&meter, 1, 10) && beyond(&meter, 1, 11) && !beyond(&meter, 2, 50));
        for n in [1, 2] {
            meter.counts_as(device(n), Subject([9; 32]));
        }
        assert!(beyond(&meter, 1, 1) && beyond(&meter, 2, 1) && !beyond(&meter, 3, 50) && beyond(&meter, 3, 51));
        // One that is put out of the identity takes along what it stored.
        meter.counts_as(device(1), device(1).into());
        assert!(!beyond(&meter, 2, 50) && beyond(&meter, 1, 11));
        assert!(meter.is_beyond(&SPACE, None, Usage { bytes: 0, documents: 2 }));
    }

    #[test]
    fn what_is_given_back_is_free_again_and_rows_hold_what_is_counted() {
        let mut meter = Meter::load(vec![(SPACE, device(1), Usage { bytes: 70, documents: 2 })]);
        assert_eq!(meter.take_changed(), []);
        meter.take(SPACE, UNSIGNED, Usage::bytes(5));
        meter.give_back(SPACE, device(1), Usage { bytes: 30, documents: 1 });
        let rows = meter.take_changed();
        assert_eq!(rows, [(SPACE, UNSIGNED, Usage::bytes(5)), (SPACE, device(1), Usage { bytes: 40, documents: 1 })]);
        meter.give_back(SPACE, device(1), Usage::bytes(1_000));
        assert_eq!(meter.all().find(|of| of.device == device(1)).unwrap().usage, Usage { bytes: 0, documents: 1 });
        assert_eq!(meter.devices_in(SPACE), [UNSIGNED, device(1)]);
        assert_eq!(meter.devices_in(OTHER), []);
    }
}
