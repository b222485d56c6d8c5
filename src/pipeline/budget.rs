//! The byte budget: how much decoded data may be on its way between source and targets.
//!
//! Channels bound the number of batches, the budget bounds their bytes. A batch takes its bytes before it is handed on
//! and gives them back when the last target has written it, whatever path it took: the permit's `Drop` does it, so
//! nobody has to remember. One batch is always let through, however large, or a row larger than the budget would wait
//! for ever; the worst case is therefore the budget plus one batch.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Bytes that may be on their way.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: Mutex<Used>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Used {
    now: usize,
    peak: usize,
}

/// Bytes taken from a budget; given back on drop.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Budget { limit, used: Mutex::default(), freed: Condvar::new() })
    }

    /// Takes bytes, waiting up to `patience` for room. `None`: no room yet; the caller has something else to do (keep
    /// a connection alive) before it asks again.
    pub fn take(self: &Arc<Self>, bytes: usize, patience: Duration) -> Option<Permit> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |u: &mut Used| u.now > 0 && u.now + bytes > self.limit;
        let (mut used, timeout) =
            self.freed.wait_timeout_while(used, patience, full).unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() && full(&mut used) {
            return None;
        }
        used.now += bytes;
        used.peak = used.peak.max(used.now);
        debug_assert!(used.now <= self.limit.max(bytes), "never more than the budget, or one batch");
        Some(Permit { budget: Arc::clone(self), bytes })
    }

    /// The most bytes that were ever on their way at once.
    pub fn peak(&self) -> usize {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).peak
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut used = self.budget.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.now -= self.bytes;
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(5);

    #[test]
    fn bytes_come_back_when_a_permit_is_dropped() {
        let budget = Budget::new(100);
        let a = budget.take(60, MOMENT).unwrap();
        assert!(budget.take(60, MOMENT).is_none(), "no room");
        drop(a);
        let _b = budget.take(60, MOMENT).unwrap();
        assert_eq!(budget.peak(), 60);
    }

    #[test]
    fn one_batch_always_passes() {
        let budget = Budget::new(100);
        let big = budget.take(1000, MOMENT).unwrap();
        assert!(budget.take(1, MOMENT).is_none());
        drop(big);
        assert!(budget.take(1, MOMENT).is_some());
    }

    #[test]
    fn a_waiter_is_woken() {
        let budget = Budget::new(10);
        let held = budget.take(10, MOMENT).unwrap();
        std::thread::scope(|s| {
            let waiter = s.spawn(|| budget.take(10, Duration::from_secs(60)).is_some());
            drop(held);
            assert!(waiter.join().unwrap());
        });
    }
}
