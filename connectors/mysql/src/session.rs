//! Statements over one logged-in connection: text rows for the catalog, a cursor of binary rows for tables.
//!
//! ```text
//! text    COM_QUERY    -> OK | column count, columns, EOF, rows of length-encoded text, EOF
//! cursor  COM_STMT_PREPARE, COM_STMT_EXECUTE -> column count, columns, EOF, binary rows, EOF
//! ```
//!
//! Tables are read by the binary protocol: a FLOAT arrives as its four bytes (as text the server rounds it to six
//! digits), and numbers and dates need no parsing. Rows are handed out as the bytes that came, borrowed from the
//! receive buffer, so that a value is copied once, into its Arrow column.

use std::time::Duration;

use crossfade_core::{Error, Result};

use crate::binlog::reader::{Read, Reader, utf8};
use crate::binlog::wire::Wire;

/// Longest silence within a result: a scan of a range starts to answer at once, a catalog query within seconds.
const PATIENCE: Duration = Duration::from_secs(600);

const COM_QUIT: u8 = 0x01;
const COM_QUERY: u8 = 0x03;
const COM_STMT_PREPARE: u8 = 0x16;
const COM_STMT_EXECUTE: u8 = 0x17;
const COM_STMT_CLOSE: u8 = 0x19;

/// A row of text values; NULL is `None`.
pub type TextRow = Vec<Option<String>>;

/// A column of a result as the protocol describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireColumn {
    /// `MYSQL_TYPE_...`.
    pub kind: u8,
    /// Whether an integer has no sign.
    pub unsigned: bool,
}

/// A connection on which statements run, one after the other.
#[derive(Debug)]
pub struct Session {
    wire: Wire,
    /// The prepared statement whose rows are being read.
    cursor: Option<u32>,
}

impl Session {
    /// Statements over a connection that has logged in.
    pub fn new(wire: Wire) -> Self {
        Session { wire, cursor: None }
    }

    /// Runs a statement that returns no rows.
    pub fn run(&mut self, statement: &str) -> Result<()> {
        self.idle()?;
        self.wire.run(statement)
    }

    /// Runs a query; all its rows, as text.
    pub fn rows(&mut self, query: &str) -> Result<Vec<TextRow>> {
        self.idle()?;
        self.wire.command(COM_QUERY, query.as_bytes())?;
        let columns = self.columns()?.len();
        let mut rows = Vec::new();
        while let Some(packet) = row_or_end(&mut self.wire)? {
            rows.push(text_row(packet, columns).map_err(|f| f.at("a row of text"))?);
        }
        Ok(rows)
    }

    /// The first row of a query.
    pub fn row(&mut self, query: &str) -> Result<Option<TextRow>> {
        Ok(self.rows(query)?.into_iter().next())
    }

    /// The one value of a query; `None` for NULL and for no row.
    pub fn value(&mut self, query: &str) -> Result<Option<String>> {
        Ok(self.row(query)?.and_then(|row| row.into_iter().next().flatten()))
    }

    /// Starts to read a query's rows in the binary protocol.
    pub fn open(&mut self, query: &str) -> Result<Vec<WireColumn>> {
        self.idle()?;
        self.wire.command(COM_STMT_PREPARE, query.as_bytes())?;
        let (id, columns, parameters) = prepared(self.wire.answer(PATIENCE)?).map_err(|f| f.at("COM_STMT_PREPARE"))?;
        if parameters != 0 {
            return Err(Error::corrupt(format!("a query of our own has {parameters} parameters: {query}")));
        }
        if columns > 0 {
            for _ in 0..columns {
                self.wire.answer(PATIENCE)?;
            }
            self.end_of_columns()?;
        }
        let mut execute = id.to_le_bytes().to_vec();
        // No cursor on the server's side, one iteration.
        execute.extend([0, 1, 0, 0, 0]);
        self.wire.command(COM_STMT_EXECUTE, &execute)?;
        let columns = self.columns()?;
        self.cursor = Some(id);
        Ok(columns)
    }

    /// Hands the next binary row to `read`; `None` after the last.
    pub fn next<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Result<Option<T>> {
        let Some(id) = self.cursor else {
            return Err(Error::corrupt("rows are read where no query is open"));
        };
        match row_or_end(&mut self.wire)? {
            Some(packet) => Ok(Some(read(packet))),
            None => {
                self.cursor = None;
                self.wire.command(COM_STMT_CLOSE, &id.to_le_bytes())?;
                Ok(None)
            }
        }
    }

    /// Refuses a statement while another one's rows are still to come.
    fn idle(&self) -> Result<()> {
        match self.cursor {
            None => Ok(()),
            Some(_) => Err(Error::transient("an earlier read of this connection was not finished")),
        }
    }

    /// The head of a result: its columns.
    fn columns(&mut self) -> Result<Vec<WireColumn>> {
        let count = match self.wire.answer(PATIENCE)? {
            [0, ..] | [0xfb, ..] => return Err(Error::corrupt("a query was answered without rows")),
            packet => Reader(packet).length().map_err(|f| f.at("a column count"))?,
        };
        let mut columns = Vec::new();
        for _ in 0..count {
            columns.push(column(self.wire.answer(PATIENCE)?).map_err(|f| f.at("a column of a result"))?);
        }
        self.end_of_columns()?;
        Ok(columns)
    }

    fn end_of_columns(&mut self) -> Result<()> {
        match self.wire.answer(PATIENCE)? {
            packet if is_eof(packet) => Ok(()),
            _ => Err(Error::corrupt("the columns of a result do not end where they should")),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A courtesy: without it the server counts the connection as aborted. The connection may be gone already.
        let _ = self.wire.command(COM_QUIT, &[]);
    }
}

fn is_eof(packet: &[u8]) -> bool {
    matches!(packet, [0xfe, ..]) && packet.len() < 9
}

/// The next packet of a result's rows; `None` at their end.
fn row_or_end(wire: &mut Wire) -> Result<Option<&[u8]>> {
    let packet = wire.answer(PATIENCE)?;
    Ok((!is_eof(packet)).then_some(packet))
}

fn text_row(packet: &[u8], columns: usize) -> Read<TextRow> {
    let mut r = Reader(packet);
    let mut row = Vec::with_capacity(columns);
    for _ in 0..columns {
        row.push(match r.0.split_first() {
            Some((0xfb, rest)) => {
                r = Reader(rest);
                None
            }
            _ => Some(utf8(r.lenenc_bytes()?)?.to_owned()),
        });
    }
    Ok(row)
}

/// Statement id, number of columns, number of parameters.
fn prepared(packet: &[u8]) -> Read<(u32, u16, u16)> {
    let mut r = Reader(packet);
    r.take(1)?;
    Ok((r.u32()?, r.u16()?, r.u16()?))
}

/// `Protocol::ColumnDefinition41`: six names, then 12 bytes of which type and flags matter here.
fn column(packet: &[u8]) -> Read<WireColumn> {
    let mut r = Reader(packet);
    for _ in 0..6 {
        r.lenenc_bytes()?;
    }
    r.take(1 + 2 + 4)?;
    Ok(WireColumn { kind: r.u8()?, unsigned: r.u16()? & UNSIGNED_FLAG != 0 })
}

const UNSIGNED_FLAG: u16 = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), columns in 0usize..5) {
            let _ = text_row(&bytes, columns);
            let _ = prepared(&bytes);
            let _ = column(&bytes);
        }
    }

    #[test]
    fn text_rows_know_null_from_empty() {
        let row = text_row(&[0xfb, 0, 2, b'a', b'b'], 3).unwrap();
        assert_eq!(row, [None, Some(String::new()), Some("ab".into())]);
        assert!(text_row(&[3, b'a'], 1).is_err());
    }
}
