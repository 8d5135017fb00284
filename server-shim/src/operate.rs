//! What the verbs do to an open node. The same code answers the local socket and serves a command that opened the store
//! itself, so the two cannot differ.

mod blobs;
mod blocks;
mod documents;
mod errors;
mod members;
mod peers;
mod spaces;
mod stored;
mod usage;

use std::time::Duration;

use commonhold_engine::sync::message::roles;
use commonhold_engine::{Config, Discovery, DocId, Document, DocumentQuery, Node, Outcome, SpaceId, Watch};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::SyncIoBridge;

use crate::config::Settings;
use crate::failure::Failure;
use crate::names::{self, Named};
use crate::reach::Dial;
use crate::request::{Answered, BackedUp, Doc, Exported, Imported, Me, Network, Reply, Request, Watched};

pub(crate) use blobs::{Getting, get as get_blob};
pub(crate) use errors::{failure, identity_failure, open_failure, store_failure};

/// The store's file in the data folder.
pub(crate) const STORE_FILE: &str = "store.redb";

/// The engine's configuration.
pub(crate) fn config(settings: &Settings, dial: Dial) -> Result<Config, Failure> {
    let (data, keys) = (settings.data(), settings.keys());
    if data.as_os_str().is_empty() || keys.as_os_str().is_empty() {
        return Err(Failure::usage(
            "no_folder",
            "there is no default data or keys folder, since HOME is not set",
            "name them with --data and --keys, or COMMONHOLD_STORE_DATA and COMMONHOLD_STORE_KEYS",
        ));
    }
    let mut config = Config {
        data: Some(data),
        keys: Some(keys),
        flush_ms: settings.number("store.flush_ms"),
        frame_ms: settings.number("peer.frame_ms"),
        cache_bytes: mib(settings, "store.cache_mib"),
        view_bytes: mib(settings, "store.views_mib"),
        ..Config::default()
    };
    config.limits.waiting_bytes_per_peer = mib(settings, "limits.waiting_mib_per_peer");
    config.limits.waiting_bytes_total = mib(settings, "limits.waiting_mib");
    config.limits.unsolicited_entries_per_s = settings.number("limits.unsolicited_entries_per_s") as u32;
    config.limits.unsolicited_bytes_per_s = (settings.number("limits.unsolicited_kib_per_s") << 10) as u32;
    config.limits.send_queue_bytes_max = (settings.number("limits.send_queue_kib") << 10) as usize;
    (config.budgets, config.metered) = settings.budgets();
    config.quotas = settings.quotas();
    config.document_budget = settings.document_budget();
    config.address_bytes_max = settings.address_bytes_max();
    config.blobs.bytes_per_space = settings.number("blobs.space_mib") << 20;
    config.roles |= if settings.flag("budget.saver") { roles::SAVER } else { 0 };
    config.roles |= if settings.flag("budget.spared") { roles::SPARED } else { 0 };
    config.dial_invites = dial != Dial::No;
    let discovery = settings.discovery();
    config.discovery = match dial {
        Dial::AndListen => discovery,
        // For the length of one command: asks, and is not there to be found.
        Dial::Out => Discovery { tracker: false, lan: None, ..discovery },
        Dial::No => Discovery { on: false, tracker: false, lan: None, ..discovery },
    };
    if dial != Dial::No {
        config.connect = settings.connect();
    }
    if dial == Dial::AndListen {
        config.listen = settings.listen();
        config.advertise = settings.advertise();
    }
    Ok(config)
}

fn mib(settings: &Settings, key: &'static str) -> usize {
    (settings.number(key) << 20) as usize
}

/// Does one thing. Streams have functions of their own below.
pub(crate) async fn perform(node: &Node, request: Request) -> Answered {
    match request {
        Request::Me => Ok(Reply::Me(me(node).await)),
        Request::Peers { known } => Ok(Reply::Peers(peers::list(node, known).await)),
        Request::Spaces => Ok(Reply::Spaces(node.spaces().iter().map(spaces::row).collect())),
        Request::NewSpace { writers } => spaces::create(node, writers).await,
        Request::Publish { space, withdraw } => {
            spaces::publish(node, find_space(node, space.as_deref())?, withdraw).await
        }
        Request::Invite { space, grant } => spaces::invite(node, find_space(node, space.as_deref())?, grant).await,
        Request::Members { space, all } => members::list(node, find_space(node, space.as_deref())?, all).await,
        Request::Grant { space, device, right, gateway } => {
            members::grant(node, find_space(node, space.as_deref())?, &device, right, gateway).await
        }
        Request::AddDevice { space, device, name } => {
            members::add_device(node, find_space(node, space.as_deref())?, &device, name).await
        }
        Request::Devices { space } => members::devices(node, find_space(node, space.as_deref())?).await,
        Request::RemoveDevice { space, device, keep } => {
            members::remove_device(node, find_space(node, space.as_deref())?, &device, keep).await
        }
        Request::Revoke { space, device, keep } => {
            members::revoke(node, find_space(node, space.as_deref())?, &device, keep).await
        }
        Request::RootKeys { identity } => members::root_keys(node, &identity).await,
        Request::TellRootKeys => members::tell_root_keys(node).await,
        Request::Join { invite, wait_ms } => spaces::join(node, &invite, Duration::from_millis(wait_ms)).await,
        Request::Level { space, wait_ms } => {
            let spaces = match space {
                Some(space) => vec![find_space(node, Some(&space))?],
                None => node.spaces().iter().map(|space| space.id).collect(),
            };
            spaces::level(node, &spaces, Duration::from_millis(wait_ms)).await
        }
        Request::Documents { space, kind, deleted } => {
            documents::list(node, find_space(node, space.as_deref())?, kind, deleted).await
        }
        Request::NewDocument { space, kind, name } => {
            documents::create(node, find_space(node, space.as_deref())?, &kind, &name).await
        }
        Request::DeleteDocument(doc) => {
            let (space, id) = find_document(node, &doc, false).await?;
            documents::delete(node, space, id).await
        }
        Request::EraseDocument { doc, note } => {
            let (space, id) = find_document(node, &doc, true).await?;
            documents::erase(node, space, id, &note).await
        }
        Request::Erasures { space } => documents::erasures(node, find_space(node, space.as_deref())?).await,
        Request::Receipts { doc, peers, wait_ms } => {
            documents::receipts(&open(node, &doc).await?, peers.into(), Duration::from_millis(wait_ms)).await
        }
        Request::SucceedDocument(doc) => {
            let (space, id) = find_document(node, &doc, false).await?;
            documents::succeed(node, space, id).await
        }
        Request::ReleaseDocument(doc) => {
            let (space, id) = find_document(node, &doc, false).await?;
            documents::release(node, space, id).await
        }
        Request::Get { doc, path } => documents::get(&open(node, &doc).await?, &path).await,
        Request::Set { doc, path, value } => documents::set(&open(node, &doc).await?, &path, value).await,
        Request::Patch { doc, patch } => documents::patch(&open(node, &doc).await?, patch).await,
        Request::Edit { doc, before, after } => documents::edit(&open(node, &doc).await?, before, after).await,
        Request::History { doc, last } => documents::history(&open(node, &doc).await?, last).await,
        Request::Status(doc) => documents::status(&open(node, &doc).await?).await,
        Request::Check => spaces::check(node).await,
        Request::CheckBlobs => blobs::check(node).await,
        Request::BackupSize { blobs } => {
            Ok(Reply::BackupSize(node.backup_size(blobs).await.map_err(|error| failure(&error))?))
        }
        Request::PutBlob { space, path, media_type } => {
            blobs::put(node, find_space(node, space.as_deref())?, path, &media_type).await
        }
        Request::Usage => usage::report(node).await,
        Request::Blocked => Ok(blocks::list(node)),
        Request::Block { kind, what, blocks } => blocks::change(node, kind, &what, blocks).await,
        Request::Blobs { space } => blobs::list(node, find_space(node, space.as_deref())?).await,
        Request::CollectBlobs { space } => blobs::collect(node, find_space(node, space.as_deref())?).await,
        Request::Watch(_)
        | Request::Export { .. }
        | Request::Backup { .. }
        | Request::Import { .. }
        | Request::GetBlob { .. }
        | Request::Bytes(_)
        | Request::End => Err(crate::local::other_version()),
    }
}

async fn me(node: &Node) -> Me {
    let opened = match node.outcome() {
        Outcome::Fresh => "fresh",
        Outcome::Continue => "continue",
        Outcome::Crashed => "crashed",
        Outcome::Restored => "restored",
        Outcome::Copied => "copied",
    };
    Me {
        peer: node.device().to_string(),
        store: node.store_id().to_string(),
        pid: std::process::id(),
        addresses: node.listening(),
        opened: opened.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        network: network(node).await,
    }
}

async fn network(node: &Node) -> Network {
    let budget = *node.budget().borrow();
    let accounts = node.accounts().await.unwrap_or_default();
    let given = accounts.iter().map(|(_, account)| account.given).sum();
    let got = accounts.iter().map(|(_, account)| account.got).sum();
    Network {
        metered: budget.metered,
        metered_bytes: budget.metered_bytes,
        metered_max: budget.metered_max,
        background_bytes: budget.background_bytes,
        background_max: budget.background_max,
        serves: budget.serves,
        connects: budget.connects,
        given,
        got,
        // Two decimals are what a person reads.
        share_ratio: (got > 0).then(|| (given as f64 / got as f64 * 100.0).round() / 100.0),
        signed: accounts.iter().filter_map(|(_, account)| account.receipt).map(|receipt| receipt.bytes).sum(),
    }
}

/// The space that was named, or the only one.
fn find_space(node: &Node, given: Option<&str>) -> Result<SpaceId, Failure> {
    let all: Vec<_> = node.spaces().iter().map(|space| Named { id: space.id, name: String::new() }).collect();
    match given {
        Some(given) => names::find("space", given, &all),
        None => names::only("space", &all),
    }
}

async fn find_document(node: &Node, given: &Doc, deleted: bool) -> Result<(SpaceId, DocId), Failure> {
    let space = find_space(node, given.space.as_deref())?;
    let query = DocumentQuery { deleted, ..DocumentQuery::default() };
    let all = node.documents(space, query).await.map_err(|error| failure(&error))?;
    let all: Vec<_> = all.into_iter().map(|document| Named { id: document.id, name: document.name }).collect();
    Ok((space, names::find("document", &given.doc, &all)?))
}

async fn open(node: &Node, given: &Doc) -> Result<Document, Failure> {
    let (space, doc) = find_document(node, given, false).await?;
    node.open_document(space, doc).await.map_err(|error| failure(&error))
}

/// Watches a document.
pub(crate) async fn watch(node: &Node, given: &Doc) -> Result<Watching, Failure> {
    Ok(Watching(open(node, given).await?.watch()))
}

/// A document being watched.
pub(crate) struct Watching(Watch);

impl Watching {
    /// The next change; `None`: the document was deleted, or the node closed.
    pub(crate) async fn next(&mut self) -> Result<Option<Watched>, Failure> {
        self.0.next().await.map(documents::watched).transpose()
    }
}

/// Writes what is asked for as bytes, and gives the reply that ends them.
pub(crate) async fn copy(node: &Node, request: Request, to: impl AsyncWrite + Unpin + Send + 'static) -> Answered {
    match request {
        Request::Export { space, docs } => export(node, space, docs, to).await,
        Request::Backup { blobs } => {
            let report = node.backup(blobs, SyncIoBridge::new(to)).await.map_err(|error| failure(&error))?;
            Ok(Reply::BackedUp(BackedUp { bytes: report.bytes, manifest: report.manifest }))
        }
        _ => Err(crate::local::other_version()),
    }
}

/// Writes a bundle.
async fn export(
    node: &Node,
    space: Option<String>,
    docs: Vec<String>,
    to: impl AsyncWrite + Unpin + Send + 'static,
) -> Answered {
    let space_id = find_space(node, space.as_deref())?;
    let mut chosen = Vec::with_capacity(docs.len());
    for doc in docs {
        chosen.push(find_document(node, &Doc { space: space.clone(), doc }, false).await?.1);
    }
    let chosen = if chosen.is_empty() { None } else { Some(chosen) };
    let report = node.export(space_id, chosen, to).await.map_err(|error| failure(&error))?;
    Ok(Reply::Exported(Exported { documents: report.documents as u64, bytes: report.bytes }))
}

/// Reads a bundle, an Automerge file, or a storage folder as it is sent.
pub(crate) async fn import(
    node: &Node,
    space: Option<String>,
    folder: bool,
    from: impl AsyncRead + Unpin + Send + 'static,
) -> Answered {
    if folder {
        return stored::import(node, find_space(node, space.as_deref())?, from).await;
    }
    let into = match (&space, node.spaces().len()) {
        // A bundle names its own space, which need not be here yet.
        (None, n) if n != 1 => None,
        _ => Some(find_space(node, space.as_deref())?),
    };
    let report = node.import(from, into).await.map_err(|error| failure(&error))?;
    Ok(Reply::Imported(Imported {
        space: report.space.map(|space| space.to_string()),
        documents: report.documents.iter().map(DocId::to_string).collect(),
        entries: report.entries,
    }))
}
