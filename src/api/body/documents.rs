//! What is read of documents, and what a write became.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::documents;

/// What a write became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Written {
    /// The first version that shows it: pass it as `wait_for` to a read that has to see it.
    pub version: String,
    /// The operation's position in this device's log; none if everything already was as wanted.
    pub sequence: Option<u64>,
    /// The documents that changed, in key order.
    pub documents: Vec<WrittenDocument>,
}

/// One document of a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WrittenDocument {
    /// The document's key.
    pub key: String,
    /// The hashes of its latest changes; empty when it was deleted.
    pub heads: Vec<String>,
}

impl From<documents::Written> for Written {
    fn from(written: documents::Written) -> Self {
        let documents = written.documents.into_iter();
        let documents = documents.map(|document| WrittenDocument {
            key: document.key.to_string(),
            heads: document.heads.iter().map(|hash| hexadecimal(hash)).collect(),
        });
        Self { version: written.version.to_string(), sequence: written.sequence, documents: documents.collect() }
    }
}

/// A page of documents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DocumentList {
    /// In key order.
    pub documents: Vec<ListedDocument>,
    /// Pass it as `after` for the next page; none at the end. A page may be short of its limit and yet not the last.
    pub next: Option<String>,
    /// The version of the space that the page was read at.
    pub version: String,
}

/// One document of a page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ListedDocument {
    /// The document's key.
    pub key: String,
    /// Its value, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub value: Option<Value>,
    /// Why its value cannot be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl From<documents::List> for DocumentList {
    fn from(list: documents::List) -> Self {
        let documents = list.items.into_iter();
        let documents =
            documents.map(|item| ListedDocument { key: item.key.to_string(), value: item.value, error: item.error });
        Self {
            documents: documents.collect(),
            next: list.next.map(|key| key.to_string()),
            version: list.version.to_string(),
        }
    }
}

/// A page of a document's changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HistoryPage {
    /// Newest first.
    pub changes: Vec<HistoryItem>,
    /// Pass it as `after` for the next page; none at the end.
    pub next: Option<String>,
}

/// One change of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HistoryItem {
    /// Names the change; pass it as `at` to read the document as it was then.
    pub hash: String,
    /// The Automerge actor that made it, in hexadecimal.
    pub actor: String,
    /// Its position among the changes of its actor.
    pub sequence: u64,
    /// The changes that it was made on top of.
    pub dependencies: Vec<String>,
    /// How many Automerge operations it holds.
    pub operations: u64,
    /// Which operation of the space carries it, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carried_by: Option<Carrier>,
    /// The message that its author gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The operation that carries a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Carrier {
    /// The device that wrote it.
    pub author: String,
    /// Its position in that device's log.
    pub sequence: u64,
    /// The device's time when it wrote, in milliseconds since 1970; shown, never used to order.
    pub wall_time_ms: u64,
}

impl HistoryPage {
    /// The page of `items`, asked for with `limit`.
    pub(in crate::api) fn new(items: Vec<documents::HistoryItem>, limit: usize) -> Self {
        let next = items.last().filter(|_| items.len() >= limit).map(|item| hexadecimal(&item.hash));
        Self { changes: items.into_iter().map(HistoryItem::from).collect(), next }
    }
}

impl From<documents::HistoryItem> for HistoryItem {
    fn from(item: documents::HistoryItem) -> Self {
        Self {
            hash: hexadecimal(&item.hash),
            actor: item.actor,
            sequence: item.sequence,
            dependencies: item.dependencies.iter().map(|hash| hexadecimal(hash)).collect(),
            operations: item.operations,
            carried_by: item.carried_by.map(|carrier| Carrier {
                author: carrier.author.to_string(),
                sequence: carrier.sequence,
                wall_time_ms: carrier.wall_time_ms,
            }),
            message: item.message,
        }
    }
}

/// A page of documents that hold conflicts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConflictPage {
    /// In key order.
    pub documents: Vec<DocumentConflicts>,
    /// Pass it as `after` for the next page; none at the end. A page may be empty and yet not the last.
    pub next: Option<String>,
}

/// What disagrees in one document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DocumentConflicts {
    /// The document's key.
    pub key: String,
    /// Places where concurrent writes left several values.
    pub places: Vec<ConflictPlace>,
    /// Changes that are not part of the document.
    pub blocked: Vec<BlockedChange>,
}

/// A place with several values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConflictPlace {
    /// The JSON pointer of the place.
    pub path: String,
    /// All values, the one that readers see last.
    pub values: Vec<ConflictChoice>,
}

/// One of several values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConflictChoice {
    /// The value.
    pub value: Value,
    /// Whether readers see this one.
    pub winner: bool,
    /// The Automerge actor that wrote it, in hexadecimal.
    pub actor: String,
    /// The Automerge operation that wrote it.
    pub operation: String,
}

/// A change that is not part of its document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BlockedChange {
    /// The device that wrote the operation which carries it.
    pub author: String,
    /// The operation's position in that device's log.
    pub sequence: u64,
    /// What is wrong.
    pub reason: String,
}

impl From<documents::ConflictPage> for ConflictPage {
    fn from(page: documents::ConflictPage) -> Self {
        Self {
            documents: page.documents.into_iter().filter(disagrees).map(DocumentConflicts::from).collect(),
            next: page.next.map(|key| key.to_string()),
        }
    }
}

/// A document that was asked for by its key is told of even if nothing disagrees in it.
fn disagrees(document: &documents::DocumentConflicts) -> bool {
    !document.places.is_empty() || !document.blocked.is_empty()
}

impl From<documents::DocumentConflicts> for DocumentConflicts {
    fn from(conflicts: documents::DocumentConflicts) -> Self {
        let choice = |choice: documents::ConflictChoice| ConflictChoice {
            value: choice.value,
            winner: choice.winner,
            actor: choice.actor,
            operation: choice.operation,
        };
        let place = |place: documents::ConflictPlace| ConflictPlace {
            path: place.path,
            values: place.values.into_iter().map(choice).collect(),
        };
        let blocked = |change: documents::BlockedChange| BlockedChange {
            author: change.author.to_string(),
            sequence: change.sequence,
            reason: change.reason,
        };
        Self {
            key: conflicts.key.to_string(),
            places: conflicts.places.into_iter().map(place).collect(),
            blocked: conflicts.blocked.into_iter().map(blocked).collect(),
        }
    }
}

/// A page of changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChangePage {
    /// In the order in which they became visible here.
    pub changes: Vec<Change>,
    /// Pass it as `since` for what follows.
    pub version: String,
    /// Whether more was visible already.
    pub more: bool,
}

/// A document changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// The document's key.
    pub key: String,
    /// Whether the document does not exist now.
    pub deleted: bool,
    /// The first version that shows it.
    pub version: String,
    /// The device that wrote it.
    pub author: String,
    /// The operation's position in that device's log.
    pub sequence: u64,
    /// The device's time when it wrote, in milliseconds since 1970.
    pub wall_time_ms: u64,
    /// The document's value at this version or a later one, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub value: Option<Value>,
}

impl From<documents::ChangeEvent> for Change {
    fn from(event: documents::ChangeEvent) -> Self {
        Self {
            key: event.key.to_string(),
            deleted: event.deleted,
            version: event.version.to_string(),
            author: event.author.to_string(),
            sequence: event.sequence,
            wall_time_ms: event.wall_time_ms,
            value: event.value,
        }
    }
}

/// The first event of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Watching {
    /// All later changes follow.
    pub version: String,
}

fn hexadecimal(hash: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(hash)
}
