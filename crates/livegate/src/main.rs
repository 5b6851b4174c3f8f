//! The `livegate` command.

use std::process::ExitCode;

/// Gives memory back to the system, and costs less per allocation than glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    livegate::cli::main()
}
