//! A large blob from four peers, of which one is slow, one lies and one dies; a fetch that is killed and goes on; and a swarm
//! that fetches from one origin and from one another.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use commonhold_engine::blobs::{
    BlobError, BlobInfo, BlobLimits, FileBlobs, MemoryBlobs, Pieces, ProvenPiece, TreeNode,
};
use commonhold_engine::transport::Link;
use commonhold_engine::{Address, Blob, BlobRef, BlobStore, Config, DeviceId, Node, SpaceId, Writers};
use serde::{Deserialize, Serialize};

use super::{Child, ChildCommand, Report, Result, floor};

/// How a peer serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Manner {
    /// As it should.
    Honest,
    /// Each read takes half a second, four at once: 2 MB/s.
    Slow,
    /// One bit of each piece is another.
    Lying,
}

/// A place for blobs that serves in some manner, and counts.
pub(super) struct Serving {
    inner: Arc<dyn BlobStore>,
    manner: Manner,
    reads: AtomicU64,
}

impl Serving {
    pub(super) fn new(inner: Arc<dyn BlobStore>, manner: Manner) -> Arc<Serving> {
        Arc::new(Serving { inner, manner, reads: AtomicU64::new(0) })
    }
}

type Done<T> = std::result::Result<T, BlobError>;

impl BlobStore for Serving {
    fn blocks(&self) -> bool {
        true
    }
    fn find(&self, space: &SpaceId, blob: &Blob) -> Done<Option<Pieces>> {
        self.inner.find(space, blob)
    }
    fn begin(&self, space: &SpaceId, blob: &Blob) -> Done<Pieces> {
        self.inner.begin(space, blob)
    }
    fn write(&self, space: &SpaceId, blob: &Blob, piece: u32, bytes: &[u8], proof: &[TreeNode]) -> Done<()> {
        self.inner.write(space, blob, piece, bytes, proof)
    }
    fn read(&self, space: &SpaceId, blob: &Blob, piece: u32) -> Done<Option<ProvenPiece>> {
        self.reads.fetch_add(1, SeqCst);
        let mut read = self.inner.read(space, blob, piece)?;
        match (self.manner, &mut read) {
            (Manner::Slow, _) => std::thread::sleep(Duration::from_millis(500)),
            (Manner::Lying, Some((bytes, _))) => bytes[0] ^= 1,
            _ => {}
        }
        Ok(read)
    }
    fn finish(&self, space: &SpaceId, blob: &Blob) -> Done<()> {
        self.inner.finish(space, blob)
    }
    fn put(&self, space: &SpaceId, from: &mut dyn std::io::Read) -> Done<Blob> {
        self.inner.put(space, from)
    }
    fn list(&self, space: &SpaceId) -> Done<Vec<BlobInfo>> {
        self.inner.list(space)
    }
    fn touch(&self, space: &SpaceId, blob: &Blob) -> Done<bool> {
        self.inner.touch(space, blob)
    }
    fn remove(&self, space: &SpaceId, blob: &Blob) -> Done<bool> {
        self.inner.remove(space, blob)
    }
}

/// What a child that holds the blob is: joins the space if there is an invite, stores the file, listens.
pub(super) async fn hold(
    folder: &Path,
    invite: Option<&str>,
    file: &Path,
    manner: Manner,
) -> Result<(Node, String, String)> {
    let (data, keys) = (folder.join("data"), folder.join("keys"));
    let files = Arc::new(FileBlobs::new(data.join("blobs"), BlobLimits::default()));
    let node = Node::open(Config {
        data: Some(data),
        keys: Some(keys),
        listen: vec!["ws://127.0.0.1:0/".parse()?],
        dial_invites: false,
        blob_store: Some(Serving::new(files, manner)),
        ..Config::default()
    })
    .await?;
    let space = match invite {
        Some(invite) => node.join(&invite.parse()?).await?,
        None => node.create_space(Writers::Anyone).await?,
    };
    let name = node.put_blob_file(space, file).await?;
    let invite = node.invite(space)?.to_string();
    Ok((node, invite, name.to_string()))
}

/// What a child that fetches does: fetches, prints where it started from, then how long it took.
pub(super) async fn fetch(folder: &Path, invite: &str, peers: &[(String, String)], name: &str) -> Result<(Node, f64)> {
    let node = Node::open(Config {
        data: Some(folder.join("data")),
        keys: Some(folder.join("keys")),
        dial_invites: false,
        ..Config::default()
    })
    .await?;
    let space = node.join(&invite.parse()?).await?;
    for (address, device) in peers {
        let device: DeviceId = device.parse()?;
        node.connect(address.parse::<Address>()?, Some(device));
    }
    for (_, device) in peers {
        node.wait_level(space, device.parse()?).await?;
    }
    let name: BlobRef = name.parse()?;
    let begun = Instant::now();
    let mut fetch = node.fetch_blob(space, &name).await?;
    let (mut told, mut first) = (0, true);
    while let Some(progress) = fetch.next().await? {
        // The parent wants to know when to kill, not each piece.
        if first && progress.bytes > 0 || progress.bytes >= told + name.blob.size / 50 {
            (told, first) = (progress.bytes, false);
            println!("{}", serde_json::to_string(&Far::Bytes(progress.bytes))?);
        }
    }
    Ok((node, begun.elapsed().as_secs_f64()))
}

/// How far a child is with its fetch.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Far {
    Bytes(u64),
    Done(f64),
}

struct Holder {
    child: Child,
    address: String,
    device: String,
    invite: String,
    name: String,
}

async fn holder(folder: PathBuf, invite: Option<String>, file: &Path, manner: Manner) -> Result<Holder> {
    let mut child = Child::start()?;
    let command = ChildCommand::HoldBlob { folder, invite, file: file.into(), manner };
    let (address, device, invite, name): (String, String, String, String) = child.call(&command).await?;
    Ok(Holder { child, address, device, invite, name })
}

/// Starts a fetch in a child; gives the child. `Far` comes from it line by line.
async fn fetcher(folder: PathBuf, of: &[&Holder]) -> Result<Child> {
    let mut child = Child::start()?;
    let peers = of.iter().map(|holder| (holder.address.clone(), holder.device.clone())).collect();
    let (invite, blob) = (of[0].invite.clone(), of[0].name.clone());
    child.tell(&ChildCommand::FetchBlob { folder, invite, peers, blob }).await?;
    Ok(child)
}

async fn finish(child: &mut Child) -> Result<(f64, u64)> {
    let mut first = 0;
    loop {
        match child.answer::<Far>().await? {
            Far::Done(seconds) => return Ok((seconds, first)),
            Far::Bytes(bytes) if first == 0 => first = bytes,
            Far::Bytes(_) => {}
        }
    }
}

fn same(one: &Path, folder: &Path) -> Result<bool> {
    let mut todo = vec![folder.join("data/blobs")];
    while let Some(at) = todo.pop() {
        for entry in std::fs::read_dir(at)? {
            let path = entry?.path();
            match path.is_dir() {
                true => todo.push(path),
                false if path.extension().is_some_and(|ending| ending == "blob") => {
                    return Ok(std::fs::read(one)? == std::fs::read(path)?);
                }
                false => {}
            }
        }
    }
    Ok(false)
}

/// The scenario.
pub(super) async fn run(mib: u64) -> Result<Report> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let file = at("content");
    {
        let mut out = std::fs::File::create(&file)?;
        let mut random = blake3::Hasher::new().update(b"content").finalize_xof();
        let mut buffer = vec![0; 1 << 20];
        for _ in 0..mib {
            random.fill(&mut buffer);
            out.write_all(&buffer)?;
        }
        out.sync_all()?;
    }
    let honest = holder(at("honest"), None, &file, Manner::Honest).await?;
    let invite = Some(honest.invite.clone());
    let slow = holder(at("slow"), invite.clone(), &file, Manner::Slow).await?;
    let lying = holder(at("lying"), invite.clone(), &file, Manner::Lying).await?;
    let tcp = floor::wire(mib << 20)?;

    // The same disk, the same transport, one peer: what four must come near to. Twice, and the better counts.
    let mut alone = f64::MAX;
    for n in 0..2 {
        let mut child = fetcher(at(&format!("alone{n}")), &[&honest]).await?;
        alone = alone.min(finish(&mut child).await?.0);
        child.kill().await?;
        std::fs::remove_dir_all(at(&format!("alone{n}")))?;
    }

    let mut four = f64::MAX;
    for n in 0..2 {
        let dying = holder(at(&format!("dying{n}")), invite.clone(), &file, Manner::Honest).await?;
        let mut child = fetcher(at(&format!("four{n}")), &[&honest, &slow, &lying, &dying]).await?;
        let mut victim = Some(dying.child);
        let seconds = loop {
            match child.answer::<Far>().await? {
                Far::Done(seconds) => break seconds,
                Far::Bytes(bytes) if bytes >= (mib << 20) / 4 => {
                    if let Some(victim) = victim.take() {
                        victim.kill().await?;
                    }
                }
                Far::Bytes(_) => {}
            }
        };
        four = four.min(seconds);
        child.kill().await?;
        if !same(&file, &at(&format!("four{n}")))? {
            return Err("the bytes are wrong".into());
        }
        std::fs::remove_dir_all(at(&format!("four{n}")))?;
        std::fs::remove_dir_all(at(&format!("dying{n}")))?;
    }

    // Killed with SIGKILL when half has come, and started again.
    let mut child = fetcher(at("killed"), &[&honest, &slow]).await?;
    let before = loop {
        match child.answer::<Far>().await? {
            Far::Bytes(bytes) if bytes >= (mib << 20) / 2 => break bytes,
            Far::Bytes(_) => {}
            Far::Done(_) => return Err("it was done before it could be killed".into()),
        }
    };
    child.kill().await?;
    let mut child = fetcher(at("killed"), &[&honest, &slow]).await?;
    let (_, resumed_at) = finish(&mut child).await?;
    child.kill().await?;
    if !same(&file, &at("killed"))? {
        return Err("the bytes are wrong after the kill".into());
    }
    let (copies, swarm) = swarm(20, (mib / 8).max(1)).await?;
    let mut report = Report {
        size: mib << 20,
        seconds: Some(four),
        tcp_seconds: Some(tcp),
        throughput_ratio: Some(alone / four),
        resumed_share: Some(resumed_at as f64 / before as f64),
        origin_copies: Some(copies),
        swarm_seconds: Some(swarm),
        ..Report::default()
    };
    report.set_floor(alone);
    Ok(report)
}

/// Peers in this process, each linked with each: how many copies the origin sent, and how long it took.
async fn swarm(peers: usize, mib: u64) -> Result<(f64, f64)> {
    let origin_blobs = Serving::new(Arc::new(MemoryBlobs::new(BlobLimits::default())), Manner::Honest);
    let origin = Node::open(Config { blob_store: Some(origin_blobs.clone()), ..Config::default() }).await?;
    let space = origin.create_space(Writers::Anyone).await?;
    let invite = origin.invite(space)?;
    let mut content = vec![0; (mib << 20) as usize];
    blake3::Hasher::new().update(b"swarm").finalize_xof().fill(&mut content);
    let name = origin.put_blob(space, std::io::Cursor::new(content)).await?;
    let mut nodes = vec![origin];
    for _ in 0..peers {
        let node = Node::open(Config::default()).await?;
        node.join(&invite).await?;
        for other in &nodes {
            let (one, end) = Link::pair(&Default::default());
            node.attach(one, true, Some(other.device()));
            other.attach(end, false, None);
        }
        nodes.push(node);
    }
    for node in &nodes[1..] {
        for other in nodes.iter().filter(|other| other.device() != node.device()) {
            node.wait_level(space, other.device()).await?;
        }
    }
    let begun = Instant::now();
    let mut fetches = Vec::new();
    for node in &nodes[1..] {
        fetches.push(node.fetch_blob(space, &name).await?);
    }
    for fetch in fetches {
        fetch.held().await?;
    }
    let pieces = name.blob.pieces().unwrap_or(1);
    Ok((origin_blobs.reads.load(SeqCst) as f64 / f64::from(pieces), begun.elapsed().as_secs_f64()))
}
