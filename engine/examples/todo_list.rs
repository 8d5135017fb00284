//! An application's own types, in and out of a document that is kept on disk and watched.
//!
//! Run: `cargo run -p commonhold-engine --example todo_list`

use std::error::Error;

use commonhold_engine::{Config, Node, Writers};
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
struct TodoList {
    title: String,
    items: Vec<Item>,
}

/// Items have an `id`, by which changes of a list find them again when others have moved them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Item {
    id: String,
    text: String,
    done: bool,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("commonhold-todo-{}", std::process::id()));
    let config = Config { data: Some(folder.join("data")), keys: Some(folder.join("keys")), ..Config::default() };
    let node = Node::open(config.clone()).await?;
    let space = node.create_space(Writers::Granted).await?;
    let document = node.create_document(space, "todo", "Garden").await?;

    let mut watch = document.watch();
    let watcher = tokio::spawn(async move {
        let mut changes = 0;
        while let Some(change) = watch.next().await {
            changes += 1;
            println!("change {changes} ({:?}): {} patches", change.origin, change.patches.len());
        }
        changes
    });

    let mut list = TodoList { title: "Garden".into(), items: Vec::new() };
    for (id, text) in [("a", "rake the leaves"), ("b", "plant bulbs"), ("c", "clean the tools")] {
        list.items.push(Item { id: id.into(), text: text.into(), done: false });
        // Only what differs from the document becomes an edit.
        document.set("", &list).await?;
    }
    list.items[1].done = true;
    list.items.remove(0);
    document.set("", &list).await?;
    let version = document.flush().await?;
    println!("on disk, at a version with {} head(s)", version.0.len());
    let id = document.id();
    drop(document);
    node.close().await?;
    println!("the watcher saw {} changes", watcher.await?);

    let node = Node::open(config).await?;
    let document = node.open_document(space, id).await?;
    let again: TodoList = document.get("").await?;
    println!("read back: {again:#?}");
    assert_eq!(again, list);
    drop(document);
    node.close().await?;
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
