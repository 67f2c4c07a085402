//! The reference of the configuration: every key with its type, its default and its meaning, taken from the types that read
//! it. A section's are in its JSON schema, which has the doc comments and the defaults of the type; the keys at the top are
//! those of the flags.

use clap::Args as _;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Value;

use super::key::{KEYS, Key, flag};
use crate::settings::CommonArgs;

/// Stands in a path for a name that the operator chooses: `gateway.upstream.NAME.dns`.
pub const NAME: &str = "NAME";

/// Begins the default in the help of a flag.
const DEFAULT_IN_HELP: &str = "[default";

/// Help of the keys at the top that have no flag.
const WITHOUT_FLAG: [(&str, &str); 1] = [("trace_ratio", "Share of the traces that is sent  [default: 1]")];

/// A key of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The path in the file, with [`NAME`] for a name that the operator chooses.
    pub path: Vec<String>,
    /// The flag, if there is one: `--log-format`.
    pub flag: Option<String>,
    /// The values that it takes.
    pub takes: String,
    /// The value that holds when none is given, in TOML; none: the key has no value then.
    pub default: Option<String>,
    /// The meaning of the key.
    pub meaning: String,
    /// Set if this is a table with keys of its own.
    pub table: bool,
}

/// Describes a duration in the schema of a configuration: `#[schemars(with = "DurationText")]` beside
/// `#[serde(with = "humantime_serde")]`.
pub struct DurationText;

impl JsonSchema for DurationText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "string", "format": "duration" })
    }
}

/// Returns the keys at the top of the configuration.
#[must_use]
pub fn top() -> Vec<Reference> {
    let flags = CommonArgs::augment_args(clap::Command::new("shoal"));
    let reference = |key: &Key| {
        let arg = flags.get_arguments().find(|arg| arg.get_id() == key.name);
        let without =
            WITHOUT_FLAG.iter().find(|(name, _)| *name == key.name).map(|(_, help)| (*help).to_owned());
        let help = arg.and_then(clap::Arg::get_help).map(ToString::to_string).or(without).unwrap_or_default();
        let (meaning, default) = match help.split_once(DEFAULT_IN_HELP) {
            Some((meaning, default)) => {
                let default = default.trim_start_matches(':').trim().trim_end_matches(']');
                (meaning.trim().to_owned(), Some(default.to_owned()))
            }
            None => (help, arg.filter(|arg| !arg.get_action().takes_values()).map(|_| "false".to_owned())),
        };
        Reference {
            path: vec![key.name.to_owned()],
            flag: arg.map(|_| flag(key.name)),
            takes: key.takes.to_owned(),
            default,
            meaning,
            table: false,
        }
    };
    KEYS.iter().map(reference).collect()
}

/// Returns the keys of a section that is read as `T`, each table before its own keys.
#[must_use]
pub fn section<T: JsonSchema>(section: &str) -> Vec<Reference> {
    let settings = SchemaSettings::default().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let mut references = Vec::new();
    describe(schema.as_value(), &mut vec![section.to_owned()], &mut references);
    references
}

/// Adds the key at a path and all keys below it. Single keys come before tables, as TOML wants them.
fn describe(schema: &Value, path: &mut Vec<String>, references: &mut Vec<Reference>) {
    let meaning = text(schema, "description");
    let properties = schema.get("properties").and_then(Value::as_object);
    let values = schema.get("additionalProperties").filter(|values| values.is_object());
    let table = properties.is_some();
    // A table of tables is described by the tables in it.
    if values.is_none() {
        references.push(Reference {
            path: path.clone(),
            flag: None,
            takes: if table { "table".to_owned() } else { takes(schema) },
            default: schema.get("default").and_then(|default| in_toml(default, schema)).filter(|_| !table),
            meaning: if table { meaning } else { with_choices(meaning, schema) },
            table,
        });
    }
    if let Some(values) = values {
        path.push(NAME.to_owned());
        describe(values, path, references);
        path.pop();
    }
    let is_table =
        |schema: &Value| schema.get("properties").is_some() || schema.get("additionalProperties").is_some();
    let mut properties: Vec<_> = properties.into_iter().flatten().collect();
    properties.sort_by_key(|(_, schema)| is_table(schema));
    for (name, schema) in properties {
        path.push(name.clone());
        describe(schema, path, references);
        path.pop();
    }
}

/// Returns a text of a schema as one line.
fn text(schema: &Value, name: &str) -> String {
    let text = schema.get(name).and_then(Value::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the values that a type has by name, with their schemas.
fn choices(schema: &Value) -> Vec<(String, &Value)> {
    let one_of = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array);
    let named = |choice: &'_ Value| choice.get("const").and_then(Value::as_str).map(str::to_owned);
    let described = one_of.into_iter().flatten().filter_map(|choice| Some((named(choice)?, choice)));
    let listed = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    described.chain(listed.filter_map(|name| Some((name.as_str()?.to_owned(), schema)))).collect()
}

/// Adds the meaning of each value to that of a key which takes one of several.
fn with_choices(meaning: String, schema: &Value) -> String {
    let choice = |(name, schema): (String, &Value)| match text(schema, "description") {
        meaning if meaning.is_empty() => None,
        meaning => Some(format!("`{name}`: {meaning}")),
    };
    let choices = choices(schema).into_iter().filter_map(choice);
    [meaning].into_iter().filter(|meaning| !meaning.is_empty()).chain(choices).collect::<Vec<_>>().join(" ")
}

/// Returns the values that a key takes, in words.
fn takes(schema: &Value) -> String {
    let choices: Vec<String> = choices(schema).into_iter().map(|(name, _)| format!("\"{name}\"")).collect();
    if !choices.is_empty() {
        return choices.join(", ");
    }
    // An optional key: null is no value of TOML.
    let types = match schema.get("type") {
        Some(Value::Array(types)) => types.iter().find(|kind| *kind != "null"),
        other => other,
    };
    let name = match (types.and_then(Value::as_str), schema.get("format").and_then(Value::as_str)) {
        (Some("string"), Some("duration")) => "duration",
        (Some("string"), Some("ip")) => "IP address",
        (Some("string"), _) => "text",
        (Some("boolean"), _) => "true, false",
        (Some("integer"), _) => "whole number",
        (Some("number"), _) => "number",
        (Some("array"), _) => "list of texts",
        _ => {
            let some = schema.get("anyOf").and_then(Value::as_array).into_iter().flatten();
            let mut some = some.filter(|schema| schema.get("type") != Some(&Value::from("null")));
            return some.next().map_or_else(|| "value".to_owned(), takes);
        }
    };
    name.to_owned()
}

/// Returns a default as TOML writes it; none for what stands for no value.
fn in_toml(default: &Value, schema: &Value) -> Option<String> {
    match default {
        Value::Null | Value::Object(_) => None,
        Value::String(text) if text.is_empty() => None,
        Value::Array(list) if list.is_empty() => None,
        Value::String(text) if schema.get("format").is_some_and(|format| *format == "duration") => {
            Some(format!("\"{}\"", duration(text)))
        }
        // A JSON text is a TOML text.
        other => Some(other.to_string()),
    }
}

/// Writes a duration in the largest unit that it is a whole number of: 90 days are no "2months 29days 2h 52m 48s".
fn duration(text: &str) -> String {
    let Ok(duration) = humantime_serde::re::humantime::parse_duration(text) else { return text.to_owned() };
    let millis = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
    let unit = units.iter().find(|(unit, _)| millis > 0 && millis.is_multiple_of(*unit));
    match unit {
        Some((unit, name)) if u128::from(duration.subsec_nanos()) % 1_000_000 == 0 => {
            format!("{}{name}", millis / unit)
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use figment::Figment;
    use figment::providers::Serialized;

    use super::*;
    use crate::settings::Settings;
    use crate::settings::serve_defaults;

    /// A section.
    #[derive(serde::Deserialize, JsonSchema)]
    #[serde(default)]
    struct Section {
        /// The time to wait,
        /// at most.
        #[serde(with = "humantime_serde")]
        #[schemars(with = "DurationText")]
        wait: Duration,
        /// A text.
        name: Option<String>,
        /// A choice.
        kind: Kind,
        /// Sections by name.
        inner: BTreeMap<String, Inner>,
    }

    /// A named section.
    #[derive(Default, serde::Deserialize, JsonSchema)]
    #[serde(default)]
    struct Inner {
        /// Number of things.
        count: usize,
    }

    #[derive(Clone, Copy, serde::Deserialize, serde::Serialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        /// The first.
        One,
    }

    impl Default for Section {
        fn default() -> Self {
            Self { wait: Duration::from_secs(90), name: None, kind: Kind::One, inner: BTreeMap::new() }
        }
    }

    #[test]
    fn sections_are_described_by_their_types() {
        let said: Vec<String> = section::<Section>("part")
            .into_iter()
            .map(|key| {
                format!(
                    "{} | {} | {} | {}",
                    key.path.join("."),
                    key.takes,
                    key.default.unwrap_or_default(),
                    key.meaning
                )
            })
            .collect();
        assert_eq!(
            said,
            [
                "part | table |  | A section.",
                "part.kind | \"one\" | \"one\" | A choice. `one`: The first.",
                "part.name | text |  | A text.",
                "part.wait | duration | \"90s\" | The time to wait, at most.",
                "part.inner.NAME | table |  | A named section.",
                "part.inner.NAME.count | whole number | 0 | Number of things.",
            ]
        );
    }

    #[test]
    fn documented_defaults_change_nothing() {
        let mut given = Figment::new();
        for key in top() {
            // Words instead of a value say what holds in `up`, or that there is none.
            let Some(default) = key.default.filter(|default| !default.contains(' ')) else { continue };
            let value = serde_json::from_str(&default).unwrap_or_else(|_| Value::from(default.as_str()));
            given = given.merge(Serialized::default(&key.path[0], value));
        }
        let read = |figment| {
            let settings = Settings::from_figment(figment, serve_defaults()).expect("valid");
            let Settings { listen, admin, telemetry, drain, clones, .. } = settings;
            format!("{listen} {admin} {telemetry:?} {drain:?} {clones:?}")
        };
        assert_eq!(read(given), read(Figment::new()));
    }

    #[test]
    fn every_key_at_the_top_is_explained() {
        for key in top() {
            assert!(!key.meaning.is_empty() && !key.takes.is_empty(), "{key:?}");
        }
    }
}
