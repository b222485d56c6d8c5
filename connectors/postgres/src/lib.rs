//! Postgres as a target, and its log as a source.
//!
//! ```text
//! url, options, passfile ── how an operator names a server
//! connect, tls, classify ── sessions, and what their errors mean
//! types, quote ──────────── values and names in Postgres' terms
//! catalog, ddl, finish ──── tables as they are, as they must be, and what they get after the copy
//! details, script ───────── defaults, checks, comments; all of it as text for people
//! unindex ───────────────── unique indexes that the source no longer has
//! check, missing, survey, alike ──── preflight: settings and tables, values, keys
//! snapshot ── ranges, decode, decimal    reading the tables back, from binary COPY to Arrow
//! writer, loader ── apply, shape, split, sql, session, copy, numeric    writing them, from Arrow to binary COPY
//! control ───────────────── checkpoints, owners, chunks
//! target ────────────────── the handle that opens all of these
//! source ────────────────── the log: see its own page
//! ```

pub mod again;
mod alike;
mod apply;
pub mod catalog;
pub mod check;
pub mod classify;
pub mod connect;
pub mod control;
pub mod copy;
pub mod ddl;
pub mod decimal;
pub mod decode;
pub mod details;
mod figure;
pub mod finish;
pub mod keytext;
pub mod loader;
mod missing;
pub mod numeric;
pub mod options;
pub mod original;
mod orphans;
pub mod passfile;
pub mod quote;
pub mod ranges;
pub mod script;
mod sequences;
pub mod session;
pub mod shape;
pub mod snapshot;
pub mod source;
pub mod split;
pub mod sql;
mod statement;
pub mod survey;
pub mod target;
pub mod tls;
mod totals;
pub mod types;
mod unindex;
pub mod url;
pub mod writer;

pub use classify::{classify, classify_in};
pub use source::handle::{PgSource, open_source};
pub use target::{PostgresTarget, open};

/// The control tables: see the comments in it.
pub const CONTROL_SQL: &str = include_str!("../../../schemas/postgres-control.sql");
