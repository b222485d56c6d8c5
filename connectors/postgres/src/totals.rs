//! Control totals by the server's own SQL, see [`crossfade_core::totals`].

use crossfade_core::totals::{Ask, Totals};
use crossfade_core::{Error, Result};
use tokio_postgres::Client;

use crate::classify::{classify, classify_in};
use crate::connect::Server;
use crate::quote::ident;
use crate::ranges::Relation;

/// A SELECT has at most 1,664 columns (MaxTupleAttributeNumber).
const COLUMNS: usize = 1_600;

/// What the server counts and sums over a table, in the transaction that the session is in.
pub fn totals(server: &Server, client: &Client, relation: &Relation<'_>) -> Result<Totals> {
    let table = relation.table;
    let one = |ask: &Ask| match *ask {
        Ask::Values(i) => format!("pg_catalog.count({})::text", ident(&table.columns[i].name)),
        // As it is read: numbers such as `oid` have no sum of their own.
        Ask::Sum(i) => format!("pg_catalog.sum({})::text", relation.select[i]),
    };
    let asks: Vec<String> = Ask::about(table).iter().map(one).collect();
    let (mut rows, mut answers) = (None, Vec::new());
    for some in asks.chunks(COLUMNS) {
        let sql = format!("SELECT pg_catalog.count(*)::text, {} FROM {} AS t", some.join(", "), relation.from);
        let row = server.block_on(client.query_one(&sql, &[]));
        let row = row.map_err(|e| classify_in(&table.name, e).context(format!("totals of table {}", table.name)))?;
        rows = Some(row.try_get::<_, String>(0).map_err(classify)?);
        for i in 1..row.len() {
            answers.push(row.try_get::<_, Option<String>>(i).map_err(classify)?);
        }
    }
    let rows = rows.ok_or_else(|| Error::corrupt(format!("table {} has no column to count", table.name)))?;
    Totals::read(table, &rows, answers)
}
