//! What scenarios share: the bank, the pipeline between two URLs, the watcher of the target.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossfade_harness::{Client, Database, Ended, Program, Running};
use serde_json::Value;

/// Long enough for the slowest machine; a test that needs it has failed.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Accounts of a bank, numbered from 0.
pub const ACCOUNTS: usize = 3000;
/// Entries that a bank begins with, numbered from 0; nobody touches them any more.
pub const ENTRIES: usize = 2000;
const MONEY: usize = 1000;

/// Where the bank's database is.
enum Place {
    Server(Database),
    File(PathBuf),
}

/// A source whose transactions move money: the sum of all balances never changes.
pub struct Bank {
    place: Place,
    /// The next transaction.
    next: AtomicUsize,
}

impl Bank {
    /// A bank in a database of its own.
    pub fn on(client: &Client) -> Self {
        Self::open(Place::Server(client.fresh_database("bank")))
    }

    /// A bank in an SQLite file.
    pub fn file(folder: &Path) -> Self {
        Self::open(Place::File(folder.join("bank.sqlite")))
    }

    fn open(place: Place) -> Self {
        let bank = Bank { place, next: AtomicUsize::new(0) };
        let accounts: Vec<String> = (0..ACCOUNTS).map(|i| format!("({i}, 'owner {i}', {MONEY})")).collect();
        let entries: Vec<String> = (0..ENTRIES).map(|i| format!("({i}, {}, {i}, 'before')", i % ACCOUNTS)).collect();
        bank.sql(&format!(
            "create table account (id int primary key, owner varchar(40), balance bigint not null);
             create table entry (id int primary key, account int, amount bigint, note varchar(200));
             create index entry_account on entry (account);
             insert into account values {};
             insert into entry values {};",
            accounts.join(", "),
            entries.join(", ")
        ));
        bank
    }

    /// The same bank on the server that has taken the place of its own.
    #[must_use]
    pub fn moved(self, to: &Client) -> Self {
        let place = match self.place {
            Place::Server(database) => Place::Server(database.on(to)),
            file @ Place::File(_) => file,
        };
        Bank { place, next: self.next }
    }

    /// Its URL for the program.
    pub fn url(&self) -> String {
        match &self.place {
            Place::Server(database) => database.url(),
            Place::File(path) => format!("sqlite://{}", path.display()),
        }
    }

    /// The schema in which its tables arrive.
    pub fn schema(&self) -> &str {
        match &self.place {
            Place::Server(database) => database.schema(),
            Place::File(_) => "main",
        }
    }

    /// Runs statements.
    pub fn sql(&self, statements: &str) {
        self.try_sql(statements).unwrap_or_else(|e| panic!("{e}"));
    }

    /// Its database on a server.
    pub fn database(&self) -> &Database {
        match &self.place {
            Place::Server(database) => database,
            Place::File(path) => panic!("{} is no server", path.display()),
        }
    }

    fn try_sql(&self, statements: &str) -> Result<(), String> {
        match &self.place {
            Place::Server(database) => database.try_sql(statements).map(drop),
            Place::File(path) => {
                let open = rusqlite::Connection::open(path).and_then(|c| {
                    c.busy_timeout(Duration::from_secs(60))?;
                    c.execute_batch(statements)
                });
                open.map_err(|e| e.to_string())
            }
        }
    }

    /// Commits so many transactions. False when the server refused or went away in between.
    pub fn transact(&self, count: usize) -> bool {
        let first = self.next.fetch_add(count, Ordering::SeqCst);
        let one = |n: usize| {
            let (from, to, id) = (n % ACCOUNTS, (n * 7 + 1) % ACCOUNTS, 10_000 + 2 * n);
            let gone = id.saturating_sub(60).max(10_000);
            format!(
                "BEGIN; UPDATE account SET balance = balance - 5 WHERE id = {from};
                 INSERT INTO entry VALUES ({id}, {from}, -5, 'transfer {n}');
                 UPDATE account SET balance = balance + 5 WHERE id = {to};
                 INSERT INTO entry VALUES ({id} + 1, {to}, 5, 'transfer {n}');
                 DELETE FROM entry WHERE id = {gone} AND id < {id}; COMMIT;\n"
            )
        };
        let script: String = (first..first + count).map(one).collect();
        self.try_sql(&script).is_ok()
    }

    /// Removes the entries of all but about the last so many transactions. False as for [`Bank::transact`].
    pub fn clear(&self, kept: usize) -> bool {
        let before = 10_000 + 2 * self.next.load(Ordering::SeqCst).saturating_sub(kept);
        self.try_sql(&format!("DELETE FROM entry WHERE id >= 10000 AND id < {before}")).is_ok()
    }

    /// Runs `scenario` while somebody uses the bank; afterwards the bank is at rest.
    pub fn in_use<T>(&self, scenario: impl FnOnce() -> T) -> T {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let _stopped = StopOnDrop(&stop);
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    // What a server refuses while it is down, or asked for the second time, is the application's affair.
                    self.transact(5);
                    thread::sleep(Duration::from_millis(15));
                }
            });
            scenario()
        })
    }

    /// Watches the target while a scenario runs: once it streams, the money there is all there at every moment.
    pub fn watched<T>(&self, target: &Database, scenario: impl FnOnce() -> T) -> T {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let _stopped = StopOnDrop(&stop);
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    self.judge(target);
                    thread::sleep(Duration::from_millis(100));
                }
            });
            scenario()
        })
    }

    /// Waits until the target commits again: whatever was broken is mended.
    pub fn flows(&self, target: &Database) {
        let seq = || target.try_sql("select max(seq) from crossfade.checkpoint where phase = 'streaming'").ok();
        let before = seq();
        wait("the target commits again", || seq().is_some_and(|s| !s.is_empty() && Some(s) != before));
    }

    /// Looks once. While the target is down or has no tables yet, there is nothing to see.
    fn judge(&self, target: &Database) {
        let seen = target.try_sql(&format!(
            "select sum(balance), count(*) from {}.account
             where (select bool_and(phase = 'streaming') from crossfade.checkpoint)",
            self.schema()
        ));
        let expected = format!("{}\t{ACCOUNTS}", ACCOUNTS * MONEY);
        assert!(seen.as_ref().map_or(true, |s| *s == expected || s.ends_with("\t0")), "shown in part: {seen:?}");
    }
}

/// A number that a variable of the environment sets.
pub fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// The seed that a variable of the environment sets, or a new one. It is printed.
pub fn seed(name: &str) -> u64 {
    let now = || std::time::UNIX_EPOCH.elapsed().map_or(1, |d| d.as_nanos() as u64 % 1_000_000_000);
    let seed = variable(name).unwrap_or_else(now);
    eprintln!("{name}={seed}");
    seed
}

/// Ends a helper thread when a scenario ends, also when it panics: a scope waits for its threads.
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A pipeline between two URLs, small chunks, and a folder that goes with it.
pub struct Line {
    folder: tempfile::TempDir,
    name: String,
}

impl Line {
    /// A pipeline of this name; the process makes it unique.
    pub fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Line { folder, name: format!("{name}-{}", std::process::id()) }
    }

    /// The scenario's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The same pipeline under another name: a second one, with progress of its own.
    pub fn renamed(&self, name: &str) -> Self {
        Line::new(&format!("{}-{name}", self.name))
    }

    /// A command between these ends.
    pub fn command(&self, command: &str, from: &str, to: &str) -> Program {
        // Chunks small enough for many commits, commits often enough to be hit.
        let text = format!(
            "name = \"{}\"\n[source]\nurl = \"{from}\"\n[[target]]\nurl = \"{to}\"\ncommit_interval = \"{}\"\n\
             [limits]\nchunk_rows = 400\n",
            self.name,
            if to.starts_with("postgres") { "0s" } else { "100ms" },
        );
        let path = self.folder().join(format!("{command}.toml"));
        fs::write(&path, text).expect("cannot write the configuration");
        program().args([command, "--config", path.to_str().expect("UTF-8")])
    }

    /// Starts the daemon.
    pub fn start(&self, from: &str, to: &str) -> Running {
        self.command("run", from, to).start()
    }

    /// Copies what is missing, streams up to the source's present end, and compares: all equal.
    pub fn ends_equal(&self, from: &str, to: &str) -> usize {
        let ended = self.command("run", from, to).args(["--until-caught-up"]).start().wait(PATIENCE);
        assert!(ended.status.success(), "run ended with {}:\n{}", ended.status, ended.stderr);
        self.verify_equal(from, to)
    }

    /// Compares, and returns the number of tables, all of which must be equal.
    pub fn verify_equal(&self, from: &str, to: &str) -> usize {
        let ended = self.command("verify", from, to).args(["--json"]).start().wait(PATIENCE);
        let proof: Value =
            serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", ended.stdout, ended.stderr));
        assert_eq!(proof["verdict"], "equal", "{proof:#}");
        proof["tables"].as_array().expect("tables").len()
    }
}

/// The built binary; `CROSSFADE` names another, such as a release build.
pub fn program() -> Program {
    let built = || env!("CARGO_BIN_EXE_crossfade").into();
    Program::new(std::env::var_os("CROSSFADE").unwrap_or_else(built))
}

/// Ends a daemon that is well: it drains and says so.
pub fn stop(daemon: Running) -> Ended {
    daemon.signal("TERM");
    let ended = daemon.wait(PATIENCE);
    assert_eq!(ended.status.code(), Some(0), "SIGTERM drains: {}", ended.stderr);
    ended
}

/// Waits for something at a server.
pub fn wait(what: &str, mut until: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !until() {
        assert!(Instant::now() < end, "{what}: waited in vain");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A session of somebody else at a Postgres that holds locks until it is dropped.
pub struct Holder<'a> {
    database: &'a Database,
    mark: String,
}

impl<'a> Holder<'a> {
    /// Runs `lock` in a transaction that stays open.
    pub fn hold<'scope>(scope: &'scope thread::Scope<'scope, '_>, database: &'a Database, lock: &str) -> Self
    where
        'a: 'scope,
    {
        let mark = format!("holder of {lock}").replace('\'', "");
        let script = format!("begin; {lock}; select pg_sleep(600) /* {mark} */;");
        scope.spawn(move || database.try_sql(&script));
        let holder = Holder { database, mark };
        wait("the lock is held", || holder.sessions("count(*)") == "1");
        holder
    }

    fn sessions(&self, what: &str) -> String {
        self.database.sql(&format!(
            "select {what} from pg_stat_activity
             where query like 'select pg_sleep%{}%' and state = 'active' and pid <> pg_backend_pid()",
            self.mark
        ))
    }
}

impl Drop for Holder<'_> {
    fn drop(&mut self) {
        self.sessions("pg_terminate_backend(pid)");
    }
}
