//! What became of a document: its versions, conflicts, and who has it.

use axum::Json as Answer;
use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::access::Reader;
use super::documents::Params;
use super::feed::pointer;
use super::problem::Problem;
use super::version;

/// Versions of one answer, and conflicts.
const VERSIONS_MAX: usize = 10_000;
const VERSIONS: usize = 100;
const CONFLICTS_MAX: usize = 1_000;

#[derive(Debug, Deserialize)]
pub(crate) struct Page {
    limit: Option<usize>,
    skip: Option<usize>,
}

/// Newest first.
pub(crate) async fn versions(reader: Reader, Params(page): Params<Page>) -> Result<Answer<Json>, Problem> {
    let document = reader.document().await?;
    let history = document.history().await?;
    let (skip, limit) = (page.skip.unwrap_or(0), page.limit.unwrap_or(VERSIONS).min(VERSIONS_MAX));
    let rows: Vec<Json> = history
        .iter()
        .rev()
        .skip(skip)
        .take(limit)
        .map(|change| {
            json!({
                "version": change.id.to_string(),
                "parents": change.deps.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "author": change.author.as_ref().map(|author| hex(author)),
                "time": time(change.time),
                "operations": change.ops,
                "message": change.message,
            })
        })
        .collect();
    Ok(Answer(json!({ "versions": rows, "total": history.len() })))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// ISO 8601; null where the author did not say.
fn time(seconds: i64) -> Option<String> {
    if seconds == 0 {
        return None;
    }
    jiff::Timestamp::from_second(seconds).ok().map(|time| time.to_string())
}

pub(crate) async fn conflicts(reader: Reader) -> Result<Answer<Json>, Problem> {
    let document = reader.document().await?;
    let (found, heads) = document.read(|view| (view.all_conflicts(CONFLICTS_MAX), view.heads())).await?;
    let rows: Vec<Json> = found
        .iter()
        .map(|(path, values)| {
            let values: Vec<Json> = values
                .iter()
                .enumerate()
                .map(|(at, value)| {
                    json!({
                        "value": value.value,
                        "version": value.entry.map(|entry| entry.to_string()),
                        "shown": at + 1 == values.len(),
                    })
                })
                .collect();
            json!({ "path": pointer(path), "values": values })
        })
        .collect();
    Ok(Answer(json!({ "version": version::text(&heads), "conflicts": rows })))
}

/// The four answers: is it saved here, what is not yet, which peers hold it, and who is level with this one.
pub(crate) async fn sync(reader: Reader) -> Result<Answer<Json>, Problem> {
    let document = reader.document().await?;
    // The version first: what is said of it may only become more true.
    let heads = document.heads().await?;
    let status = document.sync_status().await;
    let acknowledged: Vec<Json> = status
        .acknowledged
        .iter()
        .map(|(peer, all)| json!({ "peer": peer.to_string(), "everything_of_this_peer": all }))
        .collect();
    Ok(Answer(json!({
        "version": version::text(&heads),
        "saved_here": status.saved_here,
        "unsaved": status.unsaved,
        "acknowledged": acknowledged,
        "level_with": status.level_with.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })))
}

#[derive(Debug, Deserialize)]
pub(crate) struct Since {
    since: Option<String>,
}

/// Raw changes, each an Automerge chunk that tells its own length, dependencies first.
pub(crate) async fn changes(reader: Reader, _: HeaderMap, Params(since): Params<Since>) -> Result<Response, Problem> {
    let document = reader.document().await?;
    let since = version::parse(since.since.as_deref().unwrap_or_default())?;
    let (entries, version) = document.changes_since(&since).await?;
    let bytes: Vec<u8> = entries.into_iter().flat_map(|(_, bytes)| bytes).collect();
    let mut response = Body::from(bytes).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, axum::http::HeaderValue::from_static(super::documents::AUTOMERGE));
    headers.insert(super::documents::VERSION.clone(), version::header(&version.0));
    Ok(response)
}
