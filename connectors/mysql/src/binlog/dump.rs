//! Asks a server for its log from a position on, as a replica does.
//!
//! Commands and their bodies after MySQL's `sql/rpl_source.cc` and `sql/rpl_replica.cc`, MariaDB's `sql/sql_repl.cc`. User
//! variables announce what we understand; both spellings of each are set, old servers read the one, new servers the other.

use std::time::Duration;

use crossfade_core::{Error, Result};

use super::login::login;
use super::wire::Wire;
use crate::connect::{Flavor, Server};
use crate::position::MySqlPosition;

const COM_BINLOG_DUMP: u8 = 0x12;
const COM_BINLOG_DUMP_GTID: u8 = 0x1e;
/// The body carries a GTID set.
const THROUGH_GTID: u16 = 4;
/// Behind a file's magic number.
const FILE_START: u64 = 4;

/// An idle server says so this often.
pub const HEARTBEAT: Duration = Duration::from_secs(10);

/// A connection that announces what we understand, and the server id that it goes by.
fn announce(server: &Server) -> Result<(Wire, u32)> {
    let (server_id, uuid) = identity()?;
    let mut wire = login(server.options())?;
    let heartbeat = HEARTBEAT.as_nanos();
    wire.run(&format!("SET @master_heartbeat_period = {heartbeat}, @source_heartbeat_period = {heartbeat}"))?;
    wire.run("SET @master_binlog_checksum = 'CRC32', @source_binlog_checksum = 'CRC32'")?;
    // While nothing can be handed on nothing is read, and the server must not take that for a lost connection.
    wire.run("SET SESSION net_write_timeout = 86400, SESSION net_read_timeout = 86400")?;
    if server.flavor == Flavor::MySql {
        wire.run(&format!("SET @slave_uuid = '{uuid}', @replica_uuid = '{uuid}'"))?;
    }
    Ok((wire, server_id))
}

/// A connection on which the events of MySQL's log arrive from the beginning of one of its files on.
pub fn open_file(server: &Server, file: &str) -> Result<Wire> {
    let (mut wire, server_id) = announce(server)?;
    wire.command(COM_BINLOG_DUMP, &dump_body(FILE_START as u32, server_id, file))?;
    Ok(wire)
}

/// A connection on which events of the log after `from` arrive.
pub fn open(server: &Server, from: &MySqlPosition) -> Result<Wire> {
    let (mut wire, server_id) = announce(server)?;
    match (server.flavor, from) {
        (Flavor::MySql, MySqlPosition::Gtid { executed, .. }) => {
            let set = executed.encode();
            let mut body = THROUGH_GTID.to_le_bytes().to_vec();
            body.extend(server_id.to_le_bytes());
            // No file name: the set alone says where to start.
            body.extend(0u32.to_le_bytes());
            body.extend(FILE_START.to_le_bytes());
            body.extend((set.len() as u32).to_le_bytes());
            body.extend(set);
            wire.command(COM_BINLOG_DUMP_GTID, &body)?;
        }
        (Flavor::MySql, MySqlPosition::File { at, .. }) => {
            let offset = u32::try_from(at.offset).map_err(|_| {
                Error::unavailable(format!("position {at} lies beyond 4 GiB, where a log cannot be read without GTIDs"))
                    .hint("SET GLOBAL gtid_mode = ON (in its steps), or set max_binlog_size below 4 GiB and copy anew")
            })?;
            wire.command(COM_BINLOG_DUMP, &dump_body(offset, server_id, &at.file))?;
        }
        (Flavor::MariaDb, MySqlPosition::MariaDb { list, .. }) => {
            // 4: understands GTID events; else they come as statements.
            wire.run("SET @mariadb_slave_capability = 4")?;
            // Strict: a position that the log does not know is an error, not "from the next one on".
            wire.run(&format!("SET @slave_connect_state = '{list}', @slave_gtid_strict_mode = 1"))?;
            wire.run("SET @slave_gtid_ignore_duplicates = 0")?;
            wire.command(COM_BINLOG_DUMP, &dump_body(FILE_START as u32, server_id, ""))?;
        }
        (Flavor::MySql, MySqlPosition::MariaDb { .. }) | (Flavor::MariaDb, _) => {
            return Err(Error::config(format!("position {from} is not of this kind of server"))
                .hint("a position is valid on the server that made it, or on one of its replication group"));
        }
    }
    Ok(wire)
}

fn dump_body(offset: u32, server_id: u32, file: &str) -> Vec<u8> {
    let mut body = offset.to_le_bytes().to_vec();
    body.extend([0, 0]);
    body.extend(server_id.to_le_bytes());
    body.extend(file.as_bytes());
    body
}

/// A server id and UUID that no other replica has: a server ends the older of two with the same. They are random, in the
/// upper half of the range, where people do not number servers; should they be taken all the same, the connection is lost
/// and the next attempt draws again.
fn identity() -> Result<(u32, String)> {
    let mut random = [0u8; 16];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut random)
        .map_err(|_| Error::transient("the system gives no random numbers"))?;
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    let mut uuid = String::new();
    // Writing to a String cannot fail.
    let _ = super::gtid::write_uuid(&mut uuid, &random);
    Ok((u32::from_le_bytes([random[0], random[1], random[2], random[3]]) | 0x8000_0000, uuid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_differ() {
        let (a, b) = (identity().unwrap(), identity().unwrap());
        assert!(a.0 >= 1 << 31 && a.1 != b.1 && a.1.len() == 36);
    }
}
