//! Chains with several histories: what counts of them, on every peer alike, and what else is kept.

use proptest::prelude::*;

use super::*;

impl Held {
    /// Whether an entry counts.
    fn counts(&self, id: &EntryId) -> bool {
        let Some(meta) = self.log.graph.get(id) else { return false };
        meta.spot.n <= self.log.lines().all()[meta.spot.line as usize].counted(usize::from(meta.spot.branch))
    }

    fn need(&mut self, segment: Segment, need: Need) -> Admission {
        self.log.admit(&Rules::V1, &Limits::default(), segment, need)
    }

    #[track_caller]
    fn admitted(&mut self, segment: Segment) -> Admitted {
        match self.offer(segment) {
            Admission::Admitted(admitted) => admitted,
            other => panic!("{other:?}"),
        }
    }

    fn proofs(&self) -> Vec<ForkProof> {
        self.log.image().proofs().cloned().collect()
    }
}

/// One chain with two entries, and two ways on from there: the second is longer.
fn two_ways() -> (Chain, Chain, Chain) {
    let mut trunk = Chain::new(1, 1);
    trunk.next(1);
    trunk.next(2);
    let (mut left, mut right) = (trunk.clone(), trunk.clone());
    (3..5).for_each(|time| _ = left.next(time));
    (13..16).for_each(|time| _ = right.next(time));
    (trunk, left, right)
}

#[test]
fn of_two_histories_counts_what_they_share() {
    let (_, left, right) = two_ways();
    let mut held = Held::new();
    assert!(held.admitted(left.from(1)).proof.is_none());
    let second = held.admitted(right.from(1));
    let proof = second.proof.expect("two tips are a proof");
    assert!(proof.verifies(&SPACE) && proof.at() == 3 && second.reshown && second.counted == 2);
    assert_eq!(left.ids.iter().map(|id| held.counts(id)).collect::<Vec<_>>(), [true, true, false, false]);
    assert!(right.ids[2..].iter().all(|id| !held.counts(id)));
    let ends = held.log.clock().0.into_values().next().unwrap();
    assert_eq!((ends.closed, ends.heads), (Some(3), vec![(2, left.frontier(2).head())]));
    held.reload();
    assert!(held.counts(&left.ids[1]) && !held.counts(&left.ids[2]));
}

#[test]
fn peers_that_hold_different_branches_of_a_closed_chain_hold_the_same() {
    let (trunk, left, right) = two_ways();
    let hold = |first: &Chain, second: &Chain| {
        let mut held = Held::new();
        held.takes(first.from(1));
        held.takes(second.from(1));
        held
    };
    let both = [hold(&left, &right), hold(&right, &left)];
    let mut told = Held::new();
    told.takes(left.from(1));
    assert_eq!(told.log.close(&both[1].proofs()[0], &Limits::default(), None), ProofAdmission::Closed(true));
    // Known by the proof alone, and what comes after it.
    let mut late = Held::new();
    assert_eq!(late.log.close(&both[0].proofs()[0], &Limits::default(), None), ProofAdmission::Closed(false));
    assert!(matches!(late.offer(left.part(1, 3)), Admission::Admitted(a) if a.counted == 2 && !a.reshown));
    let mut shorter = Held::new();
    shorter.takes(trunk.from(1));
    shorter.log.close(&both[0].proofs()[0], &Limits::default(), None);
    let digest = both[0].log.digest();
    assert!(digest.is_some());
    for held in [&both[1], &told, &late, &shorter] {
        assert_eq!(held.log.digest(), digest);
    }
}

#[test]
fn what_another_chain_built_upon_counts_whenever_that_is_learnt() {
    let (_, left, right) = two_ways();
    let mut other = Chain::new(2, 2);
    other.on(1, &[left.ids[2]]);
    let mut before = Held::new();
    before.takes(left.from(1));
    before.takes(other.from(1));
    before.takes(right.from(1));
    let mut after = Held::new();
    after.takes(left.from(1));
    after.takes(right.from(1));
    assert!(!after.counts(&left.ids[2]));
    let found = after.admitted(other.from(1));
    assert!(found.reshown && found.counted == 1);
    for held in [&mut before, &mut after] {
        assert!(held.counts(&left.ids[2]) && !held.counts(&left.ids[3]) && !held.counts(&right.ids[2]));
        held.reload();
        assert!(held.counts(&left.ids[2]) && !held.counts(&left.ids[3]));
    }
    assert_eq!(before.log.digest(), after.log.digest());
}

#[test]
fn an_earlier_proof_closes_earlier_and_a_later_one_says_nothing_new() {
    let (trunk, left, right) = two_ways();
    let mut early = Chain { ids: trunk.ids[..1].to_vec(), entries: trunk.entries[..1].to_vec(), ..trunk.clone() };
    early.next(99);
    let mut held = Held::new();
    held.takes(left.from(1));
    held.takes(right.from(1));
    let later = held.proofs();
    let found = held.admitted(early.from(1));
    assert!(found.reshown && found.proof.is_some_and(|proof| proof.at() == 2));
    assert!(held.counts(&trunk.ids[0]) && !held.counts(&trunk.ids[1]));
    assert_eq!(held.log.close(&later[0], &Limits::default(), None), ProofAdmission::Known);
}

#[test]
fn nobody_builds_on_a_chain_that_its_past_shows_to_be_forked() {
    let (_, left, right) = two_ways();
    let mut held = Held::new();
    let (mut one, mut two) = (Chain::new(2, 2), Chain::new(3, 3));
    one.on(1, &[left.last()]);
    two.on(1, &[right.last()]);
    for chain in [&left, &right, &one, &two] {
        held.takes(chain.from(1));
    }
    assert!(held.counts(&left.last()) && held.counts(&right.last()), "each has somebody who built on it");
    let refused = |held: &mut Held, segment: Segment| match held.offer(segment) {
        Admission::Invalid(why) => assert!(why.starts_with("S7"), "{why}"),
        other => panic!("{other:?}"),
    };
    // Both at once; one after the other; behind a merge of the two.
    let mut both = Chain::new(4, 4);
    both.on(1, &[left.last(), right.last()]);
    refused(&mut held, both.from(1));
    let mut second = one.clone();
    second.on(2, &[one.last(), right.last()]);
    refused(&mut held, second.from(2));
    let mut merge = Chain::new(5, 5);
    merge.on(1, &[one.last(), two.last()]);
    held.takes(merge.from(1));
    merge.on(2, &[merge.last(), left.ids[3]]);
    refused(&mut held, merge.from(2));
    // The device itself may, in the first entry of another chain, on one branch.
    let mut own = Chain::new(1, 9);
    own.on(1, &[left.last(), two.last()]);
    held.takes(own.from(1));
    own.on(2, &[own.last(), right.last()]);
    refused(&mut held, own.from(2));
    let mut both = Chain::new(1, 10);
    both.on(1, &[left.last(), right.last()]);
    refused(&mut held, both.from(1));
    // But its chain does not go on once its past shows what it did.
    let mut on = left.clone();
    on.on(50, &[left.last(), two.last()]);
    refused(&mut held, on.from(5));
    // Nor does it leave its own past.
    let mut aside = Chain { ids: left.ids[..3].to_vec(), entries: left.entries[..3].to_vec(), ..left.clone() };
    aside.on(51, &[left.ids[2], one.last()]);
    refused(&mut held, aside.from(4));
}

#[test]
fn behind_the_end_of_a_chain_is_kept_what_was_asked_for_in_bounds_and_nothing_that_is_pushed() {
    let (trunk, left, right) = two_ways();
    let mut held = Held::new();
    held.takes(left.from(1));
    held.takes(right.from(1));
    let branch = |n: u64| {
        let mut chain = trunk.clone();
        chain.on(n as u8, &[trunk.last(), trunk.ids[0]]);
        (0..n / 121).for_each(|_| _ = chain.next(77));
        chain
    };
    assert!(matches!(held.need(branch(20).from(1), Need::Pushed), Admission::Idle));
    let taken = (20..100).filter(|n| matches!(held.offer(branch(*n).from(1)), Admission::Admitted(_))).count();
    assert_eq!(taken, Limits::default().branches_per_chain - 1, "the first fork is one of them");
    assert!(matches!(held.need(branch(120).from(1), Need::Awaited), Admission::Admitted(_)));
    assert!(matches!(held.need(branch(120).from(1), Need::Pushed), Admission::Duplicate));
}

#[test]
fn a_chain_that_parts_inside_a_snapshot_is_closed_once_that_is_read() {
    let (mut held, chains, deep) = over_a_snapshot();
    held.reload();
    let victim = &chains[0];
    let at = 2;
    let mut other = Chain { ids: victim.ids[..at].to_vec(), entries: victim.entries[..at].to_vec(), ..victim.clone() };
    // What ends inside the snapshot is taken for what is there.
    other.next(99);
    assert!(matches!(held.offer(other.from(1)), Admission::Duplicate));
    (at..=victim.ids.len()).for_each(|_| _ = other.next(99));
    assert!(matches!(held.offer(other.from(1)), Admission::NeedsDeep));
    let mut elsewhere = Held::new();
    // In an order in which each finds what it builds upon, whichever that is.
    (0..3).for_each(|_| chains.iter().for_each(|chain| drop(elsewhere.offer(chain.from(1)))));
    elsewhere.takes(other.from(1));
    let proof = elsewhere.proofs().remove(0);
    assert_eq!(held.log.close(&proof, &Limits::default(), None), ProofAdmission::NeedsDeep);
    held.log.deepen(deep);
    held.takes(other.from(1));
    assert_eq!(held.proofs(), [proof]);
    let same = |held: &Held| chains.iter().flat_map(|c| &c.ids).all(|id| held.counts(id) == elsewhere.counts(id));
    assert!(same(&held) && held.log.digest() == elsewhere.log.digest());
}

#[test]
fn a_hundred_thousand_branches_of_one_chain_are_not_kept_and_not_verified() {
    let (trunk, left, right) = two_ways();
    let mut held = Held::new();
    held.takes(left.from(1));
    held.takes(right.from(1));
    // A signature that verifies nothing: who looked at it would refuse, and not only leave it.
    let tip = Tip { n: 3, rights: vec![], signature: [7; 64] };
    let branch = |n: u32| {
        let mut dep = [0; 32];
        dep[..4].copy_from_slice(&n.to_be_bytes());
        let entry = change(&trunk.opening.actor(&SPACE, &DOC), 3, 1, &[EntryId(dep), trunk.last()]);
        Segment { doc: DOC, opening: trunk.opening.clone(), first: 3, entries: vec![entry], tip: tip.clone() }
    };
    let before = held.log.memory_bytes();
    for n in 0..100_000 {
        assert!(matches!(held.need(branch(n), Need::Pushed), Admission::Idle));
    }
    assert_eq!(held.log.memory_bytes(), before);
    let mut other = Chain::new(2, 2);
    other.on(1, &[left.last()]);
    held.takes(other.from(1));
    assert!(held.counts(&left.last()), "honest work goes on");
}

/// A history of entries of a few chains, some forked, whose dependencies are any entries before.
#[derive(Debug)]
struct Made {
    segment: Segment,
    id: EntryId,
    chain: usize,
    n: usize,
    deps: Vec<usize>,
}

fn history(steps: &[(u8, u8, Vec<prop::sample::Index>)]) -> Vec<Made> {
    // A way on: chain, and its entries by their place in the history.
    let mut ways: Vec<(usize, Chain, Vec<usize>)> =
        (0..4).map(|chain| (chain, Chain::new(chain as u8 % 3 + 1, chain as u64), vec![])).collect();
    let mut made: Vec<Made> = Vec::new();
    for (time, (way, back, others)) in steps.iter().enumerate() {
        let at = usize::from(*way) % ways.len();
        let (chain, mut writer, mut own) = (ways[at].0, ways[at].1.clone(), ways[at].2.clone());
        // One step in six leaves the way some entries back, and so begins another history.
        let leaves = back % 6 == 0 && !own.is_empty();
        if leaves {
            let keep = usize::from(*back / 6) % own.len();
            own.truncate(keep);
            writer.ids.truncate(keep);
            writer.entries.truncate(keep);
        }
        let mut deps: Vec<usize> = own.last().copied().into_iter().collect();
        deps.extend(others.iter().filter(|_| !made.is_empty()).map(|other| other.index(made.len())));
        deps.sort_unstable();
        deps.dedup();
        let ids: Vec<EntryId> = deps.iter().map(|dep| made[*dep].id).collect();
        let id = writer.on(time as u8, &ids);
        own.push(made.len());
        let n = own.len();
        made.push(Made { segment: writer.from(n), id, chain, n, deps });
        match leaves {
            true => ways.push((chain, writer, own)),
            false => ways[at] = (chain, writer, own),
        }
    }
    made
}

/// What counts, by the definition: of the valid entries those before the end of their chain, and what these build upon.
fn oracle(made: &[Made]) -> Vec<bool> {
    let mut pasts: Vec<BTreeSet<usize>> = Vec::new();
    let mut valid: Vec<bool> = Vec::new();
    let parts = |past: &BTreeSet<usize>, chain: usize| {
        let of = past.iter().map(|at| &made[*at]).filter(|m| m.chain == chain);
        let mut seen = BTreeMap::new();
        of.filter(|m| *seen.entry(m.n).or_insert(m.id) != m.id).map(|m| m.n).min()
    };
    for entry in made {
        let mut past: BTreeSet<usize> = entry.deps.iter().flat_map(|d| pasts[*d].clone()).collect();
        past.extend(&entry.deps);
        let own = parts(&past, entry.chain).is_none()
            && past.iter().all(|p| made[*p].chain != entry.chain || made[*p].n < entry.n);
        let device = |chain: usize| chain % 3;
        let mut on: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let others = entry.deps.iter().all(|dep| {
            let chain = made[*dep].chain;
            if parts(&past, chain).is_none_or(|n| made[*dep].n < n) {
                return true;
            }
            on.entry(chain).or_default().push(*dep);
            entry.n == 1 && device(chain) == device(entry.chain)
        });
        // On one branch: each of them follows the one before.
        let one = on.values().all(|tails| {
            let mut tails = tails.clone();
            tails.sort_by_key(|tail| made[*tail].n);
            tails.windows(2).all(|pair| pasts[pair[1]].contains(&pair[0]))
        });
        valid.push(own && others && one && entry.deps.iter().all(|dep| valid[*dep]));
        pasts.push(past);
    }
    let all: BTreeSet<usize> = (0..made.len()).filter(|at| valid[*at]).collect();
    let mut counts = vec![false; made.len()];
    for at in &all {
        if parts(&all, made[*at].chain).is_none_or(|end| made[*at].n < end) {
            counts[*at] = true;
            pasts[*at].iter().for_each(|past| counts[*past] = true);
        }
    }
    counts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(400)))]
    #[test]
    fn what_counts_depends_on_the_entries_and_not_on_how_they_came(
        steps in prop::collection::vec((any::<u8>(), any::<u8>(), prop::collection::vec(any::<prop::sample::Index>(), 0..3)), 1..40),
        orders in prop::collection::vec(any::<u64>(), 3),
    ) {
        let made = history(&steps);
        let expected = oracle(&made);
        let mut digests = Vec::new();
        for order in orders {
            let mut held = Held::new();
            let mut left: Vec<usize> = (0..made.len()).collect();
            left.sort_by_key(|at| blake3::hash(&[order.to_le_bytes(), (*at as u64).to_le_bytes()].concat()).to_hex());
            loop {
                let before = left.len();
                left.retain(|at| {
                    let segment = made[*at].segment.clone();
                    let admission = held.log.admit(&Rules::V1, &Limits::default(), segment, Need::Awaited);
                    if let Admission::Admitted(admitted) = &admission {
                        let (branch, segment) = (admitted.branch, admitted.segment.clone());
                        held.stored.push(StoredSegment { seq: held.stored.len() as u64 + 1, branch, segment });
                    }
                    matches!(admission, Admission::WaitsForEntry(_) | Admission::WaitsForPrefix | Admission::NeedsWhole)
                });
                if left.len() == before {
                    break;
                }
                if order % 3 == 0 {
                    held.reload();
                }
            }
            let counts: Vec<bool> = made.iter().map(|entry| held.counts(&entry.id)).collect();
            prop_assert_eq!(&counts, &expected);
            digests.push(held.log.digest());
            held.reload();
            prop_assert_eq!(held.log.digest(), digests[0]);
            prop_assert_eq!(made.iter().map(|entry| held.counts(&entry.id)).collect::<Vec<_>>(), counts);
        }
        prop_assert!(digests.iter().all(|digest| *digest == digests[0]));
    }
}

/// Cases of a property test: as many as the environment asks for.
#[allow(clippy::disallowed_methods, reason = "a test, which is started by hand")]
fn cases(default: u32) -> u32 {
    std::env::var("COMMONHOLD_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(default)
}

#[test]
fn another_history_inside_a_snapshot_is_looked_up_while_something_waits_for_it() {
    let mut held = Held::new();
    let mut left = Chain::new(1, 1);
    left.next(1);
    let mut right = left.clone();
    left.next(2);
    right.next(12);
    held.takes(left.from(1));
    let deep: Vec<DeepEntry> = (1..=2).map(|n| left.deep(n)).collect();
    held.cover(&[&left]);
    assert!(matches!(held.need(right.from(1), Need::Pushed), Admission::Duplicate));
    assert!(matches!(held.need(right.from(1), Need::Awaited), Admission::NeedsDeep));
    held.log.deepen(deep);
    assert!(matches!(held.need(left.from(1), Need::Awaited), Admission::Duplicate));
    let Admission::Admitted(other) = held.need(right.from(1), Need::Awaited) else { panic!("it is another history") };
    assert_eq!((other.branch, other.proof.map(|proof| proof.at())), (1, Some(2)));
}
