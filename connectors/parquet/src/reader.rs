//! Reads committed files back.

use arrow_array::RecordBatch;
use crossfade_core::{Error, Result, TableName};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::reader::ChunkReader;

use crate::log::Places;
use crate::record::Committed;
use crate::store::Opened;

/// Rows of one batch.
const BATCH: usize = 8192;

/// Reads a file's columns of these names, batch by batch, and demands that it holds the rows that the log says.
pub(crate) fn read<'a>(
    places: &Places,
    table: &TableName,
    file: &Committed,
    columns: impl Iterator<Item = &'a str>,
    sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
) -> Result<()> {
    let columns: Vec<&str> = columns.collect();
    let rows = match open(places, table, file)? {
        Opened::File(f) => read_from(table, f, &columns, sink),
        Opened::Bytes(b) => read_from(table, b, &columns, sink),
    };
    let path = places.published(table, file.record, file.n);
    let rows = rows.map_err(|e| e.context(format!("read {path}")))?;
    if rows != file.rows {
        return Err(Error::corrupt(format!("{path} holds {rows} rows, {} were committed", file.rows)).hint(
            "something else changed this file; restore it, or copy the table again with `crossfade snapshot TABLE`",
        ));
    }
    Ok(())
}

/// A file between its commit and its publication is found in the staging area; it may move while we look.
fn open(places: &Places, table: &TableName, file: &Committed) -> Result<Opened> {
    let published = places.published(table, file.record, file.n);
    let staged = file.stage.as_ref().map(|stage| places.stage(stage));
    for path in [Some(&published), staged.as_ref(), Some(&published)].into_iter().flatten() {
        if let Some(opened) = places.store.open(path)? {
            return Ok(opened);
        }
    }
    Err(Error::corrupt(format!("the committed file {published} is gone"))
        .hint("something else deleted it; restore it, or copy the table again with `crossfade snapshot TABLE`"))
}

fn read_from<T: ChunkReader + 'static>(
    table: &TableName,
    file: T,
    columns: &[&str],
    sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
) -> Result<u64> {
    let bad = |e: parquet::errors::ParquetError| {
        Error::corrupt(format!("table {table}: a file is not the Parquet that was written")).caused_by(e).hint(
            "something else changed this file; restore it, or copy the table again with `crossfade snapshot TABLE`",
        )
    };
    // The types follow from the Parquet schema alone, as for every other reader.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).map_err(bad)?;
    let wanted: Vec<usize> = builder
        .schema()
        .fields()
        .iter()
        .enumerate()
        .filter(|(_, f)| columns.contains(&f.name().as_str()))
        .map(|(i, _)| i)
        .collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
    let mut rows = 0;
    for batch in builder.with_projection(mask).with_batch_size(BATCH).build().map_err(bad)? {
        let batch = batch.map_err(|e| bad(e.into()))?;
        rows += batch.num_rows() as u64;
        sink(batch)?;
    }
    Ok(rows)
}
