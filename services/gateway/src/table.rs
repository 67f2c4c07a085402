//! Which upstream a call goes to, by its path: one immutable table, replaced as a whole when anything changes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::descriptors::{Descriptors, Files};
use crate::error::Error;
use crate::upstream::Upstream;

/// What is known of an upstream's services.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) upstream: Arc<Upstream>,
    /// Services it is given by name. Beats what any reflection says.
    pub(crate) named: Vec<String>,
    /// Whether it takes what nobody else has.
    pub(crate) default: bool,
    pub(crate) described: Described,
}

/// How far an upstream has described itself.
#[derive(Clone)]
pub(crate) enum Described {
    /// Not yet, and why.
    Pending(String),
    /// Its descriptors, and the services its reflection lists; all empty if it has no reflection.
    Known { services: Vec<String>, files: Arc<Files> },
}

impl Entry {
    /// It cannot describe itself. What it has said before stays true: an upstream whose newest clone lacks reflection
    /// still serves what it served.
    pub(crate) fn has_no_reflection(&mut self) {
        if matches!(self.described, Described::Pending(_)) {
            self.described = Described::Known { services: Vec::new(), files: Arc::default() };
        }
    }
}

impl Default for Described {
    fn default() -> Self {
        Described::Pending("it was not connected yet".to_owned())
    }
}

/// Where a call goes and what is known of its method.
pub(crate) struct Route {
    pub(crate) upstream: Arc<Upstream>,
    /// Whether the descriptors say that the method is safe to repeat.
    pub(crate) idempotent: bool,
}

/// Where a path leads.
pub(crate) enum Target<'t> {
    /// To the gateway's own services.
    Local,
    /// To an upstream.
    Upstream(&'t Arc<Route>),
}

/// All routes at one moment.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) entries: Vec<Entry>,
    pub(crate) descriptors: Arc<Descriptors>,
    /// By `/package.Service/Method`, for described methods.
    methods: HashMap<Box<str>, Arc<Route>>,
    /// By `package.Service`.
    services: HashMap<Box<str>, Arc<Route>>,
    default: Option<Arc<Route>>,
    local: BTreeSet<&'static str>,
}

impl Table {
    /// `local` are the gateway's own services, described by `ours`. A service goes to the first of: the gateway, the
    /// upstream it is configured for, the Shoal role of its package, the upstream whose reflection lists it (by order of
    /// the entries), the default.
    pub(crate) fn build(local: &[&'static str], ours: Arc<Files>, entries: Vec<Entry>) -> Table {
        let mut table = Table { local: local.iter().copied().collect(), ..Table::default() };
        let mut descriptors = Descriptors::default();
        descriptors.add(ours, local.iter().map(ToString::to_string));
        let mut routed: Vec<Vec<String>> = vec![Vec::new(); entries.len()];
        let named = entries.iter().map(|entry| entry.named.as_slice());
        let listed = entries.iter().map(|entry| match &entry.described {
            // Services given by name are all an upstream gets: its other services were left out on purpose.
            Described::Known { services, .. } if entry.named.is_empty() => services.as_slice(),
            _ => &[],
        });
        for claims in [named.collect::<Vec<_>>(), listed.collect()] {
            for (index, services) in claims.into_iter().enumerate() {
                for service in services {
                    table.route(service, &entries[index], &mut routed[index]);
                }
            }
        }
        for (entry, services) in entries.iter().zip(routed) {
            let files = match &entry.described {
                Described::Known { files, .. } => files.clone(),
                Described::Pending(_) => Arc::default(),
            };
            descriptors.add(files, services);
        }
        table.descriptors = Arc::new(descriptors);
        table.default = entries
            .iter()
            .find(|entry| entry.default)
            .map(|entry| Arc::new(Route { upstream: entry.upstream.clone(), idempotent: false }));
        table.entries = entries;
        table
    }

    fn route(&mut self, service: &str, entry: &Entry, routed: &mut Vec<String>) {
        if self.local.contains(service) || self.services.contains_key(service) {
            return;
        }
        routed.push(service.to_owned());
        let [unsafe_to_repeat, safe_to_repeat] =
            [false, true].map(|idempotent| Arc::new(Route { upstream: entry.upstream.clone(), idempotent }));
        if let Described::Known { files, .. } = &entry.described
            && let Some(described) = files.services().find(|described| described.name == service)
        {
            for method in &described.methods {
                let route = if method.idempotent { &safe_to_repeat } else { &unsafe_to_repeat };
                self.methods.insert(format!("/{service}/{}", method.name).into(), route.clone());
            }
        }
        self.services.insert(service.into(), unsafe_to_repeat);
    }

    /// Where the call of `path` goes.
    pub(crate) fn find(&self, path: &str) -> Result<Target<'_>, Error> {
        if let Some(route) = self.methods.get(path) {
            return Ok(Target::Upstream(route));
        }
        let service = service_of(path).ok_or_else(|| Error::MalformedPath { path: path.to_owned() })?;
        if let Some(route) = self.services.get(service) {
            return Ok(Target::Upstream(route));
        }
        if self.local.contains(service) {
            return Ok(Target::Local);
        }
        self.default.as_ref().map(Target::Upstream).ok_or_else(|| self.unknown(service))
    }

    /// The upstream of a service.
    pub(crate) fn upstream_of(&self, service: &str) -> Option<&Arc<Upstream>> {
        self.services.get(service).map(|route| &route.upstream)
    }

    /// Whether the gateway itself serves `service`.
    pub(crate) fn is_local(&self, service: &str) -> bool {
        self.local.contains(service)
    }

    /// The services routed to an upstream, in order.
    pub(crate) fn services_of(&self, upstream: &Upstream) -> Vec<String> {
        let ours = self.services.iter().filter(|(_, route)| std::ptr::eq(&*route.upstream, upstream));
        let mut services: Vec<String> = ours.map(|(service, _)| service.to_string()).collect();
        services.sort_unstable();
        services
    }

    fn unknown(&self, service: &str) -> Error {
        // One that has not said what it serves may serve this.
        let undescribed = self.entries.iter().find_map(|entry| match &entry.described {
            Described::Pending(why) if entry.named.is_empty() => Some((&entry.upstream.name, why)),
            _ => None,
        });
        if let Some((upstream, why)) = undescribed {
            return Error::Undescribed {
                service: service.to_owned(),
                upstream: upstream.clone(),
                why: why.clone(),
            };
        }
        let known: Vec<&str> =
            self.descriptors.services().filter(|service| !service.starts_with("grpc.reflection.")).collect();
        Error::UnknownService { service: service.to_owned(), known: known.join(", ") }
    }
}

/// The service of `/package.Service/Method`.
fn service_of(path: &str) -> Option<&str> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some(service)
}
