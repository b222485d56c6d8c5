//! Reads the tables in one read transaction, at the position that the change table has in it.
//!
//! Both consistencies are exact: the transaction sees the tables and the log as of the same commit. In WAL mode it blocks
//! nobody, but the WAL cannot be checkpointed past it, so the copy opens one snapshot for each chunk.

use std::sync::Arc;

use arrow_array::RecordBatch;
use crossfade_core::builder::{ColumnBuilder, finish_columns};
use crossfade_core::source::{KeyPart, KeyRange, Snapshot};
use crossfade_core::totals::{Ask, Totals};
use crossfade_core::{Column, Error, Logical, Orphans, Position, Result, TableSchema, Trouble, figure};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, params_from_iter};

use crate::catalog::quote;
use crate::decode::{key_text, null_key};
use crate::error::Doing;
use crate::location::Location;
use crate::notes;
use crate::references;
use crate::text;
use crate::types::{append, misfit, pass};

/// A batch ends at so many rows or bytes.
const ROWS: usize = 8192;
const BYTES: usize = 8 << 20;

/// A read transaction.
pub struct View {
    conn: Connection,
    position: Position,
}

impl View {
    /// Begins the transaction.
    pub fn open(location: &Location) -> Result<Self> {
        let conn = location.reader()?;
        let position = notes::end(&conn, location)?;
        Ok(View { conn, position })
    }

    /// The same before there is a change table: at no position.
    pub fn peek(location: &Location) -> Result<Self> {
        let conn = location.reader()?;
        conn.execute_batch("BEGIN").doing("opening a snapshot")?;
        Ok(View { conn, position: Position::new("") })
    }
}

fn key_list(table: &TableSchema) -> Result<String> {
    if table.key.is_empty() {
        return Err(Error::data(&table.name, "it has no key to read it by").hint("give it a primary key"));
    }
    Ok(table.key_columns().map(|c| quote(&c.name)).collect::<Vec<_>>().join(", "))
}

/// `(keys) op (?1, ?2)`, which SQLite answers from the key's index.
fn bound(keys: &str, op: &str, first: usize, count: usize) -> String {
    let marks: Vec<String> = (first..first + count).map(|i| format!("?{i}")).collect();
    format!("({keys}) {op} ({})", marks.join(", "))
}

impl Snapshot for View {
    fn position(&self) -> &Position {
        &self.position
    }

    fn split(&mut self, table: &TableSchema, rows: u64) -> Result<Vec<KeyRange>> {
        let doing = format!("cutting {} into ranges", table.name);
        let (keys, count) = (key_list(table)?, table.key.len());
        let skip = i64::try_from(rows.max(1) - 1).unwrap_or(i64::MAX);
        let from = format!("SELECT {keys} FROM {}", quote(&table.name.name));
        let behind = bound(&keys, ">", 1, count);
        let next = [
            format!("{from} ORDER BY {keys} LIMIT 1 OFFSET {skip}"),
            format!("{from} WHERE {behind} ORDER BY {keys} LIMIT 1 OFFSET {skip}"),
        ];
        let descending = table.key_columns().map(|c| format!("{} DESC", quote(&c.name))).collect::<Vec<_>>().join(", ");
        let last = format!("{from} ORDER BY {descending} LIMIT 1");
        let read = |sql: &str, after: &[Value]| -> Result<Option<Vec<Value>>> {
            let mut statement = self.conn.prepare_cached(sql).doing(&doing)?;
            let mut found = statement.query(params_from_iter(after)).doing(&doing)?;
            let Some(row) = found.next().doing(&doing)? else { return Ok(None) };
            let values: rusqlite::Result<Vec<Value>> = (0..count).map(|i| row.get(i)).collect();
            values.map(Some).doing(&doing)
        };
        let Some(highest) = read(&last, &[])? else { return Ok(Vec::new()) };
        let mut ranges = Vec::new();
        let mut after: Option<Vec<Value>> = None;
        loop {
            let sql = &next[usize::from(after.is_some())];
            let to = read(sql, after.as_deref().unwrap_or_default())?;
            let end = to.is_none();
            let to = to.unwrap_or_else(|| highest.clone());
            if after.as_ref() == Some(&to) {
                return Ok(ranges);
            }
            let parts = |key: &[Value]| key.iter().zip(&table.key).map(|(v, &i)| part(table, i, v)).collect();
            ranges.push(KeyRange { after: after.as_deref().map(parts).transpose()?, to: Some(parts(&to)?) });
            if end {
                return Ok(ranges);
            }
            after = Some(to);
        }
    }

    fn scan(
        &mut self,
        table: &TableSchema,
        range: &KeyRange,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        self.read(table, range, sink, &mut Err)
    }

    /// `sum` of integers ends in an error beyond 64 bits, so upper and lower halves are summed apart. Of other columns the type
    /// of a value is its own, and a sum would be of floating point.
    fn totals(&mut self, table: &TableSchema) -> Result<Option<Totals>> {
        let doing = format!("totals of {}", table.name);
        let summed = |i: usize| table.columns[i].logical == Logical::Int64;
        let asks = Ask::about(table);
        let expression = |ask: &Ask| match *ask {
            Ask::Values(i) => format!(", count({})", quote(&table.columns[i].name)),
            Ask::Sum(i) if summed(i) => {
                let name = quote(&table.columns[i].name);
                format!(", sum({name} >> 32), sum({name} & 4294967295)")
            }
            Ask::Sum(_) => String::new(),
        };
        let sql = format!(
            "SELECT count(*){} FROM {}",
            asks.iter().map(expression).collect::<String>(),
            quote(&table.name.name)
        );
        let read = |row: &rusqlite::Row<'_>| -> rusqlite::Result<(i64, Vec<Option<String>>)> {
            let mut at = 0;
            let mut next = || {
                at += 1;
                row.get::<_, Option<i64>>(at).map(|n| n.map(i128::from))
            };
            let answer = |ask: &Ask| -> rusqlite::Result<Option<String>> {
                let number = match *ask {
                    Ask::Values(_) => next()?,
                    Ask::Sum(i) if summed(i) => next()?.zip(next()?).map(|(high, low)| (high << 32) + low),
                    Ask::Sum(_) => None,
                };
                Ok(number.map(|n| n.to_string()))
            };
            Ok((row.get(0)?, asks.iter().map(answer).collect::<rusqlite::Result<_>>()?))
        };
        let (rows, answers) = self.conn.query_row(&sql, [], read).doing(&doing)?;
        Totals::read(table, &rows.to_string(), answers).map(Some)
    }

    fn ask(&mut self, statement: &str) -> Result<Option<String>> {
        let read = || -> rusqlite::Result<Vec<Vec<Option<String>>>> {
            let mut prepared = self.conn.prepare(&figure::wrapped(statement))?;
            let columns = prepared.column_count();
            let row = |row: &rusqlite::Row<'_>| (0..columns).map(|i| figure_of(row, i)).collect();
            prepared.query_map([], row)?.collect()
        };
        let rows = read().map_err(|e| figure::refused(statement, unanswered(e)))?;
        figure::only(statement, rows)
    }

    fn orphans(&mut self, table: &TableSchema, tables: &[Arc<TableSchema>]) -> Result<Option<Vec<Orphans>>> {
        references::orphans(&self.conn, table, tables).map(Some)
    }

    fn survey(
        &mut self,
        table: &TableSchema,
        range: &KeyRange,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
        trouble: &mut dyn FnMut(Trouble),
    ) -> Result<()> {
        self.read(table, range, sink, &mut |e| Trouble::of(e).map(&mut *trouble))
    }
}

impl View {
    /// Reads a range. `refused` gets the error of each value that cannot be carried; if it takes it, the value is NULL.
    fn read(
        &mut self,
        table: &TableSchema,
        range: &KeyRange,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
        refused: &mut dyn FnMut(Error) -> Result<()>,
    ) -> Result<()> {
        let doing = format!("reading {}", table.name);
        let (keys, count) = (key_list(table)?, table.key.len());
        let mut clauses = Vec::new();
        let mut values = Vec::new();
        for (limit, op) in [(&range.after, ">"), (&range.to, "<=")] {
            let Some(parts) = limit else { continue };
            if parts.len() != count {
                return Err(Error::corrupt(format!("a range of {} has {} key parts", table.name, parts.len())));
            }
            clauses.push(bound(&keys, op, values.len() + 1, count));
            for (part, &i) in parts.iter().zip(&table.key) {
                values.push(value(&table.columns[i].logical, part).ok_or_else(|| {
                    Error::corrupt(format!("a range of {} has a bound that is no key: {part:?}", table.name))
                })?);
            }
        }
        let read = |c: &Column| if c.logical == Logical::Omitted { "NULL".to_owned() } else { quote(&c.name) };
        let columns: Vec<String> = table.columns.iter().map(read).collect();
        let filter = if clauses.is_empty() { String::new() } else { format!(" WHERE {}", clauses.join(" AND ")) };
        let sql = format!("SELECT {} FROM {}{filter}", columns.join(", "), quote(&table.name.name));
        let mut statement = self.conn.prepare_cached(&sql).map_err(|e| altered(table, e))?;
        let mut rows = statement.query(params_from_iter(values)).doing(&doing)?;
        let mut builders: Vec<ColumnBuilder> = table.columns.iter().map(|c| ColumnBuilder::new(&c.logical)).collect();
        let (mut held, mut bytes) = (0, 0);
        while let Some(row) = rows.next().doing(&doing)? {
            for (i, builder) in builders.iter_mut().enumerate() {
                let found = row.get_ref(i).doing(&doing)?;
                if found == ValueRef::Null && table.key.contains(&i) {
                    refused(null_key(table, i))?;
                }
                match append(builder, &table.columns[i].logical, found)? {
                    Ok(n) => bytes += n,
                    Err(_) if pass(&table.columns[i], builder, found)? => bytes += 8,
                    Err(found) => {
                        let key = key_text(table, |i| row.get_ref(i).unwrap_or(ValueRef::Null));
                        refused(misfit(table, i, key, &found))?;
                        builder.append_null();
                    }
                }
            }
            held += 1;
            if held >= ROWS || bytes >= BYTES {
                sink(finish_columns(table, &mut builders)?)?;
                (held, bytes) = (0, 0);
            }
        }
        if held > 0 {
            sink(finish_columns(table, &mut builders)?)?;
        }
        Ok(())
    }
}

/// A value of a figure as text: a number by the shortest digits that read back to it.
fn figure_of(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        number @ (ValueRef::Integer(_) | ValueRef::Real(_)) => Ok(text::numeric(number)),
        // A blob, and text that is not UTF-8, are errors.
        ValueRef::Text(_) | ValueRef::Blob(_) => row.get(column).map(Some),
    }
}

/// A statement of an operator's fails by its own fault more often than by the database's.
fn unanswered(e: rusqlite::Error) -> Error {
    match &e {
        rusqlite::Error::SqliteFailure(c, said) if c.code == rusqlite::ErrorCode::Unknown => {
            Error::config(said.clone().unwrap_or_else(|| c.to_string()))
        }
        rusqlite::Error::SqlInputError { msg, .. } => Error::config(msg.clone()),
        rusqlite::Error::FromSqlConversionFailure(..) => Error::config(e.to_string()),
        _ => crate::error::classify("a figure", e),
    }
}

/// A query over the known columns fails only if the application altered the table.
fn altered(table: &TableSchema, e: rusqlite::Error) -> Error {
    if matches!(e, rusqlite::Error::SqliteFailure(c, _) if c.code == rusqlite::ErrorCode::Unknown) {
        return Error::data(&table.name, "the table no longer has the columns it had")
            .caused_by(e)
            .hint("let the pipeline read the log up to the schema change, and try again");
    }
    crate::error::classify("reading a table", e)
}

/// A key's value as a bound: reals, which bounds do not know, as literals, and so every value of a literal column.
fn part(table: &TableSchema, column: usize, value: &Value) -> Result<KeyPart> {
    let logical = &table.columns[column].logical;
    let literal = |v: &Value| {
        text::literal(v.into()).map(KeyPart::Text).ok_or_else(|| Error::corrupt("a literal of text is text"))
    };
    match value {
        Value::Null => Err(null_key(table, column)),
        Value::Integer(i) => Ok(KeyPart::Int(i128::from(*i))),
        v if *logical == Logical::Literal => literal(v),
        Value::Real(_) => literal(value),
        Value::Text(t) => Ok(KeyPart::Text(t.clone())),
        Value::Blob(b) => Ok(KeyPart::Bytes(b.clone())),
    }
}

/// What [`part`] wrote.
fn value(logical: &Logical, part: &KeyPart) -> Option<Value> {
    Some(match (logical, part) {
        (_, KeyPart::Int(i)) => Value::Integer(i64::try_from(*i).ok()?),
        (_, KeyPart::Bytes(b)) => Value::Blob(b.clone()),
        (Logical::Literal | Logical::Float64 | Logical::Numeric | Logical::Decimal { .. }, KeyPart::Text(t)) => {
            text::parse_literal(t)?
        }
        (_, KeyPart::Text(t)) => Value::Text(t.clone()),
    })
}
