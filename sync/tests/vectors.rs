//! The test vectors of the protocol, docs/vectors/*.json: what this code writes must be what stands there.
//!
//! `UPDATE_VECTORS=1 cargo test -p commonhold-sync --test vectors` writes them anew. tests/vectors holds a decoder in another
//! language that reads the same files and recomputes every hash, head and signature.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

#[path = "vectors/made.rs"]
mod made;
#[path = "vectors/refused.rs"]
mod refused;
#[path = "../../tests/wasm-probe/src/session.rs"]
#[allow(unreachable_pub, reason = "the probe for wasm is a crate of its own")]
mod session;
#[path = "vectors/text.rs"]
mod text;
#[path = "vectors/wire.rs"]
mod wire;

use std::path::PathBuf;

use commonhold_sync::chain::{Kind, Opening};
use commonhold_sync::id::{DeviceId, DocId, SpaceId};
use commonhold_sync::record::{Genesis, Privacy, Record, Writers};
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};

/// Compares with the file, or writes it.
fn check(name: &str, vectors: &Value) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/vectors").join(format!("{name}.json"));
    let text = serde_json::to_string_pretty(vectors).unwrap() + "\n";
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        return std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    assert!(kept == text, "{name}.json differs from what this code writes; see the head of this file");
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// A byte string in the decoded form of a message.
fn bytes(bytes: impl AsRef<[u8]>) -> Value {
    json!({ "bytes": hex(bytes) })
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&session::FOUNDER)
}

fn device() -> DeviceId {
    DeviceId(key().verifying_key().to_bytes())
}

fn genesis() -> Genesis {
    Genesis { root: device().into(), privacy: Privacy::Public, writers: Writers::Granted, rules: 1, nonce: [3; 16] }
}

fn space() -> SpaceId {
    genesis().space()
}

fn header() -> Record {
    Record::Header { nonce: [4; 16], kind: "list".into(), name: "Shopping".into() }
}

fn doc() -> DocId {
    DocId(Record::id(&space(), &device(), &header().to_bytes()).0)
}

fn opening() -> Opening {
    Opening { device: device(), salt: [1; 8], kind: Kind::Own }
}
