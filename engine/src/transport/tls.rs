//! TLS around connections: the certificate that listeners show, and the roots by which who was dialled is checked.
//!
//! Among peers it adds no trust: devices are proven by the channel inside (docs/protocol.md, §2), and a certificate that fits says no more than
//! that the name leads there. It is for networks and proxies that let nothing else through, and for programs that are no peers and have nothing else.
//!
//! rustls with `ring`; the other set of ciphers is a C library. Roots are the system's, not a list that is compiled in: who runs the system
//! decides whom it trusts, and an authority that fell is gone with the system's update. TLS 1.2 and 1.3, `http/1.1` as the only protocol, no
//! certificates of clients, no early data.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::time::timeout;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::listener::Blocks;
use super::{Admission, Stream, TransportConfig, TransportError, locked};

/// Bytes of a PEM file at most. A chain has some 10 KiB, all roots of a system some 220 KiB.
const PEM_BYTES_MAX: u64 = 4 << 20;
/// What is spoken inside.
const PROTOCOL: &[u8] = b"http/1.1";

/// What connections with TLS need.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// What listeners show; `None`: nothing listens with TLS.
    pub certificate: Option<Certificate>,
    /// By whom the certificates of others are vouched for.
    pub roots: Roots,
}

/// A chain of certificates and its key, to listen with. Clones share it: what [`reload`](Certificate::reload) puts in its place is shown by
/// all of them, to whoever connects from then on.
#[derive(Clone)]
pub struct Certificate(Arc<RwLock<Arc<ServerConfig>>>);

/// Why a certificate, or roots, cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("{} {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Each file is good, and they are not a pair.
    #[error("the key in {} is not that of the first certificate in {}: {why}", key.display(), certificate.display())]
    Pair {
        /// File of the chain.
        certificate: PathBuf,
        /// File of the key.
        key: PathBuf,
        /// In the words of the library.
        why: String,
    },
    /// The system names no roots.
    #[error("this system has no root certificates{}", .0.as_deref().map(|why| format!(": {why}")).unwrap_or_default())]
    NoRoots(Option<String>),
}

impl Certificate {
    /// From two PEM files: the chain, beginning with the listener's own certificate, and the key of that. Reads the disk.
    pub fn load(chain: &Path, key: &Path) -> Result<Certificate, TlsError> {
        Ok(Certificate(Arc::new(RwLock::new(server_config(chain, key)?))))
    }

    /// The same in place of what is shown now. A pair that is wrong changes nothing. Reads the disk.
    pub fn reload(&self, chain: &Path, key: &Path) -> Result<(), TlsError> {
        let config = server_config(chain, key)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// The listener's side of a handshake. The caller bounds the time.
    pub(super) async fn accept<S: Stream>(&self, stream: S) -> Result<server::TlsStream<S>, TransportError> {
        let config = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        TlsAcceptor::from(config).accept(stream).await.map_err(|error| match library_error(&error) {
            Some(rustls::Error::InvalidMessage(_)) => TransportError::Tls("what came is not TLS".to_owned()),
            _ => TransportError::Tls(error.to_string()),
        })
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate")
    }
}

fn server_config(chain_file: &Path, key_file: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(chain_file)?;
    let key = PrivateKeyDer::from_pem_slice(&read(key_file)?).map_err(|error| {
        let what = match error {
            PemError::NoItemsFound => "holds no private key in PEM that is not itself encrypted".to_owned(),
            error => format!("is not PEM: {error}"),
        };
        TlsError::Content { path: key_file.to_owned(), what }
    })?;
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let pair = builder.and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
    let mut config = pair.map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) | rustls::Error::InvalidCertificate(_) => {
            TlsError::Pair { certificate: chain_file.to_owned(), key: key_file.to_owned(), why: error.to_string() }
        }
        error => {
            TlsError::Content { path: key_file.to_owned(), what: format!("holds a key that is of no use: {error}") }
        }
    })?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(Arc::new(config))
}

/// By whom the certificates of those who are dialled must be vouched for: the authorities that the system trusts, and those of a file. Clones
/// share what was read, which is at the first use.
#[derive(Clone, Default)]
pub struct Roots(Arc<Known>);

#[derive(Default)]
struct Known {
    file: Option<PathBuf>,
    config: Mutex<Option<Arc<ClientConfig>>>,
}

impl Roots {
    /// The system's, and beside them those in a PEM file.
    pub fn with_file(file: &Path) -> Roots {
        Roots(Arc::new(Known { file: Some(file.to_owned()), config: Mutex::default() }))
    }

    /// What a client speaks TLS with, `http/1.1` inside. The first call reads the disk, some milliseconds; one that failed is made anew by the
    /// next. Every client of this program asks here.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let mut known = locked(&self.0.config);
        if let Some(config) = &*known {
            return Ok(config.clone());
        }
        let config = Arc::new(client_config(self.0.file.as_deref())?);
        *known = Some(config.clone());
        Ok(config)
    }

    /// Has the files read again at the next use.
    pub fn forget(&self) {
        *locked(&self.0.config) = None;
    }

    /// The dialler's side of a handshake with who must have a certificate for this host. The caller bounds the time.
    pub async fn connect<S: Stream>(&self, host: &str, stream: S) -> Result<client::TlsStream<S>, TransportError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| TransportError::Tls(format!("{host:?} is no name that a certificate could be for")))?;
        let roots = self.clone();
        let config = tokio::task::spawn_blocking(move || roots.client_config()).await;
        let config = config.map_err(|error| TransportError::Tls(error.to_string()))??;
        TlsConnector::from(config).connect(name, stream).await.map_err(|error| match library_error(&error) {
            Some(rustls::Error::InvalidCertificate(why)) => {
                TransportError::Untrusted { host: host.to_owned(), why: why.to_string() }
            }
            Some(rustls::Error::InvalidMessage(_)) => TransportError::Tls(
                "nobody speaks TLS there; without it an address begins with ws:// or http://".into(),
            ),
            None if error.kind() == io::ErrorKind::UnexpectedEof => TransportError::Tls(
                "the other side hung up; where nobody speaks TLS, an address begins with ws:// or http://".into(),
            ),
            _ => TransportError::Tls(error.to_string()),
        })
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Roots").field(&self.0.file).finish()
    }
}

fn client_config(file: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    let of_system = rustls_native_certs::load_native_certs();
    // Some systems have one or two that the library cannot read; the others are good.
    roots.add_parsable_certificates(of_system.certs);
    if let Some(file) = file {
        for certificate in certificates(file)? {
            roots.add(certificate).map_err(|error| TlsError::Content {
                path: file.to_owned(),
                what: format!("holds a certificate that is no authority's: {error}"),
            })?;
        }
    }
    if roots.is_empty() {
        return Err(TlsError::NoRoots(of_system.errors.first().map(|error| error.to_string())));
    }
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.expect("the provider has the ciphers of both versions");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(config)
}

/// Handshakes of those who connect to a listener that is not a peer's: each within [`TransportConfig::handshake`], and as many at once, in all
/// and from one block of addresses, as peers may have connections that did not say yet who they are. Clones count together.
#[derive(Debug, Clone)]
pub struct Acceptor {
    certificate: Certificate,
    blocks: Arc<Blocks>,
    config: TransportConfig,
}

impl Acceptor {
    /// One that shows this certificate.
    pub fn new(certificate: Certificate, config: TransportConfig) -> Acceptor {
        Acceptor { certificate, blocks: Arc::default(), config }
    }

    /// A handshake with who connected from there.
    pub async fn accept<S: Stream>(&self, stream: S, from: IpAddr) -> Result<server::TlsStream<S>, TransportError> {
        let _place = Admission::ask(&self.blocks, from, &self.config).ok_or(TransportError::Crowded)?;
        let patience = self.config.handshake;
        timeout(patience, self.certificate.accept(stream)).await.map_err(|_| TransportError::Slow(patience))?
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn library_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// At least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault = |what: String| TlsError::Content { path: file.to_owned(), what };
    let found = CertificateDer::pem_slice_iter(&read(file)?).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| fault(format!("is not PEM: {error}")))?;
    if found.is_empty() { Err(fault("holds no certificate in PEM".to_owned())) } else { Ok(found) }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    if bytes.len() as u64 > PEM_BYTES_MAX {
        let what = format!("has more than {} MiB", PEM_BYTES_MAX >> 20);
        return Err(TlsError::Content { path: path.to_owned(), what });
    }
    Ok(bytes)
}
