//! The command line: what can be asked, and who answers.

pub mod beyond;
mod check;
mod demo;
mod install;
pub mod logs;
mod observe;
pub mod print;
mod prove;
mod repair;
mod report;
mod run;
mod sample;
mod schema;
mod slot;
mod snapshot;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use crossfade_core::{Error, Result};
use tokio::runtime::Runtime;

use crate::config::{self, Config};
use crate::pipeline::Pipeline;
use crate::registry;

/// Moves a live database to a new home, and proves that it did.
///
/// Crossfade copies the tables, tails the source's log, writes every change exactly once, and shows that both sides hold
/// the same rows. Try it without any server: crossfade demo
#[derive(Debug, Parser)]
#[command(name = "crossfade", version, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done or well, 1 warning, 2 critical, 3 unknown (lag, status, verify, sample, repair, report, check); \
    64 usage, 65 data, 69 unavailable, 75 try again, 78 configuration."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,

    /// How much to log: error, warn, info, debug, trace [default: info; of the demo: warn]
    #[arg(long, global = true, value_name = "LEVEL", env = "CROSSFADE_LOG")]
    log: Option<String>,

    /// How to log; by default for people on a terminal, else JSON
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Which pipeline is meant.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// The pipeline's configuration [default: ./crossfade.toml, if neither --config nor --from is given]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The source, instead of a configuration: mysql://user@host/db, mariadb://…, postgres://…, sqlite:///path
    #[arg(long, value_name = "URL", conflicts_with = "config", requires = "to")]
    from: Option<String>,

    /// The target; may be given several times: postgres://user@host/db, s3://bucket/prefix, file:///path
    #[arg(long, value_name = "URL", requires = "from")]
    to: Vec<String>,

    /// Tables to carry, such as 'shop.*' or 'order_*'; may be given several times
    #[arg(long, value_name = "GLOB", requires = "from")]
    tables: Vec<String>,

    /// The pipeline's name, if not from a configuration [default: from the names of both databases]
    #[arg(long, value_name = "NAME", requires = "from")]
    name: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copy, then follow the source: the daemon
    Run(run::Run),
    /// See it work, without any server: a shop in SQLite, replicated into Parquet
    Demo(demo::Demo),
    /// Look for trouble before a run: settings, privileges, tables, on both sides
    Check(check::Check),
    /// Print the statements that make the target's tables, without running them
    Schema(schema::Schema),
    /// How far the target is behind
    Lag(observe::Lag),
    /// One screen on the pipeline: positions, phase, lag, copy, owner
    Status(observe::StatusArgs),
    /// Wait for, or bring about, that the target holds all that the source held when this began
    CatchUp(run::CatchUp),
    /// Compare both sides at one position, table by table
    Verify(prove::Verify),
    /// Show random rows, value by value, from both sides at one position
    Sample(sample::SampleArgs),
    /// Write rows that differ again, from the source; by default only tell what would be done
    Repair(repair::Repair),
    /// What is known of the pipeline, verdict first; also as HTML, JSON, JUnit, and by mail
    Report(report::ReportArgs),
    /// Replication slots at a Postgres source, and the log that each holds back
    Slot(slot::SlotArgs),
    /// Copy tables again, or take in tables that came later, while all others stream on
    Snapshot(snapshot::Snapshot),
    /// Remove what was installed at the source (SQLite's triggers, Postgres' slot); the pipeline ends with it
    Uninstall {
        #[command(flatten)]
        which: Which,
    },
    /// Put the binary, systemd units, man pages, completions, alert rules and an example configuration in place
    InstallUnits(install::InstallUnits),
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write man pages into a folder
    Man {
        /// The folder
        folder: PathBuf,
    },
}

/// Runs the command line and gives the process's exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // clap prints help to standard output and mistakes to standard error; a closed pipe is no news.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 64 } else { 0 });
        }
    };
    if let Err(e) = set_up_logs(&cli) {
        print::error(&e);
        return ExitCode::from(e.exit() as u8);
    }
    match dispatch(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            print::error(&e);
            ExitCode::from(e.exit() as u8)
        }
    }
}

fn dispatch(command: Command) -> Result<u8> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Demo(args) => demo::demo(&args),
        Command::Check(args) => check::check(&args),
        Command::Schema(args) => schema::schema(&args),
        Command::Lag(args) => observe::lag(&args),
        Command::Status(args) => observe::status(&args),
        Command::CatchUp(args) => run::catch_up(&args),
        Command::Verify(args) => prove::verify(&args),
        Command::Sample(args) => sample::sample(&args),
        Command::Repair(args) => repair::repair(&args),
        Command::Report(args) => report::report(&args),
        Command::Slot(args) => slot::slot(&args),
        Command::Snapshot(args) => snapshot::snapshot(&args),
        Command::Uninstall { which } => run::uninstall(&which),
        Command::InstallUnits(args) => install::install_units(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "crossfade", &mut std::io::stdout());
            Ok(0)
        }
        Command::Man { folder } => {
            clap_mangen::generate_to(Cli::command(), &folder)
                .map_err(|e| Error::usage(format!("cannot write man pages to {}", folder.display())).caused_by(e))?;
            Ok(0)
        }
    }
}

fn set_up_logs(cli: &Cli) -> Result<()> {
    let otherwise = match &cli.command {
        Command::Demo(_) => "warn", // its own words are enough
        _ => "info",
    };
    logs::set_up(cli.log.as_deref(), otherwise, cli.log_format.map(|format| matches!(format, LogFormat::Json)))
}

impl Which {
    /// The configuration's file, if there is one.
    fn path(&self) -> Option<PathBuf> {
        let customary = || Some(PathBuf::from("crossfade.toml")).filter(|p| self.from.is_none() && p.exists());
        self.config.clone().or_else(customary)
    }

    /// The configuration meant.
    fn config(&self) -> Result<Config> {
        if let Some(from) = &self.from {
            return config::from_urls(self.name.as_deref(), from, &self.to, &self.tables);
        }
        match self.path() {
            Some(path) => config::load(&path),
            None => Err(Error::usage("which pipeline?")
                .hint("give --config FILE or --from URL --to URL; or see it work first: crossfade demo")),
        }
    }

    /// The name of the pipeline meant: all that it takes to ask whoever runs it.
    fn name(&self) -> Result<String> {
        match self.path() {
            Some(path) if self.from.is_none() => config::name(&path),
            Some(_) | None => self.config().map(|config| config.name),
        }
    }

    /// The pipeline meant, with the runtime that its connectors use.
    fn open(&self) -> Result<(Config, Runtime, Pipeline)> {
        let config = self.config()?;
        let runtime = runtime()?;
        let pipeline = registry::pipeline(&config, runtime.handle())?;
        Ok((config, runtime, pipeline))
    }
}

/// The runtime for the connectors' I/O; the pipeline itself runs on threads.
fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("io")
        .enable_all()
        .build()
        .map_err(|e| Error::unavailable("cannot start the I/O threads").caused_by(e))
}

fn parse_duration(text: &str) -> std::result::Result<Duration, String> {
    config::duration(text)
}

/// Prints a value as one line of JSON.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string(value).map_err(|e| Error::corrupt("cannot print as JSON").caused_by(e))?;
    println!("{text}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
