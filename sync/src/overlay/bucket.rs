//! So many at once, and so many per second after that.

use crate::peer::Now;

/// A token bucket. What is over is refused, never queued.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    burst: u32,
    per_s: u32,
    /// In thousandths.
    filled: u64,
    at: Now,
}

impl Bucket {
    pub(super) fn new(now: Now, burst: u32, per_s: u32) -> Bucket {
        Bucket { burst, per_s, filled: u64::from(burst) * 1_000, at: now }
    }

    fn filled(&self, now: Now) -> u64 {
        let passed = now.0.saturating_sub(self.at.0);
        let filled = self.filled.saturating_add(passed.saturating_mul(u64::from(self.per_s)));
        filled.min(u64::from(self.burst) * 1_000)
    }

    /// Whether there is one to take.
    pub(super) fn has(&self, now: Now) -> bool {
        self.filled(now) >= 1_000
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, now: Now) -> bool {
        self.filled = self.filled(now);
        self.at = self.at.max(now);
        let taken = self.filled >= 1_000;
        if taken {
            self.filled -= 1_000;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate_whatever_the_clock_says() {
        let mut bucket = Bucket::new(Now(5), 3, 2);
        assert_eq!((0..5).filter(|_| bucket.take(Now(5))).count(), 3);
        assert!(!bucket.take(Now(0)) && !bucket.take(Now(504)) && bucket.take(Now(1_005)));
        assert_eq!((0..9).filter(|_| bucket.take(Now(u64::MAX))).count(), 3);
    }
}
