//! Comparisons without end, under load, while something breaks: never a false alarm, never a miss.
//!
//! Writers use the bank as fast as its server lets them. `verify` is asked again and again, and while it works, or just before, a
//! connection is cut, stalls or ends in the middle of a message, nobody listens, a server is killed, or the daemon. As long as
//! both sides hold the same, the verdict must be *equal* or, where the fault left no answer, *unknown*. Now and then a second hand changes
//! rows at the target that no writer touches: then it must be *different* by exactly those keys, until they are set back or
//! repaired. The seed is printed, and each step; `CROSSFADE_PROOFS_SEED=N` repeats faults, moments and changes, `CROSSFADE_PROOFS=N` asks more often.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossfade_harness::{
    Bait, Client, Database, MariaDb, Mode, Options, PgVersion, Postgres, Proxy, Running, Spring, Way,
};
use serde_json::Value;

use crate::shapes::Dice;
use crate::stage::{ACCOUNTS, Bank, ENTRIES, Line, PATIENCE, StopOnDrop, seed, stop, variable};

/// Comparisons of a run.
const PROOFS: u64 = 20;
/// Rows are changed before one in so many comparisons, and before the second.
const CHANGED: usize = 4;
/// How often a comparison or a repair may be left without an answer before that is what is wrong.
const TRIES: usize = 30;

/// What breaks.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Nothing,
    /// All connections end.
    Cut,
    /// They end, and nobody listens.
    Refuse,
    /// Nothing passes.
    Stall(Way),
    /// The connection that brings the so-many-th byte ends with it.
    Truncate(Way, usize),
    /// The server is killed.
    Crash,
    /// The daemon is killed.
    Kill,
}

/// What breaks where, and when.
#[derive(Debug)]
struct Strike {
    fault: Fault,
    /// 0: the source, 1: the target.
    side: usize,
    /// Before `verify` is asked, not while it works.
    early: bool,
    after: Duration,
    lasting: Duration,
}

impl Strike {
    fn draw(dice: &mut Dice) -> Self {
        let way = [Way::Up, Way::Down][dice.below(2)];
        // From within the first packets to beyond a whole table.
        let most = 1 << (6 + dice.below(13));
        let bytes = 50 + dice.below(most);
        let fault = match dice.below(12) {
            0..=3 => Fault::Nothing,
            4 | 5 => Fault::Cut,
            6 => Fault::Refuse,
            7 => Fault::Stall(way),
            8 | 9 => Fault::Truncate(way, bytes),
            10 => Fault::Crash,
            _ => Fault::Kill,
        };
        let (side, early) = (dice.below(2), dice.one_in(3));
        let mut below = |n| Duration::from_millis(dice.below(n) as u64);
        Strike { fault, side, early, after: below(500), lasting: below(1200) }
    }

    fn none() -> Self {
        let now = Duration::ZERO;
        Strike { fault: Fault::Nothing, side: 0, early: true, after: now, lasting: now }
    }
}

/// One server, and the way to it.
struct End<'a> {
    proxy: Proxy,
    kill: Box<dyn Fn() + 'a>,
    restart: Box<dyn Fn() + 'a>,
}

impl<'a> End<'a> {
    fn new(port: u16, kill: impl Fn() + 'a, restart: impl Fn() + 'a) -> Self {
        End { proxy: Proxy::before(port), kill: Box::new(kill), restart: Box::new(restart) }
    }
}

/// What a second hand does at the target, and how it is taken back.
#[derive(Debug)]
struct Change {
    sql: String,
    back: String,
    table: &'static str,
    class: &'static str,
    keys: Vec<String>,
}

impl Change {
    /// Rows that the bank never touches: its first entries, keys below and above its own.
    fn draw(dice: &mut Dice, schema: &str) -> Self {
        let (first, other) = (dice.below(ENTRIES / 2), ENTRIES / 2 + dice.below(ENTRIES / 2));
        let entry = format!("{schema}.entry");
        let back = |ids: &[usize]| {
            let rows: Vec<String> = ids.iter().map(|id| format!("({id}, {}, {id}, 'before')", id % ACCOUNTS)).collect();
            let ids: Vec<String> = ids.iter().map(usize::to_string).collect();
            format!(
                "begin; delete from {entry} where id in ({}); insert into {entry} values {}; commit",
                ids.join(", "),
                rows.join(", ")
            )
        };
        let change = |table, class, sql, back, keys: &[String]| Change { sql, back, table, class, keys: keys.to_vec() };
        let set = |what: &str| {
            let sql = format!("update {entry} set {what} where id = {first}");
            change("entry", "different", sql, back(&[first]), &[first.to_string()])
        };
        match dice.below(9) {
            0 => set("amount = amount + 1"),
            1 => set("note = note || ' '"),
            2 => set("note = upper(note)"),
            3 => set("note = null"),
            4 => set("account = 1 - account"),
            5 => {
                let sql = format!("delete from {entry} where id = {first}");
                change("entry", "missing", sql, back(&[first]), &[first.to_string()])
            }
            6 => {
                let sql = format!("insert into {entry} values (-1 - {first}, 1, 1, 'before')");
                let back = format!("delete from {entry} where id < 0");
                change("entry", "extra", sql, back, &[format!("-{}", 1 + first)])
            }
            7 => {
                let id = ACCOUNTS + first;
                let sql = format!("insert into {schema}.account values ({id}, 'nobody', 0)");
                let back = format!("delete from {schema}.account where id = {id}");
                change("account", "extra", sql, back, &[id.to_string()])
            }
            _ => {
                let sql = format!(
                    "update {entry} set amount = amount + case id when {first} then 1 else -1 end where id in ({first}, {other})"
                );
                change("entry", "different", sql, back(&[first, other]), &[first.to_string(), other.to_string()])
            }
        }
    }

    /// Whether a table's differences are these rows, and no others.
    fn is(&self, differences: &Value) -> bool {
        let of = |row: &Value| {
            let key = row["key"][0]["value"].as_str().unwrap_or_default().to_owned();
            (row["kind"] == self.class).then_some(key)
        };
        let mut listed: Vec<_> = differences["listed"].as_array().into_iter().flatten().map(of).collect();
        let mut keys: Vec<_> = self.keys.iter().cloned().map(Some).collect();
        listed.sort();
        keys.sort();
        differences["rows"] == keys.len() && listed == keys
    }
}

/// What a comparison came to, beside what it had to.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Equal,
    /// Different, by exactly the rows that were changed.
    Found,
    /// Different, where it had to be; a fault kept the rows from being told.
    Unnamed,
    Unknown(String),
    /// A false alarm, a miss, or other rows.
    Wrong(&'static str),
}

fn judge(proof: &Value, change: Option<&Change>) -> Seen {
    let mut seen = match change {
        None => Seen::Equal,
        Some(_) => Seen::Unknown("the table that was changed is not in the proof".into()),
    };
    for table in proof["tables"].as_array().into_iter().flatten() {
        let name = table["table"].as_str().unwrap_or_default();
        let change = change.filter(|c| name.ends_with(&format!(".{}", c.table)));
        match (table["verdict"].as_str(), change) {
            (Some("equal"), None) => {}
            (Some("equal"), Some(_)) => return Seen::Wrong("a miss"),
            (Some("different"), None) => return Seen::Wrong("a false alarm"),
            (Some("different"), Some(change)) => match &table["differences"] {
                Value::Null => seen = Seen::Unnamed,
                rows if change.is(rows) => seen = Seen::Found,
                _ => return Seen::Wrong("other rows than those that were changed"),
            },
            _ if seen == Seen::Found || seen == Seen::Unnamed => {}
            (_, _) => seen = Seen::Unknown(table["error"].as_str().unwrap_or("without a reason").to_owned()),
        }
    }
    let verdict = match &seen {
        Seen::Equal => "equal",
        Seen::Found | Seen::Unnamed => "different",
        Seen::Unknown(_) => "unknown",
        Seen::Wrong(_) => return seen,
    };
    if proof["verdict"] == verdict { seen } else { Seen::Wrong("a verdict that is not its tables'") }
}

struct Play<'a> {
    line: Line,
    urls: (String, String),
    ends: [End<'a>; 2],
    target: &'a Database,
    schema: &'a str,
    faults: Dice,
    changes: Dice,
    daemon: Option<Running>,
}

impl Play<'_> {
    fn fail(&self, what: &str) -> ! {
        let said = self.daemon.as_ref().map_or_else(String::new, Running::stderr);
        let said: Vec<&str> = said.lines().rev().take(30).collect();
        panic!("{what}\nthe daemon, last line first:\n{}", said.join("\n"))
    }

    fn start(&mut self) {
        let mut daemon = self.line.start(&self.urls.0, &self.urls.1);
        daemon.wait_for("\"starting\"", PATIENCE);
        self.daemon = Some(daemon);
    }

    /// SIGKILL; a daemon that had ended before, by itself, fails the scenario.
    fn kill(&mut self) {
        let ended = self.daemon.take().expect("a daemon runs between two comparisons").kill();
        if let Some(code) = ended.status.code() {
            self.fail(&format!("the daemon had ended with {code}: {}", ended.stderr));
        }
    }

    fn begin(&mut self, strike: &Strike) {
        let end = &self.ends[strike.side];
        match strike.fault {
            Fault::Nothing => {}
            Fault::Cut => end.proxy.cut(),
            Fault::Refuse => {
                end.proxy.refuse(true);
                end.proxy.cut();
            }
            Fault::Stall(way) => end.proxy.set(way, Mode::Stall),
            Fault::Truncate(way, bytes) => end.proxy.trap(way, Bait::Count(bytes), Spring::Cut),
            Fault::Crash => (end.kill)(),
            Fault::Kill => self.kill(),
        }
    }

    fn lift(&self, strike: &Strike) {
        let end = &self.ends[strike.side];
        match strike.fault {
            Fault::Nothing | Fault::Cut | Fault::Truncate(..) | Fault::Kill => {}
            Fault::Refuse => end.proxy.refuse(false),
            Fault::Stall(way) => end.proxy.set(way, Mode::Pass),
            Fault::Crash => (end.restart)(),
        }
    }

    /// Asks once, while something breaks.
    fn ask(&mut self, strike: &Strike, change: Option<&Change>) -> Seen {
        let totals: &[&str] = if self.faults.one_in(3) { &["--totals"] } else { &[] };
        let verify = self.line.command("verify", &self.urls.0, &self.urls.1).args(["--json"]).args(totals);
        if strike.early {
            self.begin(strike);
        }
        let asked = verify.start();
        if !strike.early {
            thread::sleep(strike.after);
            self.begin(strike);
        }
        thread::sleep(strike.lasting);
        self.lift(strike);
        let ended = asked.wait(PATIENCE);
        self.ends.iter().for_each(|end| end.proxy.disarm());
        if self.daemon.is_none() {
            self.start();
        }
        match ended.status.code() {
            Some(0 | 2 | 3) => {}
            // No answer: whom it had asked, or what it had read, was gone.
            Some(69 | 75) => return Seen::Unknown(ended.stderr.lines().next().unwrap_or_default().to_owned()),
            code => self.fail(&format!("verify ended with {code:?}: {}", ended.stderr)),
        }
        let proof: Value = serde_json::from_str(&ended.stdout)
            .unwrap_or_else(|e| self.fail(&format!("verify: {e}: {}{}", ended.stdout, ended.stderr)));
        let seen = judge(&proof, change);
        let missed = proof["canary"]["missed"].as_array().is_none_or(|missed| !missed.is_empty());
        if missed || matches!(seen, Seen::Wrong(_)) {
            self.fail(&format!("{seen:?}: {strike:?}, {change:?}: {proof:#}"));
        }
        seen
    }

    /// By hand, or by `repair`.
    fn mend(&mut self, change: &Change) -> &'static str {
        if self.changes.one_in(2) {
            self.target.sql(&change.back);
            return "set back";
        }
        for _ in 0..TRIES {
            let repair = self.line.command("repair", &self.urls.0, &self.urls.1).args(["--apply"]);
            let ended = repair.start().wait(PATIENCE);
            match ended.status.code() {
                Some(0) => return "repaired",
                Some(3 | 69 | 75) => {}
                code => self.fail(&format!("repair ended with {code:?}: {}{}", ended.stdout, ended.stderr)),
            }
        }
        self.fail("repair found no end")
    }

    /// Asks so often, and once more as long as a change has not been found.
    fn play(&mut self, proofs: u64) -> Tally {
        let mut tally = Tally::default();
        let mut change = None;
        let mut in_vain = 0;
        while tally.asked < proofs || change.is_some() {
            if change.is_none() && (tally.asked == 1 || self.changes.one_in(CHANGED)) {
                let drawn = Change::draw(&mut self.changes, self.schema);
                self.target.sql(&drawn.sql);
                change = Some(drawn);
            }
            let drawn = Strike::draw(&mut self.faults);
            let strike = if tally.asked < proofs { drawn } else { Strike::none() };
            let seen = self.ask(&strike, change.as_ref());
            tally.asked += 1;
            let changed = change.as_ref().map_or_else(String::new, |c| format!(", after {}", c.sql));
            eprintln!("{}: {strike:?}{changed}: {seen:?}", tally.asked);
            in_vain = if matches!(seen, Seen::Unknown(_)) { in_vain + 1 } else { 0 };
            match seen {
                Seen::Equal => tally.equal += 1,
                Seen::Found => {
                    tally.found += 1;
                    let how = change.take().map(|change| self.mend(&change));
                    eprintln!("{}", how.unwrap_or_default());
                }
                Seen::Unnamed => tally.unnamed += 1,
                Seen::Unknown(_) if in_vain < TRIES => tally.unknown += 1,
                Seen::Unknown(_) | Seen::Wrong(_) => self.fail("no comparison gets an answer any more"),
            }
        }
        tally
    }
}

/// How the comparisons ended. There is no place for a false alarm or a miss: the first one ends the scenario.
#[derive(Debug, Default)]
struct Tally {
    asked: u64,
    equal: u64,
    found: u64,
    unnamed: u64,
    unknown: u64,
}

/// Runs a scenario while two writers use the bank without a pause, and clear its books, which so stay small.
fn under_load<T>(bank: &Bank, scenario: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = StopOnDrop(&over);
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    // While the server is down there is nobody to ask.
                    if !(bank.transact(25) && bank.clear(2000)) {
                        thread::sleep(Duration::from_millis(20));
                    }
                }
            });
        }
        scenario()
    })
}

fn no_false_alarm_and_no_miss(source: &Client, from: End<'_>, target: &Client, to: End<'_>) {
    let bank = Bank::on(source);
    let database = target.fresh_database("dst");
    let urls = (from.proxy.through(&bank.url()), to.proxy.through(&database.url()));
    let dice = seed("CROSSFADE_PROOFS_SEED");
    let mut play = Play {
        line: Line::new("proofs"),
        urls,
        ends: [from, to],
        target: &database,
        schema: bank.schema(),
        faults: Dice(dice),
        changes: Dice(!dice),
        daemon: None,
    };
    under_load(&bank, || {
        play.start();
        let (from, to) = play.urls.clone();
        let caught_up = play.line.command("catch-up", &from, &to).start().wait(PATIENCE);
        assert!(caught_up.status.success(), "{}", caught_up.stderr);
        let tally = play.play(variable("CROSSFADE_PROOFS").unwrap_or(PROOFS));
        eprintln!("{tally:?}, and no false alarm, no miss");
        assert!(tally.equal > 0 && tally.found > 0, "nothing was shown: {tally:?}");
        stop(play.daemon.take().expect("a daemon runs"));
    });
    let (from, to) = &play.urls;
    assert_eq!(play.line.ends_equal(from, to), 2);
}

#[test]
fn no_false_alarm_and_no_miss_from_mariadb() {
    let (source, target) = (MariaDb::start(Options::new()), Postgres::start(PgVersion::V15, Options::new()));
    let from = End::new(source.port(), || source.kill(), || source.restart());
    let to = End::new(target.port(), || target.kill(), || target.restart());
    no_false_alarm_and_no_miss(&source, from, &target, to);
}

#[test]
fn no_false_alarm_and_no_miss_from_postgres() {
    let start = |version| Postgres::start(version, Options::new());
    let (source, target) = (start(PgVersion::V18), start(PgVersion::V15));
    let from = End::new(source.port(), || source.kill(), || source.restart());
    let to = End::new(target.port(), || target.kill(), || target.restart());
    no_false_alarm_and_no_miss(&source, from, &target, to);
}
