//! What only MariaDB writes: UUID and INET columns, compressed rows and statements.

use std::io::Read as _;
use std::net::Ipv4Addr;

use flate2::read::ZlibDecoder;

use super::reader::{Fault, Read, Reader};

/// A UUID from its record form. The server keeps versions 1 to 5 with their last group first, so that an index on them
/// follows time, and others as they print. What it keeps turned shows by its variant at byte 6 and its version at byte 8
/// (`UUID::rec_need_swap` in `plugin/type_uuid/sql_type_uuid.h`).
pub fn uuid(bytes: &[u8]) -> Read<[u8; 16]> {
    let stored: [u8; 16] = bytes.try_into().map_err(|_| Fault::Malformed("a UUID of other than 16 bytes"))?;
    let turned = stored[6] & 0x80 != 0 && (1..=0x80).contains(&stored[8]);
    if !turned {
        return Ok(stored);
    }
    let mut uuid = [0; 16];
    // Groups node, clock, version, middle, low: 6, 2, 2, 2, 4 bytes.
    uuid[..4].copy_from_slice(&stored[12..16]);
    uuid[4..6].copy_from_slice(&stored[10..12]);
    uuid[6..8].copy_from_slice(&stored[8..10]);
    uuid[8..10].copy_from_slice(&stored[6..8]);
    uuid[10..].copy_from_slice(&stored[..6]);
    Ok(uuid)
}

/// An address as the server prints it (`Inet6::to_string`, `Inet4::to_string`).
pub fn inet(bytes: &[u8]) -> Read<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ipv4Addr::from(v4).to_string());
    }
    let v6: [u8; 16] = bytes.try_into().map_err(|_| Fault::Malformed("an address of neither 4 nor 16 bytes"))?;
    let tail = Ipv4Addr::from([v6[12], v6[13], v6[14], v6[15]]);
    let mapped = v6[..10] == [0; 10] && v6[10..12] == [0xff; 2];
    let compatible = v6[..12] == [0; 12] && v6[12..14] != [0; 2];
    if mapped || compatible {
        return Ok(format!("::{}{tail}", if mapped { "ffff:" } else { "" }));
    }
    Ok(std::net::Ipv6Addr::from(v6).to_string())
}

/// What `binlog_buf_compress` packed (`sql/log_event.cc`): `1 algorithm(3) length-bytes(4)`, the length big-endian, zlib.
pub fn decompress(packed: &[u8]) -> Read<Vec<u8>> {
    let mut r = Reader(packed);
    let head = r.u8()?;
    if head & 0xf0 != 0x80 {
        return Err(Fault::Malformed("compressed by an unknown algorithm"));
    }
    let length = r.uint_be((head & 0x0f).into())?;
    if length > MAX_UNPACKED {
        return Err(Fault::Malformed("compressed data of more than 1 GiB"));
    }
    let mut out = Vec::new();
    let mut limited = ZlibDecoder::new(r.0).take(length + 1);
    limited.read_to_end(&mut out).map_err(|_| Fault::Malformed("compressed data is damaged"))?;
    if out.len() as u64 != length {
        return Err(Fault::Malformed("compressed data of another length than announced"));
    }
    Ok(out)
}

/// No event is larger than a packet.
const MAX_UNPACKED: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn compressed_data_is_checked() {
        let mut encoder = ZlibEncoder::new(vec![0x81, 5], Compression::default());
        encoder.write_all(b"hello").unwrap();
        let packed = encoder.finish().unwrap();
        assert_eq!(decompress(&packed).unwrap(), b"hello");
        let mut wrong = packed.clone();
        wrong[1] = 4;
        assert!(decompress(&wrong).is_err());
        assert!(decompress(&packed[..packed.len() - 5]).is_err());
    }

    #[test]
    fn addresses() {
        let address = |text: &str| inet(&text.parse::<std::net::Ipv6Addr>().unwrap().octets()).unwrap();
        for text in ["::", "::1", "2001:db8::ff00:42:8329", "::ffff:192.0.2.128", "::192.0.2.128", "1:0:2::"] {
            assert_eq!(address(text), text);
        }
        assert_eq!(inet(&[10, 0, 0, 1]).unwrap(), "10.0.0.1");
    }

    proptest! {
        #[test]
        fn any_bytes_are_unpacked_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = (decompress(&bytes), uuid(&bytes), inet(&bytes));
        }
    }
}
