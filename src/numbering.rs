//! Numbers for rows that are told apart by their values: equal rows get one number, counted from 0 in the order in which
//! they first come.
//!
//! Rows are compared by their encoded bytes (`arrow_row`), so by every bit of every value. The encoded rows of a batch lie in
//! one buffer and are kept, and the hash table holds numbers only: no row costs an allocation.

use arrow_array::ArrayRef;
use arrow_row::{Row, RowConverter, Rows, SortField};
use arrow_schema::{ArrowError, DataType};
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

/// Where a row stands: (index into [`Numbering::parts`], row). A batch has fewer than 2^32 rows (`order` counts them), and
/// half the bytes count: there is one for each row.
type At = (u32, u32);

/// The rows that have come so far, and their numbers.
pub struct Numbering {
    converter: RowConverter,
    parts: Vec<Rows>,
    /// By number: where such a row came first.
    firsts: Vec<At>,
    numbers: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Numbering {
    /// For rows with columns of these types.
    pub fn new(types: impl Iterator<Item = DataType>) -> Result<Self, ArrowError> {
        let converter = RowConverter::new(types.map(SortField::new).collect())?;
        let (numbers, hasher) = (HashTable::new(), DefaultHashBuilder::default());
        Ok(Numbering { converter, parts: Vec::new(), firsts: Vec::new(), numbers, hasher })
    }

    /// The numbers of these rows. One that is new gets the next.
    pub fn add(&mut self, columns: &[ArrayRef]) -> Result<Vec<u32>, ArrowError> {
        let part = self.parts.len();
        self.parts.push(self.converter.convert_columns(columns)?);
        let Numbering { parts, firsts, numbers, hasher, .. } = self;
        let hash = |row: Row<'_>| hasher.hash_one(row.as_ref());
        let number = |(at, row): (usize, Row<'_>)| {
            let first = |n: &u32| firsts[*n as usize];
            let known = numbers.find(hash(row), |n| row_at(parts, first(n)) == row).copied();
            known.unwrap_or_else(|| {
                let next = firsts.len() as u32;
                numbers.insert_unique(hash(row), next, |n| hash(row_at(parts, firsts[*n as usize])));
                firsts.push((part as u32, at as u32));
                next
            })
        };
        Ok(parts[part].iter().enumerate().map(number).collect())
    }
}

fn row_at(parts: &[Rows], (part, row): At) -> Row<'_> {
    parts[part as usize].row(row as usize)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use arrow_array::{Int64Array, StringArray};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equal_rows_have_one_number(parts in proptest::collection::vec(proptest::collection::vec((0i64..5, "[ab]{0,2}"), 0..200), 0..5)) {
            let mut numbering = Numbering::new([DataType::Int64, DataType::Utf8].into_iter()).unwrap();
            let mut known: HashMap<(i64, String), u32> = HashMap::new();
            for part in parts {
                let ints: ArrayRef = Arc::new(Int64Array::from_iter_values(part.iter().map(|r| r.0)));
                let texts: ArrayRef = Arc::new(StringArray::from_iter_values(part.iter().map(|r| &r.1)));
                let numbers = numbering.add(&[ints, texts]).unwrap();
                prop_assert_eq!(numbers.len(), part.len());
                for (row, number) in part.into_iter().zip(numbers) {
                    let next = known.len() as u32;
                    prop_assert_eq!(*known.entry(row).or_insert(next), number);
                }
            }
        }
    }
}
