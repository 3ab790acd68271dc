//! The integration tests: one binary, one module per subject.

mod api;
mod cli;
mod crash;
mod kept;
mod replication;
mod tidy;
mod upkeep;
