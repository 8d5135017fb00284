//! One attempt to reach one peer, address by address. For peers that somebody named: whoever wants the connection asks again later
//! if it is still wanted. A peer that failed, or that accepts and hangs up at once, is left alone for a time that doubles.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use commonhold_sync::id::DeviceId;
use tokio::sync::{Semaphore, oneshot};

use super::random;
use crate::backoff::Backoff;
use crate::shared::{Attach, Command, Shared, locked};
use crate::transport::{Address, TransportConfig, dial};

/// Attempts under way at once. Each holds a socket for 10 s at most.
const DIALS_MAX: usize = 16;
/// Attempts that wait for their turn. Beyond it nothing is dialled, and whoever asked may ask again.
const WAITING_MAX: usize = 256;
/// Peers whose failures are remembered: some 100 bytes each.
const REMEMBERED_MAX: usize = 4_096;
/// The first wait after a failure is at most this, doubled up to the next, and forgotten after a connection of the third. As
/// for configured peers, but with longer waits: there are others to ask. Guesses.
const BACKOFF: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(600), Duration::from_secs(30)];

/// Who is dialled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Whom {
    /// This device and no other.
    Device(DeviceId),
    /// Whoever answers at this address: found on the local network, which tells no names.
    Anybody(Address),
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialled {
    /// Connected, and the other side is who it must be.
    Reached(DeviceId),
    /// Already connected, or being dialled.
    Already,
    /// Failed not long ago.
    TooSoon,
    /// Too many attempts wait.
    Busy,
    /// Nobody answered at any address, or somebody else.
    Failed,
}

#[derive(Debug)]
pub(crate) struct Dialler {
    places: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    under_way: BTreeSet<Whom>,
    remembered: BTreeMap<Whom, Remembered>,
}

#[derive(Debug)]
struct Remembered {
    backoff: Backoff,
    /// Not before this moment; `None` while connected.
    next: Option<Instant>,
}

impl Dialler {
    pub(crate) fn new() -> Dialler {
        Dialler { places: Arc::new(Semaphore::new(DIALS_MAX)), state: Mutex::default() }
    }

    /// Tries these addresses in turn, and tells the book how it went.
    pub(crate) async fn dial_peer(
        &self,
        shared: &Arc<Shared>,
        config: &TransportConfig,
        whom: Whom,
        addresses: &[Address],
    ) -> Dialled {
        if matches!(&whom, Whom::Device(device) if *device == shared.device || shared.is_connected(device)) {
            return Dialled::Already;
        }
        let device = match &whom {
            Whom::Device(device) => Some(device),
            Whom::Anybody(_) => None,
        };
        let free: Vec<&Address> = addresses.iter().filter(|address| !shared.blocks_dial(device, address)).collect();
        if free.is_empty() {
            return Dialled::Failed;
        }
        if !shared.budget.borrow().connects {
            return Dialled::TooSoon;
        }
        if let Err(why) = locked(&self.state).begin(&whom, Instant::now()) {
            return why;
        }
        let underway = Underway { dialler: self, whom: &whom };
        let Ok(_place) = self.places.acquire().await else { return Dialled::Busy };
        for address in free {
            if let Some((device, ended)) = self.try_address(shared, config, &whom, address).await {
                locked(&self.state).reached(&whom, Instant::now());
                let (shared, whom) = (shared.clone(), whom.clone());
                tokio::spawn(async move {
                    let _ = ended.await;
                    locked(&shared.dialler.state).failed(&whom, Instant::now(), random());
                });
                return Dialled::Reached(device);
            }
        }
        drop(underway);
        // Reached for another reason meanwhile.
        if matches!(&whom, Whom::Device(device) if shared.is_connected(device)) {
            return Dialled::Already;
        }
        locked(&self.state).failed(&whom, Instant::now(), random());
        if let Whom::Device(device) = &whom {
            shared.note_failed(device);
        }
        Dialled::Failed
    }

    /// The device that answered, and what tells the end of the connection.
    async fn try_address(
        &self,
        shared: &Shared,
        config: &TransportConfig,
        whom: &Whom,
        address: &Address,
    ) -> Option<(DeviceId, oneshot::Receiver<()>)> {
        let link = dial(address, config).await;
        let link = link.inspect_err(|error| tracing::debug!(%address, %error, "cannot connect")).ok()?;
        let ((alive, ended), (open, opened)) = (oneshot::channel(), oneshot::channel());
        let expected = match whom {
            Whom::Device(device) => Some(*device),
            Whom::Anybody(_) => None,
        };
        let attach = Attach {
            expected,
            address: Some(address.to_string()),
            remote: address.ip(),
            alive: Some(alive),
            opened: Some(open),
            ..Attach::new(link, true)
        };
        shared.command(Command::Attach(attach)).await.ok()?;
        // Dropped when the connection ends before its hello, which the machine allows some seconds.
        Some((opened.await.ok()?, ended))
    }
}

/// Takes the attempt out, however it ends.
struct Underway<'a> {
    dialler: &'a Dialler,
    whom: &'a Whom,
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        locked(&self.dialler.state).under_way.remove(self.whom);
    }
}

impl State {
    fn begin(&mut self, whom: &Whom, now: Instant) -> Result<(), Dialled> {
        if self.under_way.contains(whom) {
            return Err(Dialled::Already);
        }
        match self.remembered.get(whom) {
            Some(Remembered { next: None, .. }) => return Err(Dialled::Already),
            Some(Remembered { next: Some(next), .. }) if *next > now => return Err(Dialled::TooSoon),
            _ => {}
        }
        if self.under_way.len() >= WAITING_MAX {
            return Err(Dialled::Busy);
        }
        self.under_way.insert(whom.clone());
        Ok(())
    }

    fn remember(&mut self, whom: &Whom, now: Instant) -> &mut Remembered {
        if self.remembered.len() >= REMEMBERED_MAX && !self.remembered.contains_key(whom) {
            // Those whose wait is over lose least; then whoever waits longest, which is dialled too early at worst.
            self.remembered.retain(|_, known| known.next.is_none_or(|next| next > now));
            let last = self.remembered.iter().max_by_key(|(_, known)| known.next).map(|(whom, _)| whom.clone());
            if let Some(last) = last.filter(|_| self.remembered.len() >= REMEMBERED_MAX) {
                self.remembered.remove(&last);
            }
        }
        let fresh = || Remembered { backoff: Backoff::new(BACKOFF[0], BACKOFF[1], BACKOFF[2]), next: Some(now) };
        self.remembered.entry(whom.clone()).or_insert_with(fresh)
    }

    fn reached(&mut self, whom: &Whom, now: Instant) {
        let known = self.remember(whom, now);
        known.backoff.connected(now);
        known.next = None;
    }

    /// A dial failed, or a connection ended.
    fn failed(&mut self, whom: &Whom, now: Instant, random: u64) {
        let known = self.remember(whom, now);
        known.next = Some(known.backoff.failed(now, random));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whom(n: u32) -> Whom {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        Whom::Device(DeviceId(id))
    }

    #[test]
    fn a_peer_that_failed_waits_and_one_that_lasted_starts_afresh() {
        let (mut state, mut now) = (State::default(), Instant::now());
        for longest in [2, 4, 8] {
            assert_eq!(state.begin(&whom(1), now), Ok(()));
            assert_eq!(state.begin(&whom(1), now), Err(Dialled::Already));
            state.under_way.clear();
            state.failed(&whom(1), now, u64::MAX);
            assert_eq!(state.begin(&whom(1), now + Duration::from_millis(longest * 1_000 - 1)), Err(Dialled::TooSoon));
            now += Duration::from_secs(longest);
        }
        state.reached(&whom(1), now);
        assert_eq!(state.begin(&whom(1), now), Err(Dialled::Already), "connected");
        // Hung up on at once: nothing is forgotten.
        state.failed(&whom(1), now, u64::MAX);
        assert_eq!(state.begin(&whom(1), now + Duration::from_secs(15)), Err(Dialled::TooSoon));
        state.reached(&whom(1), now);
        state.failed(&whom(1), now + Duration::from_secs(30), u64::MAX);
        assert_eq!(state.begin(&whom(1), now + Duration::from_secs(32)), Ok(()), "2 s after a connection that lasted");
    }

    #[test]
    fn what_is_remembered_and_what_waits_is_bounded() {
        let (mut state, now) = (State::default(), Instant::now());
        for n in 0..10_000 {
            state.failed(&whom(n), now, u64::MAX);
        }
        assert_eq!(state.remembered.len(), REMEMBERED_MAX);
        for n in 20_000..20_000 + WAITING_MAX as u32 {
            assert_eq!(state.begin(&whom(n), now), Ok(()));
        }
        assert_eq!(state.begin(&whom(30_000), now), Err(Dialled::Busy));
    }
}
