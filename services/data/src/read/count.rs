//! Count: how many rows of a partition there are, a bounded number at a time.

use std::time::Instant;

use crate::data::Data;
use crate::error::Error;
use crate::read::QueryRequest;
use crate::read::query::{Slice, place};
use crate::store::{Consistency, Query, Store};

/// Most rows that are counted in one call.
const COUNTED_MAX: usize = 100_000;
/// Rows of a page that is counted.
const PAGE_ROWS: usize = 1_000;
/// Most pages that are read in one call: each has at most 1 MiB of rows.
const PAGES_MAX: usize = 200;

impl<S: Store> Data<S> {
    /// Counts rows of a partition. Returns the token to count on with, if there may be more.
    ///
    /// # Errors
    /// Invalid fields, and errors of the store.
    pub(crate) async fn count(
        &self,
        request: QueryRequest,
        consistency: Consistency,
    ) -> Result<(usize, String), Error> {
        let until = request.until;
        let Slice { table, partition, mut range, mut seen, binding } =
            self.slice("count", request, consistency).await?;
        let (mut counted, mut pages) = (0, 0);
        while let Some(rest) = range {
            let limit = PAGE_ROWS.min(COUNTED_MAX - counted);
            let (table, partition) = (table.clone(), partition.clone());
            let (descending, range_of_page) = (false, rest.clone());
            let page =
                Query { table, partition, range: range_of_page, descending, limit, consistency, seen, until };
            let page = self.store.query(page).await?;
            counted += page.rows.len();
            pages += 1;
            seen = page.seen;
            let Some(last) = page.next else { return Ok((counted, String::new())) };
            let late = until.is_some_and(|until| Instant::now() >= until);
            if counted >= COUNTED_MAX || pages >= PAGES_MAX || late {
                return Ok((counted, self.seal(&binding, &place(&last, seen)).await?));
            }
            range = rest.behind(&last, false);
        }
        Ok((counted, String::new()))
    }
}
