//! Writes records as WRITE_ROWS_EVENTv2 bodies: the input that [`crate::mysql`] decodes.

use crate::mysql::DIGIT_BYTES;
use crate::reader::civil;
use crate::table::{AMOUNT, COLUMNS, Record};

/// Event bodies of about 8 KiB, `binlog_row_event_max_size`'s default, as the server cuts them.
pub fn events(records: &[Record]) -> Vec<Vec<u8>> {
    let header = [1, 0, 0, 0, 0, 0, 1, 0, 2, 0, COLUMNS.len() as u8, 0xff, 0x07];
    let mut events = Vec::new();
    let mut event = header.to_vec();
    for record in records {
        row(record, &mut event);
        if event.len() >= 8_192 {
            events.push(std::mem::replace(&mut event, header.to_vec()));
        }
    }
    if event.len() > header.len() {
        events.push(event);
    }
    events
}

/// One row image.
fn row(record: &Record, out: &mut Vec<u8>) {
    let nulls = [
        false,
        record.quantity.is_none(),
        record.warehouse.is_none(),
        record.amount.is_none(),
        record.weight.is_none(),
        record.sku.is_none(),
        record.note.is_none(),
        record.changed.is_none(),
        record.due.is_none(),
        false,
        record.payload.is_none(),
    ];
    let bits = nulls.iter().enumerate().fold(0u16, |bits, (column, &null)| bits | u16::from(null) << column);
    out.extend(bits.to_le_bytes());
    out.extend(record.id.to_le_bytes());
    out.extend(record.quantity.iter().flat_map(|v| v.to_le_bytes()));
    out.extend(record.warehouse.iter().flat_map(|v| v.to_le_bytes()));
    if let Some(unscaled) = record.amount {
        decimal(unscaled.into(), AMOUNT.0, AMOUNT.1, out);
    }
    out.extend(record.weight.iter().flat_map(|v| v.to_le_bytes()));
    if let Some(sku) = &record.sku {
        out.push(sku.len() as u8);
        out.extend(sku.as_bytes());
    }
    if let Some(note) = &record.note {
        out.extend((note.len() as u16).to_le_bytes());
        out.extend(note.as_bytes());
    }
    if let Some(micros) = record.changed {
        datetime6(micros, out);
    }
    if let Some(due) = record.due {
        let (year, month, day) = civil(due);
        out.extend(&((year as u32) << 9 | month << 5 | day).to_le_bytes()[..3]);
    }
    out.extend(record.state.to_le_bytes());
    if let Some(payload) = &record.payload {
        out.extend((payload.len() as u16).to_le_bytes());
        out.extend(payload);
    }
}

/// The packed decimal of an unscaled value.
pub fn decimal(unscaled: i128, precision: u8, scale: u8, out: &mut Vec<u8>) {
    let digits = format!("{:0width$}", unscaled.unsigned_abs(), width = usize::from(precision));
    let (whole, fraction) = digits.split_at(usize::from(precision - scale));
    let (head, middle) = whole.split_at(whole.len() % 9);
    let (rest, tail) = fraction.split_at(fraction.len() / 9 * 9);
    let nines = [middle, rest].into_iter().flat_map(|part| part.as_bytes().chunks(9));
    let groups = [head.as_bytes()].into_iter().chain(nines).chain([tail.as_bytes()]);
    let start = out.len();
    for group in groups {
        let value = group.iter().fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
        out.extend(&value.to_be_bytes()[4 - DIGIT_BYTES[group.len()]..]);
    }
    if unscaled < 0 {
        out[start..].iter_mut().for_each(|byte| *byte ^= 0xff);
    }
    out[start] ^= 0x80;
}

/// DATETIME2(6) of microseconds since 1970.
pub fn datetime6(micros: i64, out: &mut Vec<u8>) {
    let seconds = micros.div_euclid(1_000_000);
    let (year, month, day) = civil(seconds.div_euclid(86_400) as i32);
    let of_day = seconds.rem_euclid(86_400);
    let ymd = (i64::from(year) * 13 + i64::from(month)) << 5 | i64::from(day);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    let hms = hour << 12 | minute << 6 | second;
    out.extend(&((ymd << 17 | hms) + 0x80_0000_0000).to_be_bytes()[3..]);
    out.extend(&(micros.rem_euclid(1_000_000) as u32).to_be_bytes()[1..]);
}
