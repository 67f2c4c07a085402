//! BulkMutate: a result for each Mutate of a stream, whatever becomes of the others.

use shoal_proto::data::v1::bulk_mutate_response::Result as Outcome;
use shoal_proto::data::v1::put_blob_request::Part;
use shoal_proto::data::v1::{BlobStart, PutBlobRequest};
use shoal_proto::data::v1::{
    BulkMutateRequest, BulkMutateResponse, CreateTableRequest, DropTableRequest, MutateRequest, Mutation,
    SortKeyType, Table, UpdateTableRequest, WriteMode,
};
use tonic::Code;

use crate::mesh::{Client, TestClone, create, get, put, refused, text};

fn mutate(table: &str, mutations: Vec<Mutation>) -> BulkMutateRequest {
    let mutate = MutateRequest {
        table: table.to_owned(),
        partition_key: "p".to_owned(),
        mutations,
        idempotency_token: String::new(),
    };
    BulkMutateRequest { mutate: Some(mutate) }
}

async fn bulk(client: &Client, requests: Vec<BulkMutateRequest>) -> Vec<BulkMutateResponse> {
    let mut results = client.clone().bulk_mutate(futures::stream::iter(requests)).await.unwrap().into_inner();
    let mut found = Vec::new();
    while let Some(result) = results.message().await.unwrap() {
        found.push(result);
    }
    found
}

/// Returns what the error of a stream says.
async fn ended(client: &Client, requests: Vec<BulkMutateRequest>) -> tonic::Status {
    let mut results = match client.clone().bulk_mutate(futures::stream::iter(requests)).await {
        Ok(results) => results.into_inner(),
        Err(status) => return status,
    };
    loop {
        match results.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without an error"),
            Err(status) => return status,
        }
    }
}

#[tokio::test]
async fn oversized_messages_name_the_limit() {
    let clone = TestClone::start("").await;
    create(&clone.client, "t", SortKeyType::String).await;
    let large = mutate("t", vec![put("large", &"x".repeat(5 << 20))]);
    let status = ended(&clone.client, vec![mutate("t", vec![put("a", "1")]), large]).await;
    assert!(status.message().contains(&(4 << 20).to_string()), "{status:?}");
    let (code, reason, _) = refused(Err::<(), _>(status));
    assert_eq!((code, reason.as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));

    let start = BlobStart {
        sort_key: Some(text("blob")),
        table: "t".to_owned(),
        partition_key: "p".to_owned(),
        ..Default::default()
    };
    let parts = [Part::Start(start), Part::Chunk(vec![7; 5 << 20].into())];
    let parts = parts.map(|part| PutBlobRequest { part: Some(part) });
    let status = clone.client.clone().put_blob(futures::stream::iter(parts)).await.unwrap_err();
    assert!(status.message().contains(&(4 << 20).to_string()), "{status:?}");
    let (code, reason, _) = refused(Err::<(), _>(status));
    assert_eq!((code, reason.as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
    clone.stop().await;
}

#[tokio::test]
async fn each_write_of_a_stream_has_a_result() {
    let clone = TestClone::start("").await;
    create(&clone.client, "t", SortKeyType::String).await;
    let conditional =
        Table { name: "c".to_owned(), write_mode: WriteMode::Conditional.into(), ..Table::default() };
    let request = CreateTableRequest { table: Some(conditional) };
    clone.client.clone().create_table(request).await.unwrap();
    let large = || "x".repeat(700_000);
    let mut requests: Vec<_> = (0..400)
        .map(|i| mutate("t", vec![put("same", &i.to_string()), put(&format!("k{i}"), "1")]))
        .collect();
    requests.extend((0..20).map(|i| mutate("t", vec![put(&format!("large{i}"), &large())])));
    requests[7] = mutate("nowhere", vec![put("a", "1")]);
    requests[8] = mutate("t", vec![]);
    requests[9] = mutate("c", vec![put("a", "1")]);
    requests[10] = BulkMutateRequest::default();
    let results = bulk(&clone.client, requests).await;
    assert_eq!(results.len(), 420);
    for (i, result) in results.iter().enumerate() {
        assert_eq!(result.index, i as i64);
        let error = match result.result.as_ref().unwrap() {
            Outcome::WriteTime(_) => None,
            Outcome::Error(error) => Some((Code::from(error.code), error.reason.as_str())),
        };
        let expected = match i {
            7 => Some((Code::NotFound, "TABLE_NOT_FOUND")),
            8 | 10 => Some((Code::InvalidArgument, "INVALID_MUTATIONS")),
            9 => Some((Code::FailedPrecondition, "WRONG_WRITE_MODE")),
            _ => None,
        };
        assert_eq!(error, expected, "{i}");
    }
    let row = get(&clone.client, "t", "same").await.unwrap();
    assert_eq!(
        row.attributes["v"],
        crate::mesh::text("399"),
        "writes of one row keep the order of the stream"
    );
    assert!(get(&clone.client, "t", "large19").await.is_ok());
    clone.stop().await;
}

#[tokio::test]
async fn tables_are_changed_and_dropped() {
    let clone = TestClone::start("").await;
    let created = create(&clone.client, "t", SortKeyType::String).await;
    let update = async |paths: &[&str]| {
        let request = UpdateTableRequest {
            table: Some(Table {
                name: "t".to_owned(),
                default_ttl: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
                description: "of people".to_owned(),
                ..Table::default()
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: paths.iter().map(|&path| path.to_owned()).collect(),
            }),
        };
        clone.client.clone().update_table(request).await.map(|answer| answer.into_inner().table.unwrap())
    };
    let changed = update(&["description"]).await.unwrap();
    assert_eq!((changed.description.as_str(), changed.default_ttl), ("of people", None));
    let changed = update(&["default_ttl"]).await.unwrap();
    assert_eq!(changed.default_ttl.unwrap().seconds, 60);
    for paths in [&[][..], &["name"]] {
        let (code, reason, field) = refused(update(paths).await);
        assert_eq!(
            (code, reason.as_str(), field.as_str()),
            (Code::InvalidArgument, "INVALID_UPDATE_MASK", "update_mask")
        );
    }
    let drop = async |create_time| {
        clone.client.clone().drop_table(DropTableRequest { name: "t".to_owned(), create_time }).await
    };
    let (code, reason, _) = refused(drop(Some(prost_types::Timestamp { seconds: 1, nanos: 0 })).await);
    assert_eq!((code, reason.as_str()), (Code::Aborted, "TABLE_CHANGED"));
    drop(created.create_time).await.unwrap();
    let (code, reason, _) = refused(drop(None).await);
    assert_eq!((code, reason.as_str()), (Code::NotFound, "TABLE_NOT_FOUND"));
    clone.stop().await;
}
