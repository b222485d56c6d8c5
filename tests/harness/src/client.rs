//! Statements through the databases' own command line clients, so that the harness needs no driver.
//!
//! Values come back as the clients print them: columns separated by a tab, rows by a line feed, NULL as `NULL`, no headings,
//! no line feed at the end. `mariadb` writes a tab, line feed, backslash or NUL inside a value as `\t`, `\n`, `\\`, `\0`;
//! `psql` writes values as they are.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use crate::server::unique;
use crate::{PASSWORD, USER, tools};

/// The client itself: what Debian has in the search path is a Perl script that looks for it, and takes several times as long as a
/// statement does. Tests run thousands.
const PSQL: &str = "/usr/lib/postgresql/15/bin/psql";

/// Which client program speaks to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `psql`
    Postgres,
    /// `mariadb`, for MySQL as well
    MySql,
}

/// Runs statements on one server, with all powers, over its Unix socket.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) dialect: Dialect,
    /// Socket file (MySQL family) or the folder of the socket (Postgres).
    pub(crate) socket: PathBuf,
    pub(crate) port: u16,
}

impl Client {
    /// Runs statements in a database and returns what they printed.
    ///
    /// # Panics
    /// When a statement fails, with the server's message.
    pub fn sql(&self, database: &str, statements: &str) -> String {
        self.try_sql(database, statements).unwrap_or_else(|message| panic!("{message}\nin: {statements}"))
    }

    /// Like [`sql`](Self::sql); the error is the server's message. Statements before the failing one have taken effect.
    pub fn try_sql(&self, database: &str, statements: &str) -> Result<String, String> {
        let mut command = self.command(database);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
        let mut input = child.stdin.take().expect("standard input is a pipe");
        let output = thread::scope(|scope| {
            // A client that stops at an error closes its input: its message says why, this error does not.
            scope.spawn(move || input.write_all(statements.as_bytes()));
            child.wait_with_output().expect("cannot wait for the client")
        });
        printed(output)
    }

    /// Runs a file of statements, as a user would with `psql -f` or `mariadb < file`.
    ///
    /// # Panics
    /// When a statement fails, with the server's message.
    pub fn sql_file(&self, database: &str, path: &Path) -> String {
        let file = File::open(path).unwrap_or_else(|e| panic!("cannot open {}: {e}", path.display()));
        let output = self.command(database).stdin(file).output().expect("cannot run the client");
        printed(output).unwrap_or_else(|message| panic!("{message}\nin file {}", path.display()))
    }

    /// TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// URL of a database for the all-powerful user over TCP.
    pub fn url(&self, database: &str) -> String {
        self.url_as(USER, PASSWORD, database)
    }

    /// URL of a database for another user over TCP.
    pub fn url_as(&self, user: &str, password: &str, database: &str) -> String {
        let scheme = match self.dialect {
            Dialect::Postgres => "postgres",
            Dialect::MySql => "mysql",
        };
        format!("{scheme}://{user}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// Creates an empty database that no other test uses; it is dropped with the returned value.
    pub fn fresh_database(&self, prefix: &str) -> Database {
        let name = unique(prefix, '_');
        self.sql(self.maintenance(), &format!("create database {name}"));
        Database { client: self.clone(), name }
    }

    /// The database to be in while creating and dropping others.
    fn maintenance(&self) -> &'static str {
        match self.dialect {
            Dialect::Postgres => "postgres",
            Dialect::MySql => "mysql",
        }
    }

    fn command(&self, database: &str) -> Command {
        match self.dialect {
            Dialect::Postgres => {
                let mut psql = Command::new(tools::installed(PSQL.into()));
                psql.args(["-X", "-q", "-A", "-t", "-F", "\t", "-P", "null=NULL", "-v", "ON_ERROR_STOP=1", "-U", USER])
                    .arg("-h")
                    .arg(&self.socket)
                    .args(["-p", &self.port.to_string(), "-d", database, "-f", "-"])
                    .env("PGOPTIONS", "-c client_min_messages=warning");
                psql
            }
            Dialect::MySql => {
                let mut mariadb = Command::new("mariadb");
                mariadb
                    .args(["--no-defaults", "--batch", "--skip-column-names", "--local-infile=1", "--user=root"])
                    .args([
                        "--default-character-set=utf8mb4",
                        &format!("--socket={}", self.socket.display()),
                        database,
                    ]);
                mariadb
            }
        }
    }
}

fn printed(output: Output) -> Result<String, String> {
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned());
    }
    let mut text =
        String::from_utf8(output.stdout).map_err(|e| format!("the client printed something else than UTF-8: {e}"))?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

/// A database of one test, dropped with this value.
#[derive(Debug)]
pub struct Database {
    client: Client,
    name: String,
}

impl Database {
    /// The database's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its URL for the all-powerful user over TCP.
    pub fn url(&self) -> String {
        self.client.url(&self.name)
    }

    /// The schema in which its tables stand, and arrive at a target.
    pub fn schema(&self) -> &str {
        match self.client.dialect {
            Dialect::Postgres => "public",
            Dialect::MySql => &self.name,
        }
    }

    /// The database of the same name on another server, a replica of this one.
    #[must_use]
    pub fn on(mut self, client: &Client) -> Database {
        self.client = client.clone();
        self
    }

    /// The client that it was made with, for other databases of the same server.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// See [`Client::sql`].
    pub fn sql(&self, statements: &str) -> String {
        self.client.sql(&self.name, statements)
    }

    /// See [`Client::try_sql`].
    pub fn try_sql(&self, statements: &str) -> Result<String, String> {
        self.client.try_sql(&self.name, statements)
    }

    /// See [`Client::sql_file`].
    pub fn sql_file(&self, path: &Path) -> String {
        self.client.sql_file(&self.name, path)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let name = &self.name;
        let drop = match self.client.dialect {
            Dialect::MySql => format!("drop database if exists {name}"),
            // Slots keep a database alive, and sessions keep slots.
            Dialect::Postgres => format!(
                "select pg_terminate_backend(active_pid) from pg_replication_slots where database = '{name}' and active;\n\
                 select pg_sleep(0.2) from pg_replication_slots where database = '{name}' and active limit 1;\n\
                 select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = '{name}' and not active;\n\
                 drop database if exists {name} with (force)"
            ),
        };
        // The server may be down by now, and its data goes with it; a panic here would hide the test's own.
        let _ = self.client.try_sql(self.client.maintenance(), &drop);
    }
}
