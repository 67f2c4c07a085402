//! The embedded store: conformance, what is durable, what is cleared away.

use std::collections::HashMap;
use std::task::Poll;

use futures::stream::{Stream as _, StreamExt as _};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::conditional::Outcome;
use crate::data::Data;
use crate::key::{PartitionKey, SortKey};
use crate::mutation::{Mutation, Write};
use crate::read::{QueryRequest, ScanRequest};
use crate::store::conformance::{self, Clones, holding, moment, text};
use crate::store::model::Model;
use crate::store::random::{self, Subject};
use crate::store::{Consistency, FeedCursor, FeedPage, FeedRead, FeedStore as _};
use crate::table::{ChangeFeed, SortKeyType, TableChange, WriteMode};
use crate::tables::NewTable;
use crate::value::Value;
use crate::write_token::WriteToken;

fn ephemeral() -> EmbeddedStore {
    EmbeddedStore::new(Database::ephemeral().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_conforms() {
    let store = ephemeral();
    let clones = Clones { here: Data::new(store.clone()), there: Data::new(store) };
    conformance::run(&clones).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_views_conform() {
    let store = ephemeral();
    let clones = Clones { here: Data::new(store.clone()), there: Data::new(store) };
    Box::pin(conformance::run_views(&clones)).await;
}

#[tokio::test]
async fn answers_match_the_model_while_sweeping() {
    let (model, embedded) = (Subject::new(Model::default()).await, Subject::new(ephemeral()).await);
    let swept = Subject::new(ephemeral()).await;
    for seed in 0..100 {
        let expected = model.run(seed).await;
        random::compare(seed, &expected, &embedded.run(seed).await);
        let sweep = async |store: &EmbeddedStore| while store.sweep(WriteTimestamp::now()).await.unwrap() {};
        random::compare(seed, &expected, &swept.run_with(seed, sweep).await);
    }
}

fn put(key: &str, ttl: Option<u64>) -> Mutation {
    let ttl = ttl.map(std::time::Duration::from_secs);
    Mutation::Put { sort_key: text(key), attributes: holding("x"), ttl }
}

async fn keys(data: &Data<EmbeddedStore>) -> Vec<SortKey> {
    let request = QueryRequest {
        table: "t".to_owned(),
        partition_key: "p".to_owned(),
        page_size: 1000,
        ..QueryRequest::default()
    };
    let (rows, _) = data.query(request, Consistency::Quorum).await.unwrap();
    rows.into_iter().map(|row| row.sort_key).collect()
}

async fn mutate(data: &Data<EmbeddedStore>, at: WriteTimestamp, mutations: Vec<Mutation>) {
    data.mutate("t", "p".to_owned(), mutations, &format!("{}-n", at.0)).await.unwrap();
}

async fn create(data: &Data<EmbeddedStore>) {
    data.create_table("t", SortKeyType::String, WriteMode::LastWriteWins, None).await.unwrap();
}

/// Keys in each keyspace.
fn stored(store: &EmbeddedStore) -> HashMap<&'static str, usize> {
    let Keyspaces { rows, ranges, due, .. } = &*store.keyspaces;
    [("rows", rows), ("ranges", ranges), ("due", due)]
        .map(|(name, space)| (name, space.range(..).count()))
        .into()
}

#[tokio::test]
async fn rows_and_tokens_survive_restart() {
    let dir = tempfile::tempdir().unwrap();
    let open = || EmbeddedStore::new(Database::open(dir.path()).unwrap()).unwrap();
    let request = QueryRequest {
        table: "t".to_owned(),
        partition_key: "p".to_owned(),
        page_size: 1,
        ..QueryRequest::default()
    };
    let data = Data::new(open());
    create(&data).await;
    mutate(&data, moment(10), vec![put("a", None), put("b", None)]).await;
    let (_, token) = data.query(request.clone(), Consistency::Quorum).await.unwrap();
    drop(data);
    let data = Data::new(open());
    let request = QueryRequest { page_token: token, ..request };
    let (rows, next) = data.query(request, Consistency::Quorum).await.unwrap();
    assert_eq!((rows[0].sort_key.clone(), next.as_str()), (SortKey::Text("b".into()), ""));
}

#[tokio::test]
async fn clones_of_one_store_share_its_clock() {
    let store = ephemeral();
    let clock = store.clock.clone();
    let (here, there) = (Data::new(store.clone()), Data::new(store));
    create(&here).await;
    // It is ahead of the wall clock now: a clone with a clock of its own would give earlier times.
    let mut last = (0..50_000).map(|_| clock.next().unwrap()).max().unwrap();
    for round in 0..10 {
        for data in [&here, &there] {
            let stamp = data.mutate("t", "p".to_owned(), vec![put("k", None)], "").await.unwrap();
            assert!(stamp > last, "round {round}: {stamp:?} after {last:?}");
            last = stamp;
        }
    }
}

/// The host's clock was ahead by some time, and is right after the restart.
#[tokio::test]
async fn later_writes_win_after_restart() {
    for (mode, minutes) in [
        (WriteMode::LastWriteWins, 4),
        (WriteMode::LastWriteWins, 6),
        (WriteMode::Conditional, 4),
        (WriteMode::Conditional, 6),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let open = || EmbeddedStore::new(Database::open(dir.path()).unwrap()).unwrap();
        let write = async |data: &Data<EmbeddedStore>, token: &str| {
            let puts = vec![put("k", None)];
            match mode {
                WriteMode::LastWriteWins => data.mutate("t", "p".to_owned(), puts, token).await,
                WriteMode::Conditional => {
                    match data.check_and_mutate("t", "p".to_owned(), Vec::new(), puts, token).await? {
                        Outcome::Applied { write_time, .. } => Ok(write_time),
                        Outcome::Refused { .. } => panic!("it has no condition"),
                    }
                }
            }
        };
        let store = open();
        let data = Data::new(store.clone());
        data.create_table("t", SortKeyType::String, mode, None).await.unwrap();
        let ahead = WriteTimestamp::now().plus_seconds(minutes * 60);
        store.clock.after(ahead).unwrap();
        let first = write(&data, &format!("{}-first", WriteTimestamp::now().0)).await.unwrap();
        drop((data, store));

        let data = Data::new(open());
        let read = async || {
            let row = data.get("t", "p".to_owned(), text("k"), Consistency::Strong).await;
            row.unwrap().write_time
        };
        assert_eq!(read().await, first);
        let second = write(&data, "").await;
        if minutes < 5 {
            let second = second.unwrap();
            assert!(second > ahead, "{second:?} after {ahead:?}");
            assert_eq!(read().await, second);
        } else {
            assert!(matches!(second, Err(Error::ClockSetBack(_))), "{second:?}");
            // Who gives the time of a write is not held up.
            let token = format!("{}-second", WriteTimestamp::now().0);
            assert_eq!(read().await, first);
            assert!(write(&data, &token).await.unwrap() > first);
        }
    }
}

#[tokio::test]
async fn sweeper_removes_only_dead_rows() {
    let store = ephemeral();
    let data = Data::new(store.clone());
    create(&data).await;
    let now = WriteTimestamp::now();
    let sweep_at = async |at: WriteTimestamp| while store.sweep(at).await.unwrap() {};
    // A thousand rows, more than a batch, most of them deleted by a range; one ends, one is deleted.
    for chunk in 0..10 {
        let puts = (0..100).map(|i| put(&format!("r{:04}", chunk * 100 + i), None)).collect();
        mutate(&data, WriteTimestamp(now.0 - 9_000_000), puts).await;
    }
    mutate(
        &data,
        WriteTimestamp(now.0 - 8_000_000),
        vec![put("ends", Some(1)), put("goes", None), put("stays", None)],
    )
    .await;
    let range = Mutation::DeleteRange { start: text("r"), end: text("r0990") };
    mutate(
        &data,
        WriteTimestamp(now.0 - 7_000_000),
        vec![range, Mutation::Delete { sort_key: text("goes") }],
    )
    .await;
    let before = keys(&data).await;
    assert_eq!(before.len(), 11, "{before:?}");
    assert_eq!(stored(&store)["rows"], 1003);

    // Rows are cleared away soon, their tombstones stay for the grace.
    sweep_at(WriteTimestamp::now()).await;
    assert_eq!(keys(&data).await, before);
    assert_eq!(stored(&store), HashMap::from([("rows", 13), ("ranges", 1), ("due", 3)]));
    mutate(
        &data,
        WriteTimestamp(now.0 - 8_500_000),
        vec![put("r0000", None), put("ends", None), put("goes", None)],
    )
    .await;
    assert_eq!(keys(&data).await, before, "tombstones hide what comes late");
    assert_eq!(
        stored(&store)["rows"],
        13,
        "what is hidden is not stored: it would come to light with the grace's end"
    );

    let almost = WriteTimestamp::now().plus_seconds(GRACE_SECONDS - 60);
    sweep_at(almost).await;
    assert_eq!(stored(&store)["ranges"], 1);
    // The row that ended became a tombstone at the first sweep, and its grace counts from there.
    sweep_at(almost.plus_seconds(120)).await;
    assert_eq!(stored(&store), HashMap::from([("rows", 11), ("ranges", 0), ("due", 0)]));
    assert_eq!(keys(&data).await, before);
}

/// A put after the range was deleted takes its place in the range's middle; forgetting the range must not touch it.
#[tokio::test]
async fn later_put_outlives_deleted_range() {
    let store = ephemeral();
    let data = Data::new(store.clone());
    create(&data).await;
    mutate(&data, moment(100), vec![put("a", None), put("b", None)]).await;
    mutate(&data, moment(200), vec![Mutation::DeleteRange { start: None, end: None }]).await;
    mutate(&data, moment(300), vec![put("b", None)]).await;
    while store.sweep(WriteTimestamp::now().plus_seconds(GRACE_SECONDS + 60)).await.unwrap() {}
    assert_eq!(stored(&store), HashMap::from([("rows", 1), ("ranges", 0), ("due", 0)]));
    assert_eq!(keys(&data).await, [SortKey::Text("b".into())]);
}

#[tokio::test]
async fn unreadable_cells_are_data_loss() {
    let store = ephemeral();
    let data = Data::new(store.clone());
    create(&data).await;
    mutate(&data, moment(10), vec![put("a", None)]).await;
    let keyspaces = store.keyspaces.clone();
    let (key, mut value) = {
        let (key, value) = keyspaces.rows.range(..).next().unwrap().unwrap();
        (key.to_vec(), value.to_vec())
    };
    *value.last_mut().unwrap() ^= 1;
    store.database.write(move |tx| tx.put(&keyspaces.rows, key, value)).await.unwrap();
    let damaged = data.get("t", "p".to_owned(), text("a"), Consistency::Quorum).await;
    assert!(matches!(damaged, Err(Error::DataLoss(_))), "{damaged:?}");
    let fault = shoal_kit::ApiError::from(damaged.unwrap_err());
    assert_eq!(fault.code(), tonic::Code::DataLoss);
}

#[tokio::test]
async fn changes_are_kept_for_their_retention() {
    let store = ephemeral();
    let data = Data::new(store.clone());
    let new = NewTable {
        name: "t".to_owned(),
        sort_key_type: SortKeyType::String,
        write_mode: WriteMode::LastWriteWins,
        default_ttl: None,
        description: String::new(),
        change_feed: Some((false, None)),
        attribute_schema: None,
        views: Vec::new(),
    };
    data.create(new).await.unwrap();
    for chunk in 0..300 {
        mutate(&data, moment(10 + chunk), vec![put("a", None)]).await;
    }
    let changes = || store.keyspaces.changes.range(..).count();
    let trim_at = async |at: WriteTimestamp| while store.trim_feeds(at).await.unwrap() {};
    trim_at(WriteTimestamp::now().plus_seconds(24 * 3600 - 60)).await;
    assert_eq!((changes(), store.keyspaces.feeds.range(..).count()), (300, 1));
    trim_at(WriteTimestamp::now().plus_seconds(24 * 3600 + 60)).await;
    assert_eq!((changes(), store.keyspaces.feeds.range(..).count()), (0, 1));
    // The next place is behind those that were removed.
    let last = |store: &EmbeddedStore| store.keyspaces.feeds.range(..).next().unwrap().unwrap().1.to_vec();
    let before = last(&store);
    mutate(&data, moment(1000), vec![put("b", None)]).await;
    assert!(last(&store) > before);
}

/// Returns the time `micros` after a moment that every retention has passed.
fn long_ago(micros: i64) -> WriteTimestamp {
    WriteTimestamp(1_600_000_000_000_000 + micros)
}

/// Makes a table whose feed is on since a time.
async fn with_feed(store: &EmbeddedStore, since: WriteTimestamp) -> Arc<Table> {
    let mut definition = conformance::table("t", SortKeyType::String).definition;
    definition.options.change_feed = Some(ChangeFeed::parse(false, None, since).unwrap().begun_at(since));
    Arc::new(store.create_table(definition, since).await.unwrap())
}

/// Records a write that is made when the clock has a time.
async fn record_at(store: &EmbeddedStore, table: &Arc<Table>, at: WriteTimestamp) {
    let partition = PartitionKey::parse("p".to_owned()).unwrap();
    let token = WriteToken::generate(at);
    let write = Write::parse(table.clone(), partition, token, vec![put("a", None)]).unwrap();
    let keyspaces = store.keyspaces.clone();
    store.database.write(move |tx| feed::record(tx, &keyspaces, &write, None, at)).await.unwrap().unwrap();
}

async fn changes_from(store: &EmbeddedStore, table: &Arc<Table>, place: i64) -> Result<FeedPage, Error> {
    let cursor = FeedCursor::at(place);
    store.changes(FeedRead { table: table.clone(), shard: 0, cursor, partition: None }).await
}

#[tokio::test]
async fn idle_watch_passes_no_commit() {
    let store = ephemeral();
    let table = with_feed(&store, long_ago(1_000)).await;
    let now = WriteTimestamp::now().0;
    let mut place = store.feed_start(&table).unwrap();
    for hours in [-48, -24, 0, -36, 48, -1] {
        let idle = changes_from(&store, &table, place).await.unwrap();
        assert_eq!((idle.records.len(), idle.more), (0, false));
        record_at(&store, &table, WriteTimestamp(now + hours * 3_600_000_000)).await;
        store.check_places(&table, [idle.cursor.position].into_iter()).unwrap();
        let page = changes_from(&store, &table, idle.cursor.position).await.unwrap();
        assert_eq!(page.records.len(), 1, "a write at {hours} hours");
        place = page.cursor.position;
    }
}

#[tokio::test]
async fn changes_are_gone_once_removed() {
    let store = ephemeral();
    let table = with_feed(&store, long_ago(1_000)).await;
    let is_gone = |table: &Arc<Table>, place: WriteTimestamp| {
        let checked = store.check_places(table, [place.0].into_iter());
        assert!(matches!(checked, Ok(()) | Err(Error::ChangesGone { .. })), "{checked:?}");
        checked.is_err()
    };
    let from = async |place: WriteTimestamp| changes_from(&store, &table, place.0).await;
    for at in [2_000, 3_000, 4_000] {
        record_at(&store, &table, long_ago(at)).await;
    }
    assert!(!is_gone(&table, long_ago(1_000)), "old, but all of them are there");
    let after = |at: WriteTimestamp| WriteTimestamp(at.0 + 1);
    store.trim_feeds(long_ago(2_500).plus_seconds(24 * 3600)).await.unwrap();
    assert!(is_gone(&table, long_ago(2_000)) && !is_gone(&table, after(long_ago(2_000))));
    assert_eq!(from(after(long_ago(2_000))).await.unwrap().records.len(), 2);
    let gone = from(long_ago(2_000)).await;
    assert!(matches!(gone, Err(Error::ChangesGone { .. })), "{gone:?}");
    store.trim_feeds(WriteTimestamp::now()).await.unwrap();
    let end = after(long_ago(4_000));
    assert!(
        is_gone(&table, long_ago(4_000)) && !is_gone(&table, end),
        "a watch that has seen all of them goes on"
    );

    // Off and on again, with a clock that was set back: what was written between is in no feed.
    let feed = ChangeFeed::parse(false, None, long_ago(5)).unwrap().begun_at(long_ago(5));
    let set = async |feed| {
        let change = TableChange { change_feed: Some(feed), ..TableChange::default() };
        Arc::new(store.update_table(&table.definition.name, change).await.unwrap())
    };
    set(None).await;
    store.trim_feeds(WriteTimestamp::now()).await.unwrap();
    let on = set(Some(feed)).await;
    assert!(is_gone(&on, end) && !is_gone(&on, WriteTimestamp(store.feed_start(&on).unwrap())));
}

#[tokio::test]
async fn earlier_releases_feeds_are_read() {
    let store = ephemeral();
    let table = with_feed(&store, long_ago(1_000)).await;
    record_at(&store, &table, long_ago(2_000)).await;
    record_at(&store, &table, long_ago(3_000)).await;
    let (keyspaces, id) = (store.keyspaces.clone(), table.id.as_bytes().to_vec());
    let last = long_ago(3_000).0.to_be_bytes().to_vec();
    store.database.write(move |tx| tx.put(&keyspaces.feeds, id, last)).await.unwrap();
    assert!(store.check_places(&table, [long_ago(2_000).0].into_iter()).is_ok());
    let gone = store.check_places(&table, [long_ago(2_000).0 - 1].into_iter());
    assert!(matches!(gone, Err(Error::ChangesGone { .. })), "{gone:?}");
    assert_eq!(store.feed_start(&table).unwrap(), long_ago(3_000).0 + 1);
}

/// Fills a table so that its scan has many steps.
async fn filled() -> Data<EmbeddedStore> {
    let data = Data::new(ephemeral());
    create(&data).await;
    for partition in 0..64 {
        let puts = (0..20).map(|key| {
            let attributes = [("v".to_owned(), Value::Bytes(vec![7; 10_000].into()))].into_iter().collect();
            Mutation::Put { sort_key: text(&key.to_string()), attributes, ttl: None }
        });
        data.mutate("t", format!("p{partition}"), puts.collect(), "").await.unwrap();
    }
    data
}

fn scan_request() -> ScanRequest {
    ScanRequest { table: "t".to_owned(), parallelism: 4, ..ScanRequest::default() }
}

#[tokio::test]
async fn scans_yield_between_messages() {
    let data = filled().await;
    let stream = data.scan(scan_request(), Consistency::Quorum, CancellationToken::new()).await.unwrap();
    let mut stream = std::pin::pin!(stream);
    let mut ended = false;
    while !ended {
        // One poll of the task takes all that is ready without a pause.
        let mut ready = 0;
        std::future::poll_fn(|cx| {
            while let Poll::Ready(message) = stream.as_mut().poll_next(cx) {
                match message {
                    Some(message) => message.map(drop).unwrap(),
                    None => ended = true,
                }
                ready += 1;
                if ended {
                    break;
                }
            }
            Poll::Ready(())
        })
        .await;
        assert!(ready <= 1 + usize::from(ended), "{ready} messages without a turn for others");
        // The steps of all parts end meanwhile.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn steps_of_scans_wait_their_turn() {
    let data = filled().await;
    let turns = u32::try_from(scan_turns()).unwrap();
    let held = data.store.scan_turns.clone().acquire_many_owned(turns).await.unwrap();
    let stream = data.scan(scan_request(), Consistency::Quorum, CancellationToken::new()).await.unwrap();
    let mut stream = std::pin::pin!(stream);
    let waits = tokio::time::timeout(std::time::Duration::from_millis(300), stream.next()).await;
    assert!(waits.is_err(), "no step may run");
    drop(held);
    assert!(stream.next().await.unwrap().is_ok());
}

/// A scan whose caller reads nothing holds up no other one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_scans_give_their_turn() {
    let data = filled().await;
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let stream = data.scan(scan_request(), Consistency::Quorum, CancellationToken::new()).await.unwrap();
        let mut stream = Box::pin(stream);
        assert!(stream.next().await.unwrap().is_ok());
        stalled.push(stream);
    }
    let stream = data.scan(scan_request(), Consistency::Quorum, CancellationToken::new()).await.unwrap();
    let all = tokio::time::timeout(std::time::Duration::from_secs(60), stream.count()).await;
    assert!(all.is_ok_and(|messages| messages > 0), "the other scan goes on");
    drop(stalled);
}

#[tokio::test]
async fn late_scans_end_without_a_step() {
    let data = filled().await;
    let turns = u32::try_from(scan_turns()).unwrap();
    let _held = data.store.scan_turns.clone().acquire_many_owned(turns).await.unwrap();
    let until = Some(std::time::Instant::now() + std::time::Duration::from_millis(50));
    let request = ScanRequest { until, ..scan_request() };
    let stream = data.scan(request, Consistency::Quorum, CancellationToken::new()).await.unwrap();
    let messages = tokio::time::timeout(std::time::Duration::from_secs(20), stream.collect::<Vec<_>>());
    let messages = messages.await.expect("its time is over");
    let token = messages.last().unwrap().as_ref().unwrap().resume_token.clone();
    assert!(!token.is_empty(), "it goes on from its place");
}
