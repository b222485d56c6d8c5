//! Checks of what cargo knows: which crate depends on which, and under which licence each comes. The packages are those of the
//! platform that the tests run on, which is the one that is shipped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Licences that may be linked into a work under Apache-2.0 without conditions of their own beyond attribution.
const COMPATIBLE: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// Crates that speak to a database or a network. Core must not reach them, not even through another crate.
const DRIVERS: &[&str] = &[
    "hyper",
    "mysql_async",
    "mysql_common",
    "object_store",
    "parquet",
    "postgres-protocol",
    "postgres-types",
    "reqwest",
    "rusqlite",
    "rustls",
    "tokio",
    "tokio-postgres",
];

const CORE: &str = "crossfade-core";
const HARNESS: &str = "crossfade-harness";
const FUZZ: &str = "crossfade-fuzz";

/// What `cargo metadata` says about this workspace, without touching the network.
pub(crate) fn metadata() -> Value {
    let rustc = Command::new("rustc").arg("-vV").output().expect("cannot run rustc");
    let rustc = String::from_utf8(rustc.stdout).expect("rustc prints UTF-8");
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--offline", "--locked", "--filter-platform", host])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .output()
        .expect("cannot run cargo");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn for_tests(used: &str) -> bool {
    [HARNESS, FUZZ].contains(&used)
}

/// Whether `user` may depend on `used`, both crates of this workspace.
fn may_use(user: &str, used: &str, dev: bool) -> bool {
    match user {
        "crossfade" => !for_tests(used) || dev,
        FUZZ => used == HARNESS && dev,
        HARNESS | CORE => false,
        _ => used == CORE || (for_tests(used) && dev),
    }
}

/// The program depends on connectors, connectors on core, and no connector on another; tests may use the harness.
pub(crate) fn direction(metadata: &Value) -> Vec<String> {
    let own: Vec<&Value> = list(metadata, "packages").iter().filter(|p| p["source"].is_null()).collect();
    let names: BTreeSet<&str> = own.iter().map(|p| text(p, "name")).collect();
    let mut complaints = Vec::new();
    for package in own {
        let user = text(package, "name");
        for dependency in list(package, "dependencies") {
            let used = text(dependency, "name");
            if names.contains(used) && !may_use(user, used, dependency["kind"] == "dev") {
                complaints.push(format!("{user} may not depend on {used}"));
            }
        }
    }
    complaints
}

/// Drivers that core reaches through its normal and build dependencies, with the way there.
pub(crate) fn drivers_in_core(metadata: &Value) -> Vec<String> {
    let names: BTreeMap<&str, &str> =
        list(metadata, "packages").iter().map(|p| (text(p, "id"), text(p, "name"))).collect();
    let nodes: BTreeMap<&str, &Value> =
        list(&metadata["resolve"], "nodes").iter().map(|n| (text(n, "id"), n)).collect();
    let name = |id: &str| names.get(id).copied().unwrap_or_default();
    let Some(core) = nodes.keys().copied().find(|id| name(id) == CORE) else {
        return vec![format!("{CORE} is not in the workspace")];
    };
    let mut way: BTreeMap<&str, String> = BTreeMap::from([(core, CORE.to_owned())]);
    let mut open = vec![core];
    let mut complaints = Vec::new();
    while let Some(id) = open.pop() {
        for dependency in list(nodes[id], "deps") {
            let target = text(dependency, "pkg");
            let for_tests_only = list(dependency, "dep_kinds").iter().all(|kind| kind["kind"] == "dev");
            if for_tests_only || way.contains_key(target) {
                continue;
            }
            let path = format!("{} -> {}", way[id], name(target));
            if DRIVERS.contains(&name(target)) {
                complaints.push(path.clone());
            }
            way.insert(target, path);
            open.push(target);
        }
    }
    complaints
}

/// Packages whose licence is missing, or leaves no choice that is compatible.
pub(crate) fn licences(metadata: &Value) -> Vec<String> {
    let packages = list(metadata, "packages");
    let complaint = |p: &Value| match p["license"].as_str() {
        Some(licence) if compatible(licence) => None,
        Some(licence) => Some(format!("{} {}: {licence}", text(p, "name"), text(p, "version"))),
        None => Some(format!("{} {} names no licence", text(p, "name"), text(p, "version"))),
    };
    packages.iter().filter_map(complaint).collect()
}

/// Whether an SPDX expression can be satisfied with compatible licences. `/` is the older spelling of OR.
fn compatible(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    any_of(&tokens, &mut at) && at == tokens.len()
}

fn any_of(tokens: &[&str], at: &mut usize) -> bool {
    let mut satisfied = all_of(tokens, at);
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        // Not `||`: the rest must be read even when the first alternative suffices.
        satisfied |= all_of(tokens, at);
    }
    satisfied
}

fn all_of(tokens: &[&str], at: &mut usize) -> bool {
    let mut satisfied = one(tokens, at);
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        satisfied &= one(tokens, at);
    }
    satisfied
}

fn one(tokens: &[&str], at: &mut usize) -> bool {
    let Some(&token) = tokens.get(*at) else { return false };
    *at += 1;
    if token == "(" {
        let inner = any_of(tokens, at);
        let closed = tokens.get(*at) == Some(&")");
        *at += 1;
        return inner && closed;
    }
    let mut licence = token.to_owned();
    if tokens.get(*at) == Some(&"WITH") {
        licence = format!("{token} WITH {}", tokens.get(*at + 1).copied().unwrap_or_default());
        *at += 2;
    }
    COMPATIBLE.contains(&licence.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn licence_expressions() {
        let good = [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "(MIT OR GPL-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
        ];
        assert_eq!(good.iter().filter(|e| !compatible(e)).collect::<Vec<_>>(), Vec::<&&str>::new());
        let bad = ["", "GPL-3.0", "MIT AND GPL-3.0", "MIT WITH strange", "(MIT", "MIT MIT", "SSPL-1.0 OR BUSL-1.1"];
        assert_eq!(bad.iter().filter(|e| compatible(e)).collect::<Vec<_>>(), Vec::<&&str>::new());
        let metadata = json!({"packages": [{"name": "a", "version": "1.0.0", "license": "AGPL-3.0"}, {"name": "b", "version": "1.0.0"}]});
        assert_eq!(licences(&metadata), ["a 1.0.0: AGPL-3.0", "b 1.0.0 names no licence"]);
    }

    #[test]
    fn a_connector_that_uses_another_is_flagged() {
        let package =
            |name: &str, used: &str, kind: Value| json!({"name": name, "dependencies": [{"name": used, "kind": kind}]});
        let metadata = json!({"packages": [
            package("crossfade-mysql", "crossfade-postgres", Value::Null),
            package("crossfade-postgres", "crossfade-harness", Value::Null),
            package("crossfade-sqlite", "crossfade-harness", "dev".into()),
            package("crossfade-core", "crossfade", "dev".into()),
            package("crossfade", "crossfade-mysql", Value::Null),
            package("crossfade-harness", "serde", Value::Null),
        ]});
        let expected = [
            "crossfade-mysql may not depend on crossfade-postgres",
            "crossfade-postgres may not depend on crossfade-harness",
            "crossfade-core may not depend on crossfade",
        ];
        assert_eq!(direction(&metadata), expected);
    }

    #[test]
    fn a_driver_behind_another_crate_is_found() {
        let metadata = |kind: Value| {
            json!({
                "packages": [{"id": "1", "name": "crossfade-core"}, {"id": "2", "name": "between"}, {"id": "3", "name": "tokio"}],
                "resolve": {"nodes": [
                    {"id": "1", "deps": [{"pkg": "2", "dep_kinds": [{"kind": kind}]}]},
                    {"id": "2", "deps": [{"pkg": "3", "dep_kinds": [{"kind": null}]}]},
                    {"id": "3", "deps": []},
                ]},
            })
        };
        assert_eq!(drivers_in_core(&metadata(Value::Null)), ["crossfade-core -> between -> tokio"]);
        assert!(drivers_in_core(&metadata("dev".into())).is_empty());
    }
}
