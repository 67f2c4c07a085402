//! The calls on tables: their definitions are made, found and listed.

use std::sync::Arc;
use std::time::Duration;

use shoal_kit::page;

use crate::clock::WriteTimestamp;
use crate::data::{Data, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, TOKEN_BYTES_MAX};
use crate::error::Error;
use crate::page_token::Binding;
use crate::store::{Consistency, Store};
use crate::table::{
    AttributeSchema, BEHIND_HIDDEN, ChangeFeed, Definition, NewView, Options, SortKeyType, Table,
    TableChange, TableName, Ttl, ViewState, WriteMode, check_description, check_views, parse_views,
};
use crate::tags::TableDrop;

/// A table as the caller defines it.
#[derive(Debug, Clone)]
pub(crate) struct NewTable {
    /// The name of the table.
    pub(crate) name: String,
    /// The type of its sort keys.
    pub(crate) sort_key_type: SortKeyType,
    /// The rule that decides between several writes of a row.
    pub(crate) write_mode: WriteMode,
    /// The time to live of rows whose put names none.
    pub(crate) default_ttl: Option<Duration>,
    /// The description for people.
    pub(crate) description: String,
    /// The change feed: whether it has old rows, and its retention if that is not the default.
    pub(crate) change_feed: Option<(bool, Option<Duration>)>,
    /// The attributes that rows may have, if they are declared.
    pub(crate) attribute_schema: Option<AttributeSchema>,
    /// The views.
    pub(crate) views: Vec<NewView>,
}

impl<S: Store> Data<S> {
    /// Creates a table, or returns the table that has the same definition.
    ///
    /// # Errors
    /// Invalid fields, [`Error::TableExists`], and errors of the store.
    pub(crate) async fn create(&self, table: NewTable) -> Result<Table, Error> {
        let NewTable {
            name,
            sort_key_type,
            write_mode,
            default_ttl,
            description,
            change_feed,
            attribute_schema,
            views,
        } = table;
        let now = WriteTimestamp::now();
        let name = TableName::parse(&name, "table.name")?;
        let default_ttl = default_ttl.map(|ttl| Ttl::parse(ttl, "table.default_ttl")).transpose()?;
        let change_feed = change_feed
            .map(|(old_rows, retention)| ChangeFeed::parse(old_rows, retention, now))
            .transpose()?;
        check_description(&description)?;
        // A new table has no rows that its views could lack.
        let views = parse_views(views, ViewState::Ready)?;
        check_views(&views, sort_key_type)?;
        let options = Options { change_feed, attribute_schema, views };
        let definition = Definition { name, sort_key_type, write_mode, default_ttl, description, options };
        self.store.create_table(definition, now).await
    }

    /// Changes a table's definition.
    ///
    /// # Errors
    /// Invalid fields, [`Error::TableNotFound`], and errors of the store.
    pub(crate) async fn update_table(&self, name: &str, change: TableChange) -> Result<Table, Error> {
        let name = TableName::parse(name, "table.name")?;
        if let Some(description) = &change.description {
            check_description(description)?;
        }
        if let Some(views) = &change.views {
            check_views(views, self.store.table(&name).await?.definition.sort_key_type)?;
        }
        let views = change.views.is_some();
        let table = self.store.update_table(&name, change).await?;
        if views {
            self.views_changed.notify_one();
        }
        Ok(table)
    }

    /// Drops a table with all of its rows, if it was created at this time or no time is given.
    ///
    /// # Errors
    /// Invalid fields, [`Error::TableNotFound`], [`Error::TableChanged`], and errors of the store.
    pub(crate) async fn drop_table(
        &self,
        name: &str,
        create_time: Option<WriteTimestamp>,
    ) -> Result<(), Error> {
        let name = TableName::parse(name, "name")?;
        let drop = async || self.store.drop_table(&name, create_time).await;
        match self.tags.is_reported().then_some(self.store.table(&name)) {
            Some(found) => match found.await {
                Ok(table) => self.tags.around(TableDrop(table), |_| drop()).await,
                // An earlier call may have begun it, and has said so.
                Err(Error::TableNotFound(_) | Error::TableDropping(_)) => drop().await,
                Err(error) => Err(error),
            },
            None => drop().await,
        }
    }

    /// Returns a table; `field` is the field of the request that names it.
    ///
    /// # Errors
    /// Invalid names, [`Error::TableNotFound`], and errors of the store.
    pub(crate) async fn table(&self, name: &str, field: &str) -> Result<Arc<Table>, Error> {
        self.store.table(&TableName::parse(name, field)?).await
    }

    /// Returns the table that a read at this level names.
    ///
    /// # Errors
    /// Invalid names, [`Error::TableNotFound`], and errors of the store.
    pub(crate) async fn table_for(&self, name: &str, consistency: Consistency) -> Result<Arc<Table>, Error> {
        self.store.table_for(&TableName::parse(name, "table")?, consistency).await
    }

    /// Lists tables by name. Returns the token of the next page with them.
    ///
    /// # Errors
    /// Invalid fields, and errors of the store.
    pub(crate) async fn tables(
        &self,
        page_size: i32,
        page_token: &str,
    ) -> Result<(Vec<Table>, String), Error> {
        let limit = page::size(page_size, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)?;
        let binding = Binding::new("tables", "page_token", TOKEN_BYTES_MAX);
        let after = if page_token.is_empty() { Vec::new() } else { self.open(&binding, page_token).await? };
        let after = String::from_utf8(after).map_err(|_| Error::Internal("a token's table name".into()))?;
        let after = if after.is_empty() { BEHIND_HIDDEN } else { &after };
        let mut tables = self.store.tables(after, limit + 1).await?;
        let more = tables.len() > limit;
        tables.truncate(limit);
        let next = match tables.last() {
            Some(last) if more => self.seal(&binding, last.definition.name.as_str().as_bytes()).await?,
            _ => String::new(),
        };
        Ok((tables, next))
    }
}

#[cfg(test)]
impl NewTable {
    /// Makes the definition of a table that has nothing else.
    pub(crate) fn plain(name: &str, sort_key_type: SortKeyType, write_mode: WriteMode) -> Self {
        Self {
            name: name.to_owned(),
            sort_key_type,
            write_mode,
            default_ttl: None,
            description: String::new(),
            change_feed: None,
            attribute_schema: None,
            views: Vec::new(),
        }
    }
}

#[cfg(test)]
impl<S: Store> Data<S> {
    /// Creates a table without a description.
    pub(crate) async fn create_table(
        &self,
        name: &str,
        sort_key_type: SortKeyType,
        write_mode: WriteMode,
        default_ttl: Option<Duration>,
    ) -> Result<Table, Error> {
        self.create_described_table(name, sort_key_type, write_mode, default_ttl, String::new()).await
    }

    /// Creates a table without options.
    pub(crate) async fn create_described_table(
        &self,
        name: &str,
        sort_key_type: SortKeyType,
        write_mode: WriteMode,
        default_ttl: Option<Duration>,
        description: String,
    ) -> Result<Table, Error> {
        self.create(NewTable { default_ttl, description, ..NewTable::plain(name, sort_key_type, write_mode) })
            .await
    }
}
