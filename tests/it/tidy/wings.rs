//! The wings of each crate: an order of its files and folders, in which each imports only what stands below it.

use super::check;
use super::imports::Imports;
use super::tree::{Tree, part_of};

/// Crates with circles still, and how many files are in one. Lower them; a crate without any leaves the table.
const NOT_YET: [(&str, usize); 5] = [
    ("crates/embedded/", 6),
    ("crates/http2/", 14),
    ("crates/kit/", 10),
    ("crates/redis-link/", 12),
    ("services/session/", 9),
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
        let files: usize = circles.iter().map(Vec::len).sum();
        let max = NOT_YET.iter().find(|(name, _)| folder.starts_with(name)).map_or(0, |(_, max)| *max);
        if files <= max {
            continue;
        }
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
