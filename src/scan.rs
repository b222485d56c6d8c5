//! `check --scan`: every value of the selected tables, before the copy meets it.
//!
//! The tables are read as the copy reads them, range by range, each with a snapshot of its own, by the same decoders; the rows
//! go through the rules and then past each target's encoders. So what is found wanting here is what would stop the copy, and what is
//! not would not (of the rows that there are). A copy ends at the first such value. A scan goes on, and tells of each kind by
//! table and column: how many rows, and the keys of the first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crossfade_core::{Finding, KeyRange, Level, Result, Surveyor, TableName, TableSchema, Target, Trouble};
use serde::Serialize;

use crate::pipeline::Pipeline;
use crate::pipeline::throttle::Throttle;
use crate::transform::Mapped;

/// Keys that are told of one kind of trouble.
const KEYS: usize = 5;

/// Kinds of trouble that are told apart in one table; what comes beyond is counted together.
const KINDS: usize = 100;

/// Findings, each with the end it was found at.
pub type Found = Vec<(String, Finding)>;

/// How far a scan has come.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Scanned {
    /// Tables read to their end.
    pub tables: u64,
    /// Rows read.
    pub rows: u64,
    /// Bytes of them, as they are held here.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Reads all rows of these tables. `say` is told now and then which table is read, and how far it is.
pub fn scan(
    pipeline: &Pipeline,
    tables: &[Mapped],
    say: &mut dyn FnMut(&TableName, &Scanned),
) -> Result<(Found, Scanned)> {
    let began = Instant::now();
    let brake = Throttle::new(pipeline.limits.copy_rate);
    let mut scanned = Scanned::default();
    let mut found = Vec::new();
    for mapped in tables {
        let name = &mapped.source.name;
        let mut table = Table::new(pipeline, mapped)?;
        let before = scanned.rows;
        table.read(pipeline, &brake, &mut |rows, bytes| {
            scanned.rows += rows;
            scanned.bytes += bytes;
            scanned.seconds = began.elapsed().as_secs_f64();
            say(name, &scanned);
        })?;
        scanned.tables += 1;
        found.extend(table.findings(scanned.rows - before));
    }
    // A target that makes no tables for an application makes no foreign keys either.
    let makes = pipeline.targets.iter().map(|t| Ok(t.target.ddl(&[])?.is_some())).collect::<Result<Vec<bool>>>()?;
    if makes.contains(&true) {
        let sources: Vec<_> = tables.iter().map(|m| Arc::clone(&m.source)).collect();
        found.extend(pipeline.source.check_references(&sources)?.into_iter().map(|f| ("source".to_owned(), f)));
    }
    scanned.seconds = began.elapsed().as_secs_f64();
    Ok((found, scanned))
}

/// What findings call a target.
pub fn end(pipeline: &Pipeline, target: usize) -> String {
    if pipeline.targets.len() == 1 { "target".to_owned() } else { format!("target {}", target + 1) }
}

/// One table on its way past all ends.
struct Table<'a> {
    mapped: &'a Mapped,
    at_source: Tally,
    /// Of each target that looks: its name in findings, who looks, and what was found.
    targets: Vec<(String, Box<dyn Surveyor>, Tally)>,
}

impl<'a> Table<'a> {
    fn new(pipeline: &Pipeline, mapped: &'a Mapped) -> Result<Self> {
        let mut targets = Vec::new();
        for (i, spec) in pipeline.targets.iter().enumerate() {
            let target: &dyn Target = spec.target.as_ref();
            if let Some(surveyor) = target.surveyor(&mapped.target)? {
                targets.push((end(pipeline, i), surveyor, Tally::default()));
            }
        }
        Ok(Table { mapped, at_source: Tally::default(), targets })
    }

    fn read(&mut self, pipeline: &Pipeline, brake: &Throttle, seen: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let source = std::slice::from_ref(&self.mapped.source);
        let open = || pipeline.source.peek(source);
        let mut first = Some(open()?);
        let cut = match (&mut first, self.mapped.source.key.is_empty()) {
            (Some(snapshot), false) => snapshot.split(&self.mapped.source, pipeline.limits.chunk_rows),
            _ => Ok(vec![KeyRange::ALL]),
        };
        let ranges = match cut {
            Ok(ranges) => ranges,
            // A key that cannot be carried is no bound either: then in one piece.
            Err(e) => {
                self.at_source.add(Trouble::of(e)?);
                first = None;
                vec![KeyRange::ALL]
            }
        };
        for range in ranges {
            // One for each range, as the copy has them: none is open for long.
            let mut snapshot = first.take().map_or_else(open, Ok)?;
            let Table { mapped, at_source, targets } = self;
            let read = snapshot.survey(
                &mapped.source,
                &range,
                &mut |batch| {
                    let (rows, bytes) = (batch.num_rows() as u64, batch.get_array_memory_size() as u64);
                    // What a policy lets pass is no trouble.
                    let batch = mapped.arrives(&batch, &mut |_| {})?;
                    for (_, surveyor, tally) in targets.iter_mut() {
                        surveyor.look(&batch, &mut |t| tally.add(t))?;
                    }
                    brake.spend(bytes);
                    seen(rows, bytes);
                    Ok(())
                },
                &mut |t| at_source.add(t),
            );
            if let Err(e) = read {
                let mut trouble = Trouble::of(e)?;
                trouble.what += " (the rest of its range of keys was not read: there may be more)";
                at_source.add(trouble);
            }
            brake.wait(|| false);
        }
        for (_, surveyor, tally) in &mut self.targets {
            surveyor.end(&mut |t| tally.add(t))?;
        }
        Ok(())
    }

    fn findings(self, rows: u64) -> Found {
        let mut found = Vec::new();
        let ends = self.targets.into_iter().map(|(end, _, tally)| (end, &*self.mapped.target, tally));
        for (end, table, tally) in
            std::iter::once(("source".to_owned(), &*self.mapped.source, self.at_source)).chain(ends)
        {
            found.extend(tally.findings(table, rows).into_iter().map(|f| (end.clone(), f)));
        }
        if found.is_empty() {
            let setting = format!("table {}, values", self.mapped.source.name);
            found.push(("source".to_owned(), Finding::ok(setting, format!("{rows} rows, each can be carried"))));
        }
        found
    }
}

/// Troubles of one table at one end, by kind.
#[derive(Debug, Default)]
struct Tally {
    /// In the order in which they were met.
    kinds: Vec<Trouble>,
    /// Column and what it is without its digits, to its place.
    places: BTreeMap<(Option<String>, String), usize>,
}

impl Tally {
    fn add(&mut self, trouble: Trouble) {
        let mut kind = (trouble.column.clone(), kind(&trouble.what));
        if self.kinds.len() >= KINDS && !self.places.contains_key(&kind) {
            kind = (None, String::new());
        }
        match self.places.get(&kind) {
            Some(&i) => {
                let known = &mut self.kinds[i];
                known.rows += trouble.rows;
                known.level = known.level.max(trouble.level);
                let room = KEYS.saturating_sub(known.keys.len());
                known.keys.extend(trouble.keys.into_iter().take(room));
            }
            None => {
                self.places.insert(kind, self.kinds.len());
                self.kinds.push(trouble);
            }
        }
    }

    fn findings(self, table: &TableSchema, of: u64) -> Vec<Finding> {
        let finding = |t: Trouble| {
            let column = t.column.map_or_else(String::new, |c| format!(", column {c}"));
            let keys = match (t.keys.len() as u64, t.rows) {
                (0, _) => String::new(),
                (told, rows) if told < rows => format!(": {} and others", t.keys.join("; ")),
                _ => format!(": {}", t.keys.join("; ")),
            };
            let rows = if t.rows == 1 { "1 row".to_owned() } else { format!("{} rows", t.rows) };
            let expected = match t.level {
                Level::Critical => "values that can be carried exactly",
                Level::Ok | Level::Warning => "values that arrive as people expect",
            };
            let actual = format!("{}: {rows} of {of}{keys}", t.what);
            Finding {
                level: t.level,
                ..Finding::warning(format!("table {}{column}", table.name), expected, actual, t.mend)
            }
        };
        self.kinds.into_iter().map(finding).collect()
    }
}

/// What a trouble is, whatever the numbers in it.
fn kind(what: &str) -> String {
    what.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(what: &str, key: u64) -> Trouble {
        Trouble {
            level: Level::Critical,
            column: Some("c".into()),
            what: what.into(),
            rows: 1,
            keys: vec![format!("id={key}")],
            mend: "mend".into(),
        }
    }

    fn table() -> TableSchema {
        TableSchema {
            name: TableName::new("s", "t"),
            version: 1,
            columns: vec![],
            key: vec![],
            indexes: vec![],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        }
    }

    #[test]
    fn kinds_are_counted_with_the_first_keys() {
        let mut tally = Tally::default();
        for i in 0..9 {
            tally.add(trouble(&format!("2024-00-0{i} is no date"), i));
        }
        tally.add(trouble("a NUL", 9));
        let found = tally.findings(&table(), 20);
        let told: Vec<(&str, &str)> = found.iter().map(|f| (f.setting.as_str(), f.actual.as_str())).collect();
        let dates = "2024-00-00 is no date: 9 rows of 20: id=0; id=1; id=2; id=3; id=4 and others";
        assert_eq!(told, [("table s.t, column c", dates), ("table s.t, column c", "a NUL: 1 row of 20: id=9")]);
    }

    #[test]
    fn what_comes_beyond_the_bound_is_counted_all_the_same() {
        let mut tally = Tally::default();
        for i in 0..KINDS + 5 {
            tally.add(trouble(&"x".repeat(i + 1), 1));
        }
        let found = tally.findings(&table(), 1000);
        assert_eq!(found.len(), KINDS + 1);
        assert!(found[KINDS].actual.contains(": 5 rows of 1000"), "{}", found[KINDS].actual);
    }
}
