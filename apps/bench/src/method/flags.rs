//! Flags that say what is called: methods with their weights and requests, metadata, and where the types come from.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use http::{HeaderName, HeaderValue};

/// Longest template of a request.
const TEMPLATE_BYTES_MAX: u64 = 4 << 20;

const WEIGHT_MAX: u32 = 1_000_000;

/// Methods to call.
#[derive(Debug, Clone)]
pub(crate) struct CallArgs {
    pub(crate) methods: Vec<MethodFlag>,
    pub(crate) metadata: Vec<(HeaderName, HeaderValue)>,
    pub(crate) protoset: Option<PathBuf>,
}

/// A method with its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MethodFlag {
    pub(crate) name: String,
    pub(crate) weight: u32,
    /// Template of its requests.
    pub(crate) data: String,
}

/// The flags as they are written. Which `--data` belongs to which `--method` is said by their order alone.
#[derive(Debug, Args)]
struct Flags {
    /// Method to call: package.Service/Method, unary or answering a stream. Several: each with a weight, as in
    /// --method a.B/Get=9 --method a.B/Set=1 (9 calls of 10 are Get)
    #[arg(long, value_name = "METHOD[=WEIGHT]")]
    method: Vec<String>,
    /// Requests of the --method before it, as JSON; default: {}. Placeholders are filled in for each call: {{uuid}}, {{seq}}
    /// (0, 1, 2…), {{zipf:N:S}} (1 to N, rank k in proportion to 1/k^S) and {{line:FILE}} (the file's lines in turn)
    #[arg(long, value_name = "JSON")]
    data: Vec<String>,
    /// Requests of the --method before it, from a file with the same content as --data
    #[arg(long, value_name = "FILE")]
    data_file: Vec<PathBuf>,
    /// Metadata of every call
    #[arg(long, value_name = "NAME: VALUE", value_parser = metadata)]
    metadata: Vec<(HeaderName, HeaderValue)>,
    /// Descriptors of the methods' types, where the server offers no reflection: a FileDescriptorSet with all imports
    #[arg(long, value_name = "FILE")]
    protoset: Option<PathBuf>,
}

impl Args for CallArgs {
    fn augment_args(command: Command) -> Command {
        Flags::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Flags::augment_args_for_update(command)
    }
}

impl FromArgMatches for CallArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<CallArgs, clap::Error> {
        let flags = Flags::from_arg_matches(matches)?;
        let methods = methods(&flags, matches)
            .map_err(|error| clap::Error::raw(ErrorKind::ValueValidation, format!("{error:#}\n")))?;
        Ok(CallArgs { methods, metadata: flags.metadata, protoset: flags.protoset })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = CallArgs::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Gives each method the data that stands between it and the next one.
fn methods(flags: &Flags, matches: &ArgMatches) -> anyhow::Result<Vec<MethodFlag>> {
    let places = |id: &str| matches.indices_of(id).into_iter().flatten();
    let mut methods = Vec::new();
    for (place, text) in places("method").zip(&flags.method) {
        methods.push((place, method(text)?, None));
    }
    let inline = places("data").zip(&flags.data).map(|(place, json)| (place, json.clone()));
    let mut data: Vec<(usize, String)> = inline.collect();
    for (place, file) in places("data_file").zip(&flags.data_file) {
        data.push((place, read(file)?));
    }
    for (place, json) in data {
        let alone = methods.len() == 1;
        let owner = methods.iter_mut().rfind(|(method, ..)| *method < place || alone);
        let (_, method, slot) =
            owner.context("--data and --data-file belong after the --method that they are for")?;
        anyhow::ensure!(
            slot.is_none(),
            "{} has two --data: give each --method its own, after it",
            method.name
        );
        *slot = Some(json);
    }
    let with_data = methods.into_iter().map(|(_, method, data)| match data {
        Some(data) => MethodFlag { data, ..method },
        None => method,
    });
    Ok(with_data.collect())
}

/// Parses `METHOD[=WEIGHT]`.
fn method(text: &str) -> anyhow::Result<MethodFlag> {
    let (name, weight) = text.split_once('=').unwrap_or((text, "1"));
    let weight: Option<u32> = weight.parse().ok().filter(|weight| (1..=WEIGHT_MAX).contains(weight));
    let weight =
        weight.with_context(|| format!("--method {text}: a weight is a number from 1 to {WEIGHT_MAX}"))?;
    Ok(MethodFlag { name: name.to_owned(), weight, data: "{}".to_owned() })
}

fn read(file: &Path) -> anyhow::Result<String> {
    let named = || format!("--data-file {}", file.display());
    let bytes = std::fs::metadata(file).with_context(named)?.len();
    anyhow::ensure!(bytes <= TEMPLATE_BYTES_MAX, "{}: more than {} MiB", named(), TEMPLATE_BYTES_MAX >> 20);
    std::fs::read_to_string(file).with_context(named)
}

/// Parses `name: value`.
fn metadata(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write `name: value`")?;
    let name: HeaderName =
        name.trim().to_lowercase().parse().map_err(|error| format!("the name: {error}"))?;
    let ours = ["te", "content-type", "connection", "host", "content-length", "transfer-encoding"];
    if ours.contains(&name.as_str()) {
        return Err(format!("`{name}` is set by gRPC itself"));
    }
    let value = HeaderValue::from_str(value.trim()).map_err(|error| format!("the value: {error}"))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<CallArgs, String> {
        let command = CallArgs::augment_args(Command::new("test"));
        let all = std::iter::once("test").chain(arguments.iter().copied());
        let matches = command.try_get_matches_from(all).map_err(|error| error.to_string())?;
        CallArgs::from_arg_matches(&matches).map_err(|error| error.to_string())
    }

    fn methods(arguments: &[&str]) -> Vec<(String, u32, String)> {
        let args = parsed(arguments).expect("valid");
        args.methods.into_iter().map(|method| (method.name, method.weight, method.data)).collect()
    }

    fn of(name: &str, weight: u32, data: &str) -> (String, u32, String) {
        (name.to_owned(), weight, data.to_owned())
    }

    #[test]
    fn data_belongs_to_the_method_before() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "2").expect("written");
        let path = file.path().to_str().expect("UTF-8");
        let given = [
            "--method",
            "a.B/C=3",
            "--method",
            "a.B/D",
            "--data-file",
            path,
            "--method",
            "a.B/E",
            "--data",
            "3",
        ];
        assert_eq!(methods(&given), [of("a.B/C", 3, "{}"), of("a.B/D", 1, "2"), of("a.B/E", 1, "3")]);
        assert_eq!(methods(&["--data", "1", "--method", "a.B/C"]), [of("a.B/C", 1, "1")]);
    }

    #[test]
    fn misplaced_data_is_refused() {
        let error = |arguments: &[&str]| parsed(arguments).expect_err("refused");
        let twice = error(&["--method", "a.B/C", "--data", "1", "--data", "2"]);
        assert!(twice.contains("a.B/C has two --data"), "{twice}");
        let first = error(&["--data", "1", "--method", "a.B/C", "--method", "a.B/D"]);
        assert!(first.contains("after the --method that they are for"), "{first}");
        let weight = error(&["--method", "a.B/C=0"]);
        assert!(weight.contains("a weight is a number from 1 to 1000000"), "{weight}");
    }

    #[test]
    fn metadata_has_a_name_and_a_value() {
        let (name, value) = metadata("Authorization: Bearer x").expect("valid");
        assert_eq!((name.as_str(), value.to_str().expect("text")), ("authorization", "Bearer x"));
        assert!(metadata("none").is_err());
        assert_eq!(metadata("TE: x").expect_err("refused"), "`te` is set by gRPC itself");
    }
}
