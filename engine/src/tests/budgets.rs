//! Nodes that may spend so much and no more.

use commonhold_sync::message::roles;
use serde_json::json;

use super::support::*;
use crate::{BudgetInfo, Budgets, Config, Node, Serving, SpaceId, Writers};

const METERED: u64 = 60_000;

fn phone(folder: &tempfile::TempDir, origin: &Node) -> Config {
    Config {
        data: Some(folder.path().join("data")),
        keys: Some(folder.path().join("keys")),
        connect: vec![(origin.listening()[0].parse().unwrap(), Some(origin.device()))],
        budgets: Budgets { metered: Some(METERED), ..Budgets::default() },
        metered: true,
        ..Config::default()
    }
}

async fn origin() -> (Node, SpaceId) {
    let config = Config { listen: vec!["ws://127.0.0.1:0/".parse().unwrap()], ..Config::default() };
    let node = soon(Node::open(config)).await.unwrap();
    let space = node.create_space(Writers::Anyone).await.unwrap();
    (node, space)
}

async fn hold(node: &Node, of: &Node, space: SpaceId) {
    let invite = crate::Invite::new(space, None, Some(of.device()), Vec::new());
    node.join(&invite).await.unwrap();
}

async fn until(node: &Node, holds: impl FnMut(&BudgetInfo) -> bool) -> BudgetInfo {
    *soon(node.budget().wait_for(holds)).await.unwrap()
}

/// What a node says of its peers tells no end of a wait.
async fn sees(holds: impl Fn() -> bool) {
    soon(async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_spends_what_it_may_of_a_metered_network_over_restarts_too() {
    let folder = tempfile::tempdir().unwrap();
    let (origin, space) = origin().await;
    let doc = origin.create_document(space, "", "").await.unwrap();
    let node = soon(Node::open(phone(&folder, &origin))).await.unwrap();
    hold(&node, &origin, space).await;
    soon(node.wait_level(space, origin.device())).await.unwrap();
    let mut n = 0;
    while node.budget().borrow().connects {
        n += 1;
        doc.set("/text", &json!(format!("{n} {}", "much ado ".repeat(50)))).await.unwrap();
        doc.flush().await.unwrap();
    }
    let spent = until(&node, |budget| !budget.connects).await;
    assert!(spent.metered_bytes <= METERED && spent.metered_bytes > METERED / 2, "{spent:?}");
    assert!(node.traffic().sent_bytes <= spent.metered_bytes, "{:?}", node.traffic());
    soon(node.close()).await.unwrap();

    // Less is left than anything takes, whoever asks in which run.
    let node = soon(Node::open(phone(&folder, &origin))).await.unwrap();
    let again = until(&node, |budget| !budget.connects).await;
    assert!(again.metered_bytes >= spent.metered_bytes && again.metered_bytes <= METERED, "{again:?}");
    // What is free costs nothing.
    node.set_metered(false).await.unwrap();
    soon(node.wait_level(space, origin.device())).await.unwrap();
    let free = *node.budget().borrow();
    assert_eq!((free.metered_bytes, free.connects), (again.metered_bytes, true));
    node.set_metered(true).await.unwrap();
    until(&node, |budget| budget.metered).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_sent_others_what_it_may_serves_nobody_until_the_next_day() {
    const BACKGROUND: u64 = 20_000;
    let (origin, space) = origin().await;
    let doc = origin.create_document(space, "", "").await.unwrap();
    let relay = Config {
        listen: vec!["ws://127.0.0.1:0/".parse().unwrap()],
        connect: vec![(origin.listening()[0].parse().unwrap(), Some(origin.device()))],
        budgets: Budgets { background: Some(BACKGROUND), ..Budgets::default() },
        ..Config::default()
    };
    let relay = soon(Node::open(relay)).await.unwrap();
    hold(&relay, &origin, space).await;
    soon(relay.wait_level(space, origin.device())).await.unwrap();
    let behind = Config {
        connect: vec![(relay.listening()[0].parse().unwrap(), Some(relay.device()))],
        discovery: crate::Discovery { on: false, ..Default::default() },
        ..Config::default()
    };
    let behind = soon(Node::open(behind)).await.unwrap();
    hold(&behind, &relay, space).await;
    soon(behind.wait_level(space, relay.device())).await.unwrap();
    let mut n = 0;
    while relay.budget().borrow().serves {
        n += 1;
        doc.set("/text", &json!(format!("{n} {}", "much ado ".repeat(50)))).await.unwrap();
        doc.flush().await.unwrap();
    }
    let spent = until(&relay, |budget| !budget.serves).await;
    assert!(spent.background_bytes <= BACKGROUND && spent.background_bytes > BACKGROUND / 2, "{spent:?}");
    // Connections begin anew, and say so.
    let is_leaf =
        |node: &Node| node.peers().iter().any(|peer| peer.device == relay.device() && peer.roles & roles::LEAF != 0);
    sees(|| is_leaf(&behind) && is_leaf(&origin)).await;
    let mine = relay.create_document(space, "", "mine").await.unwrap();
    mine.set("", &json!({ "of": "the relay" })).await.unwrap();
    let there = arrives(&behind, space, mine.id()).await;
    shows(&there, json!({ "of": "the relay" })).await;
    assert_eq!(relay.budget().borrow().background_bytes, spent.background_bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_serves_never_or_not_on_a_metered_network_says_so() {
    for (serving, metered, serves) in [
        (Serving::Never, false, false),
        (Serving::Metered, true, false),
        (Serving::Metered, false, true),
        (Serving::Always, true, true),
    ] {
        let budgets = Budgets { serving, ..Budgets::default() };
        let node = soon(Node::open(Config { budgets, metered, ..Config::default() })).await.unwrap();
        let other = soon(Node::open(Config::default())).await.unwrap();
        let (one, end) = crate::transport::Link::pair(&Default::default());
        node.attach(one, true, None);
        other.attach(end, false, None);
        sees(|| !other.peers().is_empty()).await;
        assert_eq!(other.peers()[0].roles & roles::LEAF == 0, serves, "{serving:?} {metered}");
        assert_eq!(node.budget().borrow().serves, serves);
    }
}
