//! What tables there are, read from information_schema.
//!
//! [`tables`] gives what a pipeline carries, or one error that names everything that cannot be carried. [`inventory`]
//! gives the same with its blemishes, for the preflight check. Views and sequences hold no rows of their own and are
//! not listed.
//!
//! Indexes over prefixes of columns, over expressions, full-text and spatial ones mean nothing to another database;
//! they are left out and named in [`TableInfo::left_out`]. Generated columns are plain columns here: both the log and
//! SELECT carry their values.

use std::collections::HashMap;
use std::sync::Arc;

use crossfade_core::{Column, Error, ForeignKey, Index, Result, Selection, TableName, TableSchema};
use mysql_async::Conn;
use mysql_async::prelude::{FromRow, Queryable};

use crate::classify::classify;
use crate::types::{Declared, logical};

/// A table with everything that the preflight check wants to say about it.
#[derive(Debug, Clone)]
pub struct TableInfo {
    /// The table. Columns in `refused` are missing from it, so it is complete only where that is empty.
    pub schema: TableSchema,
    /// `InnoDB`, `MyISAM`.
    pub engine: String,
    /// Columns or properties that cannot be carried: what, and the statement that mends it.
    pub refused: Vec<(String, String)>,
    /// Secondary indexes that are not carried, and why.
    pub left_out: Vec<(String, &'static str)>,
}

/// The tables that `selection` admits, complete; an error names every one that cannot be carried, and why.
pub async fn tables(conn: &mut Conn, selection: &Selection) -> Result<Vec<Arc<TableSchema>>> {
    let all = inventory(conn, selection).await?;
    let mut problems = Vec::new();
    let mut fixes = Vec::new();
    for table in &all {
        for (what, fix) in &table.refused {
            problems.push(format!("{}: {what}", table.schema.name));
            fixes.push(fix.clone());
        }
        if table.schema.key.is_empty() {
            problems.push(format!("{}: no primary key and no unique index over NOT NULL columns", table.schema.name));
            fixes.push(key_fix(&table.schema.name));
        }
    }
    if problems.is_empty() {
        return Ok(all.into_iter().map(|t| Arc::new(t.schema)).collect());
    }
    Err(Error::unavailable(format!("tables that cannot be carried: {}", problems.join("; ")))
        .hint(format!("{}; or exclude the tables", fixes.join("; "))))
}

/// The statement that gives a table a key.
pub fn key_fix(table: &TableName) -> String {
    format!("ALTER TABLE {} ADD PRIMARY KEY (...)", quote_table(table))
}

/// An identifier in backticks.
pub fn quote(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A table's full name in backticks.
pub fn quote_table(table: &TableName) -> String {
    format!("{}.{}", quote(&table.schema), quote(&table.name))
}

/// A text literal, right under any session that [`crate::connect::SESSION`] has set up.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// All admitted tables, by name.
pub async fn inventory(conn: &mut Conn, selection: &Selection) -> Result<Vec<TableInfo>> {
    let schemas = candidates(conn, selection)?;
    let mut inventory = Inventory::default();
    inventory.read_tables(conn, &schemas, selection).await?;
    inventory.read_columns(conn, &schemas).await?;
    inventory.read_indexes(conn, &schemas).await?;
    inventory.read_foreign_keys(conn, &schemas).await?;
    Ok(inventory.tables)
}

/// The condition on TABLE_SCHEMA: the URL's database, else all that are not the server's own.
fn candidates(conn: &Conn, selection: &Selection) -> Result<String> {
    if let Some(database) = conn.opts().db_name() {
        return Ok(format!("TABLE_SCHEMA = {}", literal(database)));
    }
    if selection.include.is_empty() || !selection.include.iter().all(|glob| glob.contains('.')) {
        return Err(Error::config("no database is named")
            .hint("write it into the URL (mysql://user@host/database), or include tables as database.table"));
    }
    Ok("TABLE_SCHEMA NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys')".into())
}

async fn select<T: FromRow + Send + 'static>(conn: &mut Conn, sql: String) -> Result<Vec<T>> {
    conn.query(sql).await.map_err(classify)
}

/// An index as information_schema.STATISTICS has it.
struct RawIndex {
    name: String,
    unique: bool,
    kind: String,
    /// Column (none for an expression) and prefix length, in index order.
    parts: Vec<(Option<String>, Option<u64>)>,
}

#[derive(Default)]
struct Inventory {
    tables: Vec<TableInfo>,
    by_name: HashMap<(String, String), usize>,
}

impl Inventory {
    fn of(&mut self, schema: String, table: String) -> Option<&mut TableInfo> {
        self.by_name.get(&(schema, table)).map(|&i| &mut self.tables[i])
    }

    async fn read_tables(&mut self, conn: &mut Conn, schemas: &str, selection: &Selection) -> Result<()> {
        let rows: Vec<(String, String, String, Option<String>)> = select(
            conn,
            format!(
                "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, ENGINE FROM information_schema.TABLES WHERE {schemas} AND \
                 TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED') ORDER BY TABLE_SCHEMA, TABLE_NAME"
            ),
        )
        .await?;
        for (schema, table, kind, engine) in rows {
            let name = TableName::new(&schema, &table);
            if !selection.admits(&name) {
                continue;
            }
            let mut refused = Vec::new();
            if kind == "SYSTEM VERSIONED" {
                let fix = format!("ALTER TABLE {} DROP SYSTEM VERSIONING", quote_table(&name));
                refused.push(("system versioning (the log holds its history rows)".to_owned(), fix));
            }
            if engine.is_none() {
                let fix = format!("REPAIR TABLE {}", quote_table(&name));
                refused.push(("the server cannot open it".to_owned(), fix));
            }
            self.by_name.insert((schema, table), self.tables.len());
            let (columns, key, indexes, foreign_keys) = (vec![], vec![], vec![], vec![]);
            self.tables.push(TableInfo {
                schema: TableSchema { name, version: 1, columns, key, indexes, foreign_keys },
                engine: engine.unwrap_or_default(),
                refused,
                left_out: vec![],
            });
        }
        Ok(())
    }

    async fn read_columns(&mut self, conn: &mut Conn, schemas: &str) -> Result<()> {
        let json = json_columns(conn, schemas).await?;
        type Row = (String, String, String, String, String, Option<String>, Option<u64>, Option<u64>, String, String);
        let rows: Vec<Row> = select(
            conn,
            format!(
                "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_SET_NAME, \
                 NUMERIC_PRECISION, NUMERIC_SCALE, IS_NULLABLE, EXTRA FROM information_schema.COLUMNS WHERE {schemas} \
                 ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION"
            ),
        )
        .await?;
        for (schema, table, name, data_type, source_type, charset, precision, scale, nullable, extra) in rows {
            let place = (schema, table, name);
            let json_checked = json.contains(&place);
            let (schema, table, name) = place;
            let Some(table) = self.of(schema, table) else { continue };
            let declared = Declared {
                data_type: &data_type.to_ascii_lowercase(),
                column_type: &source_type,
                charset: charset.as_deref(),
                precision,
                scale,
                json_checked,
            };
            match logical(&declared) {
                Ok(logical) => table.schema.columns.push(Column {
                    name,
                    source_type,
                    logical,
                    nullable: nullable == "YES",
                    auto_increment: extra.contains("auto_increment"),
                }),
                Err(refusal) => {
                    let fix =
                        format!("ALTER TABLE {}: {} {}", quote_table(&table.schema.name), refusal.mend, quote(&name));
                    table.refused.push((format!("column {name}: {}", refusal.why), fix));
                }
            }
        }
        Ok(())
    }

    async fn read_indexes(&mut self, conn: &mut Conn, schemas: &str) -> Result<()> {
        type Row = (String, String, String, u8, String, Option<String>, Option<u64>);
        let rows: Vec<Row> = select(
            conn,
            format!(
                "SELECT TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, NON_UNIQUE, INDEX_TYPE, COLUMN_NAME, SUB_PART FROM \
                 information_schema.STATISTICS WHERE {schemas} \
                 ORDER BY TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX"
            ),
        )
        .await?;
        let mut found: Vec<((String, String), RawIndex)> = Vec::new();
        for (schema, table, name, non_unique, kind, column, prefix) in rows {
            let of = (schema, table);
            let part = (column, prefix);
            match found.last_mut() {
                Some((last, index)) if *last == of && index.name == name => index.parts.push(part),
                _ => found.push((of, RawIndex { name, unique: non_unique == 0, kind, parts: vec![part] })),
            }
        }
        let mut by_table: HashMap<(String, String), Vec<RawIndex>> = HashMap::new();
        for (of, index) in found {
            by_table.entry(of).or_default().push(index);
        }
        for ((schema, table), indexes) in by_table {
            if let Some(table) = self.of(schema, table) {
                place_indexes(table, indexes);
            }
        }
        Ok(())
    }

    async fn read_foreign_keys(&mut self, conn: &mut Conn, schemas: &str) -> Result<()> {
        type Row = (String, String, String, String, String, String, String, String, String);
        let filter = schemas.replace("TABLE_SCHEMA", "k.TABLE_SCHEMA");
        let rows: Vec<Row> = select(
            conn,
            format!(
                "SELECT k.TABLE_SCHEMA, k.TABLE_NAME, k.CONSTRAINT_NAME, k.COLUMN_NAME, k.REFERENCED_TABLE_SCHEMA, \
                 k.REFERENCED_TABLE_NAME, k.REFERENCED_COLUMN_NAME, r.DELETE_RULE, r.UPDATE_RULE \
                 FROM information_schema.KEY_COLUMN_USAGE k JOIN information_schema.REFERENTIAL_CONSTRAINTS r \
                 ON r.CONSTRAINT_SCHEMA = k.CONSTRAINT_SCHEMA AND r.CONSTRAINT_NAME = k.CONSTRAINT_NAME \
                 AND r.TABLE_NAME = k.TABLE_NAME \
                 WHERE {filter} AND k.REFERENCED_TABLE_NAME IS NOT NULL \
                 ORDER BY k.TABLE_SCHEMA, k.TABLE_NAME, k.CONSTRAINT_NAME, k.ORDINAL_POSITION"
            ),
        )
        .await?;
        for (schema, table, name, column, to_schema, to_table, to_column, on_delete, on_update) in rows {
            let Some(table) = self.of(schema, table) else { continue };
            // A refused column has no ordinal; the table cannot be carried then anyway.
            let Some(ordinal) = table.schema.ordinal(&column) else { continue };
            match table.schema.foreign_keys.last_mut() {
                Some(last) if last.name == name => {
                    last.columns.push(ordinal);
                    last.to_columns.push(to_column);
                }
                _ => table.schema.foreign_keys.push(ForeignKey {
                    name,
                    columns: vec![ordinal],
                    to: TableName::new(to_schema, to_table),
                    to_columns: vec![to_column],
                    on_delete,
                    on_update,
                }),
            }
        }
        Ok(())
    }
}

/// Columns that MariaDB declares as JSON: longtext under a check of json_valid.
async fn json_columns(conn: &mut Conn, schemas: &str) -> Result<Vec<(String, String, String)>> {
    let version: Vec<String> = select(conn, "SELECT VERSION()".into()).await?;
    if !version.iter().any(|v| v.contains("MariaDB")) {
        return Ok(Vec::new());
    }
    let filter = schemas.replace("TABLE_SCHEMA", "CONSTRAINT_SCHEMA");
    let rows: Vec<(String, String, String)> = select(
        conn,
        format!(
            "SELECT CONSTRAINT_SCHEMA, TABLE_NAME, CHECK_CLAUSE FROM information_schema.CHECK_CONSTRAINTS WHERE {filter} \
             AND CHECK_CLAUSE LIKE 'json\\_valid(`%`)'"
        ),
    )
    .await?;
    let column = |clause: &str| {
        let name = clause.strip_prefix("json_valid(`")?.strip_suffix("`)")?;
        Some(name.replace("``", "`"))
    };
    Ok(rows.into_iter().filter_map(|(schema, table, clause)| Some((schema, table, column(&clause)?))).collect())
}

/// Chooses the key among a table's indexes and sorts the others into carried and left out.
fn place_indexes(table: &mut TableInfo, indexes: Vec<RawIndex>) {
    let mut carried = Vec::new();
    for index in indexes {
        match columns_of(&table.schema, &index) {
            Ok(columns) => carried.push(Index { name: index.name, columns, unique: index.unique }),
            // A prefix of a primary key is unique, so the whole columns are.
            Err(_) if index.name == "PRIMARY" => {
                let whole = index.parts.iter().map(|(column, _)| table.schema.ordinal(column.as_deref()?));
                table.schema.key = whole.collect::<Option<_>>().unwrap_or_default();
            }
            Err(why) => table.left_out.push((index.name, why)),
        }
    }
    if table.schema.key.is_empty() {
        let identifies =
            |index: &&Index| index.unique && index.columns.iter().all(|&i| !table.schema.columns[i].nullable);
        let rank = |index: &&Index| (index.name != "PRIMARY", index.columns.len(), index.name.clone());
        let key = carried.iter().filter(identifies).min_by_key(rank).map(|index| index.name.clone());
        if let Some(at) = carried.iter().position(|index| Some(&index.name) == key.as_ref()) {
            table.schema.key = carried.remove(at).columns;
        }
    }
    table.schema.indexes = carried;
}

/// The ordinals of a plain index, or why it is none.
fn columns_of(table: &TableSchema, index: &RawIndex) -> Result<Vec<usize>, &'static str> {
    match index.kind.as_str() {
        "BTREE" | "HASH" => {}
        "FULLTEXT" => return Err("it is a full-text index"),
        "SPATIAL" | "RTREE" => return Err("it is a spatial index"),
        _ => return Err("its kind is unknown"),
    }
    let mut columns = Vec::new();
    for (column, prefix) in &index.parts {
        let Some(column) = column else { return Err("it is over an expression") };
        if prefix.is_some() {
            return Err("it is over a prefix of a column");
        }
        columns.push(table.ordinal(column).ok_or("one of its columns is not carried")?);
    }
    Ok(columns)
}
