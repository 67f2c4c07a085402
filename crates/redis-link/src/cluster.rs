//! A Redis Cluster: keeps the owner of each slot, and sends calls to it, also when slots move.
//!
//! The driver's own cluster client is not used: it hides the nodes, so it cannot fail fast for one dead
//! primary while the others serve, and it repeats requests that may have been done.

mod redirects;
mod slot_move;
mod transfer;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{Pipeline, Value};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use self::redirects::Redirects;
use self::transfer::Transfers;
use crate::call::Call;
use crate::cluster::slot_move::Moves;
use crate::config::Settings;
use crate::endpoint::Endpoint;
use crate::error::LinkError;
use crate::node::{Kind, Node};
use crate::script::{Request, Scripts};
use crate::slot::{self, SLOTS};

/// The interval between two looks at the slot map while nothing asks for one.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// The interval between two looks while a primary does not answer, so that its replica is used soon after its promotion.
const REFRESH_INTERVAL_UNHEALTHY: Duration = Duration::from_millis(200);

/// The interval between two looks that redirects ask for: many calls ask at the same time.
const REFRESH_INTERVAL_MIN: Duration = Duration::from_millis(50);

/// Marks a slot whose owner is not known.
const NOBODY: u16 = u16::MAX;

#[derive(Debug)]
pub(crate) struct Cluster {
    shared: Arc<Shared>,
    _refresher: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    settings: Arc<Settings>,
    scripts: Arc<Scripts>,
    seeds: Vec<Endpoint>,
    nodes: Mutex<HashMap<Endpoint, Arc<Node>>>,
    map: watch::Sender<Arc<SlotMap>>,
    stale: Notify,
    turn: AtomicUsize,
    moves: Moves,
    transfers: Transfers,
}

/// The owners of slots, as the Cluster last told them.
#[derive(Debug, Clone)]
struct SlotMap {
    primaries: Vec<Arc<Node>>,
    /// For each slot an index into `primaries`, or [`NOBODY`].
    owners: Vec<u16>,
}

/// The place of a key, as Redis tells it.
#[derive(Debug, PartialEq, Eq)]
enum Redirect {
    /// The slot has a new owner.
    Moved(u16, Endpoint),
    /// The key has moved already, and its slot has not.
    Ask(Endpoint),
    /// Part of the keys has moved already, and the rest has not.
    TryAgain,
}

impl Cluster {
    pub(crate) fn start(seeds: Vec<Endpoint>, settings: Arc<Settings>, scripts: Arc<Scripts>) -> Cluster {
        let empty = SlotMap { primaries: Vec::new(), owners: vec![NOBODY; usize::from(SLOTS)] };
        let shared = Arc::new(Shared {
            settings,
            scripts,
            seeds,
            nodes: Mutex::default(),
            map: watch::channel(Arc::new(empty)).0,
            stale: Notify::new(),
            turn: AtomicUsize::new(0),
            moves: Moves::default(),
            transfers: Transfers::default(),
        });
        let refresher = tokio::spawn(refresh(Arc::clone(&shared)));
        Cluster { shared, _refresher: AbortOnDropHandle::new(refresher) }
    }

    pub(crate) fn healthy(&self) -> bool {
        self.shared.map.borrow().healthy()
    }

    /// Returns why calls fail; `None` if none does.
    pub(crate) fn why(&self) -> Option<String> {
        self.shared.node_list().into_iter().find_map(|node| node.why())
    }

    /// Returns the eviction policy of a node that makes the role lose data.
    pub(crate) fn loses(&self) -> Option<String> {
        self.shared.map.borrow().primaries.iter().find_map(|node| node.loses())
    }

    /// Returns all primaries; waits until they are known.
    pub(crate) async fn primaries(&self, deadline: Instant) -> Result<Vec<Arc<Node>>, LinkError> {
        Ok(self.shared.known(deadline).await?.primaries.clone())
    }

    /// Returns the node that owns a slot, or any primary without a slot; waits until it is known.
    pub(crate) async fn owner(&self, slot: Option<u16>, deadline: Instant) -> Result<Arc<Node>, LinkError> {
        self.shared.owner(slot, deadline).await
    }

    /// Asks for another look at the slot map, for a connection outside this module that was redirected or lost.
    pub(crate) fn suspect(&self) {
        self.shared.stale.notify_one();
    }

    /// Sends one command to the owner of `slot`, following redirects. Where the command must not follow a slot that moves, it
    /// waits.
    pub(crate) async fn request(
        &self,
        slot: Option<u16>,
        request: Request<'_>,
        deadline: Instant,
    ) -> Result<Value, LinkError> {
        let absent = || slot::absent_key(request.command);
        let mut redirects = Redirects::new(&self.shared, slot, request.declares_all(), deadline).await?;
        loop {
            Call::goes_to(redirects.node.endpoint());
            let sent = redirects.node.request(request, redirects.asking, redirects.wait.deadline).await;
            let reply = self.shared.heed(sent)?;
            let Some(redirect) = Redirect::of(&reply) else { return Ok(reply) };
            redirects.turn(redirect, absent).await?;
        }
    }

    /// Sends a pipeline to the owner of `slot`, following redirects.
    pub(crate) async fn pipeline(
        &self,
        slot: Option<u16>,
        pipeline: &Pipeline,
        bulk: bool,
        deadline: Instant,
    ) -> Result<Vec<Value>, LinkError> {
        let declares_all = !pipeline.cmd_iter().any(slot::runs_code);
        let absent = || pipeline.cmd_iter().find_map(slot::absent_key);
        let mut redirects = Redirects::new(&self.shared, slot, declares_all, deadline).await?;
        let transaction = pipeline.is_transaction();
        let mut replies = loop {
            Call::goes_to(redirects.node.endpoint());
            let sent = match redirects.asking {
                true => ask_transaction(&redirects.node, pipeline, redirects.wait.deadline).await,
                false => redirects.node.pipeline(pipeline, bulk, redirects.wait.deadline).await,
            };
            let answer = self.shared.heed(sent);
            // A transaction that met a redirect was given up whole, and says so as an error.
            let whole = match &answer {
                Ok(replies) => Redirect::of_all(replies),
                Err(LinkError::Server { code, message }) => Redirect::parse(code, message),
                Err(_) => None,
            };
            match whole {
                Some(redirect @ Redirect::Moved(..)) => redirects.turn(redirect, absent).await?,
                Some(redirect) if transaction => redirects.turn(redirect, absent).await?,
                _ => break answer?,
            }
        };
        if transaction {
            return Ok(replies);
        }
        // While a slot moves, some commands may have been done here and others must be done there.
        let alone = replies.len() == 1;
        for (reply, command) in replies.iter_mut().zip(pipeline.cmd_iter()) {
            if Redirect::of(reply).is_some() {
                let done = self.request(slot::of_command(command).or(slot), command.into(), deadline).await;
                *reply = done.map_err(|error| if alone { error } else { error.of_part() })?;
            }
        }
        Ok(replies)
    }
}

/// Returns a transaction for keys that have moved ahead of their slot: what ASKING allows holds from MULTI to EXEC.
async fn ask_transaction(
    node: &Node,
    pipeline: &Pipeline,
    deadline: Instant,
) -> Result<Vec<Value>, LinkError> {
    let mut all = Pipeline::with_capacity(pipeline.len() + 3);
    all.cmd("ASKING").cmd("MULTI");
    for command in pipeline.cmd_iter() {
        all.add_command(command.clone());
    }
    all.cmd("EXEC");
    let replies = node.pipeline(&all, false, deadline).await?;
    // One that was given up says why where the command was refused.
    let refused = |reply: &&Value| Redirect::of(reply).is_some();
    let told = replies.iter().find(refused).or(replies.last()).cloned();
    Ok(told.into_iter().collect())
}

impl Redirect {
    fn of(reply: &Value) -> Option<Redirect> {
        let Value::ServerError(error) = reply else { return None };
        Redirect::parse(error.code(), error.details().unwrap_or_default())
    }

    /// Returns the first redirect if every reply is one.
    fn of_all(replies: &[Value]) -> Option<Redirect> {
        let mut redirects = replies.iter().map(Redirect::of);
        let first = redirects.next()??;
        redirects.all(|redirect| redirect.is_some()).then_some(first)
    }

    fn parse(code: &str, message: &str) -> Option<Redirect> {
        let target = || {
            let (slot, endpoint) = message.split_once(' ')?;
            Some((slot.parse().ok()?, Endpoint::parse(endpoint)?))
        };
        match code {
            "MOVED" => target().map(|(slot, endpoint)| Redirect::Moved(slot, endpoint)),
            "ASK" => target().map(|(_, endpoint)| Redirect::Ask(endpoint)),
            "TRYAGAIN" => Some(Redirect::TryAgain),
            _ => None,
        }
    }
}

impl Shared {
    /// Returns the slot map; waits until there is one.
    async fn known(&self, deadline: Instant) -> Result<Arc<SlotMap>, LinkError> {
        let mut map = self.map.subscribe();
        let known = timeout_at(deadline, map.wait_for(|map| !map.primaries.is_empty())).await;
        match known {
            Ok(Ok(map)) => Ok(Arc::clone(&map)),
            _ => {
                // One that refuses this client's password answers, and says more than that nobody does.
                let denied = self.node_list().into_iter().find_map(|node| node.denial());
                Err(denied.unwrap_or_else(|| {
                    let seeds: Vec<_> = self.seeds.iter().map(Endpoint::to_string).collect();
                    let seeds = if self.settings.show_addresses {
                        format!(": {}", seeds.join(", "))
                    } else {
                        String::new()
                    };
                    LinkError::Unavailable(format!("no node of the redis cluster answers{seeds}"))
                }))
            }
        }
    }

    async fn owner(&self, slot: Option<u16>, deadline: Instant) -> Result<Arc<Node>, LinkError> {
        let current = Arc::clone(&self.map.borrow());
        let map = if current.primaries.is_empty() { self.known(deadline).await? } else { current };
        let index = match slot {
            Some(slot) => usize::from(map.owners[usize::from(slot % SLOTS)]),
            None => self.turn.fetch_add(1, Ordering::Relaxed) % map.primaries.len(),
        };
        map.primaries.get(index).cloned().ok_or_else(|| {
            self.stale.notify_one();
            LinkError::Unavailable("no node of the redis cluster owns the key's slot".to_owned())
        })
    }

    fn node_list(&self) -> Vec<Arc<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Asks for another look after a node failed, which may have a successor.
    fn heed<T>(&self, result: Result<T, LinkError>) -> Result<T, LinkError> {
        if matches!(result, Err(LinkError::Unavailable(_) | LinkError::Unknown(_))) {
            self.stale.notify_one();
        }
        result
    }

    /// Records the new owner of a slot, and returns its node.
    fn moved(&self, slot: u16, endpoint: &Endpoint) -> Arc<Node> {
        let node = self.node(endpoint);
        // Many calls hear of one move.
        self.map.send_if_modified(|map| {
            let news = !map.owned_by(slot, &node);
            if news {
                *map = Arc::new(map.moved(slot, &node));
            }
            news
        });
        self.stale.notify_one();
        node
    }

    /// Returns the node at an endpoint; connects if the endpoint is new.
    fn node(&self, endpoint: &Endpoint) -> Arc<Node> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let start = || {
            Node::start(
                endpoint.clone(),
                Kind::OfCluster,
                Arc::clone(&self.settings),
                Arc::clone(&self.scripts),
            )
        };
        Arc::clone(nodes.entry(endpoint.clone()).or_insert_with(|| Arc::new(start())))
    }

    /// Adopts the answer to CLUSTER SLOTS, and closes the nodes that are not in it.
    fn publish(&self, ranges: &[(u16, u16, Endpoint)]) {
        let mut map = SlotMap { primaries: Vec::new(), owners: vec![NOBODY; usize::from(SLOTS)] };
        for (first, last, endpoint) in ranges {
            let index = map.index_of(&self.node(endpoint));
            map.owners[usize::from(*first)..=usize::from(*last)].fill(index);
        }
        self.nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|endpoint, _| map.primaries.iter().any(|node| node.endpoint() == endpoint));
        self.map.send_replace(Arc::new(map));
    }

    /// Asks the primaries known so far, then the seeds, until one answers.
    async fn ask_for_slots(&self) -> Option<Vec<(u16, u16, Endpoint)>> {
        let known = Arc::clone(&self.map.borrow());
        let mut candidates: Vec<_> = known.primaries.iter().map(|node| node.endpoint().clone()).collect();
        fastrand::shuffle(&mut candidates);
        candidates
            .extend(self.seeds.iter().filter(|seed| !candidates.contains(seed)).cloned().collect::<Vec<_>>());
        let mut slots = redis::cmd("CLUSTER");
        slots.arg("SLOTS");
        for endpoint in candidates {
            let deadline = Instant::now() + self.settings.connect_deadline;
            match self.node(&endpoint).command(&slots, deadline).await {
                Ok(Value::ServerError(error)) => {
                    tracing::warn!(%endpoint, %error, "the node tells no cluster slots");
                }
                Ok(reply) => match parse_slots(&reply, &endpoint) {
                    Some(ranges) if !ranges.is_empty() => return Some(ranges),
                    _ => tracing::warn!(%endpoint, "the node tells no cluster slots"),
                },
                Err(error) => tracing::debug!(%endpoint, %error, "no cluster slots from this node"),
            }
        }
        None
    }
}

impl SlotMap {
    fn healthy(&self) -> bool {
        !self.primaries.is_empty()
            && !self.owners.contains(&NOBODY)
            && self.primaries.iter().all(|node| node.healthy())
    }

    fn owned_by(&self, slot: u16, node: &Node) -> bool {
        let owner = self.primaries.get(usize::from(self.owners[usize::from(slot % SLOTS)]));
        owner.is_some_and(|owner| owner.endpoint() == node.endpoint())
    }

    /// Returns the map with a new owner for one slot.
    fn moved(&self, slot: u16, node: &Arc<Node>) -> SlotMap {
        let mut map = self.clone();
        let index = map.index_of(node);
        map.owners[usize::from(slot % SLOTS)] = index;
        map
    }

    fn index_of(&mut self, node: &Arc<Node>) -> u16 {
        let known = self.primaries.iter().position(|known| known.endpoint() == node.endpoint());
        let index = known.unwrap_or_else(|| {
            self.primaries.push(Arc::clone(node));
            self.primaries.len() - 1
        });
        // A cluster has at most as many primaries as slots.
        u16::try_from(index).unwrap_or(NOBODY)
    }
}

/// Runs until the cluster is dropped.
async fn refresh(shared: Arc<Shared>) {
    loop {
        let looked = Instant::now();
        if let Some(ranges) = shared.ask_for_slots().await {
            shared.publish(&ranges);
        }
        let healthy = shared.map.borrow().healthy();
        let interval = if healthy { REFRESH_INTERVAL } else { REFRESH_INTERVAL_UNHEALTHY };
        tokio::select! {
            () = sleep(interval) => {}
            () = shared.stale.notified() => tokio::time::sleep_until(looked + REFRESH_INTERVAL_MIN).await,
        }
    }
}

/// Reads `[[first, last, [host, port, ...], replicas...], ...]`; an empty host stands for the host that was asked.
fn parse_slots(reply: &Value, asked: &Endpoint) -> Option<Vec<(u16, u16, Endpoint)>> {
    let Value::Array(rows) = reply else { return None };
    let mut ranges = Vec::with_capacity(rows.len());
    for row in rows {
        let Value::Array(row) = row else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = row.as_slice() else {
            return None;
        };
        let [host, Value::Int(port), ..] = primary.as_slice() else { return None };
        let host = match host {
            Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
            _ => String::new(),
        };
        let host = if host.is_empty() { asked.host.clone() } else { host };
        let (first, last) = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
        if first > last || last >= SLOTS {
            return None;
        }
        // A node that knows not its own name: others do.
        if host != "?" {
            ranges.push((first, last, Endpoint { host, port: u16::try_from(*port).ok()? }));
        }
    }
    Some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_read_from_errors() {
        let endpoint = Endpoint { host: "10.0.0.1".into(), port: 7001 };
        assert_eq!(
            Redirect::parse("MOVED", "3999 10.0.0.1:7001"),
            Some(Redirect::Moved(3999, endpoint.clone()))
        );
        assert_eq!(Redirect::parse("ASK", "3999 10.0.0.1:7001"), Some(Redirect::Ask(endpoint)));
        assert_eq!(Redirect::parse("MOVED", "nonsense"), None);
        assert_eq!(Redirect::parse("WRONGTYPE", "3999 10.0.0.1:7001"), None);
        let v6 = Endpoint { host: "::1".into(), port: 7001 };
        assert_eq!(Redirect::parse("MOVED", "1 ::1:7001"), Some(Redirect::Moved(1, v6)));
    }

    #[test]
    fn bad_slot_ranges_are_refused() {
        let asked = Endpoint { host: "asked".into(), port: 1 };
        let row = |first, last, host: &str, port| {
            Value::Array(vec![
                Value::Int(first),
                Value::Int(last),
                Value::Array(vec![
                    Value::BulkString(host.into()),
                    Value::Int(port),
                    Value::BulkString("id".into()),
                ]),
            ])
        };
        let reply =
            Value::Array(vec![row(0, 5460, "", 7000), row(5461, 16_383, "b", 7001), row(3, 4, "?", 1)]);
        let expected = [
            (0, 5460, Endpoint { host: "asked".into(), port: 7000 }),
            (5461, 16_383, Endpoint { host: "b".into(), port: 7001 }),
        ];
        assert_eq!(parse_slots(&reply, &asked).unwrap(), expected);
        for bad in [row(5, 4, "b", 1), row(0, 16_384, "b", 1), row(-1, 5, "b", 1), row(0, 5, "b", 70_000)] {
            assert_eq!(parse_slots(&Value::Array(vec![bad]), &asked), None);
        }
    }
}
