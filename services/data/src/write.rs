//! The calls that write rows.

use crate::clock::{WriteTimestamp, stamp_of_token};
use crate::data::Data;
use crate::error::Error;
use crate::key::PartitionKey;
use crate::mutation::{Mutation, Write};
use crate::store::Store;

impl<S: Store> Data<S> {
    /// Changes one partition. Returns the timestamp of the write.
    ///
    /// # Errors
    /// Invalid fields, and errors of the store.
    pub(crate) async fn mutate(
        &self,
        table: &str,
        partition_key: String,
        mutations: Vec<Mutation>,
        token: &str,
    ) -> Result<WriteTimestamp, Error> {
        let partition = PartitionKey::parse(partition_key)?;
        let stamp = match token {
            "" => self.clock.next(),
            token => stamp_of_token(token, WriteTimestamp::now())?,
        };
        let table = self.table(table, "table").await?;
        let write = Write::parse(table, partition, stamp, mutations)?;
        if !write.changes.is_empty() {
            self.store.mutate(write).await?;
        }
        Ok(stamp)
    }
}
