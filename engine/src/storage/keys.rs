//! Keys: ids and numbers joined together. Numbers are big-endian, so that rows lie in their order.

use commonhold_sync::id::{ChainId, DeviceId, DocId, SpaceId};

pub(super) fn document(space: &SpaceId, doc: &DocId) -> Vec<u8> {
    [space.0, doc.0].concat()
}

pub(super) fn body(space: &SpaceId, doc: &DocId, seq: u64) -> Vec<u8> {
    [&space.0[..], &doc.0, &seq.to_be_bytes()].concat()
}

pub(super) fn right(space: &SpaceId, chain: &ChainId, n: u64) -> Vec<u8> {
    [&space.0[..], &chain.0, &n.to_be_bytes()].concat()
}

pub(super) fn log(space: &SpaceId, seq: u64) -> Vec<u8> {
    [&space.0[..], &seq.to_be_bytes()].concat()
}

/// Apart from the head of the snapshot, so that the head is read without them.
pub(super) fn snapshot_bytes(document: &[u8]) -> Vec<u8> {
    [document, b"b"].concat()
}

/// Which content of the snapshot is known to keep rule M1.
pub(super) fn snapshot_checked(document: &[u8]) -> Vec<u8> {
    [document, b"c"].concat()
}

/// What the keys of invites begin with.
pub(super) const INVITE: &[u8] = b"invite:";

/// `number` counts invites of all spaces, so that rows of a space lie in the order in which they came.
pub(super) fn invite(space: &SpaceId, number: u64, peer: &[u8]) -> Vec<u8> {
    [INVITE, &space.0, &number.to_be_bytes(), peer].concat()
}

/// What the keys of the block list begin with.
pub(super) const BLOCK: &[u8] = b"block:";

/// What the keys of documents in quarantine begin with.
pub(super) const QUARANTINE: &[u8] = b"quarantine:";

pub(super) fn quarantine(space: &SpaceId, doc: &DocId) -> Vec<u8> {
    [QUARANTINE, &space.0, &doc.0].concat()
}

/// What the keys of counts begin with.
pub(super) const USAGE: &[u8] = b"usage:";

/// What a device has stored in a space.
pub(super) fn usage(space: &SpaceId, device: &DeviceId) -> Vec<u8> {
    [USAGE, &space.0, &device.0].concat()
}

/// What the keys of an app's own rows begin with.
pub(super) const APP: &[u8] = b"app:";

pub(super) fn app(key: &[u8]) -> Vec<u8> {
    [APP, key].concat()
}

/// What the keys of the address book begin with; those of cursors are as long as two ids, and these are not.
pub(super) const PEER: &[u8] = b"peer:";

pub(super) fn peer(device: &DeviceId) -> Vec<u8> {
    [PEER, &device.0].concat()
}

/// The number of the last change of a space.
pub(super) fn last_change(space: &SpaceId) -> Vec<u8> {
    [&space.0[..], b"l"].concat()
}

/// What the keys of changes begin with.
pub(super) fn changes(space: &SpaceId) -> Vec<u8> {
    [&space.0[..], b"n"].concat()
}

pub(super) fn change(space: &SpaceId, number: u64) -> Vec<u8> {
    [&space.0[..], b"n", &number.to_be_bytes()].concat()
}

/// What the last change of a document was.
pub(super) fn changed(space: &SpaceId, doc: &DocId) -> Vec<u8> {
    [&space.0[..], b"d", &doc.0].concat()
}

/// The keys that begin with a prefix: from here, to before there.
pub(super) fn under(prefix: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return (prefix.to_vec(), Some(end));
        }
    }
    (prefix.to_vec(), None)
}

/// An id of 32 bytes, and what follows it.
pub(super) fn split(key: &[u8]) -> Option<([u8; 32], &[u8])> {
    key.split_first_chunk().map(|(id, rest)| (*id, rest))
}

/// The number at the end of a key.
pub(super) fn ends_with(key: &[u8]) -> Option<u64> {
    key.last_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}
