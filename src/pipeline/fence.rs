//! Holding the pipeline at one exact position, with the source's snapshot open there.
//!
//! 1. hold the reader at a commit;
//! 2. open the source's snapshot, which says the position S that it stands for exactly;
//! 3. let the reader run up to S and hold it there; wait until every target of the session has committed S.
//!
//! The proof reads both sides there; the initial copy of a table without a key starts there. Nothing is on its way while a
//! [`Fence`] lives; it lets the reader go when it is dropped. One fence at a time: a second waits for the first.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossfade_core::{Consistency, Error, Position, Result, Snapshot, TableSchema};

use super::reins::Rule;
use super::session::Shared;

/// The pipeline, held at a position.
pub struct Fence<'a, 'b> {
    /// Where.
    pub position: Position,
    /// The source's tables there.
    snapshot: Box<dyn Snapshot>,
    _release: Release<'a, 'b>,
}

/// Lets the reader go when it is dropped.
struct Release<'a, 'b> {
    shared: &'a Shared<'b>,
    flushing: bool,
    _alone: MutexGuard<'a, ()>,
}

impl<'a, 'b> Release<'a, 'b> {
    fn later(shared: &'a Shared<'b>) -> Self {
        let alone = shared.fence.lock().unwrap_or_else(PoisonError::into_inner);
        Release { shared, flushing: shared.flushing(), _alone: alone }
    }
}

impl Drop for Release<'_, '_> {
    fn drop(&mut self) {
        self.shared.set_flushing(self.flushing);
        self.shared.reins.set(Rule::Free);
    }
}

impl<'a, 'b> Fence<'a, 'b> {
    /// Holds the pipeline where the source's tables are now. `patience` bounds each wait: a copy has all the time there is,
    /// whoever asks for a proof has not.
    pub fn hold(shared: &'a Shared<'b>, tables: &[Arc<TableSchema>], patience: Duration) -> Result<Self> {
        let over = || shared.halt.over();
        let release = Release::later(shared);
        shared.set_flushing(true);
        shared.reins.set(Rule::Hold);
        let parked = shared.reins.wait_until_parked(patience, over)?;
        let snapshot = snapshot_from(shared, tables, &parked, patience)?;
        let position = snapshot.position().clone();
        shared.reins.set(Rule::Until(position.clone()));
        shared.reins.wait_until_parked(patience, over)?;
        wait_committed(shared, &position, patience)?;
        Ok(Fence { position, snapshot, _release: release })
    }

    /// The source's tables at the position.
    pub fn snapshot(&mut self) -> &mut dyn Snapshot {
        self.snapshot.as_mut()
    }

    /// Lets the pipeline go on; the snapshot stays.
    pub fn release(self) -> (Position, Box<dyn Snapshot>) {
        (self.position, self.snapshot)
    }
}

/// Has the reader pass what the log's end is now as soon as can be, also where the log is quiet and it would tell of that later.
/// Nothing is lost where it does not come to it: it passes the position by itself, in time.
pub fn pass(shared: &Shared<'_>) -> Result<()> {
    let _release = Release::later(shared);
    match passed(shared) {
        Err(e) if e.is_transient() => Ok(()),
        passed => passed,
    }
}

fn passed(shared: &Shared<'_>) -> Result<()> {
    let over = || shared.halt.over();
    shared.reins.set(Rule::Hold);
    shared.reins.wait_until_parked(PASSING, over)?;
    // Not one that was taken before: a stream may have read on behind what it has handed over, and cannot go back.
    shared.reins.set(Rule::Until(shared.source.position()?));
    shared.reins.wait_until_parked(PASSING, over).map(drop)
}

/// How long a position may take to be passed, before whoever waits for it is left to the stream's own pace.
const PASSING: Duration = Duration::from_secs(60);

/// The source's snapshot, not before what the reader has handed on: a log may show a transaction to its readers before the
/// source's own queries see it.
fn snapshot_from(
    shared: &Shared<'_>,
    tables: &[Arc<TableSchema>],
    parked: &Position,
    patience: Duration,
) -> Result<Box<dyn Snapshot>> {
    let deadline = Instant::now() + patience;
    loop {
        let snapshot = shared.source.snapshot(tables, Consistency::Exact)?;
        if shared.source.order(snapshot.position(), parked)?.is_ge() {
            return Ok(snapshot);
        }
        if shared.halt.over() || Instant::now() > deadline {
            return Err(Error::transient(format!(
                "the source's snapshots stay at {}, before {parked}, which its log has shown",
                snapshot.position()
            ))
            .hint("a commit at the source hangs, for example on a semi-synchronous replica; try again"));
        }
        drop(snapshot);
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn wait_committed(shared: &Shared<'_>, position: &Position, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let mut all = true;
        for &i in &shared.members {
            all &= shared.source.order(&shared.checkpoint(i).position, position)?.is_ge();
        }
        if all {
            return Ok(());
        }
        if shared.halt.over() {
            return Err(Error::transient("the pipeline stopped before its targets reached the fence"));
        }
        if Instant::now() > deadline {
            return Err(Error::transient("the targets did not commit the fence in time")
                .hint("look at `crossfade lag`; a lock at the target may hold the writer up"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
