//! Watching over real streams: clones come and go, the watcher goes on.

use shoal_proto::session::v1::{SessionEventType, WatchSessionsRequest, WatchSessionsResponse};
use shoal_testing::RedisServer;
use tonic::{Code, Streaming};
use tonic_types::StatusExt as _;

use super::mesh::{Client, Clone, PATIENCE, create, get, until};

async fn watch(client: &Client, resume_token: &str) -> Streaming<WatchSessionsResponse> {
    let request = WatchSessionsRequest { user_id: "u".into(), resume_token: resume_token.into() };
    client.clone().watch_sessions(request).await.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<WatchSessionsResponse>) -> Result<WatchSessionsResponse, tonic::Status> {
    let message = tokio::time::timeout(PATIENCE, stream.message()).await.expect("a message in time")?;
    Ok(message.expect("the stream has no end of its own"))
}

#[tokio::test]
async fn draining_clone_ends_its_watches() {
    let Some(redis) = RedisServer::start_durable().await else { return };
    let toml = format!("redis = '{}'", redis.url());
    let (a, b) = tokio::join!(Clone::start(&toml), Clone::start(&toml));
    until("a session", || async { create(&b.client, "other").await.ok() }).await;
    let mut stream = watch(&a.client, "").await;
    let first = create(&b.client, "u").await.unwrap().session.unwrap();
    let event = next(&mut stream).await.unwrap();
    assert_eq!((event.r#type(), &event.session_id), (SessionEventType::Created, &first.id));
    let late = event.event_time.unwrap().seconds - first.create_time.unwrap().seconds;
    assert!((0..2).contains(&late), "{late}");

    let stopped = tokio::spawn(a.stop());
    let status = next(&mut stream).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.get_details_error_info().unwrap().reason, "DRAINING");
    stopped.await.unwrap();
    let second = create(&b.client, "u").await.unwrap().session.unwrap();
    let mut stream = watch(&b.client, &event.resume_token).await;
    assert_eq!(next(&mut stream).await.unwrap().session_id, second.id);
    drop(stream);
    b.stop().await;
}

#[tokio::test]
async fn watch_survives_redis_outage() {
    let Some(mut redis) = RedisServer::start_durable().await else { return };
    let clone = Clone::start(&format!("redis = '{}'", redis.url())).await;
    let made = until("a session", || async { create(&clone.client, "u").await.ok() }).await;
    let mut stream = watch(&clone.client, "").await;
    redis.kill();
    until("the fault", || async { get(&clone.client, &made.token).await.err() }).await;
    redis.restart().await;
    let made = until("Redis' return", || async { create(&clone.client, "u").await.ok() }).await;
    let event = next(&mut stream).await.unwrap();
    assert_eq!(event.session_id, made.session.unwrap().id);
    drop(stream);
    clone.stop().await;
}

#[tokio::test]
async fn watch_begun_without_redis_starts_later() {
    let Some(mut redis) = RedisServer::start_durable().await else { return };
    let clone = Clone::start(&format!("redis = '{}'", redis.url())).await;
    let made = until("a session", || async { create(&clone.client, "other").await.ok() }).await;
    let mut stream = watch(&clone.client, "").await;
    until("a session", || async { create(&clone.client, "u").await.ok() }).await;
    let token = next(&mut stream).await.unwrap().resume_token;
    redis.kill();
    until("the fault", || async { get(&clone.client, &made.token).await.err() }).await;
    let mut stream = watch(&clone.client, &token).await;
    let heard = tokio::spawn(async move { next(&mut stream).await });
    // The first read of the watcher is refused before Redis is there again.
    for _ in 0..10 {
        get(&clone.client, &made.token).await.unwrap_err();
    }
    redis.restart().await;
    until("Redis' return", || async { create(&clone.client, "u").await.ok() }).await;
    heard.await.unwrap().unwrap();
    clone.stop().await;
}

#[tokio::test]
async fn watchers_past_limit_are_refused() {
    let clone = Clone::start("[session]\nwatchers_max = 2").await;
    let (first, _second) = (watch(&clone.client, "").await, watch(&clone.client, "").await);
    let request = || WatchSessionsRequest { user_id: "u".into(), resume_token: String::new() };
    let status = clone.client.clone().watch_sessions(request()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.get_details_error_info().unwrap().metadata["limit"], "watchers_max");
    drop(first);
    until("room for a watcher", || async { clone.client.clone().watch_sessions(request()).await.ok() }).await;
}

#[tokio::test]
async fn concurrent_watches_share_reads() {
    const WATCHERS: u64 = 100;
    let Some(redis) = RedisServer::start_durable().await else { return };
    let clone = Clone::start(&format!("redis = '{}'", redis.url())).await;
    until("a session", || async { create(&clone.client, "u").await.ok() }).await;
    let reads = || -> u64 {
        let counts = redis.command_counts();
        ["xrevrange", "xrange", "xinfo|stream"].iter().filter_map(|name| counts.get(*name)).sum()
    };
    let before = reads();
    let watches = futures::future::join_all((0..WATCHERS).map(|_| async {
        let request = WatchSessionsRequest::default();
        clone.client.clone().watch_sessions(request).await.unwrap().into_inner()
    }));
    let mut watches = watches.await;
    let made = create(&clone.client, "u").await.unwrap().session.unwrap();
    for watch in &mut watches {
        assert_eq!(next(watch).await.unwrap().session_id, made.id);
    }
    // A pass reads 256 buckets: one for each watcher would be 25 600 reads.
    let reads = reads() - before;
    assert!(reads < WATCHERS * 256 / 4, "{reads} reads");
    drop(watches);
    clone.stop().await;
}
