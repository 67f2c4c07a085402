//! A Redis that answers and refuses: callers hear why and that nothing was done, and what can go on does.

use shoal_proto::cache::v1 as pb;
use shoal_proto::cache::v1::object_loader_service_server::ObjectLoaderServiceServer;
use shoal_testing::RedisServer;
use tonic::service::Routes;
use tonic::{Code, Status};

use crate::harness::{Clone, Peer, reason, until};
use crate::outage::Echo;

/// Returns code and reason, and checks that no balancer will hold the error against the clone.
fn told(status: &Status) -> (Code, String) {
    assert!(status.message().contains("nothing was done"), "{status:?}");
    assert_eq!(status.metadata().get("shoal-fault-of").map(|of| of.as_bytes()), Some(b"backend".as_slice()));
    (status.code(), reason(status))
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_load_while_redis_refuses() {
    let Some(redis) = RedisServer::start().await else { return };
    let peer = Peer::start(Routes::new(ObjectLoaderServiceServer::new(Echo))).await;
    let config =
        format!("redis = '{}'\n[cache.object.echo]\nloader = 'http://{}'\n", redis.url(), peer.address);
    let clone = Clone::start(&config).await;
    let set = || pb::SetRequest {
        namespace: "n".into(),
        key: "k".into(),
        value: b"v".to_vec().into(),
        ..Default::default()
    };
    clone.set(set()).await.expect("set");
    let read_only = (Code::Unavailable, "ENGINE_READ_ONLY");
    for (begin, end, (code, why), deletes) in [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", (Code::ResourceExhausted, "ENGINE_FULL"), true),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", read_only, false),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0", read_only, false),
    ] {
        redis.ask(begin);
        let refused = clone.set(set()).await.expect_err("refused");
        assert_eq!(told(&refused), (code, why.to_owned()));
        assert!(clone.get("n", "k").await.expect("reads go on").is_some());
        match clone.delete("n", "other").await {
            Ok(()) => assert!(deletes, "{begin}"),
            Err(status) => assert_eq!((deletes, told(&status)), (false, (code, why.to_owned()))),
        }
        let object = clone.get_object("echo", begin).await.expect("objects go on without the cache");
        assert_eq!((object.value.as_ref(), object.from_cache), (begin.as_bytes(), false));
        redis.ask(end);
        until("it takes entries again", async || clone.set(set()).await.ok()).await;
    }
    clone.stop().await;
}
