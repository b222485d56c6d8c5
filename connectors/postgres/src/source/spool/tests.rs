//! Segments of several transactions, subtransactions that roll back, memory and file: against a list of what must be left.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn spools(limit: usize) -> Spools {
    Spools { limit, ..Spools::new(&std::env::temp_dir()).unwrap() }
}

/// A change of a (sub)transaction, as it comes in a segment.
fn change(xid: u32, text: &str) -> Vec<u8> {
    [b"I", &xid.to_be_bytes()[..], text.as_bytes()].concat()
}

fn rest(replay: &mut Replay) -> Vec<String> {
    let mut out = Vec::new();
    while let Some(message) = replay.next().unwrap() {
        out.push(String::from_utf8(message.to_vec()).unwrap());
    }
    out
}

/// A segment of changes by `(sub)transaction: text`.
fn segment(spools: &mut Spools, xid: u32, first: bool, changes: &[(u32, &str)]) {
    spools.start(xid, first).unwrap();
    for (by, text) in changes {
        assert!(spools.keep(&change(*by, text)).unwrap());
    }
    assert!(!spools.keep(b"E").unwrap());
    spools.stop().unwrap();
}

#[test]
fn interleaved_transactions_stay_apart() {
    // All in memory, some in files, all in files.
    for limit in [1000, 20, 3] {
        let mut s = spools(limit);
        segment(&mut s, 1, true, &[(1, "a"), (1, "b")]);
        segment(&mut s, 2, true, &[(2, "x")]);
        segment(&mut s, 1, false, &[(1, "c")]);
        segment(&mut s, 3, true, &[(3, "never")]);
        segment(&mut s, 2, false, &[(2, "y"), (2, "z")]);
        s.abort(3, 3).unwrap();
        assert_eq!(rest(&mut s.commit(2).unwrap()), ["Ix", "Iy", "Iz"], "limit {limit}");
        assert_eq!(rest(&mut s.commit(1).unwrap()), ["Ia", "Ib", "Ic"], "limit {limit}");
        assert_eq!((s.held, s.open.len()), (0, 0));
    }
}

#[test]
fn subtransactions_that_roll_back_are_cut_off() {
    for limit in [1000, 30, 12, 3] {
        let mut s = spools(limit);
        // 11 inside of 10; 10 makes a change after 11 has been released.
        segment(&mut s, 1, true, &[(1, "a"), (11, "n1"), (11, "n2"), (10, "n3")]);
        s.abort(1, 11).unwrap();
        s.abort(1, 10).unwrap();
        // One that made no change, and one that made it elsewhere.
        s.abort(1, 12).unwrap();
        segment(&mut s, 1, false, &[(13, "b"), (1, "c"), (14, "n4"), (14, "n5")]);
        s.abort(1, 14).unwrap();
        segment(&mut s, 1, false, &[(13, "d")]);
        assert_eq!(rest(&mut s.commit(1).unwrap()), ["Ia", "Ib", "Ic", "Id"], "limit {limit}");
        assert_eq!(s.held, 0);
    }
}

#[test]
fn what_cannot_follow_is_refused() {
    let refused = |e: Result<()>, want: &str| {
        let e = e.unwrap_err();
        assert!(e.to_string().contains(want), "{want}: {e}");
    };
    let mut s = spools(100);
    refused(s.stop(), "did not begin");
    refused(s.start(1, false), "did not begin");
    // Of what was never sent there is nothing to discard.
    s.abort(1, 1).unwrap();
    s.abort(1, 2).unwrap();
    refused(s.commit(1).map(drop), "no segment");
    s.start(1, true).unwrap();
    refused(s.start(2, true), "inside");
    refused(s.abort(1, 1), "inside");
    refused(s.commit(1).map(drop), "inside");
    refused(s.keep(b"I\0\0").map(drop), "cannot be read");
    refused(s.keep(b"B\0\0\0\0").map(drop), "'B'");
    s.stop().unwrap();
    refused(s.start(1, true), "open already");
}

#[test]
fn folders_that_will_not_do() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Spools::new(&folder.path().join("no")).unwrap_err();
    assert!(missing.to_string().contains("/no, where"), "{missing}");
    assert!(missing.hint_text().unwrap().contains("spool_dir") && !missing.is_transient());
    let full = failed(folder.path(), ErrorKind::StorageFull.into());
    assert!(full.is_transient() && full.hint_text().unwrap().contains("streaming=off"), "{full:?}");
}

#[test]
fn a_file_that_somebody_cut_is_an_error() {
    let mut s = spools(3);
    segment(&mut s, 1, true, &[(1, "abc"), (1, "def")]);
    s.open[&1].file.as_ref().unwrap().set_len(12).unwrap();
    let mut replay = s.commit(1).unwrap();
    assert_eq!(replay.next().unwrap(), Some(&b"Iabc"[..]));
    assert!(replay.next().unwrap_err().to_string().contains("was changed"));
}

/// What a session does: its subtransactions are a stack.
#[derive(Debug, Clone)]
enum Step {
    Change(usize),
    Savepoint,
    Release,
    Rollback,
}

fn steps() -> impl Strategy<Value = Vec<(u32, Step)>> {
    let step = prop_oneof![
        4 => (0usize..40).prop_map(Step::Change),
        2 => Just(Step::Savepoint),
        1 => Just(Step::Release),
        1 => Just(Step::Rollback),
    ];
    proptest::collection::vec((1u32..4, step), 0..120)
}

/// A session in the making: open subtransactions with those released into them, and what is left of its changes.
#[derive(Default)]
struct Model {
    stack: Vec<Vec<u32>>,
    kept: Vec<(u32, String)>,
}

proptest! {
    /// Three sessions take turns; each change is a segment of its own. Numbers are given out as the server does: an outer
    /// subtransaction has a lower one than those inside, also where it makes its first change after them.
    #[test]
    fn only_what_committed_is_replayed(limit in 1usize..200, steps in steps()) {
        let (mut s, mut models) = (spools(limit), BTreeMap::<u32, Model>::new());
        let (mut begun, mut number) = (BTreeSet::new(), 100);
        for (i, (xid, step)) in steps.into_iter().enumerate() {
            let model = models.entry(xid).or_default();
            match step {
                Step::Change(size) => {
                    let by = model.stack.last().map_or(xid, |ids| ids[0]);
                    let text = format!("{i}{}", "x".repeat(size));
                    segment(&mut s, xid, begun.insert(xid), &[(by, &text)]);
                    model.kept.push((by, format!("I{text}")));
                }
                Step::Savepoint => {
                    number += 1;
                    model.stack.push(vec![number]);
                }
                Step::Release => {
                    let ids = model.stack.pop().unwrap_or_default();
                    if let Some(outer) = model.stack.last_mut() {
                        outer.extend(ids);
                    }
                }
                Step::Rollback => if let Some(ids) = model.stack.pop() {
                    model.kept.retain(|(by, _)| !ids.contains(by));
                    // The inner ones first, then itself.
                    for id in ids[1..].iter().chain(&ids[..1]) {
                        if begun.contains(&xid) {
                            s.abort(xid, *id).unwrap();
                        }
                    }
                },
            }
            prop_assert!(s.held <= limit);
            prop_assert_eq!(s.held, s.open.values().map(|o| o.held.len()).sum::<usize>());
        }
        for xid in begun {
            let want: Vec<String> = models[&xid].kept.iter().map(|(_, text)| text.clone()).collect();
            prop_assert_eq!(rest(&mut s.commit(xid).unwrap()), want);
        }
        prop_assert_eq!(s.held, 0);
    }
}
