//! What the steward does, and what follows from it: records, new epochs, and the keys that members are owed.

use rand_core::CryptoRng;
use syncline_model::keys::ExchangeKey;
use syncline_model::limits::RESOLVED_HEADS_MAX;
use syncline_model::membership::{Cut, Statement, Takeover};
use syncline_model::{ContentKey, DeviceId, DeviceKey, Kind, OperationId, ReplicationSecret, Role};

use super::core::{Clock, Effect, SpaceCore, Waiting, WriteError};
use super::keys::seal_previous;

/// A governing act.
#[derive(Debug, Clone)]
pub enum Act {
    /// Make a device a member without an invitation.
    Add {
        /// Which.
        device: DeviceId,
        /// Its exchange key.
        exchange: ExchangeKey,
        /// Its role.
        role: Role,
    },
    /// Withdraw an invitation.
    Revoke {
        /// Its key.
        invitation: DeviceId,
    },
    /// Remove devices for good; what they wrote and is held here counts, a new epoch begins.
    Remove {
        /// Which.
        devices: Vec<DeviceId>,
    },
    /// Give a device another role.
    ChangeRole {
        /// Which.
        device: DeviceId,
        /// Its new role.
        role: Role,
    },
    /// Begin a new epoch.
    Rotate,
    /// Make another member the steward.
    HandOver {
        /// Which.
        device: DeviceId,
    },
    /// Become the steward with the recovery key; the former one is removed.
    TakeOver {
        /// The recovery key.
        recovery: DeviceKey,
    },
    /// Let branches of forked or cut logs count up to these operations.
    Resolve {
        /// The operations.
        heads: Vec<Cut>,
    },
    /// Say whether newcomers are given the keys of what was written before they came.
    ShareHistory(bool),
}

impl SpaceCore {
    /// Opens an invitation.
    pub(super) fn invite(
        &mut self,
        token: u64,
        (role, uses, expires_ms): (Role, u32, u64),
        clock: Clock,
        random: &mut dyn CryptoRng,
        out: &mut Vec<Effect>,
    ) -> Result<(), WriteError> {
        self.check_steward()?;
        if role == Role::Steward {
            return Err(WriteError::NotPossible { reason: "a steward is not invited: hand the space over instead" });
        }
        if !self.state.membership().history_shared() {
            // Who comes by this invitation reads from here on.
            self.begin_epoch(clock.wall_ms, random)?;
            out.push(Effect::StoreKeys);
        }
        let invitation = DeviceKey::generate(&mut &mut *random);
        let statement = Statement::Invitation { invitation: invitation.id(), role, uses, expires_ms };
        self.state_record(statement, clock.wall_ms)?;
        self.waiting.push_back(Waiting::Invite { token, invitation });
        Ok(())
    }

    /// Does what the steward, or the holder of the recovery key, asks for.
    pub(super) fn govern(
        &mut self,
        act: Act,
        clock: Clock,
        random: &mut dyn CryptoRng,
        out: &mut Vec<Effect>,
    ) -> Result<(), WriteError> {
        if let Act::TakeOver { recovery } = act {
            return self.take_over(&recovery, clock.wall_ms);
        }
        self.check_steward()?;
        let epoch = self.state.membership().epoch();
        match act {
            Act::Add { device, exchange, role } => self.add(device, exchange, role, clock.wall_ms)?,
            Act::Revoke { invitation } => {
                if !self.state.membership().invitations().contains_key(&invitation) {
                    return Err(WriteError::NotPossible { reason: "there is no such invitation" });
                }
                self.state_record(Statement::Revocation { invitation }, clock.wall_ms)?;
            }
            Act::Remove { devices } => self.remove(&devices, clock.wall_ms, random)?,
            Act::ChangeRole { device, role } => self.change_role(device, role, clock.wall_ms, random)?,
            Act::Rotate => self.begin_epoch(clock.wall_ms, random)?,
            Act::HandOver { device } => self.hand_over(device, clock.wall_ms)?,
            Act::Resolve { heads } => {
                let known = self.state.membership().resolved().len();
                if heads.is_empty() || known + heads.len() > RESOLVED_HEADS_MAX {
                    return Err(WriteError::NotPossible { reason: "name one operation at least, and not too many" });
                }
                // It need not be held here, but what nobody can have would be waited for without end.
                if heads.iter().any(|head| !self.state.membership().knows(&head.author)) {
                    let reason = "the space has never heard of that device: copy what `syncline space show` prints";
                    return Err(WriteError::NotPossible { reason });
                }
                self.state_record(Statement::Resolve { heads }, clock.wall_ms)?;
            }
            Act::ShareHistory(shared) => self.state_record(Statement::History { shared }, clock.wall_ms)?,
            Act::TakeOver { .. } => {}
        }
        if self.state.membership().epoch() != epoch {
            out.push(Effect::StoreKeys);
        }
        Ok(())
    }

    /// Gives others what this device owes them: a steward that took over begins an epoch, and members get the keys of
    /// the present one that nobody has sent them. False when it cannot do all of it yet, and is to try again.
    pub(super) fn do_duties(&mut self, clock: Clock, random: &mut dyn CryptoRng, out: &mut Vec<Effect>) -> bool {
        match self.check_writer() {
            Ok(()) => {}
            Err(WriteError::Recovering | WriteError::BegunAnew) => return false,
            // Whatever changes that is a change of the membership.
            Err(_) => return true,
        }
        let local = self.state.device_id();
        let took_over = self
            .state
            .membership()
            .chain()
            .last()
            .is_some_and(|last| last.author == local && matches!(last.record.statement, Statement::Takeover(_)));
        if took_over && self.begin_epoch(clock.wall_ms, random).is_ok() {
            out.push(Effect::StoreKeys);
        }
        self.prove_forks(out);
        let (epoch, is_steward) = (self.state.membership().epoch(), self.state.role() == Some(Role::Steward));
        if !self.state.keys.content.contains_key(&epoch) {
            // They are on their way to a writer.
            return false;
        }
        let owed = self.state.membership().members().iter().filter(|(device, member)| {
            let sponsored = member.admissions.first().is_some_and(|by| by.sponsor == local);
            (is_steward || sponsored) && !self.state.is_delivered(epoch, **device)
        });
        let owed: Vec<DeviceId> = owed.map(|(device, _)| *device).collect();
        owed.into_iter().all(|device| self.deliver(device, random).is_ok())
    }

    /// Begins an epoch with a new key and a new secret, and sends both to all members.
    pub(super) fn begin_epoch(&mut self, wall_ms: u64, random: &mut dyn CryptoRng) -> Result<(), WriteError> {
        let (space, membership) = (self.state.keys.space, self.state.membership());
        let (epoch, before) = (membership.next_epoch(), membership.epoch());
        let (content, replication) =
            (ContentKey::generate(&mut &mut *random), ReplicationSecret::generate(&mut &mut *random));
        let previous = self.state.keys.content.get(&before).filter(|_| membership.history_shared());
        let previous_key = previous.map(|previous| seal_previous(&space, epoch, &content, previous, random));
        let statement = Statement::Epoch {
            epoch,
            content_commitment: content.commitment(&space, epoch),
            replication_commitment: replication.commitment(&space, epoch),
            previous_key,
        };
        self.state_record(statement, wall_ms)?;
        self.state.keys.content.insert(epoch, content);
        self.state.keys.replication.insert(epoch, replication);
        // This device first: should it end here, its own log gives it the keys back.
        let local = self.state.device_id();
        let others = self.state.membership().members().keys().filter(|device| **device != local);
        let members: Vec<DeviceId> = std::iter::once(local).chain(others.copied()).collect();
        members.into_iter().try_for_each(|device| self.deliver(device, random))
    }

    fn deliver(&mut self, device: DeviceId, random: &mut dyn CryptoRng) -> Result<(), WriteError> {
        let membership = self.state.membership();
        let Some(member) = membership.members().get(&device) else { return Ok(()) };
        // A member with a key that nobody can use gets none; that is its own doing.
        let Some(delivery) = self.state.keys.deliver(device, member, membership.epoch(), random) else { return Ok(()) };
        self.write_control(Kind::KEY_DELIVERY, delivery.encode())
    }

    fn check_steward(&self) -> Result<(), WriteError> {
        self.check_writer()?;
        match self.state.role() {
            Some(Role::Steward) => Ok(()),
            _ => Err(WriteError::NotSteward),
        }
    }

    fn state_record(&mut self, statement: Statement, wall_ms: u64) -> Result<(), WriteError> {
        let record = self.state.next_record(statement, wall_ms);
        self.write_control(Kind::MEMBERSHIP, record.encode())
    }

    fn add(&mut self, device: DeviceId, exchange: ExchangeKey, role: Role, wall_ms: u64) -> Result<(), WriteError> {
        let membership = self.state.membership();
        let reason = if role == Role::Steward {
            "a steward is not added: hand the space over to a member instead"
        } else if membership.is_removed(&device) {
            "the device was removed, and a removed device never comes back: make a new one"
        } else if membership.members().contains_key(&device) {
            "the device is a member already: `syncline space role` changes what it may do"
        } else if membership.is_full() {
            "the space has its maximum of members"
        } else {
            // Its keys follow as a duty.
            return self.state_record(Statement::Addition { device, exchange, role }, wall_ms);
        };
        Err(WriteError::NotPossible { reason })
    }

    fn member_role(&self, device: DeviceId) -> Result<Role, WriteError> {
        self.state.membership().role(&device).ok_or(WriteError::NotAMember { device })
    }

    /// How far a device's log counts as it stands here.
    fn cut_here(&self, author: DeviceId) -> Cut {
        let entry = self.state.admission().admitted().entry(&author);
        let (sequence, id) = entry.map_or((0, OperationId::ZERO), |entry| (entry.sequence, entry.id));
        Cut { author, sequence, id }
    }

    fn remove(&mut self, devices: &[DeviceId], wall_ms: u64, random: &mut dyn CryptoRng) -> Result<(), WriteError> {
        let mut devices = devices.to_vec();
        devices.sort_unstable();
        devices.dedup();
        for device in &devices {
            if self.member_role(*device)? == Role::Steward {
                let reason = "the steward does not remove itself: hand the space over first";
                return Err(WriteError::NotPossible { reason });
            }
        }
        if devices.is_empty() {
            return Err(WriteError::NotPossible { reason: "name at least one device" });
        }
        let cuts = devices.iter().map(|device| self.cut_here(*device)).collect();
        self.state_record(Statement::Removal { cuts }, wall_ms)?;
        self.begin_epoch(wall_ms, random)
    }

    fn change_role(
        &mut self,
        device: DeviceId,
        role: Role,
        wall_ms: u64,
        random: &mut dyn CryptoRng,
    ) -> Result<(), WriteError> {
        let before = self.member_role(device)?;
        let reason = if role == Role::Steward || before == Role::Steward {
            Some("the steward's role moves by handing the space over: `syncline space handover`")
        } else if role == before {
            Some("the device has this role already")
        } else if role.writes() && self.state.membership().cuts().contains_key(&device) {
            Some("the device lost the right to write before and never gets it back: invite it as a new device")
        } else {
            None
        };
        if let Some(reason) = reason {
            return Err(WriteError::NotPossible { reason });
        }
        let cut = (!role.writes()).then(|| self.cut_here(device));
        self.state_record(Statement::RoleChange { device, role, cut }, wall_ms)?;
        match (before.reads(), role.reads()) {
            (true, false) => self.begin_epoch(wall_ms, random),
            (false, true) => self.deliver(device, random),
            _ => Ok(()),
        }
    }

    fn hand_over(&mut self, device: DeviceId, wall_ms: u64) -> Result<(), WriteError> {
        if self.member_role(device)? != Role::Writer {
            return Err(WriteError::NotPossible { reason: "only a writer can become the steward" });
        }
        let exchange = self.state.membership().members()[&device].exchange;
        self.state_record(Statement::Handover { steward: device, exchange }, wall_ms)
    }

    /// Writes a takeover. It counts when all is taken in again with it; the new epoch follows then, as a duty.
    fn take_over(&mut self, recovery: &DeviceKey, wall_ms: u64) -> Result<(), WriteError> {
        let membership = self.state.membership();
        let (Some(genesis), Some(former)) = (membership.genesis(), membership.steward()) else {
            return Err(WriteError::NotAdmitted);
        };
        let local = self.state.device_id();
        let reason = if genesis.recovery != recovery.id() {
            return Err(WriteError::WrongRecoveryKey);
        } else if membership.forks().contains_key(&local) {
            return Err(WriteError::Cloned);
        } else if membership.is_removed(&local) || membership.cuts().contains_key(&local) {
            "this device was removed or lost the right to write: take over with another or a new device"
        } else if former == local {
            "this device is the steward"
        } else {
            let place = (membership.records() + 1, membership.last_record());
            let device = (local, self.state.device.exchange_public());
            let (cut, counter) = (self.cut_here(former), membership.takeover_counter() + 1);
            let takeover = Takeover::new(&self.state.keys.space, place, device, cut, counter, recovery);
            return self.state_record(Statement::Takeover(takeover), wall_ms);
        };
        Err(WriteError::NotPossible { reason })
    }
}
