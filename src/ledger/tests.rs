//! The chain, the hours, and what is read back.

use std::time::Duration;

use crossfade_core::{KeyPart, KeyRange, Position, TableName};

use super::entry::{Asker, Gravity};
use super::hours::{HOUR, judge};
use super::scribe::settle;
use super::*;
use crate::verify::beyond::Beyond;
use crate::verify::canary::Canary;
use crate::verify::{Proof, TableProof, Verdict};

const T: i64 = 1_700_000_000_000_000 / HOUR * HOUR;
const MINUTE: i64 = 60_000_000;
const BOUND: Duration = Duration::from_secs(30);

fn ledger() -> (tempfile::TempDir, Ledger) {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open_in(folder.path(), "shop").unwrap();
    (folder, ledger)
}

fn lag(seconds: Option<f64>) -> Event {
    let phase = Some("streaming".into());
    Event::Lag(Sample {
        state: "running".into(),
        phase,
        lag_seconds: seconds,
        worst_seconds: seconds,
        ..Sample::default()
    })
}

fn verification(verdict: Verdict, whole: bool, canary: Option<Canary>) -> Event {
    let table = TableProof {
        totals: None,
        chunks: Vec::new(),
        uncut: None,
        audit: None,
        table: "shop.t".into(),
        target: None,
        source_rows: Some(1),
        target_rows: Some(1),
        source_fingerprint: None,
        target_fingerprint: None,
        verdict,
        changed: vec![],
        differences: None,
        error: None,
    };
    let proof = Proof {
        verdict,
        position: None,
        through: None,
        through_micros: None,
        held_ms: 1,
        seconds: 0.1,
        tables: vec![table],
        rechecked: None,
        recheck_error: None,
        at_micros: 0,
        canary,
        beyond: Box::default(),
    };
    Event::Verification(Box::new(Verification { by: Asker::Schedule, whole, proof }))
}

fn found() -> Option<Canary> {
    Some(Canary { tried: 1, missed: vec![] })
}

/// A sample each minute of an hour, and a comparison.
fn well(start: i64) -> Vec<(i64, Event)> {
    let mut events: Vec<_> = (0..60).map(|m| (start + m * MINUTE, lag(Some(0.0)))).collect();
    events.push((start + 2 * MINUTE, verification(Verdict::Equal, true, found())));
    events
}

fn judged(events: Vec<(i64, Event)>) -> (HourVerdict, String) {
    let (_folder, mut ledger) = ledger();
    ledger.append(&events).unwrap();
    let kinds = [&entry::EVENTS[..], &["lag"]].concat();
    let hour = judge(T, &ledger.between(&kinds, T - HOUR, T + 2 * HOUR).unwrap(), BOUND);
    (hour.verdict, hour.reasons.join("; "))
}

#[test]
fn a_comparison_behind_several_fences_counts_where_all_of_them_are_within_the_hour() {
    for (last, wanted) in [(HOUR - 1, HourVerdict::Clean), (HOUR, HourVerdict::Unknown)] {
        let mut events = well(T);
        let Some((_, Event::Verification(v))) = events.last_mut() else { unreachable!() };
        v.proof.through_micros = Some(T + last);
        let (verdict, reasons) = judged(events);
        assert_eq!(verdict, wanted, "{reasons}");
        assert_eq!(reasons.contains("went on beyond the hour"), wanted == HourVerdict::Unknown, "{reasons}");
    }
}

/// A chunk of `shop.t`.
fn settled(course: i64, after: Option<i128>, to: Option<i128>) -> Settled {
    let key = |n: i128| vec![KeyPart::Int(n)];
    let Event::Verification(v) = verification(Verdict::Equal, true, None) else { unreachable!() };
    Settled {
        course,
        table: TableName::new("shop", "t"),
        shape: "x".into(),
        range: KeyRange { after: after.map(key), to: to.map(key) },
        position: Position::new("p"),
        at_micros: T,
        again: false,
        proofs: v.proof.tables,
        canary: Canary::default(),
    }
}

#[test]
fn what_a_comparison_on_schedule_has_settled_is_known_until_one_has_ended() {
    let (_folder, mut ledger) = ledger();
    let chunks = |settled: &[Settled]| Event::Chunks { settled: settled.to_vec() };
    let (old, first) = (settled(1, None, None), settled(2, None, Some(i128::from(u64::MAX))));
    let second = settled(2, Some(i128::from(u64::MAX)), None);
    ledger.append(&[(T, chunks(&[old])), (T + 1, chunks(std::slice::from_ref(&first)))]).unwrap();
    ledger.append(&[(T + 2, chunks(std::slice::from_ref(&second)))]).unwrap();
    assert_eq!(ledger.unfinished(T).unwrap(), [first, second.clone()], "of the last one alone");
    assert_eq!(ledger.unfinished(T + 2).unwrap(), [second], "not of what is too old");
    ledger.append(&[(T + 3, verification(Verdict::Equal, true, None))]).unwrap();
    assert_eq!(ledger.unfinished(T).unwrap(), []);
    assert_eq!(ledger.check().unwrap(), None);
}

/// Edits the file as somebody would who wants to hide something.
fn edit(ledger: &Ledger, sql: &str) {
    let file = Connection::open(ledger.path()).unwrap();
    file.execute_batch(&format!("DROP TRIGGER entry_stays; DROP TRIGGER entry_stays_there; {sql}")).unwrap();
}

#[test]
fn an_edited_inserted_or_removed_entry_breaks_the_chain_from_there_on() {
    let edits = [
        ("UPDATE entry SET body = replace(body, 'different', 'equal') WHERE seq = 3", 3),
        ("UPDATE entry SET at_micros = at_micros + 1 WHERE seq = 2", 2),
        ("UPDATE entry SET kind = 'lag' WHERE seq = 4", 4),
        ("DELETE FROM entry WHERE seq = 3", 3),
        ("UPDATE entry SET seq = 9 WHERE seq = 5", 5),
        ("UPDATE entry SET hash = x'00' WHERE seq = 1", 1),
        ("INSERT INTO entry VALUES (6, 0, 'lag', '{}', x'00')", 6),
    ];
    for (sql, seq) in edits {
        let (_folder, mut ledger) = ledger();
        ledger.append(&[(T, lag(Some(0.0))), (T + 1, lag(None))]).unwrap();
        ledger.append(&[(T + 2, verification(Verdict::Different, true, None))]).unwrap();
        ledger.append(&[(T + 3, Event::Stop { error: None }), (T + 4, lag(None))]).unwrap();
        assert_eq!(ledger.check().unwrap(), None);
        edit(&ledger, sql);
        assert_eq!(ledger.check().unwrap().map(|b| b.seq), Some(seq), "{sql}");
    }
}

#[test]
fn entries_are_added_by_several_and_changed_by_nobody() {
    let (folder, mut one) = ledger();
    let mut two = Ledger::open_in(folder.path(), "shop").unwrap();
    one.append(&[(T, lag(None))]).unwrap();
    two.append(&[(T + 1, lag(None))]).unwrap();
    one.append(&[(T + 2, lag(None))]).unwrap();
    assert_eq!((one.check().unwrap(), one.head().unwrap().seq), (None, 3));
    for sql in ["UPDATE entry SET body = ''", "DELETE FROM entry"] {
        let refused = one.connection.execute(sql, []).unwrap_err().to_string();
        assert!(refused.contains("entries are only ever added"), "{refused}");
    }
    // The file of another pipeline is not this one's.
    let path = one.path().to_owned();
    drop((one, two)); // the last one out writes its log back into the file
    std::fs::copy(path, folder.path().join("other.ledger.sqlite")).unwrap();
    let other = Ledger::open_in(folder.path(), "other").unwrap();
    assert_eq!(other.check().unwrap().map(|b| b.seq), Some(1));
}

#[test]
fn it_is_read_back_and_a_stranger_or_a_later_format_is_refused() {
    let (folder, mut ledger) = ledger();
    let at = |n: i64| T + n;
    let incident = Incident { class: Gravity::Transient, message: "gone".into(), hint: None };
    ledger.append(&[(at(0), lag(Some(1.5))), (at(1), Event::Incident(incident))]).unwrap();
    ledger
        .append(&[
            (at(2), verification(Verdict::Equal, true, None)),
            (at(3), verification(Verdict::Different, false, None)),
        ])
        .unwrap();
    let read = Ledger::open_read_at(ledger.path(), "shop").unwrap().unwrap();
    assert_eq!(read.lag_since(T).unwrap()[0].1.lag_seconds, Some(1.5));
    assert_eq!(read.lag_since(T + 1).unwrap().len(), 0);
    assert_eq!(read.events_since(T).unwrap().len(), 3);
    let (when, last) = read.last_verification().unwrap().unwrap();
    assert_eq!((when, last.proof.verdict), (at(2), Verdict::Equal), "of all tables");
    assert!(Ledger::open_read_at(&folder.path().join("none"), "shop").unwrap().is_none());
    // A file that nobody has filled yet is no ledger yet; one of somebody else is left alone.
    let blank = folder.path().join("blank.ledger.sqlite");
    std::fs::File::create(&blank).unwrap();
    assert!(Ledger::open_read_at(&blank, "blank").unwrap().is_none());
    Connection::open(&blank).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
    assert!(Ledger::open_in(folder.path(), "blank").err().unwrap().to_string().contains("no ledger"));
    ledger.connection.pragma_update(None, "user_version", 7).unwrap();
    assert!(Ledger::open_in(folder.path(), "shop").err().unwrap().to_string().contains("of format 7"));
    ledger.connection.pragma_update(None, "application_id", 1).unwrap();
    assert!(Ledger::open_in(folder.path(), "shop").err().unwrap().to_string().contains("no ledger"));
}

#[test]
fn an_hour_is_clean_only_if_all_was_seen_and_nothing_was_wrong() {
    assert_eq!(judged(well(T)), (HourVerdict::Clean, String::new()));
    let with = |more: Event| [well(T), vec![(T + 30 * MINUTE, more)]].concat();
    let without = |which: fn(&(i64, Event)) -> bool| well(T).into_iter().filter(|e| !which(e)).collect::<Vec<_>>();
    let expect = |events, verdict, reason: &str| {
        let (v, r) = judged(events);
        assert!(v == verdict && r.contains(reason), "{v:?}: {r}, not {verdict:?}: {reason}");
    };
    let incident = |class| Event::Incident(Incident { class, message: "lost".into(), hint: None });
    let missed = Some(Canary { tried: 1, missed: vec!["shop.t: a flipped bit was not found".into()] });
    use HourVerdict::{Clean, Dirty, Unknown};
    expect(with(verification(Verdict::Different, false, found())), Dirty, "rows differed in shop.t");
    expect(with(verification(Verdict::Unknown, false, found())), Unknown, "not compared: shop.t");
    expect(with(verification(Verdict::Equal, true, missed)), Dirty, "did not find the change");
    expect(with(lag(Some(31.0))), Dirty, "31.0 s behind, and 30.0 s are allowed");
    expect(with(lag(None)), Unknown, "the lag was not known");
    expect(with(incident(Gravity::Fatal)), Dirty, "an error ended the pipeline: lost");
    expect(with(incident(Gravity::Transient)), Clean, "");
    expect(with(Event::Lost { entries: 3, error: "full".into() }), Unknown, "3 entries of the ledger were lost: full");
    let suspended = Event::Suspended { table: "shop.u".into(), reason: "a zero date".into() };
    expect(with(suspended), Unknown, "shop.u was suspended");
    expect(with(Event::Repair { tables: vec![] }), Dirty, "0 rows were repaired");
    expect(without(|(_, e)| matches!(e, Event::Verification(_))), Unknown, "were not compared");
    expect(without(|(_, e)| matches!(e, Event::Lag(_))), Unknown, "nobody ran the pipeline");
    expect(without(|(at, _)| (T + 10 * MINUTE..T + 12 * MINUTE).contains(at)), Unknown, "nothing was seen for 3 min");
    expect(without(|(at, _)| *at >= T + 57 * MINUTE), Unknown, "nothing was seen for");
    let none = [
        without(|(_, e)| matches!(e, Event::Verification(_))),
        vec![(T, verification(Verdict::Equal, true, Some(Canary::default())))],
    ];
    expect(none.concat(), Unknown, "try itself out");
}

#[test]
fn hours_are_judged_once_and_the_streak_counts_the_clean_ones_up_to_now() {
    let (_folder, mut ledger) = ledger();
    let standing = |ledger: &Ledger, now| {
        let s = ledger.standing(168, now).unwrap();
        (s.streak, s.broken_micros.map(|at| (at - T) / HOUR), s.broken_by.unwrap_or_default())
    };
    ledger.append(&[(T - 20 * MINUTE, lag(Some(0.0)))]).unwrap();
    for hour in 0..3 {
        ledger.append(&well(T + hour * HOUR)).unwrap();
    }
    settle(&mut ledger, BOUND, T + 3 * HOUR + MINUTE, None).unwrap();
    settle(&mut ledger, BOUND, T + 3 * HOUR + 2 * MINUTE, None).unwrap();
    assert_eq!(ledger.hours(10).unwrap().len(), 4, "each once, and the first one in part");
    let (streak, broken, by) = standing(&ledger, T + 3 * HOUR + MINUTE);
    assert_eq!((streak, broken), (3, Some(-1)));
    assert!(by.starts_with("unknown: nothing was seen for"), "{by}");
    // Nobody was there for five hours: each of them is unknown as soon as somebody looks, and before that nothing is claimed.
    assert_eq!(standing(&ledger, T + 8 * HOUR).0, 0);
    ledger.append(&well(T + 8 * HOUR)).unwrap();
    settle(&mut ledger, BOUND, T + 9 * HOUR, None).unwrap();
    assert_eq!(
        standing(&ledger, T + 9 * HOUR),
        (1, Some(7), "unknown: nobody ran the pipeline; both sides were not compared".into())
    );
    // A comparison that began within the hour is waited for, an hour at most.
    ledger.append(&well(T + 9 * HOUR)).unwrap();
    settle(&mut ledger, BOUND, T + 10 * HOUR + 5 * MINUTE, Some(10 * MINUTE)).unwrap();
    assert_eq!(ledger.hours(1).unwrap()[0].start_micros, T + 8 * HOUR);
    settle(&mut ledger, BOUND, T + 11 * HOUR, Some(65 * MINUTE)).unwrap();
    assert_eq!(standing(&ledger, T + 11 * HOUR).1, Some(10), "and the hour without anything is unknown");
}

#[test]
fn an_hour_is_broken_by_what_is_wrong_beyond_rows_and_not_by_a_warning() {
    use crate::verify::aggregates::AggregateProof;
    use crate::verify::beyond::Outcome;
    use crate::verify::orphans::{Broken, References};
    use crate::verify::sequences::{Behind, Sequences};

    let with = |beyond: Beyond| {
        let Event::Verification(mut v) = verification(Verdict::Equal, true, found()) else { unreachable!() };
        *v.proof.beyond = beyond;
        let mut events = well(T);
        events.push((T + 30 * MINUTE, Event::Verification(v)));
        judged(events)
    };
    let figure = |outcome| {
        let aggregate = AggregateProof {
            name: "revenue".into(),
            to: None,
            outcome,
            source: Some("1".into()),
            target: Some("3".into()),
            difference: Some("2".into()),
            warning: "0".into(),
            critical: "1".into(),
            error: (outcome == Outcome::Unknown).then(|| "source: gone".into()),
        };
        with(Beyond { aggregates: vec![aggregate], ..Beyond::default() })
    };
    let orphans = |outcome| {
        let broken = Broken {
            table: "shop.item".into(),
            target: None,
            foreign_key: Some("fk".into()),
            to: Some("shop.order".into()),
            outcome,
            rows: Some(2),
            source_rows: Some(if outcome == Outcome::Warning { 2 } else { 0 }),
            keys: vec!["id=7".into()],
            error: None,
        };
        with(Beyond { references: Some(References { foreign_keys: 1, broken: vec![broken] }), ..Beyond::default() })
    };
    assert_eq!(figure(Outcome::Holds).0, HourVerdict::Clean);
    assert_eq!(figure(Outcome::Warning).0, HourVerdict::Clean);
    let (verdict, reasons) = figure(Outcome::Critical);
    assert_eq!((verdict, reasons.as_str()), (HourVerdict::Dirty, "aggregate revenue is apart by more than 1"));
    let (verdict, reasons) = figure(Outcome::Unknown);
    assert_eq!((verdict, reasons.as_str()), (HourVerdict::Unknown, "aggregate revenue is not known: source: gone"));
    assert_eq!(orphans(Outcome::Warning).0, HourVerdict::Clean);
    let (verdict, reasons) = orphans(Outcome::Critical);
    let words = "shop.item: 2 rows refer to no row of shop.order (foreign key fk), 0 at the source: id=7";
    assert_eq!((verdict, reasons.as_str()), (HourVerdict::Dirty, words));
    let behind = Behind {
        table: "shop.item".into(),
        target: None,
        column: "id".into(),
        sequence: "shop.item_id_seq".into(),
        next: "4".into(),
        furthest: "9".into(),
        fix: "SELECT setval(...)".into(),
    };
    let sequences = Some(Sequences { behind: vec![behind], errors: vec![] });
    assert_eq!(
        with(Beyond { sequences, ..Beyond::default() }).0,
        HourVerdict::Clean,
        "as it must be while rows stream in"
    );
}
