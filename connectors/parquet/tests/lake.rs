//! What others read: pyarrow and DuckDB over the files of a folder.

mod support;

use crossfade_core::Item;
use crossfade_harness::python;
use support::*;

#[test]
fn pyarrow_and_duckdb_read_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = runtime();
    let target = open(&format!("file://{}", folder.path().display()), &runtime);
    let table = table();
    let mut writer = target.open(&owner("here", std::process::id())).unwrap();
    let wanted = fill(&*target, &mut *writer, &table, 5000);
    assert_eq!(fingerprint(&*target, &table), wanted);

    let arrow = python(
        "import sys, pyarrow.dataset as ds\n\
         d = ds.dataset(sys.argv[1] + '/shop/orders', format='parquet')\n\
         t = d.to_table()\n\
         print(t.num_rows, [f'{f.name}:{f.type}' for f in t.schema])\n\
         print(sorted(t.group_by('_op').aggregate([('_op', 'count')]).to_pydict().items()))\n\
         print(len(d.files), max(v for v in t['total'].to_pylist() if v is not None))\n",
        &[folder.path().to_str().unwrap()],
    );
    let lines: Vec<&str> = arrow.lines().collect();
    assert_eq!(
        lines[0],
        "5005 ['_op:string', '_commit_time:timestamp[us, tz=UTC]', '_seq:int64', '_ordinal:int64', 'id:int64', \
         'total:decimal128(20, 0)', 'token:string', 'note:string', 'at:timestamp[us, tz=UTC]']"
    );
    assert!(lines[1].contains("'c'") && lines[1].contains("5000"), "{arrow}");
    assert_eq!(lines[2], format!("3 {}", u64::MAX), "one file per commit");

    let view = crossfade_parquet::duckdb_view(&table, folder.path().to_str().unwrap()).unwrap();
    let query = "import sys, duckdb\n\
         c = duckdb.connect()\n\
         c.execute(sys.argv[1])\n\
         print(c.execute('SELECT count(*), count(DISTINCT id), min(id), max(total) FROM orders').fetchone())\n\
         print(c.execute('SELECT total, token FROM orders WHERE id = -1').fetchall())\n";
    let duck = python(query, &[&view]);
    let lines: Vec<&str> = duck.lines().collect();
    assert_eq!(lines[0], format!("(4999, 4999, -1, Decimal('{}'))", u64::MAX), "{duck}");
    assert_eq!(lines[1], "[(Decimal('6'), '00000000-0000-0000-0000-000000000006')]");

    commit(&mut *writer, vec![Item::Truncate(table.clone())]).unwrap();
    let last = rows(&table, &[(crossfade_core::Op::Insert, 9, 9)], &mut 0);
    commit(&mut *writer, vec![Item::Rows(last)]).unwrap();
    assert!(python(query, &[&view]).starts_with("(1, 1, 9, Decimal('9'))"), "the view honours a truncation");
}
