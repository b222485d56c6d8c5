//! MySQL's binary JSON as the text that the server prints for it.
//!
//! Format after the server's `sql-common/json_binary.h`; text after `Json_wrapper::to_string` (`sql-common/json_dom.cc`).
//! Offsets are relative to the start of their object or array. Every offset is checked against the document, and depth is
//! bounded as the server bounds it, so hostile bytes end in an error.

use std::fmt::Write;

use super::decimal;
use super::json_text::{push_base64, push_double, push_quoted};
use super::reader::{Fault, Read, Reader, utf8};

/// The server's `JSON_DOCUMENT_MAX_DEPTH`.
const MAX_DEPTH: usize = 100;
/// No value's text is longer than so many times its bytes. Offsets can make a document hold itself many times over.
const MAX_GROWTH: usize = 16;

/// What may still be printed.
#[derive(Debug, Clone, Copy)]
struct Room {
    /// Levels.
    depth: usize,
    /// The length that the output must not pass.
    end: usize,
}

/// Appends the text of a document. No bytes at all are the literal `null`, as the server has it.
pub fn print(document: &[u8], out: &mut String) -> Read<()> {
    match document.split_first() {
        Some((&kind, value)) => {
            let end = out.len() + document.len() * MAX_GROWTH + 64;
            print_value(kind, value, out, Room { depth: MAX_DEPTH, end })
        }
        None => {
            out.push_str("null");
            Ok(())
        }
    }
}

fn print_value(kind: u8, value: &[u8], out: &mut String, room: Room) -> Read<()> {
    let mut r = Reader(value);
    match kind {
        0x00 => print_container(value, Width::Small, true, out, room)?,
        0x01 => print_container(value, Width::Large, true, out, room)?,
        0x02 => print_container(value, Width::Small, false, out, room)?,
        0x03 => print_container(value, Width::Large, false, out, room)?,
        0x04 => out.push_str(literal(r.u8()?)?),
        0x05 => push(out, r.u16()? as i16),
        0x06 => push(out, r.u16()?),
        0x07 => push(out, r.u32()? as i32),
        0x08 => push(out, r.u32()?),
        0x09 => push(out, r.u64()? as i64),
        0x0a => push(out, r.u64()?),
        0x0b => push_double(f64::from_le_bytes(r.array()?), out)?,
        0x0c => {
            let n = variable_length(&mut r)?;
            push_quoted(utf8(r.take(n)?)?, out);
        }
        0x0f => {
            let field_type = r.u8()?;
            let n = variable_length(&mut r)?;
            print_opaque(field_type, r.take(n)?, out)?;
        }
        _ => return Err(Fault::Malformed("JSON value of unknown type")),
    }
    Ok(())
}

fn push(out: &mut String, value: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{value}");
}

fn literal(code: u8) -> Read<&'static str> {
    match code {
        0 => Ok("null"),
        1 => Ok("true"),
        2 => Ok("false"),
        _ => Err(Fault::Malformed("JSON literal of unknown kind")),
    }
}

/// A length of seven bits a byte, least significant first, at most five bytes.
fn variable_length(r: &mut Reader<'_>) -> Read<usize> {
    let mut length = 0u64;
    for i in 0..5 {
        let byte = r.u8()?;
        length |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return usize::try_from(length).map_err(|_| Fault::Malformed("a length beyond memory"));
        }
    }
    Err(Fault::Malformed("JSON length of more than five bytes"))
}

/// Bytes of counts, sizes and offsets in an object or array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Small,
    Large,
}

impl Width {
    fn bytes(self) -> usize {
        match self {
            Width::Small => 2,
            Width::Large => 4,
        }
    }

    fn read(self, r: &mut Reader<'_>) -> Read<usize> {
        Ok(match self {
            Width::Small => r.u16()?.into(),
            Width::Large => r.u32()? as usize,
        })
    }

    /// Whether a value of this type stands in its entry instead of behind an offset.
    fn inlines(self, kind: u8) -> bool {
        matches!(kind, 0x04..=0x06) || (self == Width::Large && matches!(kind, 0x07 | 0x08))
    }
}

/// `count, size, [key offset, key length]*, [type, offset or value]*, keys, values`
fn print_container(value: &[u8], width: Width, object: bool, out: &mut String, room: Room) -> Read<()> {
    let depth = room.depth.checked_sub(1).ok_or(Fault::Malformed("JSON deeper than 100 levels"))?;
    let room = Room { depth, ..room };
    let mut r = Reader(value);
    let (count, size) = (width.read(&mut r)?, width.read(&mut r)?);
    let value = value.get(..size).ok_or(Fault::Malformed("JSON container larger than its document"))?;
    let keys_at = 2 * width.bytes();
    let key_entry = width.bytes() + 2;
    let entries_at = keys_at + if object { count.saturating_mul(key_entry) } else { 0 };
    let mut keys = Reader(value.get(keys_at..).unwrap_or_default());
    let mut entries = Reader(value.get(entries_at..).ok_or(Fault::Malformed("JSON container ends too early"))?);
    out.push(if object { '{' } else { '[' });
    for i in 0..count {
        if i > 0 {
            out.push_str(", ");
        }
        if object {
            let (at, length) = (width.read(&mut keys)?, usize::from(keys.u16()?));
            let key = value.get(at..at.saturating_add(length)).ok_or(Fault::Malformed("JSON key out of bounds"))?;
            push_quoted(utf8(key)?, out);
            out.push_str(": ");
        }
        if out.len() > room.end {
            return Err(Fault::Malformed("JSON that holds itself"));
        }
        let kind = entries.u8()?;
        if width.inlines(kind) {
            let inlined = entries.take(width.bytes())?;
            print_value(kind, inlined, out, room)?;
        } else {
            let at = width.read(&mut entries)?;
            let rest = value.get(at..).ok_or(Fault::Malformed("JSON value out of bounds"))?;
            print_value(kind, rest, out, room)?;
        }
    }
    out.push(if object { '}' } else { ']' });
    Ok(())
}

/// Column types (`include/field_types.h`) that have a text of their own inside JSON.
const TIMESTAMP: u8 = 7;
const DATE: u8 = 10;
const TIME: u8 = 11;
const DATETIME: u8 = 12;
const NEWDECIMAL: u8 = 246;

/// A value of an SQL type: decimals, dates and times have a text, everything else is base64.
fn print_opaque(field_type: u8, value: &[u8], out: &mut String) -> Read<()> {
    let mut r = Reader(value);
    match field_type {
        NEWDECIMAL => {
            let (precision, scale) = (r.u8()?, r.u8()?);
            // A computed decimal counts digits in whole groups of nine, and so has more than DECIMAL's 65.
            if precision > 81 || scale > precision {
                return Err(Fault::Malformed("JSON decimal of impossible precision"));
            }
            out.push_str(&decimal::text(r.0, precision, scale)?);
        }
        DATE | DATETIME | TIMESTAMP => {
            let packed = r.u64()? as i64;
            let (whole, micros) = (packed >> 24, packed & 0xff_ffff);
            let (months, day) = (whole >> 22, whole >> 17 & 31);
            push(out, format_args!("\"{:04}-{:02}-{day:02}", months / 13, months % 13));
            if field_type != DATE {
                let (hour, minute, second) = (whole >> 12 & 31, whole >> 6 & 63, whole & 63);
                push(out, format_args!(" {hour:02}:{minute:02}:{second:02}.{micros:06}"));
            }
            out.push('"');
        }
        TIME => {
            let packed = r.u64()? as i64;
            let sign = if packed < 0 { "-" } else { "" };
            let magnitude = packed.unsigned_abs();
            let (whole, micros) = (magnitude >> 24, magnitude & 0xff_ffff);
            let (hour, minute, second) = (whole >> 12 & 0x3ff, whole >> 6 & 63, whole & 63);
            push(out, format_args!("\"{sign}{hour:02}:{minute:02}:{second:02}.{micros:06}\""));
        }
        _ => {
            push(out, format_args!("\"base64:type{field_type}:"));
            push_base64(value, out);
            out.push('"');
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(document: &[u8]) -> Read<String> {
        let mut out = String::new();
        print(document, &mut out).map(|()| out)
    }

    #[test]
    fn scalars_and_containers() {
        assert_eq!(text(&[4, 1]).unwrap(), "true");
        assert_eq!(text(&[5, 0xfe, 0xff]).unwrap(), "-2");
        assert_eq!(text(&[]).unwrap(), "null");
        // {"a": [1, "x"]}
        let array = [2u8, 0, 12, 0, 5, 1, 0, 12, 10, 0, 1, b'x'];
        let mut object = vec![0u8, 1, 0, 0, 0, 11, 0, 1, 0, 2, 12, 0, b'a'];
        object[3] = 12 + array.len() as u8;
        object.extend(array);
        assert_eq!(text(&object).unwrap(), r#"{"a": [1, "x"]}"#);
        assert!(text(&object[..20]).is_err());
    }

    #[test]
    fn a_document_that_holds_itself_ends() {
        // An array whose only element is the array itself.
        let once = [2u8, 1, 0, 7, 0, 2, 0, 0];
        assert!(text(&once).is_err());
        // Twice itself would be 2^100 arrays.
        let twice = [2u8, 2, 0, 10, 0, 2, 0, 0, 2, 0, 0];
        assert!(text(&twice).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_printed_or_refused(kind in 0u8..16, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = text(&[&[kind], &bytes[..]].concat());
        }
    }
}
