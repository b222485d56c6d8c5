//! The net effect of a batch on a bag: a table without a key, whose rows are told apart by nothing but their values.
//!
//! The log of a bag says "such a row came" and "one such row went". Over a batch only the balance of each row matters: an
//! insertion and a deletion of equal rows cancel, whichever came first, because a bag does not know which of its equal rows
//! is which. What remains of a row is either insertions or deletions, so deletions may go first and the order is lost
//! without harm. Rows are equal if every bit of every value is (`arrow_row`), never by a collation.

use std::sync::Arc;

use arrow_array::RecordBatch;
use crossfade_core::{Error, Op, Result, Rows, TableSchema};

use crate::gather;
use crate::numbering::Numbering;

/// Where a row stands: (index into [`Bag::parts`], row).
type At = (usize, usize);

/// Insertions or deletions of equal rows; never both.
#[derive(Default)]
struct Balance {
    deletes: Vec<At>,
    inserts: Vec<At>,
}

/// The net effect on one bag, as it grows.
pub struct Bag {
    /// The table.
    pub table: Arc<TableSchema>,
    parts: Vec<Rows>,
    images: Numbering,
    /// By the row's number.
    balances: Vec<Balance>,
}

impl Bag {
    /// Nothing has changed yet.
    pub fn new(table: Arc<TableSchema>) -> Result<Self> {
        let images = Numbering::new(table.columns.iter().map(|c| c.logical.arrow())).map_err(|e| broken(&table, e))?;
        Ok(Bag { table, parts: Vec::new(), images, balances: Vec::new() })
    }

    /// Adds changes.
    pub fn add(&mut self, rows: Rows) -> Result<()> {
        if rows.absent.iter().any(Option::is_some) {
            return Err(Error::corrupt(format!("table {}: it has no key, and a row came in part", self.table.name)));
        }
        let images = self.images.add(rows.batch.columns()).map_err(|e| broken(&self.table, e))?;
        let part = self.parts.len();
        for ((row, &op), image) in rows.ops.iter().enumerate().zip(images) {
            if image as usize == self.balances.len() {
                self.balances.push(Balance::default());
            }
            let balance = &mut self.balances[image as usize];
            let (against, with) = match op {
                Op::Insert => (&mut balance.deletes, &mut balance.inserts),
                Op::Delete => (&mut balance.inserts, &mut balance.deletes),
                Op::Update => {
                    return Err(Error::corrupt(format!(
                        "table {}: it has no key, and a row is updated",
                        self.table.name
                    )));
                }
            };
            if against.pop().is_none() {
                with.push((part, row));
            }
        }
        self.parts.push(rows);
        Ok(())
    }

    /// Deletions, then insertions.
    pub fn finish(self) -> Result<Rows> {
        let Bag { table, parts, images, balances } = self;
        drop(images);
        let mut picks: Vec<At> = balances.iter().flat_map(|b| b.deletes.iter().copied()).collect();
        let mut ops = vec![Op::Delete; picks.len()];
        picks.extend(balances.iter().flat_map(|b| b.inserts.iter().copied()));
        drop(balances);
        ops.resize(picks.len(), Op::Insert);
        let commit_micros = picks.iter().map(|&(part, row)| parts[part].commit_micros[row]).collect();
        let order = (0..ops.len() as u32).collect();
        let batch = match picks.is_empty() {
            true => RecordBatch::new_empty(table.arrow()),
            false => gather::pick(parts, &picks).map_err(|e| broken(&table, e))?,
        };
        Ok(Rows { table, ops, batch, absent: Vec::new(), commit_micros, order })
    }
}

fn broken(table: &TableSchema, e: arrow_schema::ArrowError) -> Error {
    Error::corrupt(format!("table {}: folding its changes", table.name)).caused_by(e)
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use crossfade_core::{Column, ColumnBuilder, Logical, RowsBuilder, TableName};
    use proptest::prelude::*;

    use super::*;

    fn table() -> Arc<TableSchema> {
        let n = Column {
            name: "n".into(),
            source_type: "bigint".into(),
            logical: Logical::Int64,
            nullable: true,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        };
        Arc::new(TableSchema {
            name: TableName::new("s", "t"),
            version: 1,
            columns: vec![n],
            key: vec![],
            indexes: vec![],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        })
    }

    fn rows(changes: &[(Op, Option<i64>)]) -> Rows {
        let mut b = RowsBuilder::new(table());
        for (i, (op, n)) in changes.iter().enumerate() {
            let ColumnBuilder::Int64(column) = &mut b.columns[0] else { unreachable!() };
            column.append_option(*n);
            b.end_row(*op, 0, i as u32);
        }
        b.finish().unwrap()
    }

    fn value(rows: &Rows, row: usize) -> Option<i64> {
        use arrow_array::Array;
        let column = rows.batch.column(0).as_primitive::<Int64Type>();
        column.is_valid(row).then(|| column.value(row))
    }

    proptest! {
        #[test]
        fn only_the_balance_counts(
            changes in proptest::collection::vec((any::<bool>(), proptest::option::of(0i64..4)), 0..40),
            cut in 0usize..40,
        ) {
            let changes: Vec<(Op, Option<i64>)> =
                changes.into_iter().map(|(new, n)| (if new { Op::Insert } else { Op::Delete }, n)).collect();
            let cut = cut.min(changes.len());
            let mut bag = Bag::new(table()).unwrap();
            bag.add(rows(&changes[..cut])).unwrap();
            bag.add(rows(&changes[cut..])).unwrap();
            let net = bag.finish().unwrap();
            prop_assert!(net.ops.is_sorted_by_key(|op| *op == Op::Insert), "deletions first");
            let count = |ops: &[Op], value: &dyn Fn(usize) -> Option<i64>, n: Option<i64>| -> (i64, bool) {
                let mine: Vec<Op> = (0..ops.len()).filter(|&i| value(i) == n).map(|i| ops[i]).collect();
                let balance = mine.iter().map(|op| if *op == Op::Insert { 1 } else { -1 }).sum();
                (balance, mine.windows(2).all(|w| w[0] == w[1]))
            };
            let ops: Vec<Op> = changes.iter().map(|c| c.0).collect();
            for n in [None, Some(0), Some(1), Some(2), Some(3)] {
                let (before, _) = count(&ops, &|i| changes[i].1, n);
                let (after, pure) = count(&net.ops, &|i| value(&net, i), n);
                prop_assert_eq!(before, after);
                prop_assert!(pure, "nothing left to cancel");
            }
        }
    }
}
