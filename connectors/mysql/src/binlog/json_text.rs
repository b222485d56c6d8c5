//! Pieces of JSON text as the server prints them: doubles, strings, base64.

use super::reader::{Fault, Read};

/// Digits before the point, or zeros behind it, up to which a double is printed without an exponent (`DBL_DIG`).
const PLAIN_DIGITS: i32 = 15;

/// Appends a double as `my_gcvt` does (`strings/dtoa.cc`): the shortest digits that read back as the same value; `.0`
/// behind a whole number, as `Json_wrapper` adds.
pub fn push_double(value: f64, out: &mut String) -> Read<()> {
    if !value.is_finite() {
        return Err(Fault::Malformed("JSON number that is not finite"));
    }
    let shortest = format!("{:e}", value.abs());
    let (digits, exponent) = shortest.split_once('e').ok_or(Fault::Malformed("a double without an exponent"))?;
    let digits: String = digits.chars().filter(|c| *c != '.').collect();
    // The point stands behind so many digits.
    let point = exponent.parse::<i32>().map_err(|_| Fault::Malformed("a double without an exponent"))? + 1;
    if value.is_sign_negative() {
        out.push('-');
    }
    if value == 0.0 {
        out.push_str("0.0");
    } else if !(1 - PLAIN_DIGITS..=PLAIN_DIGITS).contains(&point) {
        push_exponential(&digits, point - 1, out);
    } else if point <= 0 {
        out.push_str("0.");
        out.extend(std::iter::repeat_n('0', point.unsigned_abs() as usize));
        out.push_str(&digits);
    } else {
        let whole = digits.len().min(point as usize);
        out.push_str(&digits[..whole]);
        out.extend(std::iter::repeat_n('0', point as usize - whole));
        out.push('.');
        out.push_str(if whole < digits.len() { &digits[whole..] } else { "0" });
    }
    Ok(())
}

fn push_exponential(digits: &str, exponent: i32, out: &mut String) {
    out.push_str(&digits[..1]);
    if digits.len() > 1 {
        out.push('.');
        out.push_str(&digits[1..]);
    }
    out.push('e');
    out.push_str(&exponent.to_string());
}

/// Appends a string in double quotes, escaped as `double_quote` does (`sql-common/json_dom.cc`).
pub fn push_quoted(text: &str, out: &mut String) {
    out.push('"');
    let mut plain = 0;
    for (i, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[plain..i]);
        plain = i + 1;
        out.push('\\');
        match byte {
            b'"' | b'\\' => out.push(byte as char),
            0x08 => out.push('b'),
            0x09 => out.push('t'),
            0x0a => out.push('n'),
            0x0c => out.push('f'),
            0x0d => out.push('r'),
            _ => out.push_str(&format!("u{byte:04x}")),
        }
    }
    out.push_str(&text[plain..]);
    out.push('"');
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends base64 with a line feed, which JSON writes as `\\n`, after every 76 characters that others follow, as
/// `base64_encode` does (`mysys/base64.cc`).
pub fn push_base64(bytes: &[u8], out: &mut String) {
    for (i, three) in bytes.chunks(3).enumerate() {
        if i > 0 && i % 19 == 0 {
            out.push_str("\\n");
        }
        let group = three.iter().fold(0u32, |sum, &b| sum << 8 | u32::from(b)) << (8 * (3 - three.len()));
        for k in 0..4 {
            let six = group >> (18 - 6 * k) & 63;
            out.push(if k <= three.len() { BASE64[six as usize] as char } else { '=' });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn double(value: f64) -> String {
        let mut out = String::new();
        push_double(value, &mut out).unwrap();
        out
    }

    #[test]
    fn doubles() {
        for (value, text) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (-12.5, "-12.5"),
            (1e14, "100000000000000.0"),
            (1e15, "1e15"),
            (123456789012345.0, "123456789012345.0"),
            (1e-15, "0.000000000000001"),
            (1e-16, "1e-16"),
            (1.5e300, "1.5e300"),
            (1.7976931348623157e308, "1.7976931348623157e308"),
        ] {
            assert_eq!(double(value), text);
        }
    }

    #[test]
    fn strings_and_base64() {
        let mut out = String::new();
        push_quoted("a\"\\\u{1}\n/é", &mut out);
        assert_eq!(out, r#""a\"\\\u0001\n/é""#);
        let mut out = String::new();
        push_base64(b"abcd", &mut out);
        assert_eq!(out, "YWJjZA==");
    }
}
