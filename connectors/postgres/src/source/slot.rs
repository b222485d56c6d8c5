//! What Crossfade makes at the source: a publication and a replication slot. Made, adopted, listed, dropped.
//!
//! Their names follow from the pipeline's, or from `publication=` and `slot=` in the source's URL. The publication comes first:
//! a slot decodes its log with the catalog of that time, in which the publication must stand already
//! (`get_publication_oid` in `src/backend/replication/pgoutput/pgoutput.c`). A kill between the two is mended by the next
//! start, which adopts what is there.
//!
//! A slot keeps the server's log until it is dropped. It is therefore never left behind in silence: `check` and `slot list` say
//! how much each holds back, `uninstall` and `slot drop` remove it.

use crossfade_core::{Error, Keeping, Result, Retained, TableSchema};

use super::prepared::Prepared;
use super::publication;
use crate::classify::classify;
use crate::ddl::hashed;
use crate::options::{Options, Partitions};
use crate::quote::{MAX_NAME, ident, literal};

/// The first version that can keep a slot through a failover (`failover`).
const FAILOVER: i32 = 170_000;

/// How long a new slot may wait for the transactions that are open.
const SLOT_SECONDS: u32 = 60;

/// What a pipeline's slot and publication are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The replication slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
}

impl Names {
    /// From the URL, else from the pipeline's name: lower case letters, digits and underscores, as slots want them. A name
    /// that had to be changed carries a hash of what it was, so that two never become one.
    pub fn new(pipeline: &str, options: &Options) -> Names {
        let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' { c } else { '_' };
        let plain: String = pipeline.chars().map(plain).collect();
        let mut name = format!("crossfade_{plain}");
        if plain != pipeline || name.len() > MAX_NAME {
            name = hashed(&name, pipeline);
        }
        Names {
            slot: options.slot.clone().unwrap_or_else(|| name.clone()),
            publication: options.publication.clone().unwrap_or(name),
        }
    }
}

/// A slot as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Its database; none for a physical one.
    pub database: Option<String>,
    /// The server's process that uses it.
    pub active_pid: Option<i32>,
    /// `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: Option<String>,
    /// Bytes of log that the server keeps for it.
    pub held_bytes: Option<i64>,
    /// Bytes that may still be written before it may be lost (`safe_wal_size`); none without `max_slot_wal_keep_size`.
    pub room: Option<i64>,
    /// Why the server gave it up (17 and later): `wal_removed`, `idle_timeout`, ...
    pub invalidated: Option<String>,
    /// Whether standbys keep a copy of it that survives a failover (17 and later).
    pub failover: bool,
}

impl Slot {
    /// What it makes the server keep, in core's words.
    pub fn retained(&self) -> Retained {
        let status = self.wal_status.as_deref().unwrap_or("unknown");
        let keeping = match status {
            "lost" => Keeping::Lost,
            // The next checkpoint discards it (`GetWALAvailability` in `src/backend/access/transam/xlog.c`).
            "unreserved" => Keeping::Endangered,
            _ => Keeping::Safe,
        };
        let why = self.invalidated.as_ref().map_or_else(String::new, |why| format!(", {why}"));
        let bytes = |n: i64| u64::try_from(n).unwrap_or_default();
        Retained {
            by: format!("replication slot {} (wal_status {status}{why})", self.name),
            bytes: self.held_bytes.map_or(0, bytes),
            room: self.room.map(bytes),
            keeping,
        }
    }
}

/// The slots of the server, those of other programs too.
pub async fn list(client: &Prepared) -> Result<Vec<Slot>> {
    let sql = "SELECT slot_name::text, database::text, active_pid, wal_status, \
                   pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery() \
                       THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END, restart_lsn)::int8, \
                   safe_wal_size, s.j ->> 'invalidation_reason', COALESCE((s.j ->> 'failover')::boolean, false) \
               FROM pg_catalog.pg_replication_slots r, LATERAL (SELECT pg_catalog.to_jsonb(r) AS j) s ORDER BY slot_name";
    let rows = client.query(sql, &[]).await.map_err(classify)?;
    let read = |row: &tokio_postgres::Row| {
        Ok(Slot {
            name: row.try_get(0)?,
            database: row.try_get(1)?,
            active_pid: row.try_get(2)?,
            wal_status: row.try_get(3)?,
            held_bytes: row.try_get(4)?,
            room: row.try_get(5)?,
            invalidated: row.try_get(6)?,
            failover: row.try_get(7)?,
        })
    };
    rows.iter().map(read).collect::<Result<_, tokio_postgres::Error>>().map_err(classify)
}

/// Makes what is missing, for these tables, and adopts what is there.
pub async fn begin(
    client: &Prepared,
    names: &Names,
    tables: &[(&TableSchema, bool)],
    partitions: Partitions,
) -> Result<()> {
    publish(client, &names.publication, tables, partitions).await?;
    let there = list(client).await?.into_iter().any(|s| s.name == names.slot);
    if there {
        return Ok(());
    }
    client.batch_execute(&format!("SET statement_timeout = '{SLOT_SECONDS}s'")).await.map_err(classify)?;
    let made = client.batch_execute(&create(&names.slot, version(client).await?)).await;
    client.batch_execute("SET statement_timeout = 0").await.map_err(classify)?;
    made.map_err(|e| {
        let error = classify(e).context(format!("creating replication slot {}", names.slot));
        match error.is_transient() {
            true => error.hint(
                "a new slot waits for all transactions that are open: see pg_stat_activity (xact_start) and \
                 pg_prepared_xacts",
            ),
            false => error,
        }
    })
}

async fn version(client: &Prepared) -> Result<i32> {
    let row = client.query_one("SELECT pg_catalog.current_setting('server_version_num')::int4", &[]).await;
    row.and_then(|row| row.try_get(0)).map_err(classify)
}

fn create(slot: &str, version: i32) -> String {
    let failover = if version >= FAILOVER { ", failover => true" } else { "" };
    format!(
        "SELECT FROM pg_catalog.pg_create_logical_replication_slot({}, 'pgoutput', temporary => false{failover})",
        literal(slot)
    )
}

async fn publish(
    client: &Prepared,
    publication: &str,
    tables: &[(&TableSchema, bool)],
    partitions: Partitions,
) -> Result<()> {
    let doing = |e| classify(e).context(format!("publication {publication}"));
    let via_root = partitions == Partitions::Root;
    let Some(there) = publication::read(client, publication).await? else {
        let list: Vec<String> = tables.iter().map(|(t, partitioned)| publication::clause(t, *partitioned)).collect();
        let sql = format!(
            "CREATE PUBLICATION {} FOR {} WITH (publish_via_partition_root = {via_root})",
            ident(publication),
            list.join(", ")
        );
        return client.batch_execute(&sql).await.map_err(doing);
    };
    let names = || tables.iter().map(|(t, _)| &t.name);
    let mut faults = there.faults(names());
    faults.extend(there.roots(partitions, tables.iter().any(|(_, partitioned)| *partitioned)));
    if let Some(fault) = faults.into_iter().next() {
        return Err(Error::config(format!("publication {publication}: {}", fault.what)).hint(fault.fix));
    }
    let missing = tables.iter().filter(|(t, _)| !there.has(&t.name));
    let missing: Vec<String> = missing.map(|(t, partitioned)| publication::clause(t, *partitioned)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let sql = format!("ALTER PUBLICATION {} ADD {}", ident(publication), missing.join(", "));
    client.batch_execute(&sql).await.map_err(|e| doing(e).hint(sql.clone()))
}

/// Removes slot and publication. Returns what was removed.
pub async fn remove(client: &Prepared, names: &Names) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    if let Some(slot) = list(client).await?.into_iter().find(|s| s.name == names.slot) {
        if let Some(pid) = slot.active_pid {
            return Err(Error::owned(format!("replication slot {}: process {pid} of the server uses it", slot.name))
                .hint(format!("stop the pipeline first; SELECT pg_terminate_backend({pid}) ends what is left of it")));
        }
        let sql = format!("SELECT FROM pg_catalog.pg_drop_replication_slot({})", literal(&names.slot));
        client.batch_execute(&sql).await.map_err(classify)?;
        removed.push(format!("replication slot {}", names.slot));
    }
    let sql = "SELECT FROM pg_catalog.pg_publication WHERE pubname = $1";
    if client.query_opt(sql, &[&names.publication]).await.map_err(classify)?.is_some() {
        let sql = format!("DROP PUBLICATION {}", ident(&names.publication));
        client.batch_execute(&sql).await.map_err(classify)?;
        removed.push(format!("publication {}", names.publication));
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use crossfade_core::Endpoint;

    use super::*;

    fn names(pipeline: &str, url: &str) -> Names {
        Names::new(pipeline, &Options::parse(&Endpoint::new(url, None), &|_| None).unwrap())
    }

    #[test]
    fn names_are_what_slots_may_have() {
        let plain = names("shop_1", "postgres://u@h/d");
        assert_eq!((plain.slot.as_str(), plain.publication.as_str()), ("crossfade_shop_1", "crossfade_shop_1"));
        let odd = names("Shöp-1", "postgres://u@h/d");
        assert!(odd.slot.starts_with("crossfade__h_p_1_") && odd != names("Shöp_1", "postgres://u@h/d"), "{odd:?}");
        assert!(names(&"x".repeat(80), "postgres://u@h/d").slot.len() <= MAX_NAME);
        let given = names("a", "postgres://u@h/d?slot=s&publication=P");
        assert_eq!((given.slot.as_str(), given.publication.as_str()), ("s", "P"));
    }
}
