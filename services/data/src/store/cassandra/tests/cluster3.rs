//! The store on three nodes, of which some are frozen or killed. `scripts/test cluster3` starts them.
//!
//! `SHOAL_TEST_CASSANDRA3` has their addresses, and `SHOAL_TEST_CASSANDRA3_NODE` the command that does something to one of them:
//! `COMMAND freeze|thaw|kill|revive NUMBER`. The tests take turns.

use std::collections::BTreeMap;
use std::process::Command;

use tokio::sync::{Mutex as AsyncMutex, MutexGuard};

use super::*;

/// Time for which a node is away.
const FAULT: Duration = Duration::from_secs(12);

/// Time after which a coordinator no longer asks a dead replica first.
const NOTICED: Duration = Duration::from_secs(7);

static TURN: AsyncMutex<()> = AsyncMutex::const_new(());

/// The three nodes, for one test at a time.
struct Cluster {
    points: Vec<String>,
    command: String,
    away: Vec<(usize, &'static str)>,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Returns the nodes, or none after saying so.
    async fn take() -> Option<Self> {
        let Ok(points) = std::env::var("SHOAL_TEST_CASSANDRA3") else {
            eprintln!("SKIPPED: SHOAL_TEST_CASSANDRA3 is not set; `scripts/test cluster3` runs this test");
            return None;
        };
        let command = std::env::var("SHOAL_TEST_CASSANDRA3_NODE").unwrap();
        let points = points.split(',').map(str::to_owned).collect();
        let cluster = Self { points, command, away: Vec::new(), _turn: TURN.lock().await };
        cluster.settled().await;
        Some(cluster)
    }

    fn act(&self, action: &str, node: usize) {
        let mut words = self.command.split(' ');
        let done = Command::new(words.next().unwrap()).args(words).arg(action).arg(node.to_string()).status();
        assert!(done.unwrap().success(), "{action} {node}");
    }

    fn freeze(&mut self, node: usize) {
        self.act("freeze", node);
        self.away.push((node, "thaw"));
    }

    fn kill(&mut self, node: usize) {
        self.act("kill", node);
        self.away.push((node, "revive"));
    }

    fn restore(&mut self) {
        for (node, action) in std::mem::take(&mut self.away) {
            self.act(action, node);
        }
    }

    /// Waits until each node sees the other two.
    async fn settled(&self) {
        let until = Instant::now() + Duration::from_secs(120);
        for point in &self.points {
            loop {
                let peers = async {
                    let alone = SessionBuilder::new().known_node(point).build().await.ok()?;
                    let peers = alone.query_unpaged("SELECT peer FROM system.peers", ()).await.ok()?;
                    let nodes = alone.get_cluster_state();
                    let up = nodes.get_nodes_info().iter().all(|node| node.is_connected());
                    (peers.into_rows_result().ok()?.rows_num() == 2 && up).then_some(())
                };
                if peers.await.is_some() {
                    break;
                }
                assert!(Instant::now() < until, "{point} does not see the others");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.restore();
    }
}

/// Outcomes of calls by their name, with the slowest.
#[derive(Debug, Default)]
struct Tally {
    outcomes: BTreeMap<String, usize>,
    slowest: Duration,
}

impl Tally {
    fn count<'a, T>(
        &'a mut self,
        call: impl Future<Output = Result<T, Error>> + 'a,
    ) -> impl Future<Output = ()> + 'a {
        let call = Box::pin(call);
        async move {
            let began = Instant::now();
            let outcome = match call.await {
                Ok(_) => "ok".to_owned(),
                Err(error) => error.to_string(),
            };
            self.slowest = self.slowest.max(began.elapsed());
            *self.outcomes.entry(outcome).or_default() += 1;
        }
    }

    #[track_caller]
    fn all_ok(&self, what: &str) {
        eprintln!("{what}: {self:?}");
        assert_eq!(self.outcomes.keys().collect::<Vec<_>>(), ["ok"], "{what}: {self:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_creations_agree_on_three_nodes() {
    let Some(cluster) = Cluster::take().await else { return };
    let config = strict("three_ddl");
    let clones = [
        Data::new(started(&config, &cluster.points).await),
        Data::new(started(&config, &cluster.points).await),
    ];
    let mut tally = Tally::default();
    for round in 0..10 {
        let calls = (0..4).map(|i| {
            let (data, name) = (clones[i % 2].clone(), format!("same_{round}"));
            tokio::spawn(async move {
                data.create_table(&name, SortKeyType::String, WriteMode::LastWriteWins, None).await?;
                put(&data, &name, 10, &format!("k{i}")).await
            })
        });
        for call in calls.collect::<Vec<_>>() {
            tally.count(async { call.await.unwrap() }).await;
        }
        // One after the other, and used at once where it was not made.
        let name = format!("then_{round}");
        create(&clones[0], &name).await;
        for data in [&clones[1], &clones[0], &clones[1]] {
            tally.count(put(data, &name, 20, "a")).await;
        }
    }
    tally.all_ok("tables created by several callers at once, then written");
    drop_keyspace(&cluster.points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_node_fails_no_call() {
    let Some(mut cluster) = Cluster::take().await else { return };
    let config = strict("three_frozen");
    let store = started(&config, &cluster.points).await;
    let data = Data::new(store.clone());
    create(&data, "rows").await;
    put(&data, "rows", 10, "a").await.unwrap();
    cluster.freeze(3);
    let (frozen, mut tally, mut n) = (Instant::now(), Tally::default(), 20);
    while frozen.elapsed() < FAULT {
        tally.count(put(&data, "rows", n, "a")).await;
        tally.count(get(&data, "rows", "a")).await;
        assert!(store.healthy().is_ok(), "after {:?}: {:?}", frozen.elapsed(), store.healthy());
        n += 10;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Also the first use of tables, whose statements are not prepared yet, and new tables.
    for i in 0..3 {
        let name = format!("new_{i}");
        tally.count(data.create_table(&name, SortKeyType::String, WriteMode::LastWriteWins, None)).await;
        tally.count(put(&data, &name, 10, "a")).await;
        tally.count(get(&data, &name, "a")).await;
    }
    cluster.restore();
    tally.all_ok("one of three nodes frozen");
    cluster.settled().await;
    for i in 0..3 {
        put(&data, &format!("new_{i}"), 20, "a").await.unwrap();
    }
    drop_keyspace(&cluster.points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_node_fails_no_read() {
    let Some(mut cluster) = Cluster::take().await else { return };
    let config = strict("three_dead");
    let data = Data::new(started(&config, &cluster.points).await);
    create(&data, "rows").await;
    put(&data, "rows", 10, "a").await.unwrap();
    for victim in [2, 3] {
        cluster.kill(victim);
        let (killed, mut tally) = (Instant::now(), Tally::default());
        while killed.elapsed() < FAULT {
            let keys = (0..50).map(|i| (format!("p{i}"), text("a"))).collect();
            tally.count(data.batch_get("rows", keys, Consistency::Quorum)).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        cluster.restore();
        tally.all_ok("one of three nodes dead");
        cluster.settled().await;
    }
    drop_keyspace(&cluster.points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eventual_reads_need_one_of_three() {
    let Some(mut cluster) = Cluster::take().await else { return };
    let config = strict("three_eventual");
    let data = Data::new(started(&config, &cluster.points).await);
    create(&data, "rows").await;
    put(&data, "rows", 10, "a").await.unwrap();
    get(&data, "rows", "a").await.unwrap();
    cluster.kill(2);
    cluster.kill(3);
    let (killed, mut tally, mut quorum) = (Instant::now(), Tally::default(), Tally::default());
    let mut early = Tally::default();
    while killed.elapsed() < FAULT * 2 {
        let read = data.get("rows", "p".to_owned(), text("a"), Consistency::Eventual);
        // Until the third replica has heard of the write, ONE may not show it.
        let read = async {
            match read.await {
                Ok(_) | Err(Error::RowNotFound) => Ok(()),
                Err(error) => Err(error),
            }
        };
        let counted = if killed.elapsed() > NOTICED { &mut tally } else { &mut early };
        counted.count(read).await;
        quorum.count(get(&data, "rows", "a")).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    cluster.restore();
    eprintln!("QUORUM meanwhile: {quorum:?}; EVENTUAL before the coordinator noticed: {early:?}");
    assert!(!quorum.outcomes.contains_key("ok"), "two of three replicas were dead: {quorum:?}");
    tally.all_ok("EVENTUAL with one of three replicas");
    cluster.settled().await;
    drop_keyspace(&cluster.points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_contact_point_makes_three_replicas() {
    let Some(cluster) = Cluster::take().await else { return };
    let config = strict("three_factor");
    let _store = started(&config, &cluster.points[..1]).await;
    let asked = format!(
        "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = '{}'",
        config.keyspace
    );
    let answer = session(&cluster.points).await.query_unpaged(asked, ()).await.unwrap();
    let (replication,): (HashMap<String, String>,) = answer.into_rows_result().unwrap().single_row().unwrap();
    assert_eq!(replication["datacenter1"], "3", "{replication:?}");
    drop_keyspace(&cluster.points, &config.keyspace).await;
}

/// Measures what `docs/data.md` says: whether a read through another clone shows a write that was just answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quorum_reads_see_answered_writes() {
    let Some(cluster) = Cluster::take().await else { return };
    let config = strict("three_levels");
    let writer = Data::new(started(&config, &cluster.points).await);
    let reader = Data::new(started(&config, &cluster.points).await);
    create(&writer, "last").await;
    for (level, name) in [
        (Consistency::Eventual, "EVENTUAL"),
        (Consistency::Quorum, "QUORUM"),
        (Consistency::Strong, "STRONG"),
    ] {
        let (mut missed, mut times) = (0, Vec::new());
        for n in 0..500 {
            let key = format!("{name}{n}");
            put(&writer, "last", 10, &key).await.unwrap();
            let began = Instant::now();
            match reader.get("last", "p".to_owned(), text(&key), level).await {
                Ok(_) => {}
                Err(Error::RowNotFound) => missed += 1,
                Err(error) => panic!("{name}: {error}"),
            }
            times.push(began.elapsed());
        }
        times.sort_unstable();
        eprintln!("{name}: {missed} of 500 missed the write before, median {:?}", times[250]);
        assert!(level == Consistency::Eventual || missed == 0, "{name}: {missed} missed");
    }
    drop_keyspace(&cluster.points, &config.keyspace).await;
}
