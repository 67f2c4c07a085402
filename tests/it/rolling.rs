//! A rolling restart of the whole mesh under load: every clone of every service and both gateways, each ended by SIGTERM and
//! started again at its address, in an order given by the seed. It costs the callers nothing: no unary call fails, safe to
//! repeat or not, short or long, of a client that balances over the gateways or of one that only follows GOAWAY.

mod follower;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shoal_client::Channel;
use shoal_proto::cache::v1 as cache;
use shoal_proto::data::v1 as data;
use shoal_proto::gateway::v1::gateway_service_client::GatewayServiceClient;
use shoal_proto::gateway::v1::{ListUpstreamsRequest, Upstream};
use shoal_proto::jobs::v1 as jobs;
use shoal_proto::session::v1 as session;
use shoal_proto::r#type::v1::{Value, value::Kind};
use shoal_testing::RedisServer;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic_types::StatusExt as _;

use self::follower::Follower;
use crate::harness::clone::Clone;
use crate::harness::engines::need;
use crate::harness::process::free_port;
use crate::harness::{eventually, number_of, seed};

/// The variable for the number of restarts of the whole mesh, each with its own seed.
const ROUNDS: &str = "SHOAL_TEST_RESTARTS";
const ROUNDS_DEFAULT: u64 = 2;

const SERVICES: [&str; 4] = ["session", "cache", "data", "jobs"];
const CLONES: usize = 2;
const CALLERS: usize = 12;
/// The callers whose calls are in flight for so long that every drain finds some: much longer than its notice.
const WAITERS: usize = 4;
const WAIT: Duration = Duration::from_millis(300);
/// The clients without health checks that follow GOAWAY.
const FOLLOWERS: usize = 4;

/// A bound, not a measurement: a busy machine is slow, a hang lasts for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process, and the way to start it again.
struct Member {
    role: &'static str,
    flags: Vec<String>,
    clone: Clone,
}

impl Member {
    async fn start(role: &'static str, address: String, flags: Vec<String>) -> Self {
        let clone = start(role, &address, &flags).await;
        Self { role, flags, clone }
    }

    /// Restarts it like an orchestrator: SIGTERM, the end, a new process at the same address.
    async fn restart(&mut self) {
        self.clone.process.signal("TERM");
        let status = self.clone.process.ended(PATIENCE).await;
        assert!(status.success(), "{}: {status}:\n{}", self.role, self.clone.process.output());
        let address = self.clone.address.clone();
        self.clone = start(self.role, &address, &self.flags).await;
    }

    /// Returns what a gateway reports about its upstreams.
    async fn upstreams(&self) -> Option<Vec<Upstream>> {
        let mut client = GatewayServiceClient::new(self.clone.channel());
        Some(client.list_upstreams(ListUpstreamsRequest {}).await.ok()?.into_inner().upstreams)
    }
}

async fn start(role: &str, address: &str, flags: &[String]) -> Clone {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Clone::start_at(role, address, &flags).await
}

/// Two gateways, and two clones of each service on real engines.
struct Mesh {
    members: Vec<Member>,
}

impl Mesh {
    async fn start(redis: &str, cassandra: &str) -> Self {
        let mut members = Vec::new();
        let mut peers = Vec::new();
        for role in SERVICES {
            let mut addresses = Vec::new();
            for _ in 0..CLONES {
                let engine = if role == "data" { ["--cassandra", cassandra] } else { ["--redis", redis] };
                let address = format!("127.0.0.1:{}", free_port());
                members.push(Member::start(role, address.clone(), engine.map(str::to_owned).into()).await);
                addresses.push(address);
            }
            peers.push(format!("{role}={}", addresses.join(",")));
        }
        let peers = vec!["--peer".to_owned(), peers.join(";")];
        for _ in 0..2 {
            let address = format!("127.0.0.1:{}", free_port());
            members.push(Member::start("gateway", address, peers.clone()).await);
        }
        Self { members }
    }

    fn gateways(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.role == "gateway")
    }

    fn addresses(&self) -> Vec<String> {
        self.gateways().map(|member| member.clone.address.clone()).collect()
    }

    /// Returns a channel over both gateways.
    fn channel(&self, cancel: &CancellationToken) -> Channel {
        shoal_client::connect(&self.addresses().join(","), "gateway", "test", cancel).expect("addresses")
    }

    /// Waits until the restarted process carries calls again, as an orchestrator must before the next restart; or until the
    /// calls have stopped.
    async fn carries_calls(&self, restarted: usize, tally: &Tally) {
        let member = &self.members[restarted];
        let address = &member.clone.address;
        if member.role == "gateway" {
            eventually(&format!("calls through gateway {address}"), PATIENCE, async || {
                let upstreams = member.upstreams().await?;
                let carries = upstreams.iter().flat_map(|u| &u.endpoints).any(|e| e.calls > 0);
                (carries || tally.stop.load(Ordering::Relaxed)).then_some(())
            })
            .await;
            return;
        }
        for gateway in self.gateways() {
            let what = format!("{} {address} ready at gateway {}", member.role, gateway.clone.address);
            eventually(&what, PATIENCE, async || {
                let upstreams = gateway.upstreams().await?;
                let mut endpoints = upstreams.iter().flat_map(|upstream| &upstream.endpoints);
                let endpoint = endpoints.find(|endpoint| endpoint.address == *address)?;
                (endpoint.ready_cores == endpoint.cores).then_some(())
            })
            .await;
        }
    }
}

/// The results of the callers.
#[derive(Default)]
struct Tally {
    /// Stops the calls: all is done, or one has failed.
    stop: AtomicBool,
    calls: AtomicU64,
    /// Counts errors of a service's own engine, which a busy machine can make too slow: the mesh lost no call there.
    engine: AtomicU64,
    failed: Mutex<Vec<String>>,
}

impl Tally {
    fn count<T>(&self, what: &str, result: Result<T, Status>) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let Err(status) = result else { return };
        if status.get_details_error_info().is_some_and(|info| info.metadata.contains_key("engine")) {
            self.engine.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.failed.lock().expect("no panic").push(format!("{what}: {status:?}"));
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn text(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.into())) }
}

/// The data that all callers work on.
#[derive(Clone)]
struct Subject {
    token: String,
    table: String,
}

impl Subject {
    async fn prepare(channel: &Channel) -> Self {
        let table = format!("rolling_{}", fastrand::u32(..));
        eventually("a table", PATIENCE, async || {
            let definition = data::Table { name: table.clone(), ..Default::default() };
            let request = data::CreateTableRequest { table: Some(definition) };
            shoal_client::data(channel.clone()).create_table(request).await.ok()
        })
        .await;
        let token = eventually("a session", PATIENCE, async || {
            let request = session::CreateSessionRequest { user_id: "ada".into(), ..Default::default() };
            Some(
                shoal_client::session(channel.clone()).create_session(request).await.ok()?.into_inner().token,
            )
        })
        .await;
        Self { token, table }
    }
}

/// Makes one unary call after the other, to every service, half of them not safe to repeat.
async fn call_on(caller: usize, channel: Channel, subject: Subject, tally: &Tally) {
    let mut sessions = shoal_client::session(channel.clone());
    let mut entries = shoal_client::cache(channel.clone());
    let mut rows = shoal_client::data(channel.clone());
    let mut queue = shoal_client::jobs(channel);
    let key = format!("caller-{caller}");
    for n in caller.. {
        if tally.stop.load(Ordering::Relaxed) {
            return;
        }
        match n % 8 {
            0 | 4 => {
                let request = session::GetSessionRequest { token: subject.token.clone(), no_touch: true };
                tally.count("GetSession", sessions.get_session(request).await);
            }
            1 => {
                let user_id = format!("{key}-{n}");
                let request = session::CreateSessionRequest { user_id, ..Default::default() };
                tally.count("CreateSession", sessions.create_session(request).await);
            }
            2 => {
                let request = cache::SetRequest {
                    namespace: "rolling".into(),
                    key: key.clone(),
                    value: vec![1; 100].into(),
                    ..Default::default()
                };
                tally.count("Set", entries.set(request).await);
            }
            3 => {
                let request =
                    cache::GetRequest { namespace: "rolling".into(), key: key.clone(), ..Default::default() };
                tally.count("Get", entries.get(request).await);
            }
            5 => {
                let put = data::mutation::Put {
                    sort_key: Some(text("s")),
                    attributes: HashMap::from([("n".to_owned(), text("v"))]),
                    ttl: None,
                };
                let request = data::MutateRequest {
                    table: subject.table.clone(),
                    partition_key: key.clone(),
                    mutations: vec![data::Mutation { kind: Some(data::mutation::Kind::Put(put)) }],
                    ..Default::default()
                };
                tally.count("Mutate", rows.mutate(request).await);
            }
            6 => {
                let request = data::QueryRequest {
                    table: subject.table.clone(),
                    partition_key: key.clone(),
                    page_size: 2,
                    ..Default::default()
                };
                tally.count("Query", rows.query(request).await);
            }
            _ => {
                let request =
                    jobs::EnqueueRequest { queue: "rolling".into(), kind: "k".into(), ..Default::default() };
                tally.count("Enqueue", queue.enqueue(request).await);
            }
        }
    }
}

/// Returns a lease request for an empty queue: each call takes its whole wait.
fn nothing() -> jobs::LeaseJobsRequest {
    let wait = prost_types::Duration { seconds: 0, nanos: WAIT.subsec_nanos() as i32 };
    jobs::LeaseJobsRequest { queue: "nothing".into(), wait: Some(wait), ..Default::default() }
}

async fn wait_on(channel: Channel, tally: &Tally) {
    let mut worker = shoal_client::worker(channel);
    while !tally.stop.load(Ordering::Relaxed) {
        tally.count("LeaseJobs", worker.lease_jobs(nothing()).await);
    }
}

async fn follow(mut follower: Follower, long: bool, tally: &Tally) {
    let enqueue = jobs::EnqueueRequest { queue: "rolling".into(), kind: "k".into(), ..Default::default() };
    while !tally.stop.load(Ordering::Relaxed) {
        if long {
            let lease = follower.call::<jobs::LeaseJobsResponse>(LEASE, &nothing()).await;
            tally.count("LeaseJobs of a follower", lease);
        } else {
            let job = follower.call::<jobs::EnqueueResponse>(ENQUEUE, &enqueue).await;
            tally.count("Enqueue of a follower", job);
        }
    }
}

const LEASE: &str = "/shoal.jobs.v1.WorkerService/LeaseJobs";
const ENQUEUE: &str = "/shoal.jobs.v1.JobsService/Enqueue";

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restart_fails_no_call() {
    let Some(redis) = RedisServer::start().await else { return };
    let mut mesh = Mesh::start(&redis.url(), &need!("SHOAL_TEST_CASSANDRA")).await;
    let cancel = CancellationToken::new();
    let _cancel = cancel.clone().drop_guard();
    let channel = mesh.channel(&cancel);
    let subject = Subject::prepare(&channel).await;

    let tally = Arc::new(Tally::default());
    let mut callers = JoinSet::new();
    for i in 0..CALLERS {
        let (channel, subject, tally) = (channel.clone(), subject.clone(), tally.clone());
        callers.spawn(async move { call_on(i, channel, subject, &tally).await });
    }
    for _ in 0..WAITERS {
        let (channel, tally) = (channel.clone(), tally.clone());
        callers.spawn(async move { wait_on(channel, &tally).await });
    }
    for i in 0..FOLLOWERS {
        let (follower, tally) = (Follower::new(mesh.addresses()), tally.clone());
        callers.spawn(async move { follow(follower, i % 2 == 0, &tally).await });
    }
    for member in 0..mesh.members.len() {
        mesh.carries_calls(member, &tally).await;
    }

    let first = seed("a rolling restart");
    for round in 0..number_of(ROUNDS, ROUNDS_DEFAULT) {
        let mut random = fastrand::Rng::with_seed(first.wrapping_add(round));
        let begun = Instant::now();
        let before = tally.calls.load(Ordering::Relaxed);
        let mut order: Vec<usize> = (0..mesh.members.len()).collect();
        random.shuffle(&mut order);
        for index in order {
            // At some moment of the load, not always the same.
            let target = tally.calls.load(Ordering::Relaxed) + random.u64(1..100);
            eventually("more calls", PATIENCE, async || {
                let enough = tally.calls.load(Ordering::Relaxed) >= target;
                (enough || tally.stop.load(Ordering::Relaxed)).then_some(())
            })
            .await;
            mesh.members[index].restart().await;
            mesh.carries_calls(index, &tally).await;
            let failed = tally.failed.lock().expect("no panic").join("\n");
            let who = &mesh.members[index];
            let seed = first.wrapping_add(round);
            assert!(failed.is_empty(), "seed {seed}, {} {}:\n{failed}", who.role, who.clone.address);
        }
        eprintln!(
            "round {round}: {} calls in {:?}, 0 failed, {} told of a slow engine so far",
            tally.calls.load(Ordering::Relaxed) - before,
            begun.elapsed(),
            tally.engine.load(Ordering::Relaxed),
        );
    }
    tally.stop.store(true, Ordering::Relaxed);
    callers.join_all().await;
    assert_eq!(tally.failed.lock().expect("no panic").join("\n"), "");
}
