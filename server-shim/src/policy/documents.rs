//! Each document that somebody else made is asked about once it is known. It is carried meanwhile, and blocked if the answer is no.
//!
//! They are read in the order of changes, behind a number that is kept for each space: at once when one is new, and now and then for
//! those that nobody answered for.

use std::collections::BTreeSet;
use std::time::Duration;

use commonhold_engine::{BlockSubject, DocId, DocumentInfo, Error, Node, NodeEvent, SpaceId};
use futures_util::{StreamExt, stream};
use tokio::sync::broadcast::error::RecvError;
use tracing::{info, warn};

use super::Question;
use super::program::{Program, Verdict};

/// How often those are asked about again that nobody answered for.
const AGAIN: Duration = Duration::from_secs(60);
/// Documents of one look at the order of changes, and questions at once.
const PAGE: usize = 256;
const AT_ONCE: usize = 64;
/// Documents that are remembered as asked about, 64 bytes each. Beyond it they are asked about again when they change.
const ASKED_MAX: usize = 100_000;
/// What the keys of the numbers begin with among the program's rows.
const ROWS: &[u8] = b"policy:";

/// Returns when the node is closed.
pub(super) async fn follow(node: Node, program: Program) {
    let mut events = node.events();
    let mut follower = Follower { node, program, asked: BTreeSet::new() };
    let mut again = tokio::time::interval(AGAIN);
    loop {
        // `None`: all of them.
        let space = tokio::select! {
            event = events.recv() => match event {
                Ok(NodeEvent::Document { space, .. }) => Some(space),
                Ok(_) => continue,
                Err(RecvError::Lagged(_)) => None,
                Err(RecvError::Closed) => return,
            },
            _ = again.tick() => None,
        };
        let spaces = match space {
            Some(space) => vec![space],
            None => follower.node.spaces().into_iter().map(|space| space.id).collect(),
        };
        for space in spaces {
            if let Err(error) = follower.follow(space).await {
                warn!(%space, %error, "its documents are asked about later");
            }
        }
    }
}

struct Follower {
    node: Node,
    program: Program,
    asked: BTreeSet<(SpaceId, DocId)>,
}

impl Follower {
    /// Asks about what changed since. Where nobody answers, that is where the next goes on.
    async fn follow(&mut self, space: SpaceId) -> Result<(), Error> {
        self.node.settle().await?;
        let key = [ROWS, &space.0].concat();
        let row = self.node.app_rows(&key).await?.into_iter().next();
        let mut after = row.and_then(|(_, number)| Some(u64::from_be_bytes(number.try_into().ok()?))).unwrap_or(0);
        loop {
            let page = match self.node.changes(space, after, PAGE).await {
                Err(Error::Blocked(_)) => return Ok(()),
                page => page?,
            };
            if page.rows.is_empty() || !self.ask(space, page.rows.into_iter().map(|row| row.info)).await? {
                return Ok(());
            }
            after = page.last;
            self.node.put_app_rows(vec![(key.clone(), Some(after.to_be_bytes().to_vec()))]).await?;
        }
    }

    /// Asks about those that were not asked about. Whether all are answered.
    async fn ask(&mut self, space: SpaceId, docs: impl Iterator<Item = DocumentInfo>) -> Result<bool, Error> {
        let own = self.node.device();
        let new = docs.filter(|info| !info.deleted && info.creator != own && !self.asked.contains(&(space, info.id)));
        let new: Vec<DocumentInfo> = new.collect();
        let program = &self.program;
        let ask = |info: DocumentInfo| async move { (info.id, program.ask(question(space, &info)).await) };
        let mut answers = stream::iter(new).map(ask).buffer_unordered(AT_ONCE);
        let mut all = true;
        while let Some((doc, verdict)) = answers.next().await {
            let Some(Verdict { accept, reason, .. }) = verdict else {
                all = false;
                continue;
            };
            if !accept {
                info!(%space, %doc, reason, "the policy refuses a document, which is blocked");
                self.node.block(BlockSubject::Document(doc)).await?;
            }
            if self.asked.len() >= ASKED_MAX {
                self.asked.clear();
            }
            self.asked.insert((space, doc));
        }
        Ok(all)
    }
}

fn question(space: SpaceId, info: &DocumentInfo) -> Question {
    Question::Document {
        space: space.to_string(),
        doc: info.id.to_string(),
        name: info.name.clone(),
        type_name: info.kind.clone(),
        creator: info.creator.to_string(),
    }
}
