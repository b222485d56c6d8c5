//! Starting, signalling and burying server processes, without a line of unsafe code.
//!
//! The kernel sends the parent-death signal when the *thread* that spawned a child ends, not when its process does, and test
//! threads end early. So one thread that never ends spawns every child. Signals go through the shell's own `kill`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

type Job = (Command, Sender<io::Result<Child>>);

static SPAWNER: LazyLock<Mutex<Sender<Job>>> = LazyLock::new(|| {
    let (jobs, inbox) = channel::<Job>();
    thread::Builder::new()
        .name("spawner".into())
        .spawn(move || {
            for (mut command, reply) in inbox {
                // The asker waits for the answer, so it is there to receive it.
                let _ = reply.send(command.spawn());
            }
        })
        .expect("cannot start the spawner thread");
    Mutex::new(jobs)
});

/// Spawns `command` from the thread that lives as long as the process.
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    let (reply, answer) = channel();
    SPAWNER
        .lock()
        .expect("the spawner's lock is never held across a panic")
        .send((command, reply))
        .expect("the spawner thread never ends");
    answer.recv().expect("the spawner thread answers every job")
}

/// A command that runs `program` without input. With `death` the kernel sends it that signal when this process ends, however it
/// ends. `user` is whom it runs as when this process is root (Postgres refuses root).
pub(crate) fn command(program: &Path, death: Option<&str>, user: Option<&str>) -> Command {
    let mut setpriv = Command::new("setpriv");
    if let Some(signal) = death {
        setpriv.args(["--pdeathsig", signal]);
    }
    if let Some(user) = user.filter(|_| is_root()) {
        setpriv.arg(format!("--reuid={user}")).arg(format!("--regid={user}")).arg("--clear-groups");
    }
    setpriv.arg("--").arg(program).stdin(Stdio::null());
    setpriv
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// Numeric user and group of a named user, from the passwd file.
pub(crate) fn ids_of(user: &str) -> (u32, u32) {
    let passwd = fs::read_to_string("/etc/passwd").expect("cannot read /etc/passwd");
    passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&user))
        .and_then(|fields| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))
        .unwrap_or_else(|| panic!("user {user} does not exist: `tests/run` installs the package that creates it"))
}

/// Sends a signal (`TERM`, `INT`, `KILL`, `STOP`, `CONT`) to a process. False when there is no such process.
pub(crate) fn signal(pid: u32, name: &str) -> bool {
    Command::new("sh")
        .args(["-c", &format!("kill -{name} {pid}")])
        .stderr(Stdio::null())
        .status()
        .expect("cannot run sh")
        .success()
}

/// Whether a process exists and is not a zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// Processes whose parent is `pid`: Postgres' workers outlive a killed postmaster for a moment.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&child| stat(child).is_some_and(|(_, parent)| parent == pid))
        .collect()
}

/// State letter and parent of a process, see proc_pid_stat(5). The name in parentheses may itself hold parentheses.
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Polls `ready` every 20 ms until it is true or the time is over. Returns whether it became true.
pub(crate) fn wait_until(limit: Duration, mut ready: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if ready() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let mut child = thread::spawn(|| {
            let mut sleep = command(Path::new("/bin/sleep"), Some("KILL"), None);
            sleep.arg("60");
            spawn(sleep).expect("cannot spawn sleep")
        })
        .join()
        .expect("the asking thread failed");
        thread::sleep(Duration::from_millis(200));
        assert!(is_alive(child.id()), "the parent-death signal followed a thread, not the process");
        assert!(children(std::process::id()).contains(&child.id()));
        assert!(signal(child.id(), "TERM"));
        child.wait().expect("cannot wait for sleep");
        assert!(!is_alive(child.id()));
    }
}
