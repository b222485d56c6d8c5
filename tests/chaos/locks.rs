//! Somebody else's locks and time limits at the target, and a reader that must wait while the source writes on.

use std::thread;
use std::time::Duration;

use crossfade_harness::{MariaDb, MySql, PgVersion, Postgres};

use crate::stage::{Bank, Holder, Line, PATIENCE, stop, wait};

#[test]
fn a_table_of_the_target_is_locked_for_long_while_the_source_writes_on() {
    let bank = Bank::on(MySql::shared());
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let (line, from, to) = (Line::new("locked"), bank.url(), target.url());
    let lock = format!("lock table {}.account in access exclusive mode", bank.schema());
    let waiting =
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    bank.in_use(|| {
        let mut daemon = line.start(&from, &to);
        daemon.wait_for("complete, streaming", PATIENCE);
        thread::scope(|scope| {
            let holder = Holder::hold(scope, &target, &lock);
            wait("the stream waits", || target.sql(waiting) != "0");
            (0..10).for_each(|_| assert!(bank.transact(400)));
            thread::sleep(Duration::from_secs(4));
            drop(holder);
        });
        stop(daemon);
    });
    assert_eq!(line.ends_equal(&from, &to), 2);
}

#[test]
fn time_limits_of_the_target_database_do_not_stop_it() {
    let bank = Bank::on(MariaDb::shared());
    let target = Postgres::shared(PgVersion::V18).fresh_database("dst");
    target.sql(&format!(
        "alter database {0} set statement_timeout = '50ms'; alter database {0} set lock_timeout = '50ms';
         alter database {0} set idle_in_transaction_session_timeout = '50ms';
         alter database {0} set transaction_timeout = '50ms'; alter database {0} set idle_session_timeout = '50ms'",
        target.name()
    ));
    let (line, from, to) = (Line::new("limits"), bank.url(), target.url());
    bank.in_use(|| {
        let mut daemon = line.start(&from, &to);
        daemon.wait_for("complete, streaming", PATIENCE);
        thread::sleep(Duration::from_millis(500));
        stop(daemon);
    });
    assert_eq!(line.ends_equal(&from, &to), 2);
}
