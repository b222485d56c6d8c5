//! Verdicts, first lines, and the four renderings of one report.

use std::time::Duration;

use crossfade_core::{Checkpoint, Error, Phase, Policy, Position};

use super::*;
use crate::config::{Config, parse};
use crate::ledger::entry::{Asker, Gravity};
use crate::ledger::{self as kept, Event, Incident, Sample};
use crate::pipeline::progress::{Keeping, State as Running, TargetProgress, View};
use crate::service::Status;
use crate::verify::aggregates::AggregateProof;
use crate::verify::beyond::Outcome;
use crate::verify::canary::Canary;
use crate::verify::changed::ChangedValues;
use crate::verify::difference::{Cell, Difference, Kind, Named};
use crate::verify::totals::{Figure, TotalsProof};
use crate::verify::{Proof, TableProof};

const NOW: i64 = 1_790_000_000_000_000;
const MINUTE: i64 = 60_000_000;
const HOUR: Duration = Duration::from_secs(3600);

fn config() -> Config {
    parse("name = \"shop\"\n[source]\nurl = \"mysql://r@db/shop\"\n[[target]]\nurl = \"postgres://a@new/shop\"\n")
        .unwrap()
}

fn status(lag: Option<f64>, state: Running) -> Status {
    let checkpoint =
        Checkpoint { seq: 7, position: Position::new("p7"), phase: Phase::Streaming, epoch: 1, commit_micros: None };
    let target = TargetProgress {
        name: "postgres://new/shop".into(),
        checkpoint: Some(checkpoint),
        rows: 3,
        ..TargetProgress::default()
    };
    let view = View { state, lag_seconds: lag, lag_bytes: Some(10), targets: vec![target], ..View::default() };
    let source = "mysql://db/shop".into();
    Status { pipeline: "shop".into(), pid: 42, since_micros: NOW, source, view, keeping: Keeping::default() }
}

fn table(name: &str, verdict: Compared) -> TableProof {
    let difference = Difference {
        kind: Kind::Different,
        key: vec![Named { column: "id".into(), value: Some("17".into()) }],
        columns: vec![Cell { column: "name".into(), source: Some("<b>Ann & Bo</b>".into()), target: None }],
        source_rows: 1,
        target_rows: 1,
        recheck: None,
    };
    let differences = Differences { rows: 1, listed: vec![difference], ..Differences::default() };
    TableProof {
        table: name.into(),
        target: None,
        source_rows: Some(1_234_567),
        target_rows: Some(1_234_567),
        source_fingerprint: None,
        target_fingerprint: None,
        verdict,
        totals: None,
        chunks: Vec::new(),
        uncut: None,
        audit: None,
        differences: (verdict == Compared::Different).then_some(differences),
        changed: vec![],
        error: (verdict == Compared::Unknown).then(|| "permission denied".into()),
    }
}

fn verification(tables: Vec<TableProof>) -> Event {
    let worst = |v| tables.iter().any(|t| t.verdict == v);
    let verdict = match (worst(Compared::Different), worst(Compared::Unknown)) {
        (true, _) => Compared::Different,
        (false, true) => Compared::Unknown,
        (false, false) => Compared::Equal,
    };
    let proof = Proof {
        verdict,
        position: Some(Position::new("p6")),
        through: None,
        through_micros: None,
        held_ms: 12,
        seconds: 3.4,
        tables,
        rechecked: None,
        recheck_error: None,
        at_micros: NOW - 30 * MINUTE,
        canary: Some(Canary { tried: 2, missed: vec![] }),
        beyond: Box::default(),
    };
    Event::Verification(Box::new(kept::Verification { by: Asker::Schedule, whole: true, proof }))
}

fn sample(seconds: f64) -> Event {
    Event::Lag(Sample { lag_seconds: Some(seconds), worst_seconds: Some(seconds), ..Sample::default() })
}

fn well() -> Vec<(i64, Event)> {
    let equal = vec![table("shop.order", Compared::Equal), table("shop.customer", Compared::Equal)];
    let mut events: Vec<_> = (0..60).map(|m| (NOW - (60 - m) * MINUTE, sample(0.2 + m as f64 / 30.0))).collect();
    events.push((NOW - 30 * MINUTE, verification(equal)));
    events
}

fn report_of(events: &[(i64, Event)], status: crossfade_core::Result<Status>) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = kept::Ledger::open_in(folder.path(), "shop").unwrap();
    ledger.append(events).unwrap();
    build::build(&config(), NOW, HOUR, Ok(Some(ledger)), status)
}

fn running() -> crossfade_core::Result<Status> {
    Ok(status(Some(0.4), Running::Running))
}

#[test]
fn all_well_is_said_in_one_line_with_performance_data() {
    let report = report_of(&well(), running());
    assert_eq!(report.findings, []);
    assert_eq!((report.verdict, report.verdict.exit()), (Verdict::Ok, 0));
    assert_eq!(
        first_line(&report),
        "CROSSFADE OK - shop: 2 tables equal, lag 400 ms, streak 0/168 h | \
         lag=0.400s;30;300;0 worst_lag=2.167s;30;300;0 streak=0;;;0;168 tables=2;;;0 different=0;;0;0 unknown=0;;;0"
    );
    assert_eq!(report.lag.chart.iter().filter(|b| b.worst_seconds.is_some()).count(), 48);
}

#[test]
fn what_is_wrong_or_unknown_makes_the_verdict() {
    let expect = |report: Report, verdict: Verdict, what: &str| {
        let found = report.findings.iter().any(|f| f.level == verdict && f.what.contains(what));
        assert!(report.verdict == verdict && found, "{verdict:?} {what}: {:?}", report.findings);
    };
    let with = |event: Event| report_of(&[well(), vec![(NOW - MINUTE, event)]].concat(), running());
    use Verdict::{Critical, Unknown, Warning};
    expect(with(verification(vec![table("shop.order", Compared::Different)])), Critical, "shop.order: 1 row differs");
    expect(with(verification(vec![table("shop.order", Compared::Unknown)])), Unknown, "permission denied");
    expect(with(sample(31.0)), Warning, "up to 31.0 s behind");
    expect(with(Event::Lost { entries: 2, error: "full".into() }), Unknown, "2 entries of the ledger were lost");
    expect(
        with(Event::Unverified { by: Asker::Schedule, error: "gone".into() }),
        Unknown,
        "could not be compared: gone",
    );
    let fatal = Incident { class: Gravity::Fatal, message: "no such table".into(), hint: Some("make it".into()) };
    expect(with(Event::Incident(fatal)), Critical, "an error ended the pipeline: no such table");
    expect(report_of(&well()[..60], running()), Unknown, "never compared");
    let old: Vec<_> = well().into_iter().map(|(at, e)| (at - 120 * MINUTE, e)).collect();
    expect(report_of(&old, running()), Unknown, "for the last time");
    expect(report_of(&well(), Ok(status(Some(31.0), Running::Running))), Warning, "31.0 s behind");
    expect(report_of(&well(), Ok(status(Some(301.0), Running::Running))), Critical, "5 min behind");
    expect(report_of(&well(), Ok(status(None, Running::Running))), Unknown, "is not known");
    expect(report_of(&well(), Ok(status(Some(0.0), Running::Stopped))), Warning, "nobody runs");
    expect(report_of(&well(), Err(Error::unavailable("no server"))), Unknown, "no server");
    expect(build::build(&config(), NOW, HOUR, Ok(None), running()), Unknown, "there is no ledger");
    let mut unwritten = status(Some(0.0), Running::Running);
    unwritten.keeping.error = Some("disk full".into());
    expect(report_of(&well(), Ok(unwritten)), Unknown, "the ledger is not written: disk full");
}

#[test]
fn a_table_that_was_repaired_and_compared_again_is_well() {
    let different =
        verification(vec![table("shop.order", Compared::Different), table("shop.customer", Compared::Equal)]);
    let Event::Verification(mut later) = verification(vec![table("shop.order", Compared::Equal)]) else { panic!() };
    later.whole = false;
    let mut events = vec![(NOW - 20 * MINUTE, different), (NOW - 10 * MINUTE, Event::Verification(later))];
    events.splice(0..0, well());
    let report = report_of(&events, running());
    assert_eq!((report.verdict, report.tables.len()), (Verdict::Ok, 2), "{:?}", report.findings);
}

#[test]
fn sums_of_both_servers_are_told_and_hidden_with_the_values() {
    let mut table = table("shop.order", Compared::Different);
    let figure =
        Figure { what: "sum".into(), column: Some("amount".into()), source: "12.50".into(), target: "12.49".into() };
    table.totals = Some(TotalsProof { compared: 9, differing: vec![figure] });
    table.differences = None;
    table.changed = vec![ChangedValues { column: "placed".into(), policy: Policy::ZeroDate, values: 3 }];
    let mut report = report_of(&[well(), vec![(NOW - MINUTE, verification(vec![table]))]].concat(), running());
    let shown = text(&report);
    let told = "shop.order: not the same on both servers: sum of amount";
    assert!(shown.contains("shop.order: 3 of placed under zero_date"), "{shown}");
    assert!(shown.contains("12.50 at the source, 12.49 at the target"), "{shown}");
    assert!(shown.contains("9 counts and sums of 1 table, by both servers' own SQL; 1 differ"), "{shown}");
    assert_eq!((report.verdict, report.findings[0].what.as_str()), (Verdict::Critical, told));
    report.mask();
    let hidden =
        [text(&report), html(&report).unwrap(), serde_json::to_string(&report).unwrap(), junit(&report)].concat();
    assert!(!hidden.contains("12.49"), "{hidden}");
}

/// A comparison of equal rows with one figure and one foreign key that do not hold.
fn beyond_rows() -> Event {
    use crate::verify::orphans::{Broken, References};
    let Event::Verification(mut v) = verification(vec![table("shop.order", Compared::Equal)]) else { unreachable!() };
    v.proof.beyond.aggregates = vec![AggregateProof {
        name: "revenue".into(),
        to: None,
        outcome: Outcome::Critical,
        source: Some("12345.67".into()),
        target: Some("45678.90".into()),
        difference: Some("33333.23".into()),
        warning: "1".into(),
        critical: "1000".into(),
        error: None,
    }];
    let broken = Broken {
        table: "shop.item".into(),
        target: None,
        foreign_key: Some("item_order".into()),
        to: Some("shop.order".into()),
        outcome: Outcome::Warning,
        rows: Some(1),
        source_rows: Some(1),
        keys: vec!["id=7".into()],
        error: None,
    };
    v.proof.beyond.references = Some(References { foreign_keys: 2, broken: vec![broken] });
    v.proof.verdict = Compared::Different;
    Event::Verification(v)
}

#[test]
fn what_does_not_hold_beyond_rows_is_in_every_rendering_and_masked() {
    let mut report = report_of(&[well(), vec![(NOW - MINUTE, beyond_rows())]].concat(), running());
    let told: Vec<_> = report.findings.iter().map(|f| (f.level, f.what.as_str())).collect();
    let orphan = "shop.item: 1 row refers to no row of shop.order (foreign key item_order), as at the source: id=7";
    let figure = "aggregate revenue is apart by more than 1000";
    assert_eq!(told, [(Verdict::Critical, figure), (Verdict::Warning, orphan)]);
    assert!(first_line(&report).contains("1 aggregate and 1 foreign key not holding"), "{}", first_line(&report));
    let all =
        |report: &Report| [text(report), html(report).unwrap(), serde_json::to_string(report).unwrap(), junit(report)];
    for shown in all(&report) {
        assert!(shown.contains("apart by more than 1000") && shown.contains("item_order"), "{shown}");
    }
    assert!(all(&report)[..3].iter().all(|shown| shown.contains("12345.67")), "{report:#?}");
    let narrow = text(&report).lines().skip(1).all(|l| l.chars().count() <= 80 || l.starts_with("Ledger"));
    assert!(narrow, "{}", text(&report));
    report.mask();
    for shown in all(&report) {
        assert!(!["12345.67", "45678.9", "33333.23"].iter().any(|v| shown.contains(v)), "{shown}");
    }
    // References are looked for less often than rows are compared: the last look counts.
    let later = verification(vec![table("shop.order", Compared::Equal)]);
    let events = [well(), vec![(NOW - 2 * MINUTE, beyond_rows()), (NOW - MINUTE, later)]].concat();
    let report = report_of(&events, running());
    assert_eq!((report.verdict, report.findings.len()), (Verdict::Warning, 1), "{:?}", report.findings);
}

#[test]
fn a_ledger_that_was_changed_is_critical_and_says_from_where() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = kept::Ledger::open_in(folder.path(), "shop").unwrap();
    ledger.append(&well()).unwrap();
    let file = rusqlite::Connection::open(ledger.path()).unwrap();
    file.execute_batch("DROP TRIGGER entry_stays; UPDATE entry SET at_micros = 1 + at_micros WHERE seq = 5").unwrap();
    let report = build::build(&config(), NOW, HOUR, Ok(Some(ledger)), running());
    assert_eq!(report.verdict, Verdict::Critical);
    assert!(report.findings[0].what.contains("changed afterwards: entry 5:"), "{:?}", report.findings);
}

#[test]
fn every_rendering_tells_the_rows_and_hides_values_when_asked_to() {
    let events = [well(), vec![(NOW - MINUTE, verification(vec![table("shop.order", Compared::Different)]))]].concat();
    let mut report = report_of(&events, running());
    let all =
        |report: &Report| [text(report), html(report).unwrap(), serde_json::to_string(report).unwrap(), junit(report)];
    for shown in &all(&report)[..3] {
        assert!(
            shown.contains("17") && shown.contains("Ann &") && shown.contains("crossfade repair --table shop.order"),
            "{shown}"
        );
    }
    assert!(
        all(&report)[1].contains("&#60;b&#62;Ann &#38; Bo") || all(&report)[1].contains("&lt;b&gt;Ann &amp; Bo"),
        "escaped"
    );
    assert!(!all(&report)[1].contains("<b>Ann"), "escaped");
    report.mask();
    for shown in all(&report) {
        assert!(!shown.contains("Ann"), "{shown}");
    }
    assert!(text(&report).contains("id = '17'"), "keys stay");
}

#[test]
fn text_fits_eighty_columns_but_for_its_first_line_and_the_hash() {
    let events = [well(), vec![(NOW - MINUTE, verification(vec![table("shop.order", Compared::Different)]))]].concat();
    let text = text(&report_of(&events, running()));
    let long: Vec<&str> = text.lines().skip(1).filter(|l| l.chars().count() > 80 && !l.starts_with("Ledger")).collect();
    assert_eq!(long, Vec::<&str>::new(), "{text}");
}

#[test]
fn junit_has_a_case_for_each_table_and_each_finding() {
    let tables = vec![
        table("shop.order", Compared::Different),
        table("shop.x", Compared::Unknown),
        table("shop.y", Compared::Equal),
    ];
    let xml = junit(&report_of(&[well(), vec![(NOW - MINUTE, verification(tables))]].concat(), running()));
    assert!(xml.contains("tests=\"6\" failures=\"2\" errors=\"2\""), "{xml}");
    assert!(xml.contains("<testcase name=\"shop.y\" classname=\"crossfade.shop.tables\" time=\"0.000\"/>"), "{xml}");
    assert!(
        xml.contains("<failure message=\"1 row differs\"/>") && xml.contains("<error message=\"permission denied\"/>"),
        "{xml}"
    );
}

#[test]
fn the_stored_schema_is_the_generated_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/report.schema.json");
    let generated = format!("{}\n", serde_json::to_string_pretty(&schema()).unwrap());
    if std::env::var_os("CROSSFADE_BLESS").is_some() {
        std::fs::write(path, &generated).unwrap();
    }
    let stored = std::fs::read_to_string(path).unwrap();
    assert_eq!(stored, generated, "run this test with CROSSFADE_BLESS=1 to write it anew");
}
