//! What was written during the drill, and what each peer holds of it: looked up at a steady pace, for the plot, and whenever somebody
//! waits for it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::reach::Reach;
use crate::request::{Doc, Reply, Request};

/// Samples of one peer: three quarters of an hour at the default pace. Then no more are kept.
const SAMPLES_MAX: usize = 10_800;
/// For one answer. Whoever is slower has a gap in its lane.
const ANSWER: Duration = Duration::from_secs(5);

/// The documents of the drill, and how many edits were acknowledged in each. Edit `n` of a document is its key `e<n>`.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) began: Instant,
    documents: Mutex<Vec<(String, usize)>>,
}

impl Ledger {
    pub(super) fn open() -> Arc<Ledger> {
        Arc::new(Ledger { began: Instant::now(), documents: Mutex::default() })
    }

    /// Seconds since the drill began.
    pub(super) fn now_s(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// A new document; its number.
    pub(super) fn document(&self, name: &str) -> usize {
        let mut documents = lock(&self.documents);
        documents.push((name.to_owned(), 0));
        documents.len() - 1
    }

    /// Every document and its edits.
    pub(super) fn documents(&self) -> Vec<(String, usize)> {
        lock(&self.documents).clone()
    }

    pub(super) fn edits_of(&self, document: usize) -> usize {
        lock(&self.documents).get(document).map_or(0, |(_, edits)| *edits)
    }

    /// An edit was acknowledged: it is on the disk of the peer that made it.
    pub(super) fn made(&self, document: usize) {
        if let Some((_, edits)) = lock(&self.documents).get_mut(document) {
            *edits += 1;
        }
    }

    pub(super) fn total(&self) -> usize {
        lock(&self.documents).iter().map(|(_, edits)| edits).sum()
    }
}

/// The key of an edit.
pub(super) fn key(edit: usize) -> String {
    format!("e{edit}")
}

/// A document as a request names it.
pub(super) fn named(name: &str) -> Doc {
    Doc { space: None, doc: name.to_owned() }
}

/// What one peer held at one time.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Sample {
    pub(super) at_s: f64,
    pub(super) held: usize,
    /// Made by anybody until then.
    pub(super) made: usize,
}

/// The series of one peer.
#[derive(Debug, Default)]
pub(super) struct Lane {
    samples: Mutex<Vec<Sample>>,
    /// By document, the edits that were there when it was last asked.
    held: Mutex<Vec<BTreeSet<usize>>>,
}

impl Lane {
    pub(super) fn samples(&self) -> Vec<Sample> {
        lock(&self.samples).clone()
    }

    /// The edits of a document that were there when it was last asked.
    pub(super) fn held(&self, document: usize) -> BTreeSet<usize> {
        lock(&self.held).get(document).cloned().unwrap_or_default()
    }

    /// Looks, at a steady pace, until the handle aborts it.
    pub(super) fn follow(self: Arc<Self>, reach: Reach, ledger: Arc<Ledger>, every: Duration) -> AbortHandle {
        tokio::spawn(async move {
            let (mut reach, mut ticks) = (reach, interval(every));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                // A peer that was killed answers nothing more; the drill knows.
                let _ = timeout(ANSWER, self.look(&mut reach, &ledger)).await;
            }
        })
        .abort_handle()
    }

    async fn look(&self, reach: &mut Reach, ledger: &Ledger) {
        for (number, (name, made)) in ledger.documents().into_iter().enumerate() {
            let known = self.held(number);
            // Nobody deletes: what was complete stays so.
            if known.len() >= made {
                continue;
            }
            let asked = reach.ask(Request::Get { doc: named(&name), path: String::new() }).await;
            let Ok(Reply::Value(value)) = asked else { continue };
            let there = (0..made).filter(|edit| value.value.get(key(*edit)).is_some()).collect();
            let mut held = lock(&self.held);
            if held.len() <= number {
                held.resize(number + 1, BTreeSet::new());
            }
            held[number] = there;
        }
        let held = lock(&self.held).iter().map(BTreeSet::len).sum();
        let sample = Sample { at_s: ledger.now_s(), held, made: ledger.total().max(held) };
        let mut samples = lock(&self.samples);
        if samples.len() < SAMPLES_MAX {
            samples.push(sample);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
