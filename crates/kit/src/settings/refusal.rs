//! The refusal of names at the top of a configuration that are neither a key nor a role's section.

use anyhow::bail;
use figment::value::Value;
use figment::{Figment, Provider as _};

use super::given::{given, given_unknown};
use super::key::{KEYS, nearest, unknown};
use crate::role::Role;

/// Refuses what is neither a key nor the section of a role, and a section that is no table.
pub(super) fn refuse_unknown(figment: &Figment) -> anyhow::Result<()> {
    let data = figment.data()?;
    for (key, value) in data.get(&figment::Profile::Default).into_iter().flatten() {
        let known = || KEYS.iter().map(|key| key.name);
        if Role::parse(key).is_some() {
            if !matches!(value, Value::Dict(..)) {
                let instead =
                    nearest(key, known()).map_or(String::new(), |meant| format!("; did you mean `{meant}`?"));
                bail!(
                    "{}: `{key}` is a section, [{key}], with keys of its own{instead}",
                    given(figment, &[key])
                );
            }
        } else if !known().any(|name| name == key) {
            let names: Vec<&str> = known().chain(Role::ALL.map(Role::name)).collect();
            bail!("{}: {}", given_unknown(figment, &[key]), unknown(key, &names, "a configuration"));
        }
    }
    Ok(())
}
