//! A Redis that answers and refuses: callers hear why and that nothing was done, what reads or ends sessions goes on, and all is
//! well again by itself.

use shoal_proto::session::v1::{
    RevokeSessionRequest, RotateSessionRequest, UpdateSessionRequest, revoke_session_request,
};
use shoal_proto::r#type::v1::{Value, value};
use shoal_testing::RedisServer;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::mesh::{Client, Clone, create, get, revoke, until};

/// Code and reason, and that no balancer will hold it against the clone.
fn told(status: &Status) -> (Code, String) {
    assert!(status.message().contains("nothing was done"), "{status:?}");
    assert!(!status.message().contains("127.0.0.1"), "{status:?}");
    assert_eq!(status.metadata().get("shoal-fault-of").map(|of| of.as_bytes()), Some(b"backend".as_slice()));
    let info = status.get_details_error_info().expect("ErrorInfo");
    (status.code(), info.reason)
}

async fn rotate(client: &Client, token: &str) -> Result<String, Status> {
    let request = RotateSessionRequest { token: token.to_owned(), ..Default::default() };
    Ok(client.clone().rotate_session(request).await?.into_inner().token)
}

async fn update(client: &Client, token: &str) -> Result<(), Status> {
    let value = Value { kind: Some(value::Kind::StringValue("v".repeat(100))) };
    let request = UpdateSessionRequest {
        token: token.to_owned(),
        set: [("a".to_owned(), value)].into(),
        ..Default::default()
    };
    client.clone().update_session(request).await.map(drop)
}

#[tokio::test]
async fn full_redis_serves_existing_sessions_only() {
    let Some(redis) = RedisServer::start_durable().await else { return };
    let clone = Clone::start(&format!("redis = '{}'", redis.url())).await;
    let client = &clone.client;
    let first = until("a session", || async { create(client, "u").await.ok() }).await.token;
    // A token that was not used yet takes over with its first use, which is a write.
    let rotated = rotate(client, &create(client, "u").await.unwrap().token).await.unwrap();
    let to_revoke = rotate(client, &create(client, "u").await.unwrap().token).await.unwrap();
    redis.ask("CONFIG SET maxmemory 1");
    let full = (Code::ResourceExhausted, "ENGINE_FULL".to_owned());
    assert_eq!(told(&create(client, "u").await.unwrap_err()), full);
    assert_eq!(told(&update(client, &first).await.unwrap_err()), full);
    get(client, &first).await.unwrap();
    get(client, &rotated).await.unwrap();
    rotate(client, &first).await.unwrap();
    revoke(client, &to_revoke).await.unwrap();
    assert_eq!(get(client, &to_revoke).await.unwrap_err().code(), Code::NotFound);
    redis.ask("CONFIG SET maxmemory 0");
    create(client, "u").await.unwrap();
    update(client, &rotated).await.unwrap();
    clone.stop().await;
}

#[tokio::test]
async fn read_only_redis_is_named_so() {
    let Some(redis) = RedisServer::start_durable().await else { return };
    let clone = Clone::start(&format!("redis = '{}'", redis.url())).await;
    let client = &clone.client;
    let token = until("a session", || async { create(client, "u").await.ok() }).await.token;
    for (begin, end, says) in [
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "READONLY"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0", "NOREPLICAS"),
    ] {
        redis.ask(begin);
        let id = get(client, &token).await.expect("reads go on").id;
        let by_id = RevokeSessionRequest { target: Some(revoke_session_request::Target::SessionId(id)) };
        let refused = [
            create(client, "u").await.map(drop),
            update(client, &token).await,
            rotate(client, &token).await.map(drop),
            revoke(client, &token).await,
            client.clone().revoke_session(by_id).await.map(drop),
        ];
        for refused in refused {
            let status = refused.unwrap_err();
            assert_eq!(told(&status), (Code::Unavailable, "ENGINE_READ_ONLY".to_owned()));
            assert!(status.message().contains(says), "{status:?}");
        }
        redis.ask(end);
        update(client, &token).await.unwrap();
    }
    clone.stop().await;
}

#[tokio::test]
async fn evicting_redis_refuses_new_sessions() {
    let Some(redis) = RedisServer::start_durable().await else { return };
    redis.ask("CONFIG SET maxmemory-policy allkeys-lru");
    let clone = Clone::start(&format!("redis = '{}'", redis.url())).await;
    let client = &clone.client;
    let refused = until("connected", || async {
        create(client, "u").await.err().filter(|status| status.code() != Code::Unavailable)
    })
    .await;
    let info = refused.get_details_error_info().expect("ErrorInfo");
    assert_eq!((refused.code(), info.reason.as_str()), (Code::FailedPrecondition, "ENGINE_EVICTS"));
    assert!(refused.message().contains("noeviction"), "{refused:?}");
    redis.ask("CONFIG SET maxmemory-policy noeviction");
    until("accepted", || async { create(client, "u").await.ok() }).await;
    clone.stop().await;
}
