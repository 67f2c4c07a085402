//! The keys at the top of a configuration: their names as flags, variables and in the file, what each takes, and which one
//! was meant by a name that is none.

/// A key that is not a role's section.
#[derive(Clone, Copy)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// The form of its values.
    pub(super) takes: &'static str,
}

pub(super) const LISTEN: Key =
    Key { name: "listen", takes: "IP:PORT or localhost:PORT, such as 127.0.0.1:7000" };
pub(super) const ADMIN: Key =
    Key { name: "admin", takes: "IP:PORT or localhost:PORT, such as 127.0.0.1:7001" };
pub(super) const INSECURE: Key = Key { name: "insecure", takes: "true or false" };
pub(super) const CLONES: Key = Key {
    name: "clones",
    takes: "a number from 1 to 64, or ROLE=N,ROLE=N of session, cache, data and jobs, such as session=3,jobs=1",
};
pub(super) const DATA_DIR: Key = Key { name: "data_dir", takes: "a folder, such as ./.shoal" };
pub(super) const EPHEMERAL: Key = Key { name: "ephemeral", takes: "true or false" };
pub(super) const REDIS: Key = Key {
    name: "redis",
    takes: "redis://HOST:PORT, several separated by commas for a Cluster, or redis+sentinel://HOST:PORT/NAME",
};
pub(super) const CASSANDRA: Key = Key {
    name: "cassandra",
    takes: "HOST:PORT (9042 if there is none), several separated by commas, such as 127.0.0.1:9042",
};
pub(super) const OTLP: Key =
    Key { name: "otlp", takes: "http://HOST:PORT of an OTLP gRPC endpoint, such as http://127.0.0.1:4317" };
pub(super) const TRACE_RATIO: Key = Key { name: "trace_ratio", takes: "a share from 0 to 1, such as 0.1" };
pub(super) const LOG_FORMAT: Key = Key { name: "log_format", takes: "pretty or json" };
pub(super) const LOG: Key = Key { name: "log", takes: "a filter, such as info,shoal_gateway=debug" };
pub(super) const ACCESS_LOG: Key = Key { name: "access_log", takes: "true or false" };
pub(super) const DRAIN: Key = Key { name: "drain", takes: "a duration, such as 10s or 500ms" };
pub(super) const SHOW_ADDRESSES: Key = Key { name: "show_addresses", takes: "true or false" };
pub(super) const PEER: Key = Key {
    name: "peer",
    takes: "ROLE=SOURCE, several separated by `;`, where SOURCE is IP:PORT,IP:PORT or dns:HOST:PORT or srv:NAME or \
            file:PATH, such as session=127.0.0.1:7101,127.0.0.1:7102;cache=dns:cache:7000",
};

pub(super) const KEYS: [Key; 16] = [
    LISTEN,
    ADMIN,
    INSECURE,
    CLONES,
    DATA_DIR,
    EPHEMERAL,
    REDIS,
    CASSANDRA,
    OTLP,
    TRACE_RATIO,
    LOG_FORMAT,
    LOG,
    ACCESS_LOG,
    DRAIN,
    SHOW_ADDRESSES,
    PEER,
];

/// The key's flag: `--log-format`.
pub(super) fn flag(key: &str) -> String {
    if key == DATA_DIR.name { "--data".to_owned() } else { format!("--{}", key.replace('_', "-")) }
}

/// Says that `key` is none, which one it is nearest to, and which ones `whole` has.
pub(super) fn unknown(key: &str, known: &[&str], whole: &str) -> String {
    let meant = nearest(key, known.iter().copied())
        .map_or(String::new(), |meant| format!(", did you mean `{meant}`"));
    format!("there is no key `{key}`{meant}? The keys of {whole} are {}", known.join(", "))
}

/// The known name that a mistaken one is most like, if it is like one.
pub(super) fn nearest<'k>(mistaken: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let mistaken = mistaken.to_ascii_lowercase().replace('-', "_");
    let distance = |known: &str| {
        // `data` for `data_dir`: a part of the name is nearer than the letters that are missing tell.
        let part = mistaken.len() > 2 && (known.starts_with(&mistaken) || mistaken.starts_with(known));
        if part && known != mistaken { 1 } else { strsim::damerau_levenshtein(&mistaken, known) }
    };
    let (distance, name) = known.map(|name| (distance(name), name)).min()?;
    (distance * 2 <= mistaken.len().max(name.len())).then_some(name)
}

/// Returns the known name that differs from `name` in the fewest letters, if in no more than `slips_max`.
pub(super) fn nearest_of<'k>(
    name: &str,
    known: impl Iterator<Item = &'k str>,
    slips_max: usize,
) -> Option<&'k str> {
    let (slips, nearest) = known.map(|known| (strsim::damerau_levenshtein(name, known), known)).min()?;
    (slips <= slips_max).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelled_name_finds_the_nearest() {
        for (mistaken, meant) in [
            ("listne", Some("listen")),
            ("data", Some("data_dir")),
            ("log-format", Some("log_format")),
            ("peers", Some("peer")),
            ("Redis", Some("redis")),
            ("zzz", None),
        ] {
            assert_eq!(nearest(mistaken, KEYS.iter().map(|key| key.name)), meant, "{mistaken}");
        }
    }

    #[test]
    fn a_flag_is_spelled_as_in_the_help() {
        use clap::Args as _;
        let command = crate::settings::CommonArgs::augment_args(clap::Command::new("x"));
        for key in KEYS {
            let flag = flag(key.name);
            let known = command.get_arguments().any(|arg| arg.get_long() == flag.strip_prefix("--"));
            assert!(known || key.name == TRACE_RATIO.name, "{flag}");
        }
    }
}
