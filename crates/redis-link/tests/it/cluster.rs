//! Three primaries: calls go to the owner of their slot, follow it when it moves, and one primary's outage is not
//! the others'.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;

use shoal_redis_link::{Link, LinkConfig, LinkError, Script, SubscriptionEvent, TailEvent};
use tokio::time::{Instant, timeout};

use crate::load::BOUND;
use crate::server::{PATIENCE, Server, eventually, open, patient};
use crate::stalls::Stalls;
use crate::tail;

/// Keys with these tags have slots of the first, second and third node.
const TAGS: [&str; 3] = ["b", "c", "a"];

struct Nodes {
    servers: Vec<Server>,
}

/// A server that belongs to no cluster yet, and its port for other nodes.
async fn start_node() -> Option<(Server, String)> {
    let bus = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut options = vec!["--cluster-enabled", "yes", "--cluster-port", &bus];
    options.extend(["--cluster-require-full-coverage", "no", "--cluster-node-timeout", "2000"]);
    Some((Server::start_with(&options).await?, bus))
}

impl Nodes {
    async fn start() -> Option<Nodes> {
        let mut servers = Vec::new();
        let mut buses = Vec::new();
        for _ in 0..3 {
            let (server, bus) = start_node().await?;
            servers.push(server);
            buses.push(bus);
        }
        let nodes = Nodes { servers };
        for (index, range) in [(0, 5460), (5461, 10_922), (10_923, 16_383)].into_iter().enumerate() {
            nodes.cluster(index, &["ADDSLOTSRANGE", &range.0.to_string(), &range.1.to_string()]).await;
            // Nodes of one epoch would quarrel over slots that move.
            nodes.cluster(index, &["SET-CONFIG-EPOCH", &(index + 1).to_string()]).await;
        }
        for (server, bus) in nodes.servers.iter().zip(&buses).skip(1) {
            nodes.cluster(0, &["MEET", "127.0.0.1", &server.port.to_string(), bus]).await;
        }
        for index in 0..3 {
            eventually("every node knows every slot", async || {
                let info = nodes.cluster(index, &["INFO"]).await;
                info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
            })
            .await;
        }
        Some(nodes)
    }

    /// A CLUSTER command to one node, past the link.
    async fn cluster(&self, index: usize, words: &[&str]) -> String {
        let mut command = redis::cmd("CLUSTER");
        command.arg(words);
        self.ask(index, &command).await.unwrap()
    }

    async fn ask<T: redis::FromRedisValue>(
        &self,
        index: usize,
        command: &redis::Cmd,
    ) -> redis::RedisResult<T> {
        let client = redis::Client::open(self.servers[index].url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await?;
        command.query_async(&mut connection).await
    }

    async fn replication(&self, index: usize, line: &str) -> bool {
        let info: redis::RedisResult<String> = self.ask(index, redis::cmd("INFO").arg("replication")).await;
        info.is_ok_and(|info| info.contains(line))
    }

    fn config(&self) -> LinkConfig {
        let urls: Vec<_> = self.servers.iter().map(Server::url).collect();
        LinkConfig::new(urls.join(","), "test")
    }

    async fn link(&self) -> Link {
        open(patient(self.config())).await
    }
}

fn key(tag: &str, name: &str) -> String {
    format!("{{{tag}}}:{name}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_reach_every_primary() {
    let Some(nodes) = Nodes::start().await else { return };
    let link = nodes.link().await;
    assert!(link.healthy());
    let add = Script::of_declared_keys(
        "add",
        "redis.call('INCRBY', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[2])",
    );
    for (index, tag) in TAGS.into_iter().enumerate() {
        let (n, other) = (key(tag, "n"), key(tag, "other"));
        let () = link.query(redis::cmd("SET").arg(&other).arg(tag)).await.unwrap();
        let mut pipe = redis::pipe();
        pipe.cmd("INCR").arg(&n).cmd("GET").arg(&other);
        assert_eq!(link.pipeline::<(u64, String)>(&pipe).await.unwrap(), (1, tag.to_owned()));
        assert_eq!(link.pipeline::<(u64, String)>(pipe.atomic()).await.unwrap(), (2, tag.to_owned()));
        let got: String = link.script(&add, &[n.as_bytes(), other.as_bytes()], &[b"3"]).await.unwrap();
        assert_eq!(got, tag);
        let keys: u64 = nodes.ask(index, &redis::cmd("DBSIZE")).await.unwrap();
        assert_eq!(keys, 2, "tag {tag} belongs to node {index}");
    }
    let mut pipe = redis::pipe();
    pipe.atomic().cmd("GET").arg(key("a", "n")).cmd("GET").arg(key("b", "n"));
    let error = link.pipeline::<()>(&pipe).await.unwrap_err();
    assert!(
        matches!(error, LinkError::Server { .. }),
        "keys of two slots are the caller's mistake: {error:?}"
    );
    let ids = link.run_id().await.unwrap();
    assert_eq!(ids.split(',').collect::<BTreeSet<_>>().len(), 3);
    let sizes: Vec<u64> = link.query_each_primary(&redis::cmd("DBSIZE")).await.unwrap();
    assert_eq!(sizes, [2, 2, 2]);
    for _ in 0..2 {
        let _: Vec<()> = link.query_each_primary(redis::cmd("SCRIPT").arg("FLUSH")).await.unwrap();
        let (n, other) = (key("a", "n"), key("a", "other"));
        let _: String = link.script(&add, &[n.as_bytes(), other.as_bytes()], &[b"3"]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_follow_a_moving_slot() {
    let Some(nodes) = Nodes::start().await else { return };
    let link = nodes.link().await;
    let (from, to) = (2, 0);
    let (here, gone) = (key("a", "here"), key("a", "gone"));
    let slot: u16 = nodes.ask(from, redis::cmd("CLUSTER").arg("KEYSLOT").arg(&here)).await.unwrap();
    let slot = slot.to_string();
    for name in [&here, &gone] {
        let () = link.query(redis::cmd("SET").arg(name).arg(0)).await.unwrap();
    }
    let mut ids = Vec::new();
    for index in 0..3 {
        ids.push(nodes.cluster(index, &["MYID"]).await);
    }
    nodes.cluster(to, &["SETSLOT", &slot, "IMPORTING", &ids[from]]).await;
    nodes.cluster(from, &["SETSLOT", &slot, "MIGRATING", &ids[to]]).await;
    let migrate = async |name: &str| {
        let mut migrate = redis::cmd("MIGRATE");
        migrate.arg("127.0.0.1").arg(nodes.servers[to].port).arg(name).arg(0).arg(5000);
        let () = nodes.ask(from, &migrate).await.unwrap();
    };
    migrate(&gone).await;

    // Half of the keys are there: ASK.
    let increment = Script::of_declared_keys("increment", "return redis.call('INCR', KEYS[1])");
    for name in [&here, &gone] {
        assert_eq!(link.query::<u64>(redis::cmd("INCR").arg(name)).await.unwrap(), 1);
        assert_eq!(link.script::<u64>(&increment, &[name.as_bytes()], &[]).await.unwrap(), 2);
        let mut pipe = redis::pipe();
        pipe.cmd("INCR").arg(name).cmd("GET").arg(name);
        assert_eq!(link.pipeline::<(u64, u64)>(&pipe).await.unwrap(), (3, 3));
        assert_eq!(link.pipeline::<(u64, u64)>(pipe.atomic()).await.unwrap(), (4, 4));
    }
    let mut mixed = redis::pipe();
    mixed.cmd("INCR").arg(&here).cmd("INCR").arg(&gone).cmd("INCR").arg(&here);
    assert_eq!(link.pipeline::<(u64, u64, u64)>(&mixed).await.unwrap(), (5, 5, 6), "each exactly once");

    // All keys are there, and the slot: MOVED.
    migrate(&here).await;
    for index in [to, from, 1] {
        nodes.cluster(index, &["SETSLOT", &slot, "NODE", &ids[to]]).await;
    }
    let mut pipe = redis::pipe();
    pipe.cmd("INCR").arg(&here).cmd("INCR").arg(&gone);
    assert_eq!(link.pipeline::<(u64, u64)>(&pipe).await.unwrap(), (7, 6));
    assert_eq!(link.pipeline::<(u64, u64)>(pipe.atomic()).await.unwrap(), (8, 7));
    assert_eq!(link.script::<u64>(&increment, &[gone.as_bytes()], &[]).await.unwrap(), 8);
    eventually("healthy", async || link.healthy()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_primaries_serve_beside_frozen_one() {
    let Some(nodes) = Nodes::start().await else { return };
    let link = open(nodes.config()).await;
    let stalls = Stalls::watch();
    let call = async |tag: &str| {
        let begin = Instant::now();
        (link.query::<u64>(redis::cmd("INCR").arg(key(tag, "n"))).await, stalls.since(begin))
    };
    nodes.servers[0].freeze();
    eventually("the frozen one's calls fail fast", async || {
        let (result, took) = call(TAGS[0]).await;
        assert!(took <= BOUND, "took {took:?}");
        matches!(result, Err(LinkError::Unavailable(_))) && took < Duration::from_millis(20)
    })
    .await;
    let mut served = 0;
    for _ in 0..100 {
        for tag in &TAGS[1..] {
            let (result, took) = call(tag).await;
            assert!(took <= BOUND, "{result:?} after {took:?}");
            served += u32::from(result.is_ok());
        }
        let (result, took) = call(TAGS[0]).await;
        assert!(result.is_err() && took <= BOUND, "{result:?} after {took:?}");
    }
    // A busy machine may cost one or the other its deadline.
    assert!(served >= 190, "the others served {served} of 200 calls");
    assert!(!link.healthy());
    // One that starts now serves what the others have.
    let late = open(nodes.config()).await;
    eventually("the late one serves", async || {
        late.query::<u64>(redis::cmd("INCR").arg(key(TAGS[1], "late"))).await.is_ok()
    })
    .await;
    nodes.servers[0].thaw();
    let begin = Instant::now();
    eventually("served again", async || call(TAGS[0]).await.0.is_ok()).await;
    let back = stalls.since(begin);
    assert!(back <= Duration::from_secs(1), "served again after {back:?}");
    eventually("healthy", async || link.healthy()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_all_slots_are_followed() {
    let Some(nodes) = Nodes::start().await else { return };
    let link = nodes.link().await;
    let streams: Vec<_> = TAGS.iter().map(|tag| key(tag, "s")).collect();
    let cursors = streams[..2].iter().map(|key| (key.clone().into_bytes(), "0-0".to_owned())).collect();
    let mut reader = link.tail(cursors);
    reader.add(streams[2].as_str(), "0-0");
    for round in 0..20 {
        for stream in &streams {
            tail::append(&link, stream, &round.to_string()).await;
        }
        let (seen, others) = tail::values(&mut reader, 3).await;
        assert_eq!(others, []);
        let expected =
            streams.iter().map(|stream| (stream.clone(), round.to_string())).collect::<BTreeSet<_>>();
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_follows_its_moved_slot() {
    let Some(nodes) = Nodes::start().await else { return };
    let link = nodes.link().await;
    let stream = key("a", "s");
    let mut reader = link.tail(vec![(stream.clone().into_bytes(), "0-0".to_owned())]);
    tail::append(&link, &stream, "one").await;
    assert_eq!(tail::values(&mut reader, 1).await.0, [(stream.clone(), "one".to_owned())]);

    let (from, to) = (2, 0);
    let slot: u16 = nodes.ask(from, redis::cmd("CLUSTER").arg("KEYSLOT").arg(&stream)).await.unwrap();
    let slot = slot.to_string();
    let (source, target) = (nodes.cluster(from, &["MYID"]).await, nodes.cluster(to, &["MYID"]).await);
    nodes.cluster(to, &["SETSLOT", &slot, "IMPORTING", &source]).await;
    nodes.cluster(from, &["SETSLOT", &slot, "MIGRATING", &target]).await;
    let mut migrate = redis::cmd("MIGRATE");
    migrate.arg("127.0.0.1").arg(nodes.servers[to].port).arg(&stream).arg(0).arg(5000);
    let () = nodes.ask(from, &migrate).await.unwrap();
    for index in [to, from, 1] {
        nodes.cluster(index, &["SETSLOT", &slot, "NODE", &target]).await;
    }

    tail::append(&link, &stream, "two").await;
    let (seen, others) = tail::values(&mut reader, 1).await;
    assert_eq!(seen, [(stream, "two".to_owned())]);
    assert_eq!(others, [TailEvent::RestartedOrFailedOver], "another Redis took its place");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_primary_is_told_readers_once() {
    let Some(mut nodes) = Nodes::start().await else { return };
    let link = nodes.link().await;
    // Two slots of the same node.
    let streams = [key("b", "s"), key("f", "s")];
    let mut reader =
        link.tail(streams.iter().map(|key| (key.clone().into_bytes(), "0-0".to_owned())).collect());
    for stream in &streams {
        tail::append(&link, stream, "one").await;
    }
    tail::values(&mut reader, 2).await;
    nodes.servers[0].stop();
    nodes.servers[0].restart().await;
    // A restarted primary refuses writes until it has heard from the others.
    let served = async || link.query::<u64>(redis::cmd("INCR").arg(key("b", "n"))).await.is_ok();
    eventually("served again", served).await;
    for stream in &streams {
        tail::append(&link, stream, "two").await;
    }
    let (seen, others) = tail::values(&mut reader, 2).await;
    assert_eq!(seen.len(), 2);
    assert_eq!(others, [TailEvent::RestartedOrFailedOver], "told once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promoted_replica_is_told_stream_readers() {
    let Some(mut nodes) = Nodes::start().await else { return };
    let Some((replica, bus)) = start_node().await else { return };
    nodes.cluster(0, &["MEET", "127.0.0.1", &replica.port.to_string(), &bus]).await;
    nodes.servers.push(replica);
    let (primary, replica) = (0, 3);
    let id = nodes.cluster(primary, &["MYID"]).await;
    eventually("the replica knows its primary", async || {
        nodes.cluster(replica, &["NODES"]).await.contains(&id)
    })
    .await;
    nodes.cluster(replica, &["REPLICATE", &id]).await;
    eventually("the replica is in step", async || nodes.replication(replica, "master_link_status:up").await)
        .await;

    let link = open(nodes.config()).await;
    let stream = key("b", "s");
    let mut reader = link.tail(vec![(stream.clone().into_bytes(), "0-0".to_owned())]);
    tail::append(&link, &stream, "one").await;
    tail::values(&mut reader, 1).await;

    nodes.servers[primary].stop();
    eventually("the replica was promoted", async || nodes.replication(replica, "role:master").await).await;
    let (stalls, begin) = (Stalls::watch(), Instant::now());
    let served = async || link.query::<u64>(redis::cmd("INCR").arg(key("b", "n"))).await.is_ok();
    eventually("served again", served).await;
    let back = stalls.since(begin);
    assert!(back <= Duration::from_secs(1), "served again after {back:?}");
    tail::append(&link, &stream, "two").await;
    let (seen, others) = tail::values(&mut reader, 1).await;
    assert_eq!(seen, [(stream, "two".to_owned())]);
    assert_eq!(others, [TailEvent::RestartedOrFailedOver]);
    eventually("healthy", async || link.healthy()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_any_node_are_received() {
    let Some(nodes) = Nodes::start().await else { return };
    let link = nodes.link().await;
    let mut subscription = link.subscribe("news");
    assert_eq!(timeout(PATIENCE, subscription.recv()).await.unwrap(), SubscriptionEvent::Reconnected);
    for index in 0..3 {
        let _: u64 = nodes.ask(index, redis::cmd("PUBLISH").arg("news").arg(index)).await.unwrap();
        let heard = timeout(PATIENCE, subscription.recv()).await.unwrap();
        assert_eq!(heard, SubscriptionEvent::Message(index.to_string().into_bytes()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_living_seed_is_enough() {
    let Some(nodes) = Nodes::start().await else { return };
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut config = nodes.config();
    config.url = format!("redis://127.0.0.1:{dead},{}", nodes.servers[1].url());
    let link = open(config).await;
    for tag in TAGS {
        let () = link.query(redis::cmd("SET").arg(key(tag, "k")).arg(1)).await.unwrap();
    }
    assert!(link.healthy());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_url_reaches_every_primary() {
    let Some(nodes) = Nodes::start().await else { return };
    let link = Link::open(patient(LinkConfig::new(nodes.servers[1].url(), "test"))).unwrap();
    let mut news = link.subscribe("news");
    let mut grown = link.tail(TAGS.map(|tag| (key(tag, "s").into_bytes(), "0".to_owned())).to_vec());
    assert!(link.is_cluster().await.unwrap());
    for tag in TAGS {
        let () = link.query(redis::cmd("SET").arg(key(tag, "k")).arg(tag)).await.unwrap();
        let _: String =
            link.query(redis::cmd("XADD").arg(key(tag, "s")).arg("*").arg("a").arg("b")).await.unwrap();
    }
    assert_eq!(link.run_id().await.unwrap().split(',').count(), 3);
    assert_eq!(timeout(PATIENCE, news.recv()).await.unwrap(), SubscriptionEvent::Reconnected);
    let mut read = BTreeSet::new();
    while read.len() < TAGS.len() {
        if let TailEvent::Entries { key, .. } = timeout(PATIENCE, grown.recv()).await.unwrap() {
            read.insert(key);
        }
    }
    assert!(link.healthy() && link.ready_now().is_ok());
    let single = Server::start().await.unwrap();
    assert!(!single.link().await.is_cluster().await.unwrap());
}
