//! Credentials that systemd holds for a service.
//!
//! A unit with `LoadCredential=` gets a folder of its own, named in `CREDENTIALS_DIRECTORY` (systemd.exec(5), "Credentials"). Who
//! looks at the pipeline from a shell, as root, has no such variable, but may read the running service's folder, so that
//! `crossfade status --config …` needs no password typed again.

use std::path::{Path, PathBuf};

/// Where systemd mounts the folders of running units.
const UNITS: &str = "/run/credentials";

/// Reads a credential of the present unit, else of the pipeline's running service. An error says what to do.
pub fn read(given: Option<PathBuf>, pipeline: &str, name: &str) -> Result<String, String> {
    let service = format!("crossfade@{pipeline}.service");
    let (folder, is_given) = match given {
        Some(folder) => (folder, true),
        None => (Path::new(UNITS).join(&service), false),
    };
    std::fs::read_to_string(folder.join(name)).map_err(|e| match is_given {
        true => format!("{e}; add LoadCredential={name}:FILE to the unit"),
        false => format!(
            "systemd gave no credentials, and those of {service} cannot be read ({e}): run this as root while the service runs, or \
             through systemd: systemd-run --pipe --quiet -p LoadCredential={name}:FILE crossfade …"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_units_own_come_first_and_errors_say_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("source"), "secret").unwrap();
        let given = || Some(folder.path().to_owned());
        assert_eq!(read(given(), "shop", "source").unwrap(), "secret");
        assert!(read(given(), "shop", "target").unwrap_err().contains("add LoadCredential=target:FILE to the unit"));
        let wrong = read(None, "no-such-pipeline", "source").unwrap_err();
        assert!(wrong.contains("those of crossfade@no-such-pipeline.service cannot be read"), "{wrong}");
        assert!(wrong.contains("systemd-run --pipe --quiet -p LoadCredential=source:FILE"), "{wrong}");
    }
}
