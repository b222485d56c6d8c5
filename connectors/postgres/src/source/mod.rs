//! Postgres as a source.
//!
//! ```text
//! position ──────────────────────── where in the log: server, timeline, LSN
//! wire ── wire_login, wire_read     a replication connection of our own: the driver has none
//! start ─────────────────────────── whether the slot's log goes on where a position ends
//! pgoutput ── rows ── text          messages to rows of Arrow
//! tables ── follow                  the shapes that the log shows, and how they change
//! stream ────────────────────────── all of it as batches
//! ```

mod follow;
pub mod pgoutput;
pub mod position;
mod rows;
mod start;
pub mod stream;
pub mod tables;
mod text;
pub mod wire;
mod wire_login;
pub mod wire_read;
