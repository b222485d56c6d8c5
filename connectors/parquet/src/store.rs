//! The object store, blocking and durable.
//!
//! Everything that the protocol needs of a store is here, in five operations: put, put-if-absent, get, list and publish
//! (move a staged file to its final name). They block on the runtime's handle, so that the rest of the crate is plain
//! sequential code. They must not be called from a task of that runtime.
//!
//! Why they are not `object_store`'s own:
//! - **Durability.** `LocalFileSystem` never calls fsync. The source is acknowledged after a commit, so a commit that a
//!   power cut can undo is data loss. On a file system every operation here syncs the file *before* it gets its name,
//!   and the folder after.
//! - **Put-if-absent.** A conditional put whose answer is lost may or may not have happened, and `object_store` retries
//!   none; S3 answers 409 to a race that nobody has won yet. [`Store::put_if_absent`] reads back and compares.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path as FsPath, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use crossfade_core::{Error, Result};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use tokio::runtime::Handle;

/// Requests in flight at once where several objects are fetched or published.
const PARALLEL: usize = 8;
/// How often a conditional put whose outcome is unknown is tried again.
const PUT_ATTEMPTS: u32 = 4;

/// A folder of an object store. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    inner: Arc<dyn ObjectStore>,
    runtime: Handle,
    root: Path,
    /// The root as the file system has it, for stores on one.
    local: Option<PathBuf>,
    /// Folders whose entry in their parent is known to be durable.
    durable: Arc<Mutex<HashSet<PathBuf>>>,
}

/// What a put-if-absent found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// The object is there and is ours.
    Created,
    /// Somebody else's object has the name; these are its bytes.
    Taken(Bytes),
}

impl Store {
    /// A store whose objects live under `root`; `local` is that root on a file system.
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, runtime: Handle, root: Path, local: Option<PathBuf>) -> Self {
        Store { inner, runtime, root, local, durable: Arc::default() }
    }

    /// The root on a file system, if the store is on one.
    pub(crate) fn local(&self) -> Option<&FsPath> {
        self.local.as_deref()
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// The store below; for uploads in parts.
    pub(crate) fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.inner
    }

    /// An object's full path from its parts under the root. A part is one path segment, whatever it holds.
    pub(crate) fn path<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Path {
        parts.into_iter().fold(self.root.clone(), |path, part| path.join(part))
    }

    /// The object's place on the file system, if the store is on one.
    pub(crate) fn file(&self, path: &Path) -> Option<PathBuf> {
        let local = self.local.as_ref()?;
        Some(path.prefix_match(&self.root)?.fold(local.clone(), |file, part| file.join(part.as_ref())))
    }

    /// Writes an object, replacing what is there. Durable on return.
    pub(crate) fn put(&self, path: &Path, bytes: Bytes) -> Result<()> {
        self.runtime
            .block_on(self.inner.put(path, PutPayload::from(bytes)))
            .map_err(|e| self.error(e, "write", path))?;
        self.sync(path)
    }

    /// Writes an object unless the name is taken. Durable on return, and never there in part: on a file system the
    /// bytes are synced under a name in `scratch` before they are linked to `path`. `bytes` must hold something that no
    /// other writer writes: it is how an object is known as ours after an answer was lost.
    pub(crate) fn put_if_absent(&self, path: &Path, bytes: &Bytes, scratch: &Path) -> Result<Put> {
        let mut last = None;
        for attempt in 0..PUT_ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(Duration::from_millis(50 << attempt));
            }
            match self.try_put_if_absent(path, bytes, scratch) {
                Ok(()) => return self.sync(path).map(|()| Put::Created),
                Err(e @ object_store::Error::NotImplemented { .. }) => return Err(self.error(e, "write", path)),
                // 412: the name is taken, perhaps by an earlier try of ours. 409: two puts at once, neither has won
                // yet. Any other error: perhaps it was written. What is there now decides.
                Err(e) => match self.get(path)? {
                    Some(there) if there == *bytes => return self.sync(path).map(|()| Put::Created),
                    Some(there) => return Ok(Put::Taken(there)),
                    None => last = Some(e),
                },
            }
        }
        match last {
            Some(e) => Err(self.error(e, "write", path)),
            None => Err(Error::transient(format!("write {path}: no attempt was made"))),
        }
    }

    fn try_put_if_absent(&self, path: &Path, bytes: &Bytes, scratch: &Path) -> object_store::Result<()> {
        let payload = PutPayload::from(bytes.clone());
        if self.local.is_none() {
            return self.runtime.block_on(self.inner.put_opts(path, payload, PutMode::Create.into())).map(|_| ());
        }
        self.runtime.block_on(self.inner.put(scratch, payload))?;
        self.sync(scratch).map_err(|e| object_store::Error::Generic { store: "fsync", source: Box::new(e) })?;
        // A hard link: fails if the name is taken, and then the whole file is there or nothing.
        self.runtime.block_on(self.inner.copy_if_not_exists(scratch, path))?;
        // Left behind after an error here, it is swept with the rest of the staging area.
        match self.runtime.block_on(self.inner.delete(scratch)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// An object's bytes; `None` if it is not there.
    pub(crate) fn get(&self, path: &Path) -> Result<Option<Bytes>> {
        let got = self.runtime.block_on(async { self.inner.get(path).await?.bytes().await });
        match got {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.error(e, "read", path)),
        }
    }

    /// An object for reading by ranges: the open file on a file system, else its bytes. `None` if it is not there.
    pub(crate) fn open(&self, path: &Path) -> Result<Option<Opened>> {
        let got = self.runtime.block_on(async {
            let got = self.inner.get(path).await?;
            Ok(match got.payload {
                GetResultPayload::File(file, _) => Opened::File(file),
                GetResultPayload::Stream(_) => Opened::Bytes(got.bytes().await?),
            })
        });
        match got {
            Ok(opened) => Ok(Some(opened)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.error(e, "read", path)),
        }
    }

    /// Many objects' bytes, in the order asked. All of them must be there.
    pub(crate) fn get_all(&self, paths: Vec<Path>) -> Result<Vec<Bytes>> {
        let fetch = futures::stream::iter(paths.into_iter().map(|path| async move {
            let got = async { self.inner.get(&path).await?.bytes().await }.await;
            got.map_err(|e| self.error(e, "read", &path))
        }));
        self.runtime.block_on(fetch.buffered(PARALLEL).try_collect())
    }

    /// What is known of an object without reading it; `None` if it is not there.
    pub(crate) fn head(&self, path: &Path) -> Result<Option<ObjectMeta>> {
        match self.runtime.block_on(self.inner.head(path)) {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.error(e, "look at", path)),
        }
    }

    /// The objects under a folder with names after `after` (a full path), sorted by name. A folder that does not exist
    /// is empty.
    pub(crate) fn list(&self, folder: &Path, after: Option<&Path>) -> Result<Vec<ObjectMeta>> {
        let stream = match after {
            Some(after) => self.inner.list_with_offset(Some(folder), after),
            None => self.inner.list(Some(folder)),
        };
        let listed: object_store::Result<Vec<ObjectMeta>> = self.runtime.block_on(stream.try_collect());
        let mut found = match listed {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) if self.local.is_some() => Vec::new(),
            Err(e) => return Err(self.error(e, "list", folder)),
        };
        found.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(found)
    }

    /// Deletes an object; one that is not there is deleted already.
    pub(crate) fn delete(&self, path: &Path) -> Result<()> {
        match self.runtime.block_on(self.inner.delete(path)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.error(e, "delete", path)),
        }
    }

    /// Moves staged files to their final names, several at once. Idempotent: a file that is at its final name with the
    /// size it should have has been moved before. Durable on return.
    pub(crate) fn publish(&self, moves: Vec<Move>) -> Result<()> {
        let finals: Vec<Path> = moves.iter().map(|m| m.to.clone()).collect();
        let all = futures::stream::iter(moves.into_iter().map(|m| async move { self.publish_one(&m).await }));
        self.runtime.block_on(all.buffer_unordered(PARALLEL).try_collect::<()>())?;
        let folders: HashSet<PathBuf> =
            finals.iter().filter_map(|p| Some(self.file(p)?.parent()?.to_path_buf())).collect();
        folders.iter().try_for_each(|folder| self.sync_folder(folder))
    }

    async fn publish_one(&self, m: &Move) -> Result<()> {
        let moved = match self.local {
            Some(_) => self.inner.rename(&m.from, &m.to).await,
            // Server-side copy and delete. A copy is atomic: its name appears when it is complete.
            None => match self.inner.copy(&m.from, &m.to).await {
                Ok(()) => self.inner.delete(&m.from).await,
                e => e,
            },
        };
        match moved {
            Ok(()) => Ok(()),
            Err(object_store::Error::NotFound { .. }) => match self.inner.head(&m.to).await {
                Ok(meta) if meta.size == m.bytes => Ok(()),
                Ok(meta) => Err(Error::corrupt(format!(
                    "{} has {} bytes, but the log says that {} were committed",
                    m.to, meta.size, m.bytes
                ))
                .hint(
                    "something else wrote or cut this file; restore it, or copy the table again with `crossfade snapshot TABLE`",
                )),
                Err(object_store::Error::NotFound { .. }) => {
                    Err(Error::corrupt(format!("a committed file is neither at {} nor at {}", m.from, m.to))
                        .hint("something else deleted it; restore it, or copy the table again with `crossfade snapshot TABLE`"))
                }
                Err(e) => Err(self.error(e, "look at", &m.to)),
            },
            Err(e) => Err(self.error(e, "publish", &m.to)),
        }
    }

    /// Makes an object on a file system durable: its bytes, then its name, then the folders above it.
    pub(crate) fn sync(&self, path: &Path) -> Result<()> {
        let Some(file) = self.file(path) else { return Ok(()) };
        File::open(&file).and_then(|f| f.sync_all()).map_err(|e| self.fsync_error(&file, e))?;
        match file.parent() {
            Some(folder) => self.sync_folder(folder),
            None => Ok(()),
        }
    }

    /// Syncs a folder's entries, and once also its own entry in each folder above, for folders that were just made.
    fn sync_folder(&self, folder: &FsPath) -> Result<()> {
        let sync = |f: &FsPath| File::open(f).and_then(|f| f.sync_all()).map_err(|e| self.fsync_error(f, e));
        sync(folder)?;
        let mut known = self.durable.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for above in folder.ancestors().skip(1) {
            if known.contains(folder) || above.as_os_str().is_empty() {
                break;
            }
            // Folders of others that we may not open were there before us.
            match File::open(above) {
                Ok(f) => f.sync_all().map_err(|e| self.fsync_error(above, e))?,
                Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => break,
                Err(e) => return Err(self.fsync_error(above, e)),
            }
        }
        known.insert(folder.to_path_buf());
        Ok(())
    }

    fn fsync_error(&self, file: &FsPath, e: std::io::Error) -> Error {
        Error::transient(format!("make {} durable", file.display())).caused_by(e)
    }

    /// The one place that maps this driver's errors to their consequence.
    pub(crate) fn error(&self, e: object_store::Error, doing: &str, path: &Path) -> Error {
        let place = match self.file(path) {
            Some(file) => file.display().to_string(),
            None => path.to_string(),
        };
        classify(&e, format!("{doing} {place}")).caused_by(e)
    }
}

/// An object to move: staged name, final name and size.
#[derive(Debug, Clone)]
pub(crate) struct Move {
    pub(crate) from: Path,
    pub(crate) to: Path,
    pub(crate) bytes: u64,
}

/// An object opened for reading.
pub(crate) enum Opened {
    File(File),
    Bytes(Bytes),
}

fn classify(e: &object_store::Error, doing: String) -> Error {
    use object_store::Error as E;
    match e {
        E::NotFound { .. } => Error::unavailable(format!("{doing}: the bucket or folder does not exist"))
            .hint("create the bucket, or mend the URL"),
        // Clocks are set right again; until then nothing is lost.
        E::PermissionDenied { source, .. } | E::Unauthenticated { source, .. } if is_skewed(source.as_ref()) => {
            Error::transient(format!("{doing}: the store finds this machine's clock wrong"))
                .hint("set the clock: a request is signed with the time, and may be off by 15 minutes")
        }
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => Error::unavailable(format!("{doing}: access denied"))
            .hint("grant s3:ListBucket on the bucket and s3:GetObject, s3:PutObject, s3:DeleteObject on its objects"),
        E::NotImplemented { .. } | E::NotSupported { .. } => {
            Error::unavailable(format!("{doing}: the store cannot do what the commit protocol needs"))
                .hint("use a store with conditional puts (If-None-Match), as S3, R2, MinIO and Ceph have them")
        }
        E::InvalidPath { .. } | E::UnknownConfigurationKey { .. } => Error::config(doing),
        _ => match io_kind(e) {
            Some(std::io::ErrorKind::PermissionDenied) => {
                Error::unavailable(doing).hint("let the user that runs this process write there: chown or chmod")
            }
            Some(std::io::ErrorKind::ReadOnlyFilesystem) => Error::unavailable(doing).hint("mount it read-write"),
            Some(std::io::ErrorKind::NotADirectory) => {
                Error::unavailable(doing).hint("a part of the path is a file: name a folder in the URL")
            }
            Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) => {
                Error::transient(doing).hint("free space on the file system")
            }
            _ => Error::transient(doing),
        },
    }
}

/// Whether S3 refused a request for its time (`RequestTimeTooSkewed` in the API reference's list of error codes).
fn is_skewed(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |e| e.source()).any(|e| e.to_string().contains("RequestTimeTooSkewed"))
}

/// The kind of the I/O error at the root of a store's error, if it is one.
fn io_kind(e: &object_store::Error) -> Option<std::io::ErrorKind> {
    let mut cause = std::error::Error::source(e);
    while let Some(c) = cause {
        if let Some(io) = c.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = c.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_wrong_passes_and_a_refusal_does_not() {
        let denied = |body: &str| object_store::Error::PermissionDenied { path: "x".into(), source: body.into() };
        let skewed = classify(&denied("403: <Code>RequestTimeTooSkewed</Code>"), "write x".into());
        assert!(skewed.is_transient() && skewed.hint_text().is_some_and(|h| h.contains("clock")), "{skewed:?}");
        assert!(!classify(&denied("403: <Code>AccessDenied</Code>"), "write x".into()).is_transient());
    }
}
