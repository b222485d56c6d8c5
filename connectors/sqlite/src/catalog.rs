//! What SQLite knows of a table: columns, key, every unique constraint, indexes, references.
//!
//! The unique constraints matter beyond the target's schema: `INSERT OR REPLACE` deletes, without firing a delete
//! trigger, every row that conflicts on *any* of them, so the triggers must ask each one (see `triggers`). That
//! includes the rowid, partial indexes and indexes of expressions, each under its own collation.

use std::collections::HashMap;

use crossfade_core::{Error, Result};
use rusqlite::Connection;

use crate::error::Doing;
use crate::index_sql;

/// SQLite's own name of the database file's schema.
pub const SCHEMA: &str = "main";
/// Tables and triggers of this connector begin with it.
pub const PREFIX: &str = "_crossfade_";

/// A table as SQLite describes it.
#[derive(Debug, Clone)]
pub struct Table {
    /// Unquoted.
    pub name: String,
    /// In order, generated ones included.
    pub columns: Vec<Col>,
    /// Declared `STRICT`.
    pub strict: bool,
    /// The ordinal of the `INTEGER PRIMARY KEY`, which is the rowid.
    pub alias: Option<usize>,
    /// A name that means the rowid here; `None` for WITHOUT ROWID tables, or when columns took all three names.
    pub rowid: Option<&'static str>,
    /// Ordinals and collations of the columns that identify a row. Empty: none do.
    pub key: Vec<(usize, String)>,
    /// All unique constraints, the key's included.
    pub uniques: Vec<Unique>,
    /// Secondary indexes over plain columns, without predicate.
    pub indexes: Vec<crossfade_core::Index>,
    /// Indexes that have no equal elsewhere: partial ones, or of expressions.
    pub odd_indexes: Vec<String>,
    /// References as declared: id, columns, parent, its columns (empty: its key), on delete, on update.
    pub references: Vec<Reference>,
}

/// A column.
#[derive(Debug, Clone)]
pub struct Col {
    /// Unquoted.
    pub name: String,
    /// The declared type, word for word; may be empty.
    pub declared: String,
    /// Declared NOT NULL (or part of a WITHOUT ROWID table's key).
    pub not_null: bool,
    /// The DEFAULT expression.
    pub default: Option<String>,
    /// Whether it is generated.
    pub generated: bool,
}

/// A unique constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unique {
    /// What must not be equal in two rows, with the collation that decides.
    pub terms: Vec<(Term, String)>,
    /// The predicate of a partial index.
    pub filter: Option<String>,
}

/// A term of a unique constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Term {
    /// A column's ordinal.
    Column(usize),
    /// The rowid.
    Rowid,
    /// An expression, as written.
    Expression(String),
}

/// A declared reference to another table.
#[derive(Debug, Clone)]
pub struct Reference {
    /// Number within the table.
    pub id: i64,
    /// Columns of this table.
    pub from: Vec<String>,
    /// The table referred to.
    pub to: String,
    /// Its columns; empty: its primary key.
    pub to_columns: Vec<String>,
    /// The action.
    pub on_delete: String,
    /// The action.
    pub on_update: String,
}

/// A name in double quotes.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The tables of the database file: name, and whether it is virtual. SQLite's, Crossfade's and shadow tables are left out.
pub fn table_names(conn: &Connection) -> Result<Vec<(String, bool)>> {
    let mut names = rows(
        conn,
        "SELECT name, type FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual')",
        [],
        |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)? == "virtual")),
    )?;
    names.retain(|(name, _)| !name.starts_with("sqlite_") && !name.starts_with(PREFIX));
    names.sort();
    Ok(names)
}

/// Runs a query and collects its rows.
pub fn rows<T>(
    conn: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    map: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    let run = || -> rusqlite::Result<Vec<T>> { conn.prepare(sql)?.query_map(params, map)?.collect() };
    run().doing("reading the database's schema")
}

/// Describes a table; `None` if there is none of this name.
pub fn table(conn: &Connection, name: &str) -> Result<Option<Table>> {
    let found = rows(
        conn,
        "SELECT name, wr, strict FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name = ?1",
        [name],
        |r| Ok((r.get::<_, String>(0)?, r.get::<_, bool>(1)?, r.get::<_, bool>(2)?)),
    )?;
    let Some((name, without_rowid, strict)) = found.into_iter().next() else { return Ok(None) };
    let columns_and_pk = rows(
        conn,
        "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?1, 'main') ORDER BY cid",
        [&name],
        |r| {
            let hidden: i64 = r.get(5)?;
            let (name, declared, not_null, default) = (r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?);
            Ok((Col { name, declared, not_null, default, generated: hidden >= 2 }, r.get::<_, i64>(4)?))
        },
    )?;
    let mut pk: Vec<(i64, usize)> =
        columns_and_pk.iter().enumerate().filter(|(_, (_, pk))| *pk > 0).map(|(i, (_, pk))| (*pk, i)).collect();
    pk.sort_unstable();
    let columns: Vec<Col> = columns_and_pk.into_iter().map(|(c, _)| c).collect();
    let taken = |n: &str| columns.iter().any(|c| c.name.eq_ignore_ascii_case(n));
    let rowid = (!without_rowid).then(|| ["rowid", "_rowid_", "oid"].into_iter().find(|n| !taken(n))).flatten();
    let mut table = Table {
        name,
        columns,
        strict,
        alias: None,
        rowid,
        key: vec![],
        uniques: vec![],
        indexes: vec![],
        odd_indexes: vec![],
        references: vec![],
    };
    let origin_pk = read_indexes(conn, &mut table)?;
    // An INTEGER PRIMARY KEY is the one primary key that has no index of its own.
    if let (false, None, [(_, only)]) = (without_rowid, &origin_pk, &pk[..]) {
        table.alias = Some(*only);
    }
    if let Some(alias) = table.alias {
        table.uniques.insert(0, Unique { terms: vec![(Term::Column(alias), "BINARY".into())], filter: None });
    } else if table.rowid.is_some() {
        table.uniques.insert(0, Unique { terms: vec![(Term::Rowid, "BINARY".into())], filter: None });
    }
    table.key = choose_key(&table, &pk, origin_pk.as_ref());
    table.references = references(conn, &table.name)?;
    Ok(Some(table))
}

/// The primary key, else the first plain unique index whose columns are all NOT NULL.
fn choose_key(table: &Table, pk: &[(i64, usize)], origin_pk: Option<&Unique>) -> Vec<(usize, String)> {
    let collation = |ordinal: usize| {
        let terms = origin_pk.map_or(&[][..], |u| &u.terms);
        let found = terms.iter().find(|(t, _)| *t == Term::Column(ordinal));
        found.map_or_else(|| "BINARY".to_owned(), |(_, c)| c.clone())
    };
    if !pk.is_empty() {
        return pk.iter().map(|&(_, i)| (i, collation(i))).collect();
    }
    let columns = |u: &Unique| -> Option<Vec<(usize, String)>> {
        let of = |(t, c): &(Term, String)| match t {
            Term::Column(i) if table.columns[*i].not_null => Some((*i, c.clone())),
            _ => None,
        };
        if u.filter.is_some() { None } else { u.terms.iter().map(of).collect() }
    };
    table.uniques.iter().find_map(columns).unwrap_or_default()
}

/// Reads indexes and unique constraints into `table`; returns the primary key's own index.
fn read_indexes(conn: &Connection, table: &mut Table) -> Result<Option<Unique>> {
    let mut origin_pk = None;
    let list = rows(
        conn,
        "SELECT l.name, l.\"unique\", l.origin, l.partial, s.sql FROM pragma_index_list(?1, 'main') l \
         LEFT JOIN sqlite_schema s ON s.type = 'index' AND s.name = l.name ORDER BY l.seq DESC",
        [&table.name],
        |r| Ok((r.get::<_, String>(0)?, r.get::<_, bool>(1)?, r.get::<_, String>(2)?, r.get::<_, bool>(3)?, r.get(4)?)),
    )?;
    for (name, unique, origin, partial, sql) in list {
        let sql: Option<String> = sql;
        let parts = rows(
            conn,
            "SELECT cid, coll FROM pragma_index_xinfo(?1, 'main') WHERE key = 1 ORDER BY seqno",
            [&name],
            |r| Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?)),
        )?;
        let text = sql.as_deref().and_then(index_sql::parse);
        let mut terms = Vec::with_capacity(parts.len());
        for (i, (cid, collation)) in parts.into_iter().enumerate() {
            let expression = || text.as_ref().and_then(|t| t.terms.get(i)).cloned();
            let term = match cid {
                -1 => Term::Rowid,
                -2 => Term::Expression(expression().ok_or_else(|| unread(&name))?),
                cid => Term::Column(usize::try_from(cid).map_err(|_| unread(&name))?),
            };
            terms.push((term, collation));
        }
        let filter = match (partial, text) {
            (false, _) => None,
            (true, text) => Some(text.and_then(|t| t.filter).ok_or_else(|| unread(&name))?),
        };
        let plain: Option<Vec<usize>> =
            terms.iter().map(|(t, _)| if let Term::Column(i) = t { Some(*i) } else { None }).collect();
        match plain {
            _ if origin == "pk" => {}
            Some(columns) if filter.is_none() => {
                table.indexes.push(crossfade_core::Index { name: name.clone(), columns, unique });
            }
            _ => table.odd_indexes.push(name.clone()),
        }
        if unique {
            let unique = Unique { terms, filter };
            if origin == "pk" {
                origin_pk = Some(unique.clone());
            }
            table.uniques.push(unique);
        }
    }
    Ok(origin_pk)
}

fn unread(index: &str) -> Error {
    Error::unavailable(format!("the definition of index {index} cannot be read"))
        .hint("drop the index and create it again, or exclude its table")
}

fn references(conn: &Connection, table: &str) -> Result<Vec<Reference>> {
    let parts = rows(
        conn,
        "SELECT id, \"table\", \"from\", \"to\", on_update, on_delete FROM pragma_foreign_key_list(?1, 'main') ORDER BY id, seq",
        [table],
        |r| {
            let to: Option<String> = r.get(3)?;
            let id = r.get(0)?;
            let (from, to_columns) = (vec![r.get(2)?], to.into_iter().collect());
            Ok(Reference { id, from, to: r.get(1)?, to_columns, on_update: r.get(4)?, on_delete: r.get(5)? })
        },
    )?;
    let mut out: Vec<Reference> = Vec::new();
    for part in parts {
        match out.last_mut() {
            Some(last) if last.id == part.id => {
                last.from.extend(part.from);
                last.to_columns.extend(part.to_columns);
            }
            _ => out.push(part),
        }
    }
    Ok(out)
}

/// Declared names by lower case, to find a parent table whatever its spelling.
pub fn spelling(names: &[(String, bool)]) -> HashMap<String, String> {
    names.iter().map(|(n, _)| (n.to_ascii_lowercase(), n.clone())).collect()
}
