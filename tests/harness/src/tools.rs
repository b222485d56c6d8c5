//! Where the programs, the sample data and the initialised data folders live: outside the clone, so that a second clone finds
//! them.
//!
//! ```text
//! $CROSSFADE_TOOLS          default: /var/cache/crossfade for root, ${XDG_CACHE_HOME:-~/.cache}/crossfade for others
//! ├── sid/                  packages of Debian sid, unpacked, not installed: MySQL 9.7, Postgres 18, their libraries
//! ├── venv/                 Python with moto (S3), pyarrow, duckdb and aiosmtpd
//! ├── templates/<kind>/     initialised data folders (made here, at first need)
//! └── tls/                  a certificate authority and a server certificate (made here, at first need)
//! ```
//!
//! Root's default is not its home, because servers that refuse to run as root must be able to read the programs.
//! Programs of sid run through sid's own dynamic linker, so they need neither a chroot nor root: `tests/run` puts a script in
//! the place of each binary that does so.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use crate::process as proc;

/// The folder that `tests/run` fills.
pub fn folder() -> PathBuf {
    if let Some(set) = env::var_os("CROSSFADE_TOOLS") {
        return set.into();
    }
    if proc::is_root() {
        return "/var/cache/crossfade".into();
    }
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cache")));
    cache.expect("neither CROSSFADE_TOOLS nor HOME is set: where are the test tools?").join("crossfade")
}

/// A file that `tests/run` installs; panics with what to do when it is missing.
pub(crate) fn installed(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "{} is missing: run `tests/run` once, it installs what the tests need", path.display());
    path
}

/// One of sid's programs: a script of `tests/run` that runs the binary beside it through sid's own dynamic linker.
pub(crate) fn sid_program(path: &str) -> PathBuf {
    installed(folder().join("sid/usr").join(path))
}

/// Path of a sample file (`chinook-mysql.sql`, `sakila-postgres-data.sql`, …). They are looked for in the folder
/// `CROSSFADE_SAMPLES`, or else in `shared/data` beside the clone.
///
/// # Panics
/// When the file is not there.
pub fn sample(name: &str) -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let folder = env::var_os("CROSSFADE_SAMPLES").map_or_else(beside, PathBuf::from);
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "sample {name} is missing in {}: set CROSSFADE_SAMPLES to the folder that holds the sample data",
        folder.display()
    );
    path
}

/// Runs Python source with the tools' interpreter (pyarrow, duckdb, moto and boto3 are installed) and returns what it printed.
///
/// # Panics
/// When it fails, with its error output.
pub fn python(source: &str, args: &[&str]) -> String {
    let interpreter = installed(folder().join("venv/bin/python"));
    let output = Command::new(interpreter).arg("-c").arg(source).args(args).output().expect("cannot run Python");
    assert!(
        output.status.success(),
        "Python ended with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("Python printed something that is not UTF-8")
}

/// Makes `folder()/name` with `build` unless it exists, once, however many processes ask: `build` fills a scratch folder that
/// is renamed into place, so a folder that exists is complete.
pub(crate) fn once(name: &str, build: impl FnOnce(&Path)) -> PathBuf {
    let target = folder().join(name);
    if target.exists() {
        return target;
    }
    let parent = target.parent().expect("a name inside the tools folder has a parent").to_path_buf();
    make_dir(&parent);
    let lock_path = beside(&target, "lock");
    let lock = File::create(&lock_path).unwrap_or_else(|e| panic!("cannot create {}: {e}", lock_path.display()));
    lock.lock().expect("cannot lock");
    if !target.exists() {
        let scratch = beside(&target, &format!("new-{}", process::id()));
        make_dir(&scratch);
        build(&scratch);
        fs::rename(&scratch, &target).unwrap_or_else(|e| panic!("cannot rename to {}: {e}", target.display()));
    }
    target
}

/// The path with `.suffix` added. Versions have dots of their own, so `Path::with_extension` would cut them.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    format!("{}.{suffix}", path.display()).into()
}

/// Creates a folder and its parents; a failure names it.
pub(crate) fn make_dir(path: &Path) {
    fs::create_dir_all(path).unwrap_or_else(|e| panic!("cannot create folder {}: {e}", path.display()));
}

/// Runs a command to its end and panics with its output unless it succeeded.
pub(crate) fn must_run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?} ended with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Certificates for tests, made once by `openssl`.
///
/// `ca.pem` signed `server.pem` (key `server.key`), valid for `localhost` and `127.0.0.1`; `stranger.pem` is an authority that
/// signed nothing, for tests that must refuse the server.
pub fn tls_folder() -> PathBuf {
    once("tls/v1", |at| {
        let openssl = |args: &str| {
            let mut command = Command::new("openssl");
            must_run(command.current_dir(at).args(args.split(' ')));
        };
        let authority = "-x509 -newkey rsa:2048 -nodes -days 3650 -addext keyUsage=critical,keyCertSign,cRLSign";
        openssl(&format!("req {authority} -keyout ca.key -out ca.pem -subj /CN=test-authority"));
        openssl(&format!("req {authority} -keyout stranger.key -out stranger.pem -subj /CN=stranger"));
        let names = "subjectAltName=DNS:localhost,IP:127.0.0.1";
        openssl("req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost");
        fs::write(at.join("san.cnf"), format!("{names}\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n"))
            .expect("cannot write the certificate's extensions");
        openssl(
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -extfile san.cnf -out server.pem",
        );
    })
}

/// The folder of this run: `CROSSFADE_TEST_DIR`, or else one of this process in the system's temporary folder. Folders that
/// dead processes left there are removed first: a killed process cannot do it itself.
pub(crate) fn run_folder() -> PathBuf {
    if let Some(set) = env::var_os("CROSSFADE_TEST_DIR") {
        return set.into();
    }
    let temp = env::temp_dir();
    let left = fs::read_dir(&temp).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    for entry in left {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|n| n.strip_prefix("crossfade-pid-")?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !proc::is_alive(pid)) {
            // Another process may be removing it at the same time; what stays is removed by the next one.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let mine = temp.join(format!("crossfade-pid-{}", process::id()));
    make_dir(&mine);
    mine
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_has_what_tests_read_parquet_with() {
        assert_eq!(python("import pyarrow, duckdb, sys; print(sys.argv[1])", &["here"]), "here\n");
    }

    #[test]
    fn a_missing_sample_fails_and_names_the_setting() {
        let failure = std::panic::catch_unwind(|| sample("no-such-sample.sql")).expect_err("it was found");
        let message = failure.downcast_ref::<String>().expect("the message is text");
        assert!(message.contains("CROSSFADE_SAMPLES"), "{message}");
    }
}
