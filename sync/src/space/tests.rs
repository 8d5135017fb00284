use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::*;
use crate::authority::{invite, redeem, revocation};
use crate::chain::{Kind, Tip};
use crate::merkle::Frontier;
use crate::record::Privacy;

/// A device that writes records, honest or not.
struct Author {
    key: SigningKey,
    ids: Vec<EntryId>,
}

impl Author {
    fn new(n: u8) -> Author {
        Author { key: SigningKey::from_bytes(&[n; 32]), ids: Vec::new() }
    }

    fn device(&self) -> DeviceId {
        DeviceId(self.key.verifying_key().to_bytes())
    }

    fn say(&mut self, space: &Space, record: &Record, rights: Vec<EntryId>) -> Segment {
        let (id, doc) = (space.id(), space.id().authority());
        let opening = Opening { device: self.device(), salt: [0; 8], kind: Kind::Own };
        self.ids.push(Record::id(&id, &opening.device, &record.to_bytes()));
        let mut frontier = Frontier::default();
        self.ids.iter().for_each(|id| frontier.push(id));
        let n = frontier.len();
        let tip = Tip::sign(&self.key, &id, &doc, &opening, n, &frontier.head(), rights);
        Segment { doc, opening, first: n, entries: vec![record.to_bytes()], tip }
    }

    fn grants(&mut self, space: &Space, to: &Author, right: Right, rights: Vec<EntryId>) -> Segment {
        self.say(space, &Record::Grant { subject: to.device().into(), right, gateway: false, again: 0 }, rights)
    }

    /// The id of what it said last.
    fn last(&self) -> Vec<EntryId> {
        vec![*self.ids.last().unwrap()]
    }
}

fn space_of(root: &Author, writers: Writers) -> Space {
    let genesis = Genesis { root: root.device().into(), privacy: Privacy::Public, writers, rules: 1, nonce: [7; 16] };
    let mut space = Space::unknown(genesis.space());
    space.set_genesis(genesis).unwrap();
    space
}

/// Offers segments until nothing more is admitted. Returns how many were, and what a store keeps of them.
fn deliver(space: &mut Space, segments: &[Segment]) -> (usize, Vec<RightRow>) {
    let (mut left, mut kept) = (segments.to_vec(), Vec::new());
    loop {
        let before = left.len();
        left.retain(|segment| match space.admit(segment.clone(), &Limits::default(), false) {
            RecordAdmission::Admitted(admitted, _) => {
                let (device, chain) = (segment.opening.device, admitted.chain);
                let entries = (admitted.segment.first..).zip(admitted.segment.entries);
                kept.extend(entries.map(|(n, bytes)| RightRow { device, chain, n, bytes: bytes.into() }));
                false
            }
            RecordAdmission::WaitsForPrefix | RecordAdmission::WaitsForRight => true,
            other => panic!("{other:?}"),
        });
        if left.len() == before {
            return (segments.len() - before, kept);
        }
    }
}

#[test]
fn grants_by_admins_count_after_a_restart_in_whatever_order_they_are_read() {
    let (mut root, mut admin) = (Author::new(1), Author::new(2));
    let writers: Vec<Author> = (3..9).map(Author::new).collect();
    let mut space = space_of(&root, Writers::Granted);
    let mut segments = vec![root.grants(&space, &admin, Right::Admin, vec![])];
    segments.extend(writers.iter().map(|writer| admin.grants(&space, writer, Right::Write, root.last())));
    let (admitted, mut kept) = deliver(&mut space, &segments);
    assert_eq!(admitted, 7);
    for _ in 0..kept.len() {
        kept.rotate_left(1);
        let loaded = Space::load(space.id(), space.row(), kept.clone());
        assert!(writers.iter().all(|writer| loaded.right_of(&writer.device()) == Some(Right::Write)));
        assert_eq!(loaded.right_of(&admin.device()), Some(Right::Admin));
    }
}

#[test]
fn a_tip_that_names_a_grant_since_replaced_does_not_wait() {
    let (mut root, mut writer) = (Author::new(1), Author::new(2));
    let mut space = space_of(&root, Writers::Granted);
    let mut segments = vec![root.grants(&space, &writer, Right::Write, vec![])];
    let header = Record::Header { nonce: [1; 16], kind: String::new(), name: "written offline".into() };
    let offline = writer.say(&space, &header, root.last());
    segments.push(root.grants(&space, &writer, Right::Admin, vec![]));
    let (_, kept) = deliver(&mut space, &segments);
    let mut restarted = Space::load(space.id(), space.row(), kept);
    for space in [&mut space, &mut restarted] {
        assert_eq!(space.right_of(&writer.device()), Some(Right::Admin));
        assert_eq!(deliver(space, std::slice::from_ref(&offline)).0, 1);
    }
}

#[test]
fn a_grant_that_overtakes_its_admins_own_has_no_effect_before_it() {
    for (writers, held_at_once) in [(Writers::Granted, 0), (Writers::Anyone, 1)] {
        let (mut root, mut admin, writer) = (Author::new(1), Author::new(2), Author::new(3));
        let mut space = space_of(&root, writers);
        let early = admin.grants(&space, &writer, Right::Write, vec![]);
        assert_eq!(deliver(&mut space, std::slice::from_ref(&early)).0, held_at_once);
        assert!(space.grant(&writer.device()).is_none());
        let makes = root.grants(&space, &admin, Right::Admin, vec![]);
        let rest = [early, makes];
        deliver(&mut space, &rest[held_at_once..]);
        assert!(space.grant(&writer.device()).is_some());
    }
}

#[test]
fn records_beyond_a_cut_are_refused_and_held_once_their_device_is_let_in_again() {
    let (mut root, mut writer) = (Author::new(1), Author::new(2));
    let mut space = space_of(&root, Writers::Granted);
    let header = |n| Record::Header { nonce: [n; 16], kind: String::new(), name: String::new() };
    let given = root.grants(&space, &writer, Right::Write, vec![]);
    let grant = root.last()[0];
    let (before, after) = (writer.say(&space, &header(1), vec![grant]), writer.say(&space, &header(2), vec![grant]));
    let (authority, chain) = (space.id().authority(), space.authority_chain(&before.opening));
    let stays = BTreeMap::from([(authority, BTreeMap::from([(chain, 1)]))]);
    let mut segments = vec![given];
    segments.extend(revocation(vec![grant], &stays).iter().map(|record| root.say(&space, record, vec![])));
    let (_, kept) = deliver(&mut space, &segments);
    let mut restarted = Space::load(space.id(), space.row(), kept);
    for space in [&mut space, &mut restarted] {
        assert_eq!(space.right_of(&writer.device()), None);
        assert_eq!(deliver(space, std::slice::from_ref(&before)).0, 1, "it was said before the cut");
        assert!(matches!(space.admit(after.clone(), &Limits::default(), false), RecordAdmission::Cut));
        assert_eq!(space.limit(&authority, &before.opening, None), Limit::Upto(1));
    }
    let again = space.authority().grant_again(&root.device(), writer.device().into(), Right::Write, false);
    let again = root.say(&space, &again, vec![]);
    for space in [&mut space, &mut restarted] {
        assert_eq!(deliver(space, &[again.clone(), after.clone()]).0, 2);
        assert_eq!(space.limit(&authority, &before.opening, None), Limit::All);
    }
}

#[test]
fn who_refused_what_is_cut_and_who_holds_it_have_the_same_fingerprint() {
    let (mut root, mut writer, mut late) = (Author::new(1), Author::new(2), Author::new(3));
    let holds = space_of(&root, Writers::Granted);
    let header = |n| Record::Header { nonce: [n; 16], kind: String::new(), name: String::new() };
    let mut grants = vec![root.grants(&holds, &writer, Right::Write, vec![])];
    let named = root.last();
    grants.push(root.grants(&holds, &late, Right::Write, vec![]));
    let said: Vec<Segment> = (0..4).map(|n| writer.say(&holds, &header(n), named.clone())).collect();
    let unlisted = late.say(&holds, &header(9), vec![]);
    let authority = holds.id().authority();
    for left in [2, 4, 5] {
        let (mut holds, mut refuses) = (space_of(&root, Writers::Granted), space_of(&root, Writers::Granted));
        let mut root = Author { key: root.key.clone(), ids: root.ids.clone() };
        let stays = BTreeMap::from([(authority, BTreeMap::from([(holds.authority_chain(&said[0].opening), left)]))]);
        let both = vec![named[0], *root.ids.last().unwrap()];
        let cut: Vec<Segment> =
            revocation(both, &stays).iter().map(|record| root.say(&holds, record, vec![])).collect();
        let all = [&grants[..], &said, std::slice::from_ref(&unlisted), &cut].concat();
        assert_eq!(deliver(&mut holds, &all).0, all.len());
        deliver(&mut refuses, &[&grants[..], &cut].concat());
        for segment in said.iter().chain([&unlisted]) {
            refuses.admit(segment.clone(), &Limits::default(), false);
        }
        assert_ne!(holds.clock(), refuses.clock(), "{left}");
        assert_eq!((holds.fingerprint, holds.logs), (refuses.fingerprint, refuses.logs), "{left}");
    }
}

#[test]
fn a_newcomer_comes_in_by_redeeming_an_invite_and_nobody_else_does() {
    let (mut root, mut newcomer, mut stranger) = (Author::new(1), Author::new(2), Author::new(3));
    let secret = SigningKey::from_bytes(&[9; 32]);
    let mut space = space_of(&root, Writers::Granted);
    let invites = root.say(&space, &invite(&secret, Right::Write, 1), vec![]);
    let invited = root.last()[0];
    let redeems = newcomer.say(&space, &redeem(&secret, &space.id(), &invited, &newcomer.device()), vec![]);
    let stolen = stranger.say(&space, &redeem(&secret, &space.id(), &invited, &newcomer.device()), vec![]);
    assert_eq!(deliver(&mut space, std::slice::from_ref(&redeems)).0, 0, "the invite is not known");
    assert_eq!(deliver(&mut space, &[stolen, redeems, invites]).0, 2);
    assert_eq!(space.right_of(&newcomer.device()), Some(Right::Write));
    assert_eq!(space.right_of(&stranger.device()), None);
    assert_eq!(space.rights_for(&newcomer.device()), newcomer.last());
}

/// Who grants whom what, and whether the tip names a grant.
fn grant() -> impl Strategy<Value = (usize, usize, Right, bool, bool)> {
    let right = prop_oneof![Just(Right::Read), Just(Right::Write), Just(Right::Admin)];
    (0..5usize, 0..5usize, right, any::<bool>(), any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn grants_have_the_same_effect_in_every_order_of_arrival(
        grants in prop::collection::vec(grant(), 1..10),
        places in prop::collection::vec(any::<u32>(), 10),
        open: bool,
    ) {
        let mut authors: Vec<Author> = (1..6).map(Author::new).collect();
        let mut space = space_of(&authors[0], if open { Writers::Anyone } else { Writers::Granted });
        let mut other = space_of(&authors[0], if open { Writers::Anyone } else { Writers::Granted });
        let mut named: BTreeMap<usize, EntryId> = BTreeMap::new();
        let mut segments = Vec::new();
        for (by, to, right, gateway, names) in grants {
            let record = Record::Grant { subject: authors[to].device().into(), right, gateway, again: 0 };
            let rights = named.get(&by).filter(|_| names).copied().into_iter().collect();
            segments.push(authors[by].say(&space, &record, rights));
            named.insert(to, *authors[by].ids.last().unwrap());
        }
        let (admitted, mut kept) = deliver(&mut space, &segments);
        let mut shuffled: Vec<_> = places.iter().zip(&segments).collect();
        shuffled.sort_by_key(|(place, _)| **place);
        let shuffled: Vec<Segment> = shuffled.into_iter().map(|(_, segment)| segment.clone()).collect();
        prop_assert_eq!(deliver(&mut other, &shuffled).0, admitted);
        prop_assert_eq!(space.fingerprint, other.fingerprint);
        kept.sort_by_key(|row| (row.n, row.chain));
        let loaded = Space::load(space.id(), space.row(), kept);
        for which in [&other, &loaded] {
            prop_assert_eq!(space.authority.edges(), which.authority.edges());
            prop_assert_eq!(space.digest(), which.digest());
        }
    }
}

/// `stored_rows` found the first: a row that counts no logs and has one.
#[test]
fn a_row_with_wrong_totals_is_no_reason_to_stop() {
    let mut space = Space::unknown(SpaceId([1; 32]));
    space.replace(&DocId([2; 32]), Some([3; 32]), None);
    let row = SpaceRow { seq: u64::MAX, logs: u64::MAX, ..space.row() };
    let mut space = Space::load(SpaceId([1; 32]), row, vec![]);
    space.replace(&DocId([2; 32]), None, Some([3; 32]));
    assert!(space.seq < u64::MAX);
}
