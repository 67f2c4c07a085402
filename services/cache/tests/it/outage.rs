//! Redis dies and returns while the cache is in use.

use std::time::{Duration, Instant};

use shoal_proto::cache::v1 as pb;
use shoal_proto::cache::v1::object_loader_service_server::{ObjectLoaderService, ObjectLoaderServiceServer};
use shoal_testing::RedisServer;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};

use crate::harness::{Clone, Peer, reason, until};

/// Every object is its id.
pub(crate) struct Echo;

#[tonic::async_trait]
impl ObjectLoaderService for Echo {
    async fn load(&self, request: Request<pb::LoadRequest>) -> Result<Response<pb::LoadResponse>, Status> {
        let object = |id: String| pb::LoadedObject { value: id.into(), ..Default::default() };
        let result = |id| pb::LoadResult { outcome: Some(pb::load_result::Outcome::Object(object(id))) };
        let results = request.into_inner().ids.into_iter().map(result).collect();
        Ok(Response::new(pb::LoadResponse { results }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_load_while_redis_is_away() {
    let Some(mut redis) = RedisServer::start().await else { return };
    let peer = Peer::start(Routes::new(ObjectLoaderServiceServer::new(Echo))).await;
    let config =
        format!("redis = '{}'\n[cache.object.echo]\nloader = 'http://{}'\n", redis.url(), peer.address);
    let clone = Clone::start(&config).await;
    let set = pb::SetRequest {
        namespace: "n".into(),
        key: "k".into(),
        value: b"v".to_vec().into(),
        ..Default::default()
    };
    clone.set(set.clone()).await.expect("set");
    assert!(!clone.get_object("echo", "a").await.expect("loaded").from_cache);
    assert!(clone.get_object("echo", "a").await.expect("cached").from_cache);

    redis.kill();
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let began = Instant::now();
        let status = clone.get("n", "k").await.expect_err("redis is gone");
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "ENGINE_UNAVAILABLE"));
        let took = began.elapsed();
        // A machine that is busy with other tests adds to each, but not to the fastest.
        assert!(took < Duration::from_secs(1), "{took:?}");
        fastest = fastest.min(took);
    }
    assert!(fastest < Duration::from_millis(250), "{fastest:?}");
    for refused in [clone.set(set.clone()).await.map(|_| ()), clone.delete("n", "k").await] {
        assert_eq!(refused.expect_err("redis is gone").code(), Code::Unavailable);
    }
    for _ in 0..3 {
        let object = clone.get_object("echo", "a").await.expect("loaded without the cache");
        assert_eq!((object.value.as_ref(), object.from_cache), (b"a".as_slice(), false));
    }

    redis.restart().await;
    let lost = until("redis is used again", async || clone.get("n", "k").await.ok()).await;
    assert_eq!(lost, None, "what it lost is a miss");
    clone.set(set).await.expect("set");
    until("objects are cached again", async || {
        clone.get_object("echo", "a").await.expect("loaded").from_cache.then_some(())
    })
    .await;
    clone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clone_starts_without_redis() {
    let Some(mut redis) = RedisServer::start().await else { return };
    redis.kill();
    let clone = Clone::start(&format!("redis = '{}'\n", redis.url())).await;
    let status = clone.get("n", "k").await.expect_err("redis is down");
    assert_eq!(status.code(), Code::Unavailable);
    redis.restart().await;
    until("redis is used", async || clone.get("n", "k").await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hung_or_flushed_redis_gives_misses() {
    let Some(redis) = RedisServer::start().await else { return };
    let peer = Peer::start(Routes::new(ObjectLoaderServiceServer::new(Echo))).await;
    let loader = peer.address;
    let clone = Clone::start(&format!(
        "redis = '{}'\n[cache.object.echo]\nloader = 'http://{loader}'\n",
        redis.url()
    ))
    .await;
    clone.get_object("echo", "a").await.expect("loaded");
    assert!(clone.get_object("echo", "a").await.expect("cached").from_cache);
    assert_eq!(redis.ask("FLUSHALL"), "OK");
    assert!(!clone.get_object("echo", "a").await.expect("loaded again").from_cache);
    assert!(clone.get_object("echo", "a").await.expect("cached again").from_cache);

    redis.freeze();
    let began = Instant::now();
    let status = clone.get("n", "k").await.expect_err("redis hangs");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(!clone.get_object("echo", "a").await.expect("loaded without the cache").from_cache);
    redis.thaw();
    until("it hits again", async || {
        clone.get_object("echo", "a").await.expect("loaded").from_cache.then_some(())
    })
    .await;
}
