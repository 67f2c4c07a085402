//! The store on a real Cassandra, named by `SHOAL_TEST_CASSANDRA`, and behind a proxy that fails as networks do.

mod cancelled;
mod cluster3;
mod history;
mod reads;
mod schema;
mod views;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use shoal_embedded::Database;

use super::*;
use crate::data::Data;
use crate::mutation::Mutation;
use crate::store::conformance::{self, Clones, holding, moment, text};
use crate::store::embedded::EmbeddedStore;
use crate::store::model::Model;
use crate::store::random;
use crate::table::{SortKeyType, WriteMode};
use crate::tables::NewTable;
use shoal_testing::{CqlProxy, Network};

/// Returns the contact points, or none after saying so; with `SHOAL_TEST_REQUIRE=1` they must be there.
fn contact_points() -> Option<Vec<String>> {
    match std::env::var("SHOAL_TEST_CASSANDRA") {
        Ok(points) => Some(points.split(',').map(str::to_owned).collect()),
        Err(_) if std::env::var("SHOAL_TEST_REQUIRE").is_ok_and(|value| value == "1") => {
            panic!("SHOAL_TEST_CASSANDRA is not set and SHOAL_TEST_REQUIRE=1")
        }
        Err(_) => {
            eprintln!("SKIPPED: SHOAL_TEST_CASSANDRA is not set; nothing was checked on a real Cassandra");
            None
        }
    }
}

/// Makes settings with a keyspace of one test's own, and with limits that a busy machine keeps.
fn config(test: &str) -> Config {
    Config {
        keyspace: format!("shoal_test_{test}_{}", std::process::id()),
        statement_timeout: Duration::from_secs(15),
        silence_max: Duration::from_secs(15),
        ..Config::default()
    }
}

/// Returns a store whose first connection is made.
async fn started(config: &Config, points: &[String]) -> CassandraStore {
    let store = CassandraStore::start(config.clone(), points.to_vec());
    let until = Instant::now() + Duration::from_secs(60);
    while let Err(why) = store.healthy() {
        assert!(Instant::now() < until, "{why}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store
}

async fn session(points: &[String]) -> Session {
    SessionBuilder::new().known_nodes(points).build().await.unwrap()
}

async fn drop_keyspace(points: &[String], keyspace: &str) {
    session(points).await.query_unpaged(format!("DROP KEYSPACE IF EXISTS {keyspace}"), ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cassandra_store_conforms() {
    let Some(points) = contact_points() else { return };
    let config = config("conform");
    let here = Data::new(started(&config, &points).await);
    let there = Data::new(started(&config, &points).await);
    conformance::run(&Clones { here, there }).await;
    drop_keyspace(&points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cassandra_and_embedded_answer_alike() {
    let Some(points) = contact_points() else { return };
    let config = config("random");
    let cassandra = random::Subject::new(started(&config, &points).await).await;
    let embedded = EmbeddedStore::new(Database::ephemeral().unwrap()).unwrap();
    let embedded = random::Subject::new(embedded).await;
    let model = random::Subject::new(Model::default()).await;
    for seed in 0..30 {
        let (expected, ours) = (model.run(seed).await, cassandra.run(seed).await);
        random::compare(seed, &expected, &ours);
        random::compare(seed, &expected, &embedded.run(seed).await);
    }
    drop_keyspace(&points, &config.keyspace).await;
}

/// Spans of the statements in some keyspaces: number and fields, with the name of the span around.
#[derive(Debug, Clone, Default)]
struct Recorded {
    keyspaces: Arc<Mutex<Vec<String>>>,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Recorded {
    /// Records the statements in a keyspace. For the whole process: with a subscriber of one thread only, what other tests do on
    /// other threads decides whether spans are made here.
    fn of(keyspace: &str) -> Self {
        use tracing_subscriber::layer::SubscriberExt as _;
        static RECORDED: std::sync::OnceLock<Recorded> = std::sync::OnceLock::new();
        let recorded = RECORDED.get_or_init(|| {
            let recorded = Recorded::default();
            let subscriber = tracing_subscriber::registry().with(recorded.clone());
            tracing::subscriber::set_global_default(subscriber).unwrap();
            recorded
        });
        recorded.keyspaces.lock().unwrap().push(keyspace.to_owned());
        recorded.clone()
    }

    /// Returns the fields of the statements in a keyspace since the last call.
    fn take(&self, keyspace: &str) -> Vec<HashMap<String, String>> {
        let mut spans = self.spans.lock().unwrap();
        let ours = |of: &HashMap<String, String>| of.get("db.namespace").is_some_and(|of| of == keyspace);
        let taken = spans.iter().filter(|(_, of)| ours(of)).map(|(_, of)| of.clone()).collect();
        spans.retain(|(_, of)| !ours(of));
        taken
    }
}

type Span = (u64, HashMap<String, String>);

impl<S> tracing_subscriber::Layer<S> for Recorded
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        id: &tracing::span::Id,
        context: tracing_subscriber::layer::Context<'_, S>,
    ) {
        let around = context.span(id).and_then(|span| span.parent().map(|parent| parent.name()));
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        fields.0.insert("around".to_owned(), around.unwrap_or("nothing").to_owned());
        let keyspace = fields.0.get("db.namespace");
        if keyspace.is_some_and(|keyspace| self.keyspaces.lock().unwrap().contains(keyspace)) {
            self.spans.lock().unwrap().push((id.into_u64(), fields.0));
        }
    }

    fn on_record(
        &self,
        id: &tracing::span::Id,
        values: &tracing::span::Record<'_>,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        let mut spans = self.spans.lock().unwrap();
        // Numbers are used again once a span is closed, also for spans of others, which have no such fields.
        let span = spans.iter_mut().rev().find(|(span, _)| *span == id.into_u64());
        if let Some((_, of)) = span.filter(|_| fields.0.keys().any(|name| name.starts_with("server."))) {
            of.extend(fields.0);
        }
    }
}

#[derive(Default)]
struct Fields(HashMap<String, String>);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

#[tokio::test]
async fn spans_hold_no_keys_or_values() {
    use tracing::Instrument as _;
    let Some(points) = contact_points() else { return };
    let config = config("spans");
    let recorded = Recorded::of(&config.keyspace);
    let data = Data::new(started(&config, &points).await);
    create(&data, "rows").await;
    recorded.take(&config.keyspace);
    let call = async {
        let put = Mutation::Put { sort_key: text("secret"), attributes: holding("secret"), ttl: None };
        data.mutate("rows", "secret".to_owned(), vec![put], "1700000000000000-secret").await.unwrap();
        data.get("rows", "secret".to_owned(), text("secret"), Consistency::Eventual).await.unwrap();
        let request = crate::read::QueryRequest {
            table: "rows".to_owned(),
            partition_key: "secret".to_owned(),
            prefix: text("secret"),
            ..Default::default()
        };
        data.query(request, Consistency::Quorum).await.unwrap();
    };
    call.instrument(tracing::info_span!("call")).await;
    let cql = recorded.take(&config.keyspace);
    let (host, port) = points[0].split_once(':').unwrap();
    assert_eq!(cql.iter().filter(|of| of["otel.name"] == "SELECT t_rows").count(), 2, "{cql:?}");
    for (operation, table) in [("INSERT", "t_rows"), ("SELECT", "t_rows")] {
        let name = format!("{operation} {table}");
        let span = cql.iter().find(|of| of["otel.name"] == name).unwrap_or_else(|| panic!("{name}: {cql:?}"));
        for (field, value) in [
            ("around", "call"),
            ("otel.kind", "client"),
            ("db.system.name", "cassandra"),
            ("db.namespace", config.keyspace.as_str()),
            ("db.operation.name", operation),
            ("db.collection.name", table),
            ("server.address", host),
            ("server.port", port),
            ("shoal.role", "data"),
        ] {
            assert_eq!(span.get(field).map(String::as_str), Some(value), "{field} of {span:?}");
        }
    }
    assert!(!format!("{cql:?}").contains("secret"), "{cql:?}");
    drop_keyspace(&points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn feeds_cost_other_tables_nothing() {
    let Some(points) = contact_points() else { return };
    let config = config("cost");
    let recorded = Recorded::of(&config.keyspace);
    let data = Data::new(started(&config, &points).await);
    create(&data, "plain").await;
    let new = NewTable {
        name: "watched".to_owned(),
        sort_key_type: SortKeyType::String,
        write_mode: WriteMode::LastWriteWins,
        default_ttl: None,
        description: String::new(),
        change_feed: Some((false, None)),
        attribute_schema: None,
        views: Vec::new(),
    };
    data.create(new).await.unwrap();
    for (table, expected) in
        [("plain", &["INSERT t_plain"][..]), ("watched", &["INSERT changes", "BATCH t_watched"])]
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

fn feed_of(table: &str) -> NewTable {
    NewTable {
        name: table.to_owned(),
        sort_key_type: SortKeyType::String,
        write_mode: WriteMode::LastWriteWins,
        default_ttl: None,
        description: String::new(),
        attribute_schema: None,
        change_feed: Some((false, None)),
        views: Vec::new(),
    }
}

/// A write whose clone is paused until its answer, for longer than watches wait for its record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_answer_writes_record_again() {
    let Some(points) = contact_points() else { return };
    let config = config("again");
    let data = Data::new(started(&config, &points).await);
    let table = Arc::new(data.create(feed_of("again")).await.unwrap());
    let mut watch = data.watch("again", String::new(), "").await.unwrap();
    let puts = vec![Mutation::Put { sort_key: text("a"), attributes: holding("1"), ttl: None }];
    let partition = PartitionKey::parse("p".to_owned()).unwrap();
    let token = crate::write_token::WriteToken::generate(data.clock.next().unwrap());
    let write = crate::mutation::Write::parse(table.clone(), partition, token, puts).unwrap();
    let record = CassandraStore::record(&write, None).unwrap();
    let (partition, stamp) = (&write.partition, write.stamp());
    let minutes = Duration::from_secs(120);
    let mut paused = crate::clock::ClockReading::now();
    paused.wall.0 -= i64::try_from(minutes.as_micros()).unwrap();
    paused.monotonic -= minutes;
    let placed = feed::Placed::take(stamp, paused);
    data.store.record_in_time(&table, partition, stamp, &record, placed).await.unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    let seen = loop {
        let delivery = tokio::time::timeout_at(until.into(), watch.next()).await.expect("the record in time");
        if let Some(part) = delivery.unwrap().unwrap().parts.first() {
            break part.record.write_time;
        }
    };
    assert_eq!(seen, stamp);
    drop_keyspace(&points, &config.keyspace).await;
}

/// A write whose clone stalls between the pointer and the batch, for longer than the end of the log is read again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_records_are_still_delivered() {
    let Some(points) = contact_points() else { return };
    let here = started(&config("late"), &points).await;
    // A clone that waits less for pointers, so that the stall can be short.
    let (statement_timeout, clock_drift_max) = (Duration::from_secs(1), Duration::from_secs(1));
    let hasty = Config { statement_timeout, clock_drift_max, ..config("late") };
    let (here, hasty) = (Data::new(here), Data::new(started(&hasty, &points).await));
    let new = NewTable {
        name: "late".to_owned(),
        sort_key_type: SortKeyType::String,
        write_mode: WriteMode::LastWriteWins,
        default_ttl: None,
        description: String::new(),
        change_feed: Some((false, None)),
        attribute_schema: None,
        views: Vec::new(),
    };
    let table = Arc::new(here.create(new).await.unwrap());
    let mut watch = hasty.watch("late", String::new(), "").await.unwrap();
    let puts = vec![Mutation::Put { sort_key: text("a"), attributes: holding("1"), ttl: None }];
    let partition = PartitionKey::parse("p".to_owned()).unwrap();
    let token = crate::write_token::WriteToken::generate(here.clock.next().unwrap());
    let stamp = token.stamp();
    let write = crate::mutation::Write::parse(table.clone(), partition, token, puts).unwrap();
    let record = CassandraStore::record(&write, None).unwrap();
    let (_, values) = here.store.place(&table, &write.partition, stamp, &record).await.unwrap();
    let stalled =
        Instant::now() + Duration::from_micros(hasty.store.feed_times().settle.cast_unsigned()) * 3 / 2;
    while let Ok(delivery) = tokio::time::timeout_at(stalled.into(), watch.next()).await {
        assert!(delivery.unwrap().unwrap().parts.is_empty(), "it is not done yet");
    }
    let link = &here.store.inner.link;
    let session = link.connected().await.unwrap().session.clone();
    let statement =
        here.store.statements(&table).get(statements::Kind::PutRecord, link, &session).await.unwrap();
    statement.execute(&session, values).await.unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    let seen = loop {
        let delivery = tokio::time::timeout_at(until.into(), watch.next()).await.expect("the record in time");
        if let Some(part) = delivery.unwrap().unwrap().parts.first() {
            break part.record.write_time;
        }
    };
    assert_eq!(seen, stamp);
    drop_keyspace(&points, &config("late").keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_changes_to_keyspace_are_seen() {
    let Some(points) = contact_points() else { return };
    let config = config("others");
    let keyspace = config.keyspace.clone();
    let data = Data::new(started(&config, &points).await);
    create(&data, "rows").await;
    put(&data, "rows", 10, "a").await.unwrap();
    let raw = session(&points).await;
    let run = async |cql: &str| {
        raw.query_unpaged(cql.replace("KS", &keyspace), ()).await.unwrap();
    };

    // A damaged cell is said to be one, by its reader only.
    put(&data, "rows", 10, "b").await.unwrap();
    run("UPDATE KS.t_rows SET cell = 0x0100 WHERE pk = 'p' AND sk = 'b'").await;
    let damaged = get(&data, "rows", "b").await;
    assert!(matches!(damaged, Err(Error::DataLoss(_))), "{damaged:?}");
    assert!(get(&data, "rows", "a").await.is_ok());

    // A clone died between registering a table and making it: the next to use it does the rest.
    run("INSERT INTO KS.tables (space, name, id, state, sort_key_type, write_mode, create_time_micros) VALUES \
         ('shoal', 'cut_short', uuid(), 'creating', 'STRING', 'LAST_WRITE_WINS', 5)")
    .await;
    put(&data, "cut_short", 10, "a").await.unwrap();
    assert!(get(&data, "cut_short", "a").await.is_ok());

    // Somebody else's table under the name is not taken for ours.
    run("CREATE TABLE KS.t_foreign (pk text PRIMARY KEY)").await;
    let foreign = data.create_table("foreign", SortKeyType::String, WriteMode::LastWriteWins, None).await;
    assert!(matches!(foreign, Err(Error::ForeignTable { .. })), "{foreign:?}");

    // A later release's table is refused, and the others go on.
    run("INSERT INTO KS.tables (space, name, id, state, sort_key_type, write_mode, create_time_micros) VALUES \
         ('shoal', 'later', uuid(), 'ready', 'UUID', 'LAST_WRITE_WINS', 5)")
    .await;
    let later = data.table("later", "table").await;
    assert!(matches!(&later, Err(Error::NewerLayout { table, .. }) if table == "later"), "{later:?}");
    drop_keyspace(&points, &keyspace).await;
}

async fn create(data: &Data<CassandraStore>, table: &str) {
    data.create_table(table, SortKeyType::String, WriteMode::LastWriteWins, None).await.unwrap();
}

async fn put(data: &Data<CassandraStore>, table: &str, at: i64, key: &str) -> Result<WriteTimestamp, Error> {
    let put = Mutation::Put { sort_key: text(key), attributes: holding("x"), ttl: None };
    data.mutate(table, "p".to_owned(), vec![put], &format!("{}-n", moment(at).0)).await
}

async fn get(data: &Data<CassandraStore>, table: &str, key: &str) -> Result<Row, Error> {
    data.get(table, "p".to_owned(), text(key), Consistency::Quorum).await
}

/// Polls until a read is answered.
async fn until_it_answers(data: &Data<CassandraStore>, table: &str) {
    // Well before a session that stays out of reach is made anew.
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match get(data, table, "a").await {
            Ok(_) | Err(Error::RowNotFound) => return,
            Err(error) => assert!(Instant::now() < until, "it does not come back: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Makes settings with the default limits, which the contract's times follow from.
fn strict(test: &str) -> Config {
    Config { keyspace: config(test).keyspace, ..Config::default() }
}

const SOON: Duration = Duration::from_millis(1500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_cassandra_is_used_when_up() {
    let Some(points) = contact_points() else { return };
    let proxy = CqlProxy::start(&points[0], Network::Dead).await;
    let config = strict("start");
    let data = Data::new(CassandraStore::start(config.clone(), vec![proxy.address.clone()]));
    for _ in 0..3 {
        let began = Instant::now();
        let refused = data.table("rows", "table").await;
        assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
    proxy.set(Network::Fine);
    let until = Instant::now() + Duration::from_secs(60);
    while let Err(error) =
        data.create_table("rows", SortKeyType::String, WriteMode::LastWriteWins, None).await
    {
        assert!(Instant::now() < until, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop_keyspace(&points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_hangs_without_cassandra() {
    let Some(points) = contact_points() else { return };
    let proxy = CqlProxy::start(&points[0], Network::Fine).await;
    let config = strict("silent");
    let store = started(&config, std::slice::from_ref(&proxy.address)).await;
    let data = Data::new(store.clone());
    let until = Instant::now() + Duration::from_secs(60);
    while let Err(error) =
        data.create_table("rows", SortKeyType::String, WriteMode::LastWriteWins, None).await
    {
        assert!(Instant::now() < until, "{error}");
    }
    for network in [Network::Silent, Network::Dead] {
        until_it_answers(&data, "rows").await;
        put(&data, "rows", 10, "a").await.unwrap();
        proxy.set(network);
        // Those in flight: a read may be repeated, of a write nobody knows.
        let began = Instant::now();
        let (read, write) = tokio::join!(get(&data, "rows", "a"), put(&data, "rows", 20, "a"));
        assert!(
            matches!(read, Err(Error::ReadFailed { .. } | Error::Unavailable { .. })),
            "{network:?}: {read:?}"
        );
        assert!(
            matches!(&write, Err(Error::OutcomeUnknown { token: Some(token), .. }) if token.stamp() == moment(20)),
            "{network:?}: {write:?}"
        );
        assert!(began.elapsed() < SOON, "{network:?}: {:?}", began.elapsed());
        // Those that come later, once it is known: nothing was sent.
        while store.healthy().is_ok() {
            assert!(began.elapsed() < SOON * 2, "{network:?}: nobody noticed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let began = Instant::now();
        let (read, write) = tokio::join!(get(&data, "rows", "a"), put(&data, "rows", 30, "a"));
        for outcome in [read.map(|_| ()), write.map(|_| ())] {
            assert!(matches!(outcome, Err(Error::Unavailable { .. })), "{network:?}: {outcome:?}");
        }
        assert!(began.elapsed() < Duration::from_millis(200), "{network:?}: {:?}", began.elapsed());
        proxy.set(Network::Fine);
    }
    until_it_answers(&data, "rows").await;
    drop_keyspace(&points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unanswered_write_can_be_repeated() {
    let Some(points) = contact_points() else { return };
    let proxy = CqlProxy::start(&points[0], Network::Fine).await;
    let config = Config { statement_timeout: Duration::from_secs(2), ..config("unknown") };
    let data = Data::new(started(&config, std::slice::from_ref(&proxy.address)).await);
    create(&data, "rows").await;
    put(&data, "rows", 10, "a").await.unwrap();
    proxy.set(Network::NoAnswers);
    let outcome = put(&data, "rows", 20, "b").await;
    let Err(error @ Error::OutcomeUnknown { .. }) = outcome else { panic!("{outcome:?}") };
    let fault = shoal_kit::ApiError::from(error);
    assert_eq!((fault.code(), fault.reason().as_str()), (tonic::Code::Unavailable, "OUTCOME_UNKNOWN"));
    assert!(fault.message().contains("may or may not have happened"), "{}", fault.message());
    assert!(fault.message().contains("idempotency_token"), "{}", fault.message());
    let token = format!("{}-n", moment(20).0);
    let info = tonic_types::StatusExt::get_details_error_info(&tonic::Status::from(fault)).unwrap();
    assert_eq!(info.metadata.get("idempotency_token"), Some(&token), "the same token, so the same write");

    let direct = Data::new(started(&config, &points).await);
    assert!(get(&direct, "rows", "b").await.is_ok(), "it had happened");
    proxy.set(Network::Fine);
    put(&data, "rows", 20, "b").await.unwrap();
    assert_eq!(get(&data, "rows", "b").await.unwrap().write_time, moment(20));
    drop_keyspace(&points, &config.keyspace).await;
}

/// The driver would drop a connection with a thousand orphaned stream ids, and all that is in flight on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_callers_cost_no_connection() {
    let Some(points) = contact_points() else { return };
    let proxy = CqlProxy::start(&points[0], Network::Fine).await;
    let config = config("cancel");
    let store = started(&config, std::slice::from_ref(&proxy.address)).await;
    let data = Data::new(store.clone());
    create(&data, "rows").await;
    put(&data, "rows", 10, "a").await.unwrap();
    let connections = proxy.connections.load(Ordering::SeqCst);

    // Fifteen hundred statements are sent while no answer comes, and their callers leave.
    proxy.set(Network::NoAnswers);
    let silent = Instant::now();
    let calls: Vec<_> = (0..1500)
        .map(|i| {
            let data = data.clone();
            tokio::spawn(async move { put(&data, "rows", 100 + i, &format!("k{i}")).await })
        })
        .collect();
    let in_flight = || config.statements_max - store.inner.link.free_statements();
    let until = Instant::now() + Duration::from_secs(30);
    while in_flight() < 1500 {
        assert!(Instant::now() < until, "{} in flight", in_flight());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for call in &calls {
        call.abort();
    }
    // Once a second the driver counts the orphans that are older than a second: nothing may come of that.
    tokio::time::sleep(Duration::from_millis(2200)).await;
    proxy.set(Network::Fine);
    while in_flight() > 0 {
        assert!(Instant::now() < until, "{} in flight", in_flight());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let last = get(&data, "rows", "k1499").await;
    assert!(last.is_ok(), "what was sent was done {:?}: {last:?}", silent.elapsed());
    assert_eq!(proxy.connections.load(Ordering::SeqCst), connections, "connections were made anew");
    drop_keyspace(&points, &config.keyspace).await;
}

#[tokio::test]
async fn statements_past_the_limit_are_refused() {
    let Some(points) = contact_points() else { return };
    let proxy = CqlProxy::start(&points[0], Network::Fine).await;
    let config = Config { statements_max: 2, ..config("limit") };
    let store = started(&config, std::slice::from_ref(&proxy.address)).await;
    let data = Data::new(store.clone());
    create(&data, "rows").await;
    put(&data, "rows", 10, "a").await.unwrap();
    proxy.set(Network::NoAnswers);
    let waiting: Vec<_> = (0..2)
        .map(|i| {
            let data = data.clone();
            tokio::spawn(async move { put(&data, "rows", 20 + i, "b").await })
        })
        .collect();
    while store.inner.link.free_statements() > 0 {
        tokio::task::yield_now().await;
    }
    let refused = put(&data, "rows", 30, "c").await;
    assert!(matches!(refused, Err(Error::Overloaded { limit: 2 })), "{refused:?}");
    proxy.set(Network::Fine);
    for call in waiting {
        call.await.unwrap().unwrap();
    }
    drop_keyspace(&points, &config.keyspace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_clock_refuses_writes() {
    let Some(points) = contact_points() else { return };
    let config = config("drift");
    let store = started(&config, &points).await;
    let data = Data::new(store.clone());
    create(&data, "rows").await;
    data.create_table("c", SortKeyType::String, WriteMode::Conditional, None).await.unwrap();
    data.create(feed_of("watched")).await.unwrap();
    let check = async || {
        let put = Mutation::Put { sort_key: text("a"), attributes: holding("x"), ttl: None };
        data.check_and_mutate("c", "p".to_owned(), vec![], vec![put], "").await
    };
    for _ in 0..3 {
        store.measure_drift().await.unwrap();
    }
    put(&data, "rows", 10, "a").await.unwrap();
    check().await.unwrap();
    super::drift::tests::pretend(&store, config.clock_drift_max + Duration::from_secs(1));
    let refused = put(&data, "rows", 20, "a").await.unwrap_err();
    assert!(matches!(check().await, Err(Error::ClockDrift { .. })));
    let fault = shoal_kit::ApiError::from(refused);
    assert_eq!((fault.code(), fault.reason().as_str()), (tonic::Code::Unavailable, "CLOCK_DRIFT"));
    assert!(fault.message().contains(" s, more than data.clock_drift_max (5s)"), "{}", fault.message());
    assert!(get(&data, "rows", "a").await.is_ok(), "reads go on");
    // A place of this clock would pass over changes.
    let watch = data.watch("watched", String::new(), "").await.err();
    assert!(matches!(watch, Some(Error::ClockDrift { .. })), "{watch:?}");
    for _ in 0..2 {
        store.measure_drift().await.unwrap();
    }
    put(&data, "rows", 30, "a").await.unwrap();
    drop_keyspace(&points, &config.keyspace).await;
}
