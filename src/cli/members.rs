//! Commands on members and keys.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::Method;
use serde_json::Value;
use syncline::api::body::{
    HandoverRequest, InvitationList, MemberList, MemberRequest, MembershipLog, RecoveryRequest, ResolutionRequest,
    RoleRequest, SpaceChange,
};
use syncline::lines::Line;
use syncline::node::info::{
    InvitationInfo, InvitationState, MemberInfo, MembershipEvent, SpaceStatus, UncountedStretch,
};
use syncline::node::recovery::RecoveryKey;
use syncline::node::uncounted::{UNCOUNTED_PAGE_MAX, UncountedPage};

use super::access::{Access, Target};
use super::arguments::{HistoryArgument, MemberCommand, RoleArgument, Space};
use super::documents::{space_target, time_text};
use super::duration::humane_duration;
use super::failure::Failure;
use super::output::{Output, note, plain, short};
use super::passphrase::recovery_key;
use super::spaces::{invited_role, newcomers_text};

pub(super) async fn members(access: &Access, command: MemberCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        MemberCommand::Members(space) => list(access, &space, output).await,
        MemberCommand::Add { space, device_text, role } => add(access, &space, device_text, role, output).await,
        MemberCommand::Remove { space, devices } => remove(access, &space, &devices, output).await,
        MemberCommand::Role { space, device, role } => change_role(access, &space, &device, role, output).await,
        MemberCommand::Rotate(space) => rotate(access, &space, output).await,
        MemberCommand::Handover { space, device } => hand_over(access, &space, device, output).await,
        MemberCommand::Recover { space, recovery_key_file } => {
            recover(access, &space, recovery_key_file.as_deref(), output).await
        }
        MemberCommand::Resolve { space, heads } => resolve(access, &space, heads, output).await,
        MemberCommand::Invitations(space) => invitations(access, &space, output).await,
        MemberCommand::Revoke { space, invitation } => revoke(access, &space, &invitation, output).await,
        MemberCommand::Newcomers { space, history } => newcomers(access, &space, history, output).await,
        MemberCommand::Log(space) => log(access, &space, output).await,
        MemberCommand::Uncounted { space, documents: false } => uncounted(access, &space, output).await,
        MemberCommand::Uncounted { space, documents: true } => uncounted_documents(access, &space, output).await,
    }
}

async fn list(access: &Access, space: &Space, output: &mut Output) -> Result<(), Failure> {
    let list: MemberList = access.get(&space_target(space, "members")).await?;
    show_members(&list, output)
}

fn show_members(list: &MemberList, output: &mut Output) -> Result<(), Failure> {
    if output.json {
        return output.json(list);
    }
    let row = |member: &MemberInfo| {
        let mut notes = Vec::new();
        if member.this_device {
            notes.push("this device".to_owned());
        }
        if let Some(last) = member.counts_up_to {
            notes.push(format!("its log counts up to operation {last}"));
        }
        vec![
            member.device.clone(),
            member.role.clone(),
            member.operations.to_string(),
            member.admitted_by.as_deref().map_or_else(|| "the steward's record".to_owned(), short),
            member.admitted_at_ms.map(time_text).unwrap_or_default(),
            notes.join(", "),
        ]
    };
    let rows: Vec<Vec<String>> = list.members.iter().map(row).collect();
    output.table(&["device", "role", "operations", "admitted by", "at", ""], &rows)
}

/// Prints the members after an act as JSON, or tells a person what follows from it.
fn report(list: &MemberList, output: &mut Output, follows: &str) -> Result<(), Failure> {
    show_members(list, output)?;
    if !output.json {
        output.flush()?;
        note(follows);
    }
    Ok(())
}

async fn add(
    access: &Access,
    space: &Space,
    device_text: String,
    role: RoleArgument,
    output: &mut Output,
) -> Result<(), Failure> {
    let (role, name) = invited_role(role);
    let request = MemberRequest { device_text, role };
    let list: MemberList = access.send_json(Method::POST, &space_target(space, "members"), &request).await?;
    let follows = format!(
        "The device is a {name} now. It learns so when it meets a member, if it holds the space already; otherwise \
         invite it: syncline space invite."
    );
    report(&list, output, &follows)
}

async fn remove(access: &Access, space: &Space, devices: &[String], output: &mut Output) -> Result<(), Failure> {
    let list: MemberList = access.call(Method::DELETE, &member_target(space, &devices.join(","))).await?;
    report(
        &list,
        output,
        "A new epoch has begun: the removed devices cannot read what is written from now on by members that have heard \
         of it. What they wrote and is held here counts, nothing else of theirs does. They keep what they could read \
         before. Open invitations are closed: invite again whom you still want.",
    )
}

async fn change_role(
    access: &Access,
    space: &Space,
    device: &str,
    role: RoleArgument,
    output: &mut Output,
) -> Result<(), Failure> {
    let (role, name) = invited_role(role);
    let target = member_target(space, device);
    let list: MemberList = access.send_json(Method::PATCH, &target, &RoleRequest { role }).await?;
    let follows = match name {
        "writer" => "The device may write from now on.",
        "reader" => "The device may not write any more, and never again; what it wrote and is held here counts.",
        _ => {
            "The device gets no further keys and may not write, never again; a new epoch has begun. What it wrote and \
             is held here counts, and it keeps what it could read before."
        }
    };
    report(&list, output, follows)
}

async fn rotate(access: &Access, space: &Space, output: &mut Output) -> Result<(), Failure> {
    let status: SpaceStatus = access.call(Method::POST, &space_target(space, "rotation")).await?;
    if output.json {
        return output.json(&status);
    }
    output.line(format_args!("epoch {}", status.epoch))?;
    output.flush()?;
    note("Members get the new keys with the next exchange, and write under them from then on.");
    Ok(())
}

async fn hand_over(access: &Access, space: &Space, device: String, output: &mut Output) -> Result<(), Failure> {
    let request = HandoverRequest { device };
    let list: MemberList = access.send_json(Method::POST, &space_target(space, "handover"), &request).await?;
    report(
        &list,
        output,
        "This device is a writer now, and only the new steward can change that. The recovery key stays what it is.",
    )
}

async fn recover(access: &Access, space: &Space, file: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    // A space that is not here, or a damaged key, is told before and without anything going over the wire.
    let _known: SpaceStatus = access.get(&Target::new(["spaces", &space.space])).await?;
    let text = tokio::task::block_in_place(|| recovery_key(file))?;
    let key: RecoveryKey = text.parse().map_err(syncline::Error::from)?;
    let request = RecoveryRequest { recovery_key: key.reveal() };
    let list: MemberList = access.send_json(Method::POST, &space_target(space, "recovery"), &request).await?;
    report(
        &list,
        output,
        "This device is the steward now, and the former one is removed. Open invitations are closed, and a new epoch \
         begins. Next: start `syncline serve`, so that the others hear of it; look at `syncline space show` for what \
         does not count; invite new devices. Keep the recovery key where it was: it stays the same.",
    )
}

async fn resolve(access: &Access, space: &Space, heads: Vec<String>, output: &mut Output) -> Result<(), Failure> {
    let request = ResolutionRequest { heads };
    let status: SpaceStatus = access.send_json(Method::POST, &space_target(space, "resolutions"), &request).await?;
    if output.json {
        return output.json(&status);
    }
    if status.uncounted.is_empty() {
        note("All operations that are held here count now.");
    }
    show_uncounted(&space.space, &status.uncounted, output)
}

/// Says what is held and does not count, and how the steward lets it count.
pub(super) fn show_uncounted(space: &str, stretches: &[UncountedStretch], output: &mut Output) -> Result<(), Failure> {
    for stretch in stretches {
        let (device, UncountedStretch { first, last, head, .. }) = (short(&stretch.device), stretch);
        output.line(format_args!("uncounted: operations {first} to {last} of {device}; to let them count:"))?;
        output.line(format_args!("  syncline space resolve {} {head}", plain(space)))?;
    }
    Ok(())
}

async fn invitations(access: &Access, space: &Space, output: &mut Output) -> Result<(), Failure> {
    let list: InvitationList = access.get(&space_target(space, "invitations")).await?;
    if output.json {
        return output.json(&list);
    }
    if list.invitations.is_empty() {
        return output.line("no invitations: `syncline space invite` opens one");
    }
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let row = |invitation: &InvitationInfo| {
        let state = match invitation.state {
            InvitationState::Closed => "closed".to_owned(),
            InvitationState::UsedUp => "used up".to_owned(),
            InvitationState::Open if invitation.expires_ms <= now_ms => "expired".to_owned(),
            InvitationState::Open => format!("open for {}", humane_duration(invitation.expires_ms - now_ms)),
        };
        let used = format!("{} of {}", invitation.used, invitation.uses);
        vec![invitation.invitation.clone(), invitation.role.clone(), used, state]
    };
    let rows: Vec<Vec<String>> = list.invitations.iter().map(row).collect();
    output.table(&["invitation", "role", "used", "state"], &rows)
}

async fn revoke(access: &Access, space: &Space, invitation: &str, output: &mut Output) -> Result<(), Failure> {
    access.order(Method::DELETE, &Target::new(["spaces", &space.space, "invitations", invitation])).await?;
    if !output.json {
        note("The invitation is closed. A member that has not heard of it yet may still admit a device by it.");
    }
    Ok(())
}

async fn newcomers(
    access: &Access,
    space: &Space,
    history: HistoryArgument,
    output: &mut Output,
) -> Result<(), Failure> {
    let request = SpaceChange { newcomers_read_history: history == HistoryArgument::Shared };
    let target = Target::new(["spaces", &space.space]);
    let status: SpaceStatus = access.send_json(Method::PATCH, &target, &request).await?;
    if output.json {
        return output.json(&status);
    }
    output.line(format_args!("newcomers {}", newcomers_text(status.newcomers_read_history)))
}

async fn log(access: &Access, space: &Space, output: &mut Output) -> Result<(), Failure> {
    let log: MembershipLog = access.get(&space_target(space, "log")).await?;
    if output.json {
        return output.json(&log);
    }
    let status: SpaceStatus = access.get(&Target::new(["spaces", &space.space])).await?;
    let row = |event: &MembershipEvent| {
        let devices: Vec<String> = event.devices.iter().map(|device| short(device)).collect();
        vec![
            event.record.map(|record| record.to_string()).unwrap_or_default(),
            time_text(event.at_ms),
            short(&event.by),
            event.what.clone(),
            devices.join(" "),
            event.role.clone().unwrap_or_default(),
            plain(&event.details),
        ]
    };
    let rows: Vec<Vec<String>> = log.events.iter().map(row).collect();
    output.table(&["record", "at", "by", "what", "devices", "role", "details"], &rows)?;
    show_uncounted(&space.space, &status.uncounted, output)
}

/// Goes through all that this device wrote and does not count.
async fn each_page(
    access: &Access,
    space: &Space,
    mut visit: impl FnMut(UncountedPage) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let target = space_target(space, "uncounted").with("limit", &UNCOUNTED_PAGE_MAX.to_string());
    let mut after: Option<String> = None;
    loop {
        let page: UncountedPage = access.get(&target.clone().with_some("after", after.as_deref())).await?;
        after = page.next.map(|next| next.to_string());
        visit(page)?;
        if after.is_none() {
            return Ok(());
        }
    }
}

async fn uncounted(access: &Access, space: &Space, output: &mut Output) -> Result<(), Failure> {
    let (mut writes, mut unreadable) = (0, 0);
    each_page(access, space, |page| {
        (writes, unreadable) = (writes + page.writes.len(), unreadable + page.unreadable);
        page.writes.iter().try_for_each(|write| output.json(write))
    })
    .await?;
    output.flush()?;
    if writes == 0 && unreadable == 0 {
        note("Everything that this device wrote counts, as far as it knows.");
    }
    tell_unreadable(unreadable);
    Ok(())
}

async fn uncounted_documents(access: &Access, space: &Space, output: &mut Output) -> Result<(), Failure> {
    let mut documents: BTreeMap<String, Option<Value>> = BTreeMap::new();
    let (mut left_out, mut unreadable) = (BTreeMap::new(), 0);
    each_page(access, space, |page| {
        unreadable += page.unreadable;
        for write in page.writes {
            match (&write.reason, write.deleted) {
                (Some(reason), _) => drop(left_out.insert(write.key.clone(), reason.clone())),
                (None, true) => drop(left_out.insert(write.key.clone(), "it was deleted".to_owned())),
                (None, false) => drop(left_out.remove(&write.key)),
            }
            documents.insert(write.key, write.value);
        }
        Ok(())
    })
    .await?;
    for (key, value) in documents {
        if let Some(value) = value {
            output.json(&Line { key, value })?;
        }
    }
    output.flush()?;
    for (key, reason) in left_out {
        note(format_args!("left out: {}: {}", plain(&key), plain(&reason)));
    }
    tell_unreadable(unreadable);
    Ok(())
}

fn tell_unreadable(operations: u64) {
    if operations > 0 {
        note(format_args!("{operations} operations concern no document, or no key on this device opens them."));
    }
}

/// One member, or several separated by commas.
fn member_target(space: &Space, devices: &str) -> Target {
    Target::new(["spaces", &space.space, "members", devices])
}
