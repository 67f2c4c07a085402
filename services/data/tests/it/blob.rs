//! PutBlob and GetBlob over a connection: a blob is there when its upload was answered, and not before.

use futures::stream::{self, StreamExt as _};
use shoal_proto::data::v1::get_blob_response::Part as Answer;
use shoal_proto::data::v1::put_blob_request::Part;
use shoal_proto::data::v1::{Blob, BlobEnd, BlobStart, GetBlobRequest, PutBlobRequest, SortKeyType};
use tonic::{Code, Status};

use crate::mesh::{Client, TestClone, create, refused, text};

fn start() -> PutBlobRequest {
    let start = BlobStart {
        table: "t".to_owned(),
        partition_key: "p".to_owned(),
        sort_key: Some(text("a")),
        ..BlobStart::default()
    };
    PutBlobRequest { part: Some(Part::Start(start)) }
}

fn chunk(byte: u8) -> PutBlobRequest {
    PutBlobRequest { part: Some(Part::Chunk(vec![byte; 1 << 20].into())) }
}

fn end() -> PutBlobRequest {
    PutBlobRequest { part: Some(Part::End(BlobEnd {})) }
}

async fn download(client: &Client) -> Result<(Blob, Vec<u8>), Status> {
    let request = GetBlobRequest {
        table: "t".to_owned(),
        partition_key: "p".to_owned(),
        sort_key: Some(text("a")),
        ..GetBlobRequest::default()
    };
    let mut answers = client.clone().get_blob(request).await?.into_inner();
    let (mut blob, mut bytes) = (None, Vec::new());
    while let Some(answer) = answers.message().await? {
        match answer.part.unwrap() {
            Answer::Blob(found) => blob = Some(found),
            Answer::Chunk(chunk) => {
                assert_eq!(chunk.offset, bytes.len() as i64);
                bytes.extend_from_slice(&chunk.data);
            }
        }
    }
    Ok((blob.unwrap(), bytes))
}

#[tokio::test]
async fn uploads_are_visible_when_whole() {
    let clone = TestClone::start("").await;
    create(&clone.client, "t", SortKeyType::String).await;
    let (code, reason, _) = refused(download(&clone.client).await);
    assert_eq!((code, reason.as_str()), (Code::NotFound, "BLOB_NOT_FOUND"));
    let requests = stream::iter([start(), chunk(1), chunk(2), chunk(3), end()]);
    let put = clone.client.clone().put_blob(requests).await.unwrap().into_inner().blob.unwrap();
    let expected = [1, 2, 3].map(|byte| vec![byte; 1 << 20]).concat();
    let found = download(&clone.client).await.unwrap();
    assert!(found == (put, expected));
    // One that is cut, and some that are not as they must be, change nothing.
    let silent = stream::iter([start(), chunk(4), chunk(5)]).chain(stream::pending());
    let mut client = clone.client.clone();
    let cut = tokio::time::timeout(std::time::Duration::from_secs(2), client.put_blob(silent)).await;
    assert!(cut.is_err());
    for requests in [
        vec![],
        vec![chunk(1)],
        vec![start(), chunk(1)],
        vec![start(), start()],
        vec![start(), PutBlobRequest { part: None }],
    ] {
        let answer = clone.client.clone().put_blob(stream::iter(requests)).await;
        let (code, reason, _) = refused(answer);
        assert_eq!((code, reason.as_str()), (Code::InvalidArgument, "INVALID_BLOB"));
    }
    assert!(download(&clone.client).await.unwrap() == found);
    clone.stop().await;
}
