//! The two shapes, each from bytes off the wire to each end. What is measured is one call of [`run`].

use std::hint::black_box;

use arrow_array::RecordBatch;

use crate::columns::{self, Columns};
use crate::lake::to_parquet;
use crate::reader::{Result, Sink};
use crate::rows::{self, Rows, Value};
use crate::table::{COLUMNS, Record};
use crate::{mysql, mysql_wire, pgoutput, pgoutput_wire};

/// What the decoder reads.
pub enum Input {
    /// WRITE_ROWS_EVENTv2 bodies.
    MySql(Vec<Vec<u8>>),
    /// CopyData frames with pgoutput Inserts.
    Postgres(Vec<u8>),
}

impl Input {
    /// Both inputs of the same records, with their names.
    pub fn both(records: &[Record]) -> [(&'static str, Self); 2] {
        [
            ("mysql", Self::MySql(mysql_wire::events(records))),
            ("postgres", Self::Postgres(pgoutput_wire::stream(records))),
        ]
    }

    fn decode(&self, sink: &mut impl Sink) -> Result<()> {
        match self {
            Self::MySql(events) => events.iter().try_for_each(|event| mysql::decode(event, &mysql::WIRE, sink)),
            Self::Postgres(stream) => pgoutput::decode(stream, &COLUMNS, sink),
        }
    }

    /// Shape A.
    pub fn columns(&self) -> Result<RecordBatch> {
        let mut sink = Columns::new(&COLUMNS);
        self.decode(&mut sink)?;
        sink.finish()
    }

    /// Shape B.
    pub fn rows(&self) -> Result<Vec<Vec<Value>>> {
        let mut sink = Rows::new(COLUMNS.len());
        self.decode(&mut sink)?;
        Ok(sink.finish())
    }
}

/// Rows of shape B as the batch that Parquet wants.
pub fn to_columns(rows: &[Vec<Value>]) -> Result<RecordBatch> {
    let mut sink = Columns::new(&COLUMNS);
    rows::replay(rows, &mut sink)?;
    sink.finish()
}

/// Where values go.
#[derive(Clone, Copy)]
pub enum Shape {
    /// A: straight into Arrow builders.
    Columns,
    /// B: into rows of an enum.
    Rows,
}

/// Where the run ends.
#[derive(Clone, Copy)]
pub enum End {
    /// Decoded.
    Batch,
    /// Bytes of a binary COPY.
    Copy,
    /// A Parquet file.
    Parquet,
}

/// Every end, with its name.
pub const ENDS: [(&str, End); 3] = [("decode", End::Batch), ("copy", End::Copy), ("parquet", End::Parquet)];

/// One measured run, the release of what it built included: a pipeline frees each batch, too.
///
/// # Panics
/// When an input is malformed or `copy`, which keeps its capacity from run to run as a sink's buffer does, stays empty:
/// a bench that goes on after an error measures nothing.
pub fn run(input: &Input, shape: Shape, end: End, copy: &mut Vec<u8>) {
    copy.clear();
    match (shape, end) {
        (Shape::Columns, End::Batch) => drop(black_box(input.columns().unwrap())),
        (Shape::Rows, End::Batch) => drop(black_box(input.rows().unwrap())),
        (Shape::Columns, End::Copy) => columns::to_copy(&input.columns().unwrap(), &COLUMNS, copy),
        (Shape::Rows, End::Copy) => rows::to_copy(&input.rows().unwrap(), &COLUMNS, copy).unwrap(),
        (Shape::Columns, End::Parquet) => drop(black_box(to_parquet(&input.columns().unwrap()).unwrap())),
        (Shape::Rows, End::Parquet) => {
            let batch = to_columns(&input.rows().unwrap()).unwrap();
            drop(black_box(to_parquet(&batch).unwrap()));
        }
    }
    assert_eq!(copy.is_empty(), !matches!(end, End::Copy));
}
