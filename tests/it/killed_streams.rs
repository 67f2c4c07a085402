//! Clones that are killed by SIGKILL in the middle of a PutBlob, a GetBlob and an export: nothing is half visible, and another clone
//! goes on.

use std::time::Duration;

use futures::stream;
use serde_json::Value as Json;
use shoal_client::Channel;
use shoal_proto::data::v1 as data;
use shoal_proto::data::v1::data_service_client::DataServiceClient;
use shoal_proto::data::v1::get_blob_response::Part as Answer;
use shoal_proto::data::v1::put_blob_request::Part;
use shoal_proto::r#type::v1::{Value, value};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::harness::clone::Clone;
use crate::harness::engines::need;
use crate::harness::process::{Process, shoal_binary};
use crate::harness::{eventually, seed};

type Client = DataServiceClient<Channel>;

const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a chunk, which is more than one stored chunk.
const CHUNK: usize = 700_000;
/// Chunks of a blob.
const CHUNKS: usize = 12;

fn text(text: &str) -> Option<Value> {
    Some(Value { kind: Some(value::Kind::StringValue(text.to_owned())) })
}

/// Two clones on one Cassandra, of which one is killed again and again.
struct Pair {
    victim: Clone,
    other: Clone,
    points: String,
    table: String,
}

impl Pair {
    async fn start(points: String) -> Self {
        let flags = ["--cassandra", points.as_str()];
        let (victim, other) = (Clone::start("data", &flags).await, Clone::start("data", &flags).await);
        let table = format!("killed_streams_{}", fastrand::u32(..));
        let definition = data::Table { name: table.clone(), ..Default::default() };
        let create = data::CreateTableRequest { table: Some(definition) };
        let mut client = shoal_client::data(other.channel());
        eventually("a table", PATIENCE, async || client.create_table(create.clone()).await.ok()).await;
        Self { victim, other, points, table }
    }

    fn other(&self) -> Client {
        shoal_client::data(self.other.channel())
    }

    /// Starts the victim again.
    async fn revive(&mut self) {
        let address = self.victim.address.clone();
        self.victim = Clone::start_at("data", &address, &["--cassandra", &self.points]).await;
    }

    fn blob_start(&self) -> data::PutBlobRequest {
        let start = data::BlobStart {
            table: self.table.clone(),
            partition_key: "p".to_owned(),
            sort_key: text("blob"),
            size: Some((CHUNKS * CHUNK) as i64),
            ..Default::default()
        };
        data::PutBlobRequest { part: Some(Part::Start(start)) }
    }

    fn get_blob(&self, offset: usize) -> data::GetBlobRequest {
        data::GetBlobRequest {
            table: self.table.clone(),
            partition_key: "p".to_owned(),
            sort_key: text("blob"),
            offset: offset as i64,
            ..Default::default()
        }
    }

    /// Returns the blob as the other clone shows it; none if there is none.
    async fn shown(&self) -> Option<Vec<u8>> {
        eventually("the blob", PATIENCE, async || match read(&mut self.other(), self.get_blob(0)).await {
            Ok((bytes, None)) => Some(Some(bytes)),
            Err(status) if status.code() == Code::NotFound => Some(None),
            Ok((_, Some(status))) | Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                None
            }
        })
        .await
    }
}

fn chunk(byte: u8) -> data::PutBlobRequest {
    data::PutBlobRequest { part: Some(Part::Chunk(vec![byte; CHUNK].into())) }
}

/// Reads a blob. Returns what came, and the error at its end.
async fn read(
    client: &mut Client,
    request: data::GetBlobRequest,
) -> Result<(Vec<u8>, Option<Status>), Status> {
    let mut answers = client.get_blob(request).await?.into_inner();
    let mut bytes = Vec::new();
    loop {
        match answers.message().await {
            Ok(None) => return Ok((bytes, None)),
            Err(status) => return Ok((bytes, Some(status))),
            Ok(Some(data::GetBlobResponse { part: Some(Answer::Chunk(chunk)) })) => {
                bytes.extend_from_slice(&chunk.data);
            }
            Ok(Some(_)) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_stays_whole_when_clone_dies() {
    let mut pair = Pair::start(need!("SHOAL_TEST_CASSANDRA")).await;
    let mut rng = fastrand::Rng::with_seed(seed("killed blobs"));
    let mut before = None;
    // Killed early, late, and at once when all has been sent, where the row may have been put.
    for (byte, sent) in [(1, 3), (2, CHUNKS - 1), (3, CHUNKS), (4, rng.usize(1..=CHUNKS))] {
        let (feed, requests) = mpsc::channel(1);
        let mut client = shoal_client::data(pair.victim.channel());
        let put = tokio::spawn(async move { client.put_blob(ReceiverStream::new(requests)).await });
        feed.send(pair.blob_start()).await.expect("the clone takes it");
        for _ in 0..sent {
            feed.send(chunk(byte)).await.expect("the clone takes it");
        }
        pair.victim.process.kill().await;
        let answered = put.await.expect("a call").is_ok();
        let whole = Some(vec![byte; CHUNKS * CHUNK]);
        let shown = pair.shown().await;
        assert!(shown == before || (sent == CHUNKS && shown == whole), "after {sent} chunks of {byte}");
        assert!(!answered || shown == whole, "it was acknowledged");
        // The same blob by another clone is whole.
        let start = pair.blob_start();
        let requests = stream::iter([start].into_iter().chain((0..CHUNKS).map(move |_| chunk(byte))));
        pair.other().put_blob(requests).await.expect("put elsewhere");
        assert!(pair.shown().await == whole, "put elsewhere");
        before = whole;
        pair.revive().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn download_goes_on_at_another_clone() {
    let mut pair = Pair::start(need!("SHOAL_TEST_CASSANDRA")).await;
    let bytes: Vec<u8> = (0..CHUNKS * CHUNK).map(|at| (at / 1000) as u8).collect();
    let chunks: Vec<_> = bytes.chunks(CHUNK).map(|chunk| Part::Chunk(chunk.to_vec().into())).collect();
    let chunks = chunks.into_iter().map(|part| data::PutBlobRequest { part: Some(part) });
    let requests = stream::iter([pair.blob_start()].into_iter().chain(chunks).collect::<Vec<_>>());
    pair.other().put_blob(requests).await.expect("put");
    let mut answers = eventually("a download", PATIENCE, async || {
        shoal_client::data(pair.victim.channel()).get_blob(pair.get_blob(0)).await.ok()
    })
    .await
    .into_inner();
    let mut came = Vec::new();
    let mut killed = false;
    while let Ok(Some(answer)) = answers.message().await {
        if let Some(Answer::Chunk(chunk)) = answer.part {
            came.extend_from_slice(&chunk.data);
        }
        if came.len() > CHUNK && !killed {
            pair.victim.process.kill().await;
            killed = true;
        }
    }
    assert!(came.len() < bytes.len(), "it ended before the kill");
    let (rest, error) = read(&mut pair.other(), pair.get_blob(came.len())).await.expect("the rest");
    assert!(error.is_none(), "{error:?}");
    came.extend(rest);
    assert!(came == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn export_goes_on_when_clone_dies() {
    const PARTITIONS: usize = 40;
    let mut pair = Pair::start(need!("SHOAL_TEST_CASSANDRA")).await;
    for partition in 0..PARTITIONS {
        let puts = (0..100).map(|row| {
            let put = data::mutation::Put {
                sort_key: text(&format!("{row:03}")),
                ..data::mutation::Put::default()
            };
            data::Mutation { kind: Some(data::mutation::Kind::Put(put)) }
        });
        let request = data::MutateRequest {
            table: pair.table.clone(),
            partition_key: format!("p{partition}"),
            mutations: puts.collect(),
            idempotency_token: String::new(),
        };
        pair.other().mutate(request).await.expect("written");
    }
    let peers = format!("data={},{}", pair.victim.address, pair.other.address);
    let gateway = Clone::start("gateway", &["--peer", &peers]).await;
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("rows.jsonl");
    let checkpoint = dir.path().join("rows.jsonl.export-checkpoint");
    let mut command = Command::new(shoal_binary());
    command.args(["data", "export", &pair.table, file.to_str().expect("a path"), "--rate", "1000"]);
    command.env("SHOAL_ADDR", &gateway.address);
    let mut export = Process::spawn(command);
    // Each of the two is killed while it may have the scan, and is there again before the other one goes.
    for rows in [500, 2000] {
        eventually("rows in the export", PATIENCE, async || {
            let state: Json = serde_json::from_slice(&std::fs::read(&checkpoint).ok()?).ok()?;
            (state["rows"].as_u64()? >= rows).then_some(())
        })
        .await;
        pair.victim.process.kill().await;
        pair.revive().await;
        std::mem::swap(&mut pair.victim, &mut pair.other);
    }
    let status = export.ended(PATIENCE).await;
    assert!(status.success(), "{}", export.output());
    let lines = std::fs::read_to_string(&file).expect("the file");
    let rows: std::collections::BTreeSet<_> =
        lines.lines().filter(|line| line.contains("\"partition_key\"")).collect();
    assert_eq!(
        lines.lines().count(),
        PARTITIONS * 100 + 2,
        "a definition, each row once, and the number of rows"
    );
    assert_eq!(rows.len(), PARTITIONS * 100, "{:?}", lines.lines().nth(1));
}
