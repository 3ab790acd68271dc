//! The JSON that goes over HTTP and that the command line prints with `--json`.
//!
//! These types are the stable face of the API: fields are added, never renamed or removed.

mod bytes;
mod documents;
mod members;
mod node;
mod spaces;
mod tokens;
mod transaction;
mod verify;

pub use bytes::{SignedBytes, VerifiedBytes};
pub use documents::{
    BlockedChange, Carrier, Change, ChangePage, ConflictChoice, ConflictPage, ConflictPlace, DocumentConflicts,
    DocumentList, HistoryItem, HistoryPage, ListedDocument, Watching, Written, WrittenDocument,
};
pub use members::{
    HandoverRequest, InvitationList, MemberList, MemberRequest, MembershipLog, RecoveryRequest, ResolutionRequest,
    RoleRequest, SpaceChange,
};
pub use node::{
    BackupRequest, BanRequest, BannedPeer, ConnectRequest, ConnectedPeer, ConnectionDirection, Health, Peer, PeerFault,
    PeerList, PeerStanding,
};
pub use spaces::{
    CreatedSpace, Invitation, InvitationRequest, InvitedRole, JoinRequest, NewSpace, SpaceList, StringsName,
};
pub use tokens::{CreatedToken, Token, TokenList, TokenRequest, TokenScope};
pub use transaction::{Operation, TransactionRequest};
pub use verify::{DifferingDocument, DocumentsReport, Findings, OperationRange, VerifyEvent, VerifyReport};
