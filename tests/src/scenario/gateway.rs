//! What today's Automerge apps get of the gateway, beside what they get of the stock server: the same documents, cold, by the
//! same stock client (tests/gateway/bench.js), one after the other. And what a native peer needs for them.

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use commonhold_engine::{DocId, EditError, Node, ObjKind, SpaceId};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinSet;

use super::origin::Origin;
use super::runs::{AT_ONCE, Built, build_many, joiner, on_disk};
use super::{Report, Result};

/// Times that each is measured; the medians count.
const ROUNDS: usize = 7;
/// Changes of each document behind its first.
const EDITS: usize = 19;
/// Where the packages of the clients are.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/gateway");
const SETTINGS: [(&str, &str); 1] = [("COMMONHOLD_GATEWAY_LISTEN", "127.0.0.1:0")];

/// `docs`: documents of the space.
pub(super) async fn run(docs: usize) -> Result<Report> {
    install().await?;
    let built = build_many(docs).await?;
    write(&built).await?;
    let ids: Vec<String> = built.docs().iter().map(repo_id).collect();
    let stock = tempfile::tempdir()?;
    let origin = Origin::start(&built, &SETTINGS).await?;
    let fill =
        json!({ "op": "fill", "address": origin.fact("gateway")?, "folder": stock.path(), "ids": ids, "edits": EDITS });
    Js::start()?.ask(&fill).await?;
    origin.kill().await?;

    let mut rounds = Rounds::default();
    for round in 0..ROUNDS {
        // Each is the first as often as the second, as nearly as that goes.
        for ours in [round % 2 == 0, round % 2 == 1] {
            match ours {
                true => rounds.gateway(&built, &ids).await?,
                false => rounds.stock(stock.path(), &ids).await?,
            }
        }
        rounds.peer(&built).await?;
    }
    eprintln!("{rounds:#?}");
    let mut report = Report { size: docs as u64, origin_rss_kb: Some(rounds.rss_kb), ..Report::default() };
    let (gateway, stock) = (median(rounds.gateway), median(rounds.stock));
    (report.gateway_seconds, report.stock_seconds) = (Some(gateway), Some(stock));
    report.gateway_ratio = Some(gateway / stock);
    report.peer_seconds = Some(median(rounds.peer));
    report.origin_cpu_s = Some(median(rounds.origin_cpu));
    report.client_cpu_s = Some(median(rounds.client_cpu));
    Ok(report)
}

/// Seconds of each round.
#[derive(Debug, Default)]
struct Rounds {
    gateway: Vec<f64>,
    stock: Vec<f64>,
    peer: Vec<f64>,
    origin_cpu: Vec<f64>,
    client_cpu: Vec<f64>,
    stock_client_cpu: Vec<f64>,
    rss_kb: u64,
}

impl Rounds {
    async fn gateway(&mut self, built: &Built, ids: &[String]) -> Result<()> {
        let origin = Origin::start(built, &SETTINGS).await?;
        let before = origin.cpu_s()?;
        let (seconds, cpu) = cold(origin.fact("gateway")?, ids).await?;
        self.gateway.push(seconds);
        self.client_cpu.push(cpu);
        self.origin_cpu.push(origin.cpu_s()? - before);
        self.rss_kb = self.rss_kb.max(origin.rss_kb()?);
        origin.kill().await
    }

    async fn stock(&mut self, folder: &Path, ids: &[String]) -> Result<()> {
        let mut server = Js::start()?;
        let serving = server.ask(&json!({ "op": "serve", "folder": folder })).await?;
        let address = serving["address"].as_str().ok_or("the stock server told no address")?;
        let (seconds, cpu) = cold(address, ids).await?;
        self.stock.push(seconds);
        self.stock_client_cpu.push(cpu);
        Ok(server.process.kill().await?)
    }

    async fn peer(&mut self, built: &Built) -> Result<()> {
        let origin = Origin::start(built, &SETTINGS).await?;
        let (address, device) = (origin.fact("addresses")?.parse()?, origin.fact("peer")?.parse()?);
        let folder = tempfile::tempdir()?;
        let node = joiner(folder.path(), built.invite()).await?;
        let begun = Instant::now();
        node.connect(address, Some(device));
        node.wait_level(built.space(), device).await?;
        self.peer.push(begun.elapsed().as_secs_f64());
        node.close().await?;
        origin.kill().await
    }
}

/// A stock client, in a process of its own, gets all documents: seconds, and the processor's.
async fn cold(address: &str, ids: &[String]) -> Result<(f64, f64)> {
    let took = Js::start()?.ask(&json!({ "op": "cold", "address": address, "ids": ids, "edits": EDITS })).await?;
    let of = |name: &str| took[name].as_f64().ok_or("the client told no time");
    Ok((of("seconds")?, of("cpu")?))
}

/// Gives each document a text that grows, a change for each sentence.
async fn write(built: &Built) -> Result<()> {
    let node = Node::open(on_disk(built.folder())).await?;
    for part in built.docs().chunks(AT_ONCE) {
        let mut tasks = JoinSet::new();
        for doc in part {
            tasks.spawn(grow(node.clone(), built.space(), *doc));
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
    }
    Ok(node.close().await?)
}

async fn grow(node: Node, space: SpaceId, doc: DocId) -> Result<()> {
    let document = node.open_document(space, doc).await?;
    for n in 1..=EDITS {
        let sentence = |edit: &mut commonhold_engine::Edit<'_>| -> std::result::Result<(), EditError> {
            let root = edit.resolve(&[])?;
            let text = match n {
                1 => edit.put_object(&root, "text", ObjKind::Text)?,
                _ => edit.resolve(&["text".into()])?,
            };
            let end = edit.text(&text)?.chars().count();
            edit.splice_text(&text, end, 0, &format!("This is sentence {n} of it. "))?;
            edit.put(&root, "edits", n as i64)
        };
        document.edit(sentence).await?;
        document.commit().await?;
    }
    document.flush().await?;
    Ok(())
}

/// The bytes, in hex, by which Automerge clients know a document that none of them made (docs/gateway.md).
fn repo_id(doc: &DocId) -> String {
    let hash = blake3::Hasher::new().update(b"commonhold automerge-repo 1").update(&doc.0).finalize();
    hash.to_hex()[..32].to_owned()
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// Fetches the packages of the clients, once.
async fn install() -> Result<()> {
    if Path::new(FOLDER).join("node_modules/.package-lock.json").exists() {
        return Ok(());
    }
    // Not `npm ci`, which wants optional packages for all platforms.
    let npm = ["install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
    match Command::new("npm").args(npm).current_dir(FOLDER).status().await?.success() {
        true => Ok(()),
        false => Err("npm could not fetch the packages of tests/gateway".into()),
    }
}

/// A process of node's.
struct Js {
    process: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Js {
    fn start() -> Result<Js> {
        let mut command = Command::new("node");
        command.arg(Path::new(FOLDER).join("bench.js")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.kill_on_drop(true).spawn()?;
        let stdin = process.stdin.take().ok_or("no stdin")?;
        let stdout = BufReader::new(process.stdout.take().ok_or("no stdout")?).lines();
        Ok(Js { process, stdin, stdout })
    }

    async fn ask(&mut self, command: &Json) -> Result<Json> {
        self.stdin.write_all(format!("{command}\n").as_bytes()).await?;
        let line = self.stdout.next_line().await?.ok_or("node has ended")?;
        Ok(serde_json::from_str(&line)?)
    }
}
