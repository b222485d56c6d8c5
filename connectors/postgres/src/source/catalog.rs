//! Tables of the source, and whether they can be carried.
//!
//! Read from `pg_catalog`. What identifies a row follows from the table's replica identity, since that is what the log carries
//! of old rows: the primary key, the chosen index, or with FULL the primary key where there is one, else nothing, and then the
//! table is a bag of whole rows.
//!
//! A table whose updates would have no identity is refused, and must stay out of the publication: publishing it would make the
//! application's own UPDATEs fail (`CheckCmdReplicaIdentity` in `src/backend/executor/execReplication.c`).
//!
//! A partitioned table is one table, under its root's name; its leaves are not listed. With `partitions=leaf` in the URL it is
//! the other way round. Tables that merely inherit are tables of
//! their own, read without their children. Generated columns are not in the log, and are left out.

use std::collections::HashMap;

use crossfade_core::selection::leave_out;
use crossfade_core::{Column, Error, ForeignKey, Index, Logical, Omissions, Result, Selection, TableName, TableSchema};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::prepared::Prepared;
use super::types::{Declared, logical};
use super::unnamed::{self, Unnamed};
use crate::classify::classify;
use crate::options::Partitions;
use crate::quote;

/// How tables are looked at.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Whether a partitioned table is one table or many.
    pub partitions: Partitions,
    /// Columns that nobody wants.
    pub omissions: Omissions,
}

/// A table and what is wrong with it.
#[derive(Debug, Clone)]
pub struct TableInfo {
    /// Its shape.
    pub schema: TableSchema,
    /// Its object id.
    pub oid: u32,
    /// Whether it is partitioned: `FROM ONLY` would find no row in it.
    pub partitioned: bool,
    /// Why it cannot be carried, and the statement that mends it.
    pub refused: Vec<(String, String)>,
    /// Indexes that are not carried, and why.
    pub left_out: Vec<(String, String)>,
    /// Columns of a type that nobody named: ordinals, and why.
    pub unnamed: Vec<(usize, String)>,
    /// Columns that the server computes and the log does not hold.
    pub generated: Vec<String>,
    /// Whether policies hide rows from the user.
    pub row_security: bool,
}

const TABLES: &str = "\
    SELECT c.oid, n.nspname::text, c.relname::text, c.relkind = 'p', c.relpersistence::text, c.relreplident::text, \
        pg_catalog.row_security_active(c.oid) \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE CASE WHEN $3 THEN c.relkind = 'r' ELSE c.relkind IN ('r', 'p') AND NOT c.relispartition END \
        AND c.relpersistence <> 't' \
        AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'crossfade') \
        AND ($1::text IS NULL OR n.nspname = $1 AND c.relname = $2::text) \
    ORDER BY n.nspname, c.relname";

/// Domains may be made of domains; the innermost names the modifier.
const COLUMNS: &str = "\
    WITH RECURSIVE base (oid, typ, typmod) AS ( \
        SELECT t.oid, t.typbasetype, t.typtypmod FROM pg_catalog.pg_type t WHERE t.typtype = 'd' \
        UNION ALL SELECT b.oid, t.typbasetype, t.typtypmod \
        FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.typ AND t.typtype = 'd') \
    SELECT a.attrelid, a.attname::text, a.attnum::int4, pg_catalog.format_type(a.atttypid, a.atttypmod), \
        NOT (a.attnotnull OR d.typnotnull), a.attgenerated <> '', \
        a.attidentity <> '' OR COALESCE(pg_catalog.pg_get_expr(f.adbin, f.adrelid) LIKE 'nextval(%', false), \
        t.typname::text, COALESCE(en.nspname, tn.nspname) = 'pg_catalog' AND tn.nspname = 'pg_catalog', \
        COALESCE(b.typmod, a.atttypmod), pg_catalog.format_type(t.oid, COALESCE(b.typmod, a.atttypmod)), \
        CASE WHEN t.typtype = 'e' THEN ARRAY(SELECT e.enumlabel::text FROM pg_catalog.pg_enum e \
            WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder) END, \
        a.atttypid, \
        (SELECT e.extname::text FROM pg_catalog.pg_depend x JOIN pg_catalog.pg_extension e ON e.oid = x.refobjid \
            WHERE x.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND x.objid = t.oid AND x.deptype = 'e' \
            AND x.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass) \
    FROM pg_catalog.pg_attribute a \
    JOIN pg_catalog.pg_type d ON d.oid = a.atttypid \
    LEFT JOIN base b ON b.oid = d.oid \
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_type i WHERE i.oid = b.typ AND i.typtype = 'd') \
    JOIN pg_catalog.pg_type t ON t.oid = COALESCE(b.typ, d.oid) \
    JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace \
    LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem \
    LEFT JOIN pg_catalog.pg_namespace en ON en.oid = e.typnamespace \
    LEFT JOIN pg_catalog.pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum \
    WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum";

const INDEXES: &str = "\
    SELECT i.indrelid, x.relname::text, i.indisunique AND i.indimmediate, i.indisprimary, i.indisreplident, \
        CASE WHEN i.indexprs IS NOT NULL THEN 'it is over an expression' \
             WHEN i.indpred IS NOT NULL THEN 'it is partial' \
             WHEN m.amname <> 'btree' THEN 'its kind is ' || m.amname \
             WHEN i.indisexclusion THEN 'it is an exclusion constraint' END, \
        ARRAY(SELECT a.attname::text FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) k \
            JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k] ORDER BY k) \
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid \
    JOIN pg_catalog.pg_am m ON m.oid = x.relam \
    WHERE i.indrelid = ANY ($1) AND i.indisvalid ORDER BY i.indrelid, x.relname";

const FOREIGN_KEYS: &str = "\
    SELECT k.conrelid, k.conname::text, n.nspname::text, c.relname::text, k.confdeltype::text, k.confupdtype::text, \
        ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY u (n, o) \
            JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n ORDER BY u.o), \
        ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY u (n, o) \
            JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.n ORDER BY u.o) \
    FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.confrelid \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE k.contype = 'f' AND k.conparentid = 0 AND k.conrelid = ANY ($1) ORDER BY k.conrelid, k.conname";

/// Leaves whose identity holds less than their root's: it is a setting of each, and is not inherited. FULL holds all; DEFAULT is
/// enough where the leaf has a primary key, which it has if the root has one.
const PARTS: &str = "\
    WITH RECURSIVE tree (root, identity, oid) AS ( \
        SELECT c.oid, c.relreplident, c.oid FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1) AND c.relkind = 'p' \
        UNION ALL SELECT t.root, t.identity, i.inhrelid FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid) \
    SELECT t.root, n.nspname::text, c.relname::text FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.oid \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind = 'r' AND c.relreplident <> 'f' AND (c.relreplident <> t.identity OR c.relreplident = 'n') \
    ORDER BY n.nspname, c.relname";

/// All admitted tables, by name.
pub async fn inventory(client: &Prepared, selection: &Selection, scope: &Scope) -> Result<Vec<TableInfo>> {
    read(client, only(selection).as_ref(), scope, |name| selection.admits(name)).await
}

/// The one table that is named in full, which spares the server all others: among thousands the copy asks for one after each
/// chunk. `None` where there are globs, or a name with a dot of its own.
fn only(selection: &Selection) -> Option<TableName> {
    let [name] = selection.include.as_slice() else { return None };
    let (schema, table) = name.split_once('.')?;
    (!name.contains(['*', '?']) && !table.contains('.')).then(|| TableName::new(schema, table))
}

/// The columns of one table that can be carried, as they are now; `None` if there is no such table, or it is carried under
/// another name (a root's, its leaves').
pub async fn columns(client: &Prepared, name: &TableName, scope: &Scope) -> Result<Option<Vec<Column>>> {
    let table = read(client, Some(name), scope, |_| true).await?.into_iter().next();
    let carried = |t: TableInfo| {
        let columns = t.schema.columns.into_iter().enumerate();
        columns.filter(|(i, _)| t.unnamed.iter().all(|(u, _)| u != i)).map(|(_, c)| c).collect()
    };
    Ok(table.map(carried))
}

/// The admitted tables in core's form. An error names every one that cannot be carried.
pub async fn tables(client: &Prepared, selection: &Selection, scope: &Scope) -> Result<Vec<TableSchema>> {
    let all = inventory(client, selection, scope).await?;
    let refused: Vec<&TableInfo> = all.iter().filter(|t| !t.refused.is_empty()).collect();
    if refused.is_empty() {
        return Ok(all.into_iter().map(|t| t.schema).collect());
    }
    let say = |t: &&TableInfo| {
        let why: Vec<&str> = t.refused.iter().map(|(why, _)| why.as_str()).collect();
        format!("{}: {}", t.schema.name, why.join("; "))
    };
    let list: Vec<String> = refused.iter().map(say).collect();
    let fixes: Vec<&str> = refused.iter().flat_map(|t| &t.refused).map(|(_, fix)| fix.as_str()).collect();
    Err(Error::config(format!("tables that cannot be carried: {}", list.join("; ")))
        .hint(format!("{}; or exclude them", fixes.join("; "))))
}

async fn read(
    client: &Prepared,
    one: Option<&TableName>,
    scope: &Scope,
    admits: impl Fn(&TableName) -> bool,
) -> Result<Vec<TableInfo>> {
    let leaf = scope.partitions == Partitions::Leaf;
    let (schema, name) = (one.map(|t| t.schema.as_str()), one.map(|t| t.name.as_str()));
    let mut tables = Vec::new();
    for row in client.query(TABLES, &[&schema, &name, &leaf]).await.map_err(classify)? {
        let name = TableName::new(get::<String>(&row, 1)?, get::<String>(&row, 2)?);
        if admits(&name) {
            tables.push((table_of(&row, name)?, get::<String>(&row, 5)?));
        }
    }
    let oids: Vec<u32> = tables.iter().map(|(t, _)| t.oid).collect();
    let places: HashMap<u32, usize> = oids.iter().enumerate().map(|(i, oid)| (*oid, i)).collect();
    let unnamed = unnamed::read(client, &oids).await?;
    for row in client.query(COLUMNS, &[&oids]).await.map_err(classify)? {
        if let Some(&i) = places.get(&get::<u32>(&row, 0)?) {
            column(&mut tables[i].0, &row, &unnamed)?;
        }
    }
    let mut indexes: HashMap<u32, Vec<RawIndex>> = HashMap::new();
    for row in client.query(INDEXES, &[&oids]).await.map_err(classify)? {
        indexes.entry(get(&row, 0)?).or_default().push(index(&row)?);
    }
    for row in client.query(FOREIGN_KEYS, &[&oids]).await.map_err(classify)? {
        if let Some(&i) = places.get(&get::<u32>(&row, 0)?) {
            foreign_key(&mut tables[i].0, &row)?;
        }
    }
    for row in client.query(PARTS, &[&oids]).await.map_err(classify)? {
        if let Some(&i) = places.get(&get::<u32>(&row, 0)?) {
            let part = TableName::new(get::<String>(&row, 1)?, get::<String>(&row, 2)?);
            tables[i].0.refused.push(part_refused(&part));
        }
    }
    let finish = |(mut table, identity): (TableInfo, String)| {
        let indexes = indexes.remove(&table.oid).unwrap_or_default();
        identify(&mut table, &identity, indexes);
        scope.omissions.mark(&mut table.schema);
        refuse_unnamed(&mut table);
        table
    };
    Ok(tables.into_iter().map(finish).collect())
}

fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T> {
    row.try_get(column).map_err(classify)
}

fn table_of(row: &Row, name: TableName) -> Result<TableInfo> {
    let mut refused = Vec::new();
    if get::<String>(row, 4)? == "u" {
        refused.push((
            "it is unlogged, so that its changes are not in the log".to_owned(),
            format!("ALTER TABLE {} SET LOGGED", quote::table(&name)),
        ));
    }
    let (oid, partitioned, row_security) = (get(row, 0)?, get(row, 3)?, get(row, 6)?);
    let schema = TableSchema {
        name,
        version: 1,
        columns: vec![],
        key: vec![],
        indexes: vec![],
        foreign_keys: vec![],
        origin: None,
        pending: vec![],
        number: oid,
    };
    let (left_out, unnamed, generated) = (vec![], vec![], vec![]);
    Ok(TableInfo { schema, oid, partitioned, refused, left_out, unnamed, generated, row_security })
}

fn column(table: &mut TableInfo, row: &Row, unnamed: &HashMap<u32, Unnamed>) -> Result<()> {
    let name: String = get(row, 1)?;
    if get(row, 5)? {
        table.generated.push(name);
        return Ok(());
    }
    let (typname, sql): (String, String) = (get(row, 7)?, get(row, 10)?);
    let (labels, extension): (Option<Vec<String>>, Option<String>) = (get(row, 11)?, get(row, 13)?);
    let declared = Declared {
        typname: &typname,
        builtin: get(row, 8)?,
        typmod: get(row, 9)?,
        sql: &sql,
        labels: labels.as_deref(),
        extension: extension.as_deref(),
    };
    if let Some(unnamed) = unnamed.get(&get::<u32>(row, 12)?) {
        table.unnamed.push((table.schema.columns.len(), unnamed.why(&sql)));
    }
    table.schema.columns.push(Column {
        logical: logical(&declared),
        name,
        source_type: get(row, 3)?,
        nullable: get(row, 4)?,
        auto_increment: get(row, 6)?,
        number: u32::try_from(get::<i32>(row, 2)?).unwrap_or_default(),
        policies: Default::default(),
    });
    Ok(())
}

/// Refuses columns of unnamed types, but for those that are left out.
fn refuse_unnamed(table: &mut TableInfo) {
    let TableInfo { schema, unnamed, refused, .. } = table;
    unnamed.retain(|(i, _)| schema.columns[*i].logical != Logical::Omitted);
    for (i, why) in unnamed.iter() {
        let name = &schema.columns[*i].name;
        let (place, column) = (quote::table(&schema.name), quote::ident(name));
        let mut fix = format!("ALTER TABLE {place} ALTER COLUMN {column} TYPE text USING {column}::text");
        if !schema.key.contains(i) {
            fix += &format!("; or {}", leave_out(&schema.name, name));
        }
        refused.push((format!("column {name}: {why}"), fix));
    }
}

/// A partition of which the log would not carry old rows as the root's identity wants them.
fn part_refused(part: &TableName) -> (String, String) {
    let what =
        format!("its partition {part} has another REPLICA IDENTITY: the log does not say which of its rows change");
    (what, format!("ALTER TABLE {} REPLICA IDENTITY as the root has it", quote::table(part)))
}

/// An index as the catalog has it.
struct RawIndex {
    name: String,
    unique: bool,
    primary: bool,
    identity: bool,
    /// Why it is not carried.
    unfit: Option<String>,
    columns: Vec<String>,
}

fn index(row: &Row) -> Result<RawIndex> {
    Ok(RawIndex {
        name: get(row, 1)?,
        unique: get(row, 2)?,
        primary: get(row, 3)?,
        identity: get(row, 4)?,
        unfit: get(row, 5)?,
        columns: get(row, 6)?,
    })
}

/// Chooses what identifies a row, and sorts the other indexes into carried and left out.
fn identify(table: &mut TableInfo, identity: &str, mut indexes: Vec<RawIndex>) {
    let is_key: fn(&RawIndex) -> bool = match identity {
        "i" => |index| index.identity,
        "n" => |_| false,
        _ => |index| index.primary,
    };
    let ordinals = |table: &TableInfo, index: &RawIndex| -> Option<Vec<usize>> {
        index.columns.iter().map(|c| table.schema.ordinal(c)).collect()
    };
    if let Some(at) = indexes.iter().position(is_key)
        && let Some(key) = ordinals(table, &indexes[at])
    {
        table.schema.key = key;
        indexes.remove(at);
    }
    let name = quote::table(&table.schema.name);
    match (identity, table.schema.key.is_empty()) {
        (_, false) | ("f", true) => {}
        ("n", true) => table.refused.push((
            "its REPLICA IDENTITY is NOTHING: the log does not say which rows change".to_owned(),
            format!("ALTER TABLE {name} REPLICA IDENTITY DEFAULT (with a primary key), or FULL"),
        )),
        (_, true) => table.refused.push((
            "it has no primary key, so that the log does not say which rows change".to_owned(),
            format!("ALTER TABLE {name} ADD PRIMARY KEY (...), or ALTER TABLE {name} REPLICA IDENTITY FULL"),
        )),
    }
    for index in indexes {
        match (&index.unfit, ordinals(table, &index)) {
            (None, Some(columns)) => {
                table.schema.indexes.push(Index { name: index.name, columns, unique: index.unique });
            }
            (None, None) => table.left_out.push((index.name, "one of its columns is not carried".into())),
            (Some(why), _) => table.left_out.push((index.name, why.clone())),
        }
    }
}

fn foreign_key(table: &mut TableInfo, row: &Row) -> Result<()> {
    let action = |code: String| match code.as_str() {
        "c" => "CASCADE",
        "n" => "SET NULL",
        "d" => "SET DEFAULT",
        "r" => "RESTRICT",
        _ => "NO ACTION",
    };
    let columns: Vec<String> = get(row, 6)?;
    // A column that is not carried has no ordinal; the reference cannot be made without it.
    if let Some(columns) = columns.iter().map(|c| table.schema.ordinal(c)).collect::<Option<Vec<_>>>() {
        table.schema.foreign_keys.push(ForeignKey {
            name: get(row, 1)?,
            columns,
            to: TableName::new(get::<String>(row, 2)?, get::<String>(row, 3)?),
            to_columns: get(row, 7)?,
            on_delete: action(get(row, 4)?).to_owned(),
            on_update: action(get(row, 5)?).to_owned(),
        });
    }
    Ok(())
}

/// The object id of a table, and whether it is partitioned.
pub async fn relation(client: &Prepared, name: &TableName) -> Result<Option<(u32, bool)>> {
    let sql = "SELECT c.oid, c.relkind = 'p' FROM pg_catalog.pg_class c \
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')";
    let row = client.query_opt(sql, &[&name.schema, &name.name]).await.map_err(classify)?;
    row.map(|row| Ok((get(&row, 0)?, get(&row, 1)?))).transpose()
}
