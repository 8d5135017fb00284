//! Records about rights, drawn from bytes: whatever they say, every order of arrival gives the same answers.

use commonhold_sync::authority::{Authority, RecordAt};
use commonhold_sync::id::{ChainId, DeviceId, DocId, EntryId, SpaceId};
use commonhold_sync::record::{Genesis, Privacy, Record, Right, Subject, Writers};

const DEVICES: u8 = 6;
const SPACE: SpaceId = SpaceId([1; 32]);

fn device(n: u8) -> DeviceId {
    DeviceId([n % DEVICES + 1; 32])
}

fn chain(n: u8) -> ChainId {
    ChainId([n % DEVICES + 1; 16])
}

fn record(op: &[u8; 4], said: &[RecordAt]) -> Record {
    let known = |n: u8| said.get(usize::from(n) % said.len().max(1)).map_or(EntryId([n; 32]), |at| at.id);
    let right = [Right::Relay, Right::Read, Right::Write, Right::Admin][usize::from(op[3] & 3)];
    let ends = vec![(chain(op[2]), u64::from(op[3] % 8) + 1)];
    match op[0] % 8 {
        0..=2 => {
            let subject = Subject::from(device(op[2]));
            Record::Grant { subject, right, gateway: op[3] & 4 != 0, again: u32::from(op[3] >> 6) }
        }
        3 => Record::Cuts { entries: vec![(SPACE.authority(), ends)] },
        4 => Record::Revoke { records: vec![known(op[2])], parts: u32::from(op[3] & 1) },
        5 => Record::Member {
            identity: Subject([op[3] % 4; 32]),
            device: device(op[2]),
            name: String::new(),
            again: u32::from(op[3] >> 6),
        },
        6 => Record::Identity { root: device(op[2]), next: [op[3] % 2; 32] },
        _ => Record::Tombstone { doc: DocId([op[2]; 32]) },
    }
}

pub fn rights(data: &[u8]) {
    let genesis = Genesis {
        root: Subject::from(device(0)),
        privacy: Privacy::Public,
        writers: if data.first().is_some_and(|n| n & 1 != 0) { Writers::Anyone } else { Writers::Granted },
        rules: 1,
        nonce: [0; 16],
    };
    let mut chains: Vec<Vec<(RecordAt, Record)>> = vec![Vec::new(); usize::from(DEVICES)];
    let mut said: Vec<RecordAt> = Vec::new();
    for op in data.get(1..).unwrap_or_default().chunks_exact(4).take(64) {
        let op: &[u8; 4] = op.try_into().expect("four bytes");
        let by = op[1] % DEVICES;
        let record = record(op, &said);
        let id = Record::id(&SPACE, &device(by), &record.to_bytes());
        let n = chains[usize::from(by)].len() as u64 + 1;
        let at = RecordAt { device: device(by), chain: chain(by), n, id };
        said.push(at);
        chains[usize::from(by)].push((at, record));
    }
    let fresh = || {
        let mut authority = Authority::new(SPACE);
        authority.set_genesis(&genesis);
        authority
    };
    let (mut by_chain, mut by_turns, mut backwards) = (fresh(), fresh(), fresh());
    chains.iter().flatten().for_each(|(at, record)| by_chain.note(*at, record));
    chains.iter().rev().flatten().for_each(|(at, record)| backwards.note(*at, record));
    for n in 0..chains.iter().map(Vec::len).max().unwrap_or(0) {
        chains.iter().filter_map(|chain| chain.get(n)).for_each(|(at, record)| by_turns.note(*at, record));
    }
    if let Some(n) = data.first().map(|n| n >> 1).filter(|n| *n > 0) {
        for authority in [&mut by_chain, &mut by_turns, &mut backwards] {
            authority.close(chain(n), u64::from(n % 5) + 1);
        }
    }
    for n in 0..DEVICES {
        for other in [&by_turns, &backwards] {
            assert_eq!(by_chain.right_of(&device(n)), other.right_of(&device(n)));
            for right in [Right::Relay, Right::Read, Right::Write, Right::Admin] {
                for log in [SPACE.authority(), DocId([9; 32])] {
                    let limit = |of: &Authority| of.limit(&log, &chain(n), &device(n), right);
                    assert_eq!(limit(&by_chain), limit(other));
                }
            }
        }
    }
}
