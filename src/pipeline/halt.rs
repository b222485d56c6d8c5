//! Whether a session goes on: asked by every thread in every wait, and answered by a number that only rises.
//!
//! Asking is the sign of life that a watchdog looks for, see [`pulse`]: a thread that no longer asks would not end, either.

use std::sync::atomic::{AtomicU8, Ordering};

use super::pulse;

/// Whether the session goes on. It only ever moves forward.
#[derive(Debug, Default)]
pub struct Halt(AtomicU8);

impl Halt {
    const DRAINING: u8 = 1;
    const ABORTED: u8 = 2;

    /// No new work; what is on its way is finished.
    pub fn drain(&self) {
        self.0.fetch_max(Self::DRAINING, Ordering::SeqCst);
    }

    /// Everything ends as it stands.
    pub fn abort(&self) {
        self.0.fetch_max(Self::ABORTED, Ordering::SeqCst);
    }

    /// Whether everything ends as it stands.
    pub fn aborted(&self) -> bool {
        pulse::turned();
        self.0.load(Ordering::SeqCst) >= Self::ABORTED
    }

    /// Whether no new work is to be started.
    pub fn over(&self) -> bool {
        pulse::turned();
        self.0.load(Ordering::SeqCst) >= Self::DRAINING
    }
}
