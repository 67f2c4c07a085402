//! Quotas of callers: a token bucket and a bound on calls in flight for each caller.
//!
//! A caller is known by a header, such as an API key, of which only a hash is kept; without one by its address. The table
//! of callers is bounded: callers beyond it share one set of limits.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use sha2::{Digest as _, Sha256};
use shoal_kit::reason::{self, Reason};
use tokio::time::Instant;

use crate::admission::concurrency::{ConcurrencyLimit, ConcurrencyPermit};
use crate::admission::token_bucket::{Rate, TokenBucket};
use crate::config::{CallerLimits, Callers as Settings};
use crate::error::Error;

/// A longer header is no key: its caller is known by its address.
const KEY_BYTES_MAX: usize = 512;

/// A full table is looked through for callers that have left no more often than this.
const SWEEP_EVERY_MS: u64 = 1_000;

/// After a refusal because of the calls in flight: one of them may be done.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Everyone's limits.
pub(crate) struct CallerQuotas {
    settings: Settings,
    base: Instant,
    named: HashMap<Key, Arc<CallerQuota>>,
    table: Mutex<HashMap<Key, Arc<CallerQuota>>>,
    swept_at_ms: AtomicU64,
    /// The quota that callers share who have no room in the table.
    others: Arc<CallerQuota>,
}

/// The identity of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    /// SHA-256 of the header.
    Header([u8; 32]),
    Address(IpAddr),
}

/// The quota of one caller.
pub(crate) struct CallerQuota {
    /// Its name, or what sort of nameless caller it is: never its key.
    name: Arc<str>,
    rate: Option<Rate>,
    per_second: f64,
    bucket: TokenBucket,
    concurrency: Option<Arc<ConcurrencyLimit>>,
}

/// The caller that a connection looked up last. Most connections have one caller, whose further calls need no lookup.
pub(crate) struct CallerCache {
    address: IpAddr,
    last: Mutex<Option<(Option<Key>, Arc<CallerQuota>)>>,
}

impl CallerCache {
    pub(crate) fn new(address: IpAddr) -> CallerCache {
        CallerCache { address, last: Mutex::new(None) }
    }
}

impl CallerQuotas {
    /// Creates the quotas; none when no caller has a limit, so that no call is looked at.
    pub(crate) fn new(settings: &Settings, now: Instant) -> Option<CallerQuotas> {
        let limited = |limits: &CallerLimits| limits.per_second > 0.0 || limits.in_flight > 0;
        if !limited(&settings.limits())
            && !settings.named.values().any(|named| limited(&named.limits(settings)))
        {
            return None;
        }
        let named = settings.named.iter().filter_map(|(name, named)| {
            let key = match (&named.key_sha256, named.address) {
                (Some(hash), _) => Key::Header(hash.0),
                (None, address) => Key::Address(network(address?)),
            };
            Some((key, Arc::new(CallerQuota::new(name, &named.limits(settings)))))
        });
        Some(CallerQuotas {
            named: named.collect(),
            table: Mutex::default(),
            swept_at_ms: AtomicU64::new(0),
            others: Arc::new(CallerQuota::new("others", &settings.limits())),
            settings: settings.clone(),
            base: now,
        })
    }

    /// Lets a call in, which counts as in flight until what is returned is dropped.
    pub(crate) fn admit(
        &self,
        connection: &CallerCache,
        headers: &HeaderMap,
        now: Instant,
    ) -> Result<Option<ConcurrencyPermit>, Error> {
        let since = now - self.base;
        self.caller(connection, headers, since).admit(since)
    }

    fn caller(&self, connection: &CallerCache, headers: &HeaderMap, since: Duration) -> Arc<CallerQuota> {
        let header = self.settings.header.as_ref().and_then(|name| headers.get(&name.0));
        // The key itself is kept nowhere.
        let key = header
            .filter(|value| value.len() <= KEY_BYTES_MAX)
            .map(|value| Key::Header(Sha256::digest(value.as_bytes()).into()));
        let mut last = connection.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, caller)) = &*last
            && *known == key
        {
            return caller.clone();
        }
        let caller = self.look_up(connection.address, key, since);
        *last = Some((key, caller.clone()));
        caller
    }

    fn look_up(&self, address: IpAddr, key: Option<Key>, since: Duration) -> Arc<CallerQuota> {
        if let Some(named) = key.and_then(|key| self.named.get(&key)) {
            return named.clone();
        }
        let key = key.filter(|_| !self.settings.only_named).unwrap_or(Key::Address(network(address)));
        if let Some(named) = self.named.get(&key) {
            return named.clone();
        }
        let mut table = self.table();
        if let Some(known) = table.get(&key) {
            return known.clone();
        }
        if table.len() >= self.settings.tracked {
            self.sweep(&mut table, since);
        }
        if table.len() >= self.settings.tracked {
            return self.others.clone();
        }
        let caller = Arc::new(CallerQuota::new("default", &self.settings.limits()));
        table.insert(key, caller.clone());
        caller
    }

    /// Forgets callers without a connection who would find nothing changed if they came back.
    fn sweep(&self, table: &mut HashMap<Key, Arc<CallerQuota>>, since: Duration) {
        let ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let swept_at = self.swept_at_ms.load(Ordering::Relaxed);
        if swept_at != 0 && ms < swept_at + SWEEP_EVERY_MS {
            return;
        }
        self.swept_at_ms.store(ms.max(1), Ordering::Relaxed);
        table.retain(|_, caller| Arc::strong_count(caller) > 1 || !caller.is_idle(since));
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Key, Arc<CallerQuota>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallerQuota {
    fn new(name: &str, limits: &CallerLimits) -> CallerQuota {
        let burst = if limits.burst > 0 { limits.burst } else { limits.per_second.ceil() as u32 };
        CallerQuota {
            name: name.into(),
            rate: (limits.per_second > 0.0).then(|| Rate::new(limits.per_second, burst)),
            per_second: limits.per_second,
            bucket: TokenBucket::default(),
            concurrency: (limits.in_flight > 0).then(|| ConcurrencyLimit::new(limits.in_flight)),
        }
    }

    fn admit(&self, since: Duration) -> Result<Option<ConcurrencyPermit>, Error> {
        // First the calls in flight: a call that they refuse costs no token.
        let permit = match &self.concurrency {
            None => None,
            Some(concurrency) => match concurrency.enter() {
                Some(permit) => Some(permit),
                None => {
                    let limit = format!("{} calls in flight", concurrency.most);
                    return Err(self.refused("in_flight", reason::CALLER_IN_FLIGHT, limit, RETRY_AFTER));
                }
            },
        };
        if let Some(rate) = self.rate
            && let Err(wait) = self.bucket.take(rate, since)
        {
            let limit = format!("{} calls a second", self.per_second);
            return Err(self.refused("rate", reason::CALLER_RATE, limit, wait));
        }
        Ok(permit)
    }

    fn refused(&self, kind: &'static str, reason: Reason, limit: String, wait: Duration) -> Error {
        metrics::counter!("shoal_gateway_callers_refused_total", "caller" => self.name.to_string(), "limit" => kind)
            .increment(1);
        Error::CallerLimit { caller: self.name.to_string(), reason, limit, wait }
    }

    fn is_idle(&self, since: Duration) -> bool {
        self.bucket.is_full(since)
            && self.concurrency.as_ref().is_none_or(|concurrency| concurrency.is_empty())
    }
}

/// Returns the network that counts as one caller: the address, or the /64 of an IPv6 address.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn callers(toml: &str) -> CallerQuotas {
        let settings: Settings = toml::from_str(toml).expect("valid");
        CallerQuotas::new(&settings, Instant::now()).expect("limits")
    }

    fn connection(address: &str) -> CallerCache {
        CallerCache::new(address.parse().expect("an address"))
    }

    fn key(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if !value.is_empty() {
            headers.insert("x-api-key", HeaderValue::from_str(value).expect("ascii"));
        }
        headers
    }

    /// Returns how many calls of a hundred are let in, none of which ends.
    fn let_in(callers: &CallerQuotas, connection: &CallerCache, value: &str) -> usize {
        let permits = (0..100).map(|_| callers.admit(connection, &key(value), callers.base));
        permits.collect::<Vec<_>>().iter().filter(|permit| permit.is_ok()).count()
    }

    const KEYED: &str = "header = 'x-api-key'\nper_second = 10\n";

    #[test]
    fn without_limits_nobody_is_looked_at() {
        for toml in ["", "header = 'x-api-key'", "[named.a]\naddress = '10.0.0.1'"] {
            assert!(
                CallerQuotas::new(&toml::from_str(toml).expect("valid"), Instant::now()).is_none(),
                "{toml}"
            );
        }
    }

    #[test]
    fn caller_is_its_key_or_address() {
        let callers = callers(KEYED);
        let (one, two) = (connection("10.0.0.1"), connection("10.0.0.2"));
        assert_eq!(let_in(&callers, &one, "ada"), 10);
        assert_eq!((let_in(&callers, &two, "ada"), let_in(&callers, &two, "bob")), (0, 10));
        assert_eq!((let_in(&callers, &one, ""), let_in(&callers, &connection("10.0.0.1"), "")), (10, 0));
        let long = "k".repeat(KEY_BYTES_MAX + 1);
        assert_eq!(let_in(&callers, &one, &long), 0, "too long for a key: by its address");
    }

    #[test]
    fn ipv6_caller_is_its_64() {
        let callers = callers("per_second = 10");
        assert_eq!(let_in(&callers, &connection("2001:db8::1"), ""), 10);
        assert_eq!(let_in(&callers, &connection("2001:db8::ffff:1"), ""), 0);
        assert_eq!(let_in(&callers, &connection("2001:db8:0:1::1"), ""), 10);
        assert_eq!(let_in(&callers, &connection("10.0.0.9"), ""), 10);
        assert_eq!(let_in(&callers, &connection("::ffff:10.0.0.9"), ""), 0);
    }

    #[test]
    fn named_callers_override_common_limits() {
        // SHA-256 of `secret`.
        let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
        let callers = callers(&format!(
            "{KEYED}in_flight = 5\n[named.billing]\nkey_sha256 = '{hash}'\nper_second = 50\nin_flight = 0\n\
             [named.batch]\naddress = '10.0.0.7'\nper_second = 0\n"
        ));
        let anywhere = connection("10.0.0.1");
        assert_eq!(let_in(&callers, &anywhere, "secret"), 50);
        assert_eq!(let_in(&callers, &connection("10.0.0.7"), ""), 5, "no rate, and the common in-flight");
        let error = callers.admit(&anywhere, &key("secret"), callers.base).expect_err("used up");
        let Error::CallerLimit { caller, reason, limit, wait } = error else { panic!("{error}") };
        assert_eq!(
            (caller.as_str(), reason, limit.as_str()),
            ("billing", reason::CALLER_RATE, "50 calls a second")
        );
        assert_eq!(wait, Duration::from_millis(20));
    }

    #[test]
    fn made_up_keys_get_no_limits() {
        let callers = callers(&format!("{KEYED}only_named = true"));
        let connection = connection("10.0.0.1");
        assert_eq!((let_in(&callers, &connection, "made"), let_in(&callers, &connection, "up")), (10, 0));
    }

    #[test]
    fn refused_call_costs_no_token() {
        let callers = callers("per_second = 4\nin_flight = 2");
        let connection = connection("10.0.0.1");
        let admit = || callers.admit(&connection, &HeaderMap::new(), callers.base);
        let (first, _second) = (admit().expect("room"), admit().expect("room"));
        for _ in 0..10 {
            let error = admit().expect_err("full");
            assert!(matches!(&error, Error::CallerLimit { reason: reason::CALLER_IN_FLIGHT, .. }), "{error}");
        }
        drop(first);
        drop(admit().expect("room"));
        drop(admit().expect("the last token"));
        assert!(matches!(admit(), Err(Error::CallerLimit { reason: reason::CALLER_RATE, .. })));
    }

    #[test]
    fn callers_beyond_the_table_share_limits() {
        let callers = callers("per_second = 10\ntracked = 2");
        let at = |n: u8| connection(&format!("10.0.0.{n}"));
        let (one, two) = (at(1), at(2));
        assert_eq!((let_in(&callers, &one, ""), let_in(&callers, &two, "")), (10, 10));
        assert_eq!((let_in(&callers, &at(3), ""), let_in(&callers, &at(4), "")), (10, 0));
        // Two seconds later the first two have all their tokens back, and one of them has gone.
        drop(one);
        let later = callers.base + Duration::from_secs(2);
        let five = at(5);
        assert!(callers.admit(&five, &HeaderMap::new(), later).is_ok());
        assert_eq!(callers.table().len(), 2);
        assert!(callers.table().contains_key(&Key::Address(five.address)));
    }

    #[test]
    fn refused_settings_are_not_shown() {
        for (toml, part) in [
            ("header = 'a b'", "`a b`"),
            ("[named.a]\nkey_sha256 = 'my-secret-key'", "64 hexadecimal"),
            ("[named.a]\naddress = 'here'", "IP address"),
        ] {
            let error = toml::from_str::<Settings>(toml).expect_err(toml).message().to_owned();
            assert!(error.contains(part) && !error.contains("my-secret-key"), "{toml}: {error}");
        }
    }
}
