//! What overlays say to each other about one space, as CBOR: an array of a number that names the message, and its fields.
//!
//! Every list is bounded before it is read, and what is read costs about as much memory as it has bytes. Records are decoded but not
//! verified: [`super::Overlay::screen`] says which are worth the work.

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use crate::id::ChainId;
use crate::peer_record::PeerRecord;

/// Items in one list. 256 items are 5 KiB.
pub const ITEMS_MAX: usize = 256;
/// Records in one message. Eight of them are about 1.2 KiB with one address each, and 18 KiB at most.
pub const RECORDS_MAX: usize = 8;
/// Steps of a random walk: the eight of the design.
pub const TTL_MAX: u8 = 8;

/// "The chain is held up to number `n`." Of two items of one chain the higher says all that the lower does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Item {
    /// Which chain.
    pub chain: ChainId,
    /// Up to which entry, counted from 1.
    pub n: u64,
}

/// A message from one overlay to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// The sender has no neighbour and would like the receiver for the first. Answered by [`Message::Answer`]; the receiver tells others
    /// of the sender by [`Message::ForwardJoin`].
    Join,
    /// A random walk of a newcomer's record. Where it ends, the newcomer is dialled or remembered. Not answered.
    ForwardJoin {
        /// The newcomer.
        record: PeerRecord,
        /// Steps left.
        ttl: u8,
    },
    /// The sender would like the receiver for a neighbour, or a leaf for a place. Answered by [`Message::Answer`].
    Neighbour {
        /// The sender has no neighbour: it is refused only if there is nobody that can be given up for it.
        urgent: bool,
    },
    /// The answer to [`Message::Join`] and [`Message::Neighbour`].
    Answer {
        /// Both are neighbours from here on.
        accepted: bool,
        /// Others to try: at most [`RECORDS_MAX`].
        others: Vec<PeerRecord>,
    },
    /// The two are no neighbours any more. Not answered.
    Leave {
        /// The sender stays in the space, so it may be asked again later.
        stays: bool,
    },
    /// Exchanges records with a neighbour. Answered by [`Message::ShuffleReply`].
    Shuffle {
        /// At most [`RECORDS_MAX`].
        records: Vec<PeerRecord>,
    },
    /// The answer to [`Message::Shuffle`]. Not answered.
    ShuffleReply {
        /// At most [`RECORDS_MAX`].
        records: Vec<PeerRecord>,
    },
    /// What the sender holds and did not push. The receiver asks ([`Message::Graft`]) for what it lacks and does not get otherwise.
    IHave {
        /// At most [`ITEMS_MAX`], each chain once.
        items: Vec<Item>,
    },
    /// Asks for the payloads of items that the receiver announced.
    Graft {
        /// From here on, push to the sender what is new.
        eager: bool,
        /// At most [`ITEMS_MAX`].
        items: Vec<Item>,
    },
    /// From here on, announce to the sender what is new and do not push it. Not answered.
    Prune,
}

impl Message {
    /// The records inside, before they are believed.
    pub fn records(&self) -> &[PeerRecord] {
        match self {
            Message::ForwardJoin { record, .. } => core::slice::from_ref(record),
            Message::Answer { others: records, .. }
            | Message::Shuffle { records, .. }
            | Message::ShuffleReply { records } => records,
            _ => &[],
        }
    }

    /// A short name for counters and traces.
    pub fn name(&self) -> &'static str {
        match self {
            Message::Join => "join",
            Message::ForwardJoin { .. } => "forward-join",
            Message::Neighbour { .. } => "neighbour",
            Message::Answer { .. } => "answer",
            Message::Leave { .. } => "leave",
            Message::Shuffle { .. } => "shuffle",
            Message::ShuffleReply { .. } => "shuffle-reply",
            Message::IHave { .. } => "i-have",
            Message::Graft { .. } => "graft",
            Message::Prune => "prune",
        }
    }
}

impl<C> Encode<C> for Item {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.bytes(&self.chain.0)?.u64(self.n)?.ok()
    }
}

/// An item stands as two elements of the array around it: chain, number.
fn items<'b, C>(d: &mut Decoder<'b>, c: &mut C) -> Result<Vec<Item>, decode::Error> {
    let elements = d.array()?.filter(|count| *count <= 2 * ITEMS_MAX as u64 && *count % 2 == 0);
    let elements = elements.ok_or_else(|| decode::Error::message("a list of items has pairs, at most 256"))?;
    (0..elements / 2).map(|_| Ok(Item { chain: ChainId::decode(d, c)?, n: d.u64()? })).collect()
}

fn records<'b, C>(d: &mut Decoder<'b>, c: &mut C) -> Result<Vec<PeerRecord>, decode::Error> {
    let count = d.array()?.filter(|count| *count <= RECORDS_MAX as u64);
    let count = count.ok_or_else(|| decode::Error::message("a message has at most 8 peer records"))?;
    (0..count).map(|_| PeerRecord::decode(d, c)).collect()
}

fn ttl(d: &mut Decoder<'_>) -> Result<u8, decode::Error> {
    match d.u8()? {
        ttl if ttl <= TTL_MAX => Ok(ttl),
        _ => Err(decode::Error::message("a walk has at most 8 steps")),
    }
}

impl<C> Encode<C> for Message {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, c: &mut C) -> Result<(), encode::Error<W::Error>> {
        fn put_items<C, W: encode::Write>(
            e: &mut Encoder<W>,
            c: &mut C,
            items: &[Item],
        ) -> Result<(), encode::Error<W::Error>> {
            e.array(2 * items.len() as u64)?;
            items.iter().try_for_each(|item| item.encode(e, c))
        }
        match self {
            Message::Join => e.array(1)?.u8(0)?.ok(),
            Message::ForwardJoin { record, ttl } => {
                e.array(3)?.u8(1)?;
                record.encode(e, c)?;
                e.u8(*ttl)?.ok()
            }
            Message::Neighbour { urgent } => e.array(2)?.u8(2)?.bool(*urgent)?.ok(),
            Message::Answer { accepted, others } => {
                e.array(3)?.u8(3)?.bool(*accepted)?;
                others.encode(e, c)
            }
            Message::Leave { stays } => e.array(2)?.u8(4)?.bool(*stays)?.ok(),
            Message::Shuffle { records } => {
                e.array(2)?.u8(5)?;
                records.encode(e, c)
            }
            Message::ShuffleReply { records } => {
                e.array(2)?.u8(6)?;
                records.encode(e, c)
            }
            Message::IHave { items } => {
                e.array(2)?.u8(7)?;
                put_items(e, c, items)
            }
            Message::Graft { eager, items } => {
                e.array(3)?.u8(8)?.bool(*eager)?;
                put_items(e, c, items)
            }
            Message::Prune => e.array(1)?.u8(9)?.ok(),
        }
    }
}

impl<'b, C> Decode<'b, C> for Message {
    fn decode(d: &mut Decoder<'b>, c: &mut C) -> Result<Self, decode::Error> {
        let (fields, kind) = (d.array()?, d.u8()?);
        let message = match (kind, fields) {
            (0, Some(1)) => Message::Join,
            (1, Some(3)) => Message::ForwardJoin { record: PeerRecord::decode(d, c)?, ttl: ttl(d)? },
            (2, Some(2)) => Message::Neighbour { urgent: d.bool()? },
            (3, Some(3)) => Message::Answer { accepted: d.bool()?, others: records(d, c)? },
            (4, Some(2)) => Message::Leave { stays: d.bool()? },
            (5, Some(2)) => Message::Shuffle { records: records(d, c)? },
            (6, Some(2)) => Message::ShuffleReply { records: records(d, c)? },
            (7, Some(2)) => Message::IHave { items: items(d, c)? },
            (8, Some(3)) => Message::Graft { eager: d.bool()?, items: items(d, c)? },
            (9, Some(1)) => Message::Prune,
            _ => return Err(decode::Error::message("not a message of an overlay")),
        };
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use minicbor::decode;

    use super::*;

    #[test]
    fn every_message_survives_its_encoding_and_none_reads_more_than_it_may() {
        let record = PeerRecord::sign(&SigningKey::from_bytes(&[7; 32]), 5, 3, &["ws://127.0.0.1:1/".into()]);
        let items = vec![Item { chain: ChainId([1; 16]), n: 9 }, Item { chain: ChainId([2; 16]), n: u64::MAX }];
        let all = [
            Message::Join,
            Message::ForwardJoin { record: record.clone(), ttl: 6 },
            Message::Neighbour { urgent: true },
            Message::Answer { accepted: false, others: vec![record.clone(); 8] },
            Message::Leave { stays: true },
            Message::Shuffle { records: vec![record.clone()] },
            Message::ShuffleReply { records: vec![] },
            Message::IHave { items: items.clone() },
            Message::Graft { eager: true, items },
            Message::Prune,
        ];
        for message in all {
            let bytes = minicbor::to_vec(&message).unwrap();
            assert_eq!(decode::<Message>(&bytes).unwrap(), message);
            for cut in 0..bytes.len() {
                assert!(decode::<Message>(&bytes[..cut]).is_err(), "{} cut at {cut}", message.name());
            }
        }
        let many = [
            Message::Shuffle { records: vec![record.clone(); 9] },
            Message::ForwardJoin { record, ttl: 9 },
            Message::IHave { items: vec![Item { chain: ChainId([1; 16]), n: 1 }; 257] },
        ];
        for message in many {
            let bytes = minicbor::to_vec(&message).unwrap();
            assert!(decode::<Message>(&bytes).is_err(), "{} is read", message.name());
        }
    }
}
