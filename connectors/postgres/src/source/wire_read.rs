//! Reads the fields of a message. Nothing is indexed: what is not there is a [`Short`], not a panic.

use crossfade_core::Error;

/// A message ended before its last field, or a field is not what its place says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short;

impl Short {
    /// The error of a message that cannot be read.
    pub fn of(self, what: &str) -> Error {
        Error::corrupt(format!("{what} cannot be read")).hint("look for a proxy that changes what passes through it")
    }
}

/// The result of reading a field.
pub type Read<T> = Result<T, Short>;

/// What is left of a message.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next bytes.
    #[inline]
    pub fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Short)?;
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// A byte.
    #[inline]
    pub fn u8(&mut self) -> Read<u8> {
        self.array::<1>().map(|[b]| b)
    }

    /// Two bytes.
    #[inline]
    pub fn u16(&mut self) -> Read<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes.
    #[inline]
    pub fn u32(&mut self) -> Read<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Four bytes, signed.
    #[inline]
    pub fn i32(&mut self) -> Read<i32> {
        self.array().map(i32::from_be_bytes)
    }

    /// Eight bytes.
    #[inline]
    pub fn u64(&mut self) -> Read<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Eight bytes, signed.
    #[inline]
    pub fn i64(&mut self) -> Read<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// Bytes up to a NUL, which is passed.
    pub fn until_nul(&mut self) -> Read<&'a [u8]> {
        let at = self.0.iter().position(|b| *b == 0).ok_or(Short)?;
        let taken = self.take(at)?;
        self.u8()?;
        Ok(taken)
    }

    /// Text up to a NUL, which is passed.
    pub fn text(&mut self) -> Read<&'a str> {
        std::str::from_utf8(self.until_nul()?).map_err(|_| Short)
    }

    /// Demands that nothing is left.
    pub fn end(&self) -> Read<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Short) }
    }
}
