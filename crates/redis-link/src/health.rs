//! Reports the state of the Redis of a role, once for all links of the process that share it: in the log when the state
//! changes, and in gauges. The report decides nothing: each call is answered by what Redis says to it.

pub(crate) mod eviction;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::endpoint::Endpoint;
use crate::error::{LinkError, Trouble};
use crate::health::eviction::{Eviction, MemoryPolicy};

/// The time before the log repeats a refusal that ended and came back.
const SAID_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// The label that tells this engine from the others.
const ENGINE: &str = "redis";

/// The condition of a node. Later variants are worse.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Condition {
    /// The node answers and takes writes.
    Up,
    /// The node answers, and refuses the calls that [`Refusal`] names.
    Refusing(&'static str, Refusal),
    /// The node does not accept this client, for the given reason.
    Denied(String),
    /// The node does not answer, for the given reason.
    Down(String),
}

/// The calls that a node refuses although it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Refusal {
    /// Commands that this client's user may not run.
    Commands,
    /// Writes that need memory.
    Growth,
    /// All writes.
    Writes,
}

impl Condition {
    /// Returns the condition of a node that refuses a call; `None` if the refusal concerns this client alone.
    pub(crate) fn of_trouble(trouble: Trouble) -> Option<Condition> {
        match trouble {
            Trouble::Full => Some(Condition::Refusing(trouble.text(), Refusal::Growth)),
            Trouble::Replica | Trouble::CannotSave | Trouble::TooFewReplicas => {
                Some(Condition::Refusing(trouble.text(), Refusal::Writes))
            }
            Trouble::NotPermitted => Some(Condition::Refusing(trouble.text(), Refusal::Commands)),
            Trouble::NoPassword | Trouble::WrongPassword => None,
        }
    }

    /// Returns the condition of a node that gets no calls because of an error.
    pub(crate) fn of_error(error: &LinkError) -> Condition {
        match error {
            LinkError::Denied(why) => Condition::Denied(why.clone()),
            other => Condition::Down(other.to_string()),
        }
    }

    /// Returns why calls fail; `None` if none does.
    fn why(&self) -> Option<String> {
        Some(match self {
            Condition::Up => return None,
            Condition::Refusing(why, Refusal::Growth) => format!("redis is full: {why}"),
            Condition::Refusing(why, Refusal::Writes) => format!("redis takes no writes: {why}"),
            Condition::Refusing(why, Refusal::Commands) => format!("redis denies access: {why}"),
            Condition::Denied(why) => format!("redis denies access: {why}"),
            Condition::Down(why) => why.clone(),
        })
    }

    /// Returns whether the log must tell this condition after the one it told last. A node that is still down is not news, though
    /// the reason may differ with each attempt.
    fn is_news_after(&self, told: &Condition) -> bool {
        !matches!((self, told), (Condition::Down(_), Condition::Down(_))) && self != told
    }
}

/// The known state of the Redis of one role. Clones share it: give one to all links of a role in a process, so that each event of
/// their Redis is logged once.
#[derive(Debug, Clone)]
pub struct Health(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    role: &'static str,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    next: u64,
    /// The condition of each node of each link, by the node's number.
    nodes: BTreeMap<u64, (Endpoint, Condition)>,
    /// The condition that the log last told of each endpoint that is not well.
    told: BTreeMap<Endpoint, Condition>,
    /// The refusal that the log last told of each endpoint, and when.
    refused: BTreeMap<Endpoint, (Condition, Instant)>,
    /// The advice that was given on each endpoint's eviction policy.
    advised: BTreeMap<Endpoint, String>,
}

impl Health {
    /// Starts with nothing known.
    #[must_use]
    pub fn new(role: &'static str) -> Health {
        Health(Arc::new(Shared { role, known: Mutex::default() }))
    }

    /// Adds a node of a link; the report counts until it is dropped.
    pub(crate) fn join(&self, endpoint: &Endpoint) -> Report {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.next += 1;
        // Only a role that has a Redis has its gauges.
        if known.nodes.is_empty() {
            self.0.begin();
            self.0.measure(&known);
        }
        Report { number: known.next, endpoint: endpoint.clone(), shared: Arc::clone(&self.0) }
    }
}

impl Shared {
    /// Returns the worst condition over all links: a link that cannot reach a node is news even if another can.
    fn worst(known: &Known, endpoint: &Endpoint) -> Condition {
        let of_endpoint = known.nodes.values().filter(|(known, _)| known == endpoint);
        of_endpoint.map(|(_, condition)| condition).max().cloned().unwrap_or(Condition::Up)
    }

    fn tell(&self, known: &mut Known, endpoint: &Endpoint) {
        let now = Shared::worst(known, endpoint);
        let told = known.told.get(endpoint).unwrap_or(&Condition::Up);
        if !now.is_news_after(told) {
            return;
        }
        // A Redis at the edge of its memory is full and not full in turns.
        let refused = known.refused.get(endpoint);
        if matches!(now, Condition::Refusing(..))
            && refused.is_some_and(|(before, at)| *before == now && at.elapsed() < SAID_AGAIN_AFTER)
        {
            return;
        }
        let role = self.role;
        let why = now.why().unwrap_or_default();
        match (&now, told) {
            (Condition::Down(reason), _) => {
                tracing::warn!(%endpoint, role, reason, "redis does not answer");
            }
            (Condition::Denied(_), _) => {
                tracing::error!(
                    %endpoint, role,
                    "{why}; give the URL its user and password (redis://USER:PASSWORD@HOST:PORT)"
                );
            }
            (Condition::Refusing(_, Refusal::Commands), _) => {
                tracing::error!(%endpoint, role, "{why}; its ACL must allow the keys and commands of this service");
            }
            (Condition::Refusing(_, Refusal::Growth), _) => {
                tracing::warn!(
                    %endpoint, role,
                    "{why}; what adds to it is refused, reads and what finishes work go on: raise its maxmemory or remove data"
                );
            }
            (Condition::Refusing(_, Refusal::Writes), _) => {
                tracing::warn!(
                    %endpoint, role,
                    "{why}; changes are refused, reads go on: see to that Redis, or point this service at the primary"
                );
            }
            (Condition::Up, Condition::Refusing(..)) => {
                tracing::info!(%endpoint, role, "redis takes all calls again");
            }
            (Condition::Up, _) => tracing::info!(%endpoint, role, "redis answers again"),
        }
        match now {
            Condition::Up => drop(known.told.remove(endpoint)),
            now => {
                if matches!(now, Condition::Refusing(..)) {
                    known.refused.insert(endpoint.clone(), (now.clone(), Instant::now()));
                }
                known.told.insert(endpoint.clone(), now);
            }
        }
    }

    /// Creates the counters of the role at zero, so that a rate has a first value.
    fn begin(&self) {
        let role = self.role;
        for outcome in ["ok", "failed"] {
            metrics::counter!("shoal_redis_connects_total", "role" => role, "outcome" => outcome)
                .increment(0);
        }
        for outcome in ["emptied", "refused"] {
            metrics::counter!("shoal_redis_slot_transfers_total", "role" => role, "outcome" => outcome)
                .increment(0);
        }
        metrics::counter!("shoal_redis_slot_keys_carried_total", "role" => role).increment(0);
        metrics::counter!("shoal_redis_moves_total", "role" => role).increment(0);
        metrics::counter!("shoal_redis_moving_slot_waits_total", "role" => role).increment(0);
        metrics::counter!("shoal_redis_returned_processes_total", "role" => role).increment(0);
    }

    fn measure(&self, known: &Known) {
        let any = |is: fn(&Condition) -> bool| known.nodes.values().any(|(_, condition)| is(condition));
        let away = |condition: &Condition| matches!(condition, Condition::Denied(_) | Condition::Down(_));
        let up = !known.nodes.is_empty() && !any(away);
        let full = any(|condition| matches!(condition, Condition::Refusing(_, Refusal::Growth)));
        let read_only = any(|condition| matches!(condition, Condition::Refusing(_, Refusal::Writes)));
        let down = known.nodes.values().filter(|(_, condition)| away(condition));
        let down: std::collections::BTreeSet<_> = down.map(|(endpoint, _)| endpoint).collect();
        metrics::gauge!("shoal_redis_nodes_down", "role" => self.role).set(down.len() as f64);
        for (name, is) in
            [("shoal_engine_up", up), ("shoal_engine_full", full), ("shoal_engine_read_only", read_only)]
        {
            let gauge = metrics::gauge!(name, "role" => self.role, "engine" => ENGINE);
            gauge.set(if is { 1.0 } else { 0.0 });
        }
    }
}

/// A node's place in the [`Health`] of its role.
#[derive(Debug)]
pub(crate) struct Report {
    number: u64,
    endpoint: Endpoint,
    shared: Arc<Shared>,
}

impl Report {
    /// Records the condition of the node, and logs it if that is news.
    pub(crate) fn is(&self, condition: Condition) {
        let mut known = self.shared.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.nodes.get(&self.number).is_some_and(|(_, before)| *before == condition) {
            return;
        }
        known.nodes.insert(self.number, (self.endpoint.clone(), condition));
        self.shared.tell(&mut known, &self.endpoint);
        self.shared.measure(&known);
    }

    /// Records the eviction policy of the node, and warns if that policy does not suit the role.
    pub(crate) fn policy(&self, policy: &MemoryPolicy, eviction: Eviction) {
        let mut known = self.shared.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (endpoint, role) = (&self.endpoint, self.shared.role);
        match (policy.advice(eviction), known.advised.get(endpoint)) {
            (None, None) => {}
            (Some(advice), Some(before)) if advice == *before => {}
            (Some(advice), _) => {
                tracing::warn!(%endpoint, role, "{advice}");
                known.advised.insert(endpoint.clone(), advice);
            }
            (None, Some(_)) => {
                tracing::info!(%endpoint, role, "redis' maxmemory-policy suits this role now");
                known.advised.remove(endpoint);
            }
        }
    }

    /// Returns why calls to this node fail, with its address, for operators; `None` if none fails.
    pub(crate) fn why(&self) -> Option<String> {
        let known = self.shared.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (endpoint, condition) = known.nodes.get(&self.number)?;
        condition.why().map(|why| format!("{endpoint}: {why}"))
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let mut known = self.shared.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.nodes.remove(&self.number);
        // A node that nobody uses any more is not well again.
        if !known.nodes.values().any(|(endpoint, _)| *endpoint == self.endpoint) {
            known.told.remove(&self.endpoint);
            known.advised.remove(&self.endpoint);
            known.refused.remove(&self.endpoint);
        }
        if !known.nodes.is_empty() {
            self.shared.measure(&known);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Condition {
        Condition::of_trouble(Trouble::Full).unwrap()
    }

    fn told(health: &Health) -> usize {
        health.0.known.lock().unwrap().told.len()
    }

    #[test]
    fn links_to_same_redis_report_once() {
        let health = Health::new("test");
        let endpoint = Endpoint { host: "a".into(), port: 1 };
        let (one, two) = (health.join(&endpoint), health.join(&endpoint));
        one.is(Condition::Up);
        two.is(Condition::Up);
        assert_eq!((told(&health), one.why()), (0, None));
        one.is(full());
        two.is(full());
        assert_eq!(told(&health), 1);
        assert!(two.why().unwrap().starts_with("a:1: redis is full"), "{:?}", two.why());
        one.is(Condition::Up);
        assert_eq!(told(&health), 1, "until it is well for all");
        two.is(Condition::Up);
        assert_eq!(told(&health), 0);
        two.is(full());
        two.is(Condition::Up);
        assert_eq!(told(&health), 0, "not again so soon");
        two.is(Condition::Down("gone".into()));
        drop(two);
        assert_eq!(told(&health), 1, "the other link may say so yet");
        drop(one);
        assert_eq!(told(&health), 0);
    }

    #[test]
    fn nodes_that_are_away_are_counted() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            let health = Health::new("test");
            let report = |host: &str| health.join(&Endpoint { host: host.into(), port: 1 });
            let nodes = ["a", "b", "b", "c"].map(report);
            for node in &nodes[..3] {
                node.is(Condition::Down("gone".into()));
            }
            nodes[3].is(Condition::Up);
            let down = || {
                recorder
                    .handle()
                    .render()
                    .lines()
                    .any(|line| line == "shoal_redis_nodes_down{role=\"test\"} 2")
            };
            assert!(down(), "two, whatever the number of links to them");
            nodes[0].is(Condition::Up);
            assert!(!down());
        });
    }

    #[test]
    fn down_node_is_news_once() {
        let down = |why: &str| Condition::Down(why.to_owned());
        assert!(!down("refused").is_news_after(&down("timed out")));
        assert!(down("refused").is_news_after(&full()));
        assert!(full().is_news_after(&Condition::Up));
        assert!(!full().is_news_after(&full()));
    }
}
