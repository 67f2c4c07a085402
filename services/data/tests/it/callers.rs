//! Many callers over gRPC, before a Cassandra behind a proxy: what they cost it together, and what those leave behind who go away.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures::future::join_all;
use shoal_proto::data::v1 as data;
use shoal_proto::data::v1::{GetRequest, GetTableRequest, SortKeyType};
use shoal_testing::{CqlProxy, Network};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tonic::Status;

use crate::mesh::{Client, TestClone, create, get, mutate, put, text};

/// Callers of a hot row.
const READERS: usize = 1_000;
/// Callers that go away.
const LEAVERS: usize = 5_000;
/// Most callers at the same time.
const TOGETHER: usize = 500;
/// The time within which what they left behind ends.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// Starts a clone on the Cassandra behind a proxy, with times that a busy machine keeps, and a table.
async fn behind_proxy(name: &str, more: &str) -> Option<(CqlProxy, TestClone, String)> {
    let points = shoal_testing::engine_of("SHOAL_TEST_CASSANDRA")?;
    let proxy = CqlProxy::start(&points, Network::Fine).await;
    let settings = format!(
        "cassandra = '{}'\n[data]\nstatement_timeout = '15s'\nsilence_max = '15s'\n{more}\n",
        proxy.address
    );
    let clone = TestClone::start(&settings).await;
    let table = format!("callers_{name}_{}", fastrand::u32(..));
    let until = Instant::now() + ENDS_WITHIN;
    let ready = GetTableRequest { name: table.clone() };
    while let Err(status) = clone.client.clone().get_table(ready.clone()).await {
        if status.code() == tonic::Code::NotFound {
            break;
        }
        assert!(Instant::now() < until, "{status:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    create(&clone.client, &table, SortKeyType::String).await;
    Some((proxy, clone, table))
}

/// The first caller's read is under way while the others come: they share the next one.
#[tokio::test]
async fn hot_row_is_read_once_for_all() {
    /// Only reads of the row bind it.
    const ROW: &str = "row-that-all-want";
    let Some((proxy, clone, table)) = behind_proxy("hot", "speculative_delay = '0s'").await else { return };
    mutate(&clone.client, &table, vec![put(ROW, "1")]).await.unwrap();
    get(&clone.client, &table, ROW).await.unwrap();
    let executed = || proxy.passed.executed_with(ROW);
    let before = executed();
    proxy.set(Network::NoAnswers);
    let first = tokio::spawn({
        let (client, table) = (clone.client.clone(), table.clone());
        async move { get(&client, &table, ROW).await }
    });
    let until = Instant::now() + ENDS_WITHIN;
    while executed() == before {
        assert!(Instant::now() < until, "the first read was not sent");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut others = JoinSet::new();
    for _ in 1..READERS {
        let (client, table) = (clone.client.clone(), table.clone());
        others.spawn(async move { get(&client, &table, ROW).await });
    }
    // These are sent behind them on their connection, and need no read: once they are answered, the others are there.
    let last = GetTableRequest { name: table.clone() };
    for _ in 0..20 {
        tokio::task::yield_now().await;
        clone.client.clone().get_table(last.clone()).await.unwrap();
    }
    proxy.set(Network::Fine);
    let mut answers = others.join_all().await;
    answers.push(first.await.unwrap());
    assert_eq!(answers.len(), READERS);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let reads = executed() - before;
    assert_eq!(reads, 2, "one was under way, and one was for all others");
    clone.stop().await;
}

/// Calls of every kind, by one caller that leaves after some time.
async fn some_call(client: &mut Client, table: &str, checked: &str, n: usize) -> Result<(), Status> {
    let key = format!("k{}", n % 100);
    let (table, partition_key) = (table.to_owned(), "p".to_owned());
    match n % 9 {
        0 => mutate(client, &table, vec![put(&key, "1")]).await,
        1 => get(client, &table, &key).await.map(drop),
        2 => {
            let query = data::QueryRequest { table, partition_key, page_size: 10, ..Default::default() };
            client.query(query).await.map(drop)
        }
        3 => {
            let count = data::CountRequest { table, partition_key, ..Default::default() };
            client.count(count).await.map(drop)
        }
        4 => {
            let mut rows = client.scan(data::ScanRequest { table, ..Default::default() }).await?.into_inner();
            while rows.message().await?.is_some() {}
            Ok(())
        }
        5 => {
            let list = data::ListPartitionsRequest { table, ..Default::default() };
            client.list_partitions(list).await.map(drop)
        }
        6 => {
            let increment = data::IncrementRequest {
                table: checked.to_owned(),
                partition_key: format!("p{n}"),
                sort_key: Some(text("a")),
                attribute: "n".to_owned(),
                delta: Some(crate::mesh::number(1)),
                ..Default::default()
            };
            client.increment(increment).await.map(drop)
        }
        7 => {
            let keys =
                (0..20).map(|i| data::RowKey { partition_key: format!("p{i}"), sort_key: Some(text(&key)) });
            let batch = data::BatchGetRequest { table, keys: keys.collect(), ..Default::default() };
            client.batch_get(batch).await.map(drop)
        }
        _ => {
            let read = GetRequest { table: format!("none{}", n % 7), partition_key, ..Default::default() };
            client.get(read).await.map(drop)
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_callers_leave_nothing_behind() {
    let Some((proxy, clone, table)) = behind_proxy("leaving", "").await else { return };
    let given = std::env::var("SHOAL_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("SHOAL_TEST_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let checked = format!("{table}_c");
    let definition = data::Table {
        name: checked.clone(),
        write_mode: data::WriteMode::Conditional.into(),
        ..Default::default()
    };
    let create = data::CreateTableRequest { table: Some(definition) };
    clone.client.clone().create_table(create).await.unwrap();
    // Each kind once, so that what stays for good is there.
    for result in join_all((0..9).map(async |n| {
        let mut client = clone.client.clone();
        some_call(&mut client, &table, &checked, n).await
    }))
    .await
    {
        assert!(result.is_ok() || result.is_err_and(|status| status.code() == tonic::Code::NotFound));
    }
    let connections = proxy.connections.load(Ordering::SeqCst);
    let alive = || Handle::current().metrics().num_alive_tasks();
    let resting = alive();
    let mut callers = JoinSet::new();
    let mut left = 0;
    for n in 0..LEAVERS {
        // Now and then no answer comes, for less than the three seconds after which the driver connects anew.
        if n % (2 * TOGETHER) == 0 {
            proxy.set(Network::NoAnswers);
        } else if n % TOGETHER == 0 {
            proxy.set(Network::Fine);
        }
        let (mut client, table, checked) = (clone.client.clone(), table.clone(), checked.clone());
        let stays = Duration::from_micros(rng.u64(0..800_000));
        callers.spawn(async move {
            let call = Box::pin(some_call(&mut client, &table, &checked, n));
            tokio::time::timeout(stays, call).await.is_err()
        });
        if callers.len() >= TOGETHER {
            left += callers.join_all().await.into_iter().filter(|left| *left).count();
            callers = JoinSet::new();
        }
    }
    left += callers.join_all().await.into_iter().filter(|left| *left).count();
    assert!((1..LEAVERS).contains(&left), "{left} left before their answer");
    // Once a second the driver counts the ids without a taker that are older than a second: a thousand end a connection.
    mutate(&clone.client, &table, vec![put("between", "1")]).await.unwrap();
    proxy.set(Network::NoAnswers);
    tokio::time::sleep(Duration::from_millis(2200)).await;
    proxy.set(Network::Fine);
    let until = Instant::now() + ENDS_WITHIN;
    while alive() > resting {
        assert!(Instant::now() < until, "{} tasks, and {resting} before", alive());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(proxy.connections.load(Ordering::SeqCst), connections, "connections were made anew");
    mutate(&clone.client, &table, vec![put("after", "1")]).await.unwrap();
    get(&clone.client, &table, "after").await.unwrap();
    // As many scans as a clone allows: none of those that were left holds a place.
    let scans = join_all((0..16).map(|_| {
        let mut client = clone.client.clone();
        let scan = data::ScanRequest { table: table.clone(), ..Default::default() };
        async move { client.scan(scan).await.map(drop) }
    }));
    assert!(scans.await.iter().all(Result::is_ok));
    eprintln!("{left} of {LEAVERS} callers left");
    clone.stop().await;
}
