//! The other processes of a scenario: this program again, told what to be on its standard input, a JSON line at a time.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use commonhold_engine::sync::message::roles;
use commonhold_engine::{Address, Config, DeviceId, DocId, Invite, Node, SpaceId};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout, Command};

use super::{Manner, Result, blobs};

/// What a child is told.
#[derive(Debug, Serialize, Deserialize)]
pub enum ChildCommand {
    /// Be an origin with this data and keys; answer with where it listens.
    Serve {
        /// Data folder.
        data: PathBuf,
        /// Keys folder.
        keys: PathBuf,
    },
    /// Join a space as an empty peer on disk; answer once level.
    Join {
        /// Data folder.
        data: PathBuf,
        /// Keys folder.
        keys: PathBuf,
        /// To which space.
        invite: String,
        /// Where to dial.
        address: String,
        /// Whom.
        device: String,
    },
    /// Open a cold document and read it; answer with the milliseconds that it took.
    Read {
        /// In which space.
        space: String,
        /// Which.
        doc: String,
    },
    /// Set a field in each of these documents, durably; answer with the raw bytes of the changes.
    Edit {
        /// In which space.
        space: String,
        /// Which.
        docs: Vec<String>,
    },
    /// How many changes these documents have; answer with numbers.
    Count {
        /// In which space.
        space: String,
        /// Which.
        docs: Vec<String>,
    },
    /// Connect so many peers in memory to the space and watch one document; answer when all are level.
    Subscribe {
        /// To which space.
        invite: String,
        /// Where to dial.
        address: String,
        /// Whom.
        device: String,
        /// Which document, if one is to be watched.
        doc: Option<String>,
        /// How many.
        count: usize,
        /// Whether each listens, so that others can dial it.
        listen: bool,
    },
    /// Answer with what went over the network: bytes sent, live segments that were new, and live segments held already.
    Traffic,
    /// Hold a blob: found a space or join one, store the file, listen; answer with address, device, invite and name.
    HoldBlob {
        /// Where.
        folder: PathBuf,
        /// To which space, if not to a new one.
        invite: Option<String>,
        /// The content.
        file: PathBuf,
        /// How to serve it.
        manner: Manner,
    },
    /// Fetch a blob from these peers; answer now and then with how far it is, and at last with the seconds.
    FetchBlob {
        /// Where.
        folder: PathBuf,
        /// To which space.
        invite: String,
        /// Address and device of each.
        peers: Vec<(String, String)>,
        /// Its name.
        blob: String,
    },
    /// Answer with the latencies (ms) seen by the subscribers, once each has seen this many edits.
    Latencies {
        /// Edits that each must have seen.
        edits: usize,
    },
}

/// A running child.
pub struct Child {
    process: tokio::process::Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts one.
    pub fn start() -> Result<Child> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("child")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = process.stdin.take().ok_or("no stdin")?;
        let stdout = BufReader::new(process.stdout.take().ok_or("no stdout")?).lines();
        Ok(Child { process, stdin, stdout })
    }

    /// Starts an origin; gives its peer id and address.
    pub async fn origin(data: &Path, keys: &Path) -> Result<(Child, DeviceId, std::net::SocketAddr)> {
        let mut child = Child::start()?;
        let command = ChildCommand::Serve { data: data.into(), keys: keys.into() };
        let (device, address): (String, String) = child.call(&command).await?;
        let address = address.trim_start_matches("ws://").trim_end_matches('/').parse()?;
        Ok((child, device.parse()?, address))
    }

    /// Tells it something and waits for the answer.
    pub async fn call<T: for<'a> Deserialize<'a>>(&mut self, command: &ChildCommand) -> Result<T> {
        self.tell(command).await?;
        self.answer().await
    }

    /// Tells it something.
    pub async fn tell(&mut self, command: &ChildCommand) -> Result<()> {
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        self.stdin.write_all(&line).await?;
        Ok(())
    }

    /// Waits for the next answer.
    pub async fn answer<T: for<'a> Deserialize<'a>>(&mut self) -> Result<T> {
        let line = self.stdout.next_line().await?.ok_or("the child has ended")?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Kills it with SIGKILL, and waits until it is gone.
    pub async fn kill(mut self) -> Result<()> {
        self.process.kill().await?;
        Ok(())
    }

    /// Processor seconds so far (user and system).
    pub fn cpu_s(&self) -> Result<f64> {
        cpu_s(self.process.id())
    }

    /// Resident memory in KB.
    pub fn rss_kb(&self) -> Result<u64> {
        rss_kb(self.process.id())
    }
}

pub(super) fn cpu_s(pid: Option<u32>) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.ok_or("the child has ended")?))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    // USER_HZ is 100 on every Linux that Rust supports.
    Ok(ticks as f64 / 100.0)
}

pub(super) fn rss_kb(pid: Option<u32>) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.ok_or("the child has ended")?))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}

/// Milliseconds since 1970, for latencies between processes of one machine.
pub(super) fn wall_ms() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64() * 1_000.0
}

fn ids(docs: &[String]) -> Result<Vec<DocId>> {
    Ok(docs.iter().map(|d| d.parse()).collect::<std::result::Result<_, _>>()?)
}

/// The main function of a child.
pub async fn serve_child() -> Result<()> {
    let (line, mut lines) = tokio::sync::mpsc::unbounded_channel::<String>();
    // The end of the parent closes the input, and with it the child.
    std::thread::spawn(move || std::io::stdin().lines().map_while(|l| l.ok()).try_for_each(|l| line.send(l)));
    let mut node: Option<Node> = None;
    let mut peers: Vec<Node> = Vec::new();
    let (latency, mut latencies) = tokio::sync::mpsc::unbounded_channel::<f64>();
    while let Some(line) = lines.recv().await {
        let answer = match serde_json::from_str(&line)? {
            ChildCommand::Serve { data, keys } => {
                let listen: Vec<Address> = vec!["ws://127.0.0.1:0/".parse()?];
                // As the program is.
                let roles = Config::default().roles | roles::SPARED;
                let config = Config { data: Some(data), keys: Some(keys), listen, roles, ..Config::default() };
                let opened = Node::open(config).await?;
                let answer = (opened.device().to_string(), opened.listening().first().cloned().unwrap_or_default());
                node = Some(opened);
                serde_json::to_string(&answer)?
            }
            ChildCommand::HoldBlob { folder, invite, file, manner } => {
                let (opened, invite, name) = blobs::hold(&folder, invite.as_deref(), &file, manner).await?;
                let address = opened.listening().first().cloned().unwrap_or_default();
                let answer = (address, opened.device().to_string(), invite, name);
                node = Some(opened);
                serde_json::to_string(&answer)?
            }
            ChildCommand::FetchBlob { folder, invite, peers, blob } => {
                let (opened, seconds) = blobs::fetch(&folder, &invite, &peers, &blob).await?;
                node = Some(opened);
                serde_json::to_string(&blobs::Far::Done(seconds))?
            }
            ChildCommand::Edit { space, docs } => {
                let node = node.as_ref().ok_or("not serving")?;
                let bytes = super::runs::set_fields(node, space.parse()?, &ids(&docs)?, "changed").await?;
                bytes.to_string()
            }
            ChildCommand::Join { data, keys, invite, address, device } => {
                let joined = Node::open(Config { data: Some(data), keys: Some(keys), ..Config::default() }).await?;
                let space = joined.join(&invite.parse()?).await?;
                let device: DeviceId = device.parse()?;
                joined.connect(address.parse()?, Some(device));
                joined.wait_level(space, device).await?;
                node = Some(joined);
                "true".into()
            }
            ChildCommand::Read { space, doc } => {
                let node = node.as_ref().ok_or("not serving")?;
                let begun = std::time::Instant::now();
                let document = node.open_document(space.parse()?, doc.parse()?).await?;
                document.json().await?;
                (begun.elapsed().as_secs_f64() * 1_000.0).to_string()
            }
            ChildCommand::Count { space, docs } => {
                let node = node.as_ref().ok_or("not serving")?;
                let space: SpaceId = space.parse()?;
                let mut counts = Vec::new();
                for doc in ids(&docs)? {
                    counts.push(node.open_document(space, doc).await?.history().await?.len());
                }
                serde_json::to_string(&counts)?
            }
            ChildCommand::Traffic => {
                let all = node.iter().chain(&peers).map(Node::traffic);
                let sum =
                    all.fold((0, 0, 0), |sum, t| (sum.0 + t.sent_bytes, sum.1 + t.delivered, sum.2 + t.duplicates));
                serde_json::to_string(&sum)?
            }
            ChildCommand::Subscribe { invite, address, device, doc, count, listen } => {
                let invite: Invite = invite.parse()?;
                let at: (Address, DeviceId) = (address.parse()?, device.parse()?);
                let doc = doc.map(|d| d.parse()).transpose()?;
                for _ in 0..count {
                    peers.push(super::runs::subscriber(&invite, at.clone(), doc, latency.clone(), listen).await?);
                }
                "true".into()
            }
            ChildCommand::Latencies { edits } => {
                let mut seen = Vec::new();
                while seen.len() < edits * peers.len() {
                    seen.push(latencies.recv().await.ok_or("no subscribers")?);
                }
                serde_json::to_string(&seen)?
            }
        };
        println!("{answer}");
    }
    Ok(())
}
