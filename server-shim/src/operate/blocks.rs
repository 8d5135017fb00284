//! What is blocked.

use commonhold_engine::{BlockSubject, Node};

use super::{failure, find_document, find_space};
use crate::args::BlockArg;
use crate::failure::Failure;
use crate::request::{Answered, BlockChanged, BlockedRow, Doc, Reply};

pub(super) fn list(node: &Node) -> Reply {
    let since = |ms: u64| i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let row = |info: commonhold_engine::BlockedInfo| {
        let (kind, what) = parts(&info.subject);
        BlockedRow { kind, what, since: since(info.since_ms).map(|time| time.to_string()) }
    };
    Reply::Blocked(node.blocked().into_iter().map(row).collect())
}

pub(super) async fn change(node: &Node, kind: BlockArg, what: &str, blocks: bool) -> Answered {
    let subject = find(node, kind, what).await?;
    let changed = match blocks {
        true => node.block(subject).await,
        false => node.unblock(subject).await,
    };
    let (kind, what) = parts(&subject);
    let changed = changed.map_err(|error| failure(&error))?;
    Ok(Reply::BlockChanged(BlockChanged { kind, what, blocked: blocks, changed }))
}

/// A whole id needs to be of nothing that is held here; digits and names are.
async fn find(node: &Node, kind: BlockArg, what: &str) -> Result<BlockSubject, Failure> {
    let word = match kind {
        BlockArg::Peer => "peer",
        BlockArg::Network => "network",
        BlockArg::Space => "space",
        BlockArg::Doc => "doc",
    };
    match (format!("{word}:{what}").parse(), kind) {
        (Ok(subject), _) => Ok(subject),
        (Err(_), BlockArg::Space) => Ok(BlockSubject::Space(find_space(node, Some(what))?)),
        (Err(_), BlockArg::Doc) => {
            let (_, doc) = find_document(node, &Doc { space: None, doc: what.to_owned() }, true).await?;
            Ok(BlockSubject::Document(doc))
        }
        (Err(why), _) => Err(Failure::usage(
            "block_subject",
            why,
            "name a peer or an identity by its id (`commonhold peers --json`), or a network as 192.0.2.0/24",
        )),
    }
}

fn parts(subject: &BlockSubject) -> (String, String) {
    let text = subject.to_string();
    let (kind, what) = text.split_once(':').unwrap_or_default();
    (kind.to_owned(), what.to_owned())
}
