//! Damaged objects of a pipeline's log: read or refused, without a panic, an endless way or an allocation beyond what is due.

use std::sync::Arc;

use bytes::Bytes;
use crossfade_core::{
    Checkpoint, KeyPart, KeyRange, Logical, Owner, Phase, Position, Suspension, TableName, TableSchema,
};
use crossfade_fuzz::Fuzz;
use object_store::path::Path;

use crate::lease::Claim;
use crate::log::parse;
use crate::record::{Entry, FORMAT, Record, Shape, Staged, State, Step};

fn table(column: &str) -> Arc<TableSchema> {
    let column = crossfade_core::Column {
        name: column.into(),
        source_type: "numeric(10,2)".into(),
        logical: Logical::Decimal { precision: 10, scale: 2 },
        nullable: false,
        auto_increment: false,
        number: 1,
        policies: Default::default(),
    };
    Arc::new(TableSchema {
        name: TableName::new("s", "t"),
        version: 1,
        columns: vec![column],
        key: vec![0],
        indexes: vec![],
        foreign_keys: vec![],
        origin: None,
        pending: vec![],
        number: 0,
    })
}

/// A log with an entry of each kind.
fn log() -> Vec<Record> {
    let name = TableName::new("s", "t");
    let checkpoint = |seq| Checkpoint {
        seq,
        position: Position::new("x:1"),
        phase: Phase::Copying,
        epoch: 1,
        commit_micros: Some(1),
    };
    let file = |shape| Staged { stage: "a-1.parquet".into(), shape, rows: 3, bytes: 400 };
    let shape = |id, column: &str, from| Shape { id, table: table(column), from };
    let renamed = vec![Step::Rename { from: "a".into(), to: "b".into() }];
    let to = Some(vec![KeyPart::Int(i128::MAX), KeyPart::Text("é".into()), KeyPart::Bytes(vec![0, 255])]);
    let (source, reason, hint) = (TableName::new("a", "b"), "a value".into(), Some("mend it".into()));
    let why = Suspension { source, position: Position::new("x:2"), reason, hint };
    let entries = [
        Entry::Open,
        Entry::Shapes(vec![shape(1, "a", None)]),
        Entry::Plan { table: name.clone(), ranges: vec![KeyRange { after: None, to }] },
        Entry::Chunk { table: name.clone(), index: 0, high: Position::new("x:2"), files: vec![file(1)] },
        Entry::Commit {
            checkpoint: checkpoint(1),
            shapes: vec![shape(2, "b", Some((1, renamed)))],
            files: vec![file(2)],
        },
        Entry::Again {
            checkpoint: checkpoint(2),
            shape: shape(3, "c", None),
            since: Position::new("x:3"),
            files: vec![],
        },
        Entry::Suspend { checkpoint: checkpoint(3), table: name.clone(), why },
    ];
    let owner = || Owner { pipeline: "p".into(), host: "h".into(), pid: 1 };
    let record = |(i, entry)| Record {
        format: FORMAT,
        number: i as u64 + 1,
        token: "t".into(),
        owner: owner(),
        epoch: 1,
        published: 0,
        entry,
    };
    entries.into_iter().enumerate().map(record).collect()
}

/// What is asked of a state.
fn ask(state: &State) -> bool {
    let name = TableName::new("s", "t");
    let _ = (state.seq(), state.next_shape(), state.tables());
    state.files_of(&name).count() <= state.files.len()
}

#[test]
fn records() {
    let log = log();
    // The state before each record, so that what follows from it is tried too.
    let mut states = vec![State::default()];
    for record in &log {
        let mut next = states.last().unwrap().clone();
        next.apply(record).unwrap();
        states.push(next);
    }
    let examples: Vec<Vec<u8>> = log.iter().map(|r| serde_json::to_vec(r).unwrap()).collect();
    Fuzz::default().run(&examples, |bytes| {
        let Ok(record) = parse::<Record>(&Bytes::copy_from_slice(bytes), &Path::from("log/1.json")) else {
            return false;
        };
        let Some(state) = states.iter().find(|s| s.number.checked_add(1) == Some(record.number)) else { return false };
        let mut state = state.clone();
        state.apply(&record).is_ok() && ask(&state)
    });
}

#[test]
fn summaries() {
    let log = log();
    let mut state = State::default();
    log.iter().for_each(|r| state.apply(r).unwrap());
    let examples = [serde_json::to_vec(&state).unwrap()];
    let next = Record { number: state.number + 1, entry: Entry::Open, epoch: 2, ..log[0].clone() };
    Fuzz::default().run(&examples, |bytes| {
        let state = parse::<State>(&Bytes::copy_from_slice(bytes), &Path::from("summary/1.json"));
        state.and_then(State::sound).is_ok_and(|mut state| {
            let _ = state.apply(&next);
            ask(&state)
        })
    });
}

#[test]
fn a_shape_that_descends_from_itself_is_refused() {
    let mut state = State::default();
    let log = log();
    state.apply(&log[0]).unwrap();
    for from in [1, 2] {
        let shapes = [(1, from), (2, 1)].map(|(id, from)| Shape { id, table: table("a"), from: Some((from, vec![])) });
        let record = Record { entry: Entry::Shapes(shapes.to_vec()), ..log[1].clone() };
        assert!(state.clone().apply(&record).unwrap_err().to_string().contains("comes from none"));
    }
}

#[test]
fn leases() {
    let example =
        br#"{"owner":{"pipeline":"p","host":"h","pid":7},"epoch":3,"token":"t","renewed_micros":1700000000000000,"released":false}"#;
    Fuzz::default().run(&[example.to_vec()], |bytes| serde_json::from_slice::<Claim>(bytes).is_ok());
}
