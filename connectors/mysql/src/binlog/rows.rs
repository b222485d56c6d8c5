//! Row events into Arrow columns.
//!
//! ```text
//! event = table id 6, flags 2, [extra data], column count, columns present (two bitmaps for an update), rows
//! row   = NULL bitmap over the present columns, then the present values that are not NULL
//! ```
//!
//! A row is read in two steps: where its values lie, then what they are. The first costs little and gives
//! updates what they need: whether the key changed is a comparison of bytes.

use std::fmt::Display;

use crossfade_core::{Error, Op, Result, RowsBuilder, TableSchema};

use super::decode::Decode;
use super::mariadb;
use super::plan::Plan;
use super::reader::{Fault, Read, Reader, bit};

/// What a row event does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// WRITE_ROWS.
    Write,
    /// UPDATE_ROWS.
    Update,
    /// DELETE_ROWS.
    Delete,
}

/// How a row event is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// What it does.
    pub change: Change,
    /// Version 2 has extra data behind the flags.
    pub extra: bool,
    /// MariaDB's `log_bin_compress`.
    pub compressed: bool,
}

/// The table id, the flags and the rest.
pub fn head<'a>(body: &'a [u8], layout: Layout) -> Read<(u64, u16, Reader<'a>)> {
    let mut r = Reader(body);
    let (id, flags) = (r.u48()?, r.u16()?);
    if layout.extra {
        let length = usize::from(r.u16()?);
        r.take(length.checked_sub(2).ok_or(Fault::Malformed("extra row data shorter than its own length"))?)?;
    }
    Ok((id, flags, r))
}

/// Where one value of a row lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell<'a> {
    /// The image does not carry it.
    Absent,
    Null,
    Value(&'a [u8]),
}

/// What rows are appended to.
pub struct Sink<'a> {
    /// The table's builder.
    pub builder: &'a mut RowsBuilder,
    /// The transaction's commit time, microseconds since 1970.
    pub commit_micros: i64,
    /// The next row's place in the batch.
    pub order: &'a mut u32,
}

/// Decodes the rows of an event; `rest` is what [`head`] left. `place` says where the event stands, for errors.
pub fn decode_rows(
    rest: Reader<'_>,
    layout: Layout,
    plan: &Plan,
    sink: &mut Sink<'_>,
    place: &dyn Display,
) -> Result<()> {
    let corrupt = |f: Fault| f.at(format_args!("{place}: rows of table {}", plan.table.name));
    let mut r = rest;
    let width = plan.columns.len();
    let bitmaps = (|| {
        if r.length()? != width {
            return Err(Fault::Malformed("as many columns as its table map does not have"));
        }
        let first = r.take(width.div_ceil(8))?;
        let second = if layout.change == Change::Update { r.take(width.div_ceil(8))? } else { first };
        Ok((first, second))
    })();
    let (first, second) = bitmaps.map_err(corrupt)?;
    let unpacked;
    if layout.compressed {
        unpacked = mariadb::decompress(r.0).map_err(corrupt)?;
        r = Reader(&unpacked);
    }
    let mut before = Vec::with_capacity(width);
    let mut after = Vec::with_capacity(width);
    while !r.is_empty() {
        let left = r.len();
        image(&mut r, plan, first, &mut before).map_err(corrupt)?;
        let mut row = Row { plan, sink, place };
        match layout.change {
            Change::Write => row.insert(&before)?,
            Change::Delete => row.delete(&before)?,
            Change::Update => {
                image(&mut r, plan, second, &mut after).map_err(corrupt)?;
                row.update(&before, &after)?;
            }
        }
        // Images without any column have no bytes: there would be no end of them.
        if r.len() == left {
            return Err(corrupt(Fault::Malformed("a row without columns")));
        }
    }
    Ok(())
}

/// Finds the values of one row image.
fn image<'a>(r: &mut Reader<'a>, plan: &Plan, present: &[u8], cells: &mut Vec<Cell<'a>>) -> Read<()> {
    cells.clear();
    let count = (0..plan.columns.len()).filter(|&i| bit(present, i)).count();
    let nulls = r.take(count.div_ceil(8))?;
    let mut at = 0;
    for (i, column) in plan.columns.iter().enumerate() {
        if !bit(present, i) {
            cells.push(Cell::Absent);
            continue;
        }
        cells.push(if bit(nulls, at) { Cell::Null } else { Cell::Value(column.wire.take(r)?) });
        at += 1;
    }
    Ok(())
}

const FULL_HINT: &str = "SET GLOBAL binlog_row_image = FULL on the source and reconnect its clients";

/// One row on its way into the builder.
struct Row<'a, 'b> {
    plan: &'a Plan,
    sink: &'a mut Sink<'b>,
    place: &'a dyn Display,
}

impl Row<'_, '_> {
    fn insert(&mut self, cells: &[Cell<'_>]) -> Result<()> {
        self.each(cells, |row, ordinal, _| {
            let message = "the row is new and the log carries only some of its columns";
            Err(row.data(cells, ordinal, message).hint(FULL_HINT))
        })?;
        self.end(Op::Insert)
    }

    fn delete(&mut self, cells: &[Cell<'_>]) -> Result<()> {
        self.each(cells, |row, ordinal, _| {
            let key = &row.plan.table.key;
            if key.contains(&ordinal) {
                return Err(row.data(cells, ordinal, "the log does not carry the key").hint(FULL_HINT));
            }
            if key.is_empty() {
                let message = "the table has no key, and the log carries only some of the columns of a row that goes";
                return Err(row.data(cells, ordinal, message).hint(FULL_HINT));
            }
            row.sink.builder.columns[ordinal].append_null();
            Ok(())
        })?;
        self.end(Op::Delete)
    }

    fn update(&mut self, before: &[Cell<'_>], after: &[Cell<'_>]) -> Result<()> {
        let moved = self.plan.key.is_empty()
            || self.plan.key.iter().any(|&k| after[k] != Cell::Absent && after[k] != before[k]);
        if moved {
            self.delete(before)?;
            // Columns that the after image leaves out hold what they held before.
            let merged: Vec<Cell<'_>> =
                before.iter().zip(after).map(|(b, a)| if *a == Cell::Absent { *b } else { *a }).collect();
            return self.insert(&merged);
        }
        self.each(after, |row, ordinal, log| {
            if !row.plan.table.key.contains(&ordinal) {
                row.sink.builder.append_absent(ordinal);
                return Ok(());
            }
            match before[log] {
                Cell::Absent => Err(row.data(before, ordinal, "the log does not carry the key").hint(FULL_HINT)),
                cell => row.append(before, log, cell),
            }
        })?;
        self.end(Op::Update)
    }

    /// Appends every cell; `absent` is called with (table ordinal, log ordinal) of those that the image leaves out.
    fn each(
        &mut self,
        cells: &[Cell<'_>],
        mut absent: impl FnMut(&mut Self, usize, usize) -> Result<()>,
    ) -> Result<()> {
        let plan = self.plan;
        for (log, (column, cell)) in plan.columns.iter().zip(cells).enumerate() {
            let Some((ordinal, decode)) = &column.target else { continue };
            let builder = &mut self.sink.builder.columns[*ordinal];
            match cell {
                Cell::Value(bytes) => {
                    let appended = decode.append(bytes, builder);
                    if let Err(fault) = appended.or_else(|fault| fault.pass(&plan.table, *ordinal, builder)) {
                        return Err(self.fault(cells, *ordinal, fault));
                    }
                }
                Cell::Null => builder.append_null(),
                // Nobody asks for it, so nobody misses it.
                Cell::Absent if *decode == Decode::Omit => builder.append_null(),
                Cell::Absent => absent(self, *ordinal, log)?,
            }
        }
        Ok(())
    }

    fn append(&mut self, cells: &[Cell<'_>], log: usize, cell: Cell<'_>) -> Result<()> {
        let Some((ordinal, decode)) = &self.plan.columns[log].target else { return Ok(()) };
        let builder = &mut self.sink.builder.columns[*ordinal];
        match cell {
            Cell::Value(bytes) => decode.append(bytes, builder).map_err(|f| self.fault(cells, *ordinal, f)),
            Cell::Null | Cell::Absent => {
                builder.append_null();
                Ok(())
            }
        }
    }

    fn end(&mut self, op: Op) -> Result<()> {
        let order = *self.sink.order;
        *self.sink.order = order
            .checked_add(1)
            .ok_or_else(|| Error::unavailable("a batch of more than 2^32 rows").hint("set a smaller batch_rows"))?;
        self.sink.builder.end_row(op, self.sink.commit_micros, order);
        Ok(())
    }

    fn data(&self, cells: &[Cell<'_>], ordinal: usize, message: impl Into<String>) -> Error {
        let column = &self.plan.table.columns[ordinal].name;
        Error::data(&self.plan.table.name, message).column(column).key(key_text(self.plan, cells))
    }

    /// A value that cannot be carried is the table's own trouble; whose broken bytes are, [`super::log::Place::blame`] says.
    fn fault(&self, cells: &[Cell<'_>], ordinal: usize, fault: Fault) -> Error {
        match fault {
            Fault::Value(refusal) => {
                let (message, hint) = refusal.explain(&self.plan.table, ordinal);
                self.data(cells, ordinal, message).hint(hint)
            }
            other => {
                let column = &self.plan.table.columns[ordinal].name;
                let (place, table) = (self.place, &self.plan.table.name);
                other
                    .at(format_args!("{place}: rows of table {table}, column {column}, {}", key_text(self.plan, cells)))
            }
        }
    }
}

/// `a=1, b=x` for people; integers and text as such, everything else as its bytes.
fn key_text(plan: &Plan, cells: &[Cell<'_>]) -> String {
    let part = |&log: &usize| {
        let name = plan.columns[log].target.as_ref().map(|(i, _)| column_name(&plan.table, *i)).unwrap_or_default();
        let value = match (cells.get(log), plan.columns[log].target.as_ref().map(|t| &t.1)) {
            (Some(Cell::Value(bytes)), Some(Decode::Int | Decode::Int24 | Decode::UInt24)) => {
                let negative = plan.columns[log].target.as_ref().is_some_and(|(i, _)| is_signed(&plan.table, *i))
                    && bytes.last().is_some_and(|b| b & 0x80 != 0);
                let fill = if negative { 0xff } else { 0 };
                let mut wide = [fill; 16];
                wide.iter_mut().zip(bytes.iter()).for_each(|(w, b)| *w = *b);
                i128::from_le_bytes(wide).to_string()
            }
            (Some(Cell::Value(bytes)), Some(Decode::Text(..))) => String::from_utf8_lossy(bytes).into_owned(),
            (Some(Cell::Value(bytes)), _) => {
                bytes.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
            }
            (Some(Cell::Null), _) => "NULL".to_owned(),
            _ => "?".to_owned(),
        };
        format!("{name}={value}")
    };
    plan.key.iter().map(part).collect::<Vec<_>>().join(", ")
}

fn column_name(table: &TableSchema, ordinal: usize) -> &str {
    &table.columns[ordinal].name
}

fn is_signed(table: &TableSchema, ordinal: usize) -> bool {
    use crossfade_core::Logical::*;
    matches!(table.columns[ordinal].logical, Int8 | Int16 | Int32 | Int64)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::Array;
    use crossfade_core::{Column, Logical, TableName};
    use proptest::prelude::*;

    use super::super::charset::Charset;
    use super::super::plan::PlanColumn;
    use super::super::table_map::Wire;
    use super::*;

    /// `id int primary key, v varchar(20), j json`
    fn plan() -> Plan {
        let column = |name: &str, logical| Column {
            name: name.into(),
            source_type: String::new(),
            logical,
            nullable: true,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        };
        let columns = vec![column("id", Logical::Int32), column("v", Logical::Text), column("j", Logical::Json)];
        let name = TableName::new("s", "t");
        let table = TableSchema {
            name,
            version: 1,
            columns,
            key: vec![0],
            indexes: vec![],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        };
        let wires = [
            (Wire::Long, Decode::Int),
            (Wire::Varchar { max: 80 }, Decode::Text(Charset::Utf8, false)),
            (Wire::Json(4), Decode::Json),
        ];
        let columns = wires.into_iter().enumerate().map(|(i, (wire, d))| PlanColumn { wire, target: Some((i, d)) });
        Plan { table: Arc::new(table), columns: columns.collect(), key: vec![0] }
    }

    fn decode(change: Change, compressed: bool, body: &[u8]) -> Result<RowsBuilder> {
        decode_with(&plan(), change, compressed, body)
    }

    fn decode_with(plan: &Plan, change: Change, compressed: bool, body: &[u8]) -> Result<RowsBuilder> {
        let mut builder = RowsBuilder::new(Arc::clone(&plan.table));
        let mut order = 0;
        let mut sink = Sink { builder: &mut builder, commit_micros: 0, order: &mut order };
        let layout = Layout { change, extra: false, compressed };
        decode_rows(Reader(body), layout, plan, &mut sink, &"binlog.000001:4")?;
        Ok(builder)
    }

    fn row(id: i32, v: &[u8]) -> Vec<u8> {
        [&[0b100][..], &id.to_le_bytes(), &[v.len() as u8], v].concat()
    }

    #[test]
    fn a_changed_key_is_a_delete_and_an_insert() {
        let update = [&[3, 7, 7][..], &row(1, b"a"), &row(1, b"b"), &row(1, b"b"), &row(-2, b"c")].concat();
        let rows = decode(Change::Update, false, &update).unwrap().finish().unwrap();
        assert_eq!(rows.ops, [Op::Update, Op::Delete, Op::Insert]);
        assert_eq!(rows.order, [0, 1, 2]);
    }

    #[test]
    fn a_minimal_image_leaves_out_what_did_not_change() {
        // Before: id; after: v.
        let update = [&[3, 0b001, 0b010][..], &[0], &7i32.to_le_bytes(), &[0, 1, b'x']].concat();
        let rows = decode(Change::Update, false, &update).unwrap().finish().unwrap();
        assert!(!rows.is_absent(0, 0) && !rows.is_absent(1, 0) && rows.is_absent(2, 0));
        let insert = [&[3, 0b001][..], &[0], &7i32.to_le_bytes()].concat();
        let e = decode(Change::Write, false, &insert).unwrap_err();
        assert!(e.to_string().contains("s.t, column v, row id=7"), "{e}");
    }

    #[test]
    fn what_nobody_wants_is_passed_over() {
        let mut plan = plan();
        let mut table = (*plan.table).clone();
        table.columns[1].logical = Logical::Omitted;
        plan.table = Arc::new(table);
        plan.columns[1].target = Some((1, Decode::Omit));
        let broken = row(-5, b"\xff");
        let update = [&[3, 0b001, 0b001][..], &[0], &7i32.to_le_bytes(), &[0], &8i32.to_le_bytes()].concat();
        for (change, body) in [
            (Change::Write, [&[3, 7][..], &broken].concat()),
            (Change::Update, [&[3, 7, 7][..], &broken, &row(-5, b"\xfe")].concat()),
            (Change::Delete, [&[3, 7][..], &broken].concat()),
        ] {
            let rows = decode_with(&plan, change, false, &body).unwrap().finish().unwrap();
            assert_eq!((rows.ops.len(), rows.batch.column(1).len(), rows.is_absent(1, 0)), (1, 1, false), "{change:?}");
        }
        // Nor is it missed where the log leaves it out; its neighbour is.
        let e = decode_with(&plan, Change::Update, false, &update).unwrap_err();
        assert!(e.to_string().contains("column j"), "{e}");
    }

    #[test]
    fn without_a_key_a_row_goes_whole_or_not_at_all() {
        let keyed = plan();
        let table = Arc::new(TableSchema { key: vec![], ..(*keyed.table).clone() });
        let bag = Plan { table, key: vec![], ..keyed };
        let update = [&[3, 7, 7][..], &row(1, b"a"), &row(1, b"b")].concat();
        let rows = decode_with(&bag, Change::Update, false, &update).unwrap().finish().unwrap();
        assert_eq!(rows.ops, [Op::Delete, Op::Insert]);
        let delete = [&[3, 0b001][..], &[0], &7i32.to_le_bytes()].concat();
        assert!(decode(Change::Delete, false, &delete).is_ok(), "the key says which row");
        let e = decode_with(&bag, Change::Delete, false, &delete).unwrap_err();
        assert!(e.to_string().contains("column v") && e.to_string().contains("no key"), "{e}");
        assert!(e.hint_text().unwrap().contains("binlog_row_image = FULL"), "{e}");
    }

    #[test]
    fn broken_text_names_its_row() {
        let e = decode(Change::Write, false, &[&[3, 7][..], &row(-5, b"\xff")].concat()).unwrap_err();
        assert!(e.to_string().contains("column v, row id=-5") && e.hint_text().is_some(), "{e}");
        let e = decode(Change::Write, false, &[&[3, 7][..], &row(1, b"abc")[..7]].concat()).unwrap_err();
        assert!(e.to_string().starts_with("binlog.000001:4"), "{e}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(
            change in prop::sample::select(vec![Change::Write, Change::Update, Change::Delete]),
            compressed: bool,
            bytes in prop::collection::vec(any::<u8>(), 0..120),
            known: bool,
        ) {
            let head: &[u8] = if known { &[3, 7, 7] } else { &[] };
            let _ = decode(change, compressed, &[head, &bytes[..]].concat());
            let _ = super::head(&bytes, Layout { change, extra: true, compressed });
        }
    }
}
