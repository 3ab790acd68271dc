//! The integration tests: one binary, one module per subject.

mod api;
mod cli;
mod crash;
mod disk;
mod hostile;
mod kept;
mod keys;
mod members;
mod peers;
mod replication;
mod tidy;
mod tokens;
mod upkeep;
