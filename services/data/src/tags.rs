//! Tags: what a write touches, told to one reporter of the clone before and after the write, so that a cache can keep no entry
//! that the write makes old. Without a reporter nothing is gathered.
//!
//! This file knows no cache: a reporter makes its tags of the table, the partition and the sort-key prefixes that it declares.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use shoal_kit::EngineError;

use crate::conditional::{self, ConditionalWrite};
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
    /// The partition that is written; none when the table is dropped with all of them.
    #[cfg_attr(not(test), expect(dead_code, reason = "the reporter of the cache asks for it"))]
    pub(crate) partition: Option<PartitionKey>,
    /// The ranges of sort keys that are written; that of a row is the row alone.
    pub(crate) ranges: Vec<SortRange>,
}

impl Tags {
    /// Reports writes to a reporter.
    #[cfg(test)]
    pub(crate) fn to(reporter: Arc<dyn TagReporter>) -> Self {
        Self(Some(reporter))
    }

    /// Returns whether there is a reporter.
    pub(crate) fn is_reported(&self) -> bool {
        self.0.is_some()
    }

    /// Sends a write between the two calls to the reporter. Every write of rows goes through here.
    ///
    /// # Errors
    /// Those of the write.
    pub(crate) async fn around<W: Reported, F>(
        &self,
        write: W,
        send: impl FnOnce(W) -> F,
    ) -> Result<W::Answer, Error>
    where
        F: Future<Output = Result<W::Answer, Error>>,
    {
        let Some(reporter) = &self.0 else { return send(write).await };
        let touched = write.touched();
        reporter.writing(&touched).await;
        let answer = send(write).await;
        let outcome = match &answer {
            Ok(answer) if W::done(answer) => Outcome::Done,
            Ok(_) => Outcome::Refused,
            Err(error) if W::may_be_done(error) => Outcome::Unknown,
            Err(_) => Outcome::Refused,
        };
        reporter.written(&touched, outcome).await;
        answer
    }
}

/// A write that a reporter is told of.
pub(crate) trait Reported {
    /// Answer of a store to it.
    type Answer;

    /// Returns the rows that the write may change.
    fn touched(&self) -> Touched;

    /// Returns whether the answer says that the write is done.
    fn done(answer: &Self::Answer) -> bool;

    /// Returns whether a write that ended with this error may be done, or may be done later.
    fn may_be_done(error: &Error) -> bool {
        matches!(
            error,
            Error::OutcomeUnknown { .. }
                | Error::Engine(EngineError::Unknown { .. })
                | Error::DataLoss(_)
                | Error::Internal(_)
        )
    }
}

/// The end of a table with all of its rows.
#[derive(Debug)]
pub(crate) struct TableDrop(pub(crate) Arc<Table>);

impl Reported for TableDrop {
    type Answer = ();

    fn touched(&self) -> Touched {
        Touched { table: self.0.clone(), partition: None, ranges: vec![SortRange::default()] }
    }

    fn done((): &()) -> bool {
        true
    }

    fn may_be_done(error: &Error) -> bool {
        // It is done in steps, after the first of which nobody finds the table.
        !matches!(error, Error::Invalid(_) | Error::TableNotFound(_) | Error::TableChanged(_))
    }
}

impl Reported for Write {
    type Answer = ();

    fn touched(&self) -> Touched {
        let range = |change: &Change| match change {
            Change::Put { sort_key, .. } | Change::Delete { sort_key } => row(sort_key),
            Change::DeleteRange { range } => range.clone(),
        };
        let ranges = self.changes.iter().map(range).collect();
        Touched { table: self.table.clone(), partition: Some(self.partition.clone()), ranges }
    }

    fn done((): &()) -> bool {
        true
    }
}

impl Reported for ConditionalWrite {
    type Answer = conditional::Outcome;

    fn touched(&self) -> Touched {
        let ranges = self.written().map(row).collect();
        Touched { table: self.table.clone(), partition: Some(self.partition.clone()), ranges }
    }

    fn done(answer: &conditional::Outcome) -> bool {
        matches!(answer, conditional::Outcome::Applied { .. })
    }
}

fn row(key: &SortKey) -> SortRange {
    SortRange { start: Some(key.clone()), end: key.successor() }
}

impl Touched {
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
pub(crate) mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::conditional::Condition;
    use crate::data::Data;
    use crate::mutation::Mutation;
    use crate::store::conformance::{holding, text};
    use crate::store::model::Model;
    use crate::table::{SortKeyType, WriteMode};
    use crate::value::Value;

    /// A reporter that notes the prefixes `a`, `ab`, `b` and `c` that a write touches, and its outcome.
    #[derive(Debug, Default)]
    pub(crate) struct Told(Mutex<Vec<String>>);

    impl Told {
        /// Returns what was noted since the last time.
        pub(crate) fn take(&self) -> Vec<String> {
            std::mem::take(&mut *self.0.lock().unwrap())
        }
    }

    impl TagReporter for Told {
        fn writing<'a>(&'a self, touched: &'a Touched) -> BoxFuture<'a, ()> {
            let declared = [b"a".to_vec(), b"ab".to_vec(), b"b".to_vec(), b"c".to_vec()];
            let prefixes: Vec<_> =
                touched.prefixes(&declared).into_iter().map(String::from_utf8_lossy).collect();
            let table = &touched.table.definition.name;
            let partition = touched.partition.as_ref().map_or("*", PartitionKey::as_str);
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
        reporter.take()
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

    #[tokio::test]
    async fn refused_writes_are_told_apart() {
        let reporter = Arc::new(Told::default());
        let data = Data::new(Model::default()).reporting(Tags::to(reporter.clone()));
        data.create_table("t", SortKeyType::String, WriteMode::Conditional, None).await.unwrap();
        let put = vec![Mutation::Put { sort_key: text("abc"), attributes: holding("1"), ttl: None }];
        let absent = vec![(text("b"), Condition::Absent)];
        let exists = vec![(text("b"), Condition::Exists)];
        data.check_and_mutate("t", "p".to_owned(), absent, put.clone(), "").await.unwrap();
        assert_eq!(reporter.take(), ["t/p/ab", "Done"]);
        data.check_and_mutate("t", "p".to_owned(), exists, put, "").await.unwrap();
        assert_eq!(reporter.take(), ["t/p/ab", "Refused"]);
        let add = |attribute: &str| {
            data.increment("t", "p".to_owned(), text("abc"), attribute.to_owned(), Value::Int(1), "")
        };
        add("n").await.unwrap();
        assert_eq!(reporter.take(), ["t/p/ab", "Done"]);
        add("v").await.unwrap_err();
        assert_eq!(reporter.take(), ["t/p/ab", "Refused"]);
    }

    #[tokio::test]
    async fn unanswered_writes_have_unknown_outcome() {
        let reporter = Arc::new(Told::default());
        let data = Data::new(Model::default()).reporting(Tags::to(reporter.clone()));
        let table =
            data.create_table("t", SortKeyType::String, WriteMode::LastWriteWins, None).await.unwrap();
        let detail = || "no answer".to_owned();
        for (error, outcome) in [
            (Error::OutcomeUnknown { detail: detail(), token: None }, "Unknown"),
            (Error::Engine(EngineError::Unknown { engine: "it", detail: detail() }), "Unknown"),
            (Error::DataLoss(detail()), "Unknown"),
            (Error::Internal(detail()), "Unknown"),
            (Error::Engine(EngineError::Unavailable { engine: "it", detail: detail() }), "Refused"),
            (Error::Contended { attempts: 3 }, "Refused"),
        ] {
            let partition = PartitionKey::parse("p".to_owned()).unwrap();
            let delete = vec![Mutation::Delete { sort_key: text("c") }];
            let write =
                Write::parse(Arc::new(table.clone()), partition, data.token("").unwrap(), delete).unwrap();
            data.tags.around(write, async |_| Err(error)).await.unwrap_err();
            assert_eq!(reporter.take(), ["t/p/c", outcome]);
        }
    }
}
