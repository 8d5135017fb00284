//! The OpenAPI document of what is answered. It is made of the handlers themselves: their routes, their parameters, and the types that they
//! take and give. Here is what many of them share.

use std::collections::BTreeMap;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response as Answer};
use serde_json::{Value as Json, json};
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    Components, Content, ContentBuilder, HeaderBuilder, OpenApi, Paths, Ref, RefOr, Required, Response, Schema,
};
use utoipa::{IntoParams, IntoResponses, OpenApi as _};

use super::documents::AUTOMERGE;
use super::problem::{Details, Kind};

/// What a path names: 64 hex digits.
const ID: &str = "^[0-9a-f]{64}$";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Commonhold over HTTP",
        description = "Documents that peers share, for programs that cannot be peers. Versions are ids of 64 hex digits with commas between; \
                       errors are problem details (RFC 9457).",
    ),
    components(schemas(Details)),
    security(("token" = []), ("cookie" = []), ("ticket" = []), ()),
    tags(
        (name = "documents", description = "Documents as JSON, their changes and what became of them"),
        (name = "blobs", description = "Attachments by their BLAKE3"),
        (name = "webhooks", description = "What changes, told to a URL (Standard Webhooks)"),
        (name = "spaces", description = "What the caller may use"),
        (name = "peer", description = "What this peer says of itself"),
    ),
)]
struct Base;

/// What there is before any route.
pub(super) fn base() -> OpenApi {
    let mut base = Base::openapi();
    let components = base.components.get_or_insert_with(Components::new);
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
    let key = |value| ApiKeyValue::with_description("commonhold", value);
    components.add_security_scheme("token", SecurityScheme::Http(bearer.build()));
    components.add_security_scheme("cookie", SecurityScheme::ApiKey(ApiKey::Cookie(key("the token, as a cookie"))));
    let ticket = ApiKeyValue::with_description("ticket", "from POST /v1/tickets; for once, within a minute");
    components.add_security_scheme("ticket", SecurityScheme::ApiKey(ApiKey::Query(ticket)));
    base
}

/// The document, ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct Described(Bytes);

impl Described {
    /// Of all routes: with what is the same for each.
    pub(super) fn of(mut api: OpenApi) -> Described {
        let paths = std::mem::take(&mut api.paths.paths);
        api.paths = Paths::new();
        for (path, mut item) in paths {
            // What a path ends with may have slashes in it, which OpenAPI cannot say.
            let path = path.replace("{*", "{");
            let named: Vec<Parameter> = path
                .split('{')
                .skip(1)
                .filter_map(|part| part.split_once('}'))
                .map(|(name, _)| part_of(name))
                .collect();
            item.parameters = (!named.is_empty()).then(|| named.into_iter().map(RefOr::T).collect());
            let changes = [&mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
            if path.starts_with("/v1/spaces/") {
                changes.into_iter().flatten().for_each(keyed);
            }
            item.head = item.get.as_ref().map(head);
            api.paths.paths.insert(path, item);
        }
        Described(api.to_json().unwrap_or_default().into())
    }
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "peer", operation_id = "read_openapi", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = BTreeMap<String, serde_json::Value>)),
)]
pub(super) async fn openapi(Extension(Described(bytes)): Extension<Described>) -> Answer {
    let mut response = Body::from(bytes).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// A part of a path.
fn part_of(name: &str) -> Parameter {
    let (what, pattern) = match name {
        "space" => ("the space, by its id", Some(ID)),
        "doc" => ("the document, by its id", Some(ID)),
        "digest" => ("BLAKE3 of the blob", Some(ID)),
        "hook" => ("the webhook, by its id", Some("^[0-9a-f]{32}$")),
        "event" => ("the event, by its `webhook-id`", Some("^evt_[0-9a-f]{32}$")),
        _ => ("a JSON pointer (RFC 6901), without its first slash", None),
    };
    let schema = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).pattern(pattern).min_length(Some(1));
    let part = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path).required(Required::True);
    part.description(Some(what)).schema(Some(schema)).build()
}

/// An operation that may be sent again.
fn keyed(operation: &mut Operation) {
    let what = "drawn for each request, at most 256 bytes: with it, the request may be sent again, and is done once";
    let key = header("idempotency-key", what);
    operation.parameters.get_or_insert_default().push(RefOr::T(key));
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            let replayed = described(&["idempotency-replayed"]);
            response.headers.extend(replayed);
        }
    }
}

/// The same without a body.
fn head(get: &Operation) -> Operation {
    let mut head = get.clone();
    head.operation_id = head.operation_id.map(|id| format!("{id}_head"));
    for response in head.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            response.content.clear();
        }
    }
    head
}

fn text() -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).into()
}

fn header(name: &str, what: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .description(Some(what))
        .schema(Some(text()))
        .build()
}

/// Headers of requests, each with what it is for.
macro_rules! asked {
    ($($(#[$about:meta])* $name:ident { $($header:literal: $what:literal,)* })*) => { $(
        $(#[$about])*
        pub(super) enum $name {}

        impl IntoParams for $name {
            fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
                vec![$(header($header, $what)),*]
            }
        }
    )* };
}

asked! {
    /// Of what is read.
    Known {
        "if-none-match": "ETags that the caller has: 304 where nothing has changed",
        "prefer": "`wait=SECONDS`, 60 at most, for what is not here yet",
    }
    /// Of Braid.
    Follows {
        "subscribe": "`?1`: the answer stays open, and each change comes as an update (Braid)",
        "version": "the version to read, as `at`",
        "parents": "of a subscription: the version that the caller has, so that it begins with what came after it",
        "heartbeats": "of a subscription: it is told how often a blank line comes",
    }
    /// Of streams.
    Seen {
        "last-event-id": "the last event that the caller has seen; `EventSource` sends it by itself",
    }
    /// Of edits.
    Meant {
        "if-match": "the ETag that the caller has seen: 412 where it is another",
        "if-none-match": "ETags that must not be there, or `*`",
        "parents": "the version that the caller has seen: what was done since stays, and the edit is merged with it",
        "version": "drawn for each edit, as an Idempotency-Key (Braid); the version that the edit gets is in the answer",
        "prefer": "`return=minimal`: no body. `durability=PEERS, wait=SECONDS`: an answer when so many have it on disk, or 202",
    }
    /// Of receipts.
    Waits {
        "prefer": "`durability=PEERS, wait=SECONDS`: how many receipts to wait for, this peer's included, and how long (60 s at most)",
    }
    /// Of deletions.
    Exactly {
        "if-match": "the ETag that the caller has seen: 412 where it is another",
    }
    /// Of blobs.
    Ranged {
        "if-none-match": "ETags that the caller has",
        "range": "one range of bytes",
        "prefer": "`wait=SECONDS`, 60 at most, for a blob that other peers are asked for",
    }
}

/// Problems of operations, by their kinds.
macro_rules! refusals {
    ($($(#[$about:meta])* $name:ident { $($kind:ident)* })*) => { $(
        $(#[$about])*
        pub(super) enum $name {}

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                refusals(&[$(Kind::$kind),*])
            }
        }
    )* };
}

refusals! {
    /// Of what concerns no space.
    Called { NoToken NotAllowed Blocked TooMany Internal }
    /// Of tickets.
    Tickets { NoToken NotAllowed Blocked Stalled TooMany Internal Unavailable }
    /// Of readiness.
    Readies { Blocked TooMany Internal Unavailable }
    /// Of what is read of a space.
    Reads { BadRequest NoToken NotAllowed Blocked NotFound TooMany Internal Unavailable NotYet Quota }
    /// Of what is read of a document.
    ReadsDocument { BadRequest NoToken NotAllowed Blocked NotFound Gone TooMany Internal Unavailable NotYet Quota }
    /// Of what changed in a space.
    ReadsChanges { BadRequest NoToken NotAllowed Blocked NotFound Gone TooMany Internal Unavailable NotYet Quota }
    /// Of a document in one of several forms.
    ReadsForm { BadRequest NoToken NotAllowed Blocked NotFound NotAcceptable Gone TooMany Internal Unavailable NotYet Quota }
    /// Of what is new in a space.
    Creates {
        BadRequest NoToken NotAllowed Blocked NotFound Conflict Stalled TooLarge MediaType Unprocessable TooMany Internal Unavailable NotYet Quota
    }
    /// Of edits.
    Edits {
        BadRequest NoToken NotAllowed Blocked NotFound Gone Conflict Stalled Stale TooLarge MediaType Unprocessable TooMany Internal Unavailable NotYet Quota
    }
    /// Of what is said and not stored.
    Says { BadRequest NoToken NotAllowed Blocked NotFound Gone Conflict Stalled TooLarge MediaType Unprocessable TooMany Internal Unavailable NotYet Quota }
    /// Of raw changes, and of webhooks.
    Takes {
        BadRequest NoToken NotAllowed Blocked NotFound Gone Conflict Stalled TooLarge MediaType Unprocessable TooMany Internal Unavailable NotYet Quota
    }
    /// Of replacing a whole document.
    Replaces {
        BadRequest NoToken NotAllowed Blocked NotFound Gone Conflict Stalled Stale Precondition TooLarge MediaType Unprocessable TooMany Internal Unavailable
        NotYet Quota
    }
    /// Of deletions.
    Deletes {
        BadRequest NoToken NotAllowed Blocked NotFound Gone Conflict Stalled Stale TooLarge Unprocessable TooMany Internal Unavailable NotYet Quota
    }
    /// Of blobs that are read.
    ReadsBlob { BadRequest NoToken NotAllowed Blocked NotFound TooLarge TooMany Internal Unavailable NotYet Quota }
    /// Of blobs that are stored.
    StoresBlob { BadRequest NoToken NotAllowed Blocked NotFound Conflict Stalled TooLarge Unprocessable TooMany Internal Unavailable NotYet Quota }
}

/// What problems of these kinds look like.
fn refusals(kinds: &[Kind]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<u16, Vec<Kind>> = BTreeMap::new();
    kinds.iter().for_each(|kind| by_status.entry(kind.status().as_u16()).or_default().push(*kind));
    by_status.into_iter().map(|(status, kinds)| (status.to_string(), RefOr::T(refusal(&kinds)))).collect()
}

fn refusal(kinds: &[Kind]) -> Response {
    let what: Vec<String> = kinds.iter().map(|kind| format!("`{}`: {}", kind.name(), kind.meaning())).collect();
    let urns = kinds.iter().map(|kind| kind.urn());
    let kind = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).enum_values(Some(urns));
    let schema = AllOfBuilder::new()
        .item(Ref::from_schema_name("Problem"))
        .item(ObjectBuilder::new().property("type", kind).required("type"));
    let status = kinds.first().map(|kind| kind.status()).unwrap_or_default();
    let examples = kinds.iter().map(|kind| {
        let value = json!({
            "type": kind.urn(),
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": kind.meaning(),
            "trace_id": "0123456789abcdef",
        });
        (kind.name(), utoipa::openapi::example::ExampleBuilder::new().value(Some(value)).build())
    });
    let content = ContentBuilder::new().schema(Some(schema)).examples_from_iter(examples).build();
    let mut response = Response::new(what.join("; "));
    response.headers.extend(described(match kinds.first() {
        Some(Kind::NoToken) => &["www-authenticate"],
        Some(Kind::TooMany | Kind::NotYet | Kind::Unavailable) => &["retry-after"],
        Some(Kind::Stale) => &["version", "etag"],
        _ => &[],
    }));
    response.content.insert("application/problem+json".to_owned(), RefOr::T(content));
    response
}

/// Headers of answers.
fn described(names: &[&str]) -> BTreeMap<String, RefOr<utoipa::openapi::header::Header>> {
    let what = |name: &str| match name {
        "etag" => "for caches and `If-Match`: the same one has the same bytes",
        "version" => "ids in quotes, with commas between",
        "merged" => "`?1`: others had edited since, and the edit was merged with theirs",
        "location" => "where it is",
        "link" => "`rel=\"next\"`, `\"conflicts\"` or `\"sync\"`: where to read on",
        "durable-at" => "the other peers that have the edit on disk",
        "idempotency-replayed" => "`?1`: the request was done before, and this is the answer of then",
        "content-range" => "the bytes that are in the body, and how many there are",
        "www-authenticate" => "how a token is sent",
        "retry-after" => "seconds",
        "subscribe" => "`?1`",
        "current-version" => "the version of now, with which the caller has caught up",
        "heartbeats" => "how often a blank line comes",
        _ => "see HTTP",
    };
    let header = |name: &&str| {
        (name.to_string(), RefOr::T(HeaderBuilder::new().schema(Some(text())).description(Some(what(name))).build()))
    };
    names.iter().map(header).collect()
}

/// Any JSON.
fn any() -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(SchemaType::AnyValue).into()
}

/// A document.
fn object() -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::Object)).additional_properties(Some(any())).into()
}

fn answer(what: &str, forms: Vec<(&str, Content)>, headers: &[&str]) -> Response {
    let mut response = Response::new(what);
    response.headers.extend(described(headers));
    response.content.extend(forms.into_iter().map(|(kind, content)| (kind.to_owned(), RefOr::T(content))));
    response
}

fn form(schema: RefOr<Schema>, example: Json) -> Content {
    ContentBuilder::new().schema(Some(schema)).example(Some(example)).build()
}

fn a_document() -> Content {
    form(object(), json!({ "items": ["milk"], "note": "today" }))
}

fn listed<const N: usize>(answers: [(&str, Response); N]) -> BTreeMap<String, RefOr<Response>> {
    answers.into_iter().map(|(status, response)| (status.to_owned(), RefOr::T(response))).collect()
}

/// A document as it is, was, or what leads from one version to another.
pub(super) enum Shown {}

impl IntoResponses for Shown {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let patch = form(any(), json!([{ "op": "replace", "path": "/note", "value": "tomorrow" }]));
        let updates = vec![("application/http-history", ContentBuilder::new().schema(Some(any())).build())];
        let binary = ContentBuilder::new().schema(Some(any())).build();
        let forms =
            vec![("application/json", a_document()), ("application/json-patch+json", patch), (AUTOMERGE, binary)];
        listed([
            ("200", answer("The document; with `diff`, a JSON Patch", forms, &["etag", "version"])),
            (
                "209",
                answer(
                    "With `Subscribe`: updates, until somebody hangs up",
                    updates,
                    &["subscribe", "current-version", "heartbeats"],
                ),
            ),
            ("304", answer("The caller has it", vec![], &["etag", "version"])),
        ])
    }
}

/// What stands at one place.
pub(super) enum ShownPlace {}

impl IntoResponses for ShownPlace {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let forms = vec![("application/json", form(any(), json!("milk")))];
        listed([
            ("200", answer("What stands there, with the ETag of the whole document", forms, &["etag", "version"])),
            ("304", answer("The document is as the caller has it", vec![], &["etag", "version"])),
        ])
    }
}

/// A document that was made.
pub(super) enum Created {}

impl IntoResponses for Created {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let forms = vec![("application/json", a_document())];
        listed([("201", answer("The document, on this peer's disk", forms, &["etag", "version", "location"]))])
    }
}

/// What an edit made of a document.
pub(super) enum Edited {}

impl IntoResponses for Edited {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let headers = ["etag", "version", "merged", "link", "durable-at"];
        let forms = || vec![("application/json", a_document())];
        listed([
            ("200", answer("The document as it is now, on this peer's disk", forms(), &headers)),
            ("202", answer("The same, where fewer peers than wanted have it on disk yet", forms(), &headers)),
            ("204", answer("With `Prefer: return=minimal`", vec![], &headers)),
        ])
    }
}

/// The content of a blob.
pub(super) enum Stored {}

impl IntoResponses for Stored {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        // The caller says which media type it is.
        let forms = || vec![("*/*", ContentBuilder::new().schema(Some(any())).build())];
        listed([
            ("200", answer("All of it", forms(), &["etag"])),
            ("206", answer("A range of it", forms(), &["etag", "content-range"])),
            ("304", answer("The caller has it", vec![], &["etag"])),
            ("416", answer("The range lies outside, or there are several", vec![], &["content-range"])),
        ])
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_route_is_described() {
        // A router tells nobody what it has: routes are only made together with what describes them.
        let routes = include_str!("../shim.rs");
        for beside in [".route(", ".route_service(", ".nest_service("] {
            assert!(!routes.contains(beside), "{beside}…): use .routes(routes!(…)), which describes the route as well");
        }
    }
}
