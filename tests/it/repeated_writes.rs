//! Writes under one idempotency token, sent by three clones at the same time and again later: each is applied once.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use shoal_client::Channel;
use shoal_proto::data::v1 as data;
use shoal_proto::data::v1::condition;
use shoal_proto::data::v1::data_service_client::DataServiceClient;
use shoal_proto::r#type::v1::{Value, value};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::harness::clone::Clone;
use crate::harness::engines::need;
use crate::harness::up::Up;
use crate::harness::{eventually, number_of, seed};

/// The time within which a write is answered.
const SOON: Duration = Duration::from_secs(60);
/// Moments within which the three clones are sent the same write.
const SPREAD_MICROS: u64 = 20_000;

type Client = DataServiceClient<Channel>;

fn number(number: i64) -> Value {
    Value { kind: Some(value::Kind::IntValue(number)) }
}

fn key() -> Option<Value> {
    Some(Value { kind: Some(value::Kind::StringValue("a".to_owned())) })
}

fn put(n: i64) -> data::Mutation {
    let attributes = [("n".to_owned(), number(n))].into();
    let put = data::mutation::Put { sort_key: key(), attributes, ttl: None };
    data::Mutation { kind: Some(data::mutation::Kind::Put(put)) }
}

fn delete() -> data::Mutation {
    let delete = data::mutation::Delete { sort_key: key() };
    data::Mutation { kind: Some(data::mutation::Kind::Delete(delete)) }
}

/// Returns a token of this moment.
fn token(nonce: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    format!("{}-{nonce}", now.as_micros())
}

/// Three clones of one store, and the tables of a run.
struct Three {
    clients: Vec<Client>,
    conditional: String,
    last_write_wins: String,
    rng: fastrand::Rng,
}

impl Three {
    async fn new(channels: Vec<Channel>) -> Self {
        let run = fastrand::u32(..);
        let three = Self {
            clients: channels.into_iter().map(shoal_client::data).collect(),
            conditional: format!("once_conditional_{run}"),
            last_write_wins: format!("once_last_{run}"),
            rng: fastrand::Rng::with_seed(seed("repeated writes")),
        };
        assert_eq!(three.clients.len(), 3);
        for (name, mode) in [
            (&three.conditional, data::WriteMode::Conditional),
            (&three.last_write_wins, data::WriteMode::LastWriteWins),
        ] {
            let table = data::Table { name: name.clone(), write_mode: mode.into(), ..Default::default() };
            let create = data::CreateTableRequest { table: Some(table) };
            let mut client = three.clients[0].clone();
            eventually("a table", SOON, async || client.create_table(create.clone()).await.ok()).await;
        }
        three
    }

    /// Sends a write by all three clones within some milliseconds. As a hedging caller does, it leaves the others alone once one
    /// has answered, or waits for all; then it sends the write by each clone again. Returns what all answers said.
    async fn thrice<T, F>(&mut self, send: impl Fn(Client) -> F) -> T
    where
        T: PartialEq + std::fmt::Debug,
        F: Future<Output = Result<T, Status>>,
    {
        let until_answered = async |client: &Client, delay: u64| {
            tokio::time::sleep(Duration::from_micros(delay)).await;
            eventually("an answer", SOON, async || match send(client.clone()).await {
                Ok(answer) => Some(answer),
                Err(status) => {
                    let code = status.code();
                    assert!(matches!(code, Code::Unavailable | Code::Aborted), "{status:?}");
                    None
                }
            })
            .await
        };
        let leaves = self.rng.bool();
        let delays: Vec<u64> = (0..3).map(|_| self.rng.u64(..SPREAD_MICROS)).collect();
        let hedges = self.clients.iter().zip(&delays).map(|(client, delay)| until_answered(client, *delay));
        let mut hedges: FuturesUnordered<_> = hedges.collect();
        let first = hedges.next().await.expect("three");
        if !leaves {
            while let Some(other) = hedges.next().await {
                assert_eq!(other, first);
            }
        }
        drop(hedges);
        for client in &self.clients {
            assert_eq!(until_answered(client, 0).await, first, "a repeat");
        }
        first
    }

    async fn shown(&self, table: &str, partition: &str) -> Option<i64> {
        let mut found = Vec::new();
        for client in &self.clients {
            let get = data::GetRequest {
                table: table.to_owned(),
                partition_key: partition.to_owned(),
                sort_key: key(),
                consistency: data::Consistency::Strong.into(),
            };
            let row = eventually("a row", SOON, async || match client.clone().get(get.clone()).await {
                Ok(answer) => Some(answer.into_inner().row),
                Err(status) if status.code() == Code::NotFound => Some(None),
                Err(status) => {
                    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                    None
                }
            });
            found.push(row.await.map(|row| row.attributes["n"].kind.clone()));
        }
        assert!(found.iter().all(|one| *one == found[0]), "{found:?}");
        match found.remove(0) {
            None => None,
            Some(Some(value::Kind::IntValue(n))) => Some(n),
            other => panic!("{other:?}"),
        }
    }

    fn mutate(
        &self,
        partition: &str,
        mutation: data::Mutation,
        token: String,
    ) -> impl Fn(Client) -> futures::future::BoxFuture<'static, Result<Option<prost_types::Timestamp>, Status>>
    + use<> {
        let request = data::MutateRequest {
            table: self.last_write_wins.clone(),
            partition_key: partition.to_owned(),
            mutations: vec![mutation],
            idempotency_token: token,
        };
        move |mut client| {
            let request = request.clone();
            Box::pin(async move { Ok(client.mutate(request).await?.into_inner().write_time) })
        }
    }

    async fn mutate_once(&mut self) {
        for (later, shows) in [(put(2), Some(2)), (delete(), None)] {
            let partition = format!("p{}", self.rng.u64(..));
            let first = self.mutate(&partition, put(1), token("first"));
            let written = self.thrice(&first).await;
            assert_eq!(self.shown(&self.last_write_wins, &partition).await, Some(1));
            let later = self.mutate(&partition, later, token("later"));
            assert_ne!(self.thrice(&later).await, written);
            // The repeat of the first says the same, and does not come after the later one.
            assert_eq!(self.thrice(&first).await, written);
            assert_eq!(self.shown(&self.last_write_wins, &partition).await, shows);
        }
    }

    async fn increment_once(&mut self) {
        let table = self.conditional.clone();
        let partition = format!("p{}", self.rng.u64(..));
        let mut earlier = Vec::new();
        for turn in 1..=4 {
            let request = data::IncrementRequest {
                table: table.clone(),
                partition_key: partition.clone(),
                sort_key: key(),
                attribute: "n".to_owned(),
                delta: Some(number(1)),
                idempotency_token: token(&format!("add{turn}")),
            };
            let send = move |mut client: Client| {
                let request = request.clone();
                async move { client.increment(request).await.map(tonic::Response::into_inner) }
            };
            let sum = self.thrice(&send).await;
            assert_eq!(sum.value, Some(number(turn)));
            earlier.push((send, sum));
        }
        for (send, sum) in &earlier {
            assert_eq!(self.thrice(send).await, *sum, "also after other increments");
        }
        assert_eq!(self.shown(&table, &partition).await, Some(4));
    }

    async fn swap_once(&mut self) {
        let table = self.conditional.clone();
        let partition = format!("p{}", self.rng.u64(..));
        let mut earlier = Vec::new();
        for turn in 0..4 {
            let kind = if turn == 0 {
                condition::Kind::Absent(condition::Absent {})
            } else {
                condition::Kind::Attribute(condition::Attribute {
                    name: "n".to_owned(),
                    comparison: data::Comparison::Equal.into(),
                    value: Some(number(turn)),
                })
            };
            let request = data::CheckAndMutateRequest {
                table: table.clone(),
                partition_key: partition.clone(),
                conditions: vec![data::Condition { sort_key: key(), kind: Some(kind) }],
                mutations: vec![put(turn + 1)],
                idempotency_token: token(&format!("swap{turn}")),
            };
            let send = move |mut client: Client| {
                let request = request.clone();
                async move { client.check_and_mutate(request).await.map(tonic::Response::into_inner) }
            };
            let answer = self.thrice(&send).await;
            assert!(answer.applied, "its own write is no reason to refuse it: {answer:?}");
            earlier.push((send, answer));
        }
        for (send, answer) in &earlier {
            assert_eq!(self.thrice(send).await, *answer, "also after other swaps");
        }
        assert_eq!(self.shown(&table, &partition).await, Some(4));
    }

    async fn write_once(mut self) {
        for _ in 0..number_of("SHOAL_TEST_REPEATS", 3) {
            self.mutate_once().await;
            self.increment_once().await;
            self.swap_once().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repeats_apply_once_on_embedded() {
    let up = Up::start(&["--ephemeral", "--clones", "session=1,cache=1,jobs=1,data=3"]).await;
    let cancel = CancellationToken::new();
    let _end = cancel.clone().drop_guard();
    let clones = up.clones("data");
    let channel = |address: &String| shoal_client::connect(address, "clone", "test", &cancel);
    let channels = clones.iter().map(|address| channel(address).expect("an address"));
    Three::new(channels.collect()).await.write_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeats_apply_once_on_cassandra() {
    let points = need!("SHOAL_TEST_CASSANDRA");
    let mut clones = Vec::new();
    for _ in 0..3 {
        clones.push(Clone::start("data", &["--cassandra", &points]).await);
    }
    let channels = clones.iter().map(Clone::channel).collect();
    Three::new(channels).await.write_once().await;
}
