//! What is stored here of whom.

use std::collections::BTreeMap;

use commonhold_engine::{Node, UNSIGNED};

use super::failure;
use crate::request::{AddressUse, Answered, Reply, Stored, Usage};

/// Addresses of one answer.
const ADDRESSES_MAX: usize = 1_000;

pub(super) async fn report(node: &Node) -> Answered {
    let rows = node.usage().await.map_err(|error| failure(&error))?;
    let accounts: BTreeMap<_, _> = node.accounts().await.map_err(|error| failure(&error))?.into_iter().collect();
    let (mut spaces, mut identities) = (BTreeMap::new(), BTreeMap::new());
    let mut met = BTreeMap::new();
    for row in rows {
        add(&mut spaces, row.space.to_string(), (row.usage.bytes, row.usage.documents));
        if row.device != UNSIGNED {
            let owner = add(&mut identities, row.owner.to_string(), (row.usage.bytes, row.usage.documents));
            // Once, in however many spaces it is.
            if met.insert(row.device, ()).is_none() {
                let account = accounts.get(&row.device).copied().unwrap_or_default();
                owner.given = Some(owner.given.unwrap_or(0) + account.given);
                owner.got = Some(owner.got.unwrap_or(0) + account.got);
            }
        }
    }
    let addresses = node.addresses().most(ADDRESSES_MAX).into_iter().map(|of| AddressUse {
        network: of.network.to_string(),
        sent_bytes: of.sent_bytes,
        received_bytes: of.received_bytes,
    });
    let (spaces, identities) = (fullest_first(spaces), fullest_first(identities));
    Ok(Reply::Usage(Usage { spaces, identities, addresses: addresses.collect() }))
}

fn add(all: &mut BTreeMap<String, Stored>, id: String, (bytes, documents): (u64, u64)) -> &mut Stored {
    let none = Stored { id: id.clone(), bytes: 0, documents: 0, given: None, got: None };
    let of = all.entry(id).or_insert(none);
    (of.bytes, of.documents) = (of.bytes + bytes, of.documents + documents);
    of
}

fn fullest_first(all: BTreeMap<String, Stored>) -> Vec<Stored> {
    let mut all: Vec<Stored> = all.into_values().collect();
    all.sort_by_key(|of| std::cmp::Reverse(of.bytes));
    all
}
