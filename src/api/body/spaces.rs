//! Spaces, invitations, members.

use serde::{Deserialize, Serialize};
use syncline_model::{Role, Strings, Ticket};
use utoipa::ToSchema;

use super::super::limits::{INVITATION_MS_DEFAULT, INVITATION_MS_MAX, INVITATION_USES_MAX};
use super::super::problem::Problem;
use crate::node::info::{InvitationTerms, SpaceStatus};

/// The spaces of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SpaceList {
    /// In no particular order.
    pub spaces: Vec<SpaceStatus>,
}

/// How the strings of a space are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StringsName {
    /// As single values: of two concurrent writes one wins, and the other stays readable as a conflict.
    #[default]
    Scalar,
    /// As collaborative text: concurrent edits merge.
    Text,
}

impl From<StringsName> for Strings {
    fn from(name: StringsName) -> Self {
        match name {
            StringsName::Scalar => Self::Scalar,
            StringsName::Text => Self::Text,
        }
    }
}

/// What to call a new space and how to store its strings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSpace {
    /// The name on this device.
    pub name: String,
    /// How strings are stored; it cannot be changed later.
    #[serde(default)]
    pub strings: StringsName,
}

/// A space that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedSpace {
    /// The space id.
    pub id: String,
    /// The name on this device.
    pub name: String,
    /// The secret that can take the space over when the steward's device is lost: shown this once, stored nowhere.
    pub recovery_key: String,
}

impl From<crate::node::info::CreatedSpace> for CreatedSpace {
    fn from(created: crate::node::info::CreatedSpace) -> Self {
        Self {
            id: created.space.id().to_string(),
            name: created.space.name().to_owned(),
            recovery_key: created.recovery_key,
        }
    }
}

/// A ticket to use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The ticket's text, beginning with `syncline:`.
    pub ticket: String,
    /// The name on this device; otherwise the one that the ticket suggests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The roles that an invitation can give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum InvitedRole {
    /// Writes documents and admits devices.
    Writer,
    /// Reads documents.
    Reader,
    /// Stores and forwards operations that it cannot read.
    Relay,
}

impl From<InvitedRole> for Role {
    fn from(role: InvitedRole) -> Self {
        match role {
            InvitedRole::Writer => Self::Writer,
            InvitedRole::Reader => Self::Reader,
            InvitedRole::Relay => Self::Relay,
        }
    }
}

/// The terms of an invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InvitationRequest {
    /// The role that it gives.
    pub role: InvitedRole,
    /// How many devices it admits.
    #[serde(default = "one")]
    pub uses: u32,
    /// For how long, in milliseconds from now.
    #[serde(default = "default_life")]
    pub lasts_ms: u64,
}

fn one() -> u32 {
    1
}

fn default_life() -> u64 {
    INVITATION_MS_DEFAULT
}

impl InvitationRequest {
    /// The terms for the library.
    ///
    /// # Errors
    /// A problem that names the limit, when uses or lifetime are out of their range.
    pub fn terms(&self) -> Result<InvitationTerms, Problem> {
        if self.uses == 0 || self.uses > INVITATION_USES_MAX {
            return Err(Problem::invalid(format!("an invitation admits 1 to {INVITATION_USES_MAX} devices")));
        }
        if self.lasts_ms == 0 || self.lasts_ms > INVITATION_MS_MAX {
            let days = INVITATION_MS_MAX / (24 * 3600 * 1000);
            return Err(Problem::invalid(format!("an invitation lasts more than nothing and {days} days at most")));
        }
        Ok(InvitationTerms { role: self.role.into(), uses: self.uses, lasts_ms: self.lasts_ms })
    }
}

/// An invitation that was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invitation {
    /// The text to hand over, like a password.
    pub ticket: String,
    /// The space id.
    pub space: String,
    /// The role that it gives.
    pub role: InvitedRole,
    /// How many devices it admits.
    pub uses: u32,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: u64,
    /// Where the inviting device can be reached; empty if it has no network yet.
    pub addresses: Vec<String>,
}

impl Invitation {
    /// The ticket that was made on these terms.
    pub fn new(ticket: &Ticket, terms: &InvitationRequest) -> Self {
        Self {
            ticket: ticket.to_string(),
            space: ticket.space.to_string(),
            role: terms.role,
            uses: terms.uses,
            expires_ms: ticket.expires_ms,
            addresses: ticket.addresses.clone(),
        }
    }
}
