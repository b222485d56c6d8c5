//! Postgres as a source.
//!
//! ```text
//! position ──────────────────────── where in the log: server, timeline, LSN
//! wire ── wire_login, wire_read     a replication connection of our own: the driver has none
//! ```

pub mod pgoutput;
pub mod position;
mod text;
pub mod wire;
mod wire_login;
pub mod wire_read;
