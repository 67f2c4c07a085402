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
        Value::String(_, text) if path.last() == Some(&"redis") => redis_shown(text),
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

/// Returns the URLs of a Redis without user, password and query. Hides the whole text unless each remaining part is a place, because
/// any part of a malformed URL may be the password.
fn redis_shown(text: &str) -> String {
    let scheme = if text.starts_with("redis+sentinel://") { "redis+sentinel" } else { "redis" };
    // A password may hold an `@` or a `?`; nothing after the last `@` can be part of it.
    let (shown, places) = match (text.rsplit_once('@'), text.split_once('?')) {
        (Some(_), Some(_)) => return quoted("…"),
        (Some((_, places)), None) => (format!("{scheme}://…@{places}"), places),
        (None, Some((places, _))) => (format!("{places}?…"), places),
        (None, None) => (text.to_owned(), text),
    };
    quoted(if places.split(',').all(is_place) { &shown } else { "…" })
}

/// Returns whether a text is `[scheme://]host[:port][/name…]`, as the descriptions of a Redis in logs have it.
fn is_place(text: &str) -> bool {
    let text = text.trim();
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let host = text.split_once('/').map_or(text, |(host, _)| host);
    let after = host.rsplit_once(']').map_or(host, |(_, after)| after);
    let port = after.split_once(':').map_or("", |(_, port)| port);
    !host.starts_with(':') && port.bytes().all(|digit| digit.is_ascii_digit())
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

    #[test]
    fn malformed_redis_urls_are_hidden() {
        for (url, expected) in [
            ("redis://:SECRET", "…"),
            ("redis://ada:SECRET", "…"),
            ("redis://:SE,CRET", "…"),
            ("redis://a:1,redis://:SECRET", "…"),
            ("redis://ada:SECRET@a:1,redis://:SECRET", "…"),
            ("redis://:SECRET?db=1", "…"),
            ("redis://ada:12?SECRET@a:1", "…"),
            ("redis://a:1?password=SECRET", "redis://a:1?…"),
            ("redis://[::1]:6379/2", "redis://[::1]:6379/2"),
            ("redis://a:1, redis://b:2", "redis://a:1, redis://b:2"),
            ("redis+sentinel://ada:SECRET@a:1,b,[::1]:3/main/2", "redis+sentinel://…@a:1,b,[::1]:3/main/2"),
        ] {
            assert_eq!(redis_shown(url), format!("\"{expected}\""), "{url}");
        }
    }
}
