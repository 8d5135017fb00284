//! The world: a clock, a queue of what happens when, and the loop that carries out what peers want done.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::store::faulty::Rng;
use commonhold_sync::id::{DeviceId, DocId, EntryId, SpaceId};
use commonhold_sync::peer::{ConnId, Event, Input, Load, Loaded, LocalError, Now, OpId, Output};
use commonhold_sync::record::{Genesis, Privacy};

use super::app::{App, Apps, Scribbler};
use super::check;
use super::disk::{CommitFault, Committed};
use super::host::Host;
use super::ledger::Ledger;
use super::liars::Liar;
use super::network::Network;
use super::plan::{Canary, Chances, Plan, Shape};
use super::screen::Asked;
use crate::worker;

/// How long a driver that is asked about a connection takes to keep it, ms.
const ADMITTED_MS: u64 = 30;
/// Time within which everybody agrees once nothing fails any more, ms. A comparison that finds a difference is repeated
/// after at most 60 s; two of those and what they ask for.
const AGREE_MS: u64 = 150_000;
/// Time between two looks whether everybody agrees, ms.
const LOOK_MS: u64 = 500;
/// Time without a frame that counts as silence, ms: ten times the quiet after which peers compare.
const SILENCE_MS: u64 = 20_000;
/// Time within which silence begins once everybody agrees, ms.
const FALL_SILENT_MS: u64 = 150_000;
/// Time after which an end of a tampered connection must have noticed, ms: a handshake, and a second.
const NOTICE_MS: u64 = 11_000;

/// How to run a seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Print what happens.
    pub trace: bool,
    /// Break a rule on purpose.
    pub canary: Option<Canary>,
    /// Some members lie. [`run_with`] takes it from the plan.
    pub liars: bool,
}

/// What a run went through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Frames delivered.
    pub frames: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Flushes that an app made.
    pub flushes: u64,
    /// Documents made.
    pub documents: u64,
    /// Documents deleted.
    pub deletions: u64,
    /// Snapshots made.
    pub snapshots: u64,
    /// Revocations said.
    pub revocations: u64,
    /// Documents that were withdrawn, at each peer.
    pub withdrawals: u64,
    /// Own entries that were refused because the right to write was gone, at each flush.
    pub refused: u64,
    /// Times that a peer was told what it may send for others.
    pub allowances: u64,
    /// Crashes, of all kinds.
    pub crashes: u64,
    /// Clean restarts.
    pub restarts: u64,
    /// Connections that a peer asked its driver about.
    pub asked: u64,
    /// Connections broken.
    pub breaks: u64,
    /// Frames tampered with.
    pub tampered: u64,
    /// Acknowledgements that authors got.
    pub acks: u64,
    /// Receipts for what is on disk.
    pub receipts: u64,
    /// What liars did, and how often.
    pub lies: BTreeMap<&'static str, u64>,
    /// Forks that honest peers told of.
    pub forks: u64,
    /// Documents whose view was compared with that of the union of what honest stores hold.
    pub judged: u64,
    /// Virtual time from healing to agreement, ms.
    pub agreed_after_ms: u64,
    /// A hash over everything that was sent and when: equal for equal runs.
    pub digest: u64,
}

/// A run that showed something wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// Virtual time, ms.
    pub at_ms: u64,
    /// What was wrong.
    pub what: String,
    /// Whether some members lied.
    pub liars: bool,
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Failure { seed, at_ms, what, .. } = self;
        write!(
            f,
            "seed {seed}, at {at_ms} ms: {what}\nreplay: cargo run -p commonhold-tests --bin sim -- --seed {seed}{}",
            if self.liars { " --liars" } else { "" }
        )
    }
}

/// What happens at a moment.
pub(super) enum Step {
    /// A frame reaches an end of a connection.
    Frame {
        conn: ConnId,
        end: usize,
        bytes: Vec<u8>,
    },
    /// An end of a connection hears that it is over.
    Closed {
        conn: ConnId,
        end: usize,
    },
    /// The driver of a peer that asks about connections keeps one.
    Admit {
        host: usize,
        boot: u64,
        conn: ConnId,
    },
    /// A peer asks who holds what it wrote.
    AskReceipts {
        host: usize,
        boot: u64,
        space: SpaceId,
        doc: DocId,
        id: EntryId,
    },
    /// A commit finishes.
    Commit {
        host: usize,
        boot: u64,
    },
    /// A peer is told too early (a canary).
    Early {
        host: usize,
        boot: u64,
        op: OpId,
    },
    /// A read finishes.
    Loaded {
        host: usize,
        boot: u64,
        op: OpId,
        load: Load,
    },
    /// A snapshot has been checked.
    Checked {
        host: usize,
        boot: u64,
        op: OpId,
        bytes: Vec<u8>,
    },
    /// Two snapshots have been merged.
    Merged {
        host: usize,
        boot: u64,
        op: OpId,
        space: SpaceId,
        doc: DocId,
        bytes: Vec<u8>,
    },
    /// An app shows what has come.
    Show {
        host: usize,
        boot: u64,
        space: SpaceId,
        doc: DocId,
    },
    /// An app does something.
    Act {
        host: usize,
    },
    /// Faults.
    Weather,
    /// Who should be connected is.
    Mend,
    Start {
        host: usize,
    },
    /// A liar does something.
    Lie {
        liar: usize,
    },
    Heal,
}

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) chances: Chances,
    pub(super) shape: Shape,
    pub(super) canary: Option<Canary>,
    pub(super) rng: Rng,
    pub(super) now: u64,
    queue: BTreeMap<(u64, u64), Step>,
    steps: u64,
    pub(super) hosts: Vec<Host>,
    pub(super) liars: Vec<Liar>,
    pub(super) network: Network,
    pub(super) ledger: Ledger,
    /// Who made the newest document of each space.
    pub(super) newest: BTreeMap<SpaceId, DeviceId>,
    pub(super) spaces: Vec<(SpaceId, Genesis, usize)>,
    pub(super) healing: bool,
    last_frame: u64,
    trace: bool,
    pub(super) apps: Box<Apps>,
    pub(super) report: Report,
}

/// Runs a seed to its end, with an app that edits at random.
///
/// # Errors
///
/// What was wrong, and when.
pub fn run(seed: u64, options: Options) -> Result<Report, Failure> {
    let plan = if options.liars { Plan::with_liars(seed) } else { Plan::of(seed) };
    run_with(plan, options, |_| Box::new(Scribbler))
}

/// Runs a plan to its end, with apps of one's own.
///
/// # Errors
///
/// What was wrong, and when; a panic of an app is caught.
pub fn run_with(
    plan: Plan,
    options: Options,
    apps: impl Fn(usize) -> Box<dyn App> + 'static,
) -> Result<Report, Failure> {
    let mut plan = plan.fitted();
    let (seed, liars) = (plan.seed, plan.liars > 0);
    if options.canary == Some(Canary::NeverSyncs) {
        // What was never synced is missed only once the power is gone.
        plan.chances.crashes = plan.chances.crashes.max(12);
    }
    let mut world = World::new(plan, options, Box::new(apps));
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    let ended = ended.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        Err(format!("panic: {}", said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")))
    });
    ended.map_err(|what| Failure { seed, at_ms: world.now, what, liars })?;
    Ok(world.report)
}

impl World {
    fn new(plan: Plan, options: Options, apps: Box<Apps>) -> World {
        let hosts: Vec<Host> = (0..plan.peers).map(|i| Host::new(i, &plan, options.canary)).collect();
        let space = |(i, (writers, root)): (usize, &(_, usize))| {
            let (root_device, nonce) = (hosts[*root].device(), [i as u8; 16]);
            let genesis =
                Genesis { root: root_device.into(), privacy: Privacy::Public, writers: *writers, rules: 1, nonce };
            (genesis.space(), genesis, *root)
        };
        let spaces = plan.spaces.iter().enumerate().map(space).collect();
        World {
            chances: plan.chances.clone(),
            shape: plan.faulty_shape,
            canary: options.canary,
            rng: Rng::new(plan.seed),
            now: 0,
            queue: BTreeMap::new(),
            steps: 0,
            liars: (0..plan.liars).map(|at| Liar::new(plan.peers + at)).collect(),
            hosts,
            network: Network::default(),
            ledger: Ledger::default(),
            newest: BTreeMap::new(),
            spaces,
            healing: false,
            last_frame: 0,
            trace: options.trace,
            apps,
            report: Report::default(),
            plan,
        }
    }

    pub(super) fn later(&mut self, delay: u64, step: Step) {
        self.steps += 1;
        self.queue.insert((self.now + delay, self.steps), step);
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>8} {}", self.now, text());
        }
    }

    /// Frames in flight, and news of an end, come within a while: a link that was slow is so no more. Their order stays.
    pub(super) fn hasten(&mut self, within: u64) {
        let latest = self.now + within;
        for ((at, serial), step) in self.queue.split_off(&(latest + 1, 0)) {
            let flies = matches!(step, Step::Frame { .. } | Step::Closed { .. });
            self.queue.insert((if flies { latest } else { at }, serial), step);
        }
        self.network.links.values_mut().for_each(|link| link.hasten(latest));
    }

    /// Folds something into the digest of the run.
    fn fold(&mut self, value: u64) {
        self.report.digest = (self.report.digest.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn run(&mut self) -> Result<(), String> {
        let plan = self.plan.clone();
        self.note(|| format!("{plan:?}"));
        for (host, at) in plan.starts.iter().enumerate() {
            self.later(*at, Step::Start { host });
            self.later(*at + 1, Step::Act { host });
        }
        for liar in 0..plan.liars {
            let delay = 100 + self.rng.below(1_000);
            self.later(delay, Step::Lie { liar });
        }
        self.later(0, Step::Mend);
        self.later(100, Step::Weather);
        self.later(plan.faults_ms, Step::Heal);
        self.until(|world| world.healing)?;
        let healed = self.now;
        let mut look = healed + LOOK_MS;
        while self.now < healed + AGREE_MS {
            self.step()?;
            if self.now >= look {
                look = self.now + LOOK_MS;
                if check::agree(self).is_ok() {
                    break;
                }
            }
        }
        if let Err(why) = check::agree(self) {
            let what = check::differences(self)?;
            return Err(format!("no agreement {AGREE_MS} ms after the last fault: {why}: {what}"));
        }
        self.report.agreed_after_ms = self.now - healed;
        let agreed = self.now;
        self.note(|| "agreement".into());
        self.until(|w| w.now >= agreed + FALL_SILENT_MS || w.now >= w.last_frame + SILENCE_MS)?;
        if self.now < self.last_frame + SILENCE_MS {
            return Err(format!("frames are still sent {FALL_SILENT_MS} ms after everybody agreed"));
        }
        // A liar who goes on may just have sent something.
        let silent = self.now;
        self.until(|w| w.now >= silent + SILENCE_MS || check::agree(w).is_ok())?;
        check::everything(self)
    }

    fn until(&mut self, done: impl Fn(&World) -> bool) -> Result<(), String> {
        while !done(self) {
            self.step()?;
        }
        Ok(())
    }

    /// The next thing that happens.
    fn step(&mut self) -> Result<(), String> {
        let timeouts = self.hosts.iter().filter_map(|h| Some((h.run.as_ref()?.peer.poll_timeout()?.0, h.index)));
        let timeout = timeouts.min();
        let queued = self.queue.keys().next().copied();
        match (queued, timeout) {
            (queued, Some((at, host))) if queued.is_none_or(|(first, _)| at <= first) => {
                self.now = self.now.max(at);
                self.input(host, Input::Tick)?;
                let next = self.hosts[host].run.as_ref().and_then(|run| run.peer.poll_timeout());
                match next.is_some_and(|next| next.0 <= self.now) {
                    true => Err(format!("peer {host} wants a tick at {next:?} when it has just had one")),
                    false => Ok(()),
                }
            }
            (Some(key), _) => {
                let Some(step) = self.queue.remove(&key) else { return Ok(()) };
                self.now = self.now.max(key.0);
                self.take(step)
            }
            (None, _) => Err("nothing is left to happen".into()),
        }
    }

    fn take(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Frame { conn, end, bytes } => self.frame(conn, end, bytes),
            Step::Closed { conn, end } => {
                let Some(link) = self.network.links.get_mut(&conn) else { return Ok(()) };
                let (host, open) = (link.hosts[end], core::mem::replace(&mut link.open[end], false));
                self.network.sweep();
                if let Some(liar) = host.checked_sub(self.hosts.len()) {
                    self.liars[liar].closed(conn);
                    return Ok(());
                }
                if open { self.input(host, Input::Disconnected { conn }) } else { Ok(()) }
            }
            Step::Commit { host, boot } if self.runs(host, boot) => self.commit(host),
            Step::Admit { host, boot, conn } if self.runs(host, boot) => self.input(host, Input::Admit { conn }),
            Step::AskReceipts { host, boot, space, doc, id } if self.runs(host, boot) => {
                self.input(host, Input::AskReceipts { space, doc, entries: vec![id] })
            }
            Step::Early { host, boot, op } if self.runs(host, boot) => self.input(host, Input::Stored { op }),
            Step::Loaded { host, boot, op, load } if self.runs(host, boot) => {
                let loaded = self.load(host, &load)?;
                if let Some(run) = &mut self.hosts[host].run {
                    run.loads -= 1;
                }
                self.input(host, Input::Loaded { op, loaded })
            }
            Step::Checked { host, boot, op, bytes } if self.runs(host, boot) => {
                let result = worker::check_snapshot(&bytes, &self.plan.limits);
                self.input(host, Input::SnapshotChecked { op, result })
            }
            Step::Merged { host, boot, op, space, doc, bytes } if self.runs(host, boot) => {
                let Some(run) = &self.hosts[host].run else { return Ok(()) };
                let result = worker::merge_snapshots(&run.storage, &space, &doc, &bytes, &self.plan.limits);
                self.input(host, Input::SnapshotsMerged { op, result })
            }
            Step::Show { host, boot, space, doc } if self.runs(host, boot) => match &mut self.hosts[host].run {
                Some(run) => run.screen.frame(space, doc).map_err(|why| format!("peer {host}, {doc:?}: {why}")),
                None => Ok(()),
            },
            Step::Act { host } => self.act(host),
            Step::Weather => self.weather(),
            Step::Mend => self.mend(),
            Step::Start { host } => self.start(host),
            Step::Lie { liar } => self.lie(liar),
            Step::Heal => self.heal(),
            // Work of a process that is no more.
            _ => Ok(()),
        }
    }

    pub(super) fn runs(&self, host: usize, boot: u64) -> bool {
        self.hosts[host].boot == boot && self.hosts[host].run.is_some()
    }

    fn frame(&mut self, conn: ConnId, end: usize, mut bytes: Vec<u8>) -> Result<(), String> {
        let (now, hit) = (self.now, self.hit(self.chances.tampers));
        let Some(link) = self.network.links.get_mut(&conn) else { return Ok(()) };
        link.pending[1 - end] -= bytes.len();
        let (from, to, pending) = (link.hosts[1 - end], link.hosts[end], link.pending[1 - end]);
        if link.broken_at.is_some_and(|at| at <= now) {
            return Ok(());
        }
        let sender_open = link.open[1 - end];
        let mut copies = 1;
        // A liar does not mind what becomes of its frames.
        if hit && link.open[end] && from.max(to) < self.hosts.len() {
            link.tampered_at = Some(now);
            self.report.tampered += 1;
            match self.rng.below(3) {
                0 => copies = 2,
                1 => bytes.truncate(self.rng.below(bytes.len() as u64) as usize),
                _ => {
                    let at = self.rng.below(bytes.len() as u64) as usize;
                    bytes[at] ^= 1 << self.rng.below(8);
                }
            }
            self.note(|| format!("a frame on {conn:?} is tampered with"));
        }
        self.report.frames += 1;
        self.report.bytes += bytes.len() as u64;
        // What a liar goes on to say, and answers to it, are no restlessness of honest peers.
        if to < self.hosts.len() && from < self.hosts.len() {
            self.last_frame = now;
        }
        self.fold(now << 24 ^ (to as u64) << 20 ^ bytes.len() as u64);
        self.fold(bytes.iter().fold(0, |sum, byte| sum.rotate_left(7) ^ u64::from(*byte)));
        if sender_open && from < self.hosts.len() {
            self.input(from, Input::Drained { conn, pending })?;
        }
        if let Some(liar) = to.checked_sub(self.hosts.len()) {
            return self.hear(liar, conn, &bytes);
        }
        for _ in 0..copies {
            if self.network.links.get(&conn).is_some_and(|link| link.open[end]) {
                self.input(to, Input::Frame { conn, bytes: bytes.clone() })?;
            }
        }
        Ok(())
    }

    /// Hands a peer one input, and does what it wants done.
    pub(super) fn input(&mut self, host: usize, input: Input) -> Result<(), String> {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let now = Now(self.now);
            let Some(run) = &mut self.hosts[host].run else { return Ok(()) };
            run.peer.handle(now, input);
            while let Some(output) = self.hosts[host].run.as_mut().and_then(|run| run.peer.poll_output()) {
                self.output(host, output, &mut inputs)?;
            }
            self.check_limits(host)?;
        }
        Ok(())
    }

    fn output(&mut self, host: usize, output: Output, inputs: &mut VecDeque<Input>) -> Result<(), String> {
        let boot = self.hosts[host].boot;
        match output {
            Output::Send { conn, bytes } => {
                let jitter = self.rng.below(4);
                let Some(link) = self.network.links.get_mut(&conn) else { return Ok(()) };
                let end = link.end_of(host);
                let at = link.send(end, self.now, jitter, bytes.len());
                self.later(at.saturating_sub(self.now), Step::Frame { conn, end: 1 - end, bytes });
            }
            Output::Store { op, ops } => {
                self.note(|| format!("{host} stores {op:?}: {} operations", ops.len()));
                let early = self.canary == Some(Canary::EarlyStored) && host == 0 && !self.healing;
                let delay = 1 + self.rng.below(self.plan.commit_ms) + if early { 4_000 } else { 0 };
                if early {
                    self.later(1, Step::Early { host, boot, op });
                }
                let Some(run) = &mut self.hosts[host].run else { return Ok(()) };
                run.commits.push_back((op, ops));
                if !core::mem::replace(&mut run.committing, true) {
                    self.later(delay, Step::Commit { host, boot });
                }
            }
            Output::Load { op, load } => {
                let delay = if self.rng.below(4) == 0 { self.rng.below(60) } else { 0 };
                if let Some(run) = &mut self.hosts[host].run {
                    run.loads += 1;
                }
                self.later(delay, Step::Loaded { host, boot, op, load });
            }
            // Its peers share no blobs.
            Output::Blob(_) => {}
            Output::Emit(event) => self.event(host, event)?,
            // Nobody listens.
            Output::Dial { .. } => {}
            Output::Disconnect { conn, reason } => {
                self.note(|| format!("{host} ends {conn:?}: {} {}", reason.code, reason.text));
                inputs.push_back(Input::Disconnected { conn });
                let Some(link) = self.network.links.get_mut(&conn) else { return Ok(()) };
                let other = link.hosts[1 - link.end_of(host)];
                if reason.violation && link.tampered_at.is_none() && other < self.hosts.len() {
                    return Err(format!("peer {host} accuses peer {other}: {} ({})", reason.code, reason.text));
                }
                let end = link.end_of(host);
                link.open[end] = false;
                let delay = (link.last_arrival(end) + 1).saturating_sub(self.now);
                self.later(delay, Step::Closed { conn, end: 1 - end });
            }
        }
        Ok(())
    }

    fn event(&mut self, host: usize, event: Event) -> Result<(), String> {
        let boot = self.hosts[host].boot;
        let peer_of = |world: &World, device| world.hosts.iter().position(|h| h.device() == device);
        let Some(run) = &mut self.hosts[host].run else { return Ok(()) };
        match event {
            Event::Asked { conn, .. } => {
                self.report.asked += 1;
                self.later(ADMITTED_MS, Step::Admit { host, boot, conn });
            }
            Event::Document { space, doc, header } => {
                self.newest.insert(space, header.creator);
                run.screen.document(space, doc);
            }
            Event::Withdrawn { .. } if !self.plan.revokes => {
                return Err("a document was withdrawn, though nobody's rights were".into());
            }
            Event::Withdrawn { space, doc } => {
                self.report.withdrawals += 1;
                run.screen.withdraw(space, doc);
            }
            Event::Deleted { space, doc } => {
                run.screen.remove(space, doc);
                self.ledger.perhaps_deleted.insert((space, doc));
            }
            Event::Entries { space, doc, entries, from, .. } => {
                if from.is_some() && run.screen.arrive(space, doc, entries) {
                    let delay = self.rng.below(50);
                    self.later(delay, Step::Show { host, boot, space, doc });
                }
            }
            Event::Reshown { .. } if self.canary == Some(Canary::KeepsShowing) && host == 0 => {}
            Event::Snapshot { space, doc } | Event::Reshown { space, doc } => run.screen.outdated(space, doc),
            Event::CheckSnapshot { op, bytes } => {
                let delay = self.rng.below(100);
                self.later(delay, Step::Checked { host, boot, op, bytes });
            }
            Event::MergeSnapshots { op, space, doc, bytes } => {
                let delay = self.rng.below(100);
                self.later(delay, Step::Merged { host, boot, op, space, doc, bytes });
            }
            Event::Saved { ticket, records, end } => match run.screen.asked.remove(&ticket) {
                Some(Asked::Records(space, said)) => self.ledger.saved(host, space, &said, &records),
                Some(Asked::Entries(space, doc, ids)) => {
                    run.screen.saved(space, doc);
                    let (chain, n) = end.ok_or("saved entries have an end")?;
                    self.ledger.wrote(space, doc, (chain, n), &ids);
                    self.ledger.hold(host, space, doc, chain, n);
                    if let Some(id) = ids.last().filter(|id| id.0[0].is_multiple_of(4)) {
                        self.later(5, Step::AskReceipts { host, boot, space, doc, id: *id });
                    }
                }
                Some(Asked::Revocation) => {}
                None => return Err(format!("peer {host} answers {ticket:?} twice")),
            },
            Event::Failed { ticket, why } => {
                let asked = run.screen.asked.remove(&ticket);
                match (&why, asked) {
                    // The right went first, or the document with somebody's rights.
                    (why, Some(asked)) if self.plan.revokes && run.screen.refused(why, &asked) => {
                        self.report.refused += 1;
                    }
                    // The process ends now (see `commit`), or the document went while its log was being read.
                    (LocalError::StoreFailed | LocalError::Deleted, _) => {}
                    (_, asked) => return Err(format!("peer {host} could not do {asked:?}: {why}")),
                }
            }
            Event::Acked { peer, .. } if self.liars.iter().any(|liar| liar.device() == peer) => {}
            Event::Acked { peer, space, doc, chain, n } => {
                self.report.acks += 1;
                let acker = peer_of(self, peer).ok_or("an acknowledgement by a stranger")?;
                // Records that a revocation leaves nothing of count nowhere, and are answered as if they were held.
                if doc != space.authority() || !self.plan.revokes {
                    self.ledger.hold(acker, space, doc, chain, n);
                }
            }
            Event::Held { receipt } => {
                self.report.receipts += 1;
                let holder = peer_of(self, receipt.holder);
                match holder.filter(|_| receipt.verifies()) {
                    Some(holder) => self.ledger.signed(holder, &receipt),
                    None if self.liars.iter().any(|liar| liar.device() == receipt.holder) => {}
                    None => return Err(format!("peer {host} is given a receipt that says nothing: {receipt:?}")),
                }
            }
            Event::Forked { device, .. } if self.liars.iter().any(|liar| liar.device() == device) => {
                self.report.forks += 1;
            }
            Event::Forked { doc, .. } => return Err(format!("peer {host} sees a fork in {doc:?} among honest peers")),
            // It was deleted by who had no right to, and what others kept of it came back.
            Event::ChainLost { space, doc }
                if self.plan.revokes && self.ledger.perhaps_deleted.contains(&(space, doc)) =>
            {
                run.chain_lost = true;
            }
            Event::ChainLost { doc, .. } => return Err(format!("peer {host} is shown its own chain of {doc:?}")),
            Event::Notice { peer, doc, code, text, .. } => {
                self.note(|| format!("{host} notices of {peer:?} {doc:?}: {code} {text}"));
                let tampered = self.network.links.values().any(|l| l.tampered_at.is_some());
                let expected = ["busy", "store-failed", "P.handshake"].contains(&code.as_str())
                    || self.plan.revokes && code == "authority-cut"
                    || self.plan.spends && ["budget.others", "roles", "snapshot.not-taken"].contains(&code.as_str());
                if code == "store.damaged" || !expected && !tampered && self.liars.is_empty() {
                    return Err(format!("peer {host} notices {code} ({text})"));
                }
            }
            Event::Opened { conn, peer, .. } => {
                run.connected.insert(conn, peer);
                self.note(|| format!("{host} knows who is on {conn:?}"));
            }
            Event::Closed { conn, .. } => {
                run.parted(conn);
                self.note(|| format!("{host} is rid of {conn:?}"));
            }
            Event::Level { peer, space, .. } => {
                run.level.insert((peer, space));
                let other = peer_of(self, peer);
                self.note(|| format!("{host} is level with {other:?} in {space:?}"));
            }
            Event::Space { .. } | Event::Shared { .. } | Event::Loose { .. } => {}
            // Nobody announces in here.
            Event::Account { .. } | Event::Announced { .. } | Event::Introduced { .. } => {}
        }
        Ok(())
    }

    fn load(&self, host: usize, load: &Load) -> Result<Loaded, String> {
        let Some(run) = &self.hosts[host].run else { return Err("no process".into()) };
        if let Load::Deep { space, doc } = load {
            return Ok(Loaded::Deep(worker::deep(&run.storage, space, doc)));
        }
        let read = run.storage.load(load).map_err(|e| format!("peer {host} cannot read {load:?}: {e}"))?;
        match read.damaged.is_empty() {
            true => Ok(read.value),
            false => Err(format!("peer {host} finds damaged rows: {:?}", read.damaged)),
        }
    }

    fn commit(&mut self, host: usize) -> Result<(), String> {
        let boot = self.hosts[host].boot;
        let fault = match (self.hit(self.chances.commit_fails), self.hit(self.chances.commit_cut)) {
            (true, _) => CommitFault::Fails,
            (_, true) => CommitFault::Cut,
            _ => CommitFault::None,
        };
        let (ops, ended) = self.hosts[host].commit(fault, self.canary, &mut self.rng);
        match ended {
            Committed::Done => {
                let delay = 1 + self.rng.below(self.plan.commit_ms);
                let early = self.canary == Some(Canary::EarlyStored) && host == 0;
                for op in ops {
                    // One that was told early has been told already.
                    if !early || self.healing {
                        self.input(host, Input::Stored { op })?;
                    }
                }
                let Some(run) = &mut self.hosts[host].run else { return Ok(()) };
                run.committing = !run.commits.is_empty();
                if run.committing {
                    self.later(delay, Step::Commit { host, boot });
                    return Ok(());
                }
                run.screen.renew(&run.storage)?;
                check::fingerprints_add_up(host, run)
            }
            Committed::Failed => {
                self.note(|| format!("{host}: a commit fails"));
                if let Some(op) = ops.first() {
                    self.input(host, Input::StoreFailed { op: *op })?;
                }
                self.crash(host, false)
            }
            Committed::PowerLost => self.crash(host, true),
        }
    }

    fn check_limits(&self, host: usize) -> Result<(), String> {
        let Some(run) = &self.hosts[host].run else { return Ok(()) };
        let limits = &self.plan.limits;
        if run.peer.waiting_bytes() > limits.waiting_bytes_total {
            return Err(format!("peer {host} lets {} bytes wait", run.peer.waiting_bytes()));
        }
        // What is on its way to disk, or waits for what is being read, is not dropped from memory.
        if run.commits.is_empty()
            && !run.committing
            && run.loads == 0
            && run.peer.resident_bytes() > limits.resident_bytes_max
        {
            return Err(format!("peer {host} keeps {} bytes of logs in memory", run.peer.resident_bytes()));
        }
        Ok(())
    }

    /// A frame that was tampered with must have ended its connection.
    pub(super) fn check_tampered(&self) -> Result<(), String> {
        let late = |at: u64| at + NOTICE_MS < self.now;
        match self.network.links.iter().find(|(_, l)| l.lives() && l.tampered_at.is_some_and(late)) {
            Some((conn, link)) => Err(format!("{conn:?} between {:?} survives a tampered frame", link.hosts)),
            None => Ok(()),
        }
    }

    /// Whether something with this chance, in thousandths, happens.
    pub(super) fn hit(&mut self, thousandths: u64) -> bool {
        self.rng.below(1_000) < thousandths
    }
}
