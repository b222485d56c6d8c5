//! The source's thread: reads the log, hands batches on, acknowledges what every target holds.
//!
//! A source that cannot hand on a batch (the budget or the channel is full) stops reading and keeps its connection
//! alive: every wait in here is short and followed by an acknowledgement when one is due. Only positions that all
//! targets have committed are acknowledged.
//!
//! A log that comes as fast as it is read comes in small pieces, and each costs all threads behind this one, the target, and the
//! source, which wakes us for it, nearly as much as a large one. So a piece is given a moment to grow ([`LINGER`]) where that
//! delays nobody: where batches wait to be written anyway, and where the changes are old already ([`LATE`]), because the
//! pipeline catches up. Else what has come is handed on at once.

use std::time::{Duration, Instant};

use crossbeam_channel::{SendTimeoutError, Sender};
use crossfade_core::{Batch, Boundary, Limit, Position, Result, Stream};

use super::budget::Permit;
use super::reins::Rule;
use super::session::Shared;

/// A batch on its way, with the bytes it holds.
#[derive(Debug)]
pub struct Parcel {
    /// What moves.
    pub batch: Batch,
    /// Given back when the last target is done with it.
    pub permit: Permit,
}

/// How long `next` waits for something to come: also how long it takes to notice a new rule on an idle log.
const IDLE: Duration = Duration::from_millis(20);
/// How long a batch may grow.
const LINGER: Duration = Duration::from_millis(10);
/// Changes that were committed so long ago are not made much older by waiting for more. By two clocks: a source whose clock is
/// that slow looks late all the time, and pays [`LINGER`].
const LATE: Duration = Duration::from_secs(1);
/// How often we look whether they still wait.
const LOOK: Duration = Duration::from_micros(500);
/// A batch of fewer than this part of what it may hold is small.
const SMALL: usize = 2;
/// Longest silence towards the source.
const ACK_EVERY: Duration = Duration::from_secs(2);
/// How long one wait for room takes before the connection is looked after.
const PATIENCE: Duration = Duration::from_millis(500);

/// Reads until told to stop. Dropping `out` lets the rest of the pipeline drain.
pub fn read(shared: &Shared<'_>, mut stream: Box<dyn Stream>, out: &Sender<Parcel>) -> Result<()> {
    let mut acks = Acks { last: Instant::now(), position: None };
    let mut at_commit = true;
    let (mut small, mut late) = (false, false);
    while !shared.halt.aborted() {
        let until = match shared.reins.rule(at_commit) {
            Rule::Stop if at_commit => return Ok(()),
            Rule::Hold if at_commit => {
                acks.keep_alive(shared, stream.as_mut())?;
                shared.reins.wait_parked(Duration::from_millis(100));
                continue;
            }
            Rule::Until(position) => {
                let last = shared.reins.last_handed();
                if at_commit && shared.source.order(&last, &position)?.is_ge() {
                    shared.reins.handed(&last, true); // there already: nothing to wait for
                    continue;
                }
                Some(position)
            }
            // Inside a transaction there is no stopping place: read on to its end.
            Rule::Free | Rule::Stop | Rule::Hold => None,
        };
        let limits = shared.limits;
        if small {
            linger(out, late);
        }
        let limit = Limit { deadline: Instant::now() + IDLE, bytes: limits.read_bytes, rows: limits.read_rows, until };
        if let Some(batch) = stream.next(&limit)? {
            let end = batch.end.clone();
            late = batch.commit_micros.is_some_and(|at| crate::now_micros() - at > LATE.as_micros() as i64);
            small = batch.rows() < limits.read_rows / SMALL && batch.bytes() < limits.read_bytes / SMALL;
            if !hand_on(shared, stream.as_mut(), batch, out, &mut acks)? {
                return Ok(());
            }
            at_commit = match &end {
                Boundary::Open => false,
                Boundary::Commit(position) => {
                    let reached = match &limit.until {
                        Some(until) => shared.source.order(position, until)?.is_ge(),
                        None => false,
                    };
                    shared.reins.handed(position, reached);
                    true
                }
            };
        }
        acks.keep_alive(shared, stream.as_mut())?;
    }
    Ok(())
}

/// Lets the log's next piece grow: while batches wait that were read before, and always if it is late.
fn linger(out: &Sender<Parcel>, late: bool) {
    let until = Instant::now() + LINGER;
    while (late || !out.is_empty()) && Instant::now() < until {
        std::thread::sleep(LOOK);
    }
}

/// Waits for room and sends. False: the session is over.
fn hand_on(
    shared: &Shared<'_>,
    stream: &mut dyn Stream,
    batch: Batch,
    out: &Sender<Parcel>,
    acks: &mut Acks,
) -> Result<bool> {
    let bytes = batch.bytes();
    let permit = loop {
        if let Some(permit) = shared.budget.take(bytes, PATIENCE) {
            break permit;
        }
        if shared.halt.aborted() {
            return Ok(false);
        }
        acks.keep_alive(shared, stream)?;
    };
    let mut parcel = Parcel { batch, permit };
    loop {
        match out.send_timeout(parcel, PATIENCE) {
            Ok(()) => return Ok(true),
            Err(SendTimeoutError::Timeout(back)) => parcel = back,
            Err(SendTimeoutError::Disconnected(_)) => return Ok(false),
        }
        if shared.halt.aborted() {
            return Ok(false);
        }
        acks.keep_alive(shared, stream)?;
    }
}

struct Acks {
    last: Instant,
    position: Option<Position>,
}

impl Acks {
    /// Acknowledges when the durable position moved or silence lasted too long.
    fn keep_alive(&mut self, shared: &Shared<'_>, stream: &mut dyn Stream) -> Result<()> {
        if self.last.elapsed() < Duration::from_millis(200) {
            return Ok(());
        }
        let durable = shared.durable();
        if self.position.as_ref() != Some(&durable) || self.last.elapsed() >= ACK_EVERY {
            stream.ack(&durable)?;
            self.position = Some(durable);
            self.last = Instant::now();
        }
        Ok(())
    }
}
