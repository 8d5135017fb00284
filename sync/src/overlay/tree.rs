//! Broadcast: payloads are pushed along eager links, announced on the others, and asked for where they do not come.
//!
//! The tree is one for all writers and is left alone while it works. A duplicate prunes a link only if there are more duplicates than
//! `duplicates_percent` or the link brings little else. An item that is late is asked for once, without a change of the tree; the link
//! becomes eager only if that happens again soon, or if nobody else pushes. Where a neighbour's announcements regularly come before
//! the payloads of the link that brings them, the two change places: of all items that came by `p`, the neighbour `q` had announced
//! held them without us, so the tree stays whole, and the mean of the lead is just what the change gains.
//!
//! A peer that is to be spared, such as the relay of a company, stands beside writers more often than others do, and would push to all
//! its neighbours. So of two links that bring the same, the one to it is pruned, whichever was faster, and it never takes another's
//! place. In simulation that costs the last of 200 peers 4 ms of 96, and takes the spared one from 2.7 pushes an item to 0.02
//! (docs/measurements.md).

use std::collections::{BTreeMap, VecDeque};

use rand_chacha::ChaCha8Rng;

use super::branch::{Branch, FAULTS_DISTRUST, FAULTS_LEAVE, FAULTS_PROBE, Probe};
use super::limits::OverlayLimits;
use super::message::{ITEMS_MAX, Item, Message};
use super::seen::{Held, Seen};
use super::{Effect, below};
use crate::id::{ChainId, DeviceId};
use crate::message::roles;
use crate::peer::Now;

/// Samples before two links change places, and the least gain for it: links differ by some ms from one payload to the next.
const SWAP_SAMPLES: u32 = 5;
const SWAP_GAIN_MS: i64 = 12;
/// Between two changes here, so that the effect of one is seen before the next.
const SWAP_EVERY_MS: u64 = 400;
/// Deliveries without a word from a neighbour, before it is asked for something that it must hold.
const SILENT_MAX: u32 = 24;
/// After the loss of a link that brought payloads, announcements are not waited over for this long.
const BROKEN_MS: u64 = 2_000;
/// Neighbours that are looked for, at most, once everybody who said anything is gone. If six of ten say nothing, one in sixty finds
/// nobody among eight.
const CUT_OFF_TRIES: u32 = 8;
/// Times that all who announced an item are asked for it.
const ROUNDS_MAX: u32 = 3;
/// Announcements this much later than the payload say nothing about links.
const COMPARABLE_MS: u64 = 5_000;

/// What a call needs besides the tree.
pub(super) struct Context<'a> {
    pub(super) now: Now,
    pub(super) limits: &'a OverlayLimits,
    pub(super) rng: &'a mut ChaCha8Rng,
    pub(super) effects: &'a mut VecDeque<Effect>,
}

impl Context<'_> {
    pub(super) fn send(&mut self, to: DeviceId, message: Message) {
        self.effects.push_back(Effect::Send { to, message });
    }
}

#[derive(Debug)]
struct Source {
    peer: DeviceId,
    n: u64,
    at: Now,
    tried: bool,
}

/// A chain of which more was announced than is held.
#[derive(Debug)]
struct Missing {
    n: u64,
    first_at: Now,
    ask_at: Now,
    asked: Option<DeviceId>,
    asked_at: Now,
    rounds: u32,
    opened_by: DeviceId,
    sources: Vec<Source>,
}

/// How long after the first announcement the tree delivers: mean and mean deviation, as TCP estimates round trips (RFC 6298).
#[derive(Debug)]
struct Lateness {
    mean: i64,
    deviation: i64,
}

impl Lateness {
    fn sample(&mut self, ms: u64) {
        let ms = (ms.min(5_000) as i64) << 4;
        self.deviation += ((ms - self.mean).abs() - self.deviation) / 8;
        self.mean += (ms - self.mean) / 16;
    }

    fn wait_ms(&self) -> u64 {
        ((self.mean + 4 * self.deviation) >> 4).max(0) as u64
    }
}

#[derive(Debug)]
pub(super) struct Tree {
    /// This peer is a leaf: it passes nothing on.
    leaf: bool,
    /// This peer is to be spared. It spares nobody: among many that are, all are alike.
    spared: bool,
    branches: BTreeMap<DeviceId, Branch>,
    seen: Seen,
    missing: BTreeMap<ChainId, Missing>,
    lateness: Lateness,
    /// Duplicates in 1,000 deliveries, lately.
    duplicates: u32,
    broken_until: Now,
    swap_after: Now,
    /// Everybody who said anything is gone, and nobody has since: how many more are looked for.
    cut_off: u32,
}

impl Tree {
    pub(super) fn new(roles: u64) -> Tree {
        Tree {
            leaf: roles & roles::LEAF != 0,
            spared: roles & roles::SPARED != 0,
            branches: BTreeMap::new(),
            seen: Seen::default(),
            missing: BTreeMap::new(),
            lateness: Lateness { mean: 80 << 4, deviation: 20 << 4 },
            // As if there were too many, so that the first ones prune at once: every link begins as one that pushes.
            duplicates: 500,
            broken_until: Now(0),
            swap_after: Now(0),
            cut_off: 0,
        }
    }

    pub(super) fn branches(&self) -> &BTreeMap<DeviceId, Branch> {
        &self.branches
    }

    /// Chains remembered as held, and chains that are missing.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.seen.len(), self.missing.len())
    }

    pub(super) fn up(&mut self, cx: &mut Context<'_>, peer: DeviceId, roles: u64, rtt_ms: Option<u32>) {
        let leaf = roles & roles::LEAF != 0;
        let mut branch = Branch::new(cx.now, leaf, rtt_ms, cx.limits);
        // A leaf pushes what is its own alone.
        branch.spared = !leaf && !self.spared && roles & roles::SPARED != 0;
        if let (false, true, Some(item)) = (leaf, self.cut_off > 0, self.seen.last()) {
            // Whoever forwards anything holds it by now, and is heard in one round trip.
            branch.probe = Probe::Planned { item, at: cx.now };
        }
        self.cut_off = self.cut_off.saturating_sub(u32::from(!leaf));
        self.branches.insert(peer, branch);
    }

    /// Whether everybody who said anything is gone, and more neighbours are worth looking for.
    pub(super) fn is_cut_off(&self) -> bool {
        self.cut_off > 0
    }

    /// A neighbour said something about an item.
    fn spoke(&mut self, now: Now, from: &DeviceId) {
        if let Some(branch) = self.branches.get_mut(from) {
            branch.spoke(now);
            if !branch.leaf {
                self.cut_off = 0;
            }
        }
    }

    pub(super) fn down(&mut self, cx: &mut Context<'_>, peer: &DeviceId) {
        let Some(gone) = self.branches.remove(peer) else { return };
        for branch in self.branches.values_mut() {
            branch.leads.remove(peer);
        }
        let speaks = |branch: &Branch| branch.speaks() && !branch.leaf;
        if speaks(&gone) && !self.branches.values().any(speaks) {
            self.cut_off = CUT_OFF_TRIES;
        }
        if gone.eager && gone.firsts > 0 {
            self.broken_until = Now(cx.now.0 + BROKEN_MS);
            let (now, soon) = (cx.now, Now(cx.now.0 + cx.limits.ask_min_ms));
            self.missing
                .values_mut()
                .filter(|m| m.asked.is_none())
                .for_each(|m| m.ask_at = m.ask_at.min(soon).max(now));
        }
        let waited: Vec<ChainId> =
            self.missing.iter().filter(|(_, m)| m.asked == Some(*peer)).map(|(c, _)| *c).collect();
        for chain in waited {
            if let Some(missing) = self.missing.get_mut(&chain) {
                (missing.asked, missing.ask_at) = (None, cx.now);
            }
        }
    }

    pub(super) fn rtt(&mut self, peer: &DeviceId, ms: u32) {
        if let Some(branch) = self.branches.get_mut(peer) {
            branch.set_rtt(ms);
        }
    }

    /// Neighbours that are not leaves, and push.
    fn upstream(&self) -> usize {
        self.branches.values().filter(|branch| branch.eager && !branch.leaf).count()
    }

    /// An own item: pushed and announced. A leaf does the same: if it pushed to both peers that it is attached to, its items would
    /// meet themselves inside the overlay, and the tree would be pruned there.
    pub(super) fn publish(&mut self, cx: &mut Context<'_>, item: Item) {
        if self.seen.holds(&item) {
            return;
        }
        let held = Held { n: item.n, at: cx.now, from: None, asked: false };
        self.seen.insert(item.chain, held, cx.limits.seen, cx.limits.seen_ms);
        if self.upstream() == 0 {
            let nearest =
                self.branches.iter_mut().filter(|(_, branch)| !branch.leaf).min_by_key(|(_, branch)| branch.rtt_ms());
            if let Some((_, branch)) = nearest {
                branch.eager = true;
            }
        }
        for (peer, branch) in &mut self.branches {
            match branch.eager {
                true => cx.effects.push_back(Effect::Push { to: *peer, item }),
                false => branch.announce(cx.now, item, cx.limits),
            }
        }
    }

    /// Found by comparing. Whoever lacks it is likely to find it the same way, so it is only announced.
    pub(super) fn found(&mut self, cx: &mut Context<'_>, item: Item, from: Option<&DeviceId>) {
        from.iter().for_each(|from| self.heard(cx.now, from));
        if self.seen.holds(&item) {
            return;
        }
        self.close_missing(&item);
        let held = Held { n: item.n, at: cx.now, from: None, asked: false };
        self.seen.insert(item.chain, held, cx.limits.seen, cx.limits.seen_ms);
        for (peer, branch) in &mut self.branches {
            if Some(peer) == from {
                continue;
            }
            branch.silent = branch.silent.saturating_add(1);
            if !self.leaf {
                branch.announce(cx.now, item, cx.limits);
            }
        }
    }

    /// What was missing up to this item is not missing any more. All that was known of it, if nothing beyond it was announced.
    fn close_missing(&mut self, item: &Item) -> Option<Missing> {
        let missing = self.missing.get_mut(&item.chain)?;
        if missing.n > item.n {
            missing.sources.retain(|source| source.n > item.n);
            return None;
        }
        let missing = self.missing.remove(&item.chain)?;
        if let Some(branch) = self.branches.get_mut(&missing.opened_by) {
            branch.opened = branch.opened.saturating_sub(1);
        }
        Some(missing)
    }

    pub(super) fn delivered(&mut self, cx: &mut Context<'_>, item: Item, from: DeviceId, duplicate: bool) {
        if duplicate || self.seen.holds(&item) {
            return self.duplicate(cx, item, from);
        }
        let now = cx.now;
        let missing = self.close_missing(&item);
        let asked = missing.as_ref().and_then(|missing| missing.asked);
        let sources = missing.as_ref().map_or(&[][..], |missing| &missing.sources);
        let held = Held { n: item.n, at: now, from: Some(from), asked: asked.is_some() };
        self.seen.insert(item.chain, held, cx.limits.seen, cx.limits.seen_ms);
        self.duplicates -= self.duplicates / 32;
        self.heard(now, &from);
        if let (Some(missing), None) = (&missing, asked) {
            self.lateness.sample(now.0.saturating_sub(missing.first_at.0));
        }
        let forward = !self.leaf;
        for (peer, branch) in &mut self.branches {
            let source = sources.iter().find(|source| source.peer == *peer && source.n >= item.n);
            if *peer == from {
                branch.count(false);
                branch.kept_word(now);
                continue;
            }
            match source {
                Some(source) if asked.is_none() => branch.lead(from, now.0.saturating_sub(source.at.0) as i64),
                Some(_) => {}
                None if !branch.leaf => branch.silent = branch.silent.saturating_add(1),
                None => {}
            }
            match (branch.eager, source) {
                _ if !forward => {}
                (true, None) => cx.effects.push_back(Effect::Push { to: *peer, item }),
                (true, Some(_)) => {}
                (false, _) => branch.announce(now, item, cx.limits),
            }
            if let (true, false, Probe::Idle { not_before }) = (branch.silent > SILENT_MAX, branch.leaf, branch.probe) {
                // It has the item by then: it was just pushed or announced to it.
                let at = Now(now.0 + 4 * u64::from(branch.rtt_ms()) + 500);
                if not_before <= now && forward {
                    branch.probe = Probe::Planned { item, at };
                }
            }
        }
        if asked.is_none() {
            self.swap(cx, from);
        }
    }

    fn duplicate(&mut self, cx: &mut Context<'_>, item: Item, from: DeviceId) {
        let now = cx.now;
        let upstream = self.upstream();
        let probed = self.branches.get(&from).is_some_and(|branch| matches!(branch.probe, Probe::Asked { .. }));
        self.spoke(now, &from);
        let Some(branch) = self.branches.get_mut(&from) else { return };
        branch.sound = true;
        // A leaf that pushes what is its own twice is told so by the other side of it: the link stays one along which it is pushed to.
        if branch.leaf {
            return;
        }
        let held = self.seen.get(&item.chain);
        let stale =
            held.is_none_or(|held| held.n != item.n || held.asked || now.0.saturating_sub(held.at.0) > COMPARABLE_MS);
        if probed || stale {
            return;
        }
        branch.count(true);
        if let Some(Held { at, from: Some(first), .. }) = held {
            branch.lead(*first, -(now.0.saturating_sub(at.0) as i64));
        }
        self.duplicates = self.duplicates - self.duplicates / 32 + 1_000 / 32;
        if !branch.eager {
            // What was under way when it was pruned is no reason to say so again.
            if now.0.saturating_sub(branch.pruned_at.0) > 2_000 {
                branch.pruned_at = now;
                cx.send(from, Message::Prune);
            }
            return;
        }
        let too_many = self.duplicates > 10 * cx.limits.duplicates_percent;
        let useless = branch.duplicates > 4 && 3 * branch.firsts < branch.duplicates;
        // Of the two that brought it, whoever is to be spared; else who was later, if there is reason to prune at all.
        let first = held.and_then(|held| held.from);
        let is_spared = |peer: &DeviceId| self.branches.get(peer).is_some_and(|branch| branch.spared && branch.eager);
        let spared = [Some(from), first].into_iter().flatten().find(is_spared);
        if upstream > 1
            && (too_many || useless || spared.is_some())
            && let worse = spared.unwrap_or(from)
            && let Some(branch) = self.branches.get_mut(&worse)
        {
            (branch.eager, branch.pruned_at) = (false, now);
            self.duplicates = self.duplicates * 3 / 4;
            cx.send(worse, Message::Prune);
        }
    }

    /// Lets the neighbour that leads most over the one that just delivered take its place.
    fn swap(&mut self, cx: &mut Context<'_>, slow: DeviceId) {
        let now = cx.now;
        if now < self.swap_after || self.branches.get(&slow).is_none_or(|branch| !branch.eager || branch.leaf) {
            return;
        }
        let lead = |branch: &Branch| {
            let lead = branch.leads.get(&slow).filter(|lead| lead.samples >= SWAP_SAMPLES)?;
            let fit = !branch.eager && !branch.leaf && !branch.spared && branch.faults(now) == 0;
            fit.then(|| lead.mean_ms())
        };
        let best = self.branches.iter().filter_map(|(peer, branch)| Some((lead(branch)?, *peer))).max();
        let Some((_, fast)) = best.filter(|(gain, _)| *gain >= SWAP_GAIN_MS) else { return };
        for branch in self.branches.values_mut() {
            branch.leads.remove(&slow);
            branch.leads.remove(&fast);
        }
        if let Some(branch) = self.branches.get_mut(&fast) {
            branch.eager = true;
            cx.send(fast, Message::Graft { eager: true, items: Vec::new() });
        }
        // With few duplicates both may stay; the worse of the two is pruned when there are too many.
        if self.duplicates > 5 * cx.limits.duplicates_percent
            && let Some(branch) = self.branches.get_mut(&slow)
        {
            (branch.eager, branch.pruned_at) = (false, now);
            cx.send(slow, Message::Prune);
        }
        self.swap_after = Now(now.0 + SWAP_EVERY_MS + u64::from(below(cx.rng, SWAP_EVERY_MS as u32)));
    }

    pub(super) fn i_have(&mut self, cx: &mut Context<'_>, from: DeviceId, items: &[Item]) {
        let (now, upstream) = (cx.now, self.upstream());
        self.spoke(now, &from);
        let Some(branch) = self.branches.get(&from) else { return };
        let faults = branch.faults(now);
        let wait = match (upstream, now < self.broken_until) {
            (0, _) => 0,
            (_, true) => cx.limits.ask_min_ms,
            _ => self.lateness.wait_ms().clamp(cx.limits.ask_min_ms, cx.limits.ask_max_ms),
        };
        // Somebody else is likely to announce it as well.
        let wait = if branch.spared { 2 * wait } else { wait };
        for item in items {
            if let Some(held) = self.seen.get(&item.chain).filter(|held| held.n >= item.n) {
                let Some(branch) = self.branches.get_mut(&from) else { return };
                let late = now.0.saturating_sub(held.at.0);
                branch.sound |= held.n == item.n;
                if let (Some(first), true) = (held.from, held.n == item.n && late < COMPARABLE_MS && !held.asked) {
                    branch.lead(first, -(late as i64));
                }
                continue;
            }
            // Spread, so that of several that the tree does not reach one asks first and the others get it from there.
            let ask_at = Now(now.0 + wait + u64::from(below(cx.rng, (wait / 2) as u32 + 1)));
            if self.missing.contains_key(&item.chain) {
                self.one_more_source(cx, from, item, ask_at);
                continue;
            }
            if faults >= FAULTS_DISTRUST || !self.has_room(cx, &from) {
                continue;
            }
            let Some(branch) = self.branches.get_mut(&from) else { return };
            branch.opened += 1;
            let sources = vec![Source { peer: from, n: item.n, at: now, tried: false }];
            let missing = Missing {
                n: item.n,
                first_at: now,
                ask_at,
                asked: None,
                asked_at: now,
                rounds: 0,
                opened_by: from,
                sources,
            };
            self.missing.insert(item.chain, missing);
        }
    }

    /// Another neighbour holds what is missing. Where nobody is asked who ever gave what there is, it need not wait for those who do not.
    fn one_more_source(&mut self, cx: &Context<'_>, from: DeviceId, item: &Item, ask_at: Now) {
        let branches = &self.branches;
        let Some(missing) = self.missing.get_mut(&item.chain) else { return };
        missing.n = missing.n.max(item.n);
        // Those that lie take no place from those that do not.
        let worth = |peer: &DeviceId| {
            branches.get(peer).map(|branch| (branch.sound, core::cmp::Reverse(branch.faults(cx.now) / FAULTS_DISTRUST)))
        };
        let room = missing.sources.len() < cx.limits.sources;
        let new = Source { peer: from, n: item.n, at: cx.now, tried: false };
        match missing.sources.iter_mut().find(|source| source.peer == from) {
            Some(source) if item.n > source.n => *source = new,
            Some(source) => return source.at = cx.now,
            None if room => missing.sources.push(new),
            None => {
                let worst = missing.sources.iter_mut().min_by_key(|source| worth(&source.peer));
                match worst.filter(|worst| worth(&worst.peer) < worth(&from)) {
                    Some(worst) => *worst = new,
                    None => return,
                }
            }
        }
        if missing.asked.is_none_or(|peer| worth(&peer) < worth(&from)) {
            missing.ask_at = missing.ask_at.min(ask_at);
        }
    }

    /// Whether a neighbour may open one more missing chain. Who opened most gives one up for who opened few.
    fn has_room(&mut self, cx: &Context<'_>, from: &DeviceId) -> bool {
        let Some(opened) = self.branches.get(from).map(|branch| branch.opened) else { return false };
        if opened >= cx.limits.missing_per_source {
            return false;
        }
        if self.missing.len() < cx.limits.missing {
            return true;
        }
        let most = self.branches.iter().max_by_key(|(_, branch)| branch.opened);
        let Some((most, _)) = most.filter(|(_, branch)| branch.opened > opened + 1) else { return false };
        let most = *most;
        let one = self.missing.iter().find(|(_, missing)| missing.opened_by == most).map(|(chain, _)| *chain);
        let Some(chain) = one else { return false };
        self.close_missing(&Item { chain, n: u64::MAX });
        true
    }

    pub(super) fn graft(&mut self, cx: &mut Context<'_>, from: DeviceId, eager: bool, items: &[Item]) {
        let Some(branch) = self.branches.get_mut(&from) else { return };
        branch.eager |= eager;
        if !branch.leaf {
            self.spoke(cx.now, &from);
        }
        let Some(branch) = self.branches.get_mut(&from) else { return };
        for item in items {
            if self.seen.holds(item) && branch.grafts.take(cx.now) {
                cx.effects.push_back(Effect::Push { to: from, item: *item });
            }
        }
    }

    fn heard(&mut self, now: Now, from: &DeviceId) {
        self.spoke(now, from);
        if let Some(branch) = self.branches.get_mut(from) {
            branch.heard(now);
        }
    }

    pub(super) fn received(&mut self, cx: &mut Context<'_>, item: Item, from: &DeviceId, done: bool) {
        self.heard(cx.now, from);
        if done {
            self.close_missing(&item);
        } else if let Some(missing) = self.missing.get_mut(&item.chain).filter(|missing| missing.asked == Some(*from)) {
            // Others would send the same. If what it waits for does not come, they are asked later.
            (missing.asked, missing.ask_at) = (None, Now(cx.now.0 + cx.limits.ask_max_ms));
        }
    }

    pub(super) fn prune(&mut self, from: &DeviceId) {
        if let Some(branch) = self.branches.get_mut(from) {
            branch.eager = false;
        }
    }

    /// Announces, asks and probes what is due.
    pub(super) fn tick(&mut self, cx: &mut Context<'_>) {
        self.announce(cx);
        self.ask(cx);
        for (peer, branch) in &mut self.branches {
            match branch.probe {
                Probe::Planned { item, at } if at <= cx.now => {
                    let until = Now(cx.now.0 + 2 * u64::from(branch.rtt_ms()) + 1_000);
                    branch.probe = Probe::Asked { until };
                    cx.send(*peer, Message::Graft { eager: false, items: vec![item] });
                }
                Probe::Asked { until } if until <= cx.now => {
                    branch.probe = Probe::Idle { not_before: until };
                    branch.fault(cx.now, FAULTS_PROBE);
                }
                _ => {}
            }
        }
    }

    fn announce(&mut self, cx: &mut Context<'_>) {
        for (peer, branch) in &mut self.branches {
            for items in branch.take_announced(cx.now).chunks(ITEMS_MAX) {
                cx.effects.push_back(Effect::Send { to: *peer, message: Message::IHave { items: items.to_vec() } });
            }
        }
    }

    fn ask(&mut self, cx: &mut Context<'_>) {
        let now = cx.now;
        let mut asks: BTreeMap<DeviceId, Vec<Item>> = BTreeMap::new();
        let mut given_up: Vec<ChainId> = Vec::new();
        for (chain, missing) in self.missing.iter_mut().filter(|(_, missing)| missing.ask_at <= now) {
            // Who sends other things that are new has not come to it yet.
            if let Some(branch) = missing.asked.and_then(|peer| self.branches.get_mut(&peer))
                && branch.heard_at < missing.asked_at
            {
                branch.is_late(now);
            }
            let branches = &self.branches;
            missing.sources.retain(|source| branches.contains_key(&source.peer));
            let some = !missing.sources.is_empty();
            let usable = missing.sources.iter_mut().filter(|source| !source.tried);
            let best = usable.min_by_key(|source| {
                let branch = branches.get(&source.peer);
                // Who kept its word, and once gave or announced what there is, goes first, whatever the others claim to hold.
                let figures = branch.map(|branch| {
                    let faults = branch.faults(now);
                    (
                        faults / FAULTS_DISTRUST,
                        !branch.sound,
                        faults,
                        branch.spared,
                        core::cmp::Reverse(source.n),
                        branch.rtt_ms(),
                    )
                });
                figures.unwrap_or((u32::MAX, true, u32::MAX, true, core::cmp::Reverse(0), u32::MAX))
            });
            match best {
                Some(source) => {
                    source.tried = true;
                    (missing.asked, missing.asked_at) = (Some(source.peer), now);
                    let rtt = branches.get(&source.peer).map_or(0, Branch::rtt_ms);
                    missing.ask_at = Now(now.0 + 2 * u64::from(rtt) + 50);
                    asks.entry(source.peer).or_default().push(Item { chain: *chain, n: source.n });
                }
                None if missing.rounds + 1 < ROUNDS_MAX && some => {
                    missing.rounds += 1;
                    missing.asked = None;
                    missing.ask_at = Now(now.0 + (500 << missing.rounds));
                    missing.sources.iter_mut().for_each(|source| source.tried = false);
                }
                None => given_up.push(*chain),
            }
        }
        for chain in given_up {
            self.close_missing(&Item { chain, n: u64::MAX });
        }
        let alone = self.upstream() == 0 || now < self.broken_until;
        for (peer, items) in asks {
            let Some(branch) = self.branches.get_mut(&peer) else { continue };
            let eager = branch.asked(now) > 1 || alone;
            branch.eager |= eager;
            for items in items.chunks(ITEMS_MAX) {
                cx.send(peer, Message::Graft { eager, items: items.to_vec() });
            }
        }
    }

    /// Neighbours that do not do what neighbours do: they announce what they do not give, or say nothing at all.
    pub(super) fn failed(&self, now: Now) -> Vec<DeviceId> {
        let failed = self.branches.iter().filter(|(_, branch)| branch.faults(now) >= FAULTS_LEAVE);
        failed.map(|(peer, _)| *peer).collect()
    }

    pub(super) fn any_failed(&self, now: Now) -> bool {
        self.branches.values().any(|branch| branch.faults(now) >= FAULTS_LEAVE)
    }

    pub(super) fn due(&self) -> Option<Now> {
        let asks = self.missing.values().map(|missing| missing.ask_at).min();
        let branches = self.branches.values().flat_map(|branch| {
            let probe = match branch.probe {
                Probe::Idle { .. } => None,
                Probe::Planned { at, .. } => Some(at),
                Probe::Asked { until } => Some(until),
            };
            [branch.announce_at, probe]
        });
        branches.flatten().chain(asks).min()
    }
}
