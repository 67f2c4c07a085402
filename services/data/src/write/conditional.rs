//! The calls that write rows of conditional tables.

use crate::clock::WriteTimestamp;
use crate::conditional::{Condition, ConditionalWrite, Outcome};
use crate::data::Data;
use crate::error::Error;
use crate::key::PartitionKey;
use crate::mutation::Mutation;
use crate::store::Store;
use crate::value::Value;

impl<S: Store> Data<S> {
    /// Changes one partition if all conditions hold.
    ///
    /// # Errors
    /// Invalid fields, [`Error::WrongWriteMode`], and errors of the store.
    pub(crate) async fn check_and_mutate(
        &self,
        table: &str,
        partition_key: String,
        conditions: Vec<(Option<Value>, Condition)>,
        mutations: Vec<Mutation>,
        token: &str,
    ) -> Result<Outcome, Error> {
        let partition = PartitionKey::parse(partition_key)?;
        let token = self.token(token)?;
        let table = self.table(table, "table").await?;
        let write =
            ConditionalWrite::check_and_mutate(table, partition, token.clone(), conditions, mutations)?;
        ConditionalWrite::check_age(&token, WriteTimestamp::now())?;
        self.write_conditionally(write).await
    }

    /// Adds to an attribute of a row. Returns the timestamp of the write and the sum.
    ///
    /// # Errors
    /// Invalid fields, [`Error::WrongWriteMode`], [`Error::NotIncremented`], and errors of the store.
    pub(crate) async fn increment(
        &self,
        table: &str,
        partition_key: String,
        sort_key: Option<Value>,
        attribute: String,
        delta: Value,
        token: &str,
    ) -> Result<(WriteTimestamp, Value), Error> {
        let partition = PartitionKey::parse(partition_key)?;
        let token = self.token(token)?;
        let table = self.table(table, "table").await?;
        let write = ConditionalWrite::increment(table, partition, token.clone(), sort_key, attribute, delta)?;
        ConditionalWrite::check_age(&token, WriteTimestamp::now())?;
        match self.write_conditionally(write).await? {
            Outcome::Applied { write_time, value: Some(value) } => Ok((write_time, value)),
            Outcome::Applied { value: None, .. } => {
                Err(Error::Internal("an Increment has no sum".to_owned()))
            }
            Outcome::Refused { .. } => Err(Error::Internal("an Increment has no conditions".to_owned())),
        }
    }

    async fn write_conditionally(&self, write: ConditionalWrite) -> Result<Outcome, Error> {
        self.tags.around(write, |write| self.store.write_conditionally(write)).await
    }
}
