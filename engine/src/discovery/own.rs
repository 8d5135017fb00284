//! What this peer says of itself, signed.

use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use commonhold_sync::peer_record::PeerRecord;
use ed25519_dalek::SigningKey;

use crate::shared::locked;
use crate::transport::Address;

/// This peer's record. Signed anew when its addresses change; each is newer than the last, whatever the clock does.
pub(crate) struct OwnRecord {
    key: SigningKey,
    record: Mutex<PeerRecord>,
}

impl OwnRecord {
    /// `after`: the time of the last record of an earlier run, as far as it is known.
    pub(crate) fn new(key: SigningKey, roles: u64, addresses: &[String], after: Option<u64>) -> OwnRecord {
        let made_ms = wall_ms().max(after.map_or(0, |after| after.saturating_add(1)));
        let record = Mutex::new(PeerRecord::sign(&key, made_ms, roles, &dialable(addresses)));
        OwnRecord { key, record }
    }

    pub(crate) fn record(&self) -> PeerRecord {
        locked(&self.record).clone()
    }

    /// Signs one with these addresses. False if nothing changed.
    pub(crate) fn set_addresses(&self, addresses: &[String]) -> bool {
        let mut record = locked(&self.record);
        let addresses = dialable(addresses);
        if record.addresses == addresses {
            return false;
        }
        let made_ms = wall_ms().max(record.made_ms.saturating_add(1));
        *record = PeerRecord::sign(&self.key, made_ms, record.roles, &addresses);
        true
    }

    pub(crate) fn key(&self) -> &SigningKey {
        &self.key
    }
}

/// Without those that lead nowhere: a listener at all interfaces, and names inside this process.
fn dialable(addresses: &[String]) -> Vec<String> {
    let leads = |text: &&String| match text.parse::<Address>() {
        Ok(address @ Address::WebSocket { .. }) => {
            address.ip().is_none_or(|ip| !ip.is_unspecified() && !ip.is_multicast())
        }
        Ok(Address::Quic { .. }) => true,
        Ok(Address::QuicSocket { .. } | Address::Memory(_)) | Err(_) => false,
    };
    addresses.iter().filter(leads).cloned().collect()
}

/// Milliseconds since 1970, as this machine's clock says.
pub(crate) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_is_newer_than_the_last_and_names_what_can_be_dialled() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let all = ["ws://0.0.0.0:1/", "ws://[::]:1/", "ws://192.0.2.1:1/", "ws://example.org:1/", "nonsense"];
        let far = wall_ms() + 1_000_000_000;
        let own = OwnRecord::new(key, 3, &all.map(str::to_owned), Some(far));
        let first = own.record();
        assert_eq!(first.addresses, ["ws://192.0.2.1:1/", "ws://example.org:1/"]);
        assert!(first.made_ms > far && first.verify().is_ok(), "the clock was set back");
        assert!(!own.set_addresses(&first.addresses), "nothing changed");
        assert!(own.set_addresses(&[]));
        assert!(own.record().replaces(&first));
    }
}
