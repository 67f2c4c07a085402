//! Imports among the files of a crate: the graph behind the order of the wings.
//!
//! Reads tokens, not syntax trees: `use` statements and paths that begin with `crate`, `self` or `super`. What tests alone
//! import does not count. A name that a module re-exports leads to the file that has it.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::Tree;

/// A path of module names from the root of a crate; the root's own is empty.
pub(super) type Module = Vec<String>;

/// The files of a crate as a graph.
pub(super) struct Imports {
    /// The file of each module.
    pub(super) files: BTreeMap<Module, String>,
    /// Pairs of modules of which the first imports the second, parents and children left out.
    pub(super) arrows: BTreeSet<(Module, Module)>,
}

/// Modules that a file names.
#[derive(Default)]
struct Source {
    /// Names that `use` brings into the module, with their paths as written.
    names: BTreeMap<String, Vec<String>>,
    /// Paths whose every name is brought into the module.
    globs: Vec<Vec<String>>,
    /// Paths that are used anywhere in the file.
    paths: Vec<Vec<String>>,
    /// Modules that only tests have.
    test_modules: Vec<String>,
}

impl Imports {
    /// Reads the crate whose sources are in a folder, such as `services/gateway/src`.
    pub(super) fn read(tree: &Tree, folder: &str) -> Self {
        let prefix = format!("{folder}/");
        let mut files = BTreeMap::new();
        for file in tree.rust_files() {
            let Some(path) = file.strip_prefix(&prefix).and_then(|path| path.strip_suffix(".rs")) else {
                continue;
            };
            if path.starts_with("bin/")
                || path == "main" && tree.files().contains(&format!("{folder}/lib.rs"))
            {
                continue;
            }
            let root = path == "lib" || path == "main";
            let module = if root { Vec::new() } else { path.split('/').map(str::to_owned).collect() };
            files.insert(module, file.clone());
        }
        let mut sources: BTreeMap<Module, Source> =
            files.iter().map(|(module, file)| (module.clone(), Source::read(&tree.read(file)))).collect();
        let of_tests: Vec<Module> = sources
            .iter()
            .flat_map(|(module, source)| source.test_modules.iter().map(|name| child(module, name)))
            .collect();
        let is_test = |module: &Module| of_tests.iter().any(|test| module.starts_with(test));
        sources.retain(|module, _| !is_test(module));
        files.retain(|module, _| !is_test(module));
        let mut arrows = BTreeSet::new();
        for (module, source) in &sources {
            for path in &source.paths {
                if let Some(target) = resolve(&sources, module, path, 0)
                    && !target.starts_with(module)
                    && !module.starts_with(&target)
                {
                    arrows.insert((module.clone(), target));
                }
            }
        }
        Self { files, arrows }
    }

    /// Returns the groups of files that import each other in a circle.
    pub(super) fn circles(&self) -> Vec<Vec<Module>> {
        circles(&self.arrows)
    }

    /// Returns who imports whom among the rooms, which are the files and folders directly in the crate's `src`.
    pub(super) fn rooms(&self) -> BTreeSet<(String, String)> {
        let room = |module: &Module| module.first().cloned();
        let arrows = self.arrows.iter().filter_map(|(from, to)| Some((room(from)?, room(to)?)));
        arrows.filter(|(from, to)| from != to).collect()
    }

    /// Returns the rooms from the top to the bottom, in the first order by name in which all arrows go down; with a circle
    /// among them, without the rooms in it and those below.
    pub(super) fn order(&self) -> Vec<String> {
        let arrows = self.rooms();
        let mut left: BTreeSet<String> =
            self.files.keys().filter_map(|module| module.first().cloned()).collect();
        let mut order = Vec::new();
        let free = |left: &BTreeSet<String>| {
            let imported = |room: &String| arrows.iter().any(|(from, to)| to == room && left.contains(from));
            left.iter().find(|room| !imported(room)).cloned()
        };
        while let Some(room) = free(&left) {
            left.remove(&room);
            order.push(room);
        }
        order
    }

    /// Returns how many arrows between rooms go up in the best order of the rooms that there is: so many have to go until
    /// the rooms have an order.
    pub(super) fn upward(&self) -> usize {
        let rooms = self.rooms();
        circles(&rooms).iter().map(|circle| upward_within(circle, &rooms)).sum()
    }
}

fn child(module: &[String], name: &str) -> Module {
    module.iter().cloned().chain([name.to_owned()]).collect()
}

/// Returns the module that has the item of a path, if it is one of this crate.
fn resolve(
    sources: &BTreeMap<Module, Source>,
    from: &[String],
    path: &[String],
    depth: usize,
) -> Option<Module> {
    // Names that lead in a circle lead nowhere.
    if depth > 8 {
        return None;
    }
    let mut rest = path;
    let mut at: Module = match path.first()?.as_str() {
        "crate" => Vec::new(),
        "self" => from.to_vec(),
        "super" => from.to_vec(),
        name if sources.contains_key(&child(from, name)) => from.to_vec(),
        _ => return None,
    };
    if ["crate", "self"].contains(&path[0].as_str()) {
        rest = &rest[1..];
    }
    while rest.first().is_some_and(|part| part == "super") {
        at.pop()?;
        rest = &rest[1..];
    }
    while let Some((name, after)) = rest.split_first() {
        let below = child(&at, name);
        if sources.contains_key(&below) {
            (at, rest) = (below, after);
            continue;
        }
        let source = sources.get(&at)?;
        if let Some(renamed) = source.names.get(name) {
            let longer: Vec<String> = renamed.iter().chain(after).cloned().collect();
            return resolve(sources, &at, &longer, depth + 1).or(Some(at));
        }
        for glob in &source.globs {
            let Some(target) = resolve(sources, &at, glob, depth + 1) else { continue };
            if target != at && sources.get(&target).is_some_and(|source| source.names.contains_key(name)) {
                let longer: Vec<String> = glob.iter().chain(rest).cloned().collect();
                return resolve(sources, &at, &longer, depth + 1);
            }
        }
        break;
    }
    Some(at)
}

/// Returns the strongly connected groups of more than one: each reaches each.
fn circles<T: Ord + Clone>(arrows: &BTreeSet<(T, T)>) -> Vec<Vec<T>> {
    let mut next: BTreeMap<&T, Vec<&T>> = BTreeMap::new();
    for (from, to) in arrows {
        next.entry(from).or_default().push(to);
    }
    let reached = |from: &T| {
        let (mut seen, mut todo) = (BTreeSet::new(), vec![from]);
        while let Some(at) = todo.pop() {
            todo.extend(next.get(at).into_iter().flatten().copied().filter(|to| seen.insert((*to).clone())));
        }
        seen
    };
    let reach: BTreeMap<&T, BTreeSet<T>> = next.keys().map(|from| (*from, reached(from))).collect();
    let mut groups: BTreeSet<Vec<T>> = BTreeSet::new();
    for (from, reached) in &reach {
        if reached.contains(*from) {
            let back = |to: &&T| reach.get(*to).is_some_and(|back| back.contains(*from));
            groups.insert(reached.iter().filter(back).cloned().collect());
        }
    }
    groups.into_iter().collect()
}

/// Returns the fewest arrows of a circle that go up in any order of its rooms.
fn upward_within(circle: &[String], arrows: &BTreeSet<(String, String)>) -> usize {
    const ROOMS_MAX: usize = 20;
    assert!(circle.len() <= ROOMS_MAX, "a circle of {} rooms is more than can be ordered", circle.len());
    let at = |room: &String| circle.iter().position(|other| other == room);
    let mut imports = vec![0_usize; circle.len()];
    for (from, to) in arrows {
        if let (Some(from), Some(to)) = (at(from), at(to)) {
            imports[from] |= 1 << to;
        }
    }
    // fewest[set]: the fewest upward arrows among the rooms of a set, when these lie below all others.
    let mut fewest = vec![usize::MAX; 1 << circle.len()];
    fewest[0] = 0;
    for set in 0..fewest.len() {
        for (room, imports) in imports.iter().enumerate().filter(|(room, _)| set >> room & 1 == 0) {
            // Whatever this room imports that does not lie below it lies above it.
            let up = (imports & !set & !(1 << room)).count_ones() as usize;
            let whole = set | 1 << room;
            fewest[whole] = fewest[whole].min(fewest[set] + up);
        }
    }
    fewest[fewest.len() - 1]
}

impl Source {
    fn read(text: &str) -> Self {
        let (tokens, test_modules) = without_tests(&tokens(text));
        let mut source = Self { test_modules, ..Self::default() };
        let word = |at: usize| tokens.get(at).map_or("", String::as_str);
        let mut at = 0;
        while at < tokens.len() {
            let used = word(at) == "use";
            let begins = ["crate", "self", "super"].contains(&word(at))
                && word(at + 1) == "::"
                && (at == 0 || !["::", "in"].contains(&word(at - 1)));
            if used || begins {
                let mut leaves = Vec::new();
                at = tree(&tokens, at + usize::from(used), &mut Vec::new(), used, &mut leaves);
                for (path, name) in leaves {
                    source.paths.push(path.clone());
                    if used && name == "*" {
                        source.globs.push(path);
                    } else if used {
                        source.names.insert(name, path);
                    }
                }
            } else {
                at += 1;
            }
        }
        source
    }
}

/// Reads a path, in a `use` with its groups, and returns where it ends. Adds each path it stands for and the name this
/// brings.
fn tree(
    tokens: &[String],
    mut at: usize,
    path: &mut Vec<String>,
    used: bool,
    leaves: &mut Vec<(Vec<String>, String)>,
) -> usize {
    let word = |at: usize| tokens.get(at).map_or("", String::as_str);
    let depth = path.len();
    if word(at) == "::" {
        at += 1;
    }
    loop {
        match word(at) {
            "{" => {
                at += 1;
                while !["}", ""].contains(&word(at)) {
                    at = tree(tokens, at, path, used, leaves);
                    if word(at) == "," {
                        at += 1;
                    }
                }
                path.truncate(depth);
                return at + 1;
            }
            "*" => {
                leaves.push((path.clone(), "*".to_owned()));
                path.truncate(depth);
                return at + 1;
            }
            // `self` at the end of a group is what stands before the group.
            "self" if !path.is_empty() => at += 1,
            name if is_name(name) => {
                path.push(name.to_owned());
                at += 1;
            }
            _ => {
                path.truncate(depth);
                return at + 1;
            }
        }
        let goes_on = word(at) == "::" && (used || is_name(word(at + 1)));
        if goes_on {
            at += 1;
            continue;
        }
        let mut name = path.last().cloned().unwrap_or_default();
        if used && word(at) == "as" {
            name = word(at + 1).to_owned();
            at += 2;
        }
        leaves.push((path.clone(), name));
        path.truncate(depth);
        return at;
    }
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Removes the items that only tests have, and returns the names of the modules among them.
fn without_tests(tokens: &[String]) -> (Vec<String>, Vec<String>) {
    let (mut kept, mut modules) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let attribute = tokens[at] == "#" && tokens.get(at + 1).is_some_and(|token| token == "[");
        if !attribute {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let end = closing(tokens, at + 1);
        let inside = &tokens[at..=end.min(tokens.len() - 1)];
        let tests = inside.get(2).is_some_and(|token| token == "cfg")
            && inside.iter().any(|token| token == "test")
            && !inside.iter().any(|token| token == "not");
        at = end + 1;
        if tests {
            let from = at;
            while at < tokens.len() && ![";", "{"].contains(&tokens[at].as_str()) {
                // Further attributes and groups of a `use`.
                at = if ["(", "["].contains(&tokens[at].as_str()) { closing(tokens, at) } else { at } + 1;
            }
            let item = &tokens[from..at.min(tokens.len())];
            if let Some(module) = item.iter().position(|token| token == "mod") {
                modules.extend(item.get(module + 1).cloned());
            }
            if tokens.get(at).is_some_and(|token| token == "{") {
                at = closing(tokens, at);
                if item.iter().any(|token| token == "use") {
                    at += 1;
                }
            }
            at += 1;
        }
    }
    (kept, modules)
}

/// Returns where the bracket that opens at a token closes.
fn closing(tokens: &[String], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

/// Splits a Rust text into names, `::` and single signs; comments, texts and characters are left out.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    let is = |at: usize, wanted: char| chars.get(at) == Some(&wanted);
    while at < chars.len() {
        let char = chars[at];
        if char == '/' && is(at + 1, '/') {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if char == '/' && is(at + 1, '*') {
            while at < chars.len() && !(chars[at] == '*' && is(at + 1, '/')) {
                at += 1;
            }
            at += 2;
        } else if char == 'r' && (is(at + 1, '"') || is(at + 1, '#') && (is(at + 2, '"') || is(at + 2, '#')))
        {
            let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
            at += hashes + 2;
            while at < chars.len() && !(chars[at] == '"' && (1..=hashes).all(|i| is(at + i, '#'))) {
                at += 1;
            }
            at += hashes + 1;
        } else if char == '"' {
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if char == '\'' && (is(at + 1, '\\') || is(at + 2, '\'')) {
            at += if is(at + 1, '\\') { 3 } else { 2 };
            while at < chars.len() && chars[at] != '\'' {
                at += 1;
            }
            at += 1;
        } else if char.is_alphanumeric() || char == '_' {
            let begin = at;
            while at < chars.len() && (chars[at].is_alphanumeric() || chars[at] == '_') {
                at += 1;
            }
            tokens.push(chars[begin..at].iter().collect());
        } else if char == ':' && is(at + 1, ':') {
            tokens.push("::".to_owned());
            at += 2;
        } else {
            if !char.is_whitespace() {
                tokens.push(char.to_string());
            }
            at += 1;
        }
    }
    tokens
}

#[test]
fn imports_are_read_from_tokens() {
    let source = Source::read(
        "//! use crate::comment;\nuse crate::a::{self, b::C as D, e::*};\npub(in crate::f) fn g() -> super::H<'_> { \
         crate::i::j(\"crate::text\", '\\'', '\"', r#\"crate::raw\"#) }\n#[cfg(test)]\nmod tests { use crate::k; }\n\
         #[cfg(test)]\nuse crate::l::{M};\nuse crate::n;",
    );
    let paths: Vec<String> = source.paths.iter().map(|path| path.join("::")).collect();
    assert_eq!(paths, ["crate::a", "crate::a::b::C", "crate::a::e", "super::H", "crate::i::j", "crate::n"]);
    assert_eq!(source.names["D"].join("::"), "crate::a::b::C");
    assert_eq!(source.test_modules, ["tests"]);
}

#[test]
fn upward_arrows_are_the_fewest() {
    let arrows = |pairs: &[(&str, &str)]| -> BTreeSet<(String, String)> {
        pairs.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect()
    };
    let circle = arrows(&[("a", "b"), ("b", "c"), ("c", "a"), ("a", "c"), ("c", "d")]);
    assert_eq!(circles(&circle), [["a", "b", "c"]]);
    assert_eq!(upward_within(&circles(&circle)[0], &circle), 1);
    assert!(circles(&arrows(&[("a", "b"), ("b", "c"), ("a", "c")])).is_empty());
}
