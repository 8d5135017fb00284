//! Attachments by their hash. What a hash names never changes, so browsers may keep it for good.

use std::sync::{Arc, OnceLock};

use axum::Json as Answer;
use axum::body::{Body, Bytes};
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION, RANGE,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use commonhold_engine::sync::blobs::{Blob, PIECE_BYTES};
use commonhold_engine::sync::id::BlobHash;
use commonhold_engine::{BlobReader, BlobRef, Node, SpaceId};
use futures_util::{StreamExt, TryStreamExt, stream};
use mime::Mime;
use serde::{Deserialize, Serialize};
use tokio_util::io::{StreamReader, SyncIoBridge};
use utoipa::{IntoParams, ToSchema};

use super::access::{Reader, Writer};
use super::documents::Params;
use super::guard;
use super::prefer::Prefer;
use super::problem::{Kind, Problem};
use super::spec::{Ranged, ReadsBlob, Stored as Content, StoresBlob};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Named {
    /// Bytes, as the blob's name says: with it, a blob that is not here is fetched from peers.
    size: Option<u64>,
    /// The media type to answer with, as the blob's name says.
    #[serde(rename = "type")]
    media_type: Option<String>,
}

/// A blob, or a range of it. It may be cached for good.
#[utoipa::path(
    get,
    path = "/blobs/{digest}",
    tag = "blobs",
    operation_id = "read_blob",
    params(Named, Ranged),
    responses(Content, ReadsBlob)
)]
pub(crate) async fn read(
    reader: Reader,
    method: Method,
    headers: HeaderMap,
    Params(named): Params<Named>,
) -> Result<Response, Problem> {
    let hash: BlobHash = reader.rest_as("digest")?;
    let media_type = named.media_type.as_deref().unwrap_or_default();
    // It goes into a header, which others have to understand.
    let is_one = |kind: Mime| !kind.type_().as_str().is_empty() && !kind.subtype().as_str().is_empty();
    if !media_type.is_empty() && !media_type.parse().is_ok_and(is_one) {
        return Err(Problem::bad(format!("{media_type:?} is no media type, such as image/png")));
    }
    let nothing = || {
        Problem::new(
            Kind::NotFound,
            "this peer does not hold that blob; with ?size= and `Prefer: wait=SECONDS` it asks others",
        )
    };
    let blob = match find(&reader.shim.node, reader.space, hash).await? {
        Some(blob) => blob,
        None => {
            let blob = Blob { hash, size: named.size.ok_or_else(nothing)? };
            fetch(&reader.shim.node, reader.space, blob, Prefer::of(&headers)).await?;
            blob
        }
    };
    let etag = HeaderValue::try_from(format!("\"{hash}\"")).map_err(|_| nothing())?;
    if headers.get(IF_NONE_MATCH).is_some_and(|known| known == etag || known == "*") {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response());
    }
    let (range, status) = match headers.get(RANGE).and_then(|range| range.to_str().ok()) {
        None => (0..blob.size, StatusCode::OK),
        Some(text) => match range_of(text, blob.size) {
            Some(range) => (range, StatusCode::PARTIAL_CONTENT),
            None => {
                let unsatisfied = HeaderValue::try_from(format!("bytes */{}", blob.size)).ok();
                let mut response = StatusCode::RANGE_NOT_SATISFIABLE.into_response();
                response.headers_mut().extend(unsatisfied.map(|value| (CONTENT_RANGE, value)));
                return Ok(response);
            }
        },
    };
    let name = BlobRef::with_type(blob, media_type);
    let content = reader.shim.node.blob(reader.space, &name).await?.ok_or_else(nothing)?;
    let body = if method == Method::HEAD { Body::empty() } else { body(content, range.clone()) };
    let mut response = (status, body).into_response();
    let answer = response.headers_mut();
    let kind = if name.media_type.is_empty() { "application/octet-stream" } else { &name.media_type };
    answer.extend(HeaderValue::try_from(kind).ok().map(|kind| (CONTENT_TYPE, kind)));
    answer.insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    answer.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    answer.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    answer.insert(ETAG, etag);
    // What somebody uploaded must not run as a page of this host.
    answer.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    answer.insert("content-security-policy", HeaderValue::from_static("sandbox; default-src 'none'"));
    if status == StatusCode::PARTIAL_CONTENT {
        let value = format!("bytes {}-{}/{}", range.start, range.end - 1, blob.size);
        answer.extend(HeaderValue::try_from(value).ok().map(|value| (CONTENT_RANGE, value)));
    }
    Ok(response)
}

/// One range of bytes; `None` if it lies outside, or there are several.
fn range_of(text: &str, size: u64) -> Option<std::ops::Range<u64>> {
    let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
    let (from, end) = match (from.trim(), to.trim()) {
        ("", last) => (size.saturating_sub(last.parse().ok()?), size),
        (from, "") => (from.parse().ok()?, size),
        (from, to) => (from.parse().ok()?, to.parse::<u64>().ok()?.saturating_add(1).min(size)),
    };
    (from < end && from < size).then_some(from..end)
}

fn body(content: BlobReader, range: std::ops::Range<u64>) -> Body {
    let piece = range.start / PIECE_BYTES as u64;
    let content = content.from_piece(piece as u32);
    let pieces = stream::try_unfold((content, piece * PIECE_BYTES as u64), move |(mut content, at)| {
        let range = range.clone();
        async move {
            if at >= range.end {
                return Ok(None);
            }
            let Some(bytes) = content.next().await? else { return Ok(None) };
            let next = at + bytes.len() as u64;
            let from = range.start.saturating_sub(at) as usize;
            let to = (range.end.min(next) - at) as usize;
            Ok::<_, commonhold_engine::Error>(Some((Bytes::from(bytes).slice(from..to), (content, next))))
        }
    });
    Body::from_stream(pieces)
}

async fn find(node: &Node, space: SpaceId, hash: BlobHash) -> Result<Option<Blob>, Problem> {
    Ok(node.blobs(space).await?.into_iter().map(|info| info.blob).find(|blob| blob.hash == hash))
}

async fn fetch(node: &Node, space: SpaceId, blob: Blob, prefer: Prefer) -> Result<(), Problem> {
    let fetch = node.fetch_blob(space, &blob.into()).await?;
    match tokio::time::timeout(prefer.wait(), fetch.held()).await {
        Ok(held) => Ok(held?),
        Err(_) => Err(Problem::new(Kind::NotYet, "the blob has not arrived; wait longer with `Prefer: wait=SECONDS`")),
    }
}

async fn store(writer: &Reader, headers: &HeaderMap, body: Body) -> Result<BlobRef, Problem> {
    let broken = Arc::new(OnceLock::new());
    let tell = broken.clone();
    let stream = body.into_data_stream().map_err(move |error| {
        let _ = tell.set(guard::broken(&error));
        std::io::Error::other(error)
    });
    let from = SyncIoBridge::new(StreamReader::new(stream.boxed()));
    let put = writer.shim.node.put_blob(writer.space, from).await;
    // The store only knows that it could not read on.
    if let Some(problem) = Arc::into_inner(broken).and_then(OnceLock::into_inner) {
        return Err(problem);
    }
    let put = put?;
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    Ok(BlobRef::with_type(put.blob, kind))
}

/// A blob that was stored.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Put {
    /// What a document refers to it by.
    name: String,
    /// Bytes.
    size: u64,
    href: String,
}

fn stored(writer: &Reader, name: &BlobRef) -> Response {
    let here = format!("/v1/spaces/{}/blobs/{}", writer.space, name.blob.hash);
    let body = Put { name: name.to_string(), size: name.blob.size, href: here.clone() };
    let mut response = (StatusCode::CREATED, Answer(body)).into_response();
    response.headers_mut().extend(HeaderValue::try_from(here).ok().map(|here| (LOCATION, here)));
    response
}

/// Stores the body.
#[utoipa::path(
    post, path = "/blobs", tag = "blobs", operation_id = "post_blob", request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, description = "Its name", body = Put, headers(("location" = String, description = "where it is"))), StoresBlob),
)]
pub(crate) async fn post(Writer(writer): Writer, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let name = store(&writer, &headers, body).await?;
    Ok(stored(&writer, &name))
}

/// Stores the body, whose hash the caller knows.
#[utoipa::path(
    put, path = "/blobs/{digest}", tag = "blobs", operation_id = "put_blob", request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "Its name", body = Put, headers(("location" = String, description = "where it is"))),
        (status = 204, description = "It is here already"),
        StoresBlob,
    ),
)]
pub(crate) async fn put(Writer(writer): Writer, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let hash: BlobHash = writer.rest_as("digest")?;
    if find(&writer.shim.node, writer.space, hash).await?.is_some() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let name = store(&writer, &headers, body).await?;
    if name.blob.hash != hash {
        // It goes by itself after a day, if nobody has put it before.
        let detail = format!("the body's BLAKE3 is {}, not the one in the path; POST takes any body", name.blob.hash);
        return Err(Problem::new(Kind::Unprocessable, detail));
    }
    Ok(stored(&writer, &name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(range_of("bytes=0-0", 10), Some(0..1));
        assert_eq!(range_of("bytes=5-", 10), Some(5..10));
        assert_eq!(range_of("bytes=-3", 10), Some(7..10));
        assert_eq!(range_of("bytes=-30", 10), Some(0..10));
        assert_eq!(range_of("bytes=2-99", 10), Some(2..10));
        for none in ["bytes=10-", "bytes=3-2", "bytes=a-b", "bytes=0-1,3-4", "lines=1-2", "bytes=-0", ""] {
            assert_eq!(range_of(none, 10), None, "{none}");
        }
        assert_eq!(range_of("bytes=0-", 0), None);
    }
}
