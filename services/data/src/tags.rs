//! Tags: what a write touches, told to one reporter of the clone before and after the write, so that a cache can keep no entry
//! that the write makes old. Without a reporter nothing is gathered.
//!
//! This file knows no cache: a reporter makes its tags of the table, the partition and the sort-key prefixes that it declares.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::conditional::ConditionalWrite;
use crate::error::Error;
use crate::key::{PartitionKey, SortKey, SortRange};
use crate::mutation::{Change, Write};
use crate::table::Table;

/// Takes what writes touch.
///
/// The calls come in pairs around a write, unless its caller leaves or the clone dies in between: a reporter must limit by time
/// what it began in `writing`.
pub(crate) trait TagReporter: fmt::Debug + Send + Sync {
    /// Prepares for a write, which is sent once this has returned.
    fn writing<'a>(&'a self, touched: &'a Touched) -> BoxFuture<'a, ()>;

    /// Ends what `writing` began; the caller of the write is answered once this has returned. An unknown outcome must be taken as
    /// a write that may still happen.
    fn written<'a>(&'a self, touched: &'a Touched, outcome: Outcome) -> BoxFuture<'a, ()>;
}

/// Outcome of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The write is done.
    Done,
    /// The write was not done.
    Refused,
    /// The write may be done, or may be done later.
    Unknown,
}

/// The reporter of a clone, if it has one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tags(Option<Arc<dyn TagReporter>>);

/// The rows that a write may change.
#[derive(Debug, Clone)]
pub(crate) struct Touched {
    /// The table of the partition.
    #[cfg_attr(not(test), expect(dead_code, reason = "the reporter of the cache asks for it"))]
    pub(crate) table: Arc<Table>,
    /// The partition that is written.
    #[cfg_attr(not(test), expect(dead_code, reason = "the reporter of the cache asks for it"))]
    pub(crate) partition: PartitionKey,
    /// The ranges of sort keys that are written; that of a row is the row alone.
    pub(crate) ranges: Vec<SortRange>,
}

impl Tags {
    /// Reports writes to a reporter.
    #[cfg(test)]
    pub(crate) fn to(reporter: Arc<dyn TagReporter>) -> Self {
        Self(Some(reporter))
    }

    /// Returns what a write touches, if there is a reporter to tell it to.
    pub(crate) fn touched(&self, write: &Write) -> Option<Touched> {
        self.0.as_ref().map(|_| Touched::of(write))
    }

    /// Returns what a conditional write touches if it is applied, if there is a reporter to tell it to.
    pub(crate) fn touched_conditionally(&self, write: &ConditionalWrite) -> Option<Touched> {
        self.0.as_ref().map(|_| {
            let ranges = write.written().map(row).collect();
            Touched { table: write.table.clone(), partition: write.partition.clone(), ranges }
        })
    }

    /// Runs a write between the two calls to the reporter.
    ///
    /// # Errors
    /// Those of the write.
    pub(crate) async fn around<T>(
        &self,
        touched: Option<Touched>,
        write: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let (Some(reporter), Some(touched)) = (&self.0, touched) else { return write.await };
        reporter.writing(&touched).await;
        let outcome = write.await;
        let said = match &outcome {
            Ok(_) => Outcome::Done,
            Err(Error::OutcomeUnknown { .. } | Error::Internal(_)) => Outcome::Unknown,
            Err(_) => Outcome::Refused,
        };
        reporter.written(&touched, said).await;
        outcome
    }
}

fn row(key: &SortKey) -> SortRange {
    SortRange { start: Some(key.clone()), end: key.successor() }
}

impl Touched {
    fn of(write: &Write) -> Self {
        let range = |change: &Change| match change {
            Change::Put { sort_key, .. } | Change::Delete { sort_key } => row(sort_key),
            Change::DeleteRange { range } => range.clone(),
        };
        let ranges = write.changes.iter().map(range).collect();
        Self { table: write.table.clone(), partition: write.partition.clone(), ranges }
    }

    /// Returns which of the declared prefixes of sort keys the write touches, each once and in their order: of a row the longest
    /// that its key begins with, of a deleted range all that keys in the range may begin with.
    #[cfg_attr(not(test), expect(dead_code, reason = "the reporter of the cache asks for it"))]
    pub(crate) fn prefixes<'a>(&self, declared: &'a [Vec<u8>]) -> Vec<&'a [u8]> {
        let mut touched = vec![false; declared.len()];
        for range in &self.ranges {
            let start = range.start.as_ref().map(SortKey::ordered_bytes).unwrap_or_default();
            let end = range.end.as_ref().map(SortKey::ordered_bytes);
            let one = range.start.as_ref().is_some_and(|start| start.successor() == range.end);
            if one {
                let of_row = (0..declared.len()).filter(|at| start.starts_with(&declared[*at]));
                if let Some(longest) = of_row.max_by_key(|at| declared[*at].len()) {
                    touched[longest] = true;
                }
                continue;
            }
            for (at, prefix) in declared.iter().enumerate() {
                // Keys with the prefix lie between it and the first key behind all of them.
                let before_end = end.as_ref().is_none_or(|end| prefix < end);
                touched[at] |= before_end && (*prefix >= start || start.starts_with(prefix));
            }
        }
        declared.iter().zip(touched).filter(|(_, touched)| *touched).map(|(prefix, _)| &**prefix).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::data::Data;
    use crate::mutation::Mutation;
    use crate::store::conformance::{holding, text};
    use crate::store::model::Model;
    use crate::table::{SortKeyType, WriteMode};

    #[derive(Debug, Default)]
    struct Told(Mutex<Vec<String>>);

    impl TagReporter for Told {
        fn writing<'a>(&'a self, touched: &'a Touched) -> BoxFuture<'a, ()> {
            let declared = [b"a".to_vec(), b"ab".to_vec(), b"b".to_vec(), b"c".to_vec()];
            let prefixes: Vec<_> =
                touched.prefixes(&declared).into_iter().map(String::from_utf8_lossy).collect();
            let (table, partition) = (&touched.table.definition.name, touched.partition.as_str());
            self.0.lock().unwrap().push(format!("{table}/{partition}/{}", prefixes.join(",")));
            Box::pin(async {})
        }

        fn written<'a>(&'a self, _: &'a Touched, outcome: Outcome) -> BoxFuture<'a, ()> {
            self.0.lock().unwrap().push(format!("{outcome:?}"));
            Box::pin(async {})
        }
    }

    async fn told(mutations: Vec<Mutation>) -> Vec<String> {
        let reporter = Arc::new(Told::default());
        let data = Data::new(Model::default()).reporting(Tags::to(reporter.clone()));
        data.create_table("t", SortKeyType::String, WriteMode::LastWriteWins, None).await.unwrap();
        data.mutate("t", "p".to_owned(), mutations, "").await.unwrap();
        let mut told = reporter.0.lock().unwrap();
        std::mem::take(&mut *told)
    }

    #[tokio::test]
    async fn each_write_reports_its_prefixes() {
        let put = |key: &str| Mutation::Put { sort_key: text(key), attributes: holding("1"), ttl: None };
        assert_eq!(told(vec![put("abc"), put("az")]).await, ["t/p/a,ab", "Done"]);
        assert_eq!(told(vec![put("x"), Mutation::Delete { sort_key: text("b") }]).await, ["t/p/b", "Done"]);
        let range = |start, end| Mutation::DeleteRange { start, end };
        assert_eq!(told(vec![range(text("aa"), text("b"))]).await, ["t/p/a,ab", "Done"]);
        assert_eq!(told(vec![range(text("ac"), text("b0"))]).await, ["t/p/a,b", "Done"]);
        assert_eq!(told(vec![range(None, None)]).await, ["t/p/a,ab,b,c", "Done"]);
    }
}
