//! Warns about configuration that is valid but certainly unintended: routes that no call reaches, hedging of calls that are never
//! hedged, shares of upstreams that are not there. Told in the log when it is found; nothing is refused for it.

use std::time::Duration;

use crate::config::{Config, Deadline};
use crate::routing::entry::{Described, Entry};
use crate::routing::route_file::{RouteMatch, Rule};

/// The parts of a table that are checked.
pub(crate) struct RouteLint<'l> {
    pub(crate) config: &'l Config,
    pub(crate) rules: &'l [Rule],
    pub(crate) entries: &'l [Entry],
    /// The upstream that each service goes to.
    pub(crate) owners: &'l [(&'l str, &'l Entry)],
    /// The gateway's own services.
    pub(crate) local: &'l [&'l str],
}

impl RouteLint<'_> {
    /// Returns a sentence for each warning, in the order of the file.
    pub(crate) fn lints(&self) -> Vec<String> {
        // Before the start and after the end nothing is there, and nothing follows from that.
        if self.entries.is_empty() {
            return Vec::new();
        }
        let mut lints = Vec::new();
        if let Some(lint) = longer(&self.config.deadline) {
            lints.push(format!("gateway.deadline: {lint}"));
        }
        for (at, rule) in self.rules.iter().enumerate() {
            let mut lint = |lint: String| lints.push(format!("gateway.routes, line {}: {lint}", rule.line));
            if let Some(deadline) = &rule.deadline
                && let Some(longer) = longer(deadline)
            {
                lint(format!("deadline: {longer}"));
            }
            for (name, _) in rule.split.iter().filter(|(name, weight)| *weight > 0 && !self.has(name)) {
                lint(format!(
                    "split: there are no clones of `{name}`, so its share goes to the others, or to the service's own \
                     upstream (give their addresses with --peer {name}=…)"
                ));
            }
            if let Some(before) = self.rules[..at].iter().find(|before| before.hides(rule)) {
                lint(format!("unreachable: shadowed by the route at line {}", before.line));
            } else if let Some(why) = self.unreached(rule) {
                lint(format!("unreachable: {why}"));
            } else if rule.hedge.is_some()
                && let Some(why) = self.unhedged(rule)
            {
                lint(format!("hedge has no effect: {why}"));
            }
        }
        lints
    }

    fn has(&self, upstream: &str) -> bool {
        self.entries.iter().any(|entry| entry.upstream.name == upstream)
    }

    fn owner(&self, service: &str) -> Option<&Entry> {
        self.owners.iter().find(|(owned, _)| *owned == service).map(|(_, entry)| *entry)
    }

    /// Why a call can never fit a rule, if that is known already.
    fn unreached(&self, rule: &Rule) -> Option<String> {
        let service = rule.of.service();
        if self.local.contains(&service) {
            return Some(format!("the gateway answers {service} itself"));
        }
        let Some(owner) = self.owner(service) else {
            // One that has not said yet what it serves may serve it.
            let pending = self
                .entries
                .iter()
                .any(|entry| matches!(entry.described, Described::Pending(_)) && entry.named.is_empty());
            return (!pending).then(|| {
                format!("no upstream is known to have {service} (name it in `services` of [gateway.upstream.NAME])")
            });
        };
        let (RouteMatch::Method(path), Some(described)) = (&rule.of, owner.service(service)) else {
            return None;
        };
        let known = described.methods.iter().any(|method| path.ends_with(&format!("/{}", method.name)));
        (!known).then(|| format!("{service} has no such method"))
    }

    /// Why no call of a rule is ever sent twice, if that is known already.
    fn unhedged(&self, rule: &Rule) -> Option<String> {
        let service = rule.of.service();
        let owner = self.owner(service)?;
        let Some(described) = owner.service(service) else {
            let known = matches!(owner.described, Described::Known { .. });
            return known.then(|| {
                format!(
                    "`{}` has no reflection, so no method is known to be safe to repeat",
                    owner.upstream.name
                )
            });
        };
        let mut methods = described.methods.iter().filter(|method| match &rule.of {
            RouteMatch::Service(_) => true,
            RouteMatch::Method(path) => path.ends_with(&format!("/{}", method.name)),
        });
        (!methods.any(|method| method.idempotent))
            .then(|| "its descriptors do not mark it safe to repeat (idempotency_level)".to_owned())
    }
}

/// Returns the warning about a default deadline above the maximum.
fn longer(deadline: &Deadline) -> Option<String> {
    let within = |default: Duration, max: Duration| {
        format!("default {default:?} is longer than max {max:?}, which is what calls get")
    };
    match (deadline.default, deadline.max) {
        (Some(default), Some(max)) if default > max => Some(within(default, max)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shoal_kit::role::Role;
    use tokio::runtime::Handle;

    use super::*;
    use crate::routing::catalog::Catalog;
    use crate::upstream::Upstream;

    const SESSION: &str = "shoal.session.v1.SessionService";

    /// The lints of a route file before clones of session and one foreign upstream, `shop`, that has no reflection
    /// (`described`) or has not said yet.
    fn lints(routes: &str, deadline: &str, described: bool) -> Vec<String> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), routes).expect("written");
        let text = format!(
            "routes = '{}'\ndeadline = {{ {deadline} }}\n[upstream.shop]\nendpoints = ['127.0.0.1:1']\n\
             services = ['acme.Shop']\n[upstream.other]\nendpoints = ['127.0.0.1:2']\n",
            file.path().display()
        );
        let catalog = Catalog::new(toml::from_str(&text).expect("valid")).expect("a catalog");
        let start = |name: &str, role| {
            let source = "127.0.0.1:1".parse().expect("a source");
            Upstream::start(name, role, source, catalog.config(), &[Handle::current()])
        };
        let foreign = |name: &str, named: &[&str]| {
            let mut entry = Entry {
                upstream: start(name, None),
                named: named.iter().map(ToString::to_string).collect(),
                default: false,
                by_route: false,
                described: Described::default(),
            };
            if described {
                entry.has_no_reflection();
            }
            entry
        };
        let session: Arc<Upstream> = start("session", Some(Role::Session));
        catalog.set(vec![
            catalog.of_role(Role::Session, session),
            foreign("shop", &["acme.Shop"]),
            foreign("other", &[]),
        ]);
        catalog.table().lints.clone()
    }

    #[tokio::test]
    async fn unintended_rules_are_reported_with_line() {
        let session = |rest: &str| format!("[[route]]\nservice = '{SESSION}'\n{rest}\n");
        let method = |name: &str, rest: &str| format!("[[route]]\nmethod = '{SESSION}/{name}'\n{rest}\n");
        for (routes, line, part) in [
            (session("deadline = { default = '5s', max = '2s' }"), 1, "5s is longer than max 2s"),
            (session("split = { session = 1, cache = 1 }"), 1, "no clones of `cache`"),
            (method("CreateSession", "hedge = {}"), 1, "idempotency_level"),
            ("[[route]]\nservice = 'acme.Shop'\nhedge = {}\n".to_owned(), 1, "`shop` has no reflection"),
            (method("GetSesion", ""), 1, "no such method"),
            (
                "\n[[route]]\nservice = 'acme.Nobody'\n".to_owned(),
                2,
                "no upstream is known to have acme.Nobody",
            ),
            ("[[route]]\nservice = 'grpc.health.v1.Health'\n".to_owned(), 1, "the gateway answers"),
            (session("") + &session(""), 4, "shadowed by the route at line 1"),
            (session("") + &method("GetSession", ""), 4, "shadowed by the route at line 1"),
            (
                session("headers = { a = '*' }") + &session("headers = { a = '1', b = '2' }"),
                4,
                "the route at line 1",
            ),
        ] {
            let lints = lints(&routes, "", true);
            let [lint] = lints.as_slice() else { panic!("{routes}: {lints:#?}") };
            let start = format!("gateway.routes, line {line}: ");
            assert!(lint.starts_with(&start) && lint.contains(part), "{routes}: {lint}");
        }
        let lints = lints("", "default = '5s', max = '2s'", true);
        assert!(lints.len() == 1 && lints[0].starts_with("gateway.deadline: default 5s"), "{lints:#?}");
    }

    #[tokio::test]
    async fn plausible_rules_are_not_reported() {
        let session = |rest: &str| format!("[[route]]\nservice = '{SESSION}'\n{rest}\n");
        let method = |name: &str, rest: &str| format!("[[route]]\nmethod = '{SESSION}/{name}'\n{rest}\n");
        for (routes, described) in [
            (session("deadline = { default = '2s', max = '5s' }\nhedge = {}"), true),
            (method("GetSession", "hedge = {}"), true),
            (method("GetSession", "") + &session(""), true),
            (session("headers = { a = '1' }") + &session("headers = { a = '*' }") + &session(""), true),
            (session("headers = { a = '1' }") + &session("headers = { a = '2' }"), true),
            ("[[route]]\nservice = 'acme.New'\nsplit = { other = 1 }\n".to_owned(), true),
            (session("split = { session = 1, cache = 0 }"), true),
            // It may be what `other` is going to describe.
            ("[[route]]\nservice = 'acme.Nobody'\n".to_owned(), false),
            ("[[route]]\nservice = 'acme.Shop'\nhedge = {}\n".to_owned(), false),
        ] {
            let lints = lints(&routes, "default = '2s', max = '2s'", described);
            assert!(lints.is_empty(), "{routes}: {lints:#?}");
        }
    }
}
