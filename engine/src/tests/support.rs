use std::path::Path;
use std::time::Duration;

use commonhold_sync::id::SpaceId;
use commonhold_sync::record::Writers;
use tokio::time::timeout;

use crate::transport::Link;
use crate::{Config, Document, Node};

/// Longer than anything here takes on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it takes too long")
}

pub(super) async fn memory() -> Node {
    soon(Node::open(Config::default())).await.unwrap()
}

pub(super) fn on_disk(folder: &Path) -> Config {
    Config { data: Some(folder.join("data")), keys: Some(folder.join("keys")), ..Config::default() }
}

pub(super) fn join(one: &Node, other: &Node) {
    let (ours, theirs) = Link::pair(&Default::default());
    one.attach(ours, true, Some(other.device()));
    other.attach(theirs, false, None);
}

/// Opens as soon as the last owner has let go of the store.
pub(super) async fn reopened(config: Config) -> Node {
    let opened = async {
        loop {
            match Node::open(config.clone()).await {
                Err(crate::OpenError::Store(error)) if error.code() == "store_in_use" => {
                    tokio::task::yield_now().await;
                }
                opened => return opened.unwrap(),
            }
        }
    };
    soon(opened).await
}

/// Two peers that hold one space, connected.
pub(super) async fn two() -> (Node, Node, SpaceId) {
    let (one, other) = (memory().await, memory().await);
    let space = one.create_space(Writers::Anyone).await.unwrap();
    other.join(&one.invite(space).unwrap()).await.unwrap();
    join(&one, &other);
    soon(one.wait_level(space, other.device())).await.unwrap();
    soon(other.wait_level(space, one.device())).await.unwrap();
    (one, other, space)
}

/// Returns when the document shows this.
pub(super) async fn shows(document: &Document, wanted: serde_json::Value) {
    let mut watch = document.watch();
    let shown = async {
        loop {
            watch.next().await.expect("the document is there");
            if document.json().await.unwrap() == wanted {
                return;
            }
        }
    };
    if timeout(PATIENCE, shown).await.is_err() {
        panic!("shows {}, not {wanted}", document.json().await.unwrap());
    }
}

/// Opens a document once it has been synced.
pub(super) async fn arrives(node: &Node, space: SpaceId, doc: crate::DocId) -> Document {
    let mut events = node.events();
    let opened = async {
        loop {
            match node.open_document(space, doc).await {
                Ok(document) => return document,
                Err(crate::Error::UnknownDocument(_)) => drop(events.recv().await),
                Err(error) => panic!("{error}"),
            }
        }
    };
    soon(opened).await
}
