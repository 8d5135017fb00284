//! A disk in memory that fails on purpose, for tests: crashes that lose unsynced writes, torn writes, failing operations,
//! a full disk, flipped bits, and a disk that lies about syncing.
//!
//! It keeps two images: `live`, what programs read, and `durable`, what a power cut cannot take away. Everything random is
//! drawn from the caller's seed.

use redb::StorageBackend;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Unit in which a write reaches the disk or does not. Disks promise whole sectors of at least this size.
const SECTOR: usize = 512;

/// The disk. Clones are handles on the same one; it outlives the stores opened on it.
#[derive(Clone, Debug, Default)]
pub struct FaultyDisk(Arc<Mutex<State>>);

/// What a store holds of a [`FaultyDisk`]. It stops working at the next [`FaultyDisk::crash`], as the process would.
#[derive(Debug)]
pub struct FaultyBackend {
    disk: FaultyDisk,
    boot: u64,
}

/// Kinds of operation that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reading.
    Read,
    /// Writing, or changing the length.
    Write,
    /// Syncing.
    Sync,
}

/// What was done to the disk since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Writes and changes of length.
    pub writes: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Syncs.
    pub syncs: u64,
}

#[derive(Debug, Default)]
struct State {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// What `live` has and `durable` has not, oldest first.
    unsynced: Vec<Change>,
    boot: u64,
    never_syncs: bool,
    capacity: Option<usize>,
    fault: Option<(Operation, u64)>,
    /// Writes and syncs until the power fails.
    power: Option<u64>,
    off: bool,
    counters: Counters,
}

#[derive(Debug)]
enum Change {
    Write { at: usize, data: Vec<u8> },
    Length(usize),
}

impl FaultyDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk that holds `image` durably.
    pub fn with_image(image: Vec<u8>) -> Self {
        let disk = Self::new();
        disk.state().durable.clone_from(&image);
        disk.state().live = image;
        disk
    }

    /// A disk whose syncs report success and do nothing: every crash suite must catch it.
    pub fn that_never_syncs() -> Self {
        let disk = Self::new();
        disk.state().never_syncs = true;
        disk
    }

    /// The disk as a store opens it.
    pub fn backend(&self) -> FaultyBackend {
        FaultyBackend { disk: self.clone(), boot: self.state().boot }
    }

    /// What programs read from the disk now.
    pub fn image(&self) -> Vec<u8> {
        self.state().live.clone()
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.state().counters
    }

    /// Makes the `n`-th operation of this kind from now on (1 is the next) fail once, without effect.
    pub fn fail_nth(&self, operation: Operation, n: u64) {
        self.state().fault = Some((operation, n));
    }

    /// Makes operations that take the disk over `bytes` fail with "no space left"; `None` lifts it.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.state().capacity = bytes;
    }

    /// Cuts the power after `n` further writes and syncs: the next one fails half done, and after it everything fails until
    /// [`FaultyDisk::crash`].
    pub fn cut_power_after(&self, n: u64) {
        self.state().power = Some(n);
    }

    /// Flips one bit of what is durable and of what is read.
    pub fn flip_bit(&self, bit: usize) {
        let state = &mut *self.state();
        for image in [&mut state.live, &mut state.durable] {
            if let Some(byte) = image.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// The power fails and comes back: of the unsynced writes the seed chooses which ones, and which sectors of them, are
    /// there; earlier faults are forgotten; backends from before stop working.
    pub fn crash(&self, seed: u64) {
        let mut rng = Rng::new(seed);
        let state = &mut *self.state();
        let unsynced = std::mem::take(&mut state.unsynced);
        let fate = Fate::draw(&mut rng, unsynced.len());
        for (i, change) in unsynced.into_iter().enumerate() {
            match change {
                Change::Length(len) if fate.keeps(&mut rng, i) => state.durable.resize(len, 0),
                Change::Length(_) => {}
                Change::Write { at, data } => {
                    // Cut where the disk's sectors begin, not where the write does
                    let mut from = 0;
                    while from < data.len() {
                        let to = data.len().min((at + from) / SECTOR * SECTOR + SECTOR - at);
                        if fate.keeps(&mut rng, i) {
                            write_at(&mut state.durable, at + from, &data[from..to]);
                        }
                        from = to;
                    }
                }
            }
        }
        state.live.clone_from(&state.durable);
        state.boot += 1;
        state.fault = None;
        state.power = None;
        state.off = false;
    }

    // Nothing below panics with the lock held, bar the test itself
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a crash treats unsynced writes.
enum Fate {
    Lost,
    Kept,
    /// In order up to one that is torn.
    Prefix(usize),
    /// Each sector by itself, kept this many times out of 8: reordered.
    Mixed(u64),
}

impl Fate {
    fn draw(rng: &mut Rng, writes: usize) -> Self {
        match rng.below(6) {
            0 => Fate::Lost,
            1 => Fate::Kept,
            2 => Fate::Prefix(rng.below(writes as u64 + 1) as usize),
            _ => Fate::Mixed([1, 4, 7][rng.below(3) as usize]),
        }
    }

    fn keeps(&self, rng: &mut Rng, write: usize) -> bool {
        match *self {
            Fate::Lost => false,
            Fate::Kept => true,
            Fate::Prefix(torn) => write < torn || (write == torn && rng.below(2) == 0),
            Fate::Mixed(eighths) => rng.below(8) < eighths,
        }
    }
}

impl State {
    /// Counts an operation; the one that meets the power cut is done by half.
    fn admit(&mut self, boot: u64, operation: Operation) -> Result<Admitted, io::Error> {
        if boot != self.boot || self.off {
            return Err(io::Error::other("the power is off"));
        }
        if let Some((kind, n)) = &mut self.fault
            && *kind == operation
        {
            *n = n.saturating_sub(1);
            if *n == 0 {
                self.fault = None;
                return Err(io::Error::other("injected fault"));
            }
        }
        if operation != Operation::Read
            && let Some(left) = &mut self.power
        {
            if *left == 0 {
                self.off = true;
                return Ok(Admitted::Cut);
            }
            *left -= 1;
        }
        Ok(Admitted::Done)
    }

    fn room_for(&self, len: usize) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if len > capacity => Err(io::Error::from(io::ErrorKind::StorageFull)),
            _ => Ok(()),
        }
    }
}

enum Admitted {
    Done,
    Cut,
}

impl Admitted {
    fn finish(self) -> io::Result<()> {
        match self {
            Admitted::Done => Ok(()),
            Admitted::Cut => Err(io::Error::other("the power is off")),
        }
    }
}

impl StorageBackend for FaultyBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.admit(self.boot, Operation::Read)?;
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let data = from.checked_add(out.len()).and_then(|to| state.live.get(from..to));
        out.copy_from_slice(data.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let mut state = self.disk.state();
        let admitted = state.admit(self.boot, Operation::Write)?;
        state.room_for(len)?;
        state.counters.writes += 1;
        state.live.resize(len, 0);
        state.unsynced.push(Change::Length(len));
        admitted.finish()
    }

    fn sync_data(&self) -> io::Result<()> {
        let state = &mut *self.disk.state();
        // A sync that the power cut meets leaves its writes to the crash
        state.admit(self.boot, Operation::Sync)?.finish()?;
        state.counters.syncs += 1;
        if state.never_syncs {
            return Ok(());
        }
        for change in state.unsynced.drain(..) {
            match change {
                Change::Length(len) => state.durable.resize(len, 0),
                Change::Write { at, data } => write_at(&mut state.durable, at, &data),
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let mut state = self.disk.state();
        let admitted = state.admit(self.boot, Operation::Write)?;
        state.room_for(at + data.len())?;
        state.counters.writes += 1;
        state.counters.bytes_written += data.len() as u64;
        write_at(&mut state.live, at, data);
        state.unsynced.push(Change::Write { at, data: data.to_vec() });
        admitted.finish()
    }
}

/// Writes into an image, which grows as a file does.
fn write_at(image: &mut Vec<u8>, at: usize, data: &[u8]) {
    let end = at + data.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[at..end].copy_from_slice(data);
}

/// A small seeded generator (SplitMix64): the same numbers on every machine, from nothing but the seed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator for a seed; seeds that differ give unrelated sequences.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0. The bias is of no consequence to tests.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next_u64() % end
    }

    /// `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| self.next_u64().to_le_bytes()).collect();
        out.truncate(len);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_what_was_synced_and_loses_only_what_was_not() {
        for seed in 0..200 {
            let disk = FaultyDisk::new();
            let backend = disk.backend();
            backend.write(0, &[1; 2048]).unwrap();
            backend.sync_data().unwrap();
            backend.write(700, &[2; 1000]).unwrap();
            disk.crash(seed);
            let image = disk.image();
            assert_eq!(image[..700], [1; 700], "seed {seed}");
            assert_eq!(image[1700..], [1; 348], "seed {seed}");
            for sector in [700..1024, 1024..1536, 1536..1700] {
                let first = image[sector.start];
                assert!(image[sector].iter().all(|byte| *byte == first), "seed {seed}: a sector is torn");
            }
            assert!(backend.write(0, &[9]).is_err(), "a backend from before the crash still works");
        }
    }

    #[test]
    fn crashes_lose_keep_and_tear() {
        let outcomes: std::collections::BTreeSet<Vec<u8>> = (0..200)
            .map(|seed| {
                let disk = FaultyDisk::new();
                disk.backend().write(0, &[1; 3 * SECTOR]).unwrap();
                disk.crash(seed);
                disk.image()
            })
            .collect();
        assert!(outcomes.contains(&Vec::new()) && outcomes.contains(&vec![1; 3 * SECTOR]) && outcomes.len() >= 6);
    }

    #[test]
    fn a_power_cut_stops_everything_until_the_crash() {
        let disk = FaultyDisk::new();
        let backend = disk.backend();
        disk.cut_power_after(1);
        backend.write(0, &[1; 8]).unwrap();
        assert!(backend.sync_data().is_err());
        assert!(backend.sync_data().is_err());
        assert!(backend.read(0, &mut [0; 8]).is_err());
        disk.crash(0);
        disk.backend().write(0, &[1]).unwrap();
    }

    #[test]
    fn a_full_disk_says_so() {
        let disk = FaultyDisk::new();
        disk.set_capacity(Some(100));
        let error = disk.backend().write(90, &[0; 11]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        disk.backend().write(90, &[0; 10]).unwrap();
    }
}
