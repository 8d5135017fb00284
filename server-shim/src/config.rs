//! Settings: defaults, then the config file, then the environment, then flags; the later wins. One table of keys
//! ([`keys::KEYS`]) is behind the file, the variables, `config print` and the table in `docs/operating.md`.
//!
//! What is not known is refused where it stands, since a setting that is silently ignored is worse than no start.

mod file;
pub(crate) mod keys;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::HeaderValue;
use commonhold_engine::{
    Address, Budgets, DeviceId, Discovery, DocumentBudget, Lan, Quota, Quotas, Serving as WhenToServe, SpaceId,
};

use crate::args::{Global, Serving};
use crate::failure::Failure;
use crate::shim::access::Opened;
use crate::shim::webhooks::Networks;
pub(crate) use keys::Key;
use keys::{KEYS, Kind, Tracker};

const PREFIX: &str = "COMMONHOLD_";
/// Names a config file; no key of it.
const CONFIG_VARIABLE: &str = "COMMONHOLD_CONFIG";

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    File(PathBuf, usize),
    Variable(String),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => write!(f, "default"),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Variable(name) => write!(f, "${name}"),
            Origin::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

/// One setting: its texts, one unless the key is a list.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) texts: Vec<String>,
    pub(crate) origin: Origin,
}

/// All settings, checked.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    values: BTreeMap<&'static str, Setting>,
    /// The config file, if one was read.
    pub(crate) file: Option<PathBuf>,
}

/// Reads every source.
pub(crate) fn load(global: &Global, serving: &Serving) -> Result<Settings, Failure> {
    let folders = Folders::of_user(|name| std::env::var_os(name));
    let mut settings = Settings { values: defaults(&folders), file: None };
    let named = global.config.clone();
    if let Some(path) = path_of(global, &folders) {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                settings.merge(file::parse(&path, &text)?)?;
                settings.file = Some(path);
            }
            // Only a file that was asked for must exist.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => {}
            Err(error) => {
                return Err(Failure::usage(
                    "config_file",
                    format!("cannot read the config file {}: {error}", path.display()),
                    "check the path given with --config or COMMONHOLD_CONFIG, and its permissions",
                ));
            }
        }
    }
    settings.merge(variables(std::env::vars_os())?)?;
    settings.merge(flags(global, serving))?;
    Ok(settings)
}

/// Where the config file is, or would be.
pub(crate) fn path(global: &Global) -> Option<PathBuf> {
    path_of(global, &Folders::of_user(|name| std::env::var_os(name)))
}

fn path_of(global: &Global, folders: &Folders) -> Option<PathBuf> {
    global.config.clone().or_else(|| folders.config.as_ref().map(|dir| dir.join("config.toml")))
}

/// A checked way to every setting. The texts were parsed once by [`Key::check`], so parsing here cannot fail.
impl Settings {
    pub(crate) fn data(&self) -> PathBuf {
        PathBuf::from(self.text("store.data"))
    }

    pub(crate) fn keys(&self) -> PathBuf {
        PathBuf::from(self.text("store.keys"))
    }

    pub(crate) fn listen(&self) -> Vec<Address> {
        self.texts("peer.listen").iter().filter_map(|text| text.parse().ok()).collect()
    }

    /// Empty if there is no policy.
    pub(crate) fn policy_command(&self) -> Vec<String> {
        self.texts("policy.command").to_vec()
    }

    pub(crate) fn policy_wait(&self) -> Duration {
        Duration::from_millis(self.number("policy.wait_ms"))
    }

    /// Whether a connection is kept for which no answer comes.
    pub(crate) fn policy_admits(&self) -> bool {
        self.text("policy.unanswered") == "admit"
    }

    pub(crate) fn advertise(&self) -> Vec<String> {
        self.texts("peer.advertise").to_vec()
    }

    pub(crate) fn connect(&self) -> Vec<(Address, Option<DeviceId>)> {
        let trackers = self.trackers().filter_map(|tracker| match tracker {
            Tracker::Peer(address, device) => Some((address, device)),
            Tracker::Http(_) => None,
        });
        self.peers().into_iter().chain(trackers).collect()
    }

    /// Addresses that `peer.connect` names.
    pub(crate) fn peers(&self) -> Vec<(Address, Option<DeviceId>)> {
        self.texts("peer.connect").iter().filter_map(|text| keys::peer(text).ok()).collect()
    }

    /// The keys whose values differ.
    pub(crate) fn differing(&self, other: &Settings) -> Vec<&'static Key> {
        KEYS.iter().filter(|key| self.texts(key.name) != other.texts(key.name)).collect()
    }

    /// What says how peers are found. Trackers that are peers are among those of [`Settings::connect`].
    pub(crate) fn discovery(&self) -> Discovery {
        let trackers = self.trackers().filter_map(|tracker| match tracker {
            Tracker::Http(tracker) => Some(tracker),
            Tracker::Peer(..) => None,
        });
        let allowed = self.texts("discovery.allowed").iter().filter_map(|text| text.parse().ok());
        let lan = || Lan { interfaces: self.texts("discovery.lan_interfaces").to_vec() };
        Discovery {
            on: self.text("discovery.mode") == "on",
            allowed: Some(allowed.collect::<BTreeSet<_>>()).filter(|allowed| !allowed.is_empty()),
            trackers: trackers.collect(),
            tracker: self.flag("discovery.tracker"),
            lan: self.flag("discovery.lan").then(lan),
        }
    }

    /// What the network may cost, and whether it does.
    pub(crate) fn budgets(&self) -> (Budgets, bool) {
        let max = |key| Some(self.number(key) << 20).filter(|bytes| *bytes > 0);
        let serving = match self.text("budget.serving") {
            "never" => WhenToServe::Never,
            "metered" => WhenToServe::Metered,
            _ => WhenToServe::Always,
        };
        let budgets = Budgets { metered: max("budget.metered_mib"), background: max("budget.background_mib"), serving };
        (budgets, self.flag("budget.metered"))
    }

    /// What one document may cost.
    pub(crate) fn document_budget(&self) -> DocumentBudget {
        let max = |key, shift: u32| Some(self.number(key) << shift).filter(|max| *max > 0);
        DocumentBudget {
            changes: max("document.changes", 0),
            ops: max("document.operations", 0),
            bytes: max("document.mib", 20),
            memory_bytes: max("document.memory_mib", 20),
        }
    }

    /// How much may be stored.
    pub(crate) fn quotas(&self) -> Quotas {
        let max = |key, shift: u32| Some(self.number(key) << shift).filter(|max| *max > 0);
        let quota = |mib, documents| Quota { bytes: max(mib, 20), documents: max(documents, 0) };
        Quotas {
            space: quota("quota.space_mib", "quota.space_documents"),
            identity: quota("quota.identity_mib", "quota.identity_documents"),
        }
    }

    /// Bytes that may go to and come from one address in a day.
    pub(crate) fn address_bytes_max(&self) -> Option<u64> {
        Some(self.number("quota.address_mib") << 20).filter(|max| *max > 0)
    }

    /// Where announces over HTTP are taken.
    pub(crate) fn announce_listen(&self) -> Vec<SocketAddr> {
        self.texts("discovery.listen").iter().filter_map(|text| text.parse().ok()).collect()
    }

    /// Where automerge-repo clients connect.
    pub(crate) fn gateway_listen(&self) -> Vec<SocketAddr> {
        self.texts("gateway.listen").iter().filter_map(|text| text.parse().ok()).collect()
    }

    /// The space of their documents, if it is named.
    pub(crate) fn gateway_space(&self) -> Option<SpaceId> {
        self.text("gateway.space").parse().ok()
    }

    /// Where HTTP is served.
    pub(crate) fn http_listen(&self) -> Vec<SocketAddr> {
        self.texts("http.listen").iter().filter_map(|text| text.parse().ok()).collect()
    }

    /// What everybody may do over HTTP.
    pub(crate) fn http_open(&self) -> Vec<Opened> {
        self.texts("http.open").iter().filter_map(|text| text.parse().ok()).collect()
    }

    /// The file of a provider's keys, and whom its tokens are from and for.
    pub(crate) fn http_jwt(&self) -> Option<(PathBuf, String, String)> {
        let path = self.file("http.jwt_keys")?;
        Some((path, self.text("http.jwt_issuer").to_owned(), self.text("http.jwt_audience").to_owned()))
    }

    /// The files of the certificate that listeners show, and of its key.
    pub(crate) fn tls_pair(&self) -> Result<Option<(PathBuf, PathBuf)>, Failure> {
        match (self.file("tls.certificate"), self.file("tls.key")) {
            (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
            (None, None) => Ok(None),
            (certificate, _) => {
                let (set, missing) = match certificate {
                    Some(_) => ("tls.certificate", "tls.key"),
                    None => ("tls.key", "tls.certificate"),
                };
                let remedy = format!("set {missing} too, or neither of the two");
                Err(Failure::usage("tls", format!("{set} is set, and {missing} is not"), remedy))
            }
        }
    }

    /// The file of authorities that are trusted beside the system's.
    pub(crate) fn tls_roots(&self) -> Option<PathBuf> {
        self.file("tls.roots")
    }

    /// If webhooks are switched on: networks that they may reach beside public addresses.
    pub(crate) fn webhooks(&self) -> Option<Networks> {
        let networks = self.texts("webhooks.allow_networks").iter().filter_map(|text| text.parse().ok());
        self.flag("webhooks.enabled").then(|| networks.collect())
    }

    /// The folder of an app's pages.
    pub(crate) fn http_files(&self) -> Option<PathBuf> {
        self.file("http.files")
    }

    /// Where metrics and the page for operators are served.
    pub(crate) fn admin_listen(&self) -> Vec<SocketAddr> {
        self.texts("admin.listen").iter().filter_map(|text| text.parse().ok()).collect()
    }

    /// Origins of pages that may use HTTP.
    pub(crate) fn http_origins(&self) -> Vec<HeaderValue> {
        self.texts("http.origins").iter().filter_map(|text| HeaderValue::from_str(text).ok()).collect()
    }

    fn trackers(&self) -> impl Iterator<Item = Tracker> {
        self.texts("discovery.trackers").iter().filter_map(|text| keys::tracker(text).ok())
    }

    /// A path that may be left out.
    fn file(&self, key: &'static str) -> Option<PathBuf> {
        Some(PathBuf::from(self.text(key))).filter(|path| !path.as_os_str().is_empty())
    }

    pub(crate) fn flag(&self, key: &'static str) -> bool {
        self.text(key) == "true"
    }

    pub(crate) fn number(&self, key: &'static str) -> u64 {
        self.text(key).parse().expect("the value of a number was checked when it was set")
    }

    pub(crate) fn text(&self, key: &'static str) -> &str {
        self.texts(key).first().map_or("", String::as_str)
    }

    fn texts(&self, key: &'static str) -> &[String] {
        &self.values.get(key).expect("every key has a default").texts
    }

    /// Every key with its setting, in the order of the table.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static Key, &Setting)> {
        KEYS.iter().map(|key| (key, &self.values[key.name]))
    }

    fn merge(&mut self, more: Vec<(&'static Key, Setting)>) -> Result<(), Failure> {
        for (key, setting) in more {
            for text in &setting.texts {
                key.check(text).map_err(|why| {
                    Failure::usage(
                        "config_value",
                        format!("{}: {} cannot be {text:?}: {why}", setting.origin, key.name),
                        format!("give it {}", key.kind.expects()),
                    )
                })?;
            }
            self.values.insert(key.name, setting);
        }
        Ok(())
    }
}

/// The user's folders, where the system tells.
struct Folders {
    data: Option<PathBuf>,
    config: Option<PathBuf>,
}

impl Folders {
    fn of_user(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        // The specification of these variables says that a relative path is to be ignored.
        let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute("HOME");
        let folder = |name: &str, below: &str| {
            absolute(name).or_else(|| home.as_ref().map(|home| home.join(below))).map(|dir| dir.join("commonhold"))
        };
        Folders { data: folder("XDG_DATA_HOME", ".local/share"), config: folder("XDG_CONFIG_HOME", ".config") }
    }
}

fn defaults(folders: &Folders) -> BTreeMap<&'static str, Setting> {
    let default = |key: &Key| match key.name {
        // A service without a home has to name its folders; `Key::check` refuses an empty path when they are needed.
        "store.data" => folders.data.clone().map(|dir| dir.display().to_string()).into_iter().collect(),
        "store.keys" => folders.config.clone().map(|dir| dir.join("keys").display().to_string()).into_iter().collect(),
        _ => key.default_texts(),
    };
    KEYS.iter().map(|key| (key.name, Setting { texts: default(key), origin: Origin::Default })).collect()
}

fn variables(all: impl Iterator<Item = (OsString, OsString)>) -> Result<Vec<(&'static Key, Setting)>, Failure> {
    let mut found = Vec::new();
    for (name, value) in all {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX) && *name != CONFIG_VARIABLE) else {
            continue;
        };
        let Some(key) = KEYS.iter().find(|key| key.variable() == name) else {
            let known = KEYS.iter().map(Key::variable).collect::<Vec<_>>();
            match nearest(name, known.iter().map(String::as_str)) {
                Some(near) => return Err(unknown(&format!("variable {name}"), Some(near))),
                // Not ours, such as those that Kubernetes sets for a service of this name.
                None if !keys::sections()
                    .any(|s| name[PREFIX.len()..].starts_with(&format!("{}_", s.to_uppercase()))) =>
                {
                    continue;
                }
                None => return Err(unknown(&format!("variable {name}"), None)),
            }
        };
        let Some(value) = value.to_str() else {
            return Err(Failure::usage("config_value", format!("${name} is not UTF-8"), "set it again"));
        };
        let texts = match key.kind {
            Kind::List(_) => {
                value.split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect()
            }
            _ => vec![value.to_owned()],
        };
        found.push((key, Setting { texts, origin: Origin::Variable(name.to_owned()) }));
    }
    Ok(found)
}

fn flags(global: &Global, serving: &Serving) -> Vec<(&'static Key, Setting)> {
    let path = |path: &Option<PathBuf>| path.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    [
        ("store.data", "--data", path(&global.data)),
        ("store.keys", "--keys", path(&global.keys)),
        ("log.format", "--log", global.log.iter().cloned().collect()),
        ("log.level", "--log-level", global.log_level.iter().cloned().collect()),
        ("peer.listen", "--listen", serving.listen.clone()),
        ("peer.advertise", "--advertise", serving.advertise.clone()),
        ("peer.connect", "--connect", serving.connect.clone()),
    ]
    .into_iter()
    .filter(|(_, _, texts)| !texts.is_empty())
    .map(|(name, flag, texts)| (keys::key(name), Setting { texts, origin: Origin::Flag(flag) }))
    .collect()
}

fn unknown(what: &str, near: Option<&str>) -> Failure {
    match near {
        Some(near) => Failure::usage("config_unknown", format!("unknown {what}"), format!("did you mean {near}?")),
        None => Failure::usage(
            "config_unknown",
            format!("unknown {what}"),
            "remove it; `commonhold config print` lists what there is",
        ),
    }
}

/// The name that was probably meant: at most a third of it mistyped.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.map(|known| (distance(name, known), known)).min()?;
    // Two letters that changed places are two edits.
    (near.0 <= (near.1.trim_start_matches(PREFIX).len() + 1) / 3).then_some(near.1)
}

/// Edit distance in characters (insert, delete, replace).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let replace = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// All settings as a config file that says the same, with what each is for and where it comes from.
pub(crate) fn as_toml(settings: &Settings) -> String {
    let quoted = |text: &String| toml::Value::String(text.clone()).to_string();
    let (mut text, mut section) = (String::new(), "");
    for (key, setting) in settings.all() {
        if key.section() != section {
            section = key.section();
            text += &format!("{}[{section}]\n", if text.is_empty() { "" } else { "\n" });
        }
        let value = match key.kind {
            Kind::List(_) => format!("[{}]", setting.texts.iter().map(quoted).collect::<Vec<_>>().join(", ")),
            Kind::Number(..) | Kind::Flag => setting.texts.concat(),
            _ => quoted(&setting.texts.concat()),
        };
        text += &format!("# {} (from: {})\n{} = {value}\n", key.explained(), setting.origin, key.short());
    }
    text
}

/// A path made absolute without looking at the disk.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests;
