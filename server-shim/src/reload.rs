//! The configuration, read again while the peer runs: at SIGHUP, and when the file has changed. The same with the certificate.
//!
//! The file is looked at each second rather than watched: it costs one call, and sees what watchers miss (links that are switched, as
//! container managers do it, and network file systems).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use commonhold_engine::Node;
use commonhold_engine::tls::Tls;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{error, info, warn};

use crate::args::{Global, Serving};
use crate::config::{self, Settings};
use crate::failure::Failure;
use crate::http::Listening;
use crate::{logs, supervised, tls};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What tells one state of the file from another.
pub(crate) type Stamp = Option<(u64, u64, u64, Option<SystemTime>)>;

/// What is read again, and when.
pub(crate) struct Reload {
    global: Global,
    serving: Serving,
    /// As they were read last; those that need a restart may not be in force.
    settings: Settings,
    path: Option<PathBuf>,
    seen: Stamp,
    certificate: tls::Files,
    hangup: Signal,
    looks: Interval,
}

impl Reload {
    pub(crate) fn listen(
        global: &Global,
        serving: &Serving,
        settings: &Settings,
        tls: &Tls,
    ) -> Result<Reload, Failure> {
        let hangup = signal(SignalKind::hangup()).map_err(|error| {
            Failure::failed("signals", format!("cannot listen for signals: {error}"), "free some file descriptors")
        })?;
        let path = config::path(global);
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Reload {
            global: global.clone(),
            serving: serving.clone(),
            settings: settings.clone(),
            seen: stamp(&path),
            path,
            certificate: tls::Files::new(settings, tls)?,
            hangup,
            looks,
        })
    }

    /// Returns when the configuration is to be read again; the certificate is, meanwhile. Cancel-safe.
    pub(crate) async fn wanted(&mut self) {
        loop {
            tokio::select! {
                Some(()) = self.hangup.recv() => {
                    self.seen = stamp(&self.path);
                    self.certificate.again();
                    return;
                }
                _ = self.looks.tick() => {
                    self.certificate.look();
                    let now = stamp(&self.path);
                    if now != self.seen {
                        self.seen = now;
                        return;
                    }
                }
            }
        }
    }

    /// Reads the configuration again, and takes what can be taken. One that is wrong changes nothing.
    pub(crate) async fn again(&mut self, node: &Node, http: &Listening) {
        let clock = NotifyState::monotonic_usec_now();
        supervised::tell(&[NotifyState::Reloading].into_iter().chain(clock.ok()).collect::<Vec<_>>());
        match config::load(&self.global, &self.serving) {
            Ok(new) => self.take(new, node, http).await,
            Err(failure) => error!(
                what = failure.what,
                remedy = failure.remedy,
                "the configuration is wrong and was not taken: all stays as it was"
            ),
        }
        supervised::tell(&[NotifyState::Ready]);
    }

    async fn take(&mut self, new: Settings, node: &Node, http: &Listening) {
        let changed = self.settings.differing(&new);
        let old = std::mem::replace(&mut self.settings, new);
        for key in changed {
            match key.name {
                "peer.advertise" => {
                    let named = Some(self.settings.advertise()).filter(|named| !named.is_empty());
                    if let Err(error) = node.advertise(named.unwrap_or_else(|| node.listening())).await {
                        warn!(%error, "the new addresses are not told yet");
                    }
                }
                "peer.connect" => {
                    let all = self.settings.connect();
                    for (address, _) in old.peers() {
                        if all.iter().all(|(kept, _)| *kept != address) {
                            node.stop_dialling(&address);
                        }
                    }
                    self.settings.peers().into_iter().for_each(|(address, device)| node.connect(address, device));
                }
                "http.open" => http.open(self.settings.http_open()),
                "budget.metered" => {
                    if let Err(error) = node.set_metered(self.settings.flag("budget.metered")).await {
                        warn!(%error, "whether the network is metered is not known yet");
                    }
                }
                "quota.space_mib" | "quota.space_documents" | "quota.identity_mib" | "quota.identity_documents" => {
                    if let Err(error) = node.set_quotas(self.settings.quotas()).await {
                        warn!(%error, "the new quotas are not known yet");
                    }
                }
                "quota.address_mib" => node.addresses().set_max(self.settings.address_bytes_max()),
                "log.level" => logs::set_level(&self.settings),
                key => {
                    warn!(key, "has another value now, which takes effect when this peer is started again");
                    continue;
                }
            }
            info!(key = key.name, "has another value now");
        }
    }
}

pub(crate) fn stamp(path: &Option<PathBuf>) -> Stamp {
    // Through links: which file it is tells as well.
    let facts = fs::metadata(path.as_ref()?).ok()?;
    Some((facts.dev(), facts.ino(), facts.len(), facts.modified().ok()))
}
