//! What changed in a space, as CouchDB tells it: each document once, at its last change; at once, when there is something, or as a stream.
//!
//! A token says how far the caller is, and in which store: the order is each store's own. Streams read on when the caller has taken what it was
//! sent, so that nothing waits for it here.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Json as Answer;
use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use commonhold_engine::{DocId, DocumentChange, DocumentChanges, SpaceId};
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use utoipa::{IntoParams, ToSchema};

use super::Shim;
use super::access::Reader;
use super::documents::Params;
use super::events::{self, OneEvent};
use super::problem::{Kind, Problem};
use super::spec::{ReadsChanges, Seen};

/// Changes of one answer.
const LIMIT_MAX: usize = 1_000;
const LIMIT: usize = 100;
/// Bytes of documents after which an answer has no more changes.
const DOCS_BYTES_MAX: usize = 8 << 20;
/// Changes that a stream reads at once: a tenth of a mebibyte at most.
const AHEAD: usize = 100;
/// How long a long poll waits.
const WAIT_MAX_MS: u64 = 60_000;
/// How often a silent stream says that it is there.
const HEARTBEAT_MS: std::ops::RangeInclusive<u64> = 1_000..=60_000;
/// How long a caller may take for what a stream sent it.
const PATIENCE: Duration = Duration::from_secs(30);

/// How changes are told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Told {
    /// Those that there are.
    #[default]
    Normal,
    /// The same, but not before there is one.
    Longpoll,
    /// One a line, as they come.
    Continuous,
    /// Server-sent events, as they come.
    Eventsource,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Asked {
    /// The `seq` or `last_seq` that the caller has; `now`: only what comes. Absent, or 0: from the beginning.
    since: Option<String>,
    /// How to tell.
    #[param(inline)]
    feed: Option<Told>,
    /// Of streams: milliseconds between signs of life, 1,000 to 60,000; 15,000 where nothing is said.
    heartbeat: Option<u64>,
    /// Milliseconds without a change after which a long poll is answered (60,000 at most), or a stream ends (never, where nothing is said).
    timeout: Option<u64>,
    /// Changes after which the answer ends: of one answer 1,000 at most, and 100 where nothing is said.
    limit: Option<usize>,
    /// With the documents as they are now.
    #[serde(default)]
    include_docs: bool,
    /// In place of the header.
    last_event_id: Option<String>,
}

/// Changes of a space.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Changes {
    results: Vec<Change>,
    /// Where to go on.
    last_seq: String,
}

/// A document at its last change.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Change {
    seq: String,
    id: String,
    changes: Vec<Revision>,
    /// There if it was.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    /// With `include_docs`: as it is now; null if it is not here, or was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value, required = false)]
    doc: Option<Json>,
}

/// Stands for the content; equal at all peers that hold the same of a document.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Revision {
    rev: String,
}

/// Documents that changed, each once and at its last change.
#[utoipa::path(
    get, path = "/changes", tag = "documents", operation_id = "read_space_changes", params(Asked, Seen),
    responses(
        (status = 200, description = "Changes; streams go on until somebody hangs up", content(
            (Changes = "application/json"), (Change = "application/x-ndjson"), (OneEvent = "text/event-stream"),
        )),
        ReadsChanges,
    ),
)]
pub(crate) async fn of_space(
    reader: Reader,
    headers: HeaderMap,
    Params(asked): Params<Asked>,
) -> Result<Response, Problem> {
    let feed = asked.feed.unwrap_or_default();
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).or(asked.last_event_id.as_deref());
    let since = match feed {
        Told::Eventsource => last.or(asked.since.as_deref()),
        _ => asked.since.as_deref(),
    };
    let news = reader.shim.node.stored();
    let at = number(&reader, since.unwrap_or_default()).await?;
    let mut place = Place { shim: reader.shim.clone(), space: reader.space, docs: asked.include_docs, at, news };
    let limit = asked.limit.unwrap_or(LIMIT).clamp(1, LIMIT_MAX);
    let wait = asked.timeout.unwrap_or(WAIT_MAX_MS).min(WAIT_MAX_MS);
    let form = match feed {
        Told::Normal => return place.page(limit).await.map(IntoResponse::into_response),
        Told::Longpoll => {
            return place.poll(&reader, limit, Duration::from_millis(wait)).await.map(IntoResponse::into_response);
        }
        Told::Continuous => Form::Lines,
        Told::Eventsource => Form::Events,
    };
    let every = asked.heartbeat.map(|beat| beat.clamp(*HEARTBEAT_MS.start(), *HEARTBEAT_MS.end()));
    let every = every.map_or(events::HEARTBEAT, Duration::from_millis);
    let idle = asked.timeout.map(Duration::from_millis);
    let live = Live { place, form, idle, left: asked.limit, patience: PATIENCE, ready: VecDeque::new(), sent: None };
    Ok(match form {
        Form::Events => events::respond(&reader, Vec::new(), live.stream(), every),
        Form::Lines => lines(&reader, live.stream(), every),
    })
}

fn lines(reader: &Reader, live: impl Stream<Item = (Bytes, bool)> + Send + 'static, every: Duration) -> Response {
    let body = events::until_the_end(reader, live, |why| line(&json!({ "bye": why })), b"\n", every);
    let mut response = Body::from_stream(body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// How far a token says that somebody is.
pub(super) async fn number(reader: &Reader, token: &str) -> Result<u64, Problem> {
    let last = reader.shim.node.last_change(reader.space).await?;
    match token {
        "" | "0" => return Ok(0),
        "now" => return Ok(last),
        _ => {}
    }
    let read = token.split_once('-').and_then(|(number, store)| Some((number.parse::<u64>().ok()?, store)));
    let expected = || Problem::bad("since is `now`, or what `seq` or `last_seq` was");
    let (number, store) = read.ok_or_else(expected)?;
    if store != reader.shim.node.store_id().to_string() || number > last {
        let detail = "the token is of another store: the order of changes is each peer's own, and a peer that was restored from a copy \
                      begins a new one. Read all changes again, without `since`";
        let link = format!("/v1/spaces/{}/changes", reader.space);
        return Err(Problem::new(Kind::Gone, detail).with("snapshot", link));
    }
    Ok(number)
}

/// How far somebody is.
struct Place {
    shim: Shim,
    space: SpaceId,
    /// Whether documents come along.
    docs: bool,
    at: u64,
    news: watch::Receiver<()>,
}

impl Place {
    fn token(&self, number: u64) -> String {
        format!("{number}-{}", self.shim.node.store_id())
    }

    /// What there is now, of which news are no longer news.
    async fn read(&mut self, limit: usize) -> Result<DocumentChanges, Problem> {
        self.news.mark_unchanged();
        Ok(self.shim.node.changes(self.space, self.at, limit).await?)
    }

    async fn page(&mut self, limit: usize) -> Result<Answer<Changes>, Problem> {
        let found = self.read(limit).await?;
        Ok(self.told(found).await)
    }

    async fn poll(&mut self, reader: &Reader, limit: usize, wait: Duration) -> Result<Answer<Changes>, Problem> {
        let found = self.read(limit).await?;
        if !found.rows.is_empty() {
            return Ok(self.told(found).await);
        }
        let full = |_| Problem::new(Kind::TooMany, "too many requests wait for what is to come; ask again later");
        let shim = self.shim.clone();
        let _place = shim.waiting.try_acquire().map_err(full)?;
        let mut stopping = shim.stopping.clone();
        let come = async {
            loop {
                tokio::select! {
                    news = self.news.changed() => if news.is_err() { return self.read(limit).await },
                    () = async { _ = stopping.wait_for(|stopping| *stopping).await } => return self.read(limit).await,
                }
                let found = self.read(limit).await?;
                if !found.rows.is_empty() {
                    return Ok(found);
                }
            }
        };
        let found = match timeout(wait, come).await {
            Ok(found) => found?,
            Err(_) => DocumentChanges { last: self.at, ..DocumentChanges::default() },
        };
        if reader.shim.access.may(&reader.caller, &reader.space).is_none() {
            return Err(Problem::new(Kind::NoToken, "the token was taken back, or has expired"));
        }
        Ok(self.told(found).await)
    }

    async fn told(&self, found: DocumentChanges) -> Answer<Changes> {
        let (mut results, mut bytes) = (Vec::with_capacity(found.rows.len()), 0);
        for change in found.rows {
            let number = change.number;
            let (change, size) = self.change(change).await;
            results.push(change);
            bytes += size;
            if bytes > DOCS_BYTES_MAX {
                return Answer(Changes { results, last_seq: self.token(number) });
            }
        }
        Answer(Changes { results, last_seq: self.token(found.last) })
    }

    /// A change as it is told, and the bytes of its document.
    async fn change(&self, change: DocumentChange) -> (Change, usize) {
        let DocumentChange { number, info, digest } = change;
        let shown = match self.docs && !info.deleted {
            true => self.document(&info.id).await,
            false => None,
        };
        let bytes = shown.as_ref().map_or(0, |(_, bytes)| *bytes);
        let rev = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let doc = self.docs.then(|| shown.map_or(Json::Null, |(json, _)| json));
        let (seq, id, deleted) = (self.token(number), info.id.to_string(), info.deleted);
        (Change { seq, id, changes: vec![Revision { rev }], deleted, doc }, bytes)
    }

    /// None if it is not here, or went meanwhile: then there is another change.
    async fn document(&self, id: &DocId) -> Option<(Json, usize)> {
        let document = self.shim.node.open_document(self.space, *id).await.ok()?;
        let shown = self.shim.bodies.of(&document).await.ok()?;
        Some((shown.json().ok()?, shown.bytes.len()))
    }
}

/// What a stream is written in.
#[derive(Debug, Clone, Copy)]
enum Form {
    Lines,
    Events,
}

impl Form {
    fn change(self, change: &Change) -> Bytes {
        match self {
            Form::Lines => line(&json!(change)),
            Form::Events => format!("id: {}\ndata: {}\n\n", change.seq, json!(change)).into(),
        }
    }

    fn end(self, why: &str, last: &str) -> Bytes {
        match self {
            Form::Lines => line(&json!({ "last_seq": last, "bye": why })),
            Form::Events => events::bye(why),
        }
    }
}

fn line(json: &Json) -> Bytes {
    format!("{json}\n").into()
}

/// Changes as they come.
struct Live {
    place: Place,
    form: Form,
    /// After so long without a change it ends.
    idle: Option<Duration>,
    /// Changes until it ends.
    left: Option<usize>,
    patience: Duration,
    /// Read, and not sent yet.
    ready: VecDeque<DocumentChange>,
    /// When something was sent last.
    sent: Option<Instant>,
}

impl Live {
    /// Each with whether it is the last.
    fn stream(self) -> impl Stream<Item = (Bytes, bool)> + Send + 'static {
        stream::unfold(Some(self), |live| async {
            let mut live = live?;
            match live.next().await {
                Ok(bytes) => {
                    live.sent = Some(Instant::now());
                    Some(((bytes, false), Some(live)))
                }
                Err(why) => Some(((live.form.end(why, &live.place.token(live.place.at)), true), None)),
            }
        })
    }

    /// The next change, or why there is none.
    async fn next(&mut self) -> Result<Bytes, &'static str> {
        if self.sent.is_some_and(|sent| sent.elapsed() > self.patience) {
            return Err("slow");
        }
        if self.left == Some(0) {
            return Err("limit");
        }
        let change = match self.idle {
            Some(idle) => timeout(idle, self.come()).await.map_err(|_| "timeout")?,
            None => self.come().await,
        };
        // The store fails, or is closed.
        let change = change.map_err(|_| "unavailable")?;
        self.left = self.left.map(|left| left - 1);
        self.place.at = change.number;
        let (change, _) = self.place.change(change).await;
        Ok(self.form.change(&change))
    }

    async fn come(&mut self) -> Result<DocumentChange, Problem> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Ok(change);
            }
            let found = self.place.read(AHEAD).await?;
            self.ready = found.rows.into();
            if self.ready.is_empty() {
                // What lies before has other numbers by now.
                self.place.at = found.last;
            }
            if self.ready.is_empty() && found.end {
                let gone = |_| Problem::new(Kind::Unavailable, "the peer is stopping");
                self.place.news.changed().await.map_err(gone)?;
            }
        }
    }
}
