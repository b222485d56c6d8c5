//! The end of the log: a position that the log's reader can reach, and before which every commit lies that came before.
//!
//! Commits are inserted into the log before they are flushed, and only what is flushed is sent. So the end is where records
//! are inserted now (`pg_current_wal_insert_lsn`), once that has been flushed. Usually it has; where transactions do not wait
//! for it (`synchronous_commit = off`) a message of our own, committed synchronously, makes the server flush. On a quiet server
//! nothing is written, so that two looks find the same end.
//!
//! Behind a page that is full the next record goes behind the next page's head, which is not written until that record comes:
//! such an end is moved back to the page's beginning, where the flushed log ends too (`XLogBytePosToRecPtr` and
//! `XLogBytePosToEndRecPtr` in `src/backend/access/transam/xlog.c`).

use std::time::Duration;

use crossfade_core::{Error, Result};

use super::position::{Lsn, PgPosition};
use super::prepared::Prepared;
use crate::classify::classify;

/// Looks at the log before we make the server flush it, a millisecond apart.
const LOOKS: u32 = 5;

const ENDS: &str = "\
    SELECT s.system_identifier::text, \
        ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int4::int8, \
        pg_catalog.pg_current_wal_insert_lsn()::text, pg_catalog.pg_current_wal_flush_lsn()::text \
    FROM pg_catalog.pg_control_system() s";

struct Ends {
    system: u64,
    timeline: u32,
    inserted: Lsn,
    flushed: Lsn,
}

async fn ends(client: &Prepared) -> Result<Ends> {
    let row = client.query_one(ENDS, &[]).await.map_err(classify)?;
    let text = |i: usize| row.try_get::<_, String>(i).map_err(classify);
    let strange = |what: &str| Error::corrupt(format!("the server's {what} cannot be read"));
    let timeline: i64 = row.try_get(1).map_err(classify)?;
    Ok(Ends {
        system: text(0)?.parse().map_err(|_| strange("system identifier"))?,
        timeline: u32::try_from(timeline).map_err(|_| strange("timeline"))?,
        inserted: before_page_head(text(2)?.parse()?),
        flushed: text(3)?.parse()?,
    })
}

/// An end behind the head of a page that holds no record yet, as the page's beginning.
fn before_page_head(lsn: Lsn) -> Lsn {
    /// XLOG_BLCKSZ as it is by default.
    const PAGE: u64 = 8192;
    /// SizeOfXLogShortPHD, and SizeOfXLogLongPHD at the beginning of a file.
    const HEADS: [u64; 2] = [24, 40];
    let offset = lsn.0 % PAGE;
    if HEADS.contains(&offset) { Lsn(lsn.0 - offset) } else { lsn }
}

/// The end of the log now. Everything committed before lies at or before it.
pub async fn position(client: &Prepared) -> Result<PgPosition> {
    let first = ends(client).await?;
    let at = |lsn| PgPosition { system: first.system, timeline: first.timeline, lsn };
    if first.flushed >= first.inserted {
        return Ok(at(first.inserted));
    }
    for _ in 0..LOOKS {
        tokio::time::sleep(Duration::from_millis(1)).await;
        if ends(client).await?.flushed >= first.inserted {
            return Ok(at(first.inserted));
        }
    }
    flush(client).await?;
    // Not where the flush ended, which may lie inside of a record.
    Ok(at(first.inserted))
}

/// Makes the server flush its log up to here.
async fn flush(client: &Prepared) -> Result<()> {
    let sql = "BEGIN; SET LOCAL synchronous_commit = local; \
               SELECT pg_catalog.pg_logical_emit_message(true, 'crossfade', ''); COMMIT";
    client.batch_execute(sql).await.map_err(classify)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_behind_a_page_head_is_the_pages_beginning() {
        assert_eq!(before_page_head(Lsn(0x300_0028)), Lsn(0x300_0000));
        assert_eq!(before_page_head(Lsn(0x300_2018)), Lsn(0x300_2000));
        assert_eq!(before_page_head(Lsn(0x300_2038)), Lsn(0x300_2038));
    }
}
