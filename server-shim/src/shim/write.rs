//! Edits over HTTP: a whole document, a patch, one place. What the caller has seen is the base; what others did since stays.

use axum::http::header::{CONTENT_RANGE, ETAG, IF_MATCH, IF_NONE_MATCH, LINK};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use commonhold_engine::{Document, Edit, EntryId, Wanted};
use serde::Deserialize;
use serde_json::Value as Json;
use utoipa::{IntoParams, ToSchema};

use super::access::{Reader, Writer};
use super::body::Shown;
use super::documents::{Content, MERGED, PARENTS, Params, VERSION, gone, part, present};
use super::patch::{self, Patch};
use super::prefer::Prefer;
use super::problem::{Kind, Problem};
use super::spec::{Edited, Edits, Known, Meant, ReadsDocument, Replaces, ShownPlace};
use super::version;

/// Parameters of an edit.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Base {
    /// The version that the caller has seen, in place of `Parents`.
    base: Option<String>,
}

/// The same of a patch.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Editing {
    /// The version that the caller has seen, in place of `Parents`.
    base: Option<String>,
    /// `replace`: arrays of a merge patch take the place of those that stand there.
    #[param(inline, value_type = Option<Arrays>)]
    arrays: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "its shape is what counts")]
enum Arrays {
    Merge,
    Replace,
}

/// An operation of a JSON Patch (RFC 6902).
#[derive(ToSchema)]
#[expect(dead_code, reason = "its shape is what counts")]
pub(super) struct Operation {
    #[schema(inline)]
    op: Op,
    /// A JSON pointer.
    path: String,
    /// Of `move` and `copy`: another.
    from: Option<String>,
    /// Of `add`, `replace` and `test`.
    value: Json,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "its shape is what counts")]
enum Op {
    Add,
    Remove,
    Replace,
    Move,
    Copy,
    Test,
}

/// Changes a document: a merge patch key by key, a JSON Patch all or nothing.
#[utoipa::path(
    patch, path = "/docs/{doc}", tag = "documents", operation_id = "patch_document", params(Editing, Meant), responses(Edited, Edits),
    request_body(content(
        (BTreeMap<String, serde_json::Value> = "application/merge-patch+json", example = json!({ "note": "tomorrow" })),
        (Vec<Operation> = "application/json-patch+json", example = json!([{ "op": "add", "path": "/note", "value": "tomorrow" }])),
    )),
)]
pub(crate) async fn patch(
    Writer(writer): Writer,
    headers: HeaderMap,
    Params(editing): Params<Editing>,
    body: Content,
) -> Result<Response, Problem> {
    let patch = Patch::parse(&headers, &body.0)?;
    let replace = match editing.arrays.as_deref() {
        None | Some("merge") => false,
        Some("replace") => true,
        Some(other) => return Err(Problem::bad(format!("arrays is merge or replace; found {other:?}"))),
    };
    let reads = patch.reads();
    let base = Base { base: editing.base };
    edit(&writer, &headers, &base, reads, |json| patch.wanted(json, replace)).await
}

/// Replaces a document by what is different from what the caller has seen.
#[utoipa::path(
    put, path = "/docs/{doc}", tag = "documents", operation_id = "put_document", params(Base, Meant), responses(Edited, Replaces),
    request_body(content = BTreeMap<String, serde_json::Value>, example = json!({ "items": ["milk"] })),
)]
pub(crate) async fn put(
    Writer(writer): Writer,
    headers: HeaderMap,
    Params(editing): Params<Base>,
    body: Content,
) -> Result<Response, Problem> {
    // Taken for the whole, a part would delete all else.
    if headers.contains_key(CONTENT_RANGE) || headers.contains_key("patches") {
        return Err(Problem::bad("PUT takes a whole document; PATCH it, or PUT one place below `at/`"));
    }
    let wanted: Json = body.json(&headers, "a document as JSON")?;
    if !wanted.is_object() {
        return Err(Problem::new(Kind::Unprocessable, "a document is a JSON object"));
    }
    if headers.get(IF_NONE_MATCH).is_none()
        && headers.get(IF_MATCH).is_none()
        && headers.get(&PARENTS).is_none()
        && editing.base.is_none()
    {
        let detail = "to replace a whole document, say what you have seen of it: `If-Match` with its ETag, or `Parents` with its Version; \
                      to change a part, PATCH";
        return Err(Problem::new(Kind::Precondition, detail));
    }
    edit(&writer, &headers, &editing, false, |_| Ok(Wanted::Value(wanted.clone()))).await
}

/// Sets one place. At the end of a list, or at `-`, it appends.
#[utoipa::path(
    put, path = "/docs/{doc}/at/{*pointer}", tag = "documents", operation_id = "put_place", params(Base, Meant), responses(Edited, Edits),
    request_body(content = serde_json::Value, content_type = "application/json", example = json!("oat milk")),
)]
pub(crate) async fn put_at(
    Writer(writer): Writer,
    headers: HeaderMap,
    Params(editing): Params<Base>,
    body: Content,
) -> Result<Response, Problem> {
    let (value, path): (Json, _) = (body.json(&headers, "a value as JSON")?, patch::pointer(&writer.rest)?);
    edit(&writer, &headers, &editing, true, |json| patch::at(&path, json, Some(value.clone()))).await
}

/// Deletes one place.
#[utoipa::path(
    delete,
    path = "/docs/{doc}/at/{*pointer}",
    tag = "documents",
    operation_id = "delete_place",
    params(Base, Meant),
    responses(Edited, Edits)
)]
pub(crate) async fn delete_at(
    Writer(writer): Writer,
    headers: HeaderMap,
    Params(editing): Params<Base>,
) -> Result<Response, Problem> {
    let path = patch::pointer(&writer.rest)?;
    edit(&writer, &headers, &editing, true, |json| {
        patch::at(&path, json, None).map_err(|problem| Problem { kind: Kind::NotFound, ..problem })
    })
    .await
}

/// What stands at one place.
#[utoipa::path(
    get,
    path = "/docs/{doc}/at/{*pointer}",
    tag = "documents",
    operation_id = "read_place",
    params(Known),
    responses(ShownPlace, ReadsDocument)
)]
pub(crate) async fn read_at(reader: Reader, headers: HeaderMap) -> Result<Response, Problem> {
    let document = reader.document().await?;
    let path = patch::pointer(&reader.rest)?;
    let now = reader.shim.bodies.of(&document).await?;
    let json = now.json()?;
    let found = json.pointer(path.as_str());
    let found = found.ok_or_else(|| Problem::new(Kind::NotFound, format!("nothing stands at {path}")))?;
    Ok(super::documents::unless_known(&headers, part(found, &now)))
}

/// The version that an edit is meant for, if the caller says which.
fn base(headers: &HeaderMap, editing: &Base) -> Result<Option<Vec<EntryId>>, Problem> {
    match (version::parents(headers)?, &editing.base) {
        (Some(_), Some(_)) => Err(Problem::bad("either Parents or base, not both")),
        (Some(parents), None) => Ok(Some(parents)),
        (None, Some(text)) => version::parse(text).map(Some),
        (None, None) => Ok(None),
    }
}

/// Makes a document what is wanted of it. `reads`: what is wanted depends on what the caller has seen, so that the version counts of which that
/// is read.
async fn edit(
    writer: &Reader,
    headers: &HeaderMap,
    editing: &Base,
    reads: bool,
    wanted: impl Fn(&Json) -> Result<Wanted, Problem> + Send,
) -> Result<Response, Problem> {
    let document = writer.document().await?;
    let parents = base(headers, editing)?;
    let exactly = headers.contains_key(IF_MATCH) || headers.contains_key(IF_NONE_MATCH);
    let merged = match (&parents, reads || exactly) {
        (None, false) => {
            let wanted = wanted(&Json::Null)?;
            write(&document, None, false, wanted).await?
        }
        (None, true) => {
            let now = writer.shim.bodies.of(&document).await?;
            preconditions(headers, &now)?;
            write(&document, Some(&now.heads), exactly, wanted(&now.json()?)?).await?
        }
        (Some(parents), _) => {
            if exactly {
                return Err(Problem::bad("either Parents, to merge, or If-Match, to refuse what is stale; not both"));
            }
            let json = document.read(|view| view.json_at_heads(parents)).await?;
            let json = json.ok_or_else(|| gone(writer, &document))?;
            write(&document, Some(parents), false, wanted(&json)?).await?
        }
    };
    answer(writer, &document, Prefer::of(headers), merged).await
}

pub(crate) fn preconditions(headers: &HeaderMap, now: &Shown) -> Result<(), Problem> {
    let (heads, etag) = (&now.heads, &*now.etag);
    let stale = |detail| {
        let problem = Problem::new(Kind::Stale, detail).with("version", version::text(heads)).with("etag", etag);
        let problem = problem.header(VERSION.clone(), version::header(heads));
        match HeaderValue::try_from(etag) {
            Ok(etag) => problem.header(ETAG, etag),
            Err(_) => problem,
        }
    };
    if headers.get(IF_MATCH).is_some_and(|wanted| !version::names(wanted, etag)) {
        return Err(stale("the document has changed since; read it again, or send `Parents` to merge"));
    }
    if headers.get(IF_NONE_MATCH).is_some_and(|unwanted| version::names(unwanted, etag)) {
        return Err(stale("there is such a document already"));
    }
    Ok(())
}

/// Gives whether others had edited since.
async fn write(document: &Document, base: Option<&[EntryId]>, exactly: bool, wanted: Wanted) -> Result<bool, Problem> {
    let edit = |edit: &mut Edit<'_>| {
        if exactly && edit.merges() {
            return Err(Problem::new(
                Kind::Stale,
                "the document has just changed; read it again, or send `Parents` to merge",
            ));
        }
        edit.make_so(&wanted)?;
        Ok(edit.merges())
    };
    Ok(match base {
        None => document.edit(edit).await?,
        Some(base) => document.edit_at(base, edit).await?,
    })
}

/// The edit is on this disk when this answers.
async fn answer(writer: &Reader, document: &Document, prefer: Prefer, merged: bool) -> Result<Response, Problem> {
    let saved = writer.shim.bodies.saved(document).await?;
    let here = format!("/v1/spaces/{}/docs/{}", writer.space, document.id());
    let mut status = StatusCode::OK;
    let mut receipts = None;
    if prefer.durability > 1 {
        let held = document.receipts(&saved.heads, prefer.durability, prefer.wait()).await?;
        if held.len() < prefer.durability {
            status = StatusCode::ACCEPTED;
        }
        receipts = Some((held, version::text(&saved.heads)));
    }
    let mut response = present(status, saved);
    if prefer.minimal && status == StatusCode::OK {
        *response.status_mut() = StatusCode::NO_CONTENT;
        *response.body_mut() = axum::body::Body::empty();
        response.headers_mut().remove(axum::http::header::CONTENT_TYPE);
    }
    let headers = response.headers_mut();
    let mut links = Vec::new();
    if merged {
        headers.insert(MERGED.clone(), HeaderValue::from_static("?1"));
        links.push(format!("<{here}/conflicts>; rel=\"conflicts\""));
    }
    if let Some((held, version)) = receipts {
        let this = writer.shim.node.device();
        let others = held.iter().map(|receipt| receipt.holder).filter(|holder| *holder != this);
        let others: Vec<String> = others.map(|holder| holder.to_string()).collect();
        headers.extend(HeaderValue::try_from(others.join(", ")).ok().map(|peers| (DURABLE.clone(), peers)));
        links.push(format!("<{here}/sync>; rel=\"sync\""));
        links.push(format!("<{here}/receipts?version={version}>; rel=\"receipts\""));
    }
    if !links.is_empty() {
        headers.extend(HeaderValue::try_from(links.join(", ")).ok().map(|links| (LINK, links)));
    }
    Ok(response.into_response())
}

/// The other peers that hold the edit on disk.
static DURABLE: axum::http::HeaderName = axum::http::HeaderName::from_static("durable-at");
