//! The demo's processes and folders: starting, asking, killing, and clearing away.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use commonhold_engine::local::LocalClient;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;
use tokio::process::{Child, ChildStdin, Command};

use crate::editor::private_folder;
use crate::failure::Failure;
use crate::print;
use crate::reach::Reach;
use crate::request::{Doc, Reply, Request};
use crate::serve::Ready;

/// For one thing to happen: fifty times what it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(10);

/// A step that did not work.
pub(super) fn failed(what: impl std::fmt::Display) -> Failure {
    Failure::failed(
        "demo",
        what,
        "run it again with --keep and look at the .log files; if it fails again, please report it",
    )
}

/// Where the demo plays.
pub(super) struct Stage {
    folder: PathBuf,
    program: PathBuf,
    keep: bool,
    quiet: bool,
    steps: usize,
}

impl Stage {
    pub(super) fn set(keep: bool, quiet: bool) -> Result<Stage, Failure> {
        let program = std::env::current_exe().map_err(|error| failed(format!("cannot find this program: {error}")))?;
        let folder =
            private_folder("demo").map_err(|error| failed(format!("cannot make a temporary folder: {error}")))?;
        // An empty config file, so that the person's own does not play along.
        std::fs::write(folder.join("config.toml"), "").map_err(|error| failed(format!("cannot write: {error}")))?;
        Ok(Stage { folder, program, keep, quiet, steps: 0 })
    }

    pub(super) fn steps(&self) -> usize {
        self.steps
    }

    /// Says what comes next.
    pub(super) fn step(&mut self, what: &str) {
        self.steps += 1;
        let number = self.steps;
        self.show(&format!("{}{number}. {what}", if number == 1 { "" } else { "\n" }));
    }

    pub(super) fn done(&self, what: &str) {
        self.show(&format!("   ✓ {what}"));
    }

    pub(super) fn show(&self, line: &str) {
        if !self.quiet {
            // The last line, which must come out, tells.
            let _ = print::out(&format!("{line}\n"));
        }
    }

    /// A command of this program for one of the actors.
    fn command(&self, name: &str) -> Command {
        let home = self.folder.join(name);
        let mut command = Command::new(&self.program);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("COMMONHOLD_") {
                command.env_remove(variable);
            }
        }
        command.arg("--config").arg(self.folder.join("config.toml"));
        command.arg("--data").arg(home.join("data")).arg("--keys").arg(home.join("keys"));
        command.kill_on_drop(true);
        command
    }

    /// Starts a peer and waits until it is reachable.
    pub(super) async fn start(&self, name: &'static str, flags: &[&str]) -> Result<Actor, Failure> {
        let cannot = |error: std::io::Error| failed(format!("cannot start {name}: {error}"));
        let home = self.folder.join(name);
        std::fs::create_dir_all(&home).map_err(cannot)?;
        let ready = home.join("ready.json");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.join(format!("{name}.log")));
        let mut child = self
            .command(name)
            // Should this process be killed, the pipe ends and so do they.
            .args(["serve", "--while-stdin", "--log-level", "info", "--listen", "ws://127.0.0.1:0/", "--ready-file"])
            .arg(&ready)
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log.map_err(cannot)?)
            .spawn()
            .map_err(cannot)?;
        let deadline = Instant::now() + PATIENCE;
        let text = loop {
            match std::fs::read_to_string(&ready) {
                Ok(text) => break text,
                Err(_) if Instant::now() < deadline => tokio::time::sleep(LOOK).await,
                Err(_) => return Err(failed(format!("{name} was not ready after {} s", PATIENCE.as_secs()))),
            }
            if let Some(status) = child.try_wait().map_err(cannot)? {
                return Err(failed(format!("{name} ended at once with {status}")));
            }
        };
        let facts =
            serde_json::from_str(&text).map_err(|error| failed(format!("the ready file of {name}: {error}")))?;
        let data = home.join("data");
        let client = LocalClient::connect(&data).await.map_err(failed)?;
        let client = client.ok_or_else(|| failed(format!("{name} does not answer")))?;
        let pipe = child.stdin.take();
        Ok(Actor { name, child, _pipe: pipe, data, ready, facts, reach: Reach::Served(client) })
    }

    /// One command on the store of a peer that does not run.
    pub(super) async fn run_offline(&self, peer: &Offline, arguments: &[&str]) -> Result<(), Failure> {
        let output = self.command(peer.0).args(arguments).stdin(Stdio::null()).output().await;
        let output = output.map_err(|error| failed(format!("cannot run a command: {error}")))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(failed(format!("{}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)))),
        }
    }

    /// Takes the folders away. The processes went with their actors.
    pub(super) async fn clear(self) -> Result<(), Failure> {
        if self.keep {
            print::note(&format!("everything is kept in {}", self.folder.display()));
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.keep {
            // A process that was killed a moment ago may still be writing: the folder is tried again until it is empty.
            let _ = (0..100).any(|_| {
                gone(&self.folder) || {
                    std::thread::sleep(LOOK);
                    false
                }
            });
        }
    }
}

fn gone(folder: &Path) -> bool {
    std::fs::remove_dir_all(folder).is_ok() || !folder.exists()
}

/// A peer whose process has ended.
pub(super) struct Offline(&'static str);

/// A running peer. Its process is killed when this is dropped.
pub(super) struct Actor {
    name: &'static str,
    child: Child,
    _pipe: Option<ChildStdin>,
    data: PathBuf,
    ready: PathBuf,
    facts: Ready,
    reach: Reach,
}

impl Actor {
    pub(super) fn address(&self) -> &str {
        self.facts.addresses.first().map_or("nowhere", String::as_str)
    }

    /// Asks over the local socket.
    pub(super) async fn ask(&mut self, request: Request) -> Result<Reply, Failure> {
        let asked = tokio::time::timeout(PATIENCE, self.reach.ask(request)).await;
        let answered = asked.map_err(|_| failed(format!("{} did not answer", self.name)))?;
        answered.map_err(|failure| failed(format!("{}: {}", self.name, failure.what)))
    }

    /// An invite to the one space of this peer.
    pub(super) async fn invite(&mut self) -> Result<String, Failure> {
        match self.ask(Request::Invite { space: None, grant: None }).await? {
            Reply::Invite(invite) => Ok(invite.invite),
            _ => Err(failed("no invite came")),
        }
    }

    /// Joins, and has the space when this returns.
    pub(super) async fn join(&mut self, invite: &str) -> Result<(), Failure> {
        self.ask(Request::Join { invite: invite.to_owned(), wait_ms: 8_000 }).await.map(drop)
    }

    /// Dials whoever made the invite.
    pub(super) async fn dial(&mut self, invite: &str) -> Result<(), Failure> {
        self.ask(Request::Join { invite: invite.to_owned(), wait_ms: 0 }).await.map(drop)
    }

    pub(super) async fn set(&mut self, path: &str, value: Json) -> Result<(), Failure> {
        self.ask(Request::Set { doc: groceries(), path: path.to_owned(), value }).await.map(drop)
    }

    /// Waits until a value stands in the document; how long that took.
    pub(super) async fn sees(&mut self, path: &str, expected: &Json) -> Result<Duration, Failure> {
        let begun = Instant::now();
        let mut last = None;
        while begun.elapsed() < PATIENCE {
            // Until it has come there is no document, or nothing at that place.
            let request = Request::Get { doc: groceries(), path: path.to_owned() };
            if let Ok(Reply::Value(value)) = self.reach.ask(request).await {
                if value.value == *expected {
                    return Ok(begun.elapsed());
                }
                last = Some(value.value);
            }
            tokio::time::sleep(LOOK).await;
        }
        let last = last.map_or_else(|| "nothing".to_owned(), |last| last.to_string());
        Err(failed(format!("{} did not see {expected} but {last} after {} s", self.name, PATIENCE.as_secs())))
    }

    /// Waits until another peer is among the connected.
    pub(super) async fn connected_to(&mut self, other: &Actor) -> Result<(), Failure> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Reply::Peers(peers) = self.ask(Request::Peers { known: false }).await?
                && peers.iter().any(|peer| peer.peer == other.facts.peer)
            {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(failed(format!("{} and {} were not connected after {} s", self.name, other.name, PATIENCE.as_secs())))
    }

    /// Ends the process as an operator does, and checks that it ended well.
    pub(super) async fn stop(mut self) -> Result<Offline, Failure> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let pid = pid.ok_or_else(|| failed(format!("{} is gone", self.name)))?;
        kill_process(pid, Signal::TERM).map_err(|error| failed(format!("cannot stop {}: {error}", self.name)))?;
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        match ended {
            Ok(Ok(status)) if status.success() && !self.ready.exists() => Ok(Offline(self.name)),
            Ok(Ok(status)) => Err(failed(format!("{} stopped with {status}", self.name))),
            Ok(Err(error)) => Err(failed(format!("{}: {error}", self.name))),
            Err(_) => Err(failed(format!("{} had not stopped after {} s", self.name, PATIENCE.as_secs()))),
        }
    }

    /// SIGKILL.
    pub(super) async fn kill(mut self) -> Result<(), Failure> {
        self.child.kill().await.map_err(|error| failed(format!("cannot kill {}: {error}", self.name)))?;
        match LocalClient::connect(&self.data).await {
            Ok(None) => Ok(()),
            _ => Err(failed(format!("{} still answers", self.name))),
        }
    }
}

fn groceries() -> Doc {
    Doc { space: None, doc: "groceries".to_owned() }
}
