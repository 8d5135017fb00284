//! Random talk against the model, in random orders.

use super::*;

const RUNS: u8 = 3;

/// The right of a device, what it may give, and where its chains end.
type Answer = (Option<Right>, [bool; 2], Vec<u64>);

/// One case: who speaks, what was said, what was closed.
struct Case {
    speakers: Vec<DeviceId>,
    talk: Talk,
    closed: BTreeMap<ChainId, u64>,
    root: Subject,
    writers: Writers,
    chains: Vec<(DocId, ChainId)>,
}

fn below(rng: &mut ChaCha8Rng, end: usize) -> usize {
    (rng.next_u32() as usize) % end
}

fn one_in(rng: &mut ChaCha8Rng, n: usize) -> bool {
    below(rng, n) == 0
}

fn secret() -> SigningKey {
    SigningKey::from_bytes(&[0x77; 32])
}

impl Case {
    fn draw(rng: &mut ChaCha8Rng) -> Case {
        let plain: Vec<DeviceId> = (10..16).map(device).collect();
        let keys: Vec<DeviceId> = (0..2).flat_map(|i| (0..3).map(move |k| key_of(i, k))).collect();
        let speakers = [plain.clone(), keys].concat();
        let root = if one_in(rng, 3) { plain[0].into() } else { ROOTS[0].identity() };
        let writers = if one_in(rng, 8) { Writers::Anyone } else { Writers::Granted };
        let mut chains = Vec::new();
        for log in [SPACE.authority(), DOC, OTHER] {
            for speaker in &speakers {
                let runs = if log == SPACE.authority() { RUNS } else { 1 };
                chains.extend((0..runs).map(|run| (log, chain(&log, speaker, run))));
            }
        }
        let mut case = Case { speakers, talk: Talk::default(), closed: BTreeMap::new(), root, writers, chains };
        case.begin(rng, &plain);
        for _ in 0..3 + below(rng, 30) {
            case.step(rng, &plain);
        }
        for _ in 0..below(rng, 3).saturating_sub(usize::from(one_in(rng, 2))) {
            let speaker = case.speakers[below(rng, case.speakers.len())];
            let at = chain(&SPACE.authority(), &speaker, below(rng, RUNS.into()) as u8);
            case.closed.insert(at, 1 + below(rng, 5) as u64);
        }
        case
    }

    /// Enough that most cases are about something: a root that speaks, an admin identity, a few grants.
    fn begin(&mut self, rng: &mut ChaCha8Rng, plain: &[DeviceId]) {
        let by = if self.root == plain[0].into() { plain[0] } else { key_of(0, 0) };
        if by != plain[0] {
            self.talk.found(0, 0);
            self.talk.member(0, 0, plain[1]);
        }
        self.talk.grant(by, ROOTS[1].identity(), if one_in(rng, 3) { Right::Write } else { Right::Admin });
        self.talk.grant(by, plain[2], Right::Admin);
        if !one_in(rng, 4) {
            self.talk.found(1, 0);
            self.talk.member(1, 0, plain[3]);
        }
        self.talk.grant([plain[2], plain[3], by][below(rng, 3)], plain[4], Right::Write);
    }

    fn step(&mut self, rng: &mut ChaCha8Rng, plain: &[DeviceId]) {
        // Those who have power speak more often.
        let by = match below(rng, 3) {
            0 => [plain[0], plain[1], plain[2], plain[3], key_of(0, 0), key_of(1, 0)][below(rng, 6)],
            1 => plain[1 + below(rng, 4)],
            _ => self.speakers[below(rng, self.speakers.len())],
        };
        let run = u8::from(one_in(rng, 4));
        let anyone = self.speakers[below(rng, self.speakers.len())];
        let rights = [Right::Relay, Right::Read, Right::Write, Right::Write, Right::Admin, Right::Admin];
        let identity = below(rng, 2);
        let record = match below(rng, 24) {
            0..5 => {
                let subject = if one_in(rng, 3) { ROOTS[identity].identity() } else { anyone.into() };
                let (right, gateway) = (rights[below(rng, rights.len())], one_in(rng, 4));
                Record::Grant { subject, right, gateway, again: below(rng, 3) as u32 / 2 }
            }
            5..13 => return self.revoke(rng, by, run),
            13..16 => {
                let index = below(rng, 3);
                let device = plain[below(rng, plain.len())];
                let record =
                    Record::Member { identity: ROOTS[identity].identity(), device, name: String::new(), again: 0 };
                let by = if one_in(rng, 8) { by } else { key_of(identity, index) };
                self.talk.say_in(run, by, record);
                return;
            }
            16..19 => {
                let index = 1 + below(rng, 2);
                let key = key_of(identity, index);
                let run = if one_in(rng, 4) { run } else { self.fresh(&key) };
                let older = (0..2).flat_map(|i| (0..RUNS).map(move |run| (key_of(identity, i), run)));
                let mut cuts: ChainEnds = older
                    .map(|(key, run)| chain(&SPACE.authority(), &key, run))
                    .map(|chain| (chain, below(rng, 8) as u64))
                    .filter(|(_, n)| *n > 0)
                    .collect();
                cuts.sort();
                self.talk.say_in(run, key, ROOTS[identity].rotation(index, cuts).unwrap());
                return;
            }
            19 => {
                let index = below(rng, 3);
                let key = key_of(identity, index);
                let run = if one_in(rng, 4) { run } else { self.fresh(&key) };
                self.talk.say_in(run, key, ROOTS[identity].founding());
                return;
            }
            20 => invite(&secret(), rights[below(rng, 4)], 1),
            21..23 => {
                let invites = self.talk.said.iter().filter(|(_, r)| matches!(r, Record::Invite { .. }));
                let invites: Vec<EntryId> = invites.map(|(at, _)| at.id).collect();
                if invites.is_empty() {
                    return;
                }
                let by = self.speakers[below(rng, 6)];
                let wrong = one_in(rng, 8);
                let secret = if wrong { SigningKey::from_bytes(&[1; 32]) } else { secret() };
                let run = if one_in(rng, 4) { run } else { self.fresh(&by) };
                let record = redeem(&secret, &SPACE, &invites[below(rng, invites.len())], &by);
                self.talk.say_in(run, by, record);
                return;
            }
            _ => Record::Header { nonce: [0; 16], kind: String::new(), name: String::new() },
        };
        self.talk.say_in(run, by, record);
    }

    /// A run in which the device has said nothing yet, if there is one.
    fn fresh(&self, device: &DeviceId) -> u8 {
        let unused = |run: &u8| !self.talk.lengths.contains_key(&chain(&SPACE.authority(), device, *run));
        (0..RUNS).find(unused).unwrap_or(0)
    }

    fn revoke(&mut self, rng: &mut ChaCha8Rng, by: DeviceId, run: u8) {
        let edges = self.talk.said.iter().filter(|(_, record)| {
            matches!(
                record,
                Record::Grant { .. } | Record::Member { .. } | Record::Invite { .. } | Record::Redeem { .. }
            )
        });
        let edges: Vec<EntryId> = edges.map(|(at, _)| at.id).collect();
        let records = (0..1 + below(rng, 2)).map(|_| edges[below(rng, edges.len())]).collect();
        let mut stays: BTreeMap<DocId, BTreeMap<ChainId, u64>> = BTreeMap::new();
        for (doc, chain) in &self.chains {
            if !one_in(rng, 3) {
                stays.entry(*doc).or_default().insert(*chain, below(rng, 12) as u64);
            }
        }
        let mut records = revocation(records, &stays);
        if one_in(rng, 10) {
            // It lacks its first part, or has none.
            records.remove(0);
        }
        for record in records {
            self.talk.say_in(run, by, record);
        }
    }

    fn model(&self, records: Vec<(RecordAt, Record)>, closed: BTreeMap<ChainId, u64>) -> Model {
        let open = self.writers == Writers::Anyone;
        Model { space: SPACE, root: self.root, open, chains: self.chains.clone(), records, closed }
    }

    /// An order that keeps each chain's.
    fn shuffled(&self, rng: &mut ChaCha8Rng) -> Vec<(RecordAt, Record)> {
        let mut chains: BTreeMap<ChainId, Vec<(RecordAt, Record)>> = BTreeMap::new();
        for (at, record) in self.talk.said.iter().rev() {
            chains.entry(at.chain).or_default().push((*at, record.clone()));
        }
        let mut chains: Vec<_> = chains.into_values().collect();
        let mut order = Vec::new();
        while !chains.is_empty() {
            let at = below(rng, chains.len());
            // Runs of a chain, as segments bring them.
            for _ in 0..1 + below(rng, 6) {
                order.extend(chains[at].pop());
            }
            if chains[at].is_empty() {
                chains.swap_remove(at);
            }
        }
        order
    }

    /// Every answer there is.
    fn answers(&self, authority: &Authority) -> Vec<Answer> {
        let of = |device: &DeviceId| {
            let gives = [Right::Read, Right::Admin].map(|right| authority.may_give(device, right));
            let limits = self.chains_of(device).flat_map(|(log, chain)| {
                asked().map(move |needed| authority.limit(&log, &chain, device, needed).end())
            });
            (authority.right_of(device), gives, limits.collect())
        };
        self.speakers.iter().map(of).collect()
    }

    fn answers_of(&self, model: &Model) -> Vec<Answer> {
        let answers = model.answers();
        let of = |device: &DeviceId| {
            let gives = [Right::Read, Right::Admin].map(|right| model.may_give(&answers, device, right));
            let limits = self.chains_of(device).flat_map(|(log, chain)| {
                let answers = &answers;
                asked().map(move |needed| model.limit(answers, log, chain, *device, needed))
            });
            (model.right_of(&answers, device), gives, limits.collect())
        };
        self.speakers.iter().map(of).collect()
    }

    fn compare(&self, found: &[Answer], expected: &[Answer], seed: u64, with: &str) {
        for ((device, found), expected) in self.speakers.iter().zip(found).zip(expected) {
            assert_eq!(found, expected, "COMMONHOLD_SEED={seed}: {device:?} against {with}");
        }
    }

    fn chains_of(&self, device: &DeviceId) -> impl Iterator<Item = (DocId, ChainId)> {
        let logs = [(SPACE.authority(), 0), (SPACE.authority(), 1), (SPACE.authority(), 2), (DOC, 0), (OTHER, 0)];
        logs.map(|(log, run)| (log, chain(&log, device, run))).into_iter()
    }
}

fn asked() -> std::array::IntoIter<Needed, 4> {
    let gateway = Needed { right: Right::Write, gateway: true };
    [Right::Relay.into(), Right::Write.into(), Right::Admin.into(), gateway].into_iter()
}

#[allow(clippy::disallowed_methods, reason = "a test, which is started by hand")]
fn cases() -> u64 {
    std::env::var("COMMONHOLD_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000)
}

fn seeds() -> impl Iterator<Item = u64> {
    let one = std::env::var("COMMONHOLD_SEED").ok().and_then(|n| n.parse().ok());
    one.map_or(0..cases(), |seed: u64| seed..seed + 1)
}

/// Nobody whose answers changed is left out of `affected`, but for those who had no right before.
fn watched(case: &Case, authority: &mut Authority, change: impl FnOnce(&mut Authority), what: &str) {
    let since = authority.generation();
    let before = case.answers(authority);
    let had: Vec<bool> = case.speakers.iter().map(|device| authority.ever(device, Right::Relay)).collect();
    change(authority);
    let affected = authority.affected(since);
    for (index, (before, after)) in before.iter().zip(case.answers(authority)).enumerate() {
        if had[index] && *before != after {
            assert!(affected.contains(&case.speakers[index]), "{:?} after {what}", case.speakers[index]);
        }
    }
}

#[test]
fn every_order_of_the_same_records_gives_the_answers_of_the_model() {
    let (mut cut, mut whole) = (0, 0);
    for seed in seeds() {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let case = Case::draw(rng);
        let expected = case.answers_of(&case.model(case.talk.said.clone(), case.closed.clone()));
        for round in 0..3 {
            let mut authority = space(case.root, case.writers);
            let mut closings: Vec<(ChainId, u64)> = case.closed.iter().map(|(chain, n)| (*chain, *n)).collect();
            for (at, record) in case.shuffled(rng) {
                if one_in(rng, 8)
                    && let Some((chain, n)) = closings.pop()
                {
                    authority.close(chain, n + 3);
                    authority.close(chain, n);
                    authority.close(chain, n + 1);
                }
                match round == 0 && seed % 8 == 0 {
                    true => {
                        let what = format!("COMMONHOLD_SEED={seed} {at:?} {record:?}");
                        watched(&case, &mut authority, |authority| authority.note(at, &record), &what);
                    }
                    false => authority.note(at, &record),
                }
                if one_in(rng, 8) && !matches!(record, Record::Cuts { .. }) {
                    authority.note(at, &record);
                }
            }
            closings.into_iter().for_each(|(chain, n)| authority.close(chain, n));
            case.compare(&case.answers(&authority), &expected, seed, "model");
        }
        let limits = expected.iter().flat_map(|(_, _, limits)| limits);
        limits.for_each(|end| match *end {
            0 => {}
            EVER => whole += 1,
            _ => cut += 1,
        });
    }
    assert!(cut > 0 && whole > 0, "the cases are about something");
    println!("{} cases: {whole} limits without end, {cut} in between", cases());
}

/// Delivers until nothing more is taken: what waits or is beyond a cut is offered again. Returns what is held.
fn deliver(case: &Case, rng: &mut ChaCha8Rng) -> (Authority, Vec<(RecordAt, Record)>) {
    let mut authority = space(case.root, case.writers);
    let (mut left, mut held) = (case.shuffled(rng), Vec::new());
    case.closed.iter().for_each(|(chain, n)| authority.close(*chain, *n));
    loop {
        let mut rest: Vec<(RecordAt, Record)> = Vec::new();
        let before = left.len();
        let mut queue = std::mem::take(&mut left).into_iter().peekable();
        while let Some((at, record)) = queue.next() {
            let mut segment = vec![(at, record)];
            while let Some(next) = queue.next_if(|(next, _)| next.chain == at.chain)
                && !(one_in(rng, 3) && {
                    rest.push(next.clone());
                    true
                })
            {
                segment.push(next);
            }
            let missing = rest.iter().any(|(other, _)| other.chain == at.chain && other.n < at.n);
            let records: Vec<(EntryId, Record)> = segment.iter().map(|(at, r)| (at.id, r.clone())).collect();
            match missing || authority.judge(&at.device, &at.chain, at.n, &records) != Judgement::Admit {
                true => rest.extend(segment),
                false => {
                    segment.iter().for_each(|(at, record)| authority.note(*at, record));
                    held.extend(segment);
                }
            }
        }
        rest.sort_by_key(|(at, _)| (at.chain, at.n));
        left = rest;
        if left.len() == before {
            return (authority, held);
        }
    }
}

/// How much of each chain is held and within what others leave of it: what fingerprints compare.
fn kept(authority: &Authority, held: &[(RecordAt, Record)]) -> BTreeMap<ChainId, u64> {
    let mut kept: BTreeMap<ChainId, u64> = BTreeMap::new();
    for (at, _) in held {
        if at.n <= authority.holds_upto(&at.chain, &at.device) {
            let most = kept.entry(at.chain).or_default();
            *most = at.n.max(*most);
        }
    }
    kept
}

#[test]
fn peers_that_refuse_what_they_know_to_be_cut_agree_with_those_that_hold_it() {
    let mut refused = 0;
    for seed in seeds() {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let case = Case::draw(rng);
        let (first, held) = deliver(&case, rng);
        let expected = case.answers_of(&case.model(held.clone(), case.closed.clone()));
        case.compare(&case.answers(&first), &expected, seed, "model of what is held");
        for _ in 0..3 {
            let (other, other_held) = deliver(&case, rng);
            case.compare(&case.answers(&other), &expected, seed, "another order");
            assert_eq!(kept(&other, &other_held), kept(&first, &held), "COMMONHOLD_SEED={seed}");
            refused += usize::from(other_held.len() != held.len());
        }
    }
    assert!(refused > 0 || cases() < 100, "some orders hold less than others");
    println!("{} cases, {refused} deliveries that held less or more than the first", cases());
}
