//! Checks that a process which runs one clone was told its store. Two clones that were told nothing would each keep a store
//! of their own, and disagree in silence.

use anyhow::bail;

use super::Settings;
use super::key::{self, Key};
use crate::role::Role;

impl Settings {
    /// Checks that the engine of a role was named, or that this process was said to keep what it has itself: the default
    /// folder of `shoal up` is no answer here.
    ///
    /// # Errors
    /// When it was not, with both ways to say it.
    pub fn check_engine_named(&self, role: Role) -> anyhow::Result<()> {
        let shared = match role {
            Role::Gateway => return Ok(()),
            Role::Data => !self.cassandra.is_empty(),
            Role::Session | Role::Cache | Role::Jobs => self.redis_of(role).is_some(),
        };
        let ephemeral = self.data_dir.is_none();
        if shared || ephemeral {
            return Ok(());
        }
        let folder = self.given(key::DATA_DIR.name);
        if folder.is_some() && role != Role::Cache {
            return Ok(());
        }
        let shared = match role {
            Role::Data => named(key::CASSANDRA, "HOST:PORT"),
            _ => named(key::REDIS, "redis://HOST:PORT"),
        };
        match (role, folder) {
            (Role::Cache, Some(folder)) => bail!(
                "{folder}: the cache keeps nothing in files. Name the Redis that all its clones share, with {shared}; or \
                 say --ephemeral (SHOAL_EPHEMERAL=true) for one clone alone, whose entries are in its memory only"
            ),
            (Role::Cache, None) => bail!(
                "cache: no engine is named. Name the Redis that all its clones share, with {shared}; or say --ephemeral \
                 (SHOAL_EPHEMERAL=true) for one clone alone, whose entries are in its memory only"
            ),
            (role, _) => bail!(
                "{role}: no engine is named. Name the one that all its clones share, with {shared}; or say --data DIR \
                 (SHOAL_DATA_DIR) or --ephemeral (SHOAL_EPHEMERAL=true) for one clone alone, which keeps a store of its own"
            ),
        }
    }
}

fn named(key: Key, value: &str) -> String {
    format!("{} {value} (SHOAL_{})", key::flag(key.name), key.name.to_uppercase())
}

#[cfg(test)]
mod tests {
    use figment::Figment;
    use figment::providers::{Format as _, Toml};

    use super::*;

    #[test]
    fn a_single_clone_needs_its_engine_named() {
        let check = |role, toml: &str| {
            let figment = Figment::new().merge(Toml::string(toml));
            let settings = Settings::from_figment(figment, crate::settings::serve_defaults()).expect("valid");
            settings.check_engine_named(role).map_err(|error| error.to_string())
        };
        for role in [Role::Session, Role::Cache, Role::Jobs] {
            let refused = check(role, "cassandra = 'a'").expect_err("another role's engine");
            let ways = ["--redis redis://HOST:PORT (SHOAL_REDIS)", "--ephemeral (SHOAL_EPHEMERAL=true)"];
            assert!(ways.iter().all(|way| refused.contains(way)), "{refused}");
            assert!(refused.contains("--data DIR") == (role != Role::Cache), "{refused}");
            assert_eq!(check(role, "redis = 'redis://a'"), Ok(()));
            assert_eq!(check(role, &format!("[{role}]\nredis = 'redis://a'")), Ok(()));
            assert_eq!(check(role, "ephemeral = true"), Ok(()));
            assert!(check(role, "ephemeral = false").is_err());
        }
        assert!(check(Role::Jobs, "[session]\nredis = 'redis://a'").is_err());
        let refused = check(Role::Data, "redis = 'redis://a'").expect_err("another role's engine");
        assert!(refused.contains("--cassandra HOST:PORT (SHOAL_CASSANDRA)"), "{refused}");
        assert_eq!(check(Role::Data, "cassandra = 'a'"), Ok(()));
        for role in [Role::Session, Role::Data, Role::Jobs] {
            assert_eq!(check(role, "data_dir = './.shoal'"), Ok(()));
        }
        let refused = check(Role::Cache, "data_dir = './d'").expect_err("it has no files");
        assert!(refused.contains("data_dir = \"./d\": the cache keeps nothing in files"), "{refused}");
        assert_eq!(check(Role::Gateway, ""), Ok(()));
    }
}
