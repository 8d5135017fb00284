//! The operator's own program that decides whom this peer keeps connections with, and which documents it carries. It reads questions
//! on its standard input and writes answers to its standard output, one JSON object a line (docs/operating.md, "Policy").

mod documents;
mod program;

use commonhold_engine::{Knock, Node};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, info};

use crate::config::Settings;
use crate::failure::Failure;
use program::{Program, Verdict};

/// Questions that wait for the program to take them, and those whose answers it owes. Beyond it nobody is asked, and what holds
/// without an answer holds.
const WAITING_MAX: usize = 1_024;

/// Something that is asked.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Question {
    /// Whether a connection is kept.
    Peer { peer: String, address: Option<String>, dialled: bool },
    /// Whether a document is carried.
    Document { space: String, doc: String, name: String, type_name: String, creator: String },
}

/// Who is at the gate, until the node is there whose gate it is.
pub(crate) struct Policy {
    program: Program,
    /// What holds for connections without an answer.
    admits: bool,
    knocks: mpsc::Receiver<Knock>,
}

impl Policy {
    /// Starts the program, if one is configured, and gives what the node's gate is.
    pub(crate) fn start(settings: &Settings) -> Result<Option<(Policy, mpsc::Sender<Knock>)>, Failure> {
        let command = settings.policy_command();
        if command.is_empty() {
            return Ok(None);
        }
        let (gate, knocks) = mpsc::channel(WAITING_MAX);
        let name = command[0].clone();
        let program = Program::start(command, settings.policy_wait()).map_err(|error| {
            Failure::usage(
                "policy",
                format!("policy.command: {name} cannot be started: {error}"),
                "name a program that the user of this service may run, by its full path",
            )
        })?;
        Ok(Some((Policy { program, admits: settings.policy_admits(), knocks }, gate)))
    }

    /// Answers for a node, until that closes.
    pub(crate) async fn run(mut self, node: Node) {
        let documents = documents::follow(node, self.program.clone());
        let mut documents = std::pin::pin!(documents);
        let mut asking = JoinSet::new();
        loop {
            tokio::select! {
                () = &mut documents => return,
                Some(knock) = self.knocks.recv() => {
                    let (program, admits) = (self.program.clone(), self.admits);
                    asking.spawn(async move { answer(&program, admits, knock).await });
                }
                Some(_) = asking.join_next() => {}
            }
        }
    }
}

async fn answer(program: &Program, admits: bool, knock: Knock) {
    let peer = knock.device.to_string();
    let address = knock.remote.map(|ip| ip.to_string());
    let question = Question::Peer { peer: peer.clone(), address, dialled: knock.dialled };
    match program.ask(question).await {
        Some(Verdict { accept: true, .. }) => knock.admit(),
        Some(Verdict { reason, .. }) => info!(peer, reason, "the policy refuses a connection"),
        None if admits => knock.admit(),
        None => debug!(peer, "no connection without an answer of the policy"),
    }
}
