//! Members, the membership log, and what the steward does.

use serde::{Deserialize, Serialize};
use syncline_model::Role;
use utoipa::ToSchema;

use super::super::problem::Problem;
use super::InvitedRole;
use crate::node::info::{InvitationInfo, MemberInfo, MembershipEvent};
use crate::node::recovery::RecoveryKey;
use crate::space::BranchHead;
use crate::{DeviceText, Error};

/// The members of a space.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemberList {
    /// The steward among them.
    pub members: Vec<MemberInfo>,
}

/// The invitations of a space.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InvitationList {
    /// In the order in which they were opened, closed ones included.
    pub invitations: Vec<InvitationInfo>,
}

/// What was decided about the members of a space.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MembershipLog {
    /// By the clocks of those who decided; the steward's records in their own order.
    pub events: Vec<MembershipEvent>,
}

/// A device that is to be a member without an invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MemberRequest {
    /// Its device text, beginning with `syncline-device:`.
    pub device_text: String,
    /// Its role.
    pub role: InvitedRole,
}

impl MemberRequest {
    /// The device and its role for the library.
    ///
    /// # Errors
    /// A problem that says what is wrong with the text.
    pub fn parse(&self) -> Result<(DeviceText, Role), Problem> {
        Ok((self.device_text.parse::<DeviceText>().map_err(Error::from)?, self.role.into()))
    }
}

/// The role that a member is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleRequest {
    /// The role.
    pub role: InvitedRole,
}

/// The member that is to be the steward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HandoverRequest {
    /// Its id, or the first eight characters of it or more.
    pub device: String,
}

/// The recovery key of the space; this type has no `Debug`, so that no log shows it.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RecoveryRequest {
    /// The text beginning with `syncline-recovery:` that was shown when the space was created.
    pub recovery_key: String,
}

impl RecoveryRequest {
    /// The key for the library.
    ///
    /// # Errors
    /// A problem that says what is wrong with the text.
    pub fn parse(&self) -> Result<RecoveryKey, Problem> {
        Ok(self.recovery_key.parse::<RecoveryKey>().map_err(Error::from)?)
    }
}

/// The operations up to which forked or cut logs are to count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResolutionRequest {
    /// Each as `device:number:operation id`, as the space's status names them under `uncounted`.
    pub heads: Vec<String>,
}

impl ResolutionRequest {
    /// The heads for the library.
    ///
    /// # Errors
    /// A problem that names the first that is none.
    pub fn parse(&self) -> Result<Vec<BranchHead>, Problem> {
        let parse = |text: &String| text.parse::<BranchHead>().map_err(|error| Error::from(error).into());
        self.heads.iter().map(parse).collect()
    }
}

/// What is to be different about a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SpaceChange {
    /// Whether those who join from now on read what was written before they came.
    pub newcomers_read_history: bool,
}
