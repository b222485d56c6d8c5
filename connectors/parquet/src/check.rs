//! Whether the store and the tables are what a lossless target needs, before anything is written.

use std::collections::HashSet;
use std::path::Path as FsPath;

use bytes::Bytes;
use crossfade_core::{Error, Finding, Level, Result, TableSchema};

use crate::store::{Put, Store};
use crate::types::{META, reserved};

/// What stands in the way, of the store and of each table. What is tried on the way is deleted again.
pub(crate) fn findings(store: &Store, tables: &[impl AsRef<TableSchema>]) -> Result<Vec<Finding>> {
    let mut found = vec![match store.local() {
        Some(folder) => writable(folder),
        None => conditional_put(store),
    }];
    let mut seen = HashSet::new();
    for table in tables.iter().map(AsRef::as_ref) {
        found.extend(table_findings(table));
        if !seen.insert((table.name.schema.to_lowercase(), table.name.name.to_lowercase())) {
            found.push(Finding::warning(
                format!("table {}", table.name),
                "a name that differs by more than case",
                format!("another table is called {}", table.name.to_string().to_lowercase()),
                "Athena cannot tell them apart: give one of them a [[route]] of its own",
            ));
        }
    }
    Ok(found)
}

/// Fails for a table that files cannot hold.
pub(crate) fn refuse(table: &TableSchema) -> Result<()> {
    match table_findings(table).into_iter().find(|f| f.level == Level::Critical) {
        Some(f) => Err(Error::data(&table.name, format!("{}, where {} is needed", f.actual, f.expected)).hint(f.fix)),
        None => Ok(()),
    }
}

fn table_findings(table: &TableSchema) -> Vec<Finding> {
    let mut found = Vec::new();
    let what = format!("table {}", table.name);
    let exclude = "rename it at the source, or exclude the table";
    for column in table.columns.iter().filter(|c| reserved(&c.name)) {
        found.push(Finding::critical(
            format!("{what}, column {}", column.name),
            format!("a name other than {}", META.join(", ")),
            column.name.clone(),
            exclude,
        ));
    }
    let mut seen = HashSet::new();
    for column in table.columns.iter().filter(|c| !seen.insert(c.name.to_lowercase())) {
        found.push(Finding::warning(
            format!("{what}, column {}", column.name),
            "names that differ by more than case",
            format!("another column is called {}", column.name.to_lowercase()),
            "Athena and DuckDB cannot tell them apart: rename one at the source",
        ));
    }
    if table.name.schema == "_crossfade" {
        found.push(Finding::critical(&what, "a schema of another name", "_crossfade", exclude));
    }
    if table.name.name.starts_with(['_', '.']) {
        found.push(Finding::warning(
            &what,
            "a name that starts with a letter",
            table.name.name.clone(),
            "Athena may pass over folders that start with _ or .: rename the table at the source",
        ));
    }
    if table.key.is_empty() {
        found.push(Finding::warning(
            &what,
            "a primary key, or a unique index without NULLs",
            "none: every change is kept, but there is no view of the latest state",
            "add a primary key at the source",
        ));
    }
    found
}

/// Looks, and tries in the nearest folder that exists.
fn writable(folder: &FsPath) -> Finding {
    let setting = format!("folder {}", folder.display());
    let fix = format!("mkdir -p '{0}' && chown <the user of this process> '{0}'", folder.display());
    let wrong =
        |actual: String| Finding::critical(setting.clone(), "a folder that can be written", actual, fix.clone());
    let Some(there) = folder.ancestors().find(|f| f.symlink_metadata().is_ok()) else {
        return wrong("no part of the path exists".into());
    };
    if !there.is_dir() {
        return wrong(format!("{} is no folder", there.display()));
    }
    let probe = there.join(format!(".crossfade-probe-{}", std::process::id()));
    let linked = probe.with_extension("link");
    let tried = std::fs::write(&probe, b"probe").and_then(|()| std::fs::hard_link(&probe, &linked));
    let cleared = [&linked, &probe].map(std::fs::remove_file);
    match tried {
        Err(e) if cleared[1].is_ok() => Finding::critical(
            setting,
            "a file system with hard links, which commits need",
            e.to_string(),
            "use a local file system (ext4, xfs) or an object store",
        ),
        Err(e) => wrong(format!("{}: {e}", there.display())),
        Ok(()) if there == folder => Finding::ok(setting, "can be written"),
        Ok(()) => Finding::ok(setting, "can be created"),
    }
}

/// Reaches the store, and puts the same object twice: the second must be refused.
fn conditional_put(store: &Store) -> Finding {
    let setting = "object store";
    let probe = format!("probe-{}", std::process::id());
    let path = store.path(["_crossfade", probe.as_str()]);
    let put = |bytes: &'static [u8]| store.put_if_absent(&path, &Bytes::from_static(bytes), &path);
    let tried = store.delete(&path).and_then(|()| put(b"first")).and_then(|_| put(b"second"));
    let cleared = store.delete(&path);
    match tried {
        Ok(Put::Taken(_)) if cleared.is_ok() => Finding::ok(setting, "reachable, with conditional puts"),
        Ok(Put::Taken(_)) => Finding::critical(
            setting,
            "objects can be deleted",
            format!("_crossfade/{probe} could not be deleted"),
            "grant s3:DeleteObject on the bucket's objects",
        ),
        Ok(Put::Created) => Finding::critical(
            setting,
            "a put with If-None-Match: * fails where the object exists",
            "it replaced the object",
            "use a store with conditional puts: S3, R2, MinIO, Ceph; without them two owners could both commit",
        ),
        Err(e) => {
            let fix = e.hint_text().unwrap_or("mend the URL, the credentials or the network").to_owned();
            Finding::critical(setting, "reachable, with conditional puts", e.to_string(), fix)
        }
    }
}
