//! The second look of `verify` on real servers: rows are mended, changed and left alone between the first fence and the second.

use std::sync::atomic::{AtomicBool, Ordering};

use crossfade::pipeline::session::{Goal, Shared};
use crossfade::pipeline::{Conduct, run};
use crossfade::verify::difference::{Classes, Kind, Recheck, Settler};
use crossfade::verify::{Verdict, fence};
use crossfade::{config, registry};
use crossfade_harness::{MariaDb, PgVersion, Postgres};

use crate::common::Pipeline;
use crate::differences::at_ease;

#[test]
fn what_settles_says_how_and_the_rest_is_classified() {
    let source = MariaDb::shared().fresh_database("again");
    source.sql(
        "create table t (id int primary key, v varchar(20)); insert into t select seq, concat('v', seq) from seq_1_to_100;
         create table g (v varchar(20) not null); insert into g values ('x'), ('x'), ('y')",
    );
    let target = Postgres::shared(PgVersion::V15).fresh_database("again");
    let urls = [target.url()];
    let cli = Pipeline::new("again", &source.url(), &[&target.url()]);
    cli.level(2);
    at_ease(&target, source.name());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let name = format!("again-{}", std::process::id());
    let config = config::from_urls(Some(&name), &source.url(), &urls, &[]).expect("a configuration");
    let pipeline = registry::pipeline(&config, runtime.handle()).expect("a pipeline");

    target.sql(
        "update t set v = 'wrong' where id in (1, 2, 3); delete from t where id = 4; insert into t values (900, 'extra');
         update t set v = 'wrong' where id = 5; insert into g values ('x')",
    );
    let stop = AtomicBool::new(false);
    let mut found = None;
    let mut serve = |shared: &Shared<'_>| {
        let mut compared = fence(shared, &pipeline, &[])?.compare();
        source.sql("update t set v = 'new' where id = 1"); // brought by the stream, over what is wrong
        target.sql("update t set v = 'v2' where id = 2"); // mended by hand
        source.sql("delete from t where id = 5"); // both have none
        let fenced = compared.fence(shared, &pipeline)?;
        compared.recheck(fenced);
        found = Some(compared.proof);
        stop.store(true, Ordering::SeqCst);
        Ok(())
    };
    run(&pipeline, &Goal::Forever, &mut Conduct { stop: &stop, serve: &mut serve }).expect("a run");

    let proof = found.expect("a proof");
    assert_eq!(proof.verdict, Verdict::Different, "it was, where it was compared");
    assert_ne!(proof.rechecked, proof.position, "at a later position");
    let of = |table: &str| {
        let proof = proof.tables.iter().find(|t| t.table.ends_with(table)).expect("the table");
        proof.differences.clone().expect("differences")
    };
    let rows = of(".t");
    assert_eq!(rows.recheck, Some(Classes { missing: 1, extra: 1, different: 1, repeated: 0, settled: 3 }));
    let became: Vec<_> = rows.listed.iter().map(|d| (d.key[0].value.as_deref(), d.recheck.clone())).collect();
    let settled = |by| Some(Recheck::Settled { by });
    assert_eq!(became[0], (Some("1"), settled(Settler::Source)));
    assert_eq!(became[1], (Some("2"), settled(Settler::Target)));
    let Some(Recheck::Lasting { kind: Kind::Different, columns }) = &became[2].1 else { panic!("{became:?}") };
    assert_eq!((columns[0].source.as_deref(), columns[0].target.as_deref()), (Some("v3"), Some("wrong")));
    let lasting = |kind| Some(Recheck::Lasting { kind, columns: vec![] });
    assert_eq!(became[3], (Some("4"), lasting(Kind::Missing)));
    assert_eq!(became[4], (Some("5"), settled(Settler::Source)));
    assert_eq!(became[5], (Some("900"), lasting(Kind::Extra)));
    // Rows without a key are looked for by all of their values.
    assert_eq!(of(".g").recheck, Some(Classes { repeated: 1, ..Classes::default() }));
}
