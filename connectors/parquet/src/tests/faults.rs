//! A store that dies at a chosen call: before it does what was asked, or after it did and before it answers.
//!
//! From then on every call fails, so that to what lies in the store it is as if the process had been killed there. Or it
//! fails a single call and lives on, like a network: having done what was asked, or not.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

/// When a store dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    Never,
    /// Instead of doing call `n` (from 0).
    Before(usize),
    /// Having done it.
    After(usize),
    /// Only call `n` fails, and is not done.
    Refuse(usize),
    /// Only call `n` fails, and is done all the same.
    Lie(usize),
}

impl Death {
    /// What becomes of call `n`: whether it is done, and whether it is answered.
    fn fate(self, n: usize) -> (bool, bool) {
        match self {
            Death::Never => (true, true),
            Death::Before(at) => (n < at, n < at),
            Death::After(at) => (n <= at, n < at),
            Death::Refuse(at) => (n != at, n != at),
            Death::Lie(at) => (true, n != at),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Faulty {
    inner: Arc<dyn ObjectStore>,
    death: Death,
    calls: AtomicUsize,
}

impl Faulty {
    pub(super) fn new(inner: Arc<dyn ObjectStore>, death: Death) -> Arc<Self> {
        Arc::new(Faulty { inner, death, calls: AtomicUsize::new(0) })
    }

    /// Calls so far.
    pub(super) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn dead() -> Error {
        Error::Generic { store: "faulty", source: "killed".into() }
    }

    async fn call<T>(&self, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let n = self.calls.fetch_add(1, Ordering::SeqCst);
        let (done, answered) = self.death.fate(n);
        let result = if done { work.await } else { Err(Self::dead()) };
        if answered { result } else { Err(Self::dead()) }
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

// Written out as `async_trait` writes it, which is not among the dependencies.
impl ObjectStore for Faulty {
    fn put_opts<'a, 'b, 'c>(&'a self, to: &'b Path, payload: PutPayload, options: PutOptions) -> Boxed<'c, PutResult>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(self.call(self.inner.put_opts(to, payload, options)))
    }

    fn put_multipart_opts<'a, 'b, 'c>(
        &'a self,
        to: &'b Path,
        options: PutMultipartOptions,
    ) -> Boxed<'c, Box<dyn MultipartUpload>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(self.call(self.inner.put_multipart_opts(to, options)))
    }

    fn get_opts<'a, 'b, 'c>(&'a self, from: &'b Path, options: GetOptions) -> Boxed<'c, GetResult>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(self.call(self.inner.get_opts(from, options)))
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        // One call a path, as the crate deletes one at a time. The count is taken here, so no reference is kept.
        let n = self.calls.fetch_add(1, Ordering::SeqCst);
        let (done, answered) = self.death.fate(n);
        let inner = Arc::clone(&self.inner);
        paths
            .then(move |path| {
                let inner = Arc::clone(&inner);
                async move {
                    let path = path?;
                    if done {
                        inner.delete(&path).await?;
                    }
                    if answered { Ok(path) } else { Err(Self::dead()) }
                }
            })
            .boxed()
    }

    fn list(&self, folder: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let n = self.calls.fetch_add(1, Ordering::SeqCst);
        match self.death.fate(n).1 {
            true => self.inner.list(folder),
            false => futures::stream::once(async { Err(Self::dead()) }).boxed(),
        }
    }

    fn list_with_delimiter<'a, 'b, 'c>(&'a self, folder: Option<&'b Path>) -> Boxed<'c, ListResult>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(self.call(self.inner.list_with_delimiter(folder)))
    }

    fn copy_opts<'a, 'b, 'd, 'c>(&'a self, from: &'b Path, to: &'d Path, options: CopyOptions) -> Boxed<'c, ()>
    where
        'a: 'c,
        'b: 'c,
        'd: 'c,
        Self: 'c,
    {
        Box::pin(self.call(self.inner.copy_opts(from, to, options)))
    }

    fn rename_opts<'a, 'b, 'd, 'c>(&'a self, from: &'b Path, to: &'d Path, options: RenameOptions) -> Boxed<'c, ()>
    where
        'a: 'c,
        'b: 'c,
        'd: 'c,
        Self: 'c,
    {
        Box::pin(self.call(self.inner.rename_opts(from, to, options)))
    }
}
