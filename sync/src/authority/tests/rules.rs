//! One fact each.

use super::*;
use crate::record::{RECORD_BYTES_MAX, ROTATE_CUTS_MAX};

fn root() -> DeviceId {
    device(1)
}

fn admin() -> DeviceId {
    device(2)
}

fn writer() -> DeviceId {
    device(3)
}

fn end(log: DocId, device: DeviceId, n: u64) -> (DocId, ChainId, u64) {
    (log, chain(&log, &device, 0), n)
}

fn heading() -> Record {
    Record::Header { nonce: [0; 16], kind: String::new(), name: String::new() }
}

#[test]
fn what_was_written_before_the_cut_counts_and_what_was_written_after_it_does_not() {
    let mut talk = Talk::default();
    let grant = talk.grant(root(), writer(), Right::Write);
    assert_eq!(written(&talk.authority(root()), DOC, writer()), EVER);
    talk.revoke(root(), &[grant], &[end(DOC, writer(), 7)]);
    let authority = talk.authority(root());
    assert_eq!(authority.limit(&DOC, &chain(&DOC, &writer(), 0), &writer(), Right::Write), Limit::Upto(7));
    assert_eq!(written(&authority, OTHER, writer()), 0, "what the list does not name keeps nothing");
    assert_eq!(authority.right_of(&writer()), None);
    assert!(authority.knows(&grant), "tips may go on naming it");
}

#[test]
fn of_several_revocations_the_least_number_counts() {
    let mut talk = Talk::default();
    talk.grant(root(), admin(), Right::Admin);
    let grant = talk.grant(root(), writer(), Right::Write);
    talk.revoke(root(), &[grant], &[end(DOC, writer(), 7), end(OTHER, writer(), 2)]);
    talk.revoke(admin(), &[grant], &[end(DOC, writer(), 5), end(OTHER, writer(), 3)]);
    let authority = talk.authority(root());
    assert_eq!([DOC, OTHER].map(|log| written(&authority, log, writer())), [5, 2]);
}

#[test]
fn a_grant_given_again_brings_everything_back_though_it_is_the_same() {
    let mut talk = Talk::default();
    let grant = talk.grant(root(), writer(), Right::Write);
    talk.revoke(root(), &[grant], &[]);
    let same = talk.grant(root(), writer(), Right::Write);
    assert_eq!(same, grant, "the same bytes by the same device are the same record");
    assert_eq!(written(&talk.authority(root()), DOC, writer()), 0);
    let again = talk.authority(root()).grant_again(&root(), writer().into(), Right::Write, false);
    let again = talk.say(root(), again);
    assert_ne!(again.id, grant);
    assert_eq!(written(&talk.authority(root()), DOC, writer()), EVER);
}

#[test]
fn a_grant_that_a_revocation_does_not_name_survives_it() {
    let mut talk = Talk::default();
    talk.grant(root(), admin(), Right::Admin);
    let one = talk.grant(root(), writer(), Right::Write);
    talk.grant(admin(), writer(), Right::Write);
    talk.revoke(root(), &[one], &[]);
    assert_eq!(written(&talk.authority(root()), DOC, writer()), EVER);
}

#[test]
fn what_an_admin_gave_before_its_cut_stays_given_and_what_it_gave_after_never_counted() {
    let mut talk = Talk::default();
    let made = talk.grant(root(), admin(), Right::Admin);
    talk.grant(admin(), writer(), Right::Write);
    talk.grant(admin(), device(4), Right::Write);
    talk.revoke(root(), &[made], &[end(SPACE.authority(), admin(), 1)]);
    let authority = talk.authority(root());
    // Nobody had to list the writer's chains: who leaves does not take those along whom it invited.
    assert_eq!(written(&authority, DOC, writer()), EVER);
    assert_eq!(written(&authority, DOC, device(4)), 0);
    assert_eq!(written(&authority, SPACE.authority(), admin()), 1);
}

#[test]
fn a_revocation_by_an_admin_beyond_its_cut_does_not_count() {
    let mut talk = Talk::default();
    let made = talk.grant(root(), admin(), Right::Admin);
    let grant = talk.grant(root(), writer(), Right::Write);
    talk.revoke(admin(), &[grant], &[]);
    assert_eq!(written(&talk.authority(root()), DOC, writer()), 0);
    talk.revoke(root(), &[made], &[]);
    assert_eq!(written(&talk.authority(root()), DOC, writer()), EVER);
}

#[test]
fn only_the_root_makes_admins_and_unmakes_them() {
    let mut talk = Talk::default();
    let one = talk.grant(root(), admin(), Right::Admin);
    let other = talk.grant(root(), device(4), Right::Admin);
    talk.grant(admin(), writer(), Right::Admin);
    talk.revoke(admin(), &[other], &[]);
    talk.revoke(device(4), &[one], &[]);
    let authority = talk.authority(root());
    assert_eq!(authority.right_of(&writer()), None);
    assert!([admin(), device(4)].iter().all(|device| authority.right_of(device) == Some(Right::Admin)));
    assert!(authority.may_revoke(&root(), &[one, other]));
    assert!(!authority.may_revoke(&admin(), &[other]));
    assert!(authority.may_revoke(&admin(), &[one]), "to leave");
}

#[test]
fn a_writer_gives_and_takes_nothing() {
    let mut talk = Talk::default();
    talk.grant(root(), writer(), Right::Write);
    let grant = talk.grant(root(), device(4), Right::Write);
    talk.grant(writer(), device(5), Right::Read);
    talk.revoke(writer(), &[grant], &[]);
    let authority = talk.authority(root());
    assert_eq!([4, 5].map(|n| authority.right_of(&device(n))), [Some(Right::Write), None]);
}

#[test]
fn a_device_leaves_by_taking_back_its_own_grant_and_its_word_counts_whatever_it_says_of_itself() {
    let mut talk = Talk::default();
    let grant = talk.grant(root(), writer(), Right::Write);
    talk.revoke(writer(), &[grant], &[end(DOC, writer(), 4)]);
    let authority = talk.authority(root());
    assert_eq!(written(&authority, DOC, writer()), 4);
    assert_eq!(written(&authority, SPACE.authority(), writer()), 0, "its own list names none of its records");
    assert_eq!(authority.holds_upto(&chain(&SPACE.authority(), &writer(), 0), &writer()), EVER, "they are held");
}

#[test]
fn the_devices_of_an_identity_have_its_right_and_only_a_root_key_adds_them() {
    let identity = ROOTS[1].identity();
    let mut talk = Talk::default();
    talk.grant(root(), identity, Right::Write);
    talk.found(1, 0);
    talk.member(1, 0, writer());
    let record = Record::Member { identity, device: device(4), name: String::new(), again: 0 };
    talk.say(writer(), record);
    let authority = talk.authority(root());
    assert_eq!(written(&authority, DOC, writer()), EVER);
    assert_eq!(written(&authority, DOC, device(4)), 0);
    let acts_for = [writer(), device(4)].map(|device| authority.identity_of(&device));
    assert_eq!(acts_for, [Some(identity.0), None]);
    assert_eq!(written(&authority, DOC, key_of(1, 0)), 0, "a root key writes records, not documents");
    assert_eq!(written(&authority, SPACE.authority(), key_of(1, 0)), EVER);
}

#[test]
fn a_lost_device_is_taken_back_by_the_root_key_and_by_itself_but_by_no_other_device_nor_an_admin() {
    let mut talk = Talk::default();
    talk.grant(root(), admin(), Right::Admin);
    talk.grant(root(), ROOTS[1].identity(), Right::Write);
    talk.found(1, 0);
    let lost = talk.member(1, 0, writer());
    talk.member(1, 0, device(4));
    for by in [admin(), device(4)] {
        talk.revoke(by, &[lost], &[]);
        assert_eq!(written(&talk.authority(root()), DOC, writer()), EVER);
    }
    talk.revoke(key_of(1, 0), &[lost], &[end(DOC, writer(), 9)]);
    let authority = talk.authority(root());
    assert_eq!(written(&authority, DOC, writer()), 9);
    assert_eq!(written(&authority, DOC, device(4)), EVER);
    talk.revoke(writer(), &[lost], &[end(DOC, writer(), 3)]);
    assert_eq!(written(&talk.authority(root()), DOC, writer()), 9, "what it says after its cut does not count");
}

#[test]
fn a_device_cannot_take_its_identity_out_of_a_space() {
    let mut talk = Talk::default();
    let grant = talk.grant(root(), ROOTS[1].identity(), Right::Write);
    talk.found(1, 0);
    talk.member(1, 0, writer());
    talk.revoke(writer(), &[grant], &[]);
    assert_eq!(written(&talk.authority(root()), DOC, writer()), EVER);
    talk.revoke(key_of(1, 0), &[grant], &[end(DOC, writer(), 2)]);
    assert_eq!(written(&talk.authority(root()), DOC, writer()), 2);
}

#[test]
fn the_longest_path_is_from_the_root_to_an_admin_to_a_member_to_a_device() {
    let mut talk = Talk::default();
    talk.found(0, 0);
    talk.member(0, 0, root());
    talk.grant(root(), admin(), Right::Admin);
    talk.grant(admin(), ROOTS[1].identity(), Right::Write);
    talk.found(1, 0);
    talk.member(1, 0, writer());
    talk.grant(writer(), device(4), Right::Read);
    let authority = talk.authority(ROOTS[0].identity());
    assert_eq!(written(&authority, DOC, writer()), EVER);
    assert_eq!(authority.right_of(&device(4)), None);
    assert_eq!(authority.path_of(&writer()).len(), 2);
}

#[test]
fn an_identity_counts_only_where_one_of_its_own_root_keys_founds_it_as_the_first_record_of_a_chain() {
    let mut talk = Talk::default();
    talk.grant(root(), ROOTS[1].identity(), Right::Write);
    talk.grant(root(), admin(), Right::Admin);
    // By others it would stand and fall with them: an admin could put out whoever posted its own founding.
    talk.say(admin(), ROOTS[1].founding());
    talk.member(1, 0, writer());
    assert_eq!(written(&talk.authority(root()), DOC, writer()), 0);
    talk.found(1, 0);
    assert_eq!(written(&talk.authority(root()), DOC, writer()), 0, "it is the second record of the chain");
    talk.say_in(1, key_of(1, 0), ROOTS[1].founding());
    assert_eq!(written(&talk.authority(root()), DOC, writer()), EVER);
}

#[test]
fn after_a_rotation_older_root_keys_count_within_its_cuts_only() {
    let authority_chain = |index| chain(&SPACE.authority(), &key_of(1, index), 0);
    let mut talk = Talk::default();
    talk.grant(root(), ROOTS[1].identity(), Right::Write);
    talk.found(1, 0);
    talk.member(1, 0, device(3));
    talk.member(1, 0, device(4));
    talk.say(key_of(1, 1), ROOTS[1].rotation(1, vec![(authority_chain(0), 2)]).unwrap());
    let member = talk.member(1, 1, device(5));
    let standing = |talk: &Talk| [3, 4, 5].map(|n| written(&talk.authority(root()), DOC, device(n)) == EVER);
    assert_eq!(standing(&talk), [true, false, true]);
    let authority = talk.authority(root());
    assert!(authority.may_revoke(&key_of(1, 1), &[member]));
    assert!(!authority.may_revoke(&key_of(1, 0), &[member]));

    // The old key, stolen, cannot get back at the new one: neither by taking back nor by rotating again.
    talk.revoke(key_of(1, 0), &[member], &[]);
    talk.say(key_of(1, 0), ROOTS[1].rotation(1, vec![]).unwrap());
    assert_eq!(standing(&talk), [true, false, true]);

    // Nor can a key that was passed over: the third cuts what the second said of the first.
    talk.say(key_of(1, 2), ROOTS[1].rotation(2, vec![(authority_chain(0), 3)]).unwrap());
    assert_eq!(standing(&talk), [true, true, false]);
}

#[test]
fn a_rotation_keeps_what_is_held_first_where_it_lets_somebody_in_and_says_the_same_again() {
    let authority_chain = |run| chain(&SPACE.authority(), &key_of(1, 0), run);
    let (identity, mut talk) = (ROOTS[1].identity(), Talk::default());
    talk.grant(root(), identity, Right::Write);
    // More chains than a rotation can name; those of the last runs let in who is still a member.
    let runs = ROTATE_CUTS_MAX as u8 + 60;
    for run in 0..runs {
        talk.say_in(run, key_of(1, 0), ROOTS[1].founding());
        let record = Record::Member { identity, device: device(run), name: String::new(), again: 0 };
        let member = talk.say_in(run, key_of(1, 0), record).id;
        if run < 100 {
            let revocation = revocation(vec![member], &BTreeMap::new());
            revocation.into_iter().for_each(|record| _ = talk.say_in(run, key_of(1, 0), record));
        }
    }
    let authority = talk.authority(root());
    let ends: BTreeMap<ChainId, u64> = (0..runs).map(|run| (authority_chain(run), 7)).collect();
    let cuts = authority.rotation_cuts(&identity, &key_of(1, 1), ends);
    assert_eq!(cuts.len(), ROTATE_CUTS_MAX);
    assert!((100..runs).all(|run| cuts.contains(&(authority_chain(run), 7))));
    let rotation = ROOTS[1].rotation(1, cuts.clone()).unwrap();
    assert_eq!(Record::from_bytes(&rotation.to_bytes()), Ok(rotation.clone()));
    let most = vec![(ChainId([255; 16]), u64::MAX); ROTATE_CUTS_MAX];
    assert!(ROOTS[1].rotation(1, most).unwrap().to_bytes().len() <= RECORD_BYTES_MAX);

    // Another chain of the new key: whatever has come meanwhile, it must not leave less.
    talk.say(key_of(1, 1), rotation);
    let authority = talk.authority(root());
    assert_eq!(authority.rotation_cuts(&identity, &key_of(1, 1), BTreeMap::new()), cuts);
    assert_eq!(authority.root_keys(&identity), [key_of(1, 0), key_of(1, 1)]);
    let in_force = authority.edges().into_iter().filter(|edge| edge.in_force() && edge.right.is_none());
    assert_eq!(in_force.count(), usize::from(runs) - 100);
}

#[test]
fn a_rotation_by_a_key_that_was_not_committed_to_is_none() {
    let mut talk = Talk::default();
    talk.grant(root(), ROOTS[1].identity(), Right::Write);
    talk.found(1, 0);
    talk.member(1, 0, writer());
    let Some(Record::Rotate { root: first_key, first, next, .. }) = ROOTS[1].rotation(1, vec![]) else { panic!() };
    talk.say(device(9), Record::Rotate { root: first_key, first, next, cuts: vec![] });
    // Nor by one that skips its predecessor.
    talk.say(key_of(1, 2), ROOTS[1].rotation(2, vec![]).unwrap());
    let authority = talk.authority(root());
    assert_eq!(written(&authority, DOC, writer()), EVER);
    assert_eq!([device(9), key_of(1, 2)].map(|key| authority.right_of(&key)), [None, None]);
}

#[test]
fn the_root_of_a_space_rotates_like_any_identity() {
    let mut talk = Talk::default();
    talk.found(0, 0);
    talk.grant(key_of(0, 0), admin(), Right::Admin);
    talk.grant(key_of(0, 0), writer(), Right::Admin);
    let cuts = vec![(chain(&SPACE.authority(), &key_of(0, 0), 0), 2)];
    talk.say(key_of(0, 1), ROOTS[0].rotation(1, cuts).unwrap());
    talk.grant(key_of(0, 1), device(4), Right::Admin);
    let authority = talk.authority(ROOTS[0].identity());
    let right = |device| authority.right_of(&device);
    assert_eq!([admin(), writer(), device(4)].map(right), [Some(Right::Admin), None, Some(Right::Admin)]);
    assert_eq!(right(key_of(0, 0)), None);
    assert!(authority.may_give(&key_of(0, 1), Right::Admin));
}

#[test]
fn records_from_where_a_chain_is_closed_do_not_count_and_the_least_closing_is_in_force() {
    let mut talk = Talk::default();
    for n in 3..7 {
        talk.grant(root(), device(n), Right::Write);
    }
    let mut authority = talk.authority(root());
    let closed = chain(&SPACE.authority(), &root(), 0);
    authority.close(closed, 4);
    authority.close(closed, 2);
    authority.close(closed, 3);
    assert_eq!([3, 4, 5, 6].map(|n| written(&authority, DOC, device(n)) == EVER), [true, false, false, false]);
    assert_eq!(authority.limit(&SPACE.authority(), &closed, &root(), Right::Admin), Limit::Upto(1));
}

#[test]
fn a_revocation_whose_cut_records_are_not_directly_before_it_says_nothing() {
    let stays = BTreeMap::from([(DOC, BTreeMap::from([(chain(&DOC, &writer(), 0), 3)]))]);
    let mut talk = Talk::default();
    let grant = talk.grant(root(), writer(), Right::Write);
    let parts = revocation(vec![grant], &stays);
    assert_eq!(parts.len(), 2);
    talk.say(root(), parts[1].clone());
    talk.say(root(), parts[0].clone());
    talk.say(root(), heading());
    talk.say(root(), parts[1].clone());
    assert_eq!(written(&talk.authority(root()), DOC, writer()), EVER);
    parts.into_iter().for_each(|part| {
        talk.say(root(), part);
    });
    assert_eq!(written(&talk.authority(root()), DOC, writer()), 3);
}

#[test]
fn every_holder_of_an_invites_secret_gets_its_right_and_taking_back_the_invite_takes_all_of_it() {
    let secret = SigningKey::from_bytes(&[9; 32]);
    let mut talk = Talk::default();
    talk.grant(root(), admin(), Right::Admin);
    let invited = talk.say(admin(), invite(&secret, Right::Write, 1)).id;
    let first = talk.say(writer(), redeem(&secret, &SPACE, &invited, &writer())).id;
    // A second one does not take the first one's right away, whichever is known first; it shows that the secret is out.
    talk.say(device(4), redeem(&secret, &SPACE, &invited, &device(4)));
    // Neither another's redemption nor another secret's does anything.
    talk.say(device(5), redeem(&secret, &SPACE, &invited, &writer()));
    talk.say(device(6), redeem(&SigningKey::from_bytes(&[8; 32]), &SPACE, &invited, &device(6)));
    let authority = talk.authority(root());
    let standing = |authority: &Authority| [3, 4, 5, 6].map(|n| written(authority, DOC, device(n)));
    assert_eq!(standing(&authority), [EVER, EVER, 0, 0]);
    let edge = authority.edges().into_iter().find(|edge| edge.record == invited).unwrap();
    assert_eq!(edge.kind, EdgeKind::Invite { uses: 1, used: 2 });
    assert_eq!(authority.path_of(&writer()), [first]);

    let stays = [end(SPACE.authority(), writer(), 1), end(DOC, writer(), 6), end(DOC, device(4), 6)];
    talk.revoke(admin(), &[invited], &stays);
    let authority = talk.authority(root());
    assert_eq!(standing(&authority), [6, 0, 0, 0], "a redemption that is not listed does not stay");
    let edge = authority.edges().into_iter().find(|edge| edge.record == first).unwrap();
    assert!(edge.revoked && edge.by == admin() && edge.subject == writer().into());
}

#[test]
fn a_newcomer_says_its_redemption_first_and_an_invite_holds_16_of_them() {
    let secret = SigningKey::from_bytes(&[9; 32]);
    let mut talk = Talk::default();
    let invited = talk.say(root(), invite(&secret, Right::Write, 1)).id;
    let mut authority = talk.authority(root());
    let judge = |authority: &mut Authority, first, n, records: &[Record]| {
        let of = |record: &Record| (Record::id(&SPACE, &device(n), &record.to_bytes()), record.clone());
        let records: Vec<_> = records.iter().map(of).collect();
        authority.judge(&device(n), &chain(&SPACE.authority(), &device(n), 0), first, &records)
    };
    let redemption = |n| redeem(&secret, &SPACE, &invited, &device(n));
    assert_eq!(judge(&mut authority, 1, 20, &[heading()]), Judgement::Wait);
    assert_eq!(judge(&mut authority, 1, 20, &[heading(), redemption(20)]), Judgement::Wait);
    assert_eq!(judge(&mut authority, 1, 20, &[redemption(20), heading()]), Judgement::Admit);
    assert!(authority.edges().iter().all(|edge| edge.record == invited), "a look leaves nothing behind");
    for n in 20..36 {
        assert_eq!(judge(&mut authority, 1, n, &[redemption(n)]), Judgement::Admit);
        let at = talk.say(device(n), redemption(n));
        authority.note(at, &redemption(n));
    }
    assert_eq!(judge(&mut authority, 1, 36, &[redemption(36)]), Judgement::Full);
    let talked = talk.said.len();
    talk.revoke(root(), &[invited], &[end(SPACE.authority(), device(20), 1), end(SPACE.authority(), device(36), 1)]);
    talk.said[talked..].iter().for_each(|(at, record)| authority.note(*at, record));
    assert_eq!(judge(&mut authority, 1, 36, &[redemption(36)]), Judgement::Admit, "those that were put out make room");
    assert_eq!(judge(&mut authority, 1, 37, &[redemption(37)]), Judgement::Cut);
}

#[test]
fn an_identity_and_a_new_root_key_come_in_by_their_own_first_record() {
    let mut talk = Talk::default();
    talk.grant(root(), ROOTS[1].identity(), Right::Write);
    let mut authority = talk.authority(root());
    let mut judge = |index, record: Record| {
        let key = key_of(1, index);
        let id = Record::id(&SPACE, &key, &record.to_bytes());
        authority.judge(&key, &chain(&SPACE.authority(), &key, 0), 1, &[(id, record)])
    };
    assert_eq!(judge(0, ROOTS[1].founding()), Judgement::Admit);
    assert_eq!(judge(1, ROOTS[1].rotation(1, vec![]).unwrap()), Judgement::Admit);
    assert_eq!(judge(2, ROOTS[1].rotation(2, vec![]).unwrap()), Judgement::Wait, "the key before it is not known");
    assert_eq!(judge(1, ROOTS[1].founding()), Judgement::Wait);
    assert_eq!(authority.right_of(&key_of(1, 0)), None, "a look leaves nothing behind");
    assert!(!authority.ever(&key_of(1, 0), Right::Relay));
}

#[test]
fn unknown_authority_means_wait_and_a_cut_is_told_from_it() {
    let mut talk = Talk::default();
    let at = |authority: &Authority| authority.limit(&DOC, &chain(&DOC, &writer(), 0), &writer(), Right::Write);
    assert_eq!(at(&Authority::new(SPACE)), Limit::Unknown);
    assert_eq!(at(&talk.authority(root())), Limit::Unknown);
    let grant = talk.grant(root(), writer(), Right::Read);
    assert_eq!(at(&talk.authority(root())), Limit::Unknown, "it may read");
    talk.revoke(root(), &[grant], &[]);
    let made = talk.grant(root(), admin(), Right::Admin);
    talk.grant(admin(), writer(), Right::Write);
    assert_eq!(at(&talk.authority(root())), Limit::All);
    talk.revoke(root(), &[made], &[]);
    assert_eq!(at(&talk.authority(root())), Limit::Upto(0));
}

#[test]
fn records_are_refused_beyond_the_cut_and_taken_whole_across_it() {
    let mut talk = Talk::default();
    let grant = talk.grant(root(), writer(), Right::Write);
    talk.revoke(root(), &[grant], &[end(SPACE.authority(), writer(), 3)]);
    let mut authority = talk.authority(root());
    let id = Record::id(&SPACE, &writer(), &heading().to_bytes());
    let records = vec![(id, heading()); 3];
    let mut judge = |first| authority.judge(&writer(), &chain(&SPACE.authority(), &writer(), 0), first, &records);
    assert_eq!([1, 3, 4].map(&mut judge), [Judgement::Admit, Judgement::Admit, Judgement::Cut]);
}

#[test]
fn where_anyone_may_write_a_revocation_ends_power_but_not_writing() {
    let mut talk = Talk::default();
    let made = talk.grant(root(), admin(), Right::Admin);
    talk.revoke(root(), &[made], &[]);
    talk.grant(admin(), writer(), Right::Read);
    let mut authority = space(root().into(), Writers::Anyone);
    talk.said.iter().for_each(|(at, record)| authority.note(*at, record));
    assert_eq!(authority.right_of(&admin()), Some(Right::Write));
    assert_eq!(written(&authority, DOC, admin()), EVER);
    assert!(!authority.may_give(&admin(), Right::Read));
    let vouch = Needed { right: Right::Write, gateway: true };
    assert!(authority.may(&root(), vouch, true) && !authority.may(&admin(), vouch, true));
}

#[test]
fn a_gateways_right_is_cut_with_its_grant() {
    let vouch = Needed { right: Right::Write, gateway: true };
    let mut talk = Talk::default();
    let record = Record::Grant { subject: writer().into(), right: Right::Write, gateway: true, again: 0 };
    let grant = talk.say(root(), record).id;
    talk.grant(root(), writer(), Right::Write);
    let foreign = ChainId([7; 16]);
    assert_eq!(talk.authority(root()).limit(&DOC, &foreign, &writer(), vouch), Limit::All);
    talk.revoke(root(), &[grant], &[(DOC, foreign, 11)]);
    let authority = talk.authority(root());
    assert_eq!(authority.limit(&DOC, &foreign, &writer(), vouch), Limit::Upto(11));
    assert_eq!(written(&authority, DOC, writer()), EVER, "its own writing goes on by the other grant");
    assert!(!authority.is_gateway(&writer()));
}

#[test]
fn those_whose_limits_a_record_changes_are_named_and_nobody_else() {
    let mut talk = Talk::default();
    let made = talk.grant(root(), admin(), Right::Admin);
    talk.grant(admin(), device(4), Right::Write);
    talk.grant(admin(), device(5), Right::Write);
    let mut authority = talk.authority(root());
    let before = authority.generation();
    let mut hear = |talk: &mut Talk, said: &dyn Fn(&mut Talk)| {
        let (since, from) = (authority.generation(), talk.said.len());
        said(talk);
        talk.said[from..].iter().for_each(|(at, record)| authority.note(*at, record));
        authority.affected(since).into_iter().collect::<Vec<_>>()
    };
    let first = hear(&mut talk, &|talk| {
        talk.grant(root(), device(6), Right::Write);
    });
    assert_eq!(first, [], "a first right cuts nobody");
    let cut = hear(&mut talk, &|talk| {
        talk.revoke(root(), &[made], &[end(SPACE.authority(), admin(), 1)]);
    });
    assert_eq!(cut, [admin(), device(5)]);
    let again = hear(&mut talk, &|talk| {
        talk.say(root(), Record::Grant { subject: admin().into(), right: Right::Admin, gateway: false, again: 1 });
    });
    assert_eq!(again, [admin(), device(5)]);
    assert!(authority.generation() > before);
    assert_eq!(authority.affected(authority.generation()), BTreeSet::new());
}

#[test]
fn what_somebody_says_who_has_no_say_makes_nobody_look_at_all_whom_an_admin_let_in() {
    let mut talk = Talk::default();
    talk.found(0, 0);
    talk.member(0, 0, root());
    let made = talk.grant(root(), admin(), Right::Admin);
    talk.grant(admin(), writer(), Right::Write);
    let authority = talk.authority(ROOTS[0].identity());
    let identity = ROOTS[0].identity();
    let Some(Record::Rotate { root: key, first, .. }) = ROOTS[0].rotation(1, vec![]) else { panic!() };
    for record in [
        Record::Grant { subject: admin().into(), right: Right::Write, gateway: false, again: 0 },
        Record::Revoke { records: vec![made], parts: 0 },
        Record::Member { identity, device: admin(), name: String::new(), again: 0 },
        Record::Rotate { root: key, first, next: [0; 32], cuts: vec![] },
        ROOTS[0].founding(),
    ] {
        let at = talk.say_in(1, writer(), record.clone());
        assert_eq!(authority.touches(&at, &record), [], "{record:?}");
        let at = talk.say_in(1, key_of(0, 0), record.clone());
        assert_eq!(authority.touches(&at, &record).is_empty(), matches!(record, Record::Rotate { .. }), "{record:?}");
    }
}

#[test]
fn a_request_to_erase_counts_by_whom_could_delete_and_names_who_has_erased() {
    let mut talk = Talk::default();
    let creator = talk.grant(root(), writer(), Right::Write);
    talk.grant(root(), device(4), Right::Relay);
    let by_root = talk.say(root(), Record::Erase { doc: DOC, note: "asked".into() }).id;
    let by_writer = talk.say(writer(), Record::Erase { doc: DOC, note: String::new() }).id;
    talk.say(device(4), Record::Erase { doc: DOC, note: "a relay's".into() });
    for device in [writer(), device(4), device(5)] {
        talk.say(device, Record::Erased { request: by_root });
    }
    // Said again in another chain, it is the same completion.
    talk.say_in(1, device(4), Record::Erased { request: by_root });
    let authority = talk.authority(root());
    let found = authority.erasures_of(&DOC);
    assert_eq!(found, authority.erasures());
    let of = |request| found.iter().find(|erasure| erasure.request == request).unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!((of(by_root).erased.clone(), of(by_root).note.as_str()), (vec![writer(), device(4)], "asked"));
    assert_eq!([by_root, by_writer].map(|id| of(id).counts(&writer())), [true, true]);
    assert_eq!([by_root, by_writer].map(|id| of(id).counts(&device(9))), [true, false]);
    assert!(authority.has_erased(&device(4), &DOC) && !authority.has_erased(&root(), &DOC));
    assert_eq!(authority.completed_by(&device(4)), BTreeMap::from([(root(), 1)]));

    // What the writer said further on is taken back: the request, and that it has erased.
    talk.revoke(root(), &[creator], &[]);
    let found = talk.authority(root()).erasures_of(&DOC);
    assert_eq!(found.iter().map(|erasure| erasure.request).collect::<Vec<_>>(), [by_root]);
    assert_eq!(found[0].erased, [device(4)]);
}

#[test]
fn a_successor_is_told_by_who_could_write() {
    let mut talk = Talk::default();
    let grant = talk.grant(root(), writer(), Right::Write);
    talk.say(writer(), Record::Successor { doc: OTHER, old: DOC });
    talk.say(device(9), Record::Successor { doc: DOC, old: OTHER });
    assert_eq!(talk.authority(root()).successors(), [(DOC, OTHER, writer())]);
    talk.revoke(root(), &[grant], &[]);
    assert_eq!(talk.authority(root()).successors(), []);
}

#[test]
fn where_a_device_can_be_dialled_is_what_it_said_last_while_it_has_a_right() {
    let mut talk = Talk::default();
    let grant = talk.grant(root(), writer(), Right::Relay);
    let place = |made_ms, at: &[&str]| Record::Place { made_ms, addresses: at.iter().map(|at| (*at).into()).collect() };
    talk.say(writer(), place(5, &["ws://a/"]));
    talk.say(writer(), place(9, &["ws://b/", "ws://c/"]));
    talk.say(writer(), place(7, &["ws://d/"]));
    talk.say(device(9), place(5, &["ws://stranger/"]));
    talk.say(root(), place(1, &["ws://root/"]));
    talk.say(root(), place(2, &[]));
    let places = |talk: &Talk| talk.authority(root()).places();
    assert_eq!(places(&talk), [(writer(), vec!["ws://b/".to_owned(), "ws://c/".to_owned()])]);
    // What it said stays, and there is nobody any more whom that would lead to.
    talk.revoke(root(), &[grant], &[end(SPACE.authority(), writer(), 9)]);
    assert_eq!(places(&talk), []);
}

#[test]
fn the_chains_that_a_revocation_has_to_list_are_those_of_the_devices_behind_it() {
    let mut talk = Talk::default();
    let grant = talk.grant(root(), ROOTS[1].identity(), Right::Write);
    talk.found(1, 0);
    let member = talk.member(1, 0, writer());
    let authority = talk.authority(root());
    let behind = authority.devices_by(&grant);
    assert!([key_of(1, 0), writer()].iter().all(|device| behind.contains(device)));
    assert_eq!(authority.devices_by(&member), BTreeSet::from([writer()]));
    assert!(authority.identities_of(&writer()).eq([&ROOTS[1].identity()]));
}

#[test]
fn a_cut_list_of_100_000_documents_is_small_and_quick() {
    let number = |i: u64| *blake3::hash(&i.to_be_bytes()).as_bytes();
    let of = |i: u64| (DocId(number(i)), ChainId(number(i)[16..].try_into().unwrap()));
    let mut talk = Talk::default();
    let grant = talk.grant(root(), writer(), Right::Write);
    let mut stays: BTreeMap<DocId, BTreeMap<ChainId, u64>> = BTreeMap::new();
    for (i, (doc, chain)) in (1..=100_000).map(|i| (i, of(i))) {
        stays.entry(doc).or_default().insert(chain, i);
    }
    let records = revocation(vec![grant], &stays);
    let bytes: usize = records.iter().map(|record| record.to_bytes().len()).sum();
    let parts = records.len() - 1;
    records.into_iter().for_each(|record| {
        talk.say(root(), record);
    });
    let authority = talk.authority(root());
    for i in 1..=100_000 {
        let (doc, chain) = of(i);
        assert_eq!(authority.limit(&doc, &chain, &writer(), Right::Write), Limit::Upto(i));
    }
    let memory = authority.cut_bytes();
    println!("{parts} parts, {bytes} bytes as records, {memory} in memory");
    assert!(memory <= 100 * 100_000);
}

#[test]
fn a_hundred_thousand_grants_are_noted_one_by_one_and_an_admins_end_is_felt_by_those_it_let_in() {
    let mut talk = Talk::default();
    let made = talk.grant(root(), admin(), Right::Admin);
    let of = |i: u32| DeviceId(*blake3::hash(&i.to_be_bytes()).as_bytes());
    for i in 0..100_000 {
        talk.grant(admin(), of(i), Right::Write);
    }
    let mut authority = talk.authority(root());
    assert!((0..100_000).all(|i| authority.right_of(&of(i)) == Some(Right::Write)));
    let (since, from) = (authority.generation(), talk.said.len());
    talk.revoke(root(), &[made], &[end(SPACE.authority(), admin(), 60_000)]);
    talk.said[from..].iter().for_each(|(at, record)| authority.note(*at, record));
    assert_eq!(authority.affected(since).len(), 40_001);
}
