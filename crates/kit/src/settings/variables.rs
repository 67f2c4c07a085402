//! `SHOAL_*` variables: which of them are settings, and which look like one that was misspelled.

use anyhow::bail;
use figment::providers::Env;

use super::key::{KEYS, nearest_of};
use crate::role::Role;

const PREFIX: &str = "SHOAL_";

/// Variables that are read, though they are no keys of the file: the flags `--data`, `--config` and `--addr`.
const OTHERS: [&str; 3] = ["data", "config", "addr"];

/// Tables of the file that are not the section of a role.
const TABLES: [&str; 2] = ["peer", "clones"];

/// Provides the variables that are settings: the keys of the file, sections as `SHOAL_SESSION__IDLE_TTL`. `SHOAL_DATA` is
/// the flag's name; in the file `data` is a section.
pub(super) fn environment() -> Env {
    Env::prefixed(PREFIX)
        .filter(|key| {
            // As the environment spells it, in whatever case.
            let key = key.as_str().to_ascii_lowercase();
            match key.split_once("__") {
                Some((section, _)) => sections().any(|known| known == section),
                None => key == "data" || KEYS.iter().any(|known| known.name == key),
            }
        })
        .map(|key| if key == "data" { "data_dir".into() } else { key.into() })
        .split("__")
}

/// Refuses a variable whose name is a setting's but for a letter or two, and returns a warning for each that begins like
/// one, such as `SHOAL_REDIS_URL`. Other variables of the prefix belong to somebody else: scripts have theirs, and
/// Kubernetes makes some for every service whose name begins with `shoal-`.
///
/// # Errors
/// With the variable that was meant.
pub(super) fn check(names: impl Iterator<Item = String>) -> anyhow::Result<Vec<String>> {
    let mut warnings = Vec::new();
    for name in names {
        let Some(key) = name.get(..PREFIX.len()).filter(|prefix| prefix.eq_ignore_ascii_case(PREFIX)) else {
            continue;
        };
        let key = name[key.len()..].to_ascii_lowercase();
        if let Some(meant) = misspelled(&key) {
            bail!("{name}: there is no such setting; did you mean {PREFIX}{}?", meant.to_ascii_uppercase());
        }
        if let Some(hint) = begins_like_a_setting(&key) {
            warnings.push(format!("{name} is not read: {hint}"));
        }
    }
    Ok(warnings)
}

fn sections() -> impl Iterator<Item = &'static str> {
    Role::ALL.map(Role::name).into_iter().chain(TABLES)
}

fn keys() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|key| key.name).chain(OTHERS)
}

/// Returns the setting that a name was meant to be, if it is none and differs from one by a letter or two.
fn misspelled(key: &str) -> Option<String> {
    if let Some((section, rest)) = key.split_once("__") {
        let meant = nearest_of(section, sections(), slips_max(section))?;
        return (meant != section).then(|| format!("{meant}__{rest}"));
    }
    // The name of a role alone is no setting, and no slip of another: `SHOAL_CACHE` is a folder of the scripts.
    if sections().any(|known| known == key) {
        return None;
    }
    let meant = nearest_of(key, keys(), slips_max(key))?;
    (meant != key).then(|| meant.to_owned())
}

/// Returns in how many letters a name may differ and still be taken for another: short words are often a letter apart.
fn slips_max(name: &str) -> usize {
    if name.len() > 4 { 2 } else { 1 }
}

fn begins_like_a_setting(key: &str) -> Option<String> {
    if key.contains("__") || keys().any(|known| known == key) || made_by_kubernetes(key) {
        return None;
    }
    let continues = |known: &&str| key.strip_prefix(known).is_some_and(|rest| rest.starts_with('_'));
    if let Some(role) = Role::ALL.map(Role::name).into_iter().find(continues) {
        let rest = key[role.len()..].trim_start_matches('_');
        let meant = format!("{PREFIX}{role}__{rest}").to_ascii_uppercase();
        return Some(format!("a key of the section [{role}] has two underscores after it, {meant}"));
    }
    let known = keys().filter(continues).max_by_key(|known| known.len())?;
    Some(format!("the nearest setting is {PREFIX}{}", known.to_ascii_uppercase()))
}

/// Returns whether Kubernetes or Docker makes such a variable for a service: `SHOAL_SESSION_SERVICE_HOST`,
/// `SHOAL_SESSION_PORT_7000_TCP_ADDR`.
fn made_by_kubernetes(key: &str) -> bool {
    let numbered =
        key.split_once("_port_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
    numbered || key.ends_with("_port") || key.ends_with("_service_host") || key.contains("_service_port_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(name: &str) -> Result<Vec<String>, String> {
        check(std::iter::once(name.to_owned())).map_err(|error| error.to_string())
    }

    #[test]
    fn misspelled_variables_are_refused() {
        for (name, meant) in [
            ("SHOAL_LISEN", "SHOAL_LISTEN?"),
            ("SHOAL_REDDIS", "SHOAL_REDIS?"),
            ("SHOAL_LOGS", "SHOAL_LOG?"),
            ("SHOAL_PEERS", "SHOAL_PEER?"),
            ("SHOAL_CONFG", "SHOAL_CONFIG?"),
            ("SHOAL_LOGFORMAT", "SHOAL_LOG_FORMAT?"),
            ("SHOAL_SESION__IDLE_TTL", "SHOAL_SESSION__IDLE_TTL?"),
            ("Shoal_Lisen", "SHOAL_LISTEN?"),
        ] {
            let error = checked(name).expect_err(name);
            assert!(error.starts_with(name) && error.ends_with(meant), "{error}");
        }
    }

    #[test]
    fn variables_like_settings_are_warned_of() {
        for (name, part) in [
            ("SHOAL_REDIS_URL", "SHOAL_REDIS"),
            ("SHOAL_CASSANDRA_HOSTS", "SHOAL_CASSANDRA"),
            ("SHOAL_SESSION_IDLE_TTL", "SHOAL_SESSION__IDLE_TTL"),
        ] {
            let warnings = checked(name).expect(name);
            assert!(warnings.len() == 1 && warnings[0].ends_with(part), "{name}: {warnings:?}");
        }
    }

    #[test]
    fn variables_of_others_are_left_alone() {
        for name in [
            "SHOAL_LISTEN",
            "shoal_listen",
            "SHOAL_DATA",
            "SHOAL_DATA_DIR",
            "SHOAL_ADDR",
            "SHOAL_CONFIG",
            "SHOAL_SESSION__KEYS__CHECK",
            "SHOAL_TEST_REDIS",
            "SHOAL_BIN",
            "SHOAL_RUN",
            "SHOAL_CACHE",
            "SHOAL_BENCH_PEERS",
            "SHOAL_SEED",
            "SHOAL_PORT",
            "SHOAL_PORT_7000_TCP",
            "SHOAL_SERVICE_HOST",
            "SHOAL_SESSION_SERVICE_HOST",
            "SHOAL_SESSION_SERVICE_PORT_GRPC",
            "SHOAL_REDIS_PORT_6379_TCP_ADDR",
            "SHOAL_ZEBRA__STRIPES",
            "PATH",
            "SHÖAL",
        ] {
            assert_eq!(checked(name), Ok(vec![]), "{name}");
        }
    }
}
