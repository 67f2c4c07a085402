//! The route file: what is particular about the calls of a service or a method. Read whole or not at all; a mistake is
//! told with its line.
//!
//! ```toml
//! [[route]]
//! method = "shoal.cache.v1.CacheService/Get"     # or: service = "shoal.cache.v1.CacheService"
//! headers = { "x-tenant" = "beta" }              # only calls with all of these; "*": with any value
//! deadline = { default = "2s", max = "5s" }
//! retry = { attempts = 2, backoff = "10ms" }
//! hedge = { after = "20ms" }                     # a second attempt when the first is slow; {}: after the method's p95
//! overload = false                               # not held to its upstream's limit: a long poll
//! in_flight = 500                                # calls at once, of the whole process
//! split = { cache = 95, cache-canary = 5 }       # upstreams by weight
//! ```
//!
//! Of several routes that fit a call the first in the file counts, and no other.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use shoal_kit::role::Role;
use toml::Spanned;

use crate::admission::concurrency::ConcurrencyLimit;
use crate::config::{Config, Deadline, Retry};

/// Most routes of a file, and most bytes.
const RULES_MAX: usize = 1_000;
pub(crate) const BYTES_MAX: u64 = 1 << 20;

/// The rules of a route file, checked.
#[derive(Debug, Clone, Default)]
pub(crate) struct RouteFile(pub(crate) Vec<Rule>);

/// A `[[route]]`.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    /// Where it begins in its file.
    pub(crate) line: usize,
    pub(crate) of: RouteMatch,
    pub(crate) headers: Headers,
    pub(crate) deadline: Option<Deadline>,
    pub(crate) retry: RetryRule,
    pub(crate) hedge: Option<Hedge>,
    /// Indicates whether its calls count against the limit of an upstream that is protected from overload.
    pub(crate) overload: bool,
    /// Shared by all methods the rule is for, and by every table made of it.
    pub(crate) concurrency: Option<Arc<ConcurrencyLimit>>,
    /// Upstreams and their weights; empty: the service's own.
    pub(crate) split: Vec<(String, u32)>,
}

/// The calls that a rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RouteMatch {
    /// All of `package.Service`.
    Service(String),
    /// Calls of `/package.Service/Method`.
    Method(String),
}

/// Headers a call must have, each with a value or with any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(Vec<(HeaderName, Option<HeaderValue>)>);

/// Retry settings that differ from `[gateway.retry]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RetryRule {
    attempts: Option<u32>,
    #[serde(with = "humantime_serde::option")]
    backoff: Option<Duration>,
}

/// Permission to send calls to a second endpoint when the first is slow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Hedge {
    /// When it is slow. None: after the 95th percentile of the method's latency, as measured here.
    #[serde(with = "humantime_serde::option")]
    pub(crate) after: Option<Duration>,
}

/// Why a route file was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub(crate) struct RuleError {
    line: usize,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    route: Vec<Spanned<RawRule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    service: Option<Spanned<String>>,
    method: Option<Spanned<String>>,
    #[serde(default)]
    headers: BTreeMap<String, Spanned<String>>,
    deadline: Option<Deadline>,
    retry: Option<Spanned<RetryRule>>,
    hedge: Option<Hedge>,
    overload: Option<bool>,
    in_flight: Option<Spanned<usize>>,
    #[serde(default)]
    split: BTreeMap<String, Spanned<u32>>,
}

impl RouteFile {
    /// Reads a route file; `upstreams` are the names a split may use beside those of the Shoal roles.
    pub(crate) fn read(text: &str, upstreams: &[&str]) -> Result<RouteFile, RuleError> {
        let line = |span: &Range<usize>| {
            let before = text.get(..span.start).unwrap_or_default();
            before.matches('\n').count() + 1
        };
        let at = |span: Range<usize>, reason: String| RuleError { line: line(&span), reason };
        let file: RawFile = toml::from_str(text)
            .map_err(|error| at(error.span().unwrap_or(0..0), error.message().to_owned()))?;
        if let Some(one_too_many) = file.route.get(RULES_MAX) {
            return Err(at(one_too_many.span(), format!("more than {RULES_MAX} routes")));
        }
        let mut rules = Vec::with_capacity(file.route.len());
        for raw in file.route {
            let whole = raw.span();
            let (line, raw) = (line(&whole), raw.into_inner());
            let of = of(raw.service, raw.method, whole).map_err(|(span, reason)| at(span, reason))?;
            let headers = headers(raw.headers).map_err(|(span, reason)| at(span, reason))?;
            let retry = raw.retry.map_or(Ok(RetryRule::default()), |retry| {
                let valid = retry.get_ref().attempts.is_none_or(|n| (1..=Config::ATTEMPTS_MAX).contains(&n));
                let span = retry.span();
                valid
                    .then(|| retry.into_inner())
                    .ok_or((span, "retry.attempts must be between 1 and 10".to_owned()))
            });
            let in_flight = raw.in_flight.map(|n| {
                let span = n.span();
                Some(n.into_inner())
                    .filter(|n| *n > 0)
                    .ok_or((span, "in_flight must be at least 1".to_owned()))
            });
            rules.push(Rule {
                line,
                of,
                headers,
                deadline: raw.deadline,
                retry: retry.map_err(|(span, reason)| at(span, reason))?,
                hedge: raw.hedge,
                overload: raw.overload.unwrap_or(true),
                concurrency: in_flight
                    .transpose()
                    .map_err(|(span, reason)| at(span, reason))?
                    .map(ConcurrencyLimit::new),
                split: split(raw.split, upstreams).map_err(|(span, reason)| at(span, reason))?,
            });
        }
        Ok(RouteFile(rules))
    }

    /// Takes over the gates of the rules before, where a rule and its limit are the same: the calls that are in flight
    /// already still count.
    pub(crate) fn adopt(&mut self, before: &RouteFile) {
        for rule in &mut self.0 {
            let same = before.0.iter().find(|old| {
                old.of == rule.of
                    && old.headers == rule.headers
                    && old.most_in_flight() == rule.most_in_flight()
            });
            if let Some(same) = same {
                rule.concurrency = same.concurrency.clone();
            }
        }
    }
}

impl Rule {
    /// Returns whether every call that fits the other, later rule fits this one.
    pub(crate) fn hides(&self, later: &Rule) -> bool {
        let of = match (&self.of, &later.of) {
            (RouteMatch::Service(service), _) => service == later.of.service(),
            (of, later) => of == later,
        };
        of && self.headers.implied_by(&later.headers)
    }

    fn most_in_flight(&self) -> Option<usize> {
        self.concurrency.as_ref().map(|concurrency| concurrency.most)
    }
}

type Wrong = (Range<usize>, String);

fn of(
    service: Option<Spanned<String>>,
    method: Option<Spanned<String>>,
    whole: Range<usize>,
) -> Result<RouteMatch, Wrong> {
    match (service, method) {
        (Some(service), None) => {
            let (span, service) = (service.span(), service.into_inner());
            if service.is_empty() || service.contains('/') {
                return Err((span, format!("service `{service}` must be written package.Service")));
            }
            Ok(RouteMatch::Service(service))
        }
        (None, Some(method)) => {
            let (span, method) = (method.span(), method.into_inner());
            match method.split_once('/') {
                Some((service, name)) if !service.is_empty() && !name.is_empty() && !name.contains('/') => {
                    Ok(RouteMatch::Method(format!("/{method}")))
                }
                _ => Err((span, format!("method `{method}` must be written package.Service/Method"))),
            }
        }
        _ => Err((whole, "a route needs exactly one of `service` and `method`".to_owned())),
    }
}

fn headers(raw: BTreeMap<String, Spanned<String>>) -> Result<Headers, Wrong> {
    let mut headers = Vec::with_capacity(raw.len());
    for (name, value) in raw {
        let (span, value) = (value.span(), value.into_inner());
        let Ok(header) = HeaderName::try_from(name.as_str()) else {
            return Err((span, format!("`{name}` is not a header name")));
        };
        let value = match value.as_str() {
            "*" => None,
            text => match HeaderValue::try_from(text) {
                Ok(value) => Some(value),
                Err(_) => return Err((span, format!("the value of {name} is not a valid header value"))),
            },
        };
        headers.push((header, value));
    }
    Ok(Headers(headers))
}

fn split(raw: BTreeMap<String, Spanned<u32>>, upstreams: &[&str]) -> Result<Vec<(String, u32)>, Wrong> {
    /// The highest weight, so that the sum of all weights fits too.
    const WEIGHT_MAX: u32 = 1_000_000;
    let mut split = Vec::with_capacity(raw.len());
    let mut last = 0..0;
    for (name, weight) in raw {
        last = weight.span();
        let role = Role::parse(&name).filter(|role| *role != Role::Gateway);
        if role.is_none() && !upstreams.contains(&name.as_str()) {
            let configured = match upstreams {
                [] => "none is configured".to_owned(),
                upstreams => format!("configured are {}", upstreams.join(", ")),
            };
            let reason = format!(
                "split: there is no upstream `{name}`: {configured}, and there may be clones of session, cache, data and jobs"
            );
            return Err((last, reason));
        }
        if *weight.get_ref() > WEIGHT_MAX {
            return Err((last, format!("split: a weight must be at most {WEIGHT_MAX}")));
        }
        split.push((name, weight.into_inner()));
    }
    if !split.is_empty() && split.iter().all(|(_, weight)| *weight == 0) {
        return Err((last, "split: at least one weight must not be 0".to_owned()));
    }
    Ok(split)
}

impl RouteMatch {
    /// Returns whether a rule is for every call of `path`, which is of `service`.
    pub(crate) fn covers(&self, service: &str, path: Option<&str>) -> bool {
        match self {
            RouteMatch::Service(of) => of == service,
            RouteMatch::Method(of) => path == Some(of.as_str()),
        }
    }

    /// The service it is of.
    pub(crate) fn service(&self) -> &str {
        match self {
            RouteMatch::Service(service) => service,
            RouteMatch::Method(path) => path.trim_start_matches('/').split('/').next().unwrap_or_default(),
        }
    }
}

impl Headers {
    /// Returns whether no header is asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether every call that has the `others` has these headers.
    fn implied_by(&self, others: &Headers) -> bool {
        self.0.iter().all(|(name, wanted)| {
            others.0.iter().any(|(other, value)| other == name && (wanted.is_none() || wanted == value))
        })
    }

    /// Returns whether a call has all of the headers.
    pub(crate) fn fit(&self, headers: &HeaderMap) -> bool {
        self.0.iter().all(|(name, wanted)| match wanted {
            None => headers.contains_key(name),
            Some(wanted) => headers.get_all(name).iter().any(|value| value == wanted),
        })
    }
}

impl RetryRule {
    /// Returns what it makes of the common settings.
    pub(crate) fn over(self, common: Retry) -> Retry {
        Retry {
            attempts: self.attempts.unwrap_or(common.attempts),
            backoff: self.backoff.unwrap_or(common.backoff),
            ..common
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPSTREAMS: [&str; 2] = ["cache", "canary"];

    fn refused(text: &str, line: usize, part: &str) {
        let error = RouteFile::read(text, &UPSTREAMS).expect_err(text);
        assert!(error.line == line && error.reason.contains(part), "{text}: {error}");
    }

    #[test]
    fn a_route_is_read_whole() {
        let text = "[[route]]\nmethod = 'a.B/C'\nheaders = { x-tenant = 'beta', x-any = '*' }\n\
            deadline = { default = '2s' }\nretry = { attempts = 2 }\nhedge = { after = '20ms' }\noverload = false\nin_flight = 5\nsplit = { cache = 95, canary = 5 }\n\
            [[route]]\nservice = 'a.B'\n";
        let rules = RouteFile::read(text, &UPSTREAMS).expect("valid").0;
        assert_eq!(rules.len(), 2);
        assert_eq!(rules[0].of, RouteMatch::Method("/a.B/C".to_owned()));
        assert_eq!(rules[0].split, [("cache".to_owned(), 95), ("canary".to_owned(), 5)]);
        let retry = rules[0].retry.over(Retry::default());
        assert_eq!((retry.attempts, retry.backoff), (2, Retry::default().backoff));
        assert_eq!(rules[0].hedge, Some(Hedge { after: Some(Duration::from_millis(20)) }));
        assert_eq!((rules[1].hedge, rules[0].overload, rules[1].overload), (None, false, true));
        let mut headers = HeaderMap::new();
        headers.append("x-tenant", HeaderValue::from_static("alpha"));
        headers.append("x-tenant", HeaderValue::from_static("beta"));
        assert!(!rules[0].headers.fit(&headers));
        headers.append("x-any", HeaderValue::from_static(""));
        assert!(rules[0].headers.fit(&headers));
        assert!(rules[1].of.covers("a.B", Some("/a.B/C")) && !rules[0].of.covers("a.B", None));
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        refused("[[route]]\nservice = 'a.B'\nretries = 3\n", 3, "retries");
        refused("\n\n[[route]]\ndeadline = { max = '1s' }\n", 3, "exactly one of `service` and `method`");
        refused("[[route]]\nservice = 'a.B'\nmethod = 'a.B/C'\n", 1, "exactly one of `service` and `method`");
        refused("[[route]]\nmethod = 'a.B'\n", 2, "`a.B`");
        refused(
            "[[route]]\nservice = 'a.B'\nsplit = { cash = 1 }\n",
            3,
            "there is no upstream `cash`: configured are cache, canary,",
        );
        refused("[[route]]\nservice = 'a.B'\nsplit = { gateway = 1 }\n", 3, "there is no upstream `gateway`");
        refused("[[route]]\nservice = 'a.B'\nsplit = { cache = 0 }\n", 3, "weight");
        refused("[[route]]\nservice = 'a.B'\nretry = { attempts = 0 }\n", 3, "attempts");
        refused("[[route]]\nservice = 'a.B'\nin_flight = 0\n", 3, "in_flight");
        refused("[[route]]\nservice = 'a.B'\nheaders = { 'a b' = 'c' }\n", 3, "`a b`");
        refused("[[route]]\nservice = 'a.B'\ndeadline = { max = 'soon' }\n", 3, "");
        refused("[[route]]\nservice = 'a.B\n", 2, "");
        refused("route = 7\n", 1, "");
    }

    #[test]
    fn an_empty_file_has_no_routes() {
        assert!(RouteFile::read("# nothing\n", &[]).expect("valid").0.is_empty());
    }

    #[test]
    fn examples_in_docs_are_valid() {
        let docs = include_str!("../../../../docs/gateway.md");
        let examples = docs.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
        let (mut sections, mut routes) = (0, 0);
        for example in examples {
            if example.contains("[[route]]") {
                RouteFile::read(example, &["cache", "cache-canary"]).expect(example);
                routes += 1;
            } else {
                let example = example.replace("[gateway.", "[");
                toml::from_str::<Config>(&example).expect(&example).validate().expect(&example);
                sections += 1;
            }
        }
        assert_eq!((sections, routes), (2, 2));
    }

    #[test]
    fn reload_keeps_counting_calls_in_flight() {
        let read = |limit| {
            let text = format!("[[route]]\nservice = 'a.B'\nin_flight = {limit}\n");
            RouteFile::read(&text, &[]).expect("valid")
        };
        let before = read(1);
        let _inside = before.0[0].concurrency.as_ref().expect("a limit").enter().expect("room");
        for (limit, full) in [(1, true), (2, false)] {
            let mut after = read(limit);
            after.adopt(&before);
            assert_eq!(after.0[0].concurrency.as_ref().expect("a limit").enter().is_none(), full, "{limit}");
        }
    }
}
