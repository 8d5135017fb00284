//! Looks at everything that can keep a peer from working, and says what to do about each.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use commonhold_engine::device::DeviceSecret;
use commonhold_engine::transport::Address;
use rustix::fs::{Access, access, statvfs};
use serde::Serialize;
use serde_json::json;

use crate::config::Settings;
use crate::failure::{Exit, Failure, chain};
use crate::operate::STORE_FILE;
use crate::print::{self, bytes};
use crate::reach::{Dial, Reach};
use crate::request::{Checked, Me, Reply, Request};
use crate::tls;

/// Less is too little for a store to commit and compact. Guesses, both.
const FREE_BYTES_MIN: u64 = 64 << 20;
/// Less will be too little soon.
const FREE_BYTES_LOW: u64 = 1 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    /// It works, but.
    Warning,
    Fault,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    state: State,
    detail: String,
    /// Empty when there is nothing to do.
    remedy: String,
    #[serde(skip)]
    exit: Exit,
}

impl Finding {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Finding { check, state: State::Ok, detail: detail.into(), remedy: String::new(), exit: Exit::Failed }
    }

    fn warning(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Finding { check, state: State::Warning, detail: detail.into(), remedy: remedy.into(), exit: Exit::Failed }
    }

    fn fault(check: &'static str, exit: Exit, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Finding { check, state: State::Fault, detail: detail.into(), remedy: remedy.into(), exit }
    }

    fn of(check: &'static str, failure: Failure) -> Self {
        Finding::fault(check, failure.exit, failure.what, failure.remedy)
    }
}

/// Looks at everything; fails with the code of the first fault.
pub(crate) async fn run(settings: &Settings, json: bool) -> Result<(), Failure> {
    let (data, keys) = (settings.data(), settings.keys());
    let mut findings = vec![config(settings), data_folder(&data), keys_folder(&keys, &data), device_key(&keys)];
    findings.extend(certificate(settings));
    findings.extend(disk_space(&data));
    let (found, served) = store(settings).await;
    findings.extend(found);
    if !served {
        findings.extend(settings.listen().iter().map(port));
    }
    report(&findings, json)
}

fn report(findings: &[Finding], json: bool) -> Result<(), Failure> {
    let first = findings.iter().find(|finding| finding.state == State::Fault);
    let text = match json {
        true => format!("{}\n", json!({"ok": first.is_none(), "findings": findings})),
        false => findings.iter().map(line).collect(),
    };
    let printed = print::out(&text);
    match first {
        None => printed,
        Some(fault) => {
            let faults = findings.iter().filter(|finding| finding.state == State::Fault).count();
            let what = format!("{faults} of {} checks found a fault, first: {}", findings.len(), fault.check);
            Err(Failure::new(fault.exit, "doctor", what, &fault.remedy))
        }
    }
}

fn line(finding: &Finding) -> String {
    let mark = match finding.state {
        State::Ok => '✓',
        State::Warning => '!',
        State::Fault => '✗',
    };
    let remedy = if finding.remedy.is_empty() { String::new() } else { format!("{:14}try: {}\n", "", finding.remedy) };
    format!("{mark} {:11} {}\n{remedy}", finding.check, finding.detail)
}

fn config(settings: &Settings) -> Finding {
    Finding::ok(
        "config",
        settings.file.as_ref().map_or_else(|| "no file; defaults".into(), |path| path.display().to_string()),
    )
}

/// None where TLS is not asked for.
fn certificate(settings: &Settings) -> Option<Finding> {
    match tls::of(settings) {
        Ok(tls) => {
            tls.certificate?;
            Some(Finding::ok("certificate", format!("{} and its key are a pair", settings.text("tls.certificate"))))
        }
        Err(failure) => Some(Finding::of("certificate", failure)),
    }
}

fn data_folder(data: &Path) -> Finding {
    let shown = data.display();
    match fs::metadata(data) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Finding::warning("data folder", format!("{shown} is not there yet"), "`commonhold` makes it")
        }
        Err(error) => Finding::fault("data folder", Exit::Store, format!("{shown}: {error}"), "check its permissions"),
        Ok(found) if !found.is_dir() => {
            Finding::fault("data folder", Exit::Store, format!("{shown} is not a folder"), "name a folder with --data")
        }
        Ok(_) if access(data, Access::WRITE_OK | Access::EXEC_OK).is_err() => Finding::fault(
            "data folder",
            Exit::Store,
            format!("{shown} is not writable for this user, or on a read-only file system"),
            "make it writable, or name another with --data",
        ),
        Ok(found) if found.permissions().mode() & 0o022 != 0 => Finding::warning(
            "data folder",
            format!("{shown} can be written to by others (mode {:03o})", found.permissions().mode() & 0o777),
            format!("chmod go-w {shown}"),
        ),
        Ok(_) => Finding::ok("data folder", shown.to_string()),
    }
}

fn keys_folder(keys: &Path, data: &Path) -> Finding {
    let shown = keys.display();
    // A backup of the data folder must not carry the secret: two devices with one key make forks.
    if crate::config::absolute(keys).starts_with(crate::config::absolute(data)) {
        return Finding::warning(
            "keys folder",
            format!("{shown} lies inside the data folder, so a copy of that is a copy of the secret"),
            "move it, and name its new place with --keys or store.keys",
        );
    }
    match fs::metadata(keys) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Finding::warning("keys folder", format!("{shown} is not there yet"), "`commonhold` makes it")
        }
        Err(error) => Finding::fault("keys folder", Exit::Usage, format!("{shown}: {error}"), "check its permissions"),
        Ok(found) if found.permissions().mode() & 0o077 != 0 => Finding::fault(
            "keys folder",
            Exit::Usage,
            format!("{shown} is open to others (mode {:03o})", found.permissions().mode() & 0o777),
            format!("chmod 700 {shown}"),
        ),
        Ok(_) => Finding::ok("keys folder", shown.to_string()),
    }
}

/// Only looks at a secret that is there: a doctor makes none.
fn device_key(keys: &Path) -> Finding {
    match keys.join("device.key").try_exists() {
        Ok(true) => match DeviceSecret::load_or_create(keys) {
            Ok(secret) => Finding::ok("device key", format!("peer {}", secret.device_id())),
            Err(error) => Finding::fault(
                "device key",
                Exit::Usage,
                chain(&error),
                "restore it, or move it away: this device then goes on as a new one and needs new grants",
            ),
        },
        Ok(false) => Finding::warning("device key", "none yet", "`commonhold` makes one"),
        Err(error) => {
            Finding::fault("device key", Exit::Usage, error.to_string(), "check the permissions of the keys folder")
        }
    }
}

fn disk_space(data: &Path) -> Option<Finding> {
    let there = data.ancestors().find(|folder| folder.exists())?;
    let found = statvfs(there).ok()?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let detail = format!("{} free", bytes(free));
    Some(match free {
        0..FREE_BYTES_MIN => Finding::fault("disk space", Exit::Store, detail, "free some space before anything else"),
        FREE_BYTES_MIN..FREE_BYTES_LOW => Finding::warning("disk space", detail, "free some space soon"),
        _ => Finding::ok("disk space", detail),
    })
}

/// What the store says of itself, and whether another process serves it.
async fn store(settings: &Settings) -> (Vec<Finding>, bool) {
    let path = settings.data().join(STORE_FILE);
    let mut reach = match Reach::find(settings, Dial::No, false).await {
        Ok(reach) => reach,
        Err(failure) if failure.code == "no_store" => {
            return (
                vec![Finding::warning("store", "none yet", "`commonhold`, or `commonhold join INVITE`, makes one")],
                false,
            );
        }
        Err(failure) => return (vec![Finding::of("store", failure)], false),
    };
    let served = matches!(reach, Reach::Served(_));
    let (me, checked) = (reach.ask(Request::Me).await, reach.ask(Request::Check).await);
    let mut findings = Vec::new();
    match me {
        Ok(Reply::Me(me)) => findings.extend([owner(&me, &path, served), lineage(&me)]),
        Ok(_) => findings.push(Finding::of("store", crate::local::other_version())),
        Err(failure) => findings.push(Finding::of("store", failure)),
    }
    match checked {
        Ok(Reply::Checked(checked)) => findings.push(rows(&checked)),
        Ok(_) => findings.push(Finding::of("rows", crate::local::other_version())),
        Err(failure) => findings.push(Finding::of("rows", failure)),
    }
    if let Err(failure) = reach.close().await {
        findings.push(Finding::of("store", failure));
    }
    (findings, served)
}

fn owner(me: &Me, path: &Path, served: bool) -> Finding {
    let size = fs::metadata(path).map_or_else(|error| error.to_string(), |found| bytes(found.len()));
    let by = if served { format!("served by process {}", me.pid) } else { "served by nobody".to_owned() };
    Finding::ok("store", format!("{size}, id {}, {by}", print::short(&me.store)))
}

fn lineage(me: &Me) -> Finding {
    match me.opened.as_str() {
        "fresh" => Finding::ok("lineage", "a new store"),
        "continue" => Finding::ok("lineage", "goes on where the last run ended"),
        "crashed" => Finding::ok("lineage", "the last run was killed: nothing is lost, new changes begin a new chain"),
        "restored" => Finding::warning(
            "lineage",
            "restored from a copy: it goes on as a new store",
            "nothing; edits made after the copy come back from other peers",
        ),
        _ => Finding::warning(
            "lineage",
            "copied or moved from elsewhere: it goes on as a new store",
            "if the original still runs, give one of the two a keys folder of its own",
        ),
    }
}

fn rows(checked: &Checked) -> Finding {
    let all =
        format!("{} spaces, {} documents, {} changes, all read", checked.spaces, checked.documents, checked.entries);
    match &checked.faults[..] {
        [] => Finding::ok("rows", all),
        faults => Finding::fault(
            "rows",
            Exit::Store,
            format!(
                "{all}; {} faults: {}",
                faults.len(),
                faults.iter().take(5).cloned().collect::<Vec<_>>().join("; ")
            ),
            "move the data folder away and join the spaces again (peers fill it), or restore a backup",
        ),
    }
}

/// Whether this process could listen there. Names are left to the time of serving.
fn port(address: &Address) -> Finding {
    let Address::WebSocket { host, port, .. } = address else { return Finding::ok("port", address.to_string()) };
    match TcpListener::bind((host.as_str(), *port)) {
        Ok(_) => Finding::ok("port", format!("{address} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Finding::fault(
            "port",
            Exit::InUse,
            format!("{address} is in use by another program"),
            "choose another with --listen or peer.listen, or stop that program",
        ),
        Err(error) => Finding::fault(
            "port",
            Exit::Usage,
            format!("{address}: {error}"),
            "listen at an address of this machine, such as ws://127.0.0.1:7340/",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_gives_its_exit_code_and_its_cure() {
        let findings = [
            Finding::ok("a", "x"),
            Finding::warning("b", "y", "z"),
            Finding::fault("c", Exit::InUse, "taken", "free it"),
        ];
        let failure = report(&findings, true).unwrap_err();
        assert_eq!((failure.exit, failure.remedy.as_str()), (Exit::InUse, "free it"));
        assert!(report(&findings[..2], false).is_ok());
        assert_eq!(line(&findings[2]), "✗ c           taken\n              try: free it\n");
    }

    #[test]
    fn a_keys_folder_inside_the_data_folder_is_noticed() {
        assert_eq!(keys_folder(Path::new("/nowhere/d/keys"), Path::new("/nowhere/d")).state, State::Warning);
        assert!(keys_folder(Path::new("/nowhere/dkeys"), Path::new("/nowhere/d")).detail.contains("not there yet"));
    }

    #[test]
    fn a_keys_folder_that_others_can_enter_is_a_fault_with_its_cure() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let finding = keys_folder(folder.path(), Path::new("/nowhere"));
        assert!(finding.state == State::Fault && finding.remedy.starts_with("chmod 700 "));
    }
}
