//! MySQL and MariaDB as a source.
//!
//! ```text
//! url ── connect ── Server ─┬─ catalog, types     what tables there are
//!                           ├─ details            their defaults (constants), checks (conditions), comments
//!                           ├─ check              what a lossless pipeline needs (grants, tables_check, references)
//!                           ├─ snapshot, log_end  a state at a known position; session, rows, keys read it
//!                           └─ binlog, position   the log
//! ```
//!
//! SELECT and the log give the same Arrow value for the same row; [`types`] has the table.

pub mod binlog;
pub mod catalog;
pub mod charsets;
pub mod check;
pub mod classify;
mod conditions;
pub mod connect;
mod constants;
mod details;
pub mod grants;
pub mod keys;
pub mod log_end;
pub mod position;
mod references;
pub mod rows;
pub mod session;
pub mod snapshot;
pub mod source;
pub mod tables_check;
pub mod types;
pub mod url;

use std::sync::Arc;

use crossfade_core::{Endpoint, Omissions, Result, Source};
use tokio::runtime::Handle;

/// Opens the source that an endpoint's URL names (`mysql://` or `mariadb://`). Connects once: a server that cannot be
/// reached, or refuses the login, is an error.
pub fn open(endpoint: &Endpoint, omissions: Omissions, runtime: Handle) -> Result<Arc<dyn Source>> {
    let options = url::Options::parse(endpoint)?;
    Ok(Arc::new(source::MySqlSource::new(connect::Server::open(options, omissions, runtime)?)))
}
