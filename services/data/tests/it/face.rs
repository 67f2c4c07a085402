//! The gRPC face: values come back as they were sent, and errors say what was wrong with which field.

use shoal_proto::data::v1::{
    BatchGetRequest, CheckAndMutateRequest, Condition, Consistency, CreateTableRequest, GetRequest,
    GetTableRequest, ListTablesRequest, MutateRequest, Mutation, QueryRequest, RowKey, SortKeyType, Table,
    condition, mutation,
};
use shoal_proto::r#type::v1::{Value, value};
use tonic::Code;

use crate::mesh::{Client, TestClone, create, get, mutate, put, refused, text};

fn kind(kind: value::Kind) -> Value {
    Value { kind: Some(kind) }
}

async fn write(client: &Client, put: mutation::Put) -> Result<(), tonic::Status> {
    mutate(client, "t", vec![Mutation { kind: Some(mutation::Kind::Put(put)) }]).await
}

#[tokio::test]
async fn every_kind_of_value_comes_back() {
    let clone = TestClone::start("").await;
    let created = create(&clone.client, "t", SortKeyType::Unspecified).await;
    assert_eq!(created.sort_key_type(), SortKeyType::String, "the default is said");
    let attributes = [
        ("s".to_owned(), text("ä")),
        ("i".to_owned(), kind(value::Kind::IntValue(i64::MIN))),
        ("d".to_owned(), kind(value::Kind::DoubleValue(1.5))),
        ("b".to_owned(), kind(value::Kind::BoolValue(false))),
        ("x".to_owned(), kind(value::Kind::BytesValue(vec![0, 255].into()))),
        ("t".to_owned(), kind(value::Kind::TimeValue(prost_types::Timestamp { seconds: -1, nanos: 5 }))),
    ];
    let put = mutation::Put {
        sort_key: Some(text("k")),
        attributes: attributes.clone().into(),
        ttl: Some(prost_types::Duration { seconds: 60, nanos: 1 }),
    };
    write(&clone.client, put).await.unwrap();
    let row = get(&clone.client, "t", "k").await.unwrap();
    assert_eq!((row.attributes, row.sort_key), (attributes.into(), Some(text("k"))));
    let (put, end) = (row.write_time.unwrap(), row.expire_time.unwrap());
    assert_eq!((end.seconds - put.seconds, end.nanos), (61, put.nanos), "rounded up to a second");
    let left = row.remaining_ttl.unwrap();
    assert!((1..=61).contains(&left.seconds), "{left:?}");

    let keys = ["k", "x"].map(|key| RowKey { partition_key: "p".to_owned(), sort_key: Some(text(key)) });
    let request = BatchGetRequest { table: "t".to_owned(), keys: keys.into(), consistency: 0 };
    let answer = clone.client.clone().batch_get(request).await.unwrap().into_inner();
    assert_eq!(answer.consistency_achieved(), Consistency::Strong, "there is one copy");
    let results = answer.results;
    assert_eq!(results.iter().map(|result| result.row.is_some()).collect::<Vec<_>>(), [true, false]);
    assert_eq!(results[0].row.as_ref().unwrap().partition_key, "p");
    clone.stop().await;
}

#[tokio::test]
async fn errors_name_reason_and_field() {
    let clone = TestClone::start("").await;
    let client = &clone.client;
    create(client, "t", SortKeyType::String).await;
    let invalid = |reason: &str, field: &str| (Code::InvalidArgument, reason.to_owned(), field.to_owned());

    let table = |name: &str, sort_key_type: i32, seconds: i64| CreateTableRequest {
        table: Some(Table {
            name: name.to_owned(),
            sort_key_type,
            default_ttl: (seconds != 0).then_some(prost_types::Duration { seconds, nanos: 0 }),
            ..Table::default()
        }),
    };
    let mut caller = client.clone();
    let outcome = caller.create_table(CreateTableRequest::default()).await;
    assert_eq!(refused(outcome), invalid("TABLE_REQUIRED", "table"));
    let outcome = caller.create_table(table("", 0, 0)).await;
    assert_eq!(refused(outcome), invalid("INVALID_TABLE_NAME", "table.name"));
    let outcome = caller.create_table(table("u", 77, 0)).await;
    assert_eq!(refused(outcome), invalid("UNKNOWN_ENUM_VALUE", "table.sort_key_type"));
    let outcome = caller.create_table(table("u", 0, -1)).await;
    assert_eq!(refused(outcome), invalid("INVALID_TTL", "table.default_ttl"));
    let (code, reason, _) = refused(caller.create_table(table("t", 2, 0)).await);
    assert_eq!((code, reason.as_str()), (Code::AlreadyExists, "TABLE_EXISTS"));
    let (code, reason, _) = refused(caller.get_table(GetTableRequest { name: "u".to_owned() }).await);
    assert_eq!((code, reason.as_str()), (Code::NotFound, "TABLE_NOT_FOUND"));
    let outcome = caller.list_tables(ListTablesRequest { page_size: 0, page_token: "x".to_owned() }).await;
    assert_eq!(refused(outcome), invalid("INVALID_PAGE_TOKEN", "page_token"));

    let (code, reason, _) = refused(get(client, "t", "missing").await);
    assert_eq!((code, reason.as_str()), (Code::NotFound, "ROW_NOT_FOUND"));
    let key = GetRequest { table: "t".to_owned(), partition_key: "p".to_owned(), ..GetRequest::default() };
    assert_eq!(refused(caller.get(key.clone()).await), invalid("SORT_KEY_REQUIRED", "sort_key"));
    let unset = GetRequest { sort_key: Some(Value { kind: None }), ..key.clone() };
    assert_eq!(refused(caller.get(unset).await), invalid("VALUE_WITHOUT_KIND", "sort_key"));
    let unknown = GetRequest { sort_key: Some(text("a")), consistency: 9, ..key };
    assert_eq!(refused(caller.get(unknown).await), invalid("UNKNOWN_ENUM_VALUE", "consistency"));

    let outcome = mutate(client, "t", vec![put("a", "1"), Mutation { kind: None }]).await;
    assert_eq!(refused(outcome), invalid("MUTATION_WITHOUT_KIND", "mutations[1]"));
    let time = prost_types::Timestamp { seconds: i64::MAX, nanos: 0 };
    let far = mutation::Put {
        sort_key: Some(text("a")),
        attributes: [("t".to_owned(), kind(value::Kind::TimeValue(time)))].into(),
        ttl: None,
    };
    assert_eq!(
        refused(write(client, far).await),
        invalid("INVALID_TIMESTAMP", "mutations[0].put.attributes[\"t\"]")
    );
    let with = |name: &str, ttl| mutation::Put {
        sort_key: Some(text("a")),
        attributes: [(name.to_owned(), text("1"))].into(),
        ttl,
    };
    let outcome = write(client, with("blob.upload", None)).await;
    assert_eq!(
        refused(outcome),
        invalid("INVALID_ATTRIBUTE_NAME", "mutations[0].put.attributes[\"blob.upload\"]")
    );
    for (seconds, nanos) in [(5, -1), (-5, 1), (0, -1), (-1, 0), (5, 1_000_000_000)] {
        let mixed = Some(prost_types::Duration { seconds, nanos });
        assert_eq!(
            refused(write(client, with("v", mixed)).await),
            invalid("INVALID_TTL", "mutations[0].put.ttl")
        );
    }
    let range = mutation::DeleteRange { start: Some(text("b")), end: Some(text("a")) };
    let range = Mutation { kind: Some(mutation::Kind::DeleteRange(range)) };
    let inverted = mutate(client, "t", vec![range]).await;
    assert_eq!(refused(inverted), invalid("INVERTED_RANGE", "mutations[0].delete_range.end"));
    let size = condition::Size { name: "v".to_owned(), bytes: -1, ..condition::Size::default() };
    let condition = Condition { sort_key: Some(text("a")), kind: Some(condition::Kind::Size(size)) };
    let check = CheckAndMutateRequest {
        table: "t".to_owned(),
        partition_key: "p".to_owned(),
        conditions: vec![condition],
        mutations: vec![put("a", "1")],
        ..CheckAndMutateRequest::default()
    };
    let outcome = caller.check_and_mutate(check).await;
    assert_eq!(refused(outcome), invalid("INVALID_CONDITIONS", "conditions[0].size.bytes"));
    let token = MutateRequest {
        table: "t".to_owned(),
        partition_key: "p".to_owned(),
        mutations: vec![put("a", "1")],
        idempotency_token: "yesterday".to_owned(),
    };
    assert_eq!(
        refused(caller.mutate(token).await),
        invalid("INVALID_IDEMPOTENCY_TOKEN", "idempotency_token")
    );
    let query = QueryRequest { table: "t".to_owned(), ..QueryRequest::default() };
    assert_eq!(refused(caller.query(query).await), invalid("INVALID_PARTITION_KEY", "partition_key"));
    let keys = BatchGetRequest { table: "t".to_owned(), ..BatchGetRequest::default() };
    assert_eq!(refused(caller.batch_get(keys).await), invalid("INVALID_KEYS", "keys"));

    // And after all that the clone still works.
    mutate(client, "t", vec![put("a", "1")]).await.unwrap();
    assert!(get(client, "t", "a").await.is_ok());
    clone.stop().await;
}

#[tokio::test]
async fn largest_write_and_page_pass() {
    let clone = TestClone::start("").await;
    create(&clone.client, "t", SortKeyType::String).await;
    let large = |key: &str, bytes: usize| mutation::Put {
        sort_key: Some(text(key)),
        attributes: [("v".to_owned(), kind(value::Kind::BytesValue(vec![7; bytes].into())))].into(),
        ttl: None,
    };
    let both =
        ["a", "b"].map(|key| Mutation { kind: Some(mutation::Kind::Put(large(key, (1 << 20) - 100))) });
    mutate(&clone.client, "t", both.into()).await.unwrap();
    let query =
        QueryRequest { table: "t".to_owned(), partition_key: "p".to_owned(), ..QueryRequest::default() };
    let page = clone.client.clone().query(query).await.unwrap().into_inner();
    assert_eq!((page.rows.len(), page.next_page_token.is_empty()), (1, false));
    let (code, reason, _) = refused(write(&clone.client, large("c", 5 << 20)).await);
    assert_eq!((code, reason.as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
    clone.stop().await;
}
