//! Postgres' binary `numeric` to decimals and to text, exactly.
//!
//! The wire form (`numeric_send` in the server's numeric.c) is four 16-bit words (number of digits, weight, sign, digits
//! shown after the point) and then digits of base 10000, most significant first; digit `i` counts 10000^(weight - i).
//! A value that does not fit its decimal is an error, never a rounded value. The text is what the server prints.

use arrow_buffer::i256;

/// A `numeric` as it was sent.
#[derive(Debug, Clone, Copy)]
pub struct Numeric<'a> {
    digits: &'a [u8],
    weight: i32,
    sign: Sign,
    scale: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Positive,
    Negative,
    NaN,
    Infinity,
    NegativeInfinity,
}

const POW10: [u16; 4] = [1, 10, 100, 1000];

impl<'a> Numeric<'a> {
    /// Reads the header; `None` if the bytes are no `numeric`.
    pub fn parse(bytes: &'a [u8]) -> Option<Numeric<'a>> {
        let (header, digits) = bytes.split_first_chunk::<8>()?;
        let word = |i: usize| u16::from_be_bytes([header[i * 2], header[i * 2 + 1]]);
        let sign = match word(2) {
            0x0000 => Sign::Positive,
            0x4000 => Sign::Negative,
            0xC000 => Sign::NaN,
            0xD000 => Sign::Infinity,
            0xF000 => Sign::NegativeInfinity,
            _ => return None,
        };
        let numeric = Numeric { digits, weight: i32::from(word(1) as i16), sign, scale: usize::from(word(3)) };
        let whole = digits.len() == usize::from(word(0)) * 2 && numeric.digits().all(|d| d < 10_000);
        whole.then_some(numeric)
    }

    fn digits(&self) -> impl Iterator<Item = u16> + 'a {
        self.digits.chunks_exact(2).map(|d| u16::from_be_bytes([d[0], d[1]]))
    }

    /// The value times 10^scale; `None` if that is no whole number or too large.
    pub fn to_i128(self, scale: u8) -> Option<i128> {
        let negative = self.negative()?;
        if let Some(short) = self.short(scale) {
            return Some(i128::from(if negative { -short } else { short }));
        }
        let mut sum: i128 = 0;
        let mut exponent = 0;
        for (digit, e) in self.places(scale) {
            let (factor, add) = step(digit, e, negative)?;
            sum = sum.checked_mul(i128::from(factor))?.checked_add(i128::from(add))?;
            exponent = e;
        }
        for _ in 0..exponent {
            sum = sum.checked_mul(10)?;
        }
        Some(sum)
    }

    /// The amount times 10^scale of a short number whose last digit is at the scale or cut by it, as most are: in 64 bits.
    fn short(&self, scale: u8) -> Option<i64> {
        let groups = self.digits.len() / 2;
        let last = (self.weight + 1) * 4 + i32::from(scale) - 4 * groups as i32;
        if groups > 4 || !(-3..=3).contains(&last) {
            return None;
        }
        let sum = self.digits().fold(0, |sum, digit| sum * 10_000 + i64::from(digit));
        let unit = i64::from(POW10[last.unsigned_abs() as usize]);
        match last {
            0.. => sum.checked_mul(unit),
            _ => (sum % unit == 0).then_some(sum / unit),
        }
    }

    /// As [`Numeric::to_i128`].
    pub fn to_i256(self, scale: u8) -> Option<i256> {
        if let Some(narrow) = self.to_i128(scale) {
            return Some(i256::from_i128(narrow));
        }
        let negative = self.negative()?;
        let mut sum = i256::ZERO;
        let mut exponent = 0;
        for (digit, e) in self.places(scale) {
            let (factor, add) = step(digit, e, negative)?;
            sum =
                sum.checked_mul(i256::from_i128(i128::from(factor)))?.checked_add(i256::from_i128(i128::from(add)))?;
            exponent = e;
        }
        for _ in 0..exponent {
            sum = sum.checked_mul(i256::from_i128(10))?;
        }
        Some(sum)
    }

    /// `None` for NaN and the infinities.
    fn negative(&self) -> Option<bool> {
        match self.sign {
            Sign::Positive => Some(false),
            Sign::Negative => Some(true),
            Sign::NaN | Sign::Infinity | Sign::NegativeInfinity => None,
        }
    }

    /// Each digit with the power of ten of its lowest decimal digit, once the value is multiplied by 10^scale.
    fn places(&self, scale: u8) -> impl Iterator<Item = (u16, i32)> + 'a {
        let top = self.weight * 4 + i32::from(scale);
        self.digits().zip(0..).map(move |(digit, i): (u16, i32)| (digit, top - i * 4))
    }

    /// As the server prints it.
    pub fn to_text(self) -> String {
        match self.sign {
            Sign::NaN => return "NaN".into(),
            Sign::Infinity => return "Infinity".into(),
            Sign::NegativeInfinity => return "-Infinity".into(),
            Sign::Positive | Sign::Negative => {}
        }
        let mut text = String::new();
        if self.sign == Sign::Negative {
            text.push('-');
        }
        // Weight and scale are 16 bits wide, so this is at most 147,000 characters.
        let digit = |place: i32| {
            let at = usize::try_from(self.weight - place).ok().map(|i| i * 2);
            let bytes = at.and_then(|at| self.digits.get(at..at + 2));
            bytes.map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
        };
        if self.weight < 0 {
            text.push('0');
        } else {
            text.push_str(&digit(self.weight).to_string());
            (0..self.weight).rev().for_each(|place| push4(&mut text, digit(place)));
        }
        if self.scale > 0 {
            text.push('.');
            let end = text.len() + self.scale;
            let groups = i32::try_from(self.scale.div_ceil(4)).unwrap_or(i32::MAX);
            (1..=groups).for_each(|group| push4(&mut text, digit(-group)));
            text.truncate(end);
        }
        text
    }
}

/// By what to multiply the sum so far, and what to add, for a digit whose lowest decimal place is 10^e. `None` if the digit
/// has a part behind the point.
fn step(digit: u16, e: i32, negative: bool) -> Option<(u16, i16)> {
    let (factor, add) = match e {
        0.. => (10_000, digit),
        -3..=-1 => {
            let below = POW10[e.unsigned_abs() as usize];
            if !digit.is_multiple_of(below) {
                return None;
            }
            (10_000 / below, digit / below)
        }
        _ if digit == 0 => (1, 0),
        _ => return None,
    };
    // Negative sums are built downwards: the least number has no positive counterpart.
    Some((factor, if negative { -(add as i16) } else { add as i16 }))
}

fn push4(text: &mut String, digit: u16) {
    for unit in [1000, 100, 10, 1] {
        text.push(char::from(b'0' + (digit / unit % 10) as u8));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::numeric::{put_i128, put_i256, put_text};

    proptest! {
        #[test]
        fn decimals_come_back(value: i128, scale in 0u8..=38) {
            let mut bytes = Vec::new();
            put_i128(&mut bytes, value, scale);
            let numeric = Numeric::parse(&bytes).unwrap();
            prop_assert_eq!(numeric.to_i128(scale), Some(value));
            prop_assert_eq!(numeric.to_i256(scale), Some(i256::from_i128(value)));
        }

        #[test]
        fn wide_decimals_come_back(high: i128, low: u128, scale in 0u8..=76) {
            let value = i256::from_parts(low, high);
            let mut bytes = Vec::new();
            put_i256(&mut bytes, value, scale);
            prop_assert_eq!(Numeric::parse(&bytes).unwrap().to_i256(scale), Some(value));
        }

        #[test]
        fn text_comes_back(text in "-?(0|[1-9][0-9]{0,60})(\\.[0-9]{1,60})?") {
            let mut bytes = Vec::new();
            put_text(&mut bytes, &text).unwrap();
            let zero = text.bytes().all(|b| matches!(b, b'-' | b'0' | b'.'));
            let want = if zero { text.trim_start_matches('-') } else { text.as_str() };
            prop_assert_eq!(Numeric::parse(&bytes).unwrap().to_text(), want);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            if let Some(n) = Numeric::parse(&bytes) {
                n.to_text();
                n.to_i128(3);
                n.to_i256(40);
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let numeric = |text: &str| {
            let mut bytes = Vec::new();
            put_text(&mut bytes, text).unwrap();
            bytes
        };
        for (text, scale, want) in [
            ("1.25", 2, Some(125)),
            ("1.25", 1, None),
            ("1.250", 2, Some(125)),
            ("0.0001", 3, None),
            ("12345678.9", 1, Some(123_456_789)),
            ("20000", 0, Some(20_000)),
            ("100000000", 2, Some(10_000_000_000)),
            ("-7", 0, Some(-7)),
            ("NaN", 0, None),
            ("-Infinity", 0, None),
            ("170141183460469231731687303715884105728", 0, None),
        ] {
            assert_eq!(Numeric::parse(&numeric(text)).unwrap().to_i128(scale), want, "{text}");
        }
    }
}
