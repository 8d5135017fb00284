//! What goes to and comes from each address in a day, over every way in; and how much that may be.
//!
//! In memory alone: a restart begins to count anew. An address is one of IPv4, or the /64 of one of IPv6, which is what one
//! subscriber has.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::budget;
use crate::shared::locked;

/// Addresses of one day, some 100 bytes each. Beyond it the lesser half is forgotten: whoever comes near a quota is not in it.
const ADDRESSES_MAX: usize = 16_384;

/// Counts bytes by address. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct AddressMeter(Arc<Mutex<Counts>>);

/// What an address has had today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressUsage {
    /// Which.
    pub network: IpNet,
    /// Bytes that went there.
    pub sent_bytes: u64,
    /// Bytes that came from there.
    pub received_bytes: u64,
}

#[derive(Debug, Default)]
struct Counts {
    max: Option<u64>,
    /// Since 1970 (UTC).
    day: u64,
    of: BTreeMap<IpNet, (u64, u64)>,
}

impl AddressMeter {
    /// Says how many bytes may go to and come from one address in a day (UTC); `None`: any number.
    pub fn set_max(&self, max: Option<u64>) {
        locked(&self.0).max = max;
    }

    /// Bytes went to an address.
    pub fn sent(&self, to: IpAddr, bytes: usize) {
        locked(&self.0).add(to, budget::today(), (bytes as u64, 0));
    }

    /// Bytes came from an address.
    pub fn received(&self, from: IpAddr, bytes: usize) {
        locked(&self.0).add(from, budget::today(), (0, bytes as u64));
    }

    /// How long it takes until all is counted anew.
    pub fn until_tomorrow(&self) -> Duration {
        budget::until_tomorrow()
    }

    /// Whether an address has had all that it may today.
    pub fn is_over(&self, address: IpAddr) -> bool {
        locked(&self.0).is_over(address, budget::today())
    }

    /// Those of today that had most, at most so many.
    pub fn most(&self, count: usize) -> Vec<AddressUsage> {
        let mut counts = locked(&self.0);
        counts.turn(budget::today());
        let usage = |(network, (sent_bytes, received_bytes)): (&IpNet, &(u64, u64))| AddressUsage {
            network: *network,
            sent_bytes: *sent_bytes,
            received_bytes: *received_bytes,
        };
        let mut all: Vec<AddressUsage> = counts.of.iter().map(usage).collect();
        all.sort_by_key(|usage| std::cmp::Reverse(usage.sent_bytes.saturating_add(usage.received_bytes)));
        all.truncate(count);
        all
    }
}

impl Counts {
    fn turn(&mut self, today: u64) {
        if self.day != today {
            (self.day, self.of) = (today, BTreeMap::new());
        }
    }

    fn add(&mut self, address: IpAddr, today: u64, (sent, received): (u64, u64)) {
        self.turn(today);
        let network = network_of(address);
        if self.of.len() >= ADDRESSES_MAX && !self.of.contains_key(&network) {
            let mut all: Vec<u64> = self.of.values().map(|(sent, received)| sent.saturating_add(*received)).collect();
            let (_, median, _) = all.select_nth_unstable(ADDRESSES_MAX / 2);
            let median = *median;
            self.of.retain(|_, (sent, received)| sent.saturating_add(*received) > median);
        }
        let of = self.of.entry(network).or_default();
        *of = (of.0.saturating_add(sent), of.1.saturating_add(received));
    }

    fn is_over(&mut self, address: IpAddr, today: u64) -> bool {
        self.turn(today);
        let Some(max) = self.max else { return false };
        self.of.get(&network_of(address)).is_some_and(|(sent, received)| sent.saturating_add(*received) >= max)
    }
}

fn network_of(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(address) => Ipv4Net::from(address).into(),
        IpAddr::V6(address) => Ipv6Net::new_assert(address, 64).trunc().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_much_a_day_in_both_directions_and_the_next_day_again() {
        let mut counts = Counts { max: Some(100), ..Counts::default() };
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        counts.add(at("192.0.2.1"), 1, (60, 39));
        assert!(!counts.is_over(at("192.0.2.1"), 1));
        counts.add(at("::ffff:192.0.2.1"), 1, (0, 1));
        counts.add(at("2001:db8::1"), 1, (100, 0));
        assert!(counts.is_over(at("192.0.2.1"), 1) && !counts.is_over(at("192.0.2.2"), 1));
        assert!(counts.is_over(at("2001:db8::ffff"), 1) && !counts.is_over(at("2001:db8:0:1::1"), 1));
        assert!(!counts.is_over(at("192.0.2.1"), 2));
        counts.max = None;
        counts.add(at("192.0.2.1"), 2, (u64::MAX, u64::MAX));
        assert!(!counts.is_over(at("192.0.2.1"), 2));
    }

    #[test]
    fn a_flood_of_addresses_is_bounded_and_does_not_make_a_heavy_one_forgotten() {
        let mut counts = Counts { max: Some(1_000), ..Counts::default() };
        let heavy: IpAddr = "192.0.2.1".parse().unwrap();
        counts.add(heavy, 1, (1_000, 0));
        for n in 0..100_000_u32 {
            counts.add(IpAddr::from(n.to_be_bytes()), 1, (u64::from(n % 7), 1));
            assert!(counts.of.len() <= ADDRESSES_MAX);
        }
        assert!(counts.is_over(heavy, 1));
    }
}
