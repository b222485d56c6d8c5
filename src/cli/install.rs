//! `install-units`: everything that a machine needs to run pipelines as services, out of the one binary.
//!
//! The files are part of the program, so they always fit it. They go below one prefix, as a package's would: `/usr/local` is where
//! systemd, man and the shells look for what an administrator installs himself. Nothing of the machine's configuration is touched:
//! `/etc/crossfade` stays the operator's, and the last lines say what is left to do.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory};
use crossfade_core::{Error, Result};

use super::Cli;

/// Put the binary, systemd units, man pages, completions, alert rules, a dashboard and an example configuration in place
#[derive(Debug, Args)]
pub struct InstallUnits {
    /// Below which folder; /usr/local and /usr are where systemd, man and the shells look
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    prefix: PathBuf,
}

/// systemd's units. The binary's path in them follows the prefix.
const UNITS: &[(&str, &str)] = &[
    ("crossfade@.service", include_str!("../../systemd/crossfade@.service")),
    ("crossfade-report@.service", include_str!("../../systemd/crossfade-report@.service")),
    ("crossfade-report@.timer", include_str!("../../systemd/crossfade-report@.timer")),
    ("crossfade-report-daily@.service", include_str!("../../systemd/crossfade-report-daily@.service")),
    ("crossfade-report-daily@.timer", include_str!("../../systemd/crossfade-report-daily@.timer")),
    ("crossfade-report-weekly@.service", include_str!("../../systemd/crossfade-report-weekly@.service")),
    ("crossfade-report-weekly@.timer", include_str!("../../systemd/crossfade-report-weekly@.timer")),
    ("crossfade-verify@.service", include_str!("../../systemd/crossfade-verify@.service")),
    ("crossfade-verify@.timer", include_str!("../../systemd/crossfade-verify@.timer")),
];

/// What is read or copied by people.
const DOCUMENTS: &[(&str, &str)] = &[
    ("example.toml", include_str!("../../systemd/example.toml")),
    ("alerts.yml", include_str!("../../systemd/alerts.yml")),
    ("dashboard.json", include_str!("../../systemd/dashboard.json")),
    ("config.schema.json", include_str!("../../schemas/config.schema.json")),
    ("report.schema.json", include_str!("../../schemas/report.schema.json")),
];

/// Where the units expect the binary.
const PROGRAM: &str = "/usr/bin/crossfade";

pub fn install_units(args: &InstallUnits) -> Result<u8> {
    let prefix = std::path::absolute(&args.prefix)
        .map_err(|e| Error::usage(format!("--prefix {}", args.prefix.display())).caused_by(e))?;
    let program = prefix.join("bin/crossfade");
    let Some(program_text) = program.to_str().filter(|p| !p.contains(char::is_whitespace) && !p.contains('%')) else {
        return Err(Error::usage(format!("--prefix {}: a unit cannot name a program there", prefix.display()))
            .hint("choose a path without blanks and percent signs, such as /usr/local"));
    };
    copy_program(&program)?;
    for (name, text) in UNITS {
        let text = text.replace(PROGRAM, program_text);
        put(&prefix.join("lib/systemd/system").join(name), text.as_bytes())?;
    }
    for (name, text) in DOCUMENTS {
        put(&prefix.join("share/doc/crossfade").join(name), text.as_bytes())?;
    }
    let manual = prefix.join("share/man/man1");
    create(&manual)?;
    clap_mangen::generate_to(Cli::command(), &manual).map_err(|e| unwritable(&manual, e))?;
    println!("wrote {}/crossfade*.1", manual.display());
    for (shell, path) in [
        (clap_complete::Shell::Bash, "share/bash-completion/completions/crossfade"),
        (clap_complete::Shell::Zsh, "share/zsh/site-functions/_crossfade"),
        (clap_complete::Shell::Fish, "share/fish/vendor_completions.d/crossfade.fish"),
    ] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "crossfade", &mut text);
        put(&prefix.join(path), &text)?;
    }
    let doc = prefix.join("share/doc/crossfade");
    println!(
        "\nNext, for a pipeline of the name shop:\n  \
         install -D -m 644 {}/example.toml /etc/crossfade/shop.toml    and edit it; passwords are no part of it\n  \
         crossfade check --config /etc/crossfade/shop.toml\n  \
         systemctl daemon-reload && systemctl enable --now crossfade@shop crossfade-verify@shop.timer",
        doc.display()
    );
    if ["/home", "/root", "/run/user", "/tmp", "/var/tmp"].iter().any(|hidden| prefix.starts_with(hidden)) {
        println!(
            "\nThe units hide {} from what they start (ProtectHome=, PrivateTmp=): systemd will not find the program there. \
             To run them, install below /usr/local or /opt.",
            prefix.display()
        );
    }
    Ok(0)
}

/// The running program itself.
fn copy_program(to: &Path) -> Result<()> {
    let unreadable = |e: std::io::Error| Error::unavailable("cannot read this program's own file").caused_by(e);
    let me = std::env::current_exe().and_then(|p| p.canonicalize()).map_err(unreadable)?;
    if to.canonicalize().is_ok_and(|to| to == me) {
        println!("kept  {}", to.display());
        return Ok(());
    }
    let bytes = std::fs::read(&me).map_err(unreadable)?;
    write(to, &bytes, 0o755)
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, bytes, 0o644)
}

/// Writes a file whole or not at all, beside what is there (a program that runs cannot be written over), and says so.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let wrong = |e| unwritable(path, e);
    if std::fs::read(path).is_ok_and(|there| there == bytes) {
        println!("kept  {}", path.display());
        return Ok(());
    }
    let Some((folder, name)) = path.parent().zip(path.file_name().and_then(|n| n.to_str())) else {
        return Err(Error::usage(format!("{} is no path of a file", path.display())));
    };
    create(folder)?;
    let new = folder.join(format!(".{name}.{}", std::process::id()));
    let written = std::fs::File::create(&new).and_then(|mut file| {
        file.write_all(bytes)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    });
    if let Err(e) = written {
        // What is left of it is of no use; that it cannot be removed either is no further news.
        let _ = std::fs::remove_file(&new);
        return Err(wrong(e));
    }
    println!("wrote {}", path.display());
    Ok(())
}

fn create(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| unwritable(folder, e))
}

fn unwritable(path: &Path, e: std::io::Error) -> Error {
    Error::unavailable(format!("cannot write {}", path.display()))
        .caused_by(e)
        .hint("run it as root, or with --prefix below a folder of yours")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_beside_the_units_is_installed() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let known = UNITS.iter().chain(DOCUMENTS).any(|(n, _)| *n == name);
            assert!(known, "systemd/{name} is not installed by `crossfade install-units`");
        }
        for (name, text) in UNITS.iter().filter(|(name, _)| name.ends_with(".service")) {
            assert!(text.contains(&format!("\nExecStart={PROGRAM} ")), "{name}");
        }
    }
}
