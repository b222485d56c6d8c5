//! The gate between the stream and the initial copy: on one table they never write at the same time.
//!
//! The rule of `crossfade_core::target` is: a chunk read at or after position `low` is committed only while the target's
//! stream is at or before `low`. The gate keeps it without comparing positions: a chunk enters its table *before* it
//! takes `low` and leaves after its commit, and a writer closes a table before it writes (or, where writes stay
//! invisible until the commit, before it commits) changes of it and opens it after the commit. So while a chunk is
//! inside, the target's stream does not move on that table; and `low`, taken inside, is not before anything that the
//! stream has already applied. As a second gain, chunk and stream never wait for each other's row locks.
//!
//! They take turns: no further chunk enters a table that a writer wants, and a writer that holds no table yet lets the
//! chunks in that wait already; else several busy targets, of which one always holds the table, would starve the copy.
//! A writer that holds one table and waits for another cannot deadlock, because a chunk that has entered waits for
//! nobody, and because only a writer that holds nothing stands back for a chunk that waits.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossfade_core::TableName;

/// Who is inside each table.
#[derive(Debug, Default)]
pub struct Gate {
    tables: Mutex<HashMap<TableName, Presence>>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Presence {
    chunks: usize,
    /// Chunks that wait for writers to leave.
    waiting: usize,
    /// Writers (one per target) that hold the table or wait for it.
    writers: usize,
}

/// A chunk inside a table; it leaves on drop.
#[derive(Debug)]
pub struct Entered<'a> {
    gate: &'a Gate,
    table: TableName,
}

/// Tables that a writer has closed; they open on drop.
#[derive(Debug)]
pub struct Closed<'a> {
    gate: &'a Gate,
    tables: Vec<TableName>,
}

/// Waits re-check whether the session is over this often.
const TICK: Duration = Duration::from_millis(50);

impl Gate {
    /// Lets a chunk in; waits while a writer has or wants the table. `None` once `over` says so.
    pub fn enter(&self, table: &TableName, over: impl Fn() -> bool) -> Option<Entered<'_>> {
        let mut tables = self.lock();
        tables.entry(table.clone()).or_default().waiting += 1;
        let mut stay = true;
        while stay && tables.get(table).is_some_and(|p| p.writers > 0) {
            stay = !over();
            if stay {
                tables = self.wait(tables);
            }
        }
        let presence = tables.entry(table.clone()).or_default();
        presence.waiting -= 1;
        presence.chunks += usize::from(stay);
        self.changed.notify_all();
        stay.then(|| Entered { gate: self, table: table.clone() })
    }

    /// A writer's set of closed tables, empty at first.
    pub fn closer(&self) -> Closed<'_> {
        Closed { gate: self, tables: Vec::new() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TableName, Presence>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        guard: MutexGuard<'a, HashMap<TableName, Presence>>,
    ) -> MutexGuard<'a, HashMap<TableName, Presence>> {
        self.changed.wait_timeout(guard, TICK).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Closed<'_> {
    /// Closes a table and waits until no chunk is inside; false once `over` says so.
    pub fn close(&mut self, table: &TableName, over: impl Fn() -> bool) -> bool {
        if self.tables.contains(table) {
            return true;
        }
        let mut tables = self.gate.lock();
        while self.tables.is_empty() && tables.get(table).is_some_and(|p| p.waiting > 0) {
            if over() {
                return false;
            }
            tables = self.gate.wait(tables);
        }
        tables.entry(table.clone()).or_default().writers += 1;
        self.tables.push(table.clone());
        while tables.get(table).is_some_and(|p| p.chunks > 0) {
            if over() {
                return false;
            }
            tables = self.gate.wait(tables);
        }
        true
    }

    /// Opens all of them.
    pub fn open(&mut self) {
        if self.tables.is_empty() {
            return;
        }
        let mut tables = self.gate.lock();
        for table in self.tables.drain(..) {
            if let Some(p) = tables.get_mut(&table) {
                p.writers -= 1;
            }
        }
        self.gate.changed.notify_all();
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.open();
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if let Some(p) = self.gate.lock().get_mut(&self.table) {
            p.chunks -= 1;
        }
        self.gate.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn never() -> bool {
        false
    }

    #[test]
    fn a_writer_waits_for_chunks_and_goes_before_new_ones() {
        let gate = Gate::default();
        let (a, b) = (TableName::new("s", "a"), TableName::new("s", "b"));
        let wrote = AtomicBool::new(false);
        let inside = gate.enter(&a, never).unwrap();
        std::thread::scope(|s| {
            let writer = s.spawn(|| {
                let mut closed = gate.closer();
                assert!(closed.close(&a, never));
                wrote.store(true, Ordering::SeqCst);
            });
            while gate.lock().get(&a).is_none_or(|p| p.writers == 0) {
                std::thread::yield_now();
            }
            assert!(gate.enter(&a, || true).is_none(), "the writer goes first");
            assert!(gate.enter(&b, never).is_some(), "other tables are free");
            assert!(!wrote.load(Ordering::SeqCst), "a chunk is inside");
            drop(inside);
            writer.join().unwrap();
        });
        assert!(gate.enter(&a, never).is_some(), "open again");
    }

    #[test]
    fn writers_that_relieve_each_other_do_not_starve_the_copy() {
        let gate = Gate::default();
        let a = TableName::new("s", "a");
        let over = AtomicBool::new(false);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    let mut closed = gate.closer();
                    while !over.load(Ordering::SeqCst) && closed.close(&a, || over.load(Ordering::SeqCst)) {
                        std::thread::sleep(Duration::from_millis(2));
                        closed.open();
                    }
                });
            }
            let deadline = std::time::Instant::now() + Duration::from_secs(10);
            let entered =
                (0..100).filter(|_| gate.enter(&a, || std::time::Instant::now() > deadline).is_some()).count();
            over.store(true, Ordering::SeqCst);
            assert_eq!(entered, 100);
        });
    }

    #[test]
    fn waiting_ends_with_the_session() {
        let gate = Gate::default();
        let a = TableName::new("s", "a");
        let _inside = gate.enter(&a, never).unwrap();
        assert!(!gate.closer().close(&a, || true));
    }
}
