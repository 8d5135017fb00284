//! Reconciliation by ranges of the sorted elements: the way that always ends, at 16 bytes for each part of a range that
//! differs instead of 25 for each element.
//!
//! The asker names [`Range`]s; the responder answers each from its [`RangeSet`] alone ([`respond`], stateless) with the
//! elements, if they are at most [`ITEMS_MAX`], or else with the fingerprints of its 16 parts. The [`Asker`] asks on
//! where a part differs, so a difference is found after `log16(n / 32)` rounds, or as many messages as its ranges need.
//!
//! A fingerprint is a length and the sum of the elements modulo 2^128: enough against accidents. A member that chooses
//! documents to collide under a known seed hides its choice from this pass, and is found out under the next seed.

use std::collections::{BTreeMap, BTreeSet};

pub use super::codec::{decode_answers, decode_ranges, encode_answers, encode_ranges};
use super::{Element, Fault, Progress};

/// Ranges in one message, at most. Answers to so many are at most 132 KiB.
pub const ASK_RANGES_MAX: usize = 256;

/// Elements up to which a range is answered with a list: 512 bytes, as long as the fingerprints would be.
pub const ITEMS_MAX: usize = 32;

/// Nibbles of an element.
const DEPTH_MAX: u8 = 32;

/// All elements that begin with the same `depth` nibbles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    depth: u8,
    first: Element,
}

impl Range {
    /// Every element.
    pub const ALL: Range = Range { depth: 0, first: Element([0; 16]) };

    /// The range of `depth` nibbles (0 to 32) that begins with `first`, or `None` if none does.
    pub fn new(depth: u8, first: Element) -> Option<Range> {
        let range = Range { depth, first };
        (depth <= DEPTH_MAX && first.bits() & range.rest() == 0).then_some(range)
    }

    /// Nibbles that all elements of the range share.
    pub fn depth(&self) -> u8 {
        self.depth
    }

    /// The least element of the range.
    pub fn first(&self) -> Element {
        self.first
    }

    /// The greatest element of the range.
    fn last(&self) -> Element {
        Element::from_bits(self.first.bits() | self.rest())
    }

    /// The bits in which elements of the range differ.
    fn rest(&self) -> u128 {
        u128::MAX.checked_shr(4 * u32::from(self.depth)).unwrap_or(0)
    }

    /// Part `nibble` (0 to 15) of the range, which must not be a single element.
    pub(super) fn part(&self, nibble: u8) -> Range {
        debug_assert!(self.depth < DEPTH_MAX && nibble < 16, "no such part");
        let shift = 4 * u32::from(DEPTH_MAX - 1 - self.depth);
        Range { depth: self.depth + 1, first: Element::from_bits(self.first.bits() | u128::from(nibble) << shift) }
    }
}

/// What tells two sets apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fingerprint {
    /// Number of elements.
    pub len: u64,
    /// Sum of the elements as big-endian numbers, modulo 2^128.
    pub sum: u128,
}

impl Fingerprint {
    fn of(elements: &[Element]) -> Self {
        let sum = elements.iter().fold(0, |sum: u128, element| sum.wrapping_add(element.bits()));
        Fingerprint { len: elements.len() as u64, sum }
    }
}

/// A set in order, with running sums, so that any fingerprint costs two searches. 32 bytes an element. It is a snapshot:
/// a responder keeps it while it answers one asker, because an answer from a changed set ends the pass.
#[derive(Debug, Clone)]
pub struct RangeSet {
    elements: Vec<Element>,
    /// `sums[i]`: the sum of the first `i` elements.
    sums: Vec<u128>,
}

impl RangeSet {
    /// Takes a set in any order; repeats count once.
    pub fn new(elements: impl IntoIterator<Item = Element>) -> Self {
        let mut elements: Vec<Element> = elements.into_iter().collect();
        elements.sort_unstable();
        elements.dedup();
        let mut sums = Vec::with_capacity(elements.len() + 1);
        sums.push(0u128);
        for element in &elements {
            sums.push(sums[sums.len() - 1].wrapping_add(element.bits()));
        }
        RangeSet { elements, sums }
    }

    /// The fingerprint of a range.
    pub fn fingerprint(&self, range: Range) -> Fingerprint {
        let (from, to) = self.bounds(range);
        Fingerprint { len: (to - from) as u64, sum: self.sums[to].wrapping_sub(self.sums[from]) }
    }

    /// The elements of a range, in order.
    pub fn items(&self, range: Range) -> &[Element] {
        let (from, to) = self.bounds(range);
        &self.elements[from..to]
    }

    fn bounds(&self, range: Range) -> (usize, usize) {
        let (first, last) = (range.first(), range.last());
        (self.elements.partition_point(|e| *e < first), self.elements.partition_point(|e| *e <= last))
    }
}

/// The answer to one range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The range that was asked for.
    pub range: Range,
    /// What the responder holds of it.
    pub found: Found,
}

/// What a responder holds of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Everything: at most [`ITEMS_MAX`] elements, in order.
    Items(Vec<Element>),
    /// The fingerprints of the 16 parts, where there are more elements.
    Split(Box<[Fingerprint; 16]>),
}

/// Answers up to [`ASK_RANGES_MAX`] ranges; later ones are not answered. The work is at most 34 binary searches for each.
pub fn respond(set: &RangeSet, ranges: &[Range]) -> Vec<Answer> {
    let answer = |&range: &Range| {
        let items = set.items(range);
        let found = if items.len() <= ITEMS_MAX {
            Found::Items(items.to_vec())
        } else {
            // More than one element, so the range has parts.
            Found::Split(Box::new(core::array::from_fn(|nibble| set.fingerprint(range.part(nibble as u8)))))
        };
        Answer { range, found }
    };
    ranges.iter().take(ASK_RANGES_MAX).map(answer).collect()
}

/// The asker's side. [`Asker::ask`], send, [`Asker::accept`] the answers, until done; several messages may be under way.
///
/// **Bounds:** the responder may claim at most `remote_max` elements, and the lengths of parts must add up to that of
/// their range. A split range has more than [`ITEMS_MAX`] elements, so there are at most `remote_max / 33` of them at
/// each of 32 depths, and at most 16 times as many answers as splits; for uniform elements about `log16(n)` depths occur.
/// Ranges still to be
/// asked for are kept, 64 bytes each; deep ones go first, so with one message at a time they are at most 4,096 a depth.
#[derive(Debug)]
pub struct Asker {
    local: RangeSet,
    remote_max: u64,
    /// Ranges to ask for, deepest last, with what the responder said of them (nothing, of the first).
    waiting: Vec<(Range, Option<Fingerprint>)>,
    asked: BTreeMap<Range, Option<Fingerprint>>,
    only_remote: BTreeSet<Element>,
    only_local: BTreeSet<Element>,
    ended: bool,
}

impl Asker {
    /// Starts with one's own set, against a responder of at most `remote_max` elements.
    pub fn new(local: RangeSet, remote_max: u64) -> Self {
        Asker {
            local,
            remote_max,
            waiting: vec![(Range::ALL, None)],
            asked: BTreeMap::new(),
            only_remote: BTreeSet::new(),
            only_local: BTreeSet::new(),
            ended: false,
        }
    }

    /// The next ranges to ask for, at most [`ASK_RANGES_MAX`]. None: wait for the answers that are under way.
    pub fn ask(&mut self) -> Vec<Range> {
        let next = self.waiting.split_off(self.waiting.len().saturating_sub(ASK_RANGES_MAX));
        let ranges = next.iter().map(|&(range, _)| range).collect();
        self.asked.extend(next);
        ranges
    }

    /// Takes answers to ranges that were asked for, some or all, in any order.
    ///
    /// # Errors
    /// A [`Fault`] ends the pass.
    pub fn accept(&mut self, answers: &[Answer]) -> Result<Progress, Fault> {
        if self.ended {
            return Err(Fault::Ended);
        }
        let result = answers.iter().try_for_each(|answer| self.accept_one(answer));
        self.ended = result.is_err() || self.waiting.is_empty() && self.asked.is_empty();
        result?;
        if !self.ended {
            return Ok(Progress::NeedMore);
        }
        let list = |set: &mut BTreeSet<Element>| core::mem::take(set).into_iter().collect();
        Ok(Progress::Done { only_remote: list(&mut self.only_remote), only_local: list(&mut self.only_local) })
    }

    fn accept_one(&mut self, answer: &Answer) -> Result<(), Fault> {
        let range = answer.range;
        let claim = self.asked.remove(&range).ok_or(Fault::Inconsistent("an answer that was not asked for"))?;
        let told = match &answer.found {
            Found::Items(items) => Fingerprint::of(items),
            Found::Split(parts) => Fingerprint {
                len: parts.iter().fold(0, |len, part| len.saturating_add(part.len)),
                sum: parts.iter().fold(0, |sum, part| sum.wrapping_add(part.sum)),
            },
        };
        if claim.is_some_and(|claim| claim != told) {
            // A lie, or the set is not the one that it was.
            return Err(Fault::SetChanged);
        }
        if told.len > self.remote_max {
            return Err(Fault::TooMany { max: self.remote_max });
        }
        match &answer.found {
            Found::Items(items) => self.compare(range, items),
            Found::Split(parts) => self.descend(range, parts, told.len),
        }
    }

    fn compare(&mut self, range: Range, items: &[Element]) -> Result<(), Fault> {
        let ordered = items.is_sorted_by(|a, b| a < b);
        let inside = items.iter().all(|item| (range.first()..=range.last()).contains(item));
        if !ordered || !inside || items.len() > ITEMS_MAX {
            return Err(Fault::Inconsistent("not a list of elements of the range"));
        }
        let own = self.local.items(range);
        self.only_remote.extend(items.iter().filter(|item| own.binary_search(item).is_err()));
        self.only_local.extend(own.iter().filter(|item| items.binary_search(item).is_err()));
        Ok(())
    }

    fn descend(&mut self, range: Range, parts: &[Fingerprint; 16], len: u64) -> Result<(), Fault> {
        if range.depth() == DEPTH_MAX || len <= ITEMS_MAX as u64 {
            return Err(Fault::Inconsistent("a range was split that should have been listed"));
        }
        for (part, nibble) in parts.iter().zip(0..) {
            let range = range.part(nibble);
            if part.len == 0 {
                self.only_local.extend(self.local.items(range));
            } else if *part != self.local.fingerprint(range) {
                self.waiting.push((range, Some(*part)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{elements, parted};
    use super::*;
    use proptest::prelude::*;

    /// Runs a pass over the wire format. Returns the end and the number of messages asked.
    fn run(remote: &RangeSet, mut asker: Asker) -> (Result<Progress, Fault>, usize) {
        for messages in 1.. {
            let asked = asker.ask();
            assert!((1..=ASK_RANGES_MAX).contains(&asked.len()));
            let answers = respond(remote, &decode_ranges(&encode_ranges(&asked)).unwrap());
            match asker.accept(&decode_answers(&encode_answers(&answers)).unwrap()) {
                Ok(Progress::NeedMore) => {}
                end => {
                    assert_eq!(asker.accept(&[]), Err(Fault::Ended));
                    return (end, messages);
                }
            }
        }
        unreachable!()
    }

    fn check(shared: usize, remote: usize, local: usize) -> usize {
        let sets = parted(7, shared, remote, local);
        let (end, messages) = run(&RangeSet::new(sets.remote), Asker::new(RangeSet::new(sets.local), 1 << 20));
        assert_eq!(end, Ok(Progress::Done { only_remote: sets.only_remote, only_local: sets.only_local }));
        messages
    }

    #[test]
    fn rounds_are_logarithmic_while_a_message_holds_the_ranges() {
        assert_eq!(check(0, 0, 0), 1);
        assert_eq!(check(0, 0, 5_000), 1);
        assert_eq!(check(100_000, 0, 0), 1);
        assert!(check(100_000, 10, 10) <= 5);
        assert!(check(20_000, 5, 0) <= 4);
        // 100,000 elements from nothing: 4,096 ranges of about 24, a few of which are split once more.
        assert!(check(0, 100_000, 0) <= 60);
    }

    #[test]
    fn elements_that_agree_in_all_but_one_bit_are_told_apart() {
        let near: Vec<Element> = (0..40u128).map(Element::from_bits).collect();
        let (end, _) = run(&RangeSet::new(near.clone()), Asker::new(RangeSet::new(near[1..].to_vec()), 100));
        assert_eq!(end, Ok(Progress::Done { only_remote: vec![near[0]], only_local: vec![] }));
    }

    #[test]
    fn a_set_beyond_the_agreed_size_is_a_fault() {
        let (end, _) = run(&RangeSet::new(elements(1, 1_001)), Asker::new(RangeSet::new([]), 1_000));
        assert_eq!(end, Err(Fault::TooMany { max: 1_000 }));
    }

    #[test]
    fn a_set_that_changed_on_the_way_is_a_fault() {
        let set = elements(1, 2_000);
        let mut asker = Asker::new(RangeSet::new([]), 1 << 20);
        let answers = respond(&RangeSet::new(set[1..].to_vec()), &asker.ask());
        asker.accept(&answers).unwrap();
        let answers = respond(&RangeSet::new(set), &asker.ask());
        assert_eq!(asker.accept(&answers), Err(Fault::SetChanged));
    }

    #[test]
    fn a_liar_that_splits_for_ever_is_stopped_by_its_own_lengths() {
        // All of a million claimed elements in the first part, then in the first part of that, down to one element.
        let mut asker = Asker::new(RangeSet::new([]), 1 << 20);
        for depth in 0..=DEPTH_MAX {
            let asked = asker.ask();
            assert_eq!(asked.len(), 1);
            let mut parts = Box::new([Fingerprint::default(); 16]);
            parts[0] = Fingerprint { len: 1 << 20, sum: 1 };
            let end = asker.accept(&[Answer { range: asked[0], found: Found::Split(parts) }]);
            assert_eq!(end.is_err(), depth == DEPTH_MAX);
        }
    }

    #[test]
    fn answers_that_lie_are_faults() {
        let items = |items: &[u128]| Found::Items(items.iter().map(|&bits| Element::from_bits(bits)).collect());
        let split = |len| Found::Split(Box::new([Fingerprint { len, sum: 5 }; 16]));
        let unasked = Answer { range: Range::ALL.part(1), found: items(&[]) };
        for answer in [
            unasked,
            Answer { range: Range::ALL, found: items(&[2, 1]) },
            Answer { range: Range::ALL, found: items(&[1, 1]) },
            Answer { range: Range::ALL, found: items(&(0..33).collect::<Vec<_>>()) },
            Answer { range: Range::ALL, found: split(2) },
            Answer { range: Range::ALL, found: split(u64::MAX) },
        ] {
            let mut asker = Asker::new(RangeSet::new([]), 1 << 20);
            asker.ask();
            assert!(asker.accept(std::slice::from_ref(&answer)).is_err(), "{answer:?}");
        }
        let mut asker = Asker::new(RangeSet::new([]), 1 << 20);
        asker.ask();
        asker.accept(&[Answer { range: Range::ALL, found: split(3) }]).unwrap();
        let range = asker.ask()[5];
        // The right length and sum, in the wrong range.
        let found = items(&[0, 2, 3]);
        assert!(asker.accept(&[Answer { range, found }]).is_err());
    }

    #[test]
    fn more_ranges_than_a_message_holds_are_not_answered() {
        assert_eq!(respond(&RangeSet::new([]), &[Range::ALL; 300]).len(), ASK_RANGES_MAX);
    }

    proptest! {
        #[test]
        fn exactly_the_difference_is_found(shared in 0usize..3_000, remote in 0usize..400, local in 0usize..400) {
            check(shared, remote, local);
        }
    }
}
