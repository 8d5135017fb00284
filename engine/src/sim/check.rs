//! What must be true once everything works again. Knows nothing of what went wrong before.

use std::collections::BTreeMap;

use commonhold_sync::change;
use commonhold_sync::id::{ChainId, DeviceId, DocId, SpaceId};
use commonhold_sync::limits::Rules;
use commonhold_sync::peer::{Load, Loaded};
use commonhold_sync::space::Space;

use super::host::{Host, Run};
use super::oracle;
use super::screen::view_from;
use super::world::World;

fn running(host: &Host) -> Result<&Run, String> {
    host.run.as_ref().ok_or_else(|| format!("peer {} is down", host.index))
}

/// Whether all hold the same, and nothing is under way in any of them.
pub(super) fn agree(world: &World) -> Result<(), String> {
    for (space, ..) in &world.spaces {
        let mut prints = Vec::new();
        for host in &world.hosts {
            let run = running(host)?;
            let held = run.peer.space(space).ok_or_else(|| format!("peer {} lacks {space:?}", host.index))?;
            prints.push(held.fingerprint.to_bytes());
        }
        if prints.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(format!("{space:?} is not the same everywhere"));
        }
    }
    for host in &world.hosts {
        let run = running(host)?;
        if let Some((key, _)) = run.screen.docs.iter().find(|(_, open)| !open.is_settled()) {
            return Err(format!("the view of {:?} at peer {} is not settled", key.1, host.index));
        }
        if !run.commits.is_empty() || run.committing {
            return Err(format!("peer {} is still storing", host.index));
        }
        // What liars sent may wait for what there never was, within its bounds, until its time is up; and what somebody wrote
        // whose rights are gone, in documents of somebody whose rights are.
        if run.peer.waiting_bytes() > 0 && world.liars.is_empty() && !world.plan.revokes {
            return Err(format!("{} bytes wait at peer {}", run.peer.waiting_bytes(), host.index));
        }
        let honest = |device: &DeviceId| world.hosts.iter().any(|host| host.device() == *device);
        for device in run.connected.values().filter(|device| honest(device)) {
            if let Some((space, ..)) = world.spaces.iter().find(|(space, ..)| !run.level.contains(&(*device, *space))) {
                return Err(format!("peer {} does not know that it is level with {device:?} in {space:?}", host.index));
            }
        }
    }
    Ok(())
}

/// The logs of a space that are not the same everywhere, and what each peer has of them.
pub(super) fn differences(world: &World) -> Result<String, String> {
    let all = world.spaces.iter().map(|(space, ..)| differences_in(world, space));
    Ok(all.collect::<Result<Vec<_>, _>>()?.join("; "))
}

fn differences_in(world: &World, space: &SpaceId) -> Result<String, String> {
    let mut clocks: BTreeMap<DocId, BTreeMap<String, Vec<usize>>> = BTreeMap::new();
    for host in &world.hosts {
        let run = running(host)?;
        let Some(held) = run.peer.space(space) else { continue };
        let load = |load| run.storage.load(&load).map(|read| read.value).map_err(|e| e.to_string());
        let Loaded::Digests(digests) = load(Load::Digests { space: *space })? else { continue };
        let docs = digests.iter().map(|(doc, _)| *doc).collect();
        let Loaded::Logs(logs) = load(Load::Logs { space: *space, docs })? else { continue };
        let show = |clock: commonhold_sync::clock::Clock| {
            let ends =
                clock.0.iter().map(|(c, b)| format!("{c:?} {:?}", b.heads.iter().map(|b| b.0).collect::<Vec<_>>()));
            ends.collect::<Vec<_>>().join(", ")
        };
        let of_log = |image: commonhold_sync::log::Image, doc: &DocId| match image.deleted {
            true => "deleted".to_owned(),
            false => show(image.clock(space, doc)),
        };
        let logs = logs.into_iter().filter_map(|(doc, found)| Some((doc, of_log(found?.0, &doc))));
        for (doc, clock) in logs.chain([(space.authority(), show(held.clock()))]) {
            clocks.entry(doc).or_default().entry(clock).or_default().push(host.index);
        }
    }
    clocks.retain(|_, by| by.len() > 1 || by.values().any(|hosts| hosts.len() < world.hosts.len()));
    Ok(format!("{clocks:?}"))
}

/// Everything that must hold at the end of a run.
pub(super) fn everything(world: &mut World) -> Result<(), String> {
    agree(world)?;
    same_documents(world)?;
    as_the_oracle_says(world)?;
    nothing_promised_is_missing(world)?;
    erasures_are_signed(world)?;
    for host in &world.hosts {
        patches_rebuild(host)?;
        disk_says_the_same(host)?;
        world.ledger.check_store(host.index, &running(host)?.storage)?;
    }
    for host in &mut world.hosts {
        let index = host.index;
        let Some(run) = &mut host.run else { continue };
        run.screen.agrees().map_err(|why| format!("peer {index}: {why}"))?;
    }
    world.check_tampered()
}

/// The same documents, at the same heads, with the same content.
fn same_documents(world: &World) -> Result<(), String> {
    let mut first: Option<BTreeMap<_, _>> = None;
    for host in &world.hosts {
        let docs =
            running(host)?.screen.docs.iter().map(|(key, open)| (*key, (open.view.heads(), open.view.to_json())));
        let docs: BTreeMap<_, _> = docs.collect();
        let Some(first) = &first else {
            first = Some(docs);
            continue;
        };
        let keys: (Vec<_>, Vec<_>) = (first.keys().collect(), docs.keys().collect());
        if keys.0 != keys.1 {
            return Err(format!("peer {} shows documents {:?}, peer 0 {:?}", host.index, keys.1, keys.0));
        }
        if let Some((space, doc)) = docs.iter().find(|(key, shown)| first[*key] != **shown).map(|(key, _)| *key) {
            return Err(format!("peers 0 and {} show another {doc:?}\n{}", host.index, story(world, space, doc)?));
        }
    }
    Ok(())
}

/// For each peer, what it holds of a document, but for late branches of a storm, and what of that it shows.
fn story(world: &World, space: SpaceId, doc: DocId) -> Result<String, String> {
    use core::fmt::Write;
    let mut out = String::new();
    for host in &world.hosts {
        let run = running(host)?;
        let Some(open) = run.screen.docs.get(&(space, doc)) else { continue };
        writeln!(out, "peer {} at {:?}", host.index, open.view.heads()).map_err(|e| e.to_string())?;
        let load = |load| run.storage.load(&load).map(|read| read.value).map_err(|e| e.to_string());
        let Loaded::Logs(mut logs) = load(Load::Raw { space, docs: vec![doc] })? else { continue };
        let Some((image, segments)) = logs.pop().and_then(|(_, found)| found) else { continue };
        if let Some(covered) = &image.covered {
            writeln!(out, "  a snapshot of {:?}", covered.heads).map_err(|e| e.to_string())?;
        }
        for stored in segments {
            let opening = &stored.segment.opening;
            let chain = opening.chain(&space, &doc);
            if stored.branch > 8 {
                continue;
            }
            for (n, bytes) in (stored.segment.first..).zip(&stored.segment.entries) {
                let head = change::walk(bytes, &Rules::V1).map_err(|e| e.to_string())?;
                let (id, counted) = (head.id, image.counted(opening, stored.branch));
                let shown = if open.view.contains(&id) { "shown" } else { "not shown" };
                writeln!(out, "  {chain:?}.{} {n} {id:?} on {:?}, {counted} count, {shown}", stored.branch, head.deps)
                    .map_err(|e| e.to_string())?;
            }
        }
    }
    Ok(out)
}

/// Every peer shows what is to be shown of the union of what honest stores hold.
fn as_the_oracle_says(world: &mut World) -> Result<(), String> {
    let docs: Vec<(SpaceId, DocId)> = running(&world.hosts[0])?.screen.docs.keys().copied().collect();
    for (space, doc) in docs {
        let Some((heads, json)) = oracle::view(world, space, doc)? else { continue };
        let shown = &running(&world.hosts[0])?.screen.docs[&(space, doc)].view;
        if (shown.heads(), shown.to_json()) != (heads.clone(), json.clone()) {
            let story = story(world, space, doc)?;
            return Err(format!("all show {doc:?} at {:?}, not at {heads:?}\n{story}", shown.heads()));
        }
        world.report.judged += 1;
    }
    Ok(())
}

fn nothing_promised_is_missing(world: &World) -> Result<(), String> {
    let ledger = &world.ledger;
    for host in &world.hosts {
        let (at, run) = (host.index, running(host)?);
        let missing = |key: &(SpaceId, DocId)| {
            !(run.screen.docs.contains_key(key)
                || ledger.perhaps_deleted.contains(key) && run.screen.deleted.contains(key))
        };
        for (key, by) in ledger.documents.iter().filter(|(key, _)| missing(key)) {
            if !world.plan.revokes || is_root(world, &key.0, *by) {
                return Err(format!("peer {at} lacks document {:?}, which was saved", key.1));
            }
        }
        for (key, by) in ledger.deleted.iter().filter(|(key, _)| run.screen.docs.contains_key(key)) {
            if !world.plan.revokes || is_root(world, &key.0, *by) {
                return Err(format!("peer {at} still shows {:?}, whose deletion was saved", key.1));
            }
        }
        for (key, entries) in &ledger.entries {
            let Some(open) = run.screen.docs.get(key) else { continue };
            // A deletion that turns out to be without right is undone, but what nobody kept is gone.
            if world.plan.revokes && ledger.perhaps_deleted.contains(key) {
                continue;
            }
            for (id, place) in entries.iter().filter(|(id, _)| !open.view.contains(id)) {
                if !loses(world, run, key, *place)? {
                    return Err(format!("peer {at} does not show entry {id:?} of {:?}, which was saved", key.1));
                }
            }
        }
        for (space, device) in &ledger.grants {
            let held = run.peer.space(space);
            if held.is_none_or(|held| !world.plan.revokes && held.grant(device).is_none()) {
                return Err(format!("peer {at} does not know of a grant to {device:?}, which was saved"));
            }
        }
    }
    Ok(())
}

/// Who has a right has said of each document that was deleted, and was to be erased, that it is.
fn erasures_are_signed(world: &World) -> Result<(), String> {
    for (space, ..) in &world.spaces {
        let first = running(&world.hosts[0])?;
        let Some(held) = first.peer.space(space).map(Space::authority) else { continue };
        let mut signed: BTreeMap<DocId, Vec<DeviceId>> = BTreeMap::new();
        let erasures = held.erasures();
        for erasure in &erasures {
            signed.entry(erasure.doc).or_default().extend(&erasure.erased);
        }
        let load = Load::Logs { space: *space, docs: signed.keys().copied().collect() };
        let read = first.storage.load(&load).map_err(|e| e.to_string())?;
        let Loaded::Logs(logs) = read.value else { continue };
        for (doc, found) in logs {
            let Some((image, _)) = found.filter(|(image, _)| image.deleted) else { continue };
            let of_doc = erasures.iter().filter(|erasure| erasure.doc == doc);
            if !of_doc.into_iter().any(|erasure| erasure.counts(&image.header.creator)) {
                continue;
            }
            let silent = world
                .hosts
                .iter()
                .find(|host| held.right_of(&host.device()).is_some() && !signed[&doc].contains(&host.device()));
            if let Some(host) = silent {
                return Err(format!("peer {} has not signed that it has erased {doc:?}", host.index));
            }
        }
    }
    Ok(())
}

/// From whom nobody can take rights.
fn is_root(world: &World, space: &SpaceId, host: usize) -> bool {
    world.spaces.iter().any(|(id, _, root)| id == space && *root == host)
}

/// Whether an entry that was saved does not count because rights were taken back.
fn loses(world: &World, run: &Run, key: &(SpaceId, DocId), (chain, n): (ChainId, u64)) -> Result<bool, String> {
    let (space, doc) = *key;
    let Some(held) = run.peer.space(&space).filter(|_| world.plan.revokes) else { return Ok(false) };
    // Where all of it is without a right, no more than its author may hold it.
    for host in &world.hosts {
        let load = running(host)?.storage.load(&Load::Logs { space, docs: vec![doc] }).map_err(|e| e.to_string())?;
        let Loaded::Logs(mut logs) = load.value else { continue };
        let Some((image, _)) = logs.pop().and_then(|(_, found)| found) else { continue };
        let mut openings = image.lines.iter().map(|line| &line.opening);
        if let Some(opening) = openings.find(|opening| opening.chain(&space, &doc) == chain) {
            return Ok(held.limit(&doc, opening, Some(&image.header.creator)).end() < n);
        }
    }
    Ok(false)
}

fn patches_rebuild(host: &Host) -> Result<(), String> {
    for ((_, doc), open) in &running(host)?.screen.docs {
        open.check().map_err(|why| format!("peer {}, {doc:?}: {why}", host.index))?;
    }
    Ok(())
}

/// The store holds what is shown, and its fingerprint is the sum of its logs.
fn disk_says_the_same(host: &Host) -> Result<(), String> {
    let run = running(host)?;
    for ((space, doc), open) in &run.screen.docs {
        let read = view_from(&run.storage, *space, *doc, false)?;
        if read.heads() != open.view.heads() {
            return Err(format!("peer {} shows another {doc:?} than its disk holds", host.index));
        }
    }
    fingerprints_add_up(host.index, run)
}

/// The fingerprint of each space is the sum of the logs on disk. Only asked while nothing is on its way there.
pub(super) fn fingerprints_add_up(host: usize, run: &Run) -> Result<(), String> {
    for held in run.peer.spaces() {
        let load = run.storage.load(&Load::Digests { space: held.id() }).map_err(|e| e.to_string())?;
        let Loaded::Digests(digests) = load.value else { return Err("digests were asked for".into()) };
        let mut sum = commonhold_sync::clock::Fingerprint::default();
        digests.iter().for_each(|(doc, digest)| sum.add(doc, digest));
        held.digest().iter().for_each(|digest| sum.add(&held.id().authority(), digest));
        if sum != held.fingerprint {
            return Err(format!("the fingerprint of peer {} is not the sum of its logs", host));
        }
    }
    Ok(())
}
