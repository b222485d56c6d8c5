//! The whole program against real servers: copy and stream with a writer running, crashes, refusals, the command line.
//!
//! Every scenario ends in `verify`, or in a clear error with a hint and the right exit code.

mod again;
mod audit;
mod away;
mod beyond;
mod common;
mod crashes;
mod daemon;
mod differences;
mod half_copied;
mod hard_copies;
mod hard_postgres;
mod http;
mod install;
mod ledger;
mod left_out;
mod mutations;
mod mysql_to_postgres;
mod pgvector;
mod postgres_failover;
mod postgres_open;
mod postgres_publications;
mod postgres_samples;
mod postgres_slots;
mod postgres_to_parquet;
mod postgres_to_postgres;
mod recheck;
mod refusals;
mod repairs;
mod reports;
mod reshaped;
mod rolling;
mod scan;
mod schema;
mod sqlite_to_parquet;
mod suspended;
mod troubles;
mod unindexed;
