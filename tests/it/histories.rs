//! Histories of the data service's callers while clones are killed by SIGKILL at seeded moments. One order of the calls of each row
//! must explain what the callers of a conditional table were told, sums must be exact, and of all writes of a row of the other tables the
//! last one stays.
//!
//! `SHOAL_TEST_HISTORIES` is the number of seeds, `SHOAL_TEST_SEED` the one to run.

mod callers;
mod cluster3;
mod victim;

use std::ops::Range;
use std::time::Duration;

use futures::future::join_all;
use shoal_client::Channel;
use tokio_util::sync::CancellationToken;

use crate::harness::clone::Clone;
use crate::harness::engines::need;
use crate::harness::number_of;
use callers::{Callers, Tables};
use victim::Victim;

/// The time for which the clones of one seed are killed.
const FAULTS: Duration = Duration::from_secs(5);
/// Clones that share a Cassandra.
const CLONES: usize = 3;

/// Returns the seeds to run: one, as many as `SHOAL_TEST_HISTORIES` says, or the one in `SHOAL_TEST_SEED`.
fn seeds() -> Range<u64> {
    match std::env::var("SHOAL_TEST_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..number_of("SHOAL_TEST_HISTORIES", 1),
    }
}

/// Processes that are killed and come back, and the channels by which callers reach them.
struct Mesh {
    victims: Vec<Victim>,
    channels: Vec<Channel>,
    /// Never killed: the gateway before clones of their own.
    _gateway: Option<Clone>,
    cancel: CancellationToken,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Mesh {
    /// Starts clones on these contact points of a Cassandra, with a gateway before them.
    async fn on_cassandra(points: &str) -> Self {
        let mut victims = Vec::new();
        for _ in 0..CLONES {
            victims.push(Victim::start(&["serve", "data", "--cassandra", points]).await);
        }
        let peers: Vec<&str> = victims.iter().map(|victim| victim.address.as_str()).collect();
        let gateway = Clone::start("gateway", &["--peer", &format!("data={}", peers.join(","))]).await;
        let cancel = CancellationToken::new();
        let direct = victims.iter().map(|victim| victim.channel(&cancel));
        let channels = direct.chain([gateway.channel()]).collect();
        Self { victims, channels, _gateway: Some(gateway), cancel }
    }

    /// Starts a mesh whose clones share an embedded store in `dir`. It is one process, so all of it is killed.
    async fn embedded(dir: &std::path::Path) -> Self {
        let dir = dir.to_str().expect("utf-8");
        let clones = format!("session=1,cache=1,jobs=1,data={CLONES}");
        let victim = Victim::start(&["up", "--data", dir, "--clones", &clones]).await;
        let cancel = CancellationToken::new();
        let channels = vec![victim.channel(&cancel)];
        Self { victims: vec![victim], channels, _gateway: None, cancel }
    }

    /// Runs the callers of one seed while the clones are killed and `faults` goes on; then judges what they were told.
    async fn judge(&mut self, tables: &Tables, seed: u64, faults: impl Future<Output = ()>) {
        eprintln!("SHOAL_TEST_SEED={seed}");
        let calm = CancellationToken::new();
        let callers = Callers::start(self.channels.clone(), tables, seed, calm.clone());
        let kills = self.victims.drain(..).enumerate().map(|(at, victim)| {
            let seed = seed.wrapping_mul(100) + at as u64;
            victim.killed_until(calm.clone(), fastrand::Rng::with_seed(seed))
        });
        let kills = join_all(kills.collect::<Vec<_>>());
        let ended = async {
            faults.await;
            calm.cancel();
        };
        let (kills, ()) = tokio::join!(kills, ended);
        let killed: usize = kills.iter().map(|(_, times)| times).sum();
        self.victims.extend(kills.into_iter().map(|(victim, _)| victim));
        assert!(killed > 0, "nothing was killed");
        eprintln!("{killed} kills, {}", callers.judged().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_hold_when_clones_die() {
    let points = need!("SHOAL_TEST_CASSANDRA");
    let mut mesh = Mesh::on_cassandra(&points).await;
    let tables = Tables::create(&mesh.channels[0]).await;
    for seed in seeds() {
        mesh.judge(&tables, seed, tokio::time::sleep(FAULTS)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_hold_when_mesh_dies() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut mesh = Mesh::embedded(dir.path()).await;
    let tables = Tables::create(&mesh.channels[0]).await;
    for seed in seeds() {
        mesh.judge(&tables, seed, tokio::time::sleep(FAULTS)).await;
    }
}
