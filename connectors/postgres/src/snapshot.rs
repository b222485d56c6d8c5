//! Reads the tables back at exactly the pipeline's checkpoint.
//!
//! One `REPEATABLE READ, READ ONLY` transaction on a connection of its own. The checkpoint row is read in it, and since
//! every commit writes that row together with the data, the row's position is the position of all that the transaction
//! sees. Writers go on meanwhile.
//!
//! Ranges follow the key's own index. Their bounds travel as text and come back as literals without a type, which the
//! server gives the column's type, so that the index serves them.

use std::pin::pin;

use arrow_array::RecordBatch;
use crossfade_core::{Error, KeyPart, KeyRange, Position, Result, Snapshot, TableSchema};
use futures::StreamExt;
use tokio_postgres::{Client, Row};

use crate::classify::{classify, classify_in};
use crate::connect::Server;
use crate::decode::Decoder;
use crate::quote::{self, ident, idents};
use crate::sql::feed_value;
use crate::types::PgType;

/// A readable state of the target's tables.
pub struct TargetSnapshot {
    server: Server,
    client: Client,
    position: Position,
}

impl TargetSnapshot {
    /// Opens the state of now. An error if the pipeline has committed nothing yet.
    pub fn open(server: &Server, pipeline: &str) -> Result<TargetSnapshot> {
        let (client, row) = server.block_on(async {
            let client = server.client().await?;
            client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(classify)?;
            // The snapshot is taken by the first statement: this one.
            let sql = "SELECT position FROM crossfade.checkpoint WHERE pipeline = $1 AND position IS NOT NULL";
            let row = client.query_opt(sql, &[&pipeline]).await.map_err(classify)?;
            Ok::<_, Error>((client, row))
        })?;
        let row = row.ok_or_else(|| {
            Error::unavailable(format!("pipeline {pipeline} has committed nothing to this target yet"))
                .hint("start it first, or name the pipeline that wrote the target")
        })?;
        let position = Position::new(row.try_get::<_, String>(0).map_err(classify)?);
        Ok(TargetSnapshot { server: server.clone(), client, position })
    }
}

impl Snapshot for TargetSnapshot {
    fn position(&self) -> &Position {
        &self.position
    }

    /// Walks the key's index, `rows` at a step. A table without a key is one range, an empty one none.
    fn split(&mut self, table: &TableSchema, rows: u64) -> Result<Vec<KeyRange>> {
        if table.key.is_empty() {
            return Ok(vec![KeyRange::ALL]);
        }
        let Some(last) = self.key_at(table, None, Walk::Last)? else { return Ok(Vec::new()) };
        let mut ranges: Vec<KeyRange> = Vec::new();
        let mut after: Option<Vec<KeyPart>> = None;
        while let Some(to) = self.key_at(table, after.as_deref(), Walk::Forward(rows.max(1)))? {
            ranges.push(KeyRange { after: after.replace(to.clone()), to: Some(to) });
        }
        if after.as_ref() != Some(&last) {
            ranges.push(KeyRange { after, to: Some(last) });
        }
        Ok(ranges)
    }

    fn scan(
        &mut self,
        table: &TableSchema,
        range: &KeyRange,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let sql = copy_out(table, range)?;
        let failed = |e| classify_in(&table.name, e).context(format!("reading table {}", table.name));
        let stream = self.server.block_on(self.client.copy_out(&sql)).map_err(failed)?;
        let mut stream = pin!(stream);
        let mut decoder = Decoder::new(table);
        loop {
            let more = self.server.block_on(async {
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
}

/// Which key to look up.
#[derive(Clone, Copy)]
enum Walk {
    /// The one so many rows further on.
    Forward(u64),
    /// The last.
    Last,
}

impl TargetSnapshot {
    fn key_at(&self, table: &TableSchema, after: Option<&[KeyPart]>, walk: Walk) -> Result<Option<Vec<KeyPart>>> {
        let columns: Vec<String> = table.key_columns().map(|c| ident(&c.name)).collect();
        let values = columns.iter().map(|c| format!("{c}::text")).collect::<Vec<_>>().join(", ");
        let filter = after.map(|key| bound(table, ">", key)).transpose()?;
        let filter = filter.map(|f| format!(" WHERE {f}")).unwrap_or_default();
        let (direction, offset) = match walk {
            Walk::Forward(rows) => ("", rows - 1),
            Walk::Last => (" DESC", 0),
        };
        let order = columns.iter().map(|c| format!("k.{c}{direction}")).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "SELECT {values} FROM {} k{filter} ORDER BY {order} LIMIT 1 OFFSET {offset}",
            quote::table(&table.name)
        );
        let row = self.server.block_on(self.client.query_opt(&sql, &[])).map_err(|e| classify_in(&table.name, e))?;
        row.map(|row| key_of(table, &row)).transpose()
    }
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

/// `COPY (SELECT ... ) TO STDOUT` of a range, each column cast to the type that its decoder reads. Types have no modifiers
/// in these casts: `::numeric(10,2)` would round what it ought to show.
pub fn copy_out(table: &TableSchema, range: &KeyRange) -> Result<String> {
    let columns: Vec<String> = table
        .columns
        .iter()
        .map(|c| match PgType::of(&c.logical) {
            // A cast to bit would pad or cut; bit and varbit have one binary form.
            PgType::Bit(_) => ident(&c.name),
            PgType::Other(_) => feed_value("t", c),
            kind => format!("{}::pg_catalog.{}", ident(&c.name), kind.typname()),
        })
        .collect();
    let bounds = [(">", &range.after), ("<=", &range.to)];
    let conditions = bounds
        .into_iter()
        .filter_map(|(operator, key)| key.as_ref().map(|key| bound(table, operator, key)))
        .collect::<Result<Vec<_>>>()?;
    let filter = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    Ok(format!(
        "COPY (SELECT {} FROM {} AS t{filter}) TO STDOUT (FORMAT binary)",
        columns.join(", "),
        quote::table(&table.name)
    ))
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
