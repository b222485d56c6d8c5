//! Whether the log of a slot goes on exactly where a position ends.
//!
//! The server itself starts in silence behind a gap: a slot that was dropped and created again, or advanced by somebody,
//! begins at its own `confirmed_flush_lsn`, whatever we ask for (`CreateDecodingContext` in
//! `src/backend/replication/logical/logical.c`). And a standby that was promoted before it had all of its primary's log goes
//! on with another one. So identity, timeline and slot are compared with the position before a byte of the log is read.

use std::sync::Arc;

use crossfade_core::{Error, Result, TableSchema};

use super::position::{Lsn, PgPosition};
use super::publication::{self, Publication};
use super::tables::replaced;
use super::wire::{Replication, Row};
use crate::options::Origin;

/// The first version that sends messages, and transactions while they are open.
const STREAMING: u32 = 140_000;

/// The first version that tells what was made there from what was replicated to it.
const ORIGINS: u32 = 160_000;

/// What the output plugin is asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Plugin(Vec<(&'static str, &'static str)>);

impl Plugin {
    /// Names and values of its options.
    pub fn list(&self) -> &[(&'static str, &'static str)] {
        &self.0
    }

    /// Whether transactions may come while they are open.
    pub fn streams(&self) -> bool {
        self.0.contains(&("streaming", "on"))
    }
}

/// What the output plugin of a server is asked for ("Logical Streaming Replication Parameters" of its documentation). An option
/// that it does not know it refuses.
pub fn plugin_options(version: u32, streaming: bool, origin: Origin) -> Result<Plugin> {
    let streaming = version >= STREAMING && streaming;
    let mut list = vec![("proto_version", if streaming { "2" } else { "1" })];
    if version >= STREAMING {
        // Heartbeats and fences that somebody writes to the log move the position at once.
        list.push(("messages", "true"));
    }
    if streaming {
        list.push(("streaming", "on"));
    }
    match origin {
        Origin::Any => {}
        Origin::None if version >= ORIGINS => list.push(("origin", "none")),
        Origin::None => return Err(Error::config(NO_ORIGIN).hint(ORIGIN_HINT)),
    }
    Ok(Plugin(list))
}

/// Why a server refuses `origin=none`.
pub const NO_ORIGIN: &str =
    "origin=none: before version 16 Postgres does not tell what was made there from what was replicated to it";

/// What mends that.
pub const ORIGIN_HINT: &str = "upgrade the server to Postgres 16 or later, or leave origin out of the URL and exclude the tables \
    that are replicated to it";

/// The way on from a log that is lost.
const AGAIN: &str = "`crossfade slot drop`, then `crossfade snapshot '*'` (makes the slot anew) and `crossfade run` copy all tables \
    again; or begin a pipeline of another --name";

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
    reaches(&identity, from)?;
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

/// A server whose log ends before the position has lost what came after (it was restored from a copy of its disk, or crashed
/// without `fsync`): it would send nothing until its new log has passed the position, and skip that in silence.
fn reaches(identity: &[Row], from: &PgPosition) -> Result<()> {
    /// A position may point behind the head of a page that has not been written yet (SizeOfXLogLongPHD).
    const HEAD: u64 = 40;
    let end: Lsn = cell(identity, 2).unwrap_or_default().parse()?;
    if from.lsn.0.saturating_sub(end.0) <= HEAD {
        return Ok(());
    }
    let message =
        format!("position {from}: the server's log ends at {end}; the target holds changes that the server has lost");
    Err(Error::unavailable(message).hint(format!("once the server's log has passed {}: {AGAIN}", from.lsn)))
}

/// The server's timeline must have left the position's at or behind the position.
fn branched(wire: &mut Replication, timeline: u32, from: &PgPosition) -> Result<()> {
    let refuse = |what: String| {
        let lost = "the target holds changes that this server lost or never had (a standby was promoted behind them)";
        Error::unavailable(format!("position {from}: {what}: {lost}")).hint(format!(
            "compare with the former primary what must not be lost; to go on from this server as it is, once its log has passed \
             {}: {AGAIN}",
            from.lsn
        ))
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
        "SELECT plugin, database, database = pg_catalog.current_database(), active_pid, confirmed_flush_lsn, wal_status, \
             pg_catalog.to_jsonb(s) ->> 'invalidation_reason', pg_catalog.to_jsonb(s) ->> 'two_phase' \
         FROM pg_catalog.pg_replication_slots s WHERE slot_name = '{}'",
        slot.replace('\'', "''")
    ))?;
    let fatal = |what: String| Error::unavailable(format!("replication slot {slot}: {what}"));
    if rows.is_empty() {
        let what = format!("it is gone, and with it the log after {from}");
        return Err(fatal(what).hint(format!(
            "somebody dropped it, or a standby was promoted that had no copy of it (slots survive a failover from Postgres 17 on: \
             sync_replication_slots): {AGAIN}"
        )));
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
    if cell(&rows, 7) == Some("true") {
        let what = "it was made with two_phase, and would show prepared transactions before they commit";
        return Err(fatal(what.to_owned()).hint(format!("{AGAIN}; Crossfade makes slots without two_phase")));
    }
    if cell(&rows, 5) == Some("lost") {
        let what = match cell(&rows, 6) {
            Some("idle_timeout") => "the server gave it up, since nobody used it within idle_replication_slot_timeout",
            Some("wal_level_insufficient") => "the server gave it up, since wal_level was not logical for a while",
            _ => "the server has discarded log that it needs, since it held back more than max_slot_wal_keep_size",
        };
        return Err(fatal(format!("{what} (wal_status lost)")).hint(format!("raise that setting; then {AGAIN}")));
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

/// Rows of a table outside of the publication would be missing in silence; and so would be what a table that took the name of
/// another held before.
fn published(wire: &mut Replication, publication: &str, tables: &[Arc<TableSchema>]) -> Result<()> {
    let rows = wire.simple(&publication::statement(publication))?;
    let found = Publication::of(publication, &rows)?.ok_or_else(|| Publication::gone(publication))?;
    found.verify(tables.iter().map(|t| &t.name))?;
    let other = |t: &&Arc<TableSchema>| t.number != 0 && found.oid(&t.name).is_some_and(|oid| oid != t.number);
    tables.iter().find(other).map_or(Ok(()), |t| Err(replaced(&t.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_version_is_asked_for() {
        let asked = |version: u32, streaming: bool, origin: Origin| {
            let plugin = plugin_options(version, streaming, origin)?;
            let list: Vec<String> = plugin.list().iter().map(|(n, v)| format!("{n}={v}")).collect();
            Ok::<_, Error>((list.join(" "), plugin.streams()))
        };
        let streaming = ("proto_version=2 messages=true streaming=on".to_owned(), true);
        assert_eq!(asked(130_022, true, Origin::Any).unwrap(), ("proto_version=1".into(), false));
        assert_eq!(asked(140_000, true, Origin::Any).unwrap(), streaming);
        assert_eq!(asked(150_000, false, Origin::Any).unwrap(), ("proto_version=1 messages=true".into(), false));
        let none = "proto_version=1 messages=true origin=none".to_owned();
        assert_eq!(asked(160_000, false, Origin::None).unwrap(), (none, false));
        let refused = asked(159_999, true, Origin::None).unwrap_err();
        assert!(refused.to_string().contains("version 16") && refused.hint_text().is_some(), "{refused:?}");
    }

    #[test]
    fn history_files() {
        let text = "1\t0/3000148\tno recovery target specified\n\n2\t1/5000000\tbefore 2000-01-01 05:00:00+05\n";
        assert_eq!(switch_point(text, 1), Some(Lsn(0x300_0148)));
        assert_eq!(switch_point(text, 2), Some(Lsn(0x1_0500_0000)));
        assert_eq!(switch_point(text, 3), None);
    }
}
