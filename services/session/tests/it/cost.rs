//! Counts the commands that a call sends to Redis. A change here is a change of what Redis can carry: docs/redis.md has the figures.

use shoal_proto::session::v1::UpdateSessionRequest;
use shoal_proto::r#type::v1::{Value, value::Kind};
use shoal_testing::RedisServer;

use super::mesh::{Clone, create, until};

/// Commands beside those of calls: of this test, of connections that are made and watched, and the question for the time, which
/// the sweeper asks as well.
const BESIDE: [&str; 8] = ["info", "ping", "hello", "time", "config", "client", "script", "zrange"];

#[tokio::test]
async fn changes_cost_redis_few_commands() {
    let Some(redis) = RedisServer::start_durable().await else { return };
    let clone = Clone::start(&format!("redis = '{}'", redis.url())).await;
    let count = || -> u64 {
        let counts = redis.command_counts().into_iter();
        counts.filter(|(name, _)| !BESIDE.iter().any(|beside| name.starts_with(beside))).map(|(_, n)| n).sum()
    };
    until("a session", || async { create(&clone.client, "u").await.ok() }).await;
    // What the sweeper does meanwhile comes now and then, and is no part of the fewest.
    let (mut creating, mut updating) = (u64::MAX, u64::MAX);
    for number in 0..10 {
        let before = count();
        let token = create(&clone.client, &format!("u{number}")).await.unwrap().token;
        let created = count();
        let set = [("n".to_owned(), Value { kind: Some(Kind::IntValue(number)) })].into();
        let update = UpdateSessionRequest { token, set, ..Default::default() };
        clone.client.clone().update_session(update).await.unwrap();
        creating = creating.min(created - before);
        updating = updating.min(count() - created);
    }
    // The script and what it calls, TIME aside.
    assert!(creating <= 6, "{creating} commands for a create");
    assert!(updating <= 3, "{updating} commands for an update");
}
