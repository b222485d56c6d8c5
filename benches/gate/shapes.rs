//! The two shapes, each from bytes off the wire to each end. What is measured is one call of [`run`].

use std::hint::black_box;

use arrow_array::RecordBatch;

use crate::columns::{self, Columns};
use crate::lake::to_parquet;
use crate::reader::{Malformed, Result, Sink};
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
    fn mysql(records: &[Record]) -> Self {
        Self::MySql(mysql_wire::events(records))
    }

    fn postgres(records: &[Record]) -> Self {
        Self::Postgres(pgoutput_wire::stream(records))
    }

    /// Parses into `sink`.
    pub fn decode(&self, sink: &mut impl Sink) -> Result<()> {
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

/// What is measured: the same records as one batch and as the batches of a pipeline.
pub struct Case {
    /// Of the wire.
    pub name: &'static str,
    /// One batch of all records.
    pub whole: Input,
    /// Batches of [`PIECE`] rows.
    pub pieces: Vec<Input>,
}

/// Rows of one batch that is handed from thread to thread.
const PIECE: usize = 10_000;

impl Case {
    /// One case for each wire.
    pub fn both(records: &[Record]) -> [Self; 2] {
        [("mysql", Input::mysql as fn(&[Record]) -> Input), ("postgres", Input::postgres)].map(|(name, input)| Self {
            name,
            whole: input(records),
            pieces: records.chunks(PIECE).map(input).collect(),
        })
    }
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
    /// The same, encoded by a second thread, as in the pipeline: memory is freed by another thread than took it.
    Handover,
    /// A Parquet file.
    Parquet,
}

/// Every end, with its name.
pub const ENDS: [(&str, End); 4] =
    [("decode", End::Batch), ("copy", End::Copy), ("copy-threads", End::Handover), ("parquet", End::Parquet)];

/// One measured run, the release of what it built included: a pipeline frees each batch, too. `copy` keeps its capacity
/// from run to run, as a target's buffer does.
pub fn run(case: &Case, shape: Shape, end: End, copy: &mut Vec<u8>) -> Result<()> {
    copy.clear();
    let input = &case.whole;
    match (shape, end) {
        (Shape::Columns, End::Batch) => drop(black_box(input.columns()?)),
        (Shape::Rows, End::Batch) => drop(black_box(input.rows()?)),
        (Shape::Columns, End::Copy) => columns::to_copy(&input.columns()?, &COLUMNS, copy),
        (Shape::Rows, End::Copy) => rows::to_copy(&input.rows()?, &COLUMNS, copy)?,
        (Shape::Columns, End::Handover) => {
            handover(&case.pieces, Input::columns, |batch| {
                copy.clear();
                columns::to_copy(&batch, &COLUMNS, copy);
                Ok(())
            })?;
        }
        (Shape::Rows, End::Handover) => {
            handover(&case.pieces, Input::rows, |rows| {
                copy.clear();
                rows::to_copy(&rows, &COLUMNS, copy)
            })?;
        }
        (Shape::Columns, End::Parquet) => drop(black_box(parquet(&input.columns()?)?)),
        (Shape::Rows, End::Parquet) => drop(black_box(parquet(&to_columns(&input.rows()?)?)?)),
    }
    black_box(copy);
    Ok(())
}

/// Decodes in one thread and consumes in this one, through a channel as narrow as the pipeline's.
fn handover<T: Send>(
    pieces: &[Input],
    decode: impl Fn(&Input) -> Result<T> + Send,
    mut consume: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let (sender, receiver) = crossbeam_channel::bounded(2);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for piece in pieces {
                // A receiver that has hung up has met an error, which it returns itself.
                if sender.send(decode(piece)).is_err() {
                    return;
                }
            }
        });
        receiver.into_iter().try_for_each(|batch| consume(batch?))
    })
}

/// The batch as a Parquet file.
fn parquet(batch: &RecordBatch) -> Result<Vec<u8>> {
    to_parquet(batch).map_err(|_| Malformed("batch that Parquet refuses"))
}
