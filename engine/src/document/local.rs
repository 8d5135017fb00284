//! The way of an app's own edits: into a transaction, into a change, out to the store.
//!
//! Automerge's load time and memory follow the number of changes, so edits wait in an open transaction and leave as
//! one change at the next flush.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use automerge as am;
use automerge::ReadDoc;
use automerge::transaction::{CommitOptions, OwnedTransaction, Transactable};
use commonhold_sync::id::EntryId;

use super::admit;
use super::base::{self, Base};
use super::compare::compare;
use super::edit::{Command, Edit, EditError};
use super::graph::NodeId;
use super::ids::Ids;
use super::patch::{self, Patch};
use super::view::{Broken, Doc, View, blank, guarded};

/// Heads of a document above which a local change is preceded by empty ones that join them: a change may depend on
/// [`Rules::deps_max`](commonhold_sync::limits::Rules::deps_max) entries only.
const JOIN_AT: usize = 48;

/// Operations of one change in a document with more chains than a change may name. Each names three chains at most, where
/// nothing conflicts.
const OPS_MANY_CHAINS: usize = 64;

/// Bytes kept free of the limit of a change for its header: dependencies, chains, message.
const HEADER_BYTES: usize = 16 << 10;

/// Who writes: the chain, and the device that owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainAuthor {
    /// The chain, which is the Automerge actor id.
    pub actor: [u8; 16],
    /// The device, named in the first entry of the chain.
    pub device: [u8; 32],
}

/// A change of our own, ready to be stored and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalEntry {
    /// Its id.
    pub id: EntryId,
    /// Its raw bytes.
    pub bytes: Vec<u8>,
    /// Its chain.
    pub actor: [u8; 16],
    /// Its number in the chain.
    pub seq: u64,
    /// Its first operation.
    pub start_op: u64,
    /// Operations in it.
    pub ops: u64,
    /// What it was made upon.
    pub deps: Vec<EntryId>,
}

impl View {
    /// Sets the chain that further edits go under. Pending edits become a change of the chain before.
    pub fn set_chain(&mut self, chain: ChainAuthor) -> Result<(), Broken> {
        if self.chain != Some(chain) {
            self.commit()?;
            self.chain = Some(chain);
        }
        Ok(())
    }

    /// Sets the time that further changes carry, in seconds since 1970; 0, the default, says nothing. It decides nothing.
    pub fn set_time(&mut self, seconds: i64) {
        self.time = seconds;
    }

    /// Edits the document. What the closure did is pending until `commit` or `flush`. If it fails or panics, what it did is
    /// undone, and only that.
    pub fn edit<T, E: From<EditError>>(&mut self, f: impl FnOnce(&mut Edit<'_>) -> Result<T, E>) -> Result<T, E> {
        self.edit_upon(None, f)
    }

    /// The same, but [`Edit::set`] and [`Edit::make_so`] mean what the document showed at a version: it is found where it is now, and what others
    /// did since stays. Pending edits become a change.
    pub fn edit_at<T, E: From<EditError>>(
        &mut self,
        version: &[EntryId],
        f: impl FnOnce(&mut Edit<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let base = self.base(version)?;
        self.edit_upon(base, f)
    }

    fn edit_upon<T, E: From<EditError>>(
        &mut self,
        base: Option<base::Version>,
        f: impl FnOnce(&mut Edit<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.open()?;
        let Doc::Open(tx) = &mut self.doc else { unreachable!("just opened") };
        let (commands_before, ops_before) = (self.commands.len(), tx.pending_ops());
        let piece_ops = piece_ops(&**tx, self.rules.actors_max);
        let ids = Ids { graph: &self.graph, naming: self.renaming.naming() };
        let base = base.zip(self.index.as_ref()).map(|(heads, index)| Base::new(heads, index));
        let mut edit = Edit { tx, commands: &mut self.commands, rules: self.rules, ids, piece_ops, torn: false, base };
        let outcome = catch_unwind(AssertUnwindSafe(|| f(&mut edit)));
        let torn = edit.torn;
        let Doc::Open(tx) = &self.doc else { unreachable!("closures have no access to it") };
        let pending = tx.pending_ops();
        if (torn || !matches!(outcome, Ok(Ok(_)))) && pending != ops_before {
            self.undo_to(commands_before)?;
        } else if pending == 0 {
            self.commit().map_err(|Broken| EditError::Broken)?;
        }
        match outcome {
            Ok(Ok(_)) if torn => Err(EditError::Other("a command failed half-way".into()).into()),
            Ok(result) => result,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Closes the pending edits into a change; several if they are too many for one. It leaves with the next flush.
    pub fn commit(&mut self) -> Result<(), Broken> {
        let Doc::Open(tx) = &self.doc else { return Ok(()) };
        let pieces = match tx.pending_ops() {
            0 => Vec::new(),
            _ => self.cut(piece_ops(&**tx, self.rules.actors_max)),
        };
        let commands = std::mem::take(&mut self.commands);
        self.on_transaction(|view, tx| {
            if pieces.len() == 1 {
                return Ok(view.close(tx));
            }
            let (mut doc, _) = tx.rollback();
            for piece in pieces {
                let mut tx = view.begin(doc);
                for command in &commands[piece] {
                    command.apply(&mut tx).map_err(|_| Broken)?;
                }
                doc = view.close(tx);
            }
            Ok(doc)
        })
    }

    /// Closes the pending edits and gives out all local changes that were not given out before, oldest first.
    pub fn flush(&mut self) -> Result<Vec<LocalEntry>, Broken> {
        self.commit()?;
        Ok(std::mem::take(&mut self.queue))
    }

    /// Whether there are edits that are not closed into a change.
    pub fn is_gathering(&self) -> bool {
        matches!(self.doc, Doc::Open(_))
    }

    /// Whether there is something to flush.
    pub fn has_unflushed(&self) -> bool {
        matches!(self.doc, Doc::Open(_)) || !self.queue.is_empty()
    }

    /// Patches of local changes, made when a change is closed, while watching. Take them before those of a later batch;
    /// `apply_remote` does so by itself.
    pub fn take_local_patches(&mut self) -> Vec<Patch> {
        std::mem::take(&mut self.local_patches)
    }

    fn open(&mut self) -> Result<(), EditError> {
        if self.broken {
            return Err(EditError::Broken);
        }
        if matches!(self.doc, Doc::Open(_)) {
            return Ok(());
        }
        let author = self.chain.ok_or(EditError::NoChain)?;
        if self.graph.chain(&author.actor).is_some_and(|chain| !self.graph.forks_of(chain).is_empty()) {
            return Err(EditError::ChainForked);
        }
        // A million spare, so that what is open can always be closed.
        if u64::from(self.graph.max_op(&self.graph.head_nodes())) + (1 << 20) >= self.rules.op_counter_end {
            return Err(EditError::Full);
        }
        self.join_heads().map_err(|Broken| EditError::Broken)?;
        let Doc::Idle(doc) = std::mem::replace(&mut self.doc, Doc::Idle(Box::new(blank()))) else {
            unreachable!("no transaction is open")
        };
        self.doc = Doc::Open(Box::new(self.begin(*doc)));
        Ok(())
    }

    fn begin(&self, mut doc: am::Automerge) -> OwnedTransaction {
        let chain = self.chain.expect("checked when the edit began");
        // The author first: setting it draws a new actor.
        doc.set_author(Some(chain.device.to_vec().into()));
        doc.set_actor(am::ActorId::from(chain.actor));
        let log = self.watching.then(am::PatchLog::active);
        doc.into_transaction(log, None).expect("a fresh patch log fits any document")
    }

    fn close(&mut self, tx: OwnedTransaction) -> am::Automerge {
        let options = CommitOptions { message: None, time: (self.time != 0).then_some(self.time) };
        let (doc, made, mut log) = tx.commit_with(options);
        if made.is_some() {
            let change = doc.get_last_local_change().expect("a change was just made");
            self.record(&change);
            if self.watching {
                let patches = doc.make_patches(&mut log);
                let patches = match patches.iter().any(patch::doubtful) {
                    true => compare(&doc, change.deps(), patches),
                    false => patches.into_iter().map(Patch::from_am).collect(),
                };
                self.local_patches.extend(patches);
            }
        }
        doc
    }

    /// Takes a change that was made in the view.
    fn record(&mut self, change: &am::Change) {
        match self.renaming.written(&self.graph, change) {
            None => _ = self.record_wire(change),
            Some(wire) => {
                if let Some(node) = self.record_wire(&wire) {
                    self.renaming.note(node, change.hash(), wire.raw_bytes());
                }
            }
        }
    }

    /// Takes a change of our own into graph, index and queue. It passes the rules by construction.
    fn record_wire(&mut self, change: &am::Change) -> Option<NodeId> {
        let chain = self.chain.expect("checked when the edit began");
        let id = EntryId(change.hash().0);
        let deps: Vec<EntryId> = change.deps().iter().map(|dep| EntryId(dep.0)).collect();
        let nodes: Vec<NodeId> = deps.iter().filter_map(|dep| self.graph.find(dep)).collect();
        debug_assert!(change.raw_bytes().len() <= self.rules.change_bytes_max, "{}", change.raw_bytes().len());
        debug_assert!(change.len() as u64 <= self.rules.change_ops_max && deps.len() <= self.rules.deps_max);
        let node = match &mut self.index {
            Some(index) => {
                let admitted = admit::admit(&mut self.graph, index, self.rules, change, &nodes);
                debug_assert!(admitted.is_ok(), "own change breaks the rules: {admitted:?}");
                // Without it in the graph the heads differ at the next batch, which rebuilds; the peers refuse it.
                self.broken |= admitted.is_err();
                admitted.ok()
            }
            None => {
                let line = self.graph.intern(&chain.actor);
                let start = change.start_op().get() as u32;
                Some(self.graph.push(id, line, start, change.len() as u32, &nodes, None))
            }
        };
        self.queue.push(LocalEntry {
            id,
            bytes: change.raw_bytes().to_vec(),
            actor: chain.actor,
            seq: change.seq(),
            start_op: change.start_op().get(),
            ops: change.len() as u64,
            deps,
        });
        node
    }

    /// Undoes the commands from `keep` on: back to the start of the transaction, and the ones before again.
    fn undo_to(&mut self, keep: usize) -> Result<(), EditError> {
        self.commands.truncate(keep);
        let commands = std::mem::take(&mut self.commands);
        let Doc::Open(tx) = std::mem::replace(&mut self.doc, Doc::Idle(Box::new(blank()))) else { return Ok(()) };
        let redone = guarded(|| {
            let (doc, _) = tx.rollback();
            if commands.is_empty() {
                return Ok(Doc::Idle(Box::new(doc)));
            }
            let mut tx = self.begin(doc);
            for command in &commands {
                command.apply(&mut tx).map_err(|_| Broken)?;
            }
            Ok(Doc::Open(Box::new(tx)))
        });
        self.commands = commands;
        match redone {
            Ok(doc) => {
                self.doc = doc;
                Ok(())
            }
            Err(Broken) => {
                self.broken = true;
                Err(EditError::Broken)
            }
        }
    }

    /// Takes the transaction out, and puts back the document that becomes of it.
    fn on_transaction(
        &mut self,
        f: impl FnOnce(&mut View, OwnedTransaction) -> Result<am::Automerge, Broken>,
    ) -> Result<(), Broken> {
        let Doc::Open(tx) = std::mem::replace(&mut self.doc, Doc::Idle(Box::new(blank()))) else { return Ok(()) };
        match guarded(|| f(self, *tx)) {
            Ok(doc) => {
                self.doc = Doc::Idle(Box::new(doc));
                Ok(())
            }
            Err(Broken) => {
                self.broken = true;
                Err(Broken)
            }
        }
    }

    /// The commands of each change, so that none exceeds the rules.
    fn cut(&self, ops_max: usize) -> Vec<std::ops::Range<usize>> {
        let bytes_max = self.rules.change_bytes_max - HEADER_BYTES;
        let mut pieces = Vec::new();
        let (mut from, mut ops, mut bytes) = (0, 0, 0);
        for (at, (more_ops, more_bytes)) in self.commands.iter().map(Command::cost).enumerate() {
            if at > from && (ops + more_ops > ops_max || bytes + more_bytes > bytes_max) {
                pieces.push(from..at);
                (from, ops, bytes) = (at, 0, 0);
            }
            (ops, bytes) = (ops + more_ops, bytes + more_bytes);
        }
        pieces.push(from..self.commands.len());
        pieces
    }

    /// Joins the heads by empty changes of ours while there are too many to depend on.
    fn join_heads(&mut self) -> Result<(), Broken> {
        let chain = self.chain.expect("checked when the edit began");
        while self.graph.head_nodes().len() > JOIN_AT {
            let line = self.graph.chain(&chain.actor).map(|chain| self.graph.lines_of(chain)[0]);
            let last = line.and_then(|line| self.graph.entries(line).last().copied());
            let mut deps: Vec<EntryId> = self.graph.heads().into_iter().take(JOIN_AT).collect();
            deps.extend(last.map(|last| self.graph.id(last)));
            deps.sort_unstable();
            deps.dedup();
            let nodes: Vec<NodeId> = deps.iter().filter_map(|dep| self.graph.find(dep)).collect();
            let start_op = u64::from(self.graph.max_op(&nodes)) + 1;
            let seq = last.map_or(0, |last| u64::from(self.graph.node(last).seq)) + 1;
            let footer = if seq == 1 { author_footer(&chain.device) } else { Vec::new() };
            let change = am::Change::from(am::ExpandedChange {
                operations: Vec::new(),
                actor_id: am::ActorId::from(chain.actor),
                hash: None,
                seq,
                start_op: start_op.try_into().expect("one more than something"),
                time: self.time,
                message: None,
                deps: deps.iter().map(|dep| am::ChangeHash(dep.0)).collect(),
                extra_bytes: footer,
                author: None,
            });
            let node = self.record_wire(&change);
            let Doc::Idle(doc) = &mut self.doc else { unreachable!("no transaction is open") };
            let applied = guarded(|| {
                let change = self.renaming.applied(&mut self.graph, node.ok_or(Broken)?, change)?;
                doc.apply_changes([change]).map_err(|_| Broken)
            });
            self.broken |= applied.is_err();
            applied?;
        }
        Ok(())
    }
}

/// The footer that names an author: kind 1, length, bytes.
fn author_footer(device: &[u8; 32]) -> Vec<u8> {
    let mut footer = vec![1, device.len() as u8];
    footer.extend_from_slice(device);
    footer
}

fn piece_ops(doc: &impl ReadDoc, actors_max: usize) -> usize {
    // Half of the rules' 65,536, so that two pieces of a big edit rarely leave a small third.
    if doc.stats().num_actors as usize >= actors_max { OPS_MANY_CHAINS } else { 32_768 }
}
