//! Commands that clones send to a Redis where nothing happens.

use std::time::{Duration, Instant};

use shoal_testing::RedisServer;

use super::mesh::{Clone, create, revoke, until};

/// The commands that all clones together may cost.
const COMMANDS_PER_SECOND_MAX: f64 = 20.0;
const CLONES: usize = 4;
/// Commands are counted for so long.
const WINDOW: Duration = Duration::from_secs(4);

#[tokio::test]
async fn resting_clones_send_few_commands() {
    let Some(redis) = RedisServer::start_durable().await else { return };
    let mut clones = Vec::new();
    for _ in 0..CLONES {
        clones.push(Clone::start(&format!("redis = '{}'", redis.url())).await);
    }
    let token = until("a session", || async { create(&clones[0].client, "u").await.ok() }).await.token;
    let count = || redis.command_counts().into_iter().filter(|(name, _)| name != "info").collect::<Vec<_>>();
    let sum = |counts: &[(String, u64)]| counts.iter().map(|(_, calls)| *calls).sum::<u64>();
    // Clones that begin look at every bucket once.
    let begun = Instant::now();
    loop {
        let (before, since) = (count(), Instant::now());
        tokio::time::sleep(WINDOW).await;
        let after = count();
        #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
        let rate = (sum(&after) - sum(&before)) as f64 / since.elapsed().as_secs_f64();
        eprintln!("{rate:.1} commands a second");
        if rate <= COMMANDS_PER_SECOND_MAX {
            break;
        }
        assert!(begun.elapsed() < WINDOW * 5, "{rate} commands a second; before {before:?}, then {after:?}");
    }
    revoke(&clones[1].client, &token).await.unwrap();
}
