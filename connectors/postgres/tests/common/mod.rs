//! What the tests of the writing side share: a database, tables and rows by hand.

#![allow(dead_code)] // each test binary uses its part

use std::sync::Arc;

use crossfade_core::{
    Batch, Boundary, Checkpoint, Column, ColumnBuilder, Endpoint, Item, Logical, Op, Owner, Phase, Position, Rows,
    RowsBuilder, TableName, TableSchema, Writer,
};
use crossfade_harness::{Database, PgVersion, Postgres};
use crossfade_postgres::connect::Server;
use crossfade_postgres::writer::PostgresWriter;
use tokio::runtime::{Builder, Runtime};

/// A value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum V {
    Null,
    /// The log did not carry it.
    Absent,
    /// Any integer, date or time, as the logical type counts.
    I(i128),
    F(f64),
    T(String),
    B(Vec<u8>),
}

pub fn t(text: &str) -> V {
    V::T(text.into())
}

/// A database of a shared server, and the way to it.
pub struct Site {
    pub db: Database,
    pub runtime: Runtime,
    pub server: Server,
}

impl Site {
    pub fn new(version: PgVersion) -> Site {
        let db = Postgres::shared(version).fresh_database("writer");
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let server = Server::new(&endpoint(&db), runtime.handle().clone()).unwrap();
        Site { db, runtime, server }
    }

    pub fn endpoint(&self) -> Endpoint {
        endpoint(&self.db)
    }

    pub fn writer(&self) -> PostgresWriter {
        PostgresWriter::open(&self.server, &owner("p")).unwrap()
    }

    pub fn sql(&self, statements: &str) -> String {
        self.db.sql(statements)
    }
}

pub fn endpoint(db: &Database) -> Endpoint {
    Endpoint::new(format!("{}?sslmode=disable", db.url()), None)
}

pub fn owner(pipeline: &str) -> Owner {
    Owner { pipeline: pipeline.into(), host: "here".into(), pid: std::process::id() }
}

pub fn table(name: &str, columns: &[(&str, Logical)], key: &[usize]) -> Arc<TableSchema> {
    let columns = columns.iter().enumerate().map(|(i, (name, logical))| Column {
        name: (*name).into(),
        source_type: "test".into(),
        logical: logical.clone(),
        nullable: !key.contains(&i),
        auto_increment: false,
        number: 0,
        policies: Default::default(),
    });
    Arc::new(TableSchema {
        name: TableName::new("shop", name),
        version: 1,
        columns: columns.collect(),
        key: key.to_vec(),
        indexes: vec![],
        foreign_keys: vec![],
        origin: None,
        pending: vec![],
        number: 0,
    })
}

fn push(builder: &mut ColumnBuilder, value: &V) {
    macro_rules! int {
        ($b:expr, $v:expr) => {
            $b.append_value((*$v).try_into().expect("the value fits the type"))
        };
    }
    use ColumnBuilder as C;
    match (builder, value) {
        (b, V::Null) => b.append_null(),
        (C::Bool(b), V::I(v)) => b.append_value(*v != 0),
        (C::Int8(b), V::I(v)) => int!(b, v),
        (C::Int16(b), V::I(v)) => int!(b, v),
        (C::Int32(b), V::I(v)) => int!(b, v),
        (C::Int64(b), V::I(v)) => int!(b, v),
        (C::UInt8(b), V::I(v)) => int!(b, v),
        (C::UInt16(b), V::I(v)) => int!(b, v),
        (C::UInt32(b), V::I(v)) => int!(b, v),
        (C::UInt64(b), V::I(v)) => int!(b, v),
        (C::Decimal128(b), V::I(v)) => b.append_value(*v),
        (C::Decimal256(b), V::T(v)) => b.append_value(v.parse().expect("an integer")),
        (C::Date(b), V::I(v)) => int!(b, v),
        (C::Time(b), V::I(v)) => int!(b, v),
        (C::Duration(b), V::I(v)) => int!(b, v),
        (C::Timestamp(b), V::I(v)) => int!(b, v),
        (C::Float32(b), V::F(v)) => b.append_value(*v as f32),
        (C::Float64(b), V::F(v)) => b.append_value(*v),
        (C::Utf8(b), V::T(v)) => b.append_value(v),
        (C::Binary(b), V::B(v)) => b.append_value(v),
        (C::Uuid(b), V::B(v)) => b.append_value(v).expect("16 bytes"),
        (b, v) => panic!("{v:?} does not go into {b:?}"),
    }
}

pub fn rows(table: &Arc<TableSchema>, given: &[(Op, Vec<V>)]) -> Rows {
    let mut builder = RowsBuilder::new(Arc::clone(table));
    for (n, (op, values)) in given.iter().enumerate() {
        assert_eq!(values.len(), table.columns.len());
        for (i, value) in values.iter().enumerate() {
            match value {
                V::Absent => builder.append_absent(i),
                value => push(&mut builder.columns[i], value),
            }
        }
        builder.end_row(*op, 0, n as u32);
    }
    builder.finish().unwrap()
}

pub fn batch(items: Vec<Item>) -> Batch {
    Batch { items, end: Boundary::Commit(Position::new("at")), commit_micros: None }
}

/// Writes and commits; the phase is that of the new checkpoint.
pub fn write(writer: &mut PostgresWriter, items: Vec<Item>, phase: Phase) {
    writer.write(&batch(items)).unwrap();
    let next = next(writer, phase);
    writer.commit(&next).unwrap();
}

/// The checkpoint after the writer's last.
pub fn next(writer: &PostgresWriter, phase: Phase) -> Checkpoint {
    let seq = writer.checkpoint().map_or(0, |c| c.seq) + 1;
    Checkpoint {
        seq,
        position: Position::new(format!("at {seq}")),
        phase,
        epoch: writer.epoch(),
        commit_micros: Some(1),
    }
}
