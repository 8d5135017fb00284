//! What goes wrong, and what apps do meanwhile.

use crate::store::faulty::Rng;
use commonhold_sync::id::{DeviceId, DocId, EntryId, SpaceId};
use commonhold_sync::peer::{Input, Keep, Local, Peer};
use commonhold_sync::record::{Record, Right};
use commonhold_sync::spending::Allowance;

use super::disk::CommitFault;
use super::plan::{Canary, Chances};
use super::screen::Asked;
use super::world::{Step, World};
use crate::worker::{self, Packed};

/// Time within which everything in flight arrives once all is well, ms.
const HEALED_MS: u64 = 1_000;

impl World {
    /// Every 100 ms while faults last.
    pub(super) fn weather(&mut self) -> Result<(), String> {
        self.check_tampered()?;
        if self.healing {
            return Ok(());
        }
        self.later(100, Step::Weather);
        let chances = self.chances.clone();
        let conns: Vec<_> = self.network.links.iter().filter(|(_, l)| l.lives()).map(|(conn, _)| *conn).collect();
        for conn in conns {
            if self.hit(chances.breaks) {
                self.break_link(conn);
            } else if self.hit(chances.stalls) {
                let until = self.now + self.rng.below(6_000);
                if let Some(link) = self.network.links.get_mut(&conn) {
                    link.stalled_until = until;
                }
            }
        }
        for a in 0..self.plan.peers {
            for b in a + 1..self.plan.peers {
                match self.network.parted.contains(&(a, b)) {
                    true if self.hit(50) => drop(self.network.parted.remove(&(a, b))),
                    false if self.hit(chances.partitions) => self.part(a, b),
                    _ => {}
                }
            }
        }
        for host in 0..self.plan.peers {
            if self.hosts[host].run.is_none() {
                continue;
            }
            if self.plan.spends {
                self.allow_now_and_then(host)?;
            }
            if self.hit(chances.crashes) {
                self.crash(host, true)?;
            } else if self.hit(chances.restarts) {
                self.shut_down(host)?;
            }
        }
        Ok(())
    }

    /// What a peer may send for others runs out, or there is more of it again.
    fn allow_now_and_then(&mut self, host: usize) -> Result<(), String> {
        let others = match self.rng.below(400) {
            0..10 => Some(self.rng.below(20_000)),
            10..20 => None,
            _ => return Ok(()),
        };
        self.note(|| format!("{host} may send {others:?} for others"));
        self.report.allowances += 1;
        self.input(host, Input::Allow(Allowance { all: None, others }))
    }

    /// A connection breaks: what is in flight may be lost, and each end hears of it some time later.
    fn break_link(&mut self, conn: commonhold_sync::peer::ConnId) {
        let at = self.now + self.rng.below(50);
        let Some(link) = self.network.links.get_mut(&conn).filter(|l| l.broken_at.is_none()) else { return };
        link.broken_at = Some(at);
        self.report.breaks += 1;
        self.note(|| format!("{conn:?} breaks"));
        for end in 0..2 {
            let delay = 50 + if self.rng.below(3) == 0 { self.rng.below(5_000) } else { self.rng.below(100) };
            self.later(delay, Step::Closed { conn, end });
        }
    }

    fn part(&mut self, a: usize, b: usize) {
        self.note(|| format!("{a} and {b} are parted"));
        self.network.parted.insert((a, b));
        let between = |hosts: [usize; 2]| hosts == [a, b] || hosts == [b, a];
        let conns: Vec<_> = self.network.links.iter().filter(|(_, l)| between(l.hosts)).map(|(c, _)| *c).collect();
        conns.into_iter().for_each(|conn| self.break_link(conn));
    }

    /// A process ends at once; with `power`, what the disk had not synced is at the seed's mercy.
    pub(super) fn crash(&mut self, host: usize, power: bool) -> Result<(), String> {
        self.note(|| format!("{host} crashes{}", if power { ", power lost" } else { "" }));
        self.report.crashes += 1;
        let seed = self.rng.next_u64();
        // A failed store may leave unsynced writes behind; the machine stays up, so they survive unless power goes too.
        if power || self.rng.below(2) == 0 {
            self.hosts[host].disk.crash(seed);
        }
        self.end_process(host);
        Ok(())
    }

    /// A clean end: what is under way is finished, and the next run continues the chains.
    fn shut_down(&mut self, host: usize) -> Result<(), String> {
        self.note(|| format!("{host} is shut down"));
        let boot = self.hosts[host].boot;
        let early = self.canary == Some(Canary::EarlyStored) && host == 0;
        self.input(host, Input::Close)?;
        while self.runs(host, boot) && self.hosts[host].run.as_ref().is_some_and(|run| !run.commits.is_empty()) {
            let (ops, ended) = self.hosts[host].commit(CommitFault::None, self.canary, &mut self.rng);
            if ended != super::disk::Committed::Done {
                return self.crash(host, true);
            }
            for op in ops.into_iter().filter(|_| !early) {
                self.input(host, Input::Stored { op })?;
            }
        }
        self.hosts[host].clean = self.hosts[host].run.as_ref().is_none_or(|run| !run.chain_lost);
        self.report.restarts += 1;
        self.end_process(host);
        Ok(())
    }

    fn end_process(&mut self, host: usize) {
        self.hosts[host].run = None;
        self.hosts[host].boot += 1;
        let mut ends = Vec::new();
        for (conn, link) in self.network.links.iter_mut().filter(|(_, l)| l.hosts.contains(&host)) {
            let end = link.end_of(host);
            link.open[end] = false;
            ends.push((*conn, 1 - end));
        }
        for (conn, end) in ends {
            let delay = 1 + self.rng.below(500);
            self.later(delay, Step::Closed { conn, end });
        }
        self.network.sweep();
        let delay = if self.healing { 1 } else { 1 + self.rng.below(3_000) };
        self.later(delay, Step::Start { host });
    }

    pub(super) fn start(&mut self, host: usize) -> Result<(), String> {
        if self.hosts[host].run.is_some() {
            return Ok(());
        }
        self.note(|| format!("{host} starts"));
        self.hosts[host].start(&self.plan, &self.ledger, &mut self.rng, &*self.apps)?;
        if self.hosts[host].joined.is_empty() {
            for at in 0..self.spaces.len() {
                let (space, genesis, root) = self.spaces[at].clone();
                // The others join at once or later, with the whole genesis or with the bare id.
                if root == host {
                    self.hosts[host].joined.push((space, Some(genesis)));
                } else if self.rng.below(2) == 0 {
                    self.join(host, at)?;
                }
            }
        }
        let hides = self.canary == Some(Canary::HidesEntry) && host == 0;
        if let Some(run) = &mut self.hosts[host].run {
            run.screen.hides_next = hides;
            run.screen.one_branch = self.canary == Some(Canary::OneBranch) && host == 0;
        }
        for (space, genesis) in self.hosts[host].joined.clone() {
            self.input(host, Input::Join { space, genesis, filter: None })?;
        }
        Ok(())
    }

    fn join(&mut self, host: usize, at: usize) -> Result<(), String> {
        let (space, genesis, _) = self.spaces[at].clone();
        if self.hosts[host].joined.iter().any(|(s, _)| *s == space) {
            return Ok(());
        }
        let genesis = (self.rng.below(3) == 0).then_some(genesis);
        self.hosts[host].joined.push((space, genesis.clone()));
        self.input(host, Input::Join { space, genesis, filter: None })
    }

    /// Dials where neighbours are not connected.
    pub(super) fn mend(&mut self) -> Result<(), String> {
        self.later(if self.healing { 500 } else { 250 }, Step::Mend);
        for run in self.hosts.iter_mut().filter_map(|host| host.run.as_mut()) {
            // A document may come back without anything to store.
            if !run.committing {
                run.screen.renew(&run.storage)?;
            }
        }
        for a in 0..self.plan.peers {
            for b in a + 1..self.plan.peers {
                let up = self.hosts[a].run.is_some() && self.hosts[b].run.is_some();
                let apart = !self.healing && self.plan.apart_from.is_some_and(|from| from <= self.now);
                if apart && self.network.connected(a, b) {
                    self.part(a, b);
                }
                let wanted =
                    self.shape.joins(a, b, self.plan.peers) && !self.network.parted.contains(&(a, b)) && !apart;
                if !up || !wanted {
                    continue;
                }
                let again = self.network.connected(a, b);
                if if again { self.hit(self.chances.double_dials) } else { self.healing || self.hit(600) } {
                    self.dial(a, b)?;
                }
            }
        }
        Ok(())
    }

    fn dial(&mut self, a: usize, b: usize) -> Result<(), String> {
        let (from, to) = if self.rng.below(2) == 0 { (a, b) } else { (b, a) };
        let delay = if self.rng.below(4) == 0 { self.rng.below(400) } else { 1 + self.rng.below(30) };
        let slow = !self.healing && self.rng.below(3) == 0;
        let conn = self.network.connect(from, to, delay, if slow { self.plan.slow_bytes_per_ms } else { 0 });
        self.note(|| format!("{from} dials {to}: {conn:?}"));
        let device = self.hosts[to].device();
        let expected = (self.rng.below(4) > 0).then_some(device);
        self.input(to, Input::Connected { conn, dialled: false, expected: None })?;
        self.input(from, Input::Connected { conn, dialled: true, expected })
    }

    /// The end of all faults.
    pub(super) fn heal(&mut self) -> Result<(), String> {
        self.note(|| "healing begins".into());
        self.healing = true;
        self.chances = Chances::default();
        self.shape = self.plan.shape;
        self.network.parted.clear();
        for link in self.network.links.values_mut() {
            (link.delay_ms, link.bytes_per_ms, link.stalled_until) = (5, 0, 0);
        }
        self.hasten(HEALED_MS);
        for host in 0..self.plan.peers {
            if self.canary == Some(Canary::EarlyStored) && host == 0 && self.hosts[host].run.is_some() {
                self.crash(host, true)?;
            }
            self.start(host)?;
            self.input(host, Input::Allow(Allowance::default()))?;
            for at in 0..self.spaces.len() {
                self.join(host, at)?;
            }
            for (space, doc) in self.documents(host) {
                self.flush(host, space, doc)?;
            }
        }
        Ok(())
    }

    fn documents(&self, host: usize) -> Vec<(SpaceId, DocId)> {
        self.hosts[host].run.iter().flat_map(|run| run.screen.docs.keys().copied()).collect()
    }

    fn flush(&mut self, host: usize, space: SpaceId, doc: DocId) -> Result<(), String> {
        let Some(run) = &mut self.hosts[host].run else { return Ok(()) };
        match run.screen.flush(&run.peer, space, doc)? {
            Some(input) => {
                self.report.flushes += 1;
                self.input(host, input)
            }
            None => Ok(()),
        }
    }

    /// What an app does next.
    pub(super) fn act(&mut self, host: usize) -> Result<(), String> {
        if self.healing {
            return Ok(());
        }
        let pause = 1 + self.rng.below(2 * self.plan.app_ms);
        self.later(pause, Step::Act { host });
        let at = self.rng.below(self.spaces.len() as u64) as usize;
        let space = self.spaces[at].0;
        let Some(run) = &self.hosts[host].run else { return Ok(()) };
        if run.peer.space(&space).is_none() {
            return self.join(host, at);
        }
        let may_write = may_write(&run.peer, &space);
        let docs: Vec<DocId> = self.documents(host).into_iter().filter(|(s, _)| *s == space).map(|(_, d)| d).collect();
        if !may_write {
            // Of what was written while there was a right, an app hears that it cannot be saved.
            return docs.into_iter().try_for_each(|doc| self.flush(host, space, doc));
        }
        let doc = docs.get(self.rng.below(docs.len().max(1) as u64) as usize).copied();
        match (self.rng.below(100), doc) {
            (0..6, _) | (_, None) if docs.len() < 12 => {
                let nonce = self.rng.bytes(16).try_into().map_err(|_| "16 bytes were drawn")?;
                self.report.documents += 1;
                let record = Record::Header { nonce, kind: "t".into(), name: format!("by {host}") };
                self.say(host, space, vec![record])
            }
            (6..8, Some(doc)) => self.delete(host, space, doc),
            (8..14, _) if self.plan.revokes && self.rng.below(2) == 0 => {
                // At first only who founded the space has something to give, and what was not given is not taken back.
                let root = self.spaces.iter().find(|(of, ..)| *of == space).map_or(host, |(.., root)| *root);
                self.grant(root, space)
            }
            (8..14, _) => self.grant(host, space),
            (14..40, _) if self.plan.revokes => self.revoke(host, space),
            (96..100, Some(doc)) => self.compact(host, space, doc),
            (_, Some(doc)) => {
                let flush = self.rng.below(4) > 0;
                let rng: &mut Rng = &mut self.rng;
                let Some(run) = &mut self.hosts[host].run else { return Ok(()) };
                match run.screen.edit(&run.peer, space, doc, rng, flush)? {
                    Some(input) => {
                        self.report.flushes += 1;
                        self.input(host, input)
                    }
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn say(&mut self, host: usize, space: SpaceId, records: Vec<Record>) -> Result<(), String> {
        let Some(run) = &mut self.hosts[host].run else { return Ok(()) };
        let ticket = run.screen.ticket(Asked::Records(space, records.clone()));
        self.input(host, Input::Local { ticket, space, local: Local::Records(records) })
    }

    /// Deletes a document where this peer may: it is root, or made the document.
    fn delete(&mut self, host: usize, space: SpaceId, doc: DocId) -> Result<(), String> {
        let (device, root) = (self.hosts[host].device(), self.spaces.iter().any(|s| s.0 == space && s.2 == host));
        let Some(run) = &self.hosts[host].run else { return Ok(()) };
        let images = commonhold_sync::peer::Load::Logs { space, docs: vec![doc] };
        let read = run.storage.load(&images).map_err(|e| e.to_string())?.value;
        let commonhold_sync::peer::Loaded::Logs(logs) = read else { return Ok(()) };
        let created = |(_, found): &(DocId, Option<(commonhold_sync::log::Image, _)>)| {
            found.as_ref().is_some_and(|(image, _)| image.header.creator == device)
        };
        // A document whose header is not on disk yet is left alone.
        if logs.iter().all(|(_, found)| found.is_none()) || !(root || logs.iter().any(created)) {
            return Ok(());
        }
        self.report.deletions += 1;
        self.note(|| format!("{host} deletes {doc:?}"));
        self.ledger.perhaps_deleted.insert((space, doc));
        // Half of the time, as who is asked to erase it does.
        let mut records = vec![Record::Tombstone { doc }];
        if self.report.deletions.is_multiple_of(2) {
            records.push(Record::Erase { doc, note: format!("asked of {host}") });
        }
        self.say(host, space, records)
    }

    fn grant(&mut self, host: usize, space: SpaceId) -> Result<(), String> {
        let to = self.rng.below((self.plan.peers + self.plan.liars) as u64) as usize;
        let liar = to.checked_sub(self.plan.peers);
        let device = liar.map_or_else(|| self.hosts[to % self.plan.peers].device(), |liar| self.liars[liar].device());
        let right = match self.plan.revokes && liar.is_none() && self.rng.below(3) == 0 {
            true => Right::Admin,
            false => Right::Write,
        };
        let Some(run) = &self.hosts[host].run else { return Ok(()) };
        let Some(held) = run.peer.space(&space).filter(|_| to != host) else { return Ok(()) };
        let own = run.peer.device();
        if !held.authority().may_give(&own, right) {
            return Ok(());
        }
        let record = held.authority().grant_again(&own, device.into(), right, false);
        self.say(host, space, vec![record])
    }

    /// Takes something back that somebody was given, with or without what they did with it.
    fn revoke(&mut self, host: usize, space: SpaceId) -> Result<(), String> {
        let Some(run) = self.hosts[host].run.as_mut().filter(|_| self.plan.revokes) else { return Ok(()) };
        let (own, Some(held)) = (run.peer.device(), run.peer.space(&space)) else { return Ok(()) };
        let given = held.authority().edges().into_iter().filter(|edge| {
            edge.in_force() && edge.subject.device() != own && held.authority().may_revoke(&own, &[edge.record])
        });
        let given: Vec<(EntryId, DeviceId)> = given.map(|edge| (edge.record, edge.subject.device())).collect();
        // Mostly whoever made the newest document, and all they did: others have not written in it yet, so that it may go.
        let newest = if self.rng.below(8) > 0 { self.newest.get(&space).copied() } else { None };
        let any = self.rng.below(given.len().max(1) as u64) as usize;
        let of_maker = given.iter().find(|(_, device)| Some(*device) == newest);
        let Some((record, _)) = of_maker.or_else(|| given.get(any)) else { return Ok(()) };
        let keep = if of_maker.is_some() || self.rng.below(2) == 0 { Keep::Nothing } else { Keep::Held };
        let ticket = run.screen.ticket(Asked::Revocation);
        self.report.revocations += 1;
        self.note(|| format!("{host} revokes {record:?}, keeping {keep:?}"));
        let local = Local::Revoke { records: vec![*record], keep, root: None };
        self.input(host, Input::Local { ticket, space, local })
    }

    /// The engine makes a snapshot of what is stored.
    fn compact(&mut self, host: usize, space: SpaceId, doc: DocId) -> Result<(), String> {
        let Some(run) = self.hosts[host].run.as_mut().filter(|_| self.plan.packs) else { return Ok(()) };
        let Some(Packed { bytes, heads, ends }) = worker::compact(&run.storage, &space, &doc, &Default::default())?
        else {
            return Ok(());
        };
        self.report.snapshots += 1;
        self.note(|| format!("{host} makes a snapshot of {doc:?}"));
        self.input(host, Input::SnapshotMade { space, doc, bytes, heads, ends })
    }
}

/// Whether this run may write in a space, as far as its peer knows.
fn may_write(peer: &Peer, space: &SpaceId) -> bool {
    let opening = peer.own_opening(space, &DocId(EntryId([0; 32]).0));
    peer.space(space).is_some_and(|s| s.rules().is_some() && s.may_write(&opening, None))
}
