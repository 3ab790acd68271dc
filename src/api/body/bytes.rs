//! What is said of bytes of a person's own.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A signature over bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignedBytes {
    /// The device that signed: this one.
    pub device: String,
    /// The signature's text, beginning with `syncline-signature:`.
    pub signature: String,
}

/// A signature that was checked and fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifiedBytes {
    /// The device that signed these bytes.
    pub device: String,
}
