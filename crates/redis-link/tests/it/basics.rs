//! Commands, pipelines and scripts while all is well, and errors that Redis answers.

use std::collections::HashSet;
use std::time::Duration;

use futures::future::join_all;
use shoal_redis_link::{Link, LinkConfig, LinkError, Script};

use crate::server::{Server, open, patient};

#[tokio::test]
async fn calls_answer_typed_values() {
    let Some(server) = Server::start().await else { return };
    let link = server.link().await;
    let () = link.query(redis::cmd("SET").arg("k").arg("v")).await.unwrap();
    let value: Option<Vec<u8>> = link.query(redis::cmd("GET").arg("k")).await.unwrap();
    assert_eq!(value.as_deref(), Some(b"v".as_slice()));

    let mut pipe = redis::pipe();
    pipe.cmd("HSET").arg("h").arg("a").arg(1).ignore().cmd("HGETALL").arg("h").cmd("PTTL").arg("h");
    let (fields, ttl): (std::collections::HashMap<String, u64>, i64) = link.pipeline(&pipe).await.unwrap();
    assert_eq!((fields["a"], ttl), (1, -1));

    let mut atomic = redis::pipe();
    atomic.atomic().cmd("INCR").arg("n").cmd("INCR").arg("n");
    assert_eq!(link.pipeline::<(u64, u64)>(&atomic).await.unwrap(), (1, 2));
    assert!(link.healthy());
    assert_eq!(link.run_id().await.unwrap().len(), 40);
}

#[tokio::test]
async fn first_call_waits_for_connection() {
    let Some(server) = Server::start().await else { return };
    let link = Link::open(patient(LinkConfig::new(server.url(), "test"))).unwrap();
    assert_eq!(link.query::<u64>(redis::cmd("INCR").arg("n")).await.unwrap(), 1);
}

#[tokio::test]
async fn calls_share_connection_until_busy() {
    let Some(server) = Server::start().await else { return };
    let link = server.link().await;
    server.settled().await;
    let id = redis::cmd("CLIENT").arg("ID").to_owned();
    for (calls, connections) in [(400, 1), (1000, 2)] {
        server.freeze();
        let calls = join_all((0..calls).map(|_| link.query::<u64>(&id)));
        // Each has chosen its connection before any is answered.
        let (ids, ()) = tokio::join!(calls, async { server.thaw() });
        let used: HashSet<u64> = ids.into_iter().map(Result::unwrap).collect();
        assert_eq!(used.len(), connections, "{used:?}");
    }
}

/// Runs on a single worker, so that no other worker takes a task that is to run next.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn simultaneous_calls_are_sent_together() {
    const CALLS: usize = 50;
    let Some(server) = Server::start().await else { return };
    let link = server.link().await;
    server.settled().await;
    let reads = async || {
        let mut info = redis::cmd("INFO");
        info.arg("stats");
        let stats: redis::InfoDict = link.query(&info).await.unwrap();
        stats.get::<usize>("total_reads_processed").unwrap()
    };
    let before = reads().await;
    let caller = link.clone();
    let calls = async move {
        let call = |link: Link| async move { link.query::<String>(&redis::cmd("PING")).await };
        join_all((0..CALLS).map(|_| tokio::spawn(call(caller.clone())))).await
    };
    for answer in tokio::spawn(calls).await.unwrap() {
        assert_eq!(answer.unwrap().unwrap(), "PONG");
    }
    // The first one, the others, INFO, and what a watchdog or tokio had to see to meanwhile.
    let reads = reads().await - before;
    assert!(reads < CALLS / 4, "{reads} reads for {CALLS} calls");
}

#[tokio::test]
async fn errors_of_redis_keep_their_code() {
    let Some(server) = Server::start().await else { return };
    let link = server.link().await;
    let () = link.query(redis::cmd("SET").arg("k").arg("v")).await.unwrap();
    let code = |error: LinkError| match error {
        LinkError::Server { code, message } => (code, message),
        other => panic!("{other:?}"),
    };

    let error = link.query::<()>(redis::cmd("HGETALL").arg("k")).await.unwrap_err();
    assert_eq!(code(error).0, "WRONGTYPE");
    let error = link.query::<u64>(redis::cmd("GET").arg("k")).await.unwrap_err();
    assert_eq!(code(error).0, "UNEXPECTED");

    let own = Script::new("own", "return redis.error_reply('SHOAL limit 5')");
    let error = link.script::<()>(&own, &[], &[]).await.unwrap_err();
    assert_eq!(code(error), ("SHOAL".to_owned(), "limit 5".to_owned()));
    let broken = Script::new("broken", "return redis.call('HGETALL', KEYS[1])");
    let error = link.script::<()>(&broken, &[b"k"], &[]).await.unwrap_err();
    assert_eq!(code(error).0, "WRONGTYPE");

    let mut pipe = redis::pipe();
    pipe.cmd("HGETALL").arg("k").cmd("SET").arg("after").arg("1");
    let error = link.pipeline::<()>(&pipe).await.unwrap_err();
    assert_eq!(code(error).0, "WRONGTYPE");
    let after: Option<u64> = link.query(redis::cmd("GET").arg("after")).await.unwrap();
    assert_eq!(after, Some(1), "the others of a pipeline may have been done");

    let mut atomic = redis::pipe();
    atomic.atomic().cmd("INCR").arg("n").cmd("NONSENSE");
    let error = link.pipeline::<()>(&atomic).await.unwrap_err();
    assert_eq!(code(error).0, "ERR");
    let n: Option<u64> = link.query(redis::cmd("GET").arg("n")).await.unwrap();
    assert_eq!(n, None, "a transaction with a bad command is given up whole");
    assert!(link.healthy(), "errors that Redis answers are no outage");
}

#[tokio::test]
async fn scripts_get_their_keys_and_arguments() {
    let Some(server) = Server::start().await else { return };
    let link = server.link().await;
    let script = Script::new("echo", "return {KEYS[1], KEYS[2], ARGV[1]}");
    let echoed: (String, String, Vec<u8>) = link.script(&script, &[b"a", b"b"], &[b"\xff"]).await.unwrap();
    assert_eq!(echoed, ("a".to_owned(), "b".to_owned(), vec![0xff]));
}

#[tokio::test]
async fn password_and_database_are_used() {
    let Some(server) = Server::start_with(&["--requirepass", "secret"]).await else { return };
    let url = format!("redis://:secret@127.0.0.1:{}/2", server.port);
    let link = open(patient(LinkConfig::new(url, "test"))).await;
    let client: String = link.query(redis::cmd("CLIENT").arg("INFO")).await.unwrap();
    assert!(client.contains(" db=2 ") && client.contains(" name=shoal-test "), "{client}");

    let wrong = format!("redis://:wrong@127.0.0.1:{}", server.port);
    let link = Link::open(LinkConfig::new(wrong, "test")).unwrap();
    let error = link.ready(Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(&error, LinkError::Denied(text) if !text.contains("wrong")), "{error:?}");
}
