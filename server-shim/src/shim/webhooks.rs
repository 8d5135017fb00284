//! Webhooks: what changes in a space is told to a URL, as Standard Webhooks has it (docs/http.md).
//!
//! A hook belongs to the token that made it, works for as long as that may write in the space, and is seen by nobody else.

mod deliver;
mod destination;
mod hook;
mod send;
mod signature;
mod turns;

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::header::{LINK, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use commonhold_engine::sync::record::{KIND_BYTES_MAX, NAME_BYTES_MAX};
use commonhold_engine::{DocId, SpaceId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::Shim;
use super::access::{Caller, TokenRow, Writer};
use super::changes;
use super::documents::{Content, Params};
use super::problem::{Kind, Problem};
use super::spec::{Creates, Deletes, Reads, Takes};
pub(crate) use deliver::{Hooks, Told};
use deliver::{Live, Refused, iso, now_ms};
pub(crate) use destination::Networks;
use hook::{Event, Hook, HookId, Off, ROW_VERSION, State, WAITING_MAX, Writes};
use signature::{Key, Scheme};

/// Kinds, and documents, that one hook names.
const KINDS_MAX: usize = 16;
const DOCS_MAX: usize = 64;
/// Bytes of a description.
const DESCRIPTION_BYTES_MAX: usize = 256;
/// For how long the key before signs as well, once there is a new one, milliseconds. Standard Webhooks asks for such a time; a day lets a
/// receiver be told at leisure.
const OVERLAP_MS: u64 = 86_400_000;
/// Deliveries of one page.
const PAGE_MAX: usize = 100;

/// Whose hooks they are: a token of this peer that may write in the space.
pub(crate) struct Owner {
    hooks: Hooks,
    space: SpaceId,
    row: TokenRow,
    writer: Writer,
    /// The hook and the event that the path names.
    hook: String,
    event: String,
}

impl FromRequestParts<Shim> for Owner {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shim: &Shim) -> Result<Owner, Problem> {
        let writer = Writer::from_request_parts(parts, shim).await?;
        let Some(hooks) = shim.hooks.clone() else {
            return Err(Problem::new(
                Kind::NotAllowed,
                "this peer's operator has not switched webhooks on (webhooks.enabled)",
            ));
        };
        let space = writer.0.space;
        let row = match &writer.0.caller {
            Caller::Holder(hash) => shim.access.holder(hash, &space).filter(|row| hooks.may(&space, &row.hash)),
            // Nobody could be asked later whether it still may.
            Caller::User(_) => {
                let detail = "a webhook belongs to a token of this peer (commonhold token new): whether the bearer of another still may is not \
                              known once that has expired";
                return Err(Problem::new(Kind::NotAllowed, detail));
            }
            Caller::Anybody => {
                return Err(Problem::new(Kind::NoToken, "a webhook belongs to a token, and stops with it"));
            }
        };
        let row = row.ok_or_else(|| {
            Problem::new(Kind::NotAllowed, "a webhook takes a token that itself gives the right to write in this space")
        })?;
        let path = RawPathParams::from_request_parts(parts, shim).await;
        let path = path.map_err(|_| Problem::new(Kind::NotFound, "the path is not UTF-8"))?;
        let part =
            |name| path.iter().find(|(key, _)| *key == name).map_or(String::new(), |(_, value)| value.to_owned());
        Ok(Owner { hooks, space, row, hook: part("hook"), event: part("event"), writer })
    }
}

impl Owner {
    /// The hook that the path names. Those of others are as absent as what is not there.
    async fn live(&self) -> Result<Arc<Live>, Problem> {
        let nothing = || Problem::new(Kind::NotFound, "this token has no such webhook here");
        let id = crate::local::unhex(&self.hook).and_then(|id| HookId::try_from(id).ok()).ok_or_else(nothing)?;
        let live = self.hooks.find(&self.space, &id).ok_or_else(nothing)?;
        let owns = live.state.lock().await.hook.owner == self.row.hash;
        if owns { Ok(live) } else { Err(nothing()) }
    }

    async fn told(&self, live: &Live) -> Webhook {
        let state = live.state.lock().await;
        Webhook::of(self, live, &state)
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Problem {
        match refused {
            Refused::SpaceFull => {
                Problem::new(Kind::Conflict, "this space has 32 webhooks, and no more are taken; delete one first")
            }
            Refused::PeerFull => Problem::new(Kind::Quota, "this peer has 1,024 webhooks, and takes no more"),
            Refused::Gone => Problem::new(Kind::NotFound, "the webhook was deleted meanwhile"),
            Refused::Store(error) => error.into(),
        }
    }
}

/// What a webhook is to be, or what of it is to change: what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "url": "https://example.org/hooks/commonhold", "kinds": ["list"] }))]
pub(super) struct Wanted {
    /// Where events are posted: https or http, at most 2,048 bytes. Needed for a new one.
    #[schema(format = "uri", max_length = 2048)]
    url: Option<String>,
    /// For people: at most 256 bytes.
    description: Option<String>,
    /// Documents of these kinds, 16 at most; empty: of any.
    #[schema(max_items = 16)]
    kinds: Option<Vec<String>>,
    /// What their names begin with.
    prefix: Option<String>,
    /// These documents, 64 at most, by id; empty: all.
    #[schema(max_items = 64)]
    docs: Option<Vec<String>>,
    /// With each document as it is when it is told.
    include_docs: Option<bool>,
    /// How events are signed; cannot be changed later. `hmac` where nothing is said.
    signature: Option<Scheme>,
    /// False: nothing is sent. True after that, or after the hook was switched off: it goes on where it ended.
    enabled: Option<bool>,
    /// Where to begin, or to go on: a `seq` of the changes of the space, `0` for all that there is, or `now`. `now` where nothing is said.
    since: Option<String>,
}

/// A webhook.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Webhook {
    id: String,
    href: String,
    url: String,
    description: String,
    kinds: Vec<String>,
    prefix: String,
    docs: Vec<String>,
    include_docs: bool,
    signature: Scheme,
    /// What `ed25519` is verified with; null with `hmac`.
    public_key: Option<String>,
    enabled: bool,
    #[schema(inline)]
    state: Condition,
    /// Why it is off, or what the last attempt met; null if there is nothing to say.
    reason: Option<String>,
    /// When it was made.
    created: String,
    /// The last change that it is done with, as a `seq` of the changes of the space.
    seq: String,
    /// Events that wait for another attempt, and dead letters.
    waiting: usize,
    dead: usize,
}

/// How a webhook is.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Condition {
    /// It works.
    Active,
    /// Its receiver did not take the last event.
    Failing,
    /// It is switched off, by its owner or by what its receiver did.
    Off,
}

impl Webhook {
    fn of(owner: &Owner, live: &Live, state: &State) -> Webhook {
        let hook = &state.hook;
        let id = crate::local::hex(&live.id);
        let key = hook.keys.first();
        let scheme = key.map_or(Scheme::Hmac, |key| key.scheme);
        let last = state.waiting.values().max_by_key(|event| event.tried_ms).and_then(|event| event.error.clone());
        let (condition, reason) = match (hook.off, hook.failing_ms) {
            (Some(Off::Owner), _) => (Condition::Off, Some("its owner switched it off".to_owned())),
            (Some(Off::Gone), _) => (Condition::Off, Some("its receiver answered 410".to_owned())),
            (Some(Off::Failing), since) => {
                let since = since.map_or(String::new(), |since| format!(" since {}", iso(since)));
                (Condition::Off, Some(format!("its receiver took nothing{since}")))
            }
            (None, Some(_)) => (Condition::Failing, last),
            (None, None) => (Condition::Active, None),
        };
        Webhook {
            href: format!("/v1/spaces/{}/webhooks/{id}", live.space),
            id,
            url: hook.url.clone(),
            description: hook.description.clone(),
            kinds: hook.kinds.clone(),
            prefix: hook.prefix.clone(),
            docs: hook.docs.iter().map(|doc| DocId(**doc).to_string()).collect(),
            include_docs: hook.include_docs,
            signature: scheme,
            public_key: key.filter(|key| key.scheme == Scheme::Ed25519).map(Key::shown),
            enabled: hook.off.is_none(),
            state: condition,
            reason,
            created: iso(hook.created_ms),
            seq: format!("{}-{}", state.at, owner.hooks.node().store_id()),
            waiting: state.waiting.len(),
            dead: state.dead.len(),
        }
    }
}

/// A webhook, and what its receiver verifies with.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Made {
    #[serde(flatten)]
    webhook: Webhook,
    /// Of `hmac`: `whsec_` and base64. It is shown this once. Null with `ed25519`, whose secret stays here.
    secret: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Webhooks {
    webhooks: Vec<Webhook>,
}

/// Hooks of one token in one space: no more than fit into an answer.
#[utoipa::path(
    get, path = "/webhooks", tag = "webhooks", operation_id = "list_webhooks",
    responses((status = 200, description = "Those of the caller's token", body = Webhooks), Reads),
)]
pub(super) async fn list(owner: Owner) -> Answer<Webhooks> {
    let mut webhooks = Vec::new();
    for live in owner.hooks.of(&owner.space) {
        let state = live.state.lock().await;
        if state.hook.owner == owner.row.hash {
            webhooks.push(Webhook::of(&owner, &live, &state));
        }
    }
    Answer(Webhooks { webhooks })
}

/// Makes a webhook.
#[utoipa::path(
    post, path = "/webhooks", tag = "webhooks", operation_id = "create_webhook", request_body = Wanted,
    responses((status = 201, description = "It is at work", body = Made, headers(("location" = String, description = "where it is"))), Takes),
)]
pub(super) async fn create(owner: Owner, headers: HeaderMap, body: Content) -> Result<Response, Problem> {
    let wanted: Wanted = body.json(&headers, "{\"url\": …}, and what else is to be")?;
    let Some(url) = &wanted.url else { return Err(unprocessable("url: a webhook has to lead somewhere")) };
    let at = changes::number(&owner.writer.0, wanted.since.as_deref().unwrap_or("now")).await?;
    let key = Key::draw(wanted.signature.unwrap_or_default()).map_err(|why| Problem::new(Kind::Unavailable, why))?;
    let mut hook = Hook {
        version: ROW_VERSION,
        owner: owner.row.hash.clone(),
        owner_name: owner.row.name.clone(),
        url: url.clone(),
        description: String::new(),
        kinds: Vec::new(),
        prefix: String::new(),
        docs: Vec::new(),
        include_docs: false,
        keys: vec![key],
        created_ms: now_ms(),
        off: None,
        failing_ms: None,
    };
    wanted.apply(&mut hook, &owner.hooks)?;
    if wanted.enabled == Some(false) {
        hook.off = Some(Off::Owner);
    }
    let secret = secret(&hook);
    let live = owner.hooks.create(owner.space, hook, at).await?;
    let made = Made { webhook: owner.told(&live).await, secret };
    let location = HeaderValue::try_from(&made.webhook.href);
    let mut response = (StatusCode::CREATED, Answer(made)).into_response();
    response.headers_mut().extend(location.ok().map(|location| (LOCATION, location)));
    Ok(response)
}

fn unprocessable(why: impl Into<String>) -> Problem {
    Problem::new(Kind::Unprocessable, why)
}

/// What is shown once of the present key.
fn secret(hook: &Hook) -> Option<String> {
    hook.keys.first().filter(|key| key.scheme == Scheme::Hmac).map(Key::shown)
}

impl Wanted {
    /// What is said here of url, description and filters, once it is checked.
    fn apply(&self, hook: &mut Hook, hooks: &Hooks) -> Result<(), Problem> {
        if let Some(text) = &self.url {
            let url = destination::url(text, &hooks.allowed).map_err(|why| unprocessable(format!("url: {why}")))?;
            hook.url = url.to_string();
        }
        let short = |what: &str, text: &str, max: usize| match text.len() > max {
            true => Err(Problem::new(Kind::TooLarge, format!("{what} has more than {max} bytes"))),
            false => Ok(text.to_owned()),
        };
        if let Some(text) = &self.description {
            hook.description = short("description", text, DESCRIPTION_BYTES_MAX)?;
        }
        if let Some(text) = &self.prefix {
            hook.prefix = short("prefix", text, NAME_BYTES_MAX)?;
        }
        if let Some(kinds) = &self.kinds {
            if kinds.len() > KINDS_MAX {
                return Err(Problem::new(Kind::TooLarge, format!("kinds has more than {KINDS_MAX}")));
            }
            let kinds = kinds.iter().map(|kind| short("a kind", kind, KIND_BYTES_MAX));
            hook.kinds = kinds.collect::<Result<_, _>>()?;
        }
        if let Some(docs) = &self.docs {
            if docs.len() > DOCS_MAX {
                return Err(Problem::new(Kind::TooLarge, format!("docs has more than {DOCS_MAX}")));
            }
            let id = |text: &String| {
                let id: Result<DocId, _> = text.parse();
                id.map(|id| id.0.into()).map_err(|_| unprocessable(format!("docs: {text:?} is no id of 64 hex digits")))
            };
            hook.docs = docs.iter().map(id).collect::<Result<_, _>>()?;
        }
        hook.include_docs = self.include_docs.unwrap_or(hook.include_docs);
        Ok(())
    }
}

/// A webhook, and how it is.
#[utoipa::path(
    get, path = "/webhooks/{hook}", tag = "webhooks", operation_id = "read_webhook",
    responses((status = 200, description = "It", body = Webhook), Reads),
)]
pub(super) async fn read(owner: Owner) -> Result<Answer<Webhook>, Problem> {
    let live = owner.live().await?;
    Ok(Answer(owner.told(&live).await))
}

/// Changes a webhook: what is named, and nothing else.
#[utoipa::path(
    patch, path = "/webhooks/{hook}", tag = "webhooks", operation_id = "change_webhook", request_body = Wanted,
    responses((status = 200, description = "As it is now", body = Webhook), Takes),
)]
pub(super) async fn change(owner: Owner, headers: HeaderMap, body: Content) -> Result<Answer<Webhook>, Problem> {
    let live = owner.live().await?;
    let wanted: Wanted = body.json(&headers, "what is to change: {\"enabled\": …}, or another field of a webhook")?;
    if wanted.signature.is_some() {
        return Err(unprocessable("signature: it stays as it was made; make another webhook"));
    }
    let at = match &wanted.since {
        Some(since) => Some(changes::number(&owner.writer.0, since).await?),
        None => None,
    };
    let hooks = owner.hooks.clone();
    let changed = owner.hooks.change(&live, move |state| {
        wanted.apply(&mut state.hook, &hooks)?;
        state.edition += 1;
        match wanted.enabled {
            Some(true) => state.switch_on(now_ms()),
            Some(false) => state.hook.off = Some(Off::Owner),
            None => {}
        }
        let mut writes = Writes { hook: true, ..Writes::default() };
        if let Some(at) = at {
            writes.events = std::mem::take(&mut state.waiting).into_keys().map(|number| (number, None)).collect();
            (state.at, writes.at) = (at, true);
        }
        Ok::<_, Problem>((writes, ()))
    });
    changed.await?;
    owner.hooks.poke(&live);
    Ok(Answer(owner.told(&live).await))
}

/// Deletes a webhook, with all that waits.
#[utoipa::path(
    delete, path = "/webhooks/{hook}", tag = "webhooks", operation_id = "delete_webhook",
    responses((status = 204, description = "It is deleted"), Deletes),
)]
pub(super) async fn remove(owner: Owner) -> Result<StatusCode, Problem> {
    let live = owner.live().await?;
    owner.hooks.remove(live).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Draws a new key. For a day, the one before signs as well.
#[utoipa::path(
    post, path = "/webhooks/{hook}/secret", tag = "webhooks", operation_id = "rotate_webhook_secret",
    responses((status = 200, description = "With the new secret, or the new public key", body = Made), Creates),
)]
pub(super) async fn rotate(owner: Owner) -> Result<Answer<Made>, Problem> {
    let live = owner.live().await?;
    let scheme = live.state.lock().await.hook.keys.first().map_or(Scheme::Hmac, |key| key.scheme);
    let key = Key::draw(scheme).map_err(|why| Problem::new(Kind::Unavailable, why))?;
    let rotated = owner.hooks.change(&live, move |state| {
        let keys = &mut state.hook.keys;
        // Two at most: a key from before the one before is over at once.
        keys.truncate(1);
        keys.iter_mut().for_each(|old| old.until_ms = Some(now_ms() + OVERLAP_MS));
        keys.insert(0, key);
        let secret = secret(&state.hook);
        Ok::<_, Problem>((Writes { hook: true, ..Writes::default() }, secret))
    });
    let secret = rotated.await?;
    Ok(Answer(Made { webhook: owner.told(&live).await, secret }))
}

/// How a receiver took a message.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Tested {
    /// Whether it did.
    delivered: bool,
    /// The status that it answered; null if it did not.
    status: Option<u16>,
    /// Why it did not answer.
    error: Option<String>,
    /// How long it took.
    milliseconds: u64,
}

/// Sends a message of the type `webhook.test` once, and tells how that went.
#[utoipa::path(
    post, path = "/webhooks/{hook}/test", tag = "webhooks", operation_id = "test_webhook",
    responses((status = 200, description = "What came of it", body = Tested), Creates),
)]
pub(super) async fn test(owner: Owner) -> Result<Answer<Tested>, Problem> {
    let live = owner.live().await?;
    let _one = live.tested.try_acquire().map_err(|_| Problem::new(Kind::TooMany, "a test of it is under way"))?;
    let hook = live.state.lock().await.hook.clone();
    let id = super::access::random().map_err(|why| Problem::new(Kind::Unavailable, why))?;
    let message = owner.hooks.test_message(&live);
    let attempted = owner.hooks.attempt(&live, &hook, &format!("test_{}", &id[..32]), async { message }).await;
    let attempted = attempted.unwrap_or_else(hook::not_made);
    Ok(Answer(Tested {
        delivered: attempted.answer.as_ref().is_ok_and(StatusCode::is_success),
        status: attempted.answer.as_ref().ok().map(|status| status.as_u16()),
        error: attempted.answer.err(),
        milliseconds: u64::try_from(attempted.took.as_millis()).unwrap_or(u64::MAX),
    }))
}

/// An event, and what came of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Delivery {
    /// The `webhook-id`.
    id: String,
    #[schema(inline)]
    state: Fate,
    doc: String,
    kind: String,
    name: String,
    deleted: bool,
    /// Its place in the changes of the space.
    seq: String,
    /// When the change was seen.
    seen: String,
    attempts: u32,
    /// The last attempt, and the next.
    tried: Option<String>,
    next: Option<String>,
    /// What the receiver answered last; null if it did not.
    status: Option<u16>,
    /// What was wrong with that.
    error: Option<String>,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Fate {
    /// Its receiver took it.
    Delivered,
    /// It is tried again.
    Waiting,
    /// It was given up.
    Dead,
}

impl Delivery {
    fn of(event: &Event, state: Fate, store: &str) -> Delivery {
        Delivery {
            id: event.id.clone(),
            state,
            doc: event.doc().to_string(),
            kind: event.kind.clone(),
            name: event.name.clone(),
            deleted: event.deleted,
            seq: format!("{}-{store}", event.number),
            seen: iso(event.at_ms),
            attempts: event.attempts,
            tried: event.tried_ms.map(iso),
            next: (state == Fate::Waiting).then(|| iso(event.due_ms)),
            status: event.status,
            error: event.error.clone(),
        }
    }
}

/// A page of deliveries.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Deliveries {
    deliveries: Vec<Delivery>,
    /// Where the next page is.
    next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Listing {
    /// Only those of which this became.
    #[param(inline)]
    state: Option<Fate>,
    /// The id that ended the page before.
    cursor: Option<String>,
    /// Deliveries of a page: 100 at most, and where nothing is said.
    limit: Option<usize>,
}

/// The latest deliveries, newest first: those that wait, 32 dead letters, and 32 that worked since this peer was started.
#[utoipa::path(
    get, path = "/webhooks/{hook}/deliveries", tag = "webhooks", operation_id = "list_webhook_deliveries", params(Listing),
    responses((status = 200, description = "A page", body = Deliveries, headers(("link" = String, description = "`rel=\"next\"`"))), Reads),
)]
pub(super) async fn deliveries(owner: Owner, Params(listing): Params<Listing>) -> Result<Response, Problem> {
    let live = owner.live().await?;
    let mut found: Vec<(Fate, Event)> = {
        let state = live.state.lock().await;
        let recent = state.recent.iter().map(|event| (Fate::Delivered, event.clone()));
        recent.chain(state.waiting.values().map(|event| (Fate::Waiting, event.clone()))).collect()
    };
    found.extend(dead(&owner, &live).await?.into_iter().map(|event| (Fate::Dead, event)));
    found.retain(|(fate, _)| listing.state.is_none_or(|state| state == *fate));
    found.sort_by(|(_, a), (_, b)| (b.number, &b.id).cmp(&(a.number, &a.id)));
    let begin = match &listing.cursor {
        // One that was dropped meanwhile ends the list.
        Some(cursor) => found.iter().position(|(_, event)| event.id == *cursor).map_or(found.len(), |at| at + 1),
        None => 0,
    };
    let limit = listing.limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
    let store = owner.hooks.node().store_id().to_string();
    let page = &found[begin..found.len().min(begin + limit)];
    let next = page.last().filter(|_| begin + limit < found.len()).map(|(_, last)| {
        let state = listing
            .state
            .map_or(String::new(), |state| format!("&state={}", json!(state).as_str().unwrap_or_default()));
        let hook = crate::local::hex(&live.id);
        format!("/v1/spaces/{}/webhooks/{hook}/deliveries?limit={limit}&cursor={}{state}", live.space, last.id)
    });
    let link = next.as_ref().and_then(|next| HeaderValue::try_from(format!("<{next}>; rel=\"next\"")).ok());
    let deliveries = page.iter().map(|(fate, event)| Delivery::of(event, *fate, &store)).collect();
    let mut response = Answer(Deliveries { deliveries, next }).into_response();
    response.headers_mut().extend(link.map(|link| (LINK, link)));
    Ok(response)
}

/// The dead letters of a hook, which lie in the store.
async fn dead(owner: &Owner, live: &Live) -> Result<Vec<Event>, Problem> {
    let prefix = hook::key(hook::EVENTS, &live.space, &live.id, None);
    let rows = owner.hooks.node().app_rows(&prefix).await?;
    let events = rows.into_iter().filter_map(|(_, row)| minicbor::decode::<Event>(&row).ok());
    Ok(events.filter(|event| event.dead).collect())
}

/// Delivers an event again, whatever became of it: at once, and then as any other.
#[utoipa::path(
    post, path = "/webhooks/{hook}/deliveries/{event}/redeliver", tag = "webhooks", operation_id = "redeliver_webhook",
    responses((status = 202, description = "It waits for its turn", body = Delivery), Creates),
)]
pub(super) async fn redeliver(owner: Owner) -> Result<Response, Problem> {
    let live = owner.live().await?;
    let dead = dead(&owner, &live).await?.into_iter().find(|event| event.id == owner.event);
    let wanted = owner.event.clone();
    let event = owner.hooks.change(&live, move |state| again(state, &wanted, dead, now_ms())).await?;
    owner.hooks.poke(&live);
    let store = owner.hooks.node().store_id().to_string();
    Ok((StatusCode::ACCEPTED, Answer(Delivery::of(&event, Fate::Waiting, &store))).into_response())
}

/// Makes an event wait for an attempt now. `dead`: the event, if it is a dead letter.
fn again(state: &mut State, id: &str, dead: Option<Event>, now_ms: u64) -> Result<(Writes, Event), Problem> {
    if state.hook.off.is_some() {
        return Err(Problem::new(
            Kind::Conflict,
            "the webhook is switched off; PATCH it with {\"enabled\": true} first",
        ));
    }
    if let Some(event) = state.waiting.values_mut().find(|event| event.id == id) {
        event.due_ms = now_ms;
        return Ok((Writes::default(), event.clone()));
    }
    let dead = dead.filter(|event| event.id == id && state.dead.contains(&event.number));
    let found = dead.or_else(|| state.recent.iter().find(|event| event.id == id).cloned());
    let mut event =
        found.ok_or_else(|| Problem::new(Kind::NotFound, "there is no such delivery, or it is kept no more"))?;
    if state.waiting.values().any(|other| other.doc == event.doc) {
        return Err(Problem::new(Kind::Conflict, "a newer event of the same document waits, and says more"));
    }
    if state.waiting.len() >= WAITING_MAX {
        return Err(Problem::new(Kind::TooMany, "as many events wait as may; ask again when there are fewer"));
    }
    state.dead.remove(&event.number);
    (event.dead, event.steps, event.due_ms) = (false, 0, now_ms);
    state.waiting.insert(event.number, event.clone());
    let events = [(event.number, Some(event.clone()))].into();
    Ok((Writes { events, ..Writes::default() }, event))
}

/// For operators: every hook of this peer, without what it signs with.
pub(crate) async fn overview(hooks: &Hooks) -> serde_json::Value {
    let mut rows = Vec::new();
    for live in hooks.everywhere() {
        let state = live.state.lock().await;
        let hook = &state.hook;
        rows.push(json!({
            "space": live.space.to_string(),
            "id": crate::local::hex(&live.id),
            "token": hook.owner_name,
            "token_valid": hooks.may(&live.space, &hook.owner),
            // What follows the host may be a secret between the owner and the receiver.
            "host": hook.url.parse::<axum::http::Uri>().ok().and_then(|uri| uri.authority().map(ToString::to_string)),
            "off": hook.off.map(|off| format!("{off:?}").to_lowercase()),
            "failing_since": hook.failing_ms.map(iso),
            "waiting": state.waiting.len(),
            "dead": state.dead.len(),
            "created": iso(hook.created_ms),
        }));
    }
    json!({ "webhooks": rows })
}

#[cfg(test)]
mod redelivery {
    use super::*;

    #[test]
    fn what_is_kept_can_be_delivered_again_unless_a_newer_event_waits() {
        let mut state = hook::fixture::state();
        let event = |number, doc| hook::fixture::event(number, doc, 5);
        let mut dead = event(1, 1);
        dead.dead = true;
        state.dead.insert(1);
        assert_eq!(again(&mut state, "evt_x", None, 9).unwrap_err().kind, Kind::NotFound);
        let (writes, waits) = again(&mut state, &dead.id, Some(dead.clone()), 9).unwrap();
        assert!(!waits.dead && waits.due_ms == 9 && state.dead.is_empty() && writes.events[&1] == Some(waits.clone()));
        // Again while it waits: now. As a dead letter it is gone.
        state.waiting.get_mut(&1).unwrap().due_ms = 1 << 40;
        assert_eq!(again(&mut state, &waits.id, Some(dead), 10).unwrap().1.due_ms, 10);
        state.recent.push_back(event(2, 1));
        state.recent.push_back(event(3, 3));
        assert_eq!(again(&mut state, &event(2, 1).id, None, 9).unwrap_err().kind, Kind::Conflict);
        again(&mut state, &event(3, 3).id, None, 9).unwrap();
        state.hook.off = Some(Off::Owner);
        assert_eq!(again(&mut state, &event(3, 3).id, None, 9).unwrap_err().kind, Kind::Conflict);
    }
}
