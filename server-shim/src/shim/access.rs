//! Who may do what over HTTP: nobody anything, but for tokens, of this peer or of a provider, and spaces that the config opens to all.
//!
//! Tokens lie in a file of the data folder as hashes; `commonhold token` writes it, and a serving process notices within a second.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::header::{AUTHORIZATION, COOKIE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};
use commonhold_engine::{DocId, Document, SpaceId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Shim;
use super::guard::CameFrom;
use super::jwt::{Provider, User};
use super::problem::{Kind, Problem};

/// The file of tokens in the data folder.
pub(crate) const FILE: &str = "tokens.json";
/// How old what was read of it may be.
const AGE_MAX: Duration = Duration::from_secs(1);
/// Tokens of one file; each is compared with none but by its hash. A file beyond it is refused.
pub(crate) const TOKENS_MAX: usize = 100_000;
/// Tickets that wait to be used, and for how long.
const TICKETS_MAX: usize = 10_000;
const TICKET_LIFE: Duration = Duration::from_secs(60);

/// What a token, or everybody, may do in a space.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum May {
    Read,
    Write,
}

/// A token, as the file keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TokenRow {
    /// Who has it, for people and logs.
    pub(crate) name: String,
    /// BLAKE3 of the token.
    pub(crate) hash: String,
    /// The space that it is for; all that this peer holds if there is none.
    pub(crate) space: Option<String>,
    pub(crate) may: May,
    /// Seconds since 1970; absent: it does not expire.
    pub(crate) expires: Option<u64>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct TokenFile {
    /// Of the format; 1.
    pub(crate) version: u32,
    pub(crate) tokens: Vec<TokenRow>,
}

impl TokenFile {
    /// An absent file is an empty one. The error says what is wrong with another.
    pub(crate) fn read(path: &Path) -> Result<TokenFile, String> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(TokenFile { version: 1, tokens: Vec::new() });
            }
            Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
        };
        let file: TokenFile =
            serde_json::from_slice(&bytes).map_err(|error| format!("{} is damaged: {error}", path.display()))?;
        match file.version {
            1 if file.tokens.len() <= TOKENS_MAX => Ok(file),
            1 => Err(format!("{} has more than {TOKENS_MAX} tokens", path.display())),
            other => Err(format!("{} has format {other}, and this program knows 1", path.display())),
        }
    }

    /// Whoever reads it meanwhile sees the old file or the new one.
    pub(crate) fn write(&self, path: &Path) -> std::io::Result<()> {
        let new = path.with_extension(format!("json.{}.new", std::process::id()));
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    }
}

/// The hash by which a token is known.
pub(crate) fn hash(token: &str) -> String {
    blake3::derive_key("commonhold http token 1", token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A space that the config opens: `SPACE:read`, `SPACE:write`, `*:read` or `*:write`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opened {
    space: Option<SpaceId>,
    may: May,
}

impl Opened {
    /// What it allows in a space.
    pub(super) fn may(&self, space: &SpaceId) -> Option<May> {
        self.space.is_none_or(|of| of == *space).then_some(self.may)
    }
}

impl FromStr for Opened {
    type Err = String;

    fn from_str(text: &str) -> Result<Opened, String> {
        let expected = || "expected SPACE:read, SPACE:write, *:read or *:write".to_owned();
        let (space, may) = text.split_once(':').ok_or_else(expected)?;
        let space = if space == "*" { None } else { Some(space.parse().map_err(|_| expected())?) };
        let may = match may {
            "read" => May::Read,
            "write" => May::Write,
            _ => return Err(expected()),
        };
        Ok(Opened { space, may })
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Caller {
    /// Nobody in particular.
    Anybody,
    /// Whoever has the token of that hash.
    Holder(String),
    /// Whom the provider vouches for.
    User(Arc<User>),
}

impl Caller {
    /// The same for one caller and no other, whatever token it shows.
    pub(crate) fn id(&self) -> String {
        match self {
            Caller::Anybody => "anybody".to_owned(),
            Caller::Holder(hash) => format!("token {hash}"),
            Caller::User(user) => format!("user {}", user.name()),
        }
    }
}

/// Tokens, tickets, and what is open to all.
#[derive(Debug)]
pub(crate) struct Access {
    path: PathBuf,
    opened: watch::Receiver<Vec<Opened>>,
    read: Mutex<Read>,
    tickets: Mutex<BTreeMap<String, (Caller, Instant)>>,
    provider: Option<Provider>,
}

#[derive(Debug)]
struct Read {
    at: Instant,
    changed: Option<SystemTime>,
    tokens: BTreeMap<String, TokenRow>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Access {
    pub(crate) fn new(data: &Path, opened: watch::Receiver<Vec<Opened>>, provider: Option<Provider>) -> Access {
        let path = data.join(FILE);
        let mut read = Read { at: Instant::now(), changed: None, tokens: BTreeMap::new() };
        read.again(&path);
        Access { path, opened, read: Mutex::new(read), tickets: Mutex::default(), provider }
    }

    fn row(&self, hash: &str) -> Option<TokenRow> {
        let mut read = locked(&self.read);
        if read.at.elapsed() >= AGE_MAX {
            read.again(&self.path);
        }
        read.tokens.get(hash).filter(|row| row.expires.is_none_or(|expires| unix_now() < expires)).cloned()
    }

    /// A token that is good in a space, by its hash.
    pub(super) fn holder(&self, hash: &str, space: &SpaceId) -> Option<TokenRow> {
        self.row(hash).filter(|row| row.space.as_ref().is_none_or(|of| *of == space.to_string()))
    }

    /// Who sent a request. A token that is not good is a problem, not nobody: its owner should hear of it.
    pub(crate) fn caller(&self, headers: &HeaderMap, uri: &Uri) -> Result<Caller, Problem> {
        if let Some(ticket) = parameter(uri, "ticket") {
            let found = locked(&self.tickets).remove(&ticket).filter(|(_, until)| Instant::now() < *until);
            return found.map(|(caller, _)| caller).ok_or_else(|| {
                Problem::new(Kind::NoToken, "the ticket was used or has expired; ask POST /v1/tickets for another")
            });
        }
        let bearer = headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
        let token = match bearer {
            Some(value) => match value.split_once(' ') {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim().to_owned(),
                _ => return Err(Problem::new(Kind::NoToken, "expected `Authorization: Bearer TOKEN`")),
            },
            None => match cookie(headers) {
                Some(token) => token,
                None => return Ok(Caller::Anybody),
            },
        };
        // Tokens of this peer have no dots.
        if let (Some(provider), true) = (&self.provider, token.contains('.')) {
            let user = provider.user(&token).map_err(|why| Problem::new(Kind::NoToken, why))?;
            return Ok(Caller::User(Arc::new(user)));
        }
        let hash = hash(&token);
        match self.row(&hash) {
            Some(_) => Ok(Caller::Holder(hash)),
            None => Err(Problem::new(Kind::NoToken, "the token is unknown, expired or revoked")),
        }
    }

    /// Whether anything is open to all.
    pub(super) fn opens(&self) -> bool {
        !self.opened.borrow().is_empty()
    }

    /// What somebody may do in a space.
    pub(crate) fn may(&self, caller: &Caller, space: &SpaceId) -> Option<May> {
        let all = self.opened.borrow();
        let opened = all.iter().filter_map(|opened| opened.may(space));
        let own = match caller {
            Caller::Anybody => None,
            Caller::Holder(hash) => self.holder(hash, space).map(|row| row.may),
            Caller::User(user) => user.may(space),
        };
        opened.chain(own).max()
    }

    /// Something to put into a URL once, within a minute, in place of a token.
    pub(crate) fn ticket(&self, caller: Caller) -> Result<String, Problem> {
        let ticket = random().map_err(|error| Problem::new(Kind::Unavailable, error))?;
        let mut tickets = locked(&self.tickets);
        let now = Instant::now();
        tickets.retain(|_, (_, until)| now < *until);
        if tickets.len() >= TICKETS_MAX {
            return Err(Problem::new(Kind::TooMany, "too many tickets wait to be used"));
        }
        tickets.insert(ticket.clone(), (caller, now + TICKET_LIFE));
        Ok(ticket)
    }
}

impl Read {
    fn again(&mut self, path: &Path) {
        self.at = Instant::now();
        let changed = std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
        if changed == self.changed && changed.is_some() {
            return;
        }
        match TokenFile::read(path) {
            Ok(file) => {
                self.changed = changed;
                self.tokens = file.tokens.into_iter().map(|row| (row.hash.clone(), row)).collect();
            }
            // What was good stays good: an operator's slip should not lock everybody out.
            Err(error) => tracing::error!(%error, "the tokens stay as they were"),
        }
    }
}

/// 256 random bits as text.
pub(crate) fn random() -> Result<String, String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| format!("no random numbers: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn cookie(headers: &HeaderMap) -> Option<String> {
    let all = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(';')).find_map(|one| one.trim().strip_prefix("commonhold=")).map(str::to_owned)
}

/// Whether a request shows nothing of who sends it.
pub(super) fn is_anonymous(headers: &HeaderMap, uri: &Uri) -> bool {
    !headers.contains_key(AUTHORIZATION) && cookie(headers).is_none() && parameter(uri, "ticket").is_none()
}

/// A parameter of the query, as it stands there.
fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let query = uri.query()?;
    query
        .split('&')
        .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))
        .map(|(_, value)| value.into())
}

/// A caller that may read a space, and what the path names in it.
pub(crate) struct Reader {
    pub(crate) shim: Shim,
    pub(crate) caller: Caller,
    pub(crate) space: SpaceId,
    pub(crate) may: May,
    /// From where it asks.
    pub(crate) from: Option<SocketAddr>,
    doc: Option<String>,
    /// What follows `/at/` or `/blobs/`, decoded once.
    pub(crate) rest: String,
}

impl Reader {
    /// The document that the path names, open.
    pub(crate) async fn document(&self) -> Result<Document, Problem> {
        self.open(self.doc.as_deref().unwrap_or_default()).await
    }

    pub(crate) fn doc(&self) -> Result<DocId, Problem> {
        doc_id(self.doc.as_deref().unwrap_or_default())
    }

    /// A document by the text of its id.
    pub(crate) async fn open(&self, id: &str) -> Result<Document, Problem> {
        Ok(self.shim.node.open_document(self.space, doc_id(id)?).await?)
    }

    /// The last part of the path, read as what it should be.
    pub(crate) fn rest_as<T: FromStr>(&self, what: &str) -> Result<T, Problem> {
        self.rest.parse().map_err(|_| Problem::bad(format!("{:?} is no {what}", self.rest)))
    }

    /// Whether the caller may write.
    pub(crate) fn writes(self) -> Result<Reader, Problem> {
        match (self.may, &self.caller) {
            (May::Write, _) => Ok(self),
            (May::Read, Caller::Anybody) => Err(Problem::new(Kind::NoToken, "to write here takes a token")),
            (May::Read, _) => {
                Err(Problem::new(Kind::NotAllowed, "the token gives the right to read here, not to write"))
            }
        }
    }
}

fn doc_id(text: &str) -> Result<DocId, Problem> {
    text.parse().map_err(|_| Problem::new(Kind::NotFound, "there is no such document: ids have 64 hex digits"))
}

impl FromRequestParts<Shim> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shim: &Shim) -> Result<Reader, Problem> {
        // Who was asked for once is known: a ticket is good for one look.
        let caller = match parts.extensions.get::<Caller>() {
            Some(known) => known.clone(),
            None => shim.access.caller(&parts.headers, &parts.uri)?,
        };
        let path = RawPathParams::from_request_parts(parts, shim).await;
        let path = path.map_err(|_| Problem::new(Kind::NotFound, "the path is not UTF-8"))?;
        let part = |name| path.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
        let nothing = || match caller {
            Caller::Anybody => Problem::new(Kind::NoToken, "this takes a token: `Authorization: Bearer TOKEN`"),
            // What the caller may not know of is as absent as what is not there.
            _ => Problem::new(Kind::NotFound, "there is no such space here"),
        };
        let space: Option<SpaceId> = part("space").and_then(|text| text.parse().ok());
        let may = space.and_then(|space| shim.access.may(&caller, &space));
        let (Some(space), Some(may)) = (space, may) else { return Err(nothing()) };
        if shim.node.space(space).is_err() {
            return Err(Problem::new(Kind::NotFound, "there is no such space here"));
        }
        if shim.node.block_list().borrow().has_space(&space) {
            return Err(Problem::new(Kind::Blocked, "this peer's operator has blocked the space"));
        }
        let rest = part("pointer").or_else(|| part("digest")).unwrap_or_default();
        let (doc, from) = (part("doc"), parts.extensions.get::<CameFrom>().map(|from| from.0));
        Ok(Reader { shim: shim.clone(), caller, space, may, from, doc, rest })
    }
}

/// A caller that may write in a space.
pub(crate) struct Writer(pub(crate) Reader);

impl FromRequestParts<Shim> for Writer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shim: &Shim) -> Result<Writer, Problem> {
        Reader::from_request_parts(parts, shim).await?.writes().map(Writer)
    }
}

/// Whoever asks, whatever they may.
pub(crate) struct Asks(pub(crate) Caller);

impl FromRequestParts<Shim> for Asks {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shim: &Shim) -> Result<Asks, Problem> {
        shim.access.caller(&parts.headers, &parts.uri).map(Asks)
    }
}
