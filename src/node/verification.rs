//! Checking a space on demand: its log, its index, and its documents against its operations.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use syncline_model::DocumentKey;
use syncline_storage::{Signatures, VerifyReport};

use super::{Node, builder};
use crate::documents::{AuditStart, Comparison, DocumentError, ReadError, Tally};
use crate::error::{Error, ErrorKind};
use crate::space::Space;

/// Documents that a report names; the count goes on.
const LISTED_MAX: usize = 100;
/// Documents that are compared at once.
const COMPARED_AT_ONCE: usize = 16;
/// Keys that are asked for at once.
const KEYS_PER_PAGE: usize = 1000;
/// Operations that are read at once, after which progress is told.
const OPERATIONS_AT_ONCE: u64 = 1024;
/// How long a document that is written all the time is waited for.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(30);

/// How thorough a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyOptions {
    /// Which signatures are checked.
    pub signatures: Signatures,
    /// Whether the documents are made anew from their operations and compared.
    pub documents: bool,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self { signatures: Signatures::All, documents: true }
    }
}

/// What a check is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum VerifyStage {
    /// Reading the log; counted in bytes.
    Log,
    /// Comparing the operations with the catalog of documents; counted in operations.
    Catalog,
    /// Making documents anew; counted in documents.
    Documents,
}

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VerifyProgress {
    /// What it is doing.
    pub stage: VerifyStage,
    /// How much of that is done.
    pub done: u64,
    /// How much there is.
    pub total: u64,
}

/// A document that is not what its operations give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DifferingDocument {
    /// Which.
    pub key: DocumentKey,
    /// What differs, in words.
    pub reason: String,
}

/// What came of comparing the documents with their operations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DocumentsReport {
    /// Documents whose changes were compared with what the operations carry.
    pub compared: u64,
    /// Those of them of which a form is kept, in memory or as a snapshot, that was compared with one made anew.
    pub made_anew: u64,
    /// Documents that were left out, since they were written all the time.
    pub busy: u64,
    /// Documents that differ.
    pub differing: u64,
    /// The first of them.
    pub first_differing: Vec<DifferingDocument>,
    /// Why they were not compared, if they were not.
    pub skipped: Option<String>,
}

impl DocumentsReport {
    fn differs(&mut self, key: DocumentKey, reason: impl Into<String>) {
        self.differing += 1;
        if self.first_differing.len() < LISTED_MAX {
            self.first_differing.push(DifferingDocument { key, reason: reason.into() });
        }
    }
}

/// What a check of one space found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpaceReport {
    /// About the log and its index.
    pub log: VerifyReport,
    /// About the documents.
    pub documents: DocumentsReport,
}

impl SpaceReport {
    /// Whether everything is stored as it should be and nothing is missing.
    ///
    /// Stretches in quarantine count as sound once what stood in them is held again.
    pub fn is_sound(&self) -> bool {
        self.log.is_sound() && self.log.missing_operations == 0 && self.documents.differing == 0
    }
}

/// What is told of the progress.
pub(super) type Tell = Arc<dyn Fn(VerifyProgress) + Send + Sync>;

impl Node {
    /// Checks everything that is stored of a space: records, chains, signatures, the index, the documents.
    ///
    /// Reads the whole log, and makes anew every document of which a form is kept; changes nothing.
    ///
    /// # Errors
    /// When the space has ended or the disk cannot be read. What is wrong with what is stored is in the report.
    pub async fn verify(&self, space: &Space) -> Result<SpaceReport, Error> {
        self.verify_with(space, VerifyOptions::default(), |_| {}).await
    }

    /// The same, as thorough as the options say; `progress` is called often, from any thread.
    ///
    /// # Errors
    /// As [`Node::verify`].
    pub async fn verify_with(
        &self,
        space: &Space,
        options: VerifyOptions,
        progress: impl Fn(VerifyProgress) + Send + Sync + 'static,
    ) -> Result<SpaceReport, Error> {
        let tell: Tell = Arc::new(progress);
        let permit = self.inner.checking.clone().acquire_owned().await.map_err(|_| Error::Stopping)?;
        let reader = space.log_reader().await?;
        let tell_log = tell.clone();
        // Whoever gives up waiting does not end the reading, so the permit goes with it.
        let (log, _permit) = builder::blocking(move || {
            let mut told = |step: syncline_storage::Progress| {
                tell_log(VerifyProgress { stage: VerifyStage::Log, done: step.done, total: step.total });
            };
            Ok((reader.verify_with(options.signatures, &mut told)?, permit))
        })
        .await?;
        let mut documents = DocumentsReport::default();
        if !options.documents {
            documents.skipped = Some("that was not asked for".to_owned());
        } else if !log.is_sound() || log.missing_operations > 0 {
            documents.skipped = Some("operations are damaged or missing".to_owned());
        } else {
            compare_catalog(space, &tell, &mut documents).await?;
            compare_documents(space, &tell, &mut documents).await?;
        }
        Ok(SpaceReport { log, documents })
    }
}

/// Compares which changes the catalog says each document has with those that the operations carry.
async fn compare_catalog(space: &Space, tell: &Tell, report: &mut DocumentsReport) -> Result<(), Error> {
    let start = space.audit_start().await?;
    let mut named = BTreeSet::new();
    loop {
        let operations = tally_operations(start.clone(), Tally::naming(&named), tell.clone()).await?;
        let catalog = tally_catalog(space, &start, Tally::naming(&named)).await?;
        let differing = operations.differing(&catalog);
        if differing.is_empty() {
            return Ok(());
        }
        if !named.is_empty() {
            for key in operations.differing_documents(&catalog) {
                report.differs(key, "the catalog does not list the changes that its operations carry");
            }
            // Had they become equal meanwhile, that would be no better.
            report.differing = report.differing.max(1);
            return Ok(());
        }
        // Once more, with the documents' names.
        named = differing;
    }
}

async fn tally_operations(start: AuditStart, mut tally: Tally, tell: Tell) -> Result<Tally, Error> {
    builder::blocking(move || {
        let total = start.applied.values().sum();
        let mut done = 0;
        for (author, applied) in &*start.applied {
            let mut after = 0;
            while after < *applied {
                let through = (*applied).min(after + OPERATIONS_AT_ONCE);
                let read = start.operations.read(author, after, through, &mut |content| {
                    tally.add_operation(author, content);
                });
                read.map_err(|error| match error {
                    ReadError::Storage(error) => Error::Storage(error),
                    missing => Error::Document(DocumentError::Storage { reason: missing.to_string() }),
                })?;
                done += through - after;
                after = through;
                tell(VerifyProgress { stage: VerifyStage::Catalog, done, total });
            }
        }
        Ok(tally)
    })
    .await
}

async fn tally_catalog(space: &Space, start: &AuditStart, mut tally: Tally) -> Result<Tally, Error> {
    let mut after = None;
    loop {
        let page = space.audit_sums(after, start.applied.clone()).await?;
        for (key, sum) in &page.sums {
            tally.add(key, *sum);
        }
        after = page.next;
        if after.is_none() {
            return Ok(tally);
        }
    }
}

/// Makes every document of which a form is kept anew and compares the two.
async fn compare_documents(space: &Space, tell: &Tell, report: &mut DocumentsReport) -> Result<(), Error> {
    let total = space.stats().await?.documents;
    let mut after: Option<String> = None;
    loop {
        let page = space.list("", after.as_deref(), KEYS_PER_PAGE, false).await?;
        let compare = |key: DocumentKey| async move {
            let outcome = space.compare(key.clone(), COMPARE_TIMEOUT).await;
            (key, outcome)
        };
        let keys = page.items.into_iter().map(|item| item.key);
        let mut outcomes = futures::stream::iter(keys.map(compare)).buffer_unordered(COMPARED_AT_ONCE);
        while let Some((key, outcome)) = outcomes.next().await {
            match outcome {
                Ok(Comparison::NothingKept) => report.compared += 1,
                Ok(Comparison::Same) => {
                    report.compared += 1;
                    report.made_anew += 1;
                }
                Ok(Comparison::OtherHeads) => report.differs(key, "what is kept of it holds other changes"),
                Ok(Comparison::OtherValue) => report.differs(key, "what is kept of it reads differently"),
                Err(Error::Document(DocumentError::NotFound { .. })) => {}
                Err(Error::Document(DocumentError::Damaged { reason, .. })) => report.differs(key, reason),
                Err(error) if error.kind() == ErrorKind::Timeout => report.busy += 1,
                Err(error) => return Err(error),
            }
            let done = report.compared + report.busy + report.differing;
            tell(VerifyProgress { stage: VerifyStage::Documents, done, total: total.max(done) });
        }
        match page.next {
            Some(next) => after = Some(next.to_string()),
            None => return Ok(()),
        }
    }
}
