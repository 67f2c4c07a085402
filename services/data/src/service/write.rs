//! The calls that write rows.

use std::collections::HashMap;

use shoal_kit::{Invalid, reason};
use shoal_proto::data::v1 as pb;
use shoal_proto::r#type::v1 as types;
use tonic::{Response, Status};

use crate::blob::RESERVED_PREFIX;
use crate::data::Data;
use crate::mutation::Mutation;
use crate::service::codec::{optional, timestamp, ttl, value_in};
use crate::store::Store;
use crate::value::Attributes;

/// Most characters of an attribute's name in an error.
const NAME_CHARS_MAX: usize = 64;

pub(super) async fn mutate<S: Store>(
    data: &Data<S>,
    request: pb::MutateRequest,
) -> Result<Response<pb::MutateResponse>, Status> {
    let pb::MutateRequest { table, partition_key, mutations, idempotency_token } = request;
    let mutations = mutations
        .into_iter()
        .enumerate()
        .map(|(i, mutation)| mutation_in(i, mutation))
        .collect::<Result<_, _>>()?;
    let write_time = data.mutate(&table, partition_key, mutations, &idempotency_token).await?;
    Ok(Response::new(pb::MutateResponse { write_time: Some(timestamp(write_time)) }))
}

pub(super) fn mutation_in(index: usize, mutation: pb::Mutation) -> Result<Mutation, Invalid> {
    let Some(kind) = mutation.kind else {
        return Err(Invalid::new(
            reason::MUTATION_WITHOUT_KIND,
            format!("mutations[{index}]"),
            "set put, delete or delete_range",
        ));
    };
    // The place is formatted for a refusal alone.
    change_in(kind).map_err(|invalid| invalid.within(&format!("mutations[{index}]")))
}

fn change_in(kind: pb::mutation::Kind) -> Result<Mutation, Invalid> {
    use pb::mutation::{Delete, DeleteRange, Kind, Put};
    match kind {
        Kind::Put(Put { sort_key, attributes, ttl: time }) => Ok(Mutation::Put {
            sort_key: optional(sort_key, "put.sort_key")?,
            attributes: attributes_in(attributes, "put.attributes")?,
            ttl: ttl(time, "put.ttl")?,
        }),
        Kind::Delete(Delete { sort_key }) => {
            Ok(Mutation::Delete { sort_key: optional(sort_key, "delete.sort_key")? })
        }
        Kind::DeleteRange(DeleteRange { start, end }) => Ok(Mutation::DeleteRange {
            start: optional(start, "delete_range.start")?,
            end: optional(end, "delete_range.end")?,
        }),
    }
}

/// Names an attribute of a field. A long name is cut.
fn named(field: &str, name: &str) -> String {
    let name: String = name.chars().take(NAME_CHARS_MAX).collect();
    format!("{field}[{name:?}]")
}

fn attributes_in(attributes: HashMap<String, types::Value>, field: &str) -> Result<Attributes, Invalid> {
    attributes
        .into_iter()
        .map(|(name, value)| {
            if name.starts_with(RESERVED_PREFIX) {
                let text =
                    format!("names that begin with `{RESERVED_PREFIX}` are for PutBlob; choose another name");
                return Err(Invalid::new(reason::INVALID_ATTRIBUTE_NAME, named(field, &name), text));
            }
            match value_in(value, field) {
                Ok(value) => Ok((name, value)),
                Err(invalid) => Err(Invalid { field: named(field, &name).into(), ..invalid }),
            }
        })
        .collect()
}
