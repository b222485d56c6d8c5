//! Generated tables and rows of every logical type: a row's values follow from its key and a version number, so that
//! what a target must hold can be computed anew and compared by fingerprint.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_buffer::i256;

use crate::batch::{Batch, Boundary, Item, Op, Rows};
use crate::builder::{ColumnBuilder, RowsBuilder, finish_columns};
use crate::error::Result;
use crate::fingerprint::Fingerprint;
use crate::position::Position;
use crate::schema::{Column, Logical, TableName, TableSchema};

/// A key and, per column, the version that its value follows from.
pub type Model = BTreeMap<i64, Vec<u32>>;

/// A change of a generated row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// A new row, all columns of this version.
    Insert(i64, u32),
    /// The row has all columns of this version now.
    Update(i64, u32),
    /// Every second column is of this version now, the others the log did not carry.
    Partial(i64, u32),
    /// The row goes.
    Delete(i64),
}

/// Types that every target carries, each under the name of its column; the key is the `bigint` column `id`.
pub fn table(schema: &str, name: &str) -> Arc<TableSchema> {
    let columns = [
        ("id", "bigint", Logical::Int64),
        ("flag", "boolean", Logical::Bool),
        ("small", "smallint", Logical::Int16),
        ("number", "int", Logical::Int32),
        ("huge", "bigint unsigned", Logical::UInt64),
        ("ratio", "double", Logical::Float64),
        ("price", "decimal(20,4)", Logical::Decimal { precision: 20, scale: 4 }),
        ("label", "varchar(200)", Logical::Text),
        ("raw", "blob", Logical::Bytes),
        ("day", "date", Logical::Date),
        ("moment", "datetime(6)", Logical::Timestamp),
        ("instant", "timestamp(6)", Logical::TimestampTz),
    ];
    make(schema, name, &columns)
}

/// A table with a column of each logical type.
pub fn every_type(schema: &str, name: &str) -> Arc<TableSchema> {
    let labels = || vec!["red".to_owned(), "it's".to_owned(), "blau ü".to_owned()];
    let columns = [
        ("id", "bigint", Logical::Int64),
        ("c_bool", "boolean", Logical::Bool),
        ("c_int8", "tinyint", Logical::Int8),
        ("c_int16", "smallint", Logical::Int16),
        ("c_int32", "int", Logical::Int32),
        ("c_int64", "bigint", Logical::Int64),
        ("c_uint8", "tinyint unsigned", Logical::UInt8),
        ("c_uint16", "smallint unsigned", Logical::UInt16),
        ("c_uint32", "int unsigned", Logical::UInt32),
        ("c_uint64", "bigint unsigned", Logical::UInt64),
        ("c_float32", "float", Logical::Float32),
        ("c_float64", "double", Logical::Float64),
        ("c_decimal", "decimal(20,4)", Logical::Decimal { precision: 20, scale: 4 }),
        ("c_decimal_wide", "decimal(65,30)", Logical::Decimal { precision: 65, scale: 30 }),
        ("c_numeric", "numeric", Logical::Numeric),
        ("c_text", "text", Logical::Text),
        ("c_enum", "enum('red','it''s','blau ü')", Logical::Enum { labels: labels() }),
        ("c_set", "set('red','it''s','blau ü')", Logical::Set { labels: labels() }),
        ("c_json", "json", Logical::Json),
        ("c_bytes", "blob", Logical::Bytes),
        ("c_bit", "bit(7)", Logical::Bit { len: 7 }),
        ("c_uuid", "uuid", Logical::Uuid),
        ("c_date", "date", Logical::Date),
        ("c_time", "time(6)", Logical::Time),
        ("c_duration", "time(6)", Logical::Duration),
        ("c_timestamp", "datetime(6)", Logical::Timestamp),
        ("c_timestamptz", "timestamp(6)", Logical::TimestampTz),
        ("c_literal", "", Logical::Literal),
    ];
    make(schema, name, &columns)
}

/// As [`every_type`], without a key.
pub fn bag(schema: &str, name: &str) -> Arc<TableSchema> {
    Arc::new(TableSchema { key: vec![], ..(*every_type(schema, name)).clone() })
}

/// Changes of a bag, in this order: what happens to one row of this id and version.
pub fn bag_rows(table: &Arc<TableSchema>, writes: &[(Op, i64, u32)]) -> Result<Rows> {
    let mut builder = RowsBuilder::new(Arc::clone(table));
    for (order, (op, id, version)) in writes.iter().enumerate() {
        for (i, column) in table.columns.iter().enumerate() {
            append(&mut builder.columns[i], &column.logical, *id, *version, i)?;
        }
        builder.end_row(*op, 1_700_000_000_000_000, order as u32);
    }
    builder.finish()
}

fn make(schema: &str, name: &str, columns: &[(&str, &str, Logical)]) -> Arc<TableSchema> {
    let columns = columns.iter().enumerate().map(|(i, (name, source_type, logical))| Column {
        name: (*name).to_owned(),
        source_type: (*source_type).to_owned(),
        logical: logical.clone(),
        nullable: i > 0,
        auto_increment: false,
        number: 0,
        policies: Default::default(),
    });
    Arc::new(TableSchema {
        name: TableName::new(schema, name),
        version: 1,
        columns: columns.collect(),
        key: vec![0],
        indexes: Vec::new(),
        foreign_keys: Vec::new(),
        origin: None,
        pending: vec![],
        number: 0,
    })
}

/// The changes as one item.
pub fn rows(table: &Arc<TableSchema>, writes: &[Write]) -> Result<Rows> {
    let mut builder = RowsBuilder::new(Arc::clone(table));
    for (order, write) in writes.iter().enumerate() {
        let (op, id, version) = match *write {
            Write::Insert(id, version) => (Op::Insert, id, Some(version)),
            Write::Update(id, version) | Write::Partial(id, version) => (Op::Update, id, Some(version)),
            Write::Delete(id) => (Op::Delete, id, None),
        };
        for (i, column) in table.columns.iter().enumerate() {
            match version {
                _ if table.key.contains(&i) => append(&mut builder.columns[i], &column.logical, id, 0, i)?,
                Some(_) if matches!(write, Write::Partial(..)) && is_absent(i) => builder.append_absent(i),
                Some(version) => append(&mut builder.columns[i], &column.logical, id, version, i)?,
                None => builder.columns[i].append_null(),
            }
        }
        builder.end_row(op, 1_700_000_000_000_000, order as u32);
    }
    builder.finish()
}

/// The columns that [`Write::Partial`] does not carry.
fn is_absent(column: usize) -> bool {
    column.is_multiple_of(2)
}

/// Changes that end at a commit.
pub fn batch(table: &Arc<TableSchema>, writes: &[Write], position: &Position) -> Result<Batch> {
    let end = Boundary::Commit(position.clone());
    Ok(Batch { items: vec![Item::Rows(rows(table, writes)?)], end, commit_micros: Some(1_700_000_000_000_000) })
}

/// What the changes make of the rows that are there.
pub fn apply(table: &TableSchema, writes: &[Write], model: &mut Model) {
    let width = table.columns.len();
    for write in writes {
        match *write {
            Write::Insert(id, version) | Write::Update(id, version) => {
                model.insert(id, vec![version; width]);
            }
            Write::Partial(id, version) => {
                if let Some(row) = model.get_mut(&id) {
                    (0..width).filter(|&i| !is_absent(i)).for_each(|i| row[i] = version);
                }
            }
            Write::Delete(id) => {
                model.remove(&id);
            }
        }
    }
}

/// The rows of a model, as a snapshot reads them.
pub fn content(table: &TableSchema, model: &Model) -> Result<RecordBatch> {
    let mut columns: Vec<ColumnBuilder> = table.columns.iter().map(|c| ColumnBuilder::new(&c.logical)).collect();
    for (&id, versions) in model {
        for (i, column) in table.columns.iter().enumerate() {
            let version = if table.key.contains(&i) { 0 } else { versions[i] };
            append(&mut columns[i], &column.logical, id, version, i)?;
        }
    }
    finish_columns(table, &mut columns)
}

/// The fingerprint of [`content`].
pub fn fingerprint(table: &TableSchema, model: &Model) -> Result<Fingerprint> {
    let mut sum = Fingerprint::default();
    sum.add(&content(table, model)?)?;
    Ok(sum)
}

/// A well-mixed number.
fn mix(id: i64, version: u32, column: usize) -> u64 {
    let mut x = (id as u64) ^ (u64::from(version) << 40) ^ ((column as u64) << 56);
    for _ in 0..2 {
        x = (x ^ (x >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x ^= x >> 29;
    }
    x
}

/// The value of a cell; the key's is `id` itself.
fn append(builder: &mut ColumnBuilder, logical: &Logical, id: i64, version: u32, column: usize) -> Result<()> {
    if column == 0 {
        if let ColumnBuilder::Int64(b) = builder {
            b.append_value(id);
        }
        return Ok(());
    }
    let x = mix(id, version, column);
    if x.is_multiple_of(7) {
        builder.append_null();
        return Ok(());
    }
    let signed = x as i64;
    // The year is between 1 and 9999.
    let micros = signed.rem_euclid(315_537_897_600_000_000) - 62_135_596_800_000_000;
    match builder {
        ColumnBuilder::Omitted(b) => b.append_null(),
        ColumnBuilder::Bool(b) => b.append_value(x & 8 == 0),
        ColumnBuilder::Int8(b) => b.append_value(signed as i8),
        ColumnBuilder::Int16(b) => b.append_value(signed as i16),
        ColumnBuilder::Int32(b) => b.append_value(signed as i32),
        ColumnBuilder::Int64(b) => b.append_value(signed),
        ColumnBuilder::UInt8(b) => b.append_value(x as u8),
        ColumnBuilder::UInt16(b) => b.append_value(x as u16),
        ColumnBuilder::UInt32(b) => b.append_value(x as u32),
        ColumnBuilder::UInt64(b) => b.append_value(x),
        ColumnBuilder::Float32(b) => b.append_value((signed as i16) as f32 / 3.0),
        ColumnBuilder::Float64(b) => b.append_value(signed as f64 / 7.0),
        ColumnBuilder::Decimal128(b) => b.append_value(i128::from(signed)),
        ColumnBuilder::Decimal256(b) => {
            b.append_value(i256::from_i128(i128::from(signed)).wrapping_mul(i256::from_i128(10_i128.pow(30))));
        }
        ColumnBuilder::Utf8(b) => crate::builder::push_str(b, &text(logical, x))?,
        ColumnBuilder::Binary(b) => crate::builder::push_bytes(b, &x.to_le_bytes()[..(x % 9) as usize])?,
        ColumnBuilder::Uuid(b) => {
            let value = (u128::from(x) << 64 | u128::from(x)).to_be_bytes();
            b.append_value(value).map_err(|e| crate::Error::corrupt("a UUID of 16 bytes").caused_by(e))?;
        }
        ColumnBuilder::Date(b) => b.append_value((micros / 86_400_000_000) as i32),
        ColumnBuilder::Time(b) => b.append_value(signed.rem_euclid(86_400_000_000)),
        ColumnBuilder::Duration(b) => b.append_value(signed % 3_020_399_000_000),
        ColumnBuilder::Timestamp(b) => b.append_value(micros),
    }
    Ok(())
}

fn text(logical: &Logical, x: u64) -> String {
    match logical {
        Logical::Numeric => ["0", "-12.50", "NaN", "Infinity", "-Infinity", "123456789012345678901234567890.000000001"]
            [(x % 6) as usize]
            .to_owned(),
        Logical::Enum { labels } => labels[x as usize % labels.len()].clone(),
        Logical::Set { labels } => {
            let chosen = labels.iter().enumerate().filter(|(i, _)| x >> i & 1 == 1);
            chosen.map(|(_, label)| label.as_str()).collect::<Vec<_>>().join(",")
        }
        Logical::Json => format!("{{\"a\": [1, 2.50, null, \"ü {}\"]}}", x % 1000),
        Logical::Bit { len } => (0..*len).map(|i| if x >> i & 1 == 1 { '1' } else { '0' }).collect(),
        Logical::Literal => ["12", "1.5", "'it''s'", "X'00ff'"][(x % 4) as usize].to_owned(),
        _ => match x % 5 {
            0 => String::new(),
            1 => format!("tab\tnew line\n back\\slash {x}"),
            2 => format!("quote ' \" comma, {x} \\N"),
            3 => "ü€😀".repeat((x % 9) as usize),
            _ => format!("{x:x}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_and_model_agree() {
        let table = every_type("s", "t");
        let mut model = Model::new();
        let writes = [Write::Insert(1, 1), Write::Insert(2, 1), Write::Partial(1, 2), Write::Delete(2)];
        apply(&table, &writes, &mut model);
        let partial = rows(&table, &writes).unwrap();
        let expected = content(&table, &model).unwrap();
        for column in 1..table.columns.len() {
            let from = if partial.is_absent(column, 2) { 0 } else { 2 };
            let cell = partial.batch.column(column).slice(from, 1);
            assert_eq!(&cell.to_data(), &expected.column(column).to_data(), "{}", table.columns[column].name);
        }
        assert_ne!(fingerprint(&table, &model).unwrap(), fingerprint(&table, &Model::new()).unwrap());
    }
}
