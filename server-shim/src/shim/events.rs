//! Server-sent events: one document, or several over one connection. The id of an event is the version that it leads to, so any peer that
//! holds the document goes on where another ended.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::RawQuery;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use commonhold_engine::{DocId, EntryId};
use futures_util::stream::{self, SelectAll, StreamExt};
use futures_util::{FutureExt, Stream};
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::time::interval;
use utoipa::{IntoParams, ToSchema};

use super::access::Reader;
use super::feed::{Ended, Event, Feed};
use super::problem::Problem;
use super::spec::{ReadsDocument, Seen as Told};
use super::version;

/// Documents of one stream: a browser opens six connections to a host, so one page follows many over one.
const DOCUMENTS_MAX: usize = 64;
/// How often a silent stream says that it is there.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);
/// Digits of each head in the ids of streams of several documents.
const SHORT_DIGITS: usize = 16;

/// An event, as a stream has it.
#[derive(ToSchema)]
#[schema(as = Event)]
#[expect(dead_code, reason = "its shape is what counts")]
pub(super) struct OneEvent {
    /// `snapshot`, `patch`, `presence`, `reset` or `bye`.
    event: Option<String>,
    /// The version that it leads to.
    id: Option<String>,
    /// A line of JSON.
    data: Option<String>,
    /// Milliseconds to wait before coming back.
    retry: Option<u64>,
}

/// Parameters of a stream; read by hand, as `doc` comes several times.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "its shape is what counts")]
pub(super) struct Last {
    /// In place of the header.
    last_event_id: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "its shape is what counts")]
pub(super) struct Followed {
    /// Documents, each in a parameter of its own.
    #[param(min_items = 1, max_items = 64)]
    doc: Vec<String>,
    /// In place of the header.
    last_event_id: Option<String>,
}

/// The events of a document (server-sent): `snapshot`, then a `patch` for each change.
#[utoipa::path(
    get, path = "/docs/{doc}/events", tag = "documents", operation_id = "follow_document", params(Last, Told),
    responses((status = 200, description = "Goes on until somebody hangs up", body = OneEvent, content_type = "text/event-stream"), ReadsDocument),
)]
pub(crate) async fn of_one(reader: Reader, RawQuery(query): RawQuery, headers: HeaderMap) -> Result<Response, Problem> {
    let seen = last_event_id(&headers, query.as_deref().unwrap_or_default());
    let document = reader.document().await?;
    let feed = reader.shim.feeds.of(document).await?;
    let seen = match seen {
        Some(seen) => Seen::At(version::parse(&seen)?),
        None => Seen::Nothing,
    };
    let (first, _, live) = begin(&feed, seen).await?;
    let first: Vec<Bytes> = first.iter().map(|event| rendered(event, &version::text(&event.heads))).collect();
    let live = live.map(|event| match event {
        Live::Event(event) => (rendered(&event, &version::text(&event.heads)), false),
        Live::Bye(why) => (bye(why), true),
    });
    let present = reader.shim.presence.follow((reader.space, feed.doc())).map(|event| (event, false));
    Ok(respond(&reader, first, stream::select(live, present), HEARTBEAT))
}

/// The events of up to 64 documents over one connection.
#[utoipa::path(
    get, path = "/events", tag = "documents", operation_id = "follow_documents", params(Followed, Told),
    responses((status = 200, description = "Goes on until somebody hangs up", body = OneEvent, content_type = "text/event-stream"), ReadsDocument),
)]
pub(crate) async fn of_many(
    reader: Reader,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let query = query.unwrap_or_default();
    let mut ids: Vec<&str> = query.split('&').filter_map(|pair| pair.strip_prefix("doc=")).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() || ids.len() > DOCUMENTS_MAX {
        return Err(Problem::bad(format!("name 1 to {DOCUMENTS_MAX} documents: ?doc=ID&doc=ID")));
    }
    let seen = last_event_id(&headers, &query).unwrap_or_default();
    let mut at = BTreeMap::new();
    let (mut first, mut live, mut present) = (Vec::new(), SelectAll::new(), SelectAll::new());
    for id in ids {
        let document = reader.open(id).await?;
        let seen = match short_of(&seen, &document.id()) {
            Short::Nothing => Seen::Nothing,
            Short::Unreadable => Seen::Unknown,
            Short::Heads(heads) => {
                document.read(|view| view.heads_that_begin(&heads)).await?.map_or(Seen::Unknown, Seen::At)
            }
        };
        let feed = reader.shim.feeds.of(document).await?;
        let (events, heads, followed) = begin(&feed, seen).await?;
        let doc = feed.doc();
        present.push(reader.shim.presence.follow((reader.space, doc)).map(|event| (event, false)).boxed());
        // What was not told anew is in the ids all the same.
        at.insert(doc, heads);
        first.extend(events.into_iter().map(|event| (doc, event)));
        live.push(followed.map(move |event| (doc, event)).boxed());
    }
    let mut rendered_first = Vec::new();
    for (doc, event) in first {
        at.insert(doc, event.heads.clone());
        rendered_first.push(rendered(&event, &many_id(&at)));
    }
    let live = live.map(move |(doc, event)| match event {
        Live::Event(event) => {
            at.insert(doc, event.heads.clone());
            (rendered(&event, &many_id(&at)), false)
        }
        Live::Bye(why) => (bye(why), true),
    });
    Ok(respond(&reader, rendered_first, stream::select(live, present), HEARTBEAT))
}

/// The id of an event of several documents: `<first digits of the document>=<first digits of each head>.…;…`.
fn many_id(at: &BTreeMap<DocId, Arc<[EntryId]>>) -> String {
    let short = |text: String| text.get(..SHORT_DIGITS).unwrap_or_default().to_owned();
    let one = |(doc, heads): (&DocId, &Arc<[EntryId]>)| {
        let heads: Vec<String> = heads.iter().map(|head| short(head.to_string())).collect();
        format!("{}={}", short(doc.to_string()), heads.join("."))
    };
    at.iter().map(one).collect::<Vec<_>>().join(";")
}

/// What such an id says of a document.
#[derive(Debug, PartialEq, Eq)]
enum Short {
    Nothing,
    Unreadable,
    /// The beginnings of its heads.
    Heads(Vec<String>),
}

fn short_of(id: &str, doc: &DocId) -> Short {
    let doc = doc.to_string();
    let found =
        id.split(';').filter_map(|one| one.split_once('=')).find(|(short, _)| doc.get(..SHORT_DIGITS) == Some(short));
    let Some((_, heads)) = found else { return Short::Nothing };
    let heads: Vec<&str> = heads.split('.').filter(|head| !head.is_empty()).take(version::HEADS_MAX + 1).collect();
    let is_short = |head: &&str| head.len() == SHORT_DIGITS && head.bytes().all(|byte| byte.is_ascii_hexdigit());
    match heads.len() <= version::HEADS_MAX && heads.iter().all(is_short) {
        true => Short::Heads(heads.into_iter().map(str::to_owned).collect()),
        false => Short::Unreadable,
    }
}

/// The header, or for `EventSource`, which can send none, the parameter.
fn last_event_id(headers: &HeaderMap, query: &str) -> Option<String> {
    let header = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let parameter = || query.split('&').find_map(|pair| pair.strip_prefix("last_event_id=")).map(decoded);
    header.or_else(parameter).filter(|id| !id.is_empty())
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

enum Live {
    Event(Event),
    Bye(&'static str),
}

/// What somebody has seen of a document.
enum Seen {
    Nothing,
    /// A version that nobody can tell.
    Unknown,
    At(Vec<EntryId>),
}

/// What to send at once, the version that it leads to, and what follows.
async fn begin(
    feed: &Arc<Feed>,
    seen: Seen,
) -> Result<(Vec<Event>, Arc<[EntryId]>, impl Stream<Item = Live> + Send + use<>), Problem> {
    let gone = || Problem::new(super::problem::Kind::Gone, "the document is not shown any more");
    let (json, heads, followed) = feed.follow().ok_or_else(gone)?;
    let first = match seen {
        Seen::At(seen) => feed.catch_up(&seen, &json, &heads).await?,
        Seen::Unknown => vec![Event::reset(feed.doc(), &heads), Event::snapshot(feed.doc(), &json, &heads)],
        Seen::Nothing => vec![Event::snapshot(feed.doc(), &json, &heads)],
    };
    let live = stream::unfold(Some(followed), |state| async {
        let mut followed = state?;
        Some(match followed.next().await {
            Ok(event) => (Live::Event(event), Some(followed)),
            Err(Ended::Slow) => (Live::Bye("slow"), None),
            Err(Ended::Gone) => (Live::Bye("gone"), None),
        })
    });
    Ok((first, heads, live))
}

fn rendered(event: &Event, id: &str) -> Bytes {
    let mut text = Vec::with_capacity(event.data.len() + id.len() + 40);
    text.extend_from_slice(format!("event: {}\nid: {id}\ndata: ", event.name).as_bytes());
    text.extend_from_slice(&event.data);
    text.extend_from_slice(b"\n\n");
    text.into()
}

pub(super) fn bye(why: &str) -> Bytes {
    format!("event: bye\ndata: {}\n\n", json!({ "reason": why })).into()
}

/// The stream: what is first, then what comes, with heartbeats between; it ends with the first `bye`, and when the peer stops.
pub(super) fn respond(
    reader: &Reader,
    first: Vec<Bytes>,
    live: impl Stream<Item = (Bytes, bool)> + Send + 'static,
    every: Duration,
) -> Response {
    // All come back at once when a peer starts again; not in the same millisecond.
    let retry = Bytes::from(format!("retry: {}\n\n", fastrand::u64(1_000..3_000)));
    let first = std::iter::once(retry).chain(first).map(Ok);
    let body = stream::iter(first).chain(until_the_end(reader, live, bye, b":\n\n", every));
    let mut response = Body::from_stream(body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// What comes, each with whether it is the last, and heartbeats between. It ends as well when the peer stops, and with the beat after a token
/// was taken back, or after the caller's address had all that it may; `bye` says so.
pub(super) fn until_the_end(
    reader: &Reader,
    live: impl Stream<Item = (Bytes, bool)> + Send + 'static,
    bye: fn(&str) -> Bytes,
    heartbeat: &'static [u8],
    every: Duration,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    let mut stopping = reader.shim.stopping.clone();
    let stop = async move { _ = stopping.wait_for(|stopping| *stopping).await }.into_stream();
    let stop = stop.map(move |()| (bye("stopping"), true));
    let access = (reader.shim.clone(), reader.caller.clone(), reader.space, reader.from);
    let beats = stream::unfold((interval(every), access), move |(mut beat, access)| async move {
        beat.tick().await;
        let (shim, caller, space, from) = &access;
        let is_over = from.is_some_and(|from| shim.node.addresses().is_over(from.ip()));
        let item = match shim.access.may(caller, space) {
            Some(_) if is_over => (bye("too-many"), true),
            Some(_) => (Bytes::from_static(heartbeat), false),
            None => (bye("token"), true),
        };
        Some((item, (beat, access)))
    });
    let all = stream::select(stream::select(live.boxed(), stop.boxed()), beats.boxed());
    all.scan(false, |over, (bytes, last)| {
        let item = (!*over).then_some(Ok(bytes));
        *over |= last;
        std::future::ready(item)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_several_documents_name_what_was_seen_of_each() {
        let (one, two) = (DocId([1; 32]), DocId([2; 32]));
        let heads = |n: u8| -> Arc<[EntryId]> { Arc::from([EntryId([n; 32])]) };
        let id = many_id(&BTreeMap::from([(one, heads(7)), (two, Arc::from([]))]));
        assert_eq!(short_of(&id, &one), Short::Heads(vec!["07".repeat(8)]));
        assert_eq!(short_of(&id, &two), Short::Heads(vec![]));
        assert_eq!(short_of(&id, &DocId([3; 32])), Short::Nothing);
        assert_eq!(short_of("nonsense", &one), Short::Nothing);
        let short = "01".repeat(8);
        for heads in ["x", "07", &vec!["07".repeat(8); 65].join(".")] {
            assert_eq!(short_of(&format!("{short}={heads}"), &one), Short::Unreadable, "{heads}");
        }
    }
}
