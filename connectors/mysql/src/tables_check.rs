//! The part of the preflight check that looks at tables.

use std::collections::BTreeSet;

use crossfade_core::{Finding, ForeignKey, Result};

use crate::catalog::{FULL, TableInfo, key_fix, keyless_fix, quote, quote_table, row_image};
use crate::connect::{Flavor, Server};
use crate::grants::Grants;
use crate::rows::select_list;
use crate::session::Session;

/// Adds what there is to say about the selected tables.
pub fn check(
    server: &Server,
    session: &mut Session,
    tables: &[TableInfo],
    grants: &Grants,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    if tables.is_empty() {
        let fix = "correct the selection of tables, or GRANT SELECT: tables without any privilege are not shown";
        findings.push(Finding::critical("tables", "at least one", "none is selected", fix));
        return Ok(());
    }
    let before = findings.len();
    let image = match tables.iter().any(|t| t.schema.key.is_empty()) {
        true => row_image(session)?,
        false => FULL.into(),
    };
    for table in tables {
        one(table, &image, findings);
        select_privilege(session, table, grants, findings)?;
    }
    findings.extend(indexes(tables));
    if !logs_cascades(server) {
        findings.extend(cascades(tables));
    }
    if server.flavor == Flavor::MySql {
        lock_privilege(tables, grants, findings);
    }
    if findings.len() == before {
        findings.push(Finding::ok("tables", tables.len().to_string()));
    }
    Ok(())
}

fn one(table: &TableInfo, image: &str, findings: &mut Vec<Finding>) {
    let name = &table.schema.name;
    let setting = format!("table {name}");
    for (what, fix) in &table.refused {
        findings.push(Finding::refused(name, "types that are carried exactly", what, fix));
    }
    if table.schema.key.is_empty() {
        let actual = "no primary key and no unique index over NOT NULL columns";
        findings.push(if image.eq_ignore_ascii_case(FULL) {
            let expected = "a key (else deletes and updates search the whole table at the target, and its copy, in one piece, \
                            holds the stream at the table's next change)";
            Finding::warning(&setting, expected, actual, key_fix(name))
        } else {
            let expected = format!("a key, or binlog_row_image = {FULL}");
            let actual = format!("{actual}; binlog_row_image = {image}");
            Finding::refused(name, expected, actual, format!("{}; or exclude the table", keyless_fix(name)))
        });
    }
    if !table.engine.eq_ignore_ascii_case("InnoDB") {
        let fix = format!("ALTER TABLE {} ENGINE = InnoDB", quote_table(name));
        let expected = "InnoDB (else a snapshot is not consistent, and verification must not run beside writers)";
        findings.push(Finding::warning(&setting, expected, &table.engine, fix));
    }
}

/// A list for people: the first ten, and how many more there are.
fn list(all: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown = all.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Secondary indexes that are not carried.
fn indexes(tables: &[TableInfo]) -> Option<Finding> {
    let of = |t: &TableInfo| {
        let name = t.schema.name.clone();
        t.left_out.iter().map(move |(index, why)| format!("{name}.{index} ({why})")).collect::<Vec<_>>()
    };
    let left_out: Vec<String> = tables.iter().flat_map(of).collect();
    (!left_out.is_empty()).then(|| {
        let actual = format!("not carried: {}", list(&left_out));
        Finding::warning("indexes", "over whole columns", actual, "create their like on the target by hand")
    })
}

/// Foreign keys through which the server changes rows unseen.
fn cascades(tables: &[TableInfo]) -> Option<Finding> {
    let changes = |rule: &str| matches!(rule, "CASCADE" | "SET NULL" | "SET DEFAULT");
    let keys = || tables.iter().flat_map(|t| t.schema.foreign_keys.iter().map(|k| (&t.schema.name, k)));
    let pick = |wanted: &dyn Fn(&ForeignKey) -> Option<String>| -> Vec<String> {
        keys().filter_map(|(table, key)| Some(format!("{table}.{} {}", key.name, wanted(key)?))).collect()
    };
    let on_delete = pick(&|k| changes(&k.on_delete).then(|| format!("ON DELETE {}", k.on_delete)));
    let on_update =
        pick(&|k| (changes(&k.on_update) && !changes(&k.on_delete)).then(|| format!("ON UPDATE {}", k.on_update)));
    let mut actual = list(&on_delete);
    if !on_update.is_empty() {
        let also = if on_delete.is_empty() { "" } else { "; " };
        actual += &format!("{also}only when a parent's key is updated: {}", list(&on_update));
    }
    (!actual.is_empty()).then(|| {
        Finding::warning(
            "foreign keys",
            "none that cascades (rows that the server changes through them are not in the log)",
            actual,
            "ALTER TABLE ... DROP FOREIGN KEY ..., and delete in the application; or keep the same foreign keys on the \
             target, and verify often",
        )
    })
}

/// MySQL 9.6 moved cascades out of the engine, which made them part of the log.
fn logs_cascades(server: &Server) -> bool {
    server.flavor == Flavor::MySql && server.version >= (9, 6, 0)
}

fn select_privilege(
    session: &mut Session,
    table: &TableInfo,
    grants: &Grants,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    if table.schema.columns.is_empty() {
        return Ok(());
    }
    let place = quote_table(&table.schema.name);
    let query = format!("SELECT {} FROM {place} LIMIT 0", select_list(table.schema.columns.iter()));
    match session.rows(&query) {
        Ok(_) => Ok(()),
        Err(e) if e.is_transient() => Err(e),
        Err(e) => {
            let fix = format!("GRANT SELECT ON {place} TO {}", grants.user());
            findings.push(Finding::critical(format!("table {}", table.schema.name), "readable", e.to_string(), fix));
            Ok(())
        }
    }
}

/// An exact snapshot of MySQL takes a lock for a moment.
fn lock_privilege(tables: &[TableInfo], grants: &Grants, findings: &mut Vec<Finding>) {
    let databases: BTreeSet<&str> = tables.iter().map(|t| t.schema.name.schema.as_str()).collect();
    for database in databases {
        if !grants.has("LOCK TABLES", database) {
            findings.push(Finding::warning(
                format!("privilege LOCK TABLES on {database}"),
                "granted (verification locks the tables for a moment)",
                "missing",
                format!("GRANT LOCK TABLES ON {}.* TO {}", quote(database), grants.user()),
            ));
        }
    }
}
