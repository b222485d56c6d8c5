//! `report`: all that is known of the pipeline, for people, mail and monitoring.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use crossfade_core::{Error, Result};

use super::{Which, observe, parse_duration};
use crate::config::Config;
use crate::ledger::{self, Ledger};
use crate::report::{self, Report, Verdict, alert, build, mail};

/// What is known of the pipeline, verdict first: streak, lag, tables, differences, incidents, what to do next.
///
/// It compares nothing; it tells of the comparisons that the daemon (`[proof]` of the configuration) or `crossfade verify` made. The exit
/// code is that of monitoring plugins: 0 well, 1 warning, 2 critical, 3 unknown; the first line ends in performance data.
#[derive(Debug, Args)]
pub struct ReportArgs {
    #[command(flatten)]
    which: Which,
    /// How far back it tells, such as 1h, 1d, 7d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    since: Duration,
    /// How to print it
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// Hide the values of rows that differ, and show their keys only
    #[arg(long)]
    mask: bool,
    /// Send it by mail as well, as `[mail]` of the configuration says, and what could not be sent before
    #[arg(long)]
    mail: bool,
    /// Print and mail nothing when all is well
    #[arg(long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Html,
    Json,
    Junit,
}

/// How long another report may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn report(args: &ReportArgs) -> Result<u8> {
    let config = args.which.config()?;
    if args.mail && config.mail.is_none() {
        return Err(Error::usage("--mail needs [mail] in the configuration")
            .hint("server, from and to; see systemd/example.toml"));
    }
    let runtime = super::runtime()?;
    let folder = ledger::folder()?;
    let _one_at_a_time = lock(&folder, &config.name)?;
    // The databases may be away: that, too, is a report.
    let status = crate::registry::pipeline(&config, runtime.handle()).and_then(|p| observe::picture(&p, &config));
    let mut report = build::build(&config, crate::now_micros(), args.since, Ledger::open_read(&config.name), status);
    if args.mask {
        report.mask();
    }
    let mut code = report.verdict.exit();
    let mut failed = |e: Error| {
        super::print::error(&e);
        code = code.max(Verdict::Warning.exit());
    };
    if let Some(hook) = &config.webhook {
        let told = Ledger::open(&config.name).and_then(|mut l| alert::tell(hook, &report, &mut l, runtime.handle()));
        if let Err(e) = told {
            failed(e);
        }
    }
    let silent = args.quiet && report.verdict == Verdict::Ok;
    // What could not be sent before goes out also when all is well.
    if args.mail
        && let Err(e) = by_mail(&config, (!silent).then_some(&report), &folder)
    {
        failed(e);
    }
    if !silent {
        print(&report, args.format)?;
    }
    Ok(code)
}

fn print(report: &Report, format: Format) -> Result<()> {
    match format {
        Format::Text => print!("{}", report::text(report)),
        Format::Html => print!("{}", report::html(report)?),
        Format::Json => super::print_json(report)?,
        Format::Junit => print!("{}", report::junit(report)),
    }
    Ok(())
}

/// An error unless everything was sent.
fn by_mail(config: &Config, report: Option<&Report>, folder: &Path) -> Result<()> {
    let Some(mail) = &config.mail else { return Ok(()) };
    let sent = mail::send(mail, report, &mail::spool(folder, &config.name))?;
    if !sent.refused.is_empty() {
        let error = Error::unavailable(format!("the mail server refused {}", sent.refused.join("; ")));
        return Err(error.hint("the messages were put aside; look at from and to of [mail]"));
    }
    match sent.error {
        None => Ok(()),
        Some(why) => Err(Error::transient(format!("{} of the messages wait, none is lost: {why}", sent.waiting))
            .hint("the next report with --mail sends them, in order")),
    }
}

/// Waits until no other report of the pipeline is being made.
fn lock(folder: &Path, pipeline: &str) -> Result<File> {
    let path = folder.join(format!("{pipeline}.report.lock"));
    let wrong = |e: std::io::Error| Error::transient(format!("cannot lock {}", path.display())).caused_by(e);
    std::fs::create_dir_all(folder).map_err(wrong)?;
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(wrong)?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) if began.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(
                    Error::transient("another report of this pipeline is being made").hint("try again when it is done")
                );
            }
            Err(std::fs::TryLockError::Error(e)) => return Err(wrong(e)),
        }
    }
}
