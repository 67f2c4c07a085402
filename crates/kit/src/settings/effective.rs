//! The settings that a process would run with, each with where it was given. Secrets are hidden.

use figment::value::{Num, Value};

use super::Settings;
use super::given::{self, is_secret};
use super::reference::{NAME, Reference};

/// A value that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The path in the file.
    pub path: Vec<String>,
    /// The value in TOML, with secrets hidden; none: it has no value.
    pub value: Option<String>,
    /// The flag, the variable or the file that gave it; none: it is the default.
    pub source: Option<String>,
}

impl Settings {
    /// Returns the value of every key that a reference describes. A table whose names the operator chooses has those that
    /// were given.
    #[must_use]
    pub fn effective(&self, references: &[Reference]) -> Vec<Effective> {
        let keys = references.iter().filter(|reference| !reference.table);
        keys.flat_map(|reference| {
            let paths = self.named_paths(&reference.path);
            paths.into_iter().map(|path| self.effective_at(path, reference))
        })
        .collect()
    }

    fn effective_at(&self, path: Vec<String>, reference: &Reference) -> Effective {
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        match self.value(&path) {
            Some(value) => Effective {
                value: Some(shown(&parts, &value)),
                source: Some(given::source(&self.figment, &parts, &value)),
                path,
            },
            None => Effective { value: self.default_of(reference), source: None, path },
        }
    }

    /// Returns the paths that one with [`NAME`] stands for, by the names that were given.
    fn named_paths(&self, path: &[String]) -> Vec<Vec<String>> {
        let Some(at) = path.iter().position(|part| part == NAME) else { return vec![path.to_vec()] };
        let Some(Value::Dict(_, table)) = self.value(&path[..at]) else { return Vec::new() };
        let named = |name: &String| {
            let begin = path[..at].iter().cloned().chain([name.clone()]);
            begin.chain(path[at + 1..].iter().cloned()).collect::<Vec<_>>()
        };
        table.keys().flat_map(|name| self.named_paths(&named(name))).collect()
    }

    /// Returns the given value at a path, whose names may have dots.
    fn value(&self, path: &[String]) -> Option<Value> {
        let (first, rest) = path.split_first()?;
        let mut value = self.figment.find_value(first).ok()?;
        for part in rest {
            let Value::Dict(_, mut table) = value else { return None };
            value = table.remove(part)?;
        }
        Some(value)
    }

    /// Returns the default of a key, which for those at the top depends on the command.
    fn default_of(&self, reference: &Reference) -> Option<String> {
        let [key] = reference.path.as_slice() else { return reference.default.clone() };
        match key.as_str() {
            "listen" => Some(quoted(&self.listen.to_string())),
            "admin" => Some(quoted(&self.admin.to_string())),
            "log" => Some(quoted(&self.telemetry.log_filter)),
            "data_dir" => self.data_dir.as_ref().map(|folder| quoted(&folder.display().to_string())),
            _ => {
                let default = reference.default.as_deref().filter(|default| !default.contains(' '))?;
                let plain = default.parse::<f64>().is_ok() || default.parse::<bool>().is_ok();
                Some(if plain { default.to_owned() } else { quoted(default) })
            }
        }
    }
}

/// Returns a value in TOML. Of a URL the user and the password are hidden; of other secrets everything.
fn shown(path: &[&str], value: &Value) -> String {
    match value {
        // A Redis is no secret; what stands before the last `@` or behind a `?` of its URL may be.
        Value::String(_, text) if path.last() == Some(&"redis") => {
            let scheme = if text.starts_with("redis+sentinel://") { "redis+sentinel" } else { "redis" };
            match (text.rsplit_once('@'), text.split_once('?')) {
                (Some(_), Some(_)) => quoted("…"),
                (Some((_, host)), None) => quoted(&format!("{scheme}://…@{host}")),
                (None, Some((host, _))) => quoted(&format!("{host}?…")),
                (None, None) => quoted(text),
            }
        }
        _ if is_secret(path) => quoted("…"),
        Value::Array(_, list) => {
            let list: Vec<String> = list.iter().map(|value| shown(path, value)).collect();
            format!("[{}]", list.join(", "))
        }
        Value::Dict(_, table) => {
            let entry =
                |(name, value): (&String, &Value)| format!("{} = {}", quoted(name), shown(path, value));
            format!("{{ {} }}", table.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        Value::Num(_, Num::F64(number)) => format!("{number:?}"),
        value => match given::shown(path, value) {
            Some(text) if matches!(value, Value::String(..) | Value::Char(..)) => format!("\"{text}\""),
            Some(text) => text,
            None => quoted("…"),
        },
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use figment::Figment;
    use figment::providers::{Format as _, Toml};

    use super::*;
    use crate::settings::reference;
    use crate::settings::serve_defaults;

    fn effective(toml: &str, references: &[Reference]) -> Vec<String> {
        let settings =
            Settings::from_figment(Figment::from(Toml::string(toml)), serve_defaults()).expect("valid");
        let line = |key: Effective| {
            format!("{} = {}", key.path.join("."), key.value.unwrap_or_else(|| "none".to_owned()))
        };
        settings.effective(references).into_iter().map(line).collect()
    }

    #[test]
    fn given_values_stand_beside_defaults() {
        let said = effective("drain = '3s'\nlog_format = 'json'", &reference::top());
        for line in [
            "drain = \"3s\"",
            "log_format = \"json\"",
            "listen = \"127.0.0.1:7000\"",
            "clones = 2",
            "redis = none",
        ] {
            assert!(said.iter().any(|said| said == line), "{line}: {said:#?}");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        #[derive(Default, serde::Deserialize, schemars::JsonSchema)]
        #[serde(default)]
        struct Session {
            redis: Option<String>,
            keys: std::collections::BTreeMap<String, String>,
            password: Option<String>,
        }
        let toml = "redis = 'redis://ada:SECRET,SECRET@SECRET@a:1,redis://b:2'\notlp = 'http://u:SECRET@h:1'\n\
                    [session]\nredis = 'redis://:SECRET?@a:1?p=S@SECRET'\npassword = 'SECRET'\nkeys.check = '1:SECRET'";
        let references: Vec<_> =
            reference::top().into_iter().chain(reference::section::<Session>("session")).collect();
        let said = effective(toml, &references).join("\n");
        assert!(!said.contains("SECRET"), "{said}");
        assert!(
            said.contains("redis = \"redis://…@a:1,redis://b:2\"") && said.contains("password = \"…\""),
            "{said}"
        );
    }
}
