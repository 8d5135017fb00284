//! Peers as real processes of this program, in folders that go when it is over: what `demo` and `drill` play with. Starting, asking,
//! killing, and clearing away.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use commonhold_engine::local::LocalClient;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};

use crate::editor::private_folder;
use crate::failure::Failure;
use crate::print;
use crate::reach::Reach;
use crate::request::{Reply, Request};
use crate::serve::Ready;

/// How often it is looked whether something has happened.
pub(crate) const LOOK: Duration = Duration::from_millis(10);

/// What is played: its name, which is the code of its failures, and what fits it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Play {
    pub(crate) name: &'static str,
    /// For one thing to happen.
    pub(crate) patience: Duration,
    /// What a person can do when it failed.
    pub(crate) remedy: &'static str,
}

impl Play {
    /// Something that did not work.
    pub(crate) fn failed(&self, what: impl std::fmt::Display) -> Failure {
        Failure::failed(self.name, what, self.remedy)
    }
}

/// Where it is played.
pub(crate) struct Stage {
    play: Play,
    folder: PathBuf,
    program: PathBuf,
    keep: bool,
}

impl Stage {
    pub(crate) fn set(play: Play, keep: bool) -> Result<Stage, Failure> {
        let program =
            std::env::current_exe().map_err(|error| play.failed(format!("cannot find this program: {error}")))?;
        let folder = private_folder(play.name)
            .map_err(|error| play.failed(format!("cannot make a temporary folder: {error}")))?;
        // An empty config file, so that the person's own does not play along.
        std::fs::write(folder.join("config.toml"), "")
            .map_err(|error| play.failed(format!("cannot write: {error}")))?;
        Ok(Stage { play, folder, program, keep })
    }

    /// The log of a peer.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    /// A command of this program for one of the peers.
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

    /// The command that serves a peer, to be spawned by the caller and handed to [`started`](Self::started).
    pub(crate) fn serving(&self, name: &str, listen: &str, flags: &[String]) -> Result<Command, Failure> {
        let cannot = |error: std::io::Error| self.play.failed(format!("cannot start {name}: {error}"));
        std::fs::create_dir_all(self.folder.join(name)).map_err(cannot)?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log(name)).map_err(cannot)?;
        let mut command = self.command(name);
        command
            // Should this process be killed, the pipe ends and so do they.
            .args(["serve", "--while-stdin", "--log-level", "info", "--listen", listen, "--ready-file"])
            .arg(self.ready(name))
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log);
        Ok(command)
    }

    fn ready(&self, name: &str) -> PathBuf {
        self.folder.join(name).join("ready.json")
    }

    /// Starts a peer and waits until it is reachable.
    pub(crate) async fn start(&self, name: &str) -> Result<Actor, Failure> {
        let child = self.serving(name, "ws://127.0.0.1:0/", &[])?.spawn();
        self.started(name, child).await
    }

    /// Waits until a peer that was spawned is reachable.
    pub(crate) async fn started(&self, name: &str, child: std::io::Result<Child>) -> Result<Actor, Failure> {
        let play = self.play;
        let cannot = |error: std::io::Error| play.failed(format!("cannot start {name}: {error}"));
        let mut child = child.map_err(cannot)?;
        let ready = self.ready(name);
        let deadline = Instant::now() + play.patience;
        let text = loop {
            match std::fs::read_to_string(&ready) {
                Ok(text) => break text,
                Err(_) if Instant::now() < deadline => tokio::time::sleep(LOOK).await,
                Err(_) => return Err(play.failed(format!("{name} was not ready after {} s", play.patience.as_secs()))),
            }
            if let Some(status) = child.try_wait().map_err(cannot)? {
                return Err(play.failed(format!("{name} ended at once with {status}")));
            }
        };
        let facts =
            serde_json::from_str(&text).map_err(|error| play.failed(format!("the ready file of {name}: {error}")))?;
        let data = self.folder.join(name).join("data");
        let client = LocalClient::connect(&data).await.map_err(|error| play.failed(error))?;
        let client = client.ok_or_else(|| play.failed(format!("{name} does not answer")))?;
        let pipe = child.stdin.take();
        let reach = Reach::Served(client);
        Ok(Actor { play, name: name.to_owned(), child, _pipe: pipe, data, ready, facts, reach })
    }

    /// One command on the store of a peer that does not run.
    pub(crate) async fn run_offline(&self, peer: &Offline, arguments: &[&str]) -> Result<(), Failure> {
        let output = self.command(&peer.0).args(arguments).stdin(Stdio::null()).output().await;
        let output = output.map_err(|error| self.play.failed(format!("cannot run a command: {error}")))?;
        match output.status.success() {
            true => Ok(()),
            false => {
                let said = String::from_utf8_lossy(&output.stderr);
                Err(self.play.failed(format!("{}: {said}", arguments.join(" "))))
            }
        }
    }

    /// Takes the folders away, unless they are to be kept. The processes went with their actors.
    pub(crate) fn clear(self) {
        if self.keep {
            print::note(&format!("everything is kept in {}", self.folder.display()));
        }
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
pub(crate) struct Offline(String);

/// A running peer. Its process is killed when this is dropped.
pub(crate) struct Actor {
    play: Play,
    name: String,
    child: Child,
    _pipe: Option<ChildStdin>,
    data: PathBuf,
    ready: PathBuf,
    facts: Ready,
    reach: Reach,
}

impl Actor {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        self.facts.addresses.first().map_or("nowhere", String::as_str)
    }

    /// Asks over the local socket.
    pub(crate) async fn ask(&mut self, request: Request) -> Result<Reply, Failure> {
        let asked = tokio::time::timeout(self.play.patience, self.reach.ask(request)).await;
        let answered = asked.map_err(|_| self.play.failed(format!("{} did not answer", self.name)))?;
        answered.map_err(|failure| self.play.failed(format!("{}: {}", self.name, failure.what)))
    }

    /// A second way to ask, for somebody who looks while this one is busy.
    pub(crate) async fn second_reach(&self) -> Result<Reach, Failure> {
        match LocalClient::connect(&self.data).await {
            Ok(Some(client)) => Ok(Reach::Served(client)),
            _ => Err(self.play.failed(format!("{} does not answer", self.name))),
        }
    }

    /// An invite to the one space of this peer.
    pub(crate) async fn invite(&mut self) -> Result<String, Failure> {
        match self.ask(Request::Invite { space: None, grant: None }).await? {
            Reply::Invite(invite) => Ok(invite.invite),
            _ => Err(self.play.failed("no invite came")),
        }
    }

    /// Joins, and has the space when this returns.
    pub(crate) async fn join(&mut self, invite: &str) -> Result<(), Failure> {
        // Its own answer, that it did not work out, tells more than silence: it comes first.
        let wait = self.play.patience * 4 / 5;
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.ask(Request::Join { invite: invite.to_owned(), wait_ms }).await.map(drop)
    }

    /// Dials whoever made the invite.
    pub(crate) async fn dial(&mut self, invite: &str) -> Result<(), Failure> {
        self.ask(Request::Join { invite: invite.to_owned(), wait_ms: 0 }).await.map(drop)
    }

    /// Waits until another peer is among the connected.
    pub(crate) async fn connected_to(&mut self, other: &Actor) -> Result<(), Failure> {
        let begun = Instant::now();
        while begun.elapsed() < self.play.patience {
            if let Reply::Peers(peers) = self.ask(Request::Peers { known: false }).await?
                && peers.iter().any(|peer| peer.peer == other.facts.peer)
            {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        let seconds = self.play.patience.as_secs();
        Err(self.play.failed(format!("{} and {} were not connected after {seconds} s", self.name, other.name)))
    }

    /// Ends the process as an operator does, and checks that it ended well.
    pub(crate) async fn stop(mut self) -> Result<Offline, Failure> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let pid = pid.ok_or_else(|| self.play.failed(format!("{} is gone", self.name)))?;
        kill_process(pid, Signal::TERM)
            .map_err(|error| self.play.failed(format!("cannot stop {}: {error}", self.name)))?;
        let ended = tokio::time::timeout(self.play.patience, self.child.wait()).await;
        match ended {
            Ok(Ok(status)) if status.success() && !self.ready.exists() => Ok(Offline(self.name)),
            Ok(Ok(status)) => Err(self.play.failed(format!("{} stopped with {status}", self.name))),
            Ok(Err(error)) => Err(self.play.failed(format!("{}: {error}", self.name))),
            Err(_) => {
                let seconds = self.play.patience.as_secs();
                Err(self.play.failed(format!("{} had not stopped after {seconds} s", self.name)))
            }
        }
    }

    /// SIGKILL.
    pub(crate) async fn kill(mut self) -> Result<(), Failure> {
        self.child.kill().await.map_err(|error| self.play.failed(format!("cannot kill {}: {error}", self.name)))?;
        match LocalClient::connect(&self.data).await {
            Ok(None) => Ok(()),
            _ => Err(self.play.failed(format!("{} still answers", self.name))),
        }
    }
}
