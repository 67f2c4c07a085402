//! ListPartitions: the keys of a table's partitions, a page at a time.

use std::time::Instant;

use shoal_kit::page;

use crate::data::{Data, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, TOKEN_BYTES_MAX};
use crate::error::Error;
use crate::key::{PartitionKey, check_partition_prefix};
use crate::page_token::Binding;
use crate::store::{Consistency, Partitions, Store};

/// Multiple of the usual length of a token: a place has up to four keys.
const TOKEN_KEYS: usize = 4;

impl<S: Store> Data<S> {
    /// Lists partitions, with the token of the next page.
    ///
    /// # Errors
    /// Invalid fields, and errors of the store.
    pub(crate) async fn partitions(
        &self,
        table: &str,
        prefix: String,
        page_size: i32,
        page_token: &str,
        until: Option<Instant>,
    ) -> Result<(Vec<PartitionKey>, String), Error> {
        let limit = page::size(page_size, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)?;
        check_partition_prefix(&prefix)?;
        let table = self.table(table, "table").await?;
        let binding = Binding::new("partitions", "page_token", TOKEN_KEYS * TOKEN_BYTES_MAX)
            .field(table.id.as_bytes())
            .field(prefix.as_bytes());
        let place = if page_token.is_empty() {
            self.store.parts(&table, &prefix, 1).await?.into_iter().next().unwrap_or_default()
        } else {
            self.open(&binding, page_token).await?
        };
        let consistency = Consistency::Quorum;
        let list = Partitions { table, prefix, place, limit, consistency, until };
        let page = self.store.partitions(list).await?;
        let next = match page.next {
            Some(next) => self.seal(&binding, &next).await?,
            None => String::new(),
        };
        Ok((page.keys, next))
    }
}
