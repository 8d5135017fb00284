use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::super::tls::{Acceptor, Certificate, Roots, Tls, TlsError};
use super::*;

/// A folder with an authority (`root.pem`), and a certificate of it (`chain.pem`, `key.pem`) for these names.
struct Issued(TempDir);

impl Issued {
    fn new(names: &[&str]) -> Issued {
        let issued = Issued(tempfile::tempdir().unwrap());
        issued.renew(names);
        issued
    }

    /// All of it anew, by another authority.
    fn renew(&self, names: &[&str]) {
        let mut root = CertificateParams::new(vec![]).unwrap();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Two of one name would be one that lost its key.
        static MADE: AtomicUsize = AtomicUsize::new(0);
        root.distinguished_name.push(DnType::CommonName, format!("authority {}", MADE.fetch_add(1, Relaxed)));
        let root_key = KeyPair::generate().unwrap();
        fs::write(self.file("root.pem"), root.self_signed(&root_key).unwrap().pem()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        let certificate = params.signed_by(&key, &Issuer::new(root, root_key)).unwrap();
        fs::write(self.file("chain.pem"), certificate.pem()).unwrap();
        fs::write(self.file("key.pem"), key.serialize_pem()).unwrap();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn certificate(&self) -> Certificate {
        Certificate::load(&self.file("chain.pem"), &self.file("key.pem")).unwrap()
    }

    /// Read now, since the folder goes before they do.
    fn roots(&self) -> Roots {
        let roots = Roots::with_file(&self.file("root.pem"));
        roots.client_config().unwrap();
        roots
    }

    /// Of a peer that shows this certificate and trusts its authority.
    fn config(&self) -> TransportConfig {
        let tls = Tls { certificate: Some(self.certificate()), roots: self.roots() };
        TransportConfig { tls, ..TransportConfig::default() }
    }
}

async fn listener(config: &TransportConfig) -> Listener {
    listen(&"wss://127.0.0.1:0/sync".parse().unwrap(), config).await.unwrap()
}

fn trusting(roots: Roots) -> TransportConfig {
    TransportConfig { tls: Tls { certificate: None, roots }, ..TransportConfig::default() }
}

#[tokio::test]
async fn frames_cross_tls_both_ways_and_its_end_is_told_as_without() {
    let config = Issued::new(&["127.0.0.1"]).config();
    let mut listener = listener(&config).await;
    let address = listener.address().clone();
    assert!(address.to_string().starts_with("wss://127.0.0.1:"));
    let (link, accepted) = tokio::join!(dial(&address, &config), listener.accept());
    let (mut link, mut other) = (link.unwrap(), accepted.link);
    for length in [0, 1, 16_384, 65_536, config.frame_bytes_max] {
        let frame: Vec<u8> = (0..length).map(|i| i as u8).collect();
        for _ in 0..2 {
            let sending = async {
                link.send(&frame).await?;
                link.flush().await
            };
            let (sent, read) = tokio::join!(sending, other.recv());
            sent.unwrap();
            assert_eq!(read.unwrap().unwrap(), frame);
            std::mem::swap(&mut link, &mut other);
        }
    }
    // Without a goodbye of TLS.
    drop(link);
    assert!(matches!(other.recv().await, Err(TransportError::Lost { midway: false })));
}

#[tokio::test]
async fn who_is_dialled_must_have_a_certificate_for_its_name_of_an_authority_that_is_trusted() {
    let (issued, other) = (Issued::new(&["127.0.0.1"]), Issued::new(&["127.0.0.1"]));
    let of_another_name = Issued::new(&["example.org"]);
    for (shown, trusted) in [(&issued, &other), (&of_another_name, &of_another_name)] {
        let listener = listener(&shown.config()).await;
        let refused = dial(listener.address(), &trusting(trusted.roots())).await.unwrap_err();
        assert!(matches!(&refused, TransportError::Untrusted { host, .. } if host == "127.0.0.1"), "{refused}");
        assert!(refused.is_for_people() && refused.to_string().contains("add the authority"), "{refused}");
    }
    let missing = Roots::with_file(&issued.file("nothing.pem"));
    let listener = listener(&issued.config()).await;
    let refused = dial(listener.address(), &trusting(missing)).await.unwrap_err();
    assert!(refused.to_string().contains("nothing.pem"), "{refused}");
}

#[tokio::test]
async fn who_speaks_tls_and_who_does_not_part_at_once() {
    let config = Issued::new(&["127.0.0.1"]).config();
    let (inside, plain) = (listener(&config).await, super::listener(&config).await);
    let scheme = |listener: &Listener, scheme: &str| {
        let address = listener.address().to_string();
        format!("{scheme}://{}", address.split_once("://").unwrap().1).parse::<Address>().unwrap()
    };
    let refused = dial(&scheme(&plain, "wss"), &config).await.unwrap_err();
    assert!(refused.to_string().contains("begins with ws://"), "{refused}");
    assert!(matches!(
        dial(&scheme(&inside, "ws"), &config).await,
        Err(TransportError::Handshake(_) | TransportError::Io(_))
    ));
    assert_eq!(answer_to(inside.address(), "GET /sync HTTP/1.1\r\nHost: x\r\n\r\n").await.find("HTTP"), None);
}

#[tokio::test]
async fn without_a_certificate_nothing_listens_with_tls() {
    let refused = listen(&"wss://127.0.0.1:0/".parse().unwrap(), &TransportConfig::default()).await.unwrap_err();
    assert!(matches!(refused, TransportError::NoCertificate));
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_holds_up_nobody_and_takes_a_place_of_its_block() {
    let config = TransportConfig { unauthenticated_per_block: 2, ..Issued::new(&["127.0.0.1"]).config() };
    let mut listener = listener(&config).await;
    let address = listener.address().clone();
    let Address::WebSocket { port, .. } = address else { panic!() };
    let _slow = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let first = dial(&address, &config).await.unwrap();
    let accepted = listener.accept().await;
    assert!(dial(&address, &config).await.is_err(), "one place is taken by the slow one, one by the first");
    drop((first, accepted));
    dial(&address, &config).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn handshakes_of_other_listeners_are_bounded_in_time_and_number() {
    let config = TransportConfig { unauthenticated_per_block: 2, ..TransportConfig::default() };
    let acceptor = Acceptor::new(Issued::new(&["a"]).certificate(), config.clone());
    let from: IpAddr = [192, 0, 2, 1].into();
    let (mut pipes, mut held) = (vec![], vec![]);
    for _ in 0..2 {
        let (client, server) = tokio::io::duplex(64);
        let mut accepting = Box::pin(acceptor.accept(server, from));
        assert!(is_waiting(&mut accepting).await);
        pipes.push(client);
        held.push(accepting);
    }
    let another = || tokio::io::duplex(64).1;
    assert!(matches!(acceptor.accept(another(), from).await, Err(TransportError::Crowded)));
    let (_client, server) = tokio::io::duplex(64);
    assert!(is_waiting(acceptor.accept(server, [192, 0, 3, 1].into())).await, "another block has places of its own");
    for accepting in held {
        assert!(matches!(accepting.await, Err(TransportError::Slow(_))));
    }
    // Their places are free again; this one is gone before it says anything.
    assert!(matches!(acceptor.accept(another(), from).await, Err(TransportError::Tls(_))));
}

#[tokio::test]
async fn a_renewed_pair_is_shown_to_who_connects_then_and_a_broken_one_changes_nothing() {
    let issued = Issued::new(&["127.0.0.1"]);
    let config = issued.config();
    let listener = listener(&config).await;
    let (before, shown) = (config.tls.roots.clone(), config.tls.certificate.clone().unwrap());
    dial(listener.address(), &trusting(before.clone())).await.unwrap();

    let reload = || shown.reload(&issued.file("chain.pem"), &issued.file("key.pem"));
    issued.renew(&["127.0.0.1"]);
    reload().unwrap();
    dial(listener.address(), &trusting(issued.roots())).await.unwrap();
    let refused = dial(listener.address(), &trusting(before.clone())).await;
    assert!(matches!(refused, Err(TransportError::Untrusted { .. })), "{refused:?}");
    before.forget();
    dial(listener.address(), &trusting(before)).await.unwrap();

    // A key that is not the certificate's, no PEM, nothing, too much.
    let key = fs::read(issued.file("key.pem")).unwrap();
    let other = Issued::new(&["127.0.0.1"]);
    fs::copy(other.file("key.pem"), issued.file("key.pem")).unwrap();
    let wrong = reload().unwrap_err();
    assert!(matches!(&wrong, TlsError::Pair { .. }), "{wrong}");
    assert!(wrong.to_string().contains("chain.pem") && wrong.to_string().contains("key.pem"), "{wrong}");
    for text in ["", "nonsense", "-----BEGIN PRIVATE KEY-----\n????\n-----END PRIVATE KEY-----\n"] {
        fs::write(issued.file("key.pem"), text).unwrap();
        let wrong = reload().unwrap_err();
        assert!(matches!(&wrong, TlsError::Content { path, .. } if path.ends_with("key.pem")), "{text}: {wrong}");
    }
    fs::write(issued.file("key.pem"), vec![b' '; 5 << 20]).unwrap();
    assert!(reload().unwrap_err().to_string().contains("has more than 4 MiB"));
    fs::write(issued.file("key.pem"), key).unwrap();
    fs::write(issued.file("chain.pem"), "").unwrap();
    assert!(reload().unwrap_err().to_string().contains("chain.pem holds no certificate"));
    fs::remove_file(issued.file("chain.pem")).unwrap();
    assert!(matches!(reload(), Err(TlsError::Read { .. })));
    dial(listener.address(), &trusting(issued.roots())).await.unwrap();
}
