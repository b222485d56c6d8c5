//! One suite that every source and every target runs against the real thing.
//!
//! What [`crate::source`] and [`crate::target`] promise in words, these checks hold a connector to. A connector's test
//! implements one small trait, [`SourceFixture`] or [`TargetFixture`], and calls [`run_source`] or [`run_target`]; each
//! check starts from an empty database, all checks run, and the failures are reported together by the check's name.
//!
//! Checks return errors instead of panicking, so that one failure does not hide the next.

pub mod changes;
mod source;
mod source_limits;
mod target;
mod target_bag;
mod target_copy;
pub mod values;

use std::sync::Arc;
use std::time::Duration;

pub use self::changes::{Change, State};
use crate::error::{Error, Result};
use crate::schema::TableName;
use crate::source::Source;
use crate::target::Target;

/// A real source to be checked.
pub trait SourceFixture {
    /// Empties the database: no table, no log that a check could see.
    fn fresh(&mut self) -> Result<()>;

    /// Makes a table `name (id, n, t)`: `id` a 64-bit integer and the primary key, `n` a 64-bit integer or NULL, `t`
    /// text of up to 200 characters or NULL. Returns its name as the source tells it.
    fn create(&mut self, name: &str) -> Result<TableName>;

    /// A connection that changes tables.
    fn session(&mut self) -> Result<Box<dyn Session>>;

    /// The source, as a process that has just started opens it.
    fn source(&mut self) -> Result<Arc<dyn Source>>;

    /// Whether the database lets nobody commit while somebody reads, as SQLite does without a write-ahead log.
    fn readers_block_writers(&self) -> bool {
        false
    }
}

/// Somebody who uses the source's database.
pub trait Session: Send {
    /// Executes changes in one transaction, and returns once it is committed.
    fn commit(&mut self, changes: &[Change]) -> Result<()>;
}

/// A real target to be checked.
pub trait TargetFixture {
    /// Empties the store: no table, no checkpoint.
    fn fresh(&mut self) -> Result<()>;

    /// The schema that tables are made in.
    fn schema(&self) -> String;

    /// The target, as a process that has just started opens it.
    fn target(&mut self) -> Result<Arc<dyn Target>>;

    /// How long it may take until a writer that was dropped no longer holds the pipeline.
    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// A named check.
type Check<F> = (&'static str, fn(&mut F) -> Result<()>);

/// Runs every check of a source.
///
/// # Panics
/// With the names and messages of all checks that failed.
pub fn run_source(fixture: &mut dyn SourceFixture) {
    let checks: Vec<Check<dyn SourceFixture + '_>> = [source::checks(), source_limits::checks()].concat();
    run(checks, fixture, |f| f.fresh());
}

/// Runs every check of a target.
///
/// # Panics
/// With the names and messages of all checks that failed.
pub fn run_target(fixture: &mut dyn TargetFixture) {
    let checks: Vec<Check<dyn TargetFixture + '_>> =
        [target::checks(), target_copy::checks(), target_bag::checks()].concat();
    run(checks, fixture, |f| f.fresh());
}

fn run<F: ?Sized>(checks: Vec<Check<F>>, fixture: &mut F, fresh: impl Fn(&mut F) -> Result<()>) {
    let mut failures = Vec::new();
    let all = checks.len();
    for (name, check) in checks {
        if let Err(e) = fresh(fixture).and_then(|()| check(fixture)) {
            let hint = e.hint_text().map(|h| format!(" (hint: {h})")).unwrap_or_default();
            failures.push(format!("{name}: {e}{hint}"));
        }
    }
    assert!(all > 0, "a suite without checks proves nothing");
    assert!(failures.is_empty(), "{} of {all} checks failed:\n  {}", failures.len(), failures.join("\n  "));
}

/// An error unless the condition holds.
fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::corrupt(otherwise())) }
}

/// The error of something that must be refused.
fn refused<T>(result: Result<T>, what: &str) -> Result<Error> {
    match result {
        Ok(_) => Err(Error::corrupt(format!("{what} was accepted"))),
        Err(e) => Ok(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_failures_are_reported() {
        let checks: Vec<Check<u8>> = vec![
            ("good", |_| Ok(())),
            ("bad", |_| ensure(false, || "one".into())),
            ("worse", |_| refused(Ok(()), "two").map(drop)),
        ];
        let caught = std::panic::catch_unwind(|| run(checks, &mut 0, |_| Ok(()))).unwrap_err();
        let text = caught.downcast_ref::<String>().unwrap();
        assert!(text.contains("2 of 3") && text.contains("bad: one") && text.contains("worse: two was accepted"));
    }
}
