//! Examples to begin with, as real servers sent them: `corpus/README.md` says how each file came about.

use std::path::PathBuf;

/// A file of the corpus.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)
}

/// A file as bytes.
///
/// # Panics
///
/// If it is not there.
pub fn bytes(name: &str) -> Vec<u8> {
    let path = path(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A file of one example a line, in hexadecimal digits.
///
/// # Panics
///
/// If it is not there or not of that form.
pub fn lines(name: &str) -> Vec<Vec<u8>> {
    let text = String::from_utf8(bytes(name)).unwrap_or_else(|_| panic!("{name} is not text"));
    text.lines().map(|line| from_hex(line).unwrap_or_else(|| panic!("{name}: not hexadecimal: {line}"))).collect()
}

/// The bytes that hexadecimal digits stand for.
pub fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let pair = |p: &[u8]| u8::from_str_radix(std::str::from_utf8(p).ok()?, 16).ok();
    digits.as_bytes().chunks(2).map(pair).collect()
}

/// The events of a binlog file of the corpus.
///
/// # Panics
///
/// If it is not there or no binlog.
pub fn events(name: &str) -> Vec<Vec<u8>> {
    split(&bytes(name))
}

/// The events of a binlog: behind its magic number, each says in bytes 9 to 12 how long it is.
///
/// # Panics
///
/// If it is not a binlog.
pub fn split(file: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = file.strip_prefix(b"\xfebin").expect("a binlog's magic number");
    let mut events = Vec::new();
    while let Some(size) = rest.get(9..13).and_then(|s| s.try_into().ok()).map(u32::from_le_bytes) {
        let (event, more) = rest.split_at(size as usize);
        events.push(event.to_vec());
        rest = more;
    }
    events
}
