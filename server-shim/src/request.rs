//! What a verb asks of the process that owns the store, and what comes back: JSON over the local socket, or plain values
//! when the verb opens the store itself. The `--json` output of a verb is the inner part of its reply.

use std::path::PathBuf;

use commonhold_engine::backup::Manifest;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::args::{BlockArg, KeepArg, RightArg, WritersArg};
use crate::failure::Failure;

/// Raised when a request or reply changes its meaning. Two processes of different numbers do not talk.
pub(crate) const VERSION: u32 = 10;

/// What travels to the owner.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope {
    pub(crate) version: u32,
    pub(crate) request: Request,
}

/// What travels back; a stream has these as items.
pub(crate) type Answered = Result<Reply, Failure>;

/// One thing to do. Spaces and documents are named as the person named them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    Me,
    Spaces,
    NewSpace {
        writers: WritersArg,
    },
    Publish {
        space: Option<String>,
        withdraw: bool,
    },
    Invite {
        space: Option<String>,
        /// What it brings, and to how many devices.
        grant: Option<(RightArg, u32)>,
    },
    Members {
        space: Option<String>,
        all: bool,
    },
    Grant {
        space: Option<String>,
        device: String,
        right: RightArg,
        gateway: bool,
    },
    AddDevice {
        space: Option<String>,
        device: String,
        name: String,
    },
    Devices {
        space: Option<String>,
    },
    RemoveDevice {
        space: Option<String>,
        device: String,
        keep: KeepArg,
    },
    Revoke {
        space: Option<String>,
        device: String,
        keep: KeepArg,
    },
    /// How many root keys of an identity are known in the spaces held.
    RootKeys {
        identity: String,
    },
    /// Tell the spaces of the identity in the keys folder what its root key is now.
    TellRootKeys,
    Join {
        invite: String,
        wait_ms: u64,
    },
    Documents {
        space: Option<String>,
        kind: Option<String>,
        deleted: bool,
    },
    NewDocument {
        space: Option<String>,
        kind: String,
        name: String,
    },
    DeleteDocument(Doc),
    EraseDocument {
        doc: Doc,
        note: String,
    },
    Erasures {
        space: Option<String>,
    },
    Receipts {
        doc: Doc,
        peers: u16,
        wait_ms: u64,
    },
    SucceedDocument(Doc),
    ReleaseDocument(Doc),
    Get {
        doc: Doc,
        path: String,
    },
    Set {
        doc: Doc,
        path: String,
        value: Json,
    },
    /// JSON merge patch.
    Patch {
        doc: Doc,
        patch: Json,
    },
    /// What the person was shown and what they made of it.
    Edit {
        doc: Doc,
        before: Json,
        after: Json,
    },
    Watch(Doc),
    History {
        doc: Doc,
        last: usize,
    },
    Status(Doc),
    Peers {
        /// Those that are not connected as well.
        known: bool,
    },
    /// Wait until the connected peers that hold this space, or any space, are level in it, and there is one.
    Level {
        space: Option<String>,
        wait_ms: u64,
    },
    Check,
    /// A stream of [`Reply::Bytes`], then [`Reply::Exported`].
    Export {
        space: Option<String>,
        docs: Vec<String>,
    },
    /// Reads every blob that is held whole: [`Reply::CheckedBlobs`].
    CheckBlobs,
    /// About how many bytes a backup has: [`Reply::BackupSize`].
    BackupSize {
        blobs: bool,
    },
    /// A stream of [`Reply::Bytes`], then [`Reply::BackedUp`].
    Backup {
        blobs: bool,
    },
    /// Then any number of [`Request::Bytes`] and one [`Request::End`], on the same connection.
    Import {
        space: Option<String>,
        /// A storage folder, as `storage_folder` sends it, in place of a file.
        folder: bool,
    },
    /// A file of this machine, by its absolute path: the process that serves is the same person's.
    PutBlob {
        space: Option<String>,
        path: PathBuf,
        media_type: String,
    },
    /// A stream of [`Reply::BlobProgress`], then [`Reply::Bytes`], then [`Reply::Blob`].
    GetBlob {
        space: Option<String>,
        blob: String,
    },
    Blobs {
        space: Option<String>,
    },
    CollectBlobs {
        space: Option<String>,
    },
    /// What is stored of whom.
    Usage,
    Blocked,
    /// Block something, or do so no more.
    Block {
        kind: BlockArg,
        what: String,
        blocks: bool,
    },
    /// Hex digits.
    Bytes(String),
    End,
}

/// A document as the person named it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Doc {
    pub(crate) space: Option<String>,
    pub(crate) doc: String,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    Me(Me),
    Space(Space),
    Spaces(Vec<Space>),
    Invite(Invite),
    Published(Published),
    Members(Vec<Member>),
    DeviceAdded(DeviceAdded),
    Granted(Granted),
    Revoked(Revoked),
    RootKeys(RootKeys),
    Rotated(Rotated),
    Joined(Joined),
    Document(Document),
    Documents(Vec<Document>),
    Released(Released),
    Receipts(Receipts),
    Erasures(Vec<Erasure>),
    Value(Value),
    Changed(Changed),
    Watched(Watched),
    History(Vec<Change>),
    Status(Status),
    Peers(Vec<Peer>),
    Blob(Blob),
    Blobs(Vec<Blob>),
    BlobProgress(BlobProgress),
    CollectedBlobs(CollectedBlobs),
    Usage(Usage),
    Blocked(Vec<BlockedRow>),
    BlockChanged(BlockChanged),
    Level(Level),
    Checked(Checked),
    /// Hex digits.
    Bytes(String),
    Exported(Exported),
    CheckedBlobs(CheckedBlobs),
    BackupSize(u64),
    BackedUp(BackedUp),
    /// Go on with [`Request::Bytes`].
    Ready,
    Imported(Imported),
    ImportedFolder(ImportedFolder),
}

/// What is stored here of whom: docs/operating.md says what counts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// The fullest first.
    pub(crate) spaces: Vec<Stored>,
    /// The same: identities, and devices that act for none.
    pub(crate) identities: Vec<Stored>,
    /// Of today (UTC), since this process began; those that had most first, at most 1,000.
    pub(crate) addresses: Vec<AddressUse>,
}

/// What went to and came from an address.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AddressUse {
    /// ADDRESS/BITS.
    pub(crate) network: String,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) id: String,
    pub(crate) bytes: u64,
    pub(crate) documents: u64,
    /// Content sent to the devices of an identity and got from them, ever; `null` for spaces.
    pub(crate) given: Option<u64>,
    pub(crate) got: Option<u64>,
}

/// An entry of the block list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BlockedRow {
    /// peer, network, space or doc.
    pub(crate) kind: String,
    /// Its whole id, or ADDRESS/BITS.
    pub(crate) what: String,
    /// ISO 8601; `null` if this machine's clock was nowhere near.
    pub(crate) since: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BlockChanged {
    pub(crate) kind: String,
    pub(crate) what: String,
    /// Whether it is blocked now.
    pub(crate) blocked: bool,
    /// Whether it was otherwise before.
    pub(crate) changed: bool,
}

/// The process that owns the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Me {
    /// Peer id: the public key of the device.
    pub(crate) peer: String,
    /// Random id of the store.
    pub(crate) store: String,
    pub(crate) pid: u32,
    /// Addresses with the ports that were bound.
    pub(crate) addresses: Vec<String>,
    /// What the store turned out to be at open: fresh, continue, crashed, restored, copied.
    pub(crate) opened: String,
    pub(crate) version: String,
    pub(crate) network: Network,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Published {
    pub(crate) space: String,
    /// Where whoever holds the space now knows that this peer can be dialled.
    pub(crate) addresses: Vec<String>,
}

/// What the network may cost and has cost, in bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Network {
    /// It costs something at present.
    pub(crate) metered: bool,
    /// Sent and received today while it did, and how much may be; `null`: any amount.
    pub(crate) metered_bytes: u64,
    pub(crate) metered_max: Option<u64>,
    /// Sent today of what others made, and how much may be.
    pub(crate) background_bytes: u64,
    pub(crate) background_max: Option<u64>,
    /// Others are served at present; connections are kept at present.
    pub(crate) serves: bool,
    pub(crate) connects: bool,
    /// Content sent to others and got from them, ever, and the one by the other.
    pub(crate) given: u64,
    pub(crate) got: u64,
    pub(crate) share_ratio: Option<f64>,
    /// Of what was sent, what its receivers have signed for.
    pub(crate) signed: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Space {
    pub(crate) id: String,
    /// `null`: not known yet, since nothing of the space arrived.
    pub(crate) writers: Option<WritersArg>,
    /// What this device may do: relay, read, write, admin.
    pub(crate) right: Option<String>,
    pub(crate) documents: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Invite {
    pub(crate) space: String,
    pub(crate) invite: String,
    /// Who may write with it.
    pub(crate) writers: Option<WritersArg>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Granted {
    pub(crate) space: String,
    pub(crate) device: String,
    pub(crate) right: RightArg,
}

/// Somebody who was given something.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Member {
    /// Peer id, or the id of an identity; `null` for an invite that anybody may redeem.
    pub(crate) subject: Option<String>,
    /// root, grant, invite, redeemed, or member: of the identity in `identity`.
    pub(crate) kind: String,
    /// relay, read, write, admin; `null` where it is the identity's.
    pub(crate) right: Option<String>,
    pub(crate) gateway: bool,
    pub(crate) identity: Option<String>,
    /// A name that a device was given.
    pub(crate) name: Option<String>,
    /// Peer id of who gave it; `null` for the root.
    pub(crate) by: Option<String>,
    /// The record that gives it; `null` for the root.
    pub(crate) record: Option<String>,
    /// Of an invite: devices that are expected to use it, and those that did. More than expected: its text got out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uses: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) used: Option<u64>,
    /// Whether it is in force: given by somebody who could, and not taken back.
    pub(crate) in_force: bool,
    pub(crate) revoked: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DeviceAdded {
    pub(crate) space: String,
    pub(crate) device: String,
    pub(crate) name: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Revoked {
    pub(crate) space: String,
    pub(crate) device: String,
    pub(crate) keep: KeepArg,
    /// The records that were taken back.
    pub(crate) records: Vec<String>,
    /// Whether that ends nothing: in the space anybody may write.
    pub(crate) anybody_writes: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RootKeys {
    pub(crate) identity: String,
    /// The first one included; 0: never heard of.
    pub(crate) root_keys: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Rotated {
    pub(crate) identity: String,
    /// The spaces that learned of the new root key.
    pub(crate) spaces: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Joined {
    pub(crate) space: String,
    /// Whether everything that the inviting peer had is here.
    pub(crate) level: bool,
    pub(crate) documents: u64,
    /// Whether a right came with the invite and is this device's now.
    pub(crate) redeemed: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Document {
    pub(crate) id: String,
    pub(crate) space: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    /// Peer id of its creator.
    pub(crate) creator: String,
    pub(crate) deleted: bool,
    /// The documents in which it goes on.
    pub(crate) successors: Vec<String>,
    /// How it is over its budget, if it is not shown for that.
    pub(crate) quarantined: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Released {
    pub(crate) doc: String,
    /// Whether it was in quarantine.
    pub(crate) released: bool,
}

/// Who has a version of a document on their disks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Receipts {
    pub(crate) doc: String,
    pub(crate) heads: Vec<String>,
    pub(crate) receipts: Vec<Receipt>,
}

/// One of them. docs/protocol.md, §17, says what is signed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Receipt {
    /// Peer id.
    pub(crate) holder: String,
    pub(crate) space: String,
    pub(crate) doc: String,
    /// What it holds, with all that it builds upon; ascending.
    pub(crate) heads: Vec<String>,
    /// In hex.
    pub(crate) signature: String,
}

/// A request to erase a document.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Erasure {
    pub(crate) doc: String,
    /// What the header says, which stays.
    pub(crate) name: String,
    /// The record that asks.
    pub(crate) request: String,
    /// Peer id of who asks.
    pub(crate) by: String,
    pub(crate) note: String,
    /// Peer ids of the devices that signed that they have erased it.
    pub(crate) erased: Vec<String>,
    /// Those with a right in the space that have not.
    pub(crate) awaited: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Value {
    pub(crate) doc: String,
    pub(crate) value: Json,
    /// The version: ids of the newest changes.
    pub(crate) heads: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Changed {
    pub(crate) doc: String,
    pub(crate) heads: Vec<String>,
    /// False: the value stood there already.
    pub(crate) changed: bool,
}

/// One line of `watch`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Watched {
    /// `local`, `remote`, or `reset`: the whole document, at the beginning and when changes came faster than they were read.
    pub(crate) origin: String,
    /// Peer id, where the origin is remote and known.
    pub(crate) peer: Option<String>,
    pub(crate) patches: Vec<Json>,
    pub(crate) heads: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) id: String,
    /// The chain: one device, one run.
    pub(crate) chain: String,
    /// Its number in the chain.
    pub(crate) number: u64,
    pub(crate) operations: u64,
    /// Peer id that the chain claims.
    pub(crate) author: Option<String>,
    /// Seconds since 1970, as its author says; 0 where nothing was said.
    pub(crate) time: i64,
    pub(crate) message: Option<String>,
}

/// "Is it synced?", of one document.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) doc: String,
    pub(crate) heads: Vec<String>,
    /// Every edit is on this disk.
    pub(crate) saved_here: bool,
    /// Peers that said that they hold every change of this device durably.
    pub(crate) acknowledged: Vec<String>,
    /// Connected peers that have all that is here, and the other way round.
    pub(crate) level_with: Vec<String>,
    pub(crate) cost: Cost,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) changes: u64,
    pub(crate) operations: u64,
    pub(crate) chains: u64,
    /// In memory while open, estimated.
    pub(crate) memory_bytes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub(crate) peer: String,
    pub(crate) connected: bool,
    pub(crate) address: Option<String>,
    /// Of a connected peer.
    pub(crate) agent: Option<String>,
    /// This side dialled.
    pub(crate) dialled: bool,
    /// Since it is connected.
    pub(crate) seconds: u64,
    /// Bytes of content sent to it and got from it, ever, and what it signed of the former.
    pub(crate) given: u64,
    pub(crate) got: u64,
    pub(crate) signed: u64,
    /// What the address book says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) known: Option<Known>,
}

/// A peer in the address book.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Known {
    /// Best first.
    pub(crate) addresses: Vec<String>,
    /// From 0 (never answers) over 0.5 (never tried) to 1.
    pub(crate) score: f64,
    /// Dials that reached it, and that did not; those of a day ago count half.
    pub(crate) successes: f64,
    pub(crate) failures: f64,
    /// Since it was connected last; `null`: never.
    pub(crate) seen_seconds: Option<u64>,
    /// configured, invite, connected, tracker, lan, exchange.
    pub(crate) sources: Vec<String>,
    /// It says that it introduces peers to one another.
    pub(crate) tracker: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Blob {
    /// Its name, as documents refer to it.
    pub(crate) blob: String,
    /// BLAKE3 of its bytes.
    pub(crate) hash: String,
    pub(crate) bytes: u64,
    /// Since it was put, fetched or pinned, in a list.
    pub(crate) seconds: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BlobProgress {
    /// Stored so far.
    pub(crate) bytes: u64,
    pub(crate) of: u64,
    /// Connected peers that have some of it.
    pub(crate) sources: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CollectedBlobs {
    /// Held before.
    pub(crate) blobs: u64,
    /// Read for the names in them.
    pub(crate) documents: u64,
    /// Names of what was removed.
    pub(crate) removed: Vec<String>,
    pub(crate) bytes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Level {
    /// Peers that are level.
    pub(crate) level_with: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Checked {
    pub(crate) spaces: u64,
    pub(crate) documents: u64,
    /// Changes whose ids and signatures were computed again.
    pub(crate) entries: u64,
    pub(crate) store_bytes: u64,
    /// One line each; empty: sound.
    pub(crate) faults: Vec<String>,
}

/// Blobs that were read.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct CheckedBlobs {
    pub(crate) blobs: u64,
    pub(crate) bytes: u64,
    /// Hashes of those that are not what their names say.
    pub(crate) damaged: Vec<String>,
}

/// What a backup holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BackedUp {
    /// Bytes of the file.
    pub(crate) bytes: u64,
    pub(crate) manifest: Manifest,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Exported {
    pub(crate) documents: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Imported {
    pub(crate) space: Option<String>,
    /// Ids of the documents in the file.
    pub(crate) documents: Vec<String>,
    /// Changes in the file; those that were here already count too.
    pub(crate) entries: u64,
}

/// What became of a storage folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImportedFolder {
    pub(crate) space: String,
    /// Documents of the folder of which something is here now.
    pub(crate) documents: u64,
    /// Those of them that were not here before.
    pub(crate) created: u64,
    /// Changes that were not here before.
    pub(crate) changes: u64,
    /// What was left out, the first [`SKIPPED_MAX`].
    pub(crate) skipped: Vec<Skipped>,
    /// How many there are beyond those.
    pub(crate) skipped_more: u64,
}

/// Things left out that are told one by one, so that a reply has a bound: each has some 500 bytes at most.
pub(crate) const SKIPPED_MAX: usize = 1_000;

/// Something that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Skipped {
    /// A document by its id in automerge-repo, or a file, from the folder on.
    pub(crate) what: String,
    pub(crate) why: String,
}

impl ImportedFolder {
    pub(crate) fn skip(&mut self, what: impl Into<String>, why: impl Into<String>) {
        if self.skipped.len() >= SKIPPED_MAX {
            self.skipped_more += 1;
            return;
        }
        let [mut what, mut why] = [what.into(), why.into()];
        for text in [&mut what, &mut why] {
            text.truncate(text.floor_char_boundary(400));
        }
        self.skipped.push(Skipped { what, why });
    }
}

impl Reply {
    /// What `--json` prints.
    pub(crate) fn json(&self) -> Json {
        match serde_json::to_value(self).expect("replies have string keys") {
            // An externally tagged variant: the tag is for the other process.
            Json::Object(map) => map.into_iter().next().map_or(Json::Null, |(_, inner)| inner),
            plain => plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_output_is_the_inside_of_a_reply() {
        let reply = Reply::Invite(Invite { space: "s".into(), invite: "i".into(), writers: None });
        assert_eq!(reply.json(), serde_json::json!({"space": "s", "invite": "i", "writers": null}));
        assert_eq!(Reply::Spaces(Vec::new()).json(), serde_json::json!([]));
    }

    #[test]
    fn requests_and_answers_survive_the_socket() {
        let request = Request::Set { doc: Doc { space: None, doc: "a".into() }, path: "b".into(), value: Json::Null };
        let text = serde_json::to_string(&Envelope { version: VERSION, request }).unwrap();
        assert!(
            matches!(serde_json::from_str::<Envelope>(&text).unwrap().request, Request::Set { path, .. } if path == "b")
        );
        let answered: Answered = Err(Failure::failed("c", "w", "r"));
        let text = serde_json::to_string(&answered).unwrap();
        assert_eq!(serde_json::from_str::<Answered>(&text).unwrap().unwrap_err().code, "c");
    }
}
