//! When to dial again: exponential backoff with full jitter. Full jitter, because peers that lose an origin lose it
//! together, and must not come back together. Pure: time and randomness are arguments.

use std::time::{Duration, Instant};

/// The wait before the next dial of one address.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    stable: Duration,
    /// Failures since the last stable connection.
    failures: u32,
    connected: Option<Instant>,
}

impl Backoff {
    /// The first wait is at most `base`, doubled with each failure up to `cap`; a connection that lasts `stable` makes
    /// all forgotten.
    pub fn new(base: Duration, cap: Duration, stable: Duration) -> Self {
        Backoff { base, cap, stable, failures: 0, connected: None }
    }

    /// A dial succeeded. By itself this forgets nothing: a peer that accepts and drops us at once would be hammered.
    pub fn connected(&mut self, now: Instant) {
        self.connected = Some(now);
    }

    /// A dial failed or the connection ended; when to dial next. `random` is uniform over all of `u64`.
    pub fn failed(&mut self, now: Instant, random: u64) -> Instant {
        if self.connected.take().is_some_and(|since| now.saturating_duration_since(since) >= self.stable) {
            self.failures = 0;
        }
        let longest = self.longest_wait();
        self.failures = self.failures.saturating_add(1);
        // random / 2^64 of the longest wait. A cap of 584 years fits into the nanoseconds of a u64.
        let nanos = longest.as_nanos().saturating_mul(u128::from(random)) >> 64;
        now + Duration::from_nanos(nanos as u64)
    }

    /// The bound of the next wait.
    fn longest_wait(&self) -> Duration {
        let factor = 1u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }
}

impl Default for Backoff {
    /// 0.5 s doubling to 60 s, forgotten after 30 s: guesses, long enough that 1,000 peers waiting at the cap cost an
    /// origin 33 dials a second.
    fn default() -> Self {
        Backoff::new(Duration::from_millis(500), Duration::from_secs(60), Duration::from_secs(30))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIGHEST: u64 = u64::MAX;

    fn seconds(now: Instant, next: Instant) -> f64 {
        ((next - now).as_secs_f64() * 10.0).round() / 10.0
    }

    #[test]
    fn the_longest_wait_doubles_up_to_the_cap() {
        let (mut backoff, mut now, mut waits) = (Backoff::default(), Instant::now(), Vec::new());
        for _ in 0..100 {
            let next = backoff.failed(now, HIGHEST);
            waits.push(seconds(now, next));
            now = next;
        }
        assert_eq!(waits[..9], [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]);
        assert!(waits[9..].iter().all(|wait| *wait == 60.0));
    }

    #[test]
    fn the_wait_is_anywhere_between_nothing_and_the_longest() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        assert_eq!(backoff.failed(now, 0), now);
        assert_eq!(seconds(now, backoff.failed(now, HIGHEST / 2)), 0.5);
    }

    #[test]
    fn only_a_stable_connection_makes_failures_forgotten() {
        let (mut backoff, mut now) = (Backoff::default(), Instant::now());
        for _ in 0..4 {
            now = backoff.failed(now, HIGHEST);
        }
        backoff.connected(now);
        now += Duration::from_secs(29);
        assert_eq!(seconds(now, backoff.failed(now, HIGHEST)), 8.0, "29 s are not stable");
        now += Duration::from_secs(100);
        assert_eq!(seconds(now, backoff.failed(now, HIGHEST)), 16.0, "time without a connection does not count");
        backoff.connected(now);
        now += Duration::from_secs(30);
        assert_eq!(seconds(now, backoff.failed(now, HIGHEST)), 0.5);
    }
}
