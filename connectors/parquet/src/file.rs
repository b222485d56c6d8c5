//! One Parquet file while it is written: row groups as they fill, parts to the store as they fill, memory bounded.
//!
//! A file grows in the staging area, where no reader looks. Small files go there in one put; larger ones as a multipart
//! upload whose parts leave memory at once.

use std::io::Write;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, new_null_array};
use bytes::Bytes;
use crossfade_core::{Error, Result, TableSchema};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload, PutResult};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::log::{Places, token};
use crate::record::{Shape, Staged};
use crate::types::{Meta, encode, file_schema, stored};

/// A part of an upload. S3 asks for 5 MiB at least, and for no more than 10,000 parts.
const PART: usize = 8 << 20;
/// A row group ends at about so many encoded bytes.
const ROW_GROUP: usize = 32 << 20;
/// A file ends after about so many bytes: what Athena reads well, and what a reader can hold.
const FILE: u64 = 128 << 20;
/// Rows are encoded so many at a time, so that the bounds above are looked at often enough.
const SLICE: usize = 16 << 10;
/// Uploads that end at once.
const PARALLEL: usize = 8;

/// A file that takes rows.
pub(crate) struct TableFile {
    shape: u32,
    table: Arc<TableSchema>,
    stage: String,
    path: Path,
    writer: ArrowWriter<Sink>,
    upload: Option<Box<dyn MultipartUpload>>,
    rows: u64,
    /// Bytes that have left memory.
    sent: u64,
}

/// Encoded bytes on their way out. It does no I/O, so that errors of the store keep their class.
#[derive(Default)]
struct Sink(Vec<u8>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A file that is encoded to its end and not yet complete in the store.
pub(crate) struct Unfinished {
    path: Path,
    rest: Bytes,
    upload: Option<Box<dyn MultipartUpload>>,
    staged: Staged,
}

impl TableFile {
    pub(crate) fn new(places: &Places, shape: &Shape, owner: &crossfade_core::Owner) -> Result<Self> {
        let stage = format!("{}.parquet", token(owner));
        let level = ZstdLevel::try_new(1).map_err(|e| Error::corrupt("zstd level").caused_by(e))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_max_row_group_bytes(Some(ROW_GROUP))
            .set_created_by(concat!("crossfade ", env!("CARGO_PKG_VERSION")).into())
            .build();
        // Arrow's own schema is left out: what every reader sees is the Parquet schema, and nothing behind it.
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(Sink::default(), file_schema(&shape.table), options)
            .map_err(|e| Error::corrupt(format!("table {}: no Parquet schema", shape.table.name)).caused_by(e))?;
        Ok(TableFile {
            shape: shape.id,
            table: Arc::clone(&shape.table),
            path: places.stage(&stage),
            stage,
            writer,
            upload: None,
            rows: 0,
            sent: 0,
        })
    }

    pub(crate) fn shape(&self) -> u32 {
        self.shape
    }

    /// Appends rows: `meta` holds as many as `batch`, whose schema is the table's.
    pub(crate) fn write(&mut self, places: &Places, meta: Meta, batch: &RecordBatch) -> Result<()> {
        let mut columns: Vec<ArrayRef> = meta.finish().into();
        for (column, array) in self.table.columns.iter().zip(batch.columns()) {
            columns.push(encode(&self.table, column, array)?);
        }
        self.append(places, columns)
    }

    /// Appends rows that hold nothing but `meta`.
    pub(crate) fn write_bare(&mut self, places: &Places, meta: Meta) -> Result<()> {
        let mut columns: Vec<ArrayRef> = meta.finish().into();
        let rows = columns[0].len();
        columns.extend(self.table.columns.iter().map(|c| new_null_array(&stored(&c.logical), rows)));
        self.append(places, columns)
    }

    fn append(&mut self, places: &Places, columns: Vec<ArrayRef>) -> Result<()> {
        let bad = |e: parquet::errors::ParquetError| {
            Error::corrupt(format!("table {}: rows cannot be written to Parquet", self.table.name)).caused_by(e)
        };
        let batch = RecordBatch::try_new(file_schema(&self.table), columns).map_err(|e| bad(e.into()))?;
        for from in (0..batch.num_rows()).step_by(SLICE) {
            let slice = batch.slice(from, SLICE.min(batch.num_rows() - from));
            self.writer.write(&slice).map_err(bad)?;
            Self::send(&mut self.writer, &mut self.upload, &mut self.sent, &self.path, places)?;
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// Sends the parts that are full.
    fn send(
        writer: &mut ArrowWriter<Sink>,
        upload: &mut Option<Box<dyn MultipartUpload>>,
        sent: &mut u64,
        path: &Path,
        places: &Places,
    ) -> Result<()> {
        let store = &places.store;
        while writer.inner().0.len() >= PART {
            let rest = writer.inner_mut().0.split_off(PART);
            let part = std::mem::replace(&mut writer.inner_mut().0, rest);
            let open = match upload {
                Some(open) => open,
                None => upload.insert(
                    store
                        .runtime()
                        .block_on(store.objects().put_multipart(path))
                        .map_err(|e| store.error(e, "write", path))?,
                ),
            };
            store
                .runtime()
                .block_on(async { open.put_part(PutPayload::from(part)).await })
                .map_err(|e| store.error(e, "write", path))?;
            *sent += PART as u64;
        }
        Ok(())
    }

    /// Bytes held in memory.
    pub(crate) fn held(&self) -> usize {
        self.writer.memory_size() + self.writer.inner().0.len()
    }

    /// Whether it holds no row yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Whether the file has reached its size.
    pub(crate) fn is_full(&self) -> bool {
        self.sent + (self.writer.inner().0.len() + self.writer.in_progress_size()) as u64 >= FILE
    }

    /// Ends the encoding.
    pub(crate) fn finish(self) -> Result<Unfinished> {
        let rest = self.writer.into_inner().map_err(|e| {
            Error::corrupt(format!("table {}: the Parquet file cannot be ended", self.table.name)).caused_by(e)
        })?;
        let bytes = self.sent + rest.0.len() as u64;
        Ok(Unfinished {
            path: self.path,
            rest: Bytes::from(rest.0),
            upload: self.upload,
            staged: Staged { stage: self.stage, shape: self.shape, rows: self.rows, bytes },
        })
    }
}

async fn end_upload(mut upload: Box<dyn MultipartUpload>, mut rest: Bytes) -> object_store::Result<PutResult> {
    while !rest.is_empty() {
        let part = rest.split_to(PART.min(rest.len()));
        upload.put_part(PutPayload::from(part)).await?;
    }
    upload.complete().await
}

/// Brings files to their end in the staging area, several at once. Durable on return.
pub(crate) fn complete(places: &Places, files: Vec<Unfinished>) -> Result<Vec<Staged>> {
    let store = &places.store;
    let ends = futures::stream::iter(files.into_iter().map(|file| async move {
        let Unfinished { path, rest, upload, staged } = file;
        let put = match upload {
            None => store.objects().put(&path, PutPayload::from(rest)).await,
            Some(upload) => end_upload(upload, rest).await,
        };
        put.map_err(|e| store.error(e, "write", &path))?;
        Ok::<_, Error>((path, staged))
    }));
    let done: Vec<(Path, Staged)> = store.runtime().block_on(ends.buffered(PARALLEL).try_collect())?;
    done.into_iter().map(|(path, staged)| store.sync(&path).map(|()| staged)).collect()
}
