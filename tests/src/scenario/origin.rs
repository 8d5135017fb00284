//! The program itself as the origin, for what the engine alone does not do.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::process::{Child, Command};

use super::Result;
use super::child::{cpu_s, rss_kb};
use super::runs::Built;

/// The program, serving what was built.
pub(super) struct Origin {
    process: Child,
    facts: Json,
}

impl Origin {
    /// Starts it with these settings, and returns when it is ready.
    pub(super) async fn start(built: &Built, settings: &[(&str, &str)]) -> Result<Origin> {
        let ready = built.folder().join("ready.json");
        // Of an origin before.
        let _ = std::fs::remove_file(&ready);
        let mut command = Command::new(program().await?);
        command.arg("serve").arg("--listen").arg("ws://127.0.0.1:0/").arg("--ready-file").arg(&ready);
        command.env("COMMONHOLD_CONFIG", "/dev/null").envs(settings.iter().copied());
        command.env("COMMONHOLD_STORE_DATA", built.data()).env("COMMONHOLD_STORE_KEYS", built.keys());
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let mut process = command.spawn()?;
        let facts = loop {
            if let Some(ended) = process.try_wait()? {
                return Err(format!("the program ended: {ended}").into());
            }
            match std::fs::read_to_string(&ready) {
                Ok(facts) => break facts,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        Ok(Origin { process, facts: serde_json::from_str(&facts)? })
    }

    /// What it said of itself under this name; of several, the first.
    pub(super) fn fact(&self, name: &str) -> Result<&str> {
        let fact = &self.facts[name];
        fact.as_str().or_else(|| fact[0].as_str()).ok_or_else(|| format!("the program tells of no {name}").into())
    }

    /// Processor seconds so far.
    pub(super) fn cpu_s(&self) -> Result<f64> {
        cpu_s(self.process.id())
    }

    /// Resident memory in KB.
    pub(super) fn rss_kb(&self) -> Result<u64> {
        rss_kb(self.process.id())
    }

    /// Kills it, and waits until it is gone.
    pub(super) async fn kill(mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }
}

/// The `commonhold` of this very build; made if it is not there or older than this program.
async fn program() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let program = here.with_file_name("commonhold");
    let changed = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified());
    if changed(&program).is_ok_and(|program| changed(&here).is_ok_and(|here| here <= program)) {
        return Ok(program);
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "-p", "commonhold"]);
    if here.parent().is_some_and(|folder| folder.ends_with("release")) {
        cargo.arg("--release");
    }
    match cargo.status().await?.success() && program.exists() {
        true => Ok(program),
        false => Err("the program commonhold could not be built".into()),
    }
}
