//! Keeps the panics of a store underneath from becoming ours.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::IndexError;

/// Calls into a store underneath. A damaged one may panic rather than return an error.
pub(super) fn guarded<T, E>(call: impl FnOnce() -> Result<T, E>) -> Result<T, IndexError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    // After a panic the index is never used again: its owner condemns it and the next start makes a new one.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| IndexError::Failed(Box::new(error))),
        Err(panic) => Err(IndexError::Panicked(panic_message(&*panic))),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
