//! Clones that were given no keys have the same ones all the same.

use shoal_testing::RedisServer;

use super::mesh::{Clone, create, get, until};

#[tokio::test]
async fn clones_starting_together_share_keys() {
    let Some(redis) = RedisServer::start_durable().await else { return };
    let toml = format!("redis = '{}'", redis.url());
    let (a, b) = tokio::join!(Clone::start(&toml), Clone::start(&toml));
    let made = until("a session at each", || async {
        tokio::join!(create(&a.client, "u"), create(&b.client, "u")).into()
    });
    let (by_a, by_b): (Result<_, _>, Result<_, _>) = made.await;
    get(&b.client, &by_a.unwrap().token).await.unwrap();
    get(&a.client, &by_b.unwrap().token).await.unwrap();
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn emptied_redis_gets_keys_back() {
    let Some(redis) = RedisServer::start_durable().await else { return };
    let toml = format!("redis = '{}'", redis.url());
    let (old, other) = tokio::join!(Clone::start(&toml), Clone::start(&toml));
    let made = until("a session", || async { create(&old.client, "u").await.ok() }).await;
    get(&other.client, &made.token).await.unwrap();
    assert_eq!(redis.ask("FLUSHALL"), "OK");
    until("the keys' return", || async { (redis.ask("EXISTS session:keys") == "1").then_some(()) }).await;
    let new = Clone::start(&toml).await;
    let made = until("a session", || async { create(&new.client, "u").await.ok() }).await;
    for clone in [&old, &other, &new] {
        get(&clone.client, &made.token).await.unwrap();
    }
    for clone in [old, other, new] {
        clone.stop().await;
    }
}
