//! Signs of life: whether the threads of a pipeline go on, or one of them hangs.
//!
//! A watchdog that a timer feeds proves that the timer runs. Here every thread of a pipeline leaves a sign at each turn of its
//! loop, and the daemon is called alive only if none of them is overdue. The sign is left where a thread asks whether it is to
//! end ([`super::halt::Halt`]): every wait in the pipeline does so each fraction of a second, so a thread that no longer asks
//! neither works nor would it stop.
//!
//! Inside a call to a database a thread cannot turn, and may wait long for good reasons: a table is locked, an index is built. It
//! says so beforehand ([`asking`]) and is given the [`Patience`] that fits the call. What it waits for, and since when, is shown to
//! people, too.
//!
//! A thread knows its own sign (thread-local), so that waits deep in the pipeline need not be handed one. Threads that nobody
//! enlisted (simulations, commands) leave none.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a call may keep a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// A question or a write: somebody may hold a lock, but a connection that gives no answer for so long is better made anew.
    Answer,
    /// As long as it takes: indexes are built, a table is emptied, a snapshot waits for other transactions.
    Work,
}

impl Patience {
    const ANSWER: Duration = Duration::from_secs(15 * 60);

    fn limit(self) -> Option<Duration> {
        match self {
            Patience::Answer => Some(Self::ANSWER),
            Patience::Work => None,
        }
    }
}

/// A thread that has not turned for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The thread.
    pub thread: String,
    /// The call that it is in; `None`: it says nothing, and should have.
    pub call: Option<&'static str>,
    /// Since its last sign.
    pub since: Duration,
}

impl std::fmt::Display for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since = crate::cli::print::seconds(self.since.as_secs_f64());
        match self.call {
            Some(call) => write!(f, "{} has been in {call} for {since}", self.thread),
            None => write!(f, "the thread {} has given no sign of life for {since}", self.thread),
        }
    }
}

#[derive(Debug)]
struct Sign {
    thread: String,
    /// Milliseconds since `Pulse::origin`.
    last: AtomicU64,
    origin: Instant,
    call: Mutex<Option<(&'static str, Patience)>>,
}

impl Sign {
    fn turn(&self) {
        self.last.store(self.origin.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn call(&self) -> Option<(&'static str, Patience)> {
        *self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what it is about to do; returns what it said before.
    fn say(&self, call: Option<(&'static str, Patience)>) -> Option<(&'static str, Patience)> {
        self.turn();
        std::mem::replace(&mut *self.call.lock().unwrap_or_else(PoisonError::into_inner), call)
    }
}

thread_local! {
    static MINE: RefCell<Option<Arc<Sign>>> = const { RefCell::new(None) };
}

fn mine<T>(f: impl FnOnce(&Sign) -> T) -> Option<T> {
    MINE.with_borrow(|sign| sign.as_deref().map(f))
}

/// The threads that must go on.
#[derive(Debug)]
pub struct Pulse {
    origin: Instant,
    signs: Mutex<Vec<Arc<Sign>>>,
}

impl Default for Pulse {
    fn default() -> Self {
        Pulse { origin: Instant::now(), signs: Mutex::default() }
    }
}

impl Pulse {
    /// Takes in the calling thread, until what is returned is dropped.
    pub fn enlist(&self, thread: &str) -> Enlisted<'_> {
        let sign = Arc::new(Sign {
            thread: thread.to_owned(),
            last: AtomicU64::new(0),
            origin: self.origin,
            call: Mutex::new(None),
        });
        sign.turn();
        self.signs.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&sign));
        MINE.set(Some(Arc::clone(&sign)));
        Enlisted { pulse: self, sign }
    }

    /// The first thread that hangs: it neither turned within `window`, nor is it in a call that may take so long.
    pub fn hanging(&self, window: Duration) -> Option<Waiting> {
        let now = self.origin.elapsed();
        let signs = self.signs.lock().unwrap_or_else(PoisonError::into_inner);
        signs.iter().map(|s| (waiting(s, now), s.call())).find_map(|(waiting, call)| {
            let limit = match call {
                None => Some(window),
                Some((_, patience)) => patience.limit(),
            };
            limit.is_some_and(|limit| waiting.since > limit).then_some(waiting)
        })
    }

    /// The thread that has been in a call for longest, if for longer than `than`.
    pub fn longest(&self, than: Duration) -> Option<Waiting> {
        let now = self.origin.elapsed();
        let signs = self.signs.lock().unwrap_or_else(PoisonError::into_inner);
        signs.iter().map(|s| waiting(s, now)).filter(|w| w.since > than).max_by_key(|w| w.since)
    }
}

fn waiting(sign: &Sign, now: Duration) -> Waiting {
    let last = Duration::from_millis(sign.last.load(Ordering::Relaxed));
    Waiting { thread: sign.thread.clone(), call: sign.call().map(|(call, _)| call), since: now.saturating_sub(last) }
}

/// A thread that is watched; no longer when dropped.
#[derive(Debug)]
pub struct Enlisted<'a> {
    pulse: &'a Pulse,
    sign: Arc<Sign>,
}

impl Drop for Enlisted<'_> {
    fn drop(&mut self) {
        MINE.set(None);
        let mut signs = self.pulse.signs.lock().unwrap_or_else(PoisonError::into_inner);
        signs.retain(|s| !Arc::ptr_eq(s, &self.sign));
    }
}

/// This thread goes on.
pub fn turned() {
    mine(Sign::turn);
}

/// Told by a thread for as long as it lives.
#[derive(Debug)]
#[must_use = "the call ends when this is dropped"]
pub struct Telling(Option<(&'static str, Patience)>);

/// This thread is about to wait for somebody else, and says for what.
pub fn asking(call: &'static str, patience: Patience) -> Telling {
    Telling(mine(|sign| sign.say(Some((call, patience)))).flatten())
}

/// This thread turns again, although it is called by one that is in a call.
pub fn turning() -> Telling {
    Telling(mine(|sign| sign.say(None)).flatten())
}

impl Drop for Telling {
    fn drop(&mut self) {
        mine(|sign| sign.say(self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As if so much time had passed.
    fn later(pulse: &Pulse, by: Duration) -> Pulse {
        let signs = pulse.signs.lock().unwrap();
        let copy = |s: &Arc<Sign>| {
            let call = Mutex::new(s.call());
            let last = AtomicU64::new(s.last.load(Ordering::Relaxed));
            Arc::new(Sign { thread: s.thread.clone(), last, origin: s.origin, call })
        };
        let signs = Mutex::new(signs.iter().map(copy).collect());
        Pulse { origin: pulse.origin.checked_sub(by).unwrap(), signs }
    }

    const WINDOW: Duration = Duration::from_secs(120);
    const OVERDUE: Duration = Duration::from_secs(121);

    #[test]
    fn a_thread_that_no_longer_turns_hangs_unless_it_said_what_it_waits_for() {
        let pulse = Pulse::default();
        let enlisted = pulse.enlist("target-0");
        assert_eq!(pulse.hanging(WINDOW), None);
        let hangs = later(&pulse, OVERDUE).hanging(WINDOW).unwrap();
        assert_eq!((hangs.thread.as_str(), hangs.call), ("target-0", None));
        assert!(hangs.to_string().contains("no sign of life"), "{hangs}");
        {
            let _asking = asking("a commit", Patience::Answer);
            assert_eq!(later(&pulse, OVERDUE).hanging(WINDOW), None);
            assert_eq!(later(&pulse, Patience::ANSWER + OVERDUE).hanging(WINDOW).unwrap().call, Some("a commit"));
            {
                let _inner = asking("the end of the copy", Patience::Work);
                assert_eq!(later(&pulse, Duration::from_secs(7 * 86_400)).hanging(WINDOW), None);
                let _turning = turning();
                assert!(later(&pulse, OVERDUE).hanging(WINDOW).is_some(), "its loop turns again");
            }
            assert_eq!(
                later(&pulse, OVERDUE).longest(WINDOW).unwrap().call,
                Some("a commit"),
                "back in the outer call"
            );
        }
        assert!(later(&pulse, OVERDUE).hanging(WINDOW).is_some(), "the call is over");
        drop(enlisted);
        assert_eq!(later(&pulse, OVERDUE).hanging(WINDOW), None, "it has ended");
    }

    #[test]
    fn a_thread_that_nobody_enlisted_leaves_no_sign() {
        let pulse = Pulse::default();
        turned();
        drop(asking("a commit", Patience::Answer));
        assert_eq!(later(&pulse, OVERDUE).hanging(Duration::ZERO), None);
    }
}
