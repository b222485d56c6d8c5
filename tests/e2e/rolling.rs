//! A rolling audit on real servers: by a daemon whose clock goes from hour to hour.

use std::path::Path;

use crossfade::ledger::Event;
use crossfade::ledger::entry::Asker;
use crossfade::verify::{Proof, TableProof, Verdict};
use crossfade_harness::{Clock, MariaDb, PgVersion, Postgres};

use crate::common::{code, folder};
use crate::differences::at_ease;
use crate::ledger::Kept;

/// One range behind each fence, so that `t` is cut, and then the audit.
const SHORT: &str = "[limits]\nchunk_rows = 250\n[proof]\nsnapshot = \"1ms\"\n";

struct Hours {
    kept: Kept,
    clock: Clock,
    last: i64,
}

impl Hours {
    fn new(folder: &Path, kept: Kept) -> Hours {
        Hours { kept, clock: Clock::new(folder), last: 0 }
    }

    /// The comparison on schedule of the hour that is so far ahead.
    fn at(&mut self, hour: &str) -> Proof {
        self.clock.set(hour);
        let last = self.last;
        let daemon = self.kept.command("run", &[]).clock(&self.clock).start();
        let on_schedule =
            |e: &Event| matches!(e, Event::Verification(v) if v.by == Asker::Schedule && v.proof.at_micros > last);
        let entry = self.kept.wait_for("verification", on_schedule);
        daemon.kill();
        let Event::Verification(v) = entry.event else { unreachable!() };
        self.last = v.proof.through_micros.unwrap_or(v.proof.at_micros);
        v.proof
    }
}

fn of<'p>(proof: &'p Proof, table: &str) -> &'p TableProof {
    proof.tables.iter().find(|t| t.table.ends_with(&format!(".{table}"))).expect("the table")
}

/// Its chunks that were read by this comparison, and how far its audit is.
fn read(proof: &Proof) -> (usize, u64, u64) {
    let t = of(proof, "t");
    let audit = t.audit.as_ref().expect("an audit");
    assert!(!audit.late, "{t:#?}");
    (t.chunks.iter().filter(|c| c.at_micros >= proof.at_micros).count(), audit.read, audit.ranges)
}

#[test]
fn a_large_table_is_read_bit_by_bit_and_a_small_one_each_hour() {
    let source = MariaDb::shared().fresh_database("rolling");
    source.sql(
        "create table t (id bigint primary key, v varchar(20)); insert into t select seq * 10, 'v' from seq_1_to_2500;
         create table small (k varchar(20) primary key, v int); insert into small select concat('K', seq), seq from seq_1_to_300",
    );
    let target = Postgres::shared(PgVersion::V15).fresh_database("rolling");
    let (_folder, path) = folder();
    let kept = Kept::new(&path, &source.url(), &target.url(), SHORT);
    assert_eq!(code(&kept.ended("catch-up", &["--timeout", "200s"])), 0);
    at_ease(&target, source.name());
    let kept = Kept::new(&path, &source.url(), &target.url(), &format!("{SHORT}every = \"1h\"\naudit = \"24h\"\n"));
    let mut hours = Hours::new(&path, kept);

    let first = hours.at("+0");
    let (chunks, done, ranges) = read(&first);
    assert_eq!((first.verdict, done), (Verdict::Equal, ranges), "what was never read is due at once");
    assert!(chunks >= 8, "{:#?}", of(&first, "t"));

    // The end of the table and the small one are changed at the target: seen where they are read.
    target.sql("update t set v = 'wrong' where id = 25000");
    let second = hours.at("+1h");
    assert_eq!(read(&second), (1, 1, ranges), "a part of the table");
    assert_eq!((second.verdict, of(&second, "t").source_rows), (Verdict::Equal, Some(2500)));
    assert_eq!(of(&second, "t").chunks.len(), chunks, "the others are those of the first round");
    let status = hours.kept.ended("status", &[]).stdout;
    assert!(status.contains(&format!(".t: 1 of {ranges} parts read")) && status.contains("on schedule"), "{status}");
    assert!(hours.kept.ended("report", &[]).stdout.contains(&format!("1 of {ranges} parts read")));
    target.sql("update small set v = 0 where k = 'K7'");
    let third = hours.at("+2h");
    assert_eq!(read(&third), (1, 2, ranges));
    assert_eq!((of(&third, "t").verdict, of(&third, "small").verdict), (Verdict::Equal, Verdict::Different));
    target.sql("update small set v = 7 where k = 'K7'");

    // Nobody ran it for longer than the period.
    let late = hours.at("+30h");
    assert_eq!(read(&late), (chunks, ranges, ranges), "all that is too old is read at once");
    assert_eq!((of(&late, "t").verdict, of(&late, "small").verdict), (Verdict::Different, Verdict::Equal));
    let again = hours.at("+31h");
    assert_eq!(read(&again), (2, 1, ranges), "what is due, and the chunk in which a row differed");
    assert_eq!(of(&again, "t").verdict, Verdict::Different);
    target.sql("update t set v = 'v' where id = 25000");
    let mended = hours.at("+32h");
    assert_eq!((mended.verdict, read(&mended)), (Verdict::Equal, (2, 2, ranges)));
    assert_eq!((of(&mended, "t").source_rows, of(&mended, "t").target_rows), (Some(2500), Some(2500)));
}
