//! The JSON that goes over HTTP and that the command line prints with `--json`.
//!
//! These types are the stable face of the API: fields are added, never renamed or removed.

mod documents;
mod node;
mod spaces;
mod transaction;

pub use documents::{
    BlockedChange, Carrier, Change, ChangePage, ConflictChoice, ConflictPage, ConflictPlace, DocumentConflicts,
    DocumentList, HistoryItem, HistoryPage, ListedDocument, Watching, Written, WrittenDocument,
};
pub use node::{ConnectRequest, ConnectedPeer, ConnectionDirection, Health, Peer, PeerList, PeerStanding};
pub use spaces::{
    CreatedSpace, Findings, Invitation, InvitationRequest, InvitedRole, JoinRequest, MemberList, NewSpace, SpaceList,
    StringsName, VerifyReport,
};
pub use transaction::{Operation, TransactionRequest};
