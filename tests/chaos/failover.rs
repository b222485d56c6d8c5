//! A MySQL or MariaDB source whose replica takes its place: the pipeline goes on by GTID where nothing is missing, and stops
//! where something is. (A Postgres source: `tests/e2e/postgres_failover.rs`.)

use crossfade_harness::{Database, MariaDb, MySql, MySqlServer, Options, PgVersion, Postgres, Proxy};

use crate::stage::{Bank, Line, PATIENCE, stop, wait};

/// A primary, its replica, a name that leads to the primary, and a target.
struct Group {
    primary: MySqlServer,
    replica: MySqlServer,
    proxy: Proxy,
    target: Database,
    line: Line,
}

impl Group {
    fn new(start: impl Fn(Options) -> MySqlServer) -> (Group, Bank) {
        let (primary, replica) = (start(Options::new()), start(Options::new()));
        replica.follow(&primary);
        let bank = Bank::on(&primary);
        let proxy = Proxy::before(primary.port());
        let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
        (Group { primary, replica, proxy, target, line: Line::new("failover") }, bank)
    }

    /// The primary is gone; the replica takes its place and its name.
    fn fail_over(&self, bank: Bank) -> Bank {
        self.primary.kill();
        self.replica.promote();
        self.proxy.redirect(self.replica.port());
        bank.moved(&self.replica)
    }

    /// Runs on the replica, in the bank's database.
    fn on_replica(&self, bank: &Bank, sql: &str) -> Result<String, String> {
        self.replica.try_sql(bank.schema(), sql)
    }
}

/// Nothing is missing: the daemon goes on at the new primary by itself, and so does the next one.
fn goes_on(start: impl Fn(Options) -> MySqlServer) {
    let (group, bank) = Group::new(start);
    let (from, to) = (group.proxy.through(&bank.url()), group.target.url());
    let mut daemon = group.line.start(&from, &to);
    bank.in_use(|| {
        daemon.wait_for("complete, streaming", PATIENCE);
        bank.flows(&group.target);
    });
    group.replica.level(&group.primary);
    let bank = group.fail_over(bank);
    bank.watched(&group.target, || {
        bank.in_use(|| {
            bank.flows(&group.target);
            stop(daemon);
            let mut daemon = group.line.start(&from, &to);
            daemon.wait_for("starting", PATIENCE);
            bank.flows(&group.target);
            stop(daemon);
        });
        assert_eq!(group.line.ends_equal(&from, &to), 2);
    });
}

#[test]
fn a_replica_takes_the_place_of_the_source_mariadb() {
    goes_on(MariaDb::start);
}

#[test]
fn a_replica_takes_the_place_of_the_source_mysql() {
    goes_on(MySql::start);
}

/// The run is refused with these words, and touches nothing; a pipeline of another name copies anew.
fn refused(group: &Group, bank: &Bank, from: &str, words: &[&str]) {
    let (to, seen) = (group.target.url(), "select position, seq from crossfade.checkpoint");
    let before = group.target.sql(seen);
    let ended = group.line.command("run", from, &to).args(["--until-caught-up"]).start().wait(PATIENCE);
    assert_eq!(ended.status.code(), Some(69), "{}", ended.stderr);
    for word in words.iter().chain(&["another --name"]) {
        assert!(ended.stderr.contains(word), "{word:?} is missing: {}", ended.stderr);
    }
    assert_eq!(group.target.sql(seen), before, "nothing was touched");
    group.target.sql(&format!("drop schema {} cascade", bank.schema()));
    assert_eq!(group.line.renamed("again").ends_equal(from, &to), 2);
}

/// The replica lacks what the target holds.
fn behind(start: impl Fn(Options) -> MySqlServer, halt: &str, words: &[&str]) {
    let (group, bank) = Group::new(start);
    let (from, to) = (group.proxy.through(&bank.url()), group.target.url());
    bank.transact(20);
    assert_eq!(group.line.ends_equal(&from, &to), 2);
    group.replica.level(&group.primary);
    group.on_replica(&bank, halt).expect("the replica stops");
    bank.transact(20);
    assert_eq!(group.line.ends_equal(&from, &to), 2);
    let bank = group.fail_over(bank);
    bank.transact(20);
    refused(&group, &bank, &from, words);
}

#[test]
fn a_replica_that_lacks_transactions_is_refused_mariadb() {
    behind(MariaDb::start, "stop slave", &["does not know this position"]);
}

#[test]
fn a_replica_that_lacks_transactions_is_refused_mysql() {
    behind(MySql::start, "stop replica", &["transactions that this server does not have"]);
}

/// The replica had a transaction of its own before it was promoted. MySQL goes on replicating then, and the row that both have
/// changed is the primary's; MariaDB (`gtid_strict_mode`) stops, and so lacks what came afterwards.
#[test]
fn a_replica_with_a_transaction_of_its_own_is_refused_mysql() {
    let (group, bank) = Group::new(MySql::start);
    let (from, to) = (group.proxy.through(&bank.url()), group.target.url());
    bank.transact(20);
    group.replica.level(&group.primary);
    group.on_replica(&bank, "update account set owner = 'errant' where id = 7").expect("it takes writes");
    bank.database().sql("update account set owner = 'primary' where id = 7");
    bank.transact(20);
    assert_eq!(group.line.ends_equal(&from, &to), 2);
    wait("the replica is level", || {
        group.on_replica(&bank, "select owner from account where id = 7").as_deref() == Ok("primary")
            && group.on_replica(&bank, "select max(id) from entry")
                == bank.database().try_sql("select max(id) from entry")
    });
    let bank = group.fail_over(bank);
    bank.transact(20);
    refused(&group, &bank, &from, &["before others that the target holds", "errant transaction"]);
}

#[test]
fn a_replica_with_a_transaction_of_its_own_is_refused_mariadb() {
    let (group, bank) = Group::new(MariaDb::start);
    let (from, to) = (group.proxy.through(&bank.url()), group.target.url());
    bank.transact(20);
    group.replica.level(&group.primary);
    group.on_replica(&bank, "update account set owner = 'errant' where id = 7").expect("it takes writes");
    bank.transact(20);
    assert_eq!(group.line.ends_equal(&from, &to), 2);
    wait("the replica has stopped", || {
        let status =
            "select variable_value from information_schema.global_status where variable_name = 'slave_running'";
        group.on_replica(&bank, status).as_deref() == Ok("OFF")
    });
    let bank = group.fail_over(bank);
    bank.transact(20);
    refused(&group, &bank, &from, &["does not know this position"]);
}
