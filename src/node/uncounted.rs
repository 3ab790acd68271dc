//! What this device wrote and does not count, in a form in which it can be written again.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use syncline_model::DocumentKey;

use super::builder;
use crate::documents::{Content, DocumentError, ReadError, Rewriting};
use crate::error::Error;
use crate::space::Space;

/// Most operations of one page.
pub const UNCOUNTED_PAGE_MAX: usize = 1000;
/// Bytes of values, as JSON, after which a page ends.
const PAGE_BYTES_MAX: usize = 8 << 20;

/// What an operation that does not count did to one document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct UncountedWrite {
    /// Which document.
    pub key: String,
    /// When, by this device's clock, in ms since 1970.
    pub at_ms: u64,
    /// The operation's number in this device's log.
    pub sequence: u64,
    /// Whether it deleted the document.
    pub deleted: bool,
    /// The document as it would be now if this operation, and the ones of this device before it, counted.
    pub value: Option<Value>,
    /// Why there is no value although the document was not deleted.
    pub reason: Option<String>,
}

/// A page of what this device wrote and does not count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct UncountedPage {
    /// In the order in which they were written.
    pub writes: Vec<UncountedWrite>,
    /// Operations of the page that no key on this device opens, or that do not concern documents.
    pub unreadable: u64,
    /// Pass it as `after` for what follows, if there is more.
    pub next: Option<u64>,
}

impl Space {
    /// A page of this device's own operations that do not count: written after its log was cut, or beside a copy of
    /// it.
    ///
    /// Values are made by applying the changes to a copy of each document as it is here now; nothing is written.
    /// `after` is a sequence number in this device's log, 0 for the first page.
    ///
    /// # Errors
    /// When the space has ended or its log cannot be read.
    pub async fn uncounted(&self, after: u64, limit: usize) -> Result<UncountedPage, Error> {
        let found = self.uncounted_operations().await?;
        let mut page = UncountedPage { writes: Vec::new(), unreadable: 0, next: None };
        let Some((first, last)) = found.range.filter(|(_, last)| after < *last) else { return Ok(page) };
        let begins = first.max(after.saturating_add(1));
        let through = last.min(begins.saturating_add(limit.clamp(1, UNCOUNTED_PAGE_MAX) as u64 - 1));
        // What is on the page, and what came before it to the same documents.
        let (earlier, contents) = builder::blocking(move || {
            let mut contents: Vec<Content> = Vec::new();
            let read = |after, through, visit: &mut dyn FnMut(&Content)| {
                found.operations.read(&found.device, after, through, visit).map_err(read_error)
            };
            read(begins - 1, through, &mut |content| contents.push(content.clone()))?;
            let keys: BTreeSet<&DocumentKey> = contents.iter().flat_map(Content::keys).collect();
            let mut earlier: Vec<Content> = Vec::new();
            read(first - 1, begins - 1, &mut |content| {
                if content.keys().any(|key| keys.contains(key)) {
                    earlier.push(content.clone());
                }
            })?;
            Ok((earlier, contents))
        })
        .await?;
        let mut chunks = BTreeMap::new();
        for key in contents.iter().flat_map(Content::keys) {
            if !chunks.contains_key(key) {
                chunks.insert(key.clone(), self.chunks(key.clone()).await?);
            }
        }
        builder::blocking(move || {
            let mut rewriting = Rewriting::new(chunks);
            earlier.iter().for_each(|content| drop(rewriting.write(content, false)));
            let (mut bytes, mut reached, mut opened) = (0, through, 0);
            for content in &contents {
                opened += 1;
                for write in rewriting.write(content, true) {
                    bytes += write.value.as_ref().map_or(0, |value| value.to_string().len());
                    page.writes.push(UncountedWrite {
                        key: write.key.to_string(),
                        at_ms: content.wall_time_ms,
                        sequence: content.sequence,
                        deleted: write.deleted,
                        value: write.value,
                        reason: write.reason,
                    });
                }
                if bytes > PAGE_BYTES_MAX {
                    reached = content.sequence;
                    break;
                }
            }
            page.unreadable = reached + 1 - begins - opened;
            page.next = (reached < last).then_some(reached);
            Ok(page)
        })
        .await
    }
}

fn read_error(error: ReadError) -> Error {
    match error {
        ReadError::Storage(error) => Error::Storage(error),
        missing => Error::Document(DocumentError::Storage { reason: missing.to_string() }),
    }
}
