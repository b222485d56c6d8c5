//! Control totals: what a database counts and sums over a table by its own SQL.
//!
//! Fingerprints are made of decoded rows, by one code for both ends: a decoder that read a value wrongly in the copy would read it in
//! the same way for the proof. Totals share nothing with it but the names of columns: both servers are asked, and two texts are
//! compared. They say less, and say it independently.
//!
//! For every column the values that are not NULL are counted. Numbers whose sum is exact, whatever the order, are summed: integers
//! and decimals, but no floating point, and no decimal so wide that a sum of it might not fit.

use crate::error::{Error, Result};
use crate::schema::{Logical, TableSchema};

/// What is asked of the server, besides the number of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// How many values of this column are not NULL.
    Values(usize),
    /// Their sum, as a decimal.
    Sum(usize),
}

/// The totals of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// Rows.
    pub rows: u64,
    /// By column; none for a column that is not read.
    pub columns: Vec<Option<Total>>,
}

/// The totals of a column.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Total {
    /// Values that are not NULL.
    pub values: u64,
    /// Their sum, in the one form that a number has: `-12.5`, `0`. None where nothing is summed.
    pub sum: Option<String>,
}

/// MySQL's decimals have at most 65 digits, and a sum 22 more than its values.
const WIDEST: u8 = 65 - 22;

impl Ask {
    /// The questions about a table, in the order in which [`Totals::read`] wants their answers.
    pub fn about(table: &TableSchema) -> Vec<Ask> {
        let of = |(i, logical): (usize, &Logical)| {
            let values = (*logical != Logical::Omitted).then_some(Ask::Values(i));
            values.into_iter().chain(is_summed(logical).then_some(Ask::Sum(i)))
        };
        table.columns.iter().map(|c| &c.logical).enumerate().flat_map(of).collect()
    }
}

fn is_summed(logical: &Logical) -> bool {
    match logical {
        Logical::Int8
        | Logical::Int16
        | Logical::Int32
        | Logical::Int64
        | Logical::UInt8
        | Logical::UInt16
        | Logical::UInt32
        | Logical::UInt64 => true,
        Logical::Decimal { precision, .. } => *precision <= WIDEST,
        // NaN and infinities have no sum that could be compared with anything but itself; Postgres prints that, too.
        Logical::Numeric => true,
        Logical::Bool
        | Logical::Float32
        | Logical::Float64
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
        | Logical::Timestamp
        | Logical::TimestampTz
        | Logical::Postgres { .. }
        | Logical::Literal
        | Logical::Omitted => false,
    }
}

impl Totals {
    /// From the server's answers to [`Ask::about`], as text. `None` for a sum: there is nothing to sum, or the server cannot.
    pub fn read(table: &TableSchema, rows: &str, answers: Vec<Option<String>>) -> Result<Totals> {
        let asked = Ask::about(table);
        let strange = |what: &str| Error::corrupt(format!("table {}: totals: {what}", table.name));
        if asked.len() != answers.len() {
            return Err(strange("an answer is missing"));
        }
        let count = |text: &str| text.parse::<u64>().map_err(|_| strange(&format!("{text:?} is no count")));
        let mut columns: Vec<Option<Total>> = vec![None; table.columns.len()];
        for (ask, answer) in asked.into_iter().zip(answers) {
            match ask {
                Ask::Values(i) => {
                    let values = count(&answer.ok_or_else(|| strange("a count is NULL"))?)?;
                    columns[i] = Some(Total { values, sum: None });
                }
                Ask::Sum(i) => {
                    let total = columns[i].as_mut().ok_or_else(|| strange("a sum without its count"))?;
                    total.sum = answer.map(|sum| plain(&sum));
                }
            }
        }
        Ok(Totals { rows: count(rows)?, columns })
    }
}

/// A number without what says nothing: `12.50` and `12.5` are one, `-0.0` is `0`.
fn plain(number: &str) -> String {
    let number = number.trim();
    let short = match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => number,
    };
    match short {
        "" | "-" | "-0" => "0".to_owned(),
        short => short.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Column, TableName};

    fn table() -> TableSchema {
        let column = |name: &str, logical| Column {
            name: name.into(),
            source_type: name.into(),
            logical,
            nullable: true,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        };
        TableSchema {
            name: TableName::new("s", "t"),
            version: 1,
            columns: vec![
                column("id", Logical::Int64),
                column("secret", Logical::Omitted),
                column("name", Logical::Text),
                column("wide", Logical::Decimal { precision: 60, scale: 2 }),
                column("price", Logical::Decimal { precision: 12, scale: 2 }),
            ],
            key: vec![0],
            indexes: vec![],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        }
    }

    #[test]
    fn what_can_be_compared_is_asked() {
        use Ask::{Sum, Values};
        assert_eq!(Ask::about(&table()), [Values(0), Sum(0), Values(2), Values(3), Values(4), Sum(4)]);
    }

    #[test]
    fn answers_are_read_in_order() {
        let some = |s: &str| Some(s.to_owned());
        let answers = vec![some("3"), some("6"), some("2"), some("0"), some("1"), some("-12.50")];
        let totals = Totals::read(&table(), "3", answers.clone()).unwrap();
        assert_eq!(totals.rows, 3);
        assert_eq!(totals.columns[0], Some(Total { values: 3, sum: some("6") }));
        assert_eq!(totals.columns[1], None);
        assert_eq!(totals.columns[3], Some(Total { values: 0, sum: None }));
        assert_eq!(totals.columns[4], Some(Total { values: 1, sum: some("-12.5") }));
        assert!(Totals::read(&table(), "3", answers[1..].to_vec()).is_err());
        assert!(Totals::read(&table(), "many", answers).is_err());
    }

    #[test]
    fn a_number_has_one_form() {
        for (given, wanted) in
            [("12.50", "12.5"), ("100", "100"), ("-0.00", "0"), ("0.0", "0"), ("NaN", "NaN"), ("-7.000", "-7")]
        {
            assert_eq!(plain(given), wanted);
        }
    }
}
