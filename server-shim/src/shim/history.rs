//! What became of a document: its versions, conflicts, and who has it.

use std::time::Duration;

use axum::Json as Answer;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use commonhold_engine::{EditError, Error};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use utoipa::{IntoParams, ToSchema};

use super::access::{Reader, Writer};
use super::documents::{AUTOMERGE, Content, Params, VERSION, gone};
use super::feed::pointer;
use super::prefer::Prefer;
use super::problem::{Kind, Problem};
use super::spec::{ReadsDocument, Takes, Waits};
use super::version;

/// Versions of one answer, and conflicts.
const VERSIONS_MAX: usize = 10_000;
const VERSIONS: usize = 100;
const CONFLICTS_MAX: usize = 1_000;
/// For this peer's own receipt, which needs nobody else.
const RECEIPTS_WAIT: Duration = Duration::from_secs(1);
/// Refused changes of one request that are named.
const REFUSED_MAX: usize = 100;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Page {
    /// Changes of one answer: 10,000 at most, and 100 where nothing is said.
    limit: Option<usize>,
    /// Changes to leave out before the first.
    skip: Option<usize>,
}

/// Changes of a document.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Versions {
    /// Newest first.
    versions: Vec<Version>,
    /// Changes that there are.
    total: usize,
}

/// A change, which is a version by itself.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Version {
    version: String,
    /// What it was made upon.
    parents: Vec<String>,
    /// The peer that made it.
    author: Option<String>,
    /// When, by its author's clock (ISO 8601).
    time: Option<String>,
    operations: u64,
    message: Option<String>,
}

/// Every change of a document.
#[utoipa::path(
    get, path = "/docs/{doc}/versions", tag = "documents", operation_id = "list_versions", params(Page),
    responses((status = 200, description = "Newest first", body = Versions), ReadsDocument),
)]
pub(crate) async fn versions(reader: Reader, Params(page): Params<Page>) -> Result<Answer<Versions>, Problem> {
    let document = reader.document().await?;
    let history = document.history().await?;
    let (skip, limit) = (page.skip.unwrap_or(0), page.limit.unwrap_or(VERSIONS).min(VERSIONS_MAX));
    let rows = history.iter().rev().skip(skip).take(limit).map(|change| Version {
        version: change.id.to_string(),
        parents: change.deps.iter().map(ToString::to_string).collect(),
        author: change.author.as_deref().map(hex),
        time: time(change.time),
        operations: change.ops,
        message: change.message.clone(),
    });
    Ok(Answer(Versions { versions: rows.collect(), total: history.len() }))
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

/// Places at which edits that were made at the same time left several values.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Conflicts {
    version: String,
    /// The first 1,000.
    conflicts: Vec<Conflict>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Conflict {
    /// A JSON pointer.
    path: String,
    values: Vec<Candidate>,
}

/// A value of several.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Candidate {
    value: Json,
    /// The change that put it there.
    version: Option<String>,
    /// Whether it is the one that the document shows.
    shown: bool,
}

/// Places at which concurrent edits left several values.
#[utoipa::path(
    get, path = "/docs/{doc}/conflicts", tag = "documents", operation_id = "list_conflicts",
    responses((status = 200, description = "With the version that put each value there", body = Conflicts), ReadsDocument),
)]
pub(crate) async fn conflicts(reader: Reader) -> Result<Answer<Conflicts>, Problem> {
    let document = reader.document().await?;
    let (found, heads) = document.read(|view| (view.all_conflicts(CONFLICTS_MAX), view.heads())).await?;
    let conflicts = found.into_iter().map(|(path, values)| {
        let last = values.len();
        let values = values.into_iter().enumerate().map(|(at, value)| Candidate {
            value: value.value,
            version: value.entry.map(|entry| entry.to_string()),
            shown: at + 1 == last,
        });
        Conflict { path: pointer(&path), values: values.collect() }
    });
    Ok(Answer(Conflicts { version: version::text(&heads), conflicts: conflicts.collect() }))
}

/// Where a document is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Saved {
    version: String,
    /// Whether every edit that was made here is on this disk.
    saved_here: bool,
    /// Batches of edits that are not.
    unsaved: u64,
    /// Peers that have said what they hold on their disks.
    acknowledged: Vec<Acknowledged>,
    /// Connected peers that hold the same of the space, as last compared.
    level_with: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Acknowledged {
    peer: String,
    /// Whether that is everything that this peer made.
    everything_of_this_peer: bool,
}

/// Is it saved here, and which peers have it.
#[utoipa::path(
    get, path = "/docs/{doc}/sync", tag = "documents", operation_id = "read_sync",
    responses((status = 200, description = "Who holds what", body = Saved), ReadsDocument),
)]
pub(crate) async fn sync(reader: Reader) -> Result<Answer<Saved>, Problem> {
    let document = reader.document().await?;
    // The version first: what is said of it may only become more true.
    let heads = document.heads().await?;
    let status = document.sync_status().await;
    let acknowledged = status.acknowledged.iter();
    Ok(Answer(Saved {
        version: version::text(&heads),
        saved_here: status.saved_here,
        unsaved: status.unsaved,
        acknowledged: acknowledged
            .map(|(peer, all)| Acknowledged { peer: peer.to_string(), everything_of_this_peer: *all })
            .collect(),
        level_with: status.level_with.iter().map(ToString::to_string).collect(),
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Of {
    /// The version; if left out, the one that the document shows.
    version: Option<String>,
}

/// Who holds a version, signed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Receipts {
    version: String,
    receipts: Vec<Receipt>,
}

/// A peer has a version of a document on its disk. docs/protocol.md, §17, says what is signed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Receipt {
    /// The peer, which is an Ed25519 key in hex.
    holder: String,
    space: String,
    document: String,
    /// What it holds: entries, ascending, and all that they build upon.
    version: String,
    /// In hex.
    signature: String,
}

/// Receipts by the peers that have a version on their disks, this one included, which anybody can check without asking them.
#[utoipa::path(
    get, path = "/docs/{doc}/receipts", tag = "documents", operation_id = "list_receipts", params(Of, Waits),
    responses((status = 200, description = "Those that came in time", body = Receipts), ReadsDocument),
)]
pub(crate) async fn receipts(
    reader: Reader,
    headers: HeaderMap,
    Params(of): Params<Of>,
) -> Result<Answer<Receipts>, Problem> {
    let document = reader.document().await?;
    let heads = match of.version {
        Some(text) => version::parse(&text)?,
        None => document.flush().await?.0,
    };
    let prefer = Prefer::of(&headers);
    let patience = prefer.wait().max(RECEIPTS_WAIT);
    let found = match document.receipts(&heads, prefer.durability.max(1), patience).await {
        Err(Error::Edit(EditError::UnknownVersion)) => return Err(gone(&reader, &document)),
        found => found?,
    };
    let receipts = found.into_iter().map(|receipt| Receipt {
        holder: receipt.holder.to_string(),
        space: receipt.space.to_string(),
        document: receipt.doc.to_string(),
        version: version::text(&receipt.entries),
        signature: hex(&receipt.signature),
    });
    Ok(Answer(Receipts { version: version::text(&heads), receipts: receipts.collect() }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Since {
    /// The version whose changes the caller has.
    since: Option<String>,
}

/// Raw changes, each an Automerge chunk that tells its own length, dependencies first.
#[utoipa::path(
    get, path = "/docs/{doc}/changes", tag = "documents", operation_id = "read_changes", params(Since),
    responses(
        (status = 200, description = "Automerge chunks", body = Vec<u8>, content_type = AUTOMERGE, headers(("version" = String))),
        ReadsDocument,
    ),
)]
pub(crate) async fn changes(reader: Reader, Params(since): Params<Since>) -> Result<Response, Problem> {
    let document = reader.document().await?;
    let since = version::parse(since.since.as_deref().unwrap_or_default())?;
    let (entries, version) = document.changes_since(&since).await?;
    let bytes: Vec<u8> = entries.into_iter().flat_map(|(_, bytes)| bytes).collect();
    let mut response = Body::from(bytes).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(AUTOMERGE));
    headers.insert(VERSION.clone(), version::header(&version.0));
    Ok(response)
}

/// What became of raw changes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Taken {
    /// The version of the document with them.
    version: String,
    /// Those that were not here before.
    taken: usize,
}

/// Takes raw changes, as a GET gives them, of a program that signs nothing. This peer vouches for them.
#[utoipa::path(
    post, path = "/docs/{doc}/changes", tag = "documents", operation_id = "take_changes",
    request_body(content = Vec<u8>, content_type = AUTOMERGE),
    responses((status = 200, description = "All of them are on this peer's disk", body = Taken, headers(("version" = String))), Takes),
)]
pub(crate) async fn take_changes(
    Writer(writer): Writer,
    headers: HeaderMap,
    Content(body): Content,
) -> Result<Response, Problem> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind != AUTOMERGE {
        return Err(Problem::new(Kind::MediaType, format!("raw changes are {AUTOMERGE}; found {kind:?}")));
    }
    let document = writer.document().await?;
    let received = document.take_changes(body).await?;
    if received.waiting > 0 || !received.refused.is_empty() {
        let detail = match received.waiting {
            0 => "some changes break a rule; `refused` says which and why. Those beside them were taken",
            _ => {
                "some changes build upon others that are not here (send those as well), or are of a device that signs its own. Those beside them were taken"
            }
        };
        let refused = received.refused.into_iter().take(REFUSED_MAX);
        let refused: Vec<Json> =
            refused.map(|(id, why)| json!({ "version": id.map(|id| id.to_string()), "reason": why })).collect();
        let problem = Problem::new(Kind::Unprocessable, detail).with("refused", refused);
        return Err(problem.with("waiting", received.waiting).with("taken", received.taken));
    }
    let heads = document.heads().await?;
    let mut response = Answer(Taken { version: version::text(&heads), taken: received.taken }).into_response();
    response.headers_mut().insert(VERSION.clone(), version::header(&heads));
    Ok(response)
}
