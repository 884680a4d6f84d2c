//! The binary: command line in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    switchyard::cli::run(std::env::args_os())
}
