//! The preflight check: what a lossless pipeline needs of the server, setting by setting. Changes nothing.
//!
//! Each finding names the setting, what is expected, what is there, and the statement that mends it. Critical is what
//! loses data or stops the pipeline; a warning is what an operator has to know. Privileges are read from SHOW GRANTS
//! (with the active roles), except SELECT, which is tried on every table: it can be granted on columns, and the server
//! is the better judge.

use std::collections::{HashMap, HashSet};

use crossfade_core::{Finding, Result, Selection};

use crate::catalog::{self, TableInfo, literal, select};
use crate::connect::{Flavor, Server};
use crate::grants::Grants;
use crate::log_end::status;
use crate::session::Session;
use crate::tables_check;

/// What a copy reads in a second where network and disks are slow.
const COPY_SPEED: u64 = 10 << 20;

/// A log that is kept for less than this many seconds may be gone before a stopped pipeline is started again.
const MIN_LOG_SECONDS: u64 = 86_400;

/// Compares the server, the user's privileges and the selected tables with what a pipeline needs.
pub fn check(server: &Server, selection: &Selection) -> Result<Vec<Finding>> {
    let mut session = server.session()?;
    let settings = Settings::read(&mut session)?;
    let mut findings = vec![version(server)];
    log_settings(server, &settings, &mut findings);
    if server.flavor == Flavor::MySql {
        gtid_mode(&mut session, &settings, &mut findings);
    }
    let grants = Grants::read(server, &mut session)?;
    let log_is_readable = privileges(server, &grants, &mut findings);
    if log_is_readable && settings.is("log_bin", "ON") {
        filters(server, &mut session, &mut findings)?;
    }
    let tables = catalog::inventory(server, &mut session, selection)?;
    findings.push(retention(&settings, bytes(&mut session, &tables)?));
    tables_check::check(server, &mut session, &tables, &grants, &mut findings)?;
    Ok(findings)
}

/// What a target that keeps every change needs: rows that the log shows whole.
pub fn whole_rows(server: &Server, session: &mut Session, selection: &Selection) -> Result<Vec<Finding>> {
    let image = catalog::row_image(session)?;
    if image.eq_ignore_ascii_case(catalog::FULL) || catalog::inventory(server, session, selection)?.is_empty() {
        return Ok(Vec::new());
    }
    let (set, full) = (if server.is_mariadb() { "GLOBAL" } else { "PERSIST" }, catalog::FULL);
    let expected = format!("{full}: a target that keeps every change is given whole rows");
    let actual = format!("{image}: the first update that leaves a column alone would stop the pipeline");
    let fix = format!(
        "SET {set} binlog_row_image = '{full}'; sessions that are open keep the old value until they reconnect"
    );
    Ok(vec![Finding::critical("binlog_row_image", expected, actual, fix)])
}

/// About how many bytes the tables hold.
fn bytes(session: &mut Session, tables: &[TableInfo]) -> Result<u64> {
    let mut schemas: Vec<String> = tables.iter().map(|t| literal(&t.schema.name.schema)).collect();
    schemas.sort_unstable();
    schemas.dedup();
    if schemas.is_empty() {
        return Ok(0);
    }
    let within = schemas.join(", ");
    let sql = format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME, DATA_LENGTH FROM information_schema.TABLES WHERE TABLE_SCHEMA IN ({within})"
    );
    let names: HashSet<(&str, &str)> =
        tables.iter().map(|t| (t.schema.name.schema.as_str(), t.schema.name.name.as_str())).collect();
    let length =
        |[schema, table, bytes]: [Option<String>; 3]| match names.contains(&(schema?.as_str(), table?.as_str())) {
            true => bytes?.parse::<u64>().ok(),
            false => None,
        };
    Ok(select(session, &sql)?.into_iter().filter_map(length).sum())
}

/// The server's global variables that matter, by lower-case name.
struct Settings(HashMap<String, String>);

impl Settings {
    fn read(session: &mut Session) -> Result<Self> {
        let rows = session.rows(
            "SHOW GLOBAL VARIABLES WHERE Variable_name LIKE '%log_bin%' OR Variable_name LIKE 'binlog%' OR Variable_name \
             LIKE '%expire_logs%' OR Variable_name IN ('server_id', 'gtid_mode')",
        )?;
        let pair = |row: Vec<Option<String>>| {
            let mut row = row.into_iter();
            Some((row.next()??.to_ascii_lowercase(), row.next()??))
        };
        Ok(Settings(rows.into_iter().filter_map(pair).collect()))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.get(name).is_some_and(|v| v.eq_ignore_ascii_case(value))
    }
}

fn version(server: &Server) -> Finding {
    let (name, least) = match server.flavor {
        Flavor::MySql => ("MySQL", (8, 0, 0)),
        Flavor::MariaDb => ("MariaDB", (10, 5, 0)),
    };
    let actual = format!("{name} {}", server.version_text);
    if server.version >= least {
        return Finding::ok("version", actual);
    }
    let expected = format!("{name} {}.{} or later", least.0, least.1);
    Finding::critical("version", &expected, actual, format!("upgrade the server to {expected}"))
}

fn log_settings(server: &Server, settings: &Settings, findings: &mut Vec<Finding>) {
    if settings.is("log_bin", "ON") {
        findings.push(Finding::ok("log_bin", "ON"));
    } else {
        let fix = "write log_bin = binlog below [mysqld] in the server's configuration, and restart it";
        findings.push(Finding::critical("log_bin", "ON", settings.get("log_bin").unwrap_or("OFF"), fix));
    }
    if server.server_id == 0 {
        let fix = "SET GLOBAL server_id = 1 (a number that no other server of the topology has)";
        findings.push(Finding::critical("server_id", "not 0", "0", fix));
    } else {
        findings.push(Finding::ok("server_id", server.server_id.to_string()));
    }
    // (setting, what is right, whether anything else is critical, what the statement sets)
    let expected = [
        ("binlog_format", "ROW", true),
        ("binlog_row_image", "FULL", false),
        ("binlog_row_metadata", "FULL", false),
        ("binlog_row_value_options", "", true),
    ];
    for (name, right, critical) in expected {
        // A setting that this server does not have cannot be wrong; but metadata is needed wherever it exists.
        let Some(actual) = settings.get(name) else { continue };
        if actual.eq_ignore_ascii_case(right) {
            findings.push(Finding::ok(name, if right.is_empty() { "empty" } else { right }));
            continue;
        }
        let shown = if right.is_empty() { "empty" } else { right };
        let expected = match name {
            "binlog_row_metadata" => "FULL (else changes of a table's shape cannot be followed)",
            "binlog_row_image" => "FULL (else deleted and changed values are not in the log)",
            _ => shown,
        };
        let fix = format!("SET PERSIST {name} = '{right}'");
        let fix = match server.flavor {
            Flavor::MySql => fix,
            Flavor::MariaDb => {
                format!("SET GLOBAL {name} = '{right}', and the same below [mysqld] in the configuration")
            }
        };
        let fix = format!("{fix}; sessions that are open keep the old value until they reconnect");
        findings.push(if critical {
            Finding::critical(name, expected, actual, fix)
        } else {
            Finding::warning(name, expected, actual, fix)
        });
    }
}

/// Without GTIDs positions are places in this server's files, and commits under way must be visible.
fn gtid_mode(session: &mut Session, settings: &Settings, findings: &mut Vec<Finding>) {
    let mode = settings.get("gtid_mode").unwrap_or("OFF");
    if mode == "ON" {
        findings.push(Finding::ok("gtid_mode", "ON"));
        return;
    }
    findings.push(Finding::warning(
        "gtid_mode",
        "ON (else positions are places in this server's files, and a failover needs a new copy)",
        mode,
        "SET PERSIST enforce_gtid_consistency = ON; SET PERSIST gtid_mode = OFF_PERMISSIVE; \
         SET PERSIST gtid_mode = ON_PERMISSIVE; SET PERSIST gtid_mode = ON",
    ));
    if let Err(e) = session.rows("SELECT OWNER_THREAD_ID FROM performance_schema.metadata_locks LIMIT 0") {
        findings.push(Finding::critical(
            "privilege SELECT on performance_schema.metadata_locks",
            "granted, where gtid_mode is not ON",
            e.to_string(),
            "GRANT SELECT ON performance_schema.metadata_locks TO the user",
        ));
    }
}

/// How long the log is kept, beside what a stopped pipeline needs, and a copy of so many bytes.
fn retention(settings: &Settings, bytes: u64) -> Finding {
    let number = |name: &str| settings.get(name).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    // Whichever of the two is set rules; MariaDB keeps both in step, MySQL 9 has the first one only.
    let seconds = match number("binlog_expire_logs_seconds") {
        0.0 => number("expire_logs_days") * 86_400.0,
        seconds => seconds,
    };
    if seconds == 0.0 {
        return Finding::ok("binlog_expire_logs_seconds", "0 (the log is never purged by age)");
    }
    let copy = bytes / COPY_SPEED;
    if seconds < copy as f64 {
        return Finding::warning(
            "binlog_expire_logs_seconds",
            format!(
                "more than {copy}: so long may the copy of {} GiB take at 10 MiB/s, and a target that is begun anew meanwhile, or \
                 waits, needs the log since its start",
                bytes >> 30
            ),
            format!("{seconds}"),
            format!("SET GLOBAL binlog_expire_logs_seconds = {}, while the copy lasts", copy.saturating_mul(2)),
        );
    }
    if seconds >= MIN_LOG_SECONDS as f64 {
        return Finding::ok("binlog_expire_logs_seconds", format!("{seconds}"));
    }
    Finding::warning(
        "binlog_expire_logs_seconds",
        format!("at least {MIN_LOG_SECONDS} (a day), so that a stopped pipeline can go on"),
        format!("{seconds}"),
        "SET GLOBAL binlog_expire_logs_seconds = 604800",
    )
}

/// Whether the end of the log can be read.
fn privileges(server: &Server, grants: &Grants, findings: &mut Vec<Finding>) -> bool {
    let client = match server.flavor {
        Flavor::MySql => "REPLICATION CLIENT",
        Flavor::MariaDb => "BINLOG MONITOR",
    };
    for privilege in ["REPLICATION SLAVE", client] {
        let setting = format!("privilege {privilege}");
        findings.push(if grants.has_global(privilege) {
            Finding::ok(setting, "granted")
        } else {
            let fix = format!("GRANT {privilege} ON *.* TO {}", grants.user());
            Finding::critical(setting, "granted", "missing", fix)
        });
    }
    grants.has_global(client)
}

/// The server may leave databases out of its log.
fn filters(server: &Server, session: &mut Session, findings: &mut Vec<Finding>) -> Result<()> {
    let (_, row) = status(server, session)?;
    for (name, at) in [("binlog_do_db", 2), ("binlog_ignore_db", 3)] {
        let value = row.get(at).cloned().flatten().unwrap_or_default();
        if !value.is_empty() {
            let fix = format!("remove {name} from the server's configuration, and restart it");
            findings.push(Finding::critical(name, "empty (else changes are missing from the log)", value, fix));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crossfade_core::Level;

    use super::*;

    #[test]
    fn the_log_is_kept_for_as_long_as_a_copy_may_take() {
        let kept = |seconds: &str| Settings([("binlog_expire_logs_seconds".to_owned(), seconds.to_owned())].into());
        assert_eq!(retention(&kept("2592000"), 1 << 40).level, Level::Ok);
        let short = retention(&kept("90000"), 1 << 40);
        assert_eq!(short.level, Level::Warning);
        assert!(short.expected.starts_with("more than 104857: ") && short.fix.contains("= 209714,"), "{short:?}");
        assert_eq!(retention(&kept("90000"), 1 << 30).level, Level::Ok);
        assert!(retention(&kept("3600"), 1 << 30).expected.contains("a day"));
        assert_eq!(retention(&kept("0"), u64::MAX).level, Level::Ok, "it is never purged");
    }
}
