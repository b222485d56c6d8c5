//! Postgres as a source.
//!
//! ```text
//! position ──────────────────────── where in the log: server, timeline, LSN
//! wire ── wire_login, wire_read     a replication connection of our own: the driver has none
//! start ─────────────────────────── whether the slot's log goes on where a position ends
//! pgoutput ── rows ── text          messages to rows of Arrow
//! tables ── follow                  the shapes that the log shows, and how they change
//! spool ─────────────────────────── transactions that are sent while they are open
//! stream ────────────────────────── all of it as batches
//! catalog ── types, unnamed         the tables, what identifies their rows, what their types mean
//! details                           what tables have besides: defaults, checks, comments
//! slot, publication                 what is made at the server, and what it leaves out
//! log_end, snapshot                 where its log ends, what is read beside it
//! survey                            the same read, going on behind values that cannot be carried
//! watch ─────────────────────────── what the log does not tell
//! check, history ────────────────── preflight; what a target that keeps every change needs besides
//! handle ────────────────────────── the source, from which all of these are opened
//! ```

pub mod catalog;
mod check;
mod details;
mod follow;
#[cfg(test)]
mod fuzz;
pub mod handle;
mod history;
mod log_end;
pub mod pgoutput;
pub mod position;
mod prepared;
mod publication;
mod rows;
pub mod slot;
pub mod snapshot;
mod spool;
mod start;
pub mod stream;
mod survey;
pub mod tables;
mod text;
mod types;
mod unnamed;
mod watch;
pub mod wire;
mod wire_login;
pub mod wire_read;
