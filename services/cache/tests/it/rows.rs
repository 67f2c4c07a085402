//! The built-in kind `data.TABLE`, against a small DataService.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use prost::Message as _;
use shoal_kit::ApiError;
use shoal_proto::data::v1 as data;
use shoal_proto::r#type::v1::{Value, value};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};

use crate::harness::{Clone, Peer, reason};

/// Tables and rows in memory; only what the cache calls is there.
#[derive(Clone, Default)]
struct Rows {
    tables: Arc<HashMap<&'static str, data::SortKeyType>>,
    rows: Arc<Mutex<Vec<(String, data::Row)>>>,
    gets: Arc<AtomicUsize>,
    /// The number of keys of each BatchGet.
    batches: Arc<Mutex<Vec<usize>>>,
    table_gets: Arc<AtomicUsize>,
}

impl Rows {
    fn new() -> Self {
        let tables = HashMap::from([
            ("users", data::SortKeyType::None),
            ("posts", data::SortKeyType::Int64),
            ("notes", data::SortKeyType::String),
        ]);
        Self { tables: Arc::new(tables), ..Self::default() }
    }

    fn put(&self, table: &str, partition_key: &str, sort_key: Option<value::Kind>, name: &str) {
        let text = Value { kind: Some(value::Kind::StringValue(name.to_owned())) };
        let row = data::Row {
            partition_key: partition_key.to_owned(),
            sort_key: sort_key.map(|kind| Value { kind: Some(kind) }),
            attributes: [("name".to_owned(), text)].into(),
            ..Default::default()
        };
        let mut rows = self.rows.lock().expect("no panic");
        rows.retain(|(of, old)| {
            (of.as_str(), &old.partition_key, &old.sort_key) != (table, &row.partition_key, &row.sort_key)
        });
        rows.push((table.to_owned(), row));
    }
}

fn missing(reason: shoal_kit::reason::Reason) -> Status {
    ApiError::new(Code::NotFound, reason, "not there").into()
}

impl Rows {
    fn get_table(&self, request: data::GetTableRequest) -> Result<data::GetTableResponse, Status> {
        self.table_gets.fetch_add(1, Ordering::SeqCst);
        let name = request.name;
        let sort_key_type =
            *self.tables.get(name.as_str()).ok_or_else(|| missing(shoal_kit::reason::TABLE_NOT_FOUND))?;
        let table = data::Table { name, sort_key_type: sort_key_type.into(), ..Default::default() };
        Ok(data::GetTableResponse { table: Some(table) })
    }

    fn get(&self, get: &data::GetRequest) -> Result<data::GetResponse, Status> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        assert_ne!(get.consistency(), data::Consistency::Eventual, "a stale row would be cached as new");
        let rows = self.rows.lock().expect("no panic");
        let row = rows.iter().find(|(table, row)| {
            (table, &row.partition_key, &row.sort_key) == (&get.table, &get.partition_key, &get.sort_key)
        });
        let (_, row) = row.ok_or_else(|| missing(shoal_kit::reason::ROW_NOT_FOUND))?;
        Ok(data::GetResponse { row: Some(row.clone()), ..Default::default() })
    }
}

impl Rows {
    /// Answers two keys at a time, as for large rows.
    fn batch_get(&self, get: &data::BatchGetRequest) -> data::BatchGetResponse {
        assert_ne!(get.consistency(), data::Consistency::Eventual, "a stale row would be cached as new");
        self.batches.lock().expect("no panic").push(get.keys.len());
        let rows = self.rows.lock().expect("no panic");
        let find = |key: &data::RowKey| {
            let of = |(table, row): &&(String, data::Row)| {
                (table, &row.partition_key, &row.sort_key) == (&get.table, &key.partition_key, &key.sort_key)
            };
            data::BatchGetResult { row: rows.iter().find(of).map(|(_, row)| row.clone()) }
        };
        data::BatchGetResponse { results: get.keys.iter().take(2).map(find).collect(), ..Default::default() }
    }
}

/// Serves the three methods that the cache calls; any other path is UNIMPLEMENTED.
impl tower::Service<http::Request<Body>> for Rows {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let rows = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/shoal.data.v1.DataService/Get" => unary(request, move |get| rows.get(&get)).await,
                "/shoal.data.v1.DataService/BatchGet" => {
                    unary(request, move |get| Ok(rows.batch_get(&get))).await
                }
                "/shoal.data.v1.DataService/GetTable" => unary(request, move |get| rows.get_table(get)).await,
                path => Status::unimplemented(format!("the cache does not call {path}")).into_http(),
            })
        })
    }
}

impl NamedService for Rows {
    const NAME: &'static str = "shoal.data.v1.DataService";
}

async fn unary<I, O>(
    request: http::Request<Body>,
    answer: impl Fn(I) -> Result<O, Status> + Send + Sync + 'static,
) -> http::Response<Body>
where
    I: prost::Message + Default + 'static,
    O: prost::Message + Default + 'static,
{
    let service = tower::service_fn(move |request: Request<I>| {
        std::future::ready(answer(request.into_inner()).map(Response::new))
    });
    tonic::server::Grpc::new(tonic_prost::ProstCodec::<O, I>::default()).unary(service, request).await
}

async fn start(rows: &Rows) -> (Peer, Clone) {
    let peer = Peer::start(Routes::new(rows.clone())).await;
    let clone = Clone::start(&format!("[peer]\ndata = '{}'\n", peer.address)).await;
    (peer, clone)
}

async fn name(clone: &Clone, kind: &str, id: &str) -> Result<(String, bool), Status> {
    let object = clone.get_object(kind, id).await?;
    let row = data::Row::decode(object.value).expect("a row");
    let Some(value::Kind::StringValue(name)) = row.attributes["name"].kind.clone() else { panic!("{row:?}") };
    Ok((name, object.from_cache))
}

#[tokio::test(flavor = "multi_thread")]
async fn row_is_loaded_then_cached() {
    let rows = Rows::new();
    rows.put("users", "ada", None, "Ada");
    rows.put("users", "a/b%", None, "Slash");
    rows.put("posts", "ada", Some(value::Kind::IntValue(-7)), "Minus seven");
    rows.put("notes", "a/b", Some(value::Kind::StringValue("x/y".into())), "Note");
    let (_peer, clone) = start(&rows).await;
    for (kind, id, wanted) in [
        ("data.users", "ada", "Ada"),
        ("data.users", "a%2Fb%25", "Slash"),
        ("data.posts", "ada/-7", "Minus seven"),
        ("data.notes", "a%2Fb/x/y", "Note"),
    ] {
        for from_cache in [false, true] {
            assert_eq!(name(&clone, kind, id).await.expect(id), (wanted.to_owned(), from_cache));
        }
    }
    assert_eq!(rows.table_gets.load(Ordering::SeqCst), 3, "definitions are remembered");
    rows.put("users", "ada", None, "Lovelace");
    clone.delete("object.data.users", "ada").await.expect("deleted");
    assert_eq!(name(&clone, "data.users", "ada").await.expect("loaded"), ("Lovelace".to_owned(), false));
    clone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_rows_cached_missing_tables_refused() {
    let rows = Rows::new();
    let (_peer, clone) = start(&rows).await;
    for _ in 0..3 {
        let status = clone.get_object("data.users", "nobody").await.expect_err("no row");
        assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "OBJECT_NOT_FOUND"));
    }
    assert_eq!(rows.gets.load(Ordering::SeqCst), 1);
    let status = clone.get_object("data.nothing", "ada").await.expect_err("no table");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "LOADER_REFUSED"));
    assert!(status.message().contains("table `nothing`"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_row_ids_are_refused() {
    let (_peer, clone) = start(&Rows::new()).await;
    for (kind, id, part) in [
        ("data.users", "ada/7", "%2F"),
        ("data.users", "%61", "%25"),
        ("data.posts", "ada", "PARTITION_KEY/SORT_KEY"),
        ("data.posts", "ada/07", "shortest form"),
    ] {
        let status = clone.get_object(kind, id).await.expect_err(id);
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_OBJECT_ID"));
        assert!(status.message().contains(part), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_batch_are_read_together() {
    let rows = Rows::new();
    for id in ["ada", "alan", "grace"] {
        rows.put("users", id, None, id);
    }
    let (_peer, clone) = start(&rows).await;
    let ids = ["grace", "a/b", "ada", "nobody", "alan"];
    for from_cache in [false, true] {
        let names: Vec<String> = clone
            .get_objects("data.users", &ids)
            .await
            .expect("valid")
            .into_iter()
            .map(|result| match result {
                Ok(object) => {
                    assert_eq!(object.from_cache, from_cache);
                    data::Row::decode(object.value).expect("a row").partition_key
                }
                Err(error) => error.reason,
            })
            .collect();
        assert_eq!(names, ["grace", "INVALID_OBJECT_ID", "ada", "OBJECT_NOT_FOUND", "alan"]);
    }
    assert_eq!(*rows.batches.lock().expect("no panic"), [4, 2], "the id that names no row is not asked for");
    assert_eq!(rows.gets.load(Ordering::SeqCst), 0);
}
