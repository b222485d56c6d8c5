//! MySQL and MariaDB as a source.
//!
//! ```text
//! url ── connect ── Server ─┬─ catalog, types     what tables there are
//!                           ├─ check              what a lossless pipeline needs
//!                           ├─ snapshot           a state at a known position, read by wire
//!                           └─ binlog, position   the log
//! ```
//!
//! SELECT and the log give the same Arrow value for the same row; [`types`] has the table.

pub mod catalog;
pub mod classify;
pub mod connect;
pub mod types;
pub mod url;
