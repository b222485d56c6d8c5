//! Where transactions that are still open wait for their commit.
//!
//! From Postgres 14 on the server sends a large transaction while it is open (`streaming`), in segments between other
//! transactions, so that it need not keep it on its own disk and nothing has to be fetched at the commit. Whether it commits is
//! not known yet, so its changes are kept here, as bytes, and replayed through the ordinary decoder when Stream Commit says where
//! and when it committed (`apply_handle_stream_commit` in `src/backend/replication/logical/worker.c` does the same).
//!
//! ```text
//! xid 7: [length, message][length, message]...[length, message]
//!        '------------ file -----------''------ memory -------'
//!                       ^ first change of subtransaction 9: cut off here if 9 rolls back
//! ```
//!
//! Invariants:
//! - Memory is bounded over all transactions together: past [`HELD`] the largest one goes to its file. A message that is larger
//!   goes there at once. Beside the bytes, about 50 a subtransaction are kept.
//! - A file has no name, so that nothing is left behind, whatever way the process ends. Nothing is read from an earlier run: a
//!   restart gets every open transaction from its beginning again.
//! - A rolled back subtransaction is cut off with all that came after its first change. A session works on one subtransaction at a
//!   time, the innermost, so what lies behind is its own or of subtransactions inside of it, which roll back with it. The server
//!   forgets then which relations it has described to this transaction, and describes them again (`cleanup_rel_sync_cache` in
//!   `src/backend/replication/pgoutput/pgoutput.c`), so that descriptions are cut off, too.
//! - Descriptions of relations take effect when their transaction is replayed, as the server counts on: it describes a relation
//!   to each streamed transaction anew, and to those that come whole for itself, until a commit says that both know it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crossfade_core::{Error, Result};

use super::pgoutput::streamed;

/// Bytes of all open transactions that are held in memory.
const HELD: usize = 8 << 20;
/// What is read from a file at once.
const READ: usize = 256 << 10;
/// A buffer for one message that grew beyond this is given back.
const LARGE: usize = 8 << 20;

/// What mends a lack of room.
const ROOM: &str = "free space there, name another folder with spool_dir=... in the source's URL, or leave large transactions \
    on the server's disk until they commit: streaming=off";

/// All transactions that are open.
#[derive(Debug)]
pub struct Spools {
    folder: PathBuf,
    /// See [`HELD`].
    limit: usize,
    /// Bytes in memory, of all.
    held: usize,
    open: HashMap<u32, Spool>,
    /// The transaction whose segment is being received.
    segment: Option<u32>,
}

/// What one transaction has done so far.
#[derive(Debug, Default)]
struct Spool {
    /// The newest messages.
    held: Vec<u8>,
    /// Those before, if memory did not hold all.
    file: Option<File>,
    /// Bytes in the file.
    written: u64,
    /// Where the first change of each subtransaction lies, by its number,
    first: HashMap<u32, u64>,
    /// and in the order of these places.
    order: Vec<(u32, u64)>,
}

impl Spools {
    /// None is open. Files are made in `folder`, which is tried at once: a server must not be half through a transaction when
    /// it shows that nobody can write there.
    pub fn new(folder: &Path) -> Result<Spools> {
        make(folder)?;
        let (folder, open) = (folder.to_owned(), HashMap::new());
        Ok(Spools { folder, limit: HELD, held: 0, open, segment: None })
    }

    /// Whether a segment is being received.
    pub fn receives(&self) -> bool {
        self.segment.is_some()
    }

    /// A segment begins.
    pub fn start(&mut self, xid: u32, first: bool) -> Result<()> {
        if let Some(other) = self.segment {
            let message = format!("a segment of transaction {xid} begins inside of one of transaction {other}");
            return Err(Error::corrupt(message));
        }
        if first == self.open.contains_key(&xid) {
            let what = if first { "begins, and is open already" } else { "goes on, and did not begin" };
            return Err(Error::corrupt(format!("transaction {xid}, which is sent while it is open, {what}")));
        }
        if first {
            self.open.insert(xid, Spool::default());
        }
        self.segment = Some(xid);
        Ok(())
    }

    /// The segment ends.
    pub fn stop(&mut self) -> Result<()> {
        match self.segment.take() {
            Some(_) => Ok(()),
            None => Err(Error::corrupt("a segment of a transaction ends that did not begin")),
        }
    }

    /// Keeps a change of the segment; whether it was one. What is none is for the caller.
    pub fn keep(&mut self, body: &[u8]) -> Result<bool> {
        let Some(change) = streamed(body)? else { return Ok(false) };
        let Spools { folder, limit, held, open, segment } = self;
        let xid = segment.unwrap_or_default();
        let spool = open.get_mut(&xid).ok_or_else(|| unknown(xid, "goes on"))?;
        if change.xid != xid {
            spool.touch(change.xid);
        }
        let length =
            u32::try_from(1 + change.rest.len()).map_err(|_| Error::corrupt("a message of the log is too long"))?;
        let parts = [&length.to_be_bytes()[..], &[change.tag], change.rest];
        let size = parts.iter().map(|p| p.len()).sum::<usize>();
        if size > *limit {
            *held -= spool.spill(folder)?;
            spool.write(folder, &parts)?;
            return Ok(true);
        }
        parts.iter().for_each(|p| spool.held.extend_from_slice(p));
        *held += size;
        if *held > *limit
            && let Some(largest) = open.values_mut().max_by_key(|s| s.held.len())
        {
            *held -= largest.spill(folder)?;
        }
        Ok(true)
    }

    /// A transaction has rolled back, or a subtransaction of it. The server says so, too, of one of which it has sent nothing: where
    /// it finds a transaction rolled back before it would send it, it discards the changes, and counts the subtransactions as
    /// sent (`ReorderBufferCheckAndTruncateAbortedTXN` in `src/backend/replication/logical/reorderbuffer.c`, 18).
    pub fn abort(&mut self, xid: u32, subxid: u32) -> Result<()> {
        self.outside(xid)?;
        let Some(spool) = self.open.get_mut(&xid) else { return Ok(()) };
        if xid == subxid {
            self.held -= spool.held.len();
            self.open.remove(&xid);
            return Ok(());
        }
        let before = spool.held.len();
        spool.cut(subxid).map_err(|e| failed(&self.folder, e))?;
        self.held -= before - spool.held.len();
        Ok(())
    }

    /// A transaction has committed: all that it did.
    pub fn commit(&mut self, xid: u32) -> Result<Replay> {
        self.outside(xid)?;
        let spool = self.open.remove(&xid).ok_or_else(|| unknown(xid, "commits"))?;
        self.held -= spool.held.len();
        let mut file = spool.file;
        if let Some(file) = &mut file {
            file.seek(SeekFrom::Start(0)).map_err(|e| failed(&self.folder, e))?;
        }
        Ok(Replay {
            folder: self.folder.clone(),
            file: file.map(|f| BufReader::with_capacity(READ, f)),
            left: spool.written,
            held: spool.held,
            at: 0,
            message: Vec::new(),
        })
    }

    fn outside(&self, xid: u32) -> Result<()> {
        match self.segment {
            None => Ok(()),
            Some(other) => {
                let message = format!("transaction {xid} ends inside of a segment of transaction {other}");
                Err(Error::corrupt(message))
            }
        }
    }
}

impl Spool {
    /// Where the next message goes.
    fn end(&self) -> u64 {
        self.written + self.held.len() as u64
    }

    /// A subtransaction makes a change.
    fn touch(&mut self, subxid: u32) {
        let end = self.end();
        let order = &mut self.order;
        self.first.entry(subxid).or_insert_with(|| {
            order.push((subxid, end));
            end
        });
    }

    /// Cuts off a subtransaction; one that made no change that is carried is not known.
    fn cut(&mut self, subxid: u32) -> io::Result<()> {
        let Some(&from) = self.first.get(&subxid) else { return Ok(()) };
        while let Some((later, _)) = self.order.pop_if(|(_, at)| *at >= from) {
            self.first.remove(&later);
        }
        match from.checked_sub(self.written).map(usize::try_from) {
            Some(Ok(in_memory)) => self.held.truncate(in_memory),
            Some(Err(_)) => {}
            None => {
                self.held.clear();
                if let Some(file) = &self.file {
                    file.set_len(from)?;
                }
                self.written = from;
            }
        }
        Ok(())
    }

    /// Moves what is in memory to the file; how many bytes.
    fn spill(&mut self, folder: &Path) -> Result<usize> {
        let held = std::mem::take(&mut self.held);
        self.write(folder, &[&held])?;
        Ok(held.len())
    }

    fn write(&mut self, folder: &Path, parts: &[&[u8]]) -> Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(make(folder)?),
        };
        let written = file.seek(SeekFrom::Start(self.written)).and_then(|_| {
            parts.iter().try_for_each(|part| file.write_all(part))?;
            file.stream_position()
        });
        self.written = written.map_err(|e| failed(folder, e))?;
        Ok(())
    }
}

/// All that a committed transaction did, in order.
#[derive(Debug)]
pub struct Replay {
    folder: PathBuf,
    file: Option<BufReader<File>>,
    /// Bytes of the file that are still to come.
    left: u64,
    held: Vec<u8>,
    /// How much of `held` has come.
    at: usize,
    message: Vec<u8>,
}

impl Replay {
    /// The next message, as protocol version 1 has it; `None` after the last.
    pub fn next(&mut self) -> Result<Option<&[u8]>> {
        if self.left > 0 {
            return self.read().map(Some);
        }
        let strange = || Error::corrupt("what was kept of an open transaction cannot be read");
        let rest = self.held.get(self.at..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<4>() else {
            return if rest.is_empty() { Ok(None) } else { Err(strange()) };
        };
        let length = u32::from_be_bytes(*length) as usize;
        self.at += 4 + length;
        rest.get(..length).map(Some).ok_or_else(strange)
    }

    fn read(&mut self) -> Result<&[u8]> {
        let Replay { folder, file, left, message, .. } = self;
        let mut fill = |bytes: &mut [u8]| {
            let file = file.as_mut().ok_or(ErrorKind::UnexpectedEof)?;
            *left = left.checked_sub(bytes.len() as u64).ok_or(ErrorKind::UnexpectedEof)?;
            file.read_exact(bytes)
        };
        let mut length = [0; 4];
        let read = fill(&mut length).and_then(|()| {
            let length = u32::from_be_bytes(length) as usize;
            if message.capacity() > LARGE && length < LARGE {
                *message = Vec::new();
            }
            message.resize(length, 0);
            fill(message)
        });
        read.map_err(|e| failed(folder, e))?;
        Ok(message)
    }
}

/// A file without a name.
fn make(folder: &Path) -> Result<File> {
    tempfile::tempfile_in(folder).map_err(|e| failed(folder, e))
}

fn unknown(xid: u32, does: &str) -> Error {
    Error::corrupt(format!("transaction {xid} {does}, and no segment of it was sent"))
}

/// A fault of the folder or its disk.
fn failed(folder: &Path, e: io::Error) -> Error {
    let what = format!("{}, where large transactions of the source wait for their commit", folder.display());
    match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            Error::transient(what).caused_by(e).hint(ROOM)
        }
        ErrorKind::NotFound
        | ErrorKind::NotADirectory
        | ErrorKind::PermissionDenied
        | ErrorKind::ReadOnlyFilesystem => {
            let hint = "let the user that runs this process write there, or name another folder: spool_dir=... in the source's URL \
                        (else TMPDIR, else /tmp)";
            Error::config(what).caused_by(e).hint(hint)
        }
        ErrorKind::UnexpectedEof => Error::corrupt(format!("{what}: a file of ours was changed")).caused_by(e),
        _ => Error::transient(what).caused_by(e),
    }
}

#[cfg(test)]
mod tests;
