//! Sponsoring: a member lets a device in that shows an invitation.

use rand_core::CryptoRng;
use syncline_model::Kind;
use syncline_model::membership::{Admit, Certificate, KeyDelivery, Member, MembershipError};

use super::core::{Clock, SpaceCore, Waiting};
use super::join::JoinRefusal;
use super::refusal::WriteError;

impl SpaceCore {
    /// Admits a device; a member already is given its keys again without another operation.
    pub(super) fn sponsor(
        &mut self,
        token: u64,
        certificate: Certificate,
        clock: Clock,
        random: &mut dyn CryptoRng,
    ) -> Result<Option<KeyDelivery>, JoinRefusal> {
        if self.is_outdated() {
            return Err(JoinRefusal::Unavailable);
        }
        let membership = self.state.membership();
        let (device, epoch) = (certificate.device, membership.epoch());
        if membership.is_removed(&device) {
            return Err(JoinRefusal::Removed);
        }
        // Who is a member and did not hear of it, or lost the keys, gets them whatever became of the invitation, and of
        // any member: a relay gives what it takes to fetch the log, in which the rest is.
        let came_by = |member: &&Member| {
            let mut admissions = member.admissions.iter();
            member.admissions.is_empty() || admissions.any(|by| by.invitation == certificate.invitation)
        };
        let again = membership.members().get(&device).filter(came_by).filter(|_| self.state.role().is_some());
        if let Some(member) = again.filter(|_| certificate.holds(&self.state.keys.space)) {
            let delivery = self.state.keys.deliver_held(device, member, epoch, random);
            return delivery.map(Some).ok_or(JoinRefusal::Unavailable);
        }
        self.check_writer().map_err(|reason| match reason {
            WriteError::Recovering | WriteError::BegunAnew => JoinRefusal::Unavailable,
            _ => JoinRefusal::NotASponsor,
        })?;
        let known = self.state.admission.known_records(&self.state.device.id());
        let role = membership.check_certificate(known, &certificate).map_err(|error| match error {
            MembershipError::ClosedInvitation => JoinRefusal::Closed,
            MembershipError::UnknownInvitation => JoinRefusal::Unknown,
            _ => JoinRefusal::BadCertificate,
        })?;
        if let Some(member) = membership.members().get(&device).filter(|member| member.role <= role) {
            let delivery = self.state.keys.deliver(device, member, epoch, random).ok_or(JoinRefusal::Unavailable)?;
            return Ok(Some(delivery));
        }
        let invitation = membership.invitations()[&certificate.invitation];
        if invitation.expires_ms < clock.wall_ms {
            return Err(JoinRefusal::Expired);
        }
        if membership.invitation_uses(&certificate.invitation) >= invitation.uses {
            return Err(JoinRefusal::UsedUp);
        }
        if membership.is_full() {
            return Err(JoinRefusal::Full);
        }
        let unavailable = |_| JoinRefusal::Unavailable;
        let admit = Admit { certificate, wall_time_ms: clock.wall_ms };
        self.write_control(Kind::ADMIT, admit.encode()).map_err(unavailable)?;
        let member = self.state.membership().members().get(&device).ok_or(JoinRefusal::Unavailable)?;
        let delivery = self.state.keys.deliver(device, member, epoch, random).ok_or(JoinRefusal::Unavailable)?;
        self.write_control(Kind::KEY_DELIVERY, delivery.encode()).map_err(unavailable)?;
        self.waiting.push_back(Waiting::Join { token, delivery });
        Ok(None)
    }
}
