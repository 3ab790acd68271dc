//! Several operations that are made one.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::super::limits::OPERATIONS_PER_TRANSACTION_MAX;
use super::super::problem::{Problem, ProblemKind};
use crate::documents::{ChangeHash, Edit, Step, parse_hash};

/// Several operations that become visible at once, here and everywhere, or not at all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TransactionRequest {
    /// In order; several may concern one document.
    pub operations: Vec<Operation>,
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum Operation {
    /// Makes a document equal to a JSON object, changing only what differs.
    Put {
        /// The document's key.
        key: String,
        /// The JSON object.
        value: Value,
    },
    /// Applies a JSON merge patch (RFC 7396).
    Merge {
        /// The document's key.
        key: String,
        /// The patch.
        patch: Value,
    },
    /// Deletes and inserts characters of a collaborative text; positions count Unicode code points.
    Splice {
        /// The document's key.
        key: String,
        /// The JSON pointer of the text.
        path: String,
        /// Position of the first character concerned.
        index: usize,
        /// How many characters go.
        #[serde(default)]
        delete: usize,
        /// What comes in their place.
        #[serde(default)]
        insert: String,
        /// The heads of the document as its reader saw it: positions refer to the text of that time, and the change
        /// merges with what came since. Without it they refer to the text as it is now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Vec<String>>,
    },
    /// Adds to a counter; concurrent additions all count.
    Increment {
        /// The document's key.
        key: String,
        /// The JSON pointer of the counter.
        path: String,
        /// What to add.
        by: i64,
    },
    /// Ends a conflict by writing the value that remains.
    Resolve {
        /// The document's key.
        key: String,
        /// The JSON pointer of the place.
        path: String,
        /// The value that remains.
        value: Value,
    },
    /// Deletes a document; concurrent edits elsewhere restore it.
    Delete {
        /// The document's key.
        key: String,
    },
}

impl TransactionRequest {
    /// The steps for the library.
    ///
    /// # Errors
    /// A problem that names the operation, counted from 0, whose key or path is wrong.
    pub fn into_steps(self) -> Result<Vec<Step>, Problem> {
        if self.operations.len() > OPERATIONS_PER_TRANSACTION_MAX {
            let detail = format!("a transaction has at most {OPERATIONS_PER_TRANSACTION_MAX} operations: split it");
            return Err(Problem::new(ProblemKind::TooLarge, detail));
        }
        let operations = self.operations.into_iter().enumerate();
        operations
            .map(|(number, operation)| {
                operation.into_step().map_err(|reason| Problem::invalid(format!("operation {number}: {reason}")))
            })
            .collect()
    }
}

impl Operation {
    /// The step for the library, or what is wrong with the key or the path.
    fn into_step(self) -> Result<Step, String> {
        fn read<T: std::str::FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
            text.parse().map_err(|error: T::Err| error.to_string())
        }
        let (key, edit) = match self {
            Self::Put { key, value } => (key, Edit::Put(value)),
            Self::Merge { key, patch } => (key, Edit::Merge(patch)),
            Self::Splice { key, path, index, delete, insert, at: None } => {
                (key, Edit::Splice { path: read(&path)?, index, delete, insert })
            }
            Self::Splice { key, path, index, delete, insert, at: Some(heads) } => {
                let heads = heads.iter().map(|head| read_head(head)).collect::<Result<_, _>>()?;
                (key, Edit::SpliceAt { path: read(&path)?, heads, index, delete, insert })
            }
            Self::Increment { key, path, by } => (key, Edit::Increment { path: read(&path)?, by }),
            Self::Resolve { key, path, value } => (key, Edit::Resolve { path: read(&path)?, value }),
            Self::Delete { key } => return Ok(Step::Delete { key: read(&key)? }),
        };
        Ok(Step::Edit { key: read(&key)?, edit })
    }
}

/// A change by its hash.
fn read_head(text: &str) -> Result<ChangeHash, String> {
    let short: String = text.chars().take(80).collect();
    parse_hash(text).ok_or_else(|| format!("`{short}` in `at` is not a head: give the `heads` of a document as read"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_transaction_is_read_as_documented() {
        let request: TransactionRequest = serde_json::from_value(json!({"operations": [
            {"op": "put", "key": "a/b", "value": {"n": 1}},
            {"op": "merge", "key": "a/b", "patch": {"n": null}},
            {"op": "splice", "key": "a/b", "path": "/text", "index": 0, "insert": "hé"},
            {"op": "increment", "key": "a/b", "path": "/count", "by": -2},
            {"op": "resolve", "key": "a/b", "path": "/n", "value": [1]},
            {"op": "delete", "key": "a/b"},
            {"op": "splice", "key": "a/b", "path": "/text", "index": 3, "delete": 1, "at": ["ab".repeat(32)]},
        ]}))
        .unwrap();
        let steps = request.into_steps().unwrap();
        assert_eq!(steps.len(), 7);
        assert!(matches!(&steps[6], Step::Edit { edit: Edit::SpliceAt { heads, .. }, .. } if *heads == [[0xab; 32]]));
        assert!(steps.iter().all(|step| step.key().as_str() == "a/b"));
        assert!(matches!(&steps[2], Step::Edit { edit: Edit::Splice { delete: 0, insert, .. }, .. } if insert == "hé"));
    }

    #[test]
    fn a_wrong_operation_is_named() {
        for (operation, expected) in [
            (json!({"op": "put", "key": "", "value": {}}), "operation 1: "),
            (json!({"op": "increment", "key": "a", "path": "count", "by": 1}), "/count"),
            (json!({"op": "splice", "key": "a", "path": "/t", "index": 0, "at": ["beef"]}), "not a head"),
        ] {
            let request = json!({"operations": [{"op": "delete", "key": "fine"}, operation]});
            let request: TransactionRequest = serde_json::from_value(request).unwrap();
            let problem = request.into_steps().unwrap_err();
            assert_eq!(problem.kind, ProblemKind::Invalid);
            assert!(problem.detail.starts_with("operation 1: ") && problem.detail.contains(expected), "{problem:?}");
        }
        for operation in [
            json!({"op": "put", "key": "a"}),
            json!({"op": "drop", "key": "a"}),
            json!({"op": "delete", "key": "a", "kye": 1}),
            json!({"key": "a"}),
        ] {
            let request = json!({"operations": [operation]});
            assert!(serde_json::from_value::<TransactionRequest>(request.clone()).is_err(), "{request}");
        }
    }

    #[test]
    fn a_transaction_beyond_the_limit_is_refused() {
        let operation = Operation::Delete { key: "a".to_owned() };
        let request = TransactionRequest { operations: vec![operation; OPERATIONS_PER_TRANSACTION_MAX + 1] };
        assert_eq!(request.into_steps().unwrap_err().kind, ProblemKind::TooLarge);
    }
}
