//! Who is at a document now: what programs say of themselves there for some seconds, such as a name and a cursor. It is kept in memory, told
//! to everybody who follows the document at this peer, and stored nowhere.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::Json as Answer;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use commonhold_engine::{DocId, SpaceId};
use futures_util::stream::{self, Stream, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use tokio::sync::Notify;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::access::{Caller, Reader};
use super::documents::Content;
use super::problem::{Kind, Problem};
use super::spec::{ReadsDocument, Says};

/// Who may be at one document, and at all of them, at the same time.
const PEOPLE_MAX: usize = 256;
const ALL_MAX: usize = 10_000;
/// Bytes of what one says, as JSON: with all of [`ALL_MAX`] no more than 40 MiB. And of an id.
const STATE_BYTES_MAX: usize = 4 << 10;
const ID_BYTES_MAX: usize = 64;
/// Seconds that it holds.
const TTL_MAX_S: u64 = 300;
const TTL_S: u64 = 30;
/// News that wait for a follower; who is further behind is told anew who is there.
const NEWS_MAX: usize = 256;

/// What one says, and until when it holds.
#[derive(Debug)]
struct Person {
    by: Caller,
    state: Json,
    until: Instant,
}

/// Those who are at one document.
#[derive(Debug)]
struct Room {
    people: BTreeMap<String, Person>,
    news: broadcast::Sender<Bytes>,
    /// Tells [`look_after`], which runs for as long as somebody is there, that the next to leave may be another.
    changed: Arc<Notify>,
    looked_after: bool,
}

/// Those who are at any document of this peer.
#[derive(Debug, Clone, Default)]
pub(super) struct Presence(Arc<Mutex<Rooms>>);

type Rooms = BTreeMap<(SpaceId, DocId), Room>;

fn locked(rooms: &Mutex<Rooms>) -> std::sync::MutexGuard<'_, Rooms> {
    rooms.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Without rooms that nobody is in or looks at.
fn tidy(rooms: &mut Rooms) {
    rooms.retain(|_, room| !room.people.is_empty() || room.news.receiver_count() > 0 || room.looked_after);
}

/// An event, ready to be sent. It has no id: what comes after a pause goes on from the last change.
fn event(doc: DocId, id: &str, state: &Json) -> Bytes {
    let data = json!({ "doc": doc.to_string(), "id": id, "state": state });
    format!("event: presence\ndata: {data}\n\n").into()
}

impl Default for Room {
    fn default() -> Room {
        Room {
            people: BTreeMap::new(),
            news: broadcast::Sender::new(NEWS_MAX),
            changed: Arc::default(),
            looked_after: false,
        }
    }
}

impl Room {
    fn events(&self, doc: DocId) -> Vec<Bytes> {
        self.people.iter().map(|(id, person)| event(doc, id, &person.state)).collect()
    }

    /// Those whose time is over leave.
    fn expire(&mut self, doc: DocId, now: Instant) {
        let news = &self.news;
        self.people.retain(|id, person| {
            let stays = now < person.until;
            if !stays {
                // Nobody may follow, which is no fault.
                let _ = news.send(event(doc, id, &Json::Null));
            }
            stays
        });
    }
}

impl Presence {
    fn say(&self, key: (SpaceId, DocId), by: Caller, said: Said) -> Result<(), Problem> {
        let mut rooms = locked(&self.0);
        tidy(&mut rooms);
        let all: usize = rooms.values().map(|room| room.people.len()).sum();
        let room = rooms.entry(key).or_default();
        let known = room.people.get(&said.id);
        if known.is_some_and(|known| known.by != by) {
            return Err(Problem::new(Kind::Conflict, "somebody else has that id here; draw another"));
        }
        if known.is_none() && (room.people.len() >= PEOPLE_MAX || all >= ALL_MAX) {
            return Err(Problem::new(Kind::TooMany, "too many are there already"));
        }
        let state = said.state.filter(|_| said.ttl != Some(0)).unwrap_or_default();
        if known.is_some() || !state.is_null() {
            let _ = room.news.send(event(key.1, &said.id, &state));
        }
        room.changed.notify_one();
        if state.is_null() {
            room.people.remove(&said.id);
            return Ok(());
        }
        let until = Instant::now() + Duration::from_secs(said.ttl.unwrap_or(TTL_S));
        room.people.insert(said.id, Person { by, state, until });
        if !std::mem::replace(&mut room.looked_after, true) {
            tokio::spawn(look_after(Arc::downgrade(&self.0), key, room.changed.clone()));
        }
        Ok(())
    }

    fn people(&self, key: (SpaceId, DocId)) -> Vec<Present> {
        let now = Instant::now();
        let present = |(id, person): (&String, &Person)| {
            let expires_in = person.until.checked_duration_since(now)?.as_secs();
            Some(Present { id: id.clone(), state: person.state.clone(), expires_in })
        };
        locked(&self.0).get(&key).into_iter().flat_map(|room| room.people.iter().filter_map(present)).collect()
    }

    /// Events of who is there, and of who comes and goes.
    pub(super) fn follow(&self, key: (SpaceId, DocId)) -> impl Stream<Item = Bytes> + Send + use<> {
        let mut rooms = locked(&self.0);
        tidy(&mut rooms);
        let room = rooms.entry(key).or_default();
        let (first, news) = (room.events(key.1), room.news.subscribe());
        drop(rooms);
        let rooms = self.0.clone();
        let live = stream::unfold((news, rooms), move |(mut news, rooms)| async move {
            let events = match news.recv().await {
                Ok(event) => vec![event],
                Err(RecvError::Lagged(_)) => locked(&rooms).get(&key).map_or_else(Vec::new, |room| room.events(key.1)),
                Err(RecvError::Closed) => return None,
            };
            Some((stream::iter(events), (news, rooms)))
        });
        stream::iter(first).chain(live.flatten())
    }
}

/// Lets those leave whose time is over, until nobody is there.
async fn look_after(rooms: Weak<Mutex<Rooms>>, key: (SpaceId, DocId), changed: Arc<Notify>) {
    loop {
        let next = {
            let Some(rooms) = rooms.upgrade() else { return };
            let mut rooms = locked(&rooms);
            let Some(room) = rooms.get_mut(&key) else { return };
            room.expire(key.1, Instant::now());
            match room.people.values().map(|person| person.until).min() {
                Some(next) => next,
                None => return room.looked_after = false,
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = changed.notified() => {}
        }
    }
}

/// What somebody says of themselves.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "id": "tab-7", "state": { "name": "Ann", "at": "/items/0" }, "ttl": 30 }))]
pub(super) struct Said {
    /// Drawn by the program for itself; 1 to 64 bytes.
    #[schema(min_length = 1, max_length = 64)]
    id: String,
    /// Anything, up to 4 KiB. Null: it leaves.
    state: Option<Json>,
    /// Seconds that it holds: 300 at most, and 30 where nothing is said. 0: it leaves.
    #[schema(maximum = 300)]
    ttl: Option<u64>,
}

/// Those who are there.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Everybody {
    presence: Vec<Present>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Present {
    id: String,
    state: Json,
    /// Seconds, unless it is said again.
    expires_in: u64,
}

/// Who is at a document now.
#[utoipa::path(
    get, path = "/docs/{doc}/presence", tag = "documents",
    responses((status = 200, description = "Those who have said so", body = Everybody), ReadsDocument),
)]
pub(super) async fn read(reader: Reader) -> Result<Answer<Everybody>, Problem> {
    let document = reader.document().await?;
    Ok(Answer(Everybody { presence: reader.shim.presence.people((document.space(), document.id())) }))
}

/// Says that somebody is at a document, for some seconds. Who may read it may do so.
#[utoipa::path(
    post, path = "/docs/{doc}/presence", tag = "documents", request_body = Said,
    responses((status = 204, description = "All who follow the document here are told"), Says),
)]
pub(super) async fn say(reader: Reader, headers: HeaderMap, body: Content) -> Result<StatusCode, Problem> {
    let said: Said = body.json(&headers, "{\"id\": …, \"state\": …, \"ttl\": SECONDS}")?;
    if said.id.is_empty() || said.id.len() > ID_BYTES_MAX {
        return Err(Problem::bad(format!("id has 1 to {ID_BYTES_MAX} bytes")));
    }
    if said.ttl.is_some_and(|ttl| ttl > TTL_MAX_S) {
        return Err(Problem::bad(format!("ttl is at most {TTL_MAX_S} s; say it again before it ends")));
    }
    if said.state.as_ref().is_some_and(|state| state.to_string().len() > STATE_BYTES_MAX) {
        return Err(Problem::new(Kind::TooLarge, format!("state has at most {STATE_BYTES_MAX} bytes")));
    }
    let document = reader.document().await?;
    reader.shim.presence.say((document.space(), document.id()), reader.caller.clone(), said)?;
    Ok(StatusCode::NO_CONTENT)
}
