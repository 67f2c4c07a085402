//! The calls of each operation.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use shoal_proto::data::v1 as data;
use shoal_proto::r#type::v1::{Value, value::Kind};

use crate::cql::Operation;
use crate::cql::operation::{
    CONDITIONAL, CONDITIONAL_PARTITIONS, ROWS, VALUE_BYTES, WRITES, draw_page, draw_row, partition,
};
use crate::load::call::framed;
use crate::load::target::{Content, Draw, Method, Workload};

/// Returns the calls of an operation.
pub(super) fn of(operation: Operation) -> Arc<Workload> {
    let (path, make): (_, fn(Operation, &mut Draw) -> Bytes) = match operation {
        Operation::Get | Operation::HotGet => ("Get", get),
        Operation::Query10 | Operation::Query100 => ("Query", query),
        Operation::Mutate => ("Mutate", mutate),
        Operation::CheckAndMutate => ("CheckAndMutate", check_and_mutate),
    };
    let method = Method {
        path: format!("/shoal.data.v1.DataService/{path}"),
        weight: 1,
        metadata: HeaderMap::new(),
        content: Content::Made(Box::new(move |draw| make(operation, draw))),
    };
    Arc::new(Workload::new(vec![method]))
}

fn get(operation: Operation, draw: &mut Draw) -> Bytes {
    let (partition_key, row) = draw_row(operation, &mut draw.rng);
    framed(&data::GetRequest {
        table: ROWS.to_owned(),
        partition_key,
        sort_key: Some(int(row)),
        ..Default::default()
    })
}

fn query(operation: Operation, draw: &mut Draw) -> Bytes {
    let (partition_key, start, page_size) = draw_page(operation, &mut draw.rng);
    framed(&data::QueryRequest {
        table: ROWS.to_owned(),
        partition_key,
        start: start.map(int),
        page_size,
        ..Default::default()
    })
}

fn mutate(operation: Operation, draw: &mut Draw) -> Bytes {
    let (partition_key, row) = draw_row(operation, &mut draw.rng);
    framed(&data::MutateRequest {
        table: WRITES.to_owned(),
        partition_key,
        mutations: vec![put(Some(row))],
        ..Default::default()
    })
}

fn check_and_mutate(_: Operation, draw: &mut Draw) -> Bytes {
    let kind = Some(data::condition::Kind::Exists(data::condition::Exists {}));
    framed(&data::CheckAndMutateRequest {
        table: CONDITIONAL.to_owned(),
        partition_key: partition(draw.rng.u64(..CONDITIONAL_PARTITIONS)),
        conditions: vec![data::Condition { sort_key: None, kind }],
        mutations: vec![put(None)],
        ..Default::default()
    })
}

/// Returns a put of a row with one attribute.
pub(super) fn put(sort_key: Option<i64>) -> data::Mutation {
    let value = Value { kind: Some(Kind::BytesValue(vec![7; VALUE_BYTES].into())) };
    let attributes = [("value".to_owned(), value)].into();
    let put = data::mutation::Put { sort_key: sort_key.map(int), attributes, ttl: None };
    data::Mutation { kind: Some(data::mutation::Kind::Put(put)) }
}

/// Returns a sort key.
pub(super) fn int(int: i64) -> Value {
    Value { kind: Some(Kind::IntValue(int)) }
}
