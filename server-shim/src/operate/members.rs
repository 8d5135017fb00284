//! Who may do what in a space.

use std::collections::BTreeSet;

use commonhold_engine::{DeviceId, Edge, EdgeKind, Keep, Node, Right, SpaceId};

use super::failure;
use crate::args::{KeepArg, RightArg};
use crate::failure::Failure;
use crate::names::{self, Named};
use crate::request::{Answered, Granted, Member, Reply, Revoked};

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
        in_force: edge.counts && !edge.revoked,
        revoked: edge.revoked,
    }
}

pub(super) async fn grant(node: &Node, space: SpaceId, device: &str, right: RightArg) -> Answered {
    let id: DeviceId = device.parse().map_err(|error| {
        Failure::usage(
            "bad_device",
            error,
            "a device is named by its peer id: 64 hex digits, as `commonhold serve` prints them there",
        )
    })?;
    node.grant(space, id, right.into(), false).await.map_err(|error| failure(&error))?;
    Ok(Reply::Granted(Granted { space: space.to_string(), device: id.to_string(), right }))
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
    let left = match keep {
        KeepArg::Held => Keep::Held,
        KeepArg::Nothing => Keep::Nothing,
    };
    // Devices by their own ids, invites by those of their records.
    let name = |edge: &Edge| match edge.kind {
        EdgeKind::Invite { .. } => DeviceId(edge.record.0),
        _ => edge.subject.device(),
    };
    let there = members.iter().filter(|edge| edge.counts && (!edge.revoked || keep == KeepArg::Nothing));
    let all: BTreeSet<DeviceId> = there.map(name).collect();
    let all: Vec<Named<DeviceId>> = all.into_iter().map(|id| Named { id, name: String::new() }).collect();
    let id = names::find("member", named, &all)?;
    let records = match members.iter().find(|edge| edge.record.0 == id.0) {
        Some(invite) => node.revoke(space, vec![invite.record], left).await.map(|()| vec![invite.record]),
        None => node.revoke_all(space, id, left).await,
    };
    let records = records.map_err(|error| failure(&error))?.iter().map(ToString::to_string).collect();
    Ok(Reply::Revoked(Revoked { space: space.to_string(), device: id.to_string(), keep, records }))
}
