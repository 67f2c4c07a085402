//! `shoal config`: the reference of all settings, and the ones that hold. Both are made from the types that read them.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use shoal_kit::Settings;
use shoal_kit::cli::CommonArgs;
use shoal_kit::role::Role;
use shoal_kit::settings::{Effective, Reference, reference};

use crate::{report, up};

const INTRODUCTION: &str = "# Configuration

<!-- `shoal config reference` prints this file; the tests compare. Change the types that read the settings, not this file. -->

Settings come from flags, from `SHOAL_*` variables and from the TOML file that `--config FILE` (`SHOAL_CONFIG`) names. Flags
beat the environment, which beats the file, which beats the defaults. `shoal config print` shows the settings that hold, and
where each was given.

A key is a variable in upper case: `log_format` is `SHOAL_LOG_FORMAT`. A key of a section has two underscores after each
table's name: `idle_ttl` of `[session]` is `SHOAL_SESSION__IDLE_TTL`. `data_dir` is the flag `--data` and the variable
`SHOAL_DATA`. A key, a variable or a value that is not valid is refused at the start, and the error names it.

A duration is text with a unit: `\"500ms\"`, `\"10s\"`, `\"1h 30m\"`. `NAME` stands for a name of your choice. A dash means that
the key has no value unless you give one.
";

const PRINT_EXAMPLES: &str = "Examples:
  shoal config print                             the settings of `shoal up` here
  shoal config print --config shoal.toml --given only those that are no defaults
  SHOAL_REDIS=redis://127.0.0.1:6379 shoal config print";

/// Show the settings: those that hold, or all there are.
#[derive(Subcommand)]
pub(crate) enum Config {
    /// Print the settings that hold, as TOML, with where each was given; secrets are hidden
    #[command(after_help = PRINT_EXAMPLES)]
    Print(Box<PrintArgs>),
    /// Print every setting with its type, default and meaning, as Markdown
    #[command(after_help = "Example:\n  shoal config reference > configuration.md")]
    Reference,
}

/// Print the settings that hold.
#[derive(Args)]
pub(crate) struct PrintArgs {
    /// Leave out what is a default
    #[arg(long)]
    given: bool,
    #[command(flatten)]
    common: CommonArgs,
}

/// Runs `shoal config`.
pub(crate) fn run(command: Config) -> anyhow::Result<()> {
    match command {
        Config::Print(args) => print(&args),
        Config::Reference => {
            report::line(markdown().trim_end());
            Ok(())
        }
    }
}

/// Returns the keys of each role's section.
fn sections() -> Vec<(Role, Vec<Reference>)> {
    macro_rules! section {
        ($role:expr, $service:ident) => {
            ($role, reference::section::<$service::Config>($role.name()))
        };
    }
    vec![
        section!(Role::Gateway, shoal_gateway),
        section!(Role::Session, shoal_session),
        section!(Role::Cache, shoal_cache),
        section!(Role::Data, shoal_data),
        section!(Role::Jobs, shoal_jobs),
    ]
}

fn print(args: &PrintArgs) -> anyhow::Result<()> {
    let settings = Settings::load(&args.common, up::defaults())?;
    settings.section::<shoal_gateway::Config>(Role::Gateway.name())?;
    settings.section::<shoal_session::Config>(Role::Session.name())?;
    settings.section::<shoal_cache::Config>(Role::Cache.name())?;
    settings.section::<shoal_data::Config>(Role::Data.name())?;
    settings.section::<shoal_jobs::Config>(Role::Jobs.name())?;
    let keys: Vec<Reference> =
        reference::top().into_iter().chain(sections().into_iter().flat_map(|(_, keys)| keys)).collect();
    let mut effective = settings.effective(&keys);
    if args.given {
        effective.retain(|key| key.source.is_some());
    }
    report::line(toml(&effective).trim_end());
    Ok(())
}

/// Writes settings as TOML, each with its source in a comment. Keys without a value are comments too.
fn toml(settings: &[Effective]) -> String {
    let mut text = String::new();
    let mut table: &[String] = &[];
    for setting in settings {
        let Some((key, of)) = setting.path.split_last() else { continue };
        if of != table {
            table = of;
            let name: Vec<String> = of.iter().map(|part| toml_key(part)).collect();
            let _ = writeln!(text, "\n[{}]", name.join("."));
        }
        let key = toml_key(key);
        let _ = match &setting.value {
            None => writeln!(text, "# {key} has no value"),
            Some(value) => {
                let line = format!("{key} = {value}");
                writeln!(text, "{line:50} # {}", setting.source.as_deref().unwrap_or("default"))
            }
        };
    }
    text
}

/// Writes a key, in quotes where TOML wants them.
fn toml_key(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { key.to_owned() } else { toml::Value::from(key).to_string() }
}

/// Writes the reference of all settings.
fn markdown() -> String {
    let mut text = INTRODUCTION.to_owned();
    text += "\n## For every role\n\n| key | flag | takes | default | meaning |\n|---|---|---|---|---|\n";
    for key in reference::top() {
        let flag = key.flag.as_ref().map_or_else(|| "–".to_owned(), |flag| format!("`{flag}`"));
        let default = top_default(key.default.as_deref());
        let _ = writeln!(
            text,
            "| `{}` | {flag} | {} | {default} | {} |",
            key.path[0],
            cell(&key.takes),
            cell(&key.meaning)
        );
    }
    for (_, keys) in sections() {
        for key in keys {
            let name = key.path.last().map_or("", String::as_str);
            if key.table {
                let level = if key.path.len() == 1 { "##" } else { "###" };
                let _ = write!(text, "\n{level} `[{}]`\n\n{}\n", key.path.join("."), key.meaning);
                continue;
            }
            if !text.ends_with("|\n") {
                text += "\n| key | takes | default | meaning |\n|---|---|---|---|\n";
            }
            let default =
                key.default.map_or_else(|| "–".to_owned(), |default| format!("`{}`", cell(&default)));
            let _ =
                writeln!(text, "| `{name}` | {} | {default} | {} |", cell(&key.takes), cell(&key.meaning));
        }
    }
    text
}

/// Writes a default of a flag: a value, or words such as "in `up`: ./.shoal".
fn top_default(default: Option<&str>) -> String {
    match default {
        None => "–".to_owned(),
        Some(words) if words.contains(' ') => cell(words),
        Some(value) => format!("`{}`", cell(value)),
    }
}

/// Keeps a text from ending its cell of a Markdown table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}
