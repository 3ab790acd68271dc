//! What a check of a space found.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::problem::Problem;
use crate::Space;
use crate::node::upkeep::AuthorRange;
use crate::node::verification::{SpaceReport, VerifyProgress};

/// What a check of everything that is stored of a space found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyReport {
    /// The space id.
    pub space: String,
    /// The space's name on this device.
    pub name: String,
    /// Whether everything is stored as it should be, and nothing is missing.
    pub sound: bool,
    /// What is wrong, in words; empty when it is sound.
    pub problems: Vec<String>,
    /// Runs that were read.
    pub runs: u64,
    /// Operations in them.
    pub operations: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Signatures that were checked; each covers a run.
    pub signatures: u64,
    /// Bytes that are no readable record or run, and are not in quarantine.
    pub damaged: Findings,
    /// Such stretches that are in quarantine: known, and left out. By itself that is nothing wrong.
    pub quarantined: Findings,
    /// Runs whose signature does not hold.
    pub unsigned: Findings,
    /// Runs that do not continue their author's log: gaps, repetitions, branches. By itself that is no damage.
    pub unchained: Findings,
    /// Runs that the index misses or describes wrongly.
    pub misindexed: Findings,
    /// Entries of the index for which there is no run.
    pub index_surplus: u64,
    /// Operations that were held or stand between others that are held, and are missing.
    pub missing_operations: u64,
    /// Where they are missing; the first ranges.
    pub missing: Vec<OperationRange>,
    /// What came of comparing the documents with their operations.
    pub documents: DocumentsReport,
}

/// Places of one kind of finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Findings {
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub first_positions: Vec<String>,
}

/// A stretch of one author's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationRange {
    /// The author's device id.
    pub author: String,
    /// The first sequence.
    pub first: u64,
    /// The last sequence.
    pub last: u64,
}

impl From<&AuthorRange> for OperationRange {
    fn from(range: &AuthorRange) -> Self {
        Self { author: range.author.to_string(), first: range.after + 1, last: range.through }
    }
}

impl std::fmt::Display for OperationRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let author = self.author.get(..8).unwrap_or(&self.author);
        if self.first == self.last {
            write!(f, "operation {} of device {author}", self.first)
        } else {
            write!(f, "operations {} to {} of device {author}", self.first, self.last)
        }
    }
}

/// Documents against their operations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DocumentsReport {
    /// Documents whose changes were compared with what the operations carry.
    pub compared: u64,
    /// Those of them of which a form is kept, in memory or as a snapshot, that was compared with one made anew.
    pub made_anew: u64,
    /// Documents that were written all the time, and so not compared.
    pub busy: u64,
    /// Documents that differ from what their operations give.
    pub differing: u64,
    /// The first of them.
    pub first_differing: Vec<DifferingDocument>,
    /// Why documents were not compared, if they were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

/// A document that differs from what its operations give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DifferingDocument {
    /// Its key.
    pub key: String,
    /// What differs, in words.
    pub reason: String,
}

/// A line of the answer to a check whose progress was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VerifyEvent {
    /// How far it is.
    Progress(VerifyProgress),
    /// What it found: the last line.
    Report(Box<VerifyReport>),
    /// Why it could not go on: the last line.
    Problem(Problem),
}

impl VerifyReport {
    /// The report about a space.
    pub fn new(space: &Space, report: SpaceReport) -> Self {
        let problems = problems(&report);
        let sound = report.is_sound();
        let SpaceReport { log, documents } = report;
        let findings = |findings: syncline_storage::Findings| Findings {
            count: findings.count,
            first_positions: findings.first_positions.iter().map(ToString::to_string).collect(),
        };
        let first_differing = documents
            .first_differing
            .into_iter()
            .map(|document| DifferingDocument { key: document.key.to_string(), reason: document.reason });
        Self {
            space: space.id().to_string(),
            name: space.name().to_owned(),
            sound,
            problems,
            runs: log.runs,
            operations: log.operations,
            bytes: log.bytes,
            signatures: log.signatures,
            damaged: findings(log.damaged),
            quarantined: findings(log.quarantined),
            unsigned: findings(log.unsigned),
            unchained: findings(log.unchained),
            misindexed: findings(log.misindexed),
            index_surplus: log.index_surplus,
            missing_operations: log.missing_operations,
            missing: log.missing.iter().map(OperationRange::from).collect(),
            documents: DocumentsReport {
                compared: documents.compared,
                made_anew: documents.made_anew,
                busy: documents.busy,
                differing: documents.differing,
                first_differing: first_differing.collect(),
                skipped: documents.skipped,
            },
        }
    }
}

/// What is wrong, in words, and where.
fn problems(report: &SpaceReport) -> Vec<String> {
    let SpaceReport { log, documents } = report;
    let mut problems = Vec::new();
    for (findings, what) in [
        (&log.damaged, "stretches of the log that cannot be read"),
        (&log.unsigned, "runs whose signature does not hold"),
        (&log.misindexed, "runs that the index misses or describes wrongly"),
    ] {
        if findings.count > 0 {
            let first = findings.first_positions.first().map(|position| format!(", the first at {position}"));
            problems.push(format!("{} {what}{}", findings.count, first.unwrap_or_default()));
        }
    }
    if log.index_surplus > 0 {
        problems.push(format!("{} index entries without a readable run", log.index_surplus));
    }
    if log.missing_operations > 0 {
        let first = log.missing.first().map(|range| format!(", the first {}", OperationRange::from(range)));
        problems.push(format!("{} operations missing{}", log.missing_operations, first.unwrap_or_default()));
    }
    if documents.differing > 0 {
        let first = documents.first_differing.first();
        let first = first.map(|document| format!(", the first `{}`: {}", document.key, document.reason));
        problems.push(format!(
            "{} documents that are not what their operations give{}",
            documents.differing,
            first.unwrap_or_default()
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncline_model::DeviceId;

    #[test]
    fn problems_say_what_is_wrong_and_where() {
        let mut report = SpaceReport::default();
        assert!(problems(&report).is_empty());
        report.log.missing_operations = 3;
        report.log.missing = vec![AuthorRange { author: DeviceId([0; 32]), after: 4, through: 7 }];
        report.log.index_surplus = 1;
        let told = problems(&report);
        assert_eq!(told[0], "1 index entries without a readable run");
        assert_eq!(told[1], "3 operations missing, the first operations 5 to 7 of device aaaaaaaa");
    }
}
