//! The program behind the policy: started, asked, and started again when it ends.

use std::collections::BTreeMap;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use commonhold_engine::backoff::Backoff;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tracing::{info, warn};

use super::{Question, WAITING_MAX};

/// An answer is a few words.
const LINE_MAX: usize = 64 << 10;
/// So many times as long as an answer may take, without a word while there were questions, and it is started again.
const MUTE: u32 = 5;
/// Between two starts: the first wait at most, the longest, and how long it must run for all to be forgotten.
const AGAIN: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(30), Duration::from_secs(60)];

/// What the program says of a question.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Verdict {
    id: u64,
    pub(super) accept: bool,
    /// For the log.
    #[serde(default)]
    pub(super) reason: String,
}

#[derive(Debug, Serialize)]
struct Line {
    id: u64,
    #[serde(flatten)]
    question: Question,
}

type Asked = (Question, oneshot::Sender<Verdict>);

/// A way to ask. The program ends with the last of them.
#[derive(Debug, Clone)]
pub(super) struct Program {
    asked: mpsc::Sender<Asked>,
    wait: Duration,
}

impl Program {
    /// The error is that of the first start; later ones are tried again.
    pub(super) fn start(command: Vec<String>, wait: Duration) -> std::io::Result<Program> {
        let (asked, questions) = mpsc::channel(WAITING_MAX);
        let child = start(&command)?;
        tokio::spawn(keep_running(child, command, wait, questions));
        Ok(Program { asked, wait })
    }

    /// What the program says; `None` if it says nothing in time, or there is no program, or too much to ask.
    pub(super) async fn ask(&self, question: Question) -> Option<Verdict> {
        let (answer, said) = oneshot::channel();
        self.asked.try_send((question, answer)).ok()?;
        tokio::time::timeout(self.wait, said).await.ok()?.ok()
    }
}

async fn keep_running(first: Child, command: Vec<String>, wait: Duration, mut questions: mpsc::Receiver<Asked>) {
    let mut started = Ok(first);
    let mut backoff = Backoff::new(AGAIN[0], AGAIN[1], AGAIN[2]);
    let mut next_id = 0;
    loop {
        let mut last = Instant::now();
        match started {
            Ok(child) => {
                backoff.connected(last);
                info!(program = command[0], "the policy runs");
                let Some(why) = converse(child, wait, &mut questions, &mut next_id).await else { return };
                warn!(program = command[0], why, "the policy ended, and is started again");
                last = Instant::now();
            }
            Err(error) => warn!(program = command[0], %error, "the policy cannot be started"),
        }
        let until = backoff.failed(last, u64::from_ne_bytes(random()));
        // Whoever asks meanwhile is told at once that nobody answers.
        let mut over = std::pin::pin!(tokio::time::sleep_until(until.into()));
        loop {
            tokio::select! {
                () = &mut over => break,
                asked = questions.recv() => if asked.is_none() { return },
            }
        }
        started = start(&command);
    }
}

fn random() -> [u8; 8] {
    let mut bytes = [0; 8];
    // Without any, many peers start their policies at the same time, which are not one another's.
    let _ = getrandom::fill(&mut bytes);
    bytes
}

fn start(command: &[String]) -> std::io::Result<Child> {
    Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // What it has to say to people goes where this process's log goes.
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
}

/// Asks and listens until the program ends, or nobody asks any more (`None`).
async fn converse(
    mut child: Child,
    wait: Duration,
    questions: &mut mpsc::Receiver<Asked>,
    next_id: &mut u64,
) -> Option<String> {
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Some("it has no input or output".into());
    };
    let mut answers = FramedRead::new(output, LinesCodec::new_with_max_length(LINE_MAX));
    let mut owed: BTreeMap<u64, oneshot::Sender<Verdict>> = BTreeMap::new();
    let mut heard = Instant::now();
    let mut purge = tokio::time::interval(wait);
    loop {
        tokio::select! {
            line = answers.next() => match line {
                Some(Ok(line)) => {
                    heard = Instant::now();
                    answered(&line, &mut owed);
                }
                Some(Err(LinesCodecError::MaxLineLengthExceeded)) => return Some(format!("a line of more than {LINE_MAX} bytes")),
                Some(Err(LinesCodecError::Io(error))) => return Some(error.to_string()),
                None => {
                    // It may wait for the end of its input.
                    drop(input);
                    let status = tokio::time::timeout(wait, child.wait()).await;
                    return Some(status.map_or_else(|_| "it does not answer any more".into(), ended));
                }
            },
            asked = questions.recv(), if owed.len() < WAITING_MAX => {
                let (question, answer) = asked?;
                *next_id += 1;
                match tokio::time::timeout(wait, tell(&mut input, Line { id: *next_id, question })).await {
                    Ok(Ok(())) => _ = owed.insert(*next_id, answer),
                    Ok(Err(error)) => return Some(error.to_string()),
                    Err(_) => return Some("it does not read".into()),
                }
            }
            _ = purge.tick() => {
                let before = owed.len();
                // Those that nobody waits for any more are not owed.
                owed.retain(|_, answer| !answer.is_closed());
                if owed.len() < before && heard.elapsed() > MUTE * wait {
                    return Some("it does not answer".into());
                }
            }
        }
    }
}

fn ended(status: std::io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

async fn tell(input: &mut ChildStdin, line: Line) -> std::io::Result<()> {
    let mut bytes = serde_json::to_vec(&line)?;
    bytes.push(b'\n');
    input.write_all(&bytes).await?;
    input.flush().await
}

fn answered(line: &str, owed: &mut BTreeMap<u64, oneshot::Sender<Verdict>>) {
    match serde_json::from_str::<Verdict>(line) {
        // Too late is as good as never.
        Ok(verdict) => _ = owed.remove(&verdict.id).map(|answer| answer.send(verdict)),
        Err(error) => {
            warn!(%error, line = line.chars().take(200).collect::<String>(), "the policy said what is no answer")
        }
    }
}
