//! What a space tells of its members: who they are, how they came, and what is wrong.

use std::collections::BTreeSet;

use syncline_model::DeviceId;
use syncline_model::membership::{ChainRecord, Invitation, Member, Statement};
use syncline_sync::{PeerStatus, Replica};

use crate::node::info::{InvitationInfo, InvitationState, MemberInfo, MembershipEvent, UncountedStretch};
use crate::space::branch_head::BranchHead;
use crate::space::log_state::LogState;

/// All members.
pub(super) fn list(state: &LogState) -> Vec<MemberInfo> {
    let (local, vector, membership) = (state.device_id(), state.vector(), state.membership());
    let info = |(device, member): (&DeviceId, &Member)| MemberInfo {
        device: device.to_string(),
        role: member.role.name().to_owned(),
        this_device: *device == local,
        admitted_by: member.admissions.first().map(|by| by.sponsor.to_string()),
        admitted_at_ms: member.admissions.first().map(|by| by.wall_time_ms),
        operations: vector.sequence(device),
        counts_up_to: Some(membership.limit(device)).filter(|limit| *limit != u64::MAX),
    };
    membership.members().iter().map(info).collect()
}

/// All invitations, closed ones included, in the order in which they were opened.
pub(super) fn invitations(state: &LogState) -> Vec<InvitationInfo> {
    let membership = state.membership();
    let info = |(invitation, opened): (&DeviceId, &Invitation)| {
        // Those who were removed since came by it all the same.
        let came: BTreeSet<DeviceId> =
            membership.admissions().filter(|(_, by)| by.invitation == *invitation).map(|(device, _)| device).collect();
        let used = came.len() as u32;
        let state = match opened.closed {
            Some(_) => InvitationState::Closed,
            None if used >= opened.uses => InvitationState::UsedUp,
            None => InvitationState::Open,
        };
        InvitationInfo {
            invitation: invitation.to_string(),
            role: opened.role.name().to_owned(),
            uses: opened.uses,
            used,
            expires_ms: opened.expires_ms,
            state,
            record: opened.record,
        }
    };
    let mut all: Vec<InvitationInfo> = membership.invitations().iter().map(info).collect();
    all.sort_by_key(|invitation| invitation.record);
    all
}

/// What is held and does not count.
pub(super) fn uncounted(state: &LogState) -> Vec<UncountedStretch> {
    let stretch = |stretch: syncline_model::admission::UncountedStretch| UncountedStretch {
        device: stretch.head.author.to_string(),
        first: stretch.first,
        last: stretch.head.sequence,
        head: BranchHead(stretch.head).to_string(),
    };
    state.admission().uncounted_stretches().map(stretch).collect()
}

/// What was decided, in the order of the clocks of those who did.
pub(super) fn history(state: &LogState) -> Vec<MembershipEvent> {
    let membership = state.membership();
    let mut events: Vec<MembershipEvent> = membership.chain().iter().map(record).collect();
    events.extend(membership.admissions().map(|(device, by)| MembershipEvent {
        at_ms: by.wall_time_ms,
        by: by.sponsor.to_string(),
        what: "admitted".to_owned(),
        devices: vec![device.to_string()],
        role: Some(by.role.name().to_owned()),
        details: format!("under invitation {}", by.invitation.short()),
        record: None,
    }));
    // Records keep their own order, whatever their clocks say.
    let mut latest = 0;
    for event in events.iter_mut().filter(|event| event.record.is_some()) {
        event.at_ms = event.at_ms.max(latest);
        latest = event.at_ms;
    }
    events.sort_by_key(|event| (event.at_ms, event.record.is_none()));
    events
}

fn record(ChainRecord { author, record }: &ChainRecord) -> MembershipEvent {
    let (what, devices, role, details) = match &record.statement {
        Statement::Genesis(genesis) => ("founded", vec![genesis.steward], Some("steward"), String::new()),
        Statement::Epoch { epoch, previous_key, .. } => {
            let history = if *epoch == 1 || previous_key.is_some() { "" } else { ", without the keys of before" };
            ("rotated", Vec::new(), None, format!("epoch {epoch} began: new keys{history}"))
        }
        Statement::Invitation { invitation, role, uses, .. } => {
            ("invited", Vec::new(), Some(role.name()), format!("invitation {} for {uses}", invitation.short()))
        }
        Statement::Revocation { invitation } => {
            ("revoked", Vec::new(), None, format!("invitation {}", invitation.short()))
        }
        Statement::Addition { device, role, .. } => ("added", vec![*device], Some(role.name()), String::new()),
        Statement::Removal { cuts } => {
            let each = cuts.iter().map(|cut| format!("{} up to operation {}", cut.author.short(), cut.sequence));
            let counts = format!("what counts: {}", each.collect::<Vec<_>>().join(", "));
            ("removed", cuts.iter().map(|cut| cut.author).collect(), None, counts)
        }
        Statement::RoleChange { device, role, cut } => {
            let counts = cut.map(|cut| format!("its log counts up to operation {}", cut.sequence));
            ("changed role", vec![*device], Some(role.name()), counts.unwrap_or_default())
        }
        Statement::Handover { steward, .. } => ("handed over", vec![*steward], Some("steward"), String::new()),
        Statement::Takeover(takeover) => {
            let former = takeover.cut.author.short();
            let details = format!("with the recovery key; {former} counts up to operation {}", takeover.cut.sequence);
            ("took over", vec![takeover.steward], Some("steward"), details)
        }
        Statement::Resolve { heads } => {
            let each = heads.iter().map(|head| format!("{} up to operation {}", head.author.short(), head.sequence));
            let details = each.collect::<Vec<_>>().join(", ");
            ("resolved", heads.iter().map(|head| head.author).collect(), None, details)
        }
        Statement::History { shared: true } => ("shared history", Vec::new(), None, "newcomers read all".to_owned()),
        Statement::History { shared: false } => {
            ("withheld history", Vec::new(), None, "newcomers read what is written after they are invited".to_owned())
        }
        _ => ("stated", Vec::new(), None, String::new()),
    };
    MembershipEvent {
        at_ms: record.wall_time_ms,
        by: author.to_string(),
        what: what.to_owned(),
        devices: devices.iter().map(DeviceId::to_string).collect(),
        role: role.map(str::to_owned),
        details,
        record: Some(record.sequence),
    }
}

/// Peers in whose eyes this device is not a member, although it is one as far as it knows.
///
/// A device that was away while it was removed learns of it in no other way: nobody gives it the record.
pub(super) fn refusals(state: &LogState, peers: &[PeerStatus]) -> Option<String> {
    let refusing = peers.iter().filter(|peer| peer.refuses).count();
    (refusing > 0 && state.role().is_some()).then(|| {
        format!(
            "{refusing} of {} peers that share the space do not count this device as a member: either it was removed, \
             and what it wrote since counts nowhere, or they have not heard yet that it was admitted. Ask the steward",
            peers.len()
        )
    })
}

/// What a person should know of: forked logs, operations that do not count, invitations used too often.
pub(super) fn problems(state: &LogState) -> Vec<String> {
    let (membership, admission, local) = (state.membership(), state.admission(), state.device_id());
    let mut problems = Vec::new();
    if membership.is_removed(&local) {
        problems.push(
            "this device was removed from the space: it reads what it could read before, and nothing that is written \
             after the removal; it never comes back. To take part again, make a new device (`syncline init` in a new \
             directory) and have it invited"
                .to_owned(),
        );
    }
    for (author, sequence) in membership.forks() {
        let short = author.short();
        problems.push(if *author == local {
            format!(
                "this device has written two different operations number {sequence}: its data directory was copied and \
                 both copies were used. Stop one; make a new device for the other (`syncline init`) and have it invited"
            )
        } else {
            format!(
                "device {short} has written two different operations number {sequence}: it was cloned, or lies. Its \
                 log counts up to {}; the steward can remove it, or let a branch count (`syncline space resolve`)",
                sequence - 1
            )
        });
    }
    if membership.steward().is_some_and(|steward| membership.forks().contains_key(&steward)) {
        problems.push(
            "the steward's log forked: membership changes wait until somebody takes the space over with the recovery \
             key (`syncline space recover`); documents go on"
                .to_owned(),
        );
    }
    if let Some((first, last)) = admission.uncounted(&local) {
        problems.push(format!(
            "operations {first} to {last} of this device do not count: they were written after it lost the right to, \
             or beside a copy of it. `syncline space uncounted` prints them, to be written again by another device"
        ));
    }
    for (invitation, opened) in membership.invitations() {
        let uses = membership.invitation_uses(invitation);
        if uses > opened.uses {
            let short = invitation.short();
            problems.push(format!("{uses} devices came by invitation {short}, which was for {}", opened.uses));
        }
    }
    problems
}
