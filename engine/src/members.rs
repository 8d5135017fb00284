//! Who may do what in a space: the members, grants, and taking them back.

use commonhold_sync::authority::{Authority, Edge, EdgeKind, RootKeys, invite as invite_record, redeem};
use commonhold_sync::id::{DeviceId, EntryId, SpaceId};
use commonhold_sync::peer::{Keep, Local};
use commonhold_sync::record::{INVITE_USES_MAX, REVOKED_MAX, Right, Subject};
use ed25519_dalek::SigningKey;
use tokio::sync::oneshot;

use crate::device::{IdentityError, IdentitySecret};
use crate::error::Error;
use crate::invite::{Invite, InviteGrant};
use crate::node::Node;
use crate::shared::{Command, Look};
use crate::start::random;

impl Node {
    /// Every record of the space that gives somebody something, by record id: grants, invites, who redeemed them, and who acts for
    /// an identity. Those that were taken back are among them. The root is none of them: [`SpaceInfo::root`](crate::SpaceInfo).
    pub async fn members(&self, space: SpaceId) -> Result<Vec<Edge>, Error> {
        self.look(space, Authority::edges).await
    }

    /// Gives a device or an identity a right in a space, again if the same was taken back. `gateway`: it may vouch for unsigned
    /// changes of others. Only the root makes administrators, and administrators give the rest.
    pub async fn grant(
        &self,
        space: SpaceId,
        subject: impl Into<Subject>,
        right: Right,
        gateway: bool,
    ) -> Result<(), Error> {
        let (subject, by) = (subject.into(), self.device());
        let grant = self.look(space, move |authority| authority.grant_again(&by, subject, right, gateway)).await?;
        self.say(space, Local::Records(vec![grant])).await.map(drop)
    }

    /// Takes back what these records gave, at most [`REVOKED_MAX`] at once. `keep` says what stays of what their subjects wrote. Who
    /// revokes them later or elsewhere leaves no more than the least of all.
    pub async fn revoke(&self, space: SpaceId, records: Vec<EntryId>, keep: Keep) -> Result<(), Error> {
        if records.len() > REVOKED_MAX {
            return Err(Error::TooMuch { what: "records taken back at once", max: REVOKED_MAX });
        }
        self.say(space, Local::Revoke { records, keep, root: None }).await.map(drop)
    }

    /// Takes back everything that a device or an identity was given by itself in a space; if nothing is to stay of what it wrote,
    /// also what was taken back before. Gives the ids of those records: none if there was nothing to take back. What a device has
    /// as one of an identity's only the identity ends ([`Node::remove_device`]), or the device itself, which leaves it.
    pub async fn revoke_all(
        &self,
        space: SpaceId,
        subject: impl Into<Subject>,
        keep: Keep,
    ) -> Result<Vec<EntryId>, Error> {
        let subject = subject.into();
        let leaves = subject == self.device().into();
        let of = move |edge: &Edge| edge.subject == subject && (leaves || !is_membership(edge));
        self.take_back(space, of, keep, None).await
    }

    /// Takes back what is in force of the records that `of` picks; if nothing is to stay, also what was taken back before.
    async fn take_back(
        &self,
        space: SpaceId,
        of: impl Fn(&Edge) -> bool,
        keep: Keep,
        root: Option<RootKeys>,
    ) -> Result<Vec<EntryId>, Error> {
        let left = |edge: &Edge| edge.in_force() || (edge.counts && keep == Keep::Nothing);
        let given = self.members(space).await?.into_iter().filter(|edge| of(edge) && left(edge));
        let given: Vec<EntryId> = given.map(|edge| edge.record).collect();
        for records in given.chunks(REVOKED_MAX) {
            self.say(space, Local::Revoke { records: records.to_vec(), keep, root: root.clone() }).await?;
        }
        Ok(given)
    }

    /// An invite that brings a right below [`Right::Admin`] to the devices that redeem it ([`Node::redeem`]): `uses` of them are
    /// expected, 1 to 16. Who has its text can use it; more uses than expected show in [`Node::members`], and to revoke the invite's
    /// record takes all of them back.
    pub async fn invite_to(&self, space: SpaceId, right: Right, uses: u32) -> Result<Invite, Error> {
        if right == Right::Admin {
            return Err(Error::NotAllowed("make administrators by invite"));
        }
        if !(1..=INVITE_USES_MAX).contains(&uses) {
            return Err(Error::TooMuch { what: "uses of an invite, and at least one", max: INVITE_USES_MAX as usize });
        }
        let invite = self.invite(space)?;
        let seed = random::<32>()?;
        let said = invite_record(&SigningKey::from_bytes(&seed), right, uses);
        let record = self.say(space, Local::Records(vec![said])).await?;
        let record = record.first().copied().ok_or(Error::Internal("an invite without a record"))?;
        Ok(invite.with_grant(InviteGrant { record, seed }))
    }

    /// Claims the right that an invite brings, once the invite's record has arrived from a peer. False if the invite brings none,
    /// or this device has claimed it before. Does not end while no peer is reached; fails if the invite was taken back.
    pub async fn redeem(&self, invite: &Invite) -> Result<bool, Error> {
        let (space, Some(grant)) = (invite.space, &invite.grant) else { return Ok(false) };
        let (device, record) = (self.device(), grant.record);
        let seq = || self.space(space).map(|info| info.seq);
        loop {
            let before = seq()?;
            let look = move |authority: &Authority| {
                let edges = authority.edges();
                let claim = |edge: &&Edge| edge.kind == EdgeKind::Redeemed { invite: record };
                let claimed = edges.iter().filter(claim).any(|edge| edge.subject == device.into() && !edge.revoked);
                let invite = edges.into_iter().find(|edge| edge.record == record);
                (claimed, invite.map(|invite| invite.in_force()))
            };
            match self.look(space, look).await? {
                (true, _) => return Ok(false),
                (false, Some(true)) => break,
                (false, Some(false)) => return Err(Error::NotAllowed("use an invite that was taken back")),
                (false, None) => self.shared().until(|| seq().is_ok_and(|now| now != before)).await?,
            }
        }
        let redeem = redeem(&SigningKey::from_bytes(&grant.seed), &space, &record, &device);
        self.say(space, Local::Records(vec![redeem])).await.map(|_| true)
    }

    /// Lets a device act for this node's identity in a space; `name` is for people. What the identity was granted there, before or
    /// later, the device has.
    pub async fn add_device(&self, space: SpaceId, device: DeviceId, name: &str) -> Result<(), Error> {
        let identity = self.identity_secret()?;
        let root = identity.keys().clone();
        let (id, name, by) = (identity.id(), name.to_owned(), root.newest());
        let record = move |authority: &Authority| {
            let is_member = authority.edges().iter().any(|edge| is_device(edge, id, device) && edge.in_force());
            (!is_member).then(|| authority.member_again(&by, id, device, &name))
        };
        match self.look(space, record).await? {
            Some(member) => self.say(space, Local::AsRoot { root, records: vec![member] }).await.map(drop),
            None => Ok(()),
        }
    }

    /// Takes a device out of this node's identity in a space: a lost one. `keep` says what stays of what it wrote. Gives the ids of
    /// the records that let it in: none if there were none.
    pub async fn remove_device(&self, space: SpaceId, device: DeviceId, keep: Keep) -> Result<Vec<EntryId>, Error> {
        let identity = self.identity_secret()?;
        let id = identity.id();
        self.take_back(space, move |edge| is_device(edge, id, device), keep, Some(identity.keys().clone())).await
    }

    /// The id of the identity whose secret is in this node's keys folder: what is granted rights, so that each of its devices has
    /// them. [`IdentitySecret`] makes it.
    pub fn identity(&self) -> Result<Subject, Error> {
        self.identity_secret().map(|identity| identity.id())
    }

    /// How many root keys of an identity are known in the spaces held here, the first included: 0 if it was never heard of. To
    /// [recover](IdentitySecret::recover) it, as many are needed.
    pub async fn root_keys(&self, identity: Subject) -> Result<usize, Error> {
        let mut most = 0;
        for space in self.spaces() {
            most = most.max(self.look(space.id, move |authority| authority.root_keys(&identity).len()).await?);
        }
        Ok(most)
    }

    /// Tells the spaces in which this node's identity was given something of root keys that they do not know
    /// ([`IdentitySecret::rotate`]): from then on nothing counts that the keys before say. What they said so far stays, as far as
    /// it is held here. Gives those spaces. A space that hears of the identity later learns of its keys when a device is added
    /// there or taken out.
    pub async fn tell_root_keys(&self) -> Result<Vec<SpaceId>, Error> {
        let root = self.identity_secret()?.keys().clone();
        let (id, count) = (root.identity(), root.keys().len());
        let mut told = Vec::new();
        for space in self.spaces() {
            let lacks = move |of: &Authority| of.is_concerned(&id) && of.root_keys(&id).len() < count;
            if count < 2 || !self.look(space.id, lacks).await? {
                continue;
            }
            match self.say(space.id, Local::AsRoot { root: root.clone(), records: Vec::new() }).await {
                Ok(_) => told.push(space.id),
                // All that the identity was given there was taken back: nothing that any of its keys says counts.
                Err(Error::DoesNotFit(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(told)
    }

    fn identity_secret(&self) -> Result<IdentitySecret, Error> {
        let keys = self.shared().config.keys.as_deref().ok_or(IdentityError::NoFolder)?;
        Ok(IdentitySecret::load(keys)?.ok_or(IdentityError::None)?)
    }

    /// Looks at who may do what.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        space: SpaceId,
        look: impl FnOnce(&Authority) -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.shared().running()?;
        self.space(space)?;
        let (reply, seen) = oneshot::channel();
        let look: Look = Box::new(move |authority| _ = reply.send(look(authority)));
        self.shared().command(Command::Look { space, look }).await?;
        seen.await.map_err(|_| self.shared().no_reply())
    }
}

fn is_membership(edge: &Edge) -> bool {
    matches!(edge.kind, EdgeKind::Member { .. })
}

/// Whether a record lets a device act for an identity.
fn is_device(edge: &Edge, identity: Subject, device: DeviceId) -> bool {
    let member = matches!(&edge.kind, EdgeKind::Member { identity: of, .. } if *of == identity);
    member && edge.subject == device.into()
}
