//! Who may do what in a space.

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

pub(super) async fn revoke(node: &Node, space: SpaceId, device: &str, keep: KeepArg) -> Answered {
    let members = node.members(space).await.map_err(|error| failure(&error))?;
    let whom = |edge: &Edge| match (&edge.kind, edge.counts && (!edge.revoked || keep == KeepArg::Nothing)) {
        (EdgeKind::Invite { .. }, _) | (_, false) => None,
        _ => Some(edge.subject.device()),
    };
    let mut all: Vec<DeviceId> = members.iter().filter_map(whom).collect();
    all.sort_unstable();
    all.dedup();
    let named: Vec<Named<DeviceId>> = all.into_iter().map(|id| Named { id, name: String::new() }).collect();
    let id = names::find("member", device, &named)?;
    let left = match keep {
        KeepArg::Held => Keep::Held,
        KeepArg::Nothing => Keep::Nothing,
    };
    let records = node.revoke_all(space, id, left).await.map_err(|error| failure(&error))?;
    let records = records.iter().map(ToString::to_string).collect();
    Ok(Reply::Revoked(Revoked { space: space.to_string(), device: id.to_string(), keep, records }))
}
