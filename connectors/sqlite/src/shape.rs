//! Makes a [`TableSchema`] of a table: the declared shape, and one look at every value for the columns' types.

use std::collections::HashMap;

use crossfade_core::{Column, Error, ForeignKey, Logical, Result, TableName, TableSchema};
use rusqlite::Connection;

use crate::catalog::{self, SCHEMA, Table, quote};
use crate::error::Doing;
use crate::types::Profile;

/// The table's name in Crossfade's terms.
pub fn name_of(table: &str) -> TableName {
    TableName::new(SCHEMA, table)
}

/// Why a table cannot be carried, and what mends it.
pub fn obstacle(table: &Table) -> Option<(String, String)> {
    let name = quote(&table.name);
    if table.key.is_empty() {
        return Some((
            "it has neither a primary key nor a unique index whose columns are all NOT NULL".into(),
            format!(
                "give {name} a primary key, or CREATE UNIQUE INDEX on columns that are NOT NULL; or exclude {}",
                name_of(&table.name)
            ),
        ));
    }
    let collations = table.uniques.iter().flat_map(|u| &u.terms).chain(&[]).map(|(_, c)| c);
    let foreign = |c: &&String| !["BINARY", "NOCASE", "RTRIM"].iter().any(|known| known.eq_ignore_ascii_case(c));
    collations.into_iter().find(foreign).map(|c| {
        (
            format!("its key or a unique index uses the collation {c}, which only the application has"),
            format!("index with BINARY, NOCASE or RTRIM, or exclude {}", name_of(&table.name)),
        )
    })
}

/// The error that names a table's obstacle.
pub fn refuse(table: &Table) -> Result<()> {
    match obstacle(table) {
        None => Ok(()),
        Some((why, fix)) => Err(Error::data(name_of(&table.name), format!("cannot be carried: {why}")).hint(fix)),
    }
}

/// Decides the types of the columns from `first` on, by their declarations and all their values.
pub fn decide(conn: &Connection, table: &Table, first: usize) -> Result<Vec<Logical>> {
    let doing = format!("reading the values of {}", table.name);
    let is_key = |i: usize| table.key.iter().any(|(k, _)| *k == i);
    let columns = table.columns.iter().enumerate().skip(first);
    let mut profiles: Vec<Profile> =
        columns.clone().map(|(i, c)| Profile::new(&c.declared, table.strict, is_key(i))).collect();
    // The rowid's values are integers, and a STRICT table's are what they are declared to be.
    let settled =
        |i: usize| table.alias == Some(i) || (table.strict && !table.columns[i].declared.eq_ignore_ascii_case("ANY"));
    let open: Vec<usize> = columns.map(|(i, _)| i).filter(|&i| !settled(i)).collect();
    if !open.is_empty() {
        let list: Vec<String> = open.iter().map(|&i| quote(&table.columns[i].name)).collect();
        let sql = format!("SELECT {} FROM {}", list.join(", "), quote(&table.name));
        let mut statement = conn.prepare(&sql).doing(&doing)?;
        let mut rows = statement.query([]).doing(&doing)?;
        while let Some(row) = rows.next().doing(&doing)? {
            let mut more = false;
            for (at, &i) in open.iter().enumerate() {
                let profile = &mut profiles[i - first];
                profile.add(row.get_ref(at).doing(&doing)?);
                more |= profile.open();
            }
            if !more {
                break;
            }
        }
    }
    Ok(profiles.iter().map(Profile::logical).collect())
}

/// The shape with a decision for every column: the log is shared, and what one pipeline leaves out another may carry.
pub fn whole(conn: &Connection, table: &Table, shape: &TableSchema) -> Result<TableSchema> {
    let mut whole = shape.clone();
    if whole.columns.iter().any(|c| c.logical == Logical::Omitted) {
        for (column, logical) in whole.columns.iter_mut().zip(decide(conn, table, 0)?) {
            if column.logical == Logical::Omitted {
                column.logical = logical;
            }
        }
    }
    Ok(whole)
}

/// The table's schema with these logical types, one per column.
pub fn schema(table: &Table, logical: Vec<Logical>, version: u32, spelling: &HashMap<String, String>) -> TableSchema {
    let columns = table.columns.iter().zip(logical).enumerate();
    let columns = columns.map(|(i, (c, logical))| Column {
        name: c.name.clone(),
        source_type: c.declared.clone(),
        logical,
        nullable: !c.not_null && table.alias != Some(i),
        auto_increment: table.alias == Some(i),
        number: 0,
        policies: Default::default(),
    });
    let ordinal = |name: &String| table.columns.iter().position(|c| c.name.eq_ignore_ascii_case(name));
    let foreign_keys = table.references.iter().filter_map(|r| {
        // A reference that names no column of this table cannot be declared, so none falls away here.
        let columns = r.from.iter().map(ordinal).collect::<Option<Vec<usize>>>()?;
        let to = spelling.get(&r.to.to_ascii_lowercase()).cloned().unwrap_or_else(|| r.to.clone());
        Some(ForeignKey {
            name: format!("{}_fk{}", table.name, r.id),
            columns,
            to: name_of(&to),
            to_columns: r.to_columns.clone(),
            on_delete: r.on_delete.clone(),
            on_update: r.on_update.clone(),
        })
    });
    TableSchema {
        name: name_of(&table.name),
        version,
        columns: columns.collect(),
        key: table.key.iter().map(|(i, _)| *i).collect(),
        indexes: table.indexes.clone(),
        foreign_keys: foreign_keys.collect(),
        origin: None,
        pending: vec![],
        number: 0,
    }
}

/// Fills in the columns of references that name only their parent: they mean its primary key.
pub fn complete_references(conn: &Connection, schema: &mut TableSchema) -> Result<()> {
    for key in schema.foreign_keys.iter_mut().filter(|k| k.to_columns.is_empty()) {
        if let Some(parent) = catalog::table(conn, &key.to.name)? {
            key.to_columns = parent.key.iter().map(|(i, _)| parent.columns[*i].name.clone()).collect();
        }
    }
    Ok(())
}
