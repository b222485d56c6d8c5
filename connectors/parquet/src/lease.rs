//! Whether another owner is alive: courtesy, not safety.
//!
//! The log alone keeps two owners apart: whoever writes record `n` first has it. A lease only keeps a second run from
//! fencing out a first one that is well.
//!
//! - On a file system it is a lock (`flock`) on `lock`: the kernel drops it with the process, whatever way that ends.
//! - On an object store it is `owner.json`, renewed in the background and judged by the store's own clock: not renewed
//!   for [`DEAD_AFTER`], given up, or held by a process of this machine that is gone, it is free.
//!
//! A renewal is conditional on the lease being ours as we last wrote it, so an owner that slept learns that it has lost
//! the pipeline before it tries to commit.

use std::collections::HashSet;
use std::fs::{File, TryLockError};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use crossfade_core::{Error, Owner, Result};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload, UpdateVersion};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::log::{Places, token};

/// An owner that has not renewed its lease for so long is taken for dead.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(30);
const RENEW_EVERY: Duration = Duration::from_secs(8);
/// The last word of an owner that goes may take so long and no longer.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);

/// Leases that this process holds: an earlier one of its own that it could not give up does not lock it out.
static HELD: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

/// What `owner.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) owner: Owner,
    pub(crate) epoch: u64,
    token: String,
    /// Microseconds since 1970 UTC by the owner's clock; for people.
    renewed_micros: u64,
    released: bool,
}

/// A right to take the pipeline that nobody alive holds; [`Vacant::claim`] makes it a lease.
pub(crate) struct Vacant {
    places: Places,
    lock: Option<File>,
    version: Option<UpdateVersion>,
}

/// Held while it lives.
pub(crate) struct Lease {
    held: Arc<Held>,
    renewal: Option<JoinHandle<()>>,
    /// The file system's lock, dropped last.
    _lock: Option<File>,
}

struct Held {
    places: Places,
    path: Path,
    claim: Claim,
    /// The lease as we last wrote it.
    version: Mutex<Option<UpdateVersion>>,
    /// Who took it from us.
    lost: Mutex<Option<Claim>>,
}

/// Finds that nobody alive owns the pipeline; an error that names the owner otherwise.
pub(crate) fn vacant(places: &Places, owner: &Owner) -> Result<Vacant> {
    let path = places.path(["owner.json"]);
    if let Some(file) = places.store.file(&places.path(["lock"])) {
        let lock = lock_file(&file)?;
        return match try_lock(&lock) {
            Ok(()) => Ok(Vacant { places: places.clone(), lock: Some(lock), version: None }),
            Err(TryLockError::WouldBlock) => Err(owned(&owner.pipeline, read(places, &path)?.map(|(c, _)| c).as_ref())),
            Err(TryLockError::Error(e)) => {
                Err(Error::unavailable(format!("lock {}", file.display())).caused_by(e).hint(
                    "keep the target on a file system that has file locks (NFS: version 4, or version 3 with lockd)",
                ))
            }
        };
    }
    let Some((claim, meta)) = read(places, &path)? else {
        return Ok(Vacant { places: places.clone(), lock: None, version: None });
    };
    if alive(places, &claim, owner, &meta)? {
        return Err(owned(&owner.pipeline, Some(&claim)));
    }
    let version = Some(UpdateVersion { e_tag: meta.e_tag, version: meta.version });
    Ok(Vacant { places: places.clone(), lock: None, version })
}

/// Who owns the pipeline now. By this machine's clock: nothing is written for it.
pub(crate) fn holder(places: &Places) -> Result<Option<Owner>> {
    let path = places.path(["owner.json"]);
    let claim = read(places, &path)?;
    if let Some(file) = places.store.file(&places.path(["lock"])) {
        let Ok(lock) = File::open(&file) else { return Ok(None) };
        return Ok(match lock.try_lock_shared() {
            Err(TryLockError::WouldBlock) => claim.map(|(c, _)| c.owner),
            Ok(()) | Err(TryLockError::Error(_)) => None,
        });
    }
    Ok(claim.and_then(|(c, meta)| {
        let renewed = u64::try_from(meta.last_modified.timestamp_micros()).unwrap_or(0);
        let fresh = now_micros().saturating_sub(renewed) < micros(DEAD_AFTER);
        (!c.released && fresh).then_some(c.owner)
    }))
}

impl Vacant {
    /// Writes the lease, after the log has been taken with this epoch.
    pub(crate) fn claim(mut self, owner: &Owner, epoch: u64) -> Result<Lease> {
        let claim =
            Claim { owner: owner.clone(), epoch, token: token(owner), renewed_micros: now_micros(), released: false };
        let path = self.places.path(["owner.json"]);
        let runtime = self.places.store.runtime().clone();
        if self.lock.is_some() {
            self.places.store.put(&path, claim.json()?)?;
        } else {
            // Whatever stands there is of an owner whom the log has fenced out: replace it.
            for _ in 0..3 {
                match runtime.block_on(write(&self.places, &path, &claim, self.version.take())) {
                    Ok(version) => {
                        self.version = Some(version);
                        break;
                    }
                    Err(object_store::Error::Precondition { .. } | object_store::Error::AlreadyExists { .. }) => {
                        let there = self.places.store.head(&path)?;
                        self.version = there.map(|m| UpdateVersion { e_tag: m.e_tag, version: m.version });
                    }
                    Err(e) => return Err(self.places.store.error(e, "write", &path)),
                }
            }
        }
        lock(&HELD).insert(claim.token.clone());
        let held = Arc::new(Held {
            path,
            claim,
            version: Mutex::new(self.version),
            lost: Mutex::new(None),
            places: self.places,
        });
        let renewal = self.lock.is_none().then(|| runtime.spawn(renew(Arc::clone(&held))));
        Ok(Lease { held, renewal, _lock: self.lock })
    }
}

impl Lease {
    /// An error if another owner was seen to have taken over.
    pub(crate) fn check(&self) -> Result<()> {
        match &*lock(&self.held.lost) {
            Some(claim) => Err(owned(&self.held.claim.owner.pipeline, Some(claim))),
            None => Ok(()),
        }
    }
}

impl Drop for Lease {
    /// Gives the pipeline up. Should that fail, the next owner waits until the lease is old.
    fn drop(&mut self) {
        lock(&HELD).remove(&self.held.claim.token);
        let Some(renewal) = self.renewal.take() else { return };
        renewal.abort();
        let held = Arc::clone(&self.held);
        let runtime = held.places.store.runtime().clone();
        let release = async move {
            let claim = Claim { released: true, renewed_micros: now_micros(), ..held.claim.clone() };
            let version = lock(&held.version).clone();
            let written = tokio::time::timeout(RELEASE_WITHIN, write(&held.places, &held.path, &claim, version)).await;
            if !matches!(written, Ok(Ok(_))) {
                tracing::warn!(pipeline = %claim.owner.pipeline, "the lease could not be given up; it ends by itself");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(inside) => drop(inside.spawn(release)),
            Err(_) => runtime.block_on(release),
        }
    }
}

/// Renews until dropped or until somebody else has the lease.
async fn renew(held: Arc<Held>) {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        let claim = Claim { renewed_micros: now_micros(), ..held.claim.clone() };
        let version = lock(&held.version).clone();
        match write(&held.places, &held.path, &claim, version).await {
            Ok(version) => *lock(&held.version) = Some(version),
            Err(object_store::Error::Precondition { .. } | object_store::Error::AlreadyExists { .. }) => {
                match read_async(&held.places, &held.path).await {
                    // Our own renewal, whose answer was lost.
                    Ok(Some((c, meta))) if c.token == held.claim.token => {
                        *lock(&held.version) = Some(UpdateVersion { e_tag: meta.e_tag, version: meta.version });
                    }
                    Ok(Some((c, _))) => {
                        *lock(&held.lost) = Some(c);
                        return;
                    }
                    Ok(None) => *lock(&held.version) = None,
                    // As below: tried again in a moment.
                    Err(e) => tracing::warn!("the lease of pipeline {} was not read: {e}", claim.owner.pipeline),
                }
            }
            // Nothing is lost by a late renewal but the protection from a second run.
            Err(e) => tracing::warn!("the lease of pipeline {} was not renewed: {e}", claim.owner.pipeline),
        }
    }
}

impl Claim {
    fn json(&self) -> Result<Bytes> {
        let bytes = serde_json::to_vec(self).map_err(|e| Error::corrupt("a lease has no JSON form").caused_by(e))?;
        Ok(Bytes::from(bytes))
    }
}

async fn write(
    places: &Places,
    path: &Path,
    claim: &Claim,
    version: Option<UpdateVersion>,
) -> object_store::Result<UpdateVersion> {
    let bytes = claim.json().map_err(|e| object_store::Error::Generic { store: "lease", source: Box::new(e) })?;
    let mode = version.map_or(PutMode::Create, PutMode::Update);
    let put = places.store.objects().put_opts(path, PutPayload::from(bytes), mode.into()).await?;
    Ok(put.into())
}

fn read(places: &Places, path: &Path) -> Result<Option<(Claim, object_store::ObjectMeta)>> {
    places.store.runtime().block_on(read_async(places, path))
}

async fn read_async(places: &Places, path: &Path) -> Result<Option<(Claim, object_store::ObjectMeta)>> {
    let got = match places.store.objects().get(path).await {
        Ok(got) => got,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(e) => return Err(places.store.error(e, "read", path)),
    };
    let meta = got.meta.clone();
    let bytes = got.bytes().await.map_err(|e| places.store.error(e, "read", path))?;
    let claim = serde_json::from_slice(&bytes).map_err(|e| {
        Error::corrupt(format!("{path} is no lease"))
            .caused_by(e)
            .hint("delete it when no run of the pipeline is alive")
    })?;
    Ok(Some((claim, meta)))
}

fn alive(places: &Places, claim: &Claim, me: &Owner, meta: &object_store::ObjectMeta) -> Result<bool> {
    if claim.released {
        return Ok(false);
    }
    if claim.owner.host == me.host {
        if claim.owner.pid == std::process::id() {
            return Ok(lock(&HELD).contains(&claim.token));
        }
        let processes = std::path::Path::new("/proc");
        if processes.join("self").exists() && !processes.join(claim.owner.pid.to_string()).exists() {
            return Ok(false);
        }
    }
    // The store stamps both objects: no two machines' clocks are compared.
    let clock = places.path(["clock"]);
    places.store.put(&clock, Bytes::from_static(b"now"))?;
    let now = places.store.head(&clock)?.map(|m| m.last_modified);
    let age = now.map_or(0, |now| (now - meta.last_modified).num_milliseconds());
    Ok(u128::try_from(age).unwrap_or(0) < DEAD_AFTER.as_millis())
}

fn owned(pipeline: &str, claim: Option<&Claim>) -> Error {
    let by = claim.map_or_else(|| "another process".to_owned(), |c| format!("{} (epoch {})", c.owner, c.epoch));
    Error::owned(format!("pipeline {pipeline} is owned by {by}"))
        .hint("stop the other run, or give this one a pipeline name of its own and a folder of its own")
}

/// Whoever only asks for the owner ([`holder`]) has the lock for a moment: that is no reason to refuse.
fn try_lock(file: &File) -> Result<(), TryLockError> {
    for _ in 0..4 {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
            done => return done,
        }
    }
    file.try_lock()
}

fn lock_file(file: &std::path::Path) -> Result<File> {
    let open = || {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        File::options().create(true).append(true).open(file)
    };
    open().map_err(|e| {
        Error::unavailable(format!("create {}", file.display()))
            .caused_by(e)
            .hint("let the user that runs this process write there: chown or chmod; or name another folder")
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now_micros() -> u64 {
    micros(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}
