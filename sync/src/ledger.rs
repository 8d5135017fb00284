//! Who gave whom how much, and how peers behaved lately: what this peer itself saw, for its own use. It orders bulk work and who
//! gives way when there is no room; it never decides what is believed, and nobody is told of it.
//!
//! A receiver signs how much it got from a peer in all ([`Receipt`]), so that the giver can show it. Nobody can sign that for itself;
//! but two that collude can sign anything, so receipts of strangers count for nothing here.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use crate::chain::SIGNATURE_LEN;
use crate::id::DeviceId;
use crate::peer::Now;

/// A receipt is signed for each so many bytes: a signature of 100 bytes for 256 KiB, and less than that goes unsigned.
pub const RECEIPT_BYTES: u64 = 256 << 10;
/// Peers of which accounts are kept, some 300 bytes each. Beyond it who exchanged least is forgotten.
pub const ACCOUNTS_MAX: usize = 4_096;
/// Conduct of so long ago counts half. A guess: a bad hour is forgotten in a day.
const HALF_LIFE_MS: u64 = 3_600_000;

/// A device says how much content it got from another, in all, since the two first met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// Who gave it.
    pub giver: DeviceId,
    /// Who got it, and signs.
    pub receiver: DeviceId,
    /// Bytes of messages with entries, snapshots or pieces of blobs.
    pub bytes: u64,
    signature: [u8; SIGNATURE_LEN],
}

impl Receipt {
    /// A receipt of this device.
    pub fn sign(key: &SigningKey, giver: DeviceId, bytes: u64) -> Receipt {
        let receiver = DeviceId(key.verifying_key().to_bytes());
        let receipt = Receipt { giver, receiver, bytes, signature: [0; SIGNATURE_LEN] };
        Receipt { signature: key.sign(&receipt.signed_bytes()).to_bytes(), ..receipt }
    }

    /// Whether its receiver signed it, strictly, and is not the giver.
    pub fn verifies(&self) -> bool {
        let signature = Signature::from_bytes(&self.signature);
        let key = VerifyingKey::from_bytes(&self.receiver.0);
        self.giver != self.receiver && key.is_ok_and(|key| key.verify_strict(&self.signed_bytes(), &signature).is_ok())
    }

    /// `"commonhold receipt 1" ‖ giver ‖ receiver ‖ bytes (u64 be)`
    fn signed_bytes(&self) -> Vec<u8> {
        [b"commonhold receipt 1", &self.giver.0[..], &self.receiver.0, &self.bytes.to_be_bytes()].concat()
    }
}

impl<C> Encode<C> for Receipt {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(4)?.bytes(&self.giver.0)?.bytes(&self.receiver.0)?.u64(self.bytes)?.bytes(&self.signature)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Receipt {
    fn decode(d: &mut Decoder<'b>, c: &mut C) -> Result<Self, decode::Error> {
        if d.array()? != Some(4) {
            return Err(decode::Error::message("a receipt has four fields"));
        }
        let (giver, receiver, bytes) = (DeviceId::decode(d, c)?, DeviceId::decode(d, c)?, d.u64()?);
        let signature = d.bytes()?.try_into();
        let signature = signature.map_err(|_| decode::Error::message("wrong length for a signature"))?;
        Ok(Receipt { giver, receiver, bytes, signature })
    }
}

/// What two devices exchanged, as one of them counts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Account {
    /// Bytes of content sent to the peer.
    #[n(0)]
    pub given: u64,
    /// Bytes of content that came from it.
    #[n(1)]
    pub got: u64,
    /// Of these, what it was given a receipt for.
    #[n(2)]
    pub signed: u64,
    /// What the peer last signed of what it was given.
    #[n(3)]
    pub receipt: Option<Receipt>,
    /// The identity that the device acts for, if that is known: devices of one are judged together.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub identity: Option<[u8; 32]>,
}

/// Something that a peer did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conduct {
    /// It brought what was new.
    Useful,
    /// It brought, unasked, what was here.
    Useless,
    /// It was asked for something that it had offered, and did not give it.
    Failed,
    /// It broke a rule of the protocol.
    Wrong,
}

/// How often a peer did each of these lately.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Standing {
    counts: [f64; 4],
    at: Now,
}

impl Standing {
    fn decayed(&self, now: Now) -> [f64; 4] {
        let passed = now.0.saturating_sub(self.at.0);
        // Halved each half-life, and along a line in between: the same on every machine, which a power is not.
        let halved = (0..(passed / HALF_LIFE_MS).min(64)).fold(1.0, |factor: f64, _| factor / 2.0);
        let factor = halved * (1.0 - (passed % HALF_LIFE_MS) as f64 / (2 * HALF_LIFE_MS) as f64);
        self.counts.map(|count| count * factor)
    }

    /// From 0 (bad) over 0.5 (unknown) to 1. What is useless costs little, it happens to the best; one broken rule outweighs a
    /// hundred entries.
    fn score(&self, now: Now) -> f64 {
        let [useful, useless, failed, wrong] = self.decayed(now);
        (useful + 1.0) / (useful + 0.1 * useless + 2.0 * failed + 100.0 * wrong + 2.0)
    }
}

/// All accounts of a peer.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    accounts: BTreeMap<DeviceId, Account>,
    standings: BTreeMap<DeviceId, Standing>,
    /// Devices of identities.
    of: BTreeMap<[u8; 32], BTreeSet<DeviceId>>,
}

impl Ledger {
    pub(crate) fn load(accounts: impl IntoIterator<Item = (DeviceId, Account)>) -> Ledger {
        let mut ledger = Ledger::default();
        for (device, account) in accounts.into_iter().take(ACCOUNTS_MAX) {
            ledger.accounts.insert(device, account);
            account.identity.iter().for_each(|identity| ledger.join(device, *identity));
        }
        ledger
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (DeviceId, Account)> + '_ {
        self.accounts.iter().map(|(device, account)| (*device, *account))
    }

    pub(crate) fn account(&self, device: &DeviceId) -> Account {
        self.accounts.get(device).copied().unwrap_or_default()
    }

    pub(crate) fn gave(&mut self, device: DeviceId, bytes: usize) {
        self.entry(device).given += bytes as u64;
    }

    /// Gives how much came in all, if that is to be signed.
    pub(crate) fn got(&mut self, device: DeviceId, bytes: usize) -> Option<u64> {
        let account = self.entry(device);
        account.got += bytes as u64;
        if account.got < account.signed.saturating_add(RECEIPT_BYTES) {
            return None;
        }
        account.signed = account.got;
        Some(account.got)
    }

    /// A peer signs what it got. Kept if it says more than the last and no more than was given: only that is worth its signature's
    /// check. True if it is new, `None` if it is no receipt of that peer for this one.
    pub(crate) fn signed(&mut self, me: DeviceId, from: DeviceId, receipt: Receipt) -> Option<bool> {
        if receipt.giver != me || receipt.receiver != from {
            return None;
        }
        let account = self.account(&from);
        let more = account.receipt.is_none_or(|last| receipt.bytes > last.bytes);
        if !more || receipt.bytes > account.given {
            return Some(false);
        }
        if !receipt.verifies() {
            return None;
        }
        self.entry(from).receipt = Some(receipt);
        Some(true)
    }

    pub(crate) fn note(&mut self, device: DeviceId, conduct: Conduct, now: Now) {
        if self.standings.len() >= ACCOUNTS_MAX && !self.standings.contains_key(&device) {
            let indifferent = |standing: &Standing| (standing.score(now) - 0.5).abs();
            let least = self.standings.iter().min_by(|a, b| indifferent(a.1).total_cmp(&indifferent(b.1)));
            if let Some(device) = least.map(|(device, _)| *device) {
                self.standings.remove(&device);
            }
        }
        let standing = self.standings.entry(device).or_default();
        let mut counts = standing.decayed(now);
        counts[conduct as usize] += 1.0;
        *standing = Standing { counts, at: now };
    }

    /// A device acts for an identity.
    pub(crate) fn join(&mut self, device: DeviceId, identity: [u8; 32]) {
        let account = self.entry(device);
        if let Some(before) = account.identity.replace(identity).filter(|before| *before != identity) {
            self.leave(&device, &before);
        }
        self.of.entry(identity).or_default().insert(device);
    }

    /// Who is preferred has more: first whether its conduct is bearable, then what the devices of its identity gave beyond what they
    /// got.
    pub(crate) fn favour(&self, device: &DeviceId, now: Now) -> (bool, i64) {
        let identity = self.account(device).identity.and_then(|identity| self.of.get(&identity));
        let person: Vec<&DeviceId> = identity.map_or_else(|| vec![device], |devices| devices.iter().collect());
        let mut conduct = Standing { counts: [0.0; 4], at: now };
        let mut balance = 0i64;
        for device in person {
            let account = self.account(device);
            balance = balance.saturating_add_unsigned(account.got).saturating_sub_unsigned(account.given);
            let counts = self.standings.get(device).map_or([0.0; 4], |standing| standing.decayed(now));
            conduct.counts.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        (conduct.score(now) >= 0.25, balance)
    }

    fn entry(&mut self, device: DeviceId) -> &mut Account {
        if self.accounts.len() >= ACCOUNTS_MAX && !self.accounts.contains_key(&device) {
            let least = self.accounts.iter().min_by_key(|(_, account)| account.got.saturating_add(account.given));
            if let Some((device, account)) = least.map(|(device, account)| (*device, *account)) {
                self.accounts.remove(&device);
                account.identity.iter().for_each(|identity| self.leave(&device, identity));
            }
        }
        self.accounts.entry(device).or_default()
    }

    fn leave(&mut self, device: &DeviceId, identity: &[u8; 32]) {
        if let Some(devices) = self.of.get_mut(identity) {
            devices.remove(device);
            if devices.is_empty() {
                self.of.remove(identity);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    fn device(n: u8) -> DeviceId {
        DeviceId(key(n).verifying_key().to_bytes())
    }

    fn decode_receipt(bytes: &[u8]) -> Receipt {
        Decoder::new(bytes).decode().unwrap()
    }

    #[test]
    fn a_receipt_is_its_receivers_word_and_nobody_elses() {
        let receipt = Receipt::sign(&key(1), device(2), 1 << 20);
        assert!(receipt.verifies());
        let bytes = minicbor::to_vec(receipt).unwrap();
        assert_eq!(decode_receipt(&bytes), receipt);
        for altered in [
            Receipt { bytes: 2 << 20, ..receipt },
            Receipt { giver: device(3), ..receipt },
            Receipt { receiver: device(3), ..receipt },
        ] {
            assert!(!altered.verifies());
        }
        assert!(!Receipt::sign(&key(1), device(1), 9).verifies(), "nobody gives itself");
    }

    #[test]
    fn a_receipt_counts_if_it_says_more_than_before_and_no_more_than_was_given() {
        let (me, peer) = (device(2), device(1));
        let mut ledger = Ledger::default();
        ledger.gave(peer, 1_000);
        let mut signed = |bytes| ledger.signed(me, peer, Receipt::sign(&key(1), me, bytes));
        assert_eq!(
            [signed(1_001), signed(600), signed(600), signed(500), signed(1_000)].map(|s| s.unwrap()),
            [false, true, false, false, true]
        );
        let stranger = Receipt::sign(&key(3), me, 900);
        assert_eq!(ledger.signed(me, peer, stranger), None, "it is another's");
        assert_eq!(
            ledger.signed(me, device(3), Receipt { signature: [1; 64], ..stranger }),
            Some(false),
            "none was given it"
        );
        ledger.gave(device(3), 1_000);
        assert_eq!(ledger.signed(me, device(3), Receipt { signature: [1; 64], ..stranger }), None);
        assert_eq!(ledger.account(&peer).receipt.map(|receipt| receipt.bytes), Some(1_000));
    }

    #[test]
    fn what_came_is_signed_for_each_quarter_of_a_mebibyte() {
        let mut ledger = Ledger::default();
        let signed: Vec<u64> = (0..10).filter_map(|_| ledger.got(device(1), 100 << 10)).map(|all| all >> 10).collect();
        assert_eq!(signed, [300, 600, 900]);
        let account = ledger.account(&device(1));
        let mut again = Ledger::load([(device(1), account)]);
        assert_eq!(again.got(device(1), 156 << 10), Some(1_156 << 10), "the next run goes on from there");
    }

    #[test]
    fn the_devices_of_one_identity_are_judged_together_and_bad_conduct_passes() {
        let mut ledger = Ledger::default();
        ledger.got(device(1), 900);
        ledger.gave(device(2), 400);
        assert_eq!(ledger.favour(&device(2), Now(0)), (true, -400));
        ledger.join(device(1), [7; 32]);
        ledger.join(device(2), [7; 32]);
        assert_eq!((ledger.favour(&device(1), Now(0)), ledger.favour(&device(2), Now(0))), ((true, 500), (true, 500)));
        ledger.note(device(1), Conduct::Wrong, Now(0));
        assert_eq!(ledger.favour(&device(2), Now(0)), (false, 500), "another phone does not help");
        assert_eq!(ledger.favour(&device(2), Now(9 * 3_600_000)), (true, 500));
        for _ in 0..200 {
            ledger.note(device(3), Conduct::Useless, Now(0));
            ledger.note(device(3), Conduct::Useful, Now(0));
        }
        assert!(ledger.favour(&device(3), Now(0)).0);
        ledger.join(device(2), [8; 32]);
        assert_eq!(ledger.favour(&device(1), Now(9 * 3_600_000)), (true, 900));
    }

    #[test]
    fn ever_new_peers_do_not_grow_it_and_push_out_who_exchanged_least() {
        let mut ledger = Ledger::default();
        ledger.gave(device(1), 5_000);
        ledger.note(device(1), Conduct::Wrong, Now(0));
        for n in 0..2 * ACCOUNTS_MAX as u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&n.to_be_bytes());
            ledger.got(DeviceId(id), 1);
            ledger.join(DeviceId(id), id);
            ledger.note(DeviceId(id), Conduct::Useful, Now(0));
        }
        assert_eq!((ledger.accounts.len(), ledger.of.len()), (ACCOUNTS_MAX, ACCOUNTS_MAX - 1));
        assert!(ledger.standings.len() <= ACCOUNTS_MAX && ledger.account(&device(1)).given == 5_000);
        assert!(!ledger.favour(&device(1), Now(0)).0);
    }
}
