//! A source in memory: a log of transactions over a few tables `(id, n, t)`, and the state after each of them.
//!
//! Positions are `mem:N`: after the first N transactions. Every state is kept, so that what a target shows at any
//! checkpoint can be compared with what the source was there. Updates come as minimal row images now and then.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering as Memory};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use arrow_array::RecordBatch;
use crossfade_core::conformance::changes::{Cells, Change, State};
use crossfade_core::totals::Totals;
use crossfade_core::{
    Batch, Boundary, Column, ColumnBuilder, Consistency, Error, Finding, Index, KeyPart, KeyRange, Limit, Logical,
    Omissions, Op, Orphans, Position, Result, Retained, RowsBuilder, Selection, Snapshot, Source, Stream, TableName,
    TableSchema, builder, figure,
};

use super::poison::{POISONED, Poison};
use super::stream::MemoryStream;

/// The schema of all tables.
pub const SCHEMA: &str = "mem";

/// One change as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A row; which of `n` and `t` the log did not carry.
    Row(Op, i64, Cells, [bool; 2]),
    /// All rows are gone.
    Truncate,
    /// A column has another name.
    Rename(String, String),
}

/// A time that only says what came before what, for all worlds of the process.
pub fn tick() -> u64 {
    static TIME: AtomicU64 = AtomicU64::new(0);
    TIME.fetch_add(1, Memory::SeqCst)
}

/// The states of all tables.
pub type Database = BTreeMap<String, Arc<State>>;

#[derive(Default)]
pub struct Inner {
    tables: Vec<Arc<TableSchema>>,
    log: Vec<Arc<Vec<(String, Entry)>>>,
    /// One more than the log has transactions.
    states: Vec<Arc<Database>>,
    /// From which position on a table has these columns, in log order.
    names: Vec<(u64, String, Vec<String>)>,
    begun: Option<u64>,
    /// Everything before is gone.
    purged: u64,
    /// Rows of this table, of these transactions, are refused.
    pub poison: Option<(String, Poison)>,
    /// When which position was acknowledged, by [`tick`].
    acknowledged: Vec<(u64, u64)>,
}

/// The database and its log.
pub struct Store {
    inner: Mutex<Inner>,
    pub(super) committed: Condvar,
}

impl Store {
    /// No table, no transaction.
    pub fn new() -> Arc<Self> {
        let inner = Inner { states: vec![Arc::default()], ..Inner::default() };
        Arc::new(Store { inner: Mutex::new(inner), committed: Condvar::new() })
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a table `(n, t)` without a key. Its rows have ids all the same, which nobody sees.
    pub fn create_bag(&self, name: &str) {
        self.create(name, false);
        let mut inner = self.lock();
        if let Some(table) = inner.tables.last_mut() {
            let table = Arc::make_mut(table);
            table.columns.remove(0);
            table.key.clear();
            let names = names(table);
            if let Some(last) = inner.names.last_mut() {
                last.2 = names;
            }
        }
    }

    /// Makes a table; `unique`: no two rows share a value of `n`.
    pub fn create(&self, name: &str, unique: bool) -> TableName {
        let column = |name: &str, logical, nullable| Column {
            name: name.to_owned(),
            source_type: "memory".to_owned(),
            logical,
            nullable,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        };
        let index = Index { name: format!("{name}_n"), columns: vec![1], unique: true };
        let table = TableSchema {
            name: TableName::new(SCHEMA, name),
            version: 1,
            columns: vec![
                column("id", Logical::Int64, false),
                column("n", Logical::Int64, true),
                column("t", Logical::Text, true),
            ],
            key: vec![0],
            indexes: if unique { vec![index] } else { Vec::new() },
            foreign_keys: Vec::new(),
            origin: None,
            pending: vec![],
            number: 0,
        };
        let mut inner = self.lock();
        let now = inner.log.len() as u64;
        inner.names.push((now, name.to_owned(), names(&table)));
        inner.tables.push(Arc::new(table));
        if let Some(last) = inner.states.last_mut() {
            Arc::make_mut(last).insert(name.to_owned(), Arc::default());
        }
        TableName::new(SCHEMA, name)
    }

    /// Commits a transaction; `minimal` says whether an update's unchanged columns are left out of the log.
    pub fn commit(&self, changes: &[Change], mut minimal: impl FnMut() -> bool) {
        let mut inner = self.lock();
        let mut database = inner.states.last().map(|d| (**d).clone()).unwrap_or_default();
        let mut entries = Vec::new();
        for change in changes {
            let (Change::Insert(table, ..)
            | Change::Update(table, ..)
            | Change::Rekey(table, ..)
            | Change::Delete(table, _)
            | Change::Clear(table)) = change;
            let Some(state) = database.get_mut(table) else { continue };
            let state = Arc::make_mut(state);
            let bag = inner.tables.iter().any(|t| t.name.name == *table && t.key.is_empty());
            let logged = if bag { logged_of_bag(change, state) } else { logged(change, state, &mut minimal) };
            entries.extend(logged.into_iter().map(|e| (table.clone(), e)));
            change.apply(state);
        }
        inner.log.push(Arc::new(entries));
        inner.states.push(Arc::new(database));
        self.committed.notify_all();
    }

    /// Renames a column, in a transaction of its own. Returns false if there is none of that name.
    pub fn rename(&self, table: &str, from: &str, to: &str) -> bool {
        let mut inner = self.lock();
        let at = inner.log.len() as u64 + 1;
        let Some(shape) = inner.tables.iter_mut().find(|t| t.name.name == table) else { return false };
        let Some(renamed) = renamed(shape, from, to) else { return false };
        *shape = Arc::new(TableSchema { version: shape.version, ..renamed });
        let names = names(shape);
        inner.names.push((at, table.to_owned(), names));
        inner.log.push(Arc::new(vec![(table.to_owned(), Entry::Rename(from.to_owned(), to.to_owned()))]));
        let same = inner.states.last().cloned().unwrap_or_default();
        inner.states.push(same);
        self.committed.notify_all();
        true
    }

    /// The columns that a table had at a position.
    pub fn columns(&self, table: &str, at: u64) -> Vec<String> {
        let inner = self.lock();
        let known = inner.names.iter().rev().find(|(from, name, _)| *from <= at && name == table);
        known.map(|(.., names)| names.clone()).unwrap_or_default()
    }

    /// An error if the table's rows of this transaction cannot be read.
    pub fn swallow(&self, table: &TableName, transaction: u64) -> Result<()> {
        let spoilt = |(name, poison): &(String, Poison)| *name == table.name && poison.spoils(transaction);
        let spoilt = self.lock().poison.as_ref().is_some_and(spoilt);
        if spoilt { Err(Error::data(table, POISONED)) } else { Ok(()) }
    }

    /// The state now.
    pub fn now(&self) -> Arc<Database> {
        let inner = self.lock();
        inner.states.last().cloned().unwrap_or_default()
    }

    /// The state at a position.
    pub fn at(&self, n: u64) -> Result<Arc<Database>> {
        let missing = || Error::corrupt(format!("{n} is beyond the log"));
        self.lock().states.get(n as usize).cloned().ok_or_else(missing)
    }

    /// Transactions so far.
    pub fn end(&self) -> u64 {
        self.lock().log.len() as u64
    }

    /// The transactions after `from`, up to `to`.
    pub fn log(&self, from: u64, to: u64) -> Vec<Arc<Vec<(String, Entry)>>> {
        self.lock().log[from as usize..to as usize].to_vec()
    }

    /// Every position that was acknowledged, and when.
    pub fn acknowledged(&self) -> Vec<(u64, u64)> {
        self.lock().acknowledged.clone()
    }

    pub(super) fn acknowledge(&self, n: u64) {
        let mut inner = self.lock();
        inner.acknowledged.push((tick(), n));
        inner.purged = inner.purged.max(n);
    }

    /// Waits for a transaction after `n`, until the deadline.
    pub(super) fn wait_beyond(&self, n: u64, deadline: std::time::Instant) -> bool {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let none = |i: &mut Inner| i.log.len() as u64 <= n;
        let waited = self.committed.wait_timeout_while(self.lock(), left, none);
        waited.unwrap_or_else(PoisonError::into_inner).0.log.len() as u64 > n
    }
}

fn logged(change: &Change, state: &State, minimal: &mut impl FnMut() -> bool) -> Vec<Entry> {
    let whole = [false, false];
    let gone = |id: &i64, state: &State| Entry::Row(Op::Delete, *id, state.get(id).cloned().unwrap_or_default(), whole);
    match change {
        Change::Insert(_, id, cells) => vec![Entry::Row(Op::Insert, *id, cells.clone(), whole)],
        Change::Update(_, id, cells) => match state.get(id) {
            None => Vec::new(),
            Some(old) => {
                let absent = [old.0 == cells.0 && minimal(), old.1 == cells.1 && minimal()];
                vec![Entry::Row(Op::Update, *id, cells.clone(), absent)]
            }
        },
        Change::Rekey(_, from, to) => match state.get(from) {
            None => Vec::new(),
            Some(cells) => vec![gone(from, state), Entry::Row(Op::Insert, *to, cells.clone(), whole)],
        },
        Change::Delete(_, id) if state.contains_key(id) => vec![gone(id, state)],
        Change::Delete(..) => Vec::new(),
        Change::Clear(_) => vec![Entry::Truncate],
    }
}

/// Whole rows only.
fn logged_of_bag(change: &Change, state: &State) -> Vec<Entry> {
    match change {
        Change::Update(table, id, cells) if state.contains_key(id) => {
            let gone = logged(&Change::Delete(table.clone(), *id), state, &mut || false);
            let come = logged(&Change::Insert(table.clone(), *id, cells.clone()), state, &mut || false);
            [gone, come].concat()
        }
        change => logged(change, state, &mut || false),
    }
}

/// The columns' names.
pub fn names(table: &TableSchema) -> Vec<String> {
    table.columns.iter().map(|c| c.name.clone()).collect()
}

/// The table with a column under another name, one version on.
pub fn renamed(table: &TableSchema, from: &str, to: &str) -> Option<TableSchema> {
    let at = table.ordinal(from)?;
    let mut table = TableSchema { version: table.version + 1, ..table.clone() };
    to.clone_into(&mut table.columns[at].name);
    Some(table)
}

/// The position after `n` transactions.
pub fn position(n: u64) -> Position {
    Position::new(format!("mem:{n}"))
}

/// How many transactions a position stands for.
pub fn number(position: &Position) -> Result<u64> {
    let number = position.as_str().split_once(':').and_then(|(_, n)| n.parse().ok());
    number.ok_or_else(|| Error::corrupt(format!("{position:?} is no position of this log")))
}

/// A handle on a store, and what it need not read.
pub struct MemorySource(pub Arc<Store>, pub Omissions);

impl Source for MemorySource {
    fn check(&self, _: &Selection) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    fn tables(&self, selection: &Selection) -> Result<Vec<Arc<TableSchema>>> {
        let mut tables: Vec<_> = self.0.lock().tables.iter().filter(|t| selection.admits(&t.name)).cloned().collect();
        tables.iter_mut().for_each(|t| self.1.mark(Arc::make_mut(t)));
        Ok(tables)
    }

    fn begin(&self, _: &[Arc<TableSchema>]) -> Result<Position> {
        let mut inner = self.0.lock();
        let now = inner.log.len() as u64;
        let begun = *inner.begun.get_or_insert(now);
        Ok(position(begun.max(inner.purged)))
    }

    fn position(&self) -> Result<Position> {
        Ok(position(self.0.end()))
    }

    fn order(&self, a: &Position, b: &Position) -> Result<Ordering> {
        Ok(number(a)?.cmp(&number(b)?))
    }

    fn distance(&self, from: &Position, to: &Position) -> Result<Option<u64>> {
        Ok(number(to)?.checked_sub(number(from)?))
    }

    fn retained(&self) -> Result<Option<Retained>> {
        Ok(None)
    }

    fn snapshot(&self, _: &[Arc<TableSchema>], consistency: Consistency) -> Result<Box<dyn Snapshot>> {
        let at = position(self.0.end());
        let frozen = match consistency {
            Consistency::Exact => Some(self.0.at(number(&at)?)?),
            Consistency::AtLeast => None,
        };
        Ok(Box::new(MemorySnapshot { store: Arc::clone(&self.0), at, frozen }))
    }

    fn stream(&self, from: &Position, tables: &[Arc<TableSchema>]) -> Result<Box<dyn Stream>> {
        let from = number(from)?;
        if let Some(table) = tables.iter().find(|t| names(t) != self.0.columns(&t.name.name, from)) {
            return Err(Error::corrupt(format!("{} did not have the shape {:?} at {from}", table.name, names(table))));
        }
        let inner = self.0.lock();
        if from < inner.purged {
            return Err(Error::unavailable(format!("the log begins at {}, not at {from}", inner.purged)));
        }
        Ok(Box::new(MemoryStream::new(Arc::clone(&self.0), from, tables.to_vec())))
    }
}

struct MemorySnapshot {
    store: Arc<Store>,
    at: Position,
    /// `None`: each read sees the newest state.
    frozen: Option<Arc<Database>>,
}

impl MemorySnapshot {
    fn rows(&self, table: &TableSchema) -> Result<Arc<State>> {
        let at = if self.frozen.is_some() { number(&self.at)? } else { self.store.end() };
        if names(table) != self.store.columns(&table.name.name, at) {
            return Err(Error::data(&table.name, format!("no such columns: {:?}", names(table))));
        }
        self.store.swallow(&table.name, at)?;
        let database = self.frozen.clone().unwrap_or_else(|| self.store.now());
        let missing = || Error::corrupt(format!("no table {}", table.name));
        database.get(&table.name.name).cloned().ok_or_else(missing)
    }
}

fn bound(part: &Option<Vec<KeyPart>>) -> Result<Option<i64>> {
    match part.as_deref() {
        None => Ok(None),
        Some([KeyPart::Int(n)]) => Ok(Some(*n as i64)),
        Some(other) => Err(Error::corrupt(format!("{other:?} is no key of this table"))),
    }
}

impl Snapshot for MemorySnapshot {
    fn position(&self) -> &Position {
        &self.at
    }

    fn totals(&mut self, _: &TableSchema) -> Result<Option<Totals>> {
        Ok(None)
    }

    fn ask(&mut self, _: &str) -> Result<Option<String>> {
        Err(figure::mute("memory"))
    }

    fn orphans(&mut self, _: &TableSchema, _: &[Arc<TableSchema>]) -> Result<Option<Vec<Orphans>>> {
        Ok(None)
    }

    fn split(&mut self, table: &TableSchema, rows: u64) -> Result<Vec<KeyRange>> {
        let keys: Vec<i64> = self.rows(table)?.keys().copied().collect();
        let bound = |key: i64| Some(vec![KeyPart::Int(key.into())]);
        let mut ranges: Vec<KeyRange> = Vec::new();
        for chunk in keys.chunks(rows as usize) {
            let after = ranges.last().and_then(|r| r.to.clone());
            ranges.push(KeyRange { after, to: chunk.last().and_then(|&k| bound(k)) });
        }
        Ok(ranges)
    }

    fn scan(
        &mut self,
        table: &TableSchema,
        range: &KeyRange,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let state = self.rows(table)?;
        let (after, to) = (bound(&range.after)?, bound(&range.to)?);
        let inside = |id: i64| after.is_none_or(|a| id > a) && to.is_none_or(|t| id <= t);
        let rows: Vec<(i64, &Cells)> = state.iter().filter(|(id, _)| inside(**id)).map(|(id, c)| (*id, c)).collect();
        for part in rows.chunks(16) {
            let mut columns: Vec<ColumnBuilder> =
                table.columns.iter().map(|c| ColumnBuilder::new(&c.logical)).collect();
            part.iter().try_for_each(|(id, cells)| append(&mut columns, *id, cells, [false, false]))?;
            sink(builder::finish_columns(table, &mut columns)?)?;
        }
        Ok(())
    }
}

/// Appends a row; the columns that are absent get nothing.
fn append(columns: &mut [ColumnBuilder], id: i64, cells: &Cells, absent: [bool; 2]) -> Result<()> {
    let shape = || Error::corrupt("a table of another shape");
    let rest = match columns {
        [ColumnBuilder::Int64(ids), rest @ ..] if rest.len() == 2 => {
            ids.append_value(id);
            rest
        }
        rest => rest,
    };
    let [numbers, texts] = rest else { return Err(shape()) };
    match (numbers, absent[0]) {
        (ColumnBuilder::Omitted(b), _) => b.append_null(),
        (ColumnBuilder::Int64(b), false) => b.append_option(cells.0),
        (ColumnBuilder::Int64(_), true) => {}
        _ => return Err(shape()),
    }
    match (texts, absent[1]) {
        (ColumnBuilder::Omitted(b), _) => b.append_null(),
        (ColumnBuilder::Utf8(b), false) => b.append_option(cells.1.as_deref()),
        (ColumnBuilder::Utf8(_), true) => {}
        _ => return Err(shape()),
    }
    Ok(())
}

/// Appends a change.
pub fn append_entry(rows: &mut RowsBuilder, entry: &Entry, order: u32, micros: i64) -> Result<()> {
    let Entry::Row(op, id, cells, absent) = entry else { return Err(Error::corrupt(format!("{entry:?} is no row"))) };
    append(&mut rows.columns, *id, cells, *absent)?;
    for (i, _) in absent.iter().enumerate().filter(|(_, gone)| **gone) {
        if !matches!(rows.columns[i + 1], ColumnBuilder::Omitted(_)) {
            rows.append_absent(i + 1);
        }
    }
    rows.end_row(*op, micros, order);
    Ok(())
}

/// An empty batch that ends at a position.
pub fn empty(n: u64) -> Batch {
    Batch { items: Vec::new(), end: Boundary::Commit(position(n)), commit_micros: None }
}

/// Whether `until` is where a reader stands.
pub fn stands_at(limit: &Limit, n: u64) -> Result<bool> {
    Ok(match &limit.until {
        Some(until) => number(until)? <= n,
        None => false,
    })
}
