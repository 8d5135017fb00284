//! The asker's side: from the responder's coded symbols and one's own set to the difference of the two.
//!
//! `residual[i]` is the responder's symbol `i` less that of one's own set, less what was already found: the coded symbol
//! of the rest of the difference. One that holds a single element gives it away; taking that out of the others makes
//! further ones single, until all are zero. One's own symbols and what was found are taken out in advance, for
//! twice as many symbols as came, so that a stream in tiny batches costs no more than one in large ones.

use std::collections::BTreeMap;

use super::symbol::{Cursor, Key, Slot};
use super::{BATCH_SYMBOLS_MAX, Batch, Element, Fault, Progress, SET_LEN_MAX, SYMBOLS_MAX, SetMark, Symbol};

/// Symbols that are prepared at first.
const HORIZON_MIN: usize = 64;

/// Symbols from which the size of the difference is estimated; 256 of them are good to about 10 %.
const SAMPLES_MAX: usize = 256;

/// Steps that decoding may take for `received` symbols: `4 · (received + 64) · (2 + log2(received + 64))`.
///
/// A step is a residual symbol that is written, or an element found earlier that is looked at when more symbols are
/// prepared. An honest stream needs about a quarter: it has about 1.35 symbols an element, and an element is in
/// `2 ln(n/2)`, that is about `1.4 · log2(n/2)`, of `n` symbols. (Measured: 2.6 of 10.3 million steps for 100,000.)
pub fn work_max(received: usize) -> u64 {
    let n = received as u64 + 64;
    4 * n * (2 + u64::from(n.ilog2()))
}

/// Finds the difference between one's own set and that of the peer whose symbols are pushed.
///
/// **Bounds**, for a hostile stream as for an honest one, where `r` is the number of symbols received and `n` the
/// size of the own set:
/// - `r ≤ 4 · (n + claimed size of the remote set) + 1024`, and `r ≤` the maximum that the caller gave;
/// - at most `r` elements are peeled, each once; [`Decoder::work`] `≤` [`work_max`]`(r)`, so `O(r log r)`;
/// - the own set is passed over once for each doubling of `r`, `O(n log r)` in all, and once more at the end;
/// - memory: 24 bytes an own element, 37 bytes for each of at most `max(64, 2r)` symbols, about 50 an element found.
///
/// **What `Done` promises**, whatever was sent: `only_local` is part of the own set, `only_remote` is not, and
/// every symbol that came is explained. An honest stream ends in a fault only by a collision of 64-bit checksums.
#[derive(Debug)]
pub struct Decoder {
    key: Key,
    local: Vec<Slot>,
    symbols_max: usize,
    remote: Option<SetMark>,
    received: usize,
    residual: Vec<Symbol>,
    queue: Queue,
    peeled: BTreeMap<Element, Peeled>,
    work: u64,
    ended: bool,
}

#[derive(Debug)]
struct Peeled {
    cursor: Cursor,
    /// 1 if only the responder holds it, −1 if only the asker does.
    sign: i64,
}

impl Decoder {
    /// Starts with one's own set under the responder's seed (distinct elements, in any order), to take at most
    /// `symbols_max` symbols (and never more than [`SYMBOLS_MAX`]).
    pub fn new(seed: &[u8; 16], local: impl IntoIterator<Item = Element>, symbols_max: usize) -> Self {
        Decoder {
            key: Key::new(seed),
            local: local.into_iter().map(Slot::new).collect(),
            symbols_max: symbols_max.min(SYMBOLS_MAX),
            remote: None,
            received: 0,
            residual: Vec::new(),
            queue: Queue::default(),
            peeled: BTreeMap::new(),
            work: 0,
            ended: false,
        }
    }

    /// Symbols received: the index at which the next batch has to start.
    pub fn received(&self) -> usize {
        self.received
    }

    /// Steps taken so far, see [`work_max`].
    pub fn work(&self) -> u64 {
        self.work
    }

    /// How many symbols to ask for next: at first 32, then what the estimated rest of the difference needs; 0 when no
    /// more would be taken.
    ///
    /// The counts tell its size. Were the difference `d` elements, `count[i] − count[0] · p` would have variance
    /// `d · p · (1 − p)`, where `p = 2 / (i + 2)`; so each symbol estimates `d`, and the mean does well.
    pub fn wanted(&self) -> usize {
        let cells = &self.residual[..self.received.min(SAMPLES_MAX)];
        let remote_len = self.remote.map_or(0, |mark| mark.len);
        let left = self.received_max(remote_len) - self.received;
        let [first, rest @ ..] = cells else { return left.min(32) };
        if rest.is_empty() {
            return left.min(32);
        }
        let estimates = rest.iter().zip(1u32..).map(|(symbol, i)| {
            let deviation = f64::from(i + 2) * symbol.count as f64 - 2.0 * first.count as f64;
            deviation * deviation / f64::from(2 * i)
        });
        let found = self.peeled.len() as f64;
        let difference = found + (estimates.sum::<f64>() / rest.len() as f64).max(first.count.abs() as f64);
        // Truncation is meant, and the cast saturates.
        let symbols = (1.4 * difference) as usize;
        symbols.saturating_sub(self.received).max(16 + self.received / 8).min(BATCH_SYMBOLS_MAX).min(left)
    }

    /// Takes the next symbols of the stream.
    ///
    /// # Errors
    /// A [`Fault`] ends the decoder.
    pub fn push(&mut self, batch: &Batch) -> Result<Progress, Fault> {
        if self.ended {
            return Err(Fault::Ended);
        }
        let result = self.take(batch);
        self.ended = !matches!(result, Ok(Progress::NeedMore));
        result
    }

    fn take(&mut self, batch: &Batch) -> Result<Progress, Fault> {
        let end = self.check_batch(batch)?;
        let work_max = work_max(end);
        self.work += batch.symbols.len() as u64;
        self.prepare(end, work_max)?;
        for (symbol, index) in batch.symbols.iter().zip(self.received..) {
            let cell = &mut self.residual[index];
            cell.sum ^= symbol.sum;
            cell.check ^= symbol.check;
            cell.count += symbol.count;
            self.queue.add(cell, index);
        }
        self.received = end;
        self.peel(work_max)?;
        match self.residual.first() {
            // Every element is in symbol 0, so nothing is left to find once it is zero.
            Some(first) if self.received > 0 && first.is_zero() => self.finish(),
            _ => Ok(Progress::NeedMore),
        }
    }

    /// Returns the index behind the batch. After this all counts are small enough for plain arithmetic.
    fn check_batch(&mut self, batch: &Batch) -> Result<usize, Fault> {
        let mark = *self.remote.get_or_insert(batch.mark);
        if mark != batch.mark {
            return Err(Fault::SetChanged);
        }
        if mark.len > SET_LEN_MAX {
            return Err(Fault::TooMany { max: SET_LEN_MAX });
        }
        if batch.start != self.received {
            return Err(Fault::OutOfOrder { expected: self.received, found: batch.start });
        }
        let max = self.received_max(mark.len);
        let end = self.received + batch.symbols.len();
        if end > max {
            return Err(Fault::TooMany { max: max as u64 });
        }
        if batch.symbols.iter().any(|symbol| symbol.count < 0 || symbol.count as u64 > mark.len) {
            return Err(Fault::Inconsistent("a symbol counts more elements than the set has"));
        }
        match batch.symbols.first() {
            Some(first) if batch.start == 0 && (first.count as u64, first.check) != (mark.len, mark.check) => {
                Err(Fault::Inconsistent("the first symbol is not that of the set"))
            }
            _ => Ok(end),
        }
    }

    /// Symbols that are taken in all, from a set of `remote_len` elements.
    fn received_max(&self, remote_len: u64) -> usize {
        let agreed = (self.local.len() as u64).saturating_add(remote_len).saturating_mul(4).saturating_add(1_024);
        usize::try_from(agreed).unwrap_or(usize::MAX).min(self.symbols_max)
    }

    /// Takes the own set and what was found out of the residual up to index `end` and, to do so rarely, beyond.
    fn prepare(&mut self, end: usize, work_max: u64) -> Result<(), Fault> {
        let start = self.residual.len();
        if end <= start {
            return Ok(());
        }
        let horizon = end.next_power_of_two().max(HORIZON_MIN).min(self.symbols_max);
        self.residual.resize(horizon, Symbol::default());
        self.queue.waiting.resize(horizon, false);
        let window = &mut self.residual[start..];
        for slot in &mut self.local {
            slot.cursor.sweep(self.key, slot.element, -1, start, window);
        }
        for (&element, Peeled { cursor, sign }) in &mut self.peeled {
            step(&mut self.work, work_max)?;
            let (bits, check) = (element.bits(), self.key.check(element));
            while (cursor.next as usize) < horizon {
                step(&mut self.work, work_max)?;
                self.residual[cursor.next as usize].add(bits, check, -*sign);
                cursor.advance(element);
            }
        }
        Ok(())
    }

    fn peel(&mut self, work_max: u64) -> Result<(), Fault> {
        while let Some(index) = self.queue.pop() {
            let Symbol { sum, check, count: sign } = self.residual[index];
            let element = Element::from_bits(sum);
            if !self.residual[index].is_single() || self.key.check(element) != check {
                continue;
            }
            // Peeling makes a symbol zero, and if it is that of a set it stays so: each gives one element at most.
            if self.peeled.len() == self.received {
                return Err(Fault::Inconsistent("more elements than symbols"));
            }
            if self.peeled.contains_key(&element) {
                return Err(Fault::Inconsistent("an element came twice"));
            }
            let mut cursor = Cursor::default();
            let mut held = false;
            // The bound is looked at in each step: an element can be made to be in far more symbols than most are.
            while (cursor.next as usize) < self.residual.len() {
                step(&mut self.work, work_max)?;
                let at = cursor.next as usize;
                held |= at == index;
                let cell = &mut self.residual[at];
                cell.add(sum, check, -sign);
                if at < self.received {
                    self.queue.add(cell, at);
                }
                cursor.advance(element);
            }
            if !held {
                return Err(Fault::Inconsistent("an element came in a symbol that cannot hold it"));
            }
            self.peeled.insert(element, Peeled { cursor, sign });
        }
        Ok(())
    }

    fn finish(&self) -> Result<Progress, Fault> {
        if !self.residual[..self.received].iter().all(Symbol::is_zero) {
            return Err(Fault::Inconsistent("symbols are left over"));
        }
        let side = |sign| self.peeled.iter().filter(move |(_, p)| p.sign == sign).map(|(&element, _)| element);
        let only_local: Vec<Element> = side(-1).collect();
        let mut own = 0;
        for slot in self.local.iter().take_while(|_| !self.peeled.is_empty()) {
            match self.peeled.get(&slot.element) {
                Some(Peeled { sign: 1, .. }) => return Err(Fault::Inconsistent("an own element came as a new one")),
                Some(_) => own += 1,
                None => {}
            }
        }
        if own != only_local.len() {
            return Err(Fault::Inconsistent("an element is missing that the asker never had"));
        }
        Ok(Progress::Done { only_remote: side(1).collect(), only_local })
    }
}

fn step(work: &mut u64, work_max: u64) -> Result<(), Fault> {
    if *work >= work_max {
        return Err(Fault::WorkExceeded { max: work_max });
    }
    *work += 1;
    Ok(())
}

/// Received symbols that may be single, each at most once: however often a symbol is written, the queue stays within 5
/// bytes for each.
#[derive(Debug, Default)]
struct Queue {
    indices: Vec<u32>,
    waiting: Vec<bool>,
}

impl Queue {
    fn add(&mut self, cell: &Symbol, index: usize) {
        if cell.is_single() && !self.waiting[index] {
            self.waiting[index] = true;
            self.indices.push(index as u32);
        }
    }

    fn pop(&mut self) -> Option<usize> {
        let index = self.indices.pop()? as usize;
        self.waiting[index] = false;
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Encoder, tests::elements};
    use super::*;

    #[test]
    fn decoding_stops_at_the_step_that_would_exceed_the_bound() {
        let seed = [1; 16];
        let mut encoder = Encoder::new(&seed, elements(1, 200));
        let mark = encoder.mark();
        let first = Batch { mark, start: 0, symbols: encoder.next_symbols(100) };
        let second = Batch { mark, start: 100, symbols: encoder.next_symbols(900) };
        let max = work_max(1_000);
        let run = |spent: u64| {
            let mut decoder = Decoder::new(&seed, [], 1_000);
            assert_eq!(decoder.push(&first), Ok(Progress::NeedMore));
            let before = decoder.work;
            // No stream is known that comes near the bound, so part of it is taken away.
            decoder.work += spent;
            let end = decoder.push(&second);
            (end, before, decoder.work - before)
        };
        let (end, before, needed) = run(0);
        assert!(matches!(end, Ok(Progress::Done { .. })));
        // One step too few, in the middle of peeling, and before any.
        for lacking in [1, needed / 2, needed - 901] {
            let (end, _, work) = run(max - before - needed + lacking);
            assert_eq!(end, Err(Fault::WorkExceeded { max }));
            assert_eq!(work, max - before);
        }
        assert!(matches!(run(max - before - needed).0, Ok(Progress::Done { .. })));
    }
}
