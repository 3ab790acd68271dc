//! What the log and the data directory promise, on real files and on a disk that fails.

mod append;
mod branches;
mod crash;
mod damage;
mod directory;
mod failures;
mod full;
mod images;
mod index_files;
mod index_measure;
mod keeping;
mod measure;
mod oracle;
mod reading;
mod scripts;
mod workload;
