//! The transform's thread: gives batches the target's shape, joins what waits, folds.
//!
//! While the targets are busy, batches queue up in front of this thread; it joins them into one, so that under load a
//! target's commit carries many transactions, and when all is quiet each goes through at once. Targets that keep the
//! latest state get the net effect, targets that keep history get every change.

use std::sync::Arc;

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender};
use crossfade_core::batch::SchemaStep;
use crossfade_core::{Batch, History, Item, Result, SchemaChange, TableSchema};

use super::reader::Parcel;
use super::session::{Shared, TICK};
use crate::fold::fold;
use crate::pipeline::budget::Permit;
use crate::transform::Transform;

/// What a target receives: one batch, kept alive (with its bytes) until the last target has written it.
#[derive(Debug)]
pub struct Shaped {
    /// What to write.
    pub batch: Batch,
    _permits: Arc<Vec<Permit>>,
}

/// Where the batches of one target go.
#[derive(Debug)]
pub struct Outlet {
    /// Which form it wants.
    pub history: History,
    /// Its queue.
    pub out: Sender<Arc<Shaped>>,
}

/// Shapes until the reader has gone and everything is handed on.
pub fn shape(
    shared: &Shared<'_>,
    mut transform: Transform,
    parcels: &Receiver<Parcel>,
    outlets: &[Outlet],
) -> Result<()> {
    while !shared.halt.aborted() {
        let first = match parcels.recv_timeout(TICK) {
            Ok(parcel) => parcel,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let (batch, permits) = join(shared, &mut transform, first, parcels)?;
        let permits = Arc::new(permits);
        for item in &batch.items {
            if let Item::Schema(change) = item {
                warn_of_policies(change);
            }
        }
        if batch.items.iter().any(|i| matches!(i, Item::Schema(_))) {
            shared.reshaped(transform.seen());
        }
        let mut left = Some(batch);
        let mut wanted = outlets.iter().map(|o| o.history).collect::<Vec<_>>();
        wanted.sort_unstable();
        wanted.dedup();
        while let (Some(history), Some(batch)) = (wanted.pop(), left.take()) {
            if !wanted.is_empty() {
                left = Some(batch.clone());
            }
            // The last form takes the rows as they came: while it waits for its target, they are not held twice.
            let batch = match history {
                History::Full => batch,
                History::Net => Batch { items: fold(batch.items)?, ..batch },
            };
            let shaped = Arc::new(Shaped { batch, _permits: Arc::clone(&permits) });
            for outlet in outlets.iter().filter(|o| o.history == history) {
                if !send(shared, &outlet.out, Arc::clone(&shaped)) {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Takes what waits behind the first batch, up to the limits of one write.
fn join(
    shared: &Shared<'_>,
    transform: &mut Transform,
    first: Parcel,
    parcels: &Receiver<Parcel>,
) -> Result<(Batch, Vec<Permit>)> {
    let mut batch = transform.apply(first.batch)?;
    let mut permits = vec![first.permit];
    let mut held = (batch.rows(), batch.bytes());
    while held.0 < shared.limits.batch_rows && held.1 < shared.limits.batch_bytes {
        let Ok(next) = parcels.try_recv() else { break };
        let next_batch = transform.apply(next.batch)?;
        permits.push(next.permit);
        held = (held.0 + next_batch.rows(), held.1 + next_batch.bytes());
        append(&mut batch, next_batch);
    }
    Ok((batch, permits))
}

/// Joins two batches. `order` goes on counting, so that the order across tables is kept.
fn append(batch: &mut Batch, next: Batch) {
    let base = batch.items.iter().map(|i| if let Item::Rows(r) = i { r.order.last().map_or(0, |o| o + 1) } else { 0 });
    let base = base.max().unwrap_or(0);
    for mut item in next.items {
        if let Item::Rows(rows) = &mut item {
            rows.order.iter_mut().for_each(|o| *o += base);
        }
        batch.items.push(item);
    }
    batch.end = next.end;
    batch.commit_micros = next.commit_micros.or(batch.commit_micros);
}

/// Policies go by names: one that does not go with a column's new name lets its values pass no longer.
fn warn_of_policies(change: &SchemaChange) {
    for step in &change.steps {
        let SchemaStep::Rename { from, to } = step else { continue };
        let of = |table: &TableSchema, name: &str| table.ordinal(name).map(|i| table.columns[i].policies);
        let (Some(before), Some(now)) = (of(&change.from, from), of(&change.to, to)) else { continue };
        for policy in before.iter().filter(|p| !now.has(*p)) {
            tracing::warn!(
                table = %change.to.name, from, to, %policy,
                hint = "name the new column in [[policy]], and start again",
                "a policy does not go with the column's new name: such values stop the table from here on"
            );
        }
    }
}

fn send(shared: &Shared<'_>, out: &Sender<Arc<Shaped>>, mut shaped: Arc<Shaped>) -> bool {
    loop {
        match out.send_timeout(shaped, TICK) {
            Ok(()) => return true,
            Err(SendTimeoutError::Timeout(back)) => shaped = back,
            Err(SendTimeoutError::Disconnected(_)) => return false,
        }
        if shared.halt.aborted() {
            return false;
        }
    }
}
