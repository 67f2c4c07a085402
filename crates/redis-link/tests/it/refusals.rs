//! A Redis that answers and refuses: full, a replica, without its replicas, unable to save, or asking for a password. Nothing is
//! called done, reads go on, whoever runs it is told why, and it is well again by itself.

use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use shoal_redis_link::{Eviction, Health, Link, LinkConfig, LinkError, Script};

use crate::server::{PATIENCE, Server, eventually, open, patient};

async fn set(link: &Link) -> Result<(), LinkError> {
    link.query(redis::cmd("SET").arg("k").arg("v")).await
}

async fn get(link: &Link) -> Result<Option<String>, LinkError> {
    link.query(redis::cmd("GET").arg("k")).await
}

/// Runs a test on one thread with metrics of its own.
fn measured(test: impl AsyncFnOnce(PrometheusHandle)) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(test(handle)));
}

fn gauge(metrics: &PrometheusHandle, name: &str) -> String {
    let start = format!(r#"{name}{{role="test",engine="redis"}} "#);
    let text = metrics.render();
    text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or("none").to_owned()
}

/// Makes Redis refuse writes, sees what calls and operators are told, and makes it well again.
fn check(begin: &[&[&str]], end: &[&[&str]], gauge_name: &str, refused: fn(&LinkError) -> bool, says: &str) {
    measured(async |metrics| {
        let Some(server) = Server::start().await else { return };
        let link = server.link().await;
        let operator = redis::Client::open(server.url()).unwrap();
        let mut operator = operator.get_multiplexed_async_connection().await.unwrap();
        let mut configure = async |commands: &[&[&str]]| {
            for command in commands {
                let mut cmd = redis::cmd(command[0]);
                cmd.arg(&command[1..]);
                let _: redis::Value = cmd.query_async(&mut operator).await.unwrap();
            }
        };
        set(&link).await.unwrap();
        eventually("up", async || gauge(&metrics, "shoal_engine_up") == "1").await;
        assert_eq!(gauge(&metrics, gauge_name), "0");
        assert_eq!(link.ready_now(), Ok(()));

        configure(begin).await;
        // Also without a call.
        eventually("it is seen", async || link.ready_now().is_err()).await;
        let error = set(&link).await.unwrap_err();
        assert!(refused(&error) && error.to_string().contains(says), "{error:?}");
        assert!(!error.to_string().contains("127.0.0.1"), "{error}");
        assert_eq!(get(&link).await.unwrap().as_deref(), Some("v"), "reads go on");
        let why = link.ready_now().unwrap_err();
        assert!(why.contains(says) && why.contains(&server.port.to_string()), "{why}");
        assert_eq!(
            (gauge(&metrics, gauge_name), gauge(&metrics, "shoal_engine_up")),
            ("1".into(), "1".into())
        );

        configure(end).await;
        set(&link).await.unwrap();
        eventually("it is well again", async || link.ready_now().is_ok()).await;
        assert_eq!(gauge(&metrics, gauge_name), "0");
    });
}

fn is_read_only(error: &LinkError) -> bool {
    matches!(error, LinkError::ReadOnly(_))
}

#[test]
fn full_redis_refuses_only_additions() {
    check(
        &[&["CONFIG", "SET", "maxmemory", "1"]],
        &[&["CONFIG", "SET", "maxmemory", "0"]],
        "shoal_engine_full",
        |error| matches!(error, LinkError::Full(_)),
        "maxmemory",
    );
}

#[test]
fn replica_is_read_only_until_promoted() {
    check(
        &[&["REPLICAOF", "127.0.0.1", "1"]],
        &[&["REPLICAOF", "NO", "ONE"]],
        "shoal_engine_read_only",
        is_read_only,
        "replica (READONLY)",
    );
}

#[test]
fn primary_without_replicas_is_read_only() {
    check(
        &[&["CONFIG", "SET", "min-replicas-to-write", "1"]],
        &[&["CONFIG", "SET", "min-replicas-to-write", "0"]],
        "shoal_engine_read_only",
        is_read_only,
        "NOREPLICAS",
    );
}

#[test]
fn redis_that_cannot_save_is_read() {
    // The folder is there when it is configured, and gone when the save begins. PING is refused as well then.
    measured(async |metrics| {
        let Some(server) = Server::start_with(&["--enable-protected-configs", "yes"]).await else { return };
        let link = server.link().await;
        set(&link).await.unwrap();
        let gone = tempfile::tempdir().unwrap();
        let path = gone.path().to_str().unwrap().to_owned();
        let operator = redis::Client::open(server.url()).unwrap();
        let mut operator = operator.get_multiplexed_async_connection().await.unwrap();
        let mut config = async |key: &str, value: &str| {
            let set =
                redis::cmd("CONFIG").arg("SET").arg(key).arg(value).query_async::<()>(&mut operator).await;
            set.unwrap();
        };
        config("dir", &path).await;
        config("save", "3600 1").await;
        drop(gone);
        let _: Result<(), _> = link.query(redis::cmd("BGSAVE").arg("SCHEDULE")).await;
        eventually("it refuses", async || set(&link).await.is_err_and(|error| is_read_only(&error))).await;
        // Longer than the watchdog needs to be misled by PING.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(2);
        while tokio::time::Instant::now() < deadline {
            assert_eq!(get(&link).await.unwrap().as_deref(), Some("v"), "reads go on");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(link.ready_now().unwrap_err().contains("MISCONF"));
        assert_eq!(gauge(&metrics, "shoal_engine_read_only"), "1");
        // A link that is opened meanwhile reads as well.
        let late = server.link().await;
        assert_eq!(get(&late).await.unwrap().as_deref(), Some("v"));
        config("save", "").await;
        eventually("it is well again", async || set(&link).await.is_ok() && link.ready_now().is_ok()).await;
    });
}

#[test]
fn password_trouble_is_named_without_secret() {
    measured(async |metrics| {
        let Some(server) = Server::start_with(&["--requirepass", "right"]).await else { return };
        for (credentials, says) in
            [("", "NOAUTH"), (":hunter2@", "WRONGPASS"), ("nobody:hunter2@", "WRONGPASS")]
        {
            let url = format!("redis://{credentials}127.0.0.1:{}", server.port);
            let link = Link::open(patient(LinkConfig::new(url, "test"))).unwrap();
            let error = link.ready(PATIENCE / 40).await.unwrap_err();
            assert!(matches!(error, LinkError::Denied(_)), "{error:?}");
            let why = link.ready_now().unwrap_err();
            assert!(why.contains(says) && why.contains("password"), "{why}");
            assert!(!format!("{why}{error}").contains("hunter2"), "{why} {error}");
            assert_eq!(gauge(&metrics, "shoal_engine_up"), "0");
            let seeds =
                format!("redis://{credentials}127.0.0.1:{0},redis://{credentials}127.0.0.1:{0}", server.port);
            let cluster = Link::open(patient(LinkConfig::new(seeds, "test"))).unwrap();
            eventually("said of a Cluster", async || {
                cluster.ready_now().is_err_and(|why| why.contains(says))
            })
            .await;
        }
        let url = format!("redis://:right@127.0.0.1:{}", server.port);
        let link = open(patient(LinkConfig::new(url, "test"))).await;
        assert_eq!(link.ready_now(), Ok(()));
    });
}

#[test]
fn errors_show_addresses_when_asked() {
    measured(async |_| {
        let Some(mut server) = Server::start().await else { return };
        server.stop();
        for show_addresses in [false, true] {
            let link =
                Link::open(LinkConfig { show_addresses, ..LinkConfig::new(server.url(), "test") }).unwrap();
            let error = link.ready(Duration::from_millis(300)).await.unwrap_err().to_string();
            assert_eq!(error.contains("127.0.0.1"), show_addresses, "{error}");
            assert!(link.ready_now().unwrap_err().contains("127.0.0.1"), "operators always see them");
        }
    });
}

#[test]
fn freeing_script_runs_in_full_redis() {
    measured(async |_| {
        let Some(server) = Server::start().await else { return };
        let link = server.link().await;
        let adds = Script::new("adds", "return redis.call('SET', KEYS[1], 'v')");
        let frees = Script::new("frees", "redis.call('DEL', '') return redis.call('SET', KEYS[1], 'v')");
        let () = link.query(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1")).await.unwrap();
        let refused = link.script::<()>(&adds, &[b"a"], &[]).await.unwrap_err();
        assert!(matches!(refused, LinkError::Full(_)), "{refused:?}");
        link.script::<()>(&frees, &[b"a"], &[]).await.unwrap();
    });
}

#[test]
fn unsuitable_policy_is_reported_until_changed() {
    measured(async |_| {
        let Some(server) = Server::start_with(&["--maxmemory-policy", "allkeys-lru"]).await else { return };
        let config = || patient(LinkConfig::new(server.url(), "test"));
        let keeps =
            open(LinkConfig { eviction: Eviction::Forbidden, health: Health::new("test"), ..config() }).await;
        let may_lose = open(LinkConfig { eviction: Eviction::Wanted, ..config() }).await;
        assert_eq!(keeps.loses().as_deref(), Some("allkeys-lru"), "from the first connection on");
        assert!(keeps.ready_now().unwrap_err().contains("noeviction"));
        assert_eq!((may_lose.loses(), may_lose.ready_now()), (None, Ok(())));
        let set = redis::cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg("noeviction").to_owned();
        let () = may_lose.query(&set).await.unwrap();
        eventually("it suits", async || keeps.loses().is_none() && keeps.ready_now().is_ok()).await;
    });
}
