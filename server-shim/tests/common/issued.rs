//! Certificates for tests.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// A folder with an authority (`root.pem`), and a certificate of it for the loopback (`chain.pem`, `key.pem`).
pub(crate) struct Issued(TempDir);

impl Issued {
    pub(crate) fn new() -> Issued {
        let issued = Issued(tempfile::tempdir().unwrap());
        issued.renew();
        issued
    }

    /// All of it anew, by another authority; one file after the other.
    pub(crate) fn renew(&self) {
        let mut root = CertificateParams::new(vec![]).unwrap();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Two of one name would be one that lost its key.
        static MADE: AtomicUsize = AtomicUsize::new(0);
        root.distinguished_name.push(DnType::CommonName, format!("authority {}", MADE.fetch_add(1, Relaxed)));
        let root_key = KeyPair::generate().unwrap();
        fs::write(self.file("root.pem"), root.self_signed(&root_key).unwrap().pem()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = ["localhost", "127.0.0.1"].map(str::to_owned).to_vec();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &Issuer::new(root, root_key)).unwrap();
        fs::write(self.file("chain.pem"), certificate.pem()).unwrap();
        self.write_key(&key.serialize_pem(), 0o600);
    }

    pub(crate) fn write_key(&self, text: &str, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        fs::write(self.file("key.pem"), text).unwrap();
        fs::set_permissions(self.file("key.pem"), fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Variables of a peer that shows this certificate.
    pub(crate) fn shown(&self) -> [(&'static str, PathBuf); 2] {
        [("COMMONHOLD_TLS_CERTIFICATE", self.file("chain.pem")), ("COMMONHOLD_TLS_KEY", self.file("key.pem"))]
    }

    /// The variable of a peer that trusts its authority.
    pub(crate) fn trusted(&self) -> (&'static str, PathBuf) {
        ("COMMONHOLD_TLS_ROOTS", self.file("root.pem"))
    }
}
