//! What comes over a wire before anything is known of who sends it: handshakes, statements, symbols, messages to a whole peer.

use commonhold_engine::Invite;
use commonhold_sync::id::{DeviceId, DocId, SpaceId, StoreId};
use commonhold_sync::limits::Limits;
use commonhold_sync::peer::{ConnId, Input, Load, Loaded, Now, Output, Peer, Start};
use commonhold_sync::proof::ForkProof;
use commonhold_sync::reconcile::{Decoder, Element, Progress, decode_symbols, work_max};
use commonhold_sync::record::{Genesis, Privacy, Record, Writers};
use commonhold_sync::secure::Channel;
use ed25519_dalek::SigningKey;

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn device(n: u8) -> DeviceId {
    DeviceId(key(n).verifying_key().to_bytes())
}

/// Honest sides whose frames go through somebody's hands, who keeps, repeats, exchanges, reflects and changes them, and dials
/// under a name of its own: whoever ends a handshake knows with whom.
pub fn handshake(data: &[u8]) {
    let limits = Limits::default();
    // Two dial the third, which accepts each. Last comes who is between them, as itself.
    let mut sides: Vec<(u8, Channel)> = vec![
        (1, Channel::dial(&key(1), Some(device(3)), [1; 32], &limits)),
        (2, Channel::dial(&key(2), Some(device(3)), [2; 32], &limits)),
        (3, Channel::accept(&key(3), [3; 32], &limits)),
        (3, Channel::accept(&key(3), [4; 32], &limits)),
        (9, Channel::dial(&key(9), None, [5; 32], &limits)),
        (9, Channel::accept(&key(9), [6; 32], &limits)),
    ];
    let mut frames: Vec<Vec<u8>> = Vec::new();
    for op in data.chunks_exact(3) {
        for (_, side) in &mut sides {
            frames.extend(core::iter::from_fn(|| side.poll_frame()));
        }
        let Some(mut frame) = frames.get(usize::from(op[1]) % frames.len().max(1)).cloned() else { continue };
        if op[2] > 0 && op[0] & 0x80 != 0 {
            let at = usize::from(op[2]) * frame.len() / 256;
            if let Some(byte) = frame.get_mut(at) {
                *byte ^= op[2];
            }
        }
        let at = usize::from(op[0] & 0x7f) % sides.len();
        let _ = sides[at].1.receive(&frame, &limits);
        while sides[at].1.poll_message().is_some() {}
    }
    for (name, side) in &sides {
        let (Some(peer), Some(hash)) = (side.peer(), side.session_hash()) else { continue };
        assert_ne!(peer, device(*name), "nobody is connected to itself");
        let others = sides.iter().filter(|(_, other)| !core::ptr::eq(other, side));
        for (other_name, other) in others.filter(|(_, other)| other.session_hash() == Some(hash)) {
            assert_eq!(peer, device(*other_name), "both ends of a session know each other");
            assert!(other.peer().is_none_or(|peer| peer == device(*name)));
        }
        assert!(*name > 2 || peer == device(3), "who dials a peer by name reaches that one or nobody");
    }
}

/// Signed statements and invites: what decodes survives its encoding, and nothing else is taken.
pub fn statements(data: &[u8]) {
    if let Ok(record) = Record::from_bytes(data) {
        assert!(matches!(record, Record::Unknown { .. }) || record.to_bytes() == data);
        record.identity();
    }
    if let Ok(genesis) = Genesis::from_bytes(data) {
        assert_eq!(genesis.to_bytes(), data);
    }
    if let Ok(proof) = minicbor::decode::<ForkProof>(data) {
        assert!(!proof.verifies(&SpaceId([1; 32])), "nobody signed two histories here");
    }
    if let Ok(text) = core::str::from_utf8(data)
        && let Ok(invite) = text.parse::<Invite>()
    {
        assert_eq!(invite.to_string().parse::<Invite>().as_ref().map(ToString::to_string), Ok(invite.to_string()));
        invite.genesis();
    }
}

/// Symbols of a stranger's set, whatever they are: within the work that is stated, and what is found is consistent.
pub fn symbols(data: &[u8]) {
    let local: Vec<Element> = (0..50u8).map(|n| Element([n; 16])).collect();
    let mut decoder = Decoder::new(&[7; 16], local.iter().copied(), 4_096);
    let mut rest = data;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (batch, after) = after.split_at(usize::from(u16::from_be_bytes(*length)).min(after.len()));
        rest = after;
        let Ok(batch) = decode_symbols(batch, 1_024) else { continue };
        let result = decoder.push(&batch);
        assert!(decoder.work() <= work_max(decoder.received().max(batch.symbols.len())));
        match result {
            Ok(Progress::NeedMore) => {}
            Ok(Progress::Done { only_remote, only_local }) => {
                assert!(only_local.iter().all(|element| local.contains(element)));
                assert!(only_remote.iter().all(|element| !local.contains(element)));
                return;
            }
            Err(_) => return,
        }
    }
}

/// Messages of any content and order to a peer that holds a space, by a device that has authenticated itself. Each piece of
/// the data is a message, after two bytes with its length; a length of zero lets a second pass.
pub fn peer_messages(data: &[u8]) {
    let limits = Limits::default();
    let genesis = Genesis {
        root: device(1).into(),
        privacy: Privacy::Public,
        writers: Writers::Anyone,
        rules: 1,
        nonce: [2; 16],
    };
    let empty = Start::empty(key(1), StoreId([1; 16]), [1; 8], [1; 32]);
    let mut peer = Peer::new(Start { limits: limits.clone(), ..empty });
    let mut now = 0;
    let mut liar = Channel::dial(&key(2), Some(device(1)), [2; 32], &limits);
    let conn = ConnId(1);
    let mut ended = false;
    let mut drive = |peer: &mut Peer, liar: &mut Channel, now: u64, first: Input| {
        let mut inputs = vec![first];
        while let Some(input) = inputs.pop() {
            peer.handle(Now(now), input);
            while let Some(output) = peer.poll_output() {
                match output {
                    Output::Send { bytes, .. } => {
                        let _ = liar.receive(&bytes, &limits);
                        while liar.poll_message().is_some() {}
                        inputs.push(Input::Drained { conn, pending: 0 });
                    }
                    Output::Store { op, .. } => inputs.insert(0, Input::Stored { op }),
                    Output::Load { op, load } => inputs.insert(0, Input::Loaded { op, loaded: nothing(load) }),
                    Output::Dial { .. } => {}
                    Output::Disconnect { .. } => ended = true,
                    Output::Emit(_) | Output::Blob(_) => {}
                }
            }
        }
        ended
    };
    drive(&mut peer, &mut liar, now, Input::Join { space: genesis.space(), genesis: Some(genesis), filter: None });
    drive(&mut peer, &mut liar, now, Input::Connected { conn, dialled: false, expected: None });
    while let Some(bytes) = liar.poll_frame() {
        drive(&mut peer, &mut liar, now, Input::Frame { conn, bytes });
    }
    let mut rest = data;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (message, after) = after.split_at(usize::from(u16::from_be_bytes(*length)).min(after.len()));
        rest = after;
        if message.is_empty() {
            now += 1_000;
            drive(&mut peer, &mut liar, now, Input::Tick);
        }
        liar.send(message);
        while let Some(bytes) = liar.poll_frame() {
            if drive(&mut peer, &mut liar, now, Input::Frame { conn, bytes }) {
                return;
            }
        }
        let limits = Limits::default();
        assert!(peer.waiting_bytes() <= limits.waiting_bytes_total);
    }
}

/// The answer of a store that holds nothing.
fn nothing(load: Load) -> Loaded {
    match load {
        Load::Logs { docs, .. } | Load::Raw { docs, .. } => {
            Loaded::Logs(docs.into_iter().map(|doc: DocId| (doc, None)).collect())
        }
        Load::Page { after, .. } => Loaded::Page { rows: vec![], upto: after, end: true },
        Load::Digests { .. } => Loaded::Digests(vec![]),
        Load::Snapshot { .. } => Loaded::Snapshot(None),
        Load::Deep { .. } => Loaded::Deep(vec![]),
        Load::Chain { .. } => Loaded::Chain(vec![]),
        Load::Concerned { .. } => Loaded::Concerned(vec![]),
    }
}
