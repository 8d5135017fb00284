//! Two peers of one space in one process: each edits, both show the same, and each knows that the other has it.
//!
//! Run: `cargo run -p commonhold-engine --example two_peers`

use std::error::Error;

use commonhold_engine::{Config, Document, Node, NodeEvent, Writers};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Alice listens on a port that the system chooses; Bob dials whoever his invite names. Nothing is kept on disk.
    let alice = Node::open(Config { listen: vec!["ws://127.0.0.1:0/".parse()?], ..Config::default() }).await?;
    let bob = Node::open(Config::default()).await?;
    let space = alice.create_space(Writers::Anyone).await?;
    let list = alice.create_document(space, "list", "Shopping").await?;

    let mut news = bob.events();
    let invite = alice.invite(space)?.to_string();
    println!("Alice invites Bob: {invite}");
    bob.join(&invite.parse()?).await?;
    while !matches!(news.recv().await?, NodeEvent::Document { doc, .. } if doc == list.id()) {}

    list.set("/milk", &1).await?;
    let same_list = bob.open_document(space, list.id()).await?;
    same_list.set("/eggs", &6).await?;
    shows_both(&list).await?;
    shows_both(&same_list).await?;
    list.wait_acked(1).await?;
    same_list.wait_acked(1).await?;

    println!("Alice shows {}", list.json().await?);
    println!("Bob shows   {}", same_list.json().await?);
    println!("{} change(s), each on both peers", list.history().await?.len());
    assert_eq!(list.json().await?, same_list.json().await?);
    drop((list, same_list));
    bob.close().await?;
    alice.close().await?;
    Ok(())
}

async fn shows_both(list: &Document) -> Result<(), Box<dyn Error>> {
    let mut watch = list.watch();
    while list.json_at("/milk").await?.is_none() || list.json_at("/eggs").await?.is_none() {
        watch.next().await.ok_or("the document is gone")?;
    }
    Ok(())
}
