//! The state of a sync with one Automerge client, over a view: the library's protocol without the part that takes changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use automerge as am;
use automerge::sync::SyncDoc;
use commonhold_sync::change::{self, Actor};
use commonhold_sync::id::EntryId;
use commonhold_sync::limits::Rules;

use super::sync_message::{SyncMessage, WalkedChange};
use super::view::{Broken, Doc, View, guarded};

/// What a client and this view know of each other.
#[derive(Debug, Default)]
pub(crate) struct SyncState {
    state: am::sync::State,
    /// The last message that was sent. To the same question there is the same answer, which is not given twice: two of
    /// which neither can have all that the other has would talk for ever.
    sent: Vec<u8>,
    /// What the last message said beside changes.
    heard: Option<am::sync::Message>,
    /// Something came that was not in the message before.
    news: bool,
}

impl SyncState {
    /// Takes everything of a message but its changes; if it `brought` some, they were taken into the view or refused by now.
    /// `fresh`: some of them had not come before.
    pub(crate) fn receive(
        &mut self,
        view: &mut View,
        message: &SyncMessage,
        brought: bool,
        fresh: bool,
    ) -> Result<(), Broken> {
        let heard = message.for_library();
        self.news |= fresh || self.heard.as_ref() != Some(&heard);
        self.heard = Some(heard.clone());
        let said = self.state.last_sent_heads.clone();
        self.on(view, |state, doc| {
            doc.receive_sync_message(state, heard).map_err(|_| Broken)?;
            if brought {
                // To the library it seems that the client only repeats our heads; it waits to hear that they are ours now.
                state.last_sent_heads = said;
            }
            Ok(())
        })
    }

    /// The next message for the client, if there is something to say. `need` is what is lacking up to its heads.
    pub(crate) fn generate(&mut self, view: &mut View, need: &BTreeSet<EntryId>) -> Result<Option<Vec<u8>>, Broken> {
        let need: Vec<am::ChangeHash> = need.iter().map(|id| am::ChangeHash(id.0)).collect();
        // A view that was made again may hold less than it once shared.
        if !self.state.shared_heads.iter().all(|hash| view.contains(&EntryId(hash.0))) {
            let their_heads = self.state.their_heads.take();
            self.state = am::sync::State { their_heads, ..am::sync::State::default() };
        }
        let Some(mut message) = self.on(view, |state, doc| Ok(doc.generate_sync_message(state)))? else {
            return Ok(None);
        };
        // Of a client that has what we lack behind its heads, that alone is asked for.
        let theirs = self.state.their_heads.as_deref().unwrap_or_default();
        if !need.iter().all(|hash| theirs.contains(hash)) {
            message.have = Vec::new();
        }
        (message.need, message.flags) = (need, None);
        let repeats = message.changes.is_empty() && !self.news;
        let bytes = message.encode();
        self.news = false;
        if repeats && bytes == self.sent {
            return Ok(None);
        }
        // A message with changes cannot be said twice, as the library keeps account of what was sent.
        self.sent = if repeats || bytes.len() < KEPT_BYTES { bytes.clone() } else { Vec::new() };
        Ok(Some(bytes))
    }

    /// What the client said last that it has.
    pub(crate) fn their_heads(&self) -> impl Iterator<Item = EntryId> + '_ {
        self.state.their_heads.iter().flatten().map(|hash| EntryId(hash.0))
    }

    /// A panic of the library costs what was known of the client, not more: the document itself is only read.
    fn on<T>(
        &mut self,
        view: &mut View,
        f: impl FnOnce(&mut am::sync::State, &mut am::Automerge) -> Result<T, Broken>,
    ) -> Result<T, Broken> {
        view.commit()?;
        let Doc::Idle(doc) = &mut view.doc else { return Err(Broken) };
        let state = &mut self.state;
        let done = guarded(|| f(state, doc));
        if done.is_err() {
            self.state = am::sync::State::default();
        }
        done
    }
}

/// Messages above this size are not kept for comparison: they carry changes.
const KEPT_BYTES: usize = 64 << 10;

/// Changes in the order in which they are taken.
#[derive(Debug, Default)]
pub(crate) struct Vouchable {
    /// Consecutive changes of one actor, dependencies first.
    pub(crate) runs: Vec<Vec<WalkedChange>>,
    /// Those whose past is neither in the view nor among the others.
    pub(crate) missing: Vec<WalkedChange>,
    /// Those that are not vouched for, whatever else comes.
    pub(crate) refused: Vec<(EntryId, &'static str)>,
}

/// The changes of one actor that are to be taken.
#[derive(Default)]
struct Line {
    queue: VecDeque<WalkedChange>,
    /// How many of the actor the view holds, with those that were sorted before.
    held: u64,
    authored: bool,
}

impl View {
    /// Whether it shows entries under other names than they have on the wire, which no client could build upon.
    pub(crate) fn shows_forks(&self) -> bool {
        self.graph.is_forked()
    }

    /// The changes that can be taken now as foreign ones, as far as this view tells: each goes on a chain that began as a foreign
    /// one, behind its last, and by a bounded jump of its operations. Those that it holds are left out.
    pub(crate) fn vouchable(&self, changes: Vec<WalkedChange>) -> Vouchable {
        let mut out = Vouchable::default();
        let mut lines: BTreeMap<Actor, Line> = BTreeMap::new();
        let mut given: BTreeSet<EntryId> = BTreeSet::new();
        for change in changes {
            if !self.contains(&change.head.id) && given.insert(change.head.id) {
                lines.entry(change.head.actor).or_default().queue.push_back(change);
            }
        }
        for (actor, line) in &mut lines {
            line.queue.make_contiguous().sort_by_key(|change| change.head.seq);
            (line.held, line.authored) = self.known_of(actor);
        }
        // What was sorted, with its last operation, and what was refused.
        let mut sorted: BTreeMap<EntryId, Option<u64>> = BTreeMap::new();
        let mut blocked: BTreeMap<EntryId, Vec<Actor>> = BTreeMap::new();
        let mut todo: VecDeque<Actor> = lines.keys().copied().collect();
        while let Some(actor) = todo.pop_front() {
            let Some(line) = lines.get_mut(&actor) else { continue };
            let mut run = Vec::new();
            while let Some(change) = line.queue.front() {
                let fate = self.fate(change, line, &sorted, &given);
                if let Fate::Waits(on) = fate {
                    on.into_iter().for_each(|on| blocked.entry(on).or_default().push(actor));
                    break;
                }
                let Some(change) = line.queue.pop_front() else { break };
                let id = change.head.id;
                match fate {
                    Fate::Refused(why) => {
                        out.refused.push((id, why));
                        sorted.insert(id, None);
                    }
                    _ => {
                        line.held += 1;
                        sorted.insert(id, Some(change.head.max_op()));
                        run.push(change);
                    }
                }
                todo.extend(blocked.remove(&id).unwrap_or_default());
            }
            if !run.is_empty() {
                out.runs.push(run);
            }
        }
        out.missing = lines.into_values().flat_map(|line| line.queue).collect();
        out
    }

    fn fate(
        &self,
        change: &WalkedChange,
        line: &Line,
        sorted: &BTreeMap<EntryId, Option<u64>>,
        given: &BTreeSet<EntryId>,
    ) -> Fate {
        let head = &change.head;
        let mut past = 0;
        for dep in &head.deps {
            let max_op = match (self.graph.find(dep), sorted.get(dep)) {
                (Some(node), _) => u64::from(self.graph.max_op(&[node])),
                (None, Some(Some(max_op))) => *max_op,
                (None, Some(None)) => return Fate::Refused("it builds upon a change that was refused"),
                (None, None) => return Fate::Waits(given.contains(dep).then_some(*dep)),
            };
            past = past.max(max_op);
        }
        if head.seq <= line.held {
            return Fate::Refused("another change of its actor has its number");
        }
        if line.authored || head.author.is_some() || head.seq > line.held + 1 {
            // The device whose chain this is tells of it itself; or what comes before is still to come.
            return Fate::Waits(None);
        }
        match head.start_op > past && head.start_op - past <= self.rules.foreign_jump_max {
            true => Fate::Taken,
            false => Fate::Refused("its operations do not follow those of its past"),
        }
    }

    /// How many changes of an actor are held, and whether the first names an author, as those of devices do.
    fn known_of(&self, actor: &[u8]) -> (u64, bool) {
        let line = self.graph.chain(actor).and_then(|chain| self.graph.lines_of(chain).first().copied());
        let entries = line.map_or(&[][..], |line| self.graph.entries(line));
        let first = entries.first().and_then(|first| self.entry(&self.graph.id(*first)));
        let head = first.and_then(|bytes| change::walk(&bytes, self.rules).ok());
        (entries.len() as u64, head.is_some_and(|head| head.author.is_some()))
    }

    pub(crate) fn wire_rules(&self) -> &'static Rules {
        self.rules
    }
}

/// What becomes of a change.
enum Fate {
    Taken,
    /// For this one of the others, if it is among them.
    Waits(Option<EntryId>),
    Refused(&'static str),
}
