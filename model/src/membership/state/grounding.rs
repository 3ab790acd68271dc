//! Who is a member, and who may write: what the chain and the admissions that count make of devices.

use super::{Admission, AdmittedBy, Device, InPast, Member, Membership, Place};
use crate::ids::DeviceId;
use crate::limits::MEMBERS_MAX;
use crate::membership::{Admit, Certificate, MembershipError, Role};
use crate::planted::{Bug, planted};

impl Membership {
    /// Checks an application as an admit operation would be checked whose author knows the chain's first `known`
    /// records, and tells the role it gives.
    pub fn check_certificate(&self, known: u64, certificate: &Certificate) -> Result<Role, MembershipError> {
        let role =
            self.invited_role(certificate, &|record| record <= known)?.ok_or(MembershipError::UnknownInvitation)?;
        if certificate.holds(&self.space) { Ok(role) } else { Err(MembershipError::BadCertificate) }
    }

    /// The role that the chain's invitation gives to those who know it open; None when they do not know it.
    fn invited_role(
        &self,
        certificate: &Certificate,
        knows: &dyn Fn(u64) -> bool,
    ) -> Result<Option<Role>, MembershipError> {
        let invitation = self.invitations.get(&certificate.invitation);
        let Some(invitation) = invitation.filter(|invitation| knows(invitation.record)) else { return Ok(None) };
        match invitation.role {
            _ if invitation.closed.is_some_and(knows) => Err(MembershipError::ClosedInvitation),
            // A steward is made by genesis, handover or takeover alone.
            Role::Steward => Err(MembershipError::BadCertificate),
            role => Ok(Some(role)),
        }
    }

    /// Applies an admit operation's payload.
    ///
    /// A device may be admitted more than once, at the same time by two sponsors or later to a further role: the
    /// furthest role counts, whichever arrives first. A sponsor's admissions come in the order of its log.
    ///
    /// Only what the admission itself builds on counts, never what else has arrived, so every replica says the same.
    /// An admission that the chain does not let count may still let a log begin, whose operations then are sound and
    /// count once others build on them: soundness must not hang on what forks and takeovers leave of the chain.
    pub fn apply_admit(&mut self, at: Place, payload: &[u8], in_past: InPast<'_>) -> Result<(), MembershipError> {
        let Admit { certificate, wall_time_ms } = Admit::decode(payload).map_err(|_| MembershipError::Malformed)?;
        let offers = self.offers.get(&certificate.invitation).into_iter().flatten();
        let known = offers.filter(|(_, hash)| self.kept[hash].is_in(in_past)).map(|(role, _)| *role);
        let known: Vec<Role> = known.filter(|role| *role != Role::Steward).collect();
        let offered = known.iter().min().copied();
        let chained = self.invited_role(&certificate, &|record| self.knows_record(record, in_past));
        let role = match (chained, offered) {
            (Ok(Some(role)), _) | (_, Some(role)) => role,
            (Err(error), None) => return Err(error),
            (Ok(None), None) => return Err(MembershipError::UnknownInvitation),
        };
        if !certificate.holds(&self.space) {
            return Err(MembershipError::BadCertificate);
        }
        let begins = known.iter().any(|role| role.writes()) || planted(Bug::RoleUncheckedAtAdmission);
        let counts = matches!(chained, Ok(Some(_))) && at.log == at.author;
        let invitation = certificate.invitation;
        let by = AdmittedBy { sponsor: at.author, sequence: at.sequence, invitation, role, wall_time_ms };
        let admission = Admission { by, exchange: certificate.exchange, log: at.log, begins, counts };
        self.add_admission(certificate.device, admission);
        chained.map(drop)
    }

    fn add_admission(&mut self, device: DeviceId, admission: Admission) {
        let place = |admission: &Admission| {
            (admission.by.sponsor, admission.by.invitation, admission.log, admission.begins, admission.counts)
        };
        let known = self.devices.entry(device).or_default();
        if let Err(index) = known.admissions.binary_search_by_key(&place(&admission), place) {
            known.admissions.insert(index, admission);
        }
        self.changes += 1;
        if admission.counts {
            let by = admission.by;
            self.sponsored.entry(by.sponsor).or_default().push((by.sequence, device));
            if self.grounds(&admission) {
                self.renew(device);
            }
        }
    }

    /// Whether an admission makes a member: its sponsor may write, and had not lost the right to.
    fn grounds(&self, admission: &Admission) -> bool {
        admission.counts
            && (admission.by.sequence <= self.limit(&admission.by.sponsor) || planted(Bug::CutSponsorAdmits))
    }

    /// Works out what a device may do, and all whom it let in.
    pub(super) fn renew(&mut self, device: DeviceId) {
        let mut open = vec![device];
        while let Some(device) = open.pop() {
            if self.is_given_to_write(&device) && self.writers.insert(device) {
                let limit = self.limit(&device);
                let sponsored = self.sponsored.get(&device).into_iter().flatten();
                open.extend(sponsored.filter(|(sequence, _)| *sequence <= limit).map(|(_, admitted)| *admitted));
            }
            self.renew_member(device);
        }
    }

    fn is_given_to_write(&self, device: &DeviceId) -> bool {
        let Some(device) = self.devices.get(device) else { return false };
        let recorded = device.recorded.map(|(role, _)| role);
        let admitted = device.admissions.iter().filter(|admission| self.grounds(admission));
        let mut given = recorded.into_iter().chain(admitted.map(|admission| admission.by.role));
        given.any(|role| role.writes() || device.promoted)
    }

    /// A device's admissions that make a member, the first by each sponsor and invitation.
    pub(super) fn grounded(&self, device: &Device) -> Vec<AdmittedBy> {
        let grounds = device.admissions.iter().filter(|admission| self.grounds(admission));
        let mut admissions: Vec<AdmittedBy> = grounds.map(|admission| admission.by).collect();
        admissions.sort_by_key(|by| (by.sponsor, by.invitation, by.sequence));
        admissions.dedup_by_key(|by| (by.sponsor, by.invitation));
        admissions
    }

    /// Works out a device's entry among the members.
    fn renew_member(&mut self, id: DeviceId) {
        let Some(device) = self.devices.get(&id).filter(|device| !device.removed) else {
            self.members.remove(&id);
            return;
        };
        let admissions = device.admissions.iter().filter(|admission| self.grounds(admission));
        let admissions: Vec<&Admission> = admissions.collect();
        let admitted = admissions.iter().map(|admission| admission.by.role).min();
        let recorded = device.recorded.map(|(role, _)| role);
        let role = device.changed_role.or(recorded.into_iter().chain(admitted).min());
        // Devices sign one exchange key; of one that signed two, every replica takes the same.
        let signed = admissions.iter().map(|admission| admission.exchange).min();
        let exchange = device.recorded.map(|(_, exchange)| exchange).or(signed);
        let member = role.zip(exchange).filter(|_| device.recorded.is_some() || admitted.is_some());
        match member {
            Some((role, exchange)) => {
                let admissions = self.grounded(device);
                self.members.insert(id, Member { role, exchange, admissions });
            }
            None => {
                self.members.remove(&id);
            }
        }
    }

    /// Whether a sponsor should turn new members away because the space is full.
    pub fn is_full(&self) -> bool {
        self.members.len() >= MEMBERS_MAX
    }

    /// Whether `device`'s log may begin with an operation that has this causal past: an admission as a writer is in it,
    /// or a record that gives a role which writes.
    pub fn may_begin(&self, device: &DeviceId, in_past: InPast<'_>) -> bool {
        self.devices.get(device).is_some_and(|device| {
            let admits = |admission: &Admission| admission.begins && in_past(&admission.log, admission.by.sequence);
            device.admissions.iter().any(admits) || device.grants.iter().any(|(log, sequence)| in_past(log, *sequence))
        })
    }
}
