//! Counts the commands that an idle mesh sends to its stores.

use std::time::{Duration, Instant};

use shoal_proto::jobs::v1::EnqueueRequest;
use shoal_testing::RedisServer;

use crate::harness::eventually;
use crate::harness::up::Up;

/// The commands per second that one Redis may get from an idle mesh: twice the target.
const COMMANDS_MAX: f64 = 2.0 * 20.0;

/// Returns the number of commands that Redis has ever run, including those in scripts.
fn commands(redis: &RedisServer) -> u64 {
    redis.command_counts().values().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_mesh_hardly_asks_redis() {
    let Some(redis) = RedisServer::start().await else { return };
    let up = Up::start(&["--redis", &redis.url(), "--ephemeral", "--clones", "4"]).await;
    let mut jobs = shoal_client::jobs(up.channel());
    for number in 0..100 {
        let request = EnqueueRequest {
            queue: format!("rest-{number}"),
            kind: "mail".into(),
            ..EnqueueRequest::default()
        };
        jobs.enqueue(request).await.expect("a job");
    }
    // What was just done is looked after first.
    eventually("rest", Duration::from_secs(60), async || {
        let (before, begun) = (commands(&redis), Instant::now());
        tokio::time::sleep(Duration::from_secs(5)).await;
        let count = commands(&redis) - before;
        let rate = count as f64 / begun.elapsed().as_secs_f64();
        eprintln!("{rate:.1} commands/s");
        (rate <= COMMANDS_MAX).then_some(())
    })
    .await;
}
