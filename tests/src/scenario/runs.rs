//! The scenarios.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use automerge::transaction::Transactable;
use automerge::{AutoCommit, Automerge, ObjType, ROOT, ReadDoc};
use commonhold_engine::{
    Address, Config, DeviceId, DocId, Document, EditError, Invite, Node, ObjKind, SpaceId, Writers,
};
use tempfile::TempDir;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;

use super::child::wall_ms;
use super::{Child, ChildCommand, Floor, Proxy, Report, Result, Trace, floor};

/// Sizes from the command line.
#[derive(Debug, Clone)]
pub struct Sizes {
    /// Documents.
    pub docs: Option<usize>,
    /// Documents changed on each side.
    pub changed: usize,
    /// Subscribers.
    pub subscribers: usize,
    /// Connections.
    pub connections: usize,
    /// Peers in a swarm.
    pub peers: usize,
    /// Edits a second in it.
    pub rate: u64,
    /// Size of the blob.
    pub mib: u64,
    /// A recorded session.
    pub trace: Option<PathBuf>,
}

/// Edits a second in `fanout`, and for how long.
const FANOUT_PER_S: u64 = 20;
const FANOUT_SECONDS: u64 = 10;
/// Documents that the builders work on at once.
pub(super) const AT_ONCE: usize = 500;
/// Nothing in a bench takes longer than this.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs one scenario by name.
pub async fn run(name: &str, sizes: &Sizes) -> Result<Report> {
    let mut report = tokio::time::timeout(2 * PATIENCE, async {
        match name {
            "cold-big" => cold_big(sizes).await,
            "cold-many" => cold_many(sizes.docs.unwrap_or(10_000)).await,
            "reconnect" => reconnect(sizes.docs.unwrap_or(1_000), sizes.changed).await,
            "fanout" => fanout(sizes.subscribers).await,
            "idle" => idle(sizes.connections).await,
            "ingest" => ingest().await,
            "swarm" => swarm(sizes.peers, sizes.rate).await,
            "blobs" => super::blobs::run(sizes.mib).await,
            "http" => super::http::run(sizes.docs.unwrap_or(1)).await,
            "gateway" => super::gateway::run(sizes.docs.unwrap_or(1_000)).await,
            "many" => many(sizes.docs.unwrap_or(1_000_000)).await,
            other => Err(format!(
                "there is no scenario {other:?}; there are cold-big, cold-many, reconnect, fanout, idle, ingest, swarm, blobs, http, gateway and many"
            )
            .into()),
        }
    })
    .await??;
    report.name = name.into();
    Ok(report)
}

/// An origin's folders, and the space that was built in them.
pub(super) struct Built {
    folder: TempDir,
    space: SpaceId,
    invite: Invite,
    docs: Vec<DocId>,
    payload: u64,
}

impl Built {
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn space(&self) -> SpaceId {
        self.space
    }

    pub(super) fn docs(&self) -> &[DocId] {
        &self.docs
    }

    pub(super) fn invite(&self) -> &Invite {
        &self.invite
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(super) fn keys(&self) -> PathBuf {
        self.folder.path().join("keys")
    }

    async fn origin(&self) -> Result<(Child, DeviceId, SocketAddr)> {
        Child::origin(&self.data(), &self.keys()).await
    }
}

pub(super) fn on_disk(folder: &Path) -> Config {
    Config { data: Some(folder.join("data")), keys: Some(folder.join("keys")), ..Config::default() }
}

fn address(origin: SocketAddr) -> Result<Address> {
    Ok(format!("ws://{origin}/").parse()?)
}

/// Builds a space of `count` small documents of ten fields.
pub(super) async fn build_many(count: usize) -> Result<Built> {
    let folder = tempfile::tempdir()?;
    let node = Node::open(on_disk(folder.path())).await?;
    let space = node.create_space(Writers::Anyone).await?;
    let mut docs = Vec::with_capacity(count);
    let mut payload = 0;
    while docs.len() < count {
        let names: Vec<(&str, String)> =
            (docs.len()..count.min(docs.len() + 5_000)).map(|n| ("note", format!("document {n}"))).collect();
        let new = node.create_documents(space, names).await?;
        for part in new.chunks(AT_ONCE) {
            payload += fill(&node, space, part).await?;
        }
        if docs.len() % 50_000 == 0 && count > 50_000 {
            eprintln!("built {} of {count} documents", docs.len());
        }
        docs.extend(new);
    }
    let invite = node.invite(space)?;
    node.close().await?;
    Ok(Built { folder, space, invite, docs, payload })
}

/// Gives each document its ten fields; returns the raw bytes of the changes.
async fn fill(node: &Node, space: SpaceId, docs: &[DocId]) -> Result<u64> {
    let mut tasks = JoinSet::new();
    for doc in docs {
        let (node, doc) = (node.clone(), *doc);
        tasks.spawn(async move {
            let document = node.open_document(space, doc).await?;
            let write = |edit: &mut commonhold_engine::Edit<'_>| -> std::result::Result<(), EditError> {
                let root = edit.resolve(&[])?;
                (0..10).try_for_each(|n| edit.put(&root, format!("field{n}"), format!("value {n} of a document")))
            };
            document.edit(write).await?;
            document.flush().await?;
            let bytes: usize = document.entries_since(&[]).await?.iter().map(|(_, bytes)| bytes.len()).sum();
            Result::Ok(bytes as u64)
        });
    }
    let mut total = 0;
    while let Some(result) = tasks.join_next().await {
        total += result??;
    }
    Ok(total)
}

/// Sets one field of each document, durably; returns the raw bytes of the changes.
pub(super) async fn set_fields(node: &Node, space: SpaceId, docs: &[DocId], value: &str) -> Result<u64> {
    let mut tasks = JoinSet::new();
    for doc in docs {
        let (node, doc, value) = (node.clone(), *doc, value.to_owned());
        tasks.spawn(async move {
            let document = node.open_document(space, doc).await?;
            let before = document.heads().await?;
            document
                .edit(|edit| -> std::result::Result<(), EditError> {
                    let root = edit.resolve(&[])?;
                    edit.put(&root, "field0", value)
                })
                .await?;
            document.flush().await?;
            let bytes: usize = document.entries_since(&before).await?.iter().map(|(_, bytes)| bytes.len()).sum();
            Result::Ok(bytes as u64)
        });
    }
    let mut total = 0;
    while let Some(result) = tasks.join_next().await {
        total += result??;
    }
    Ok(total)
}

/// An empty peer on disk that is about to join.
pub(super) async fn joiner(folder: &Path, invite: &Invite) -> Result<Node> {
    let node = Node::open(on_disk(folder)).await?;
    node.join(invite).await?;
    Ok(node)
}

async fn cold_many(count: usize) -> Result<Report> {
    let built = build_many(count).await?;
    let (origin, device, at) = built.origin().await?;
    let proxy = Proxy::start(at).await?;
    let mut report = Report { size: count as u64, payload_bytes: Some(built.payload), ..Report::default() };

    let folder = tempfile::tempdir()?;
    let node = joiner(folder.path(), &built.invite).await?;
    let begun = Instant::now();
    node.connect(address(at)?, Some(device));
    node.wait_level(built.space, device).await?;
    report.seconds = Some(begun.elapsed().as_secs_f64());
    report.origin_cpu_s = Some(origin.cpu_s()?);
    report.origin_rss_kb = Some(origin.rss_kb()?);
    assert_eq!(documents_held(&node, built.space), count as u64);
    node.close().await?;

    let folder = tempfile::tempdir()?;
    let node = joiner(folder.path(), &built.invite).await?;
    node.connect(address(proxy.address())?, Some(device));
    node.wait_level(built.space, device).await?;
    let (tx, rx) = proxy.bytes();
    (report.rx_bytes, report.tx_bytes) = (Some(rx), Some(tx));
    node.close().await?;
    let work = Floor { wire_bytes: rx, signatures: count as u64, stored_bytes: built.payload };
    report.set_floor(floor(work)?);
    Ok(report)
}

fn documents_held(node: &Node, space: SpaceId) -> u64 {
    node.space(space).map_or(0, |info| info.documents)
}

async fn cold_big(sizes: &Sizes) -> Result<Report> {
    let trace = match &sizes.trace {
        Some(path) => Trace::read(path)?,
        None => Trace::generated(sizes.docs.unwrap_or(259_778)),
    };
    let mut report = Report { size: trace.transactions.len() as u64, ..Report::default() };
    let folder = tempfile::tempdir()?;
    let node = Node::open(on_disk(folder.path())).await?;
    let space = node.create_space(Writers::Anyone).await?;
    let document = node.create_document(space, "text", "a long session").await?;
    let payload = replay(&document, &trace).await?;
    let invite = node.invite(space)?;
    let doc = document.id();
    drop(document);
    node.compact_now(space, doc).await?;
    node.close().await?;
    report.payload_bytes = Some(payload);

    let save = plain_save(&trace)?;
    report.snapshot_bytes = Some(save.len() as u64);
    let built = Built { folder, space, invite, docs: vec![doc], payload };
    let (origin, device, at) = built.origin().await?;
    let (cpu, rss) = (origin.cpu_s()?, origin.rss_kb()?);
    let folder = tempfile::tempdir()?;
    let node = joiner(folder.path(), &built.invite).await?;
    let begun = Instant::now();
    node.connect(address(at)?, Some(device));
    node.wait_level(space, device).await?;
    report.seconds = Some(begun.elapsed().as_secs_f64());
    report.origin_cpu_s = Some(origin.cpu_s()? - cpu);
    report.origin_rss_growth_kb = Some(origin.rss_kb()? as i64 - rss as i64);
    let text: String = node.open_document(space, doc).await?.get("/text").await?;
    if let Some(end) = &trace.end {
        assert_eq!(&text, end);
    }
    node.close().await?;

    let mut best = f64::MAX;
    for _ in 0..3 {
        let begun = Instant::now();
        Automerge::load(&save)?;
        best = best.min(begun.elapsed().as_secs_f64());
    }
    report.baseline_seconds = Some(best);

    // Again through the counter, by a process that is killed the moment it is level.
    let proxy = Proxy::start(at).await?;
    let folder = tempfile::tempdir()?;
    let mut peer = Child::start()?;
    let (data, keys) = (folder.path().join("data"), folder.path().join("keys"));
    let join = ChildCommand::Join {
        data: data.clone(),
        keys: keys.clone(),
        invite: built.invite.to_string(),
        address: format!("ws://{}/", proxy.address()),
        device: device.to_string(),
    };
    peer.call::<bool>(&join).await?;
    peer.kill().await?;
    let (tx, rx) = proxy.bytes();
    (report.rx_bytes, report.tx_bytes) = (Some(rx), Some(tx));
    let node = Node::open(Config { data: Some(data), keys: Some(keys), ..Config::default() }).await?;
    let held = node.open_document(space, doc).await?.history().await?.len() as u64;
    report.lost_after_kill = Some(report.size.saturating_sub(held));
    node.close().await?;
    report.set_floor(best + floor(Floor { wire_bytes: rx, signatures: 2, stored_bytes: rx })?);
    Ok(report)
}

/// Replays a trace, a change for each transaction; returns the raw bytes of the changes.
async fn replay(document: &Document, trace: &Trace) -> Result<u64> {
    document
        .edit(|edit| -> std::result::Result<(), EditError> {
            let root = edit.resolve(&[])?;
            edit.put_object(&root, "text", ObjKind::Text).map(drop)
        })
        .await?;
    document.flush().await?;
    for (n, transaction) in trace.transactions.iter().enumerate() {
        document
            .edit(|edit| -> std::result::Result<(), EditError> {
                let text = edit.resolve(&["text".into()])?;
                transaction.iter().try_for_each(|(at, delete, insert)| edit.splice_text(&text, *at, *delete, insert))
            })
            .await?;
        document.commit().await?;
        if n % 5_000 == 4_999 {
            document.flush().await?;
        }
    }
    document.flush().await?;
    Ok(document.entries_since(&[]).await?.iter().map(|(_, bytes)| bytes.len() as u64).sum())
}

/// Automerge's own compressed save of the same session, made by Automerge alone.
fn plain_save(trace: &Trace) -> Result<Vec<u8>> {
    let mut automerge = AutoCommit::new_with_encoding(automerge::TextEncoding::UnicodeCodePoint);
    let text = automerge.put_object(ROOT, "text", ObjType::Text)?;
    automerge.commit();
    for transaction in &trace.transactions {
        for (at, delete, insert) in transaction {
            automerge.splice_text(&text, *at, *delete as isize, insert)?;
        }
        automerge.commit();
    }
    if let Some(end) = &trace.end {
        assert_eq!(&automerge.text(&text)?, end);
    }
    Ok(automerge.save())
}

async fn reconnect(count: usize, changed: usize) -> Result<Report> {
    let built = build_many(count).await?;
    let (mut origin, device, at) = built.origin().await?;
    let proxy = Proxy::start(at).await?;
    let folder = tempfile::tempdir()?;
    let node = joiner(folder.path(), &built.invite).await?;
    node.connect(address(at)?, Some(device));
    node.wait_level(built.space, device).await?;

    let mut report = Report { size: count as u64, ..Report::default() };
    let mut seconds = Vec::new();
    // Twice directly, for the time; once through the counter, for bytes and turns.
    for round in 0..3 {
        node.disconnect(device);
        gone(&node, device).await?;
        let theirs = &built.docs[round * changed..(round + 1) * changed];
        let ours: Vec<DocId> = built.docs.iter().rev().skip(round * changed).take(changed).copied().collect();
        let edit =
            ChildCommand::Edit { space: built.space.to_string(), docs: theirs.iter().map(DocId::to_string).collect() };
        let their_bytes: u64 = origin.call(&edit).await?;
        let our_bytes = set_fields(&node, built.space, &ours, "changed here").await?;
        report.payload_bytes = Some(their_bytes + our_bytes);
        let counted = round == 2;
        let begun = Instant::now();
        node.connect(address(if counted { proxy.address() } else { at })?, Some(device));
        node.wait_level(built.space, device).await?;
        if !counted {
            seconds.push(begun.elapsed().as_secs_f64());
        }
    }
    let (tx, rx) = proxy.bytes();
    (report.rx_bytes, report.tx_bytes) = (Some(rx), Some(tx));
    // Turns: the WebSocket upgrade (2) and the Noise flights 1–3 with the hello riding on the last (2 more).
    let turns = proxy.turns();
    report.handshake_round_trips = Some(2.0);
    report.round_trips = Some((turns.saturating_sub(4)) as f64 / 2.0);
    report.seconds = seconds.into_iter().reduce(f64::min);
    let work = Floor { wire_bytes: rx + tx, signatures: 2 * changed as u64, stored_bytes: (rx + tx) / 2 };
    report.set_floor(2.0 * floor(work)?);
    report.origin_rss_kb = Some(origin.rss_kb()?);
    node.close().await?;
    Ok(report)
}

/// Waits until a peer is no longer connected.
async fn gone(node: &Node, device: DeviceId) -> Result<()> {
    let mut events = node.events();
    while node.peers().iter().any(|p| p.device == device) {
        match events.recv().await {
            // Those that were missed are seen in the list of peers.
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return Err("the node closed".into()),
        }
    }
    Ok(())
}

/// A peer in memory that follows a space, and tells how late each edit of a watched document is.
pub(super) async fn subscriber(
    invite: &Invite,
    at: (Address, DeviceId),
    doc: Option<DocId>,
    latency: UnboundedSender<f64>,
    listen: bool,
) -> Result<Node> {
    let listen = if listen { vec!["ws://127.0.0.1:0/".parse()?] } else { Vec::new() };
    let node = Node::open(Config { listen, ..Config::default() }).await?;
    let space = node.join(invite).await?;
    node.connect(at.0, Some(at.1));
    node.wait_level(space, at.1).await?;
    if let Some(doc) = doc {
        let document = node.open_document(space, doc).await?;
        tokio::spawn(async move {
            let mut watch = document.watch();
            while let Some(change) = watch.next().await {
                let now = wall_ms();
                for patch in change.patches {
                    if let commonhold_engine::PatchAction::Put { value, .. } = &patch.action
                        && let Some(sent) = value.as_f64().filter(|v| *v > 1.0)
                    {
                        let _ = latency.send(now - sent);
                    }
                }
            }
        });
    }
    Ok(node)
}

/// Peers in two processes that watch the first document of an origin.
async fn watching(
    built: &Built,
    (device, at): (DeviceId, SocketAddr),
    count: usize,
    listen: bool,
) -> Result<Vec<Child>> {
    let mut children = Vec::new();
    for part in split(count, 2) {
        let mut child = Child::start()?;
        let subscribe = ChildCommand::Subscribe {
            invite: built.invite.to_string(),
            address: format!("ws://{at}/"),
            device: device.to_string(),
            doc: Some(built.docs[0].to_string()),
            count: part,
            listen,
        };
        child.call::<bool>(&subscribe).await?;
        children.push(child);
    }
    Ok(children)
}

/// Milliseconds from each of so many edits to each of the peers that watch.
async fn latencies(children: &mut [Child], edits: usize) -> Result<Vec<f64>> {
    let mut latencies = Vec::new();
    for child in children {
        latencies.extend(child.call::<Vec<f64>>(&ChildCommand::Latencies { edits }).await?);
    }
    Ok(latencies)
}

async fn fanout(subscribers: usize) -> Result<Report> {
    let built = build_many(1).await?;
    let (origin, device, at) = built.origin().await?;
    let proxy = Proxy::start(at).await?;
    let writer = Node::open(Config { flush_ms: 5, ..Config::default() }).await?;
    writer.join(&built.invite).await?;
    writer.connect(address(at)?, Some(device));
    writer.wait_level(built.space, device).await?;
    let document = writer.open_document(built.space, built.docs[0]).await?;

    let mut children = watching(&built, (device, at), subscribers, false).await?;
    // One more subscriber, through the counter: what a delivery costs on the wire.
    let (count, mut counted) = tokio::sync::mpsc::unbounded_channel();
    let through =
        subscriber(&built.invite, (address(proxy.address())?, device), Some(built.docs[0]), count, false).await?;

    let edits = (FANOUT_PER_S * FANOUT_SECONDS) as usize;
    let (cpu, before) = (origin.cpu_s()?, proxy.bytes().1);
    let begun = Instant::now();
    write(&document, FANOUT_PER_S, edits).await?;
    for _ in 0..edits {
        counted.recv().await.ok_or("no subscriber")?;
    }
    let latencies = latencies(&mut children, edits).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let mut report = Report { size: subscribers as u64, seconds: Some(seconds), ..Report::default() };
    report.origin_cpu_s = Some((origin.cpu_s()? - cpu) * 10.0 / seconds);
    report.bytes_per_delivery = Some((proxy.bytes().1 - before) as f64 / edits as f64);
    report.origin_rss_kb = Some(origin.rss_kb()?);
    report.set_latencies(latencies);
    through.close().await?;
    Ok(report)
}

/// One edit after another, so many a second.
async fn write(document: &Document, per_s: u64, edits: usize) -> Result<()> {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / u32::try_from(per_s.max(1)).unwrap_or(u32::MAX));
    for n in 0..edits {
        tick.tick().await;
        document
            .edit(|edit| -> std::result::Result<(), EditError> {
                let root = edit.resolve(&[])?;
                // No field twice within five seconds: a subscriber that is far behind gathers edits of one field into one patch.
                edit.put(&root, format!("field{}", n % 100), wall_ms())
            })
            .await?;
    }
    Ok(())
}

/// What went over the network in all these processes: bytes sent, live segments that were new, and those held already.
async fn traffic(children: &mut [Child]) -> Result<(u64, u64, u64)> {
    let mut sum = (0, 0, 0);
    for child in children {
        let (sent, new, again) = child.call::<(u64, u64, u64)>(&ChildCommand::Traffic).await?;
        sum = (sum.0 + sent, sum.1 + new, sum.2 + again);
    }
    Ok(sum)
}

/// Time in which peers find their neighbours and connections that nobody needs end: those linger for 25 s.
const SWARM_SETTLES: Duration = Duration::from_secs(45);

async fn swarm(peers: usize, per_s: u64) -> Result<Report> {
    let built = build_many(1).await?;
    let (mut origin, device, at) = built.origin().await?;
    let listen = vec!["ws://127.0.0.1:0/".parse()?];
    let writer = Node::open(Config { flush_ms: 5, listen, ..Config::default() }).await?;
    writer.join(&built.invite).await?;
    writer.connect(address(at)?, Some(device));
    writer.wait_level(built.space, device).await?;
    let document = writer.open_document(built.space, built.docs[0]).await?;
    let mut children = watching(&built, (device, at), peers, true).await?;
    tokio::time::sleep(SWARM_SETTLES).await;
    let edits = (FANOUT_PER_S * FANOUT_SECONDS) as usize;
    let before = traffic(&mut children).await?;
    let (sent, ..) = origin.call::<(u64, u64, u64)>(&ChildCommand::Traffic).await?;
    let cpu = origin.cpu_s()?;
    let begun = Instant::now();
    write(&document, per_s, edits).await?;
    let latencies = latencies(&mut children, edits).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let after = traffic(&mut children).await?;
    let (sent_after, ..) = origin.call::<(u64, u64, u64)>(&ChildCommand::Traffic).await?;
    let mut report = Report { size: peers as u64, seconds: Some(seconds), ..Report::default() };
    let (new, again) = (after.1 - before.1, after.2 - before.2);
    report.copies_per_delivery = Some((new + again) as f64 / new.max(1) as f64);
    report.origin_bytes_per_update = Some((sent_after - sent) as f64 / edits as f64);
    report.bytes_per_delivery = Some((after.0 - before.0) as f64 / latencies.len().max(1) as f64);
    report.origin_cpu_s = Some((origin.cpu_s()? - cpu) * 10.0 / seconds);
    report.origin_rss_kb = Some(origin.rss_kb()?);
    report.set_latencies(latencies);
    writer.close().await?;
    Ok(report)
}

fn split(total: usize, parts: usize) -> impl Iterator<Item = usize> {
    (0..parts).map(move |part| total / parts + usize::from(part < total % parts)).filter(|n| *n > 0)
}

async fn idle(connections: usize) -> Result<Report> {
    let built = build_many(1).await?;
    let (origin, device, at) = built.origin().await?;
    let subscribe = |count| ChildCommand::Subscribe {
        invite: built.invite.to_string(),
        address: format!("ws://{at}/"),
        device: device.to_string(),
        doc: None,
        count,
        listen: false,
    };
    // A few first, so that what the origin needs once is not counted.
    let mut child = Child::start()?;
    child.call::<bool>(&subscribe(16)).await?;
    let rss = origin.rss_kb()?;
    child.call::<bool>(&subscribe(connections)).await?;
    let growth = origin.rss_kb()? as i64 - rss as i64;
    let mut report = Report { size: connections as u64, ..Report::default() };
    report.origin_rss_kb = Some(origin.rss_kb()?);
    report.origin_rss_growth_kb = Some(growth);
    report.kb_per_connection = Some(growth as f64 / connections as f64);
    Ok(report)
}

async fn ingest() -> Result<Report> {
    const WRITERS: usize = 10;
    const CHANGES: usize = 2_000;
    let built = build_many(WRITERS).await?;
    let (origin, device, at) = built.origin().await?;
    let mut writers = Vec::new();
    for doc in &built.docs {
        let node = Node::open(Config::default()).await?;
        // Each writer takes its own document alone: the origin is measured, not ten copies of everything.
        node.join_partly(&built.invite, [*doc]).await?;
        node.connect(address(at)?, Some(device));
        node.wait_level(built.space, device).await?;
        let document = node.open_document(built.space, *doc).await?;
        writers.push((node, document));
    }
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    let mut payload = 0;
    for (node, document) in writers {
        tasks.spawn(async move {
            for n in 0..CHANGES {
                document
                    .edit(|edit| -> std::result::Result<(), EditError> {
                        let root = edit.resolve(&[])?;
                        edit.put(&root, format!("field{}", n % 10), n as i64)
                    })
                    .await?;
                document.commit().await?;
                if n % 100 == 99 {
                    tokio::task::yield_now().await;
                }
            }
            document.flush().await?;
            document.wait_acked_for(1, PATIENCE).await?;
            let bytes: usize = document.entries_since(&[]).await?.iter().map(|(_, b)| b.len()).sum();
            Result::Ok((node, document, bytes as u64))
        });
    }
    let mut kept = Vec::new();
    let mut acknowledged = begun.elapsed();
    while let Some(result) = tasks.join_next().await {
        let (node, document, bytes) = result??;
        acknowledged = begun.elapsed();
        payload += bytes;
        kept.push((node, document));
    }
    origin.kill().await?;
    drop(kept);
    let total = WRITERS * CHANGES;
    let mut report = Report { size: total as u64, payload_bytes: Some(payload), ..Report::default() };
    report.seconds = Some(acknowledged.as_secs_f64());
    report.per_s = Some(total as f64 / acknowledged.as_secs_f64());

    let (mut origin, ..) = built.origin().await?;
    let count =
        ChildCommand::Count { space: built.space.to_string(), docs: built.docs.iter().map(DocId::to_string).collect() };
    let counts: Vec<usize> = origin.call(&count).await?;
    // Each document had one change before.
    report.lost_after_kill = Some(counts.iter().map(|n| (CHANGES + 1).saturating_sub(*n) as u64).sum());
    let work = Floor { wire_bytes: payload, signatures: (WRITERS * 20) as u64, stored_bytes: payload };
    report.set_floor(floor(work)?);
    Ok(report)
}

async fn many(count: usize) -> Result<Report> {
    let built = build_many(count).await?;
    let (origin, ..) = built.origin().await?;
    origin.kill().await?;
    let begun = Instant::now();
    let (mut origin, ..) = built.origin().await?;
    let mut report =
        Report { size: count as u64, ready_seconds: Some(begun.elapsed().as_secs_f64()), ..Report::default() };
    report.origin_rss_kb = Some(origin.rss_kb()?);
    let mut latencies = Vec::new();
    for n in 0..20 {
        let doc = built.docs[n * count / 20].to_string();
        latencies.push(origin.call::<f64>(&ChildCommand::Read { space: built.space.to_string(), doc }).await?);
    }
    report.set_latencies(latencies);
    report.origin_rss_growth_kb = Some(origin.rss_kb()? as i64 - report.origin_rss_kb.unwrap_or(0) as i64);
    Ok(report)
}
