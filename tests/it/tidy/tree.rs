//! The files of a tree, and which of its parts each belongs to.

use std::path::{Path, PathBuf};

/// A checked-out tree of the repository.
pub(super) struct Tree {
    root: PathBuf,
    files: Vec<String>,
}

impl Tree {
    /// Returns the tree that these tests were built from.
    pub(super) fn here() -> Self {
        Self::at(Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace"))
    }

    /// Returns the tree in a folder: every file git tracks there or would track.
    pub(super) fn at(root: &Path) -> Self {
        let output = std::process::Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()
            .expect("git");
        let files: Vec<String> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter(|file| root.join(file).is_file())
            .map(str::to_owned)
            .collect();
        assert!(files.len() > 50, "git ls-files found only {}", files.len());
        Self { root: root.to_owned(), files }
    }

    /// Returns the paths of all files, from the root of the tree.
    pub(super) fn files(&self) -> &[String] {
        &self.files
    }

    /// Returns the paths of the Rust files.
    pub(super) fn rust_files(&self) -> impl Iterator<Item = &String> {
        self.files.iter().filter(|file| file.ends_with(".rs"))
    }

    /// Returns the text of a file.
    pub(super) fn read(&self, file: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.root.join(file)).expect("readable")).into_owned()
    }
}

/// Returns the part of the tree that a file belongs to: `services/gateway`, `proto`.
pub(super) fn part_of(file: &str) -> &str {
    let first = file.find('/').unwrap_or(file.len());
    match &file[..first] {
        "apps" | "crates" | "services" => {
            file[first + 1..].find('/').map_or(file, |second| &file[..first + 1 + second])
        }
        part => part,
    }
}
