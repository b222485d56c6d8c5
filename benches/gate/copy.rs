//! Fields of Postgres' binary COPY: the first of the two ends that decoded rows are taken to.
//!
//! Layout after the PostgreSQL manual, COPY, "Binary Format", and for values the `*send` functions of
//! `src/backend/utils/adt` (`numeric.c`, `timestamp.c`, `date.c`). Both shapes call these same functions.

/// Days from 1970-01-01 to 2000-01-01, where Postgres counts from.
pub const EPOCH_DAYS: i32 = 10_957;
/// The same in microseconds.
pub const EPOCH_MICROS: i64 = EPOCH_DAYS as i64 * 86_400_000_000;

/// Signature, flags and extension length.
pub fn header(out: &mut Vec<u8>) {
    out.extend(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
}

/// Begins a tuple.
pub fn tuple(columns: usize, out: &mut Vec<u8>) {
    out.extend((columns as i16).to_be_bytes());
}

/// Ends the stream.
pub fn trailer(out: &mut Vec<u8>) {
    out.extend((-1i16).to_be_bytes());
}

/// NULL.
pub fn null(out: &mut Vec<u8>) {
    out.extend((-1i32).to_be_bytes());
}

/// `smallint`.
pub fn int16(value: i16, out: &mut Vec<u8>) {
    bytes(&value.to_be_bytes(), out);
}

/// `bigint`.
pub fn int64(value: i64, out: &mut Vec<u8>) {
    bytes(&value.to_be_bytes(), out);
}

/// `double precision`.
pub fn float(value: f64, out: &mut Vec<u8>) {
    bytes(&value.to_be_bytes(), out);
}

/// `date`, from days since 1970.
pub fn date(days: i32, out: &mut Vec<u8>) {
    bytes(&(days - EPOCH_DAYS).to_be_bytes(), out);
}

/// `timestamp`, from microseconds since 1970.
pub fn timestamp(micros: i64, out: &mut Vec<u8>) {
    bytes(&(micros - EPOCH_MICROS).to_be_bytes(), out);
}

/// `text`, `bytea`, and every value that is its bytes.
pub fn bytes(value: &[u8], out: &mut Vec<u8>) {
    out.extend((value.len() as i32).to_be_bytes());
    out.extend(value);
}

/// `numeric`: base-10000 digits without zeros at either end, the weight of the first, sign, and scale for display.
pub fn numeric(unscaled: i128, scale: u8, out: &mut Vec<u8>) {
    // 38 digits, aligned to the point, are at most eleven groups.
    let mut groups = [0i16; 11];
    let fraction_groups = i32::from(scale.div_ceil(4));
    let mut rest = unscaled.unsigned_abs();
    let mut count = 0;
    // The last fraction group is filled up with zeros on the right: 0.5 is the group 5000.
    let partial = u32::from(scale % 4);
    if partial != 0 {
        let group;
        (rest, group) = divide(rest, 10u32.pow(partial));
        groups[0] = group * 10i16.pow(4 - partial);
        count = 1;
    }
    while rest != 0 {
        (rest, groups[count]) = divide(rest, 10_000);
        count += 1;
    }
    let low = groups[..count].iter().take_while(|&&group| group == 0).count();
    let high = count - groups[low..count].iter().rev().take_while(|&&group| group == 0).count();
    let digits = &groups[low..high];
    let weight = if digits.is_empty() { 0 } else { high as i32 - fraction_groups - 1 };
    let sign: u16 = if unscaled < 0 { 0x4000 } else { 0 };
    out.extend((8 + 2 * digits.len() as i32).to_be_bytes());
    out.extend((digits.len() as i16).to_be_bytes());
    out.extend((weight as i16).to_be_bytes());
    out.extend(sign.to_be_bytes());
    out.extend(u16::from(scale).to_be_bytes());
    for group in digits.iter().rev() {
        out.extend(group.to_be_bytes());
    }
}

/// Quotient and remainder. 128-bit division is a library call; all but the widest values go the short way.
fn divide(value: u128, by: u32) -> (u128, i16) {
    match u64::try_from(value) {
        Ok(short) => ((short / u64::from(by)).into(), (short % u64::from(by)) as i16),
        Err(_) => (value / u128::from(by), (value % u128::from(by)) as i16),
    }
}
