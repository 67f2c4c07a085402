//! Where a value of the configuration was given and what it was, for messages; never a secret.

use figment::error::Kind;
use figment::value::Value;
use figment::{Error, Figment, Source};

use super::key::{DATA_DIR, flag, unknown};

/// Values under these keys are shown to nobody.
const SECRETS: [&str; 5] = ["redis", "keys", "pepper", "password", "key_sha256"];

/// The most of a value that is shown.
const SHOWN_MAX: usize = 80;

/// The place where a value was given.
#[derive(PartialEq, Eq)]
enum ValueSource {
    Flag,
    Variable,
    File(String),
}

/// A value as whoever gave it wrote it: `--listen foo`, `SHOAL_LISTEN=foo`, `shoal.toml: listen = "foo"`. Of a secret the
/// name only.
pub(super) fn given(figment: &Figment, path: &[&str]) -> String {
    let value = figment.find_value(&path.join(".")).ok();
    let shown = value.as_ref().and_then(|value| shown(path, value));
    let source = value_source(figment, value.as_ref());
    let name = written(&source, path);
    match (source, shown) {
        (_, None) => name,
        (ValueSource::Flag, Some(shown)) => format!("{name} {shown}"),
        (ValueSource::Variable, Some(shown)) => format!("{name}={shown}"),
        (ValueSource::File(_), Some(shown)) if matches!(value, Some(Value::String(..))) => {
            format!("{name} = \"{shown}\"")
        }
        (ValueSource::File(_), Some(shown)) => format!("{name} = {shown}"),
    }
}

/// The same of a key that there is not, without its value: it may be a secret whose name was misspelled.
pub(super) fn given_unknown(figment: &Figment, path: &[&str]) -> String {
    let value = figment.find_value(&path.join(".")).ok();
    written(&value_source(figment, value.as_ref()), path)
}

/// The name of a key as its source wrote it.
fn written(source: &ValueSource, path: &[&str]) -> String {
    match (source, path) {
        (ValueSource::Flag, path) => flag(&path.join(".")),
        (ValueSource::Variable, [key]) if *key == DATA_DIR.name => "SHOAL_DATA".to_owned(),
        (ValueSource::Variable, path) => format!("SHOAL_{}", path.join("__").to_ascii_uppercase()),
        (ValueSource::File(file), path) => format!("{file}: {}", path.join(".")),
    }
}

/// Returns who gave a value: the flag, the variable or the file.
pub(super) fn source(figment: &Figment, path: &[&str], value: &Value) -> String {
    match value_source(figment, Some(value)) {
        ValueSource::File(file) => file,
        source => written(&source, path),
    }
}

/// Returns the error of a section that does not deserialize, with the names that the user wrote.
pub(super) fn wrong(figment: &Figment, section: &str, error: &Error) -> anyhow::Error {
    // figment puts the section's own path behind that of the value.
    let within = error.path.len().saturating_sub(section.split('.').count());
    let inner = error.path[..within].iter().map(String::as_str);
    let path: Vec<&str> = section.split('.').chain(inner).collect();
    let problem = match &error.kind {
        Kind::UnknownField(name, known) => {
            let of: Vec<&str> = path.iter().copied().filter(|part| part != name).collect();
            let problem = unknown(name, known, &format!("[{}]", of.join(".")));
            return anyhow::anyhow!("{}: {problem}", given_unknown(figment, &path));
        }
        Kind::Message(_) if is_secret(&path) => "it is not valid".to_owned(),
        Kind::Message(message) => message.clone(),
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) => {
            let value = figment.find_value(&path.join(".")).ok();
            let quoted = match value_source(figment, value.as_ref()) {
                // Of a variable the type is guessed: what is only digits is a number.
                ValueSource::Variable if expected.contains("string") => {
                    "; put a value that looks like a number or a list into double quotes, within the variable"
                }
                _ => "",
            };
            format!("it takes {}{quoted}", takes(expected))
        }
        Kind::UnknownVariant(_, known) => format!("it takes one of {}", known.join(", ")),
        Kind::MissingField(name) => format!("`{name}` is missing"),
        _ if is_secret(&path) => "it is not valid".to_owned(),
        kind => kind.to_string(),
    };
    anyhow::anyhow!("{}: {problem}", given(figment, &path))
}

/// The values of a section that a message names, as they were given: each whose key, and whatever table it is in, is a
/// word of the message.
pub(super) fn named_in(figment: &Figment, section: &str, message: &str) -> Vec<String> {
    let words: Vec<&str> = message.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')).collect();
    let mut found = Vec::new();
    if let Ok(value) = figment.find_value(section) {
        let mut path: Vec<String> = section.split('.').map(str::to_owned).collect();
        leaves(&value, &mut path, &words, &mut found);
    }
    let given = |path: &Vec<String>| given(figment, &path.iter().map(String::as_str).collect::<Vec<_>>());
    found.iter().map(given).collect()
}

/// Adds the paths of single values below one whose keys are all among the words.
fn leaves(value: &Value, path: &mut Vec<String>, words: &[&str], found: &mut Vec<Vec<String>>) {
    let Value::Dict(_, table) = value else { return found.push(path.clone()) };
    for (key, value) in table.iter().filter(|(key, _)| words.contains(&key.as_str())) {
        path.push(key.clone());
        leaves(value, path, words, found);
        path.pop();
    }
}

/// Translates what serde expected into words for users.
fn takes(expected: &str) -> String {
    match expected {
        "a duration" => "a duration, such as 10s or 500ms".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "f64" => "a number".to_owned(),
        "a sequence" => "a list, such as [\"a\", \"b\"]".to_owned(),
        "a map" => "a section with keys of its own".to_owned(),
        _ if expected.starts_with("struct ") => "a section with keys of its own".to_owned(),
        _ if expected == "usize" || expected.strip_prefix('u').is_some_and(is_digits) => {
            "a whole number that is not negative".to_owned()
        }
        other => other.to_owned(),
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn value_source(figment: &Figment, value: Option<&Value>) -> ValueSource {
    let Some(metadata) = value.and_then(|value| figment.get_metadata(value.tag())) else {
        return ValueSource::File("configuration".to_owned());
    };
    match &metadata.source {
        Some(Source::File(path)) => ValueSource::File(path.display().to_string()),
        _ if metadata.name.contains("environment") => ValueSource::Variable,
        _ if metadata.name.starts_with("TOML") => ValueSource::File("configuration".to_owned()),
        _ => ValueSource::Flag,
    }
}

pub(super) fn is_secret(path: &[&str]) -> bool {
    path.iter().any(|part| SECRETS.contains(part))
}

/// A single value that may be seen.
pub(super) fn shown(path: &[&str], value: &Value) -> Option<String> {
    if is_secret(path) {
        return None;
    }
    match value {
        Value::String(_, text) => {
            // What stands before an `@` may be somebody's name and password.
            let text = text.rsplit_once('@').map_or_else(|| text.clone(), |(_, rest)| format!("…@{rest}"));
            let shown: String = text.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect();
            Some(if text.chars().nth(SHOWN_MAX).is_some() { format!("{shown}…") } else { shown })
        }
        Value::Bool(_, bool) => Some(bool.to_string()),
        Value::Num(_, num) => {
            let whole = num.to_i128().map(|num| num.to_string()).or(num.to_u128().map(|num| num.to_string()));
            whole.or(num.to_f64().map(|num| num.to_string()))
        }
        Value::Char(_, char) => Some(char.to_string()),
        Value::Empty(..) | Value::Dict(..) | Value::Array(..) => None,
    }
}
