//! Damaged bytes of a server through everything that reads them: no panic, no allocation beyond what is due. The examples are
//! the events of `tests/fuzz/corpus/mysql.binlog` and `mariadb.binlog`.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crossfade_core::{Column, Logical, RowsBuilder, TableName, TableSchema};
use crossfade_fuzz::{Fuzz, corpus};

use super::decode::{Decode, Traits};
use super::event::{self, Checksums, HEADER, Kind};
use super::payload::Payload;
use super::plan::{Plan, PlanColumn};
use super::reader::{Reader, bit};
use super::rows::{self, Change, Layout, Sink};
use super::table_map::{self, LogColumn, Wire};
use super::wire::{Socket, Wait};
use super::{gtid, gtid_event, gtid_list, jsonb, mariadb, statement};
use crate::connect::Flavor;
use crate::position::MySqlPosition;

/// The bodies of a file's events, without their checksums, and those of its compressed transactions.
fn bodies(file: &str) -> Vec<(u8, Vec<u8>)> {
    let mut bodies = Vec::new();
    let mut checksums = Checksums::Unknown;
    for event in corpus::events(file) {
        let (header, _) = event::split(&event).unwrap();
        let body = event::verify(&event, &header, &mut checksums, &file).unwrap().to_vec();
        if Kind::of(header.kind) == Kind::TransactionPayload {
            let (mut payload, mut inner) = (Payload::open(&body).unwrap(), Vec::new());
            while payload.next(&mut inner).unwrap() {
                bodies.push((inner[4], inner[HEADER..].to_vec()));
            }
        }
        bodies.push((header.kind, body));
    }
    bodies
}

fn of_kind(file: &str, wanted: impl Fn(Kind) -> bool) -> Vec<Vec<u8>> {
    bodies(file).into_iter().filter(|(kind, _)| wanted(Kind::of(*kind))).map(|(_, body)| body).collect()
}

/// Something that the column may be, and how it is decoded then.
fn guess(column: &LogColumn) -> Option<(Logical, Decode)> {
    let labels: Vec<String> = column.labels.iter().flatten().map(|l| String::from_utf8_lossy(l).into_owned()).collect();
    let mut candidates = vec![
        Logical::Int8,
        Logical::Int16,
        Logical::Int32,
        Logical::Int64,
        Logical::UInt8,
        Logical::UInt16,
        Logical::UInt32,
        Logical::UInt64,
        Logical::Float32,
        Logical::Float64,
        Logical::Date,
        Logical::Timestamp,
        Logical::TimestampTz,
        Logical::Duration,
        Logical::Uuid,
        Logical::Json,
        Logical::Text,
        Logical::Bytes,
        Logical::Enum { labels: labels.clone() },
        Logical::Set { labels },
    ];
    match column.wire {
        Wire::Decimal { precision, scale } => candidates.push(Logical::Decimal { precision, scale }),
        Wire::Bit(n) => candidates.push(Logical::Bit { len: n.into() }),
        _ => {}
    }
    let charset = match column.collation {
        Some(63) | None => super::charset::Charset::Binary,
        Some(_) => super::charset::Charset::Utf8,
    };
    let unsigned = column.unsigned.unwrap_or(false);
    let source_type = if column.name.as_deref() == Some("y") { "inet6" } else { "" };
    let traits = Traits { unsigned, charset: Some(charset), source_type };
    candidates.into_iter().find_map(|l| Decode::choose(column.wire, &l, &traits).map(|d| (l, d)))
}

/// How rows of a table map are decoded.
fn plan(map: &table_map::TableMap) -> Plan {
    let (mut columns, mut plan) = (Vec::new(), Vec::new());
    for (i, column) in map.columns.iter().enumerate() {
        let Some((logical, decode)) = guess(column) else {
            plan.push(PlanColumn { wire: column.wire, target: None });
            continue;
        };
        plan.push(PlanColumn { wire: column.wire, target: Some((columns.len(), decode)) });
        columns.push(Column {
            name: format!("c{i}"),
            source_type: String::new(),
            logical,
            nullable: true,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        });
    }
    let name = TableName::new("s", "every");
    let key = vec![0];
    let (indexes, foreign_keys) = (vec![], vec![]);
    let table =
        TableSchema { name, version: 1, columns, key, indexes, foreign_keys, origin: None, pending: vec![], number: 0 };
    Plan { table: Arc::new(table), columns: plan, key: vec![0] }
}

fn decode(plan: &Plan, layout: Layout, body: &[u8]) -> bool {
    let Ok((_, _, rest)) = rows::head(body, layout) else { return false };
    let (mut builder, mut order) = (RowsBuilder::new(Arc::clone(&plan.table)), 0);
    let mut sink = Sink { builder: &mut builder, commit_micros: 0, order: &mut order };
    rows::decode_rows(rest, layout, plan, &mut sink, &"here").is_ok() && builder.finish().is_ok()
}

/// Row events with the table map that each belongs to, by layout and width.
fn row_events(file: &str, flavor: Flavor) -> Vec<(Plan, Layout, Vec<Vec<u8>>)> {
    let mut groups: Vec<(Plan, Layout, Vec<Vec<u8>>)> = Vec::new();
    let mut maps: HashMap<u64, Plan> = HashMap::new();
    for (kind, body) in bodies(file) {
        match Kind::of(kind) {
            Kind::TableMap => {
                let map = table_map::parse(&body, flavor).unwrap();
                maps.insert(map.id, plan(&map));
            }
            Kind::Rows(layout) => {
                let plan = &maps[&rows::head(&body, layout).unwrap().0];
                let same =
                    |g: &&mut (Plan, Layout, Vec<Vec<u8>>)| g.1 == layout && g.0.columns.len() == plan.columns.len();
                match groups.iter_mut().find(same) {
                    Some(group) => group.2.push(body),
                    None => groups.push((plan.clone(), layout, vec![body])),
                }
            }
            _ => {}
        }
    }
    groups
}

#[test]
fn rows_of_mysql_and_mariadb() {
    for (file, flavor) in [("mysql.binlog", Flavor::MySql), ("mariadb.binlog", Flavor::MariaDb)] {
        let mut groups = row_events(file, flavor);
        // A new row of which the log carries a part only is refused as it is.
        groups.retain(|(plan, layout, examples)| examples.iter().any(|e| decode(plan, *layout, e)));
        let each = 12_000 / groups.len() as u64;
        let mut changes = [Change::Write, Change::Update, Change::Delete].to_vec();
        for (plan, layout, examples) in groups {
            let carried = plan.columns.iter().filter(|c| c.target.is_some()).count();
            assert!(carried >= 20, "only {carried} columns of {file} are decoded");
            // zlib makes up to 1032 bytes of one.
            let factor = if layout.compressed { 2 * 1032 } else { 64 };
            Fuzz::default().iterations(each).factor(factor).run(&examples, |body| decode(&plan, layout, body));
            changes.retain(|c| *c != layout.change);
        }
        assert!(changes.is_empty(), "{file} has no {changes:?}");
    }
}

#[test]
fn whole_events() {
    for file in ["mysql.binlog", "mariadb.binlog"] {
        Fuzz::default().run(&corpus::events(file), |event| {
            let Ok((header, _)) = event::split(event) else { return false };
            // As if each came first, and behind a FORMAT_DESCRIPTION.
            let checked = event::verify(event, &header, &mut Checksums::Crc32, &"here").is_ok();
            checked | event::verify(event, &header, &mut Checksums::Unknown, &"here").is_ok()
        });
    }
}

#[test]
fn table_maps() {
    for (file, flavor) in [("mysql.binlog", Flavor::MySql), ("mariadb.binlog", Flavor::MariaDb)] {
        let examples = of_kind(file, |k| k == Kind::TableMap);
        Fuzz::default()
            .run(&examples, |body| table_map::parse(body, flavor).is_ok_and(|map| !plan(&map).columns.is_empty()));
    }
}

#[test]
fn beginnings_of_transactions() {
    let mysql = of_kind("mysql.binlog", |k| matches!(k, Kind::Gtid | Kind::AnonymousGtid | Kind::TaggedGtid));
    Fuzz::default().run(&mysql, |b| gtid_event::parse(b, true).is_ok() | gtid_event::parse_tagged(b).is_ok());
    let maria = of_kind("mariadb.binlog", |k| k == Kind::MariaGtid);
    Fuzz::default().run(&maria, |b| gtid_event::parse_maria(b, 1).is_ok());
}

#[test]
fn compressed_transactions() {
    let examples = of_kind("mysql.binlog", |k| k == Kind::TransactionPayload);
    assert!(examples.len() >= 2);
    let mut event = Vec::new();
    Fuzz::default().iterations(6_000).run(&examples, |body| {
        let Ok(mut payload) = Payload::open(body) else { return false };
        // What is unpacked at once is one event, of the size that it says itself: the largest of this file has 5 KiB, and a
        // damaged size is bounded by what the payload says.
        event.clear();
        event.shrink_to(64 << 10);
        let mut events = 0;
        while events < 100 {
            match payload.next(&mut event) {
                Ok(true) => events += 1,
                Ok(false) => return true,
                Err(_) => return false,
            }
        }
        true
    });
}

#[test]
fn compressed_statements() {
    let examples: Vec<Vec<u8>> = bodies("mariadb.binlog")
        .into_iter()
        .filter_map(|(kind, body)| match Kind::of(kind) {
            Kind::Rows(layout) if layout.compressed => {
                let (_, _, mut rest) = rows::head(&body, layout).ok()?;
                let width = rest.length().ok()?;
                let bitmaps = if layout.change == Change::Update { 2 } else { 1 };
                rest.take(bitmaps * width.div_ceil(8)).ok()?;
                Some(rest.0.to_vec())
            }
            _ => None,
        })
        .collect();
    // zlib makes up to 1032 bytes of one; a buffer that grows holds them twice.
    Fuzz::default().factor(3 * 1032).run(&examples, |packed| mariadb::decompress(packed).is_ok());
}

#[test]
fn statements() {
    let text = |body: Vec<u8>| {
        // thread 4, time 4, database length 1, error 2, status length 2, status, database, NUL, statement
        let (database, status) = (usize::from(body[8]), usize::from(u16::from_le_bytes([body[11], body[12]])));
        body[13 + status + database + 1..].to_vec()
    };
    let uncompressed = |k| k == Kind::Query { compressed: false };
    let mut examples: Vec<Vec<u8>> = of_kind("mysql.binlog", uncompressed).into_iter().map(text).collect();
    examples.extend(
        [
            "create table `a b`.t (id int unsigned not null auto_increment, n varchar(20) character set latin1 default 'it''s', \
             primary key (id), key k (n(3) desc)) engine=innodb /*!80000 comment='x' */",
            "alter table t add column (a int, b enum('x','y') default 'x'), rename column c to d, drop column e, \
             modify f decimal(10,2) unsigned first, change g h json after i, convert to character set utf8mb4",
            "rename table a.b to c.d, e to f -- comment",
            "drop table if exists a, `b``c`.d /* all */ cascade",
        ]
        .map(|sql| sql.as_bytes().to_vec()),
    );
    Fuzz::default().run(&examples, |sql| {
        let sql = String::from_utf8_lossy(sql);
        let _ = (statement::read(&sql, "s"), statement::mentions(&sql, "t"));
        !statement::tokens(&sql).is_empty()
    });
}

/// The documents in the JSON columns of the rows that were inserted.
fn documents() -> Vec<Vec<u8>> {
    let mut documents = Vec::new();
    for (plan, layout, examples) in row_events("mysql.binlog", Flavor::MySql) {
        for body in examples.iter().filter(|_| layout.change == Change::Write) {
            let (_, _, mut r) = rows::head(body, layout).unwrap();
            let width = r.length().unwrap();
            let present = r.take(width.div_ceil(8)).unwrap();
            let carried: Vec<Wire> = (0..width).filter(|&i| bit(present, i)).map(|i| plan.columns[i].wire).collect();
            while !r.is_empty() {
                let nulls = r.take(carried.len().div_ceil(8)).unwrap();
                for wire in carried.iter().enumerate().filter(|(i, _)| !bit(nulls, *i)).map(|(_, w)| w) {
                    let value = wire.take(&mut r).unwrap();
                    if matches!(wire, Wire::Json(_)) {
                        documents.push(value.to_vec());
                    }
                }
            }
        }
    }
    documents
}

#[test]
fn json() {
    let documents = documents();
    assert!(documents.len() >= 7, "{}", documents.len());
    Fuzz::default().run(&documents, |document| {
        let mut text = String::new();
        jsonb::print(document, &mut text).is_ok() && !text.is_empty()
    });
}

#[test]
fn packets() {
    let packet = |payload: &[u8]| [&(payload.len() as u32).to_le_bytes()[..], payload].concat();
    let examples: Vec<Vec<u8>> = corpus::events("mysql.binlog").iter().map(|e| packet(e)).collect();
    Fuzz::default().run(&examples, |bytes| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut theirs, bytes).unwrap();
        let mut wire = super::wire::Wire::new(Socket::Unix(ours));
        matches!(wire.packet(Wait::No), Ok(Some(_)))
    });
}

#[test]
fn positions() {
    let examples = [
        "gtid:00000000-0000-0000-0000-000000000001:1-5:7,00000000-0000-0000-0000-000000000002:tag:1@binlog.000001:4",
        "mariadb:0-1-5,1-2-7@mysqld-bin.000001:4",
        "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-3:5:7-9",
        "0-1-100",
    ]
    .map(|text| text.as_bytes().to_vec());
    Fuzz::default().run(&examples, |text| {
        let text = String::from_utf8_lossy(text);
        MySqlPosition::parse(&crossfade_core::Position::new(&*text)).is_ok()
            | gtid::GtidSet::parse(&text).is_ok()
            | gtid_list::GtidList::parse(&text).is_ok()
    });
}

#[test]
fn error_packets() {
    let examples = [b"\x15\x04#28000Access denied".to_vec(), b"\x00\x00".to_vec()];
    Fuzz::default().run(&examples, |body| super::wire::error_parts(body).0 > 0 || !Reader(body).is_empty());
}
