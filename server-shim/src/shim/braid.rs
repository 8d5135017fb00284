//! Braid (draft-toomim-httpbis-braid-http-04): a GET with `Subscribe` stays open, and each change comes as an update with its `Version` and
//! `Parents`.
//!
//! An update is the whole document, and of changes that come faster than they are read only the last is told; so any client can follow. Who
//! says with `Accept` that JSON Patches are understood gets those, one for each change.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use commonhold_engine::{Document, EntryId};
use futures_util::stream::{self, BoxStream, StreamExt};
use hyper::ext::ReasonPhrase;

use super::access::Reader;
use super::events::{self, HEARTBEAT};
use super::feed::{Event, Feed, Follower};
use super::problem::{Kind, Problem};
use super::{patch, version};

pub(super) static SUBSCRIBE: HeaderName = HeaderName::from_static("subscribe");
static HEARTBEATS: HeaderName = HeaderName::from_static("heartbeats");
static CURRENT: HeaderName = HeaderName::from_static("current-version");

/// Answers with every version of a document from the one that the caller has seen.
pub(super) async fn subscribe(reader: &Reader, headers: &HeaderMap, document: Document) -> Result<Response, Problem> {
    let seen = version::parents(headers)?;
    let feed = reader.shim.feeds.of(document.clone()).await?;
    let gone = || Problem::new(Kind::Gone, "the document is not shown any more");
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    let patches = accepted.flat_map(|accept| accept.split(',')).any(|kind| kind.trim().starts_with(patch::OPERATIONS));
    let (current, updates) = match patches {
        true => by_patches(&feed, seen).await?.ok_or_else(gone)?,
        false => by_documents(reader, &feed, document, seen).await?.ok_or_else(gone)?,
    };
    let updates = events::until_the_end(reader, updates, |_| Bytes::new(), b"\r\n", HEARTBEAT);
    let status = StatusCode::from_u16(209).unwrap_or(StatusCode::OK);
    let mut response = (status, Body::from_stream(updates)).into_response();
    response.extensions_mut().insert(ReasonPhrase::from_static(b"Subscription"));
    let answer = response.headers_mut();
    answer.insert(SUBSCRIBE.clone(), HeaderValue::from_static("?1"));
    answer.insert(CONTENT_TYPE, HeaderValue::from_static("application/http-history"));
    answer.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, no-transform"));
    answer.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    answer.insert(CURRENT.clone(), version::header(&current));
    if headers.contains_key(&HEARTBEATS) {
        answer.extend(
            HeaderValue::try_from(format!("{}s", HEARTBEAT.as_secs())).ok().map(|beat| (HEARTBEATS.clone(), beat)),
        );
    }
    Ok(response)
}

/// What a subscriber knows: the version that it has, if it is sure of one.
type Known = Option<Vec<EntryId>>;
/// Updates, each with whether it is the last thing that is said.
type Updates = BoxStream<'static, (Bytes, bool)>;

/// The document whenever it has changed; none if it is gone.
async fn by_documents(
    reader: &Reader,
    feed: &Arc<Feed>,
    document: Document,
    seen: Known,
) -> Result<Option<(Vec<EntryId>, Updates)>, Problem> {
    let Some((_, current, follower)) = feed.follow() else { return Ok(None) };
    // Of a version that is not here, nobody can say what came after it.
    let known = match seen {
        Some(seen) => document.read(|view| seen.iter().all(|id| view.contains(id)).then_some(seen.clone())).await?,
        None => None,
    };
    let state = (follower, document, reader.shim.clone(), known);
    let updates = stream::unfold(Some(state), |state| async {
        let (mut follower, document, shim, known) = state?;
        loop {
            let Ok(now) = shim.bodies.of(&document).await else { break };
            if known.as_deref() != Some(&*now.heads) {
                let update = update(&now.heads, known.as_deref(), "application/json", &now.bytes);
                let known = Some(now.heads.to_vec());
                return Some(((update, false), Some((follower, document, shim, known))));
            }
            if follower.skip().await.is_err() {
                break;
            }
        }
        Some(((Bytes::new(), true), None))
    });
    Ok(Some((current.to_vec(), updates.boxed())))
}

/// Each change as a JSON Patch; none if the document is gone.
async fn by_patches(feed: &Arc<Feed>, seen: Known) -> Result<Option<(Vec<EntryId>, Updates)>, Problem> {
    let Some((json, current, follower)) = feed.follow() else { return Ok(None) };
    let first = match &seen {
        Some(seen) => feed.catch_up(seen, &json, &current).await?,
        None => vec![Event::snapshot(feed.doc(), &json, &current)],
    };
    let live = stream::unfold(Some(follower), |follower: Option<Follower>| async {
        let mut follower = follower?;
        Some(match follower.next().await {
            Ok(event) => (Some(event), Some(follower)),
            Err(_) => (None, None),
        })
    });
    let events = stream::iter(first.into_iter().map(Some)).chain(live);
    let updates = events.scan(seen, |known, event| {
        let Some(event) = event else { return std::future::ready(Some((Bytes::new(), true))) };
        let update = match event.name {
            "reset" => {
                *known = None;
                Bytes::new()
            }
            name => {
                let kind = if name == "patch" { patch::OPERATIONS } else { "application/json" };
                let update = update(&event.heads, known.as_deref(), kind, &event.content());
                *known = Some(event.heads.to_vec());
                update
            }
        };
        std::future::ready(Some((update, false)))
    });
    Ok(Some((current.to_vec(), updates.boxed())))
}

fn update(heads: &[EntryId], parents: Option<&[EntryId]>, kind: &str, body: &[u8]) -> Bytes {
    let mut head = format!("Version: {}\r\n", version::quoted(heads));
    if let Some(parents) = parents {
        head += &format!("Parents: {}\r\n", version::quoted(parents));
    }
    head += &format!("Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body, b"\r\n\r\n"].concat().into()
}
