//! The figures of the tree, for whoever changes its shape: `scripts/figures` prints them of any revision.

use std::collections::BTreeMap;
use std::path::Path;

use super::imports::Imports;
use super::tree::Tree;
use super::words::{self, Words};

/// Names the folder of the tree whose figures are printed, when it is not this one.
const OF: &str = "SHOAL_FIGURES_OF";

#[test]
fn figures_of_the_tree() {
    let tree = std::env::var(OF).map_or_else(|_| Tree::here(), |folder| Tree::at(Path::new(&folder)));
    let mut report = String::from(
        "part                 files  widest  arrows  upward  circles  in circles  comments  open badly  name words\n",
    );
    let mut row = |part: &str, shape: [usize; 6], words: &Words| {
        let [files, widest, arrows, upward, circles, within] = shape;
        report += &format!(
            "{part:20} {files:5}  {widest:6}  {arrows:6}  {upward:6}  {circles:7}  {within:10}  {:8}  {:8.1} %  {:10}\n",
            words.comments,
            words.bad_share(),
            words.name_median(),
        );
    };
    let (mut sum, mut all) = ([0; 6], Words::default());
    for (part, words) in words::count(&tree) {
        let imports = Imports::read(&tree, &format!("{part}/src"));
        let circles = imports.circles();
        let files = || tree.rust_files().filter(|file| file.starts_with(&format!("{part}/")));
        let shape = [
            files().count(),
            widest(files()),
            imports.rooms().len(),
            imports.upward(),
            circles.len(),
            circles.iter().map(Vec::len).sum(),
        ];
        row(&part, shape, &words);
        for (at, figure) in shape.into_iter().enumerate() {
            sum[at] = if at == 1 { sum[at].max(figure) } else { sum[at] + figure };
        }
        all.add(&words);
    }
    row("all", sum, &all);
    report += "
widest      Rust files in the fullest folder
arrows      pairs of rooms (files and folders directly in src) of which one imports the other
upward      arrows that go up in the best order of the rooms
circles     groups of files that import each other, parents and children aside; and how many files are in one
open badly  doc comments that begin with neither a verb nor the noun they define
name words  median of the words in the names of tests
";
    eprintln!("{report}");
    assert!(sum[0] > 50 && all.comments > 50, "the figures of nothing");
}

fn widest<'f>(files: impl Iterator<Item = &'f String>) -> usize {
    let mut folders: BTreeMap<&str, usize> = BTreeMap::new();
    for file in files {
        *folders.entry(file.rsplit_once('/').map_or("", |(folder, _)| folder)).or_default() += 1;
    }
    folders.into_values().max().unwrap_or(0)
}
