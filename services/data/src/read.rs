//! The calls that read rows.

use prost::Message as _;
use shoal_kit::{Invalid, reason};

use crate::data::Data;
use crate::error::Error;
use crate::key::{PartitionKey, SortKey};
use crate::row::Row;
use crate::store::{Consistency, Lookup, Lookups, Store};
use crate::value::Value;

mod count;
mod partitions;
mod query;
mod scan;
mod view;

pub(crate) use query::{QueryRequest, ReadMode};
pub(crate) use scan::{ScanMessage, ScanRequest};
#[cfg(test)]
pub(crate) use view::ViewRow;

/// Most keys of a BatchGet.
const BATCH_KEYS_MAX: usize = 100;
/// Most bytes of a BatchGet's rows. Its results end before the row that would pass it: clients take messages of 4 MiB.
const BATCH_BYTES_MAX: usize = 2 << 20;

impl<S: Store> Data<S> {
    /// Returns the consistency that a read of a table had which asked for this one.
    pub(crate) async fn achieved(&self, table: &str, asked: Consistency) -> Consistency {
        // Its definition is remembered, since the table was just read.
        match self.table_for(table, Consistency::Eventual).await {
            Ok(table) => self.store.achieved(&table, asked),
            Err(_) => asked.min(Consistency::Quorum),
        }
    }

    /// Returns one row.
    ///
    /// # Errors
    /// Invalid fields, [`Error::RowNotFound`], and errors of the store.
    pub(crate) async fn get(
        &self,
        table: &str,
        partition_key: String,
        sort_key: Option<Value>,
        consistency: Consistency,
    ) -> Result<Row, Error> {
        let partition = PartitionKey::parse(partition_key)?;
        let table = self.table_for(table, consistency).await?;
        let sort_key = SortKey::parse(table.definition.sort_key_type, sort_key, "sort_key")?;
        let lookup = Lookup { table, partition, sort_key, consistency };
        self.store.get(lookup).await?.ok_or(Error::RowNotFound)
    }

    /// Returns the rows of several keys, in the order of the keys; `None` where there is no row. There are fewer rows than keys
    /// when the rows are large.
    ///
    /// # Errors
    /// Invalid fields, and errors of the store for the first row that cannot be read.
    pub(crate) async fn batch_get(
        &self,
        table: &str,
        keys: Vec<(String, Option<Value>)>,
        consistency: Consistency,
    ) -> Result<Vec<Option<Row>>, Error> {
        if keys.is_empty() || keys.len() > BATCH_KEYS_MAX {
            return Err(Invalid::new(
                reason::INVALID_KEYS,
                "keys",
                format!("must have 1 to {BATCH_KEYS_MAX} entries, has {}", keys.len()),
            )
            .into());
        }
        let table = self.table_for(table, consistency).await?;
        let mut parsed = Vec::with_capacity(keys.len());
        for (i, (partition, sort_key)) in keys.into_iter().enumerate() {
            let partition =
                PartitionKey::parse(partition).map_err(|invalid| invalid.within(&format!("keys[{i}]")))?;
            let sort_key =
                SortKey::parse(table.definition.sort_key_type, sort_key, &format!("keys[{i}].sort_key"))?;
            parsed.push((partition, sort_key));
        }
        let (mut rows, mut bytes) = (Vec::with_capacity(parsed.len()), 0);
        while rows.len() < parsed.len() {
            let keys = parsed[rows.len()..].to_vec();
            for row in self.store.get_many(Lookups { table: table.clone(), keys, consistency }).await? {
                bytes += row.as_ref().map_or(0, |row| row.attributes.encoded_len());
                if bytes > BATCH_BYTES_MAX && !rows.is_empty() {
                    return Ok(rows);
                }
                rows.push(row);
            }
        }
        Ok(rows)
    }
}
