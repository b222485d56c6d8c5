//! SQLite as a source, by triggers and a change table.
