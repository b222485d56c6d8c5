//! Postgres as a target.
//!
//! ```text
//! url, options, passfile ── how an operator names a server
//! connect, tls, classify ── sessions, and what their errors mean
//! types, quote, ddl ─────── tables as Postgres has them
//! check, snapshot ───────── preflight, and reading the tables back
//! copy, numeric ───────── Arrow to binary rows
//! apply, writer, loader ── batches into transactions, chunks of the initial copy
//! ```

pub mod apply;
pub mod catalog;
pub mod ddl;
pub mod finish;
pub mod decode;
pub mod decimal;
pub mod snapshot;
pub mod classify;
pub mod copy;
pub mod loader;
pub mod writer;
pub mod control;
pub mod keytext;
pub mod numeric;
pub mod session;
pub mod shape;
pub mod split;
pub mod sql;
pub mod connect;
pub mod options;
pub mod passfile;
pub mod quote;
pub mod tls;
pub mod types;
pub mod url;

pub use classify::{classify, classify_in};

/// The control tables: see the comments in it.
pub const CONTROL_SQL: &str = include_str!("../../../schemas/postgres-control.sql");
