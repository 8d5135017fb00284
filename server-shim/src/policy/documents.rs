//! Each document that somebody else made is asked about once it is known. It is carried meanwhile, and blocked if the answer is no.
//!
//! They are read in the order of changes, behind a number that is kept for each space: at once when one is new, and now and then for
//! those that nobody answered for, which hold up no others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use commonhold_engine::{BlockSubject, BlockedInfo, DocId, DocumentInfo, Error, Node, NodeEvent, SpaceId};
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
/// Documents of the block list that a policy may put there: half of it, so that whoever makes documents to be refused leaves room for what
/// the operator blocks.
const REFUSED_MAX: usize = 2_048;
/// What the keys of the numbers begin with among the program's rows.
const ROWS: &[u8] = b"policy:";

/// Goes on until it is dropped.
pub(super) async fn follow(node: Node, program: Program) {
    let mut events = node.events();
    let mut follower = Follower { node, program, asked: BTreeSet::new(), unanswered: BTreeMap::new() };
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
    /// Those that nobody answered for, and when they were asked about.
    unanswered: BTreeMap<(SpaceId, DocId), Instant>,
}

impl Follower {
    /// Asks about what changed since. Behind one that nobody answered for, the number stays.
    async fn follow(&mut self, space: SpaceId) -> Result<(), Error> {
        self.node.settle().await?;
        let key = [ROWS, &space.0].concat();
        let row = self.node.app_rows(&key).await?.into_iter().next();
        let mut all = true;
        let mut after = row.and_then(|(_, number)| Some(u64::from_be_bytes(number.try_into().ok()?))).unwrap_or(0);
        loop {
            let page = match self.node.changes(space, after, PAGE).await {
                Err(Error::Blocked(_)) => return Ok(()),
                page => page?,
            };
            if page.rows.is_empty() {
                return Ok(());
            }
            all &= self.ask(space, page.rows.into_iter().map(|row| row.info)).await?;
            after = page.last;
            if !all {
                continue;
            }
            self.node.put_app_rows(vec![(key.clone(), Some(after.to_be_bytes().to_vec()))]).await?;
        }
    }

    /// Asks about those that were not asked about. Whether all are answered.
    async fn ask(&mut self, space: SpaceId, docs: impl Iterator<Item = DocumentInfo>) -> Result<bool, Error> {
        let own = self.node.device();
        let new = docs.filter(|info| !info.deleted && info.creator != own && !self.asked.contains(&(space, info.id)));
        let waits = |info: &DocumentInfo| self.unanswered.get(&(space, info.id)).is_some_and(|at| at.elapsed() < AGAIN);
        let (waiting, new): (Vec<DocumentInfo>, Vec<DocumentInfo>) = new.partition(waits);
        let program = &self.program;
        let ask = |info: DocumentInfo| async move { (info.id, program.ask(question(space, &info)).await) };
        let mut answers = stream::iter(new).map(ask).buffer_unordered(AT_ONCE);
        let mut all = waiting.is_empty();
        while let Some((doc, verdict)) = answers.next().await {
            let Some(Verdict { accept, reason, .. }) = verdict else {
                all = false;
                self.unanswered.retain(|_, at| at.elapsed() < AGAIN);
                if self.unanswered.len() < ASKED_MAX {
                    self.unanswered.insert((space, doc), Instant::now());
                }
                continue;
            };
            self.unanswered.remove(&(space, doc));
            if !accept {
                self.refuse(space, doc, &reason).await?;
            }
            if self.asked.len() >= ASKED_MAX {
                self.asked.clear();
            }
            self.asked.insert((space, doc));
        }
        Ok(all)
    }

    async fn refuse(&self, space: SpaceId, doc: DocId, reason: &str) -> Result<(), Error> {
        let documents = |list: Vec<BlockedInfo>| {
            list.iter().filter(|info| matches!(info.subject, BlockSubject::Document(_))).count()
        };
        if documents(self.node.blocked()) >= REFUSED_MAX {
            warn!(%space, %doc, reason, "the policy refuses a document, and it is carried: {REFUSED_MAX} are blocked already");
            return Ok(());
        }
        info!(%space, %doc, reason, "the policy refuses a document, which is blocked");
        self.node.block(BlockSubject::Document(doc)).await.map(drop)
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
