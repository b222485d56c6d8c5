//! Every value that the copy would stop at, found beforehand: the copy's own read, from which such values are left out.
//!
//! Postgres holds few values that do not travel: NaN in a `numeric(p,s)`, and times beyond what microseconds since 1970 count.
//! What they are stands in SQL here, so the server counts them, a range at a time, before the range is read by the decoder
//! of the copy with NULL in their place. Whatever else the decoder refuses ends the survey of the range as an error: nothing
//! passes that the copy would not take.

use arrow_array::RecordBatch;
use crossfade_core::policy::way_out;
use crossfade_core::{Column, KeyRange, Level, Logical, Policy, Result, TableSchema, Trouble};
use tokio_postgres::Client;

use crate::classify::classify_in;
use crate::connect::Server;
use crate::decode::CORRECT;
use crate::quote::ident;
use crate::ranges::{self, Relation};

/// Rows whose keys are told of each trouble, in each range.
const KEYS: usize = 3;

/// A kind of value that is refused.
struct Suspect<'t> {
    column: &'t Column,
    /// What the decoder says of it.
    what: String,
    /// The condition in SQL.
    is: String,
    /// What would let it pass.
    policy: Policy,
}

/// What of a column may be refused.
fn suspect(column: &Column) -> Option<Suspect<'_>> {
    let c = ident(&column.name);
    let late = |zone: &str| {
        let what = "a time after the year 294246 is out of range".to_owned();
        let is = format!("{c} >= '294247-01-10 04:00:54.775807{zone}' AND {c} < 'infinity'");
        Suspect { column, what, is, policy: Policy::OutOfRange }
    };
    let suspect = match &column.logical {
        Logical::Decimal { precision, scale } => {
            let what = format!("NaN is not a decimal({precision},{scale})");
            Some(Suspect { column, what, is: format!("{c} = 'NaN'"), policy: Policy::Nan })
        }
        Logical::Timestamp => Some(late("")),
        Logical::TimestampTz => Some(late("+00")),
        Logical::Bool
        | Logical::Int8
        | Logical::Int16
        | Logical::Int32
        | Logical::Int64
        | Logical::UInt8
        | Logical::UInt16
        | Logical::UInt32
        | Logical::UInt64
        | Logical::Float32
        | Logical::Float64
        | Logical::Numeric
        | Logical::Text
        | Logical::Enum { .. }
        | Logical::Set { .. }
        | Logical::Json
        | Logical::Bytes
        | Logical::Bit { .. }
        | Logical::Uuid
        | Logical::Date
        | Logical::Time
        | Logical::Duration
        | Logical::Postgres { .. }
        | Logical::Literal
        | Logical::Omitted => None,
    };
    suspect.filter(|s| !column.policies.has(s.policy))
}

/// Reads a range, see [`crossfade_core::Snapshot::survey`].
pub fn survey(
    server: &Server,
    client: &Client,
    mut relation: Relation<'_>,
    range: &KeyRange,
    sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    trouble: &mut dyn FnMut(Trouble),
) -> Result<()> {
    let table = relation.table;
    let suspects: Vec<Suspect<'_>> = table.columns.iter().filter_map(suspect).collect();
    if !suspects.is_empty() {
        let filter = ranges::filter(table, range)?;
        for found in server.block_on(count(client, &relation, &filter, &suspects))? {
            trouble(found);
        }
    }
    for (select, column) in relation.select.iter_mut().zip(&table.columns) {
        if let Some(Suspect { is, .. }) = suspect(column) {
            *select = format!("CASE WHEN {is} THEN NULL ELSE {select} END");
        }
    }
    ranges::scan(server, client, &relation, range, sink)
}

/// What lets the pipeline go on.
fn mend(table: &TableSchema, suspect: &Suspect<'_>) -> String {
    match table.ordinal(&suspect.column.name).and_then(|i| way_out(suspect.policy, table, i)) {
        Some(policy) => format!("{CORRECT}; or {policy}"),
        None => CORRECT.to_owned(),
    }
}

/// How many rows of a range have each of these, and which are the first.
async fn count(
    client: &Client,
    relation: &Relation<'_>,
    filter: &str,
    suspects: &[Suspect<'_>],
) -> Result<Vec<Trouble>> {
    let failed = |e| classify_in(&relation.table.name, e).context("counting values that cannot be carried");
    let counts: Vec<String> = suspects.iter().map(|s| format!("count(*) FILTER (WHERE {})", s.is)).collect();
    let from = &relation.from;
    let sql = format!("SELECT {} FROM {from} AS t{filter}", counts.join(", "));
    let row = client.query_one(&sql, &[]).await.map_err(failed)?;
    let key: Vec<&str> = relation.table.key_columns().map(|c| c.name.as_str()).collect();
    let mut found = Vec::new();
    for (i, suspect) in suspects.iter().enumerate() {
        let rows: i64 = row.try_get(i).map_err(failed)?;
        if rows == 0 {
            continue;
        }
        let mut keys = Vec::new();
        if !key.is_empty() {
            let and = if filter.is_empty() { " WHERE" } else { " AND" };
            let parts: Vec<String> = key.iter().map(|c| format!("{}::text", ident(c))).collect();
            let (parts, is) = (parts.join(", "), &suspect.is);
            let sql = format!("SELECT {parts} FROM {from} AS t{filter}{and} {is} LIMIT {KEYS}");
            for row in client.query(&sql, &[]).await.map_err(failed)? {
                let part = |(i, name): (usize, &&str)| {
                    Ok(format!("{name}={}", row.try_get::<_, Option<String>>(i)?.as_deref().unwrap_or("NULL")))
                };
                keys.push(key.iter().enumerate().map(part).collect::<Result<Vec<_>, _>>().map_err(failed)?.join(", "));
            }
        }
        found.push(Trouble {
            level: Level::Critical,
            column: Some(suspect.column.name.clone()),
            what: suspect.what.clone(),
            rows: rows.unsigned_abs(),
            keys,
            mend: mend(relation.table, suspect),
        });
    }
    Ok(found)
}
