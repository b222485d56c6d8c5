//! One server process: its folder, port, settings and life. What differs between databases is a [`Recipe`].
//!
//! Invariant: a shared server is never stopped, killed or restarted through this API, because other tests use it; a test that
//! wants that starts a private one.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::process as proc;
use crate::tools;

/// Longest start or stop that is waited for: two busy cores and a crash recovery fit into it.
const PATIENCE: Duration = Duration::from_secs(90);

/// Settings that differ from the harness's own, by the server's names (`wal_level`, `binlog_format`).
#[derive(Clone, Debug, Default)]
pub struct Options {
    changed: BTreeMap<String, Option<String>>,
}

impl Options {
    /// The harness's settings, unchanged.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets one setting. Dashes and underscores mean the same.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.changed.insert(normal(name), Some(value.to_string()));
        self
    }

    /// Leaves one of the harness's settings out; `unset("log_bin")` switches the binlog off.
    #[must_use]
    pub fn unset(mut self, name: &str) -> Self {
        self.changed.insert(normal(name), None);
        self
    }

    /// The harness's settings with the changes applied, names with underscores.
    pub(crate) fn over(&self, base: &[(&str, &str)]) -> BTreeMap<String, String> {
        let mut all: BTreeMap<String, String> = base.iter().map(|(k, v)| (normal(k), (*v).to_owned())).collect();
        for (name, value) in &self.changed {
            match value {
                Some(value) => all.insert(name.clone(), value.clone()),
                None => all.remove(name),
            };
        }
        all
    }
}

fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// How a server's process relates to the one that starts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Life {
    /// Ended by the kernel when this process ends, however it ends.
    WithThisProcess,
    /// Outlives this process; whoever made the test folder stops it.
    Detached,
}

/// What a server process is started with.
#[derive(Debug)]
pub(crate) struct Site {
    /// The server's own folder: data, socket, log.
    pub(crate) dir: PathBuf,
    /// TCP port on 127.0.0.1.
    pub(crate) port: u16,
    pub(crate) options: Options,
    pub(crate) life: Life,
}

impl Site {
    /// The data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The signal that the kernel is to send when this process ends.
    pub(crate) fn death(&self, recipe: &impl Recipe) -> Option<&'static str> {
        (self.life == Life::WithThisProcess).then(|| recipe.end_signal())
    }
}

/// What a kind of server needs: how its data folder is made, how it is started, when it is ready.
pub(crate) trait Recipe: Clone {
    /// Name of folders and records, such as `postgres15`.
    fn name(&self) -> String;
    /// Makes `site.data()`.
    fn prepare(&self, site: &Site);
    /// The command that runs the server in the foreground, its log on standard error or standard output.
    fn command(&self, site: &Site) -> Command;
    /// Whether it serves statements. Called often while it starts.
    fn is_ready(&self, site: &Site) -> bool;
    /// The signal that stops it cleanly without waiting for clients.
    fn stop_signal(&self) -> &'static str;
    /// The signal that ends it at once, whatever becomes of its data, and leaves nothing behind in the kernel.
    fn end_signal(&self) -> &'static str;
}

#[derive(Debug)]
enum Process {
    Mine(Child),
    /// Started by this or another process, used by many.
    Shared(u32),
    Down,
}

/// The record of a shared server in the test folder.
#[derive(Serialize, Deserialize)]
struct Record {
    port: u16,
    pid: u32,
    dir: PathBuf,
}

/// A server of one kind.
#[derive(Debug)]
pub(crate) struct Server<R: Recipe> {
    recipe: R,
    site: Site,
    process: Mutex<Process>,
}

impl<R: Recipe> Server<R> {
    /// Starts a private server.
    pub(crate) fn start(recipe: R, options: Options) -> Self {
        Self::launch(recipe, options, Life::WithThisProcess)
    }

    /// The server that all tests of this run share, started if no test has asked before.
    pub(crate) fn shared(recipe: R) -> Self {
        if env::var_os("CROSSFADE_TEST_DIR").is_none() {
            return Self::launch(recipe, Options::new(), Life::WithThisProcess);
        }
        let folder = tools::run_folder();
        let record_path = folder.join(format!("{}.json", recipe.name()));
        let lock_path = record_path.with_extension("lock");
        let lock = File::create(&lock_path).unwrap_or_else(|e| panic!("cannot create {}: {e}", lock_path.display()));
        lock.lock().expect("cannot lock the record of shared servers");
        if let Ok(text) = fs::read_to_string(&record_path) {
            return Self::attach(recipe, serde_json::from_str(&text).expect("a record of a shared server is damaged"));
        }
        let server = Self::launch(recipe, Options::new(), Life::Detached);
        let record = Record { port: server.site.port, pid: server.pid(), dir: server.site.dir.clone() };
        let text = serde_json::to_string(&record).expect("a record is plain data");
        fs::write(&record_path, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", record_path.display()));
        server
    }

    fn attach(recipe: R, record: Record) -> Self {
        let Record { port, pid, dir } = record;
        let site = Site { dir, port, options: Options::new(), life: Life::Detached };
        let server = Self { recipe, site, process: Mutex::new(Process::Shared(pid)) };
        assert!(proc::is_alive(pid), "the shared {} died:\n{}", server.recipe.name(), server.log_tail());
        server
    }

    fn launch(recipe: R, options: Options, life: Life) -> Self {
        let mut last = String::new();
        // The port was free a moment ago; somebody else may have taken it since.
        for _ in 0..4 {
            let site = Site { dir: new_folder(&recipe.name()), port: free_port(), options: options.clone(), life };
            recipe.prepare(&site);
            let server = Self { recipe: recipe.clone(), site, process: Mutex::new(Process::Down) };
            match server.run() {
                Ok(()) => return server,
                Err(log) if log.contains("ddress already in use") => last = log,
                Err(log) => panic!("{} did not start; its log ends:\n{log}", recipe.name()),
            }
        }
        panic!("{} found no free port; its log ends:\n{last}", recipe.name());
    }

    /// Starts the process and waits until it serves. The error is the tail of the log.
    fn run(&self) -> Result<(), String> {
        let log = File::options().create(true).append(true).open(self.site.dir.join("server.log"));
        let log = log.unwrap_or_else(|e| panic!("cannot open the server's log: {e}"));
        let mut command = self.recipe.command(&self.site);
        command.stderr(log.try_clone().expect("cannot clone a file handle")).stdout(log);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = proc::spawn(command).expect("cannot run setpriv, which belongs to util-linux");
        let pid = child.id();
        let mut ended = None;
        let ready = proc::wait_until(PATIENCE, || {
            ended = child.try_wait().expect("cannot wait for a child of this process");
            ended.is_some() || (self.accepts() && self.recipe.is_ready(&self.site))
        });
        if let Some(status) = ended {
            return Err(format!("{}\n(ended with {status})", self.log_tail()));
        }
        if !ready {
            bury(&mut child);
            return Err(format!("{}\n(not ready after {} s)", self.log_tail(), PATIENCE.as_secs()));
        }
        *self.process() = match self.site.life {
            Life::Detached => Process::Shared(pid),
            Life::WithThisProcess => Process::Mine(child),
        };
        Ok(())
    }

    fn accepts(&self) -> bool {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.site.port)).is_ok()
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the process out, to end it.
    fn take(&self, what: &str) -> Child {
        let mut process = self.process();
        match std::mem::replace(&mut *process, Process::Down) {
            Process::Mine(child) => child,
            Process::Shared(_) if self.site.life == Life::Detached => {
                panic!("a test may not {what} the shared {}: start a private one", self.recipe.name())
            }
            _ => panic!("cannot {what} {}: it is down", self.recipe.name()),
        }
    }

    /// Stops it cleanly and waits for its end.
    pub(crate) fn stop(&self) {
        let mut child = self.take("stop");
        proc::signal(child.id(), self.recipe.stop_signal());
        let stopped = proc::wait_until(PATIENCE, || child.try_wait().is_ok_and(|status| status.is_some()));
        if !stopped {
            bury(&mut child);
            panic!("{} did not stop; its log ends:\n{}", self.recipe.name(), self.log_tail());
        }
    }

    /// SIGKILL, and waits until nothing of it is left.
    pub(crate) fn kill(&self) {
        bury(&mut self.take("kill"));
    }

    /// Starts it again on the same port and data; stops it first when it runs.
    pub(crate) fn restart(&self) {
        if !matches!(*self.process(), Process::Down) {
            self.stop();
        }
        self.run().unwrap_or_else(|log| panic!("{} did not start again:\n{log}", self.recipe.name()));
    }

    /// Like [`restart`](Self::restart), with other settings from now on.
    pub(crate) fn restart_with(&mut self, options: Options) {
        if !matches!(*self.process(), Process::Down) {
            self.stop();
        }
        self.site.options = options;
        self.restart();
    }

    pub(crate) fn recipe(&self) -> &R {
        &self.recipe
    }

    pub(crate) fn site(&self) -> &Site {
        &self.site
    }

    /// The server's process id.
    pub(crate) fn pid(&self) -> u32 {
        match &*self.process() {
            Process::Mine(child) => child.id(),
            Process::Shared(pid) => *pid,
            Process::Down => panic!("{} is down", self.recipe.name()),
        }
    }

    /// The last 40 lines of the server's log.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read(self.site.dir.join("server.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl<R: Recipe> Drop for Server<R> {
    fn drop(&mut self) {
        if self.site.life == Life::Detached {
            return;
        }
        if let Process::Mine(child) = &mut *self.process() {
            proc::signal(child.id(), self.recipe.end_signal());
            proc::wait_until(Duration::from_secs(5), || child.try_wait().is_ok_and(|status| status.is_some()));
            bury(child);
        }
        // A file that a dying worker still writes can make this fail: the folder goes with the run's folder then.
        let _ = fs::remove_dir_all(&self.site.dir);
    }
}

/// Kills a server and its workers, and waits until all of them are gone.
fn bury(child: &mut Child) {
    let workers = proc::children(child.id());
    // Both fail only for a child that has already been waited for.
    let _ = child.kill();
    let _ = child.wait();
    for worker in &workers {
        proc::signal(*worker, "KILL");
    }
    proc::wait_until(PATIENCE, || !workers.iter().any(|&worker| proc::is_alive(worker)));
}

/// A new folder that other users may enter; its path is short, because a Unix socket's path holds 107 bytes.
fn new_folder(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = tools::run_folder().join(format!("{name}-{}-{number}", process::id()));
    tools::make_dir(&folder);
    open_to_all(folder.parent().expect("it was joined to a folder"));
    open_to_all(&folder);
    folder
}

/// Lets other users read the folder: a server that refuses root runs as another user.
pub(crate) fn open_to_all(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
        .unwrap_or_else(|e| panic!("cannot open {} to other users: {e}", folder.display()));
}

/// A port nobody listens on. It lies below the range from which the kernel takes ports of outgoing connections, so that a server
/// that restarts finds its port free.
fn free_port() -> u16 {
    static TURN: AtomicU32 = AtomicU32::new(0);
    loop {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
        let turn = TURN.fetch_add(1, Ordering::Relaxed);
        let mixed = (now ^ process::id().rotate_left(16)).wrapping_add(turn).wrapping_mul(0x9E37_79B1) >> 8;
        let port = 16_000 + u16::try_from(mixed % 16_000).expect("a remainder of 16000 fits");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// A name that no other test uses: the prefix, this process, a counter and the time.
pub(crate) fn unique(prefix: &str, separator: char) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.subsec_micros());
    format!("{prefix}{separator}{}{separator}{number}{separator}{now}", process::id())
}

/// The part of the public interface that every kind of server has.
macro_rules! lifecycle {
    ($server:ty) => {
        impl $server {
            /// TCP port on 127.0.0.1.
            pub fn port(&self) -> u16 {
                self.server.site().port
            }

            /// The data folder.
            pub fn data(&self) -> std::path::PathBuf {
                self.server.site().data()
            }

            /// The server's process id.
            pub fn pid(&self) -> u32 {
                self.server.pid()
            }

            /// Stops a private server cleanly and waits for its end.
            pub fn stop(&self) {
                self.server.stop();
            }

            /// Kills a private server (SIGKILL) and waits until nothing of it is left.
            pub fn kill(&self) {
                self.server.kill();
            }

            /// Starts a private server again, on the same port and data; stops it first when it runs.
            pub fn restart(&self) {
                self.server.restart();
            }

            /// Like [`restart`](Self::restart), with other settings from now on.
            pub fn restart_with(&mut self, options: $crate::Options) {
                self.server.restart_with(options);
            }

            /// The last 40 lines of the server's log.
            pub fn log_tail(&self) -> String {
                self.server.log_tail()
            }
        }
    };
}
pub(crate) use lifecycle;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_override_and_remove_whatever_the_spelling() {
        let options = Options::new().set("binlog-format", "STATEMENT").unset("log_bin");
        let all = options.over(&[("binlog_format", "ROW"), ("log-bin", "binlog"), ("server-id", "1")]);
        let expected = [("binlog_format", "STATEMENT"), ("server_id", "1")];
        assert_eq!(all, expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
    }

    #[test]
    fn unique_names_differ() {
        assert_ne!(unique("a", '_'), unique("a", '_'));
    }
}
