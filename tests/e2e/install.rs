//! `install-units`: what it puts in place is there, fits its prefix, and is what systemd, man and the shells accept.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::common::{PATIENCE, code, folder, program};

fn install(prefix: &Path) -> String {
    let ended = program().args(["install-units", "--prefix", prefix.to_str().expect("UTF-8")]).start().wait(PATIENCE);
    assert_eq!(code(&ended), 0, "{}", ended.stderr);
    ended.stdout
}

/// Runs a program of the system; its output, both streams.
fn system(program: &str, args: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(args).env("LC_ALL", "C.UTF-8").output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}; tests/run installs it"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn units_are_verified_by_systemd_and_their_sandbox_is_tight() {
    let (_kept, prefix) = folder();
    install(&prefix);
    let units = prefix.join("lib/systemd/system");
    let mut services = 0;
    for entry in std::fs::read_dir(&units).expect("the units") {
        let path = entry.expect("an entry").path();
        let unit = path.to_str().expect("UTF-8");
        let (fine, said) = system("systemd-analyze", &["verify", "--man=no", unit]);
        assert!(fine && said.trim().is_empty(), "{unit}: {said}");
        let text = std::fs::read_to_string(&path).expect("a unit");
        assert!(!text.contains("/usr/bin/crossfade"), "{unit} starts a program of another prefix");
        if unit.ends_with(".service") {
            services += 1;
            assert!(text.contains(&format!("ExecStart={}/bin/crossfade ", prefix.display())), "{unit}");
            let (fine, said) = system("systemd-analyze", &["security", "--offline=true", "--threshold=20", unit]);
            assert!(fine, "{unit} is exposed by 2.0 or more: {said}");
        }
    }
    assert!(services >= 2);
}

#[test]
fn everything_is_in_place_and_a_second_time_changes_nothing() {
    let (_kept, prefix) = folder();
    let said = install(&prefix);
    assert!(said.contains("systemctl enable --now crossfade@shop"), "{said}");
    let binary = prefix.join("bin/crossfade");
    assert_eq!(std::fs::metadata(&binary).expect("the program").permissions().mode() & 0o777, 0o755);
    let (fine, version) = system(binary.to_str().expect("UTF-8"), &["--version"]);
    assert!(fine && version.starts_with("crossfade "), "{version}");
    for page in ["crossfade", "crossfade-run", "crossfade-verify", "crossfade-install-units"] {
        let text = std::fs::read_to_string(prefix.join(format!("share/man/man1/{page}.1"))).expect(page);
        assert!(text.contains(".TH crossfade"), "{page}");
    }
    let completions = prefix.join("share/bash-completion/completions/crossfade");
    let (fine, said) = system("bash", &["-n", completions.to_str().expect("UTF-8")]);
    assert!(fine, "{said}");
    for more in [
        "share/zsh/site-functions/_crossfade",
        "share/fish/vendor_completions.d/crossfade.fish",
        "share/doc/crossfade/alerts.yml",
        "share/doc/crossfade/dashboard.json",
    ] {
        assert!(prefix.join(more).exists(), "{more}");
    }
    // The example is a configuration, but for the secrets that systemd would bring.
    let example = prefix.join("share/doc/crossfade/example.toml");
    let checked = program().args(["check", "--config", example.to_str().expect("UTF-8")]).start().wait(PATIENCE);
    assert!(checked.stderr.contains("2 problems") && checked.stderr.contains("LoadCredential"), "{}", checked.stderr);

    let before = std::fs::metadata(&binary).expect("the program").modified().expect("a time");
    let again = install(&prefix);
    assert!(again.contains(&format!("kept  {}", binary.display())), "{again}");
    assert_eq!(std::fs::metadata(&binary).expect("the program").modified().expect("a time"), before);
}

#[test]
fn a_place_that_cannot_be_written_or_named_is_refused() {
    let (_kept, folder) = folder();
    let file = folder.join("file");
    std::fs::write(&file, "").expect("a file");
    let run = |prefix: &str| program().args(["install-units", "--prefix", prefix]).start().wait(PATIENCE);
    let ended = run(file.to_str().expect("UTF-8"));
    assert_eq!(code(&ended), 69, "{}", ended.stderr);
    assert!(ended.stderr.contains("cannot write") && ended.stderr.contains("--prefix"), "{}", ended.stderr);
    let ended = run(folder.join("a b").to_str().expect("UTF-8"));
    assert_eq!(code(&ended), 64, "{}", ended.stderr);
}
