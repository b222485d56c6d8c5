//! Postgres as a target.
