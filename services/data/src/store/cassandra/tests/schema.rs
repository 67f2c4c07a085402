//! The registry, the keyspace and the definitions that a clone remembers, on one node of a real Cassandra.

use super::*;
use crate::key::PartitionKey;
use crate::mutation::Write;
use crate::store::WriteStore;
use crate::write_token::WriteToken;

/// Runs statements on a keyspace beside the store.
struct Beside {
    session: Session,
    keyspace: String,
}

impl Beside {
    async fn of(points: &[String], config: &Config) -> Self {
        Self { session: session(points).await, keyspace: config.keyspace.clone() }
    }

    async fn run(&self, cql: &str) {
        self.session.query_unpaged(cql.replace("KS", &self.keyspace), ()).await.unwrap();
    }

    /// Makes the keyspace with this many replicas, whatever the number of nodes.
    async fn keyspace(&self, factor: u8) {
        let cql = format!(
            "CREATE KEYSPACE KS WITH replication = {{'class': 'NetworkTopologyStrategy', 'datacenter1': {factor}}}"
        );
        self.run(&cql).await;
    }
}

/// Polls until `done` says so.
async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !done().await {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_creation_frees_its_name() {
    let Some(points) = contact_points() else { return };
    let config = config("refused");
    let data = Data::new(started(&config, &points).await);
    let beside = Beside::of(&points, &config).await;
    beside.run("CREATE TABLE KS.t_mine (k int PRIMARY KEY)").await;
    let refused = data.create_table("mine", SortKeyType::String, WriteMode::LastWriteWins, None).await;
    assert!(matches!(refused, Err(Error::ForeignTable { .. })), "{refused:?}");
    let absent = data.table("mine", "table").await;
    assert!(matches!(absent, Err(Error::TableNotFound(_))), "{absent:?}");
    beside.run("DROP TABLE KS.t_mine").await;
    let other = data.create_table("mine", SortKeyType::Int64, WriteMode::LastWriteWins, None).await;
    assert!(other.is_ok(), "{other:?}");
    drop_keyspace(&points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_table_can_be_made_again() {
    let Some(points) = contact_points() else { return };
    let config = config("losttable");
    let data = Data::new(started(&config, &points).await);
    create(&data, "rows").await;
    put(&data, "rows", 10, "a").await.unwrap();
    Beside::of(&points, &config).await.run("DROP TABLE KS.t_rows").await;
    for outcome in [get(&data, "rows", "a").await.map(drop), put(&data, "rows", 20, "a").await.map(drop)] {
        assert!(matches!(&outcome, Err(Error::TableMissing { table }) if table == "t_rows"), "{outcome:?}");
    }
    create(&data, "rows").await;
    put(&data, "rows", 30, "b").await.unwrap();
    assert!(get(&data, "rows", "b").await.is_ok());
    drop_keyspace(&points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_keyspace_is_made_again() {
    let Some(points) = contact_points() else { return };
    let config = config("lostkeyspace");
    let data = Data::new(started(&config, &points).await);
    create(&data, "rows").await;
    put(&data, "rows", 10, "a").await.unwrap();
    drop_keyspace(&points, &config.keyspace).await;
    eventually("the keyspace is not made again", async || {
        let outcome = get(&data, "rows", "a").await;
        let gone = matches!(&outcome, Err(Error::TableNotFound(_)));
        let away = matches!(
            &outcome,
            Err(Error::Unavailable { .. } | Error::ReadFailed { .. } | Error::TableMissing { .. })
        );
        assert!(gone || away, "{outcome:?}");
        gone
    })
    .await;
    create(&data, "rows").await;
    put(&data, "rows", 20, "a").await.unwrap();
    assert_eq!(get(&data, "rows", "a").await.unwrap().write_time, moment(20));
    drop_keyspace(&points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyspace_of_an_operator_is_awaited() {
    let Some(points) = contact_points() else { return };
    let config = Config { create_keyspace: false, ..config("awaited") };
    let store = CassandraStore::start(config.clone(), points.clone());
    let says = async |words: &str| store.healthy().is_err_and(|why| why.contains(words));
    eventually("it does not say what is missing", async || says("data.create_keyspace").await).await;
    let beside = Beside::of(&points, &config).await;
    beside.keyspace(1).await;
    eventually("it does not use the keyspace", async || store.healthy().is_ok()).await;
    let data = Data::new(store.clone());
    create(&data, "rows").await;
    put(&data, "rows", 10, "a").await.unwrap();

    // Nobody calls meanwhile: it is noticed all the same.
    drop_keyspace(&points, &config.keyspace).await;
    eventually("nobody noticed", async || store.healthy().is_err()).await;
    eventually("it does not say what is missing", async || says("data.create_keyspace").await).await;
    beside.keyspace(1).await;
    eventually("it does not come back", async || store.healthy().is_ok()).await;
    create(&data, "rows").await;
    put(&data, "rows", 20, "a").await.unwrap();
    drop_keyspace(&points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyspace_has_a_factor_by_datacenter() {
    let Some(points) = contact_points() else { return };
    let config = config("factor");
    let _store = started(&config, &points).await;
    let replication = session(&points)
        .await
        .query_unpaged(
            format!(
                "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = '{}'",
                config.keyspace
            ),
            (),
        )
        .await
        .unwrap();
    let (replication,): (HashMap<String, String>,) =
        replication.into_rows_result().unwrap().single_row().unwrap();
    assert!(replication["class"].ends_with("NetworkTopologyStrategy"), "{replication:?}");
    assert_eq!(replication["datacenter1"], "1", "one node: {replication:?}");
    drop_keyspace(&points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absent_datacenter_is_named() {
    let Some(points) = contact_points() else { return };
    let config = Config { datacenter: Some("nope".to_owned()), ..config("nodc") };
    let store = CassandraStore::start(config, points);
    eventually("it does not say which data centres there are", async || {
        store.healthy().is_err_and(|why| why.contains("`nope`") && why.contains("datacenter1"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newer_tables_are_left_out() {
    let Some(points) = contact_points() else { return };
    let config = config("newer");
    let data = Data::new(started(&config, &points).await);
    create(&data, "a").await;
    create(&data, "z").await;
    let beside = Beside::of(&points, &config).await;
    beside
        .run(
            "INSERT INTO KS.tables (space, name, id, state, sort_key_type, write_mode, create_time_micros, layout) VALUES \
             ('shoal', 'm', uuid(), 'ready', 'STRING', 'LAST_WRITE_WINS', 5, 1000)",
        )
        .await;
    let (listed, _) = data.tables(10, "").await.unwrap();
    let names: Vec<_> = listed.iter().map(|table| table.definition.name.as_str()).collect();
    assert_eq!(names, ["a", "z"]);
    let newer = data.table("m", "table").await;
    assert!(matches!(&newer, Err(Error::NewerLayout { table, .. }) if table == "m"), "{newer:?}");
    let fault = shoal_kit::ApiError::from(newer.unwrap_err());
    assert_eq!(fault.code(), tonic::Code::FailedPrecondition);
    assert!(fault.message().contains("update this clone"), "{}", fault.message());
    drop_keyspace(&points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registry_of_earlier_release_is_used() {
    let Some(points) = contact_points() else { return };
    let config = config("earlier");
    let beside = Beside::of(&points, &config).await;
    beside.keyspace(1).await;
    beside
        .run(
            "CREATE TABLE KS.tables (space text, name text, id uuid, state text, sort_key_type text, write_mode text, \
             default_ttl_seconds bigint, create_time_micros bigint, PRIMARY KEY (space, name))",
        )
        .await;
    beside
        .run(
            "INSERT INTO KS.tables (space, name, id, state, sort_key_type, write_mode, create_time_micros) VALUES \
             ('shoal', 'old', uuid(), 'creating', 'STRING', 'LAST_WRITE_WINS', 5)",
        )
        .await;
    let data = Data::new(started(&config, &points).await);
    put(&data, "old", 10, "a").await.unwrap();
    create(&data, "new").await;
    put(&data, "new", 10, "a").await.unwrap();
    drop_keyspace(&points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eventual_reads_outlive_the_quorum() {
    let Some(points) = contact_points() else { return };
    let config = config("outlive");
    let store = started(&config, &points).await;
    let data = Data::new(store.clone());
    create(&data, "rows").await;
    put(&data, "rows", 10, "a").await.unwrap();
    // Of three replicas one is there: enough for ONE, and for nothing else.
    let beside = Beside::of(&points, &config).await;
    beside
        .run("ALTER KEYSPACE KS WITH replication = {'class': 'NetworkTopologyStrategy', 'datacenter1': 3}")
        .await;
    let name = TableName::parse("rows", "table").unwrap();
    let read = async |consistency| data.get("rows", "p".to_owned(), text("a"), consistency).await;
    for forgotten in [false, true] {
        if forgotten {
            store.forget(&name);
        } else {
            store.age(&name);
        }
        let row = read(Consistency::Eventual).await;
        assert!(row.is_ok(), "forgotten {forgotten}: {row:?}");
    }
    store.age(&name);
    let refused = read(Consistency::Quorum).await;
    assert!(matches!(refused, Err(Error::ReadFailed { .. })), "{refused:?}");
    drop_keyspace(&points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn look_ups_end_with_the_statement_timeout() {
    let Some(points) = contact_points() else { return };
    let proxy = CqlProxy::start(&points[0], Network::Fine).await;
    let config = Config { statement_timeout: Duration::from_secs(1), ..config("lookup") };
    let store = started(&config, std::slice::from_ref(&proxy.address)).await;
    let data = Data::new(store.clone());
    while data.create_table("rows", SortKeyType::String, WriteMode::LastWriteWins, None).await.is_err() {}
    store.forget(&TableName::parse("rows", "table").unwrap());
    proxy.set(Network::NoAnswers);
    let first = {
        let data = data.clone();
        tokio::spawn(async move { get(&data, "rows", "a").await })
    };
    while store.inner.link.free_statements() == config.statements_max {
        tokio::task::yield_now().await;
    }
    // The second one waits for a look-up that begins when the first has ended.
    let second = get(&data, "rows", "a").await;
    assert!(
        matches!(&second, Err(Error::ReadFailed { detail, .. }) if detail.contains("not found out within 1s")),
        "{second:?}"
    );
    assert!(first.await.unwrap().is_err());
    proxy.set(Network::Fine);
    drop_keyspace(&points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_say_their_consistency() {
    let Some(points) = contact_points() else { return };
    let config = config("achieved");
    let data = Data::new(started(&config, &points).await);
    create(&data, "last").await;
    data.create_table("checked", SortKeyType::String, WriteMode::Conditional, None).await.unwrap();
    for (table, strongest) in [("last", Consistency::Quorum), ("checked", Consistency::Strong)] {
        for asked in [Consistency::Eventual, Consistency::Quorum] {
            assert_eq!(data.achieved(table, asked).await, asked, "{table}");
        }
        assert_eq!(data.achieved(table, Consistency::Strong).await, strongest, "{table}");
    }
    drop_keyspace(&points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creation_stops_no_drop() {
    let Some(points) = contact_points() else { return };
    let config = config("undrop");
    let store = started(&config, &points).await;
    let data = Data::new(store.clone());
    create(&data, "rows").await;
    let table = data.table("rows", "table").await.unwrap();
    let beside = Beside::of(&points, &config).await;
    let link = &store.inner.link;
    let connected = link.connected().await.unwrap();
    registry::mark_ready(link, &connected, &table).await.unwrap();
    beside
        .run("UPDATE KS.tables SET state = 'dropping' WHERE space = 'shoal' AND name = 'rows' IF EXISTS")
        .await;
    let refused = registry::mark_ready(link, &connected, &table).await;
    assert!(matches!(refused, Err(Error::TableDropping(_))), "{refused:?}");
    let record = registry::read_record(link, &connected, "rows").await.unwrap().unwrap();
    assert_eq!(record.2, "dropping", "the drop goes on");
    let found = registry::find(link, &connected, "rows").await.unwrap();
    assert!(found.is_none(), "{found:?}");
    drop_keyspace(&points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_definitions_write_nothing() {
    let Some(points) = contact_points() else { return };
    let config = config("successor");
    let store = started(&config, &points).await;
    let data = Data::new(store.clone());
    create(&data, "rows").await;
    let table = data.table("rows", "table").await.unwrap();
    let name = &table.definition.name;
    let write = || {
        let token = WriteToken::generate(WriteTimestamp::now());
        let put = Mutation::Put { sort_key: text("a"), attributes: holding("1"), ttl: None };
        let partition = PartitionKey::parse("p".to_owned()).unwrap();
        Write::parse(table.clone(), partition, token, vec![put]).unwrap()
    };
    store.age_to(name, Duration::from_secs(3600));
    store.mutate(write()).await.unwrap();
    // The table is dropped, and another one of the same shape has its name.
    let beside = Beside::of(&points, &config).await;
    beside
        .run("UPDATE KS.tables SET id = 00000000-0000-4000-8000-000000000007 WHERE space = 'shoal' AND name = 'rows' IF EXISTS")
        .await;
    store.mutate(write()).await.expect("what was looked up lately may be written with");
    store.age_to(name, Duration::from_secs(3600));
    let refused = store.mutate(write()).await;
    assert!(matches!(refused, Err(Error::TableNotFound(_))), "{refused:?}");
    drop_keyspace(&points, &config.keyspace).await;
}
