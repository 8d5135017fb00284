//! Who may do what in a space.

use std::collections::{BTreeMap, BTreeSet};

use commonhold_engine::{DeviceId, Edge, EdgeKind, EntryId, Keep, Node, Right, SpaceId, Writers};

use super::failure;
use crate::args::{KeepArg, RightArg};
use crate::failure::Failure;
use crate::names::{self, Named};
use crate::request::{Answered, DeviceAdded, Granted, Member, Reply, Revoked, RootKeys, Rotated};

/// The root first; then by kind and subject.
pub(super) async fn list(node: &Node, space: SpaceId, all: bool) -> Answered {
    let root = node.space(space).map_err(|error| failure(&error))?.root;
    let root = root.map(|root| Member {
        subject: Some(root.to_string()),
        kind: "root".into(),
        right: Some("admin".into()),
        gateway: false,
        identity: None,
        name: None,
        by: None,
        record: None,
        uses: None,
        used: None,
        in_force: true,
        revoked: false,
    });
    let given = node.members(space).await.map_err(|error| failure(&error))?;
    let mut given: Vec<Member> = given.iter().map(row).filter(|member| all || member.in_force).collect();
    given.sort_by(|a, b| (&a.kind, &a.subject, &a.record).cmp(&(&b.kind, &b.subject, &b.record)));
    Ok(Reply::Members(root.into_iter().chain(given).collect()))
}

fn row(edge: &Edge) -> Member {
    let (kind, identity, name) = match &edge.kind {
        EdgeKind::Grant => ("grant", None, None),
        EdgeKind::Redeemed { .. } => ("redeemed", None, None),
        EdgeKind::Member { identity, name } => ("member", Some(identity.to_string()), Some(name.clone())),
        EdgeKind::Invite { .. } => ("invite", None, None),
    };
    let (uses, used) = match edge.kind {
        EdgeKind::Invite { uses, used } => (Some(uses), Some(used as u64)),
        _ => (None, None),
    };
    Member {
        subject: uses.is_none().then(|| edge.subject.to_string()),
        kind: kind.into(),
        right: edge.right.map(|right| format!("{right:?}").to_lowercase()),
        gateway: edge.gateway,
        identity,
        name: name.filter(|name| !name.is_empty()),
        by: Some(edge.by.to_string()),
        record: Some(edge.record.to_string()),
        uses,
        used,
        in_force: edge.in_force(),
        revoked: edge.revoked,
    }
}

pub(super) async fn grant(node: &Node, space: SpaceId, device: &str, right: RightArg, gateway: bool) -> Answered {
    let id = device_of(device)?;
    if gateway && right < RightArg::Write {
        return Err(Failure::usage(
            "gateway_right",
            "--gateway goes with the right to write, or to administer",
            "leave --right out, or say --right write",
        ));
    }
    node.grant(space, id, right.into(), gateway).await.map_err(|error| failure(&error))?;
    Ok(Reply::Granted(Granted { space: space.to_string(), device: id.to_string(), right }))
}

fn device_of(device: &str) -> Result<DeviceId, Failure> {
    device.parse().map_err(|error| {
        Failure::usage(
            "bad_device",
            error,
            "a device is named by its peer id: 64 hex digits, as `commonhold serve` prints them there",
        )
    })
}

pub(super) async fn add_device(node: &Node, space: SpaceId, device: &str, name: String) -> Answered {
    let id = device_of(device)?;
    node.add_device(space, id, &name).await.map_err(|error| failure(&error))?;
    Ok(Reply::DeviceAdded(DeviceAdded { space: space.to_string(), device: id.to_string(), name }))
}

/// The devices of this node's identity.
pub(super) async fn devices(node: &Node, space: SpaceId) -> Answered {
    let identity = node.identity().map_err(|error| failure(&error))?.to_string();
    let members = node.members(space).await.map_err(|error| failure(&error))?;
    let of = |member: &Member| member.in_force && member.identity.as_deref() == Some(&identity);
    Ok(Reply::Members(members.iter().map(row).filter(of).collect()))
}

pub(super) async fn remove_device(node: &Node, space: SpaceId, named: &str, keep: KeepArg) -> Answered {
    let own = node.identity().map_err(|error| failure(&error))?;
    let members = node.members(space).await.map_err(|error| failure(&error))?;
    let device = |edge: &Edge| match &edge.kind {
        EdgeKind::Member { identity, name } if *identity == own && is_left(edge, keep) => {
            Some((edge.subject.device(), name.clone()))
        }
        _ => None,
    };
    let all: BTreeMap<DeviceId, String> = members.iter().filter_map(device).collect();
    let all: Vec<Named<DeviceId>> = all.into_iter().map(|(id, name)| Named { id, name }).collect();
    let id = names::find("member", named, &all)?;
    let records = node.remove_device(space, id, keep.into()).await.map_err(|error| failure(&error))?;
    revoked(node, space, id, keep, &records)
}

/// How many root keys of an identity are known here.
pub(super) async fn root_keys(node: &Node, identity: &str) -> Answered {
    let id = device_of(identity)?;
    let known = node.root_keys(id.into()).await.map_err(|error| failure(&error))?;
    Ok(Reply::RootKeys(RootKeys { identity: id.to_string(), root_keys: known }))
}

/// Tells the spaces what root key this node's identity has now.
pub(super) async fn tell_root_keys(node: &Node) -> Answered {
    let identity = node.identity().map_err(|error| failure(&error))?;
    let spaces = node.tell_root_keys().await.map_err(|error| failure(&error))?;
    let spaces = spaces.iter().map(ToString::to_string).collect();
    Ok(Reply::Rotated(Rotated { identity: identity.to_string(), spaces }))
}

/// Whether there is something to take back: what is in force or, if nothing is to stay, was.
fn is_left(edge: &Edge, keep: KeepArg) -> bool {
    edge.in_force() || (edge.counts && keep == KeepArg::Nothing)
}

impl From<KeepArg> for Keep {
    fn from(keep: KeepArg) -> Keep {
        match keep {
            KeepArg::Held => Keep::Held,
            KeepArg::Nothing => Keep::Nothing,
        }
    }
}

impl From<RightArg> for Right {
    fn from(right: RightArg) -> Right {
        match right {
            RightArg::Relay => Right::Relay,
            RightArg::Read => Right::Read,
            RightArg::Write => Right::Write,
            RightArg::Admin => Right::Admin,
        }
    }
}

pub(super) async fn revoke(node: &Node, space: SpaceId, named: &str, keep: KeepArg) -> Answered {
    let members = node.members(space).await.map_err(|error| failure(&error))?;
    // Devices by their own ids, invites by those of their records.
    let name = |edge: &Edge| match edge.kind {
        EdgeKind::Invite { .. } => DeviceId(edge.record.0),
        _ => edge.subject.device(),
    };
    let all: BTreeSet<DeviceId> = members.iter().filter(|edge| is_left(edge, keep)).map(name).collect();
    let all: Vec<Named<DeviceId>> = all.into_iter().map(|id| Named { id, name: String::new() }).collect();
    let id = names::find("member", named, &all)?;
    let records = match members.iter().find(|edge| edge.record.0 == id.0) {
        Some(invite) => node.revoke(space, vec![invite.record], keep.into()).await.map(|()| vec![invite.record]),
        None => node.revoke_all(space, id, keep.into()).await,
    };
    let records = records.map_err(|error| failure(&error))?;
    let membership = members.iter().find_map(|edge| match &edge.kind {
        EdgeKind::Member { identity, .. } if edge.subject == id.into() && edge.in_force() => Some(identity),
        _ => None,
    });
    match membership.filter(|_| records.is_empty()) {
        Some(identity) => Err(Failure::failed(
            "identity_device",
            format!("device {id} was given nothing by itself: it acts for the identity {identity}"),
            "let its owner run `commonhold device rm`, or revoke the identity with all its devices",
        )),
        None => revoked(node, space, id, keep, &records),
    }
}

fn revoked(node: &Node, space: SpaceId, id: DeviceId, keep: KeepArg, records: &[EntryId]) -> Answered {
    let anybody_writes = node.space(space).map_err(|error| failure(&error))?.writers == Some(Writers::Anyone);
    let records = records.iter().map(ToString::to_string).collect();
    Ok(Reply::Revoked(Revoked { space: space.to_string(), device: id.to_string(), keep, records, anybody_writes }))
}
