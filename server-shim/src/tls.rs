//! TLS at this program's own listeners and for whom it dials: the files that the configuration names, read at the start and again when they
//! have changed, as a renewal changes them. What is spoken, and what bounds it, is the engine's.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use commonhold_engine::Address;
use commonhold_engine::tls::{Acceptor, Certificate, Roots, Tls, TlsError};
use commonhold_engine::transport::{Stream, TransportConfig};
use tokio_util::either::Either;
use tracing::{debug, error, info, warn};

use crate::config::Settings;
use crate::failure::{Failure, chain};
use crate::reload::{Stamp, stamp};

/// What the configuration says of TLS, read and found good.
pub(crate) fn of(settings: &Settings) -> Result<Tls, Failure> {
    let certificate = match settings.tls_pair()? {
        Some((certificate, key)) => {
            tell_of_mode(&key);
            Some(Certificate::load(&certificate, &key).map_err(|error| failure(&error))?)
        }
        None => None,
    };
    let inside = |address: &Address| matches!(address, Address::WebSocket { tls: true, .. });
    if certificate.is_none()
        && let Some(address) = settings.listen().into_iter().find(inside)
    {
        return Err(Failure::usage(
            "tls",
            format!("peer.listen has {address}, and there is no certificate to show there"),
            "set tls.certificate and tls.key, or listen at ws:// and let a proxy do TLS",
        ));
    }
    let tls = Tls { certificate, roots: roots(settings) };
    if settings.tls_roots().is_some() {
        tls.roots.client_config().map_err(|error| failure(&error))?;
    }
    Ok(tls)
}

/// By whom the certificates of those that are dialled must be vouched for. Nothing is read before the first dial.
pub(crate) fn roots(settings: &Settings) -> Roots {
    settings.tls_roots().map_or_else(Roots::default, |file| Roots::with_file(&file))
}

pub(crate) fn failure(error: &TlsError) -> Failure {
    let remedy = match error {
        TlsError::Read { .. } => "check the path, and that the user this program runs as may read the file",
        TlsError::Pair { .. } => {
            "put the key's own certificate first in tls.certificate, and those of its authorities after it"
        }
        _ => {
            "tls.certificate, tls.key and tls.roots are PEM files: text with -----BEGIN CERTIFICATE-----, or -----BEGIN PRIVATE KEY-----"
        }
    };
    Failure::usage("tls", chain(error), remedy)
}

/// Groups are how services are given keys; everybody is a slip.
fn tell_of_mode(key: &PathBuf) {
    if fs::metadata(key).is_ok_and(|facts| facts.permissions().mode() & 0o004 != 0) {
        warn!(file = %key.display(), "everybody on this machine can read the key of TLS: chmod o-r");
    }
}

/// What stands between a connection that was accepted and what is spoken on it. Clones share the places of handshakes.
#[derive(Clone)]
pub(crate) struct Door(Option<Acceptor>);

impl Door {
    /// With TLS if there is a certificate.
    pub(crate) fn new(tls: &Tls) -> Door {
        Door(tls.certificate.clone().map(|certificate| Acceptor::new(certificate, TransportConfig::default())))
    }

    pub(crate) fn has_tls(&self) -> bool {
        self.0.is_some()
    }

    /// What is inside; none if the handshake came to nothing, which is in the log.
    pub(crate) async fn open<S: Stream>(&self, stream: S, from: SocketAddr) -> Option<impl Stream + use<S>> {
        let Some(acceptor) = &self.0 else { return Some(Either::Left(stream)) };
        let inside = acceptor.accept(stream, from.ip()).await;
        inside.inspect_err(|error| debug!(%from, %error, "no TLS")).ok().map(Either::Right)
    }
}

/// The files, while this program serves.
pub(crate) struct Files {
    tls: Tls,
    pair: Option<(PathBuf, PathBuf)>,
    roots: Option<PathBuf>,
    /// As they were when they were read.
    read: Stamps,
    /// As they were at the last look: what is just being written is left alone until it is done.
    looked: Stamps,
    /// The certificate or its key could not be read, which may change without a change of the files: a right, a directory, a disk.
    unread: bool,
}

type Stamps = [Stamp; 3];

impl Files {
    pub(crate) fn new(settings: &Settings, tls: &Tls) -> Result<Files, Failure> {
        let mut files = Files {
            tls: tls.clone(),
            pair: settings.tls_pair()?,
            roots: settings.tls_roots(),
            read: Stamps::default(),
            looked: Stamps::default(),
            unread: false,
        };
        files.read = files.stamps();
        files.looked = files.read;
        Ok(files)
    }

    /// Reads what has changed and was still for one look: a renewal writes one file after the other. What could not be read is tried again.
    pub(crate) fn look(&mut self) {
        let now = self.stamps();
        let still = std::mem::replace(&mut self.looked, now) == now;
        if still && now != self.read {
            self.again();
        } else if still && self.unread {
            self.reload(false);
        }
    }

    /// Reads them. Those that are wrong change nothing.
    pub(crate) fn again(&mut self) {
        // Before they are read: what is written meanwhile is seen at the next look.
        self.read = self.stamps();
        self.tls.roots.forget();
        self.reload(true);
    }

    /// Reads the certificate and its key. That they cannot be read is told the first time.
    fn reload(&mut self, first: bool) {
        let (Some(shown), Some((certificate, key))) = (&self.tls.certificate, &self.pair) else { return };
        let reloaded = shown.reload(certificate, key);
        self.unread = matches!(reloaded, Err(TlsError::Read { .. }));
        if first || !self.unread {
            tell_of_mode(key);
        }
        match reloaded {
            Ok(()) => info!(file = %certificate.display(), "new connections are shown this certificate"),
            Err(wrong) if first || !self.unread => {
                let failure = failure(&wrong);
                error!(
                    what = failure.what,
                    remedy = failure.remedy,
                    "the new certificate is wrong and was not taken: the one before is shown on"
                );
            }
            Err(wrong) => debug!(%wrong, "the new certificate still cannot be read"),
        }
    }

    fn stamps(&self) -> Stamps {
        let (certificate, key) = self.pair.clone().unzip();
        [stamp(&certificate), stamp(&key), stamp(&self.roots)]
    }
}
