//! A daemon as systemd has it: what it says on the notify socket, its watchdog, reload and stop. The socket is a real one; the
//! test stands on its other end.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crossfade_harness::{Running, python};

use crate::common::{PATIENCE, code, folder, program};

/// A pipeline from a small SQLite database into a folder, by a configuration that can be changed.
pub struct Place {
    _kept: tempfile::TempDir,
    pub folder: PathBuf,
    name: String,
}

impl Place {
    pub fn new(name: &str) -> Place {
        let (kept, folder) = folder();
        let place = Place { _kept: kept, folder, name: format!("{name}-{}", std::process::id()) };
        place.sql(
            "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO item VALUES (1, 'one'), (2, 'two');",
        );
        place
    }

    /// By a stock SQLite.
    pub fn sql(&self, script: &str) {
        let code = "import sqlite3, sys\n\
                    c = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)\n\
                    c.executescript(sys.argv[2])\n";
        python(code, &[self.path("shop.db").to_str().expect("UTF-8"), script]);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes the configuration; `more` are further sections.
    pub fn configure(&self, more: &str) -> PathBuf {
        self.configure_to(&format!("file://{}/lake", self.folder.display()), more)
    }

    /// The same, to another target.
    pub fn configure_to(&self, target: &str, more: &str) -> PathBuf {
        let (path, at) = (self.path("pipeline.toml"), self.folder.display());
        let text = format!(
            "name = \"{}\"\n[[target]]\nurl = \"{target}\"\ncommit_interval = \"0s\"\n[source]\nurl = \"sqlite://{at}/shop.db\"\n{more}\n",
            self.name
        );
        std::fs::write(&path, text).expect("writing the configuration");
        path
    }

    pub fn command(&self, command: &str, more: &[&str]) -> crossfade_harness::Program {
        let config = self.path("pipeline.toml");
        program().args([command, "--config", config.to_str().expect("UTF-8")]).args(more)
    }
}

/// The supervisor's end of the socket.
struct Supervisor {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Supervisor {
    fn new(folder: &Path) -> Supervisor {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
        Supervisor { socket, path }
    }

    fn start(&self, place: &Place, watchdog: &str, more: &[&str]) -> Running {
        let socket = self.path.to_str().expect("UTF-8");
        place.command("run", more).env("NOTIFY_SOCKET", socket).env("WATCHDOG_USEC", watchdog).start()
    }

    /// The next message.
    fn next(&self) -> String {
        let mut bytes = [0; 4096];
        let n = self.socket.recv(&mut bytes).expect("the daemon says no more");
        String::from_utf8(bytes[..n].to_vec()).expect("UTF-8")
    }

    /// Reads up to a message that holds this line, or begins one with it; returns it.
    fn wait_for(&self, line: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let message = self.next();
            if message.lines().any(|l| l.starts_with(line)) {
                return message;
            }
            assert!(Instant::now() < end, "no {line}");
        }
    }
}

#[test]
fn systemd_hears_ready_status_watchdog_reload_and_stop() {
    let place = Place::new("told");
    place.configure("");
    let supervisor = Supervisor::new(&place.folder);
    let mut daemon = supervisor.start(&place, "10000000", &[]);
    supervisor.wait_for("READY=1");
    supervisor.wait_for("STATUS=streaming: caught up");
    supervisor.wait_for("WATCHDOG=1");

    // What can be changed is, and what cannot is named.
    place.configure("exclude = [\"x*\"]\n[limits]\ncopy_rate = \"20MiB\"\nmemory = \"96MiB\"");
    daemon.signal("HUP");
    let reloading = supervisor.wait_for("RELOADING=1");
    let stamp = reloading.lines().find_map(|l| l.strip_prefix("MONOTONIC_USEC=")).expect("a moment");
    assert!(stamp.parse::<u64>().expect("microseconds") > 0);
    supervisor.wait_for("READY=1");
    daemon.wait_for("\"changed\":\"limits.copy_rate\"", PATIENCE);
    daemon.wait_for("\"keys\":\"limits.memory, source.exclude\"", PATIENCE);

    // From here on only errors are logged, and so not this reload.
    place.configure("[service]\nlog = \"error\"");
    daemon.signal("HUP");
    supervisor.wait_for("RELOADING=1");
    supervisor.wait_for("READY=1");
    assert_eq!(daemon.stderr().matches("the configuration is reloaded").count(), 1, "{}", daemon.stderr());

    // A mistake changes nothing and stops nothing.
    place.configure("tabels = []");
    daemon.signal("HUP");
    supervisor.wait_for("RELOADING=1");
    supervisor.wait_for("READY=1");
    daemon.wait_for("unknown key tabels, did you mean tables?", PATIENCE);
    daemon.wait_for("nothing has changed", PATIENCE);
    place.configure("");
    place.sql("INSERT INTO item VALUES (3, 'three')");
    let caught_up = place.command("catch-up", &[]).start().wait(PATIENCE);
    assert_eq!(code(&caught_up), 0, "{}", caught_up.stderr);

    daemon.signal("TERM");
    supervisor.wait_for("STOPPING=1");
    let ended = daemon.wait(PATIENCE);
    assert_eq!(code(&ended), 0, "{}", ended.stderr);
}

#[test]
fn the_log_level_of_the_command_line_goes_before_the_configuration() {
    let place = Place::new("level");
    place.configure("[service]\nlog = \"error\"");
    let supervisor = Supervisor::new(&place.folder);
    let mut daemon = supervisor.start(&place, "10000000", &["--log", "info"]);
    supervisor.wait_for("STATUS=streaming");
    daemon.wait_for("initial copy complete", PATIENCE);
    daemon.signal("HUP");
    daemon.wait_for("the configuration is reloaded", PATIENCE);
    daemon.signal("TERM");
    let ended = daemon.wait(PATIENCE);
    assert_eq!(code(&ended), 0, "{}", ended.stderr);
}

/// Stops one thread of a process, as a deadlock would, until a file appears.
const FREEZE: &str = r#"
import ctypes, os, sys, time
pid, name, thaw = int(sys.argv[1]), sys.argv[2], sys.argv[3]
tids = [int(t) for t in os.listdir(f'/proc/{pid}/task') if open(f'/proc/{pid}/task/{t}/comm').read().strip() == name]
assert len(tids) == 1, (name, tids)
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
SEIZE, INTERRUPT = 0x4206, 0x4207
for request in (SEIZE, INTERRUPT):
    if libc.ptrace(request, tids[0], None, None) != 0:
        raise OSError(ctypes.get_errno(), 'ptrace')
os.waitpid(tids[0], 0x40000000)  # __WALL
open(thaw + '.frozen', 'w').close()
while not os.path.exists(thaw):
    time.sleep(0.01)
"#;

/// The watchdog is fed because the pipeline goes on, not because a timer does: with one thread stopped the process still talks, but
/// no longer feeds it, and systemd would start it anew. A thread that waits on purpose does not count as stopped.
#[test]
fn one_thread_that_hangs_starves_the_watchdog() {
    let place = Place::new("hung");
    place.configure("[http]\nlisten = \"127.0.0.1:0\"");
    let supervisor = Supervisor::new(&place.folder);
    let mut daemon = supervisor.start(&place, "4000000", &[]);
    supervisor.wait_for("STATUS=streaming");
    for thread in ["target-0", "source", "transform"] {
        let thaw = place.path(&format!("thaw-{thread}"));
        let pid = daemon.pid().to_string();
        thread::scope(|scope| {
            scope.spawn(|| python(FREEZE, &[&pid, thread, thaw.to_str().expect("UTF-8")]));
            daemon.wait_for(&format!("the thread {thread} has given no sign of life"), PATIENCE);
            // What was said before is read; then the status goes on, alone.
            supervisor.wait_for(&format!("STATUS=streaming: caught up; the thread {thread} has given no sign"));
            for _ in 0..3 {
                let message = supervisor.wait_for("");
                assert!(!message.contains("WATCHDOG=1"), "{thread}: {message}");
            }
            std::fs::write(&thaw, "").expect("a file");
        });
        supervisor.wait_for("WATCHDOG=1");
    }
    daemon.signal("TERM");
    let ended = daemon.wait(Duration::from_secs(60));
    assert_eq!(code(&ended), 0, "{}", ended.stderr);
}

#[test]
fn a_daemon_that_is_killed_goes_on_when_it_is_started_again() {
    let place = Place::new("again");
    place.configure("");
    let supervisor = Supervisor::new(&place.folder);
    for round in 0..3 {
        let daemon = supervisor.start(&place, "10000000", &[]);
        supervisor.wait_for("READY=1");
        place.sql(&format!("INSERT INTO item VALUES (10 + {round}, 'more')"));
        supervisor.wait_for("STATUS=streaming");
        daemon.kill();
    }
    let ended = place.command("catch-up", &[]).start().wait(PATIENCE);
    assert_eq!(code(&ended), 0, "{}", ended.stderr);
    let proof = place.command("verify", &[]).start().wait(PATIENCE);
    assert_eq!(code(&proof), 0, "{}{}", proof.stdout, proof.stderr);
}

#[test]
fn who_asks_the_daemon_needs_no_password() {
    let place = Place::new("asked");
    let path = place.configure("password_env = \"SHOP_PASSWORD\"");
    let mut daemon = place.command("run", &[]).env("SHOP_PASSWORD", "secret").start();
    daemon.wait_for("initial copy complete", PATIENCE);
    for command in [&["verify"][..], &["sample"], &["repair"], &["snapshot", "item"]] {
        let asked = place.command(command[0], &command[1..]).start().wait(PATIENCE);
        assert_eq!(code(&asked), 0, "{command:?}: {}", asked.stderr);
    }
    daemon.signal("TERM");
    assert_eq!(code(&daemon.wait(PATIENCE)), 0);
    // Nobody answers, and so the command would have to connect itself.
    let alone = place.command("verify", &[]).start().wait(PATIENCE);
    assert_eq!(code(&alone), 78, "{}", alone.stderr);
    assert!(
        alone.stderr.contains("the environment variable SHOP_PASSWORD (password_env) is not set"),
        "{}",
        alone.stderr
    );
    // A name that is none is refused with all else that is wrong.
    std::fs::write(&path, "name = \"no name\"\nsorce = 1\n").expect("writing the configuration");
    let wrong = place.command("verify", &[]).start().wait(PATIENCE);
    assert_eq!(code(&wrong), 78, "{}", wrong.stderr);
    assert!(wrong.stderr.contains("unknown key sorce"), "{}", wrong.stderr);
}
