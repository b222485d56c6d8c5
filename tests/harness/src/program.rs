//! Running a built program and ending it the hard way.
//!
//! A crash test starts the program, lets it work for a moment that a seed chooses, kills it, starts it again, and compares
//! what is there at the end.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{process, thread};

use crate::process as proc;
use crate::tools;

/// A wall clock of some programs, which can be set while they run. How time passes stays as it is.
#[derive(Debug)]
pub struct Clock(PathBuf);

impl Clock {
    /// A clock that is right.
    pub fn new(folder: &Path) -> Self {
        let clock = Clock(folder.join("clock"));
        clock.set("+0");
        clock
    }

    /// Sets it off by so much: `-2h`, `+3d`.
    pub fn set(&self, offset: &str) {
        // Renamed into place: whoever asks reads all of it.
        let new = tools::beside(&self.0, "new");
        fs::write(&new, format!("{offset}\n")).and_then(|()| fs::rename(&new, &self.0)).expect("cannot set a clock");
    }

    /// The library of Debian's `faketime`, which answers in the place of the kernel.
    fn library() -> PathBuf {
        let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        let mut libraries = folders.map(|f| f.path().join("faketime/libfaketime.so.1"));
        libraries
            .find(|l| l.exists())
            .expect("libfaketime is missing: run `tests/run` once, it installs what the tests need")
    }
}

/// A program with its arguments and environment, to be started any number of times.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Program {
    /// A program by path: `env!("CARGO_BIN_EXE_crossfade")` in a test of the package that builds it.
    pub fn new(path: impl AsRef<Path>) -> Self {
        // What it keeps from run to run goes with this one.
        let state = tools::run_folder().join("state").to_str().expect("UTF-8").to_owned();
        let env = vec![("XDG_STATE_HOME".to_owned(), state)];
        Self { path: path.as_ref().to_path_buf(), args: Vec::new(), env }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_str().expect("arguments are UTF-8").to_owned()));
        self
    }

    /// Adds a variable to the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Gives it a wall clock of its own.
    #[must_use]
    pub fn clock(self, clock: &Clock) -> Self {
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        self.env("LD_PRELOAD", &text(&Clock::library()))
            .env("FAKETIME_TIMESTAMP_FILE", &text(&clock.0))
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }

    /// Starts it; it dies with this process. Its output goes to files of the run's folder.
    pub fn start(&self) -> Running {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let stem = tools::run_folder().join(format!("program-{}-{number}", process::id()));
        let (stdout, stderr) = (tools::beside(&stem, "out"), tools::beside(&stem, "err"));
        let create =
            |path: &Path| File::create(path).unwrap_or_else(|e| panic!("cannot create {}: {e}", path.display()));
        let mut command = proc::command(&self.path, Some("KILL"), None);
        command.args(&self.args).envs(self.env.iter().map(|(k, v)| (k, v)));
        command.stdout(create(&stdout)).stderr(create(&stderr));
        let child = proc::spawn(command).expect("cannot run setpriv, which belongs to util-linux");
        Running { child, stdout, stderr }
    }
}

/// A started program; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// How a program ended, and all that it wrote.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status, or the signal that ended it.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Running {
    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Sends a signal by name: `TERM`, `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        assert!(proc::signal(self.pid(), name), "the program has ended:\n{}", self.stderr());
    }

    /// Waits for `needle` in its output (either stream).
    ///
    /// # Panics
    /// When the program ends or the time is over before that.
    pub fn wait_for(&mut self, needle: &str, limit: Duration) {
        let end = Instant::now() + limit;
        loop {
            let ended = self.child.try_wait().expect("cannot wait for a child of this process");
            let (stdout, stderr) = (self.stdout(), self.stderr());
            if stdout.contains(needle) || stderr.contains(needle) {
                return;
            }
            assert!(ended.is_none(), "the program ended before it wrote {needle:?}:\n{stdout}{stderr}");
            assert!(Instant::now() < end, "no {needle:?} within {limit:?}:\n{stdout}{stderr}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it has not ended in time.
    pub fn wait(mut self, limit: Duration) -> Ended {
        let mut status = None;
        proc::wait_until(limit, || {
            status = self.child.try_wait().expect("cannot wait for a child of this process");
            status.is_some()
        });
        let (stdout, stderr) = (self.stdout(), self.stderr());
        let status = status.unwrap_or_else(|| panic!("the program did not end within {limit:?}:\n{stdout}{stderr}"));
        Ended { status, stdout, stderr }
    }

    /// SIGKILL, now.
    pub fn kill(mut self) -> Ended {
        // Fails only when it has ended by itself, which the status tells.
        let _ = self.child.kill();
        self.wait(Duration::from_secs(30))
    }

    /// Lets it run for a time below `limit` that follows from `seed`, then SIGKILL. The same seed waits the same time.
    pub fn kill_within(self, limit: Duration, seed: u64) -> Ended {
        thread::sleep(limit.mul_f64(fraction(seed)));
        self.kill()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a child that has already been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A number in [0, 1) from a seed: the SplitMix64 finaliser.
fn fraction(seed: u64) -> f64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    f64::from((z >> 32) as u32) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_status_and_kill() {
        let echo = Program::new("/bin/sh").args(["-c", "echo $WORD; exit 3"]).env("WORD", "out");
        let ended = echo.start().wait(Duration::from_secs(10));
        assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(3), "out\n"));
        let sleep = Program::new("/bin/sleep").args(["60"]);
        let ended = sleep.start().kill_within(Duration::from_millis(50), 7);
        assert_eq!(ended.status.code(), None, "a killed program has no exit code");
    }

    #[test]
    fn fractions_stay_below_one_and_differ() {
        let all: Vec<f64> = (0..1000).map(fraction).collect();
        assert!(all.iter().all(|f| (0.0..1.0).contains(f)));
        assert!(all.windows(2).all(|w| w[0] != w[1]));
    }
}
