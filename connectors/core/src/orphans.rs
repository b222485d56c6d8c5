//! Orphans: rows that refer to nothing, see [`crate::Snapshot::orphans`].
//!
//! While a pipeline runs its target need not hold its foreign keys: they are made at the end of the copy, somebody may have dropped
//! them or made them `NOT VALID`, and a writer whose session replicates (`session_replication_role = replica`) is not asked by
//! those that are there. So a key that is declared and valid says nothing of the rows, and they are counted.

use crate::schema::TableName;

/// Keys of orphans that are named.
pub const NAMED: usize = 5;

/// What was found of one foreign key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphans {
    /// The foreign key's name: the source's, also at a target that had to shorten it; the target's for one that it has by itself.
    pub foreign_key: String,
    /// The table that it refers to.
    pub to: TableName,
    /// Rows that refer to no row of it.
    pub rows: u64,
    /// The keys of some of them: `id=7`. None for a table without a key.
    pub keys: Vec<String>,
}
