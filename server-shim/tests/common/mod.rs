//! Real processes of the program, in temporary folders, on ports that the system chooses.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "this is all test code")]

pub(crate) mod clients;
pub(crate) mod issued;

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;
use tempfile::TempDir;

/// For anything that should happen soon, on a machine that has much else to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The folders of one peer.
pub(crate) struct Home {
    folder: TempDir,
}

/// What a finished process said.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    fn of(output: Output) -> Said {
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Standard output as JSON, after a success.
    #[track_caller]
    pub(crate) fn json(&self) -> Json {
        assert_eq!(self.code, 0, "{}", self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }

    /// Standard output, after a success.
    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        assert_eq!(self.code, 0, "{}", self.err);
        self.out.trim()
    }

    /// A failure with this exit code, in two lines that hold these words.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        let lines: Vec<&str> = self.err.lines().filter(|line| !line.contains(" WARN ")).collect();
        assert_eq!(lines.len(), 2, "{}", self.err);
        assert!(lines[0].starts_with("error: ") && lines[1].starts_with("  try: "), "{}", self.err);
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {}", self.err);
        }
    }
}

impl Home {
    pub(crate) fn new() -> Home {
        Home::in_folder(tempfile::tempdir().unwrap())
    }

    /// On a disk that needs no syncs, if the system has one.
    pub(crate) fn in_memory() -> Home {
        Home::in_folder(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    fn in_folder(folder: TempDir) -> Home {
        fs::write(folder.path().join("config.toml"), "[peer]\nlisten = ['ws://127.0.0.1:0/']\n").unwrap();
        Home { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.path("keys")
    }

    /// The program with this home's folders, and nothing of the person who runs the tests.
    pub(crate) fn command(&self) -> Command {
        self.command_of(env!("CARGO_BIN_EXE_commonhold"))
    }

    pub(crate) fn command_of(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("COMMONHOLD_") {
                command.env_remove(name);
            }
        }
        command.env("COMMONHOLD_CONFIG", self.path("config.toml"));
        command.env("COMMONHOLD_STORE_DATA", self.data()).env("COMMONHOLD_STORE_KEYS", self.path("keys"));
        command.stdin(Stdio::null());
        command
    }

    /// A copy of everything in this home.
    pub(crate) fn copied(&self) -> Home {
        let copy = Home::new();
        for folder in ["data", "keys"] {
            copy_folder(&self.path(folder), &copy.path(folder));
        }
        copy
    }

    /// Runs a verb to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        finish(self.command().args(arguments))
    }

    /// Runs a verb to its end, with this on its standard input.
    pub(crate) fn run_with(&self, arguments: &[&str], typed: &str) -> Said {
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
        Said::of(child.wait_with_output().unwrap())
    }

    /// A space, and a document of this name in it.
    pub(crate) fn with_document(&self, name: &str) -> String {
        self.run(&["space", "new"]).text();
        self.run(&["doc", "new", "--name", name]).text().to_owned()
    }

    /// Starts a serving process and waits until it is ready.
    pub(crate) fn serve(&self, arguments: &[&str]) -> Served {
        let mut command = self.command();
        command.args(arguments);
        self.serve_as(command)
    }

    /// The same of a command that takes flags of `serve`.
    pub(crate) fn serve_as(&self, mut command: Command) -> Served {
        let ready = self.path("ready.json");
        let _ = fs::remove_file(&ready);
        command.arg("--ready-file").arg(&ready);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let facts = until("a ready file", || {
            assert_eq!(child.try_wait().unwrap(), None, "it ended: {}", rest(&mut child).1);
            fs::read_to_string(&ready).ok()
        });
        Served { child: Some(child), facts: serde_json::from_str(&facts).unwrap() }
    }
}

/// A file system of 8 MiB over a folder, until it is dropped.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// None where none can be mounted, as only root may.
    pub(crate) fn small(at: PathBuf) -> Option<Mounted> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=8m", "commonhold-test"]).arg(&at).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success()).then_some(Mounted(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a process that a failed test left may still have it open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Copies a folder to where there is none, as people do.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// Runs a command to its end.
pub(crate) fn finish(command: &mut Command) -> Said {
    Said::of(command.output().unwrap())
}

/// A serving process. Killed when dropped.
pub(crate) struct Served {
    child: Option<Child>,
    pub(crate) facts: Json,
}

impl Served {
    pub(crate) fn invite(&self) -> &str {
        self.facts["invite"].as_str().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid().cast_signed()).unwrap(), signal).unwrap();
    }

    /// Tells it to stop; how it ended and what it had printed.
    pub(crate) fn stop(self) -> (ExitStatus, String, String) {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Waits for its end.
    pub(crate) fn ended(mut self) -> (ExitStatus, String, String) {
        let mut child = self.child.take().unwrap();
        let status = until("the end of a process", || child.try_wait().unwrap());
        let (out, err) = rest(&mut child);
        (status, out, err)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn rest(child: &mut Child) -> (String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    (out, err)
}

/// Looks again and again until something is there.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

pub(crate) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
