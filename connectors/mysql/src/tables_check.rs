//! The part of the preflight check that looks at tables.

use std::collections::BTreeSet;

use crossfade_core::{Finding, Result};

use crate::catalog::{TableInfo, key_fix, quote, quote_table};
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
    for table in tables {
        one(server, table, findings);
        select_privilege(session, table, grants, findings)?;
    }
    if server.flavor == Flavor::MySql {
        lock_privilege(tables, grants, findings);
    }
    if findings.len() == before {
        findings.push(Finding::ok("tables", tables.len().to_string()));
    }
    Ok(())
}

fn one(server: &Server, table: &TableInfo, findings: &mut Vec<Finding>) {
    let name = &table.schema.name;
    let setting = format!("table {name}");
    for (what, fix) in &table.refused {
        findings.push(Finding::critical(&setting, "types that are carried exactly", what, fix));
    }
    if table.schema.key.is_empty() {
        let actual = "no primary key and no unique index over NOT NULL columns";
        findings.push(Finding::critical(&setting, "a key", actual, format!("{}; or exclude the table", key_fix(name))));
    }
    if !table.engine.eq_ignore_ascii_case("InnoDB") {
        let fix = format!("ALTER TABLE {} ENGINE = InnoDB", quote_table(name));
        let expected = "InnoDB (else a snapshot is not consistent, and verification must not run beside writers)";
        findings.push(Finding::warning(&setting, expected, &table.engine, fix));
    }
    for (index, why) in &table.left_out {
        let actual = format!("index {index} is not carried: {why}");
        findings.push(Finding::warning(
            &setting,
            "indexes over whole columns",
            actual,
            "create its like on the target by hand",
        ));
    }
    if logs_cascades(server) {
        return;
    }
    for key in &table.schema.foreign_keys {
        let changes = |rule: &str| matches!(rule, "CASCADE" | "SET NULL" | "SET DEFAULT");
        if changes(&key.on_delete) || changes(&key.on_update) {
            let actual = format!("foreign key {} ON DELETE {} ON UPDATE {}", key.name, key.on_delete, key.on_update);
            findings.push(Finding::warning(
                &setting,
                "no cascading foreign keys (rows that the server changes through them are not in the log)",
                actual,
                format!(
                    "ALTER TABLE {} DROP FOREIGN KEY {}, and delete in the application; or keep the same foreign key on \
                     the target, and verify often",
                    quote_table(name),
                    quote(&key.name)
                ),
            ));
        }
    }
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
