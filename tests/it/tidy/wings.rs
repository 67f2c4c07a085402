//! The wings of each crate: an order of its files and folders, in which each imports only what stands below it.

use std::collections::BTreeSet;

use super::check;
use super::imports::Imports;
use super::tree::{Tree, part_of};

/// The files and folders directly in the sources of a crate, from the top to the bottom: each imports only those after it.
const ORDER: [(&str, &[&str]); 15] = [
    (
        "services/gateway",
        &[
            "process",
            "gateway",
            "server",
            "forwarding",
            "service",
            "routing",
            "upstream",
            "admission",
            "error",
            "resilience",
            "config",
        ],
    ),
    (
        "crates/balance",
        &[
            "channel",
            "balancer",
            "supervisor",
            "call",
            "outcome",
            "unavailable",
            "upstream_state",
            "discovery",
            "log_dedup",
            "selection",
            "endpoint",
            "fairness",
            "load",
            "options",
            "snapshot",
            "stores",
        ],
    ),
    (
        "crates/http2",
        &[
            "server",
            "client",
            "pings",
            "handle",
            "io",
            "connection",
            "config",
            "message",
            "stream",
            "window",
            "frame",
            "error",
            "hpack",
        ],
    ),
    (
        "crates/redis-link",
        &[
            "link",
            "topology",
            "cluster",
            "node",
            "connection",
            "call",
            "config",
            "health",
            "endpoint",
            "script",
            "slot",
            "meter",
            "error",
            "backoff",
        ],
    ),
    ("crates/tag-clock", &["clock", "redis", "memory", "intent", "process", "shard", "stamp"]),
    (
        "crates/embedded",
        &[
            "repair", "database", "writer", "tx", "keyspace", "range", "storage", "meter", "error", "damage",
            "commits", "cut", "journal", "ledger", "commit", "trouble",
        ],
    ),
    ("crates/kit", &["process", "settings", "serving", "telemetry", "page", "errors", "role"]),
    (
        "services/cache",
        &[
            "engine",
            "service",
            "cache",
            "object",
            "error",
            "loader",
            "namespace",
            "hot_keys",
            "gate",
            "store",
            "body",
            "config",
            "key",
            "limit",
        ],
    ),
    (
        "services/data",
        &[
            "engine",
            "service",
            "tables",
            "read",
            "write",
            "blob",
            "feed",
            "view_build",
            "data",
            "tags",
            "page_token",
            "store",
            "page_key",
            "coalesce",
            "config",
            "change_record",
            "view_entry",
            "conditional",
            "mutation",
            "row",
            "key",
            "row_codec",
            "table",
            "error",
            "write_token",
            "clock",
            "value",
        ],
    ),
    (
        "services/session",
        &[
            "engine",
            "key_comparison",
            "service",
            "sessions",
            "sweeper",
            "watch",
            "store",
            "config",
            "error",
            "event",
            "session",
            "keys",
            "clock",
            "id",
        ],
    ),
    (
        "services/jobs",
        &[
            "engine",
            "maintainer",
            "queue_metrics",
            "service",
            "jobs",
            "leaser",
            "trace",
            "watch",
            "store",
            "config",
            "hub",
            "error",
            "request",
            "job",
        ],
    ),
    (
        "apps/bench",
        &[
            "plan",
            "page",
            "diff",
            "engine",
            "gateway",
            "generator",
            "peer",
            "session",
            "data",
            "mesh",
            "scale_command",
            "scale_service",
            "single_load",
            "clones",
            "known",
            "pace",
            "pacing",
            "cql",
            "echo",
            "scale",
            "round",
            "run",
            "results",
            "machine",
            "live_view",
            "method",
            "load",
            "process",
            "report",
        ],
    ),
    (
        "apps/top",
        &["once", "screen", "args", "view", "fit", "help", "keys", "row", "queues", "watch", "dial"],
    ),
    (
        "apps/data",
        &[
            "export",
            "import",
            "lint",
            "put",
            "read",
            "verify",
            "scan",
            "blob",
            "file",
            "connection",
            "output",
            "args",
            "key",
            "json",
            "typed",
            "checkpoint",
            "progress",
            "retry",
        ],
    ),
    ("apps/shoal", &["config", "health", "repair", "serve", "up", "engines", "report"]),
];

/// Returns the folder of the sources of each crate.
fn crates(tree: &Tree) -> Vec<String> {
    let mut crates: Vec<String> = tree
        .rust_files()
        .map(|file| format!("{}/src", part_of(file)))
        .filter(|folder| tree.rust_files().any(|file| file.starts_with(folder.as_str())))
        .collect();
    crates.dedup();
    crates
}

#[test]
fn files_import_without_circles() {
    let tree = Tree::here();
    let mut problems = Vec::new();
    for folder in crates(&tree) {
        let imports = Imports::read(&tree, &folder);
        let circles = imports.circles();
        for circle in circles {
            problems.push(format!("{folder}: {} files import each other in a circle:", circle.len()));
            let within =
                |(from, to): &&(Vec<String>, Vec<String>)| circle.contains(from) && circle.contains(to);
            let arrows = imports.arrows.iter().filter(within);
            problems.extend(
                arrows.map(|(from, to)| format!("    {} → {}", imports.files[from], imports.files[to])),
            );
        }
    }
    check(&problems);
}

#[test]
fn wings_import_only_lower_ones() {
    let tree = Tree::here();
    let mut problems = Vec::new();
    for (name, order) in ORDER {
        let imports = Imports::read(&tree, &format!("{name}/src"));
        let at = |room: &String| order.iter().position(|other| other == room);
        let rooms: BTreeSet<&String> = imports.files.keys().filter_map(|module| module.first()).collect();
        let missing = rooms.iter().filter(|room| at(room).is_none());
        let mut of_crate: Vec<String> =
            missing.map(|room| format!("{name}: {room} is not in the order; say where it stands")).collect();
        let gone = order.iter().filter(|room| !rooms.iter().any(|other| other == *room));
        of_crate.extend(gone.map(|room| format!("{name}: {room} is in the order and not in the crate")));
        for (from, to) in imports.rooms() {
            if at(&from).zip(at(&to)).is_some_and(|(from, to)| from > to) {
                of_crate.push(format!("{name}: {from} imports {to}, which stands above it"));
            }
        }
        if !of_crate.is_empty() {
            of_crate.push(format!("{name}: an order that the imports allow: {:?}", imports.order()));
        }
        problems.extend(of_crate);
    }
    check(&problems);
}
