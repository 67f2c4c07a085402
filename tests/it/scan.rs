//! A scan whose clone is killed by SIGKILL goes on at another one, without gaps and duplicates.

use std::collections::BTreeSet;
use std::time::Duration;

use shoal_proto::data::v1 as data;
use shoal_proto::r#type::v1::{Value, value};
use tonic::Code;

use crate::harness::clone::Clone;
use crate::harness::engines::need;
use crate::harness::eventually;

const PARTITIONS: usize = 30;
const ROWS: usize = 30;
const ROW_BYTES: usize = 2_000;

fn text(text: &str) -> Option<Value> {
    Some(Value { kind: Some(value::Kind::StringValue(text.to_owned())) })
}

async fn fill(clone: &Clone, table: &str) {
    let mut client = shoal_client::data(clone.channel());
    let definition = data::Table { name: table.to_owned(), ..Default::default() };
    let create = data::CreateTableRequest { table: Some(definition) };
    eventually("a table", Duration::from_secs(60), async || client.create_table(create.clone()).await.ok())
        .await;
    for partition in 0..PARTITIONS {
        let puts = (0..ROWS).map(|row| {
            let value = Value { kind: Some(value::Kind::BytesValue(vec![7; ROW_BYTES].into())) };
            let attributes = [("v".to_owned(), value)].into();
            let put = data::mutation::Put { sort_key: text(&format!("{row:03}")), attributes, ttl: None };
            data::Mutation { kind: Some(data::mutation::Kind::Put(put)) }
        });
        let mutate = data::MutateRequest {
            table: table.to_owned(),
            partition_key: format!("p{partition}"),
            mutations: puts.collect(),
            idempotency_token: String::new(),
        };
        client.mutate(mutate).await.expect("written");
    }
}

fn take(found: &mut Vec<(String, String)>, message: data::ScanResponse) -> String {
    for row in message.rows {
        let key = match row.sort_key.and_then(|key| key.kind) {
            Some(value::Kind::StringValue(key)) => key,
            other => panic!("{other:?}"),
        };
        found.push((row.partition_key, key));
    }
    message.resume_token
}

#[tokio::test(flavor = "multi_thread")]
async fn scan_outlives_its_killed_clone() {
    let points = need!("SHOAL_TEST_CASSANDRA");
    let flags = ["--cassandra", points.as_str()];
    let mut victim = Clone::start("data", &flags).await;
    let other = Clone::start("data", &flags).await;
    let table = format!("scan_{}", fastrand::u32(..));
    fill(&other, &table).await;

    let request = |resume_token: String| data::ScanRequest {
        table: table.clone(),
        parallelism: 2,
        resume_token,
        ..Default::default()
    };
    let mut scan = shoal_client::data(victim.channel());
    let first =
        eventually("a scan", Duration::from_secs(60), async || scan.scan(request(String::new())).await.ok());
    let mut messages = first.await.into_inner();
    let mut found = Vec::new();
    let mut token = String::new();
    while found.is_empty() {
        token = take(&mut found, messages.message().await.expect("rows").expect("more rows"));
    }
    assert!(!token.is_empty() && found.len() < PARTITIONS * ROWS, "{} rows came at once", found.len());
    victim.process.kill().await;
    // What had arrived may still be read; then the stream fails.
    while let Ok(Some(message)) = messages.message().await {
        token = take(&mut found, message);
    }

    let mut scan = shoal_client::data(other.channel());
    // A Cassandra that is slow on a busy machine cuts the scan as well: it goes on behind its last message.
    eventually("the rest of the scan", Duration::from_secs(60), async || {
        let mut messages = match scan.scan(request(token.clone())).await {
            Ok(messages) => messages.into_inner(),
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                return None;
            }
        };
        while let Some(message) = messages.message().await.transpose() {
            match message {
                Ok(message) => token = take(&mut found, message),
                Err(status) => {
                    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                    break;
                }
            }
        }
        token.is_empty().then_some(())
    })
    .await;
    let once: BTreeSet<_> = found.iter().cloned().collect();
    assert_eq!(once.len(), found.len(), "duplicates");
    assert_eq!(once.len(), PARTITIONS * ROWS, "gaps");
}
