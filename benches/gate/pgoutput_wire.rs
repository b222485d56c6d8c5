//! Writes records as pgoutput Insert messages in their frames: the input that [`crate::pgoutput`] decodes.

use crate::copy;
use crate::pgoutput::RELATION;
use crate::table::{AMOUNT, COLUMNS, Record};

/// One stream of CopyData frames.
pub fn stream(records: &[Record]) -> Vec<u8> {
    let mut out = Vec::new();
    for (sequence, record) in records.iter().enumerate() {
        let start = out.len() + 1;
        out.extend(b"d\0\0\0\0w");
        let lsn = (sequence as u64) << 8;
        out.extend([lsn, lsn, 0].iter().flat_map(|field| field.to_be_bytes()));
        insert(record, &mut out);
        let length = (out.len() - start) as u32;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
    out
}

/// One Insert message. The values of `pgoutput` in binary are those of COPY, each behind a tag.
fn insert(record: &Record, out: &mut Vec<u8>) {
    out.push(b'I');
    out.extend(RELATION.to_be_bytes());
    out.push(b'N');
    out.extend((COLUMNS.len() as u16).to_be_bytes());
    tagged(Some(record.id), copy::int64, out);
    tagged(record.quantity.map(i64::from), copy::int64, out);
    tagged(record.warehouse, copy::int16, out);
    tagged(record.amount, |unscaled, out| copy::numeric(unscaled.into(), AMOUNT.1, out), out);
    tagged(record.weight, copy::float, out);
    tagged(record.sku.as_deref().map(str::as_bytes), copy::bytes, out);
    tagged(record.note.as_deref().map(str::as_bytes), copy::bytes, out);
    tagged(record.changed, copy::timestamp, out);
    tagged(record.due, copy::date, out);
    tagged(Some(record.state.into()), copy::int16, out);
    tagged(record.payload.as_deref(), copy::bytes, out);
}

/// `n`, or `b` and the field.
fn tagged<T>(value: Option<T>, field: impl FnOnce(T, &mut Vec<u8>), out: &mut Vec<u8>) {
    match value {
        None => out.push(b'n'),
        Some(value) => {
            out.push(b'b');
            field(value, out);
        }
    }
}
