//! Whether the log of a slot goes on exactly where a position ends.
//!
//! The server itself starts in silence behind a gap: a slot that was dropped and created again, or advanced by somebody,
//! begins at its own `confirmed_flush_lsn`, whatever we ask for (`CreateDecodingContext` in
//! `src/backend/replication/logical/logical.c`). And a standby that was promoted before it had all of its primary's log goes
//! on with another one. So identity, timeline and slot are compared with the position before a byte of the log is read.

use std::sync::Arc;

use crossfade_core::{Error, Result, TableName, TableSchema};

use super::position::{Lsn, PgPosition};
use super::wire::{Replication, Row};

const AGAIN: &str = "drop the slot, and copy the tables again";

/// Compares all that must agree; the position on the server's present timeline.
pub fn verify(
    wire: &mut Replication,
    slot: &str,
    publication: &str,
    from: &PgPosition,
    tables: &[Arc<TableSchema>],
) -> Result<PgPosition> {
    let identity = wire.simple("IDENTIFY_SYSTEM")?;
    let system: u64 = number(&identity, 0)?;
    let timeline: u32 = number(&identity, 1)?;
    if system != from.system {
        let message = format!("position {from} is of another server: this one's system identifier is {system}");
        return Err(Error::unavailable(message)
            .hint("a log position holds on one server and its standbys only: name that server, or copy anew"));
    }
    if timeline != from.timeline {
        branched(wire, timeline, from)?;
    }
    self::slot(wire, slot, from)?;
    published(wire, publication, tables)?;
    Ok(PgPosition { timeline, ..*from })
}

fn cell(rows: &[Row], column: usize) -> Option<&str> {
    rows.first()?.get(column)?.as_deref()
}

fn number<T: std::str::FromStr>(rows: &[Row], column: usize) -> Result<T> {
    cell(rows, column)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Error::corrupt("the server's answer to IDENTIFY_SYSTEM cannot be read"))
}

/// The server's timeline must have left the position's at or behind the position.
fn branched(wire: &mut Replication, timeline: u32, from: &PgPosition) -> Result<()> {
    let refuse = |what: String| {
        Error::unavailable(format!("position {from}: {what}")).hint(
            "this server's log is not the one that was read (a standby was promoted behind it): copy anew from here",
        )
    };
    if timeline < from.timeline {
        return Err(refuse(format!("the server is on timeline {timeline}, before the position's")));
    }
    let history = wire.simple(&format!("TIMELINE_HISTORY {timeline}"))?;
    let left = cell(&history, 1).and_then(|text| switch_point(text, from.timeline));
    match left {
        Some(at) if at >= from.lsn => Ok(()),
        Some(at) => Err(refuse(format!("the server's timeline {timeline} left timeline {} at {at}", from.timeline))),
        None => Err(refuse(format!("the server's timeline {timeline} does not come from timeline {}", from.timeline))),
    }
}

/// Where a history file (`parent, switch point, reason` a line; `src/backend/access/transam/timeline.c`) leaves a timeline.
fn switch_point(history: &str, timeline: u32) -> Option<Lsn> {
    history.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let parent: u32 = fields.next()?.parse().ok()?;
        (parent == timeline).then_some(())?;
        fields.next()?.parse().ok()
    })
}

fn slot(wire: &mut Replication, slot: &str, from: &PgPosition) -> Result<()> {
    let rows = wire.simple(&format!(
        "SELECT plugin, database, database = pg_catalog.current_database(), active_pid, confirmed_flush_lsn, wal_status \
         FROM pg_catalog.pg_replication_slots WHERE slot_name = '{}'",
        slot.replace('\'', "''")
    ))?;
    let fatal = |what: String| Error::unavailable(format!("replication slot {slot}: {what}"));
    if rows.is_empty() {
        return Err(fatal(format!("it is gone, and with it the log after {from}")).hint("copy the tables again"));
    }
    if cell(&rows, 0) != Some("pgoutput") {
        let plugin = cell(&rows, 0).unwrap_or("none, it is physical");
        return Err(
            fatal(format!("its output plugin is {plugin}, and not pgoutput")).hint("give the slot another name")
        );
    }
    if cell(&rows, 2) != Some("t") {
        let database = cell(&rows, 1).unwrap_or("another");
        return Err(fatal(format!("it is of database {database}")).hint("give the slot another name"));
    }
    if cell(&rows, 5) == Some("lost") {
        return Err(fatal("the server has discarded log that it needs (wal_status lost)".into())
            .hint(format!("raise max_slot_wal_keep_size, {AGAIN}")));
    }
    if let Some(pid) = cell(&rows, 3) {
        return Err(Error::transient(format!("replication slot {slot}: process {pid} of the server uses it"))
            .hint("another pipeline, or the rest of a lost connection, which ends after wal_sender_timeout"));
    }
    let confirmed: Lsn = cell(&rows, 4).unwrap_or("0/0").parse()?;
    if confirmed > from.lsn {
        let message = format!("it begins at {confirmed}, and we are at {}: the log between them is gone", from.lsn);
        let hint = format!("the slot was created again, or somebody advanced it: {AGAIN}");
        return Err(fatal(message).hint(hint));
    }
    Ok(())
}

/// Rows of a table outside of the publication would be missing in silence.
fn published(wire: &mut Replication, publication: &str, tables: &[Arc<TableSchema>]) -> Result<()> {
    let literal = publication.replace('\'', "''");
    let fatal = |what: String| Error::unavailable(format!("publication {publication}: {what}"));
    let operations = wire.simple(&format!(
        "SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate \
         FROM pg_catalog.pg_publication WHERE pubname = '{literal}'"
    ))?;
    let name = publication.replace('"', "\"\"");
    match cell(&operations, 0) {
        Some("t") => {}
        Some(_) => {
            let hint = format!(
                "ALTER PUBLICATION \"{name}\" SET (publish = 'insert, update, delete, truncate'); then {AGAIN}"
            );
            return Err(fatal("it does not publish all operations".into()).hint(hint));
        }
        None => return Err(fatal("it is gone".into()).hint(format!("{AGAIN}; CREATE PUBLICATION comes with that"))),
    }
    let rows = wire.simple(&format!(
        "SELECT schemaname, tablename, rowfilter FROM pg_catalog.pg_publication_tables WHERE pubname = '{literal}'"
    ))?;
    let column = |row: &Row, i: usize| row.get(i).cloned().flatten();
    let found = |name: &TableName| {
        let same = |row: &&Row| {
            column(row, 0).as_deref() == Some(&name.schema) && column(row, 1).as_deref() == Some(&name.name)
        };
        rows.iter().find(same)
    };
    for table in tables {
        let Some(row) = found(&table.name) else {
            let hint = format!(
                "exclude the table; or ALTER PUBLICATION \"{name}\" ADD TABLE {}; and copy it again with `crossfade snapshot TABLE`",
                table.name
            );
            return Err(fatal(format!("table {} is not in it", table.name)).hint(hint));
        };
        if let Some(filter) = column(row, 2) {
            return Err(fatal(format!("it leaves out rows of table {}: WHERE {filter}", table.name))
                .hint(format!("publish the table without a row filter, then {AGAIN}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_files() {
        let text = "1\t0/3000148\tno recovery target specified\n\n2\t1/5000000\tbefore 2000-01-01 05:00:00+05\n";
        assert_eq!(switch_point(text, 1), Some(Lsn(0x300_0148)));
        assert_eq!(switch_point(text, 2), Some(Lsn(0x1_0500_0000)));
        assert_eq!(switch_point(text, 3), None);
    }
}
