//! `shoal data put`.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use prost_types::Timestamp;
use serde_json::json;
use shoal_proto::data::v1::{
    CheckAndMutateRequest, Condition, MutateRequest, Mutation, SortKeyType, WriteMode, condition, mutation,
};
use tonic::Status;

use crate::args::{Output, PutArgs};
use crate::connection::Connection;
use crate::{json, output, read, typed};

pub(crate) async fn run(args: PutArgs) -> anyhow::Result<()> {
    let connection = Connection::open(&args.server).await?;
    let table = connection.table(&args.table).await?;
    let has_key = typed::sort_key_type(&table) != SortKeyType::None;
    let (key, given) = match args.rest.split_first() {
        Some((key, given)) if has_key => (Some(key.as_str()), given),
        _ => (None, args.rest.as_slice()),
    };
    let sort_key = read::key(&table, key)?;
    if given.is_empty() && args.json.is_none() {
        let taken = key.map_or_else(String::new, |key| format!(" (`{key}` is the sort key)"));
        bail!("no attributes are given{taken}: --json '{{}}' writes a row without any");
    }
    let mut attributes = typed::attributes(given)?;
    if let Some(text) = &args.json {
        let parsed = serde_json::from_str(text).context("--json is not JSON")?;
        for (name, value) in json::parse_attributes(&parsed).context("--json")? {
            if attributes.insert(name.clone(), value).is_some() {
                bail!("attribute {name} is given twice");
            }
        }
    }
    let ttl = args.ttl.map(prost_types::Duration::try_from).transpose().context("--ttl is too long")?;
    let kind = match (args.if_absent, args.if_exists) {
        (true, _) => Some(condition::Kind::Absent(condition::Absent {})),
        (_, true) => Some(condition::Kind::Exists(condition::Exists {})),
        _ => None,
    };
    if kind.is_some() && table.write_mode() != WriteMode::Conditional {
        bail!("{} takes no conditional writes: leave --if-absent and --if-exists out", table.name);
    }
    let condition = kind.map(|kind| Condition { sort_key: sort_key.clone(), kind: Some(kind) });
    let put = mutation::Put { sort_key, attributes, ttl };
    let token = args.token.unwrap_or_else(new_token);
    let write = MutateRequest {
        table: args.table,
        partition_key: args.partition,
        mutations: vec![Mutation { kind: Some(mutation::Kind::Put(put)) }],
        idempotency_token: token.clone(),
    };
    let answer = match table.write_mode() {
        WriteMode::Conditional => check_and_put(&connection, write, condition).await,
        WriteMode::LastWriteWins | WriteMode::Unspecified => mutate(&connection, write).await,
    };
    let written = match answer {
        Ok(Some(time)) => time.to_string(),
        Ok(None) => {
            bail!("nothing was written: the row {}", if args.if_absent { "exists" } else { "does not exist" })
        }
        Err(status) => {
            let error = connection.explain(&status).await;
            let repeat = format!("the row may have been written; --token {token} repeats exactly this write");
            return Err(if is_certain(status.code()) { error } else { error.context(repeat) });
        }
    };
    match args.output {
        Output::Table => output::line(format!("written at {written}")),
        Output::Json => output::line(json!({ "write_time": written, "idempotency_token": token })),
    }
    Ok(())
}

/// Writes to a table where the last write wins. Returns the write's time.
async fn mutate(connection: &Connection, write: MutateRequest) -> Result<Option<Timestamp>, Status> {
    let answer = connection.client.clone().mutate(connection.request(write)).await?;
    Ok(Some(answer.into_inner().write_time.unwrap_or_default()))
}

/// Writes to a table of conditional writes. Returns the write's time; `None` if the condition did not hold.
async fn check_and_put(
    connection: &Connection,
    write: MutateRequest,
    condition: Option<Condition>,
) -> Result<Option<Timestamp>, Status> {
    let MutateRequest { table, partition_key, mutations, idempotency_token } = write;
    let conditions = condition.into_iter().collect();
    let request = CheckAndMutateRequest { table, partition_key, conditions, mutations, idempotency_token };
    let answer = connection.client.clone().check_and_mutate(connection.request(request)).await?.into_inner();
    Ok(answer.applied.then(|| answer.write_time.unwrap_or_default()))
}

/// Returns whether a write that failed with this code certainly did nothing.
fn is_certain(code: tonic::Code) -> bool {
    use tonic::Code::{Cancelled, DeadlineExceeded, Internal, Unavailable, Unknown};
    !matches!(code, Cancelled | DeadlineExceeded | Internal | Unavailable | Unknown)
}

/// Makes the idempotency token of a write that is decided now.
pub(crate) fn new_token() -> String {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    format!("{micros}-{:016x}", fastrand::u64(..))
}
