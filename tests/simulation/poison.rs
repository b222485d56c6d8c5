//! Values of one table that cannot be carried: those of the transactions from one on, up to another.
//!
//! The source's log, or a target, refuses each row of the table that one of these transactions has written. The table as it is
//! between them cannot be read, or not be written, either; after them it can, as if somebody had mended the values.

use super::random::Random;

/// What the error says.
pub const POISONED: &str = "the row is poisoned";

/// Which transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Poison {
    from: u64,
    to: u64,
}

/// Who refuses the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The source's connector cannot read them.
    Source,
    /// The first target cannot hold them.
    Target,
}

impl Poison {
    /// Whatever any transaction has written.
    pub const ALWAYS: Poison = Poison { from: 0, to: u64::MAX };

    /// Of which table (its place among so many), where and when: in every second world that has two tables or more.
    pub fn random(mut random: Random, tables: usize) -> Option<(usize, Place, Poison)> {
        if tables < 2 || random.one_in(2) {
            return None;
        }
        let place = if random.one_in(2) { Place::Source } else { Place::Target };
        let from = random.between(1, 150);
        let to = from + random.between(1, 60);
        Some((random.between(0, tables as u64) as usize, place, Poison { from, to }))
    }

    /// Whether the table's rows of a transaction, or its state after that, are refused.
    pub fn spoils(&self, transaction: u64) -> bool {
        (self.from..self.to).contains(&transaction)
    }

    /// From the end of the log on all is well.
    pub fn mend(&mut self, end: u64) {
        self.to = self.to.min(end);
    }
}
