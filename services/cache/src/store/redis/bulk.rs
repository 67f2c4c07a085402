//! Decides which namespaces may hold big values: their entries have a connection of their own, so that those of others do not wait
//! behind them. How big a value is that is read is known only when it is there.

use std::collections::HashMap;

use crate::config::Config;
use crate::key::NamespaceName;

/// The largest value, in bytes, that goes with all others: as large as a namespace allows without a setting.
const BULK_ABOVE: usize = 1 << 20;

/// The namespaces by whether their largest value is a big one.
#[derive(Debug, Default)]
pub(crate) struct Bulk {
    declared: HashMap<String, bool>,
    others: bool,
}

impl Bulk {
    /// Judges by the largest values that the configuration allows.
    ///
    /// # Errors
    /// When the configuration is not valid.
    pub(crate) fn of(config: &Config) -> anyhow::Result<Bulk> {
        let is_big = |bytes: usize| bytes > BULK_ABOVE;
        let mut declared = HashMap::new();
        for (name, policy) in config.namespaces() {
            declared.insert(name.to_owned(), is_big(policy.value_bytes_max));
        }
        for (kind, kind_policy) in config.kinds()? {
            let name = NamespaceName::of_kind(&kind)?.as_str().to_owned();
            declared.insert(name, is_big(kind_policy.policy.value_bytes_max));
        }
        Ok(Bulk { declared, others: is_big(config.undeclared().value_bytes_max) })
    }

    pub(super) fn contains(&self, namespace: &NamespaceName) -> bool {
        self.declared.get(namespace.as_str()).copied().unwrap_or(self.others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_big_by_largest_value() {
        let config: Config = toml::from_str(
            "[namespace.big]\nmax_value = 8388608\n[namespace.small]\nmax_value = 5\n\
             [object.film]\nloader = 'http://127.0.0.1:1'\nmax_value = 1048577\n",
        )
        .expect("valid");
        let bulk = Bulk::of(&config).expect("valid");
        let big = |name: &str| bulk.contains(&NamespaceName::parse(name).expect("valid"));
        assert_eq!(["big", "small", "other"].map(big), [true, false, false]);
        assert!(bulk.contains(&NamespaceName::of_kind("film").expect("valid")));
    }
}
