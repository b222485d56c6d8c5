//! The preflight check: what a lossless pipeline needs of the server, setting by setting. Changes nothing.
//!
//! Each finding names the setting, what is expected, what is there, and the statement that mends it. Critical is what
//! loses data or stops the pipeline; a warning is what an operator has to know.

use crossfade_core::{Error, Finding, Result, Selection};

use super::catalog::{self, Scope, TableInfo};
use super::prepared::Prepared;
use super::publication::{self, Fault};
use super::slot::{self, Names, Slot};
use super::spool::Spools;
use super::start::plugin_options;
use crate::classify::classify;
use crate::options::Options;
use crate::quote::{self, ident};

/// The oldest version whose log is read here: it is the first whose slots tell whether their log is whole (`wal_status`).
const OLDEST: i32 = 130_000;

/// A slot that holds back so much log is worth a look.
const MUCH: i64 = 4 << 30;

/// Compares the server, the user's privileges and the selected tables with what a pipeline needs.
pub async fn check(
    client: &Prepared,
    names: &Names,
    selection: &Selection,
    scope: &Scope,
    options: &Options,
) -> Result<Vec<Finding>> {
    let partitions = scope.partitions;
    let facts = Facts::read(client).await?;
    let mut findings = vec![facts.version(), facts.wal_level()];
    findings.extend(facts.log_options(options));
    let slots = slot::list(client).await?;
    facts.room(&slots, names, &mut findings);
    facts.retention(&mut findings);
    let publication = publication::read(client, &names.publication).await?;
    let published = publication.is_some();
    facts.privileges(published, &mut findings);
    held_back(&slots, names, &mut findings);
    if let Some(slot) = slots.iter().find(|s| s.name == names.slot) {
        facts.failover(slot, &mut findings);
    }
    let inventory = catalog::inventory(client, selection, scope).await?;
    if let Some(publication) = publication {
        let partitioned = inventory.iter().any(|t| t.partitioned);
        let mut faults = publication.faults(inventory.iter().map(|t| &t.schema.name));
        faults.extend(publication.roots(partitions, partitioned));
        let setting = format!("publication {}", names.publication);
        let critical = |f: Fault| Finding::critical(&setting, "all changes of the tables", f.what, f.fix);
        findings.extend(faults.into_iter().map(critical));
    }
    for table in inventory {
        tables(client, &table, &facts, published, &mut findings).await?;
    }
    Ok(findings)
}

struct Facts {
    version: i32,
    version_text: String,
    wal_level: String,
    max_slots: i32,
    max_senders: i32,
    senders: i64,
    keep: String,
    idle_timeout: Option<String>,
    /// None before 17, which has no slots that survive a failover.
    synchronized: Option<String>,
    standbys: i64,
    user: String,
    replication: bool,
    create: bool,
    superuser: bool,
    database: String,
    standby: bool,
}

impl Facts {
    async fn read(client: &Prepared) -> Result<Facts> {
        let sql = "SELECT current_setting('server_version_num')::int4, current_setting('server_version'), \
                current_setting('wal_level'), current_setting('max_replication_slots')::int4, \
                current_setting('max_wal_senders')::int4, (SELECT count(*) FROM pg_stat_replication), \
                current_setting('max_slot_wal_keep_size'), current_setting('idle_replication_slot_timeout', true), \
                current_user::text, r.rolreplication OR r.rolsuper, \
                has_database_privilege(current_database(), 'CREATE'), r.rolsuper, current_database()::text, \
                pg_is_in_recovery(), current_setting('synchronized_standby_slots', true), \
                (SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'physical') FROM pg_roles r WHERE r.rolname = current_user";
        let row = client.query_one(sql, &[]).await.map_err(classify)?;
        let read = || {
            Ok(Facts {
                version: row.try_get(0)?,
                version_text: row.try_get(1)?,
                wal_level: row.try_get(2)?,
                max_slots: row.try_get(3)?,
                max_senders: row.try_get(4)?,
                senders: row.try_get(5)?,
                keep: row.try_get(6)?,
                idle_timeout: row.try_get(7)?,
                user: row.try_get(8)?,
                replication: row.try_get(9)?,
                create: row.try_get(10)?,
                superuser: row.try_get(11)?,
                database: row.try_get(12)?,
                standby: row.try_get(13)?,
                synchronized: row.try_get(14)?,
                standbys: row.try_get(15)?,
            })
        };
        read().map_err(classify)
    }

    fn version(&self) -> Finding {
        let actual = format!("Postgres {}", self.version_text);
        if self.standby {
            let fix = "name the primary in the URL";
            return Finding::critical("server", "a primary", format!("{actual}, a standby"), fix);
        }
        if self.version >= OLDEST {
            return Finding::ok("version", actual);
        }
        Finding::critical("version", "Postgres 13 or later", actual, "upgrade the server to Postgres 13 or later")
    }

    /// What the URL asks of the log: whether the server can do it, and whether there is room for it here.
    fn log_options(&self, options: &Options) -> Option<Finding> {
        let version = u32::try_from(self.version).unwrap_or_default();
        let critical = |setting: &str, expected: &str, e: &Error| {
            Finding::critical(setting, expected, e.to_string(), e.hint_text().unwrap_or_default())
        };
        match plugin_options(version, options.streaming, options.origin) {
            Err(e) => Some(critical("origin", "what the server knows", &e)),
            Ok(plugin) if plugin.streams() => {
                let tried = Spools::new(&options.spool_dir);
                tried.err().map(|e| critical("spool_dir", "a folder where large transactions can wait", &e))
            }
            Ok(_) => None,
        }
    }

    fn wal_level(&self) -> Finding {
        if self.wal_level == "logical" {
            return Finding::ok("wal_level", "logical");
        }
        let fix = "ALTER SYSTEM SET wal_level = logical, and restart the server";
        Finding::critical("wal_level", "logical", &self.wal_level, fix)
    }

    /// A slot to begin with, and one for the moment of each proof.
    fn room(&self, slots: &[Slot], names: &Names, findings: &mut Vec<Finding>) {
        let ours = slots.iter().any(|s| s.name == names.slot);
        let need = if ours { 1 } else { 2 };
        let free = i64::from(self.max_slots) - i64::try_from(slots.len()).unwrap_or(i64::MAX);
        let fix = |name: &str| format!("ALTER SYSTEM SET {name} = 10 (more than now), and restart the server");
        let expected = format!("{need} free: the pipeline's, and one for the moment of each proof");
        let actual = format!("{} of {} are free", free.max(0), self.max_slots);
        findings.push(match free {
            free if free >= need => Finding::ok("max_replication_slots", actual),
            free if free == need - 1 && need == 1 => {
                Finding::warning("max_replication_slots", expected, actual, fix("max_replication_slots"))
            }
            _ => Finding::critical("max_replication_slots", expected, actual, fix("max_replication_slots")),
        });
        let free = i64::from(self.max_senders) - self.senders;
        let actual = format!("{} of {} are free", free.max(0), self.max_senders);
        findings.push(match free {
            2.. => Finding::ok("max_wal_senders", actual),
            _ if ours => Finding::warning("max_wal_senders", "2 free", actual, fix("max_wal_senders")),
            _ => Finding::critical("max_wal_senders", "2 free", actual, fix("max_wal_senders")),
        });
    }

    /// Settings by which the server discards log that a stopped pipeline still needs.
    fn retention(&self, findings: &mut Vec<Finding>) {
        let limits = [
            ("max_slot_wal_keep_size", Some(&self.keep), "-1"),
            ("idle_replication_slot_timeout", self.idle_timeout.as_ref(), "0"),
        ];
        for (name, value, none) in limits {
            let Some(value) = value else { continue };
            if value == none {
                findings.push(Finding::ok(name, value));
                continue;
            }
            findings.push(Finding::warning(
                name,
                format!("{none} (no limit): past it the slot is lost, and the tables must be copied again"),
                value,
                format!("ALTER SYSTEM SET {name} = {none}; SELECT pg_reload_conf(); and watch the disk"),
            ));
        }
    }

    /// Whether the slot outlives this server, and whether it is then ahead of what the standby has.
    fn failover(&self, slot: &Slot, findings: &mut Vec<Finding>) {
        let Some(synchronized) = &self.synchronized else { return };
        if !slot.failover {
            let fix = format!(
                "stop the pipeline; over a replication connection: ALTER_REPLICATION_SLOT {} (FAILOVER true)",
                ident(&slot.name)
            );
            let expected = "failover, so that a promoted standby has the slot";
            findings.push(Finding::warning(format!("replication slot {}", slot.name), expected, "no failover", fix));
        } else if self.standbys > 0 && synchronized.is_empty() {
            let fix = "ALTER SYSTEM SET synchronized_standby_slots = 'the standbys'' physical slots'; SELECT pg_reload_conf()";
            findings.push(Finding::warning(
                "synchronized_standby_slots",
                "the standbys' slots: else the target may be told what a promoted standby does not have",
                "empty",
                fix,
            ));
        }
    }

    fn privileges(&self, published: bool, findings: &mut Vec<Finding>) {
        let user = ident(&self.user);
        findings.push(match self.replication {
            true => Finding::ok("privilege REPLICATION", format!("user {} has it", self.user)),
            false => Finding::critical(
                "privilege REPLICATION",
                "the log can be read",
                format!("user {} lacks it", self.user),
                format!("ALTER ROLE {user} REPLICATION"),
            ),
        });
        if !published && !self.create {
            findings.push(Finding::critical(
                format!("database {}", self.database),
                "CREATE, to make the publication",
                format!("user {} lacks it", self.user),
                format!("GRANT CREATE ON DATABASE {} TO {user}", ident(&self.database)),
            ));
        }
    }
}

/// What slots keep the server from discarding. Nobody should find out from a full disk.
fn held_back(slots: &[Slot], names: &Names, findings: &mut Vec<Finding>) {
    for slot in slots {
        let setting = format!("replication slot {}", slot.name);
        let held = slot.held_bytes.unwrap_or(0);
        let status = slot.wal_status.as_deref().unwrap_or("unknown");
        let room = slot.room.map_or_else(String::new, |r| format!(", {} MiB until it may be lost", r.max(0) >> 20));
        let why = slot.invalidated.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
        let actual = format!("{} MiB of log held back, {status}{why}{room}", held >> 20);
        let ours = slot.name == names.slot;
        if ours && slot.wal_status.as_deref() == Some("lost") {
            let fix = "`crossfade slot drop`; then `crossfade snapshot '*'` and `crossfade run` copy all tables again";
            findings.push(Finding::critical(setting, "its log is there", actual, fix));
        } else if ours && slot.wal_status.as_deref() == Some("unreserved") {
            let fix = "raise max_slot_wal_keep_size at once, and let the pipeline catch up";
            findings.push(Finding::warning(setting, "its log is safe", actual, fix));
        } else if ours && slot.room.is_some_and(|room| room.saturating_mul(3) < held) {
            let fix = "let the pipeline catch up, or raise max_slot_wal_keep_size";
            findings.push(Finding::warning(setting, "far from max_slot_wal_keep_size", actual, fix));
        } else if held > MUCH && slot.active_pid.is_none() {
            let fix = match ours {
                true => "start the pipeline, or drop the slot with it: `crossfade slot drop`".to_owned(),
                false => format!("if nobody needs it: SELECT pg_drop_replication_slot({})", quote::literal(&slot.name)),
            };
            findings.push(Finding::warning(setting, "in use, or little log held back", actual, fix));
        } else if ours {
            findings.push(Finding::ok(setting, actual));
        }
    }
}

async fn tables(
    client: &Prepared,
    table: &TableInfo,
    facts: &Facts,
    published: bool,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let setting = format!("table {}", table.schema.name);
    let name = quote::table(&table.schema.name);
    for (why, fix) in &table.refused {
        let fix = format!("{fix}; or exclude the table");
        findings.push(Finding::refused(&table.schema.name, "a table that can be carried", why, fix));
    }
    let sql = "SELECT pg_catalog.has_table_privilege($1::oid, 'SELECT'), \
                   pg_catalog.pg_has_role(c.relowner, 'USAGE') FROM pg_catalog.pg_class c WHERE c.oid = $1";
    let Some(row) = client.query_opt(sql, &[&table.oid]).await.map_err(classify)? else { return Ok(()) };
    let (select, owner): (bool, bool) =
        row.try_get(0).and_then(|select| Ok((select, row.try_get(1)?))).map_err(classify)?;
    if !select {
        let fix = format!("GRANT SELECT ON TABLE {name} TO {}", ident(&facts.user));
        findings.push(Finding::critical(&setting, "SELECT", format!("user {} lacks it", facts.user), fix));
    }
    if !published && !owner && !facts.superuser {
        let fix = format!(
            "as a superuser: GRANT the owner's role to {}, or CREATE PUBLICATION yourself and name it in the URL \
             (publication=...)",
            ident(&facts.user)
        );
        let actual = format!("user {} is not its owner", facts.user);
        findings.push(Finding::critical(&setting, "ownership, to publish it", actual, fix));
    }
    if table.row_security {
        let fix = format!("ALTER ROLE {} BYPASSRLS", ident(&facts.user));
        findings.push(Finding::critical(&setting, "all rows can be read", "policies hide rows", fix));
    }
    let notes = [
        ("indexes that are not carried", table.left_out.iter().map(|(n, why)| format!("{n} ({why})")).collect()),
        ("generated columns, which the log does not hold", table.generated.clone()),
    ];
    for (what, list) in notes {
        if !list.is_empty() {
            let fix = "make what the application needs of them at the target";
            findings.push(Finding::warning(&setting, format!("no {what}"), list.join(", "), fix));
        }
    }
    Ok(())
}
