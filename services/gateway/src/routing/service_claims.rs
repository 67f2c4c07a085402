//! Decides which upstream has a service that several claim, and what is reported about the others.

use std::collections::{BTreeMap, HashMap};

use crate::config::own_services::role_of;
use crate::routing::entry::Entry;

/// The claims of a table in the making: the first one counts.
pub(crate) struct ServiceClaims<'e> {
    local: &'static [&'static str],
    /// The owner of each service, in the order of the claims.
    owners: Vec<(&'e str, &'e Entry)>,
    by_service: HashMap<&'e str, &'e Entry>,
    /// The services that an upstream lists and does not get, by its name and the reason.
    refused: BTreeMap<(String, String), (&'e Entry, Vec<&'e str>)>,
}

/// The owner of each service, and what to tell of an upstream whose reflection lists services that others have.
pub(crate) type Settled<'e> = (Vec<(&'e str, &'e Entry)>, Vec<(&'e Entry, String)>);

impl<'e> ServiceClaims<'e> {
    /// Starts without claims. Services of `local` are the gateway's own.
    pub(crate) fn new(local: &'static [&'static str]) -> ServiceClaims<'e> {
        ServiceClaims { local, owners: Vec::new(), by_service: HashMap::new(), refused: BTreeMap::new() }
    }

    /// The configuration gives a service to an upstream.
    pub(crate) fn add(&mut self, service: &'e str, entry: &'e Entry) {
        if !self.local.contains(&service) && !self.by_service.contains_key(service) {
            self.by_service.insert(service, entry);
            self.owners.push((service, entry));
        }
    }

    /// An upstream says that it has a service.
    pub(crate) fn add_listed(&mut self, service: &'e str, entry: &'e Entry) {
        let of_role = entry.upstream.role.is_some();
        let why = if self.local.contains(&service) {
            "which the gateway answers itself".to_owned()
        } else if let Some(role) = role_of(service).filter(|_| !of_role) {
            format!(
                "which only clones of the role {role} are called for; `services` with `replaces = true` would take it"
            )
        } else if let Some(owner) = self.by_service.get(service) {
            let owner = &owner.upstream.name;
            if of_role { format!("which `{owner}` replaces") } else { format!("which goes to `{owner}`") }
        } else {
            return self.add(service, entry);
        };
        let name = entry.upstream.name.clone();
        self.refused.entry((name, why)).or_insert_with(|| (entry, Vec::new())).1.push(service);
    }

    /// Returns the owner of each service, and the warnings.
    pub(crate) fn settle(self) -> Settled<'e> {
        let warnings = self.refused.into_iter().map(|((_, why), (entry, services))| {
            let lists = if entry.upstream.role.is_some() { "it has" } else { "its reflection lists" };
            (entry, format!("{lists} {}, {why}", services.join(", ")))
        });
        (self.owners, warnings.collect())
    }
}
