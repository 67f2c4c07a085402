//! The calls that write rows.

use std::sync::Arc;

use crate::clock::WriteTimestamp;
use crate::data::Data;
use crate::error::Error;
use crate::key::PartitionKey;
use crate::mutation::{Mutation, Write};
use crate::store::Store;
use crate::table::{Table, WriteMode};
use crate::write_token::WriteToken;

mod conditional;

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
        let token = self.token(token)?;
        self.mutate_under(table, partition_key, mutations, token).await
    }

    /// Changes one partition under a token. Returns the timestamp of the write.
    ///
    /// # Errors
    /// Invalid fields, and errors of the store.
    pub(crate) async fn mutate_under(
        &self,
        table: &str,
        partition_key: String,
        mutations: Vec<Mutation>,
        token: WriteToken,
    ) -> Result<WriteTimestamp, Error> {
        let table = self.table(table, "table").await?;
        self.mutate_in(table, partition_key, mutations, token).await
    }

    /// Changes one partition of a table that was looked up. Returns the timestamp of the write.
    ///
    /// # Errors
    /// Invalid fields, and errors of the store.
    pub(crate) async fn mutate_in(
        &self,
        table: Arc<Table>,
        partition_key: String,
        mutations: Vec<Mutation>,
        token: WriteToken,
    ) -> Result<WriteTimestamp, Error> {
        let partition = PartitionKey::parse(partition_key)?;
        let stamp = token.stamp();
        table.require(WriteMode::LastWriteWins, "Mutate")?;
        let write = Write::parse(table, partition, token, mutations)?;
        if !write.changes.is_empty() {
            self.tags.around(write, |write| self.store.mutate(write)).await?;
        }
        Ok(stamp)
    }

    /// Reads the token of a write, or makes one from the clone's clock.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when the token is not acceptable, and [`Error::ClockSetBack`].
    pub(crate) fn token(&self, token: &str) -> Result<WriteToken, Error> {
        Ok(match token {
            "" => WriteToken::generate(self.clock.next()?),
            token => WriteToken::parse(token, WriteTimestamp::now())?,
        })
    }
}
