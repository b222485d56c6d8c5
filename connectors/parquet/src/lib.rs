//! Parquet on object storage as a target: an append-only log of changes per table.
//!
//! # Layout
//!
//! ```text
//! <root>/<schema>/<table>/<record>-<n>-<pipeline>.parquet     immutable; all that a reader lists is committed
//! <root>/_crossfade/<pipeline>/log/<record>.json              the commit log; its objects *are* the commits
//!                             /stage/<token>.parquet          files before their commit
//!                             /summary/<record>.json          the log folded up to a record, for a quick start
//!                             /owner.json, lock               who has the pipeline open
//! ```
//!
//! Names that start with `_` are passed over by Athena. Every file has `_op`, `_commit_time`, `_seq` and `_ordinal` in front
//! of the table's columns; `schemas/athena-table.sql` says what they mean, `schemas/athena-view.sql` how the latest state
//! follows from them, and `types` how values stand in a file. A later release may put a folder per day between the table
//! and its files: the log names records, not paths, so old files stay where they are.
//!
//! # Commit
//!
//! ```text
//! write    rows ─▶ stage/<token>.parquet                 invisible; one file per table and commit, ended at 128 MiB
//! commit   sync the staged files
//!          put-if-absent log/<record>.json               ◀── the commit: checkpoint, files, shapes, owner, epoch
//! publish  stage/<token>.parquet ─▶ <schema>/<table>/…   rename on a file system, copy and delete on S3; idempotent
//! ```
//!
//! *Record* numbers count all commits: takeovers, plans, chunks of the copy and checkpoints. `_seq` is the checkpoint's.
//! Taking the pipeline is itself a record:
//!
//! ```text
//! open     lease free?  read the log  put-if-absent log/<next>.json {open, epoch + 1}
//!          publish what is committed and not known to be published; delete everything else that is staged
//! ```
//!
//! **Why each change is there exactly once.** Record `n` can be created once, by one owner, and says which staged files are
//! part of the table.
//! 1. *Killed before the record:* its files are in no record, so no reader counts them; the next owner deletes them and the
//!    source sends those changes again, because the checkpoint before still holds.
//! 2. *Killed after it:* the checkpoint is the new one, so nothing is sent again; the next owner (and any snapshot) finds
//!    the files in the record, staged or published. Publishing moves a file whole to a name that follows from the record:
//!    doing it twice gives the same file. A record carries how far the files before it are published, so only the last
//!    ones are looked at.
//! 3. *Unknown:* the answer to the put was lost. The object is read back and compared with ours, which holds a token that
//!    no other attempt has. If it is not there, the put is repeated; if that fails too, the pipeline is opened again: either
//!    the takeover gets the number, and the stray put will fail for ever, or the stray put got it, and it is committed.
//! 4. *Two owners:* both may believe that they are alone. The second's takeover has taken record `n`, so the first's next
//!    commit finds `n` taken and fails with the name of the other. The lease only makes this rare. Staged files are deleted
//!    only after the takeover's record is there, when no older owner's file can be committed any more.
//!
//! A reader of a folder sees a file whole or not at all; between commit and publication it sees the commit's tables one by
//! one. On a file system files and record are synced before `commit` returns, since the source is then acknowledged.
//!
//! # The copy beside the stream
//!
//! Chunks are encoded before it is known when they will commit, so their rows do not carry the commit's place. They carry
//! `_seq` of the checkpoint that is next when the chunk *begins*, and `_ordinal` -1: behind all that was committed then,
//! before all that came later. Let the stream stand at `c` when a chunk begins, and the chunk be read at `r`, not before
//! `c`. For a key of the chunk: if the stream brings a change of it after `c`, the last such change is the key's final
//! state, and it sorts behind the chunk's row. If it brings none, the key is at `r` what it was at `c` and will be at the
//! end, which is what the chunk has. So the order is right as soon as the stream has passed `r`, whenever the chunk was
//! committed, and a truncation needs no other rule. A reader that follows `_seq` as a watermark should start after the copy.
//!
//! # Limits
//!
//! A table without a key keeps all its changes, and the snapshot balances equal rows; there is no view for it. Rows from before a column was added
//! have NULL there in views (the snapshot knows the value that the source filled in). Uploads that a killed process left
//! unfinished on S3 are ended by a lifecycle rule for incomplete multipart uploads. The log is never shortened.

mod athena;
mod check;
mod decode;
mod evolve;
mod file;
mod lease;
mod loader;
mod location;
mod log;
mod reader;
mod record;
mod snapshot;
mod store;
mod survey;
mod target;
#[cfg(test)]
mod tests;
mod types;
mod writer;

use std::sync::Arc;

pub use athena::{athena_table, athena_view, duckdb_view};
use crossfade_core::{Endpoint, Result, Target};
pub use types::{athena, stored};

/// The target that a URL names: `file:///folder`, `file:folder` or `s3://bucket/prefix?region=...`. Connects to nothing
/// yet. An unknown option is an error that names the nearest known one.
///
/// What the target hands out blocks on `runtime`: use it from threads of its own, and drop it before the runtime.
pub fn open(endpoint: &Endpoint, runtime: tokio::runtime::Handle) -> Result<Arc<dyn Target>> {
    Ok(Arc::new(target::ParquetTarget::new(location::store(endpoint, runtime)?)))
}
