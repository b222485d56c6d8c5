//! A rolling audit: large tables read bit by bit, so that each row is read once in a period.
//!
//! To read a database of terabytes every hour would cost its servers more than the application does. So with `[proof] audit` the
//! comparison on schedule reads small tables whole, and of each large one (one that is cut, see `cut.rs`) only as many ranges as are due.
//! That is no second scheduler: the ranges are chunks like any others ([`super::chunk`]), and all that has to be known is in the ledger.
//!
//! What is settled of a table falls into *rounds*, from its first key to its last. A round is spread evenly over the comparisons of a
//! period but one, so that no row waits longer than the period for the next one. What the table is known by is the round under
//! way, and behind it what is left of the round before: together they cover every key. Where they do not, or where something in them is older
//! than the period (nobody ran the pipeline), all that is left is due at once; so the first round is read in one go. A chunk in
//! which rows differed is read again with each comparison, until it is equal.
//!
//! A table of which something was read longer ago than the period, or never, is unknown, and so is the hour.

use std::fmt;
use std::time::Duration;

use crossfade_core::{KeyRange, TableName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::chunk::{self, Settled};
use super::{TableProof, Verdict, overall};
use crate::cli::print;

/// An audit under way.
pub struct Audit {
    /// In which each row is read once.
    period: i64,
    /// How often there is a comparison.
    every: i64,
    /// When this comparison began: what is due does not move on while it reads.
    now: i64,
    /// What was settled in the last two periods, in this order.
    known: Vec<Settled>,
}

/// How far the audit of a table is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Audited {
    /// Ranges of the round under way that were read.
    pub read: u64,
    /// All of them.
    pub ranges: u64,
    /// When the row was read that was read longest ago: microseconds since 1970 UTC. None: some never were.
    pub oldest_micros: Option<i64>,
    /// Whether that is longer ago than the period.
    pub late: bool,
}

/// What is known of a table, by rounds.
#[derive(Default)]
struct Rounds {
    /// The last one that is over.
    before: Vec<Settled>,
    /// The one under way.
    now: Vec<Settled>,
    /// When that began: its first chunk may have been read again since.
    began: i64,
}

impl Rounds {
    fn of(known: &[Settled], table: &TableName, shape: &str) -> Rounds {
        let mut rounds = Rounds::default();
        let is_known = |s: &&Settled| !s.proofs.is_empty() && overall(&s.proofs) != Verdict::Unknown;
        for s in known.iter().filter(|s| s.table == *table && s.shape == shape).filter(is_known) {
            let ends = rounds.now.last().map(|last| last.range.to.clone());
            if s.again {
                let all = rounds.now.iter_mut().chain(rounds.before.iter_mut());
                all.filter(|c| c.range == s.range).for_each(|c| *c = s.clone());
            } else if s.range.after.is_none() {
                rounds.began = s.at_micros;
                let begun = std::mem::replace(&mut rounds.now, vec![s.clone()]);
                if ends == Some(None) {
                    rounds.before = begun;
                }
            } else if ends == Some(s.range.after.clone()) {
                rounds.now.push(s.clone());
            }
        }
        rounds
    }

    fn is_over(&self) -> bool {
        self.now.last().is_some_and(Settled::ends)
    }

    /// What the table is known by; `None`: not all of it is known.
    fn view(&self) -> Option<Vec<Settled>> {
        let to = self.now.last().map(|last| &last.range.to);
        let left: Vec<&Settled> = match to {
            Some(None) => Vec::new(),
            Some(to) => self.before.iter().filter(|s| !chunk::is_over(&s.range, to.as_ref())).collect(),
            None => self.before.iter().collect(),
        };
        (self.is_over() || !left.is_empty()).then(|| self.now.iter().chain(left).cloned().collect())
    }
}

impl Audit {
    /// Of this period, with a comparison every so often, and what was settled in the last two periods.
    pub fn new(period: Duration, every: Duration, known: Vec<Settled>) -> Audit {
        let micros = |d: Duration| (d.as_micros() as i64).max(1);
        Audit { period: micros(period), every: micros(every), now: crate::now_micros(), known }
    }

    /// Takes over what was settled.
    pub fn settled(&mut self, new: &[Settled]) {
        self.known.extend_from_slice(new);
    }

    /// What this course has settled of a table, maybe in another process.
    pub fn of_course(&self, course: i64, table: &TableName) -> Vec<Settled> {
        self.known.iter().filter(|s| s.course == course && s.table == *table).cloned().collect()
    }

    fn is_old(&self, s: &Settled) -> bool {
        s.at_micros < self.now - self.period
    }

    /// Of a table that is cut so: the ranges that are due, and chunks that are to be read again since rows differed.
    pub fn due(&self, table: &TableName, shape: &str, plan: Vec<KeyRange>) -> (Vec<KeyRange>, Vec<KeyRange>) {
        let mut rounds = Rounds::of(&self.known, table, shape);
        let view = rounds.view();
        let fresh = view.as_ref().is_some_and(|view| !view.iter().any(|s| self.is_old(s)));
        let differs = |s: &&Settled| overall(&s.proofs) == Verdict::Different;
        let again = view.iter().flatten().filter(differs).map(|s| s.range.clone()).collect();
        if rounds.is_over() || rounds.now.iter().any(|s| self.is_old(s)) {
            rounds.now.clear();
        }
        let parts = plan.len();
        let mut left = chunk::behind(plan, rounds.now.last().and_then(|s| s.range.to.as_ref()));
        if !fresh {
            return (left, Vec::new());
        }
        let read = parts.saturating_sub(left.len());
        let began = rounds.now.first().map_or(self.now, |_| rounds.began);
        let turn = (self.now.div_euclid(self.every) - began.div_euclid(self.every)).max(0) as u64 + 1;
        let turns = (self.period / self.every - 1).max(1) as u64;
        let due = (parts as u64).saturating_mul(turn).div_ceil(turns) as usize;
        // At least one: the comparison tries itself out on rows of each hour, and a round that is over early begins anew.
        left.truncate(due.saturating_sub(read).max(1));
        (left, again)
    }

    /// What is known of a table that was cut so; `read` was read of it by this comparison.
    pub fn proofs(&self, table: &TableName, shape: &str, plan: &[KeyRange], read: &[Settled]) -> Vec<TableProof> {
        let rounds = Rounds::of(&self.known, table, shape);
        let view = rounds.view();
        let oldest = view.iter().flatten().map(|s| s.at_micros).min();
        let late = oldest.is_none_or(|at| at < crate::now_micros() - self.period);
        // Of a round that is over counts are of the whole table; else they are those of the round before.
        let counted = if rounds.is_over() { &rounds.now } else { &rounds.before };
        let counted = chunk::whole(counted);
        let unread = read.iter().filter(|s| overall(&s.proofs) == Verdict::Unknown).cloned();
        let all: Vec<Settled> = view.unwrap_or_else(|| rounds.now.clone()).into_iter().chain(unread).collect();
        let over = |range: &&KeyRange| match rounds.now.last().map(|last| last.range.to.as_ref()) {
            Some(None) => true,
            Some(to) => chunk::is_over(range, to),
            None => false,
        };
        let (done, ranges) = (plan.iter().filter(over).count() as u64, plan.len() as u64);
        let mut proofs = chunk::whole(&all);
        for (i, proof) in proofs.iter_mut().enumerate() {
            proof.source_rows = counted.get(i).and_then(|p| p.source_rows);
            proof.target_rows = counted.get(i).and_then(|p| p.target_rows);
            if late && proof.verdict == Verdict::Equal {
                proof.verdict = Verdict::Unknown;
                let since =
                    oldest.map_or("never was".into(), |at| format!("was for the last time at {}", print::time(at)));
                proof.error = Some(format!("not all of it was read within the audit's period: a part {since}"));
            }
            proof.audit = Some(Audited { read: done, ranges, oldest_micros: oldest, late });
        }
        proofs
    }
}

/// How far the audit of one table at one target is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Auditing {
    /// As the source names it.
    pub table: String,
    /// Where the target is, if there are several.
    pub target: Option<String>,
    /// How far.
    pub audit: Audited,
}

impl Auditing {
    /// By its proof, if it is audited.
    pub fn of(proof: TableProof) -> Option<Auditing> {
        Some(Auditing { table: proof.table, target: proof.target, audit: proof.audit? })
    }
}

impl fmt::Display for Auditing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Audited { read, ranges, oldest_micros, late } = &self.audit;
        let target = self.target.as_ref().map_or_else(String::new, |t| format!(" -> {t}"));
        let oldest =
            oldest_micros.map_or_else(|| "some were never".into(), |at| format!("the oldest at {}", print::time(at)));
        let schedule = if *late { "LATE" } else { "on schedule" };
        write!(f, "{}{target}: {read} of {ranges} parts read; all rows, {oldest}: {schedule}", self.table)
    }
}

#[cfg(test)]
mod tests {
    use crossfade_core::{Error, Fingerprint, KeyPart, Position};

    use super::super::canary::Canary;
    use super::super::proof;
    use super::*;

    const HOUR: i64 = 3_600_000_000;
    const RANGES: i128 = 46;

    fn range(after: i128, to: i128) -> KeyRange {
        let key = |n| (0 < n && n < RANGES).then(|| vec![KeyPart::Int(n)]);
        KeyRange { after: key(after), to: key(to) }
    }

    fn plan() -> Vec<KeyRange> {
        (0..RANGES).map(|n| range(n, n + 1)).collect()
    }

    fn table() -> TableName {
        TableName::new("s", "t")
    }

    /// A chunk with so many rows at the target, and one at the source; none: it could not be read.
    fn settled(range: KeyRange, at_micros: i64, rows: Option<u64>, again: bool) -> Settled {
        let side =
            |rows: Option<u64>| rows.map(|rows| Fingerprint { rows, sum: 7 }).ok_or_else(|| Error::transient("gone"));
        let proofs = vec![proof(&table(), None, &side(Some(1)), &side(rows))];
        let (position, canary) = (Position::new("p"), Canary::default());
        Settled { course: 1, table: table(), shape: "x".into(), range, position, at_micros, again, proofs, canary }
    }

    struct Simulated(Audit);

    impl Simulated {
        fn new(now: i64) -> Simulated {
            let mut audit = Audit::new(Duration::from_secs(86_400), Duration::from_secs(3600), Vec::new());
            audit.now = now;
            Simulated(audit)
        }

        /// Reads what is due in an hour, a chunk for each range; returns how many.
        fn hour(&mut self, now: i64, rows: Option<u64>) -> (usize, usize) {
            self.0.now = now;
            let (due, again) = self.0.due(&table(), "x", plan());
            let count = (due.len(), again.len());
            let all = again.into_iter().map(|r| (r, true)).chain(due.into_iter().map(|r| (r, false)));
            let new: Vec<Settled> = all.map(|(r, again)| settled(r, now, rows, again)).collect();
            self.0.settled(&new);
            count
        }

        fn told(&self) -> TableProof {
            self.0.proofs(&table(), "x", &plan(), &[]).remove(0)
        }
    }

    /// The clock by which lateness is told is the present one.
    fn start() -> i64 {
        crate::now_micros().div_euclid(HOUR) * HOUR - 100 * HOUR
    }

    #[test]
    fn no_row_waits_longer_than_the_period() {
        let start = start();
        let mut audit = Simulated::new(start);
        assert_eq!(audit.hour(start, Some(1)), (46, 0), "what was never read is due at once");
        for hour in 1..100 {
            assert_eq!(audit.hour(start + hour * HOUR, Some(1)), (2, 0), "hour {hour}");
            let view = Rounds::of(&audit.0.known, &table(), "x").view().unwrap();
            let oldest = view.iter().map(|s| s.at_micros).min().unwrap();
            assert!(oldest > start + (hour - 24) * HOUR, "hour {hour}");
            assert_eq!(view.len(), 46, "every key once");
        }
        let told = audit.told();
        assert_eq!((told.verdict, told.source_rows), (Verdict::Equal, Some(46)));
        assert!(!told.audit.unwrap().late);
    }

    #[test]
    fn hours_that_were_missed_are_made_up_for() {
        let start = start();
        let mut audit = Simulated::new(start);
        audit.hour(start, Some(1));
        audit.hour(start + HOUR, Some(1));
        assert_eq!(audit.hour(start + 5 * HOUR, Some(1)), (8, 0), "four hours at once");
        // Then for longer than the period.
        assert_eq!(audit.hour(start + 40 * HOUR, Some(1)), (46, 0));
        assert_eq!(audit.hour(start + 41 * HOUR, Some(1)), (2, 0));
    }

    #[test]
    fn what_was_read_too_long_ago_or_never_is_unknown() {
        let start = start();
        let mut audit = Simulated::new(start);
        audit.hour(start, Some(1));
        let told = audit.told();
        assert_eq!((told.verdict, told.audit.unwrap().late), (Verdict::Unknown, true), "a hundred hours ago");
        let mut audit = Simulated::new(start);
        audit.0.settled(&[settled(range(0, 1), crate::now_micros(), Some(1), false)]);
        let told = audit.told();
        assert_eq!(told.verdict, Verdict::Unknown, "the rest was never read");
        assert_eq!(told.audit.unwrap(), Audited { read: 1, ranges: 46, oldest_micros: None, late: true });
    }

    #[test]
    fn a_chunk_that_differs_stays_so_until_it_is_read_again_and_one_that_was_not_read_is_due() {
        let start = start() + 98 * HOUR;
        let mut audit = Simulated::new(start);
        audit.hour(start, Some(1));
        assert_eq!(audit.hour(start + HOUR, Some(2)), (2, 0));
        assert_eq!(audit.told().verdict, Verdict::Different);
        assert_eq!(audit.hour(start + 2 * HOUR, Some(1)), (2, 2), "what differed is read again");
        assert_eq!(audit.told().verdict, Verdict::Equal);
        assert_eq!(audit.hour(start + 3 * HOUR, None), (2, 0));
        let unread = audit.0.of_course(1, &table()).split_off(52);
        let told = audit.0.proofs(&table(), "x", &plan(), &unread).remove(0);
        assert_eq!(told.verdict, Verdict::Unknown, "{:?}", told.error);
        assert_eq!(audit.hour(start + 4 * HOUR, Some(1)), (4, 0), "they are due still");
        assert_eq!(audit.told().audit.unwrap().read, 8);
        assert_eq!(audit.0.due(&table(), "another shape", plan()).0.len(), 46);
    }
}
