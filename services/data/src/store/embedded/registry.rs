//! The stored form of a table's definition.

use prost::Message as _;
use uuid::Uuid;

use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::table::{Definition, Options, SortKeyType, Table, TableName, Ttl, WriteMode};

#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    sort_key_type: String,
    #[prost(string, tag = "3")]
    write_mode: String,
    #[prost(uint32, tag = "4")]
    default_ttl_seconds: u32,
    #[prost(int64, tag = "5")]
    create_time_micros: i64,
    #[prost(string, tag = "6")]
    description: String,
    #[prost(bytes = "vec", tag = "7")]
    options: Vec<u8>,
}

pub(super) fn encode(table: &Table) -> Vec<u8> {
    let definition = &table.definition;
    let record = Record {
        id: table.id.as_bytes().to_vec(),
        sort_key_type: definition.sort_key_type.name().into_owned(),
        write_mode: definition.write_mode.name().to_owned(),
        default_ttl_seconds: definition.default_ttl.map_or(0, Ttl::seconds),
        create_time_micros: table.create_time.0,
        description: definition.description.clone(),
        options: definition.options.encode(),
    };
    record.encode_to_vec()
}

pub(super) fn decode(name: &str, stored: &[u8]) -> Result<Table, Error> {
    let record = Record::decode(stored).ok();
    let table = record.and_then(|record| {
        Some(Table {
            definition: Definition {
                name: TableName::of_stored(name)?,
                sort_key_type: SortKeyType::of_name(&record.sort_key_type)?,
                write_mode: WriteMode::of_name(&record.write_mode)?,
                default_ttl: Ttl::of_seconds(record.default_ttl_seconds),
                description: record.description,
                options: Options::decode(&record.options)?,
            },
            id: Uuid::from_slice(&record.id).ok()?,
            create_time: WriteTimestamp(record.create_time_micros),
        })
    });
    table.ok_or_else(|| Error::DataLoss(format!("the definition of table `{name}` cannot be read")))
}
