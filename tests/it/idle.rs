//! Counts the commands that an idle mesh sends to its stores.

use std::time::{Duration, Instant};

use shoal_proto::jobs::v1::EnqueueRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::engines::need;
use crate::harness::eventually;
use crate::harness::redis_server::RedisServer;
use crate::harness::up::Up;

/// The commands per second that one Redis may get from an idle mesh: twice the target.
const COMMANDS_MAX: f64 = 2.0 * 20.0;

/// Returns the number of commands that Redis has ever run, including those in scripts.
async fn commands(redis: &RedisServer) -> u64 {
    let address = redis.url.strip_prefix("redis://").expect("a URL");
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(b"INFO commandstats\r\nQUIT\r\n").await.expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an answer");
    let calls = text.lines().filter_map(|line| line.split_once(":calls=")?.1.split(',').next());
    calls.map(|count| count.parse::<u64>().expect("a number")).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_mesh_hardly_asks_redis() {
    let redis = RedisServer::start(&need!("SHOAL_TEST_REDIS_SERVER")).await;
    let up = Up::start(&["--redis", &redis.url, "--ephemeral", "--clones", "4"]).await;
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
        let (before, begun) = (commands(&redis).await, Instant::now());
        tokio::time::sleep(Duration::from_secs(5)).await;
        let count = commands(&redis).await - before;
        let rate = count as f64 / begun.elapsed().as_secs_f64();
        eprintln!("{rate:.1} commands/s");
        (rate <= COMMANDS_MAX).then_some(())
    })
    .await;
}
