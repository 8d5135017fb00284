//! Documents as JSON: listing, creating, reading, deleting.

use std::collections::BTreeMap;

use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, LINK, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use commonhold_engine::{Document, DocumentInfo, DocumentQuery, EntryId, View};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use utoipa::{IntoParams, ToSchema};

use super::access::{Reader, Writer};
use super::feed::Operations;
use super::prefer::Prefer;
use super::problem::{Kind, Problem};
use super::spec::{Created, Creates, Deletes, Exactly, Follows, Known, Reads, ReadsForm, Shown};
use super::version;
use super::{Shim, body, braid, guard};

/// Documents of one page of a list.
const PAGE_MAX: usize = 1_000;
const PAGE: usize = 100;
/// The media type of what other Automerge programs read.
pub(crate) const AUTOMERGE: &str = "application/vnd.automerge";

pub(crate) static VERSION: HeaderName = HeaderName::from_static("version");
pub(crate) static PARENTS: HeaderName = HeaderName::from_static("parents");
pub(crate) static MERGED: HeaderName = HeaderName::from_static("merged");

/// Parameters of the query, or a problem that says what is wrong with them.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Params<T>, Problem> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Params(params)),
            Err(rejection) => Err(Problem::bad(QueryRejection::body_text(&rejection))),
        }
    }
}

/// A body, or a problem.
pub(crate) struct Content(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for Content {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Content, Problem> {
        Bytes::from_request(request, state).await.map(Content).map_err(|rejection: BytesRejection| {
            match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => Problem::new(Kind::TooLarge, rejection.body_text()),
                _ => guard::broken(&rejection),
            }
        })
    }
}

impl Content {
    /// The body, which has to be JSON and to say so. `expected` is for people.
    pub(crate) fn json<T: DeserializeOwned>(&self, headers: &HeaderMap, expected: &str) -> Result<T, Problem> {
        is_json(headers)?;
        serde_json::from_slice(&self.0).map_err(|error| Problem::bad(format!("expected {expected}: {error}")))
    }
}

/// Which documents of a space to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Listing {
    /// What their names begin with.
    prefix: Option<String>,
    /// Their kind.
    kind: Option<String>,
    /// The id that ended the page before.
    cursor: Option<String>,
    /// Documents of a page: 1,000 at most, and 100 where nothing is said.
    limit: Option<usize>,
}

/// A page of documents.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Documents {
    documents: Vec<Row>,
    /// Where the next page is.
    next: Option<String>,
}

/// A document of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Row {
    id: String,
    kind: String,
    name: String,
    /// The peer that made it.
    creator: String,
    href: String,
}

/// The documents of a space, in pages.
#[utoipa::path(
    get, path = "/docs", tag = "documents", operation_id = "list_documents", params(Listing),
    responses((status = 200, description = "A page", body = Documents, headers(("link" = String, description = "`rel=\"next\"`"))), Reads),
)]
pub(crate) async fn list(reader: Reader, Params(listing): Params<Listing>) -> Result<Response, Problem> {
    let limit = listing.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let after = listing
        .cursor
        .as_deref()
        .map(|cursor| cursor.parse().map_err(|_| Problem::bad("cursor is the id that ended the page before")));
    let query = DocumentQuery {
        after: after.transpose()?,
        limit: limit + 1,
        kind: listing.kind.clone(),
        prefix: listing.prefix.clone(),
        deleted: false,
    };
    let mut found = reader.shim.node.documents(reader.space, query).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let here = format!("/v1/spaces/{}/docs", reader.space);
    let next = found.last().filter(|_| more).map(|last| {
        let mut next = format!("{here}?limit={limit}&cursor={}", last.id);
        for (name, value) in [("kind", &listing.kind), ("prefix", &listing.prefix)] {
            if let Some(value) = value {
                next += &format!("&{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
            }
        }
        next
    });
    let link = next.as_ref().and_then(|next| HeaderValue::try_from(format!("<{next}>; rel=\"next\"")).ok());
    let documents = found.into_iter().map(|info| Row::of(&here, info)).collect();
    let mut response = axum::Json(Documents { documents, next }).into_response();
    response.headers_mut().extend(link.map(|link| (LINK, link)));
    Ok(response)
}

impl Row {
    fn of(here: &str, info: DocumentInfo) -> Row {
        let (id, creator) = (info.id.to_string(), info.creator.to_string());
        Row { href: format!("{here}/{id}"), id, kind: info.kind, name: info.name, creator }
    }
}

/// A new document.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "kind": "list", "name": "shopping", "content": { "items": ["milk"] } }))]
pub(super) struct New {
    /// What the app says it is.
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
    /// What it holds from the beginning.
    #[serde(default)]
    content: BTreeMap<String, Json>,
}

/// Makes a document.
#[utoipa::path(post, path = "/docs", tag = "documents", operation_id = "create_document", request_body = New, responses(Created, Creates))]
pub(crate) async fn create(Writer(writer): Writer, headers: HeaderMap, body: Content) -> Result<Response, Problem> {
    let new: New =
        body.json(&headers, "{\"kind\": …, \"name\": …, \"content\": {…}}, each of which may be left out")?;
    let document = writer.shim.node.create_document(writer.space, &new.kind, &new.name).await?;
    if !new.content.is_empty() {
        let content = Json::Object(new.content.into_iter().collect());
        let filled = document.edit(|edit| edit.set_json(&[], &content).map_err(Problem::from)).await;
        if let Err(error) = filled.map_err(Problem::from) {
            // Half a document helps nobody.
            let _ = writer.shim.node.delete_document(writer.space, document.id()).await;
            return Err(error);
        }
    }
    let now = writer.shim.bodies.saved(&document).await?;
    let here = format!("/v1/spaces/{}/docs", writer.space);
    let mut response = present(StatusCode::CREATED, now);
    let location = HeaderValue::try_from(format!("{here}/{}", document.id()));
    response.headers_mut().extend(location.ok().map(|location| (LOCATION, location)));
    Ok(response)
}

/// A body of JSON says so.
fn is_json(headers: &HeaderMap) -> Result<(), Problem> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    match kind.split(';').next().unwrap_or_default().trim() {
        "application/json" => Ok(()),
        other => Err(Problem::new(Kind::MediaType, format!("the body is application/json; found {other:?}"))),
    }
}

/// What of a document to read.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Reading {
    /// As it was at this version.
    at: Option<String>,
    /// Two versions with `..` between: what leads from one to the other.
    diff: Option<String>,
    /// Not before this version is in it.
    min: Option<String>,
}

/// A document as JSON.
#[utoipa::path(
    get,
    path = "/docs/{doc}",
    tag = "documents",
    operation_id = "read_document",
    params(Reading, Known, Follows),
    responses(Shown, ReadsForm)
)]
pub(crate) async fn read(
    reader: Reader,
    headers: HeaderMap,
    Params(reading): Params<Reading>,
) -> Result<Response, Problem> {
    let document = reader.document().await?;
    if let Some(min) = &reading.min {
        wait_for(&reader.shim, &document, &version::parse(min)?, Prefer::of(&headers)).await?;
    }
    if let Some(diff) = &reading.diff {
        let (from, to) = diff.split_once("..").ok_or_else(|| Problem::bad("diff is VERSION..VERSION"))?;
        return difference(&document, &version::parse(from)?, &version::parse(to)?).await;
    }
    if headers.contains_key(&braid::SUBSCRIBE) {
        return braid::subscribe(&reader, &headers, document).await;
    }
    let version = headers.get(&VERSION).and_then(|version| version.to_str().ok());
    if let Some(at) = reading.at.as_deref().or(version) {
        let heads = version::parse(at)?;
        let json = document.read(|view| view.json_at_heads(&heads)).await?.ok_or_else(|| gone(&reader, &document))?;
        return Ok(unless_known(&headers, shown(StatusCode::OK, &json, &heads)));
    }
    let accepted = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("*/*");
    if accepted.split(',').any(|kind| kind.trim().starts_with(AUTOMERGE)) {
        let (bytes, heads) = document.automerge_file().await?;
        return Ok(unless_known(&headers, answer(StatusCode::OK, AUTOMERGE, bytes, &heads.0)));
    }
    if !["*/*", "application/*", "application/json"].iter().any(|kind| accepted.contains(kind)) {
        return Err(Problem::new(Kind::NotAcceptable, format!("a document is application/json or {AUTOMERGE}")));
    }
    Ok(unless_known(&headers, present(StatusCode::OK, reader.shim.bodies.of(&document).await?)))
}

/// The problem of a version that is not held.
pub(crate) fn gone(reader: &Reader, document: &Document) -> Problem {
    let link = format!("/v1/spaces/{}/docs/{}", reader.space, document.id());
    Problem::new(Kind::Gone, "that version is not held here; read the document as it is").with("snapshot", link)
}

async fn difference(document: &Document, from: &[EntryId], to: &[EntryId]) -> Result<Response, Problem> {
    let read = |view: &View| Some((view.json_at_heads(from)?, view.patches_between(from, to)?));
    let Some((mut json, patches)) = document.read(read).await? else {
        return Err(Problem::new(Kind::Gone, "one of the versions is not held here"));
    };
    let operations = Operations::of(&mut json, &patches);
    let whole = [json!({ "op": "replace", "path": "", "value": json })];
    let body = serde_json::to_vec(operations.few().unwrap_or(&whole)).unwrap_or_default();
    Ok(answer(StatusCode::OK, super::patch::OPERATIONS, body, to))
}

/// Waits until a version is in a document, as long as the request allows.
async fn wait_for(shim: &Shim, document: &Document, heads: &[EntryId], prefer: Prefer) -> Result<(), Problem> {
    let is_in = |view: &View| heads.iter().all(|id| view.contains(id));
    if document.read(is_in).await? {
        return Ok(());
    }
    let full = |_| Problem::new(Kind::TooMany, "too many requests wait for versions that are to arrive");
    let _place = shim.waiting.try_acquire().map_err(full)?;
    let mut watch = document.watch();
    let arrived = async {
        loop {
            if document.read(is_in).await? {
                return Ok(());
            }
            if watch.next().await.is_none() {
                return Err(Problem::new(Kind::Gone, "the document is not shown any more"));
            }
        }
    };
    match tokio::time::timeout(prefer.wait(), arrived).await {
        Ok(result) => result,
        Err(_) => {
            Err(Problem::new(Kind::NotYet, "that version has not arrived; wait longer with `Prefer: wait=SECONDS`"))
        }
    }
}

/// Deletes a document.
#[utoipa::path(
    delete, path = "/docs/{doc}", tag = "documents", operation_id = "delete_document", params(Exactly),
    responses((status = 204, description = "It is deleted"), Deletes),
)]
pub(crate) async fn delete(Writer(writer): Writer, headers: HeaderMap) -> Result<StatusCode, Problem> {
    if headers.contains_key(IF_MATCH) {
        let document = writer.document().await?;
        super::write::preconditions(&headers, &writer.shim.bodies.of(&document).await?)?;
    }
    writer.shim.node.delete_document(writer.space, writer.doc()?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A document, or a part of it, at a version.
pub(crate) fn shown(status: StatusCode, json: &Json, heads: &[EntryId]) -> Response {
    answer(status, "application/json", serde_json::to_vec(json).unwrap_or_default(), heads)
}

/// A document as it is.
pub(crate) fn present(status: StatusCode, now: body::Shown) -> Response {
    sent(status, "application/json", now.bytes, &now.heads, &now.etag)
}

/// A part of a document as it is, with the ETag of the whole: for `If-Match`.
pub(crate) fn part(found: &Json, now: &body::Shown) -> Response {
    let bytes = serde_json::to_vec(found).unwrap_or_default();
    sent(StatusCode::OK, "application/json", bytes.into(), &now.heads, &now.etag)
}

fn answer(status: StatusCode, kind: &'static str, body: Vec<u8>, heads: &[EntryId]) -> Response {
    let etag = version::etag(heads, &body);
    sent(status, kind, body.into(), heads, &etag)
}

fn sent(status: StatusCode, kind: &'static str, body: Bytes, heads: &[EntryId], etag: &str) -> Response {
    let etag = HeaderValue::try_from(etag);
    let mut response = (status, Body::from(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers.insert(VERSION.clone(), version::header(heads));
    headers.extend(etag.ok().map(|etag| (ETAG, etag)));
    response
}

/// 304 where the caller has the same.
pub(crate) fn unless_known(request: &HeaderMap, mut response: Response) -> Response {
    let etag = response.headers().get(ETAG).and_then(|etag| etag.to_str().ok());
    let known = request.get(IF_NONE_MATCH).zip(etag).is_some_and(|(header, etag)| version::names(header, etag));
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Body::empty();
        response.headers_mut().remove(CONTENT_TYPE);
    }
    response
}
