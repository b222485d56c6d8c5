//! The `crossfade` command. Wiring only.

use std::process::ExitCode;

/// Version 2 gives freed pages back after 10 ms, version 3 after a second: on a backlog the process peaked a quarter lower.
/// Without huge pages (`no_thp`), or 2 MiB would be held for each 64 KiB of them that are in use: 41 MiB idle instead of 17,
/// and 50 more at the peak of a large transaction.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Two TLS providers linked and none chosen would panic at the first connection: choose before anything else.
    // An error means that one is installed already, which is what is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
    crossfade::cli::main()
}
