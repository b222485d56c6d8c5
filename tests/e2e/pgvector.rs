//! Types of pgvector: carried under their own names to a Postgres that has the extension, as text to Parquet, and refused with the
//! statement that mends it where it is missing.

use crossfade_harness::{Client, PgVersion, Postgres, python};
use serde_json::Value;

use crate::common::{Pipeline, code, folder};

const EXTREMES: &str = "'[0.1,-0,1.17549435e-38]', '[65504,6e-08]', '{1:0.3,5:-16777217}/5', '[3.4028235e+38,1]'";

#[test]
fn vectors_to_a_database_that_has_the_extension_and_to_parquet() {
    let server: &Client = Postgres::shared(PgVersion::V18);
    let (source, target) = (server.fresh_database("vec"), server.fresh_database("vec"));
    source.sql(&format!(
        "create schema ext; create extension vector schema ext;
         create table item (id int primary key, v ext.vector(3) not null, h ext.halfvec(2), s ext.sparsevec(5), w ext.vector);
         create index on item using hnsw (v ext.vector_l2_ops);
         insert into item values (1, {EXTREMES}), (2, '[1,2,3]', null, null, null)"
    ));
    let (_keep, folder) = folder();
    let lake = folder.join("lake");
    let pipeline = Pipeline::new("vec", &source.url(), &[&target.url(), &format!("file://{}", lake.display())]);
    let check = pipeline.ended("check", &["--json"]);
    assert_eq!(code(&check), 2, "{}", check.stderr);
    let report: Value = serde_json::from_str(&check.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("findings").iter();
    let missing: Vec<&Value> = findings.filter(|f| f["level"] == "critical").collect();
    assert_eq!(missing.len(), 4, "{missing:#?}");
    let statement = "CREATE SCHEMA IF NOT EXISTS ext; CREATE EXTENSION vector WITH SCHEMA ext";
    for finding in missing {
        assert!(finding["fix"].as_str().is_some_and(|f| f.starts_with(statement)), "{finding:#}");
    }
    target.sql(statement);
    pipeline.level(2);
    source.sql(&format!(
        "insert into item values (3, {EXTREMES}); update item set v = '[7,8,9]' where id = 2; delete from item where id = 1"
    ));
    pipeline.level(2);
    let all = "select string_agg(item::text, ' ' order by id) from item";
    assert_eq!(target.sql(all), source.sql(all));
    let types = "select string_agg(format_type(atttypid, atttypmod), ' ' order by attnum) from pg_attribute \
                 where attrelid = 'item'::regclass and attnum > 0";
    assert_eq!(target.sql(types), "integer ext.vector(3) ext.halfvec(2) ext.sparsevec(5) ext.vector");
    let read = "import sys, glob, pyarrow.parquet as pq\n\
                rows = [r for f in glob.glob(sys.argv[1] + '/public/item/*.parquet') for r in pq.read_table(f).to_pylist()]\n\
                print(sorted((r['v'], r['h'], r['s'], r['w']) for r in rows if r['id'] == 3)[0])\n";
    let printed = python(read, &[lake.to_str().expect("UTF-8")]);
    let texts = source.sql("select format('(''%s'', ''%s'', ''%s'', ''%s'')', v, h, s, w) from item where id = 3");
    assert_eq!(printed.trim_end(), texts);
    assert!(pipeline.ended("uninstall", &[]).status.success());
}
