//! Decimals to Postgres' binary `numeric`, exactly.
//!
//! The wire form (`numeric_recv` in the server's `utils/adt/numeric.c`) is four 16-bit words (number of digits, weight,
//! sign, digits shown after the point) and then digits of base 10000, most significant first. `weight` is the power of
//! 10000 of the first digit. Leading and trailing zero digits are left out, as the server itself leaves them out.
//!
//! The codec is our own because the usual ones are not exact: they round past 28 digits or know no infinities. Digits
//! are aligned to the decimal *point*, not to the last digit: a scale of 2 puts two zeros behind the last base-10000
//! digit. That is done on the lowest group alone, so no intermediate value ever exceeds the input's width.

use std::fmt::Write as _;

use arrow_buffer::i256;

const POSITIVE: u16 = 0x0000;
const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;

/// Postgres' limits: digits after the point (`NUMERIC_DSCALE_MASK`) and before it (`NUMERIC_MAX_PRECISION` of an
/// unconstrained `numeric`, in decimal digits).
const MAX_SCALE: usize = 16383;
const MAX_INTEGER_DIGITS: usize = 131_072;

/// Why a text is not a `numeric`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotNumeric {
    /// Not `digits[.digits]`, `NaN`, `Infinity` or `-Infinity`.
    Syntax,
    /// More digits than a `numeric` can have.
    TooLong,
}

/// Powers of ten below the base.
const POW10: [u64; 4] = [1, 10, 100, 1000];

/// Appends `value / 10^scale`.
pub fn put_i128(out: &mut Vec<u8>, value: i128, scale: u8) {
    let mut groups = Groups::new();
    let mut rest = value.unsigned_abs();
    // The group that straddles the scale: its digits are the highest of a base-10000 digit.
    let odd = usize::from(scale % 4);
    // 128-bit division is slow: peel off what 64 bits do not hold, 16 digits at a time, then work in those.
    if rest > u128::from(u64::MAX) {
        if odd != 0 {
            let unit = u128::from(POW10[odd]);
            groups.push((rest % unit) as u64 * POW10[4 - odd]);
            rest /= unit;
        }
        while rest > u128::from(u64::MAX) {
            let mut low = (rest % 10_000_000_000_000_000) as u64;
            rest /= 10_000_000_000_000_000;
            for _ in 0..4 {
                groups.push(low % 10000);
                low /= 10000;
            }
        }
    }
    let mut rest = rest as u64;
    if groups.len == 0 && odd != 0 {
        groups.push((rest % POW10[odd]) * POW10[4 - odd]);
        rest /= POW10[odd];
    }
    while rest > 0 {
        groups.push(rest % 10000);
        rest /= 10000;
    }
    let fraction_groups = usize::from(scale).div_ceil(4);
    groups.put(out, if value < 0 { NEGATIVE } else { POSITIVE }, fraction_groups, u16::from(scale));
}

/// Base-10000 digits of an `i128`, least significant first: at most 11 of them.
struct Groups {
    digits: [u16; 12],
    len: usize,
}

impl Groups {
    fn new() -> Self {
        Groups { digits: [0; 12], len: 0 }
    }

    fn push(&mut self, digit: u64) {
        self.digits[self.len] = digit as u16;
        self.len += 1;
    }

    fn put(&self, out: &mut Vec<u8>, sign: u16, fraction_groups: usize, scale: u16) {
        let digits = &self.digits[..self.len];
        let high = digits.iter().rposition(|&d| d != 0).map_or(0, |i| i + 1);
        let low = digits.iter().position(|&d| d != 0).unwrap_or(0);
        if high == 0 {
            return put_header(out, 0, 0, POSITIVE, scale);
        }
        put_header(out, high - low, high as i32 - 1 - fraction_groups as i32, sign, scale);
        for &d in digits[low..high].iter().rev() {
            out.extend_from_slice(&d.to_be_bytes());
        }
    }
}

/// Appends `value / 10^scale`.
pub fn put_i256(out: &mut Vec<u8>, value: i256, scale: u8) {
    if let Some(narrow) = value.to_i128() {
        return put_i128(out, narrow, scale);
    }
    // Rare (beyond 38 digits), so through text: `i256` prints exactly, its minimum included.
    let mut text = DecimalText { bytes: [0; 80], len: 0 };
    write!(text, "{value}").expect("an i256 prints in at most 78 bytes");
    let printed = &text.bytes[..text.len];
    let (sign, digits) = match printed.split_first() {
        Some((b'-', digits)) => (NEGATIVE, digits),
        _ => (POSITIVE, printed),
    };
    // A value that does not fit i128 has 39 digits or more; the scale may still be longer (0.00...1 cannot be here).
    let scale = usize::from(scale);
    let point = digits.len().saturating_sub(scale);
    if scale <= digits.len() {
        put_digits(out, sign, &digits[..point], &digits[point..]);
    } else {
        let mut fraction = [b'0'; 256];
        fraction[scale - digits.len()..scale].copy_from_slice(digits);
        put_digits(out, sign, &[], &fraction[..scale]);
    }
}

/// A fixed place to print into.
struct DecimalText {
    bytes: [u8; 80],
    len: usize,
}

impl std::fmt::Write for DecimalText {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        let end = self.len + s.len();
        self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?.copy_from_slice(s.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Appends what Postgres prints as `text`: `-12.50`, `NaN`, `-Infinity`. On an error nothing is appended.
pub fn put_text(out: &mut Vec<u8>, text: &str) -> Result<(), NotNumeric> {
    let special = match text {
        "NaN" => Some(NAN),
        "Infinity" => Some(INFINITY),
        "-Infinity" => Some(NEGATIVE_INFINITY),
        _ => None,
    };
    if let Some(sign) = special {
        put_header(out, 0, 0, sign, 0);
        return Ok(());
    }
    let bytes = text.as_bytes();
    let (sign, bytes) = match bytes.split_first() {
        Some((b'-', rest)) => (NEGATIVE, rest),
        Some((b'+', rest)) => (POSITIVE, rest),
        _ => (POSITIVE, bytes),
    };
    let (integer, fraction) = match bytes.iter().position(|&b| b == b'.') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[][..]),
    };
    let all_digits = integer.iter().chain(fraction).all(u8::is_ascii_digit);
    if !all_digits || integer.is_empty() && fraction.is_empty() {
        return Err(NotNumeric::Syntax);
    }
    let zeros = integer.iter().take_while(|&&b| b == b'0').count();
    let integer = &integer[zeros..];
    if integer.len() > MAX_INTEGER_DIGITS || fraction.len() > MAX_SCALE {
        return Err(NotNumeric::TooLong);
    }
    put_digits(out, sign, integer, fraction);
    Ok(())
}

/// Appends a number of ASCII digits before and after the point. The caller has checked digits and limits.
fn put_digits(out: &mut Vec<u8>, sign: u16, integer: &[u8], fraction: &[u8]) {
    let start = out.len();
    put_header(out, 0, 0, sign, fraction.len() as u16);
    let mut weight = integer.len().div_ceil(4) as i32 - 1;
    let mut count = 0;
    let mut push = |digit: u16| {
        if count == 0 && digit == 0 {
            weight -= 1; // a leading zero digit
        } else {
            out.extend_from_slice(&digit.to_be_bytes());
            count += 1;
        }
    };
    let (first, rest) = integer.split_at(integer.len() % 4);
    if !first.is_empty() {
        push(value_of(first));
    }
    rest.chunks(4).for_each(|group| push(value_of(group)));
    for group in fraction.chunks(4) {
        push(value_of(group) * POW10[4 - group.len()] as u16);
    }
    while count > 0 && out.ends_with(&[0, 0]) {
        out.truncate(out.len() - 2);
        count -= 1;
    }
    let (weight, sign) = if count == 0 { (0, POSITIVE) } else { (weight, sign) };
    out[start..start + 8].copy_from_slice(&header(count, weight, sign, fraction.len() as u16));
}

fn value_of(group: &[u8]) -> u16 {
    group.iter().fold(0, |v, b| v * 10 + u16::from(b - b'0'))
}

fn put_header(out: &mut Vec<u8>, digits: usize, weight: i32, sign: u16, scale: u16) {
    out.extend_from_slice(&header(digits, weight, sign, scale));
}

/// `digits` is at most 131072 / 4 + 16383 / 4 + 2, `weight` at most 32767: both fit their words.
fn header(digits: usize, weight: i32, sign: u16, scale: u16) -> [u8; 8] {
    let mut words = [0; 8];
    for (word, value) in words.chunks_exact_mut(2).zip([digits as u16, weight as i16 as u16, sign, scale]) {
        word.copy_from_slice(&value.to_be_bytes());
    }
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The model: reads the wire form digit by digit into text, as the server's `numeric_out` prints it.
    fn read(bytes: &[u8]) -> String {
        let word = |i: usize| u16::from_be_bytes([bytes[2 * i], bytes[2 * i + 1]]);
        let (count, weight, sign, scale) = (word(0) as usize, word(1) as i16 as i32, word(2), word(3) as usize);
        assert_eq!(bytes.len(), 8 + 2 * count, "as many digits as the header says");
        match sign {
            NAN => return "NaN".into(),
            INFINITY => return "Infinity".into(),
            NEGATIVE_INFINITY => return "-Infinity".into(),
            _ => {}
        }
        if count > 0 {
            assert!(word(4) != 0 && word(3 + count) != 0, "no leading or trailing zero digit");
        }
        let digit = |power: i32| match usize::try_from(weight - power) {
            Ok(i) if i < count => word(4 + i),
            _ => 0,
        };
        let mut text: String = (0..=weight.max(0)).rev().map(|p| format!("{:04}", digit(p))).collect();
        text = text.trim_start_matches('0').to_owned();
        if text.is_empty() {
            text.push('0');
        }
        if scale > 0 {
            let groups = scale.div_ceil(4) as i32;
            let fraction: String = (1..=groups).map(|p| format!("{:04}", digit(-p))).collect();
            assert!(fraction[scale..].bytes().all(|b| b == b'0'), "nothing hides behind the scale");
            text = format!("{text}.{}", &fraction[..scale]);
        }
        if sign == NEGATIVE { format!("-{text}") } else { text }
    }

    /// The model's other half: puts a point into the digits of an integer.
    fn pointed(integer: &str, scale: usize) -> String {
        let (sign, digits) = match integer.strip_prefix('-') {
            Some(digits) => ("-", digits),
            None => ("", integer),
        };
        let digits = format!("{digits:0>width$}", width = scale + 1);
        let (before, after) = digits.split_at(digits.len() - scale);
        let dot = if scale > 0 { "." } else { "" };
        format!("{sign}{before}{dot}{after}")
    }

    fn through_text(text: &str) -> Result<String, NotNumeric> {
        let mut out = Vec::new();
        put_text(&mut out, text)?;
        Ok(read(&out))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn i128_is_exact(value: i128, shift in 0u32..127, scale in 0u8..=38) {
            let value = value >> shift;
            let mut out = Vec::new();
            put_i128(&mut out, value, scale);
            prop_assert_eq!(read(&out), pointed(&value.to_string(), scale.into()));
        }

        #[test]
        fn i256_is_exact(low: u128, high: i128, shift in 0u8..127, scale in 0u8..=76) {
            let value = i256::from_parts(low, high >> shift);
            let mut out = Vec::new();
            put_i256(&mut out, value, scale);
            prop_assert_eq!(read(&out), pointed(&value.to_string(), scale.into()));
        }

        #[test]
        fn text_is_exact(text in "-?(0|[1-9][0-9]{0,90})(\\.[0-9]{1,90})?") {
            // Postgres has no negative zero.
            let zero = text.bytes().all(|b| !(b'1'..=b'9').contains(&b));
            let expected = if zero { text.trim_start_matches('-').to_owned() } else { text.clone() };
            prop_assert_eq!(through_text(&text).unwrap(), expected);
        }

        #[test]
        fn any_text_is_a_number_or_an_error(text in "[-+0-9.eENaInfity ]{0,12}") {
            let is_number = text.trim_start_matches(['-', '+']).bytes().all(|b| b.is_ascii_digit() || b == b'.');
            if through_text(&text).is_ok() {
                prop_assert!(is_number || ["NaN", "Infinity", "-Infinity"].contains(&text.as_str()));
            }
        }
    }

    #[test]
    fn edges() {
        for text in ["0", "0.00", "1", "-1", "10000", "9999", "0.0001", "0.00001", "123456789.123456789", "NaN"] {
            assert_eq!(through_text(text).unwrap(), text);
        }
        for text in ["Infinity", "-Infinity", "100000000000000000000", "0.1000", "-99999999.9999"] {
            assert_eq!(through_text(text).unwrap(), text);
        }
        assert_eq!(through_text(".5").unwrap(), "0.5");
        assert_eq!(through_text("007").unwrap(), "7");
        for text in ["", "-", ".", "1e5", "1.2.3", " 1", "--1", "nan", "0x1", "+-1"] {
            assert_eq!(through_text(text), Err(NotNumeric::Syntax), "{text}");
        }
        let huge = "9".repeat(131_072);
        assert_eq!(through_text(&huge).unwrap(), huge);
        assert_eq!(through_text(&format!("{huge}9")), Err(NotNumeric::TooLong));
        assert_eq!(through_text(&format!("0.{}", "1".repeat(16_384))), Err(NotNumeric::TooLong));
        for value in [i128::MIN, i128::MAX, 0, 1, -1, 10_000, i128::from(u64::MAX), i128::from(u64::MAX) + 1] {
            for scale in 0..=38 {
                let mut out = Vec::new();
                put_i128(&mut out, value, scale);
                assert_eq!(read(&out), pointed(&value.to_string(), scale.into()));
            }
        }
    }
}
