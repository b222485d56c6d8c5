//! Crossfade moves a live database to a new home, and proves that it did.
//!
//! This is the daemon and the command line; what a source and a target are stands in `crossfade_core`, the drivers in
//! the connector crates. Read [`pipeline`] first.

mod bag;
pub mod cli;
pub mod config;
pub mod desk;
pub mod fold;
#[cfg(test)]
mod fuzz;
mod gather;
pub mod herald;
pub mod http;
pub mod ledger;
mod numbering;
pub mod pipeline;
pub mod registry;
pub mod reload;
pub mod repair;
pub mod report;
pub mod scan;
pub mod service;
pub mod transform;
pub mod verify;

/// The wall clock, in microseconds since 1970 UTC.
pub fn now_micros() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

/// This machine's name.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "localhost".into(), |n| n.trim().to_owned())
}
