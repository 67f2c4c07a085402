//! `shoal up` as its user sees it.

use std::time::Duration;

use shoal_proto::data::v1 as data;
use shoal_proto::jobs::v1 as jobs;
use shoal_proto::session::v1 as session;
use shoal_testing::RedisServer;
use tokio::process::Command;
use tonic_types::StatusExt as _;

use crate::harness::engines::need;
use crate::harness::http::http_get;
use crate::harness::process::{Process, free_port, shoal_binary};
use crate::harness::up::Up;

#[tokio::test(flavor = "multi_thread")]
async fn reports_ready_and_drains_on_ctrl_c() {
    let mut up = Up::start(&["--ephemeral"]).await;
    for role in ["session", "cache", "data", "jobs"] {
        assert_eq!(up.clones(role).len(), 2, "{role}");
    }
    assert!(http_get(&up.admin, "/livez").await.ends_with("ok\n"));
    let ready = http_get(&up.admin, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.0 200") && ready.contains("session-2: ok"), "{ready}");
    shoal_client::session(up.channel())
        .create_session(session::CreateSessionRequest { user_id: "ada".into(), ..Default::default() })
        .await
        .expect("a session");
    let metrics = http_get(&up.admin, "/metrics").await;
    assert!(metrics.contains("shoal_rpc_server_calls_total") && metrics.contains("code=\"OK\""), "{metrics}");

    assert_eq!(crate::harness::process::token_in(&metrics), None);
    assert!(!metrics.contains("engine=\"redis\""), "there is none: {metrics}");

    up.process.signal("INT");
    assert!(up.process.ended(Duration::from_secs(20)).await.success());
    assert!(up.process.output().contains("stopped"));
}

#[tokio::test(flavor = "multi_thread")]
async fn answered_writes_survive_sigkill() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().to_str().expect("utf-8");
    let mut up = Up::start(&["--data", path]).await;
    let channel = up.channel();
    let created = shoal_client::session(channel.clone())
        .create_session(session::CreateSessionRequest { user_id: "ada".into(), ..Default::default() })
        .await
        .expect("a session")
        .into_inner();
    let definition = data::Table {
        name: "kept".into(),
        sort_key_type: data::SortKeyType::None.into(),
        ..Default::default()
    };
    let mut rows = shoal_client::data(channel.clone());
    rows.create_table(data::CreateTableRequest { table: Some(definition) }).await.expect("a table");
    let put = data::Mutation { kind: Some(data::mutation::Kind::Put(data::mutation::Put::default())) };
    let mutate = data::MutateRequest {
        table: "kept".into(),
        partition_key: "p".into(),
        mutations: vec![put],
        ..Default::default()
    };
    rows.mutate(mutate).await.expect("written");
    let enqueue = jobs::EnqueueRequest { queue: "q".into(), kind: "k".into(), ..Default::default() };
    let job =
        shoal_client::jobs(channel).enqueue(enqueue).await.expect("a job").into_inner().job.expect("a job");

    up.process.kill().await;
    let up = Up::start(&["--data", path]).await;
    let channel = up.channel();
    let get = session::GetSessionRequest { token: created.token, no_touch: true };
    let seen =
        shoal_client::session(channel.clone()).get_session(get).await.expect("still there").into_inner();
    assert_eq!(seen.session, created.session);
    let get = data::GetRequest { table: "kept".into(), partition_key: "p".into(), ..Default::default() };
    shoal_client::data(channel.clone()).get(get).await.expect("still there");
    let get = jobs::GetJobRequest { id: job.id.clone() };
    let seen = shoal_client::jobs(channel).get_job(get).await.expect("still there").into_inner();
    assert_eq!(seen.job.expect("a job"), job);
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_files_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().to_str().expect("utf-8");
    let mut up = Up::start(&["--data", path]).await;
    let channel = up.channel();
    shoal_client::session(channel.clone())
        .create_session(session::CreateSessionRequest { user_id: "ada".into(), ..Default::default() })
        .await
        .expect("a session");
    let definition = data::Table {
        name: "kept".into(),
        sort_key_type: data::SortKeyType::None.into(),
        ..Default::default()
    };
    shoal_client::data(channel.clone())
        .create_table(data::CreateTableRequest { table: Some(definition) })
        .await
        .expect("a table");
    let enqueue = jobs::EnqueueRequest { queue: "q".into(), kind: "k".into(), ..Default::default() };
    shoal_client::jobs(channel).enqueue(enqueue).await.expect("a job");
    up.process.kill().await;

    for (role, damage) in [("session", "cut"), ("data", "overwritten"), ("jobs", "removed")] {
        let journal = dir.path().join(role).join("0.jnl");
        match damage {
            "cut" => std::fs::File::create(&journal).map(drop),
            "overwritten" => {
                let file = std::fs::File::options().write(true).open(&journal);
                file.and_then(|file| std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 64], 0))
            }
            _ => std::fs::remove_file(&journal),
        }
        .expect("damaged");
        let mut command = Command::new(shoal_binary());
        command.args(["serve", role, "--data", path, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        let mut process = Process::spawn(command);
        assert!(!process.ended(Duration::from_secs(20)).await.success(), "{role}, {damage}");
        let output = crate::harness::eventually("its error", Duration::from_secs(2), async || {
            let output = process.output();
            output.contains("shoal:").then_some(output)
        })
        .await;
        let database = dir.path().join(role).display().to_string();
        for part in [&database, "is damaged", "restore a copy", "move it away"] {
            assert!(output.contains(part), "{role}, {damage}: {output}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn start_failure_is_explained() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let cases: [(&[&str], &str); 6] = [
        (&["up", "--ephemeral", "--listen", &address, "--admin", "127.0.0.1:0"], "in use"),
        (&["up", "--ephemeral", "--listen", "127.0.0.1:0", "--admin", &address], "in use"),
        (&["up", "--ephemeral", "--listen", "0.0.0.0:0"], "--insecure"),
        (&["up", "--config", "missing.toml"], "missing.toml"),
        (&["up", "--clones", "session=none"], "clones"),
        (&["serve", "session", "--ephemeral", "--redis", "nonsense", "--listen", "127.0.0.1:0"], "Redis URL"),
    ];
    for (arguments, part) in cases {
        let mut command = Command::new(shoal_binary());
        command.args(arguments);
        let mut process = Process::spawn(command);
        assert!(!process.ended(Duration::from_secs(10)).await.success(), "{arguments:?}");
        let output = crate::harness::eventually("its error", Duration::from_secs(2), async || {
            let output = process.output();
            output.contains("shoal:").then_some(output)
        })
        .await;
        assert!(output.contains(part), "{arguments:?}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_watch_with_retry_time() {
    // Longer than the patience of this test: a drain that waits for the watchers fails it.
    let mut up = Up::start(&["--ephemeral", "--drain", "5m"]).await;
    let mut sessions = shoal_client::session(up.channel());
    let watch = sessions
        .watch_sessions(session::WatchSessionsRequest { user_id: "ada".into(), ..Default::default() });
    let mut watched = watch.await.expect("a watch").into_inner();
    let mut queue = shoal_client::jobs(up.channel());
    let enqueue = jobs::EnqueueRequest { queue: "q".into(), kind: "k".into(), ..Default::default() };
    let id = queue.enqueue(enqueue).await.expect("a job").into_inner().job.expect("a job").id;
    let watch = queue.watch_job(jobs::WatchJobRequest { id, ..Default::default() });
    let mut job = watch.await.expect("a watch").into_inner();
    job.message().await.expect("its state").expect("its state");

    up.process.signal("INT");
    let ends = async { [watched.message().await.map(|_| ()), job.message().await.map(|_| ())] };
    for end in tokio::time::timeout(Duration::from_secs(60), ends).await.expect("both end") {
        let status = end.expect_err("the watch ends with an error");
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
        let details = status.get_error_details();
        assert_eq!(details.error_info().expect("ErrorInfo").reason, "DRAINING");
        assert!(details.retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status:?}");
    }
    drop((watched, job));
    assert!(up.process.ended(Duration::from_secs(60)).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_line_names_missing_engines() {
    need!("SHOAL_TEST_REDIS_SERVER");
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let url = format!("redis://{address}");
    let mut up = Up::start(&["--ephemeral", "--redis", &url]).await;
    // The gateway takes calls, and the process has clones that never reached their engine.
    let probed = http_get(&up.admin, "/readyz").await;
    assert!(probed.starts_with("HTTP/1.0 503") && probed.contains("gateway: ok"), "{probed}");
    assert!(probed.contains("session-1: redis 127.0.0.1:") && probed.contains("data-1: ok"), "{probed}");
    let output = up.process.output();
    let ready = output.lines().find(|line| line.starts_with("ready in")).expect("a ready line");
    assert!(
        ready.contains(&format!("not reachable yet: redis {address} for session, cache, jobs (")),
        "{ready}"
    );
    assert!(!output.contains("\nreachable: redis"), "{output}");

    let _redis = RedisServer::start_at(port).await;
    up.process
        .printed(&format!("\nreachable: redis {address} for session, cache, jobs"), Duration::from_secs(40))
        .await;
    let create = session::CreateSessionRequest { user_id: "ada".into(), ..Default::default() };
    shoal_client::session(up.channel()).create_session(create).await.expect("a session");
    crate::harness::eventually("it is ready", Duration::from_secs(10), async || {
        http_get(&up.admin, "/readyz").await.starts_with("HTTP/1.0 200").then_some(())
    })
    .await;
}
