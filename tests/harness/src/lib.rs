//! Starts the real servers that the tests talk to: Postgres 15 and 18, MariaDB 10.11, MySQL 9.7, an S3 endpoint, and
//! servers that take in mail and webhooks.
//!
//! ```text
//! Postgres::shared(PgVersion::V15)   one server for every test that asks, started by the first one
//! Postgres::start(V18, Options::new().set("wal_level", "replica"))   a private one: kill(), restart(), own settings
//!        │
//!        └─ Server<Recipe> ── setpriv ── the server's own process, on a free loopback port, in a temporary folder
//! ```
//!
//! nextest runs every test in a process of its own, so a shared server is shared through a folder, not through memory: with
//! `CROSSFADE_TEST_DIR` set (`tests/run` sets it, and stops everything recorded there at its end) the first process that needs
//! a server starts it under a file lock and records port and process id; the others read the record. Without the variable a
//! shared server belongs to the test's process and dies with it. A private server always dies with its process: the kernel
//! kills it (`PR_SET_PDEATHSIG`), whatever way the process ends.
//!
//! Nothing here returns an error: a server that is missing or does not start is a failed test, with the tail of its log, never
//! a skipped one. Programs and data folders come from [`tools`], which `tests/run` fills. The harness uses the servers' own
//! command line clients, so it depends on none of the drivers that it helps to test.

mod client;
mod listener;
mod mysql;
mod postgres;
mod process;
mod program;
mod proxy;
mod s3;
mod server;
pub mod tools;

pub use client::{Client, Database};
pub use listener::{Kind, Listener};
pub use mysql::{MariaDb, MySql, MySqlServer};
pub use postgres::{PgVersion, Postgres, STANDBY};
pub use program::{Clock, Ended, Program, Running};
pub use proxy::{Bait, Mode, Proxy, Spring, Way};
pub use s3::{Bucket, Response, S3};
pub use server::Options;
pub use tools::{python, sample, tls_folder};

/// User of every server with all powers, over TCP; `root` on the MySQL family and `postgres` on Postgres need no password on
/// the Unix socket.
pub const USER: &str = "crossfade";

/// Password of [`USER`].
pub const PASSWORD: &str = "crossfade";
