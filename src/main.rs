//! The binary: command line in, exit code out.

use std::process::ExitCode;

/// Requests make and drop many small buffers; `docs/performance.md` says what this one saves.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    switchyard::cli::run(std::env::args_os())
}
