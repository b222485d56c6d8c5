//! MySQL's VECTOR: singles, little-endian, one after the other (`Item_func_from_vector` in the server's sources).
//!
//! It travels as the text of a Postgres `real[]`, to which `pgvector` has a cast: `{1,-0.5,1e+06}`. The digits are those
//! that Postgres prints (`float_to_shortest_decimal_buf` in its `f2s.c`), so that what the target holds reads back the same.

use std::fmt::Write as _;

use super::reader::{Fault, Read};

/// The type that vectors arrive as.
pub const ARRAY: &str = "real[]";

/// From this power of ten on, and below 10^-4, Postgres prints an exponent (`FLT_DIG`).
const PLAIN: i32 = 6;

/// A vector as an array's text.
pub fn text(bytes: &[u8]) -> Read<String> {
    let (singles, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Fault::Malformed("a vector of broken numbers"));
    }
    let mut out = String::with_capacity(singles.len() * 8 + 2);
    for (i, single) in singles.iter().enumerate() {
        out.push(if i == 0 { '{' } else { ',' });
        push(f32::from_le_bytes(*single), &mut out)?;
    }
    out.push_str(if singles.is_empty() { "{}" } else { "}" });
    Ok(out)
}

fn push(value: f32, out: &mut String) -> Read<()> {
    if !value.is_finite() {
        return Err(Fault::Malformed("a vector's number that is not finite"));
    }
    let shortest = format!("{value:e}");
    let (digits, exponent) = shortest.split_once('e').ok_or(Fault::Malformed("a number without an exponent"))?;
    let exponent: i32 = exponent.parse().map_err(|_| Fault::Malformed("a number without an exponent"))?;
    let written = match exponent {
        -4..PLAIN => write!(out, "{value}"),
        _ => write!(out, "{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    };
    written.map_err(|_| Fault::Malformed("a number that cannot be printed"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn as_postgres_prints_them() {
        let values = [1.0, -0.5, 1e6, 999_999.0, 1e-4, 1e-5, 1.5e-10, 3.402_823_5e38, 1e-45, -0.0];
        let bytes: Vec<u8> = values.iter().flat_map(|v: &f32| v.to_le_bytes()).collect();
        let expected = "{1,-0.5,1e+06,999999,0.0001,1e-05,1.5e-10,3.4028235e+38,1e-45,-0}";
        assert_eq!(text(&bytes).unwrap(), expected);
        assert_eq!(text(&[]).unwrap(), "{}");
        assert!(text(&bytes[..5]).is_err() && text(&f32::NAN.to_le_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = text(&bytes);
        }
    }
}
