//! Spaces, and being level with peers in them.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use commonhold_engine::{DeviceId, DocumentQuery, Invite, Node, SpaceId, SpaceInfo, Writers};
use tokio::time::timeout;

use super::failure;
use crate::args::{RightArg, WritersArg};
use crate::failure::{Exit, Failure};
use crate::request::{Answered, Checked, Invite as InviteReply, Joined, Level, Published, Reply, Space};

/// How often a condition is looked at that has no event of its own.
const LOOK: Duration = Duration::from_millis(25);

pub(super) fn row(space: &SpaceInfo) -> Space {
    Space {
        id: space.id.to_string(),
        writers: space.writers.map(writers_of),
        right: space.right.map(|right| format!("{right:?}").to_lowercase()),
        documents: space.documents,
    }
}

fn writers_of(writers: Writers) -> WritersArg {
    match writers {
        Writers::Anyone => WritersArg::Anyone,
        Writers::Granted => WritersArg::Granted,
    }
}

pub(super) async fn create(node: &Node, writers: WritersArg) -> Answered {
    let writers = match writers {
        WritersArg::Anyone => Writers::Anyone,
        WritersArg::Granted => Writers::Granted,
    };
    let id = node.create_space(writers).await.map_err(|error| failure(&error))?;
    let made = node.spaces().iter().find(|space| space.id == id).map(row);
    made.map(Reply::Space).ok_or_else(|| Failure::failed("internal", "the space is not listed", "please report it"))
}

pub(super) async fn invite(node: &Node, space: SpaceId, grant: Option<(RightArg, u32)>) -> Answered {
    let invite = match grant {
        None => node.invite(space),
        Some((RightArg::Admin, _)) => {
            return Err(Failure::usage(
                "bad_right",
                "an invite cannot make administrators",
                "make one of a device that you know: commonhold grant DEVICE --right admin",
            ));
        }
        Some((right, uses)) => node.invite_to(space, right.into(), uses).await,
    };
    let invite = invite.map_err(|error| failure(&error))?;
    let writers = node.spaces().iter().find(|one| one.id == space).and_then(|one| one.writers).map(writers_of);
    Ok(Reply::Invite(InviteReply { space: space.to_string(), invite: invite.to_string(), writers }))
}

pub(super) async fn publish(node: &Node, space: SpaceId, withdraw: bool) -> Answered {
    let addresses = node.publish_addresses(space, withdraw).await.map_err(|error| failure(&error))?;
    Ok(Reply::Published(Published { space: space.to_string(), addresses }))
}

/// Stores an invite and, if there is time, waits for the space to arrive.
pub(super) async fn join(node: &Node, text: &str, wait: Duration) -> Answered {
    let invite: Invite = text.trim().parse().map_err(|error| {
        Failure::usage("bad_invite", error, "copy the whole invite, from commonhold1 to its last character")
    })?;
    let space = node.join(&invite).await.map_err(|error| failure(&error))?;
    let level = match invite.peer {
        Some(peer) if peer == node.device() => true,
        _ if wait.is_zero() => false,
        // Whoever holds the space will do: the peer that invited may be gone.
        _ => {
            within(wait, async {
                while !node.sharing(space).is_ok_and(|sharing| sharing.iter().any(|(_, level)| *level)) {
                    tokio::time::sleep(LOOK).await;
                }
            })
            .await
        }
    };
    if !level && !wait.is_zero() {
        let shown: Vec<_> = invite.addresses.iter().chain(invite.others()).map(String::as_str).collect();
        return Err(Failure::new(
            Exit::Unreachable,
            "not_level",
            format!(
                "the invite is stored, but the space did not arrive within {} s from {}",
                wait.as_secs(),
                shown.join(", ")
            ),
            "start the inviting peer, then run `commonhold serve` here: it goes on trying",
        ));
    }
    let redeemed = match level && invite.brings_a_right() {
        true => node.redeem(&invite).await.map_err(|error| failure(&error))?,
        false => false,
    };
    let documents = node.documents(space, DocumentQuery::default()).await.map_or(0, |all| all.len() as u64);
    Ok(Reply::Joined(Joined { space: space.to_string(), level, documents, redeemed }))
}

/// Waits until at least one of these spaces has a connected peer that holds it too, and all such peers are level in all
/// such spaces. Who does not hold a space is not waited for.
pub(super) async fn level(node: &Node, spaces: &[SpaceId], wait: Duration) -> Answered {
    let mut sharing = BTreeMap::new();
    let all = within(wait, async {
        loop {
            sharing = shared(node, spaces);
            if !sharing.is_empty() && sharing.values().all(|level| *level) {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
    })
    .await;
    let level: Vec<String> = sharing.iter().filter(|(_, level)| **level).map(|(peer, _)| peer.to_string()).collect();
    if all {
        return Ok(Reply::Level(Level { level_with: level }));
    }
    let seconds = wait.as_secs();
    let what = match (node.peers().len(), sharing.len()) {
        (0, _) => format!("no peer was reached within {seconds} s"),
        (_, 0) if spaces.len() == 1 => format!("no peer that holds the space was reached within {seconds} s"),
        (_, 0) => format!("no peer that holds one of the spaces was reached within {seconds} s"),
        (_, n) => format!("{} of {n} connected peers were level within {seconds} s", level.len()),
    };
    Err(Failure::new(
        Exit::Unreachable,
        "not_level",
        what,
        "everything is saved here; check peer.connect and that the others run, then try again",
    ))
}

/// The connected peers that hold any of these spaces, and whether each is level in all of them that it holds.
fn shared(node: &Node, spaces: &[SpaceId]) -> BTreeMap<DeviceId, bool> {
    let mut found = BTreeMap::new();
    for (peer, level) in spaces.iter().filter_map(|space| node.sharing(*space).ok()).flatten() {
        *found.entry(peer).or_insert(true) &= level;
    }
    found
}

/// Whether something was done in time.
async fn within(wait: Duration, work: impl Future<Output = ()>) -> bool {
    timeout(wait, work).await.is_ok()
}

/// Reads every row.
pub(super) async fn check(node: &Node) -> Answered {
    let report = node.check().await.map_err(|error| failure(&error))?;
    let rows = report.damaged_rows.iter().map(|(table, key)| format!("damaged row of table {table}: {key}"));
    let faults = report.faults.iter().map(|(space, doc, why)| format!("document {doc} of space {space}: {why}"));
    Ok(Reply::Checked(Checked {
        spaces: report.spaces as u64,
        documents: report.documents as u64,
        entries: report.entries,
        store_bytes: report.store_bytes,
        faults: rows.chain(faults).collect(),
    }))
}
