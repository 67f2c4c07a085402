//! The route of each path, that is, its upstream and its rules: one immutable table, replaced as a whole when anything changes.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use crate::admission::concurrency::ConcurrencyLimit;
use crate::config::own_services::role_of;
use crate::config::{Config, Deadline, Retry};
use crate::error::Error;
use crate::routing::descriptors::{Descriptors, Files};
use crate::routing::entry::{Described, Entry};
use crate::routing::lint::RouteLint;
use crate::routing::route_file::{Headers, Hedge, RouteFile, RouteMatch, Rule};
use crate::routing::service_claims::ServiceClaims;
use crate::upstream::Upstream;
use crate::upstream::method_meter::{MethodMeter, UNKNOWN};

/// The most methods that have a label of their own in metrics; calls of further ones are counted as `other`.
const METHODS_LABELLED_MAX: usize = 1_000;
const OTHER: &str = "other";

/// An upstream that calls of a route go to, and what counts them.
pub(crate) struct Destination {
    pub(crate) upstream: Arc<Upstream>,
    weight: u32,
    pub(crate) calls: MethodMeter,
}

impl Destination {
    fn new(upstream: &Arc<Upstream>, weight: u32, method: &str) -> Destination {
        let calls = MethodMeter::new(&upstream.name, method);
        Destination { upstream: upstream.clone(), weight, calls }
    }
}

/// Where a call goes, by which rules, and what is known of its method.
pub(crate) struct Route {
    /// Most often one.
    destinations: Vec<Destination>,
    weight: u32,
    /// Indicates whether the descriptors say that the method is safe to repeat.
    pub(crate) idempotent: bool,
    /// Indicates whether the descriptors say that the method has a stream of messages, in either direction.
    pub(crate) streaming: bool,
    /// Indicates whether the descriptors say that the method has no stream: one message up and one down.
    pub(crate) unary: bool,
    /// If so: how long its request may take to come.
    pub(crate) request_time: Option<Duration>,
    /// Indicates whether its calls count against the limit of an upstream that is protected from overload.
    pub(crate) limited: bool,
    pub(crate) deadline: Deadline,
    pub(crate) retry: Retry,
    pub(crate) hedge: Option<Hedge>,
    pub(crate) concurrency: Option<Arc<ConcurrencyLimit>>,
    /// Routes for calls with certain headers: the first that fits is taken instead of this one.
    variants: Vec<(Headers, Arc<Route>)>,
}

impl Route {
    /// Draws where one call goes: by weight, if there are several upstreams.
    pub(crate) fn destination(&self) -> &Destination {
        let mut drawn = if self.destinations.len() > 1 { fastrand::u32(..self.weight) } else { 0 };
        let mut chosen = &self.destinations[0];
        for destination in &self.destinations {
            if drawn < destination.weight {
                chosen = destination;
                break;
            }
            drawn -= destination.weight;
        }
        chosen
    }

    /// Returns the same route for another method of its service.
    fn of_method(&self, method: &str) -> Arc<Route> {
        let destinations = self.destinations.iter();
        let variants = self.variants.iter();
        Arc::new(Route {
            destinations: destinations.map(|to| Destination::new(&to.upstream, to.weight, method)).collect(),
            concurrency: self.concurrency.clone(),
            variants: variants.map(|(headers, route)| (headers.clone(), route.of_method(method))).collect(),
            ..*self
        })
    }
}

/// Where a path leads.
pub(crate) enum Target<'t> {
    /// The path leads to the gateway's own services, whose calls this meter counts.
    Local(&'t Arc<MethodMeter>),
    /// The path leads to an upstream.
    Upstream(&'t Arc<Route>),
}

/// All routes at one moment.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) entries: Vec<Entry>,
    pub(crate) descriptors: Arc<Descriptors>,
    /// Routes by `/package.Service/Method`, of described methods and of those with rules of their own.
    methods: HashMap<Box<str>, Arc<Route>>,
    /// Routes by `package.Service`.
    services: HashMap<Box<str>, Arc<Route>>,
    default: Option<Arc<Route>>,
    /// The gateway's own services, with the meters of calls of methods that they lack.
    local: BTreeMap<&'static str, Arc<MethodMeter>>,
    /// The meters of calls of the methods that they have, by path.
    local_methods: HashMap<Box<str>, Arc<MethodMeter>>,
    /// Warnings about configuration that is certainly unintended, as far as that is known.
    pub(crate) lints: Vec<String>,
    /// Warnings about services that an upstream lists and that are not routed to it, with the upstream's name.
    pub(crate) warnings: Vec<(String, String)>,
}

/// The parts that a table is made of.
pub(crate) struct Plan<'p> {
    /// The gateway's own services and their descriptors.
    pub(crate) local: &'static [&'static str],
    pub(crate) ours: Arc<Files>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) rules: &'p RouteFile,
    pub(crate) config: &'p Config,
}

impl Table {
    /// A service goes to the first of: the gateway, the upstream it is configured for, the Shoal role of its package (and to no
    /// upstream that merely lists it), the upstream whose reflection lists it (by order of the entries), the first of a rule's
    /// split, the default (which gets no service of Shoal's own). The split
    /// of a rule then says where the calls it is for go instead.
    pub(crate) fn build(plan: Plan<'_>) -> Table {
        let entries = &plan.entries;
        let mut claims = ServiceClaims::new(plan.local);
        for entry in entries {
            entry.named.iter().for_each(|service| claims.add(service, entry));
        }
        for entry in entries {
            entry.listed().iter().for_each(|service| claims.add_listed(service, entry));
        }
        for rule in &plan.rules.0 {
            let first = rule.split.first().and_then(|(name, _)| entry_named(entries, name));
            if let Some(entry) = first {
                claims.add(rule.of.service(), entry);
            }
        }
        let (owners, warnings) = claims.settle();

        let mut descriptors = Descriptors::default();
        descriptors.add(plan.ours.clone(), plan.local.iter().map(ToString::to_string));
        for entry in entries {
            let files = match &entry.described {
                Described::Known { files, .. } => files.clone(),
                Described::Pending(_) => Arc::default(),
            };
            let owned = owners.iter().filter(|(_, owner)| std::ptr::eq(*owner, entry));
            descriptors.add(files, owned.map(|(service, _)| (*service).to_owned()));
        }

        let look = RouteLint {
            config: plan.config,
            rules: &plan.rules.0,
            entries,
            owners: &owners,
            local: plan.local,
        };
        let mut lints = look.lints();
        lints.extend(warnings.iter().map(|(entry, warning)| format!("{}: {warning}", entry.key())));
        let warnings = warnings.into_iter().map(|(entry, warning)| (entry.upstream.name.clone(), warning));
        let mut table = Table {
            lints,
            warnings: warnings.collect(),
            descriptors: Arc::new(descriptors),
            local: plan.local.iter().map(|service| (*service, local_meter(service, UNKNOWN))).collect(),
            local_methods: plan
                .ours
                .services()
                .filter(|service| plan.local.contains(&service.name.as_str()))
                .flat_map(|service| service.methods.iter().map(move |method| (&service.name, &method.name)))
                .map(|(service, method)| {
                    (format!("/{service}/{method}").into(), local_meter(service, method))
                })
                .collect(),
            ..Table::default()
        };
        let builder = Builder::new(&plan);
        for (service, entry) in &owners {
            builder.service(&mut table, service, entry);
        }
        if let Some(entry) = entries.iter().find(|entry| entry.default) {
            table.default = Some(builder.route(&entry.upstream, Traits::default(), "", None, UNKNOWN));
        }
        table.entries = plan.entries;
        table
    }

    /// Where the call of `path` with `headers` goes.
    pub(crate) fn find(&self, path: &str, headers: &HeaderMap) -> Result<Target<'_>, Error> {
        if let Some(route) = self.methods.get(path) {
            return Ok(Target::Upstream(variant(route, headers)));
        }
        let service = service_of(path).ok_or_else(|| Error::MalformedPath { path: path.to_owned() })?;
        if let Some(route) = self.services.get(service) {
            return Ok(Target::Upstream(variant(route, headers)));
        }
        if let Some(unknown) = self.local.get(service) {
            return Ok(Target::Local(self.local_methods.get(path).unwrap_or(unknown)));
        }
        let Some(default) = &self.default else { return Err(self.unknown(service)) };
        match role_of(service) {
            None => Ok(Target::Upstream(default)),
            // The default upstream gets no calls of the roles.
            Some(role) if self.entries.iter().any(|entry| entry.upstream.role == Some(role)) => {
                Err(self.unknown(service))
            }
            Some(role) => Err(Error::RoleWithoutPeers { service: service.to_owned(), role }),
        }
    }

    /// The upstreams of a service.
    pub(crate) fn upstreams_of(&self, service: &str) -> impl Iterator<Item = &Arc<Upstream>> {
        self.services
            .get(service)
            .into_iter()
            .flat_map(|route| &route.destinations)
            .map(|destination| &destination.upstream)
    }

    /// Returns whether the gateway itself serves `service`.
    pub(crate) fn is_local(&self, service: &str) -> bool {
        self.local.contains_key(service)
    }

    /// The services routed to an upstream, in order.
    pub(crate) fn services_of(&self, upstream: &Arc<Upstream>) -> Vec<String> {
        let goes_there = |route: &Arc<Route>| {
            route.destinations.iter().any(|destination| Arc::ptr_eq(&destination.upstream, upstream))
        };
        let ours = self.services.iter().filter(|(_, route)| {
            goes_there(route) || route.variants.iter().any(|(_, variant)| goes_there(variant))
        });
        let mut services: Vec<String> = ours.map(|(service, _)| service.to_string()).collect();
        services.sort_unstable();
        services
    }

    /// Returns what is to be said of an upstream.
    pub(crate) fn warnings_of(&self, upstream: &str) -> Vec<String> {
        self.warnings.iter().filter(|(of, _)| of == upstream).map(|(_, warning)| warning.clone()).collect()
    }

    fn unknown(&self, service: &str) -> Error {
        // One that has not said what it serves may serve this.
        let undescribed = self.entries.iter().find_map(|entry| match &entry.described {
            Described::Pending(why) if entry.named.is_empty() && !entry.by_route => {
                Some((&entry.upstream.name, why))
            }
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

/// Traits of a method by its descriptors; of a method without descriptors, none.
#[derive(Clone, Copy, Default, PartialEq)]
struct Traits {
    idempotent: bool,
    streaming: bool,
    unary: bool,
}

/// Makes the routes of one table.
struct Builder<'p> {
    entries: &'p [Entry],
    config: &'p Config,
    rules: &'p [Rule],
    /// The number of methods that have a label of their own.
    labelled: Cell<usize>,
}

impl<'p> Builder<'p> {
    fn new(plan: &'p Plan<'_>) -> Builder<'p> {
        Builder { entries: &plan.entries, config: plan.config, rules: &plan.rules.0, labelled: Cell::new(0) }
    }

    /// The name by which a method is counted.
    fn label<'l>(&self, path: &'l str) -> &'l str {
        self.labelled.set(self.labelled.get() + 1);
        if self.labelled.get() > METHODS_LABELLED_MAX { OTHER } else { path.trim_start_matches('/') }
    }

    fn service(&self, table: &mut Table, service: &str, entry: &Entry) {
        let upstream = &entry.upstream;
        let unknown = format!("{service}/{UNKNOWN}");
        let of_service = self.route(upstream, Traits::default(), service, None, &unknown);
        let described = entry.service(service).map_or(&[][..], |service| service.methods.as_slice());
        // Routes of methods without rules of their own are the same but for their traits.
        let mut alike = vec![(Traits::default(), of_service.clone())];
        for method in described {
            let path = format!("/{service}/{}", method.name);
            let (idempotent, streaming) = (method.idempotent, method.streaming);
            let traits = Traits { idempotent, streaming, unary: !streaming };
            let route = if self.has_rules(&path) {
                self.route(upstream, traits, service, Some(&path), self.label(&path))
            } else if let Some((_, route)) = alike.iter().find(|(of, _)| *of == traits) {
                route.of_method(self.label(&path))
            } else {
                let route = self.route(upstream, traits, service, None, self.label(&path));
                alike.push((traits, route.clone()));
                route
            };
            table.methods.insert(path.into(), route);
        }
        for rule in self.rules {
            if let RouteMatch::Method(path) = &rule.of
                && rule.of.service() == service
                && !table.methods.contains_key(path.as_str())
            {
                let label = self.label(path);
                let route = self.route(upstream, Traits::default(), service, Some(path), label);
                table.methods.insert(path.as_str().into(), route);
            }
        }
        table.services.insert(service.into(), of_service);
    }

    fn request_time(&self, traits: Traits) -> Option<Duration> {
        traits.unary.then_some(self.config.limits.request_time)
    }

    fn has_rules(&self, path: &str) -> bool {
        self.rules.iter().any(|rule| matches!(&rule.of, RouteMatch::Method(of) if of == path))
    }

    /// The route of a path, or of every path of a service: its rules in their order, up to the first for all headers.
    fn route(
        &self,
        own: &Arc<Upstream>,
        traits: Traits,
        service: &str,
        path: Option<&str>,
        label: &str,
    ) -> Arc<Route> {
        let mut variants = Vec::new();
        for rule in self.rules.iter().filter(|rule| rule.of.covers(service, path)) {
            let route = self.ruled(own, traits, rule, label);
            if rule.headers.is_empty() {
                return Arc::new(Route { variants, ..route });
            }
            variants.push((rule.headers.clone(), Arc::new(route)));
        }
        Arc::new(Route {
            destinations: vec![Destination::new(own, 1, label)],
            weight: 1,
            idempotent: traits.idempotent,
            streaming: traits.streaming,
            unary: traits.unary,
            request_time: self.request_time(traits),
            limited: !traits.streaming,
            deadline: self.config.deadline,
            retry: self.config.retry,
            hedge: None,
            concurrency: None,
            variants,
        })
    }

    fn ruled(&self, own: &Arc<Upstream>, traits: Traits, rule: &Rule, label: &str) -> Route {
        let named = |(name, weight): &(String, u32)| {
            let entry = entry_named(self.entries, name)?;
            (*weight > 0).then(|| Destination::new(&entry.upstream, *weight, label))
        };
        let mut destinations: Vec<_> = rule.split.iter().filter_map(named).collect();
        if destinations.is_empty() {
            destinations.push(Destination::new(own, 1, label));
        }
        Route {
            weight: destinations.iter().map(|destination| destination.weight).sum(),
            destinations,
            idempotent: traits.idempotent,
            streaming: traits.streaming,
            unary: traits.unary,
            request_time: self.request_time(traits),
            limited: !traits.streaming && rule.overload,
            deadline: rule.deadline.unwrap_or(self.config.deadline),
            retry: rule.retry.over(self.config.retry),
            hedge: rule.hedge,
            concurrency: rule.concurrency.clone(),
            variants: Vec::new(),
        }
    }
}

fn local_meter(service: &str, method: &str) -> Arc<MethodMeter> {
    Arc::new(MethodMeter::new("gateway", &format!("{service}/{method}")))
}

fn entry_named<'e>(entries: &'e [Entry], name: &str) -> Option<&'e Entry> {
    entries.iter().find(|entry| entry.upstream.name == name)
}

fn variant<'t>(route: &'t Arc<Route>, headers: &HeaderMap) -> &'t Arc<Route> {
    let fits = route.variants.iter().find(|(wanted, _)| wanted.fit(headers));
    fits.map_or(route, |(_, variant)| variant)
}

/// The service of `/package.Service/Method`.
fn service_of(path: &str) -> Option<&str> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some(service)
}
