//! Tables cut into ranges of their key, and read range by range: for the snapshots of both ends.
//!
//! Ranges follow the order of the key's own index. Their bounds travel as text and come back as literals without a type, which the
//! server gives the column's type, so that the index serves them.

use std::pin::pin;

use arrow_array::RecordBatch;
use crossfade_core::{Error, KeyPart, KeyRange, Result, TableSchema};
use futures::StreamExt;
use tokio_postgres::{Client, Row};

use crate::classify::{classify, classify_in};
use crate::connect::Server;
use crate::decode::Decoder;
use crate::quote::{self, ident, idents};
use crate::types::PgType;

/// A table and how it is read.
pub struct Relation<'t> {
    /// Its shape.
    pub table: &'t TableSchema,
    /// What stands behind FROM.
    pub from: String,
    /// Per column the expression that reads it.
    pub select: Vec<String>,
}

/// Cuts a table, see [`crossfade_core::Snapshot::split`]. A table without a key is one range, an empty one none. A small one is
/// cut by walking its key's index, a large one by a sample: the walk reads the whole index.
pub fn split(server: &Server, client: &Client, relation: &Relation<'_>, rows: u64) -> Result<Vec<KeyRange>> {
    if relation.table.key.is_empty() {
        return Ok(vec![KeyRange::ALL]);
    }
    let rows = rows.max(1);
    server.block_on(async {
        let Some(last) = key_at(client, relation, None, Walk::Last).await? else { return Ok(Vec::new()) };
        let mut bounds = match Sample::of(client, relation, rows).await? {
            Some(sample) => sample.bounds(client, relation).await?,
            None => walk(client, relation, rows).await?,
        };
        if bounds.last() != Some(&last) {
            bounds.push(last);
        }
        let mut after: Option<Vec<KeyPart>> = None;
        Ok(bounds.into_iter().map(|to| KeyRange { after: after.replace(to.clone()), to: Some(to) }).collect())
    })
}

/// The key's index, `rows` at a step.
async fn walk(client: &Client, relation: &Relation<'_>, rows: u64) -> Result<Vec<Vec<KeyPart>>> {
    let mut bounds: Vec<Vec<KeyPart>> = Vec::new();
    while let Some(to) = key_at(client, relation, bounds.last().map(Vec::as_slice), Walk::Forward(rows)).await? {
        bounds.push(to);
    }
    Ok(bounds)
}

/// Ranges by a sample of a table's pages, and of the rows of those: ranges differ by a fifth or so in size, which harms nobody.
struct Sample {
    /// Of the pages, percent.
    pages: f64,
    /// Of the rows of these pages.
    rows: f64,
}

impl Sample {
    /// Rows of the sample for each range.
    const ROWS: f64 = 72.0;
    /// Pages that these come from, so that neighbours count little.
    const PAGES: f64 = 24.0;
    /// Ranges below which an index is walked.
    const FEW: f64 = 8.0;

    /// How to sample a table for ranges of so many rows; `None` for one that is small, that was never analyzed, or whose rows
    /// are in its partitions.
    async fn of(client: &Client, relation: &Relation<'_>, rows: u64) -> Result<Option<Sample>> {
        let sql = "SELECT c.reltuples::float8 / c.relpages, pg_catalog.pg_relation_size(c.oid)::float8 \
            / pg_catalog.current_setting('block_size')::float8 FROM pg_catalog.pg_class c \
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
            WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'r' AND c.reltuples > 0 AND c.relpages > 0";
        let name = &relation.table.name;
        let Some(row) = client.query_opt(sql, &[&name.schema, &name.name]).await.map_err(classify)? else {
            return Ok(None);
        };
        let (on_a_page, pages): (f64, f64) = (row.try_get(0).map_err(classify)?, row.try_get(1).map_err(classify)?);
        Ok(Sample::new(rows as f64, on_a_page, pages))
    }

    fn new(rows: f64, on_a_page: f64, pages: f64) -> Option<Sample> {
        let of_all = Self::ROWS / rows;
        if of_all >= 1.0 || pages * on_a_page / rows < Self::FEW {
            return None;
        }
        let of_pages = (Self::PAGES * on_a_page / rows).clamp(of_all, 1.0);
        Some(Sample { pages: 100.0 * of_pages, rows: of_all / of_pages })
    }

    async fn bounds(&self, client: &Client, relation: &Relation<'_>) -> Result<Vec<Vec<KeyPart>>> {
        let table = relation.table;
        let keys: Vec<String> = (0..table.key.len()).map(|i| format!("k{i}")).collect();
        let (keys, texts) = (keys.join(", "), keys.iter().map(|k| format!("{k}::text")).collect::<Vec<_>>().join(", "));
        let columns = idents(table.key_columns().map(|c| c.name.as_str()));
        let Sample { pages, rows } = self;
        let sql = format!(
            "SELECT {texts} FROM (SELECT {keys}, pg_catalog.row_number() OVER (ORDER BY {keys}) AS n \
             FROM (SELECT {columns} FROM {} AS t TABLESAMPLE SYSTEM ({pages}) WHERE pg_catalog.random() < {rows}) AS s ({keys})) AS r \
             WHERE n % {} = 0 ORDER BY n",
            relation.from,
            Self::ROWS
        );
        let found = client.query(&sql, &[]).await.map_err(|e| classify_in(&table.name, e))?;
        found.iter().map(|row| key_of(table, row)).collect()
    }
}

/// Where the reads of a transaction begin: an error of one would end the transaction, and with it all that follow, which are of other
/// tables and have nothing to do with it.
pub const SAVEPOINT: &str = "SAVEPOINT crossfade";

/// After the error of a read, readies its transaction for the next. If that fails, too, the next read tells.
pub fn go_on(server: &Server, client: &Client) {
    drop(server.block_on(client.batch_execute("ROLLBACK TO SAVEPOINT crossfade")));
}

/// Reads the rows of a range.
pub fn scan(
    server: &Server,
    client: &Client,
    relation: &Relation<'_>,
    range: &KeyRange,
    sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
) -> Result<()> {
    read(server, client, relation.table, &copy_out(relation, range)?, sink)
}

/// Keys that one statement names.
const KEYS: usize = 500;

/// Reads the rows with these keys, see [`crossfade_core::Snapshot::fetch`].
pub fn fetch(
    server: &Server,
    client: &Client,
    relation: &Relation<'_>,
    keys: &RecordBatch,
    sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
) -> Result<()> {
    let Some(keys) = KeyPart::of_keys(relation.table, keys) else {
        return scan(server, client, relation, &KeyRange::ALL, sink);
    };
    let columns = idents(relation.table.key_columns().map(|c| c.name.as_str()));
    keys.chunks(KEYS).try_for_each(|some| {
        let row = |key: &Vec<KeyPart>| format!("({})", key.iter().map(literal).collect::<Vec<_>>().join(", "));
        let filter = format!(" WHERE ({columns}) IN ({})", some.iter().map(row).collect::<Vec<_>>().join(", "));
        read(server, client, relation.table, &copy_where(relation, &filter), sink)
    })
}

/// Reads what a `COPY .. TO STDOUT` of the table's columns gives.
fn read(
    server: &Server,
    client: &Client,
    table: &TableSchema,
    sql: &str,
    sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
) -> Result<()> {
    let failed = |e| classify_in(&table.name, e).context(format!("reading table {}", table.name));
    let stream = server.block_on(client.copy_out(sql)).map_err(failed)?;
    let mut stream = pin!(stream);
    let mut decoder = Decoder::new(table);
    loop {
        let more = server.block_on(async {
            while !decoder.is_full() {
                match stream.next().await {
                    Some(piece) => decoder.feed(&piece.map_err(failed)?)?,
                    None => return Ok(false),
                }
            }
            Ok::<_, Error>(true)
        })?;
        // Outside of the runtime: the sink may do I/O of its own.
        if let Some(batch) = decoder.take()? {
            sink(batch)?;
        }
        if !more {
            return decoder.end();
        }
    }
}

/// Which key to look up.
#[derive(Clone, Copy)]
enum Walk {
    /// The one so many rows further on.
    Forward(u64),
    /// The last.
    Last,
}

async fn key_at(
    client: &Client,
    relation: &Relation<'_>,
    after: Option<&[KeyPart]>,
    walk: Walk,
) -> Result<Option<Vec<KeyPart>>> {
    let table = relation.table;
    let columns: Vec<String> = table.key_columns().map(|c| ident(&c.name)).collect();
    let values = columns.iter().map(|c| format!("{c}::text")).collect::<Vec<_>>().join(", ");
    let filter = after.map(|key| bound(table, ">", key)).transpose()?;
    let filter = filter.map(|f| format!(" WHERE {f}")).unwrap_or_default();
    let (direction, offset) = match walk {
        Walk::Forward(rows) => ("", rows - 1),
        Walk::Last => (" DESC", 0),
    };
    let order = columns.iter().map(|c| format!("k.{c}{direction}")).collect::<Vec<_>>().join(", ");
    let sql = format!("SELECT {values} FROM {} k{filter} ORDER BY {order} LIMIT 1 OFFSET {offset}", relation.from);
    let row = client.query_opt(&sql, &[]).await.map_err(|e| classify_in(&table.name, e))?;
    row.map(|row| key_of(table, &row)).transpose()
}

fn key_of(table: &TableSchema, row: &Row) -> Result<Vec<KeyPart>> {
    let part = |(i, column): (usize, &crossfade_core::Column)| {
        let text: Option<String> = row.try_get(i).map_err(classify)?;
        let text = text.ok_or_else(|| {
            Error::data(&table.name, "a key is NULL").column(&column.name).hint("give the table a primary key")
        })?;
        match PgType::of(&column.logical) {
            PgType::SmallInt | PgType::Integer | PgType::BigInt => match text.parse() {
                Ok(number) => Ok(KeyPart::Int(number)),
                Err(_) => Err(Error::data(&table.name, format!("key {text} is no integer")).column(&column.name)),
            },
            _ => Ok(KeyPart::Text(text)),
        }
    };
    table.key_columns().enumerate().map(part).collect()
}

/// `COPY (SELECT ... ) TO STDOUT` of a range.
pub fn copy_out(relation: &Relation<'_>, range: &KeyRange) -> Result<String> {
    Ok(copy_where(relation, &filter(relation.table, range)?))
}

/// ` WHERE ...` of a range; empty where it is the whole table.
pub fn filter(table: &TableSchema, range: &KeyRange) -> Result<String> {
    let bounds = [(">", &range.after), ("<=", &range.to)];
    let conditions = bounds
        .into_iter()
        .filter_map(|(operator, key)| key.as_ref().map(|key| bound(table, operator, key)))
        .collect::<Result<Vec<_>>>()?;
    Ok(if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) })
}

fn copy_where(relation: &Relation<'_>, filter: &str) -> String {
    let (select, from) = (relation.select.join(", "), &relation.from);
    format!("COPY (SELECT {select} FROM {from} AS t{filter}) TO STDOUT (FORMAT binary)")
}

/// `("a", "b") > ('1', 'x')`
fn bound(table: &TableSchema, operator: &str, key: &[KeyPart]) -> Result<String> {
    if key.len() != table.key.len() || key.is_empty() {
        return Err(Error::corrupt(format!(
            "table {}: a range with {} key values for {} key columns",
            table.name,
            key.len(),
            table.key.len()
        )));
    }
    let values: Vec<String> = key.iter().map(literal).collect();
    let columns = idents(table.key_columns().map(|c| c.name.as_str()));
    Ok(format!("({columns}) {operator} ({})", values.join(", ")))
}

fn literal(part: &KeyPart) -> String {
    match part {
        KeyPart::Int(number) => format!("'{number}'"),
        KeyPart::Text(text) => quote::literal(text),
        KeyPart::Bytes(bytes) => {
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            quote::literal(&format!("\\x{hex}"))
        }
    }
}
