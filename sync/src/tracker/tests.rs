use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::*;

const NOW: Now = Now(1_000_000);

fn key(n: u32) -> SigningKey {
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&n.to_be_bytes());
    SigningKey::from_bytes(&seed)
}

fn record(n: u32) -> PeerRecord {
    PeerRecord::sign(&key(n), 1_000, 1, &[format!("ws://192.0.2.{}:7340/", n % 256)])
}

fn topic(n: u8) -> Topic {
    Topic([n; 32])
}

fn block(n: u32) -> Block {
    let [_, a, b, c] = n.to_be_bytes();
    Block::V4([a, b, c])
}

fn tracker(change: impl FnOnce(&mut TrackerLimits)) -> Tracker {
    let mut limits = TrackerLimits::default();
    change(&mut limits);
    Tracker::new(limits)
}

/// What must hold of the tables whatever was announced.
fn assert_sound(tracker: &Tracker) {
    let limits = &tracker.limits;
    assert!(tracker.devices.len() <= limits.devices_max);
    assert!(tracker.blocks.values().all(|devices| devices.len() <= limits.devices_per_block));
    assert!(tracker.topics.values().all(|there| !there.is_empty() && there.len() <= limits.devices_per_topic));
    assert!(tracker.topics.values().all(|there| there.is_sorted()));
    assert_eq!(tracker.places, tracker.topics.values().map(Vec::len).sum::<usize>());
    assert!(tracker.places <= limits.places_max);
    assert_eq!(tracker.expiry.len(), tracker.devices.len());
    assert_eq!(tracker.blocks.values().map(BTreeSet::len).sum::<usize>(), tracker.devices.len());
    for (device, listed) in &tracker.devices {
        assert!(tracker.expiry.contains(&(listed.until, *device)));
        assert!(tracker.blocks[&listed.block].contains(&(listed.until, *device)));
        assert!(listed.topics.iter().all(|topic| tracker.topics[topic].binary_search(device).is_ok()));
    }
    for (topic, there) in &tracker.topics {
        assert!(there.iter().all(|device| tracker.devices[device].topics.contains(topic)));
        let mut of_block: BTreeMap<Block, usize> = BTreeMap::new();
        there.iter().for_each(|device| *of_block.entry(tracker.devices[device].block).or_default() += 1);
        assert!(of_block.values().all(|count| *count <= limits.devices_per_topic_and_block));
    }
}

#[test]
fn two_that_announce_a_topic_are_told_of_each_other_and_of_no_other_topic() {
    let mut tracker = tracker(|_| {});
    let mut announce =
        |n, topics: &[Topic]| tracker.announce(NOW, &record(n), topics, block(n), [n as u8; 32]).unwrap();
    assert!(announce(1, &[topic(1), topic(2)]).found.is_empty());
    assert!(announce(2, &[topic(3)]).found.is_empty());
    let peers = announce(3, &[topic(4), topic(2)]);
    assert_eq!(peers.found, [Found { record: record(1), topics: vec![1] }]);
    assert_eq!(peers.ttl_s, TRACKER_TTL_S);
    assert_eq!(announce(1, &[topic(2)]).found, [Found { record: record(3), topics: vec![0] }]);
}

#[test]
fn an_announce_replaces_the_last_one_and_ends_with_its_time() {
    let mut tracker = tracker(|_| {});
    tracker.announce(NOW, &record(1), &[topic(1)], block(1), [0; 32]).unwrap();
    tracker.announce(NOW, &record(1), &[topic(2)], block(9), [0; 32]).unwrap();
    assert_sound(&tracker);
    assert!(tracker.announce(NOW, &record(2), &[topic(1)], block(2), [0; 32]).unwrap().found.is_empty());
    let end = Now(NOW.0 + TRACKER_TTL_S * 1_000);
    let before = Now(end.0 - 1);
    assert_eq!(tracker.announce(before, &record(3), &[topic(2)], block(3), [0; 32]).unwrap().found.len(), 1);
    tracker.expire(end);
    assert_sound(&tracker);
    assert_eq!(tracker.len(), 1);
    tracker.expire(Now(u64::MAX));
    assert!(tracker.is_empty() && tracker.places == 0 && tracker.topics.is_empty() && tracker.blocks.is_empty());
}

#[test]
fn who_can_be_dialled_nowhere_is_told_of_others_and_not_listed() {
    let mut tracker = tracker(|_| {});
    tracker.announce(NOW, &record(1), &[topic(1)], block(1), [0; 32]).unwrap();
    let nowhere = PeerRecord::sign(&key(2), 1_000, 4, &[]);
    assert_eq!(tracker.announce(NOW, &nowhere, &[topic(1)], block(2), [0; 32]).unwrap().found.len(), 1);
    assert_eq!(tracker.len(), 1);
    // Whoever withdraws its addresses is listed no more.
    let withdrawn = PeerRecord::sign(&key(1), 2_000, 4, &[]);
    tracker.announce(NOW, &withdrawn, &[topic(1)], block(1), [0; 32]).unwrap();
    assert!(tracker.is_empty());
}

#[test]
fn fake_and_old_records_and_hasty_devices_are_refused() {
    let mut tracker = tracker(|limits| limits.announces_per_minute = 2);
    let mut fake = record(1);
    fake.device = record(2).device;
    let announce = |tracker: &mut Tracker, now, record: &PeerRecord, topics: &[Topic]| {
        tracker.announce(now, record, topics, block(1), [0; 32]).map(drop)
    };
    assert_eq!(announce(&mut tracker, NOW, &fake, &[topic(1)]), Err(TrackerRefusal::BadSignature));
    assert_eq!(announce(&mut tracker, NOW, &record(1), &[topic(1); 257]), Err(TrackerRefusal::TooManyTopics));
    assert!(tracker.is_empty());
    let newer = PeerRecord::sign(&key(1), 2_000, 1, &["ws://192.0.2.9:1/".into()]);
    assert_eq!(announce(&mut tracker, NOW, &newer, &[topic(1)]), Ok(()));
    assert_eq!(announce(&mut tracker, NOW, &record(1), &[topic(1)]), Err(TrackerRefusal::Outdated));
    assert_eq!(announce(&mut tracker, NOW, &newer, &[topic(1)]), Ok(()), "the same record again");
    assert_eq!(announce(&mut tracker, NOW, &newer, &[topic(1)]), Err(TrackerRefusal::TooOften));
    assert_eq!(announce(&mut tracker, Now(NOW.0 + WINDOW_MS), &newer, &[topic(1)]), Ok(()));
    assert_sound(&tracker);
}

#[test]
fn a_block_has_its_share_and_its_newest_announce_counts() {
    let mut tracker = tracker(|limits| limits.devices_per_block = 4);
    for n in 0..20 {
        tracker.announce(Now(NOW.0 + u64::from(n)), &record(n), &[topic(1)], block(1), [0; 32]).unwrap();
        assert_sound(&tracker);
    }
    assert_eq!(tracker.len(), 4);
    assert!((16..20).all(|n| tracker.devices.contains_key(&record(n).device)));
}

#[test]
fn a_flood_from_few_blocks_does_not_push_out_others() {
    let mut tracker = tracker(|limits| limits.devices_max = 40);
    for n in 0..10 {
        tracker.announce(NOW, &record(n), &[topic(1)], block(n), [0; 32]).unwrap();
    }
    for n in 100..400 {
        let _ = tracker.announce(NOW, &record(n), &[topic(1)], block(50 + n % 2), [0; 32]);
    }
    assert_sound(&tracker);
    assert!((0..10).all(|n| tracker.devices.contains_key(&record(n).device)), "the honest are all there");
    // A newcomer of a block of its own takes a place of the largest.
    tracker.announce(NOW, &record(11), &[topic(1)], block(11), [0; 32]).unwrap();
    assert_eq!(tracker.len(), 40);
    // Where every block has one device, a newcomer waits.
    let mut narrow = Tracker::new(TrackerLimits { devices_max: 2, ..TrackerLimits::default() });
    for n in 0..2 {
        narrow.announce(NOW, &record(n), &[topic(1)], block(n), [0; 32]).unwrap();
    }
    assert_eq!(narrow.announce(NOW, &record(2), &[topic(1)], block(2), [0; 32]), Err(TrackerRefusal::Full));
}

#[test]
fn the_places_of_a_topic_are_bounded_by_block_and_in_all() {
    let mut tracker = tracker(|limits| {
        (limits.devices_per_topic, limits.devices_per_topic_and_block, limits.places_max) = (6, 2, 9);
    });
    for n in 0..40 {
        tracker.announce(Now(NOW.0 + u64::from(n)), &record(n), &[topic(1), topic(2)], block(n / 10), [0; 32]).unwrap();
        assert_sound(&tracker);
    }
    assert_eq!(tracker.places, 9);
}

#[test]
fn an_answer_is_a_random_sample_in_which_no_topic_crowds_out_another() {
    let mut tracker = tracker(|_| {});
    for n in 0..600 {
        tracker.announce(NOW, &record(n), &[topic(1)], block(n), [0; 32]).unwrap();
    }
    tracker.announce(NOW, &record(600), &[topic(2)], block(600), [0; 32]).unwrap();
    let mut ask =
        |seed| tracker.announce(NOW, &record(601), &[topic(1), topic(2)], block(601), [seed; 32]).unwrap().found;
    let (one, again, other) = (ask(1), ask(1), ask(2));
    assert_eq!(one.len(), TRACKER_SAMPLE_MAX + 1);
    assert_eq!(one, again, "the seed decides");
    assert_ne!(one, other);
    assert!(one.iter().any(|found| found.topics == [1]), "of the small topic as well");
    let topics: Vec<Topic> = (0..20).map(|n| topic(100 + n)).collect();
    for n in 700..1_000 {
        tracker.announce(NOW, &record(n), &[topics[n as usize % 20]], block(n), [0; 32]).unwrap();
    }
    let found = tracker.announce(NOW, &record(1_001), &topics, block(1_001), [3; 32]).unwrap().found;
    assert_eq!(found.len(), PEERS_MAX);
    let named: BTreeSet<u32> = found.iter().flat_map(|found| found.topics.clone()).collect();
    assert_eq!(named.len(), 20);
}

#[test]
fn two_clocks_that_differ_by_an_hour_have_a_topic_in_common_at_midnight() {
    let space = SpaceId([5; 32]);
    let midnight = 20_000 * DAY_MS;
    let topics = |at| Topic::around(&space, at).collect::<BTreeSet<_>>();
    assert_eq!(topics(midnight + DAY_MS / 2), BTreeSet::from([Topic::of(&space, 20_000)]));
    assert_eq!(topics(midnight).len(), 2);
    for minutes in -240i64..240 {
        let (slow, fast) =
            (midnight.strict_add_signed(minutes * 60_000), midnight.strict_add_signed((minutes + 60) * 60_000));
        assert!(topics(slow).intersection(&topics(fast)).next().is_some(), "{minutes} minutes from midnight");
    }
    assert_eq!(topics(0).len(), 1, "there is no day before the first");
    assert_ne!(Topic::of(&space, 1), Topic::of(&SpaceId([6; 32]), 1));
}

#[test]
fn blocks_are_what_one_party_commands() {
    let of = |text: &str| Block::of(text.parse().unwrap());
    assert_eq!(of("192.0.2.1"), of("192.0.2.200"));
    assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.7"));
    assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
    assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:ffff::9"));
    assert_ne!(of("2001:db8:1::1"), of("2001:db8:2::1"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_tables_stay_sound_whatever_is_announced(
        announces in proptest::collection::vec((0u32..24, 0u32..4, proptest::collection::vec(0u8..6, 0..5), 0u64..400_000), 1..80),
    ) {
        let mut tracker = tracker(|limits| {
            *limits = TrackerLimits {
                devices_max: 12, devices_per_block: 5, devices_per_topic: 6, devices_per_topic_and_block: 3, places_max: 20, announces_per_minute: 8,
            };
        });
        let mut now = NOW;
        for (n, of, topics, later) in announces {
            now = Now(now.0 + later);
            let topics: Vec<Topic> = topics.into_iter().map(topic).collect();
            let _ = tracker.announce(now, &record(n), &topics, block(of), [n as u8; 32]);
            assert_sound(&tracker);
        }
    }
}
