//! Documents that Automerge clients sync, which sign nothing: what they get, what is taken of them, and what is not.

use automerge::sync::{ChunkList, Message, MessageVersion, State, SyncDoc};
use automerge::transaction::Transactable;
use automerge::{ActorId, AutoCommit, Change, ChangeHash, ExpandedChange, ROOT, ReadDoc};
use serde_json::json;

use super::support::*;
use crate::document::BadMessage;
use crate::{Document, Error, ForeignSync, ForeignSyncError, Node, Received, Right, SpaceId, Wants, Writers, wants};

/// A client, as a library of Automerge's has it.
struct Client {
    doc: AutoCommit,
    state: State,
}

impl Client {
    fn new(actor: u8) -> Client {
        Client { doc: AutoCommit::new().with_actor(ActorId::from([actor; 16])), state: State::new() }
    }

    fn put(&mut self, key: &str, value: i64) {
        self.doc.put(ROOT, key, value).unwrap();
        self.doc.commit();
    }

    fn get(&self, key: &str) -> Option<i64> {
        self.doc.get(ROOT, key).unwrap().and_then(|(value, _)| value.as_i64())
    }

    fn says(&mut self) -> Option<Vec<u8>> {
        self.doc.sync().generate_sync_message(&mut self.state).map(Message::encode)
    }

    fn hears(&mut self, message: &[u8]) {
        let message = Message::decode(message).unwrap();
        self.doc.sync().receive_sync_message(&mut self.state, message).unwrap();
    }

    /// Talks until neither has anything more to say.
    async fn talks(&mut self, sync: &mut ForeignSync) -> Received {
        let mut all = Received::default();
        for _ in 0..30 {
            let said = self.says();
            if let Some(said) = &said {
                let received = soon(sync.receive(said)).await.unwrap();
                all.taken += received.taken;
                all.waiting = received.waiting;
                all.refused.extend(received.refused);
            }
            let answer = soon(sync.generate()).await.unwrap();
            if said.is_none() && answer.is_none() {
                return all;
            }
            answer.into_iter().for_each(|answer| self.hears(&answer));
        }
        panic!("they talk for ever");
    }

    fn change(&mut self, at: usize) -> Change {
        self.doc.get_changes(&[]).remove(at)
    }
}

fn message(changes: Vec<Vec<u8>>) -> Vec<u8> {
    let changes = ChunkList::from(changes);
    let version = MessageVersion::V1;
    Message { heads: Vec::new(), need: Vec::new(), have: Vec::new(), changes, flags: None, version }.encode()
}

async fn document(writers: Writers) -> (Node, SpaceId, Document) {
    let node = memory().await;
    let space = node.create_space(writers).await.unwrap();
    let document = node.create_document(space, "", "").await.unwrap();
    (node, space, document)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_and_native_edits_meet_in_one_document() {
    let (node, other, space) = two().await;
    let document = node.create_document(space, "", "").await.unwrap();
    let (mut one, mut two) = (Client::new(1), Client::new(2));
    let (mut with_one, mut with_two) = (document.foreign_sync(), document.foreign_sync());
    one.put("one", 1);
    two.put("two", 2);
    document.set("/native", &3).await.unwrap();
    assert_eq!(one.talks(&mut with_one).await.taken, 1);
    assert_eq!(two.talks(&mut with_two).await.taken, 1);
    soon(with_one.changed()).await;
    one.talks(&mut with_one).await;
    for client in [&one, &two] {
        assert_eq!((client.get("one"), client.get("two"), client.get("native")), (Some(1), Some(2), Some(3)));
    }
    let there = arrives(&other, space, document.id()).await;
    shows(&there, json!({ "one": 1, "two": 2, "native": 3 })).await;
    // What the other peer writes upon it reaches the client, and what the client writes upon that the peer.
    there.set("/there", &4).await.unwrap();
    shows(&document, json!({ "one": 1, "two": 2, "native": 3, "there": 4 })).await;
    one.talks(&mut with_one).await;
    assert_eq!(one.get("there"), Some(4));
    one.put("there", 5);
    one.talks(&mut with_one).await;
    shows(&there, json!({ "one": 1, "two": 2, "native": 3, "there": 5 })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_said_is_there_after_a_restart_and_goes_on_in_its_chain() {
    let folder = tempfile::tempdir().unwrap();
    let node = soon(Node::open(on_disk(folder.path()))).await.unwrap();
    let space = node.create_space(Writers::Granted).await.unwrap();
    let document = node.create_document(space, "", "").await.unwrap();
    let doc = document.id();
    let mut client = Client::new(1);
    let mut sync = document.foreign_sync();
    client.put("n", 1);
    client.talks(&mut sync).await;
    drop((sync, document));
    soon(node.close()).await.unwrap();

    let node = reopened(on_disk(folder.path())).await;
    let document = node.open_document(space, doc).await.unwrap();
    client.state = State::new();
    client.put("n", 2);
    let mut sync = document.foreign_sync();
    assert_eq!(client.talks(&mut sync).await.taken, 1);
    assert_eq!(document.json().await.unwrap(), json!({ "n": 2 }));
    let actors: Vec<Vec<u8>> = document.history().await.unwrap().into_iter().map(|change| change.actor).collect();
    assert_eq!(actors, [vec![1; 16], vec![1; 16]]);
    assert!(soon(node.check()).await.unwrap().is_sound());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_is_not_here_is_wanted_offered_or_given() {
    let mut client = Client::new(1);
    assert_eq!(wants(&client.says().unwrap()), Ok(Wants::It));
    let mut client = Client { doc: client.doc, state: State::new() };
    client.put("n", 1);
    let Ok(Wants::ToBeAsked(question)) = wants(&client.says().unwrap()) else { panic!("it has something") };
    client.hears(&question);
    let given = client.says().unwrap();
    assert_eq!(wants(&given), Ok(Wants::ToGive));
    let (_node, _, document) = document(Writers::Granted).await;
    let mut sync = document.foreign_sync();
    assert_eq!(soon(sync.receive(&given)).await.unwrap().taken, 1);
    client.hears(&soon(sync.generate()).await.unwrap().unwrap());
    client.talks(&mut sync).await;
    assert_eq!(document.json().await.unwrap(), json!({ "n": 1 }));
    assert!(wants(&[1, 2, 3]).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_wait_for_those_that_they_build_upon() {
    let (_node, _, document) = document(Writers::Granted).await;
    let mut client = Client::new(1);
    (1..=3).for_each(|n| client.put("n", n));
    let mut sync = document.foreign_sync();
    let last = message(vec![client.change(2).raw_bytes().to_vec()]);
    let received = soon(sync.receive(&last)).await.unwrap();
    assert_eq!((received.taken, received.waiting, received.refused.len()), (0, 1, 0));
    assert_eq!(client.talks(&mut sync).await.waiting, 0);
    assert_eq!(document.json().await.unwrap(), json!({ "n": 3 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_changes_than_may_wait_end_the_sync() {
    let (_node, _, document) = document(Writers::Granted).await;
    let mut sync = document.foreign_sync();
    let mut client = Client::new(1);
    for n in 0..8u8 {
        for key in ["a", "b", "c"] {
            client.doc.put(ROOT, key, vec![n; 256 << 10]).unwrap();
        }
        client.doc.commit();
    }
    let changes = (1..8).map(|at| client.change(at).raw_bytes().to_vec()).collect();
    let ended = soon(sync.receive(&message(changes))).await.unwrap_err();
    assert!(matches!(ended, ForeignSyncError::Message(BadMessage::TooManyWait { .. })), "{ended}");
    // Whoever begins anew is served.
    client.talks(&mut document.foreign_sync()).await;
    assert_eq!(document.heads().await.unwrap().len(), 1);
}

/// Lies about the second change of an honest client, whose first is there.
fn lies() -> Vec<(&'static str, Box<dyn Fn(&mut ExpandedChange)>)> {
    let stranger = || ChangeHash([9; 32]);
    vec![
        (
            "another change with the number of one that is there",
            Box::new(|c| (c.seq, c.start_op) = (1, 1.try_into().unwrap())),
        ),
        ("unknown dependencies", Box::new(move |c| c.deps = vec![stranger()])),
        ("a new actor that begins at number 2", Box::new(|c| c.actor_id = ActorId::from([8; 16]))),
        ("an actor that skips a number", Box::new(|c| c.seq = 5)),
        ("it forgets its own last", Box::new(|c| (c.deps, c.start_op) = (Vec::new(), 7.try_into().unwrap()))),
        (
            "numbers of operations near the top",
            Box::new(|c| c.start_op = (u64::from(u32::MAX) - 1).try_into().unwrap()),
        ),
        ("a leap of operations", Box::new(|c| c.start_op = (1 << 30).try_into().unwrap())),
        ("numbers of operations that repeat", Box::new(|c| c.start_op = 1.try_into().unwrap())),
        (
            "a predecessor that is not there",
            Box::new(|c| {
                c.operations[0].pred = vec![automerge::legacy::OpId(77, ActorId::from([1; 16]))].into();
            }),
        ),
        (
            "an object that is not there",
            Box::new(|c| {
                c.operations[0].obj =
                    automerge::legacy::ObjectId::Id(automerge::legacy::OpId(1, ActorId::from([7; 16])));
            }),
        ),
        ("an author on a later change", Box::new(|c| c.extra_bytes = [&[1, 32][..], &[5; 32]].concat())),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lies_are_not_taken_and_take_no_honest_change_with_them() {
    for (what, alter) in lies() {
        let (node, _, document) = document(Writers::Granted).await;
        let mut client = Client::new(1);
        client.put("n", 1);
        let mut sync = document.foreign_sync();
        client.talks(&mut sync).await;
        client.put("n", 2);
        let mut lie = client.change(1).decode();
        alter(&mut lie);
        let lie = Change::from(lie).raw_bytes().to_vec();
        let mut honest = Client::new(3);
        honest.put("honest", 1);
        let honest = honest.change(0).raw_bytes().to_vec();
        let mut liar = document.foreign_sync();
        let received = soon(liar.receive(&message(vec![lie.clone(), honest]))).await.unwrap();
        assert_eq!((received.taken, received.waiting + received.refused.len()), (1, 1), "{what}: {received:?}");
        let mut torn = lie;
        let last = torn.len() - 1;
        torn[last] ^= 1;
        let received = soon(liar.receive(&message(vec![torn]))).await.unwrap();
        assert_eq!((received.taken, received.refused.len()), (0, 1), "{what}, and a checksum that does not fit");
        // The client and the document are none the worse for it.
        client.talks(&mut sync).await;
        assert_eq!(document.json().await.unwrap(), json!({ "n": 2, "honest": 1 }), "{what}");
        document.set("/native", &true).await.unwrap();
        soon(document.flush()).await.unwrap();
        soon(node.compact_now(document.space(), document.id())).await.unwrap();
        assert!(soon(node.check()).await.unwrap().is_sound(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_devices_chain_is_not_vouched_for_again_nor_continued_by_a_client() {
    let (_node, _, document) = document(Writers::Anyone).await;
    document.set("/n", &1).await.unwrap();
    soon(document.flush()).await.unwrap();
    let mut client = Client::new(1);
    let mut sync = document.foreign_sync();
    client.talks(&mut sync).await;
    let own = client.change(0);
    // What the device said, offered back; and a change that would be the device's next.
    let mut forged = client.doc.fork().with_actor(own.actor_id().clone());
    forged.put(ROOT, "n", 666).unwrap();
    forged.commit();
    let next = forged.get_changes(&[]).remove(1);
    let changes = vec![own.raw_bytes().to_vec(), next.raw_bytes().to_vec()];
    let received = soon(sync.receive(&message(changes))).await.unwrap();
    assert_eq!((received.taken, received.waiting), (0, 1));
    document.set("/m", &2).await.unwrap();
    soon(document.flush()).await.unwrap();
    client.talks(&mut sync).await;
    assert_eq!((client.get("n"), client.get("m")), (Some(1), Some(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_of_another_device_is_not_vouched_for_before_it_comes_itself() {
    let (one, other) = (memory().await, memory().await);
    let space = one.create_space(Writers::Anyone).await.unwrap();
    let document = one.create_document(space, "", "").await.unwrap();
    document.set("/n", &1).await.unwrap();
    soon(document.flush()).await.unwrap();
    let mut client = Client::new(1);
    client.talks(&mut document.foreign_sync()).await;
    let copy = soon(other.create_space(Writers::Anyone)).await.unwrap();
    let copy = other.create_document(copy, "", "").await.unwrap();
    client.state = State::new();
    let mut sync = copy.foreign_sync();
    client.put("upon", 2);
    let received = client.talks(&mut sync).await;
    assert_eq!((received.taken, received.waiting), (0, 2), "{received:?}");
    assert_eq!(copy.json().await.unwrap(), json!({}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_gateway_right_clients_read_and_their_changes_are_refused() {
    let one = memory().await;
    let space = one.create_space(Writers::Granted).await.unwrap();
    let gateway = memory().await;
    gateway.join(&one.invite(space).unwrap()).await.unwrap();
    one.grant(space, gateway.device(), Right::Write, false).await.unwrap();
    let document = one.create_document(space, "", "").await.unwrap();
    document.set("/n", &1).await.unwrap();
    soon(document.flush()).await.unwrap();
    join(&one, &gateway);
    let there = arrives(&gateway, space, document.id()).await;
    shows(&there, json!({ "n": 1 })).await;
    let (mut client, mut sync) = (Client::new(1), there.foreign_sync());
    client.talks(&mut sync).await;
    assert_eq!(client.get("n"), Some(1));
    client.put("n", 2);
    let received = client.talks(&mut sync).await;
    assert_eq!((received.taken, received.refused.len()), (0, 1));
    assert!(received.refused[0].1.contains("no right"), "{received:?}");

    one.grant(space, gateway.device(), Right::Write, true).await.unwrap();
    let may = async {
        while !there.may_vouch().await.unwrap() {
            tokio::task::yield_now().await;
        }
    };
    soon(may).await;
    client.state = State::new();
    client.talks(&mut there.foreign_sync()).await;
    shows(&document, json!({ "n": 2 })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_document_ends_its_syncs() {
    let (node, space, document) = document(Writers::Granted).await;
    let mut sync = document.foreign_sync();
    Client::new(1).talks(&mut sync).await;
    node.delete_document(space, document.id()).await.unwrap();
    let ended = async {
        loop {
            if let Err(error) = sync.generate().await {
                return error;
            }
            sync.changed().await;
        }
    };
    assert!(matches!(soon(ended).await, ForeignSyncError::Engine(Error::Deleted(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_vouch_for_one_client_and_others_get_all_of_it() {
    let (one, gateway, third) = (memory().await, memory().await, memory().await);
    let space = one.create_space(Writers::Granted).await.unwrap();
    for node in [&gateway, &third] {
        node.join(&one.invite(space).unwrap()).await.unwrap();
    }
    one.grant(space, gateway.device(), Right::Write, true).await.unwrap();
    join(&one, &gateway);
    let document = one.create_document(space, "", "").await.unwrap();
    let there = arrives(&gateway, space, document.id()).await;
    let mut client = Client::new(1);
    for n in 0..6 {
        client.put("n", n);
        client.state = State::new();
        let at = if n % 2 == 0 { &document } else { &there };
        let taken = client.talks(&mut at.foreign_sync()).await;
        assert_eq!((taken.taken, taken.refused.len()), (1, 0), "{taken:?}");
        shows(&document, json!({ "n": n })).await;
        shows(&there, json!({ "n": n })).await;
    }
    for node in [&one, &gateway] {
        soon(node.compact_now(space, document.id())).await.unwrap();
    }
    join(&gateway, &third);
    let copy = arrives(&third, space, document.id()).await;
    shows(&copy, json!({ "n": 5 })).await;
    for node in [&one, &gateway, &third] {
        assert!(soon(node.check()).await.unwrap().is_sound());
    }
    assert_eq!(third.space(space).unwrap().fingerprint, one.space(space).unwrap().fingerprint);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_changes_of_who_signs_nothing_are_taken_whole_in_part_or_not_at_all() {
    let node = memory().await;
    let space = node.create_space(Writers::Anyone).await.unwrap();
    let document = node.create_document(space, "", "").await.unwrap();
    let mut client = Client::new(7);
    (0..3).for_each(|n| client.put("n", n));
    let all: Vec<Vec<u8>> = client.doc.get_changes(&[]).into_iter().map(|change| change.raw_bytes().to_vec()).collect();
    let take = |bytes: Vec<u8>| {
        let document = document.clone();
        async move { soon(document.take_changes(bytes)).await }
    };
    // The last builds upon one that does not come.
    let early = take([&all[0][..], &all[2]].concat()).await.unwrap();
    assert_eq!(early, Received { taken: 1, waiting: 1, refused: vec![] });
    assert_eq!(take(all.concat()).await.unwrap(), Received { taken: 2, ..Received::default() });
    assert_eq!(take(all.concat()).await.unwrap(), Received::default(), "nothing is taken twice");
    assert_eq!(document.json().await.unwrap(), json!({ "n": 2 }));
    let (back, _) = document.changes_since(&[]).await.unwrap();
    assert_eq!(back.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(), all);
    // A whole document is no change; the changes beside it are looked at all the same.
    let file = take([client.doc.save(), all[0].clone()].concat()).await.unwrap();
    assert_eq!((file.taken, file.refused.len()), (0, 1));
    for (bytes, at) in [(b"nonsense".to_vec(), 0), ([&all[0][..], &all[1][..20]].concat(), all[0].len())] {
        let error = take(bytes).await.unwrap_err();
        assert!(
            matches!(error, ForeignSyncError::Message(BadMessage::NoChunk { at: found }) if found == at),
            "{error}"
        );
    }
}
