//! `shoal bench page`: the page of results, docs/benchmarks.md, from the files that `--json` wrote.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::Args;

use crate::report;
use crate::results::Results;

/// Settings of the page.
#[derive(Debug, Args)]
pub(crate) struct PageArgs {
    /// Folder with the files that `--json` wrote
    #[arg(long, default_value = "docs/benchmarks")]
    from: PathBuf,
}

const ABOUT: &str = "\
# Results of the benchmarks

`shoal bench` lists the benchmarks. This page is made from the files in [benchmarks](benchmarks), which `--json` wrote, by
`shoal bench page`; a test makes it again and compares. CPU time per call is the figure to trust on a small machine. Each section
says where it ran, what else the machine did, and what to doubt for that reason.

To measure again, on a quiet machine, in a checkout:

```
cargo build --profile dist -p shoal
scripts/engines start redis cassandra
eval \"$(scripts/engines env)\"
";

const AFTER: &str = "\
SHOAL_WRITE_DOCS=1 cargo test -p shoal-tests --test it benchmarks
```

The last command writes this page. `shoal bench gateway` measures peers beside ours after `scripts/engines install peers`.

## The shape of a file

All benchmarks write the same JSON, `shoal-bench/1`, by `--json`; the scale report, whose `--json` is all of its data, by `--figures`:

| field | meaning |
|---|---|
| `format`, `benchmark`, `title`, `command`, `version` | what was run, and what repeats it |
| `begun`, `seconds` | when, in RFC 3339, and how long it took |
| `repetitions`, `warm_up` | repetitions of each row, interleaved with those of the others; what ran before, uncounted |
| `machine.cpu`, `cores`, `allowed_cpus`, `kernel`, `memory_bytes`, `build` | where |
| `machine.load_before`, `load_after`, `busy_before`, `steal` | load averages; shares of all CPUs that others used before it, and that the host took during it |
| `machine.calibration_before_ms`, `calibration_after_ms` | median time of a fixed loop on one CPU: a drift says that the machine changed its speed meanwhile |
| `tables[].columns[]` | `key` (stable, unit last), `title`, `digits`, `ratio` (true if figures are compared with the peer's) |
| `tables[].rows[]` | `name`, `peer` (name of the row that it is compared with, or null), `cells` (one for each column, or null) |
| `cells[]` | `median`, `min`, `max`, `ratio` (median divided by the peer's), `samples` (one for each repetition) |
| `notes`, `attachments` | sentences that belong to the figures; configuration files |
";

pub(crate) fn run(args: &PageArgs) -> anyhow::Result<()> {
    report::line(page(&args.from)?.trim_end());
    Ok(())
}

/// Returns the page of all files of a folder, in the order of their names.
fn page(from: &Path) -> anyhow::Result<String> {
    let mut text = ABOUT.to_owned();
    let runs = runs(from)?;
    for (file, run) in &runs {
        let flag = if run.benchmark == "scale" { "--figures" } else { "--json" };
        text.push_str(&format!("{} {flag} docs/benchmarks/{file}\n", repeated(&run.command)));
    }
    text.push_str(AFTER);
    for (_, run) in &runs {
        text.push('\n');
        text.push_str(&run.markdown(2));
    }
    Ok(text)
}

/// Returns the command that repeats a run in a checkout. Engines of the tests, whose ports change, have their variables.
fn repeated(command: &str) -> String {
    let mut words: Vec<String> = command.split(' ').map(str::to_owned).collect();
    words[0] = "target/dist/shoal".to_owned();
    for n in 1..words.len() {
        match words[n - 1].as_str() {
            "--redis" => words[n] = "\"$SHOAL_TEST_REDIS\"".to_owned(),
            "--cassandra" => words[n] = "\"$SHOAL_TEST_CASSANDRA\"".to_owned(),
            _ => {}
        }
    }
    words.join(" ")
}

/// Reads all results of a folder, with the names of their files.
///
/// # Errors
/// When there are none, or a file is of something else.
pub(crate) fn runs(from: &Path) -> anyhow::Result<Vec<(String, Results)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    files.sort();
    ensure!(
        !files.is_empty(),
        "{} has no results; `shoal bench NAME --json FILE` writes them",
        from.display()
    );
    let named = files.iter().map(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok((name, Results::read(path)?))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::example;

    #[test]
    fn results_appear_in_the_order_of_names() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["b", "a"] {
            let results = Results { benchmark: name.to_owned(), ..example() };
            results.write(&folder.path().join(format!("{name}.json"))).expect("written");
        }
        let page = page(folder.path()).expect("a page");
        let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text}:\n{page}"));
        assert!(at("## shoal bench a") < at("## shoal bench b"));
        assert!(page.contains("target/dist/shoal bench example --json docs/benchmarks/a.json"), "{page}");
    }

    #[test]
    fn engines_are_named_by_variables() {
        let command =
            repeated("shoal bench mesh --redis redis://127.0.0.1:1 --cassandra 127.0.0.1:2 --rounds 3");
        let expected = "target/dist/shoal bench mesh --redis \"$SHOAL_TEST_REDIS\" --cassandra \"$SHOAL_TEST_CASSANDRA\" --rounds 3";
        assert_eq!(command, expected);
    }

    #[test]
    fn an_empty_folder_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = page(folder.path()).expect_err("refused").to_string();
        assert!(error.contains("--json FILE"), "{error}");
    }
}
