//! The calls that write rows of conditional tables.

use shoal_kit::{Invalid, reason};
use shoal_proto::data::v1 as pb;
use tonic::{Response, Status};

use crate::conditional::{Comparison, Condition, Outcome};
use crate::data::Data;
use crate::service::codec::{micros, optional, row_out, timestamp, unknown_enum, value_in, value_out};
use crate::service::write::mutation_in;
use crate::store::Store;
use crate::value::Value;

pub(super) async fn check_and_mutate<S: Store>(
    data: &Data<S>,
    request: pb::CheckAndMutateRequest,
) -> Result<Response<pb::CheckAndMutateResponse>, Status> {
    let pb::CheckAndMutateRequest { table, partition_key, conditions, mutations, idempotency_token } =
        request;
    let conditions = conditions
        .into_iter()
        .enumerate()
        .map(|(i, condition)| condition_in(i, condition))
        .collect::<Result<_, _>>()?;
    let mutations = mutations
        .into_iter()
        .enumerate()
        .map(|(i, mutation)| mutation_in(i, mutation))
        .collect::<Result<_, _>>()?;
    let partition = partition_key.clone();
    let outcome =
        data.check_and_mutate(&table, partition_key, conditions, mutations, &idempotency_token).await?;
    let response = match outcome {
        Outcome::Applied { write_time, .. } => pb::CheckAndMutateResponse {
            applied: true,
            write_time: Some(timestamp(write_time)),
            ..Default::default()
        },
        Outcome::Refused { condition, rows, left_out } => pb::CheckAndMutateResponse {
            applied: false,
            write_time: None,
            rows_left_out: left_out,
            failed_condition: i32::try_from(condition).ok(),
            rows: rows.into_iter().map(|row| row_out(partition.clone(), row)).collect(),
        },
    };
    Ok(shoal_kit::answer(response))
}

pub(super) async fn increment<S: Store>(
    data: &Data<S>,
    request: pb::IncrementRequest,
) -> Result<Response<pb::IncrementResponse>, Status> {
    let pb::IncrementRequest { table, partition_key, sort_key, attribute, delta, idempotency_token } =
        request;
    let sort_key = optional(sort_key, "sort_key")?;
    let delta = required(delta, "delta")?;
    let (write_time, value) =
        data.increment(&table, partition_key, sort_key, attribute, delta, &idempotency_token).await?;
    Ok(Response::new(pb::IncrementResponse {
        value: Some(value_out(value)),
        write_time: Some(timestamp(write_time)),
    }))
}

fn required(value: Option<shoal_proto::r#type::v1::Value>, field: &str) -> Result<Value, Invalid> {
    value_in(value.unwrap_or_default(), field)
}

fn condition_in(index: usize, condition: pb::Condition) -> Result<(Option<Value>, Condition), Invalid> {
    use pb::condition::{Attribute, Kind, Size};
    let at = |field: &str| format!("conditions[{index}].{field}");
    let sort_key = optional(condition.sort_key, &at("sort_key"))?;
    let condition = match condition.kind {
        None => {
            return Err(Invalid::new(
                reason::INVALID_CONDITIONS,
                format!("conditions[{index}]"),
                "set exists, absent, attribute, size or write_time",
            ));
        }
        Some(Kind::Exists(_)) => Condition::Exists,
        Some(Kind::Absent(_)) => Condition::Absent,
        Some(Kind::Attribute(Attribute { name, comparison, value })) => Condition::Attribute {
            name,
            comparison: comparison_in(comparison, &at("attribute.comparison"))?,
            value: required(value, &at("attribute.value"))?,
        },
        Some(Kind::Size(Size { name, comparison, bytes })) => {
            if bytes < 0 {
                let text = format!("must not be negative, is {bytes}: no attribute has such a size");
                return Err(Invalid::new(reason::INVALID_CONDITIONS, at("size.bytes"), text));
            }
            Condition::Size { name, comparison: comparison_in(comparison, &at("size.comparison"))?, bytes }
        }
        Some(Kind::WriteTime(time)) => Condition::WrittenAt(micros(&time, &at("write_time"))?),
    };
    Ok((sort_key, condition))
}

fn comparison_in(number: i32, field: &str) -> Result<Comparison, Invalid> {
    match pb::Comparison::try_from(number) {
        Ok(pb::Comparison::Unspecified | pb::Comparison::Equal) => Ok(Comparison::Equal),
        Ok(pb::Comparison::NotEqual) => Ok(Comparison::NotEqual),
        Ok(pb::Comparison::Less) => Ok(Comparison::Less),
        Ok(pb::Comparison::LessOrEqual) => Ok(Comparison::LessOrEqual),
        Ok(pb::Comparison::Greater) => Ok(Comparison::Greater),
        Ok(pb::Comparison::GreaterOrEqual) => Ok(Comparison::GreaterOrEqual),
        Err(_) => Err(unknown_enum(field, number)),
    }
}
