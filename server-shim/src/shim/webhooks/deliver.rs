//! Delivering: a task for each hook, so that a slow receiver delays no other, and one that looks which spaces have something new.
//!
//! An event that failed is on disk before the hook goes on. How far a hook is is written once a second: a crash repeats what was delivered
//! since, under the same ids.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::http::header::{CONTENT_TYPE, USER_AGENT};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use commonhold_engine::tls::Roots;
use commonhold_engine::{DocumentChange, Error, Node, SpaceId};
use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use serde_json::{Value as Json, json};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::access::{Access, May};
use super::super::body::Bodies;
use super::super::version;
use super::destination::{Connector, Networks, Resolve, system};
use super::hook::{
    At, EVENTS, Event, HOOKS, Hook, HookId, Next, Outcome, PLACES, ROW_VERSION, State, TERMS, Terms, Writes, key,
    not_made, read_key, spread,
};
use super::send::{Attempted, PATIENCE, Sender};
use super::signature::signatures;
use super::turns::Turns;

/// Hooks of one space, and of this peer. Each costs a task, and some 50 KiB where it has events that wait.
pub(super) const SPACE_MAX: usize = 32;
pub(super) const PEER_MAX: usize = 1_024;
/// Changes that a hook reads at once.
const AHEAD: usize = 32;
/// Bytes of a document that comes along; a larger one is read by its URL.
const DOCUMENT_BYTES_MAX: usize = 256 << 10;
/// How soon after news hooks look at them, so that many edits cost one look; and how often it is written how far they are.
const LOOK_AFTER: Duration = Duration::from_millis(100);
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// How long a hook rests when the store fails, or its token has no right: then it looks again.
const REST_MS: u64 = 10_000;
/// How long attempts may go on when this peer stops. Those that do not end are made again after the next start.
const LINGER: Duration = Duration::from_secs(2);

/// What is counted. Clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counted {
    delivered: Counter,
    failed: Counter,
    dead: Counter,
}

/// How webhooks are, for operators.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Told {
    /// Those that are at work, those of which the last attempt failed, those that are switched off, and those whose token has no right any more.
    pub(crate) active: u64,
    pub(crate) failing: u64,
    pub(crate) off: u64,
    pub(crate) stopped: u64,
    /// Events that wait for another attempt, and dead letters that are kept.
    pub(crate) waiting: u64,
    pub(crate) dead_letters: u64,
    /// Changes that the hook which is furthest behind is behind.
    pub(crate) behind: u64,
    /// Attempts by how they ended, and events that were given up.
    pub(crate) delivered: u64,
    pub(crate) failed: u64,
    pub(crate) dead: u64,
}

/// A hook that is at work.
pub(super) struct Live {
    pub(super) space: SpaceId,
    pub(super) id: HookId,
    /// Held while the disk is waited for, and never while a receiver is.
    pub(super) state: Arc<tokio::sync::Mutex<State>>,
    /// Something about it changed.
    poked: Notify,
    gone: CancellationToken,
    /// A test is under way: one at a time.
    pub(super) tested: Semaphore,
}

/// The hooks of a space, and the number of its last change as far as it was looked at.
struct Place {
    hooks: BTreeMap<HookId, Arc<Live>>,
    last: watch::Sender<u64>,
}

/// All hooks of this peer, at work until [`Hooks::end`].
#[derive(Clone)]
pub(crate) struct Hooks(Arc<Inner>);

pub(crate) struct Inner {
    node: Node,
    access: Arc<Access>,
    bodies: Bodies,
    pub(super) allowed: Networks,
    sender: Sender,
    terms: Terms,
    places: Mutex<BTreeMap<SpaceId, Place>>,
    /// Held while hooks are counted and made.
    making: tokio::sync::Mutex<()>,
    turns: Turns,
    /// There is a hook in a space that was not looked at.
    look: Notify,
    stop: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
    counted: Counted,
}

impl std::ops::Deref for Hooks {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// Why a hook cannot be made or changed.
#[derive(Debug)]
pub(super) enum Refused {
    /// The space has as many as it may.
    SpaceFull,
    /// This peer does.
    PeerFull,
    /// It was deleted meanwhile.
    Gone,
    Store(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused::Store(error)
    }
}

pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A row of the store, and one that is to be written or taken out.
type Stored = (Vec<u8>, Vec<u8>);
type Row = (Vec<u8>, Option<Vec<u8>>);

impl Live {
    fn new(space: SpaceId, id: HookId, state: State) -> Arc<Live> {
        let state = Arc::new(tokio::sync::Mutex::new(state));
        let (poked, gone, tested) = (Notify::new(), CancellationToken::new(), Semaphore::new(1));
        Arc::new(Live { space, id, state, poked, gone, tested })
    }

    fn key(&self, prefix: &[u8], number: Option<u64>) -> Vec<u8> {
        key(prefix, &self.space, &self.id, number)
    }

    /// The rows of a decision.
    fn rows(&self, state: &State, writes: Writes) -> Vec<Row> {
        let mut rows = Vec::new();
        if writes.hook {
            rows.push((self.key(HOOKS, None), minicbor::to_vec(&state.hook).ok()));
        }
        if writes.at {
            rows.push(self.at(state));
        }
        for (number, event) in writes.events {
            rows.push((self.key(EVENTS, Some(number)), event.and_then(|event| minicbor::to_vec(event).ok())));
        }
        rows
    }

    fn at(&self, state: &State) -> Row {
        (self.key(PLACES, None), minicbor::to_vec(At { version: ROW_VERSION, number: state.at }).ok())
    }
}

impl Hooks {
    /// Goes on with all hooks that the store has.
    pub(crate) async fn start(
        node: &Node,
        access: Arc<Access>,
        allowed: Networks,
        roots: &Roots,
    ) -> Result<Hooks, Error> {
        Hooks::start_as(node, access, allowed, roots, system(), TERMS, PATIENCE).await
    }

    pub(super) async fn start_as(
        node: &Node,
        access: Arc<Access>,
        allowed: Networks,
        roots: &Roots,
        resolve: Resolve,
        terms: Terms,
        patience: Duration,
    ) -> Result<Hooks, Error> {
        let connector = Connector { resolve, allowed: allowed.clone(), blocked: node.block_list() };
        let sender = Sender::new(connector, patience, roots).map_err(|error| {
            tracing::error!(%error, "TLS for webhooks cannot be set up");
            Error::Internal("TLS for webhooks cannot be set up")
        })?;
        let hooks = Hooks(Arc::new(Inner {
            node: node.clone(),
            access,
            bodies: Bodies::default(),
            allowed,
            sender,
            terms,
            places: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            turns: Turns::default(),
            look: Notify::new(),
            stop: CancellationToken::new(),
            tasks: Mutex::default(),
            counted: Counted::default(),
        }));
        for live in hooks.read().await? {
            hooks.begin(live);
        }
        let all = hooks.clone();
        locked(&hooks.tasks).spawn(async move { all.look_after().await });
        Ok(hooks)
    }

    /// The hooks of the store. What belongs to none is taken out.
    async fn read(&self) -> Result<Vec<Arc<Live>>, Error> {
        let (mut found, mut named) = (BTreeMap::<_, State>::new(), BTreeSet::new());
        for (name, row) in self.node.app_rows(HOOKS).await? {
            let Some((space, id, None)) = read_key(HOOKS, &name) else { continue };
            named.insert((space, id));
            match minicbor::decode::<Hook>(&row) {
                Ok(hook) if hook.version == ROW_VERSION && found.len() < PEER_MAX => {
                    found.insert((space, id), State::new(hook, 0));
                }
                // Of a later version of this program, perhaps: it stays with all that it has.
                _ => {
                    let hook = crate::local::hex(&id);
                    tracing::error!(%space, hook, "a webhook cannot be read, and does nothing");
                }
            }
        }
        let mut astray: Vec<Row> = Vec::new();
        for (prefix, (name, row)) in both(self.node.app_rows(PLACES).await?, self.node.app_rows(EVENTS).await?) {
            let Some((space, id, _)) = read_key(prefix, &name) else { continue };
            let Some(state) = found.get_mut(&(space, id)) else {
                if !named.contains(&(space, id)) {
                    astray.push((name, None));
                }
                continue;
            };
            if prefix == PLACES {
                let at = minicbor::decode::<At>(&row).ok().filter(|at| at.version == ROW_VERSION);
                // Without it, all is told again.
                state.at = at.map_or(0, |at| at.number);
                continue;
            }
            let event = minicbor::decode::<Event>(&row).ok().filter(|event| event.version == ROW_VERSION);
            state.failed_ms = state.failed_ms.max(event.as_ref().and_then(|event| event.tried_ms));
            match event {
                Some(event) if event.dead => drop(state.dead.insert(event.number)),
                Some(event) => drop(state.waiting.insert(event.number, event)),
                None => tracing::error!(%space, "an event of a webhook cannot be read, and is not told"),
            }
        }
        if !astray.is_empty() {
            self.node.put_app_rows(astray).await?;
        }
        Ok(found.into_iter().map(|((space, id), state)| Live::new(space, id, state)).collect())
    }

    fn begin(&self, live: Arc<Live>) {
        let last = {
            let mut places = locked(&self.places);
            let place = places
                .entry(live.space)
                .or_insert_with(|| Place { hooks: BTreeMap::new(), last: watch::Sender::new(0) });
            place.hooks.insert(live.id, live.clone());
            place.last.subscribe()
        };
        self.look.notify_one();
        let (all, stop) = (self.clone(), self.stop.clone());
        let mut tasks = locked(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            tokio::select! {
                () = all.work(&live, last) => {}
                () = live.gone.cancelled() => {}
                () = async { stop.cancelled().await; sleep(LINGER).await } => {}
            }
        });
    }

    /// Makes a hook that goes on after this number.
    pub(super) async fn create(&self, space: SpaceId, hook: Hook, at: u64) -> Result<Arc<Live>, Refused> {
        let hooks = self.clone();
        // Whoever hangs up meanwhile leaves nothing half.
        let made = tokio::spawn(async move {
            let _making = hooks.making.lock().await;
            hooks.make_room(space).await?;
            let mut id = HookId::default();
            getrandom::fill(&mut id).map_err(|_| Error::Internal("the system gives no random numbers"))?;
            let live = Live::new(space, id, State::new(hook, at));
            let state = live.state.lock().await;
            let writes = Writes { hook: true, at: true, ..Writes::default() };
            hooks.node.put_app_rows(live.rows(&state, writes)).await?;
            drop(state);
            hooks.begin(live.clone());
            Ok(live)
        });
        made.await.unwrap_or(Err(Refused::Store(Error::Internal("a webhook was not made"))))
    }

    /// Where there are as many as may be, one goes whose token has no right any more.
    async fn make_room(&self, space: SpaceId) -> Result<(), Refused> {
        let all = self.everywhere();
        let of_space: Vec<Arc<Live>> = all.iter().filter(|live| live.space == space).cloned().collect();
        for (hooks, max, full) in [(of_space, SPACE_MAX, Refused::SpaceFull), (all, PEER_MAX, Refused::PeerFull)] {
            if hooks.len() < max {
                continue;
            }
            let mut stopped = None;
            for live in hooks {
                let owner = live.state.lock().await.hook.owner.clone();
                if !self.may(&live.space, &owner) {
                    stopped = Some(live);
                    break;
                }
            }
            self.remove(stopped.ok_or(full)?).await?;
        }
        Ok(())
    }

    /// Changes a hook: on disk first, then here. Nothing of it changes where the change is refused, or the disk fails.
    pub(super) async fn change<T: Send + 'static, E: From<Refused> + Send + 'static>(
        &self,
        live: &Arc<Live>,
        change: impl FnOnce(&mut State) -> Result<(Writes, T), E> + Send + 'static,
    ) -> Result<T, E> {
        let (node, live) = (self.node.clone(), live.clone());
        // Whoever stops waiting for it does not tear disk and memory apart.
        let changed = tokio::spawn(async move {
            let mut state = live.state.lock().await;
            if state.gone {
                return Err(E::from(Refused::Gone));
            }
            let mut draft = state.clone();
            let (writes, told) = change(&mut draft)?;
            let at = writes.at;
            let rows = live.rows(&draft, writes);
            if !rows.is_empty() {
                node.put_app_rows(rows).await.map_err(Refused::Store)?;
            }
            draft.unwritten &= !at;
            *state = draft;
            Ok(told)
        });
        changed
            .await
            .unwrap_or_else(|_| Err(E::from(Refused::Store(Error::Internal("a change of a webhook did not end")))))
    }

    /// Deletes a hook with all that it has.
    pub(super) async fn remove(&self, live: Arc<Live>) -> Result<(), Refused> {
        let hooks = self.clone();
        let removed = tokio::spawn(async move {
            let mut state = live.state.lock().await;
            if state.gone {
                return Err(Refused::Gone);
            }
            let mut rows = vec![(live.key(HOOKS, None), None), (live.key(PLACES, None), None)];
            let events = state.waiting.keys().chain(&state.dead);
            rows.extend(events.map(|number| (live.key(EVENTS, Some(*number)), None)));
            hooks.node.put_app_rows(rows).await?;
            state.gone = true;
            live.gone.cancel();
            if let Some(place) = locked(&hooks.places).get_mut(&live.space) {
                place.hooks.remove(&live.id);
            }
            Ok(())
        });
        removed.await.unwrap_or(Err(Refused::Store(Error::Internal("a webhook was not deleted"))))
    }

    /// It may have something to do.
    pub(super) fn poke(&self, live: &Live) {
        live.poked.notify_one();
        self.look.notify_one();
    }

    pub(super) fn find(&self, space: &SpaceId, id: &HookId) -> Option<Arc<Live>> {
        locked(&self.places).get(space)?.hooks.get(id).cloned()
    }

    /// The hooks of a space.
    pub(super) fn of(&self, space: &SpaceId) -> Vec<Arc<Live>> {
        locked(&self.places).get(space).map(|place| place.hooks.values().cloned().collect()).unwrap_or_default()
    }

    /// Those of all spaces.
    pub(super) fn everywhere(&self) -> Vec<Arc<Live>> {
        locked(&self.places).values().flat_map(|place| place.hooks.values().cloned()).collect()
    }

    /// Whether the token of a hook still gives the right to write in its space. What is open to all gives no hook any.
    pub(super) fn may(&self, space: &SpaceId, owner: &str) -> bool {
        self.access.holder(owner, space).is_some_and(|row| row.may == May::Write)
    }

    /// How things are.
    pub(crate) async fn told(&self) -> Told {
        let mut told = Told {
            delivered: self.counted.delivered.get(),
            failed: self.counted.failed.get(),
            dead: self.counted.dead.get(),
            ..Told::default()
        };
        for live in self.everywhere() {
            let last = locked(&self.places).get(&live.space).map_or(0, |place| *place.last.borrow());
            let state = live.state.lock().await;
            match () {
                () if !self.may(&live.space, &state.hook.owner) => told.stopped += 1,
                () if state.hook.off.is_some() => told.off += 1,
                () if state.hook.failing_ms.is_some() => told.failing += 1,
                () => told.active += 1,
            }
            told.waiting += state.waiting.len() as u64;
            told.dead_letters += state.dead.len() as u64;
            told.behind = told.behind.max(last.saturating_sub(state.at));
        }
        told
    }

    /// Stops: attempts that are under way may end, and how far each hook is is written.
    pub(crate) async fn end(&self) {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut *locked(&self.tasks));
        if timeout(LINGER * 2, async { while tasks.join_next().await.is_some() {} }).await.is_err() {
            tracing::warn!("gave up waiting for webhooks");
        }
        tasks.shutdown().await;
        self.write_places().await;
    }

    /// Looks which spaces have something new, and writes how far hooks are.
    async fn look_after(&self) {
        let mut news = self.node.stored();
        let mut writes = interval(WRITE_EVERY);
        writes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = writes.tick() => {
                    self.write_places().await;
                    continue;
                }
                changed = news.changed() => if changed.is_err() { return },
                () = self.look.notified() => {}
            }
            let spaces: Vec<SpaceId> = locked(&self.places)
                .iter()
                .filter(|(_, place)| !place.hooks.is_empty())
                .map(|(space, _)| *space)
                .collect();
            for space in spaces {
                // A space that is blocked has no news.
                let Ok(last) = self.node.last_change(space).await else { continue };
                if let Some(place) = locked(&self.places).get(&space) {
                    place.last.send_if_modified(|known| std::mem::replace(known, last) != last);
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = sleep(LOOK_AFTER) => {}
            }
        }
    }

    async fn write_places(&self) {
        let (mut rows, mut held) = (Vec::new(), Vec::new());
        for live in self.everywhere() {
            // Whoever holds it writes as well.
            let Ok(state) = live.state.clone().try_lock_owned() else { continue };
            if state.unwritten && !state.gone {
                rows.push(live.at(&state));
                held.push(state);
            }
        }
        if rows.is_empty() {
            return;
        }
        match self.node.put_app_rows(rows).await {
            Ok(()) => held.iter_mut().for_each(|state| state.unwritten = false),
            Err(error) => tracing::warn!(%error, "how far webhooks are is not on disk yet"),
        }
    }

    /// What a hook does, for good.
    async fn work(&self, live: &Arc<Live>, mut last: watch::Receiver<u64>) {
        loop {
            if self.stop.is_cancelled() {
                return;
            }
            let known = *last.borrow_and_update();
            let (next, edition, owner) = {
                let state = live.state.lock().await;
                (state.next(known, &self.terms, now_ms()), state.edition, state.hook.owner.clone())
            };
            let next = match next {
                Next::Try(_) | Next::Read if !self.may(&live.space, &owner) => Next::Wait(Some(now_ms() + REST_MS)),
                next => next,
            };
            let done = match next {
                Next::Try(number) => self.again(live, number).await,
                Next::Read => self.tell(live, edition).await,
                Next::Wait(until) => {
                    tokio::select! {
                        changed = last.changed() => if changed.is_err() { return },
                        () = live.poked.notified() => {}
                        () = until_ms(until) => {}
                        () = self.stop.cancelled() => return,
                    }
                    Ok(())
                }
            };
            match done {
                Ok(()) => {}
                Err(Refused::Gone) => return,
                Err(error) => {
                    match error {
                        // As long as the operator wants.
                        Refused::Store(Error::Blocked(_)) => {
                            tracing::debug!("a webhook rests, as its space is blocked")
                        }
                        error => tracing::warn!(?error, "a webhook rests, as the store fails"),
                    }
                    tokio::select! {
                        () = until_ms(Some(now_ms() + REST_MS)) => {}
                        () = self.stop.cancelled() => return,
                    }
                }
            }
        }
    }

    async fn again(&self, live: &Arc<Live>, number: u64) -> Result<(), Refused> {
        let (event, edition) = {
            let state = live.state.lock().await;
            (state.waiting.get(&number).cloned(), state.edition)
        };
        match event {
            Some(event) => self.deliver(live, event, edition).await.map(drop),
            None => Ok(()),
        }
    }

    /// Reads what changed, and tells what the hook wants, one after the other.
    async fn tell(&self, live: &Arc<Live>, edition: u64) -> Result<(), Refused> {
        let at = live.state.lock().await.at;
        let found = self.node.changes(live.space, at, AHEAD).await?;
        for change in &found.rows {
            let wanted = {
                let mut state = live.state.lock().await;
                if !state.goes_on(edition, now_ms()) || self.stop.is_cancelled() {
                    return Ok(());
                }
                let wanted = state.hook.wants(change);
                if !wanted {
                    state.pass(change.number);
                }
                wanted
            };
            if wanted && !self.tell_one(live, change, edition).await? {
                return Ok(());
            }
        }
        let mut state = live.state.lock().await;
        if state.edition == edition {
            state.pass(found.last);
        }
        Ok(())
    }

    /// Whether the hook goes on with what comes after.
    async fn tell_one(&self, live: &Arc<Live>, change: &DocumentChange, edition: u64) -> Result<bool, Refused> {
        let event = Event::of(change, &live.id, &self.node.store_id(), now_ms());
        let doc = event.doc;
        let (replaces, full, owner) = {
            let state = live.state.lock().await;
            let replaces = state.waiting.values().any(|event| event.doc == doc);
            (replaces, state.waiting.len() >= super::hook::WAITING_MAX, state.hook.owner.clone())
        };
        if !self.may(&live.space, &owner) {
            return Ok(false);
        }
        if replaces {
            self.change(live, move |state| Ok::<_, Refused>((state.replace(&doc), ()))).await?;
        } else if full {
            return Ok(false);
        }
        self.deliver(live, event, edition).await
    }

    /// One attempt, and what comes of it. Whether there was one that counts: else the hook is where it was.
    async fn deliver(&self, live: &Arc<Live>, event: Event, edition: u64) -> Result<bool, Refused> {
        let hook = live.state.lock().await.hook.clone();
        let attempted = match self.attempt(live, &hook, &event.id, self.body(live, &hook, &event)).await {
            Ok(attempted) => attempted,
            Err(why) => {
                tracing::debug!(space = %live.space, event = event.id, why, "a webhook was not sent");
                return Ok(false);
            }
        };
        let id = event.id.clone();
        let (terms, ended) = (self.terms, attempted.clone());
        let outcome = self
            .change(live, move |state| {
                Ok::<_, Refused>(match state.edition == edition {
                    true => {
                        let (writes, outcome) = state.settle(event, &ended, &terms, (now_ms(), spread()));
                        (writes, Some((outcome, state.hook.off)))
                    }
                    // Its owner changed it meanwhile: what was sent may be sent again.
                    false => (Writes::default(), None),
                })
            })
            .await?;
        let Some((outcome, off)) = outcome else { return Ok(false) };
        let (space, hook) = (live.space, crate::local::hex(&live.id));
        match outcome {
            Outcome::Delivered => self.counted.delivered.inc(),
            Outcome::Failed | Outcome::Dead => self.counted.failed.inc(),
        };
        match (outcome, &attempted.answer) {
            (Outcome::Delivered, _) => tracing::debug!(%space, hook, event = id, "a webhook was delivered"),
            (_, answer) => tracing::info!(%space, hook, event = id, ?answer, "a webhook was not taken"),
        }
        if outcome == Outcome::Dead {
            self.counted.dead.inc();
            tracing::warn!(%space, hook, event = id, "a webhook was given up: it is kept as a dead letter");
        }
        if let Some(off) = off {
            tracing::warn!(%space, hook, why = ?off, "a webhook is switched off");
        }
        Ok(true)
    }

    /// Sends a body, when it is its turn. Or why nothing may be sent, which is no failure of the receiver.
    pub(super) async fn attempt(
        &self,
        live: &Live,
        hook: &Hook,
        id: &str,
        body: impl Future<Output = Bytes>,
    ) -> Result<Attempted, &'static str> {
        let Ok(uri) = hook.url.parse::<Uri>() else { return Ok(not_made("the URL cannot be read any more")) };
        let turn = self.turns.take(live.space, uri.host().unwrap_or_default()).await;
        let _turn = turn.ok_or("this peer is stopping")?;
        // It may have taken a while.
        if !self.may(&live.space, &hook.owner) {
            return Err("the token of the webhook gives no right to write here any more");
        }
        let body = body.await;
        let at_s = now_ms() / 1_000;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("commonhold/", env!("CARGO_PKG_VERSION"))));
        let signatures = signatures(&hook.keys, id, at_s, &body);
        for (name, value) in
            [("webhook-id", id), ("webhook-timestamp", &at_s.to_string()), ("webhook-signature", &signatures)]
        {
            let Ok(value) = HeaderValue::try_from(value) else { return Ok(not_made("a header that cannot be sent")) };
            headers.insert(HeaderName::from_static(name), value);
        }
        Ok(self.sender.post(uri, headers, body).await)
    }

    /// What is told of an event. A document is told as it is now.
    async fn body(&self, live: &Live, hook: &Hook, event: &Event) -> Bytes {
        let (space, doc) = (live.space, event.doc());
        let mut data = json!({
            "space": space.to_string(),
            "doc": doc.to_string(),
            "kind": event.kind,
            "name": event.name,
            "rev": event.rev,
            "seq": format!("{}-{}", event.number, self.node.store_id()),
            "url": format!("/v1/spaces/{space}/docs/{doc}"),
        });
        if hook.include_docs && !event.deleted {
            data["document"] = Json::Null;
            let shown = match self.node.open_document(space, doc).await {
                Ok(document) => self.bodies.of(&document).await.ok(),
                Err(_) => None,
            };
            match shown {
                Some(shown) if shown.bytes.len() > DOCUMENT_BYTES_MAX => data["omitted"] = "too-large".into(),
                Some(shown) => {
                    data["document"] = shown.json().unwrap_or_default();
                    data["version"] = version::text(&shown.heads).into();
                    data["etag"] = (*shown.etag).into();
                }
                None => data["omitted"] = "not-here".into(),
            }
        }
        let kind = if event.deleted { "document.deleted" } else { "document.changed" };
        message(kind, event.at_ms, &data)
    }

    /// A message that changes nothing, for trying a receiver.
    pub(super) fn test_message(&self, live: &Live) -> Bytes {
        message(
            "webhook.test",
            now_ms(),
            &json!({ "space": live.space.to_string(), "webhook": crate::local::hex(&live.id) }),
        )
    }

    /// Documents as they are sent, which others may send as well.
    pub(crate) fn bodies(&self) -> Bodies {
        self.bodies.clone()
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }
}

/// Rows of places and of events.
fn both(places: Vec<Stored>, events: Vec<Stored>) -> impl Iterator<Item = (&'static [u8], Stored)> {
    places.into_iter().map(|row| (PLACES, row)).chain(events.into_iter().map(|row| (EVENTS, row)))
}

/// The body of Standard Webhooks.
fn message(kind: &str, at_ms: u64, data: &Json) -> Bytes {
    json!({ "type": kind, "timestamp": iso(at_ms), "data": data }).to_string().into()
}

/// Milliseconds since 1970 as ISO 8601.
pub(super) fn iso(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok().and_then(|at| Timestamp::from_millisecond(at).ok());
    at.unwrap_or_default().to_string()
}

async fn until_ms(at: Option<u64>) {
    match at {
        Some(at) => sleep(Duration::from_millis(at.saturating_sub(now_ms()).min(86_400_000))).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
