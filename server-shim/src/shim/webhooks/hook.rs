//! A webhook: what it wants to be told, how far it is, and what waits to be told again. Decisions alone: no clock, no network, no disk.
//!
//! A hook goes through the changes of its space in their order, each document at its last change. An event that its receiver did not take waits
//! for its next attempt, and the hook goes on with others meanwhile; an event of the same document that comes later takes its place. So of
//! one document nothing is told in the wrong order, and nothing grows: what a receiver misses while it is away is one event a document.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use axum::http::StatusCode;
use commonhold_engine::{DocId, DocumentChange, SpaceId, StoreId};
use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};

use super::send::Attempted;
use super::signature::Key;

/// Events of one hook that wait for another attempt. When so many wait, the hook reads no further: documents that change meanwhile are told
/// later, once each.
pub(super) const WAITING_MAX: usize = 32;
/// Events of one hook that came to nothing and are kept; the oldest goes first.
pub(super) const DEAD_MAX: usize = 32;
/// Events of one hook that were delivered and are remembered, in memory alone.
pub(super) const RECENT_MAX: usize = 32;
/// Failures in a row from which on the receiver, rather than an event, is taken to be at fault: with its next answer all that waits is tried.
const AWAY: u32 = 3;
/// Of `Retry-After`: a receiver may ask for a pause, and not for one that loses it events.
const PAUSE: std::ops::RangeInclusive<u64> = 1_000..=3_600_000;

/// Of the rows below.
pub(super) const ROW_VERSION: u8 = 1;

/// When to try again, and when to give up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Milliseconds after each attempt; after the one that follows the last of these, an event is dead.
    pub(super) steps: &'static [u64],
    /// While as many wait as may, and there is more to tell: how often the receiver is tried all the same, milliseconds.
    pub(super) probe_ms: u64,
    /// A hook whose receiver took nothing for so long, although attempts went on, is switched off, milliseconds.
    pub(super) failing_max_ms: u64,
}

impl Terms {
    /// Attempts that are further apart than this did not go on, milliseconds: twice the longest wait, as waits have some chance in them.
    fn apart_max_ms(&self) -> u64 {
        2 * self.steps.iter().copied().fold(self.probe_ms, u64::max)
    }
}

/// The steps are those that Standard Webhooks gives as an example; the days before a hook is switched off are those of large senders.
pub(super) const TERMS: Terms = Terms {
    steps: &[5_000, 300_000, 1_800_000, 7_200_000, 18_000_000, 36_000_000, 36_000_000],
    probe_ms: 900_000,
    failing_max_ms: 5 * 86_400_000,
};

/// Names a hook.
pub(super) type HookId = [u8; 16];

/// Why a hook is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(super) enum Off {
    /// Its owner wanted that.
    #[n(0)]
    Owner,
    /// Its receiver answered 410.
    #[n(1)]
    Gone,
    /// Its receiver took nothing for days.
    #[n(2)]
    Failing,
}

/// What its owner said about a hook, and what has become of it: a row.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Hook {
    #[n(0)]
    pub(super) version: u8,
    /// Hash and name of the token that it belongs to.
    #[n(1)]
    pub(super) owner: String,
    #[n(2)]
    pub(super) owner_name: String,
    #[n(3)]
    pub(super) url: String,
    #[n(4)]
    pub(super) description: String,
    /// Documents of these kinds; empty: of any.
    #[n(5)]
    pub(super) kinds: Vec<String>,
    /// What their names begin with.
    #[n(6)]
    pub(super) prefix: String,
    /// These; empty: all.
    #[n(7)]
    pub(super) docs: Vec<ByteArray<32>>,
    #[n(8)]
    pub(super) include_docs: bool,
    /// The present one first.
    #[n(9)]
    pub(super) keys: Vec<Key>,
    /// Milliseconds since 1970, here and below.
    #[n(10)]
    pub(super) created_ms: u64,
    #[n(11)]
    pub(super) off: Option<Off>,
    /// Since when attempts go on, and all of them fail.
    #[n(12)]
    pub(super) failing_ms: Option<u64>,
}

impl Hook {
    pub(super) fn wants(&self, change: &DocumentChange) -> bool {
        let info = &change.info;
        (self.kinds.is_empty() || self.kinds.contains(&info.kind))
            && info.name.starts_with(&self.prefix)
            && (self.docs.is_empty() || self.docs.iter().any(|doc| **doc == info.id.0))
    }
}

/// How far a hook is: a row.
#[derive(Debug, Encode, Decode)]
#[cbor(map)]
pub(super) struct At {
    #[n(0)]
    pub(super) version: u8,
    /// The number of the last change that it is done with.
    #[n(1)]
    pub(super) number: u64,
}

/// A document at one of its changes, as it is told. A row if it waits or is dead.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Event {
    #[n(0)]
    pub(super) version: u8,
    /// The same in all attempts.
    #[n(1)]
    pub(super) id: String,
    #[n(2)]
    pub(super) number: u64,
    #[n(3)]
    pub(super) doc: ByteArray<32>,
    #[n(4)]
    pub(super) kind: String,
    #[n(5)]
    pub(super) name: String,
    #[n(6)]
    pub(super) deleted: bool,
    /// As in the changes of the space.
    #[n(7)]
    pub(super) rev: String,
    /// When it was seen, milliseconds since 1970 here and below.
    #[n(8)]
    pub(super) at_ms: u64,
    /// Attempts so far, and how many of them were those of the schedule.
    #[n(9)]
    pub(super) attempts: u32,
    #[n(10)]
    pub(super) steps: u32,
    /// The next.
    #[n(11)]
    pub(super) due_ms: u64,
    /// The last: when, the status of its answer, or why there was none.
    #[n(12)]
    pub(super) tried_ms: Option<u64>,
    #[n(13)]
    pub(super) status: Option<u16>,
    #[n(14)]
    pub(super) error: Option<String>,
    /// All attempts came to nothing.
    #[n(15)]
    pub(super) dead: bool,
}

impl Event {
    /// The id is drawn from what makes the event this one, so that a crash does not give it another. Numbers of another store are others.
    pub(super) fn of(change: &DocumentChange, hook: &HookId, store: &StoreId, now_ms: u64) -> Event {
        let mut id = blake3::Hasher::new_derive_key("commonhold webhook event 1");
        id.update(hook).update(&store.0).update(&change.number.to_le_bytes());
        let info = &change.info;
        Event {
            version: ROW_VERSION,
            id: format!("evt_{}", &id.finalize().to_hex()[..32]),
            number: change.number,
            doc: info.id.0.into(),
            kind: info.kind.clone(),
            name: info.name.clone(),
            deleted: info.deleted,
            rev: crate::local::hex(&change.digest[..16]),
            at_ms: now_ms,
            attempts: 0,
            steps: 0,
            due_ms: now_ms,
            tried_ms: None,
            status: None,
            error: None,
            dead: false,
        }
    }

    pub(super) fn doc(&self) -> DocId {
        DocId(*self.doc)
    }

    fn note(&mut self, attempted: &Attempted, now_ms: u64) {
        self.attempts = self.attempts.saturating_add(1);
        self.tried_ms = Some(now_ms);
        self.status = attempted.answer.as_ref().ok().map(|status| status.as_u16());
        self.error = match &attempted.answer {
            Ok(status) if status.is_success() => None,
            Ok(status) if status.is_redirection() => Some("redirects are not followed".into()),
            Ok(status) => Some(format!("the receiver answered {status}")),
            Err(error) => Some(error.clone()),
        };
    }
}

/// What of a hook changes.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) hook: Hook,
    /// The number of the last change that it is done with, and whether the disk has another.
    pub(super) at: u64,
    pub(super) unwritten: bool,
    /// By number.
    pub(super) waiting: BTreeMap<u64, Event>,
    /// Numbers of the events that came to nothing; they are in the store.
    pub(super) dead: BTreeSet<u64>,
    pub(super) recent: VecDeque<Event>,
    /// Nothing is sent before.
    pub(super) held_ms: u64,
    /// Failures since the last success.
    pub(super) failures: u32,
    /// When the last attempt that failed did. After a restart the events that are kept tell it.
    pub(super) failed_ms: Option<u64>,
    /// Counts what its owner changed: what was begun before is not carried on.
    pub(super) edition: u64,
    pub(super) gone: bool,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Try the event of this number again.
    Try(u64),
    /// Read what changed.
    Read,
    /// Nothing before this time, or before something happens.
    Wait(Option<u64>),
}

/// What has to be on disk before a decision holds: rows of events by number, to be written or taken out.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Writes {
    pub(super) hook: bool,
    pub(super) at: bool,
    pub(super) events: BTreeMap<u64, Option<Event>>,
}

/// How an attempt counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Delivered,
    Failed,
    Dead,
}

impl State {
    pub(super) fn new(hook: Hook, at: u64) -> State {
        State {
            hook,
            at,
            unwritten: false,
            waiting: BTreeMap::new(),
            dead: BTreeSet::new(),
            recent: VecDeque::new(),
            held_ms: 0,
            failures: 0,
            failed_ms: None,
            edition: 0,
            gone: false,
        }
    }

    /// `last`: the number of the space's last change.
    pub(super) fn next(&self, last: u64, terms: &Terms, now_ms: u64) -> Next {
        if self.hook.off.is_some() || self.gone {
            return Next::Wait(None);
        }
        if now_ms < self.held_ms {
            return Next::Wait(Some(self.held_ms));
        }
        let more = last > self.at;
        let full = self.waiting.len() >= WAITING_MAX;
        let due = self.waiting.values().map(|event| (event.due_ms, event.number)).min();
        let probe = || self.waiting.values().filter_map(|event| Some((event.tried_ms? + terms.probe_ms, event.number)));
        let due = if full && more { due.min(probe().max().or(due)) } else { due };
        match due {
            Some((at, number)) if at <= now_ms => Next::Try(number),
            _ if more && !full => Next::Read,
            due => Next::Wait(due.map(|(at, _)| at)),
        }
    }

    /// Whether what was begun in this edition goes on.
    pub(super) fn goes_on(&self, edition: u64, now_ms: u64) -> bool {
        !self.gone && self.edition == edition && self.hook.off.is_none() && self.held_ms <= now_ms
    }

    /// A newer event takes the place of those of the same document.
    pub(super) fn replace(&mut self, doc: &ByteArray<32>) -> Writes {
        let old: Vec<u64> = self.waiting.values().filter(|event| event.doc == *doc).map(|event| event.number).collect();
        old.iter().for_each(|number| drop(self.waiting.remove(number)));
        Writes { events: old.into_iter().map(|number| (number, None)).collect(), ..Writes::default() }
    }

    /// The hook is done with a change that it does not want, or with all up to it.
    pub(super) fn pass(&mut self, number: u64) {
        self.unwritten |= number > self.at;
        self.at = self.at.max(number);
    }

    /// An attempt has ended. `spread` is about 1: receivers that failed together are not tried together.
    pub(super) fn settle(
        &mut self,
        mut event: Event,
        attempted: &Attempted,
        terms: &Terms,
        (now_ms, spread): (u64, f64),
    ) -> (Writes, Outcome) {
        let mut writes = Writes::default();
        let waited = self.waiting.remove(&event.number).is_some();
        let due = event.due_ms <= now_ms;
        event.note(attempted, now_ms);
        let number = event.number;
        self.pass(number);
        if attempted.answer.as_ref().is_ok_and(StatusCode::is_success) {
            if waited {
                writes.events.insert(number, None);
            }
            writes.hook = self.hook.failing_ms.take().is_some();
            if std::mem::take(&mut self.failures) >= AWAY {
                self.waiting.values_mut().for_each(|event| event.due_ms = event.due_ms.min(now_ms));
            }
            self.recent.retain(|other| other.id != event.id);
            self.recent.push_back(event);
            if self.recent.len() > RECENT_MAX {
                self.recent.pop_front();
            }
            return (writes, Outcome::Delivered);
        }
        writes.at = true;
        self.failures = self.failures.saturating_add(1);
        let status = attempted.answer.as_ref().ok().copied();
        // A time in which nothing was tried says nothing about the receiver: this peer was off, the token had no right, there was no news.
        let failed_ms = self.failed_ms.replace(now_ms);
        let went_on = failed_ms.is_some_and(|at| now_ms.saturating_sub(at) <= terms.apart_max_ms());
        let since = self.hook.failing_ms.filter(|_| went_on).unwrap_or(now_ms);
        self.hook.failing_ms = Some(since);
        writes.hook = since == now_ms;
        if status == Some(StatusCode::GONE) {
            self.hook.off = Some(Off::Gone);
        } else if now_ms.saturating_sub(since) >= terms.failing_max_ms {
            self.hook.off = Some(Off::Failing);
        }
        writes.hook |= self.hook.off.is_some();
        let mut outcome = Outcome::Failed;
        if status == Some(StatusCode::GONE) {
            // For whoever switches the hook on again.
            event.due_ms = now_ms;
        } else if due {
            match terms.steps.get(event.steps as usize) {
                Some(step) => event.due_ms = now_ms + (*step as f64 * spread) as u64,
                None => {
                    event.dead = true;
                    outcome = Outcome::Dead;
                }
            }
            event.steps += 1;
        }
        if let Some(pause) = attempted.retry_after
            && matches!(status, Some(StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE))
        {
            let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX).clamp(*PAUSE.start(), *PAUSE.end());
            self.held_ms = now_ms + pause;
            event.due_ms = event.due_ms.max(self.held_ms);
        }
        if event.dead {
            self.dead.insert(number);
            if self.dead.len() > DEAD_MAX
                && let Some(oldest) = self.dead.pop_first()
            {
                writes.events.insert(oldest, None);
            }
        } else {
            self.waiting.insert(number, event.clone());
        }
        // The oldest may be this one.
        writes.events.entry(number).or_insert(Some(event));
        (writes, outcome)
    }

    /// Its owner switches it on: as if nothing had failed.
    pub(super) fn switch_on(&mut self, now_ms: u64) {
        (self.hook.off, self.hook.failing_ms, self.failures, self.held_ms) = (None, None, 0, 0);
        self.waiting.values_mut().for_each(|event| event.due_ms = event.due_ms.min(now_ms));
    }
}

/// Keys of rows: a hook, how far it is, and its events.
pub(super) const HOOKS: &[u8] = b"webhook:";
pub(super) const PLACES: &[u8] = b"webhook-at:";
pub(super) const EVENTS: &[u8] = b"webhook-event:";

/// The key of a row of a hook.
pub(super) fn key(prefix: &[u8], space: &SpaceId, id: &HookId, number: Option<u64>) -> Vec<u8> {
    let number = number.map(u64::to_be_bytes);
    [prefix, &space.0, id, number.as_ref().map_or(&[], |number| &number[..])].concat()
}

/// The space, the hook, and the number if there is one.
pub(super) fn read_key(prefix: &[u8], key: &[u8]) -> Option<(SpaceId, HookId, Option<u64>)> {
    let (space, rest) = key.strip_prefix(prefix)?.split_first_chunk::<32>()?;
    let (id, rest) = rest.split_first_chunk::<16>()?;
    let number = if rest.is_empty() { None } else { Some(u64::from_be_bytes(rest.try_into().ok()?)) };
    Some((SpaceId(*space), *id, number))
}

/// A wait with some chance in it, so that what failed together is not tried together.
pub(super) fn spread() -> f64 {
    0.8 + 0.4 * fastrand::f64()
}

/// Of an attempt that was not made.
pub(super) fn not_made(why: impl Into<String>) -> Attempted {
    Attempted { answer: Err(why.into()), retry_after: None, took: Duration::ZERO }
}

#[cfg(test)]
pub(super) mod fixture {
    use commonhold_engine::{DeviceId, DocumentInfo};

    use super::super::signature::Scheme;
    use super::*;

    pub(in super::super) fn state() -> State {
        let hook = Hook {
            version: ROW_VERSION,
            owner: "o".into(),
            owner_name: "o".into(),
            url: "https://example.org/".into(),
            description: String::new(),
            kinds: Vec::new(),
            prefix: String::new(),
            docs: Vec::new(),
            include_docs: false,
            keys: vec![Key::draw(Scheme::Hmac).unwrap()],
            created_ms: 0,
            off: None,
            failing_ms: None,
        };
        State::new(hook, 0)
    }

    pub(in super::super) fn change(number: u64, doc: u8) -> DocumentChange {
        let info = DocumentInfo {
            id: DocId([doc; 32]),
            kind: "list".into(),
            name: format!("shop {doc}"),
            creator: DeviceId([0; 32]),
            deleted: false,
        };
        DocumentChange { number, info, digest: [doc; 32] }
    }

    pub(in super::super) fn event(number: u64, doc: u8, now: u64) -> Event {
        Event::of(&change(number, doc), &[1; 16], &StoreId([2; 16]), now)
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::{change, event, state};
    use super::*;

    const LAST: u64 = 1_000;

    fn answered(status: u16) -> Attempted {
        Attempted { answer: Ok(StatusCode::from_u16(status).unwrap()), ..not_made("") }
    }

    /// Gives the event one attempt at its time.
    fn fail(state: &mut State, number: u64, attempted: &Attempted) -> (u64, Outcome) {
        let event = state.waiting[&number].clone();
        let now = event.due_ms;
        (now, state.settle(event, attempted, &TERMS, (now, 1.0)).1)
    }

    #[test]
    fn an_event_is_tried_for_about_a_day_and_then_kept_as_a_dead_letter() {
        let mut state = state();
        let first = state.settle(event(7, 1, 0), &answered(500), &TERMS, (0, 1.0));
        assert_eq!((first.1, first.0.at, state.at), (Outcome::Failed, true, 7));
        let mut times = Vec::new();
        loop {
            let (at, outcome) = fail(&mut state, 7, &not_made("nobody there"));
            times.push(at / 1_000);
            if outcome == Outcome::Dead {
                break;
            }
        }
        assert_eq!(times, [5, 305, 2_105, 9_305, 27_305, 63_305, 99_305]);
        assert!(state.waiting.is_empty() && state.dead.contains(&7));
        assert_eq!(state.next(7, &TERMS, 1 << 40), Next::Wait(None));
    }

    #[test]
    fn dead_letters_are_bounded_and_the_oldest_goes() {
        let mut state = state();
        for number in 1..=DEAD_MAX as u64 + 1 {
            let mut event = event(number, number as u8, 0);
            event.steps = TERMS.steps.len() as u32;
            let (writes, outcome) = state.settle(event, &answered(500), &TERMS, (0, 1.0));
            assert_eq!(outcome, Outcome::Dead);
            assert_eq!(writes.events.get(&1).is_some_and(Option::is_none), number > DEAD_MAX as u64);
            assert!(writes.events[&number].as_ref().is_some_and(|event| event.dead));
        }
        assert_eq!(state.dead.len(), DEAD_MAX);
    }

    #[test]
    fn while_as_many_wait_as_may_nothing_more_is_read_and_the_receiver_is_tried_now_and_then() {
        let mut state = state();
        for number in 1..=WAITING_MAX as u64 {
            assert_eq!(state.next(LAST, &TERMS, 0), Next::Read);
            state.settle(event(number, number as u8, 0), &answered(500), &TERMS, (0, 1.0));
        }
        assert_eq!(state.next(LAST, &TERMS, 0), Next::Wait(Some(5_000)));
        let far = 1 << 40;
        state.waiting.values_mut().for_each(|event| event.due_ms = far);
        assert_eq!(state.next(LAST, &TERMS, 0), Next::Wait(Some(TERMS.probe_ms)));
        let Next::Try(number) = state.next(LAST, &TERMS, TERMS.probe_ms) else { panic!() };
        let event = state.waiting[&number].clone();
        let (_, outcome) = state.settle(event, &answered(500), &TERMS, (TERMS.probe_ms, 1.0));
        assert_eq!((outcome, state.waiting[&number].steps, state.waiting[&number].due_ms), (Outcome::Failed, 1, far));
        // Every other waits for the next look, which is one for all of them.
        assert_eq!(state.next(LAST, &TERMS, TERMS.probe_ms), Next::Wait(Some(2 * TERMS.probe_ms)));
        // Nothing more to tell: the schedule alone counts.
        assert_eq!(state.next(state.at, &TERMS, far - 1), Next::Wait(Some(far)));
    }

    #[test]
    fn a_receiver_that_comes_back_is_told_all_that_waits() {
        let mut state = state();
        (1..=4).for_each(|n| drop(state.settle(event(n, n as u8, 0), &not_made("away"), &TERMS, (0, 1.0))));
        state.waiting.values_mut().for_each(|event| event.due_ms = 1 << 40);
        let (writes, _) = state.settle(event(9, 9, 0), &answered(204), &TERMS, (1, 1.0));
        assert!(writes.hook && state.hook.failing_ms.is_none() && writes.events.is_empty());
        assert_eq!(state.next(9, &TERMS, 1), Next::Try(1));
        // One event that fails among others that do not is no sign of that.
        state.waiting.retain(|number, _| *number == 1);
        state.waiting.values_mut().for_each(|event| event.due_ms = 1 << 40);
        state.failures = 1;
        state.settle(event(10, 10, 1), &answered(200), &TERMS, (1, 1.0));
        assert_eq!(state.next(10, &TERMS, 1), Next::Wait(Some(1 << 40)));
    }

    #[test]
    fn a_newer_event_of_a_document_takes_the_place_of_one_that_waits() {
        let mut state = state();
        state.settle(event(1, 1, 0), &answered(500), &TERMS, (0, 1.0));
        state.settle(event(2, 2, 0), &answered(500), &TERMS, (0, 1.0));
        let writes = state.replace(&event(3, 1, 0).doc);
        assert_eq!(writes.events, BTreeMap::from([(1, None)]));
        assert_eq!(state.waiting.keys().collect::<Vec<_>>(), [&2]);
    }

    #[test]
    fn a_pause_that_the_receiver_asks_for_holds_within_bounds() {
        let mut state = state();
        for (asked, held) in [(0, 1_000), (60, 60_000), (1 << 40, 3_600_000)] {
            let pause = Attempted { retry_after: Some(Duration::from_secs(asked)), ..answered(429) };
            state.settle(event(1, 1, 0), &pause, &TERMS, (0, 1.0));
            assert_eq!((state.held_ms, state.next(LAST, &TERMS, 0)), (held, Next::Wait(Some(held))));
            assert!(state.waiting[&1].due_ms >= held);
        }
        // Of other answers it means nothing.
        let mut state = super::fixture::state();
        state.settle(
            event(1, 1, 0),
            &Attempted { retry_after: Some(Duration::MAX), ..answered(500) },
            &TERMS,
            (0, 1.0),
        );
        assert_eq!(state.held_ms, 0);
    }

    #[test]
    fn a_hook_is_switched_off_by_410_and_by_days_of_failure_and_forgets_nothing() {
        let mut state = state();
        let (writes, _) = state.settle(event(1, 1, 0), &answered(410), &TERMS, (0, 1.0));
        assert!(writes.hook && state.hook.off == Some(Off::Gone));
        assert_eq!(state.next(LAST, &TERMS, 1 << 40), Next::Wait(None));
        state.switch_on(5);
        assert_eq!((state.next(LAST, &TERMS, 5), state.waiting[&1].steps), (Next::Try(1), 0));
        let mut now = 5;
        while state.hook.off.is_none() {
            now += 86_400_000 / 2;
            state.settle(event(now, 1, now), &answered(503), &TERMS, (now, 1.0));
        }
        assert_eq!(state.hook.off, Some(Off::Failing));
        assert!((5..6).contains(&(now / 86_400_000)), "{now}");
    }

    #[test]
    fn days_in_which_nothing_was_tried_switch_no_hook_off() {
        let mut state = state();
        state.settle(event(1, 1, 0), &answered(503), &TERMS, (0, 1.0));
        let later = 2 * TERMS.failing_max_ms;
        let (writes, _) = state.settle(event(2, 2, later), &answered(503), &TERMS, (later, 1.0));
        assert!(writes.hook && state.hook.off.is_none(), "it counts from here");
        state.settle(event(3, 3, later), &answered(503), &TERMS, (later + 5_000, 1.0));
        assert_eq!((state.hook.off, state.hook.failing_ms), (None, Some(later)));
        // Nobody knows when the last attempt was.
        state.failed_ms = None;
        let later = later + TERMS.failing_max_ms;
        state.settle(event(4, 4, later), &answered(503), &TERMS, (later, 1.0));
        assert_eq!((state.hook.off, state.hook.failing_ms), (None, Some(later)));
    }

    #[test]
    fn an_event_keeps_its_id_over_restarts_and_no_two_have_the_same() {
        let id =
            |number, hook: u8, store: u8| Event::of(&change(number, 1), &[hook; 16], &StoreId([store; 16]), number).id;
        assert_eq!(id(1, 1, 1), id(1, 1, 1));
        let all: BTreeSet<String> = [id(1, 1, 1), id(2, 1, 1), id(1, 2, 1), id(1, 1, 2)].into();
        assert_eq!(all.len(), 4);
        let row = minicbor::to_vec(event(1, 1, 3)).unwrap();
        assert_eq!(minicbor::decode::<Event>(&row).unwrap(), event(1, 1, 3));
    }

    #[test]
    fn filters_choose_by_kind_name_and_id() {
        let mut hook = state().hook;
        assert!(hook.wants(&change(1, 7)));
        hook.kinds = vec!["note".into(), "list".into()];
        hook.prefix = "shop".into();
        assert!(hook.wants(&change(1, 7)));
        hook.docs = vec![[8; 32].into()];
        assert!(!hook.wants(&change(1, 7)) && hook.wants(&change(1, 8)));
        hook.prefix = "Shop".into();
        assert!(!hook.wants(&change(1, 8)));
        (hook.prefix, hook.kinds) = (String::new(), vec!["note".into()]);
        assert!(!hook.wants(&change(1, 8)));
    }

    #[test]
    fn keys_of_rows_are_read_back_and_prefixes_do_not_overlap() {
        let (space, id) = (SpaceId([5; 32]), [6; 16]);
        for (prefix, number) in [(HOOKS, None), (PLACES, None), (EVENTS, Some(7))] {
            let key = key(prefix, &space, &id, number);
            assert_eq!(read_key(prefix, &key), Some((space, id, number)));
            let others = [HOOKS, PLACES, EVENTS].into_iter().filter(|other| *other != prefix);
            assert!(others.into_iter().all(|other| !key.starts_with(other)));
        }
        assert_eq!(read_key(HOOKS, b"webhook:x"), None);
    }
}
