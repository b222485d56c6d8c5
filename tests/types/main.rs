//! Every value of every type arrives as it was, or the pipeline stops and says where.
//!
//! ```text
//! kinds (mysql, postgres, sqlite)  a type as it is declared, and its values as SQL
//!    │
//!    ├── doc        schemas/types.md: the type as the connectors map it, asked of real servers
//!    └── lab        copy ─┐
//!                   insert├─> Postgres (psql) and Parquet (pyarrow) ── the same text as the source's own client printed
//!                   update┘
//! ```
//!
//! The oracle is never our decoder: the source's client prints each value in a form that loses nothing (hexadecimal of text,
//! microseconds of times, see [`class`]), and so do psql and pyarrow for what arrived. One list feeds both the page and the
//! round trips, so that a type cannot stand in the one without the other.

#[path = "../e2e/common.rs"]
#[allow(dead_code)] // the end-to-end tests use all of it
mod common;

mod class;
mod doc;
mod kind;
mod lab;
mod mysql;
mod names;
mod policies;
mod postgres;
mod refused;
mod renamed;
mod sqlite;
