//! One log and the segments of a few writers, built by hand: who follows whom, in memory, after a reload, over a snapshot.

use ed25519_dalek::SigningKey;
use sha2::{Digest, Sha256};

use super::*;
use crate::chain::Tip;
use crate::merkle::Frontier;

mod closed;

const SPACE: SpaceId = SpaceId([1; 32]);
const DOC: DocId = DocId([2; 32]);

fn leb(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

/// A change without operations, which differs from others by `time`.
fn change(actor: &[u8], seq: u64, time: u8, deps: &[EntryId]) -> Vec<u8> {
    let mut deps: Vec<[u8; 32]> = deps.iter().map(|dep| dep.0).collect();
    deps.sort_unstable();
    let mut content = leb(deps.len() as u64);
    deps.iter().for_each(|dep| content.extend(dep));
    content.push(actor.len() as u8);
    content.extend(actor);
    content.extend(leb(seq));
    content.extend([1, time, 0, 0, 0]);
    let hashed = [vec![1], leb(content.len() as u64), content].concat();
    let checksum = Sha256::digest(&hashed);
    [&[0x85, 0x6f, 0x4a, 0x83][..], &checksum[..4], &hashed].concat()
}

/// One chain, or one history of it: a clone goes its own way.
#[derive(Clone)]
struct Chain {
    key: SigningKey,
    opening: Opening,
    ids: Vec<EntryId>,
    entries: Vec<Vec<u8>>,
}

impl Chain {
    fn new(device: u8, salt: u64) -> Chain {
        let key = SigningKey::from_bytes(&[device; 32]);
        let device = DeviceId(key.verifying_key().to_bytes());
        let opening = Opening { device, salt: salt.to_be_bytes(), kind: Kind::Own };
        Chain { key, opening, ids: vec![], entries: vec![] }
    }

    fn last(&self) -> EntryId {
        *self.ids.last().unwrap()
    }

    /// Makes the next entry, with these dependencies.
    fn on(&mut self, time: u8, deps: &[EntryId]) -> EntryId {
        let bytes = change(&self.opening.actor(&SPACE, &DOC), self.ids.len() as u64 + 1, time, deps);
        self.ids.push(change::id(&bytes).unwrap());
        self.entries.push(bytes);
        self.last()
    }

    /// The next entry, on the one before it.
    fn next(&mut self, time: u8) -> EntryId {
        let deps: Vec<EntryId> = self.ids.last().copied().into_iter().collect();
        self.on(time, &deps)
    }

    fn frontier(&self, n: usize) -> Frontier {
        let mut frontier = Frontier::default();
        self.ids[..n].iter().for_each(|id| frontier.push(id));
        frontier
    }

    fn tip(&self, n: usize) -> Tip {
        Tip::sign(&self.key, &SPACE, &DOC, &self.opening, n as u64, &self.frontier(n).head(), vec![])
    }

    /// Entries `first` to the last, signed.
    fn from(&self, first: usize) -> Segment {
        self.part(first, self.ids.len())
    }

    fn part(&self, first: usize, last: usize) -> Segment {
        let entries = self.entries[first - 1..last].to_vec();
        Segment { doc: DOC, opening: self.opening.clone(), first: first as u64, entries, tip: self.tip(last) }
    }

    fn deep(&self, n: usize) -> DeepEntry {
        let head = change::walk(&self.entries[n - 1], &Rules::V1).unwrap();
        DeepEntry { id: head.id, actor: self.opening.actor(&SPACE, &DOC), n: n as u64, max_op: 0, deps: head.deps }
    }
}

fn log() -> Log {
    let header = Header { creator: DeviceId([0; 32]), kind: String::new(), name: String::new() };
    Log::load(SPACE, DOC, Image::of_header(header), &[]).0
}

/// A log and what a store keeps of it.
struct Held {
    log: Log,
    stored: Vec<StoredSegment>,
}

impl Held {
    fn new() -> Held {
        Held { log: log(), stored: vec![] }
    }

    fn offer(&mut self, segment: Segment) -> Admission {
        let admission = self.log.admit(&Rules::V1, &Limits::default(), segment, Need::Asked);
        if let Admission::Admitted(admitted) = &admission {
            let (branch, segment) = (admitted.branch, admitted.segment.clone());
            self.stored.push(StoredSegment { seq: self.stored.len() as u64 + 1, branch, segment });
        }
        admission
    }

    #[track_caller]
    fn takes(&mut self, segment: Segment) {
        let admission = self.offer(segment);
        assert!(matches!(admission, Admission::Admitted(_)), "{admission:?}");
    }

    /// Covers whole chains by a snapshot whose only head is the last entry of the first of them.
    fn cover(&mut self, chains: &[&Chain]) {
        let heads = self.log.heads_for_snapshot(&[chains[0].last()]).unwrap();
        let chains = chains.iter().map(|c| (c.opening.clone(), c.frontier(c.ids.len()), c.tip(c.ids.len())));
        self.log.cover(SnapshotOf { bytes: 1, chains: chains.collect(), heads });
    }

    /// Writes the log to the store and reads it again.
    fn reload(&mut self) {
        let bytes = minicbor::to_vec(self.log.image()).unwrap();
        let image = minicbor::decode(&bytes).unwrap();
        let (log, bad) = Log::load(SPACE, DOC, image, &self.stored);
        assert_eq!(bad, 0);
        self.log = log;
    }
}

/// Chains a and b of 5, and c of 10; a snapshot of all, whose head is a's last. Then a11, which also builds on the inside.
fn over_a_snapshot() -> (Held, [Chain; 3], Vec<DeepEntry>) {
    let [mut a, mut b, mut c] = [1, 2, 3].map(|n| Chain::new(n, 0));
    (0..10).for_each(|_| _ = c.next(0));
    (0..5).for_each(|_| _ = b.next(0));
    (0..9).for_each(|_| _ = a.next(0));
    a.on(0, &[a.last(), c.last()]);
    let mut held = Held::new();
    [c.from(1), b.from(1), a.from(1)].into_iter().for_each(|segment| held.takes(segment));
    let deep: Vec<DeepEntry> = [&c, &b, &a].iter().flat_map(|x| (1..=x.ids.len()).map(|n| x.deep(n))).collect();
    held.cover(&[&a, &b, &c]);
    // b's end is a head as well, which this snapshot does not name.
    let inside = b.last();
    a.on(0, &[a.last(), inside]);
    assert!(matches!(held.offer(a.from(11)), Admission::NeedsDeep));
    held.log.deepen(deep.clone());
    held.takes(a.from(11));
    (held, [a, b, c], deep)
}

#[test]
fn a_restored_entry_on_the_inside_of_a_snapshot_makes_what_builds_on_it_wait_for_the_index() {
    let (mut held, [a, mut b, _], deep) = over_a_snapshot();
    held.reload();
    b.on(0, &[a.last()]);
    // Its predecessor is in the past of a11 alone, by way of the inside.
    assert!(matches!(held.offer(b.from(6)), Admission::NeedsDeep));
    held.log.deepen(deep);
    held.takes(b.from(6));
}

#[test]
fn a_past_that_is_not_known_is_not_written_into_a_snapshot() {
    let (mut held, [a, b, c], deep) = over_a_snapshot();
    let whole = |log: &Log| log.heads_for_snapshot(&[a.last()]).map(|heads| heads[0].past.clone());
    let mut full = vec![(b.opening.chain(&SPACE, &DOC), 5), (c.opening.chain(&SPACE, &DOC), 10)];
    full.sort();
    let sorted = |mut past: Vec<(ChainId, u64)>| {
        past.sort();
        past
    };
    assert_eq!(whole(&held.log).map(sorted), Some(full.clone()));
    held.reload();
    assert_eq!(whole(&held.log), None);
    held.log.deepen(deep);
    assert_eq!(whole(&held.log).map(sorted), Some(full));
}

#[test]
fn an_entry_stays_connected_when_a_snapshot_covers_all_before_it() {
    let [mut a, mut b] = [1, 2].map(|n| Chain::new(n, 0));
    let mut held = Held::new();
    b.next(0);
    a.next(0);
    a.on(0, &[a.last(), b.last()]);
    held.takes(b.from(1));
    held.takes(a.from(1));
    let short = a.clone();
    a.next(0);
    held.takes(a.from(3));
    // The snapshot names no head, so a2 is inside it, and a3 builds on nothing but a2.
    let chains = [&short, &b].map(|c| (c.opening.clone(), c.frontier(c.ids.len()), c.tip(c.ids.len())));
    held.log.cover(SnapshotOf { bytes: 1, chains: chains.into(), heads: vec![] });
    b.on(0, &[a.last()]);
    for reload in [false, true] {
        if reload {
            held.reload();
        }
        assert!(matches!(held.offer(b.from(2)), Admission::NeedsDeep));
        assert_eq!(held.log.heads_for_snapshot(&[a.last()]).map(|_| ()), None);
    }
    held.log.deepen(vec![b.deep(1), a.deep(1), a.deep(2)]);
    held.takes(b.from(2));
}

#[test]
fn an_entry_that_does_not_follow_its_predecessor_is_refused_however_it_is_asked() {
    let [mut a, mut b] = [1, 2].map(|n| Chain::new(n, 0));
    let mut held = Held::new();
    let first = a.next(0);
    b.on(0, &[first]);
    a.next(0);
    held.takes(a.part(1, 1));
    held.takes(b.from(1));
    held.takes(a.from(2));
    let mut liar = a.clone();
    liar.on(0, &[b.last()]);
    for reload in [false, true] {
        if reload {
            held.reload();
        }
        let admission = held.offer(liar.from(3));
        assert!(matches!(admission, Admission::Refused(Violation::PredecessorNotInPast)), "{admission:?}");
    }
    // The same once another has seen it.
    b.on(0, &[a.last(), b.last()]);
    held.takes(b.from(2));
    a.on(0, &[b.last()]);
    held.takes(a.from(3));
}

/// The histories 1-2-3-4a, 1-2-3-4b-5b-6b and 1-2-3-4b-5b-6c of one chain.
fn nested() -> [Chain; 3] {
    let mut a = Chain::new(1, 0);
    (0..3).for_each(|_| _ = a.next(0));
    let mut b = a.clone();
    a.next(1);
    b.next(2);
    b.next(2);
    let mut c = b.clone();
    b.next(2);
    c.next(3);
    [a, b, c]
}

#[test]
fn a_fork_of_a_fork_is_held_whichever_branch_came_first_and_from_wherever_it_is_sent() {
    let [a, b, c] = nested();
    for order in [[&a, &b, &c], [&b, &a, &c], [&c, &a, &b], [&b, &c, &a]] {
        for from in [1, 4] {
            let mut held = Held::new();
            held.takes(order[0].from(1));
            order[1..].iter().for_each(|chain| held.takes(chain.from(from)));
            // As a peer sends what follows the longest that the asker holds.
            for chain in order {
                assert!(matches!(held.offer(chain.from(chain.ids.len())), Admission::Duplicate));
            }
            assert_eq!(held.log.lines().all()[0].branches.len(), 3);
            held.reload();
            let mut on = c.clone();
            on.next(4);
            held.takes(on.from(7));
        }
    }
    // The last entry alone, as a live push brings it.
    let mut held = Held::new();
    held.takes(a.from(1));
    held.takes(b.from(4));
    held.takes(c.from(6));
    let branches: Vec<(u64, u64)> =
        held.log.lines().all()[0].branches.iter().map(|b| (b.shared, b.base.len())).collect();
    assert_eq!(branches, [(0, 0), (3, 3), (5, 5)]);
}

#[test]
fn a_branch_that_leaves_inside_the_snapshot_has_that_read_first_and_accuses_nobody() {
    let mut a = Chain::new(1, 0);
    (0..2).for_each(|_| _ = a.next(0));
    let mut b = a.clone();
    a.next(0);
    let mut other = a.clone();
    (0..7).for_each(|_| _ = a.next(1));
    (0..10).for_each(|_| _ = b.next(2));
    (0..3).for_each(|_| _ = other.next(3));
    let mut held = Held::new();
    held.takes(a.from(1));
    held.takes(other.from(4));
    held.cover(&[&a]);
    assert!(matches!(held.offer(b.from(1)), Admission::NeedsDeep));
    assert!(matches!(held.offer(b.from(3)), Admission::NeedsWhole));
    // A branch that is held goes on, though it is shorter than the snapshot.
    (0..3).for_each(|_| _ = other.next(3));
    held.takes(other.from(7));
    assert!(matches!(held.offer(other.part(4, 6)), Admission::Duplicate));
    assert!(matches!(held.offer(a.part(2, 5)), Admission::Duplicate));
    // A tip that signs nothing accuses its deliverer.
    let lie = Segment { tip: b.tip(11), ..b.from(1) };
    let lie = Segment { tip: Tip { n: 12, ..lie.tip.clone() }, ..lie };
    assert!(matches!(held.offer(lie), Admission::Refused(Violation::BadTip)));
}

#[test]
fn memory_grows_with_the_entries_and_not_with_the_square_of_the_chains() {
    // Each chain is built on the last, and the last entry of each on all that went before.
    let mut held = Held::new();
    let mut last: Vec<EntryId> = Vec::new();
    let limits = Limits { live_chains_per_device: usize::MAX, ..Limits::default() };
    let mut memory = Vec::new();
    for salt in 0..400 {
        let mut chain = Chain::new(1, salt);
        last = vec![chain.on(0, &last)];
        let admission = held.log.admit(&Rules::V1, &limits, chain.from(1), Need::Asked);
        assert!(matches!(admission, Admission::Admitted(_)), "{admission:?}");
        memory.push(held.log.memory_bytes());
    }
    let (half, whole) = (memory[199] - memory[0], memory[399] - memory[199]);
    assert!(whole <= half + half / 50, "{half} bytes for 200 chains, {whole} for the next 200");
    // And everything is in the past of the last.
    let heads = held.log.heads_for_snapshot(&last).unwrap();
    assert_eq!(heads[0].past.len(), 399);
}

#[test]
fn a_log_with_as_many_chains_as_are_held_takes_no_other_and_goes_on_with_those() {
    let limits = Limits { chains_per_log: 2, ..Limits::default() };
    let mut held = log();
    let mut chains = [1, 2, 3].map(|n| Chain::new(n, 0));
    for (n, chain) in chains.iter_mut().enumerate() {
        chain.next(0);
        match held.admit(&Rules::V1, &limits, chain.from(1), Need::Asked) {
            Admission::Admitted(_) => assert!(n < 2),
            admission => assert!(n == 2 && matches!(admission, Admission::NotHeld("chains")), "{admission:?}"),
        }
    }
    chains[0].next(0);
    assert!(matches!(held.admit(&Rules::V1, &limits, chains[0].from(2), Need::Asked), Admission::Admitted(_)));
}

/// Found by the fuzzer of stored rows: the reader looked at the first branch of a chain that had none.
#[test]
fn a_stored_chain_without_a_branch_is_not_read() {
    let opening = Opening { device: DeviceId([1; 32]), salt: [1; 8], kind: Kind::Own };
    let line = Line { opening, branches: Vec::new(), closed: None, cut: None };
    let bytes = minicbor::to_vec(&line).unwrap();
    assert!(minicbor::decode::<Line>(&bytes).is_err());
}
