//! Packed DECIMAL (`strings/decimal.cc`, `decimal2bin`).
//!
//! Groups of nine digits in four bytes, big-endian, leftover digits at both outer ends; the first bit is inverted, so that
//! bytes sort as numbers do, and a negative number has all bits inverted.

use arrow_buffer::i256;

use super::reader::{Fault, Read};

/// Bytes that 0 to 9 digits take.
const DIGIT_BYTES: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];

/// Bytes of a packed decimal; a column's precision is at most 65 and not below the scale (checked where a table map is read).
pub fn packed_len(precision: u8, scale: u8) -> usize {
    let (whole, scale) = (usize::from(precision.saturating_sub(scale)), usize::from(scale));
    whole / 9 * 4 + DIGIT_BYTES[whole % 9] + scale / 9 * 4 + DIGIT_BYTES[scale % 9]
}

/// Calls `group(limit, value)` for each group of digits, most significant first (`limit`: ten to its digits); the sign.
fn groups(bytes: &[u8], precision: u8, scale: u8, mut group: impl FnMut(u32, u32)) -> Read<bool> {
    let (whole, scale) = (usize::from(precision.saturating_sub(scale)), usize::from(scale));
    let negative = bytes.first().is_some_and(|b| b & 0x80 == 0);
    let mask = if negative { 0xff } else { 0 };
    let mut at = 0;
    let mut read = |digits: usize| {
        let n = DIGIT_BYTES[digits];
        let part = bytes.get(at..at + n).ok_or(Fault::Malformed("a decimal ends too early"))?;
        let mut value = 0u32;
        for (i, byte) in part.iter().enumerate() {
            let flip = if at + i == 0 { 0x80 } else { 0 };
            value = value << 8 | u32::from(byte ^ flip ^ mask);
        }
        at += n;
        let limit = 10u32.pow(digits as u32);
        if value >= limit {
            return Err(Fault::Malformed("a decimal's digits are out of range"));
        }
        group(limit, value);
        Ok(())
    };
    if whole % 9 > 0 {
        read(whole % 9)?;
    }
    for _ in 0..whole / 9 + scale / 9 {
        read(9)?;
    }
    if scale % 9 > 0 {
        read(scale % 9)?;
    }
    Ok(negative)
}

/// The unscaled value of at most 38 digits.
pub fn decimal128(bytes: &[u8], precision: u8, scale: u8) -> Read<i128> {
    let mut sum = 0i128;
    let negative = groups(bytes, precision, scale, |limit, value| {
        sum = sum.wrapping_mul(limit.into()).wrapping_add(value.into())
    })?;
    Ok(if negative { -sum } else { sum })
}

/// The unscaled value of at most 76 digits that are not leading zeros.
pub fn decimal256(bytes: &[u8], precision: u8, scale: u8) -> Read<i256> {
    let mut sum = Some(i256::ZERO);
    let negative = groups(bytes, precision, scale, |limit, value| {
        let shifted = sum.and_then(|sum| sum.checked_mul(i256::from_i128(limit.into())));
        sum = shifted.and_then(|sum| sum.checked_add(i256::from_i128(value.into())));
    })?;
    let sum = sum.ok_or(Fault::Malformed("a decimal of more than 76 digits"))?;
    Ok(if negative { sum.wrapping_neg() } else { sum })
}

/// The text that the server prints: no leading zeros, exactly `scale` digits behind the point.
pub fn text(bytes: &[u8], precision: u8, scale: u8) -> Read<String> {
    let unscaled = decimal256(bytes, precision, scale)?;
    let digits = unscaled.to_string();
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", digits.as_str()),
    };
    let scale = usize::from(scale);
    let padded = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    let point = if scale == 0 { "" } else { "." };
    Ok(format!("{sign}{whole}{point}{fraction}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 1234567890.1234 as DECIMAL(14,4), the example in the server's `decimal2bin`.
    const EXAMPLE: [u8; 7] = [0x81, 0x0d, 0xfb, 0x38, 0xd2, 0x04, 0xd2];

    #[test]
    fn the_servers_own_example() {
        assert_eq!(packed_len(14, 4), 7);
        assert_eq!(decimal128(&EXAMPLE, 14, 4).unwrap(), 12_345_678_901_234);
        let negative = EXAMPLE.map(|b| !b);
        assert_eq!(decimal128(&negative, 14, 4).unwrap(), -12_345_678_901_234);
        assert_eq!(decimal256(&negative, 14, 4).unwrap(), i256::from_i128(-12_345_678_901_234));
        assert_eq!(text(&negative, 14, 4).unwrap(), "-1234567890.1234");
        assert_eq!(text(&[0x80 ^ 5], 2, 2).unwrap(), "0.05");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..34), p in 0u8..66, s in 0u8..66) {
            let _ = (decimal128(&bytes, p, s), decimal256(&bytes, p, s), text(&bytes, p, s));
        }
    }
}
