//! SQL with which the files are read: Athena's table and view, and the same view over the files for DuckDB.
//!
//! The templates lie in `schemas/`, readable by themselves; here their names are filled in and quoted. Athena's DDL quotes
//! with backticks (it is Hive's), its queries with double quotes (they are Trino's).

use crossfade_core::TableSchema;

use crate::types::athena;

const TABLE: &str = include_str!("../../../schemas/athena-table.sql");
const VIEW: &str = include_str!("../../../schemas/athena-view.sql");

/// `CREATE EXTERNAL TABLE` of a table's log of changes. `root` is the target's URL without options: `s3://bucket/prefix`.
pub fn athena_table(database: &str, table: &TableSchema, root: &str) -> String {
    let columns: Vec<String> =
        table.columns.iter().map(|c| format!("  {} {}", hive(&c.name), athena(&c.logical))).collect();
    let location = format!("{}/", folder(root, table)).replace('\'', "''");
    fill(
        statement(TABLE),
        &[
            ("{database}", &hive(database)),
            ("{table}", &hive(&table.name.name)),
            ("{columns}", &columns.join(",\n")),
            ("{location}", &location),
        ],
    )
}

/// The view of a table's latest state, `<table>_latest`, over [`athena_table`]. `None` for a table without a key.
pub fn athena_view(database: &str, table: &TableSchema) -> Option<String> {
    let source = format!("{}.{}", sql(database), sql(&table.name.name));
    let name = format!("{}.{}", sql(database), sql(&format!("{}_latest", table.name.name)));
    view(&name, &source, table)
}

/// The view of a table's latest state for DuckDB, straight over the files: `root` is a folder or `s3://bucket/prefix`.
/// `None` for a table without a key.
pub fn duckdb_view(table: &TableSchema, root: &str) -> Option<String> {
    let files = format!("{}/*.parquet", folder(root, table)).replace('\'', "''");
    view(&sql(&table.name.name), &format!("read_parquet('{files}', union_by_name = true)"), table)
}

fn view(name: &str, source: &str, table: &TableSchema) -> Option<String> {
    if table.key.is_empty() {
        return None;
    }
    let list = |names: Vec<String>| names.join(", ");
    let columns = list(table.columns.iter().map(|c| sql(&c.name)).collect());
    let key = list(table.key_columns().map(|c| format!("log.{}", sql(&c.name))).collect());
    Some(fill(statement(VIEW), &[("{view}", name), ("{source}", source), ("{columns}", &columns), ("{key}", &key)]))
}

/// A table's folder. Names are encoded as in the store's paths.
fn folder(root: &str, table: &TableSchema) -> String {
    let part = |name: &str| object_store::path::PathPart::from(name).as_ref().to_owned();
    format!("{}/{}/{}", root.trim_end_matches('/'), part(&table.name.schema), part(&table.name.name))
}

/// A template without the comment on its top.
fn statement(template: &str) -> &str {
    template.find("\nCREATE").map_or(template, |at| &template[at + 1..])
}

/// Fills in all names at once, so that a value that looks like another name stays what it is.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        match values.iter().find(|(name, _)| rest.starts_with(name)) {
            Some((name, value)) => {
                out.push_str(value);
                rest = &rest[name.len()..];
            }
            None => {
                out.push('{');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// A name quoted for Hive's DDL.
fn hive(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A name quoted for SQL.
fn sql(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossfade_core::{Column, Logical, TableName};

    fn table(key: Vec<usize>) -> TableSchema {
        let column = |name: &str, logical| Column {
            name: name.into(),
            source_type: String::new(),
            logical,
            nullable: true,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        };
        TableSchema {
            name: TableName::new("shop", "or`d\"er's"),
            version: 1,
            columns: vec![column("id", Logical::UInt64), column("{key}", Logical::Uuid)],
            key,
            indexes: vec![],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        }
    }

    #[test]
    fn names_are_quoted_and_every_place_is_filled() {
        let ddl = athena_table("lake", &table(vec![0]), "s3://b/x/");
        assert!(ddl.starts_with("CREATE EXTERNAL TABLE `lake`.`or``d\"er's` ("), "{ddl}");
        assert!(ddl.contains("  `id` decimal(20,0),\n  `{key}` string\n"), "{ddl}");
        assert!(ddl.contains("LOCATION 's3://b/x/shop/"), "{ddl}");
        let view = athena_view("lake", &table(vec![0])).unwrap();
        assert!(view.contains("\"lake\".\"or`d\"\"er's_latest\" AS"), "{view}");
        assert!(view.contains("PARTITION BY log.\"id\" ORDER"), "{view}");
        assert!(view.contains("SELECT \"id\", \"{key}\"\nFROM"), "{view}");
        assert_eq!(athena_view("lake", &table(vec![])), None);
    }
}
