//! Commands on spaces.

use axum::http::Method;
use syncline::api::body::{
    CreatedSpace, Invitation, InvitationRequest, InvitedRole, JoinRequest, NewSpace, SpaceList, StringsName,
};
use syncline::node::info::{SpacePeer, SpaceStatus, Standing};

use super::access::{Access, Target};
use super::arguments::{RoleArgument, Space, SpaceCommand, StringsArgument};
use super::documents::space_target;
use super::duration::humane_duration;
use super::failure::Failure;
use super::members;
use super::output::{Output, humane_bytes, note, plain, short};

pub(super) async fn space(access: &Access, command: SpaceCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        SpaceCommand::Create { name, strings } => create(access, name, strings, output).await,
        SpaceCommand::List => list(access, output).await,
        SpaceCommand::Show(space) => show(access, &space.space, output).await,
        SpaceCommand::Invite { space, role, uses, expires } => {
            invite(access, &space, role, uses, expires, output).await
        }
        SpaceCommand::Join { ticket, name } => join(access, ticket, name, output).await,
        SpaceCommand::Members(command) => members::members(access, command, output).await,
        SpaceCommand::Leave(space) => leave(access, &space, output).await,
    }
}

async fn create(access: &Access, name: String, strings: StringsArgument, output: &mut Output) -> Result<(), Failure> {
    let strings = match strings {
        StringsArgument::Scalar => StringsName::Scalar,
        StringsArgument::Text => StringsName::Text,
    };
    let request = NewSpace { name, strings };
    let created: CreatedSpace = access.send_json(Method::POST, &Target::new(["spaces"]), &request).await?;
    if output.json {
        return output.json(&created);
    }
    output.facts(&[("space", created.name), ("id", created.id), ("recovery key", created.recovery_key)])?;
    output.flush()?;
    note(
        "Write the recovery key down and keep it off this device: it is shown this once and stored nowhere. Should \
         this device be lost, only the recovery key can take the space over.",
    );
    Ok(())
}

async fn list(access: &Access, output: &mut Output) -> Result<(), Failure> {
    let list: SpaceList = access.get(&Target::new(["spaces"])).await?;
    if output.json {
        return output.json(&list);
    }
    let rows: Vec<Vec<String>> = list.spaces.iter().map(space_row).collect();
    output.table(&["name", "role", "documents", "operations", "size", "members", "id"], &rows)
}

pub(super) fn space_row(space: &SpaceStatus) -> Vec<String> {
    vec![
        plain(&space.name),
        standing_text(space),
        space.documents.to_string(),
        space.operations.to_string(),
        humane_bytes(space.log_bytes),
        space.members.to_string(),
        space.id.clone(),
    ]
}

pub(super) fn newcomers_text(read_history: bool) -> &'static str {
    if read_history { "read what was written before they came" } else { "read what is written after they are invited" }
}

fn standing_text(space: &SpaceStatus) -> String {
    match space.standing {
        Standing::Joining => "joining".to_owned(),
        Standing::Refused => "refused".to_owned(),
        Standing::Removed => "removed".to_owned(),
        Standing::Member => space.role.clone().unwrap_or_else(|| "member".to_owned()),
    }
}

pub(super) async fn show(access: &Access, space: &str, output: &mut Output) -> Result<(), Failure> {
    let status: SpaceStatus = access.get(&Target::new(["spaces", space])).await?;
    if output.json {
        return output.json(&status);
    }
    output.facts(&[
        ("space", plain(&status.name)),
        ("id", status.id.clone()),
        ("role", standing_text(&status)),
        ("strings", status.strings.clone().unwrap_or_else(|| "not known yet".to_owned())),
        ("version", status.version.clone()),
        ("documents", status.documents.to_string()),
        ("operations", status.operations.to_string()),
        ("waiting", status.waiting.to_string()),
        ("unreadable", status.unreadable.to_string()),
        ("size", humane_bytes(status.log_bytes)),
        ("members", status.members.to_string()),
        ("epoch", status.epoch.to_string()),
        ("newcomers", newcomers_text(status.newcomers_read_history).to_owned()),
    ])?;
    for peer in &status.peers {
        let state = match peer {
            SpacePeer { refuses: true, .. } => "gives this device nothing: it is no member in its eyes".to_owned(),
            SpacePeer { in_sync: true, .. } => "in step".to_owned(),
            SpacePeer { behind, .. } => format!("{behind} operations ahead"),
        };
        output.line(format_args!("peer {}: {state}", short(&peer.device)))?;
    }
    if status.quarantined > 0 {
        output.line(format_args!("{} damaged stretches of the log are in quarantine, left out", status.quarantined))?;
    }
    members::show_uncounted(space, &status.uncounted, output)?;
    for problem in status.problems.iter().chain(&status.joining_problem) {
        output.line(format_args!("problem: {}", plain(problem)))?;
    }
    Ok(())
}

/// A role as the API names it, and as people do.
pub(super) fn invited_role(role: RoleArgument) -> (InvitedRole, &'static str) {
    match role {
        RoleArgument::Writer => (InvitedRole::Writer, "writer"),
        RoleArgument::Reader => (InvitedRole::Reader, "reader"),
        RoleArgument::Relay => (InvitedRole::Relay, "relay"),
    }
}

async fn invite(
    access: &Access,
    space: &Space,
    role: RoleArgument,
    uses: u32,
    lasts_ms: u64,
    output: &mut Output,
) -> Result<(), Failure> {
    let (role, name) = invited_role(role);
    let request = InvitationRequest { role, uses, lasts_ms };
    let invitation: Invitation = access.send_json(Method::POST, &space_target(space, "invitations"), &request).await?;
    if output.json {
        return output.json(&invitation);
    }
    // Alone on the standard output, to be piped or copied.
    output.line(&invitation.ticket)?;
    output.flush()?;
    let devices = if uses == 1 { "one device".to_owned() } else { format!("{uses} devices") };
    note(format_args!("This ticket admits {devices} as {name} within {}.", humane_duration(lasts_ms)));
    note("Send it like a password: whoever holds it can join. They run: syncline space join TICKET");
    if invitation.addresses.is_empty() {
        note(
            "It names no address, because no node is running here: start `syncline serve` and invite again, or make \
              sure that the other device finds this one by itself (same local network, or --bootstrap).",
        );
    }
    Ok(())
}

async fn join(access: &Access, ticket: String, name: Option<String>, output: &mut Output) -> Result<(), Failure> {
    let request = JoinRequest { ticket, name };
    let status: SpaceStatus = access.send_json(Method::POST, &Target::new(["spaces", "join"]), &request).await?;
    if output.json {
        return output.json(&status);
    }
    output.facts(&[("space", plain(&status.name)), ("id", status.id.clone()), ("role", standing_text(&status))])?;
    output.flush()?;
    if status.standing == Standing::Joining {
        note(if access.is_running() {
            "The node admits this device as soon as it reaches a member: see `syncline space show`."
        } else {
            "The ticket is kept: `syncline serve` completes the joining as soon as it reaches a member."
        });
    }
    Ok(())
}

async fn leave(access: &Access, space: &Space, output: &mut Output) -> Result<(), Failure> {
    access.order(Method::DELETE, &Target::new(["spaces", &space.space])).await?;
    if !output.json {
        note(format_args!("Left `{}`: its documents and keys are gone from this device.", plain(&space.space)));
    }
    Ok(())
}
