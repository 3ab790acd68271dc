//! What changes the members of a space, and how a person names one of them.

use std::time::Duration;

use syncline_model::{DeviceId, DeviceText, Role};

use super::super::branch_head::BranchHead;
use super::super::pump::Message;
use super::super::steward::Act;
use super::Space;
use crate::error::Error;
use crate::node::info::InvitationInfo;
use crate::node::recovery::RecoveryKey;

/// Fewest characters of an id that name a member or an invitation.
const ID_PREFIX_MIN: usize = 8;
/// How long this device waits to see itself as the steward after it took the space over.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(30);

impl Space {
    /// The member that a text names: by its id, the first eight characters of it or more, or its device text.
    ///
    /// A whole id is taken as it is, whether or not it is a member's.
    ///
    /// # Errors
    /// [`Error::UnknownMember`], [`Error::AmbiguousId`] and [`Error::ShortId`] say what to type instead.
    pub async fn member(&self, text: &str) -> Result<DeviceId, Error> {
        if text.contains(':') {
            return Ok(text.parse::<DeviceText>()?.device());
        }
        let members = self.members().await?;
        by_prefix(text, members.iter().map(|member| member.device.as_str()), Error::unknown_member)
    }

    /// All invitations, closed ones included, in the order in which they were opened.
    pub async fn invitations(&self) -> Result<Vec<InvitationInfo>, Error> {
        self.tell(|reply| Message::Invitations { reply }).await
    }

    /// The invitation that a text names: by its id, or the first eight characters of it or more.
    ///
    /// # Errors
    /// [`Error::UnknownInvitation`] and the others of [`Space::member`].
    pub async fn invitation(&self, text: &str) -> Result<DeviceId, Error> {
        let invitations = self.invitations().await?;
        let ids = invitations.iter().map(|invitation| invitation.invitation.as_str());
        by_prefix(text, ids, Error::unknown_invitation)
    }

    /// Makes a device a member without an invitation. The device must hold the space already to find its peers, as one
    /// that was restored from a backup with keys does; any other one is invited. Only the steward can.
    ///
    /// # Errors
    /// [`Error::Write`], when it is not possible; nothing is changed then. So it is with all that changes members.
    pub async fn add_member(&self, device: &DeviceText, role: Role) -> Result<(), Error> {
        self.govern(Act::Add { device: device.device(), exchange: device.exchange(), role }).await
    }

    /// Removes members for good and begins a new epoch, whose keys they do not get. What they wrote and is held here
    /// counts; open invitations are closed. Only the steward can.
    ///
    /// # Errors
    /// As [`Space::add_member`].
    pub async fn remove_members(&self, devices: &[DeviceId]) -> Result<(), Error> {
        self.govern(Act::Remove { devices: devices.to_vec() }).await
    }

    /// Gives a member another role. One that loses the right to write never gets it back; one that becomes a relay
    /// gets no further keys. Only the steward can.
    ///
    /// # Errors
    /// As [`Space::add_member`].
    pub async fn change_role(&self, device: DeviceId, role: Role) -> Result<(), Error> {
        self.govern(Act::ChangeRole { device, role }).await
    }

    /// Begins a new epoch: new keys for what is written from now on. Only the steward can.
    ///
    /// # Errors
    /// As [`Space::add_member`].
    pub async fn rotate_keys(&self) -> Result<(), Error> {
        self.govern(Act::Rotate).await
    }

    /// Makes another writer the steward; this device becomes a writer. Only the steward can.
    ///
    /// # Errors
    /// As [`Space::add_member`].
    pub async fn hand_over(&self, device: DeviceId) -> Result<(), Error> {
        self.govern(Act::HandOver { device }).await
    }

    /// Makes this device the steward with the recovery key that was shown when the space was created. The former
    /// steward is removed, and a new epoch begins.
    ///
    /// # Errors
    /// [`Error::Write`] when it is another space's key, or when this device cannot be the steward.
    pub async fn recover(&self, recovery_key: &RecoveryKey) -> Result<(), Error> {
        self.govern(Act::TakeOver { recovery: recovery_key.key() }).await?;
        // It counts once all that is held was taken in again with it.
        let mut facts = self.link.facts.clone();
        let took_over = facts.wait_for(|facts| facts.role == Some(Role::Steward) || facts.failure.is_some());
        let took_over = tokio::time::timeout(TAKEOVER_TIMEOUT, took_over).await;
        let took_over = took_over.map_err(|_| Error::Timeout { waited: TAKEOVER_TIMEOUT })?;
        let failed = took_over.map_or(true, |facts| facts.failure.is_some());
        if failed { Err(self.ended()) } else { Ok(()) }
    }

    /// Lets forked or cut logs count up to these operations, which [`SpaceStatus::uncounted`] names. Only the steward
    /// can.
    ///
    /// # Errors
    /// As [`Space::add_member`].
    ///
    /// [`SpaceStatus::uncounted`]: crate::node::info::SpaceStatus::uncounted
    pub async fn resolve_branches(&self, heads: &[BranchHead]) -> Result<(), Error> {
        self.govern(Act::Resolve { heads: heads.iter().map(|head| head.0).collect() }).await
    }

    /// Ends an invitation: nobody who knows of it admits a device by it any more. Only the steward can.
    ///
    /// # Errors
    /// As [`Space::add_member`].
    pub async fn revoke_invitation(&self, invitation: DeviceId) -> Result<(), Error> {
        self.govern(Act::Revoke { invitation }).await
    }

    /// Says whether those who join from now on are given the keys of what was written before. Only the steward can.
    ///
    /// # Errors
    /// As [`Space::add_member`].
    pub async fn share_history(&self, shared: bool) -> Result<(), Error> {
        self.govern(Act::ShareHistory(shared)).await
    }
}

/// The id that a text names, whole or by its beginning.
fn by_prefix<'a>(
    text: &str,
    ids: impl Iterator<Item = &'a str>,
    unknown: impl FnOnce(&str) -> Error,
) -> Result<DeviceId, Error> {
    let text = text.trim().to_ascii_lowercase();
    if let Ok(whole) = text.parse::<DeviceId>() {
        return Ok(whole);
    }
    if text.len() < ID_PREFIX_MIN {
        return Err(Error::ShortId { least: ID_PREFIX_MIN });
    }
    let found: Vec<&str> = ids.filter(|id| id.starts_with(&text)).collect();
    match found[..] {
        [id] => id.parse().map_err(|_| unknown(&text)),
        [] => Err(unknown(&text)),
        _ => Err(Error::AmbiguousId { count: found.len(), asked: text }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_named_by_its_beginning_if_that_is_long_enough_and_fits_one() {
        let (a, b) = (DeviceId([1; 32]), DeviceId([7; 32]));
        let twin = DeviceId(std::array::from_fn(|index| if index < 20 { 7 } else { 8 }));
        let texts = [a.to_string(), b.to_string(), twin.to_string()];
        let find = |text: &str| by_prefix(text, texts.iter().map(String::as_str), Error::unknown_member);
        assert_eq!(find(&texts[0][..8]).unwrap(), a);
        assert_eq!(find(&texts[1].to_uppercase()).unwrap(), b);
        assert_eq!(find(&texts[1][..40]).unwrap(), b);
        assert!(matches!(find(&texts[1][..10]), Err(Error::AmbiguousId { count: 2, .. })));
        assert!(matches!(find(&texts[0][..7]), Err(Error::ShortId { .. })));
        assert!(matches!(find("zzzzzzzzzz"), Err(Error::UnknownMember { .. })));
    }
}
