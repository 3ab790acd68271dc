//! Recording operations: all that a batch of them changes in the catalog, written at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use syncline_model::planted::{Bug, planted};
use syncline_model::{DeviceId, DocumentKey, Past};
use syncline_storage::{Batch, IndexError};

use super::{
    APPLIED, AUTHOR, AuthorNumber, Catalog, CatalogEntry, DOCUMENT, FEED, OperationRef, REFERENCES,
    REFERENCES_PER_CHUNK, Reference, STATE, chunk_suffix, encode,
};
use crate::documents::feed::FeedRecord;

impl Catalog {
    /// Begins to record operations.
    pub(in crate::documents) fn record(&mut self) -> Recording<'_> {
        Recording {
            position: self.position,
            before: self.position,
            documents: self.documents,
            applied: self.applied.clone(),
            touched: BTreeMap::new(),
            advanced: BTreeSet::new(),
            feed: FeedRecord::default(),
            batch: Batch::default(),
            catalog: self,
        }
    }
}

/// Operations on their way into the catalog: nothing shows before [`Recording::finish`].
#[derive(Debug)]
pub(in crate::documents) struct Recording<'a> {
    catalog: &'a mut Catalog,
    position: u64,
    documents: u64,
    applied: Vec<u64>,
    touched: BTreeMap<DocumentKey, Touched>,
    advanced: BTreeSet<AuthorNumber>,
    /// The position before the first operation.
    before: u64,
    feed: FeedRecord,
    batch: Batch,
}

/// A document that the recording concerns.
#[derive(Debug)]
pub(in crate::documents) struct Touched {
    pub(in crate::documents) entry: CatalogEntry,
    existed: bool,
    /// References that it had before.
    pub(in crate::documents) total_before: u64,
}

impl Recording<'_> {
    /// How many operations will be visible.
    pub(in crate::documents) fn position(&self) -> u64 {
        self.position
    }

    /// The number of an author that has written something.
    pub(in crate::documents) fn number(&self, author: &DeviceId) -> Option<AuthorNumber> {
        self.catalog.number(author)
    }

    /// How far an author's operations are applied, with those in this recording.
    pub(in crate::documents) fn applied(&self, author: &DeviceId) -> u64 {
        let number = self.catalog.numbers.get(author);
        number.and_then(|number| self.applied.get(*number as usize)).copied().unwrap_or(0)
    }

    /// Counts an operation, which must be the author's next or a later one.
    pub(in crate::documents) fn operation(&mut self, author: DeviceId, sequence: u64) -> OperationRef {
        let number = match self.catalog.numbers.get(&author) {
            Some(number) => *number,
            None => self.introduce(author),
        };
        // A failed recording leaves authors behind that nothing refers to; they still get their entries.
        self.applied.resize(self.catalog.authors.len(), 0);
        self.applied[number as usize] = sequence;
        self.advanced.insert(number);
        self.position += 1;
        self.feed.push(number, sequence);
        OperationRef { author: number, sequence }
    }

    fn introduce(&mut self, author: DeviceId) -> AuthorNumber {
        let catalog = &mut *self.catalog;
        let number = catalog.authors.len() as AuthorNumber;
        catalog.numbers.insert(author, number);
        Arc::make_mut(&mut catalog.authors).push(author);
        catalog.applied.push(0);
        self.batch.put(catalog.index.key(AUTHOR, &number.to_be_bytes()), author.0.to_vec());
        number
    }

    /// The document as of now.
    pub(in crate::documents) fn document(&mut self, key: &DocumentKey) -> Result<&mut Touched, IndexError> {
        if !self.touched.contains_key(key) {
            let entry = self.catalog.entry(key)?.unwrap_or_default();
            let (existed, total_before) = (entry.exists(), entry.total());
            self.touched.insert(key.clone(), Touched { entry, existed, total_before });
        }
        Ok(self.touched.get_mut(key).expect("it was inserted above"))
    }

    /// Notes that an operation with the causal past `past` (itself included) deletes the document.
    ///
    /// The operation's own changes of the document survive: a transaction deletes first.
    pub(in crate::documents) fn delete(
        &mut self,
        key: &DocumentKey,
        operation: OperationRef,
        past: &Past,
    ) -> Result<(), IndexError> {
        self.document(key)?;
        let Self { touched, catalog, .. } = self;
        let covered = |author: AuthorNumber| {
            if author == operation.author {
                return operation.sequence - 1;
            }
            if planted(Bug::DeleteBeatsConcurrentEdit) {
                return u64::MAX;
            }
            catalog.author(author).and_then(|author| past.get(&author)).copied().unwrap_or(0)
        };
        if let Some(touched) = touched.get_mut(key) {
            touched.entry.delete(covered);
        }
        Ok(())
    }

    /// Notes a change of the document.
    pub(in crate::documents) fn change(&mut self, key: &DocumentKey, reference: Reference) -> Result<(), IndexError> {
        let entry = &mut self.document(key)?.entry;
        entry.add(reference);
        if entry.tail.len() >= REFERENCES_PER_CHUNK {
            let chunk: Vec<Reference> = entry.tail.drain(..REFERENCES_PER_CHUNK).collect();
            let number = entry.chunks;
            entry.chunks += 1;
            let place = self.catalog.index.key(REFERENCES, &chunk_suffix(key, number));
            self.batch.put(place, encode(&chunk));
        }
        Ok(())
    }

    /// Notes that somebody will look at the document for what is blocked, and then call [`Catalog::settled`].
    pub(in crate::documents) fn expect(&mut self, key: &DocumentKey) {
        self.catalog.expect(key, &mut self.batch);
    }

    /// Writes everything in one atomic batch; returns the documents concerned as they are now.
    pub(in crate::documents) fn finish(mut self) -> Result<BTreeMap<DocumentKey, Touched>, IndexError> {
        let catalog = &mut *self.catalog;
        let index = &catalog.index;
        for (key, Touched { entry, existed, .. }) in &self.touched {
            match (existed, entry.exists()) {
                (false, true) => self.documents += 1,
                (true, false) => self.documents = self.documents.saturating_sub(1),
                _ => {}
            }
            self.batch.put(index.key(DOCUMENT, key.as_str().as_bytes()), entry.encode());
        }
        for number in &self.advanced {
            let sequence = self.applied[*number as usize];
            self.batch.put(index.key(APPLIED, &number.to_be_bytes()), sequence.to_le_bytes().to_vec());
        }
        let mut last_feed = None;
        if !self.feed.is_empty() {
            let goes_on = catalog.last_feed.as_ref();
            let goes_on = goes_on.and_then(|(first, record)| Some((*first, record.continued(&self.feed)?)));
            let (first, record) = goes_on.unwrap_or((self.before + 1, self.feed));
            self.batch.put(index.key(FEED, &first.to_be_bytes()), encode(&record));
            last_feed = Some((first, record));
        }
        self.batch.put(index.key(STATE, b"visible"), encode(&(self.position, self.documents)));
        index.apply(self.batch)?;
        (catalog.position, catalog.documents) = (self.position, self.documents);
        catalog.applied = self.applied;
        if last_feed.is_some() {
            catalog.last_feed = last_feed;
        }
        Ok(self.touched)
    }
}
