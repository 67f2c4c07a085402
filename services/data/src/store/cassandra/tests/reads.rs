//! What reads cost Cassandra, counted by a proxy before it.

use futures::future::join_all;

use super::*;
use crate::read::QueryRequest;
use crate::store::cassandra::statements::{Kind, Sendable};
use crate::store::conformance::{all_rows, query_of};
use crate::value::Value;

/// Makes a store behind a proxy, and the data of another beside it.
async fn counted(test: &str) -> Option<(Config, Data<CassandraStore>, Data<CassandraStore>, CqlProxy)> {
    let points = contact_points()?;
    let config = config(test);
    let writer = Data::new(started(&config, &points).await);
    writer.create_table("rows", SortKeyType::String, WriteMode::LastWriteWins, None).await.unwrap();
    let proxy = CqlProxy::start(&points[0], Network::Fine).await;
    let reader = Data::new(started(&config, std::slice::from_ref(&proxy.address)).await);
    Some((config, writer, reader, proxy))
}

fn put(key: impl AsRef<str>, bytes: usize) -> Mutation {
    let value = Value::Bytes(vec![7; bytes].into());
    Mutation::Put {
        sort_key: text(key.as_ref()),
        attributes: [("v".to_owned(), value)].into_iter().collect(),
        ttl: None,
    }
}

async fn forget(config: &Config) {
    if let Some(points) = contact_points() {
        drop_keyspace(&points, &config.keyspace).await;
    }
}

#[tokio::test]
async fn concurrent_gets_are_one_read() {
    let Some((config, writer, reader, proxy)) = counted("hot").await else { return };
    writer.mutate("rows", "p".to_owned(), vec![put("hot", 10)], "").await.unwrap();
    let get = || reader.get("rows", "p".to_owned(), text("hot"), Consistency::Quorum);
    let batch = || reader.batch_get("rows", vec![("p".to_owned(), text("hot"))], Consistency::Quorum);
    get().await.unwrap();
    let before = proxy.passed.executed.load(Ordering::SeqCst);
    let (gets, batches) =
        tokio::join!(join_all((0..1000).map(|_| get())), join_all((0..100).map(|_| batch())));
    assert!(gets.iter().all(Result::is_ok));
    assert!(batches.iter().all(|batch| batch.as_ref().unwrap()[0].is_some()));
    assert_eq!(proxy.passed.executed.load(Ordering::SeqCst) - before, 1);

    let before = proxy.passed.executed.load(Ordering::SeqCst);
    let other = reader.get("rows", "p".to_owned(), text("hot"), Consistency::Eventual);
    let (one, other) = tokio::join!(get(), other);
    assert!(one.is_ok() && other.is_ok());
    assert_eq!(proxy.passed.executed.load(Ordering::SeqCst) - before, 2, "levels are never shared");
    forget(&config).await;
}

#[tokio::test]
async fn one_node_is_not_hedged() {
    let Some(points) = contact_points() else { return };
    let config = config("alone");
    let store = started(&config, &points).await;
    let data = Data::new(store.clone());
    create(&data, "rows").await;
    data.mutate("rows", "p".to_owned(), vec![put("a", 10)], "").await.unwrap();
    data.get("rows", "p".to_owned(), text("a"), Consistency::Quorum).await.unwrap();
    let alone =
        store.inner.link.connected().await.unwrap().session.get_cluster_state().get_nodes_info().len() == 1;
    assert_eq!(store.inner.link.hedging_asked() == 0, alone);
    forget(&config).await;
}

#[tokio::test]
async fn only_fixed_columns_are_remembered() {
    let Some(points) = contact_points() else { return };
    let config = config("columns");
    let store = started(&config, &points).await;
    let data = Data::new(store.clone());
    create(&data, "rows").await;
    let table = data.table("rows", "table").await.unwrap();
    let link = &store.inner.link;
    let session = &link.connected().await.unwrap().session;
    for (kind, remembered) in [(Kind::Get, true), (Kind::GetMany, false), (Kind::AscendingFrom, false)] {
        match store.statements(&table).get(kind, link, session).await.unwrap() {
            Sendable::Prepared(statement) => {
                assert_eq!(statement.get_use_cached_result_metadata(), remembered, "{kind:?}");
            }
            Sendable::Text(_) => panic!("{kind:?} is not prepared"),
        }
    }
    forget(&config).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_of_one_partition_is_few_reads() {
    let Some((config, writer, reader, proxy)) = counted("batch").await else { return };
    let puts = (0..100).map(|i| put(format!("{i:03}"), 100)).collect();
    writer.mutate("rows", "p".to_owned(), puts, "").await.unwrap();
    let keys = |prefix: &str| (0..100).map(|i| ("p".to_owned(), text(&format!("{prefix}{i:03}")))).collect();
    reader.get("rows", "p".to_owned(), text("000"), Consistency::Quorum).await.unwrap();
    for (prefix, found) in [("", 100), ("none", 0)] {
        let before = proxy.passed.executed.load(Ordering::SeqCst);
        let rows = reader.batch_get("rows", keys(prefix), Consistency::Quorum).await.unwrap();
        assert_eq!((rows.len(), rows.iter().flatten().count()), (100, found));
        let statements = proxy.passed.executed.load(Ordering::SeqCst) - before;
        assert!(statements <= 3, "{statements} statements");
    }
    forget(&config).await;
}

/// A fresh clone reads pages of a partition of large rows; a page is one mebibyte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_rows_are_fetched_few_at_once() {
    let Some((config, writer, reader, proxy)) = counted("large").await else { return };
    for i in 0..40 {
        writer.mutate("rows", "p".to_owned(), vec![put(format!("{i:03}"), 900_000)], "").await.unwrap();
    }
    let query = query_of("rows", "p");
    let (first, _) = reader.query(query.clone(), Consistency::Quorum).await.unwrap();
    let fetched = proxy.passed.answered.load(Ordering::SeqCst);
    assert_eq!(first.len(), 1);
    assert!(fetched < 5 << 20, "{fetched} bytes came for the first page");
    let rows = all_rows(&reader, query).await;
    assert_eq!(rows.len(), 40);
    let fetched = proxy.passed.answered.load(Ordering::SeqCst) - fetched;
    assert!(fetched < 85 << 20, "{fetched} bytes came for 36 MB of rows");
    forget(&config).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tombstones_are_named() {
    let Some((config, writer, reader, _proxy)) = counted("tombs").await else { return };
    for hundred in 0..1010 {
        let deletes =
            (0..100).map(|i| Mutation::Delete { sort_key: text(&format!("{:06}", hundred * 100 + i)) });
        writer.mutate("rows", "p".to_owned(), deletes.collect(), "").await.unwrap();
    }
    writer.mutate("rows", "p".to_owned(), vec![put("200000", 1)], "").await.unwrap();
    let query = query_of("rows", "p");
    let refused = reader.query(query.clone(), Consistency::Quorum).await;
    assert!(matches!(refused, Err(Error::TooManyTombstones { .. })), "{refused:?}");
    let behind = QueryRequest { start: text("101000"), ..query };
    let (rows, next) = reader.query(behind, Consistency::Quorum).await.unwrap();
    assert_eq!((rows.len(), next), (1, String::new()));
    forget(&config).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_rows_of_others_are_known() {
    let Some(points) = contact_points() else { return };
    let config = config("marks");
    let (here, there) = (started(&config, &points).await, started(&config, &points).await);
    let (writer, reader) = (Data::new(here), Data::new(there.clone()));
    create(&writer, "rows").await;
    super::put(&writer, "rows", 10, "small").await.unwrap();
    let known = async || {
        let table = reader.table("rows", "table").await.unwrap();
        there.statements(&table).sizes().largest()
    };
    assert!(known().await < 1_000, "only small rows");
    let large = [("v".to_owned(), Value::Bytes(vec![7; 900_000].into()))].into_iter().collect();
    let large = Mutation::Put { sort_key: text("large"), attributes: large, ttl: None };
    writer.mutate("rows", "p".to_owned(), vec![large], "").await.unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while known().await < 900_000 {
        assert!(Instant::now() < until, "the other clone does not learn of it before it reads one");
        there.age(&reader.table("rows", "table").await.unwrap().definition.name);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A clone that starts knows it before its first fetch.
    let fresh = started(&config, &points).await;
    let table = Data::new(fresh.clone()).table("rows", "table").await.unwrap();
    assert!(fresh.statements(&table).sizes().largest() >= 900_000);
    drop_keyspace(&points, &config.keyspace).await;
}
