//! Collects what a log says until a batch ends.
//!
//! Rows of one table share one builder from the batch's start, or from the last change of shape, to its end: targets apply a
//! batch as a whole, and `order` keeps the sequence across tables. A change of shape or a TRUNCATE ends all builders, so
//! that items stand in log order.

use std::sync::Arc;

use crate::batch::{Batch, Boundary, Item};
use crate::builder::RowsBuilder;
use crate::error::Result;
use crate::schema::TableSchema;

/// A batch in the making.
#[derive(Debug, Default)]
pub struct Batcher {
    /// One per carried table, made when its first row comes.
    builders: Vec<Option<RowsBuilder>>,
    items: Vec<Item>,
    /// The next row's place in the batch.
    pub order: u32,
    /// Commit time of the last transaction.
    pub commit_micros: Option<i64>,
    /// Bytes in `items`.
    finished: usize,
}

impl Batcher {
    /// The builder for rows of a table, and the next row's place.
    pub fn builder(&mut self, table: usize, schema: &Arc<TableSchema>) -> (&mut RowsBuilder, &mut u32) {
        if self.builders.len() <= table {
            self.builders.resize_with(table + 1, || None);
        }
        let builder = self.builders[table].get_or_insert_with(|| RowsBuilder::new(Arc::clone(schema)));
        (builder, &mut self.order)
    }

    /// Adds something that is not a row. `replaces`: the table whose builder has the wrong shape from here on.
    pub fn push(&mut self, item: Item, replaces: usize) -> Result<()> {
        self.flush()?;
        if let Some(builder) = self.builders.get_mut(replaces) {
            *builder = None;
        }
        self.items.push(item);
        Ok(())
    }

    /// Whether nothing has been collected.
    pub fn is_empty(&self) -> bool {
        self.order == 0 && self.items.is_empty()
    }

    /// Rows collected.
    pub fn rows(&self) -> usize {
        self.order as usize
    }

    /// About how many bytes are held.
    pub fn bytes(&self) -> usize {
        self.finished + self.builders.iter().flatten().map(RowsBuilder::bytes).sum::<usize>()
    }

    /// The batch; the next one begins.
    pub fn finish(&mut self, end: Boundary) -> Result<Batch> {
        self.flush()?;
        self.order = 0;
        self.finished = 0;
        Ok(Batch { items: std::mem::take(&mut self.items), end, commit_micros: self.commit_micros })
    }

    fn flush(&mut self) -> Result<()> {
        for builder in self.builders.iter_mut().flatten().filter(|b| !b.is_empty()) {
            let rows = builder.finish()?;
            self.finished += rows.bytes();
            self.items.push(Item::Rows(rows));
        }
        Ok(())
    }
}
