//! The reader of the log in memory: batches up to the limits, large transactions in open batches.

use std::sync::Arc;

use crossfade_core::batch::SchemaStep;
use crossfade_core::{
    Batch, Boundary, Error, Item, Limit, Position, Result, RowsBuilder, SchemaChange, Stream, TableSchema,
};

use super::source::{Entry, Store, append_entry, empty, number, position, renamed, stands_at};

/// A reader that stands between two transactions, or inside a large one.
pub struct MemoryStream {
    store: Arc<Store>,
    /// Transactions handed over whole.
    at: u64,
    /// Entries of the next transaction that were handed over in open batches.
    inside: usize,
    tables: Vec<Arc<TableSchema>>,
}

/// About what an entry takes.
fn bytes(entry: &Entry) -> usize {
    match entry {
        Entry::Row(_, _, cells, _) => 40 + cells.1.as_ref().map_or(0, String::len),
        Entry::Truncate | Entry::Rename(..) => 8,
    }
}

impl MemoryStream {
    pub fn new(store: Arc<Store>, at: u64, tables: Vec<Arc<TableSchema>>) -> Self {
        MemoryStream { store, at, inside: 0, tables }
    }

    fn carried(&self, transaction: &[(String, Entry)]) -> Vec<(String, Entry)> {
        let is_carried = |name: &String| self.tables.iter().any(|t| t.name.name == *name);
        transaction.iter().filter(|(name, _)| is_carried(name)).cloned().collect()
    }

    fn read(&mut self, limit: &Limit, end: u64) -> Result<Batch> {
        let mut gathered: Vec<(u64, String, Entry)> = Vec::new();
        let mut held = 0;
        while self.at < end {
            let next = self.store.log(self.at, self.at + 1).remove(0);
            let entries = self.carried(&next);
            let size: usize = entries.iter().map(|(_, e)| bytes(e)).sum();
            if size > 2 * limit.bytes || self.inside > 0 {
                if !gathered.is_empty() {
                    break;
                }
                return self.part(limit, entries);
            }
            self.at += 1;
            held += size;
            gathered.extend(entries.into_iter().map(|(name, entry)| (self.at, name, entry)));
            if held >= limit.bytes || gathered.len() >= limit.rows {
                break;
            }
        }
        self.batch(gathered, Boundary::Commit(position(self.at)))
    }

    /// The next piece of a large transaction.
    fn part(&mut self, limit: &Limit, entries: Vec<(String, Entry)>) -> Result<Batch> {
        let mut held = 0;
        let all = entries.len();
        let rest = entries.into_iter().skip(self.inside);
        let piece: Vec<_> = rest
            .take_while(|(_, e)| {
                let room = held < limit.bytes;
                held += bytes(e);
                room
            })
            .map(|(name, entry)| (self.at + 1, name, entry))
            .collect();
        self.inside += piece.len();
        if self.inside < all {
            return self.batch(piece, Boundary::Open);
        }
        self.inside = 0;
        self.at += 1;
        self.batch(piece, Boundary::Commit(position(self.at)))
    }

    fn batch(&mut self, entries: Vec<(u64, String, Entry)>, end: Boundary) -> Result<Batch> {
        let mut items = Vec::new();
        let mut open: Vec<RowsBuilder> = Vec::new();
        let commit_micros = entries.last().map(|(n, ..)| *n as i64);
        for (order, (n, name, entry)) in entries.into_iter().enumerate() {
            let Some(table) = self.tables.iter_mut().find(|t| t.name.name == name) else { continue };
            if !matches!(entry, Entry::Row(..)) {
                for mut rows in open.drain(..) {
                    items.push(Item::Rows(rows.finish()?));
                }
            }
            match &entry {
                Entry::Row(..) => self.store.swallow(&table.name, n)?,
                Entry::Truncate => {
                    items.push(Item::Truncate(Arc::clone(table)));
                    continue;
                }
                Entry::Rename(from, to) => {
                    items.push(Item::Schema(rename(table, from, to)?));
                    continue;
                }
            }
            let at = open.iter().position(|b| b.table().name == table.name).unwrap_or_else(|| {
                open.push(RowsBuilder::new(Arc::clone(table)));
                open.len() - 1
            });
            append_entry(&mut open[at], &entry, order as u32, n as i64)?;
        }
        for mut rows in open {
            items.push(Item::Rows(rows.finish()?));
        }
        Ok(Batch { items, end, commit_micros })
    }
}

/// Changes the reader's shape of a table.
fn rename(table: &mut Arc<TableSchema>, from: &str, to: &str) -> Result<SchemaChange> {
    let missing = || Error::corrupt(format!("{} has no column {from}", table.name));
    let after = Arc::new(renamed(table, from, to).ok_or_else(missing)?);
    let before = std::mem::replace(table, Arc::clone(&after));
    let steps = vec![SchemaStep::Rename { from: from.to_owned(), to: to.to_owned() }];
    Ok(SchemaChange { from: before, to: after, steps })
}

impl Stream for MemoryStream {
    fn next(&mut self, limit: &Limit) -> Result<Option<Batch>> {
        if self.inside == 0 && stands_at(limit, self.at)? {
            return Ok(Some(empty(self.at)));
        }
        if !self.store.wait_beyond(self.at, limit.deadline) {
            return Ok(None);
        }
        let end = match &limit.until {
            Some(until) if self.inside == 0 => number(until)?.min(self.store.end()),
            _ => self.store.end(),
        };
        self.read(limit, end).map(Some)
    }

    fn ack(&mut self, durable: &Position) -> Result<()> {
        self.store.acknowledge(number(durable)?);
        Ok(())
    }
}
