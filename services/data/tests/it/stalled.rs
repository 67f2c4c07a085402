//! Callers that open streams and stop reading: their places are given back.

use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::stream;
use shoal_proto::data::v1::get_blob_response::Part as Answer;
use shoal_proto::data::v1::put_blob_request::Part;
use shoal_proto::data::v1::{
    BlobStart, GetBlobRequest, GetBlobResponse, MutateRequest, PutBlobRequest, ScanRequest, ScanResponse,
    SortKeyType,
};
use tonic::{Code, Status, Streaming};

use crate::mesh::{Client, TestClone, create, put, refused, text};

/// Time for which callers read nothing: twice the limit.
const STALL: Duration = Duration::from_secs(4);
/// Longest time that a caller waits for a place.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of a row or blob: more than a stream's window, and little enough that the clone has memory for all that are not read.
const LARGE: usize = 200_000;
/// Bytes of a blob: two chunks.
const BLOB: usize = 1 << 20;
/// Window of a stream that nobody reads.
const WINDOW: u32 = 65_535;

async fn get_blob(client: &Client) -> Result<Streaming<GetBlobResponse>, Status> {
    let request = GetBlobRequest {
        table: "t".to_owned(),
        partition_key: "p".to_owned(),
        sort_key: Some(text("blob")),
        ..GetBlobRequest::default()
    };
    client.clone().get_blob(request).await.map(tonic::Response::into_inner)
}

async fn scan(client: &Client, resume_token: &str) -> Result<Streaming<ScanResponse>, Status> {
    let request = ScanRequest {
        table: "t".to_owned(),
        resume_token: resume_token.to_owned(),
        ..ScanRequest::default()
    };
    client.clone().scan(request).await.map(tonic::Response::into_inner)
}

/// Opens more streams at once than the clone has places for. Returns those that it took.
async fn take_all_places<T>(
    full: &str,
    open: impl AsyncFn() -> Result<Streaming<T>, Status>,
) -> Vec<Streaming<T>> {
    let (mut taken, mut too_many) = (Vec::new(), 0);
    for outcome in join_all((0..80).map(|_| open())).await {
        match outcome {
            Ok(stream) => taken.push(stream),
            Err(status) => {
                let (code, reason, _) = refused::<()>(Err(status));
                assert_eq!((code, reason.as_str()), (Code::ResourceExhausted, full));
                too_many += 1;
            }
        }
    }
    assert!(too_many > 0, "the clone has places for all");
    taken
}

/// The partitions of a message's rows.
fn keys(message: &ScanResponse) -> Vec<String> {
    message.rows.iter().map(|row| row.partition_key.clone()).collect()
}

/// Opens a stream once there is a place for it.
async fn served<T>(open: impl AsyncFn() -> Result<Streaming<T>, Status>) -> Streaming<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        match open().await {
            Ok(stream) => return stream,
            Err(status) => assert!(Instant::now() < end, "{status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Reads a stream to its end, which must be the error of a reader that has stalled.
async fn messages_before_the_error<T>(mut stream: Streaming<T>) -> Vec<T> {
    let mut messages = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => panic!("a stalled stream ended as if it were whole"),
            Err(status) => {
                let (code, reason, _) = refused::<()>(Err(status));
                assert_eq!((code, reason.as_str()), (Code::ResourceExhausted, "ANSWER_NOT_READ"));
                return messages;
            }
        }
    }
}

#[tokio::test]
async fn stalled_blob_reader_is_told() {
    let clone = TestClone::start("[data]\nstream_idle_max = '2s'").await;
    create(&clone.client, "t", SortKeyType::String).await;
    let start = BlobStart {
        table: "t".to_owned(),
        partition_key: "p".to_owned(),
        sort_key: Some(text("blob")),
        size: Some(BLOB as i64),
        ..BlobStart::default()
    };
    let parts = [Part::Start(start), Part::Chunk(vec![7; BLOB].into())];
    let parts = parts.map(|part| PutBlobRequest { part: Some(part) });
    clone.client.clone().put_blob(stream::iter(parts)).await.unwrap();

    let slow = clone.client_with_window(WINDOW);
    let stalled = get_blob(&slow).await.unwrap();
    // Nothing is read meanwhile.
    tokio::time::sleep(STALL).await;
    messages_before_the_error(stalled).await;
    let mut fresh = get_blob(&clone.client).await.unwrap();
    let mut bytes = 0;
    while let Some(answer) = fresh.message().await.unwrap() {
        if let Some(Answer::Chunk(chunk)) = answer.part {
            bytes += chunk.data.len();
        }
    }
    assert_eq!(bytes, BLOB);
    clone.stop().await;
}

#[tokio::test]
async fn stalled_scans_give_way_and_resume() {
    let clone = TestClone::start("[data]\nstream_idle_max = '2s'").await;
    create(&clone.client, "t", SortKeyType::String).await;
    for row in 0..8 {
        let request = MutateRequest {
            table: "t".to_owned(),
            partition_key: format!("{row}"),
            mutations: vec![put("row", &"v".repeat(LARGE))],
            ..MutateRequest::default()
        };
        clone.client.clone().mutate(request).await.unwrap();
    }
    let slow = clone.client_with_window(WINDOW);
    let mut stalled = take_all_places("TOO_MANY_SCANS", async || scan(&slow, "").await).await;
    let mut fresh = served(async || scan(&clone.client, "").await).await;
    let mut whole = Vec::new();
    while let Some(message) = fresh.message().await.unwrap() {
        whole.extend(keys(&message));
    }
    whole.sort();
    assert_eq!(whole.len(), 8);
    // All of them have reached the limit now.
    tokio::time::sleep(STALL).await;
    // What a stalled scan has given stands, and its token goes on behind it.
    let messages = messages_before_the_error(stalled.swap_remove(0)).await;
    let token = messages.last().map(|message| message.resume_token.clone()).unwrap_or_default();
    let mut resumed: Vec<_> = messages.iter().flat_map(keys).collect();
    let mut rest = served(async || scan(&clone.client, &token).await).await;
    while let Some(message) = rest.message().await.unwrap() {
        resumed.extend(keys(&message));
    }
    resumed.sort();
    assert_eq!(resumed, whole);
    clone.stop().await;
}
