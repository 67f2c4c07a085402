//! Watches of a table over gRPC: one goes on at another clone and after a SIGKILL with its last token, and a drain ends it with
//! a status to go on after.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use shoal_client::Channel;
use shoal_proto::data::v1 as data;
use shoal_proto::r#type::v1::{Value, value};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::harness::clone::Clone;
use crate::harness::engines::need;
use crate::harness::eventually;
use crate::harness::up::Up;

const PARTITIONS: usize = 4;
/// Changes that are seen before the watch moves, and as many before the kill.
const BEFORE_MOVE: usize = 40;
/// Writes of each partition while a clone is killed.
const AROUND_KILL: i64 = 100;
/// Calls of a writer that fail one after the other before it stops.
const FAILURES_MAX: usize = 3;
/// Writes of each partition after the restart.
const AFTER_RESTART: i64 = 20;
/// A bound, not a measurement.
const PATIENCE: Duration = Duration::from_secs(60);

/// A partition, and the number of a write in it.
type Write = (String, i64);

/// Creates a table with a change feed, and returns its name.
async fn create(channel: Channel) -> String {
    let name = format!("watched_{}", fastrand::u32(..));
    let definition = data::Table {
        name: name.clone(),
        sort_key_type: data::SortKeyType::Int64.into(),
        change_feed: Some(data::ChangeFeed::default()),
        ..Default::default()
    };
    let create = data::CreateTableRequest { table: Some(definition) };
    let mut client = shoal_client::data(channel);
    eventually("a table", PATIENCE, async || client.create_table(create.clone()).await.ok()).await;
    name
}

/// Puts the row of a number.
async fn write(channel: Channel, table: &str, (partition_key, number): Write) -> Result<(), Status> {
    let sort_key = Some(Value { kind: Some(value::Kind::IntValue(number)) });
    let put = data::mutation::Put { sort_key, ..Default::default() };
    let mutate = data::MutateRequest {
        table: table.to_owned(),
        partition_key,
        mutations: vec![data::Mutation { kind: Some(data::mutation::Kind::Put(put)) }],
        ..Default::default()
    };
    shoal_client::data(channel).mutate(mutate).await.map(drop)
}

/// Writes numbers to every partition, in each one after the other, until calls fail. The tasks return what was acknowledged.
fn writers(channel: &Channel, table: &str, numbers: Range<i64>) -> JoinSet<Vec<Write>> {
    let mut writers = JoinSet::new();
    for partition in 0..PARTITIONS {
        let (channel, table, numbers) = (channel.clone(), table.to_owned(), numbers.clone());
        writers.spawn(async move {
            let (mut acknowledged, mut failures) = (Vec::new(), 0);
            for number in numbers {
                let next = (format!("p{partition}"), number);
                match write(channel.clone(), &table, next.clone()).await {
                    Ok(()) => {
                        failures = 0;
                        acknowledged.push(next);
                    }
                    Err(_) if failures < FAILURES_MAX => failures += 1,
                    Err(_) => break,
                }
            }
            acknowledged
        });
    }
    writers
}

/// What a watcher keeps over the clones that it watches at.
struct Watcher {
    table: String,
    token: String,
    /// Everything that came, repeats as well.
    seen: Vec<Write>,
}

impl Watcher {
    fn of(table: &str) -> Self {
        Self { table: table.to_owned(), token: String::new(), seen: Vec::new() }
    }

    /// Watches from the last token on.
    async fn watch(&self, channel: Channel) -> Streaming<data::WatchTableResponse> {
        let request = data::WatchTableRequest {
            table: self.table.clone(),
            resume_token: self.token.clone(),
            ..Default::default()
        };
        shoal_client::data(channel).watch_table(request).await.expect("a watch").into_inner()
    }

    /// Takes one response.
    async fn take(&mut self, stream: &mut Streaming<data::WatchTableResponse>) -> Result<(), Status> {
        let next = tokio::time::timeout(PATIENCE, stream.message()).await.expect("a response in time");
        let response = next?.expect("a watch does not end without a status");
        for change in response.changes {
            for row in change.rows {
                let Some(data::changed_row::Kind::Put(row)) = row.kind else { panic!("{row:?}") };
                let Some(value::Kind::IntValue(number)) = row.sort_key.and_then(|key| key.kind) else {
                    panic!("a row without its number")
                };
                self.seen.push((change.partition_key.clone(), number));
            }
        }
        self.token = response.resume_token;
        Ok(())
    }

    /// Takes responses until all of these writes have come.
    async fn take_all(&mut self, stream: &mut Streaming<data::WatchTableResponse>, writes: &BTreeSet<Write>) {
        let within = async {
            while !writes.iter().all(|write| self.seen.contains(write)) {
                self.take(stream).await.expect("the watch goes on");
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, within).await.is_ok();
        let missing: Vec<_> = writes.iter().filter(|write| !self.seen.contains(write)).collect();
        assert!(in_time, "did not come: {missing:?}");
    }

    /// Asserts that acknowledged writes of a partition came first in their order.
    fn came_in_order(&self, acknowledged: &BTreeSet<Write>) {
        let mut last = BTreeMap::new();
        let mut once = BTreeSet::new();
        for write in self.seen.iter().filter(|write| acknowledged.contains(write)) {
            if once.insert(write) {
                let before = last.insert(&write.0, write.1);
                assert!(before < Some(write.1), "{write:?} came after {before:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_outlives_a_killed_mesh() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().to_str().expect("utf-8");
    let flags = ["--data", path, "--clones", "session=1,cache=1,data=2,jobs=1"];
    // Clones share embedded files only within a process: the kill takes both, and the watch goes on at the other one.
    let mut up = Up::start(&flags).await;
    let cancel = CancellationToken::new();
    let _cancel_on_drop = cancel.clone().drop_guard();
    let clone = |up: &Up, at: usize| {
        shoal_client::connect(&up.clones("data")[at], "data", "test", &cancel).expect("an address")
    };
    let table = create(up.channel()).await;

    let mut watcher = Watcher::of(&table);
    let mut stream = watcher.watch(clone(&up, 0)).await;
    watcher.take(&mut stream).await.expect("a first response");
    assert!(watcher.seen.is_empty() && !watcher.token.is_empty());
    let writing = writers(&up.channel(), &table, 0..i64::MAX);
    while watcher.seen.len() < BEFORE_MOVE {
        watcher.take(&mut stream).await.expect("changes");
    }
    drop(stream);
    let mut stream = watcher.watch(clone(&up, 1)).await;
    while watcher.seen.len() < 2 * BEFORE_MOVE {
        watcher.take(&mut stream).await.expect("changes at the other clone");
    }
    up.process.kill().await;
    // What had arrived may still be read; then the stream fails.
    while watcher.take(&mut stream).await.is_ok() {}
    let mut acknowledged: BTreeSet<Write> = writing.join_all().await.into_iter().flatten().collect();
    assert!(acknowledged.len() >= BEFORE_MOVE, "{acknowledged:?}");

    let up = Up::start(&flags).await;
    let first = acknowledged.iter().map(|(_, number)| number + 10).max().expect("a write");
    let written = writers(&up.channel(), &table, first..first + AFTER_RESTART).join_all().await;
    acknowledged.extend(written.into_iter().flatten());
    let mut stream = watcher.watch(clone(&up, 0)).await;
    watcher.take_all(&mut stream, &acknowledged).await;
    watcher.came_in_order(&acknowledged);
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_outlives_its_killed_clone() {
    let points = need!("SHOAL_TEST_CASSANDRA");
    let flags = ["--cassandra", points.as_str()];
    let mut victim = Clone::start("data", &flags).await;
    let other = Clone::start("data", &flags).await;
    let table = create(other.channel()).await;

    let mut watcher = Watcher::of(&table);
    let mut stream = watcher.watch(victim.channel()).await;
    let writing = writers(&other.channel(), &table, 0..AROUND_KILL);
    while watcher.seen.len() < BEFORE_MOVE {
        watcher.take(&mut stream).await.expect("changes");
    }
    victim.process.kill().await;
    while watcher.take(&mut stream).await.is_ok() {}
    let mut stream = watcher.watch(other.channel()).await;
    let acknowledged: BTreeSet<Write> = writing.join_all().await.into_iter().flatten().collect();
    assert!(acknowledged.len() >= BEFORE_MOVE, "{acknowledged:?}");
    watcher.take_all(&mut stream, &acknowledged).await;
    watcher.came_in_order(&acknowledged);
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_ends_watch_to_resume() {
    let dir = tempfile::tempdir().expect("a folder");
    let flags = ["--data", dir.path().to_str().expect("utf-8")];
    let mut clone = Clone::start("data", &flags).await;
    let gateway = Clone::start("gateway", &["--peer", &format!("data={}", clone.address)]).await;
    let table = create(clone.channel()).await;

    let (mut direct, mut behind) = (Watcher::of(&table), Watcher::of(&table));
    let mut direct_stream = direct.watch(clone.channel()).await;
    let mut behind_stream = behind.watch(gateway.channel()).await;
    let mut written: BTreeSet<Write> = (0..5).map(|number| ("p".to_owned(), number)).collect();
    for next in &written {
        write(clone.channel(), &table, next.clone()).await.expect("written");
    }
    direct.take_all(&mut direct_stream, &written).await;
    behind.take_all(&mut behind_stream, &written).await;
    clone.process.signal("TERM");
    for (watcher, stream) in [(&mut direct, &mut direct_stream), (&mut behind, &mut behind_stream)] {
        let status = loop {
            if let Err(status) = watcher.take(stream).await {
                break status;
            }
        };
        let reason = status.get_details_error_info().map(|info| info.reason);
        assert_eq!((status.code(), reason.as_deref()), (Code::Unavailable, Some("DRAINING")), "{status:?}");
    }
    let ended = clone.process.ended(PATIENCE).await;
    assert!(ended.success(), "{}", clone.process.output());

    let clone = Clone::start_at("data", &clone.address.clone(), &flags).await;
    let next = ("p".to_owned(), 5);
    write(clone.channel(), &table, next.clone()).await.expect("written");
    written.insert(next);
    let mut direct_stream = direct.watch(clone.channel()).await;
    direct.take_all(&mut direct_stream, &written).await;
    eventually("the clone behind the gateway", PATIENCE, async || {
        write(gateway.channel(), &table, ("p".to_owned(), 6)).await.ok()
    })
    .await;
    written.insert(("p".to_owned(), 6));
    let mut behind_stream = behind.watch(gateway.channel()).await;
    behind.take_all(&mut behind_stream, &written).await;
    behind.came_in_order(&written);
}
