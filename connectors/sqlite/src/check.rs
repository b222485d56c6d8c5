//! Compares the database with what a lossless pipeline needs. Changes nothing.

use crossfade_core::{Finding, Logical, Result, Selection};
use rusqlite::Connection;

use crate::catalog::{self, Table, quote, rows};
use crate::error::Doing;
use crate::install;
use crate::location::{Location, journal_mode};
use crate::shape;

/// Why a virtual table cannot be carried: name, reason, fix.
pub fn virtual_table(name: &str) -> (String, String, String) {
    let shown = shape::name_of(name);
    let why = "it is a virtual table, on which SQLite has no triggers".to_owned();
    (name.to_owned(), why, format!("exclude {shown}, and build it anew from its content at the target"))
}

/// All findings.
pub fn run(location: &Location, selection: &Selection) -> Result<Vec<Finding>> {
    let conn = location.reader()?;
    let mut out = vec![Finding::ok("file", location.path.display().to_string())];
    out.extend(writable(&conn, location)?);
    out.push(journal(&conn)?);
    out.push(match install::id(&conn)? {
        Some(id) => Finding::ok("change table", format!("installed as {id}")),
        None => Finding::ok("change table", "not installed yet"),
    });
    for (name, is_virtual) in catalog::table_names(&conn)? {
        if !selection.admits(&shape::name_of(&name)) {
            continue;
        }
        let setting = format!("table {}", shape::name_of(&name));
        if is_virtual {
            let (_, why, fix) = virtual_table(&name);
            out.push(Finding::refused(&shape::name_of(&name), "a table of its own", why, fix));
            continue;
        }
        let Some(table) = catalog::table(&conn, &name)? else { continue };
        match shape::obstacle(&table) {
            Some((why, fix)) => out.push(Finding::refused(&shape::name_of(&name), "a key", why, fix)),
            None => out.extend(of_table(&conn, &table, setting)?),
        }
    }
    Ok(out)
}

/// Whether Crossfade may write the file, and beside it the journal or the WAL. SQLite itself is asked about the file: to
/// open and close it behind SQLite's back would drop every lock that this process holds on it.
fn writable(conn: &Connection, location: &Location) -> Result<Vec<Finding>> {
    let fix = "run Crossfade as the application's user, or grant its user write access to the file and its folder";
    let folder = location.path.parent().filter(|p| !p.as_os_str().is_empty()).map_or(".".into(), |p| p.to_path_buf());
    let finding = |setting: &str, read_only: Result<bool, String>| match read_only {
        Ok(false) => Finding::ok(setting, "yes"),
        Ok(true) => Finding::critical(setting, "yes", "no", fix),
        Err(e) => Finding::critical(setting, "yes", e, fix),
    };
    Ok(vec![
        finding("write access to the file", Ok(conn.is_readonly("main").doing("looking at the database's file")?)),
        finding(
            "write access to the folder",
            std::fs::metadata(&folder).map(|m| m.permissions().readonly()).map_err(|e| e.to_string()),
        ),
    ])
}

fn journal(conn: &Connection) -> Result<Finding> {
    let mode = journal_mode(conn)?;
    Ok(match mode.as_str() {
        "wal" => Finding::ok("journal_mode", mode),
        "off" | "memory" => Finding::critical(
            "journal_mode",
            "wal",
            format!("{mode}: a crash of the application can corrupt the database"),
            "PRAGMA journal_mode = wal",
        ),
        _ => Finding::warning(
            "journal_mode",
            "wal",
            format!("{mode}: readers and writers wait for each other, so every program needs a busy_timeout"),
            "PRAGMA journal_mode = wal",
        ),
    })
}

/// What an operator should know of a table that can be carried.
fn of_table(conn: &Connection, table: &Table, setting: String) -> Result<Vec<Finding>> {
    let mut out = Vec::new();
    let logical = shape::decide(conn, table, 0)?;
    for (column, logical) in table.columns.iter().zip(logical) {
        let untyped = column.declared.is_empty() || column.declared.eq_ignore_ascii_case("any");
        if logical == Logical::Literal && !untyped {
            out.push(Finding::warning(
                format!("column {}.{}", shape::name_of(&table.name), column.name),
                format!("values of the declared type {}", column.declared),
                "values of other types, or a type that fixes none: it is carried as SQL literals",
                format!("SELECT typeof({0}), count(*) FROM {1} GROUP BY 1", quote(&column.name), quote(&table.name)),
            ));
        }
    }
    for index in &table.odd_indexes {
        out.push(Finding::warning(
            format!("index {index}"),
            "plain columns",
            "a partial index or one of expressions: it is not made at the target",
            "create its equal at the target by hand",
        ));
    }
    let nulls: Vec<String> =
        table.key.iter().map(|(i, _)| format!("{} IS NULL", quote(&table.columns[*i].name))).collect();
    let sql = format!("SELECT EXISTS (SELECT 1 FROM {} WHERE {})", quote(&table.name), nulls.join(" OR "));
    if conn.query_row(&sql, [], |r| r.get(0)).doing("looking for NULL in keys")? {
        out.push(Finding::critical(&setting, "keys without NULL", "a row has NULL in its key", sql));
    }
    let writers = rows(
        conn,
        "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 AND name NOT LIKE '\\_crossfade\\_%' ESCAPE '\\' \
         AND upper(sql) LIKE '%BEFORE%'",
        [&table.name],
        |r| r.get::<_, String>(0),
    )?;
    for trigger in writers {
        out.push(Finding::warning(
            format!("trigger {trigger}"),
            "no before-trigger that writes into its own table",
            "a before-trigger: a row that it adds and the same statement's OR REPLACE takes away again would be missed",
            "make it an after-trigger, if it writes into its own table",
        ));
    }
    if out.iter().all(|f| f.level != crossfade_core::Level::Critical) {
        out.insert(0, Finding::ok(setting, "carried"));
    }
    Ok(out)
}
