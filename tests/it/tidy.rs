//! The house rules, asserted from the manifests, the imports and the files.

mod figures;
mod imports;
mod tree;
mod wings;
mod words;

use std::collections::BTreeMap;
use std::path::Path;

use tree::Tree;

/// Crates of ours that each crate may depend on. A service is never among them: services meet on the wire.
const LAYERS: [(&str, &[&str]); 22] = [
    ("shoal-proto", &[]),
    ("shoal-coalesce", &[]),
    ("shoal-grpc-code", &[]),
    ("shoal-kit", &["shoal-coalesce", "shoal-grpc-code", "shoal-http2"]),
    ("shoal-http2", &[]),
    // A workspace of its own, whose table of versions is its own too.
    ("shoal-http2-fuzz", &["shoal-http2"]),
    ("shoal-balance", &["shoal-http2"]),
    ("shoal-embedded", &[]),
    ("shoal-redis-link", &["shoal-coalesce", TESTING]),
    ("shoal-tag-clock", &["shoal-redis-link", TESTING]),
    (TESTING, &[]),
    ("shoal-client", &["shoal-balance", "shoal-proto"]),
    ("shoal-bench", &["shoal-grpc-code", "shoal-proto", TESTING]),
    ("shoal-top", &["shoal-proto"]),
    ("shoal-data-tool", &["shoal-kit", "shoal-proto", "shoal-top"]),
    ("shoal-gateway", &["shoal-balance", "shoal-http2", "shoal-kit", "shoal-proto"]),
    ("shoal-session", STATEFUL),
    ("shoal-cache", STATEFUL),
    ("shoal-data", STATEFUL),
    ("shoal-jobs", STATEFUL),
    (
        "shoal",
        &[
            "shoal-bench",
            "shoal-cache",
            "shoal-data",
            "shoal-data-tool",
            "shoal-embedded",
            "shoal-gateway",
            "shoal-jobs",
            "shoal-kit",
            "shoal-proto",
            "shoal-session",
            "shoal-top",
        ],
    ),
    ("shoal-tests", &["shoal-balance", "shoal-client", "shoal-kit", "shoal-proto", TESTING]),
];
const STATEFUL: &[&str] = &[
    "shoal-client",
    "shoal-embedded",
    "shoal-kit",
    "shoal-proto",
    "shoal-redis-link",
    "shoal-tag-clock",
    TESTING,
];
/// Crates that tests share: nothing else depends on it.
const TESTING: &str = "shoal-testing";

/// A file longer than this is more than one noun.
const LINES_MAX: usize = 900;

fn check(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn crates_depend_on_lower_layers_only() {
    let allowed: BTreeMap<_, _> = LAYERS.into_iter().collect();
    let tree = Tree::here();
    let mut problems = Vec::new();
    let mut seen = 0;
    for file in tree.files().iter().filter(|f| f.ends_with("Cargo.toml") && f.as_str() != "Cargo.toml") {
        let manifest: toml::Table = tree.read(file).parse().expect("a manifest");
        let name = manifest["package"]["name"].as_str().expect("a name").to_owned();
        let Some(layer) = allowed.get(name.as_str()) else {
            problems.push(format!("{file}: {name} is not in the table of layers; say what it may depend on"));
            continue;
        };
        seen += 1;
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(section).and_then(toml::Value::as_table) else { continue };
            for (dependency, how) in dependencies {
                if dependency.starts_with("shoal") && !layer.contains(&dependency.as_str()) {
                    problems.push(format!("{file}: {name} must not depend on {dependency}"));
                }
                if dependency == TESTING && section != "dev-dependencies" {
                    problems.push(format!("{file}: {dependency} is for tests alone"));
                }
                if how.get("workspace").is_none() {
                    problems.push(format!("{file}: {dependency} must be `workspace = true`"));
                }
                if how.get("features").is_some() {
                    problems
                        .push(format!("{file}: {dependency}: features stand in the workspace table only"));
                }
            }
        }
    }
    assert_eq!(seen, LAYERS.len(), "a crate of the table is gone");
    check(&problems);
}

#[test]
fn drivers_and_tonic_stay_at_their_edges() {
    let tree = Tree::here();
    let mut problems = Vec::new();
    for file in tree.rust_files() {
        let Some((service, path)) = file.strip_prefix("services/").and_then(|rest| rest.split_once("/src/"))
        else {
            continue;
        };
        if service == "gateway" {
            continue;
        }
        let store = path.starts_with("store/") || path == "store.rs" || path == "engine.rs";
        let edge = path == "service.rs" || path.starts_with("service/") || path == "error.rs";
        // The cache is also a client: its loaders speak to other services.
        let client = path.starts_with("loader/") || path == "loader.rs";
        for (number, line) in tree.read(file).lines().enumerate() {
            let code = line.trim_start();
            if code.starts_with("//") {
                continue;
            }
            let names = |names: &[&str]| names.iter().any(|name| code.contains(name));
            if names(&["redis::", "scylla::", "fjall::", "shoal_redis_link::", "shoal_embedded::"]) && !store
            {
                problems.push(format!("{file}:{}: a driver outside store/: {code}", number + 1));
            }
            let bindings = names(&["tonic::", "shoal_proto::"]);
            if bindings && !(edge || client || path == "lib.rs" || path.contains("test")) && !is_test(file) {
                problems
                    .push(format!("{file}:{}: tonic or the bindings outside service.rs: {code}", number + 1));
            }
        }
    }
    check(&problems);
}

/// Conformance suites and test modules may name what they like.
fn is_test(file: &str) -> bool {
    file.contains("conformance") || file.contains("/tests")
}

#[test]
fn balance_and_kit_know_no_domain() {
    let tree = Tree::here();
    let mut problems = Vec::new();
    for file in tree.rust_files() {
        let plumbing = [
            "crates/http2/",
            "crates/balance/",
            "crates/coalesce/",
            "crates/grpc-code/",
            "crates/kit/",
            "crates/embedded/",
            "crates/redis-link/",
        ];
        if plumbing.iter().any(|dir| file.starts_with(dir)) && tree.read(file).contains("shoal_proto") {
            problems.push(format!("{file} names shoal_proto"));
        }
    }
    check(&problems);
}

#[test]
fn files_are_one_noun_each() {
    let tree = Tree::here();
    let mut problems = Vec::new();
    for file in tree.rust_files() {
        let name = Path::new(file).file_stem().and_then(|s| s.to_str()).expect("a name");
        if ["mod", "utils", "util", "common", "helpers", "helper", "manager", "misc"].contains(&name) {
            problems.push(format!("{file}: a file is named after one noun"));
        }
        let text = tree.read(file);
        if !text.starts_with("//!") {
            problems.push(format!("{file}: must open with //! what it owns"));
        }
        let lines = text.lines().count();
        if lines > LINES_MAX {
            problems.push(format!("{file}: {lines} lines; more than {LINES_MAX} are more than one noun"));
        }
        if file.starts_with("services/") && file.ends_with("/src/main.rs") && lines > 20 {
            problems.push(format!("{file}: a thin main has at most 20 lines, not {lines}"));
        }
    }
    check(&problems);
}

#[test]
fn no_test_is_skipped_or_unfinished() {
    // Put together here so that this file does not name them itself.
    let words = [
        ["#[ig", "nore"],
        ["to", "do!("],
        ["unimpl", "emented!("],
        ["set_", "var("],
        ["FIX", "ME"],
        ["XX", "X:"],
    ];
    let tree = Tree::here();
    let mut problems = Vec::new();
    for file in tree.rust_files() {
        for (number, line) in tree.read(file).lines().enumerate() {
            for word in words.map(|parts| parts.concat()) {
                if line.contains(&word) {
                    problems.push(format!("{file}:{}: {word}", number + 1));
                }
            }
        }
    }
    check(&problems);
}

#[test]
fn files_name_no_foreign_places() {
    let words = [
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["index.crates", ".io"],
        ["proxy.golang", ".org"],
        ["registry.npm", "js"],
        ["repo1.ma", "ven"],
        ["repo.ma", "ven"],
        ["pypi", ".org"],
        ["deb.deb", "ian"],
    ]
    .map(|parts| parts.concat());
    let tree = Tree::here();
    let mut problems = Vec::new();
    for file in tree.files().iter().filter(|file| file.as_str() != "Cargo.lock" && file.as_str() != "LICENSE")
    {
        for (number, line) in tree.read(file).lines().enumerate() {
            for word in &words {
                if line.contains(word.as_str()) {
                    problems.push(format!("{file}:{}: {word}", number + 1));
                }
            }
        }
    }
    check(&problems);
}
