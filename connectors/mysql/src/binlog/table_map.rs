//! TABLE_MAP: which table the following rows belong to, and how its columns lie in them.
//!
//! Format after the server's `libs/mysql/binlog/event/rows_event.h` (`Table_map_event`); the optional metadata
//! (`binlog_row_metadata`) is the same in MariaDB since 10.5.

use super::reader::{Fault, Read, Reader, bit};
use crate::connect::Flavor;

/// How a column's values lie in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // named as the server's `enum_field_types` names them
pub enum Wire {
    Tiny,
    Short,
    Int24,
    Long,
    LongLong,
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    Year,
    Date,
    Time,
    DateTime,
    Timestamp,
    /// Digits of the fraction.
    Time2(u8),
    DateTime2(u8),
    Timestamp2(u8),
    /// `max`: bytes a value can have; above 255 its length takes two bytes.
    Varchar {
        max: u16,
    },
    /// CHAR and BINARY; `max` as above.
    String {
        max: u16,
    },
    /// Bytes of a label's number.
    Enum(u8),
    /// Bytes of the labels' bits.
    Set(u8),
    /// Number of bits.
    Bit(u16),
    /// Bytes of the length in front of a value.
    Blob(u8),
    Geometry(u8),
    Json(u8),
    Vector(u8),
    /// MySQL's multi-valued index: a hidden column.
    TypedArray,
    /// MariaDB's `COMPRESSED` columns.
    VarcharCompressed {
        max: u16,
    },
    BlobCompressed(u8),
    /// No value ever.
    Null,
}

impl Wire {
    /// The next value of a row: its bytes without the length in front of them.
    #[inline]
    pub fn take<'a>(self, r: &mut Reader<'a>) -> Read<&'a [u8]> {
        let n = match self {
            Wire::Tiny | Wire::Year => 1,
            Wire::Short => 2,
            Wire::Int24 | Wire::Date | Wire::Time => 3,
            Wire::Long | Wire::Float | Wire::Timestamp => 4,
            Wire::LongLong | Wire::Double | Wire::DateTime => 8,
            Wire::Decimal { precision, scale } => super::decimal::packed_len(precision, scale),
            Wire::Time2(digits) => 3 + super::temporal::fraction_bytes(digits),
            Wire::Timestamp2(digits) => 4 + super::temporal::fraction_bytes(digits),
            Wire::DateTime2(digits) => 5 + super::temporal::fraction_bytes(digits),
            Wire::Varchar { max } | Wire::String { max } | Wire::VarcharCompressed { max } => {
                if max > 255 {
                    r.u16()?.into()
                } else {
                    r.u8()?.into()
                }
            }
            Wire::Enum(n) | Wire::Set(n) => n.into(),
            Wire::Bit(bits) => usize::from(bits).div_ceil(8),
            Wire::Blob(n) | Wire::Geometry(n) | Wire::Json(n) | Wire::Vector(n) | Wire::BlobCompressed(n) => {
                r.uint(n.into())? as usize
            }
            // `Field_typed_array` is a JSON column underneath.
            Wire::TypedArray => r.u32()? as usize,
            Wire::Null => 0,
        };
        r.take(n)
    }

    /// Whether the signedness bitmap has a bit for it: a YEAR, too, derives from the servers' numbers.
    fn is_numeric(self) -> bool {
        use Wire::*;
        matches!(self, Tiny | Short | Int24 | Long | LongLong | Float | Double | Decimal { .. } | Year)
    }

    fn is_text(self) -> bool {
        use Wire::*;
        matches!(self, Varchar { .. } | String { .. } | Blob(_) | VarcharCompressed { .. } | BlobCompressed(_))
    }
}

/// A column as the log describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogColumn {
    /// Its name, with `binlog_row_metadata=FULL`.
    pub name: Option<String>,
    /// How its values lie in a row.
    pub wire: Wire,
    /// Whether it admits NULL.
    pub nullable: bool,
    /// Whether it is unsigned, if the log says and it is a number.
    pub unsigned: Option<bool>,
    /// The id of its collation, if the log says and it is text, enum or set.
    pub collation: Option<u64>,
    /// Labels of an enum or set in the column's character set, if the log says.
    pub labels: Option<Vec<Vec<u8>>>,
}

/// A TABLE_MAP event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableMap {
    /// What rows refer to.
    pub id: u64,
    /// The database.
    pub schema: String,
    /// The table.
    pub name: String,
    /// In the table's order, hidden ones included.
    pub columns: Vec<LogColumn>,
}

/// Id, database and table: enough for tables that nobody wants.
pub fn parse_name(body: &[u8]) -> Read<(u64, String, String)> {
    let mut r = Reader(body);
    head(&mut r)
}

fn head(r: &mut Reader<'_>) -> Read<(u64, String, String)> {
    let id = r.u48()?;
    r.take(2)?;
    let schema = length_and_name(r)?;
    let name = length_and_name(r)?;
    Ok((id, schema, name))
}

fn length_and_name(r: &mut Reader<'_>) -> Read<String> {
    let n = r.u8()?.into();
    let name = r.name(n)?;
    r.take(1)?;
    Ok(name)
}

/// The most columns a table can have (`MAX_FIELDS`).
const MAX_COLUMNS: usize = 4096;

/// Reads a whole TABLE_MAP body.
pub fn parse(body: &[u8], flavor: Flavor) -> Read<TableMap> {
    let mut r = Reader(body);
    let (id, schema, name) = head(&mut r)?;
    let count = r.length()?;
    if count > MAX_COLUMNS {
        return Err(Fault::Malformed("a table of more than 4096 columns"));
    }
    let types = r.take(count)?;
    let mut meta = Reader(r.lenenc_bytes()?);
    let nulls = r.take(count.div_ceil(8))?;
    let mut columns = Vec::with_capacity(count);
    for (i, &kind) in types.iter().enumerate() {
        let wire = wire(kind, &mut meta)?;
        columns.push(LogColumn {
            name: None,
            wire,
            nullable: bit(nulls, i),
            unsigned: None,
            collation: None,
            labels: None,
        });
    }
    if !meta.is_empty() {
        return Err(Fault::Malformed("column metadata longer than its columns"));
    }
    optional(&mut r, &mut columns, flavor)?;
    Ok(TableMap { id, schema, name, columns })
}

/// A column's type and its metadata (`libs/mysql/binlog/event/binlog_event.h`, `include/field_types.h`; MariaDB's 140, 141).
fn wire(kind: u8, meta: &mut Reader<'_>) -> Read<Wire> {
    let digits = |meta: &mut Reader<'_>| match meta.u8()? {
        d @ 0..=6 => Ok(d),
        _ => Err(Fault::Malformed("a fraction of more than six digits")),
    };
    let length_bytes = |meta: &mut Reader<'_>| match meta.u8()? {
        n @ 1..=4 => Ok(n),
        _ => Err(Fault::Malformed("a length of neither one nor four bytes")),
    };
    Ok(match kind {
        1 => Wire::Tiny,
        2 => Wire::Short,
        3 => Wire::Long,
        4 => meta.u8().map(|_| Wire::Float)?,
        5 => meta.u8().map(|_| Wire::Double)?,
        6 => Wire::Null,
        7 => Wire::Timestamp,
        8 => Wire::LongLong,
        9 => Wire::Int24,
        10 | 14 => Wire::Date,
        11 => Wire::Time,
        12 => Wire::DateTime,
        13 => Wire::Year,
        15 => Wire::Varchar { max: meta.u16()? },
        16 => {
            let (rest, bytes) = (meta.u8()?, meta.u8()?);
            Wire::Bit(u16::from(bytes) * 8 + u16::from(rest))
        }
        17 => Wire::Timestamp2(digits(meta)?),
        18 => Wire::DateTime2(digits(meta)?),
        19 => Wire::Time2(digits(meta)?),
        20 => {
            // An element's type, and that type's metadata.
            match meta.u8()? {
                15 => meta.take(3)?,
                17..=19 => meta.take(1)?,
                246 => meta.take(2)?,
                _ => &[],
            };
            Wire::TypedArray
        }
        140 => Wire::BlobCompressed(length_bytes(meta)?),
        141 => Wire::VarcharCompressed { max: meta.u16()? },
        242 => Wire::Vector(length_bytes(meta)?),
        245 => Wire::Json(length_bytes(meta)?),
        246 => match (meta.u8()?, meta.u8()?) {
            (precision @ 1..=65, scale) if scale <= precision => Wire::Decimal { precision, scale },
            _ => return Err(Fault::Malformed("a decimal of impossible precision")),
        },
        249..=252 => Wire::Blob(length_bytes(meta)?),
        255 => Wire::Geometry(length_bytes(meta)?),
        247 | 248 | 253 | 254 => string_like(kind, meta.u8()?, meta.u8()?)?,
        _ => return Err(Fault::Malformed("a column of unknown type")),
    })
}

/// CHAR, BINARY, ENUM and SET share a type; the metadata holds the real one. Two bits of a long CHAR's length hide in the
/// type's bits 4 and 5, inverted.
fn string_like(kind: u8, first: u8, second: u8) -> Read<Wire> {
    let (real, max) = match first {
        0 => (kind, u16::from(second)),
        _ if first & 0x30 != 0x30 => (first | 0x30, u16::from(second) | u16::from((first & 0x30) ^ 0x30) << 4),
        _ => (first, u16::from(second)),
    };
    match (real, max) {
        (247, 1 | 2) => Ok(Wire::Enum(second)),
        (248, 1..=8) => Ok(Wire::Set(second)),
        (253 | 254, _) => Ok(Wire::String { max }),
        _ => Err(Fault::Malformed("a string column of unknown kind")),
    }
}

/// Optional metadata: `type, length, value` until the end. Unknown types say nothing that values depend on.
fn optional(r: &mut Reader<'_>, columns: &mut [LogColumn], flavor: Flavor) -> Read<()> {
    // MariaDB lists a collation for whatever has one, geometry included.
    let text = |w: Wire| w.is_text() || flavor == Flavor::MariaDb && matches!(w, Wire::Geometry(_));
    while !r.is_empty() {
        let kind = r.u8()?;
        let mut value = Reader(r.lenenc_bytes()?);
        match kind {
            1 => {
                let bits = value.0;
                for (i, column) in columns.iter_mut().filter(|c| c.wire.is_numeric()).enumerate() {
                    let byte = bits.get(i / 8).ok_or(Fault::Malformed("signedness of too few columns"))?;
                    column.unsigned = Some(byte >> (7 - i % 8) & 1 == 1);
                }
            }
            2 => default_collations(&mut value, columns, text)?,
            3 => collations(&mut value, columns, text)?,
            4 => {
                for column in columns.iter_mut() {
                    let n = value.length()?;
                    column.name = Some(value.name(n)?);
                }
            }
            5 => labels(&mut value, columns, |w| matches!(w, Wire::Set(_)))?,
            6 => labels(&mut value, columns, |w| matches!(w, Wire::Enum(_)))?,
            10 => default_collations(&mut value, columns, |w| matches!(w, Wire::Enum(_) | Wire::Set(_)))?,
            11 => collations(&mut value, columns, |w| matches!(w, Wire::Enum(_) | Wire::Set(_)))?,
            _ => {}
        }
    }
    Ok(())
}

/// One collation for all columns of a kind, then `ordinal among them, collation` of those that differ.
fn default_collations(r: &mut Reader<'_>, columns: &mut [LogColumn], kind: impl Fn(Wire) -> bool) -> Read<()> {
    let default = r.lenenc()?;
    let mut chosen: Vec<&mut LogColumn> = columns.iter_mut().filter(|c| kind(c.wire)).collect();
    for column in &mut chosen {
        column.collation = Some(default);
    }
    while !r.is_empty() {
        let (i, collation) = (r.length()?, r.lenenc()?);
        let column = chosen.get_mut(i).ok_or(Fault::Malformed("collation of a column that is not there"))?;
        column.collation = Some(collation);
    }
    Ok(())
}

fn collations(r: &mut Reader<'_>, columns: &mut [LogColumn], kind: impl Fn(Wire) -> bool) -> Read<()> {
    for column in columns.iter_mut().filter(|c| kind(c.wire)) {
        column.collation = Some(r.lenenc()?);
    }
    Ok(())
}

fn labels(r: &mut Reader<'_>, columns: &mut [LogColumn], kind: impl Fn(Wire) -> bool) -> Read<()> {
    for column in columns.iter_mut().filter(|c| kind(c.wire)) {
        let count = r.length()?;
        // Every label takes a byte at least, so the count is bounded by what is left.
        let mut labels = Vec::with_capacity(count.min(r.len()));
        for _ in 0..count {
            labels.push(r.lenenc_bytes()?.to_vec());
        }
        column.labels = Some(labels);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> Vec<u8> {
        let mut body = vec![9, 0, 0, 0, 0, 0, 1, 0, 1, b's', 0, 1, b't', 0];
        body.extend([4, 3, 15, 254, 246]); // int, varchar, enum, decimal
        body.extend([6, 0xfc, 0x03, 247, 1, 10, 2, 0b0010]);
        body.extend([1, 1, 0b1000_0000]); // signedness: int unsigned, decimal not
        body.extend([2, 1, 45]);
        body.extend([6, 5, 2, 1, b'x', 1, b'y']);
        body.extend([4, 8, 1, b'a', 1, b'b', 1, b'c', 1, b'd']);
        body
    }

    #[test]
    fn a_map_with_metadata() {
        let map = parse(&example(), Flavor::MySql).unwrap();
        assert_eq!((map.id, map.schema.as_str(), map.name.as_str()), (9, "s", "t"));
        let wires: Vec<Wire> = map.columns.iter().map(|c| c.wire).collect();
        let decimal = Wire::Decimal { precision: 10, scale: 2 };
        assert_eq!(wires, [Wire::Long, Wire::Varchar { max: 1020 }, Wire::Enum(1), decimal]);
        assert_eq!((map.columns[0].unsigned, map.columns[3].unsigned), (Some(true), Some(false)));
        assert_eq!(map.columns[1].collation, Some(45));
        assert_eq!(map.columns[2].labels, Some(vec![b"x".to_vec(), b"y".to_vec()]));
        assert_eq!(map.columns[3].name.as_deref(), Some("d"));
        assert!(map.columns[1].nullable && !map.columns[0].nullable);
    }

    #[test]
    fn long_char_hides_its_length_in_the_type() {
        // CHAR(255) utf8mb4: 1020 bytes.
        let max = 1020u16;
        let first = 254 ^ ((max >> 8 << 4) as u8 & 0x30);
        assert_eq!(string_like(254, first, max as u8).unwrap(), Wire::String { max });
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = (parse(&bytes, Flavor::MySql), parse(&bytes, Flavor::MariaDb));
            let _ = parse_name(&bytes);
        }

        #[test]
        fn a_changed_byte_does_not_panic(at in 0usize..60, to: u8) {
            let mut body = example();
            let n = body.len();
            body[at % n] = to;
            let _ = parse(&body, Flavor::MySql);
        }
    }
}
