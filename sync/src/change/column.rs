//! Readers for Automerge's column encodings: run-length, delta and boolean.
//!
//! They yield rows without materialising them, so a run of five million costs what a run of two costs, and accept only
//! the one form that Automerge writes: it re-encodes columns on load, and a change must keep its hash.

use super::Fault;
use super::read::Reader;

/// A value as it stands in a run-length encoded column.
pub(super) trait Cell<'a>: Copy + PartialEq {
    fn read(from: &mut Reader<'a>) -> Result<Self, Fault>;
}

impl<'a> Cell<'a> for u64 {
    fn read(from: &mut Reader<'a>) -> Result<Self, Fault> {
        from.unsigned()
    }
}

impl<'a> Cell<'a> for i64 {
    fn read(from: &mut Reader<'a>) -> Result<Self, Fault> {
        from.signed()
    }
}

impl<'a> Cell<'a> for &'a str {
    fn read(from: &mut Reader<'a>) -> Result<Self, Fault> {
        core::str::from_utf8(from.prefixed()?).map_err(|_| Fault::Utf8)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Run {
    Start,
    Null,
    Repeat,
    Literal,
}

/// A run-length encoded column. An empty one stands for any number of nulls.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rle<'a, T> {
    input: Reader<'a>,
    absent: bool,
    run: Run,
    /// Rows left in the current run.
    left: u64,
    /// The value of the latest row; `None` at the start and after nulls.
    last: Option<T>,
    any_value: bool,
}

impl<'a, T: Cell<'a>> Rle<'a, T> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Rle {
            input: Reader::new(bytes),
            absent: bytes.is_empty(),
            run: Run::Start,
            left: 0,
            last: None,
            any_value: false,
        }
    }

    /// Makes `left` positive, or says that the column is at its end.
    #[inline]
    fn open(&mut self) -> Result<bool, Fault> {
        if self.left > 0 { Ok(true) } else { self.open_next() }
    }

    fn open_next(&mut self) -> Result<bool, Fault> {
        if self.input.is_empty() {
            return Ok(false);
        }
        match self.input.signed()? {
            0 => {
                self.left = self.input.unsigned()?;
                if self.left == 0 || self.run == Run::Null {
                    return Err(Fault::Encoding);
                }
                (self.run, self.last) = (Run::Null, None);
            }
            // A lone value is a literal run of one.
            1 => return Err(Fault::Encoding),
            n if n > 1 => {
                let value = T::read(&mut self.input)?;
                if self.last == Some(value) {
                    return Err(Fault::Encoding);
                }
                (self.run, self.last, self.left) = (Run::Repeat, Some(value), n.unsigned_abs());
            }
            n => {
                if self.run == Run::Literal {
                    return Err(Fault::Encoding);
                }
                (self.run, self.left) = (Run::Literal, n.unsigned_abs());
            }
        }
        self.any_value |= self.run != Run::Null;
        Ok(true)
    }

    /// Up to `max` equal rows: their number and value; literals come one by one. `None` at the end. Costs one run.
    pub(super) fn next_run(&mut self, max: u64) -> Result<Option<(u64, Option<T>)>, Fault> {
        if max == 0 || !self.open()? {
            return Ok(None);
        }
        if self.run == Run::Literal {
            return self.cell().map(|cell| Some((1, cell)));
        }
        let rows = self.left.min(max);
        self.left -= rows;
        Ok(Some((rows, self.last)))
    }

    /// Passes over `rows` rows. Costs a run at a time.
    pub(super) fn skip(&mut self, mut rows: u64) -> Result<(), Fault> {
        while let Some((passed, _)) = self.next_run(rows)? {
            rows -= passed;
        }
        if rows == 0 { Ok(()) } else { Err(Fault::Rows) }
    }

    /// The next row.
    #[inline]
    pub(super) fn cell(&mut self) -> Result<Option<T>, Fault> {
        if self.absent {
            return Ok(None);
        }
        if !self.open()? {
            return Err(Fault::Rows);
        }
        self.left -= 1;
        if self.run == Run::Literal {
            self.read_literal()?;
        }
        Ok(self.last)
    }

    fn read_literal(&mut self) -> Result<(), Fault> {
        let value = T::read(&mut self.input)?;
        if self.last == Some(value) {
            return Err(Fault::Encoding);
        }
        self.last = Some(value);
        Ok(())
    }

    /// The next row of a column without nulls.
    pub(super) fn value(&mut self) -> Result<T, Fault> {
        if self.absent {
            return Err(Fault::Rows);
        }
        self.cell()?.ok_or(Fault::Encoding)
    }

    /// That every row was read, and that a column is present only if it holds a value.
    pub(super) fn end(&self) -> Result<(), Fault> {
        match (self.left == 0 && self.input.is_empty(), self.absent || self.any_value) {
            (true, true) => Ok(()),
            (true, false) => Err(Fault::Encoding),
            (false, _) => Err(Fault::Rows),
        }
    }
}

/// Number of rows, and the first and last value unless they are null.
pub(super) type DeltaRun = (u64, Option<(i64, i64)>);

/// A column of integers, stored as differences.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delta<'a> {
    rle: Rle<'a, i64>,
    at: i64,
}

impl<'a> Delta<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Delta { rle: Rle::new(bytes), at: 0 }
    }

    fn step(&mut self, by: i64) -> Result<i64, Fault> {
        self.at = self.at.checked_add(by).ok_or(Fault::Number)?;
        Ok(self.at)
    }

    pub(super) fn cell(&mut self) -> Result<Option<i64>, Fault> {
        match self.rle.cell()? {
            Some(by) => self.step(by).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn value(&mut self) -> Result<i64, Fault> {
        let by = self.rle.value()?;
        self.step(by)
    }

    /// Up to `max` rows that differ by the same step: their number, and the first and last value unless they are
    /// null. `None` at the end. Costs one run.
    pub(super) fn next_run(&mut self, max: u64) -> Result<Option<DeltaRun>, Fault> {
        let Some((rows, by)) = self.rle.next_run(max)? else { return Ok(None) };
        let Some(by) = by else { return Ok(Some((rows, None))) };
        let first = self.step(by)?;
        let more = i64::try_from(rows - 1).ok().and_then(|more| by.checked_mul(more)).ok_or(Fault::Number)?;
        Ok(Some((rows, Some((first, self.step(more)?)))))
    }

    /// Passes over `rows` rows. Costs a run at a time.
    pub(super) fn skip(&mut self, mut rows: u64) -> Result<(), Fault> {
        while let Some((passed, _)) = self.next_run(rows)? {
            rows -= passed;
        }
        if rows == 0 { Ok(()) } else { Err(Fault::Rows) }
    }

    pub(super) fn end(&self) -> Result<(), Fault> {
        self.rle.end()
    }
}

/// A column of booleans: alternating counts of false and true rows. An empty one stands for any number of false rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bools<'a> {
    input: Reader<'a>,
    absent: bool,
    /// Counts read so far.
    runs: u64,
    zero_first: bool,
    left: u64,
}

impl<'a> Bools<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Bools { input: Reader::new(bytes), absent: bytes.is_empty(), runs: 0, zero_first: false, left: 0 }
    }

    /// Makes `left` positive, or says that the column is at its end.
    fn open(&mut self) -> Result<bool, Fault> {
        while self.left == 0 {
            if self.input.is_empty() {
                return if self.runs == 1 && self.zero_first { Err(Fault::Encoding) } else { Ok(false) };
            }
            self.left = self.input.unsigned()?;
            // Only the first count may be 0: the column starts with a true row.
            if self.left == 0 && self.runs > 0 {
                return Err(Fault::Encoding);
            }
            self.zero_first |= self.left == 0;
            self.runs += 1;
        }
        Ok(true)
    }

    pub(super) fn cell(&mut self) -> Result<bool, Fault> {
        if self.absent {
            return Ok(false);
        }
        if !self.open()? {
            return Err(Fault::Rows);
        }
        self.left -= 1;
        Ok(self.runs.is_multiple_of(2))
    }

    /// The number of rows from here to the end, refused once it passes `max`. Costs a run at a time.
    pub(super) fn count(&mut self, max: u64) -> Result<u64, Fault> {
        let mut rows = 0u64;
        while self.open()? {
            rows = rows.saturating_add(core::mem::take(&mut self.left));
            if rows > max {
                return Err(Fault::Rows);
            }
        }
        Ok(rows)
    }

    /// The next row of a column that must be present.
    pub(super) fn value(&mut self) -> Result<bool, Fault> {
        if self.absent { Err(Fault::Rows) } else { self.cell() }
    }

    /// That every row was read.
    pub(super) fn end(&self) -> Result<(), Fault> {
        if self.left == 0 && self.input.is_empty() { Ok(()) } else { Err(Fault::Rows) }
    }

    /// For a column that Automerge leaves out when no row is true.
    pub(super) fn end_unless_false(&self) -> Result<(), Fault> {
        self.end()?;
        if self.absent || self.runs > 1 { Ok(()) } else { Err(Fault::Encoding) }
    }
}

/// Bit of a column's specification that says "deflated".
const DEFLATE: u64 = 8;

/// Reads a list of columns: for each of the `known` specifications, in their order, its length, 0 if it is missing.
pub(super) fn layout<const N: usize>(input: &mut Reader<'_>, known: &[u64; N]) -> Result<[u64; N], Fault> {
    let mut lengths = [0; N];
    let mut from = 0;
    for _ in 0..input.unsigned()? {
        let spec = input.unsigned()?;
        let length = input.unsigned()?;
        if spec & DEFLATE != 0 {
            return Err(Fault::Compressed);
        }
        // The search starts after the previous column, so that each comes at most once and in order.
        let at = known[from..].iter().position(|&k| k == spec).ok_or(Fault::Column(spec))? + from;
        if length == 0 {
            return Err(Fault::Column(spec));
        }
        lengths[at] = length;
        from = at + 1;
    }
    Ok(lengths)
}

/// The columns that [`layout`] announced.
pub(super) fn columns<'a, const N: usize>(input: &mut Reader<'a>, lengths: [u64; N]) -> Result<[&'a [u8]; N], Fault> {
    let mut columns = [&[][..]; N];
    for (column, length) in columns.iter_mut().zip(lengths) {
        *column = input.take(length)?;
    }
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rle(bytes: &[u8]) -> Result<Vec<Option<u64>>, Fault> {
        let mut column = Rle::new(bytes);
        let mut rows = Vec::new();
        while let Some((n, value)) = column.next_run(u64::MAX)? {
            rows.extend(core::iter::repeat_n(value, n as usize));
        }
        column.end()?;
        let mut again = Rle::new(bytes);
        for row in &rows {
            assert_eq!(again.cell()?, *row, "by row and by run are the same");
        }
        Ok(rows)
    }

    #[test]
    fn runs_of_every_kind_are_read() {
        assert_eq!(
            rle(&[0x7e, 7, 8, 2, 9, 0, 2, 0x7f, 9]).unwrap(),
            [7, 8, 9, 9, 0, 0, 9].map(|n| (n > 0).then_some(n))
        );
    }

    #[test]
    fn forms_that_automerge_would_not_write_are_refused() {
        let bad: [&[u8]; 9] = [
            &[1, 7],             // a repeat of one
            &[2, 7, 2, 7],       // two runs that are one
            &[0x7f, 7, 0x7f, 8], // two literals that are one
            &[0x7e, 7, 7],       // a repeat spelled out
            &[2, 7, 0x7e, 7, 8], // a literal that starts with the value before it
            &[0x7f, 7, 2, 7],    // and the other way round
            &[0, 1, 0, 1],       // two null runs
            &[0, 0],             // an empty null run
            &[0, 3],             // nothing but nulls
        ];
        for bytes in bad {
            assert_eq!(rle(bytes), Err(Fault::Encoding), "{bytes:?}");
        }
        assert_eq!(rle(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f]), Err(Fault::Length));
    }

    #[test]
    fn deltas_do_not_overflow() {
        let mut bytes = vec![2];
        super::super::read::put_signed(&mut bytes, i64::MAX);
        let mut column = Delta::new(&bytes);
        assert_eq!(column.value(), Ok(i64::MAX));
        assert_eq!(column.value(), Err(Fault::Number));
    }

    #[test]
    fn booleans_alternate_and_only_the_first_count_may_be_zero() {
        let rows = |bytes, n| {
            let mut column = Bools::new(bytes);
            let rows = (0..n).map(|_| column.cell()).collect::<Result<Vec<_>, _>>()?;
            column.end_unless_false().map(|()| rows)
        };
        assert_eq!(rows(&[0, 2, 1], 3), Ok(vec![true, true, false]));
        assert_eq!(rows(&[1, 1], 2), Ok(vec![false, true]));
        assert_eq!(rows(&[], 2), Ok(vec![false, false]));
        assert_eq!(rows(&[2], 2), Err(Fault::Encoding));
        assert_eq!(rows(&[1, 0, 1], 2), Err(Fault::Encoding));
        assert_eq!(rows(&[0], 1), Err(Fault::Encoding));
        assert_eq!(rows(&[1, 2], 2), Err(Fault::Rows));
        assert_eq!(rows(&[1, 1], 3), Err(Fault::Rows));
    }

    #[test]
    fn columns_come_once_in_order_and_raw() {
        let known = [1, 2, 0x11];
        let read = |bytes: &[u8]| layout(&mut Reader::new(bytes), &known);
        assert_eq!(read(&[2, 1, 5, 0x11, 6]), Ok([5, 0, 6]));
        assert_eq!(read(&[2, 2, 5, 1, 6]), Err(Fault::Column(1)));
        assert_eq!(read(&[2, 2, 5, 2, 6]), Err(Fault::Column(2)));
        assert_eq!(read(&[1, 3, 5]), Err(Fault::Column(3)));
        assert_eq!(read(&[1, 2, 0]), Err(Fault::Column(2)));
        assert_eq!(read(&[1, 2 | 8, 5]), Err(Fault::Compressed));
        assert_eq!(read(&[0xff, 0xff, 3, 1, 5]), Err(Fault::Length));
    }
}
