//! What the tests of the log share: a database with a slot, its tables as a catalog would describe them, and changes as text.

#![allow(dead_code)] // each test binary uses its part

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use crossfade_core::batch::SchemaStep;
use crossfade_core::{
    Batch, Boundary, Column, Endpoint, Error, Item, Limit, Logical, Omissions, Op, Position, Result, Rows, Stream,
    TableName, TableSchema,
};
use crossfade_harness::{Database, Postgres};
use crossfade_postgres::connect::Server;
use crossfade_postgres::source::position::{Lsn, PgPosition};
use crossfade_postgres::source::stream::PgStream;
use tokio::runtime::{Builder, Runtime};

/// A database with a publication of all its tables.
pub struct Site {
    pub db: Database,
    pub runtime: Runtime,
    pub server: Server,
}

pub fn limit(until: Option<Position>) -> Limit {
    Limit { deadline: Instant::now() + Duration::from_secs(30), bytes: 64 << 20, rows: 1_000_000, until }
}

impl Site {
    pub fn new(pg: &Postgres, ddl: &str) -> Site {
        Site::with(pg, ddl, "")
    }

    /// With options of the source's URL.
    pub fn with(pg: &Postgres, ddl: &str, query: &str) -> Site {
        let db = pg.fresh_database("log");
        db.sql(ddl);
        db.sql("create publication p for all tables");
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let server =
            Server::new(&Endpoint::new(format!("{}?{query}", db.url()), None), runtime.handle().clone()).unwrap();
        Site { db, runtime, server }
    }

    /// The same server by a URL with other options.
    pub fn server(&self, query: &str) -> Server {
        let url = format!("{}?{query}", self.db.url());
        Server::new(&Endpoint::new(url, None), self.runtime.handle().clone()).unwrap()
    }

    /// A session of its own, which keeps transactions open.
    pub fn session(&self) -> Session {
        let client = self.server.block_on(self.server.client()).unwrap();
        let session = Session { server: self.server.clone(), client };
        session.sql("set search_path = public");
        session
    }

    pub fn sql(&self, statements: &str) -> String {
        self.db.sql(statements)
    }

    pub fn slot(&self) -> String {
        format!("slot_{}", self.db.name())
    }

    /// Makes the slot; where its log begins.
    pub fn begin(&self) -> Position {
        self.at(&self.sql(&format!("select lsn from pg_create_logical_replication_slot('{}', 'pgoutput')", self.slot())))
    }

    pub fn at(&self, lsn: &str) -> Position {
        let identity =
            self.sql("select system_identifier, timeline_id from pg_control_system(), pg_control_checkpoint()");
        let (system, timeline) = identity.split_once('\t').unwrap();
        let lsn: Lsn = lsn.parse().unwrap();
        PgPosition { system: system.parse().unwrap(), timeline: timeline.parse().unwrap(), lsn }.to_position()
    }

    /// The end of the log, flushed: what a transaction that is open, or a vacuum, wrote last is not sent before the server flushes
    /// it, which it does by itself after 20 s and more.
    pub fn now(&self) -> Position {
        let end = self.sql("select pg_current_wal_insert_lsn()");
        if self.sql(&format!("select pg_current_wal_flush_lsn() < '{end}'")) == "t" {
            self.sql("select pg_logical_emit_message(true, 'flush', '')");
        }
        self.at(&end)
    }

    pub fn table(&self, name: &str, key: &[&str]) -> Arc<TableSchema> {
        Arc::new(describe(&self.db, name, key))
    }

    pub fn stream(&self, from: &Position, tables: &[Arc<TableSchema>]) -> Result<PgStream> {
        self.stream_of(&self.server, &self.slot(), from, tables)
    }

    pub fn stream_of(
        &self,
        server: &Server,
        slot: &str,
        from: &Position,
        tables: &[Arc<TableSchema>],
    ) -> Result<PgStream> {
        let (client, database) = (self.db.client().clone(), self.db.name().to_owned());
        let keys: Vec<(TableName, Vec<String>)> =
            tables.iter().map(|t| (t.name.clone(), t.key_columns().map(|c| c.name.clone()).collect())).collect();
        let describe = move |name: &TableName| {
            let key = keys.iter().find(|(n, _)| n == name).map(|(_, key)| key.clone()).unwrap_or_default();
            Ok(Some(shape(&|sql| client.sql(&database, sql), &name.name, &key).columns))
        };
        PgStream::start(server, slot, "p", from, tables, Box::new(describe), &Omissions::default())
    }

    /// As [`Site::stream`], once the former connection's slot is free.
    pub fn restart(&self, from: &Position, tables: &[Arc<TableSchema>]) -> PgStream {
        loop {
            match self.stream(from, tables) {
                Ok(stream) => return stream,
                Err(e) => assert!(e.is_transient(), "{e:?}"),
            }
        }
    }
}

/// See [`Site::session`].
pub struct Session {
    server: Server,
    client: tokio_postgres::Client,
}

impl Session {
    pub fn sql(&self, statements: &str) {
        let done = self.server.block_on(self.client.batch_execute(statements));
        done.unwrap_or_else(|e| panic!("{e:?}\nin: {statements}"));
    }
}

pub fn describe(db: &Database, name: &str, key: &[&str]) -> TableSchema {
    let key: Vec<String> = key.iter().map(|k| (*k).to_owned()).collect();
    shape(&|sql| db.sql(sql), name, &key)
}

fn shape(sql: &dyn Fn(&str) -> String, name: &str, key: &[String]) -> TableSchema {
    let text = sql(&format!(
        "set search_path = ''; select attname, format_type(atttypid, atttypmod), attnum from pg_attribute \
         where attrelid = 'public.\"{name}\"'::regclass and attnum > 0 and not attisdropped order by attnum"
    ));
    let column = |line: &str| {
        let fields: Vec<&str> = line.split('\t').collect();
        Column {
            name: fields[0].into(),
            source_type: fields[1].into(),
            logical: logical(fields[1]),
            nullable: true,
            auto_increment: false,
            number: fields[2].parse().unwrap(),
            policies: Default::default(),
        }
    };
    let columns: Vec<Column> = text.lines().map(column).collect();
    TableSchema {
        name: TableName::new("public", name),
        version: 1,
        key: key.iter().map(|k| columns.iter().position(|c| c.name == *k).unwrap()).collect(),
        columns,
        indexes: vec![],
        foreign_keys: vec![],
        origin: None,
        pending: vec![],
        number: sql(&format!("select 'public.\"{name}\"'::regclass::oid")).parse().unwrap(),
    }
}

fn logical(source_type: &str) -> Logical {
    match source_type {
        "integer" => Logical::Int32,
        "smallint" => Logical::Int16,
        "bigint" => Logical::Int64,
        "boolean" => Logical::Bool,
        "real" => Logical::Float32,
        "double precision" => Logical::Float64,
        "numeric" => Logical::Numeric,
        "numeric(12,3)" => Logical::Decimal { precision: 12, scale: 3 },
        "numeric(60,20)" => Logical::Decimal { precision: 60, scale: 20 },
        "bytea" => Logical::Bytes,
        "uuid" => Logical::Uuid,
        "date" => Logical::Date,
        "time without time zone" => Logical::Time,
        "timestamp without time zone" => Logical::Timestamp,
        "timestamp with time zone" => Logical::TimestampTz,
        "bit(5)" => Logical::Bit { len: 5 },
        "json" | "jsonb" => Logical::Json,
        _ => Logical::Text,
    }
}

/// Reads up to a position.
pub fn read(stream: &mut impl Stream, until: &Position) -> Vec<Batch> {
    try_read(stream, until).unwrap()
}

pub fn try_read(stream: &mut impl Stream, until: &Position) -> Result<Vec<Batch>> {
    let mut batches = Vec::new();
    loop {
        // None: a busy machine. What never comes is ended by the test runner's limit.
        let Some(batch) = stream.next(&limit(Some(until.clone())))? else { continue };
        let end = batch.end.clone();
        batches.push(batch);
        if end == Boundary::Commit(until.clone()) {
            return Ok(batches);
        }
    }
}

/// The error that comes next.
pub fn failure(stream: &mut impl Stream) -> Error {
    loop {
        match stream.next(&limit(None)) {
            Ok(batch) => drop(batch.expect("within the time limit")),
            Err(e) => return e,
        }
    }
}

/// Changes as text: `+t 1,x` inserted, `~t 1,y` updated (`…` is absent), `-t 1,NULL` deleted, in the log's order.
pub fn changes(batches: &[Batch]) -> Vec<String> {
    batches.iter().flat_map(of_batch).collect()
}

fn of_batch(batch: &Batch) -> Vec<String> {
    let mut out = Vec::new();
    // Rows stand by table between other items: their order is across tables.
    let mut rows: Vec<(u32, String)> = Vec::new();
    let flush = |rows: &mut Vec<(u32, String)>, out: &mut Vec<String>| {
        rows.sort();
        out.extend(rows.drain(..).map(|(_, text)| text));
    };
    for item in &batch.items {
        match item {
            Item::Rows(r) => rows.extend((0..r.len()).map(|i| (r.order[i], row(r, i)))),
            Item::Truncate(t) => {
                flush(&mut rows, &mut out);
                out.push(format!("truncate {}", t.name.name));
            }
            Item::Schema(change) => {
                flush(&mut rows, &mut out);
                let step = |s: &SchemaStep| match s {
                    SchemaStep::Add { column, fill } => format!("add {column}={fill:?}"),
                    SchemaStep::Drop { column } => format!("drop {column}"),
                    SchemaStep::Rename { from, to } => format!("rename {from} to {to}"),
                };
                let steps: Vec<String> = change.steps.iter().map(step).collect();
                out.push(format!("alter {}: {}", change.to.name.name, steps.join(", ")));
            }
        }
    }
    flush(&mut rows, &mut out);
    out
}

fn row(rows: &Rows, i: usize) -> String {
    let op = match rows.ops[i] {
        Op::Insert => '+',
        Op::Update => '~',
        Op::Delete => '-',
    };
    let value = |c: usize| {
        let array = rows.batch.column(c);
        if rows.is_absent(c, i) {
            "…".to_owned()
        } else if array.is_null(i) {
            "NULL".to_owned()
        } else if let Some(ints) = array.as_primitive_opt::<Int32Type>() {
            ints.value(i).to_string()
        } else {
            array.as_string_opt::<i32>().map_or("?", |a| a.value(i)).chars().take(20).collect()
        }
    };
    let values: Vec<String> = (0..rows.batch.num_columns()).map(value).collect();
    format!("{op}{} {}", rows.table.name.name, values.join(","))
}
