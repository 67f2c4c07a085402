//! The words of the tree: how doc comments open, and how many words the names of tests have.

use std::collections::BTreeMap;

use super::check;
use super::tree::{Tree, part_of};

/// Words that seldom open a sentence which stands alone. Rustdoc and `grpcurl describe` show a comment without its
/// neighbours, so it begins with a verb or with the noun that it defines.
const BAD_OPENINGS: [&str; 35] = [
    "what", "how", "whether", "it", "of", "one", "who", "that", "which", "so", "such", "those", "these",
    "they", "this", "with", "without", "in", "by", "to", "from", "as", "if", "while", "since", "until", "at",
    "for", "most", "more", "some", "no", "none", "nobody", "nothing",
];
/// Openings that begin with such a word and are sentences all the same.
const GOOD_OPENINGS: [&str; 5] = ["If ", "At most ", "At least ", "For each ", "Most "];
/// Nouns before which "This" and "These" name something.
const NAMED: [&str; 8] = ["type", "trait", "module", "crate", "function", "method", "struct", "enum"];

/// The share of a part's doc comments that may open badly, in percent.
const BAD_OPENINGS_MAX: f64 = 5.0;
/// The median of the words in the names of a part's tests.
const NAME_WORDS_MAX: usize = 6;

/// Words of one part of the tree.
#[derive(Default)]
pub(super) struct Words {
    /// Doc comments.
    pub(super) comments: usize,
    /// Places of doc comments that open badly, with the comment's first line.
    pub(super) bad: Vec<String>,
    /// Number of words of each test's name.
    names: Vec<usize>,
}

impl Words {
    /// Returns the share of doc comments that open badly, in percent.
    pub(super) fn bad_share(&self) -> f64 {
        100.0 * self.bad.len() as f64 / self.comments.max(1) as f64
    }

    /// Returns the median of the words in the names of tests; 0 without tests.
    pub(super) fn name_median(&self) -> usize {
        let mut names = self.names.clone();
        names.sort_unstable();
        names.get(names.len() / 2).copied().unwrap_or(0)
    }

    /// Adds the words of another part.
    pub(super) fn add(&mut self, other: &Words) {
        self.comments += other.comments;
        self.bad.extend_from_slice(&other.bad);
        self.names.extend_from_slice(&other.names);
    }

    fn read(&mut self, file: &str, text: &str) {
        let rows: Vec<&str> = text.lines().collect();
        let mut before = "";
        for (at, row) in rows.iter().enumerate() {
            let line = row.trim();
            let lead = if file.ends_with(".proto") {
                "//"
            } else if line.starts_with("///") {
                "///"
            } else {
                "//!"
            };
            if line.starts_with(lead) && !before.starts_with(lead) {
                let comment = line[lead.len()..].trim();
                self.comments += usize::from(!comment.is_empty());
                if opens_badly(comment) {
                    self.bad.push(format!("{file}:{}: {comment}", at + 1));
                }
            }
            if let Some(name) = function(row)
                && rows[at.saturating_sub(3)..at].iter().any(|row| is_test_attribute(row))
            {
                self.names.push(name.split('_').count());
            }
            before = line;
        }
    }
}

/// Counts the words of a tree by its parts.
pub(super) fn count(tree: &Tree) -> BTreeMap<String, Words> {
    let mut parts: BTreeMap<String, Words> = BTreeMap::new();
    for file in tree.files().iter().filter(|file| file.ends_with(".rs") || file.ends_with(".proto")) {
        parts.entry(part_of(file).to_owned()).or_default().read(file, &tree.read(file));
    }
    parts
}

/// Returns whether a doc comment begins with neither a verb nor the noun that it defines.
fn opens_badly(comment: &str) -> bool {
    let end = comment.find(|c: char| !(c.is_ascii_alphabetic() || c == '\'')).unwrap_or(comment.len());
    let opening = comment[..end].to_ascii_lowercase();
    if !BAD_OPENINGS.contains(&opening.as_str()) || GOOD_OPENINGS.iter().any(|good| comment.starts_with(good))
    {
        return false;
    }
    let noun = comment.strip_prefix("This ").or_else(|| comment.strip_prefix("These "));
    let noun = noun.and_then(|rest| rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next());
    !noun.is_some_and(|noun| NAMED.contains(&noun))
}

/// Returns the name of the function that a line declares.
fn function(row: &str) -> Option<&str> {
    let row = row.trim_start();
    let row = row.strip_prefix("pub ").unwrap_or(row);
    let row = row.strip_prefix("async ").unwrap_or(row);
    let (name, _) = row.strip_prefix("fn ")?.split_once('(')?;
    name.chars().all(|c| c.is_alphanumeric() || c == '_').then_some(name)
}

fn is_test_attribute(row: &str) -> bool {
    // Put together so that the test of this file does not count its own text.
    [["#[te", "st"], ["#[tokio::te", "st"]].iter().any(|parts| row.contains(&parts.concat()))
}

#[test]
fn doc_comments_open_with_their_noun() {
    let mut problems = Vec::new();
    for (part, words) in count(&Tree::here()) {
        if words.bad_share() > BAD_OPENINGS_MAX {
            problems.push(format!(
                "{part}: {:.1} % open badly; at most {BAD_OPENINGS_MAX} % may",
                words.bad_share()
            ));
            problems.extend_from_slice(&words.bad);
        }
    }
    check(&problems);
}

#[test]
fn test_names_are_short() {
    let mut problems = Vec::new();
    for (part, words) in count(&Tree::here()) {
        if words.name_median() > NAME_WORDS_MAX {
            problems.push(format!(
                "{part}: half of the test names have {} words or more, above {NAME_WORDS_MAX}",
                words.name_median()
            ));
        }
    }
    check(&problems);
}

#[test]
fn openings_are_told_apart() {
    for bad in ["What it does.", "Whether it is.", "it's", "of these", "This is", "One", "No."] {
        assert_eq!(opens_badly(bad), ["it's"].iter().all(|good| *good != bad), "{bad}");
    }
    for good in
        ["Returns whether it is.", "At most ten.", "If none", "This type", "Offers", "", "`of`", "Nonesuch"]
    {
        assert!(!opens_badly(good), "{good}");
    }
}
