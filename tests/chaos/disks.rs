//! No room is left where the target stores its data. Root mounts small file systems for it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crossfade_harness::{MariaDb, PgVersion, Postgres};

use crate::stage::{Bank, Line, PATIENCE, stop, wait};

/// A small file system in memory, unmounted at its end.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&at).expect("a folder to mount at");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size},mode=777"), "tmpfs"]).arg(&at);
        assert!(mount.status().expect("mount").success(), "a small file system needs root (or CAP_SYS_ADMIN)");
        Disk(at)
    }

    fn grow(&self, size: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,size={size}")]).arg(&self.0);
        assert!(mount.status().expect("mount").success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a server that is about to end may still have files open there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn no_room_at_postgres() {
    let bank = Bank::on(MariaDb::shared());
    let server = Postgres::shared(PgVersion::V15);
    let line = Line::new("full");
    let disk = Disk::mount(Path::new("/tmp").join(format!("crossfade-disk-{}", std::process::id())), "64m");
    let space = format!("small_{}", std::process::id());
    let place = disk.0.join("space");
    std::fs::create_dir(&place).expect("a folder");
    assert!(Command::new("chown").args(["postgres", text(&place)]).status().expect("chown").success());
    server.sql("postgres", &format!("create tablespace {space} location '{}'", text(&place)));
    let target = server.fresh_database("dst");
    server.sql("postgres", &format!("alter database {} set tablespace {space}", target.name()));
    let (from, to) = (bank.url(), target.url());
    let used = Command::new("du").args(["-sk", text(&disk.0)]).output().expect("du").stdout;
    let used: u64 = String::from_utf8_lossy(&used).split('\t').next().and_then(|n| n.parse().ok()).expect("a size");
    disk.grow(&format!("{}k", used + 500));
    bank.in_use(|| {
        let mut daemon = line.start(&from, &to);
        daemon.wait_for("disk full", PATIENCE);
        disk.grow("400m");
        daemon.wait_for("complete, streaming", PATIENCE);
        stop(daemon);
    });
    assert_eq!(line.ends_equal(&from, &to), 2);
    server.sql("postgres", &format!("drop database {} with (force)", target.name()));
    server.sql("postgres", &format!("drop tablespace {space}"));
}

#[test]
fn no_room_in_the_folder() {
    let line = Line::new("folder");
    let bank = Bank::file(line.folder());
    let disk = Disk::mount(line.folder().join("disk"), "48k");
    let (from, to) = (bank.url(), format!("file://{}/lake", text(&disk.0)));
    bank.in_use(|| {
        let mut daemon = line.start(&from, &to);
        let mut said = String::new();
        wait("it says that there is no room", || {
            said = daemon.stderr();
            said.to_lowercase().contains("no space") || said.contains("full")
        });
        assert!(said.contains("hint"), "{said}");
        disk.grow("200m");
        daemon.wait_for("complete, streaming", PATIENCE);
        stop(daemon);
    });
    assert_eq!(line.ends_equal(&from, &to), 2);
}

/// A transaction of a Postgres source waits for its commit where there is too little room, and later is enough.
#[test]
fn no_room_for_an_open_transaction() {
    let line = Line::new("spool");
    let source = Postgres::shared(PgVersion::V18).fresh_database("src");
    source.sql("create table t (id int primary key, s text)");
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let disk = Disk::mount(line.folder().join("disk"), "4m");
    let (from, to) = (format!("{}?spool_dir={}", source.url(), text(&disk.0)), target.url());
    let mut daemon = line.start(&from, &to);
    daemon.wait_for("complete, streaming", PATIENCE);
    // More than the server keeps in memory (64 MB), and than memory and disk hold here.
    source.sql(
        "insert into t select i, repeat('x', 1000) from generate_series(1, 120000) i; insert into t values (0, 'y')",
    );
    daemon.wait_for("wait for their commit", PATIENCE);
    let said = daemon.stderr();
    assert!(said.contains("spool_dir") && said.contains("streaming=off"), "{said}");
    disk.grow("400m");
    wait("the transaction arrives", || target.sql("select count(*) from public.t") == "120001");
    stop(daemon);
    assert_eq!(line.ends_equal(&from, &to), 1);
}
