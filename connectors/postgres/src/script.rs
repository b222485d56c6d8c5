//! Everything that a pipeline makes at a Postgres target, as a script for `psql`: what `crossfade schema` prints.
//!
//! It holds the very statements of [`ddl`], [`finish`] and [`details`], in their order and with the names that they would
//! choose in a database that has none of the tables, so that a database made by it and one made by `run` are the same. What is
//! not carried is named by comments. Text from a source may hold anything, so a comment is cut into lines before it is
//! written: no name can end it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crossfade_core::{Details, Result, TableSchema};

use crate::catalog::{Existing, ExistingIndex};
use crate::quote::{self, ident, idents};
use crate::{ddl, details, finish};

/// Settings under which the statements mean what they mean in a session of Crossfade.
const SETTINGS: &str = "\
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET search_path = '';
";

/// Stands between what must be there before a copy and what comes after it.
const REST: &str = "
-- Up to here: what `crossfade run` makes, or finds, when it begins. What follows it makes at the end of the initial copy. Made
-- before, indexes slow the copy down, and rows that exchange values of a unique index while it runs would stop it.
";

/// The script that makes these tables.
pub fn script(tables: &[(Arc<TableSchema>, Details)]) -> Result<String> {
    let all: Vec<Arc<TableSchema>> = tables.iter().map(|(t, _)| Arc::clone(t)).collect();
    let mut out = String::from(SETTINGS);
    let mut taken: HashMap<&str, HashSet<String>> = HashMap::new();
    let mut schemas: Vec<&str> = all.iter().map(|t| t.name.schema.as_str()).collect();
    schemas.sort_unstable();
    schemas.dedup();
    out.push('\n');
    // Every database has it; to create it if it does not exist needs the privilege to create it even so.
    for schema in schemas.into_iter().filter(|s| *s != "public") {
        statement(&mut out, &ddl::create_schema(schema));
    }
    for table in &all {
        ddl::create(table)?.iter().for_each(|s| statement(&mut out, s));
        let names = taken.entry(table.name.schema.as_str()).or_default();
        names.insert(table.name.name.clone());
        let numbered = table.columns.iter().filter(|c| c.auto_increment);
        names.extend(numbered.map(|c| format!("{}_{}_seq", table.name.name, c.name)));
    }
    let mut rest = String::new();
    for table in &all {
        let names = taken.entry(table.name.schema.as_str()).or_default();
        let existing = existing(table, names);
        if let Some(key) = existing.indexes.first() {
            let (name, columns) = (quote::table(&table.name), idents(key.columns.iter().map(String::as_str)));
            statement(
                &mut out,
                &format!("ALTER TABLE {name} ADD CONSTRAINT {} PRIMARY KEY ({columns})", ident(&key.name)),
            );
            names.insert(key.name.clone());
        }
        for (name, create) in finish::indexes(table, &all, &existing, names) {
            statement(&mut rest, &create);
            names.insert(name);
        }
    }
    for table in &all {
        for key in &table.foreign_keys {
            match finish::foreign_key(table, key, &all) {
                Ok(add) => statement(&mut rest, &add),
                Err(why) => not_carried(&mut rest, table, &format!("foreign key {}", key.name), &why),
            }
        }
    }
    for (table, of) in tables {
        details::statements(table, of).iter().for_each(|s| statement(&mut rest, s));
        of.left_out.iter().chain(&of.notes).for_each(|l| not_carried(&mut rest, table, &l.what, &l.why));
    }
    if !rest.is_empty() {
        out.push_str(REST);
        out.push('\n');
        out.push_str(&rest);
    }
    Ok(out)
}

/// The table as it stands when it gets its indexes: with its key's.
fn existing(table: &TableSchema, taken: &HashSet<String>) -> Existing {
    let [wanted, other] = ddl::key_names(table);
    let name = if taken.contains(&wanted) { other } else { wanted };
    let columns: Vec<String> = table.key_columns().map(|c| c.name.clone()).collect();
    let key = (!columns.is_empty()).then_some(ExistingIndex { name, columns, unique: true, primary: true });
    Existing { oid: 0, owned: true, kind: 'r', columns: vec![], indexes: key.into_iter().collect() }
}

fn statement(out: &mut String, sql: &str) {
    out.push_str(sql);
    out.push_str(";\n");
}

fn not_carried(out: &mut String, table: &TableSchema, what: &str, why: &str) {
    for line in format!("Not carried: table {}, {what}: {why}", table.name).split(['\n', '\r']) {
        out.push_str("-- ");
        out.push_str(line);
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_ends_a_comment() {
        let table = TableSchema {
            name: crossfade_core::TableName::new("s", "t\nDROP TABLE x"),
            version: 1,
            columns: vec![],
            key: vec![],
            indexes: vec![],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        };
        let mut out = String::new();
        not_carried(&mut out, &table, "index a\r; b", "why");
        assert!(out.lines().all(|l| l.starts_with("-- ")) && !out.contains('\r'), "{out}");
    }
}
