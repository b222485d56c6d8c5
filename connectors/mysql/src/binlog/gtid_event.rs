//! Events that begin a transaction and name it.

use super::gtid::{Gtid, MAX_NUMBER, Tsid, parse_tag};
use super::gtid_list::MariaGtid;
use super::reader::{Fault, Read, Reader, utf8};

/// What a MySQL GTID event says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MySqlBegin {
    /// The transaction; meaningless in ANONYMOUS_GTID.
    pub gtid: Gtid,
    /// Commit time on this server in microseconds since 1970; servers before 8.0 do not tell.
    pub commit_micros: Option<i64>,
}

/// GTID and ANONYMOUS_GTID (`libs/mysql/binlog/event/control_events.h`): flags 1, UUID 16, number 8, then since 5.7 a type
/// byte 2 and logical clocks 16, then since 8.0 commit times of 7 bytes, the highest bit of which says that the original
/// server's follows.
pub fn parse(body: &[u8], anonymous: bool) -> Read<MySqlBegin> {
    let mut r = Reader(body);
    r.take(1)?;
    let uuid = r.array::<16>()?;
    let number = r.u64()?;
    if !anonymous && !(1..=MAX_NUMBER).contains(&number) {
        return Err(Fault::Malformed("a transaction number out of range"));
    }
    let gtid = Gtid { tsid: Tsid { uuid, tag: String::new() }, number };
    let mut commit_micros = None;
    if r.len() >= 17 + 7 && r.u8()? == 2 {
        r.take(16)?;
        commit_micros = Some((r.uint(7)? & !(1 << 55)) as i64);
    }
    Ok(MySqlBegin { gtid, commit_micros })
}

/// GTID_TAGGED, in MySQL's serialization format (`libs/mysql/serialization/readme.md`): version, size and last field that may
/// not be ignored, then `field id, value` in ascending order. Numbers have their width in the low bits of the first byte.
pub fn parse_tagged(body: &[u8]) -> Read<MySqlBegin> {
    let mut r = Reader(body);
    if varlen(&mut r)? != 1 {
        return Err(Fault::Malformed("GTID_TAGGED of an unknown version"));
    }
    let size = varlen(&mut r)? as usize;
    let must_know = varlen(&mut r)?;
    if must_know > 11 {
        return Err(Fault::Malformed("GTID_TAGGED with a field that must be understood and is not known"));
    }
    let consumed = body.len() - r.len();
    let fields = size.checked_sub(consumed).ok_or(Fault::Malformed("GTID_TAGGED shorter than its head"))?;
    let mut r = Reader(r.take(fields)?);
    let (mut uuid, mut number, mut tag, mut commit_micros) = (None, None, String::new(), None);
    while !r.is_empty() {
        match varlen(&mut r)? {
            1 => {
                let mut bytes = [0; 16];
                for byte in &mut bytes {
                    *byte = u8::try_from(varlen(&mut r)?).map_err(|_| Fault::Malformed("a UUID byte above 255"))?;
                }
                uuid = Some(bytes);
            }
            2 => number = Some(signed(varlen(&mut r)?)),
            3 => {
                let n = varlen(&mut r)? as usize;
                let text = utf8(r.take(n)?)?;
                if !text.is_empty() {
                    tag = parse_tag(text).ok_or(Fault::Malformed("a GTID tag of other characters than a-z, 0-9, _"))?;
                }
            }
            6 => commit_micros = Some(varlen(&mut r)? as i64),
            0 | 4 | 5 | 7..=11 => {
                varlen(&mut r)?;
            }
            // Fields beyond need not be understood, and nothing that is needed comes behind them.
            _ => break,
        }
    }
    let number = number.and_then(|n| u64::try_from(n).ok()).filter(|n| (1..=MAX_NUMBER).contains(n));
    match (uuid, number) {
        (Some(uuid), Some(number)) => Ok(MySqlBegin { gtid: Gtid { tsid: Tsid { uuid, tag }, number }, commit_micros }),
        _ => Err(Fault::Malformed("GTID_TAGGED without source or number")),
    }
}

/// An unsigned number: as many low one bits in the first byte as further bytes follow, a zero bit, then the value.
fn varlen(r: &mut Reader<'_>) -> Read<u64> {
    let first = r.u8()?;
    let more = first.trailing_ones() as usize;
    if more == 8 {
        return r.u64();
    }
    let rest = r.uint(more)?;
    // Seven or fewer further bytes: the shift by at most eight keeps everything.
    let low = if more == 7 { 0 } else { u64::from(first) >> (more + 1) };
    Ok(rest << (7 - more) | low)
}

/// A signed number has its sign in the lowest bit.
fn signed(n: u64) -> i64 {
    let magnitude = (n >> 1) as i64;
    if n & 1 == 1 { -magnitude - 1 } else { magnitude }
}

/// What MariaDB's GTID event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MariaBegin {
    /// The transaction.
    pub gtid: MariaGtid,
    /// A single statement follows, without an end of its own.
    pub standalone: bool,
    /// It prepares or completes an XA transaction.
    pub xa: bool,
}

/// GTID of MariaDB (`sql/log_event.h`, `Gtid_log_event`): sequence 8, domain 4, flags 1. The server's id is the header's.
pub fn parse_maria(body: &[u8], server: u32) -> Read<MariaBegin> {
    let mut r = Reader(body);
    let (sequence, domain, flags) = (r.u64()?, r.u32()?, r.u8()?);
    Ok(MariaBegin {
        gtid: MariaGtid { domain, server, sequence },
        standalone: flags & 1 != 0,
        xa: flags & (64 | 128) != 0,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(n: u64) -> Vec<u8> {
        let bits = 64 - n.leading_zeros().min(63);
        let more = (bits.saturating_sub(1) / 7) as usize;
        if more >= 8 {
            return [&[0xff][..], &n.to_le_bytes()].concat();
        }
        let value = n << (more + 1) | ((1 << more) - 1);
        let wide = (u128::from(n) << (more + 1) | ((1u128 << more) - 1)).to_le_bytes();
        debug_assert!(more == 7 || value.to_le_bytes()[..=more] == wide[..=more]);
        wide[..=more].to_vec()
    }

    proptest! {
        #[test]
        fn numbers_of_any_width(n: u64, shift in 0u32..64) {
            let n = n >> shift;
            prop_assert_eq!(varlen(&mut Reader(&encode(n))).unwrap(), n);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = (parse(&bytes, false), parse_tagged(&bytes), parse_maria(&bytes, 1));
            let _ = parse_tagged(&[&[2, 100, 20], &bytes[..]].concat());
        }
    }

    #[test]
    fn commit_time_without_its_flag() {
        let mut body = vec![1; 17];
        body.extend(5u64.to_le_bytes());
        body.push(2);
        body.extend([0; 16]);
        body.extend(&(1_700_000_000_000_000u64 | 1 << 55).to_le_bytes()[..7]);
        let begin = parse(&body, false).unwrap();
        assert_eq!((begin.gtid.number, begin.commit_micros), (5, Some(1_700_000_000_000_000)));
    }
}
