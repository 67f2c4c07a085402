//! The tables that are measured, and the rows that are there beforehand.

use shoal_proto::data::v1 as data;
use shoal_proto::data::v1::data_service_client::DataServiceClient;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::calls::{int, put};
use crate::cql::operation::{
    CONDITIONAL, CONDITIONAL_PARTITIONS, PARTITION_ROWS, PARTITIONS, ROWS, WRITES, partition,
};

/// Calls in flight.
const IN_FLIGHT: usize = 32;
/// Tries of a call: an engine that has just started may be slower than its deadline.
const TRIES_MAX: usize = 5;

/// Makes the tables with their rows, at one clone, and calls each method once. Tables that an interrupted run left are dropped.
///
/// # Errors
/// When the clone refuses.
pub(super) async fn tables(channel: Channel) -> anyhow::Result<()> {
    drop_tables(channel.clone()).await?;
    let mut client = DataServiceClient::new(channel);
    let (integers, none) = (data::SortKeyType::Int64, data::SortKeyType::None);
    for (name, sort_key_type, write_mode) in [
        (ROWS, integers, data::WriteMode::LastWriteWins),
        (WRITES, integers, data::WriteMode::LastWriteWins),
        (CONDITIONAL, none, data::WriteMode::Conditional),
    ] {
        let table = data::Table {
            name: name.to_owned(),
            sort_key_type: sort_key_type.into(),
            write_mode: write_mode.into(),
            ..Default::default()
        };
        client.create_table(data::CreateTableRequest { table: Some(table) }).await?;
    }
    let mutate = |table: &str, number: u64, rows: std::ops::Range<i64>| data::MutateRequest {
        table: table.to_owned(),
        partition_key: partition(number),
        mutations: rows.map(|row| put(Some(row))).collect(),
        ..Default::default()
    };
    let rows = (0..PARTITIONS).map(|number| mutate(ROWS, number, 0..PARTITION_ROWS));
    all(rows.chain([mutate(WRITES, 0, 0..1)]), &client, async |mut client, request| {
        client.mutate(request).await.map(drop)
    })
    .await?;
    let conditional = (0..CONDITIONAL_PARTITIONS).map(|number| data::CheckAndMutateRequest {
        table: CONDITIONAL.to_owned(),
        partition_key: partition(number),
        mutations: vec![put(None)],
        ..Default::default()
    });
    all(conditional, &client, async |mut client, request| client.check_and_mutate(request).await.map(drop))
        .await?;
    let (table, partition_key) = (ROWS.to_owned(), partition(0));
    let sort_key = Some(int(0));
    let get = data::GetRequest {
        table: table.clone(),
        partition_key: partition_key.clone(),
        sort_key,
        ..Default::default()
    };
    client.get(get).await?;
    client.query(data::QueryRequest { table, partition_key, ..Default::default() }).await?;
    Ok(())
}

/// Makes all the calls, some at a time.
async fn all<R, F>(
    requests: impl Iterator<Item = R>,
    client: &DataServiceClient<Channel>,
    call: impl Fn(DataServiceClient<Channel>, R) -> F + Copy + Send + Sync + 'static,
) -> anyhow::Result<()>
where
    R: Clone + Send + 'static,
    F: Future<Output = Result<(), Status>> + Send,
{
    let mut calls = JoinSet::new();
    for request in requests {
        let client = client.clone();
        calls.spawn(async move {
            for _ in 1..TRIES_MAX {
                if call(client.clone(), request.clone()).await.is_ok() {
                    return Ok(());
                }
            }
            call(client, request).await
        });
        if calls.len() >= IN_FLIGHT
            && let Some(ended) = calls.join_next().await
        {
            ended??;
        }
    }
    while let Some(ended) = calls.join_next().await {
        ended??;
    }
    Ok(())
}

/// Drops the tables that are there.
///
/// # Errors
/// When the clone refuses.
pub(super) async fn drop_tables(channel: Channel) -> anyhow::Result<()> {
    let mut client = DataServiceClient::new(channel);
    for name in [ROWS, WRITES, CONDITIONAL] {
        let drop = data::DropTableRequest { name: name.to_owned(), ..Default::default() };
        match client.drop_table(drop).await {
            Err(status) if status.code() == Code::NotFound => {}
            dropped => std::mem::drop(dropped?),
        }
    }
    Ok(())
}
