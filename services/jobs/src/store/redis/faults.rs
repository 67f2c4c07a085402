//! Faults of Redis: it stops, restarts, freezes, fills up, evicts, forgets. Each test has a Redis of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shoal_kit::EngineError;
use shoal_kit::reason;
use shoal_redis_link::LinkConfig;
use shoal_testing::RedisServer;
use tokio::time::{Instant, timeout};

use super::RedisStore;
use crate::config::Config;
use crate::error::Error;
use crate::job::id::JobId;
use crate::job::{Failure, State};
use crate::store::conformance::{
    Mesh, TestClone, eventually, lease_request, new_job, queue, redis_mesh_at, ticket,
};

/// Longest time of a call while Redis does not answer.
const SOON: Duration = Duration::from_millis(250);
const LONG: Duration = Duration::from_secs(600);

async fn mesh(server: &RedisServer) -> Mesh {
    mesh_that_waits(server, Duration::from_secs(5)).await
}

async fn mesh_that_waits(server: &RedisServer, redis_deadline: Duration) -> Mesh {
    let config = Config { key_prefix: "t:".to_owned(), redis_deadline, ..Config::default() };
    redis_mesh_at(&server.url(), &config).await
}

fn failure() -> Failure {
    Failure { message: "broken".to_owned(), permanent: true }
}

fn is_out_of_reach<T: std::fmt::Debug>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Engine(EngineError::Unavailable { .. } | EngineError::Unknown { .. })))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_outlives_a_redis_restart() {
    let Some(mut server) = RedisServer::start_durable().await else {
        return;
    };
    let mesh = mesh(&server).await;
    let q = queue("restart");
    let (job, other) = (mesh.a.enqueue(&q, "1").await, mesh.a.enqueue(&q, "2").await);
    let claim = mesh.a.lease(&q, 2, LONG).await;
    let mut watches = Vec::new();
    for id in [&job.id, &other.id] {
        let mut watch = mesh.b.watch(id, None).await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap().progress.state, State::Running);
        watches.push(watch);
    }

    server.kill();
    assert!(is_out_of_reach(&mesh.a.store.complete(&job.id, claim.fence, Bytes::new()).await));
    server.restart().await;
    // One job ends probably before the watchers' connections are back, and one after.
    for (id, watch) in [&job.id, &other.id].into_iter().zip(&mut watches) {
        eventually("redis is back", || async {
            mesh.a.store.complete(id, claim.fence, Bytes::from_static(b"r")).await.ok()
        })
        .await;
        let end = timeout(Duration::from_secs(10), watch.next()).await.expect("heard of").unwrap().unwrap();
        assert_eq!((end.progress.state, &end.progress.result[..]), (State::Succeeded, &b"r"[..]));
        assert_eq!(watch.next().await, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_of_lost_job_ends() {
    let Some(mut server) = RedisServer::start().await else { return };
    let mesh = mesh(&server).await;
    let job = mesh.a.enqueue(&queue("lost"), "k").await;
    let mut watch = mesh.b.watch(&job.id, None).await.unwrap();
    assert!(watch.next().await.unwrap().is_ok());
    server.kill();
    server.restart().await;
    let end = timeout(Duration::from_secs(10), watch.next()).await.expect("heard of");
    assert_eq!(end, Some(Err(Error::not_found(&job.id))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_redis_costs_no_attempt() {
    let Some(server) = RedisServer::start().await else { return };
    let mesh = mesh_that_waits(&server, Config::default().redis_deadline).await;
    let q = queue("frozen");
    for kind in ["1", "2"] {
        mesh.a.enqueue(&q, kind).await;
    }
    let held = mesh.a.lease(&q, 1, LONG).await;
    let id = held.jobs[0].id.clone();

    let (one, nine) = (lease_request(&q, 1, LONG), lease_request(&q, 9, LONG));
    server.freeze();
    let started = Instant::now();
    let enqueued = mesh.a.store.enqueue(new_job(&q, "3")).await;
    assert!(is_out_of_reach(&enqueued), "{enqueued:?}");
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    let started = Instant::now();
    let (got, done, failed, leased, watched) = tokio::join!(
        mesh.a.store.get(&id),
        mesh.a.store.complete(&id, held.fence, Bytes::new()),
        mesh.b.store.fail(&id, held.fence, failure()),
        mesh.b.leaser.lease(&one, LONG),
        mesh.b.watch(&id, None),
    );
    let took = started.elapsed();
    assert!(matches!(got, Err(Error::Engine(EngineError::Unavailable { .. }))), "{got:?}");
    assert!(is_out_of_reach(&done) && is_out_of_reach(&failed), "{done:?} {failed:?}");
    let leased = leased.map(|_| ());
    assert!(is_out_of_reach(&leased), "{leased:?}");
    assert!(is_out_of_reach(&watched.map(|_| ())));
    assert!(took < SOON, "{took:?}");

    // The lease without an answer claims jobs once Redis goes on; they are given back, because its caller left.
    server.thaw();
    let second = eventually("the second job is leased", || async {
        let claim = mesh.a.leaser.lease(&nine, Duration::ZERO).await.ok()?.taken();
        claim.jobs.into_iter().find(|job| job.spec.kind == "2")
    })
    .await;
    assert_eq!((second.progress.attempt, second.progress.lost_count), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_redis_is_used_when_up() {
    let Some(mut server) = RedisServer::start().await else { return };
    server.kill();
    let store = RedisStore::open(LinkConfig::new(server.url(), "jobs"), &Config::default()).unwrap();
    let clone = TestClone::start(Arc::new(store));
    let q = queue("later");
    let started = Instant::now();
    assert!(is_out_of_reach(&clone.store.enqueue(new_job(&q, "k")).await));
    assert!(started.elapsed() < SOON);
    assert!(clone.store.ready().is_err());
    server.restart().await;
    eventually("redis is used", || async { clone.store.enqueue(new_job(&q, "k")).await.ok() }).await;
    assert_eq!(clone.store.ready(), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evicting_redis_takes_no_jobs() {
    for policy in ["allkeys-lru", "volatile-ttl"] {
        let Some(server) =
            RedisServer::start_with(&["--maxmemory", "100mb", "--maxmemory-policy", policy]).await
        else {
            return;
        };
        let mesh = mesh(&server).await;
        let q = queue("evicts");
        let refused = mesh.a.store.enqueue(new_job(&q, "k")).await;
        assert_eq!(refused, Err(Error::Evicts { policy: policy.to_owned() }));
        assert!(mesh.a.store.ready().unwrap_err().contains("noeviction"));
        // An operator who follows the error's advice needs no restart.
        mesh.a.maintain();
        server.ask("config set maxmemory-policy noeviction");
        eventually("it is accepted", || async { mesh.a.store.enqueue(new_job(&q, "k")).await.ok() }).await;
        assert_eq!(mesh.a.store.ready(), Ok(()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_redis_refuses_only_new_jobs() {
    let Some(server) = RedisServer::start().await else { return };
    let mesh = mesh(&server).await;
    let q = queue("full");
    for kind in ["1", "2", "3"] {
        mesh.a.enqueue(&q, kind).await;
    }
    server.ask("config set maxmemory 1mb");
    assert!(matches!(
        mesh.a.store.enqueue(new_job(&q, "4")).await,
        Err(Error::Engine(EngineError::Full { .. }))
    ));
    let claim = mesh.b.lease(&q, 3, Duration::from_millis(300)).await;
    let [one, two, three] = [0, 1, 2].map(|n: usize| claim.jobs[n].id.clone());
    mesh.a.store.extend(&one, claim.fence, Duration::from_millis(300)).await.unwrap();
    mesh.a.store.complete(&one, claim.fence, Bytes::from_static(b"r")).await.unwrap();
    mesh.a.store.fail(&two, claim.fence, failure()).await.unwrap();
    eventually("the lost one is given back", || async {
        mesh.a.store.promote_due(&q).await.unwrap();
        mesh.b.get(&three).await.filter(|job| job.progress.lost_count == 1)
    })
    .await;
    mesh.a.store.settle(&q, Some(Duration::ZERO));
    eventually("what is due is told", || async {
        mesh.a.store.take_due(8).await.expect("asked").contains(&q).then_some(())
    })
    .await;
    // This clone has noted nothing itself.
    mesh.b.store.take_due(8).await.expect("asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_only_redis_is_still_read() {
    let Some(server) = RedisServer::start().await else { return };
    let mesh = mesh(&server).await;
    let q = queue("read-only");
    let job = mesh.a.enqueue(&q, "1").await;
    for (begin, end, says) in [
        ("replicaof 127.0.0.1 1", "replicaof no one", "READONLY"),
        ("config set min-replicas-to-write 1", "config set min-replicas-to-write 0", "NOREPLICAS"),
    ] {
        server.ask(begin);
        let refused = mesh.a.store.enqueue(new_job(&q, "2")).await.unwrap_err();
        let leased = mesh.b.store.lease(lease_request(&q, 1, LONG), ticket()).await.unwrap_err();
        for error in [refused, leased] {
            assert!(matches!(error, Error::Engine(EngineError::ReadOnly { .. })), "{error:?}");
            let fault = shoal_kit::ApiError::from(error);
            // The status is UNAVAILABLE.
            assert_eq!((fault.code() as i32, fault.reason()), (14, reason::ENGINE_READ_ONLY));
            assert!(fault.message().contains(says) && fault.message().contains("nothing was done"));
        }
        assert!(mesh.b.get(&job.id).await.is_some(), "reads go on");
        assert!(mesh.a.store.ready().unwrap_err().contains(says));
        server.ask(end);
        eventually("it is well again", || async { mesh.a.store.ready().ok() }).await;
        assert_eq!(mesh.a.store.count(&q).await.unwrap().unwrap().ready, 1, "nothing was done");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queue_restarts_after_redis_forgets() {
    let Some(server) = RedisServer::start().await else { return };
    let mesh = mesh(&server).await;
    mesh.b.maintain();
    let q = queue("flushed");
    let gone = mesh.a.enqueue(&q, "k").await;
    let claim = mesh.a.lease(&q, 1, LONG).await;
    server.ask("flushall");
    server.ask("script flush");
    assert_eq!(
        mesh.a.store.complete(&gone.id, claim.fence, Bytes::new()).await,
        Err(Error::not_found(&gone.id))
    );
    mesh.a.enqueue(&q, "again").await;
    let claim = mesh.b.lease(&q, 1, Duration::from_millis(1)).await;
    let id: JobId = claim.jobs[0].id.clone();
    // The registry of queues is gone as well, and the clones maintain the queue all the same.
    eventually("a lost job is given back", || async {
        mesh.a.get(&id).await.filter(|job| job.progress.lost_count == 1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_queue_is_dropped_and_returns() {
    let Some(server) = RedisServer::start().await else { return };
    let mesh = mesh(&server).await;
    let (idle, busy) = (queue("idle"), queue("busy"));
    let mut short = new_job(&idle, "k");
    short.spec.retention = Duration::from_millis(50);
    mesh.a.store.enqueue(short).await.unwrap();
    mesh.a.enqueue(&busy, "k").await;
    let claim = mesh.a.lease(&idle, 1, LONG).await;
    mesh.a.store.complete(&claim.jobs[0].id, claim.fence, Bytes::new()).await.unwrap();
    eventually("its job is forgotten", || async {
        mesh.a.store.promote_due(&idle).await.unwrap();
        (server.ask("exists t:{idle}:z:4") == "0").then_some(())
    })
    .await;
    // Both queues look as if they were used two days ago.
    let then = (crate::job::moment::Moment::of_this_machine().0 / 1000 - 2 * 86_400).to_string();
    for name in ["idle", "busy"] {
        server.ask(&format!("zadd t:queues {then} {name}"));
    }
    assert_eq!(mesh.b.store.queues().await.unwrap(), std::slice::from_ref(&busy));
    assert_eq!(server.ask("exists t:{idle}:ev"), "0");
    assert_eq!(mesh.b.store.count(&idle).await, Ok(None));

    mesh.b.enqueue(&idle, "k").await;
    let again = mesh.b.lease(&idle, 1, LONG).await;
    assert!(again.fence > claim.fence);
    assert_eq!(mesh.b.store.queues().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unused_queue_gives_way_to_new() {
    let Some(server) = RedisServer::start().await else { return };
    let config = Config {
        key_prefix: "t:".to_owned(),
        redis_deadline: Duration::from_secs(5),
        queues_max: 3,
        ..Config::default()
    };
    let mesh = redis_mesh_at(&server.url(), &config).await;
    let (full, empty) = (queue("full"), queue("empty"));
    mesh.a.enqueue(&full, "k").await;
    mesh.a.enqueue(&queue("fresh"), "k").await;
    let mut short = new_job(&empty, "k");
    short.spec.retention = Duration::from_millis(50);
    mesh.a.store.enqueue(short).await.unwrap();
    let claim = mesh.a.lease(&empty, 1, LONG).await;
    mesh.a.store.complete(&claim.jobs[0].id, claim.fence, Bytes::new()).await.unwrap();
    let new = || mesh.b.store.enqueue(new_job(&queue("new"), "k"));
    assert_eq!(new().await, Err(Error::TooManyQueues { max: 3 }), "all are in use");
    // Both queues look as if they were used an hour ago; one of them has a job.
    let then = (crate::job::moment::Moment::of_this_machine().0 / 1000 - 3600).to_string();
    for name in ["full", "empty"] {
        server.ask(&format!("zadd t:queues {then} {name}"));
    }
    eventually("its job is forgotten", || async {
        mesh.a.store.promote_due(&empty).await.unwrap();
        new().await.ok()
    })
    .await;
    assert_eq!(server.ask("zscore t:queues empty"), "");
    assert_eq!(mesh.b.lease(&full, 1, LONG).await.jobs.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_at_rest_cost_redis_nothing() {
    let Some(server) = RedisServer::start().await else { return };
    let mesh = mesh(&server).await;
    for n in 0..200 {
        mesh.a.enqueue(&queue(&format!("junk-{n}")), "k").await;
    }
    mesh.a.maintain();
    mesh.b.maintain();
    let commands = || -> u64 {
        let stats = server.ask("info stats");
        let line = stats.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
        line.expect("it counts").trim().parse().expect("a number")
    };
    // Each clone looks once at every queue that is new to it. After that all queues cost no more than one would.
    let per_second = eventually("they are at rest", || async {
        let before = commands();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = (commands() - before) / 2;
        (now <= 20).then_some(now)
    })
    .await;
    eprintln!("{per_second} commands a second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_clone_gives_a_lease_back() {
    let Some(server) = RedisServer::start().await else { return };
    let mesh = mesh(&server).await;
    let q = queue("heard");
    let job = mesh.a.enqueue(&q, "k").await;
    mesh.a.lease(&q, 1, Duration::from_millis(1500)).await;
    // The clone that leased the job notes its end in the store, and is gone.
    assert!(mesh.a.store.take_due(1).await.unwrap().is_empty());
    mesh.b.maintain();
    eventually("it is given back", || async {
        mesh.b.get(&job.id).await.filter(|job| job.progress.lost_count == 1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fences_grow_across_fail_overs() {
    let Some(server) = RedisServer::start().await else { return };
    let mesh = mesh(&server).await;
    let q = queue("older");
    mesh.a.enqueue(&q, "k").await;
    let first = mesh.a.lease(&q, 1, LONG).await;
    // The replica that took over had not received the last fence.
    server.ask("del t:{older}:f");
    mesh.a.enqueue(&q, "k").await;
    let second = mesh.a.lease(&q, 1, LONG).await;
    assert!(second.fence > first.fence, "{} after {}", second.fence, first.fence);
    // A Redis whose clock is behind goes on from the last fence.
    let ahead = (second.fence + 3_600_000_000).to_string();
    server.ask(&format!("set t:{{older}}:f {ahead}"));
    mesh.a.enqueue(&q, "k").await;
    assert_eq!(
        mesh.a.lease(&q, 1, LONG).await.fence.to_string(),
        (ahead.parse::<u64>().unwrap() + 1).to_string()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_waiters_cost_redis_nothing() {
    let Some(server) = RedisServer::start().await else { return };
    let mesh = mesh(&server).await;
    mesh.a.maintain();
    mesh.b.maintain();
    let q = queue("quiet");
    let mut watches = Vec::new();
    for _ in 0..100 {
        let delayed =
            crate::job::new_job::NewJob { run: crate::job::new_job::Run::After(LONG), ..new_job(&q, "k") };
        let id = mesh.a.store.enqueue(delayed).await.unwrap().id;
        let mut watch = mesh.b.watch(&id, None).await.unwrap();
        watch.next().await;
        watches.push(watch);
    }
    let wait = Duration::from_millis(2500);
    let one = lease_request(&q, 1, LONG);
    let waiting = futures::future::join_all((0..100).map(|_| mesh.b.leaser.lease(&one, wait)));
    let scripts = || -> u64 {
        let stats = server.ask("info commandstats");
        let calls = |name: &str| {
            let line = stats.lines().find(|line| line.starts_with(&format!("cmdstat_{name}:")));
            line.and_then(|line| line.split_once("calls=")?.1.split_once(',')?.0.parse::<u64>().ok())
                .unwrap_or(0)
        };
        calls("evalsha") + calls("hgetall") + calls("get") + calls("xread")
    };
    let before = scripts();
    let got = waiting.await;
    assert!(got.into_iter().all(|leased| leased.unwrap().taken().jobs.is_empty()));
    let calls = scripts() - before;
    // 100 first looks, and one look a second for each clone: no call polls.
    assert!(calls < 100 + 40, "{calls} calls");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_jobs_leave_no_ids_behind() {
    let Some(server) = RedisServer::start().await else { return };
    let mesh = mesh(&server).await;
    let q = queue("cancelled");
    let mut ids = Vec::new();
    for _ in 0..30 {
        let jobs = (0..100).map(|_| new_job(&q, "k")).collect();
        ids.extend(mesh.a.store.enqueue_all(jobs).await.unwrap().into_iter().map(|made| made.job.id));
    }
    let length = || -> usize {
        let of = |key: &str| server.ask(&format!("llen {key}")).trim().parse::<usize>().unwrap();
        of("t:{cancelled}:r::1") + of("t:{cancelled}:r::1:first")
    };
    fastrand::Rng::with_seed(11).shuffle(&mut ids);
    for (n, id) in ids.iter().enumerate() {
        mesh.a.store.cancel(id).await.unwrap();
        let alive = ids.len() - n - 1;
        if n % 100 == 0 {
            assert!(length() <= 2 * alive + 400, "{} ids for {alive} jobs", length());
        }
    }
    assert!(length() <= 200, "{} ids for no job", length());
    mesh.a.store.promote_due(&q).await.unwrap();
    assert_eq!(length(), 0, "a queue without jobs can be retired");
}

/// Counts commands. A change here changes what Redis can carry; docs/redis.md has the figures.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_cost_redis_few_commands() {
    let Some(server) = RedisServer::start().await else { return };
    let mesh = mesh(&server).await;
    let q = queue("cost");
    let of_steps = || -> u64 {
        let stats = server.ask("info commandstats");
        let beside = ["ping", "info", "config", "client", "subscribe", "hello", "script", "xread"];
        stats
            .lines()
            .filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="))
            .filter(|(name, _)| !beside.iter().any(|other| name.starts_with(other)))
            .map(|(_, rest)| rest.split(',').next().unwrap().parse::<u64>().unwrap())
            .sum()
    };
    // The first call registers the queue.
    mesh.a.enqueue(&q, "first").await;
    let cost =
        async |what: &str, max: u64, step: &mut dyn FnMut() -> futures::future::BoxFuture<'static, ()>| {
            let mut fewest = u64::MAX;
            for _ in 0..5 {
                let before = of_steps();
                step().await;
                // The watchdog's probe is one more command now and then.
                fewest = fewest.min(of_steps() - before);
            }
            assert!(fewest <= max, "{what}: {fewest} commands");
        };
    let store = mesh.a.store.clone();
    cost("enqueue", 6, &mut || {
        let (store, job) = (store.clone(), new_job(&q, "k"));
        Box::pin(async move { drop(store.enqueue(job).await.unwrap()) })
    })
    .await;
    let claim = mesh.a.lease(&q, 6, LONG).await;
    let (fence, mut ids) = (claim.fence, claim.jobs.into_iter().map(|job| job.id));
    cost("complete", 12, &mut || {
        let (store, id) = (store.clone(), ids.next().unwrap());
        Box::pin(async move { drop(store.complete(&id, fence, Bytes::new()).await.unwrap()) })
    })
    .await;
}
