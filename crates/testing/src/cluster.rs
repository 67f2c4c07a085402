//! A Redis Cluster of a test's own, whose slots are moved by hand, as `redis-cli --cluster reshard` does it.

use std::time::Duration;

use redis::FromRedisValue;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep};

use crate::engine::engine_of;
use crate::port::free_port;
use crate::redis_server::RedisServer;

/// The time that starting may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// MIGRATE gives up on the other node after this.
const MIGRATE_MS: u64 = 5000;

/// Two primaries with half of the slots each; they end with it.
pub struct Cluster {
    nodes: [Node; 2],
}

struct Node {
    port: u16,
    id: String,
    connection: MultiplexedConnection,
    _server: RedisServer,
}

/// A slot on its way from one node to the other.
pub struct SlotMove<'a> {
    cluster: &'a Cluster,
    slot: u16,
    source: usize,
}

impl Cluster {
    /// Starts two nodes and waits until both serve. Returns `None`, and says so, where no redis-server is named; panics if
    /// engines are required.
    pub async fn start() -> Option<Cluster> {
        let binary = engine_of("SHOAL_TEST_REDIS_SERVER")?;
        let (first, second) = (Node::start(&binary).await, Node::start(&binary).await);
        let cluster = Cluster { nodes: [first.0, second.0] };
        for (index, (first, last)) in [("0", "8191"), ("8192", "16383")].into_iter().enumerate() {
            cluster.ask::<()>(index, &["ADDSLOTSRANGE", first, last]).await;
            // Nodes of one epoch would quarrel over slots that move.
            cluster.ask::<()>(index, &["SET-CONFIG-EPOCH", &(index + 1).to_string()]).await;
        }
        let port = cluster.nodes[1].port.to_string();
        cluster.ask::<()>(0, &["MEET", "127.0.0.1", &port, &second.1]).await;
        let deadline = Instant::now() + PATIENCE;
        for index in 0..2 {
            loop {
                let info: String = cluster.ask(index, &["INFO"]).await;
                if info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384") {
                    break;
                }
                assert!(Instant::now() < deadline, "the cluster does not become one: {info}");
                sleep(Duration::from_millis(10)).await;
            }
        }
        Some(cluster)
    }

    /// Its nodes as a link takes them.
    #[must_use]
    pub fn url(&self) -> String {
        let urls = self.nodes.each_ref().map(|node| format!("redis://127.0.0.1:{}", node.port));
        urls.join(",")
    }

    /// Begins to move the slot of a key to the other node; no key is moved yet.
    pub async fn begin_move(&self, key: &str) -> SlotMove<'_> {
        let slot: u16 = self.ask(0, &["KEYSLOT", key]).await;
        let mine: String = self.ask(0, &["NODES"]).await;
        let source = usize::from(!owns(&mine, &self.nodes[0].id, slot));
        let moving = SlotMove { cluster: self, slot, source };
        let (from, to) = (&self.nodes[source].id, &self.nodes[1 - source].id);
        let slot = slot.to_string();
        self.ask::<()>(1 - source, &["SETSLOT", &slot, "IMPORTING", from]).await;
        self.ask::<()>(source, &["SETSLOT", &slot, "MIGRATING", to]).await;
        moving
    }

    /// Returns whether one of the nodes has the key.
    pub async fn has(&self, key: &str) -> bool {
        let slot: u16 = self.ask(0, &["KEYSLOT", key]).await;
        for index in 0..2 {
            let keys: Vec<String> = self.ask(index, &["GETKEYSINSLOT", &slot.to_string(), "1000000"]).await;
            if keys.iter().any(|known| known == key) {
                return true;
            }
        }
        false
    }

    /// Sends a command to each node.
    pub async fn tell(&self, words: &[&str]) {
        for node in &self.nodes {
            let mut command = redis::cmd(words[0]);
            command.arg(&words[1..]);
            command.query_async::<()>(&mut node.connection.clone()).await.expect("a node obeys");
        }
    }

    async fn ask<T: FromRedisValue>(&self, index: usize, words: &[&str]) -> T {
        let mut command = redis::cmd("CLUSTER");
        command.arg(words);
        command.query_async(&mut self.nodes[index].connection.clone()).await.expect("a node answers")
    }
}

impl SlotMove<'_> {
    /// Moves so many of the keys that are still on the node that gives them away; how many are left. A key that the other node
    /// has already is a failure.
    pub async fn carry(&self, keys: usize) -> usize {
        let (from, to) = (&self.cluster.nodes[self.source], &self.cluster.nodes[1 - self.source]);
        let slot = self.slot.to_string();
        let names: Vec<Vec<u8>> =
            self.cluster.ask(self.source, &["GETKEYSINSLOT", &slot, &keys.to_string()]).await;
        if !names.is_empty() {
            let mut migrate = redis::cmd("MIGRATE");
            migrate.arg("127.0.0.1").arg(to.port).arg("").arg(0).arg(MIGRATE_MS).arg("KEYS").arg(names);
            let moved: Result<String, _> = migrate.query_async(&mut from.connection.clone()).await;
            moved.expect("every key is on one node alone");
        }
        self.left().await
    }

    /// Returns how many keys are still on the node that gives them away.
    pub async fn left(&self) -> usize {
        self.cluster.ask(self.source, &["COUNTKEYSINSLOT", &self.slot.to_string()]).await
    }

    /// Sets a key on the node that takes the slot, whether or not the other one has it.
    pub async fn put_ahead(&self, key: &str, value: &str) {
        let mut put = redis::pipe();
        put.cmd("ASKING").ignore().cmd("SET").arg(key).arg(value).ignore();
        let target = &self.cluster.nodes[1 - self.source];
        put.query_async::<()>(&mut target.connection.clone()).await.expect("it takes the slot");
    }

    /// Returns what both nodes have for a key: the one that gives the slot away first.
    pub async fn values(&self, key: &str) -> [Option<String>; 2] {
        let (from, to) = (&self.cluster.nodes[self.source], &self.cluster.nodes[1 - self.source]);
        let mut get = redis::pipe();
        get.cmd("ASKING").ignore().cmd("GET").arg(key);
        let ahead: (Option<String>,) = get.query_async(&mut to.connection.clone()).await.expect("an answer");
        // It answers ASK for a key that it has not.
        let here = redis::cmd("GET").arg(key).query_async(&mut from.connection.clone()).await;
        [here.unwrap_or_default(), ahead.0]
    }

    /// Moves half of the keys.
    pub async fn carry_half(&self) {
        let keys = self.left().await;
        assert!(keys >= 2, "the slot holds {keys} keys: no half of them can move");
        self.carry(keys / 2).await;
    }

    /// Moves all keys that are left, and not the slot yet.
    pub async fn carry_all(&self) {
        while self.carry(100).await > 0 {}
    }

    /// Moves what is left, and the slot.
    pub async fn finish(self) {
        self.carry_all().await;
        let to = &self.cluster.nodes[1 - self.source].id;
        for index in [1 - self.source, self.source] {
            self.cluster.ask::<()>(index, &["SETSLOT", &self.slot.to_string(), "NODE", to]).await;
        }
        // A node that has not heard of the new owner's epoch may dispute the next move of the slot, and drop its keys.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let [here, there]: [String; 2] = [
                self.cluster.ask(self.source, &["NODES"]).await,
                self.cluster.ask(1 - self.source, &["NODES"]).await,
            ];
            if epoch(&here, to) == epoch(&there, to) {
                return;
            }
            assert!(Instant::now() < deadline, "the nodes do not agree: {here}");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Returns the epoch of the node with this id, by what CLUSTER NODES says.
fn epoch<'a>(nodes: &'a str, id: &str) -> Option<&'a str> {
    nodes.lines().find(|line| line.starts_with(id)).and_then(|line| line.split(' ').nth(6))
}

/// Returns whether the node with this id owns a slot, by what CLUSTER NODES says.
fn owns(nodes: &str, id: &str, slot: u16) -> bool {
    let line = nodes.lines().find(|line| line.starts_with(id)).expect("a node knows itself");
    line.split(' ').skip(8).filter(|range| !range.starts_with('[')).any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        (first.parse().expect("a slot")..=last.parse().expect("a slot")).contains(&slot)
    })
}

impl Node {
    /// Starts a node. Returns its port for other nodes as well.
    async fn start(binary: &str) -> (Node, String) {
        loop {
            let bus = free_port().to_string();
            let options = [
                ["--cluster-enabled", "yes"],
                ["--cluster-port", &bus],
                ["--cluster-require-full-coverage", "no"],
            ]
            .concat();
            // The server ends at once if another program has taken one of its ports meanwhile.
            let Some(server) = RedisServer::launch(binary, free_port(), &options).await else { continue };
            let client = redis::Client::open(server.url()).expect("an address");
            let mut connection = client.get_multiplexed_async_connection().await.expect("a connection");
            let id = redis::cmd("CLUSTER").arg("MYID").query_async(&mut connection).await.expect("an id");
            return (Node { port: server.port(), id, connection, _server: server }, bus);
        }
    }
}
