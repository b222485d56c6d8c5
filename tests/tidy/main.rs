//! Style and structure that no compiler checks: sizes, module docs, the direction of dependencies, licences, words and names.
//!
//! Every check is a function from what it looks at (a file's path and text, cargo's metadata) to a list of complaints. One test
//! runs it over the repository, another feeds it something bad: a check that cannot complain is worse than none. No server and
//! no network is needed.

mod code;
mod manifests;

use std::fs;
use std::path::Path;
use std::process::Command;

/// Names that the top level may hold; a reader finds his way by them.
const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "LICENSE",
    "rustfmt.toml",
    "deny.toml",
    ".gitignore",
    ".ci",
    ".config",
    "src",
    "connectors",
    "schemas",
    "tests",
    "benches",
    "systemd",
];

/// Words that stand for unfinished work. Spelled in halves, so that this file does not hold them.
const UNFINISHED: &[&str] = &[
    concat!("to", "do!("),
    concat!("TO", "DO"),
    concat!("unimple", "mented!("),
    concat!("FIX", "ME"),
    concat!("db", "g!("),
    concat!("#[ig", "nore"),
];

/// Places of one machine, and hosts that only a package client should name.
const PLACES: &[&str] = &[
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("/ho", "me/"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("index.crates", ".io"),
    concat!("static.crates", ".io"),
    concat!("deb.debian", ".org"),
];

/// The only source that a locked dependency may come from.
const REGISTRY: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";

/// Path from the top, and text.
type File = (String, String);

/// Every tracked text file that exists.
fn tracked() -> Vec<File> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(top).output().expect("cannot run git");
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let paths = String::from_utf8(listed.stdout).expect("paths are UTF-8");
    let files: Vec<File> = paths
        .split_terminator('\0')
        .filter_map(|path| Some((path.to_owned(), fs::read_to_string(top.join(path)).ok()?)))
        .collect();
    assert!(files.len() > 20, "git lists {} files: is this the repository?", files.len());
    files
}

/// Complaints of a check about every tracked file.
fn over_all(check: impl Fn(&str, &str) -> Vec<String>) {
    none(tracked().iter().flat_map(|(path, text)| check(path, text)).collect());
}

fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Complains about lines that hold one of `words`.
fn words(path: &str, text: &str, words: &[&str]) -> Vec<String> {
    let numbered = text.lines().enumerate();
    numbered
        .flat_map(|(n, line)| {
            words.iter().filter(|w| line.contains(**w)).map(move |w| format!("{path}:{}: {w}", n + 1))
        })
        .collect()
}

fn unfinished(path: &str, text: &str) -> Vec<String> {
    if path.ends_with(".rs") { words(path, text, UNFINISHED) } else { Vec::new() }
}

fn places(path: &str, text: &str) -> Vec<String> {
    words(path, text, PLACES)
}

/// A lock file that names another registry works on one machine only.
fn registries(path: &str, text: &str) -> Vec<String> {
    let sources =
        text.lines().enumerate().filter(|(_, line)| path.ends_with("Cargo.lock") && line.starts_with("source = "));
    sources.filter(|(_, line)| *line != REGISTRY).map(|(n, line)| format!("{path}:{}: {line}", n + 1)).collect()
}

fn top_level(path: &str) -> Option<String> {
    let first = path.split('/').next().unwrap_or_default();
    (!TOP_LEVEL.contains(&first)).then(|| format!("{path}: {first} is no name of the top level"))
}

/// The one file that names concrete connectors is the registry: everything else knows the traits only.
fn connectors_are_named_in_the_registry(path: &str, text: &str) -> Vec<String> {
    if !path.starts_with("src/") || !path.ends_with(".rs") || path == "src/registry.rs" {
        return Vec::new();
    }
    let code = code::without_literals(text);
    words(path, &code, &["crossfade_mysql", "crossfade_postgres", "crossfade_sqlite", "crossfade_parquet"])
}

#[test]
fn every_source_file_says_what_it_does() {
    over_all(code::module_docs);
}

#[test]
fn files_are_small() {
    over_all(code::file_size);
}

#[test]
fn functions_are_small() {
    over_all(code::function_sizes);
}

#[test]
fn nothing_is_left_unfinished() {
    over_all(unfinished);
    assert_eq!(unfinished("a.rs", &format!("ok\n{}x)", UNFINISHED[0])).len(), 1);
}

#[test]
fn no_file_names_a_place_of_one_machine() {
    over_all(places);
    assert_eq!(places("a.md", &format!("see {}x", PLACES[0])), [format!("a.md:1: {}", PLACES[0])]);
}

#[test]
fn dependencies_come_from_the_public_registry() {
    over_all(registries);
    assert!(registries("Cargo.lock", REGISTRY).is_empty());
    assert_eq!(registries("Cargo.lock", "source = \"git+https://example.org/x\"").len(), 1);
}

#[test]
fn the_top_level_holds_known_names_only() {
    none(tracked().iter().filter_map(|(path, _)| top_level(path)).collect());
    assert!(top_level("scripts/x.sh").is_some() && top_level("src/main.rs").is_none());
}

#[test]
fn only_the_registry_names_connectors() {
    over_all(connectors_are_named_in_the_registry);
    let bad = "use crossfade_mysql::Source;\n// crossfade_sqlite in a comment";
    assert_eq!(connectors_are_named_in_the_registry("src/fold.rs", bad), ["src/fold.rs:1: crossfade_mysql"]);
    assert!(connectors_are_named_in_the_registry("src/registry.rs", bad).is_empty());
}

#[test]
fn dependencies_point_one_way() {
    none(manifests::direction(&manifests::metadata()));
}

#[test]
fn core_has_no_driver() {
    none(manifests::drivers_in_core(&manifests::metadata()));
}

#[test]
fn licences_agree_with_ours() {
    none(manifests::licences(&manifests::metadata()));
}
