//! Stock clients in JavaScript (tests/gateway), in a process of node's.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};

use serde_json::Value as Json;

use super::PATIENCE;

/// Where the packages of the clients are, once they are installed.
pub(crate) fn clients_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/gateway")
}

/// Stock clients in a process of node's.
pub(crate) struct Clients {
    child: Child,
    commands: Option<ChildStdin>,
    answers: mpsc::Receiver<Json>,
    early: BTreeMap<u64, Json>,
    last: u64,
}

impl Clients {
    /// None where there is no node or npm, which is said.
    pub(crate) fn start() -> Option<Clients> {
        static INSTALLING: Mutex<()> = Mutex::new(());
        let folder = clients_folder();
        let _installing = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
        // Each by its name: what an older tree installed lacks what came later.
        let there = |package: &str| folder.join("node_modules").join(package).exists();
        if !["@automerge/automerge-repo", "braid-http"].into_iter().all(there) {
            // Not `ci`, which wants optional packages for all platforms.
            let npm = ["install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
            let installed = Command::new("npm").args(npm).current_dir(&folder).status();
            if !installed.is_ok_and(|status| status.success()) {
                println!("skipped: npm is not there, or could not fetch @automerge/automerge-repo and braid-http");
                return None;
            }
        }
        let mut child = Command::new("node")
            .arg(folder.join("clients.js"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok();
        let Some(mut child) = child.take() else {
            println!("skipped: node is not there");
            return None;
        };
        let (commands, out) = (child.stdin.take(), child.stdout.take().unwrap());
        let (sender, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                match serde_json::from_str(&line) {
                    Ok(answer) => drop(sender.send(answer)),
                    Err(_) => println!("node: {line}"),
                }
            }
        });
        Some(Clients { child, commands, answers, early: BTreeMap::new(), last: 0 })
    }

    /// Begins something. Its answer is taken with [`Clients::end`].
    pub(crate) fn begin(&mut self, op: &str, mut command: Json) -> u64 {
        self.last += 1;
        (command["op"], command["n"]) = (op.into(), self.last.into());
        writeln!(self.commands.as_mut().unwrap(), "{command}").unwrap();
        self.last
    }

    #[track_caller]
    pub(crate) fn end(&mut self, n: u64) -> Json {
        loop {
            if let Some(answer) = self.early.remove(&n) {
                return answer;
            }
            let answer = self.answers.recv_timeout(PATIENCE).expect("the clients answer in time");
            self.early.insert(answer["n"].as_u64().unwrap(), answer);
        }
    }

    #[track_caller]
    pub(crate) fn try_do(&mut self, op: &str, command: Json) -> Json {
        let n = self.begin(op, command);
        self.end(n)
    }

    #[track_caller]
    pub(crate) fn make(&mut self, op: &str, command: Json) -> Json {
        let answer = self.try_do(op, command);
        assert_eq!(answer.get("error"), None, "{op}");
        answer
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.commands = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
