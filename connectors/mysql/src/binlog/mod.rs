//! The binary log: from the server's bytes to batches.
//!
//! ```text
//! login, tls ── wire ── dump ── log (checksums, compressed transactions) ── stream ── core's batcher ── Batch
//!                                                                            │
//!                    table_map ── follow (changed shapes) ── plan ── rows ── decode (jsonb, decimal, temporal, charset)
//!                                   │
//!     statement ── alter ── definition, live ── retype (widen), fill
//! ```
//!
//! Everything that reads bytes reads them through [`reader`] and survives any bytes; everything that is not understood
//! stops the stream by name. Rows go straight into Arrow columns.

pub mod alter;
pub mod charset;
pub mod decimal;
pub mod decode;
pub mod definition;
pub mod dump;
pub mod event;
pub mod facts;
pub mod fill;
pub mod follow;
#[cfg(test)]
mod fuzz;
pub mod gtid;
pub mod gtid_event;
pub mod gtid_list;
pub mod json_text;
pub mod jsonb;
pub mod lineage;
pub mod live;
pub mod log;
pub mod login;
pub mod mariadb;
pub mod payload;
pub mod plan;
pub mod reader;
pub mod retype;
pub mod rows;
pub mod statement;
pub mod stream;
pub mod table_map;
pub mod tables;
pub mod temporal;
pub mod tls;
pub mod vector;
pub mod widen;
pub mod wire;
