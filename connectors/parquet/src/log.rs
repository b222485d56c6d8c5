//! The commit log: where a commit happens, where it is found again, and where owners are told apart.
//!
//! One [`Log`] is shared by the writer and the loaders of a process behind a mutex, so that their commits take their
//! places one after the other. Between processes nothing is shared but the store: a record's number can be taken once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use crossfade_core::{Error, Owner, Result, TableName};
use object_store::path::Path;

use crate::record::{Committed, Entry, FORMAT, Record, Shape, State};
use crate::store::{Move, Put, Store};

/// Every so many records the state is written down whole, so that a reader need not fetch the log from its beginning.
const SUMMARY_EVERY: u64 = 256;

/// Where everything of one pipeline is.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) store: Store,
    pub(crate) pipeline: String,
}

impl Places {
    pub(crate) fn path<'a>(&'a self, parts: impl IntoIterator<Item = &'a str>) -> Path {
        self.store.path(["_crossfade", &self.pipeline].into_iter().chain(parts))
    }

    pub(crate) fn stage(&self, name: &str) -> Path {
        self.path(["stage", name])
    }

    pub(crate) fn record(&self, number: u64) -> Path {
        self.path(["log", &format!("{number:016}.json")])
    }

    fn summary(&self, number: u64) -> Path {
        self.path(["summary", &format!("{number:016}.json")])
    }

    /// The folder that readers list.
    pub(crate) fn table(&self, table: &TableName) -> Path {
        self.store.path([table.schema.as_str(), table.name.as_str()])
    }

    /// A file's final name. It names the pipeline too, so that two that write the same folder against all advice never
    /// replace each other's files.
    pub(crate) fn published(&self, table: &TableName, record: u64, n: u32) -> Path {
        let name = format!("{record:016}-{n}-{}.parquet", self.pipeline);
        self.store.path([table.schema.as_str(), table.name.as_str(), name.as_str()])
    }

    /// Reads the log: the newest summary, and every record after it.
    pub(crate) fn load(&self) -> Result<State> {
        let mut state = match self.store.list(&self.path(["summary"]), None)?.pop() {
            Some(newest) => match self.store.get(&newest.location)? {
                Some(bytes) => parse::<State>(&bytes, &newest.location)?.sound()?,
                None => State::default(),
            },
            None => State::default(),
        };
        self.follow(&mut state)?;
        Ok(state)
    }

    /// Adds what has come to the log since.
    pub(crate) fn follow(&self, state: &mut State) -> Result<()> {
        let after = self.record(state.number);
        let paths: Vec<Path> =
            self.store.list(&self.path(["log"]), Some(&after))?.into_iter().map(|o| o.location).collect();
        for (path, bytes) in paths.iter().zip(self.store.get_all(paths.clone())?) {
            let record: Record = parse(&bytes, path)?;
            if *path != self.record(record.number) {
                return Err(Error::corrupt(format!("{path} holds log record {}", record.number)));
            }
            state.apply(&record)?;
        }
        Ok(())
    }
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(bytes: &Bytes, path: &Path) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| {
        Error::corrupt(format!("{path} is not what this program writes")).caused_by(e).hint(
            "a later version of this program wrote it, or something else changed it: run that version, or restore it",
        )
    })
}

/// An owner's end of the log.
pub(crate) struct Log {
    places: Places,
    owner: Owner,
    epoch: u64,
    state: State,
    /// Why nothing may be appended any more: an append failed, and what the log holds now is not known.
    failed: Option<String>,
}

impl Log {
    /// Takes the pipeline: from the record that this writes on, no other owner can append. Then completes what the
    /// last one left: committed files go to their names, all else that was staged is deleted.
    pub(crate) fn take(places: Places, owner: &Owner) -> Result<Log> {
        let mut state = places.load()?;
        let mut log = loop {
            let (number, epoch) = (state.number + 1, state.epoch + 1);
            let mut log = Log { places: places.clone(), owner: owner.clone(), epoch, state, failed: None };
            match log.put(Entry::Open)? {
                None => break log,
                // The last owner's commit was still on its way, and is in the log now: it counts. So was a takeover of
                // our own whose answer was lost. Another's takeover at the same time has won.
                Some(there) if there.entry.is_commit() || there.owner == *owner => {
                    state = log.state;
                    places.follow(&mut state)?;
                    if state.number < number {
                        return Err(Error::transient(format!("log record {number} is there, but is not listed")));
                    }
                }
                Some(there) => return Err(taken(&there)),
            }
        };
        log.publish()?;
        log.sweep()?;
        Ok(log)
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// **The commit.** When this returns without an error, the record is durable and its files are at their names. With
    /// an error, it may or may not be: the log must be taken anew, which tells.
    pub(crate) fn append(&mut self, entry: Entry) -> Result<()> {
        if let Some(why) = &self.failed {
            return Err(Error::transient(format!("the pipeline must be opened again: {why}")));
        }
        // Set first: an early return below leaves it so.
        self.failed = Some(format!("log record {} failed", self.state.number + 1));
        if let Some(there) = self.put(entry)? {
            return Err(taken(&there));
        }
        self.publish()?;
        self.failed = None;
        Ok(())
    }

    /// Writes the next record; `Some` if another's is there.
    fn put(&mut self, entry: Entry) -> Result<Option<Record>> {
        let number = self.state.number + 1;
        let record = Record {
            format: FORMAT,
            number,
            token: token(&self.owner),
            owner: self.owner.clone(),
            epoch: self.epoch,
            published: self.state.published,
            entry,
        };
        self.state.check(&record)?;
        let bytes = Bytes::from(json(&record)?);
        let path = self.places.record(number);
        match self.places.store.put_if_absent(&path, &bytes, &self.places.stage(&format!("{}.json", record.token)))? {
            Put::Created => self.state.apply(&record).map(|()| None),
            Put::Taken(there) => parse(&there, &path).map(Some),
        }
    }

    /// Moves the files of all records that are not known to be published. Idempotent.
    fn publish(&mut self) -> Result<()> {
        let moves: Vec<Move> = self
            .state
            .files
            .iter()
            .rev()
            .map_while(|f| Some((f, f.stage.as_ref()?)))
            .map(|(f, stage)| {
                let to = self.places.published(&self.shape(f)?.table.name, f.record, f.n);
                Ok(Move { from: self.places.stage(stage), to, bytes: f.bytes })
            })
            .collect::<Result<_>>()?;
        self.places.store.publish(moves)?;
        let number = self.state.number;
        self.state.set_published(number);
        if number.is_multiple_of(SUMMARY_EVERY) {
            self.places.store.put(&self.places.summary(number), Bytes::from(json(&self.state)?))?;
        }
        Ok(())
    }

    fn shape(&self, file: &Committed) -> Result<&Shape> {
        self.state
            .shapes
            .get(&file.shape)
            .ok_or_else(|| Error::corrupt(format!("log record {}: a file of unknown shape", file.record)))
    }

    /// Deletes what dead owners staged and never committed, and all summaries but the last two. Right only after the
    /// takeover's record is in the log: before, one of those files could still be committed.
    fn sweep(&self) -> Result<()> {
        let store = &self.places.store;
        for object in store.list(&self.places.path(["stage"]), None)? {
            store.delete(&object.location)?;
        }
        let summaries = store.list(&self.places.path(["summary"]), None)?;
        for object in summaries.iter().rev().skip(2) {
            store.delete(&object.location)?;
        }
        // Parts of files that a killed process was writing: the object store does not list them.
        if let Some(folder) = store.file(&self.places.path(["stage"])) {
            for entry in folder.read_dir().into_iter().flatten() {
                let removed = entry.and_then(|e| std::fs::remove_file(e.path()));
                removed.map_err(|e| Error::transient(format!("clear {}", folder.display())).caused_by(e))?;
            }
        }
        Ok(())
    }
}

impl Entry {
    /// Whether this is work of an owner, and not the takeover by one.
    fn is_commit(&self) -> bool {
        !matches!(self, Entry::Open)
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::corrupt("a log record has no JSON form").caused_by(e))
}

/// The error of an owner that has been fenced out.
pub(crate) fn taken(there: &Record) -> Error {
    Error::owned(format!(
        "pipeline {} is owned by {} (epoch {}), which wrote log record {}",
        there.owner.pipeline, there.owner, there.epoch, there.number
    ))
    .hint("stop the other run, or leave the pipeline to it")
}

/// Text that no other call on any machine returns: time, process and counter, and a hash key that the system's random
/// source seeded.
pub(crate) fn token(owner: &Owner) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let random = std::hash::BuildHasher::hash_one(
        &std::collections::hash_map::RandomState::new(),
        COUNTER.fetch_add(1, Ordering::Relaxed),
    );
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    format!("{nanos:x}-{:x}-{random:016x}", owner.pid)
}

/// The logs that writers of this process have open, so that loaders find theirs.
pub(crate) type OpenLogs = std::sync::Mutex<HashMap<String, std::sync::Weak<std::sync::Mutex<Log>>>>;
