//! Rows that do not come from the log: how a repair writes, through the one writer of a target.
//!
//! An errand is a batch of rows as the source held them at a position S. The applier carries it out between two commits, and
//! only while its target stands at exactly S: then everything before S is in the target, nothing after it, and what the log
//! brings next comes after these rows. So a row that was changed at the source since it was read is not set back, whenever the
//! errand is carried out; a [`super::fence::Fence`] at S is merely how the target is made to stand there. The rows and a
//! checkpoint at S, whose `seq` is one more, are one commit: after a crash both are there or neither.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use crossfade_core::{Batch, Checkpoint, Error, Result};

use super::session::Shared;

/// Rows for one target, in its shape.
#[derive(Debug)]
pub struct Errand {
    /// Whose: its place among the pipeline's targets.
    pub target: usize,
    /// The rows, each key once in each [`crossfade_core::Rows`]; it ends at the position at which they were read.
    pub batch: Batch,
    /// Told the commit that brought them, or why there is none.
    pub reply: Sender<Result<Checkpoint>>,
}

/// Errands that nobody has taken up yet.
#[derive(Debug, Default)]
pub struct Errands(Mutex<Vec<Errand>>);

impl Errands {
    /// The next one of a target.
    pub fn take(&self, target: usize) -> Option<Errand> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = all.iter().position(|e| e.target == target)?;
        Some(all.remove(at))
    }

    fn put(&self, errand: Errand) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(errand);
    }
}

/// Has rows written by a target's own writer, and waits for their commit. Whoever holds a fence at their position is
/// answered soon.
pub fn send(shared: &Shared<'_>, target: usize, batch: Batch) -> Result<Checkpoint> {
    let (reply, answer) = bounded(1);
    shared.errands.put(Errand { target, batch, reply });
    wait(shared, &answer)
}

fn wait(shared: &Shared<'_>, answer: &Receiver<Result<Checkpoint>>) -> Result<Checkpoint> {
    loop {
        match answer.recv_timeout(Duration::from_millis(50)) {
            Ok(answer) => return answer,
            Err(RecvTimeoutError::Timeout) if !shared.halt.over() => {}
            Err(_) => {
                return Err(Error::transient("the pipeline stopped while rows were being repaired")
                    .hint("what was committed is whole; ask again"));
            }
        }
    }
}
