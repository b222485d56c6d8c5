//! Crossfade's own tables in the application's database: made, found, kept up with the application's schema, removed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crossfade_core::{Error, Keeping, Result, Retained, TableName, TableSchema};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::catalog::{self, PREFIX, Table, quote, rows};
use crate::error::Doing;
use crate::location::Location;
use crate::mark::{Mark, RECOPY, millis};
use crate::notes;
use crate::shape;
use crate::triggers::{self, CHANGE, SUFFIXES, op, trigger_name};
use crate::upgrade;

/// The format of the control tables, the change table and the notes beside it; 1 lacked on whose behalf a note was made.
const FORMAT: i64 = 2;

/// A table that has a log.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its number in the change table.
    pub id: i64,
    /// The log is complete behind this row of the change table.
    pub since: i64,
    /// Its shape as decided.
    pub shape: Arc<TableSchema>,
    /// Its unique constraints, each as text.
    pub uniques: BTreeSet<String>,
}

/// The installation's id; `None` if there is none.
pub fn id(conn: &Connection) -> Result<Option<String>> {
    let doing = "looking for Crossfade's tables";
    let there = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = '_crossfade_install'";
    if conn.query_row(there, [], |r| r.get::<_, i64>(0)).doing(doing)? == 0 {
        return Ok(None);
    }
    let found: Option<(String, i64)> = conn
        .query_row("SELECT id, format FROM _crossfade_install", [], |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()
        .doing(doing)?;
    match found {
        None => Ok(None),
        Some((id, FORMAT)) => Ok(Some(id)),
        Some((_, other)) => {
            Err(Error::unavailable(format!("the change table has format {other}, this version knows {FORMAT}"))
                .hint("use the version of Crossfade that installed it, or `crossfade uninstall` and begin again"))
        }
    }
}

/// The installation's id, or an error that says how to make one.
pub fn require_id(conn: &Connection) -> Result<String> {
    id(conn)?.ok_or_else(|| {
        Error::unavailable("the database has no change table: Crossfade is not installed in it, or was removed")
            .hint("`crossfade run` installs it; if the pipeline ran before, its tables have to be copied anew")
    })
}

/// The last row of the change table: everything committed lies at or before it.
pub fn last_mark(conn: &Connection) -> Result<Mark> {
    mark(conn, "SELECT seq, at FROM _crossfade_change ORDER BY seq DESC LIMIT 1", [])?
        .ok_or_else(|| Error::unavailable("the change table is empty: somebody deleted from it").hint(RECOPY))
}

/// What the change table takes in the database's file; every page of it is looked at.
pub fn retained(conn: &Connection) -> Result<Option<Retained>> {
    if id(conn)?.is_none() {
        return Ok(None);
    }
    let doing = "measuring the change table";
    let sql = "SELECT COALESCE(sum(pgsize), 0) FROM dbstat WHERE name = '_crossfade_change' AND aggregate = TRUE";
    let bytes: i64 = conn.query_row(sql, [], |r| r.get(0)).doing(doing)?;
    let bytes = u64::try_from(bytes).unwrap_or_default();
    Ok(Some(Retained { by: "change table _crossfade_change".into(), bytes, room: None, keeping: Keeping::Safe }))
}

/// The row `seq` of the change table as a mark.
pub fn mark_at(conn: &Connection, seq: i64) -> Result<Option<Mark>> {
    mark(conn, "SELECT seq, at FROM _crossfade_change WHERE seq = ?1", [seq])
}

fn mark(conn: &Connection, sql: &str, params: impl rusqlite::Params) -> Result<Option<Mark>> {
    let doing = "reading the change table";
    let mut statement = conn.prepare_cached(sql).doing(doing)?;
    let found = statement.query_row(params, |r| Ok(Mark { seq: r.get(0)?, millis: millis(r.get(1)?) }));
    found.optional().doing(doing)
}

/// An error unless the change table still holds the very row that the mark names.
pub fn verify(conn: &Connection, mark: Mark) -> Result<()> {
    let found = mark_at(conn, mark.seq)?;
    if found == Some(mark) {
        return Ok(());
    }
    let what = match found {
        Some(other) => format!("row {} of the change table is another one (of {} ms)", mark.seq, other.millis),
        None => format!("the change table no longer holds row {}", mark.seq),
    };
    Err(Error::unavailable(format!(
        "{what}: the database was restored from a backup, or its log was pruned for another pipeline"
    ))
    .hint(RECOPY))
}

/// The error of a table whose log begins behind the place that is read.
pub fn begun_anew(table: &TableName, since: i64, at: impl std::fmt::Display) -> Error {
    Error::data(table, format!("its log begins at row {since}, behind {at}"))
        .hint(format!("the table was rebuilt, or its columns travel as other types now: copy it again with `crossfade snapshot {table}`"))
}

/// The tables that have a log.
pub fn known(conn: &Connection) -> Result<Vec<Known>> {
    let found = rows(conn, "SELECT id, since, shape, uniques FROM _crossfade_table ORDER BY id", [], |r| {
        Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?, r.get::<_, String>(2)?, r.get::<_, String>(3)?))
    })?;
    let parse = |(id, since, shape, uniques): (i64, i64, String, String)| {
        let broken = |e| Error::corrupt(format!("_crossfade_table, row {id}, cannot be read")).caused_by(e);
        let shape = Arc::new(serde_json::from_str(&shape).map_err(broken)?);
        let uniques = serde_json::from_str(&uniques).map_err(broken)?;
        Ok(Known { id, since, shape, uniques })
    };
    found.into_iter().map(parse).collect()
}

/// Installs what is missing and adopts what is there, in one transaction; returns the installation's id and the log's end.
pub fn begin(location: &Location, tables: &[Arc<TableSchema>]) -> Result<(String, Mark)> {
    let doing = "installing the change table and triggers";
    let mut conn = location.writer()?;
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).doing(doing)?;
    tx.execute_batch(include_str!("../../../schemas/sqlite-control.sql")).doing(doing)?;
    let id = match id(&tx)? {
        Some(id) => id,
        None => {
            tx.execute("INSERT INTO _crossfade_install VALUES (lower(hex(randomblob(8))), ?1)", [FORMAT])
                .doing(doing)?;
            tx.execute("INSERT INTO _crossfade_change(t, op, at) VALUES (0, ?1, julianday('now'))", [op::MARK])
                .doing(doing)?;
            require_id(&tx)?
        }
    };
    let known = known(&tx)?;
    for wanted in tables {
        let table = catalog::table(&tx, &wanted.name.name)?
            .ok_or_else(|| Error::data(&wanted.name, "the table is gone").hint("take it out of the pipeline"))?;
        shape::refuse(&table)?;
        match known.iter().find(|k| k.shape.name == wanted.name) {
            Some(known) => adopt(&tx, known, &table, wanted)?,
            None => {
                if !upgrade::same_columns(wanted, &table) {
                    return Err(Error::transient(format!("table {} was altered just now", wanted.name)));
                }
                let since = last_mark(&tx)?.seq;
                let shape = to_json(&shape::whole(&tx, &table, wanted)?)?;
                tx.execute(
                    "INSERT INTO _crossfade_table(name, since, shape, uniques) VALUES (?1, ?2, ?3, ?4)",
                    params![table.name, since, shape, to_json(&uniques(&table))?],
                )
                .doing(doing)?;
                create(&tx, &table, tx.last_insert_rowid())?;
            }
        }
    }
    let mark = last_mark(&tx)?;
    tx.commit().doing(doing)?;
    Ok((id, mark))
}

/// A table that has a log already: brings its triggers up to date. If they were lost, the log begins anew here, in the shape that
/// the table has now: it was rebuilt.
fn adopt(tx: &Connection, known: &Known, table: &Table, wanted: &TableSchema) -> Result<()> {
    let end = last_mark(tx)?.seq;
    let complete =
        upgrade::trigger_tables(tx, known.id)?.len() == SUFFIXES.len() && uniques(table).is_subset(&known.uniques);
    if complete {
        return upgrade::table(tx, known, end);
    }
    let shape = match upgrade::same_columns(&known.shape, table) {
        true => to_json(&*known.shape)?,
        false if upgrade::same_columns(wanted, table) => to_json(&shape::whole(tx, table, wanted)?)?,
        false => return Err(Error::transient(format!("table {} was altered just now", wanted.name))),
    };
    // What was written while the triggers were gone is in no log.
    begin_anew(tx, known.id, &shape, &to_json(&uniques(table))?)?;
    create(tx, table, known.id)
}

/// The log of a table begins here, in this shape. A mark of its own makes every position before it one that cannot be continued
/// from, also the last one that a pipeline may hold.
pub fn begin_anew(tx: &Connection, id: i64, shape: &str, uniques: &str) -> Result<()> {
    tx.execute("INSERT INTO _crossfade_change(t, op, at) VALUES (0, ?1, julianday('now'))", [op::MARK])
        .doing("marking where the log of a table begins anew")?;
    tx.execute(
        "UPDATE _crossfade_table SET since = ?2, shape = ?3, uniques = ?4 WHERE id = ?1",
        params![id, last_mark(tx)?.seq, shape, uniques],
    )
    .doing("beginning the log of a table anew")?;
    Ok(())
}

/// Each unique constraint as text, to tell new ones.
pub fn uniques(table: &Table) -> BTreeSet<String> {
    table.uniques.iter().map(|u| format!("{u:?}")).collect()
}

/// JSON of a value of our own.
pub fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::corrupt("a table's shape has no JSON form").caused_by(e))
}

/// Makes a table's helper tables and triggers anew, the triggers youngest: those run first in every version of SQLite so
/// far, which keeps the log in the order of events when the application's own triggers write too.
pub fn create(tx: &Connection, table: &Table, id: i64) -> Result<()> {
    let doing = format!("creating the triggers of {}", table.name);
    let run = |sql: &str| tx.execute_batch(sql).doing(&doing);
    let width = rows(tx, "SELECT name FROM pragma_table_info('_crossfade_change')", [], |r| r.get::<_, String>(0))?;
    let slots = width.iter().filter(|n| n.starts_with('c')).count();
    for slot in slots..table.columns.len() {
        run(&format!("ALTER TABLE {CHANGE} ADD COLUMN c{slot}"))?;
    }
    for suffix in SUFFIXES {
        run(&format!("DROP TRIGGER IF EXISTS {}", trigger_name(id, suffix)))?;
    }
    if let Some(helpers) = note_tables(tx)?.get(&id) {
        run(&notes::sql(table, id, helpers))?;
    }
    for name in helper_tables(tx, id)? {
        run(&format!("DROP TABLE {}", quote(&name)))?;
    }
    let script = triggers::script(table, id);
    for (_, sql) in script.helpers.iter().chain(&script.triggers) {
        run(sql)?;
    }
    Ok(())
}

/// The tables that hold notes of replaced rows, by the number of the table that they are about.
pub fn note_tables(conn: &Connection) -> Result<BTreeMap<i64, Vec<String>>> {
    let prefix = format!("{PREFIX}touched_");
    let mut found: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for name in own(conn, "table")? {
        let id = name.strip_prefix(&prefix).and_then(|rest| rest.split('_').next()).and_then(|id| id.parse().ok());
        if let Some(id) = id {
            found.entry(id).or_default().push(name);
        }
    }
    Ok(found)
}

/// The helper tables of a table that there are.
fn helper_tables(conn: &Connection, id: i64) -> Result<Vec<String>> {
    let (touched, probe) = (format!("{PREFIX}touched_{id}_"), format!("{PREFIX}probe_{id}"));
    let mut names = own(conn, "table")?;
    names.retain(|n| n.starts_with(&touched) || *n == probe);
    Ok(names)
}

/// Everything of a kind that carries our prefix.
fn own(conn: &Connection, kind: &str) -> Result<Vec<String>> {
    let mut names =
        rows(conn, "SELECT name FROM sqlite_schema WHERE type = ?1 ORDER BY name", [kind], |r| r.get::<_, String>(0))?;
    names.retain(|n| n.starts_with(PREFIX));
    Ok(names)
}

/// Removes all that was installed; returns the names of what was removed.
pub fn remove(location: &Location) -> Result<Vec<String>> {
    let doing = "removing Crossfade's tables and triggers";
    let mut conn = location.writer()?;
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).doing(doing)?;
    let mut removed = Vec::new();
    for kind in ["trigger", "table"] {
        for name in own(&tx, kind)? {
            tx.execute_batch(&format!("DROP {kind} {}", quote(&name))).doing(doing)?;
            removed.push(name);
        }
    }
    tx.commit().doing(doing)?;
    Ok(removed)
}
