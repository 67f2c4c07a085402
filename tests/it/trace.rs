//! Traces show the whole path: caller, gateway attempt, service, Redis command, CQL statement, job.

mod jaeger;
mod receiver;
mod view;

use std::time::Duration;

use shoal_proto::cache::v1::GetObjectRequest;
use shoal_proto::data::v1::{CreateTableRequest, MutateRequest, Mutation, SortKeyType, Table, mutation};
use shoal_proto::gateway::v1::ListUpstreamsRequest;
use shoal_proto::gateway::v1::gateway_service_client::GatewayServiceClient;
use shoal_proto::jobs::v1::{EnqueueRequest, LeaseJobsRequest};
use shoal_proto::session::v1::{CreateSessionRequest, GetSessionRequest};
use tonic::Request;

use crate::harness::engines::need;
use crate::harness::eventually;
use crate::harness::process::token_in;
use crate::harness::up::Up;
use receiver::Receiver;
use view::{Caller, Tree};

/// The caller's traces of the calls that [`drive`] made.
struct Driven {
    table: String,
    queue: String,
    get_object: Caller,
    enqueue: Caller,
    lease: Caller,
    sessions: Caller,
}

/// Makes one read through the cache and one job's enqueue and lease, each in a trace of its own.
async fn drive(up: &Up, otlp: &str) -> Driven {
    let unique = fastrand::u32(..);
    let (table, queue) = (format!("trace_{unique}"), format!("trace-{unique}"));
    let channel = up.channel();
    let mut data = shoal_client::data(channel.clone());
    let definition =
        Table { name: table.clone(), sort_key_type: SortKeyType::None.into(), ..Table::default() };
    data.create_table(CreateTableRequest { table: Some(definition) }).await.expect("a table");
    let put = Mutation { kind: Some(mutation::Kind::Put(mutation::Put::default())) };
    data.mutate(MutateRequest {
        table: table.clone(),
        partition_key: "ada".into(),
        mutations: vec![put],
        ..MutateRequest::default()
    })
    .await
    .expect("a row");

    let get_object = Caller::new("caller GetObject");
    let request = GetObjectRequest { kind: format!("data.{table}"), id: "ada".into(), ..Default::default() };
    let object = shoal_client::cache(channel.clone())
        .get_object(traced(request, &get_object))
        .await
        .expect("an object")
        .into_inner();
    assert!(!object.from_cache);

    let enqueue = Caller::new("caller Enqueue");
    let request = EnqueueRequest { queue: queue.clone(), kind: "mail".into(), ..EnqueueRequest::default() };
    shoal_client::jobs(channel.clone()).enqueue(traced(request, &enqueue)).await.expect("a job");

    let lease = Caller::new("caller LeaseJobs");
    let request =
        LeaseJobsRequest { queue: queue.clone(), worker: "w".into(), ..LeaseJobsRequest::default() };
    let leased = shoal_client::worker(channel).lease_jobs(traced(request, &lease)).await.expect("leased");
    assert_eq!(leased.into_inner().jobs.len(), 1);

    // A session, so that its spans can be searched for the token.
    let sessions = Caller::new("caller sessions");
    let create = CreateSessionRequest { user_id: "u".into(), ..CreateSessionRequest::default() };
    let mut client = shoal_client::session(up.channel());
    let token = client.create_session(traced(create, &sessions)).await.expect("a session").into_inner().token;
    client.get_session(traced(GetSessionRequest { token, no_touch: false }, &sessions)).await.expect("found");

    for caller in [&get_object, &enqueue, &lease, &sessions] {
        caller.export(otlp).await;
    }
    Driven { table, queue, get_object, enqueue, lease, sessions }
}

fn traced<T>(message: T, caller: &Caller) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", caller.traceparent().parse().expect("ascii"));
    request
}

/// Checks the path of a cache miss, from the caller to the CQL statement.
fn check_read(tree: &Tree, driven: &Driven) {
    let caller = tree.span("caller", "caller GetObject", None);
    let gateway = tree.span("shoal-gateway", "shoal.cache.v1.CacheService/GetObject", Some(caller));
    assert_eq!(gateway.kind, "server");
    let attempt = tree.child_of_kind("shoal-gateway", gateway, "client");
    assert!(attempt.attributes.contains_key("server.port"), "{attempt:?}");
    let cache = tree.span("shoal-cache", "shoal.cache.v1.CacheService/GetObject", Some(attempt));
    assert_eq!(cache.attributes["rpc.grpc.status_code"], "0");
    assert_eq!(cache.attributes["rpc.system"], "grpc");
    let redis =
        tree.descendant(cache, |span| span.attributes.get("db.system.name").is_some_and(|v| v == "redis"));
    assert_eq!((redis.service.as_str(), redis.kind.as_str()), ("shoal-cache", "client"));
    let data = tree.descendant(cache, |span| span.service == "shoal-data" && span.kind == "server");
    assert!(data.name.starts_with("shoal.data.v1.DataService/"), "{data:?}");
    let cql = tree.descendant(cache, |span| {
        span.attributes.get("db.system.name").is_some_and(|v| v == "cassandra")
            && span.name.contains(&driven.table)
    });
    assert_eq!((cql.service.as_str(), cql.kind.as_str()), ("shoal-data", "client"));
    // Whatever a clone does for a call is filed under it, also what a store was sent.
    assert_ne!(gateway.instance, "");
    let of_clone = |role: &'static str, store: &view::Span| {
        let mut servers = tree.spans().iter().filter(|span| span.service == role && span.kind == "server");
        servers.find(|server| tree.is_below(store, server)).expect("a call").clone()
    };
    for (clone, store) in [(of_clone("shoal-cache", redis), redis), (of_clone("shoal-data", cql), cql)] {
        let name = &clone.attributes["shoal.clone"];
        assert_eq!(store.attributes.get("shoal.clone"), Some(name), "{store:?}");
        assert!(clone.instance.ends_with(name.as_str()) && store.instance == clone.instance, "{store:?}");
    }
    for span in tree.spans() {
        for (key, value) in &span.attributes {
            assert!(!value.contains("ada"), "a key in a span: {key}={value}");
        }
    }
}

/// Checks that no span holds a token.
fn check_secrecy(tree: &Tree) {
    assert!(tree.has("shoal-session"), "{tree}");
    for span in tree.spans() {
        for text in span.attributes.values().chain([&span.name]) {
            assert_eq!(token_in(text), None, "{span:?}");
        }
    }
}

/// Checks that Enqueue makes a producer span, and that the worker's lease is linked to it.
fn check_job(enqueued: &Tree, leased: &Tree, driven: &Driven) {
    let caller = enqueued.span("caller", "caller Enqueue", None);
    let gateway = enqueued.span("shoal-gateway", "shoal.jobs.v1.JobsService/Enqueue", Some(caller));
    let attempt = enqueued.child_of_kind("shoal-gateway", gateway, "client");
    let jobs = enqueued.span("shoal-jobs", "shoal.jobs.v1.JobsService/Enqueue", Some(attempt));
    let send = enqueued.descendant(jobs, |span| span.kind == "producer");
    assert_eq!(send.attributes["messaging.destination.name"], driven.queue);
    enqueued.descendant(jobs, |span| span.attributes.get("db.system.name").is_some_and(|v| v == "redis"));

    let caller = leased.span("caller", "caller LeaseJobs", None);
    let lease = leased.descendant(caller, |span| span.kind == "consumer");
    assert_eq!(lease.service, "shoal-jobs");
    assert!(
        lease.links.iter().any(|(trace, _)| *trace == driven.enqueue.trace_id),
        "the lease is not linked to the enqueue: {lease:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_shows_the_whole_path() {
    let (redis, cassandra) = (need!("SHOAL_TEST_REDIS"), need!("SHOAL_TEST_CASSANDRA"));
    let receiver = Receiver::start().await;
    let up = Up::start(&[
        "--redis",
        &redis,
        "--cassandra",
        &cassandra,
        "--otlp",
        &receiver.endpoint,
        "--ephemeral",
    ])
    .await;
    let driven = drive(&up, &receiver.endpoint).await;
    eventually("the spans of three calls", Duration::from_secs(15), async || {
        let read = receiver.trace(&driven.get_object.trace_id);
        let leased = receiver.trace(&driven.lease.trace_id);
        let enqueued = receiver.trace(&driven.enqueue.trace_id);
        let whole = read.has("shoal-gateway") && read.has("shoal-data") && read.has("shoal-cache");
        let jobs = |tree: &Tree| {
            tree.is_whole() && ["shoal-gateway", "shoal-jobs"].iter().all(|service| tree.has(service))
        };
        let sessions = receiver.trace(&driven.sessions.trace_id);
        let sessions = sessions.is_whole() && sessions.has("shoal-session");
        (whole && read.is_whole() && sessions && jobs(&leased) && jobs(&enqueued)).then_some(())
    })
    .await;
    check_read(&receiver.trace(&driven.get_object.trace_id), &driven);
    check_job(&receiver.trace(&driven.enqueue.trace_id), &receiver.trace(&driven.lease.trace_id), &driven);
    check_secrecy(&receiver.trace(&driven.sessions.trace_id));
}

/// Spans leave a process in batches every few seconds: once a call has arrived, so has everything before it.
#[tokio::test(flavor = "multi_thread")]
async fn idle_mesh_starts_no_traces() {
    let redis = need!("SHOAL_TEST_REDIS");
    let receiver = Receiver::start().await;
    let up = Up::start(&["--redis", &redis, "--otlp", &receiver.endpoint, "--ephemeral"]).await;
    let mut client = shoal_client::jobs(up.channel());
    for round in 0..3 {
        let caller = Caller::new("caller at rest");
        let queue = format!("rest-{}", fastrand::u32(..));
        let request = EnqueueRequest { queue, kind: "mail".into(), ..EnqueueRequest::default() };
        client.enqueue(traced(request, &caller)).await.expect("a job");
        eventually("the spans of a call", Duration::from_secs(30), async || {
            receiver.trace(&caller.trace_id).has("shoal-jobs").then_some(())
        })
        .await;
        // Other tests' sessions and jobs end in the same Redis.
        let due = |name: &str| name == "sweep" || name.starts_with("tend ");
        let roots: Vec<_> = receiver.roots().into_iter().filter(|span| !due(&span.name)).collect();
        assert!(roots.is_empty(), "round {round}: {} begun, such as {:?}", roots.len(), roots[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hedged_attempts_share_a_parent() {
    let receiver = Receiver::start().await;
    let dir = tempfile::tempdir().expect("a folder");
    let (routes, config) = (dir.path().join("routes.toml"), dir.path().join("shoal.toml"));
    // At once: whatever is not answered within the poll it was sent in is hedged.
    let route =
        "[[route]]\nmethod = 'shoal.session.v1.SessionService/GetSession'\nhedge = { after = '0s' }\n";
    std::fs::write(&routes, route).expect("written");
    let gateway = format!("[gateway]\nroutes = '{}'\nhedge = {{ budget = 1.0 }}\n", routes.display());
    std::fs::write(&config, gateway).expect("written");
    let config = config.display().to_string();
    let up = Up::start(&["--ephemeral", "--otlp", &receiver.endpoint, "--config", &config]).await;
    let mut client = shoal_client::session(up.channel());
    let create = CreateSessionRequest { user_id: "u".into(), ..CreateSessionRequest::default() };
    let token = client.create_session(create).await.expect("a session").into_inner().token;
    // A timer's tick is a millisecond: a call that takes less is not hedged.
    let caller = eventually("a call that takes a millisecond", Duration::from_secs(30), async || {
        let caller = Caller::new("caller hedged");
        let get = GetSessionRequest { token: token.clone(), no_touch: true };
        client.clone().get_session(traced(get, &caller)).await.expect("found");
        (hedges(&up).await > 0).then_some(caller)
    })
    .await;
    caller.export(&receiver.endpoint).await;
    let attempts = eventually("the spans of two attempts", Duration::from_secs(15), async || {
        let tree = receiver.trace(&caller.trace_id);
        let call =
            tree.spans().iter().find(|span| span.service == "shoal-gateway" && span.kind == "server")?;
        let attempts = tree.spans().iter().filter(|span| span.parent == call.id && span.kind == "client");
        let attempts: Vec<_> = attempts.map(|span| span.attributes.clone()).collect();
        (attempts.len() == 2).then_some(attempts)
    })
    .await;
    let of = |key: &str| {
        let mut values: Vec<String> = attempts.iter().map(|attempt| attempt[key].clone()).collect();
        values.sort();
        values
    };
    assert_eq!(of("shoal.attempt"), ["1", "2"]);
    let ports = of("server.port");
    assert_ne!(ports[0], ports[1], "another clone");
    // The one that answered first is OK, and the other was cancelled.
    assert_eq!(of("rpc.grpc.status_code"), ["0", "1"]);
}

/// Returns how many calls of the session service were hedged.
async fn hedges(up: &Up) -> i64 {
    let mut client = GatewayServiceClient::new(up.channel());
    let list = client.list_upstreams(ListUpstreamsRequest {}).await.expect("answered").into_inner();
    list.upstreams.iter().find(|upstream| upstream.name == "session").expect("listed").hedges
}

/// Asserts the same against a real Jaeger: `scripts/test jaeger`.
#[tokio::test(flavor = "multi_thread")]
async fn jaeger_shows_the_whole_path() {
    // Jaeger takes minutes to build: only its own run has it.
    let (Ok(otlp), Ok(query)) =
        (std::env::var("SHOAL_TEST_JAEGER_OTLP"), std::env::var("SHOAL_TEST_JAEGER_QUERY"))
    else {
        return eprintln!("SKIPPED: no Jaeger; run scripts/test jaeger");
    };
    let (redis, cassandra) = (need!("SHOAL_TEST_REDIS"), need!("SHOAL_TEST_CASSANDRA"));
    let up = Up::start(&["--redis", &redis, "--cassandra", &cassandra, "--otlp", &otlp, "--ephemeral"]).await;
    let driven = drive(&up, &otlp).await;
    let whole = async |caller: &Caller, services: &[&str]| {
        eventually("the trace in Jaeger", Duration::from_secs(30), async || {
            let tree = jaeger::trace(&query, &caller.trace_id).await?;
            services.iter().all(|service| tree.has(service)).then_some(tree)
        })
        .await
    };
    let read = whole(&driven.get_object, &["caller", "shoal-gateway", "shoal-cache", "shoal-data"]).await;
    check_read(&read, &driven);
    let enqueued = whole(&driven.enqueue, &["caller", "shoal-gateway", "shoal-jobs"]).await;
    let leased = whole(&driven.lease, &["caller", "shoal-gateway", "shoal-jobs"]).await;
    check_job(&enqueued, &leased, &driven);
    eprintln!("{read}");
}
