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

use crossfade_core::selection::leave_out;
use crossfade_core::{Column, Error, ForeignKey, Index, Logical, Result, Selection, TableName, TableSchema};

use crate::connect::Server;
use crate::session::{Session, TextRow};
use crate::types::{self, Declared, logical};

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
pub fn tables(server: &Server, session: &mut Session, selection: &Selection) -> Result<Vec<Arc<TableSchema>>> {
    let all = inventory(server, session, selection)?;
    let image = match all.iter().any(|t| t.schema.key.is_empty()) {
        true => row_image(session)?,
        false => FULL.into(),
    };
    let mut problems = Vec::new();
    let mut fixes = Vec::new();
    for table in &all {
        for (what, fix) in &table.refused {
            problems.push(format!("{}: {what}", table.schema.name));
            fixes.push(fix.clone());
        }
        if table.schema.key.is_empty() && !image.eq_ignore_ascii_case(FULL) {
            problems.push(format!(
                "{}: no primary key and no unique index over NOT NULL columns, and binlog_row_image = {image} does not \
                 log whole rows, which would tell them apart",
                table.schema.name
            ));
            fixes.push(keyless_fix(&table.schema.name));
        }
    }
    if problems.is_empty() {
        return Ok(all.into_iter().map(|t| Arc::new(t.schema)).collect());
    }
    Err(Error::unavailable(format!("tables that cannot be carried: {}", problems.join("; ")))
        .hint(format!("{}; or exclude the tables", fixes.join("; "))))
}

/// The row image that logs rows whole, before and after a change.
pub const FULL: &str = "FULL";

/// How much of a row the log carries, for sessions that begin now.
pub fn row_image(session: &mut Session) -> Result<String> {
    Ok(session.value("SELECT @@GLOBAL.binlog_row_image")?.unwrap_or_default())
}

/// What lets a table without a key be carried.
pub fn keyless_fix(table: &TableName) -> String {
    format!("SET GLOBAL binlog_row_image = {FULL} and reconnect the clients, or {}", key_fix(table))
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
pub fn inventory(server: &Server, session: &mut Session, selection: &Selection) -> Result<Vec<TableInfo>> {
    let schemas = format!("{}{}", candidates(server, selection)?, named(selection));
    let mut inventory = Inventory::default();
    inventory.read_tables(session, &schemas, selection)?;
    let json = if server.is_mariadb() { json_columns(session, &schemas)? } else { Vec::new() };
    inventory.read_columns(session, &schemas, &json, server)?;
    inventory.read_indexes(session, &schemas)?;
    inventory.read_foreign_keys(session, &schemas)?;
    inventory.tables.iter_mut().for_each(|t| server.omissions().mark_policies(&mut t.schema));
    Ok(inventory.tables)
}

/// The condition on TABLE_SCHEMA: the URL's database, else all that are not the server's own.
fn candidates(server: &Server, selection: &Selection) -> Result<String> {
    if let Some(database) = &server.options().database {
        return Ok(format!("TABLE_SCHEMA = {}", literal(database)));
    }
    if selection.include.is_empty() || !selection.include.iter().all(|glob| glob.contains('.')) {
        return Err(Error::config("no database is named")
            .hint("write it into the URL (mysql://user@host/database), or include tables as database.table"));
    }
    Ok("TABLE_SCHEMA NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys')".into())
}

/// Where every table is named in full, the further condition that spares the server all others: among thousands of tables the
/// copy asks for one after each chunk. Empty where there are globs; what is admitted, the selection itself says afterwards.
fn named(selection: &Selection) -> String {
    let name = |glob: &String| {
        let (_, table) = glob.split_once('.')?;
        // `TABLE_NAME`: the condition is given aliases by replacing it.
        (!table.contains(['.', '*', '?']) && !table.contains("TABLE_NAME")).then(|| literal(table))
    };
    match selection.include.iter().map(name).collect::<Option<Vec<_>>>() {
        Some(names) if !names.is_empty() => format!(" AND TABLE_NAME IN ({})", names.join(", ")),
        _ => String::new(),
    }
}

/// The rows of a query over information_schema, each of `N` values; what must not be NULL is read as the empty text.
pub fn select<const N: usize>(session: &mut Session, query: &str) -> Result<Vec<[Option<String>; N]>> {
    let fixed = |row: TextRow| {
        let width = row.len();
        row.try_into().map_err(|_| Error::corrupt(format!("a query for {N} columns returned {width}: {query}")))
    };
    session.rows(query)?.into_iter().map(fixed).collect()
}

fn number(text: Option<String>) -> Result<Option<u64>> {
    let parse =
        |text: String| text.parse().map_err(|_| Error::corrupt(format!("the catalog says {text} for a number")));
    text.map(parse).transpose()
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

    fn read_tables(&mut self, session: &mut Session, schemas: &str, selection: &Selection) -> Result<()> {
        let rows = select(
            session,
            &format!(
                "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, ENGINE FROM information_schema.TABLES WHERE {schemas} AND \
                 TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED') ORDER BY TABLE_SCHEMA, TABLE_NAME"
            ),
        )?;
        for [schema, table, kind, engine] in rows {
            let (schema, table) = (schema.unwrap_or_default(), table.unwrap_or_default());
            let name = TableName::new(&schema, &table);
            if !selection.admits(&name) {
                continue;
            }
            let mut refused = Vec::new();
            if kind.as_deref() == Some("SYSTEM VERSIONED") {
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
                schema: TableSchema {
                    name,
                    version: 1,
                    columns,
                    key,
                    indexes,
                    foreign_keys,
                    origin: None,
                    pending: vec![],
                    number: 0,
                },
                engine: engine.unwrap_or_default(),
                refused,
                left_out: vec![],
            });
        }
        Ok(())
    }

    fn read_columns(
        &mut self,
        session: &mut Session,
        schemas: &str,
        json: &[(String, String, String)],
        server: &Server,
    ) -> Result<()> {
        let rows = select(
            session,
            &format!(
                "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_SET_NAME, \
                 NUMERIC_PRECISION, NUMERIC_SCALE, IS_NULLABLE, EXTRA, COLUMN_KEY FROM information_schema.COLUMNS WHERE {schemas} \
                 ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION"
            ),
        )?;
        for [schema, table, name, data_type, source_type, charset, precision, scale, nullable, extra, key] in rows {
            let place = (schema.unwrap_or_default(), table.unwrap_or_default(), name.unwrap_or_default());
            let source_type = source_type.unwrap_or_default();
            let json_checked = json.contains(&place);
            let (schema, table, name) = place;
            let Some(table) = self.of(schema, table) else { continue };
            let declared = Declared {
                data_type: &data_type.unwrap_or_default().to_ascii_lowercase(),
                column_type: &source_type,
                charset: charset.as_deref(),
                precision: number(precision)?,
                scale: number(scale)?,
                json_checked,
                mariadb: server.is_mariadb(),
            };
            let in_key = key.as_deref() == Some("PRI");
            let omitted = !in_key && server.omissions().cover(&table.schema.name, &name);
            match if omitted { Ok(Logical::Omitted) } else { logical(&declared) } {
                Ok(logical) => table.schema.columns.push(Column {
                    name,
                    source_type: types::source_type(&declared),
                    logical,
                    nullable: nullable.as_deref() == Some("YES"),
                    auto_increment: extra.as_deref().unwrap_or_default().contains("auto_increment"),
                    number: 0,
                    policies: Default::default(),
                }),
                Err(refusal) => {
                    let (place, column) = (quote_table(&table.schema.name), quote(&name));
                    let mut fix = format!("ALTER TABLE {place} MODIFY {column} {}", refusal.mend);
                    if !in_key {
                        fix += &format!("; or {}", leave_out(&table.schema.name, &name));
                    }
                    fix += "; or exclude the table";
                    table.refused.push((format!("column {name}: {}", refusal.why), fix));
                }
            }
        }
        Ok(())
    }

    fn read_indexes(&mut self, session: &mut Session, schemas: &str) -> Result<()> {
        let rows = select(
            session,
            &format!(
                "SELECT TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, NON_UNIQUE, INDEX_TYPE, COLUMN_NAME, SUB_PART FROM \
                 information_schema.STATISTICS WHERE {schemas} \
                 ORDER BY TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX"
            ),
        )?;
        let mut found: Vec<((String, String), RawIndex)> = Vec::new();
        for [schema, table, name, non_unique, kind, column, prefix] in rows {
            let of = (schema.unwrap_or_default(), table.unwrap_or_default());
            let (name, kind) = (name.unwrap_or_default(), kind.unwrap_or_default());
            let part = (column, number(prefix)?);
            match found.last_mut() {
                Some((last, index)) if *last == of && index.name == name => index.parts.push(part),
                _ => found
                    .push((of, RawIndex { name, unique: non_unique.as_deref() == Some("0"), kind, parts: vec![part] })),
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

    fn read_foreign_keys(&mut self, session: &mut Session, schemas: &str) -> Result<()> {
        // Two questions joined here: for the server's join of both views MariaDB opens every table once for each row.
        let rules = select(
            session,
            &format!(
                "SELECT CONSTRAINT_SCHEMA, TABLE_NAME, CONSTRAINT_NAME, DELETE_RULE, UPDATE_RULE \
                 FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE {}",
                schemas.replace("TABLE_SCHEMA", "CONSTRAINT_SCHEMA")
            ),
        )?;
        if rules.is_empty() {
            return Ok(());
        }
        let rules: HashMap<[String; 3], [String; 2]> = rules
            .into_iter()
            .map(|row| row.map(Option::unwrap_or_default))
            .map(|[schema, table, name, on_delete, on_update]| ([schema, table, name], [on_delete, on_update]))
            .collect();
        let rows = select(
            session,
            &format!(
                "SELECT TABLE_SCHEMA, TABLE_NAME, CONSTRAINT_NAME, COLUMN_NAME, REFERENCED_TABLE_SCHEMA, \
                 REFERENCED_TABLE_NAME, REFERENCED_COLUMN_NAME FROM information_schema.KEY_COLUMN_USAGE \
                 WHERE {schemas} AND REFERENCED_TABLE_NAME IS NOT NULL \
                 ORDER BY TABLE_SCHEMA, TABLE_NAME, CONSTRAINT_NAME, ORDINAL_POSITION"
            ),
        )?;
        for row in rows {
            let [schema, table, name, column, to_schema, to_table, to_column] = row.map(Option::unwrap_or_default);
            // A key that came or went between the two questions is not there for the whole of this reading.
            let Some(rule) = rules.get(&[schema.clone(), table.clone(), name.clone()]) else { continue };
            let [on_delete, on_update] = rule.clone();
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
fn json_columns(session: &mut Session, schemas: &str) -> Result<Vec<(String, String, String)>> {
    let filter = schemas.replace("TABLE_SCHEMA", "CONSTRAINT_SCHEMA");
    let rows = select(
        session,
        &format!(
            "SELECT CONSTRAINT_SCHEMA, TABLE_NAME, CHECK_CLAUSE FROM information_schema.CHECK_CONSTRAINTS WHERE {filter} \
             AND CHECK_CLAUSE LIKE 'json\\_valid(`%`)'"
        ),
    )?;
    let column = |row: [Option<String>; 3]| {
        let [schema, table, clause] = row;
        let name = clause?.strip_prefix("json_valid(`")?.strip_suffix("`)")?.replace("``", "`");
        Some((schema?, table?, name))
    };
    Ok(rows.into_iter().filter_map(column).collect())
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
