//! Decimal numbers of any length, exactly: how far two figures are apart, and whether that is more than is allowed.
//!
//! A sum of money as a `double` is off by cents beyond some billions, which is what a bound of `1.00` is there to find. Nothing but
//! subtraction and order is needed, so digits are kept as they are read.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// A decimal number. Equal numbers are equal values: `1.50` and `1.5` are one, `-0` is `0`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decimal {
    negative: bool,
    /// Most significant first, no zero at the beginning, nor at the end behind the point; none: zero.
    digits: Vec<u8>,
    /// How many of them stand behind the point.
    scale: usize,
}

/// Exponents beyond this are of no figure, and would be written out in memory.
const EXPONENT: i32 = 1_000;

impl Decimal {
    fn new(negative: bool, mut digits: Vec<u8>, mut scale: usize) -> Decimal {
        while scale > 0 && digits.last() == Some(&0) {
            digits.pop();
            scale -= 1;
        }
        // Also zeros right behind the point go: their places are told by the scale.
        let zeros = digits.iter().take_while(|d| **d == 0).count();
        digits.drain(..zeros);
        match digits.is_empty() {
            true => Decimal::default(),
            false => Decimal { negative, digits, scale },
        }
    }

    /// How far the two are apart.
    pub fn distance(&self, other: &Decimal) -> Decimal {
        let (a, b, scale) = aligned(self, other);
        let digits = match (self.negative == other.negative, a.cmp(&b)) {
            (false, _) => sum(&a, &b),
            (true, Ordering::Less) => difference(&b, &a),
            (true, Ordering::Equal | Ordering::Greater) => difference(&a, &b),
        };
        Decimal::new(false, digits, scale)
    }

    /// Whether it is less than zero.
    pub fn is_negative(&self) -> bool {
        self.negative
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        self.digits.is_empty()
    }
}

/// The digits of both, with as many places before and behind the point.
fn aligned(a: &Decimal, b: &Decimal) -> (Vec<u8>, Vec<u8>, usize) {
    let scale = a.scale.max(b.scale);
    let behind = |d: &Decimal| d.digits.iter().copied().chain(std::iter::repeat_n(0, scale - d.scale)).collect();
    let (a, b): (Vec<u8>, Vec<u8>) = (behind(a), behind(b));
    let length = a.len().max(b.len());
    let before = |d: Vec<u8>| std::iter::repeat_n(0, length - d.len()).chain(d).collect();
    (before(a), before(b), scale)
}

/// Of as many digits.
fn sum(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut carry = 0;
    let mut digits: Vec<u8> = Vec::with_capacity(a.len() + 1);
    for (a, b) in a.iter().zip(b).rev() {
        let digit = a + b + carry;
        digits.push(digit % 10);
        carry = digit / 10;
    }
    digits.push(carry);
    digits.reverse();
    digits
}

/// Of as many digits, the first number not the lesser one.
fn difference(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut borrow = 0;
    let mut digits: Vec<u8> = Vec::with_capacity(a.len());
    for (a, b) in a.iter().zip(b).rev() {
        let (from, take) = (*a, b + borrow);
        borrow = u8::from(from < take);
        digits.push(from + 10 * borrow - take);
    }
    digits.reverse();
    digits
}

impl Ord for Decimal {
    fn cmp(&self, other: &Decimal) -> Ordering {
        let (a, b, _) = aligned(self, other);
        match (self.negative, other.negative) {
            (false, false) => a.cmp(&b),
            (true, true) => b.cmp(&a),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Decimal) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for Decimal {
    type Err = ();

    /// `-12.50`, `7`, `.5`, `1.5e+20`. Whatever else a server prints (`NaN`, a date) is no number.
    fn from_str(text: &str) -> Result<Decimal, ()> {
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (number, exponent) = match rest.split_once(['e', 'E']) {
            Some((number, exponent)) => (number, exponent.parse::<i32>().map_err(drop)?),
            None => (rest, 0),
        };
        if !(-EXPONENT..=EXPONENT).contains(&exponent) {
            return Err(());
        }
        let (before, behind) = number.split_once('.').unwrap_or((number, ""));
        let digit = |b: u8| b.is_ascii_digit().then(|| b - b'0').ok_or(());
        let mut digits = before.bytes().chain(behind.bytes()).map(digit).collect::<Result<Vec<u8>, ()>>()?;
        if digits.is_empty() {
            return Err(());
        }
        // Behind the point stand as many places more as the exponent takes away, or as many less as it gives.
        let scale = behind.len() as i64 - i64::from(exponent);
        digits.extend(std::iter::repeat_n(0, usize::try_from(-scale).unwrap_or(0)));
        Ok(Decimal::new(negative, digits, usize::try_from(scale).unwrap_or(0)))
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: String = self.digits.iter().map(|d| char::from(b'0' + d)).collect();
        // One digit at least before the point.
        let text = format!("{text:0>width$}", width = self.scale + 1);
        let (before, behind) = text.split_at(text.len() - self.scale);
        let sign = if self.negative { "-" } else { "" };
        match behind {
            "" => write!(f, "{sign}{before}"),
            behind => write!(f, "{sign}{before}.{behind}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn d(text: &str) -> Decimal {
        text.parse().unwrap_or_else(|()| panic!("{text} is a number"))
    }

    #[test]
    fn a_number_has_one_form() {
        for (text, form) in [
            ("12.50", "12.5"),
            ("-0.00", "0"),
            ("0007", "7"),
            (".5", "0.5"),
            ("5.", "5"),
            ("-0.050", "-0.05"),
            ("1.5e+3", "1500"),
            ("1e-3", "0.001"),
            ("12E1", "120"),
            ("100", "100"),
            ("+3", "3"),
        ] {
            assert_eq!(d(text).to_string(), form, "{text}");
            assert_eq!(d(text), d(form), "{text}");
        }
        for text in ["", "-", ".", "NaN", "Infinity", "1.2.3", "1e", "1e9999", "2024-01-01", "1 ", "0x1", "٣", "--1"] {
            assert_eq!(text.parse::<Decimal>(), Err(()), "{text}");
        }
    }

    #[test]
    fn a_cent_is_seen_beside_any_sum() {
        let (a, b) = (d("99999999999999999999999999.99"), d("100000000000000000000000000"));
        assert_eq!(a.distance(&b), d("0.01"));
        assert_eq!(d("-1.5").distance(&d("1.5")), d("3"));
        assert_eq!(d("7").distance(&d("7.000")), d("0"));
        assert!(d("1.00") < d("1.000001") && d("-2") < d("-1") && d("-1") < d("0.1") && d("9.9") < d("10"));
    }

    proptest! {
        #[test]
        fn it_is_what_whole_numbers_say(a in -10i128.pow(30)..10i128.pow(30), b in -10i128.pow(30)..10i128.pow(30), scale in 0u32..12) {
            let place = |n: i128| d(&format!("{n}e-{scale}"));
            prop_assert_eq!(place(a).distance(&place(b)), place((a - b).abs()));
            prop_assert_eq!(place(a).cmp(&place(b)), a.cmp(&b));
            prop_assert_eq!(d(&place(a).to_string()), place(a));
        }

        #[test]
        fn no_text_panics(text in "[-+0-9.eE]{0,12}|\\PC{0,8}") {
            let _ = text.parse::<Decimal>();
        }
    }
}
