//! The same questions answered by plain sets: every record is looked at for every question, what stays is written out for
//! every chain there is, and each layer is finished before the next begins.

use std::collections::{BTreeMap, BTreeSet};

use super::{Needed, RecordAt};
use crate::id::{ChainId, DeviceId, DocId, EntryId, SpaceId};
use crate::record::{Record, Right, Subject, commitment};

/// For every chain of every log, what stays of it.
type Ends = BTreeMap<(DocId, ChainId), u64>;

pub(super) struct Model {
    pub(super) space: SpaceId,
    pub(super) root: Subject,
    pub(super) open: bool,
    pub(super) chains: Vec<(DocId, ChainId)>,
    pub(super) records: Vec<(RecordAt, Record)>,
    pub(super) closed: BTreeMap<ChainId, u64>,
}

/// One way to a right.
#[derive(Clone)]
struct Way {
    device: DeviceId,
    right: Right,
    gateway: bool,
    key: bool,
    root: bool,
    cut: bool,
    ends: Ends,
}

struct Revocation {
    at: RecordAt,
    records: Vec<EntryId>,
    ends: Ends,
}

/// A device of an identity.
struct Acting {
    device: DeviceId,
    key: bool,
    cut: bool,
    ends: Ends,
}

pub(super) struct Answers(Vec<Way>);

impl Model {
    fn everything(&self) -> Ends {
        self.chains.iter().map(|at| (*at, u64::MAX)).collect()
    }

    fn within(&self, ends: &Ends, at: &RecordAt) -> bool {
        at.n < *self.closed.get(&at.chain).unwrap_or(&u64::MAX) && at.n <= ends[&(self.space.authority(), at.chain)]
    }

    fn revocations(&self) -> Vec<Revocation> {
        let by_place: BTreeMap<(ChainId, u64), &Record> =
            self.records.iter().map(|(at, record)| ((at.chain, at.n), record)).collect();
        let mut found = Vec::new();
        for (at, record) in &self.records {
            let Record::Revoke { records, parts } = record else { continue };
            let mut named: Ends = Ends::new();
            let mut complete = true;
            for back in 1..=u64::from(*parts) {
                let Some(Record::Cuts { entries }) = at.n.checked_sub(back).and_then(|n| by_place.get(&(at.chain, n)))
                else {
                    complete = false;
                    continue;
                };
                for (doc, chains) in entries {
                    for (chain, n) in chains {
                        let end = named.entry((*doc, *chain)).or_insert(*n);
                        *end = (*end).min(*n);
                    }
                }
            }
            let ends = self.chains.iter().map(|at| (*at, named.get(at).copied().unwrap_or(0))).collect();
            if complete {
                found.push(Revocation { at: *at, records: records.clone(), ends });
            }
        }
        found
    }

    /// Root keys, oldest first, with what newer ones leave of their records.
    fn keys(&self, identity: Subject, upper: &Ends) -> Vec<(DeviceId, Ends, bool)> {
        let founded = self.records.iter().filter(|(_, record)| record.identity() == Some(identity));
        let posts: Vec<&RecordAt> = founded.clone().map(|(at, _)| at).filter(|at| at.n == 1).collect();
        let Some((_, Record::Identity { root, next } | Record::Rotate { root, first: next, .. })) =
            founded.into_iter().next()
        else {
            return vec![];
        };
        // Each key with the commitment that it fulfils.
        let (mut line, mut next) = (vec![(*root, None)], *next);
        let rotations: Vec<_> = self
            .records
            .iter()
            .filter_map(|(at, record)| match record {
                Record::Rotate { next, cuts, .. } if record.identity() == Some(identity) => Some((at, *next, cuts)),
                _ => None,
            })
            .collect();
        let here = |at: &&RecordAt| self.within(upper, at);
        while let Some((at, after, _)) =
            rotations.iter().find(|(at, after, _)| at.n == 1 && here(at) && commitment(&at.device, after) == next)
        {
            line.push((at.device, Some(next)));
            next = *after;
        }
        if !posts.iter().any(|at| line.iter().any(|(key, _)| *key == at.device) && here(at)) {
            return vec![];
        }
        let mut keys = Vec::new();
        let (mut left, mut cut) = (self.everything(), false);
        for (key, fulfils) in line.iter().rev() {
            keys.push((*key, left.clone(), cut));
            let before = left.clone();
            for (at, after, ends) in &rotations {
                let fulfils = *fulfils == Some(commitment(&at.device, after));
                if fulfils && here(at) && self.within(&before, at) {
                    let ends: BTreeMap<ChainId, u64> = ends.iter().copied().collect();
                    for ((_, chain), end) in &mut left {
                        *end = (*end).min(ends.get(chain).copied().unwrap_or(0));
                    }
                    cut = true;
                }
            }
        }
        keys.reverse();
        keys
    }

    fn devices(&self, identity: Subject, upper: &Ends) -> Vec<Acting> {
        let keys = self.keys(identity, upper);
        let mut acting: Vec<Acting> = keys
            .iter()
            .map(|(key, ends, cut)| Acting { device: *key, key: true, cut: *cut, ends: ends.clone() })
            .collect();
        let by_key = |at: &RecordAt| {
            self.within(upper, at) && keys.iter().any(|(key, ends, _)| *key == at.device && self.within(ends, at))
        };
        let members: BTreeMap<EntryId, DeviceId> = self
            .records
            .iter()
            .filter_map(|(at, record)| match record {
                Record::Member { identity: i, device, .. } if *i == identity && by_key(at) => Some((at.id, *device)),
                _ => None,
            })
            .collect();
        for (id, device) in members {
            let (mut ends, mut cut) = (self.everything(), false);
            let revocations = self.revocations();
            let of_it: Vec<_> = revocations.iter().filter(|r| r.records.contains(&id)).collect();
            for revocation in of_it.iter().filter(|r| by_key(&r.at)) {
                ends = least(&ends, &revocation.ends);
                cut = true;
            }
            let by_others = least(&ends, upper);
            for revocation in of_it.iter().filter(|r| r.at.device == device && self.within(&by_others, &r.at)) {
                ends = least(&ends, &revocation.ends);
                cut = true;
            }
            acting.push(Acting { device, key: false, cut, ends });
        }
        acting
    }

    pub(super) fn answers(&self) -> Answers {
        let everything = self.everything();
        let mut ways = Vec::new();
        let root = |acting: Acting, key| Way {
            device: acting.device,
            right: Right::Admin,
            gateway: true,
            key,
            root: true,
            cut: acting.cut,
            ends: acting.ends,
        };
        ways.push(root(Acting { device: self.root.device(), key: false, cut: false, ends: everything.clone() }, false));
        for acting in self.devices(self.root, &everything) {
            let key = acting.key;
            ways.push(root(acting, key));
        }
        for admins in [true, false] {
            let powers = ways.clone();
            let has_power =
                |at: &RecordAt| powers.iter().any(|way| way.device == at.device && self.within(&way.ends, at));
            let mut done = BTreeSet::new();
            for (at, record) in &self.records {
                let (subject, right, gateway, invite, given_at) = match record {
                    Record::Grant { subject, right, gateway, .. } => (*subject, *right, *gateway, None, vec![*at]),
                    Record::Redeem { invite, key, .. } if at.n == 1 => {
                        let invites = self.records.iter().filter(|(at, _)| at.id == *invite);
                        let hash = *blake3::hash(key).as_bytes();
                        let fits: Vec<(RecordAt, Right)> = invites
                            .filter_map(|(at, record)| match record {
                                Record::Invite { key, right, .. } if *key == hash => Some((*at, *right)),
                                _ => None,
                            })
                            .collect();
                        let Some((_, right)) = fits.first().copied() else { continue };
                        let places = fits.into_iter().map(|(at, _)| at).collect();
                        (at.device.into(), right, false, Some(*invite), places)
                    }
                    _ => continue,
                };
                if (right == Right::Admin) != admins || done.contains(&at.id) || !given_at.iter().any(&has_power) {
                    continue;
                }
                let names = |r: &&Revocation| {
                    r.records.contains(&at.id) || invite.is_some_and(|invite| r.records.contains(&invite))
                };
                let revocations = self.revocations();
                let (mut upper, mut cut) = (everything.clone(), false);
                for revocation in revocations.iter().filter(names).filter(|r| has_power(&r.at)) {
                    upper = least(&upper, &revocation.ends);
                    cut = true;
                }
                if invite.is_some() && !self.within(&upper, at) {
                    continue;
                }
                done.insert(at.id);
                let keys = self.keys(subject, &upper);
                let may_leave = |at: &RecordAt| {
                    self.within(&upper, at)
                        && (subject == at.device.into()
                            || keys.iter().any(|(key, ends, _)| *key == at.device && self.within(ends, at)))
                };
                let (mut left, mut has_left) = (upper.clone(), cut);
                for revocation in revocations.iter().filter(names).filter(|r| may_leave(&r.at)) {
                    left = least(&left, &revocation.ends);
                    has_left = true;
                }
                let itself = Acting { device: subject.device(), key: false, cut: false, ends: everything.clone() };
                for acting in [itself].into_iter().chain(self.devices(subject, &upper)) {
                    ways.push(Way {
                        device: acting.device,
                        right,
                        gateway,
                        key: acting.key,
                        root: false,
                        cut: has_left || acting.cut,
                        ends: least(&left, &acting.ends),
                    });
                }
            }
        }
        Answers(ways)
    }

    pub(super) fn right_of(&self, answers: &Answers, device: &DeviceId) -> Option<Right> {
        let ways = answers.0.iter().filter(|way| way.device == *device && !way.cut);
        ways.map(|way| way.right).max().max(self.open.then_some(Right::Write))
    }

    pub(super) fn may_give(&self, answers: &Answers, device: &DeviceId, right: Right) -> bool {
        let mut ways = answers.0.iter().filter(|way| way.device == *device && !way.cut);
        ways.any(|way| way.root || (way.right == Right::Admin && right < Right::Admin))
    }

    /// Number of the last entry that counts.
    pub(super) fn limit(&self, answers: &Answers, log: DocId, chain: ChainId, device: DeviceId, needed: Needed) -> u64 {
        let authority = log == self.space.authority();
        let ways = answers.0.iter().filter(|way| {
            way.device == device
                && way.right >= needed.right
                && (way.gateway || !needed.gateway)
                && (authority || !way.key)
        });
        let mut end = ways.map(|way| way.ends[&(log, chain)]).max().unwrap_or(0);
        if self.open && needed.right <= Right::Write && !needed.gateway {
            end = u64::MAX;
        }
        match self.closed.get(&chain) {
            Some(closed) if authority => end.min(closed - 1),
            _ => end,
        }
    }
}

fn least(one: &Ends, other: &Ends) -> Ends {
    one.iter().map(|(at, end)| (*at, *end.min(&other[at]))).collect()
}
