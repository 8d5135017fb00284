//! Whose turn it is to send: of all hooks, of those of one space, and to one host.
//!
//! Those that wait with the rest of their space take no place, and those that wait for a host take one of their space alone: none that other
//! spaces could have, at a host or among all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use commonhold_engine::SpaceId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::deliver::locked;

/// Attempts under way at once: of all hooks, of those of one space, and to one host. Others wait for their turn.
const UNDER_WAY_MAX: usize = 64;
const OF_SPACE_MAX: usize = 16;
const TO_HOST_MAX: usize = 4;

/// Who may send now.
pub(super) struct Turns {
    all: Arc<Semaphore>,
    spaces: Mutex<BTreeMap<SpaceId, Weak<Semaphore>>>,
    hosts: Mutex<BTreeMap<String, Weak<Semaphore>>>,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns { all: Arc::new(Semaphore::new(UNDER_WAY_MAX)), spaces: Mutex::default(), hosts: Mutex::default() }
    }
}

impl Turns {
    /// Waits for a place. None when this peer stops.
    pub(super) async fn take(&self, space: SpaceId, host: &str) -> Option<[OwnedSemaphorePermit; 3]> {
        let space = places(&self.spaces, space, OF_SPACE_MAX).acquire_owned().await.ok()?;
        let host = places(&self.hosts, host.to_ascii_lowercase(), TO_HOST_MAX).acquire_owned().await.ok()?;
        Some([space, host, self.all.clone().acquire_owned().await.ok()?])
    }
}

/// The places of one host or space. Those that nobody has or waits for are forgotten: as many are kept as there are hooks.
fn places<K: Ord>(of: &Mutex<BTreeMap<K, Weak<Semaphore>>>, key: K, count: usize) -> Arc<Semaphore> {
    let mut all = locked(of);
    if let Some(found) = all.get(&key).and_then(Weak::upgrade) {
        return found;
    }
    all.retain(|_, places| places.strong_count() > 0);
    let places = Arc::new(Semaphore::new(count));
    all.insert(key, Arc::downgrade(&places));
    places
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_waits_with_the_rest_of_its_space_takes_no_place_of_a_host() {
        let (turns, one, other) = (Turns::default(), SpaceId([1; 32]), SpaceId([2; 32]));
        let mut under_way = Vec::new();
        for n in 0..OF_SPACE_MAX {
            under_way.push(turns.take(one, &format!("{n}.example")).await.unwrap());
        }
        let mut waiting: Vec<_> = (0..TO_HOST_MAX).map(|_| Box::pin(turns.take(one, "shared.example"))).collect();
        assert!(waiting.iter_mut().all(|turn| turn.as_mut().now_or_never().is_none()));
        assert!(turns.take(other, "shared.example").now_or_never().flatten().is_some());
    }
}
