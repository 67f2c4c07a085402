//! The service's logic over a store, as one clone offers it. Its calls stand in `tables`, `read` and `write`: each finds the
//! table, checks the request against it, and asks the store.

use std::sync::Arc;

use crate::clock::Clock;
use crate::store::WriteStore;
use crate::tags::Tags;

/// Rows or tables of a page when the caller gives no size.
pub(crate) const PAGE_SIZE_DEFAULT: usize = 100;
/// Most rows or tables of a page.
pub(crate) const PAGE_SIZE_MAX: usize = 1000;

/// The data of a store, as one clone offers it.
#[derive(Debug, Clone)]
pub(crate) struct Data<S> {
    /// The store of the tables and rows.
    pub(crate) store: S,
    /// The clock that gives timestamps to writes without a token.
    pub(crate) clock: Arc<Clock>,
    /// The reporter of what writes touch.
    pub(crate) tags: Tags,
}

impl<S: WriteStore> Data<S> {
    /// Offers the data of a store.
    pub(crate) fn new(store: S) -> Self {
        let clock = store.clock();
        Self { store, clock, tags: Tags::default() }
    }

    /// Reports what writes touch.
    #[cfg(test)]
    pub(crate) fn reporting(self, tags: Tags) -> Self {
        Self { tags, ..self }
    }
}
