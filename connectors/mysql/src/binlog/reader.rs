//! A cursor over bytes from outside: every read is checked, none panics.
//!
//! Decoders of events, rows and JSON documents all read through [`Reader`]. What they find wrong is a [`Fault`], small
//! enough for the inner loop; whoever knows the file, offset, table and row turns it into an [`Error`].

use crossfade_core::policy::way_out;
use crossfade_core::{ColumnBuilder, Error, TableSchema, Unfit};

/// What is wrong with bytes or with the value they hold.
#[derive(Debug)]
pub enum Fault {
    /// The bytes break their format.
    Malformed(&'static str),
    /// The bytes are right, but the value has no exact equivalent.
    Value(Box<Refusal>),
    /// An error that is complete already.
    Error(Error),
}

/// A value without an exact equivalent.
#[derive(Debug)]
pub struct Refusal {
    /// What it is.
    pub message: String,
    /// The operator's way out.
    pub hint: String,
    /// What it travels as where a policy lets it pass.
    pub unfit: Option<Unfit>,
}

impl Refusal {
    /// Message and hint for a value of this column: where a policy would let it pass, the hint names it.
    pub fn explain(self, table: &TableSchema, column: usize) -> (String, String) {
        match self.unfit.and_then(|u| way_out(u.policy(), table, column)) {
            Some(policy) => (self.message, format!("{}; or {policy}", self.hint)),
            None => (self.message, self.hint),
        }
    }
}

impl Fault {
    /// A value without an exact equivalent.
    pub fn value(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Fault::Value(Box::new(Refusal { message: message.into(), hint: hint.into(), unfit: None }))
    }

    /// Where a policy lets the value pass, it travels as this.
    pub fn unless(self, unfit: Unfit) -> Self {
        match self {
            Fault::Value(refusal) => Fault::Value(Box::new(Refusal { unfit: Some(unfit), ..*refusal })),
            other => other,
        }
    }

    /// Appends what the value travels as, if a policy of its column lets it pass; else the fault stands, and nothing is appended.
    #[cold]
    pub fn pass(self, table: &TableSchema, column: usize, builder: &mut ColumnBuilder) -> Read<()> {
        if let Fault::Value(refusal) = &self
            && let Some(unfit) = &refusal.unfit
            && unfit.pass(&table.columns[column], builder)?
        {
            return Ok(());
        }
        Err(self)
    }

    /// The error for a fault in bytes that belong to no table; `place` says where they stand.
    pub fn at(self, place: impl std::fmt::Display) -> Error {
        match self {
            Fault::Malformed(what) => Error::corrupt(format!("{place}: {what}")),
            Fault::Value(v) => Error::corrupt(format!("{place}: {}", v.message)).hint(v.hint),
            Fault::Error(e) => e.context(place),
        }
    }
}

impl From<Error> for Fault {
    fn from(e: Error) -> Self {
        Fault::Error(e)
    }
}

/// The result of reading bytes.
pub type Read<T> = Result<T, Fault>;

/// What is left to read.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of bytes left.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The next `n` bytes.
    #[inline]
    pub fn take(&mut self, n: usize) -> Read<&'a [u8]> {
        match self.0.split_at_checked(n) {
            Some((head, tail)) => {
                self.0 = tail;
                Ok(head)
            }
            None => Err(Fault::Malformed("ends too early")),
        }
    }

    /// The next `N` bytes.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        match self.0.split_first_chunk::<N>() {
            Some((head, tail)) => {
                self.0 = tail;
                Ok(*head)
            }
            None => Err(Fault::Malformed("ends too early")),
        }
    }

    /// One byte.
    #[inline]
    pub fn u8(&mut self) -> Read<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes, little-endian.
    #[inline]
    pub fn u16(&mut self) -> Read<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Three bytes, little-endian.
    #[inline]
    pub fn u24(&mut self) -> Read<u32> {
        let [a, b, c] = self.array()?;
        Ok(u32::from_le_bytes([a, b, c, 0]))
    }

    /// Four bytes, little-endian.
    #[inline]
    pub fn u32(&mut self) -> Read<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Six bytes, little-endian.
    pub fn u48(&mut self) -> Read<u64> {
        self.uint(6)
    }

    /// Eight bytes, little-endian.
    #[inline]
    pub fn u64(&mut self) -> Read<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// `n` bytes (at most eight), little-endian.
    pub fn uint(&mut self, n: usize) -> Read<u64> {
        if n > 8 {
            return Err(Fault::Malformed("an integer of more than eight bytes"));
        }
        Ok(self.take(n)?.iter().rev().fold(0, |sum, &b| sum << 8 | u64::from(b)))
    }

    /// `n` bytes (at most eight), big-endian.
    #[inline]
    pub fn uint_be(&mut self, n: usize) -> Read<u64> {
        if n > 8 {
            return Err(Fault::Malformed("an integer of more than eight bytes"));
        }
        Ok(self.take(n)?.iter().fold(0, |sum, &b| sum << 8 | u64::from(b)))
    }

    /// A length-encoded integer of the client protocol.
    pub fn lenenc(&mut self) -> Read<u64> {
        match self.u8()? {
            n @ 0..=250 => Ok(n.into()),
            252 => Ok(self.u16()?.into()),
            253 => Ok(self.u24()?.into()),
            254 => self.u64(),
            _ => Err(Fault::Malformed("not a length-encoded integer")),
        }
    }

    /// A length-encoded integer that counts bytes or things in memory.
    pub fn length(&mut self) -> Read<usize> {
        usize::try_from(self.lenenc()?).map_err(|_| Fault::Malformed("a length beyond memory"))
    }

    /// Bytes behind their length-encoded length.
    pub fn lenenc_bytes(&mut self) -> Read<&'a [u8]> {
        let n = self.length()?;
        self.take(n)
    }

    /// Bytes up to a NUL, which is skipped.
    pub fn until_nul(&mut self) -> Read<&'a [u8]> {
        let end = self.0.iter().position(|&b| b == 0).ok_or(Fault::Malformed("no NUL at the end of a text"))?;
        let text = self.take(end)?;
        self.take(1)?;
        Ok(text)
    }

    /// UTF-8 text of `n` bytes: names of files, schemas, tables and columns.
    pub fn name(&mut self, n: usize) -> Read<String> {
        utf8(self.take(n)?).map(str::to_owned)
    }
}

/// Text that must be UTF-8.
pub fn utf8(bytes: &[u8]) -> Read<&str> {
    std::str::from_utf8(bytes).map_err(|_| Fault::Malformed("text is not UTF-8"))
}

/// Bit `i` of a little-endian bitmap; past its end, 0.
#[inline]
pub fn bit(bitmap: &[u8], i: usize) -> bool {
    bitmap.get(i / 8).is_some_and(|b| b >> (i % 8) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_encoded_integers() {
        for (bytes, value) in [
            (&[250][..], 250),
            (&[252, 251, 0], 251),
            (&[253, 0, 0, 1], 65_536),
            (&[254, 0, 0, 0, 0, 1, 0, 0, 0], 1 << 32),
        ] {
            assert_eq!(Reader(bytes).lenenc().unwrap(), value);
        }
        assert!(
            Reader(&[251]).lenenc().is_err() && Reader(&[255]).lenenc().is_err() && Reader(&[252, 1]).lenenc().is_err()
        );
    }

    #[test]
    fn integers_of_odd_widths() {
        assert_eq!(Reader(&[1, 2, 3]).u24().unwrap(), 0x030201);
        assert_eq!(Reader(&[1, 2, 3]).uint_be(3).unwrap(), 0x010203);
        assert!(Reader(&[0; 9]).uint(9).is_err());
        assert!(bit(&[0b10], 1) && !bit(&[0b10], 0) && !bit(&[0xff], 8));
    }
}
