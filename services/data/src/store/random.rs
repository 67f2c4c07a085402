//! Random sequences of calls from a seed, and the answers of a store to them.

use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;

use crate::clock::WriteTimestamp;
use crate::data::Data;
use crate::error::Error;
use crate::mutation::Mutation;
use crate::read::QueryRequest;
use crate::row::Row;
use crate::store::{Consistency, Store};
use crate::table::{SortKeyType, WriteMode};
use crate::value::{Attributes, Value};

/// Calls in a sequence.
const CALLS: usize = 60;

/// A store under test, with a table of each type.
pub(crate) struct Subject<S> {
    data: Data<S>,
    store: S,
    /// The time before the first call: writes are dated near it, so that some have ended by now whatever the clock does.
    base: WriteTimestamp,
}

/// A call and its answer.
pub(crate) type Answers = Vec<(String, String)>;

/// Names the first call that was answered otherwise.
pub(crate) fn compare(seed: u64, expected: &Answers, found: &Answers) {
    for (i, (expected, found)) in expected.iter().zip(found).enumerate() {
        assert_eq!(expected, found, "seed {seed}, call {i}");
    }
    assert_eq!(expected.len(), found.len(), "seed {seed}");
}

impl<S: Store> Subject<S> {
    pub(crate) async fn new(store: S) -> Self {
        let data = Data::new(store.clone());
        for of in SortKeyType::ALL {
            data.create_table(&table(of), of, WriteMode::LastWriteWins, None).await.unwrap();
        }
        // The same for every subject of this process: timestamps are part of the answers.
        static BASE: std::sync::OnceLock<WriteTimestamp> = std::sync::OnceLock::new();
        let base = *BASE.get_or_init(|| WriteTimestamp(WriteTimestamp::now().0 - 100_000_000));
        Self { data, store, base }
    }

    /// Runs a seed's sequence in partitions of its own.
    pub(crate) async fn run(&self, seed: u64) -> Answers {
        self.run_with(seed, async |_: &S| {}).await
    }

    /// Does something to the store before each call.
    pub(crate) async fn run_with(&self, seed: u64, before: impl AsyncFn(&S)) -> Answers {
        let mut rng = Rng::with_seed(seed);
        let of = SortKeyType::ALL[rng.usize(..SortKeyType::ALL.len())];
        let mut answers = Answers::new();
        for _ in 0..CALLS {
            before(&self.store).await;
            let partition = format!("{seed}-{}", rng.u8(0..2));
            let (call, answer) = match rng.u8(0..10) {
                0..5 => self.mutate(&mut rng, of, partition).await,
                5..7 => self.get(&mut rng, of, partition).await,
                _ => self.query(&mut rng, of, partition).await,
            };
            answers.push((call, answer));
        }
        answers
    }

    async fn mutate(&self, rng: &mut Rng, of: SortKeyType, partition: String) -> (String, String) {
        let mutations: Vec<_> = (0..rng.usize(1..4)).map(|_| mutation(rng, of)).collect();
        // Few timestamps, so that many are equal, and some calls are repeats.
        let token = format!("{}-{}", self.base.0 + rng.i64(0..12), rng.u8(0..2));
        let call = format!("mutate {of:?} {partition} {token} {mutations:?}");
        let outcome = self.data.mutate(&table(of), partition, mutations, &token).await;
        (call, answer(outcome))
    }

    async fn get(&self, rng: &mut Rng, of: SortKeyType, partition: String) -> (String, String) {
        let key = key(rng, of);
        let call = format!("get {of:?} {partition} {key:?}");
        let outcome = self.data.get(&table(of), partition, key, Consistency::Quorum).await;
        (call, answer(outcome))
    }

    /// A whole query, page by page.
    async fn query(&self, rng: &mut Rng, of: SortKeyType, partition: String) -> (String, String) {
        let bound = |rng: &mut Rng| if rng.bool() { key(rng, of) } else { None };
        let prefix = if rng.u8(0..3) == 0 { key(rng, of) } else { None };
        let mut request = QueryRequest {
            table: table(of),
            partition_key: partition,
            start: if prefix.is_none() { bound(rng) } else { None },
            end: if prefix.is_none() { bound(rng) } else { None },
            prefix,
            descending: rng.bool(),
            page_size: rng.i32(0..5),
            ..QueryRequest::default()
        };
        let call = format!("{request:?}");
        let mut pages: Vec<Vec<Row>> = Vec::new();
        loop {
            match self.data.query(request.clone(), Consistency::Quorum).await {
                Ok((page, next)) => {
                    pages.push(page);
                    request.page_token = next;
                }
                Err(error) => return (call, answer::<()>(Err(error))),
            }
            if request.page_token.is_empty() {
                return (call, answer(Ok(pages)));
            }
        }
    }
}

fn table(of: SortKeyType) -> String {
    format!("random_{}", of.name().to_ascii_lowercase())
}

fn answer<T: std::fmt::Debug>(outcome: Result<T, Error>) -> String {
    match outcome {
        Ok(value) => format!("{value:?}"),
        Err(error @ (Error::Invalid(_) | Error::RowNotFound)) => format!("refused: {error}"),
        Err(error) => panic!("{error}"),
    }
}

/// Returns one of few keys, some of them near each other's ends.
fn key(rng: &mut Rng, of: SortKeyType) -> Option<Value> {
    const TEXTS: [&str; 7] = ["a", "a\0", "aa", "ab", "b", "ä", "\u{10ffff}"];
    const BYTES: [&[u8]; 7] = [&[0], &[0, 0], &[0, 255], &[1], &[128], &[255], &[255, 255]];
    const INTS: [i64; 7] = [i64::MIN, -256, -1, 0, 1, 255, i64::MAX];
    let at = rng.usize(..TEXTS.len());
    match of {
        SortKeyType::String => Some(Value::String(TEXTS[at].to_owned())),
        SortKeyType::Bytes => Some(Value::Bytes(Bytes::from_static(BYTES[at]))),
        SortKeyType::Int64 => Some(Value::Int(INTS[at])),
        SortKeyType::None => None,
        SortKeyType::Composite(_) => panic!("not among all types of one value"),
    }
}

fn mutation(rng: &mut Rng, of: SortKeyType) -> Mutation {
    let sort_key = key(rng, of);
    match rng.u8(0..8) {
        0..5 => {
            // For ever, ended by now, and two that end long after the test.
            let ttl = [None, Some(1), Some(5_000), Some(10_000)][rng.usize(..4)];
            // Of two puts with one timestamp and one end Cassandra may keep either (a second may begin between its
            // clock and ours), so these hold the same.
            let value = ttl.map_or_else(|| rng.i64(0..4), u64::cast_signed);
            let attributes: Attributes = [("v".to_owned(), Value::Int(value))].into_iter().collect();
            Mutation::Put { sort_key, attributes, ttl: ttl.map(Duration::from_secs) }
        }
        5..7 => Mutation::Delete { sort_key },
        _ => {
            let end = key(rng, of);
            let open = rng.u8(0..4);
            Mutation::DeleteRange {
                start: if open & 1 == 0 { sort_key } else { None },
                end: if open & 2 == 0 { end } else { None },
            }
        }
    }
}
