//! The same histories on three nodes of Cassandra, of which one is frozen and another killed at seeded moments while clones die.
//! `scripts/test cluster3` starts the nodes.

use std::process::Command;
use std::time::Duration;

use fastrand::Rng;

use super::callers::Tables;
use super::{Mesh, seeds};

/// Faults of one seed.
const ROUNDS: usize = 2;

/// The command that does something to a node: `COMMAND freeze|thaw|kill|revive NUMBER`.
struct Nodes(String);

impl Nodes {
    fn act(&self, action: &str, node: usize) {
        let mut words = self.0.split(' ');
        let done = Command::new(words.next().expect("a command"))
            .args(words)
            .args([action, &node.to_string()])
            .status();
        assert!(done.expect("it runs").success(), "{action} {node}");
    }

    /// Freezes one node and kills another, with moments in which both are away.
    async fn fail(&self, mut rng: Rng) {
        for _ in 0..ROUNDS {
            let frozen = rng.usize(1..=3);
            let killed = frozen % 3 + 1;
            let pause = async |rng: &mut Rng, ms| {
                tokio::time::sleep(Duration::from_millis(rng.u64(ms))).await;
            };
            self.act("freeze", frozen);
            pause(&mut rng, 2_000..6_000).await;
            // Together there is no quorum, for as long as this.
            let together = rng.bool();
            if !together {
                self.act("thaw", frozen);
            }
            self.act("kill", killed);
            pause(&mut rng, 500..3_000).await;
            if together {
                self.act("thaw", frozen);
            }
            pause(&mut rng, 2_000..6_000).await;
            self.act("revive", killed);
            pause(&mut rng, 15_000..20_000).await;
        }
    }
}

impl Drop for Nodes {
    /// A node that stays frozen would hold whoever stops it.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in 1..=3 {
                let mut words = self.0.split(' ');
                let program = words.next().expect("a command");
                let _ = Command::new(program).args(words).args(["thaw", &node.to_string()]).status();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_hold_when_nodes_die() {
    let Ok(points) = std::env::var("SHOAL_TEST_CASSANDRA3") else {
        eprintln!("SKIPPED: SHOAL_TEST_CASSANDRA3 is not set; `scripts/test cluster3` runs this test");
        return;
    };
    let nodes = Nodes(std::env::var("SHOAL_TEST_CASSANDRA3_NODE").expect("named with the nodes"));
    let mut mesh = Mesh::on_cassandra(&points).await;
    let tables = Tables::create(&mesh.channels[0]).await;
    for seed in seeds() {
        mesh.judge(&tables, seed, nodes.fail(Rng::with_seed(seed))).await;
    }
}
