//! The program `syncline`: a node, and the commands to use it.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
