//! A look at rows before they are written: what of them Postgres cannot hold. None of them stays.
//!
//! Rows go through the encoders of the copy, whose bytes are dropped. An encoder stops at the first value of a row that it
//! refuses, so the columns of such a row are then tried one by one. What no encoder sees is whether a key fits into an index, and
//! whether the target takes two keys for one (`alike.rs`).

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use crossfade_core::{Level, Result, Surveyor, TableSchema, Trouble};

use crate::alike::Alike;
use crate::connect::Server;
use crate::copy::Encoders;
use crate::keytext::key_text;

/// Bytes that an entry of a B-tree holds (`BTMaxItemSize` in `src/include/access/nbtree.h`, pages of 8 KiB), less what a tuple
/// needs besides its values. Longer ones are compressed first, so they may fit all the same.
const WIDEST: usize = 2_704 - 16;

/// Looks at one table's rows.
pub struct PostgresSurveyor {
    table: Arc<TableSchema>,
    ordinals: Vec<usize>,
    /// What an index will be made over: its name for people, and its columns.
    indexes: Vec<(String, Vec<usize>)>,
    /// Bytes of a row, to be dropped.
    scratch: Vec<u8>,
    /// Where the target's table has unique indexes that compare in ways of their own.
    alike: Option<Alike>,
}

impl PostgresSurveyor {
    /// For the rows of this table.
    pub fn open(server: &Server, table: &Arc<TableSchema>) -> Result<Self> {
        let named = table.indexes.iter().map(|i| (format!("index {}", i.name), i.columns.clone()));
        let key = ("the key".to_owned(), table.key.clone());
        Ok(PostgresSurveyor {
            table: Arc::clone(table),
            ordinals: (0..table.columns.len()).collect(),
            indexes: std::iter::once(key).chain(named).filter(|(_, columns)| !columns.is_empty()).collect(),
            scratch: Vec::new(),
            alike: Alike::open(server, table)?,
        })
    }

    /// The columns of a row one by one.
    fn columns(&mut self, rows: &RecordBatch, row: usize, trouble: &mut dyn FnMut(Trouble)) -> Result<()> {
        for ordinal in &self.ordinals {
            self.scratch.clear();
            let one = std::slice::from_ref(ordinal);
            if let Err(e) = Encoders::new(&self.table, rows, one)?.row(row, &mut self.scratch) {
                trouble(Trouble::of(e)?);
            }
        }
        Ok(())
    }

    /// Entries that an index may not take.
    fn widths(&self, rows: &RecordBatch, trouble: &mut dyn FnMut(Trouble)) {
        for (name, columns) in &self.indexes {
            let lengths: Vec<Lengths<'_>> =
                columns.iter().filter_map(|i| Lengths::of(rows.columns().get(*i)?)).collect();
            if lengths.iter().map(Lengths::longest).sum::<usize>() <= WIDEST {
                continue;
            }
            for row in 0..rows.num_rows() {
                let bytes: usize = lengths.iter().map(|l| l.at(row)).sum();
                if bytes > WIDEST {
                    let column = columns.first().and_then(|i| self.table.columns.get(*i)).map(|c| c.name.clone());
                    trouble(Trouble {
                        level: Level::Warning,
                        column,
                        what: format!(
                            "{bytes} bytes in {name}: an entry of a Postgres index holds {WIDEST}, after compression"
                        ),
                        rows: 1,
                        keys: vec![shortened(key_text(&self.table, rows, row))],
                        mend: "shorten the values; or leave the index out, and index a hash of the column by hand"
                            .into(),
                    });
                }
            }
        }
    }
}

fn shortened(text: String) -> String {
    const SHOWN: usize = 60;
    if text.chars().count() <= SHOWN { text } else { text.chars().take(SHOWN).chain("...".chars()).collect() }
}

/// How long the values of a column of text or bytes are.
struct Lengths<'a>(&'a [i32]);

impl<'a> Lengths<'a> {
    fn of(array: &'a dyn Array) -> Option<Self> {
        let text = array.as_string_opt::<i32>().map(|a| a.value_offsets());
        text.or_else(|| array.as_binary_opt::<i32>().map(|a| a.value_offsets())).map(Lengths)
    }

    fn at(&self, row: usize) -> usize {
        let ends = self.0.get(row).zip(self.0.get(row + 1));
        ends.and_then(|(from, to)| usize::try_from(to - from).ok()).unwrap_or(0)
    }

    fn longest(&self) -> usize {
        self.0.windows(2).filter_map(|w| usize::try_from(w[1] - w[0]).ok()).max().unwrap_or(0)
    }
}

impl Surveyor for PostgresSurveyor {
    fn look(&mut self, rows: &RecordBatch, trouble: &mut dyn FnMut(Trouble)) -> Result<()> {
        let table = Arc::clone(&self.table);
        let encoders = Encoders::new(&table, rows, &self.ordinals)?;
        let (mut fine, mut refused) = (Vec::new(), Vec::new());
        for row in 0..rows.num_rows() {
            self.scratch.clear();
            let fits = encoders.row(row, &mut self.scratch).is_ok();
            if fits { fine.push(row) } else { refused.push(row) }
        }
        for row in refused {
            self.columns(rows, row, trouble)?;
        }
        if let Some(alike) = &mut self.alike {
            alike.take(&table, rows, &fine)?;
        }
        self.widths(rows, trouble);
        Ok(())
    }

    fn end(&mut self, trouble: &mut dyn FnMut(Trouble)) -> Result<()> {
        match &mut self.alike {
            Some(alike) => alike.tell(trouble),
            None => Ok(()),
        }
    }
}
