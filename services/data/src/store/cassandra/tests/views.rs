//! Views on Cassandra: what they cost, and what becomes of entries that no row has.

use super::*;
use crate::read::{QueryRequest, ReadMode, ViewRow};
use crate::row::Row;
use crate::store::ViewStore;
use crate::store::conformance::query_of;
use crate::table::NewView;
use crate::value::Value;

fn by_v() -> NewView {
    NewView { name: "by_v".to_owned(), partition: "v".to_owned(), ..NewView::default() }
}

async fn viewed(data: &Data<CassandraStore>, name: &str) {
    let new = NewTable {
        name: name.to_owned(),
        sort_key_type: SortKeyType::String,
        write_mode: WriteMode::LastWriteWins,
        default_ttl: None,
        description: String::new(),
        change_feed: None,
        attribute_schema: None,
        views: vec![by_v()],
    };
    data.create(new).await.unwrap();
}

/// Puts the row `k` with a value.
async fn set(data: &Data<CassandraStore>, at: i64, value: &str) {
    let put = Mutation::Put { sort_key: text("k"), attributes: holding(value), ttl: None };
    data.mutate("viewed", "p".to_owned(), vec![put], &format!("{}-n", moment(at).0)).await.unwrap();
}

async fn shown(data: &Data<CassandraStore>, partition: &str, read_mode: ReadMode) -> Vec<ViewRow> {
    let request = QueryRequest { read_mode, ..query_of("viewed.by_v", partition) };
    data.query_view(request, Consistency::Quorum).await.unwrap().rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cassandra_views_conform() {
    let Some(points) = contact_points() else { return };
    let config = config("views");
    let here = Data::new(started(&config, &points).await);
    let there = Data::new(started(&config, &points).await);
    Box::pin(conformance::run_views(&Clones { here, there })).await;
    drop_keyspace(&points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_cost_other_tables_nothing() {
    let Some(points) = contact_points() else { return };
    let config = config("view_cost");
    let recorded = Recorded::of(&config.keyspace);
    let data = Data::new(started(&config, &points).await);
    create(&data, "plain").await;
    viewed(&data, "viewed").await;
    for (table, expected) in
        [("plain", &["INSERT t_plain"][..]), ("viewed", &["SELECT t_viewed", "BATCH t_viewed"])]
    {
        put(&data, table, 10, "a").await.unwrap();
        recorded.take(&config.keyspace);
        put(&data, table, 20, "b").await.unwrap();
        let statements: Vec<_> =
            recorded.take(&config.keyspace).into_iter().map(|of| of["otel.name"].clone()).collect();
        assert_eq!(statements, expected, "{table}");
    }
    drop_keyspace(&points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verified_queries_remove_stale_entries() {
    let Some(points) = contact_points() else { return };
    let config = config("stale");
    let data = Data::new(started(&config, &points).await);
    viewed(&data, "viewed").await;
    set(&data, 20, "now").await;
    let table = data.table("viewed", "table").await.unwrap();
    let view = table.views().next().unwrap();
    // What a writer leaves whose row another one has replaced at the same time.
    let enter = async |at: i64| {
        let (sort_key, attributes) = (SortKey::Text("k".to_owned()), holding("before"));
        let row = Row { sort_key, attributes, write_time: moment(at), expire_time: None };
        let partition = PartitionKey::parse("p".to_owned()).unwrap();
        data.store.add_entries(table.clone(), view, vec![(partition, row)]).await.unwrap();
    };
    enter(10).await;
    assert_eq!(shown(&data, "before", ReadMode::Eventual).await.len(), 1);
    assert!(shown(&data, "before", ReadMode::Verified).await.is_empty());
    assert!(shown(&data, "before", ReadMode::Eventual).await.is_empty(), "it was removed");
    // The row of a later entry may still be under way.
    enter(30).await;
    assert!(shown(&data, "before", ReadMode::Verified).await.is_empty());
    assert_eq!(shown(&data, "before", ReadMode::Eventual).await.len(), 1);
    set(&data, 30, "before").await;
    assert_eq!(shown(&data, "before", ReadMode::Verified).await.len(), 1);
    assert!(shown(&data, "now", ReadMode::Eventual).await.is_empty());
    drop_keyspace(&points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_leave_cut_no_write() {
    const ROWS: u32 = 40;
    let Some(points) = contact_points() else { return };
    let config = config("left");
    let data = Data::new(started(&config, &points).await);
    viewed(&data, "viewed").await;
    // Too large for one logged batch, so that it goes in steps.
    let write = async |row: u32, at: i64, value: String| {
        let mut attributes = holding(&value);
        attributes.insert("pad".to_owned(), Value::Bytes(vec![7; 30 << 10].into()));
        let put = Mutation::Put { sort_key: text(&format!("k{row}")), attributes, ttl: None };
        data.mutate("viewed", "p".to_owned(), vec![put], &format!("{}-n", moment(at).0)).await
    };
    for row in 0..ROWS {
        write(row, 10, format!("old{row}")).await.unwrap();
        let left = write(row, 20, format!("new{row}"));
        let _ = tokio::time::timeout(Duration::from_micros(500) * row, left).await;
    }
    let until = Instant::now() + Duration::from_secs(20);
    for row in 0..ROWS {
        while shown(&data, &format!("old{row}"), ReadMode::Eventual).await.len()
            + shown(&data, &format!("new{row}"), ReadMode::Eventual).await.len()
            != 1
        {
            assert!(Instant::now() < until, "row {row} has not one entry");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    drop_keyspace(&points, &config.keyspace).await;
}
