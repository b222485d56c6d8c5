//! Both sides of a table read range by range, for as long as a pair of snapshots may be held.
//!
//! The comparison of a table (`Fenced::compare`) asks each side for all of its rows, and may ask again to find those that differ. A
//! [`Part`] stands in the place of a side's snapshot and gives it the rows of some ranges of the key instead. Which ones is decided
//! on the way: the source's side begins a range only while there is time, and each target's side begins it then, too ([`Pace`]). So both
//! read at once, and what was read when the time is up is a whole number of ranges, the same ones on all sides.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arrow_array::RecordBatch;
use crossfade_core::sequence::Behind;
use crossfade_core::totals::Totals;
use crossfade_core::{Kept, KeyRange, Orphans, Position, Result, Snapshot, TableSchema};

/// A snapshot that several comparisons read, one after the other.
pub type Lent = Arc<Mutex<Box<dyn Snapshot>>>;

/// How far a table is read in one pair of snapshots.
pub struct Pace {
    ranges: Vec<KeyRange>,
    until: Instant,
    state: Mutex<State>,
    turned: Condvar,
}

#[derive(Default)]
struct State {
    /// Ranges that may be read.
    open: usize,
    /// There will be no more.
    closed: bool,
}

impl Pace {
    /// For these ranges, of which the first is read in any case.
    pub fn new(ranges: Vec<KeyRange>, until: Instant) -> Arc<Pace> {
        Arc::new(Pace { ranges, until, state: Mutex::default(), turned: Condvar::new() })
    }

    /// Ranges that were read.
    pub fn read(&self) -> usize {
        self.lock().open
    }

    /// Whether what was read is the whole table: an audit's part begins with the first key, too, and ends before the last.
    pub fn is_whole(&self) -> bool {
        let (first, last) = (self.ranges.first(), self.ranges.last());
        let all = first.is_some_and(|r| r.after.is_none()) && last.is_some_and(|r| r.to.is_none());
        all && self.read() == self.ranges.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The source's side: whether it reads this range.
    fn lead(&self, range: usize) -> bool {
        let mut state = self.lock();
        if !state.closed && range >= state.open {
            let goes_on = range < self.ranges.len() && (range == 0 || Instant::now() < self.until);
            if goes_on {
                state.open = range + 1;
            } else {
                state.closed = true;
            }
            self.turned.notify_all();
        }
        range < state.open
    }

    /// A target's side: waits until it is known whether the source's reads this range.
    fn follow(&self, range: usize) -> bool {
        let state = self.lock();
        let waiting = |s: &mut State| !s.closed && range >= s.open;
        let state = self.turned.wait_while(state, waiting).unwrap_or_else(PoisonError::into_inner);
        range < state.open
    }

    fn close(&self) {
        self.lock().closed = true;
        self.turned.notify_all();
    }
}

/// Nobody waits for a side that has ended, whichever way.
struct Closing<'a>(&'a Pace);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// One side of a table.
pub struct Part {
    lent: Lent,
    position: Position,
    pace: Arc<Pace>,
    is_source: bool,
}

impl Part {
    /// The source's side, or a target's.
    pub fn side(lent: &Lent, position: &Position, pace: &Arc<Pace>, is_source: bool) -> Box<dyn Snapshot> {
        Box::new(Part { lent: Arc::clone(lent), position: position.clone(), pace: Arc::clone(pace), is_source })
    }

    fn lent(&self) -> MutexGuard<'_, Box<dyn Snapshot>> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Snapshot for Part {
    fn position(&self) -> &Position {
        &self.position
    }

    fn split(&mut self, table: &TableSchema, rows: u64) -> Result<Vec<KeyRange>> {
        self.lent().split(table, rows)
    }

    fn scan(
        &mut self,
        table: &TableSchema,
        _: &KeyRange,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let _closing = self.is_source.then(|| Closing(&self.pace));
        for (i, range) in self.pace.ranges.iter().enumerate() {
            if !(if self.is_source { self.pace.lead(i) } else { self.pace.follow(i) }) {
                break;
            }
            self.lent().scan(table, range, sink)?;
        }
        Ok(())
    }

    /// By key, wherever the rows are.
    fn fetch(
        &mut self,
        table: &TableSchema,
        keys: &RecordBatch,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        self.lent().fetch(table, keys, sink)
    }

    /// Originals are counted for whole tables.
    fn kept(&mut self) -> Result<Option<Vec<Kept>>> {
        if self.pace.is_whole() { self.lent().kept() } else { Ok(None) }
    }

    fn ask(&mut self, statement: &str) -> Result<Option<String>> {
        self.lent().ask(statement)
    }

    fn orphans(&mut self, table: &TableSchema, tables: &[Arc<TableSchema>]) -> Result<Option<Vec<Orphans>>> {
        self.lent().orphans(table, tables)
    }

    fn sequences(&mut self, table: &TableSchema) -> Result<Vec<Behind>> {
        self.lent().sequences(table)
    }

    /// What a server sums is a whole table's.
    fn totals(&mut self, table: &TableSchema) -> Result<Option<Totals>> {
        if self.pace.is_whole() { self.lent().totals(table) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossfade_core::KeyPart;

    use super::*;

    #[test]
    fn the_target_reads_what_the_source_reads() {
        let ranges = vec![KeyRange::ALL; 3];
        let pace = Pace::new(ranges, Instant::now() + Duration::from_secs(3600));
        std::thread::scope(|scope| {
            let target = scope.spawn(|| (0..3).take_while(|&i| pace.follow(i)).count());
            assert!((0..3).all(|i| pace.lead(i)) && !pace.lead(3));
            assert_eq!(target.join().unwrap(), 3);
        });
        assert!(pace.is_whole());
    }

    #[test]
    fn when_the_time_is_up_the_first_range_was_read_and_no_other() {
        let pace = Pace::new(vec![KeyRange::ALL; 3], Instant::now());
        std::thread::scope(|scope| {
            let target = scope.spawn(|| (0..3).take_while(|&i| pace.follow(i)).count());
            assert_eq!((0..3).take_while(|&i| pace.lead(i)).count(), 1);
            assert_eq!(target.join().unwrap(), 1);
        });
        assert!(!pace.is_whole() && pace.read() == 1);
        assert!(pace.lead(0) && !pace.lead(1), "a second reading reads the same");
    }

    #[test]
    fn the_first_ranges_of_a_table_are_not_the_whole() {
        let key = |n| Some(vec![KeyPart::Int(n)]);
        let part = |after, to| {
            let pace = Pace::new(vec![KeyRange { after, to }], Instant::now() + Duration::from_secs(3600));
            assert!(pace.lead(0) && !pace.lead(1));
            pace.is_whole()
        };
        assert!(part(None, None));
        assert!(!part(None, key(9)) && !part(key(9), None) && !part(key(1), key(9)));
    }

    #[test]
    fn a_source_that_fails_lets_its_target_go() {
        let pace = Pace::new(vec![KeyRange::ALL; 3], Instant::now() + Duration::from_secs(3600));
        std::thread::scope(|scope| {
            let target = scope.spawn(|| (0..3).take_while(|&i| pace.follow(i)).count());
            let closing = Closing(&pace);
            assert!(pace.lead(0));
            drop(closing);
            assert_eq!(target.join().unwrap(), 1);
        });
    }
}
