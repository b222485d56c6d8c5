//! Single situations by name.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use bytes::Bytes;
use crossfade_core::batch::{SchemaChange, SchemaStep};
use crossfade_core::{
    Chunk, Class, Exit, Fingerprint, Item, KeyRange, Level, Logical, Op, Owner, RowsBuilder, TableSchema, Target,
    Writer,
};

use super::faults::Death;
use super::support::*;
use crate::store::Put;

fn put(id: i64, n: u64) -> Change {
    Change::Put(Op::Insert, id, n)
}

/// Opens, prepares, and commits these changes as the next checkpoint.
fn commit(writer: &mut dyn Writer, table: &Arc<TableSchema>, changes: &[Change]) {
    let seq = writer.checkpoint().map_or(0, |c| c.seq) + 1;
    writer.write(&batch(items(table, changes, &mut 0), seq)).unwrap();
    writer.commit(&checkpoint(seq, writer.epoch(), seq)).unwrap();
}

#[test]
fn a_second_owner_is_refused_until_the_first_is_gone() {
    let lab = Lab::new();
    let first = lab.healthy();
    let mut writer = first.open(&owner()).unwrap();
    writer.prepare(&[table("orders")]).unwrap();

    let other = Owner { host: "there".into(), ..owner() };
    let second = lab.healthy();
    let refused = second.open(&other).err().unwrap();
    assert_eq!(*refused.class(), Class::Fatal(Exit::TryAgain));
    assert!(refused.to_string().contains(&owner().to_string()), "{refused}");
    assert_eq!(second.owner("p").unwrap(), Some(owner()));
    assert_eq!(second.owner("q").unwrap(), None);
    commit(&mut *writer, &table("orders"), &[put(1, 1)]);

    drop(writer);
    assert_eq!(second.owner("p").unwrap(), None);
    let writer = second.open(&other).unwrap();
    assert_eq!(writer.epoch(), 2);
    assert_eq!(second.owner("p").unwrap(), Some(other));
}

#[test]
fn an_owner_that_was_fenced_out_commits_nothing() {
    let lab = Lab::new();
    let (first, second) = (lab.healthy(), lab.healthy());
    let mut writer = first.open(&owner()).unwrap();
    writer.prepare(&[table("orders")]).unwrap();
    commit(&mut *writer, &table("orders"), &[put(1, 1)]);
    writer.write(&batch(items(&table("orders"), &[put(2, 2)], &mut 0), 2)).unwrap();
    let mut loader = first.loader("p", 1).unwrap();
    let chunk = Chunk { table: table("orders"), index: 0, range: KeyRange::ALL, low: at(1) };
    loader.begin(&chunk, false).unwrap();

    // Somebody removes the lock's file: the second run cannot see the first.
    std::fs::remove_file(lab.folder.path().join("_crossfade/p/lock")).unwrap();
    let other = Owner { host: "there".into(), ..owner() };
    let mut new = second.open(&other).unwrap();

    let fenced = writer.commit(&checkpoint(2, 1, 2)).unwrap_err();
    assert_eq!(*fenced.class(), Class::Fatal(Exit::TryAgain), "{fenced:?}");
    assert!(fenced.to_string().contains("on there"), "{fenced}");
    assert!(loader.commit(&at(1)).is_err());
    assert!(writer.write(&batch(vec![], 3)).is_err(), "a failed writer takes nothing more");
    commit(&mut *new, &table("orders"), &[put(3, 3)]);
    assert_eq!(state(&second, &table("orders")), Model::from([(1, 1), (3, 3)]));
    assert!(first.loader("p", 2).is_err(), "another's epoch");
}

#[test]
fn nothing_is_committed_behind_a_commit_that_failed() {
    let mut failed = 0;
    for n in 0..60 {
        let lab = Lab::new();
        let (target, _) = lab.target(Death::Refuse(n));
        let Ok(mut writer) = target.open(&owner()) else { continue };
        if writer
            .prepare(&[table("orders")])
            .and_then(|()| writer.plan(&table("orders").name, &[KeyRange::ALL]))
            .is_err()
        {
            continue;
        }
        let mut loader = target.loader("p", 1).unwrap();
        let chunk = Chunk { table: table("orders"), index: 0, range: KeyRange::ALL, low: at(0) };
        loader.begin(&chunk, false).unwrap();
        loader.write(&rows(&table("orders"), &[put(1, 1)]).batch).unwrap();
        if loader.commit(&at(0)).is_ok() {
            continue;
        }
        // Unless the chunk did not get as far as the log, what that holds is not known now.
        if let Err(e) = writer.commit(&checkpoint(1, 1, 1)) {
            assert!(e.is_transient(), "{e:?}");
            failed += 1;
        }
        drop(writer);
        let healthy = lab.healthy();
        assert!(healthy.open(&owner()).unwrap().checkpoint().is_none_or(|c| c.seq == 1));
    }
    assert!(failed > 0);
}

#[test]
fn odd_names_are_folders_and_nothing_else() {
    let lab = Lab::new();
    let target = lab.healthy();
    let odd = table("../a b/ü%2F*");
    let mut writer = target.open(&owner()).unwrap();
    writer.prepare(&[Arc::clone(&odd)]).unwrap();
    commit(&mut *writer, &odd, &[put(1, 1)]);
    assert_eq!(state(&target, &odd), Model::from([(1, 1)]));
    let schemas: Vec<_> = lab.folder.path().read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(schemas.len(), 2, "{schemas:?}");
    assert_eq!(lab.folder.path().join("shop").read_dir().unwrap().count(), 1);
}

#[test]
fn an_answer_that_was_lost_is_found_again() {
    let lab = Lab::new();
    let (path, ours) = (lab.healthy_store().path(["x"]), Bytes::from_static(b"ours"));
    let scratch = lab.healthy_store().path(["scratch"]);
    // Call 0 writes the scratch file, call 1 links it. The link is done and reported as failed.
    let (store, faulty) = lab.store(Death::Lie(1));
    assert_eq!(store.put_if_absent(&path, &ours, &scratch).unwrap(), Put::Created);
    assert!(faulty.calls() > 2, "it read back");
    let theirs = store.put_if_absent(&path, &Bytes::from_static(b"others"), &scratch).unwrap();
    assert_eq!(theirs, Put::Taken(ours));
}

#[test]
fn open_batches_are_seen_only_with_their_commit() {
    let lab = Lab::new();
    let target = lab.healthy();
    let orders = table("orders");
    let mut writer = target.open(&owner()).unwrap();
    writer.prepare(&[Arc::clone(&orders)]).unwrap();
    commit(&mut *writer, &orders, &[put(1, 1)]);
    let mut open = batch(items(&orders, &[put(2, 2)], &mut 0), 0);
    open.end = crossfade_core::Boundary::Open;
    writer.write(&open).unwrap();
    assert_eq!(lab.listed(&orders).len(), 1);
    writer.write(&batch(items(&orders, &[Change::Put(Op::Update, 2, 3)], &mut 0), 2)).unwrap();
    assert_eq!(state(&target, &orders), Model::from([(1, 1)]));
    writer.commit(&checkpoint(2, 1, 2)).unwrap();
    assert_eq!(state(&target, &orders), Model::from([(1, 1), (2, 3)]));
    assert_eq!(lab.listed(&orders).len(), 2, "one file a commit");
    let places: Vec<(i64, i64)> = lab.rows(&orders).iter().map(|r| (r.0, r.1)).collect();
    assert_eq!(places, [(1, 0), (2, 0), (2, 1)]);
}

#[test]
fn a_wrong_checkpoint_is_refused_and_a_right_one_follows() {
    let lab = Lab::new();
    let target = lab.healthy();
    let mut writer = target.open(&owner()).unwrap();
    assert!(writer.commit(&checkpoint(2, 1, 2)).is_err());
    assert!(writer.commit(&checkpoint(1, 2, 2)).is_err());
    writer.commit(&checkpoint(1, 1, 2)).unwrap();
    assert_eq!(target.recover("p").unwrap(), Some(checkpoint(1, 1, 2)));
    assert_eq!(target.recover("q").unwrap(), None);
}

#[test]
fn a_row_in_part_is_refused() {
    let lab = Lab::new();
    let target = lab.healthy();
    let orders = table("orders");
    let mut writer = target.open(&owner()).unwrap();
    writer.prepare(&[Arc::clone(&orders)]).unwrap();
    let half = |op: Op| {
        let mut b = RowsBuilder::new(Arc::clone(&orders));
        let crossfade_core::ColumnBuilder::Int64(id) = &mut b.columns[0] else { unreachable!() };
        id.append_value(1);
        b.append_absent(1);
        b.end_row(op, 0, 0);
        batch(vec![Item::Rows(b.finish().unwrap())], 1)
    };
    writer.write(&half(Op::Delete)).unwrap();
    let e = writer.write(&half(Op::Update)).unwrap_err();
    assert!(matches!(e.class(), Class::Data(place) if place.column.as_deref() == Some("n")), "{e:?}");
    assert!(e.hint_text().unwrap().contains("binlog_row_image = FULL"), "{e:?}");
    assert!(writer.commit(&checkpoint(1, 1, 1)).unwrap_err().is_transient(), "what was written half is not committed");
}

#[test]
fn a_shape_that_changes_keeps_old_rows_readable() {
    let lab = Lab::new();
    let target = lab.healthy();
    let old = table("orders");
    let new = Arc::new(TableSchema {
        version: 2,
        columns: vec![
            column("id", Logical::Int64),
            column("amount", Logical::UInt64),
            column("note", Logical::Text),
            column("rate", Logical::Decimal { precision: 5, scale: 2 }),
        ],
        ..(*old).clone()
    });
    let steps = vec![
        SchemaStep::Rename { from: "n".into(), to: "amount".into() },
        SchemaStep::Add { column: "note".into(), fill: None },
        SchemaStep::Add { column: "rate".into(), fill: Some("1.5".into()) },
    ];
    let mut writer = target.open(&owner()).unwrap();
    writer.prepare(&[Arc::clone(&old)]).unwrap();
    commit(&mut *writer, &old, &[put(1, 1), put(2, 2)]);
    let change = Item::Schema(SchemaChange { from: Arc::clone(&old), to: Arc::clone(&new), steps });
    let mut b = RowsBuilder::new(Arc::clone(&new));
    for (column, text) in [(0usize, 2u64), (1, 22)] {
        match &mut b.columns[column] {
            crossfade_core::ColumnBuilder::Int64(b) => b.append_value(text as i64),
            crossfade_core::ColumnBuilder::UInt64(b) => b.append_value(text),
            _ => unreachable!(),
        }
    }
    b.columns[2].append_null();
    b.columns[3].append_null();
    b.end_row(Op::Update, 0, 2);
    let mut all = items(&old, &[put(3, 3)], &mut 0);
    all.extend([change, Item::Rows(b.finish().unwrap())]);
    writer.write(&batch(all, 2)).unwrap();
    writer.commit(&checkpoint(2, 1, 2)).unwrap();
    let stale = writer.write(&batch(items(&old, &[put(4, 4)], &mut 0), 3)).unwrap_err();
    assert!(stale.to_string().contains("shape"), "{stale}");
    drop(writer);

    let mut writer = target.open(&owner()).unwrap();
    assert_eq!(writer.tables().unwrap(), [Arc::clone(&new)]);
    writer.prepare(&[Arc::clone(&new)]).unwrap();
    assert!(writer.prepare(&[Arc::clone(&old)]).is_err(), "not the shape that is stored");
    let (_, batches) = scan(&target, &new);
    let mut seen: Vec<(i64, u64, Option<i128>)> = Vec::new();
    for batch in &batches {
        assert_eq!(batch.schema(), new.arrow());
        let rate = batch.column(3).as_primitive::<arrow_array::types::Decimal128Type>();
        for i in 0..batch.num_rows() {
            let id = batch.column(0).as_primitive::<arrow_array::types::Int64Type>().value(i);
            let amount = batch.column(1).as_primitive::<UInt64Type>().value(i);
            seen.push((id, amount, (!arrow_array::Array::is_null(rate, i)).then(|| rate.value(i))));
        }
    }
    seen.sort();
    assert_eq!(seen, [(1, 1, Some(150)), (2, 22, None), (3, 3, Some(150))]);
}

#[test]
fn a_long_log_is_read_from_its_summary() {
    let lab = Lab::new();
    let target = lab.healthy();
    let orders = table("orders");
    let mut writer = target.open(&owner()).unwrap();
    writer.prepare(&[Arc::clone(&orders)]).unwrap();
    let mut model = Model::new();
    for i in 0..300 {
        let change = [put(i % 7, i as u64)];
        apply(&mut model, &change);
        commit(&mut *writer, &orders, &change);
    }
    drop(writer);
    let (reader, faulty) = lab.target(Death::Never);
    assert_eq!(reader.recover("p").unwrap().unwrap().seq, 300);
    assert!(faulty.calls() < 60, "{} calls", faulty.calls());
    assert_eq!(state(&reader, &orders), model);
}

#[test]
fn many_passes_find_the_same_rows_as_one() {
    let lab = Lab::new();
    let target = lab.healthy();
    let orders = table("orders");
    let mut writer = target.open(&owner()).unwrap();
    writer.prepare(&[Arc::clone(&orders)]).unwrap();
    for round in 0..5i64 {
        let changes: Vec<Change> = (0..500)
            .map(|i| if (i + round) % 5 == 0 { Change::Delete(i) } else { put(i, (i * round) as u64) })
            .collect();
        commit(&mut *writer, &orders, &changes);
    }
    let places = crate::log::Places { store: lab.healthy_store(), pipeline: "p".into() };
    let snapshot = crate::snapshot::LogSnapshot::new(places, std::slice::from_ref(&orders)).unwrap();
    let one = snapshot.winners_of(&orders, 1 << 20).unwrap();
    for keys in [40, 100, 999] {
        assert_eq!(snapshot.winners_of(&orders, keys).unwrap(), one, "{keys} keys a pass");
    }
    assert_eq!(one.iter().map(arrow_buffer::BooleanBuffer::count_set_bits).sum::<usize>(), 400);
}

#[test]
fn a_fingerprint_is_that_of_the_rows_that_came() {
    let lab = Lab::new();
    let target = lab.healthy();
    let orders = table("orders");
    let mut writer = target.open(&owner()).unwrap();
    writer.prepare(&[Arc::clone(&orders)]).unwrap();
    let changes: Vec<Change> = (0..50_000).map(|i| put(i, u64::MAX - i as u64)).collect();
    let mut came = Fingerprint::default();
    came.add(&rows(&orders, &changes).batch).unwrap();
    commit(&mut *writer, &orders, &changes);
    let mut there = Fingerprint::default();
    scan(&target, &orders).1.iter().for_each(|b| there.add(b).unwrap());
    assert_eq!(there, came);
}

#[test]
fn foreign_files_and_lost_files_stop_it() {
    let lab = Lab::new();
    let target = lab.healthy();
    let orders = table("orders");
    let folder = lab.folder.path().join("shop/items");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("x.parquet"), b"mine").unwrap();
    let mut writer = target.open(&owner()).unwrap();
    let e = writer.prepare(&[table("items")]).unwrap_err();
    assert!(e.to_string().contains("x.parquet"), "{e}");
    writer.prepare(&[Arc::clone(&orders)]).unwrap();
    commit(&mut *writer, &orders, &[put(1, 1)]);
    std::fs::write(lab.folder.path().join("shop/orders/y.parquet"), b"not ours").unwrap();
    assert_eq!(state(&target, &orders).len(), 1, "a file that the log does not name does not count");
    std::fs::remove_file(&lab.listed(&orders)[0]).unwrap();
    let mut snapshot = target.snapshot("p", &[Arc::clone(&orders)]).unwrap();
    let e = snapshot.scan(&orders, &KeyRange::ALL, &mut |_| Ok(())).unwrap_err();
    assert!(e.to_string().contains("is gone"), "{e}");
}

#[test]
fn check_names_what_cannot_work() {
    let lab = Lab::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let open = |path: std::path::PathBuf| {
        let url = format!("file://{}", path.display());
        crate::open(&crossfade_core::Endpoint::new(url, None), runtime.handle().clone()).unwrap()
    };
    let good = open(lab.folder.path().join("new/lake")).check("shop", &[table("orders")]).unwrap();
    assert!(good.iter().all(|f| f.level == Level::Ok), "{good:?}");
    assert_eq!(lab.folder.path().read_dir().unwrap().count(), 0, "nothing is left behind");

    std::fs::write(lab.folder.path().join("file"), b"").unwrap();
    let bad = open(lab.folder.path().join("file/lake")).check("shop", &[]).unwrap();
    assert_eq!((bad.len(), bad[0].level), (1, Level::Critical), "{bad:?}");
    assert!(!bad[0].fix.is_empty());
    let bad = open("/proc/lake".into()).check("shop", &[]).unwrap();
    assert_eq!(bad[0].level, Level::Critical, "{bad:?}");

    let ours = table_of("orders", vec![column("id", Logical::Int64), column("_SEQ", Logical::Text)]);
    let found = lab.healthy().check("shop", std::slice::from_ref(&ours)).unwrap();
    assert!(found.iter().any(|f| f.level == Level::Critical && f.setting.contains("_SEQ")), "{found:?}");
    let target = lab.healthy();
    assert!(target.open(&owner()).unwrap().prepare(&[ours]).is_err());
}
