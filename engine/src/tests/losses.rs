//! Callers that give up half-way. One thread, so that nothing happens between two lines
//! unless the test waits.

use std::task::{Context, Waker};

use tokio::sync::oneshot;

use super::support::*;
use crate::shared::Command;
use crate::{Config, Node, Writers};

#[tokio::test]
async fn an_edit_given_up_half_way_is_saved_all_the_same() {
    let node = Node::open(Config::default()).await.unwrap();
    let space = node.create_space(Writers::Granted).await.unwrap();
    let document = node.create_document(space, "", "").await.unwrap();
    // The driver is busy.
    while let Ok(room) = node.shared().commands.try_reserve() {
        room.send(Command::Settle(oneshot::channel().0));
    }
    {
        let mut edit = Box::pin(document.set("/a", &1));
        let _ = edit.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
    // Without anybody asking.
    let saved = async {
        while !document.sync_status().await.saved_here {
            tokio::task::yield_now().await;
        }
    };
    soon(saved).await;
    soon(document.flush()).await.unwrap();
    assert_eq!(document.history().await.unwrap().len(), 1);
    soon(node.close()).await.unwrap();
}
