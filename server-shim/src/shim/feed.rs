//! What happens to a document, told once to all who follow it: patches of the engine become RFC 6902, and text that is ready to be sent.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use axum::body::Bytes;
use commonhold_engine::document::patch::apply;
use commonhold_engine::{DocId, Document, EntryId, Origin, Patch, PatchAction, Prop, SpaceId};
use serde_json::{Value as Json, json};
use tokio::sync::watch;

use super::problem::{Kind, Problem};
use super::version;

/// Events that wait for followers, and their bytes, whichever is reached first. Who falls further behind is dropped, and resumes from the
/// last that it got.
const BEHIND_MAX: usize = 256;
const BEHIND_BYTES_MAX: usize = 8 << 20;
/// Operations beyond which a change is told as the whole document.
const OPERATIONS_MAX: usize = 1_000;

/// JSON Patch operations, in order.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Operations {
    operations: Vec<Json>,
    /// Those that were told anew included.
    told: usize,
}

impl Operations {
    /// What patches do to a document that reads so; it reads as they leave it afterwards.
    pub(crate) fn of(document: &mut Json, patches: &[Patch]) -> Operations {
        let mut operations = Operations::default();
        for patch in patches {
            operations.tell(document, patch);
        }
        operations
    }

    /// None if there are too many: the document says it shorter.
    pub(crate) fn few(&self) -> Option<&[Json]> {
        (self.told <= OPERATIONS_MAX).then_some(&self.operations)
    }

    fn push(&mut self, name: &str, path: &str, value: Option<&Json>) {
        self.told += 1;
        if self.told > OPERATIONS_MAX {
            return;
        }
        // A text that is edited at several places, or was empty when it was put there, is told once.
        if name == "replace"
            && let Some(last) = self.operations.last_mut()
            && last["path"] == path
            && last["op"] != "remove"
        {
            last["value"] = value.cloned().unwrap_or_default();
            return;
        }
        let mut operation = json!({ "op": name, "path": path });
        operation
            .as_object_mut()
            .into_iter()
            .for_each(|map| _ = value.map(|value| map.insert("value".into(), value.clone())));
        self.operations.push(operation);
    }

    fn tell(&mut self, document: &mut Json, patch: &Patch) {
        let path = pointer(&patch.path);
        let stood = document.pointer(&path).is_some();
        let in_list = matches!(document.pointer(&path), Some(Json::Array(_)));
        if apply(document, patch).is_err() {
            // Cannot be, as patches follow each other; the reader is told all that there is.
            tracing::error!(%path, "a patch does not fit the document");
            return;
        }
        match &patch.action {
            PatchAction::Put { .. } => self.push(if stood { "replace" } else { "add" }, &path, document.pointer(&path)),
            PatchAction::Increment { .. } => self.push("replace", &path, document.pointer(&path)),
            PatchAction::Delete => self.push("remove", &path, None),
            PatchAction::Insert { index, values } if in_list => {
                for at in *index..index + values.len() {
                    let path = format!("{path}/{at}");
                    self.push("add", &path, document.pointer(&path));
                }
            }
            PatchAction::DeleteRange { index, length } if in_list => {
                (0..*length).for_each(|_| self.push("remove", &format!("{path}/{index}"), None));
            }
            // Of a text, a patch has no smaller part than the whole.
            PatchAction::Insert { .. } | PatchAction::DeleteRange { .. } | PatchAction::SpliceText { .. } => {
                self.push("replace", &path, document.pointer(&path));
            }
            // Marks and values that do not win are not in the JSON form.
            _ => {}
        }
    }
}

/// A JSON pointer to a place.
pub(crate) fn pointer(path: &[Prop]) -> String {
    let step = |prop: &Prop| match prop {
        Prop::Key(key) => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
        Prop::Index(index) => format!("/{index}"),
    };
    path.iter().map(step).collect()
}

/// One event, ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// The version that it leads to.
    pub(crate) heads: Arc<[EntryId]>,
    /// `snapshot`, `patch` or `reset`.
    pub(crate) name: &'static str,
    /// One line of JSON.
    pub(crate) data: Bytes,
    /// Where in it the document or the operations are.
    content: Range<usize>,
}

impl Event {
    /// What is told between these two, which are the rest of the data, can be told alone as well.
    fn telling(name: &'static str, heads: &[EntryId], (before, after): (String, String), content: &str) -> Event {
        let range = before.len()..before.len() + content.len();
        Event { heads: heads.into(), name, data: (before + content + &after).into(), content: range }
    }

    pub(crate) fn snapshot(doc: DocId, json: &Json, heads: &[EntryId]) -> Event {
        let around = (format!(r#"{{"doc":"{doc}","document":"#), format!(r#","version":"{}"}}"#, version::text(heads)));
        Event::telling("snapshot", heads, around, &json.to_string())
    }

    fn patch(doc: DocId, parents: &[EntryId], heads: &[EntryId], operations: &[Json], author: Option<String>) -> Event {
        let (from, parents, version) = (json!(author), version::text(parents), version::text(heads));
        let before = format!(r#"{{"doc":"{doc}","from":{from},"parents":"{parents}","patch":"#);
        Event::telling("patch", heads, (before, format!(r#","version":"{version}"}}"#)), &json!(operations).to_string())
    }

    /// What the caller has seen is not held here: a snapshot follows.
    pub(crate) fn reset(doc: DocId, heads: &[EntryId]) -> Event {
        let data = json!({ "doc": doc.to_string(), "version": version::text(heads) });
        Event { heads: heads.into(), name: "reset", data: data.to_string().into(), content: 0..0 }
    }

    /// The document of a snapshot, or the operations of a patch, as JSON.
    pub(crate) fn content(&self) -> Bytes {
        self.data.slice(self.content.clone())
    }
}

#[derive(Debug)]
struct Shown {
    json: Json,
    heads: Arc<[EntryId]>,
    /// The latest events; the newest is always there.
    events: VecDeque<Event>,
    bytes: usize,
    /// Events that there were before these.
    before: u64,
    /// The document is gone: there will be no more.
    over: bool,
}

impl Shown {
    fn push(&mut self, event: Event) {
        self.bytes += event.data.len();
        self.events.push_back(event);
        while self.events.len() > BEHIND_MAX || (self.bytes > BEHIND_BYTES_MAX && self.events.len() > 1) {
            self.bytes -= self.events.pop_front().map_or(0, |gone| gone.data.len());
            self.before += 1;
        }
    }

    fn end(&self) -> u64 {
        self.before + self.events.len() as u64
    }
}

/// The events of one document. Lives while somebody follows it.
#[derive(Debug)]
pub(crate) struct Feed {
    document: Document,
    shown: Mutex<Shown>,
    /// Changes with each event, and when there are no more.
    news: watch::Sender<()>,
}

/// Somebody who follows a document.
#[derive(Debug)]
pub(crate) struct Follower {
    feed: Arc<Feed>,
    /// The number of the event to be told next.
    next: u64,
    news: watch::Receiver<()>,
}

/// Why there are no more events for a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was too slow.
    Slow,
    /// The document is not shown any more.
    Gone,
}

impl Follower {
    /// Waits until there are events, and leaves them out.
    pub(crate) async fn skip(&mut self) -> Result<(), Ended> {
        loop {
            self.news.mark_unchanged();
            {
                let shown = locked(&self.feed.shown);
                if self.next < shown.end() {
                    self.next = shown.end();
                    return Ok(());
                }
                if shown.over {
                    return Err(Ended::Gone);
                }
            }
            self.news.changed().await.map_err(|_| Ended::Gone)?;
        }
    }

    /// The next event.
    pub(crate) async fn next(&mut self) -> Result<Event, Ended> {
        loop {
            self.news.mark_unchanged();
            {
                let shown = locked(&self.feed.shown);
                let at = self.next.checked_sub(shown.before).ok_or(Ended::Slow)?;
                if let Some(event) = shown.events.get(at as usize) {
                    self.next += 1;
                    return Ok(event.clone());
                }
                if shown.over {
                    return Err(Ended::Gone);
                }
            }
            // The feed, which this holds, has the sender.
            self.news.changed().await.map_err(|_| Ended::Gone)?;
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The feeds of all documents that somebody follows.
#[derive(Debug, Default)]
pub(crate) struct Feeds(tokio::sync::Mutex<BTreeMap<(SpaceId, DocId), Weak<Feed>>>);

impl Feeds {
    /// The feed of a document. It is whole when this returns.
    pub(crate) async fn of(&self, document: Document) -> Result<Arc<Feed>, Problem> {
        let key = (document.space(), document.id());
        let mut feeds = self.0.lock().await;
        if let Some(feed) = feeds.get(&key).and_then(Weak::upgrade).filter(|feed| feed.lives()) {
            return Ok(feed);
        }
        feeds.retain(|_, feed| feed.strong_count() > 0);
        let mut watch = document.watch();
        // The first change is the whole document.
        let gone = || Problem::new(Kind::Gone, "the document is not shown any more");
        let first = watch.next().await.ok_or_else(gone)?;
        let mut json = Json::Null;
        first.patches.iter().try_for_each(|patch| apply(&mut json, patch)).map_err(|_| gone())?;
        let heads = first.heads.into();
        let shown = Shown { json, heads, events: VecDeque::new(), bytes: 0, before: 0, over: false };
        let feed = Arc::new(Feed { document, shown: Mutex::new(shown), news: watch::Sender::new(()) });
        feeds.insert(key, Arc::downgrade(&feed));
        let weak = Arc::downgrade(&feed);
        tokio::spawn(async move {
            while let Some(change) = watch.next().await {
                let Some(feed) = weak.upgrade() else { return };
                let author = match change.origin {
                    Origin::Remote(device) => Some(device.to_string()),
                    Origin::Local => Some(feed.here()),
                    Origin::Rebuilt | Origin::Reset => None,
                };
                feed.tell(&change.patches, &change.heads, author);
            }
            if let Some(feed) = weak.upgrade() {
                locked(&feed.shown).over = true;
                feed.news.send_replace(());
            }
        });
        Ok(feed)
    }
}

impl Feed {
    fn lives(&self) -> bool {
        !locked(&self.shown).over
    }

    fn here(&self) -> String {
        "here".to_owned()
    }

    fn tell(&self, patches: &[Patch], heads: &[EntryId], author: Option<String>) {
        let mut shown = locked(&self.shown);
        let parents = shown.heads.clone();
        let operations = Operations::of(&mut shown.json, patches);
        shown.heads = heads.into();
        if *parents == *heads && operations.told == 0 {
            return;
        }
        let doc = self.document.id();
        let event = match operations.few() {
            Some(operations) => Event::patch(doc, &parents, heads, operations, author),
            None => Event::snapshot(doc, &shown.json, heads),
        };
        shown.push(event);
        drop(shown);
        self.news.send_replace(());
    }

    /// The document as it is, and every event from then on; `None` once it is gone.
    pub(crate) fn follow(self: &Arc<Self>) -> Option<(Json, Arc<[EntryId]>, Follower)> {
        let shown = locked(&self.shown);
        let follower = Follower { feed: self.clone(), next: shown.end(), news: self.news.subscribe() };
        (!shown.over).then(|| (shown.json.clone(), shown.heads.clone(), follower))
    }

    /// What brings somebody who has seen a version to another: a patch, or a reset and a snapshot where that version is not held.
    pub(crate) async fn catch_up(
        &self,
        seen: &[EntryId],
        json: &Json,
        heads: &[EntryId],
    ) -> Result<Vec<Event>, Problem> {
        let doc = self.document.id();
        let between =
            self.document.read(|view| Some((view.json_at_heads(seen)?, view.patches_between(seen, heads)?))).await?;
        Ok(match between {
            _ if seen == heads => Vec::new(),
            Some((mut was, patches)) => {
                let operations = Operations::of(&mut was, &patches);
                match operations.few() {
                    Some(operations) => vec![Event::patch(doc, seen, heads, operations, None)],
                    None => vec![Event::snapshot(doc, json, heads)],
                }
            }
            None => vec![Event::reset(doc, heads), Event::snapshot(doc, json, heads)],
        })
    }

    pub(crate) fn doc(&self) -> DocId {
        self.document.id()
    }
}
