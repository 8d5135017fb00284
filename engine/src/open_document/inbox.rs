//! What others leave for a document's task, and what the task does about it first. It knows neither the view nor the driver.

use commonhold_sync::chain::Opening;
use commonhold_sync::id::{DeviceId, EntryId};
use tokio::time::{Duration, Instant};

use crate::error::Error;

/// Bytes of entries that wait for the next frame; beyond it the view is made again from the store.
const INBOX_BYTES: usize = 16 << 20;

/// Between two times that the view is made again because other entries count than before; doubled while that goes on. A
/// liar can close a chain of its own ever earlier, and each time the whole document is built anew.
const RESHOW_EVERY: Duration = Duration::from_secs(5);
/// The longest such time.
const RESHOW_EVERY_MAX: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Inbox {
    entries: Vec<(EntryId, Vec<u8>)>,
    bytes: usize,
    from: Option<DeviceId>,
    last_frame: Option<Instant>,
    frame_due: Option<Instant>,
    pub(super) flush_due: Option<Instant>,
    /// The view is made again from the store.
    pub(super) reload: Option<Reload>,
    /// It is being made again.
    remaking: bool,
    /// When it is made again because other entries count, if it is.
    reshow_due: Option<Instant>,
    /// When it last was, and how long nothing is to follow.
    reshown: Option<(Instant, Duration)>,
    /// How to write on, told after the view was made or with it.
    pub(super) opening: Option<Opening>,
    pub(super) lost: Lost,
    /// Why it is shown no more.
    pub(super) withheld: Option<Error>,
    pub(super) closed: bool,
}

pub(super) enum Reload {
    /// Unsaved edits are saved first.
    Keep,
    /// Unsaved edits are lost: they build on one that failed for this reason.
    Discard(Error),
}

/// Edits that were taken back: how often that happened, how much of it some flush has told, and the last reason.
#[derive(Default)]
pub(super) struct Lost {
    count: u64,
    told: u64,
    why: Option<Error>,
}

pub(super) enum Work {
    End,
    Reload(Reload),
    Withhold(Error),
    Apply,
    Flush,
    Wait,
}

impl Inbox {
    /// Of a document that is to be loaded.
    pub(super) fn new() -> Inbox {
        Inbox { reload: Some(Reload::Keep), ..Inbox::default() }
    }

    /// Entries for the next frame, which begins `frame` after the last one did.
    pub(super) fn add(
        &mut self,
        entries: Vec<(EntryId, Vec<u8>)>,
        from: Option<DeviceId>,
        now: Instant,
        frame: Duration,
    ) {
        self.bytes += entries.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        self.from = from.or(self.from);
        if self.bytes > INBOX_BYTES {
            self.clear();
            self.reload.get_or_insert(Reload::Keep);
        } else if !entries.is_empty() {
            self.entries.extend(entries);
            self.frame_due.get_or_insert_with(|| self.last_frame.map_or(now, |last| last + frame));
        }
    }

    /// The view will be made again from a store that holds all of this, as far as it still counts.
    pub(super) fn clear(&mut self) {
        (self.entries, self.bytes, self.frame_due) = (Vec::new(), 0, None);
    }

    /// Other entries count than before: the view is made again, the first time at once.
    pub(super) fn reshow(&mut self, now: Instant) {
        let due = self.reshown.map_or(now, |(last, rest)| now.max(last + rest));
        self.reshow_due.get_or_insert(due);
    }

    /// Takes the time to make the view again, if it has come.
    fn reshows(&mut self, now: Instant) -> bool {
        if self.reshow_due.is_none_or(|due| due > now) {
            return false;
        }
        self.reshow_due = None;
        let again = self.reshown.filter(|(last, rest)| now < *last + *rest * 2);
        let rest = again.map_or(RESHOW_EVERY, |(_, rest)| (rest * 2).min(RESHOW_EVERY_MAX));
        self.reshown = Some((now, rest));
        true
    }

    /// Whether the view is about to be another one.
    pub(super) fn is_remade(&self) -> bool {
        self.reload.is_some() || self.remaking
    }

    pub(super) fn remade(&mut self) {
        self.remaking = false;
    }

    /// The entries of a frame that begins now, and the last who delivered some.
    pub(super) fn begin_frame(&mut self, now: Instant) -> (Vec<(EntryId, Vec<u8>)>, Option<DeviceId>) {
        (self.last_frame, self.frame_due, self.bytes) = (Some(now), None, 0);
        (std::mem::take(&mut self.entries), self.from.take())
    }

    /// What to do now, and when there will be something if nothing else comes.
    pub(super) fn next(&mut self, now: Instant) -> (Option<Instant>, Work) {
        if self.reshows(now) {
            self.reload.get_or_insert(Reload::Keep);
        }
        let due = self.frame_due.into_iter().chain(self.flush_due).min();
        let work = if self.closed {
            Work::End
        } else if let Some(why) = self.withheld.take() {
            Work::Withhold(why)
        } else if let Some(reload) = self.reload.take() {
            self.remaking = true;
            Work::Reload(reload)
        } else if due.is_none_or(|due| due > now) {
            Work::Wait
        } else if self.flush_due == due {
            // What was due first comes first, so that neither local nor remote edits starve behind the others.
            self.flush_due = None;
            Work::Flush
        } else {
            Work::Apply
        };
        (due.into_iter().chain(self.reshow_due).min(), work)
    }

    /// The view is made again without unsaved edits. The reason, which is an earlier one if there is one that the view
    /// still builds on.
    pub(super) fn discard(&mut self, why: Error) -> Error {
        let why = match self.reload.take() {
            Some(Reload::Discard(first)) => first,
            _ => why,
        };
        self.reload = Some(Reload::Discard(why.clone()));
        why
    }

    /// The driver's answer to how to write on. What it has said since is newer.
    pub(super) fn prepared(&mut self, opening: Opening) {
        self.opening.get_or_insert(opening);
    }
}

impl Lost {
    pub(super) fn add(&mut self, why: Error) {
        self.count += 1;
        self.why = Some(why);
    }

    /// The losses that some flush has told.
    pub(super) fn told(&self) -> u64 {
        self.told
    }

    /// Tells whoever knows of so many losses of those since: how many they are by now, and the last reason.
    pub(super) fn tell(&mut self, known: u64) -> Option<(u64, Error)> {
        let why = self.why.clone().filter(|_| self.count > known)?;
        self.told = self.count;
        Some((self.count, why))
    }
}

#[cfg(test)]
mod tests {
    use commonhold_sync::chain::Kind;

    use super::*;

    const FRAME: Duration = Duration::from_millis(16);

    fn entry() -> Vec<(EntryId, Vec<u8>)> {
        vec![(EntryId([1; 32]), vec![0; 100])]
    }

    #[test]
    fn a_local_edit_does_not_starve_behind_frames_that_take_too_long() {
        let (mut inbox, mut now) = (Inbox::default(), Instant::now());
        inbox.flush_due = Some(now + FRAME * 3);
        let frames = (0..10).take_while(|_| {
            inbox.add(entry(), None, now, FRAME);
            let applies = matches!(inbox.next(now).1, Work::Apply);
            inbox.begin_frame(now);
            now += FRAME * 2;
            applies
        });
        assert_eq!(frames.count(), 2, "begun before the edit was due");
    }

    #[test]
    fn entries_of_others_do_not_starve_behind_local_edits() {
        let (mut inbox, mut now) = (Inbox::default(), Instant::now());
        inbox.add(entry(), None, now, FRAME);
        let flushes = (0..10).take_while(|_| {
            inbox.flush_due = Some(now);
            let flushes = matches!(inbox.next(now).1, Work::Flush);
            now += FRAME;
            flushes
        });
        assert_eq!(flushes.count(), 1, "due as early as the entries");
    }

    #[test]
    fn a_view_is_made_again_at_once_and_ever_more_rarely_while_a_liar_goes_on() {
        let (mut inbox, mut now) = (Inbox::default(), Instant::now());
        let began = now;
        let mut made = Vec::new();
        while now < began + Duration::from_secs(300) {
            inbox.reshow(now);
            let (due, work) = inbox.next(now);
            match work {
                Work::Reload(_) => made.push((now - began).as_secs()),
                _ => now = due.expect("it is to be made again"),
            }
        }
        assert_eq!(made, [0, 5, 15, 35, 75, 135, 195, 255]);
        now += Duration::from_secs(600);
        inbox.reshow(now);
        assert!(matches!(inbox.next(now).1, Work::Reload(Reload::Keep)));
    }

    #[test]
    fn more_entries_than_fit_make_the_view_anew_and_no_frame() {
        let mut inbox = Inbox::default();
        inbox.add(vec![(EntryId([1; 32]), vec![0; INBOX_BYTES + 1])], None, Instant::now(), FRAME);
        assert!(matches!(inbox.next(Instant::now()), (None, Work::Reload(Reload::Keep))));
        assert!(matches!(inbox.next(Instant::now()), (None, Work::Wait)));
    }

    /// Found by the simulator, among liars: an entry that stopped to count before it was shown was shown after all.
    #[test]
    fn what_waited_when_the_view_is_made_again_is_not_shown_besides() {
        let (mut inbox, now) = (Inbox::default(), Instant::now());
        inbox.add(vec![(EntryId([1; 32]), vec![0])], None, now, FRAME);
        inbox.reshow(now);
        assert!(matches!(inbox.next(now).1, Work::Reload(Reload::Keep)));
        inbox.clear();
        assert!(matches!(inbox.next(now + FRAME), (None, Work::Wait)));
        inbox.add(vec![(EntryId([2; 32]), vec![0])], None, now, FRAME);
        assert!(matches!(inbox.next(now + FRAME).1, Work::Apply));
    }

    #[test]
    fn a_new_chain_told_while_the_view_is_made_is_kept() {
        let opening = |salt| Opening { device: DeviceId([1; 32]), salt: [salt; 8], kind: Kind::Own };
        let mut inbox = Inbox { opening: Some(opening(2)), ..Inbox::default() };
        inbox.prepared(opening(1));
        assert_eq!(inbox.opening, Some(opening(2)));
    }

    #[test]
    fn a_loss_is_told_to_everyone_once_with_the_first_reason() {
        let mut inbox = Inbox::default();
        for why in [Error::NotAllowed("write"), Error::Internal("builds on the first")] {
            let why = inbox.discard(why);
            inbox.lost.add(why);
        }
        for _ in 0..2 {
            let (known, why) = inbox.lost.tell(0).expect("it was not told here");
            assert_eq!((known, why.code()), (2, "not_allowed"));
            assert!(inbox.lost.tell(known).is_none());
        }
        assert_eq!(inbox.lost.told(), 2);
    }
}
