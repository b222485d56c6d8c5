//! The copy's brake: how many bytes per second all copy threads together may read.
//!
//! What was read is paid for afterwards by waiting: between two chunks, where nothing is held, so that the stream never waits
//! for the brake. Only a table without a key, which is one chunk, is braked while it is read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::session::TICK;

/// Shared by the copy's threads.
#[derive(Debug)]
pub struct Throttle {
    /// Bytes per second; 0: as fast as can be.
    rate: AtomicU64,
    /// When everything read so far is paid for.
    due: Mutex<Option<Instant>>,
}

impl Throttle {
    /// A brake for so many bytes per second.
    pub fn new(rate: Option<u64>) -> Self {
        Throttle { rate: AtomicU64::new(rate.unwrap_or(0)), due: Mutex::new(None) }
    }

    /// Brakes otherwise from now on. Without a brake nothing is left to be paid.
    pub fn set_rate(&self, rate: Option<u64>) {
        self.rate.store(rate.unwrap_or(0), Ordering::Relaxed);
        if rate.is_none() {
            *self.due.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// So many bytes were read.
    pub fn spend(&self, bytes: u64) {
        self.spend_at(bytes, Instant::now());
    }

    fn spend_at(&self, bytes: u64, now: Instant) {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return;
        }
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let from = due.map_or(now, |d| d.max(now));
        *due = Some(from + Duration::from_secs_f64(bytes as f64 / rate as f64));
    }

    fn left_at(&self, now: Instant) -> Duration {
        let due = *self.due.lock().unwrap_or_else(PoisonError::into_inner);
        due.map_or(Duration::ZERO, |d| d.saturating_duration_since(now))
    }

    /// Waits until what was read is paid for, or `over` says that the session is.
    pub fn wait(&self, over: impl Fn() -> bool) {
        loop {
            let left = self.left_at(Instant::now());
            if left.is_zero() || over() {
                return;
            }
            std::thread::sleep(left.min(TICK));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_paid_for_one_after_the_other() {
        let throttle = Throttle::new(Some(1000));
        let now = Instant::now();
        throttle.spend_at(500, now);
        throttle.spend_at(1500, now);
        assert_eq!(throttle.left_at(now), Duration::from_secs(2));
        // Idle time is not saved up.
        let later = now + Duration::from_secs(60);
        throttle.spend_at(1000, later);
        assert_eq!(throttle.left_at(later), Duration::from_secs(1));
    }

    #[test]
    fn waiting_ends_with_the_session_and_without_a_rate_there_is_none() {
        let throttle = Throttle::new(Some(1));
        throttle.spend(u64::from(u32::MAX));
        throttle.wait(|| true);
        throttle.set_rate(None);
        throttle.wait(|| false);
        let free = Throttle::new(None);
        free.spend(u64::MAX);
        free.wait(|| false);
    }
}
