//! Suppresses repeated log lines about endpoints in the whole process: each core has a balancer of its own, and all of them see
//! the same events.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The interval in which the same event of one endpoint is logged once.
const EVERY: Duration = Duration::from_secs(5);
/// The most endpoints that are remembered. Beyond it, those without a recent event are forgotten.
const ENDPOINTS_MAX: usize = 1024;

static TOLD: Mutex<Option<Told>> = Mutex::new(None);

/// The last event of each endpoint of each upstream, and when it was logged.
#[derive(Debug, Default)]
struct Told(HashMap<(String, SocketAddr), (String, Instant)>);

/// Returns whether the process has yet to log this event of the endpoint. `news` names the event: the same event after another
/// one is new again.
pub(crate) fn is_new(upstream: &str, endpoint: SocketAddr, news: &str) -> bool {
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    told.get_or_insert_default().is_new(upstream, endpoint, news, Instant::now())
}

impl Told {
    fn is_new(&mut self, upstream: &str, endpoint: SocketAddr, news: &str, now: Instant) -> bool {
        let lately = |at: Instant| now.saturating_duration_since(at) < EVERY;
        let key = (upstream.to_owned(), endpoint);
        if self.0.get(&key).is_some_and(|(last, at)| last == news && lately(*at)) {
            return false;
        }
        if self.0.len() >= ENDPOINTS_MAX {
            self.0.retain(|_, (_, at)| lately(*at));
        }
        self.0.insert(key, (news.to_owned(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_is_logged_once_per_process() {
        let mut told = Told::default();
        let (endpoint, now) = (SocketAddr::from(([127, 0, 0, 1], 7000)), Instant::now());
        let other = SocketAddr::from(([127, 0, 0, 1], 7001));
        assert!(told.is_new("cache", endpoint, "down", now));
        assert!(!told.is_new("cache", endpoint, "down", now + EVERY / 2));
        assert!(told.is_new("cache", other, "down", now));
        assert!(told.is_new("data", endpoint, "down", now));
        assert!(told.is_new("cache", endpoint, "ready", now + EVERY / 2));
        assert!(!told.is_new("cache", endpoint, "ready", now + EVERY / 2));
        assert!(told.is_new("cache", endpoint, "down", now + EVERY / 2), "it was well in between");
        assert!(told.is_new("cache", endpoint, "down", now + EVERY * 2), "and still is after a while");
    }

    #[test]
    fn forgets_endpoints_beyond_limit() {
        let (mut told, mut now) = (Told::default(), Instant::now());
        for _ in 0..10 {
            for port in 0..500 {
                told.is_new("cache", SocketAddr::from(([127, 0, 0, 1], port)), "down", now);
                told.is_new("data", SocketAddr::from(([127, 0, 0, 1], port)), "down", now);
            }
            now += EVERY;
        }
        assert!(told.0.len() <= ENDPOINTS_MAX);
    }
}
