//! Writes while the network between clones and Cassandra fails: their answers must be explained by one order of them.

use std::sync::Arc;
use std::time::Duration;

use shoal_testing::history::{Event, linearizable};
use tokio::task::JoinSet;

use super::{CassandraStore, Config, config, contact_points, drop_keyspace, started};
use crate::clock::WriteTimestamp;
use crate::data::Data;
use crate::error::Error;
use crate::mutation::Mutation;
use crate::store::Consistency;
use crate::store::conformance::history;
use crate::store::conformance::{holding, text};
use crate::table::{SortKeyType, WriteMode};
use crate::value::Value;
use shoal_testing::{CqlProxy, Network};

/// Clones behind a proxy each, and a direct one that always answers.
struct Mesh {
    clones: Vec<Data<CassandraStore>>,
    direct: Data<CassandraStore>,
    proxies: Arc<Vec<CqlProxy>>,
    points: Vec<String>,
    keyspace: String,
}

impl Mesh {
    async fn start(test: &str) -> Option<Self> {
        let points = contact_points()?;
        // Short, so that answers are lost often and settled while the test waits.
        let hasty = Config {
            statement_timeout: Duration::from_millis(400),
            silence_max: Duration::from_millis(300),
            ..config(test)
        };
        let direct = Data::new(started(&config(test), &points).await);
        let (mut clones, mut proxies) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let proxy = CqlProxy::start(&points[0], Network::Fine).await;
            let store = started(&hasty, std::slice::from_ref(&proxy.address)).await;
            clones.push(Data::new(store));
            proxies.push(proxy);
        }
        Some(Self { clones, direct, proxies: Arc::new(proxies), points, keyspace: hasty.keyspace })
    }

    /// Breaks the networks of clones at random moments until they are calmed.
    fn chaos(&self, seed: u64) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for at in 0..self.proxies.len() {
            let proxies = self.proxies.clone();
            tasks.spawn(async move {
                let (proxy, mut rng) = (&proxies[at], fastrand::Rng::with_seed(seed * 10 + at as u64));
                loop {
                    let faults = [Network::NoAnswers, Network::NoAnswers, Network::Silent, Network::Dead];
                    proxy.set(faults[rng.usize(..faults.len())]);
                    tokio::time::sleep(Duration::from_millis(rng.u64(5..1_500))).await;
                    proxy.set(Network::Fine);
                    tokio::time::sleep(Duration::from_millis(rng.u64(20..200))).await;
                }
            });
        }
        tasks
    }

    fn calm(&self, mut chaos: JoinSet<()>) {
        chaos.abort_all();
        for proxy in self.proxies.iter() {
            proxy.set(Network::Fine);
        }
    }

    async fn end(self) {
        drop_keyspace(&self.points, &self.keyspace).await;
    }
}

/// Returns the seeds to run: a few, or as many as `SHOAL_TEST_HISTORIES` says, or the one in `SHOAL_TEST_SEED`.
fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    match number("SHOAL_TEST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SHOAL_TEST_HISTORIES").unwrap_or(3),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditional_writes_are_linearizable_when_cut() {
    let Some(mesh) = Mesh::start("history").await else { return };
    mesh.direct.create_table("rows", SortKeyType::String, WriteMode::Conditional, None).await.unwrap();
    let (mut known, mut unknown) = (0, 0);
    for seed in seeds() {
        println!("SHOAL_TEST_SEED={seed}");
        let chaos = mesh.chaos(seed);
        let mut events = history::record(&mesh.clones, "rows", &format!("p{seed}"), seed, 20).await;
        mesh.calm(chaos);
        let last =
            history::record(std::slice::from_ref(&mesh.direct), "rows", &format!("p{seed}"), seed, 3).await;
        // The last calls were made after the others.
        let after = events.iter().filter_map(|event| event.end.max(Some(event.start))).max().unwrap_or(0);
        events.extend(last.into_iter().map(|event| Event {
            start: event.start + after,
            end: event.end.map(|end| end + after),
            ..event
        }));
        known += events.iter().filter(|event| event.end.is_some()).count();
        unknown += events.iter().filter(|event| event.end.is_none()).count();
        assert!(linearizable(&events), "seed {seed}: {events:#?}");
    }
    println!("{known} answers, {unknown} unknown outcomes");
    assert!(known > 0);
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_are_exact_when_cut() {
    let Some(mesh) = Mesh::start("exact").await else { return };
    mesh.direct.create_table("counts", SortKeyType::String, WriteMode::Conditional, None).await.unwrap();
    for seed in seeds() {
        println!("SHOAL_TEST_SEED={seed}");
        let chaos = mesh.chaos(seed);
        let mut callers = Vec::new();
        for caller in 0..3_u64 {
            let (clones, direct) = (mesh.clones.clone(), mesh.direct.clone());
            callers.push(tokio::spawn(async move {
                let mut rng = fastrand::Rng::with_seed(seed * 100 + caller);
                for turn in 0..8 {
                    let token = format!("{}-{caller}-{turn}", WriteTimestamp::now().0);
                    // Sent by clones in turn until one knows, and by the direct one in the end.
                    for attempt in 0.. {
                        let clone = if attempt < 3 { &clones[rng.usize(..clones.len())] } else { &direct };
                        let (partition, delta) = (format!("p{seed}"), Value::Int(1));
                        let sum =
                            clone.increment("counts", partition, text("a"), "n".to_owned(), delta, &token);
                        match sum.await {
                            Ok(_) => break,
                            Err(Error::Internal(error)) => panic!("{error}"),
                            Err(_) => assert!(attempt < 100, "it never ends"),
                        }
                    }
                }
            }));
        }
        for caller in callers {
            caller.await.unwrap();
        }
        mesh.calm(chaos);
        let row =
            mesh.direct.get("counts", format!("p{seed}"), text("a"), Consistency::Strong).await.unwrap();
        let sum: Vec<_> = row.attributes.into_iter().collect();
        assert_eq!(sum, [("n".to_owned(), Value::Int(24))], "seed {seed}");
    }
    mesh.end().await;
}

/// Whatever was lost on the way, all clones show the write with the highest timestamp of those that arrived, and that is none
/// below an acknowledged one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_writes_converge_when_cut() {
    let Some(mesh) = Mesh::start("converge").await else { return };
    mesh.direct.create_table("rows", SortKeyType::String, WriteMode::LastWriteWins, None).await.unwrap();
    for seed in seeds() {
        println!("SHOAL_TEST_SEED={seed}");
        let partition = format!("p{seed}");
        let chaos = mesh.chaos(seed);
        let base = WriteTimestamp::now().0;
        let mut callers = Vec::new();
        for caller in 0..3_u64 {
            let (clones, partition) = (mesh.clones.clone(), partition.clone());
            callers.push(tokio::spawn(async move {
                let mut rng = fastrand::Rng::with_seed(seed * 100 + caller);
                let mut acknowledged = 0;
                for turn in 0..20 {
                    // Few times, so that some are equal.
                    let at = base + rng.i64(0..40);
                    let put = |key: &str| Mutation::Put {
                        sort_key: text(key),
                        attributes: holding(&format!("{at}-{caller}-{turn}")),
                        ttl: None,
                    };
                    let clone = &clones[rng.usize(..clones.len())];
                    let token = format!("{at}-{caller}-{turn}");
                    let write = vec![put("a"), put("b")];
                    match clone.mutate("rows", partition.clone(), write, &token).await {
                        Ok(_) => acknowledged = acknowledged.max(at),
                        Err(_) => tokio::time::sleep(Duration::from_millis(rng.u64(1..40))).await,
                    }
                }
                acknowledged
            }));
        }
        let mut acknowledged = 0;
        for caller in callers {
            acknowledged = acknowledged.max(caller.await.unwrap());
        }
        mesh.calm(chaos);
        let read = async |key: &str| {
            let row = mesh.direct.get("rows", partition.clone(), text(key), Consistency::Quorum).await;
            match row {
                Ok(row) => Some((row.write_time.0, row.attributes)),
                Err(Error::RowNotFound) => None,
                Err(error) => panic!("{error}"),
            }
        };
        let (a, b) = (read("a").await, read("b").await);
        let last = a.as_ref().map_or(0, |(at, _)| *at);
        assert!(last >= acknowledged, "seed {seed}: {a:?} after {acknowledged}");
        assert_eq!(a, b, "seed {seed}: one write, whole");
    }
    mesh.end().await;
}
