//! Callers of the data service: what they ask, what they make of errors, and what they must find in the end.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use shoal_client::Channel;
use shoal_proto::data::v1 as data;
use shoal_proto::data::v1::condition;
use shoal_proto::data::v1::data_service_client::DataServiceClient;
use shoal_proto::r#type::v1::{Value, value};
use shoal_testing::history::{Answer, Call, Event, State, linearizable};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

use crate::harness::eventually;

/// Rows of each kind that are called, in partitions of their own.
const ROWS: u64 = 2;
/// Callers of each row.
const CALLERS: u64 = 3;
/// Most calls of one caller of a conditional row: the search takes 128 of a row, with those at the end.
const CALLS_MAX: usize = 38;
/// Increments of each caller of a sum.
const INCREMENTS: usize = 12;
/// The deadline of a call.
const DEADLINE: Duration = Duration::from_secs(4);
/// The time within which the mesh answers again when nothing is killed any more.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

type Client = DataServiceClient<Channel>;

/// The tables of a run.
#[derive(Debug, Clone)]
pub(super) struct Tables {
    conditional: String,
    last_write_wins: String,
}

impl Tables {
    pub(super) async fn create(channel: &Channel) -> Self {
        let run = fastrand::u32(..);
        let tables = Self {
            conditional: format!("history_conditional_{run}"),
            last_write_wins: format!("history_last_{run}"),
        };
        for (name, mode) in [
            (&tables.conditional, data::WriteMode::Conditional),
            (&tables.last_write_wins, data::WriteMode::LastWriteWins),
        ] {
            let table = data::Table { name: name.clone(), write_mode: mode.into(), ..Default::default() };
            let request = data::CreateTableRequest { table: Some(table) };
            let mut client = shoal_client::data(channel.clone());
            eventually("a table", SETTLES_WITHIN, async || client.create_table(request.clone()).await.ok())
                .await;
        }
        tables
    }
}

fn text(text: impl Into<String>) -> Value {
    Value { kind: Some(value::Kind::StringValue(text.into())) }
}

fn number(number: i64) -> Value {
    Value { kind: Some(value::Kind::IntValue(number)) }
}

fn put(key: &str, value: &str) -> data::Mutation {
    let attributes = [("v".to_owned(), text(value))].into();
    let put = data::mutation::Put { sort_key: Some(text(key)), attributes, ttl: None };
    data::Mutation { kind: Some(data::mutation::Kind::Put(put)) }
}

fn value_of(row: &data::Row) -> String {
    match row.attributes["v"].kind.clone() {
        Some(value::Kind::StringValue(value)) => value,
        other => panic!("{other:?}"),
    }
}

fn micros_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_micros()).expect("in range")
}

fn micros(at: Option<&prost_types::Timestamp>) -> i64 {
    let at = at.expect("a time");
    at.seconds * 1_000_000 + i64::from(at.nanos) / 1_000
}

/// Returns whether a write that was answered so was certainly not done.
#[track_caller]
fn not_done(status: &Status) -> bool {
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    match status.code() {
        Code::Unavailable | Code::Aborted => {
            matches!(reason.as_str(), "NO_ENDPOINT" | "WRITE_CONTENTION" | "ENGINE_UNAVAILABLE" | "DRAINING")
        }
        Code::DeadlineExceeded => false,
        _ => panic!("a kill is no reason for this: {status:?}"),
    }
}

/// A call with the deadline of all calls.
fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

/// A caller: its choices, and the clones that it may send to.
#[derive(Debug, Clone)]
struct Caller {
    rng: Rng,
    name: String,
    clients: Vec<Client>,
    tables: Tables,
    partition: String,
    began: Instant,
    calm: CancellationToken,
}

impl Caller {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).expect("in range")
    }

    fn client(&mut self) -> Client {
        let at = self.rng.usize(..self.clients.len());
        self.clients[at].clone()
    }

    async fn pause(&mut self, up_to_ms: u64) {
        tokio::time::sleep(Duration::from_millis(self.rng.u64(1..up_to_ms))).await;
    }

    async fn read(&self, client: &mut Client, table: &str, key: &str) -> Result<Option<data::Row>, Status> {
        let get = data::GetRequest {
            table: table.to_owned(),
            partition_key: self.partition.clone(),
            sort_key: Some(text(key)),
            consistency: data::Consistency::Strong.into(),
        };
        match client.get(timed(get)).await {
            Ok(answer) => Ok(answer.into_inner().row),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => {
                not_done(&status);
                Err(status)
            }
        }
    }

    /// Reads the conditional row by this client until it is answered.
    async fn last_read(&self, mut client: Client) -> Event {
        eventually("a last read", SETTLES_WITHIN, async || {
            let start = self.now();
            let row = self.read(&mut client, &self.tables.conditional, "a").await.ok()?;
            let found = row.as_ref().map(value_of);
            Some(Event { call: Call::Read { found }, start, end: Some(self.now()) })
        })
        .await
    }

    /// Reads and swaps the value of a conditional row.
    async fn swaps(mut self) -> Vec<Event> {
        let (mut events, mut last) = (Vec::new(), State::None);
        while events.len() < CALLS_MAX && !self.calm.is_cancelled() {
            self.pause(200).await;
            events.extend(if self.rng.u8(0..3) == 0 {
                self.observe(&mut last).await
            } else {
                self.swap(&mut last).await
            });
        }
        events
    }

    async fn observe(&mut self, last: &mut State) -> Option<Event> {
        let (start, mut client) = (self.now(), self.client());
        let row = self.read(&mut client, &self.tables.conditional, "a").await.ok()?;
        *last = row.as_ref().map(value_of);
        Some(Event { call: Call::Read { found: last.clone() }, start, end: Some(self.now()) })
    }

    /// Swaps the value. What is unknown is repeated at any clone, and sometimes given up.
    async fn swap(&mut self, last: &mut State) -> Option<Event> {
        let start = self.now();
        let new = format!("{}-{}", self.name, self.rng.u64(..));
        let kind = match last.as_ref() {
            None => condition::Kind::Absent(condition::Absent {}),
            Some(value) => condition::Kind::Attribute(condition::Attribute {
                name: "v".to_owned(),
                comparison: data::Comparison::Equal.into(),
                value: Some(text(value)),
            }),
        };
        let condition = data::Condition { sort_key: Some(text("a")), kind: Some(kind) };
        let request = data::CheckAndMutateRequest {
            table: self.tables.conditional.clone(),
            partition_key: self.partition.clone(),
            conditions: vec![condition],
            mutations: vec![put("a", &new)],
            idempotency_token: format!("{}-{new}", micros_now()),
        };
        let expected = last.clone();
        let event = |answer, end| {
            let new = new.clone();
            Some(Event { call: Call::Swap { expected: expected.clone(), new, answer }, start, end })
        };
        let mut unknown = false;
        for _ in 0..5 {
            match self.client().check_and_mutate(timed(request.clone())).await.map(Response::into_inner) {
                Ok(data::CheckAndMutateResponse { applied: true, .. }) => {
                    *last = Some(new.clone());
                    return event(Answer::Applied, Some(self.now()));
                }
                // An earlier attempt may yet be applied.
                Ok(_) if unknown => break,
                Ok(refused) => {
                    last.clone_from(&refused.rows.first().map(value_of));
                    return event(Answer::Refused { found: last.clone() }, Some(self.now()));
                }
                Err(status) => {
                    unknown |= !not_done(&status);
                    if unknown && self.rng.u8(0..3) == 0 {
                        break;
                    }
                    self.pause(100).await;
                }
            }
        }
        unknown.then(|| event(Answer::Unknown, None)).flatten()
    }

    /// Adds one to a sum, again and again, each time until it is answered. Returns the sums that it was told.
    async fn increments(mut self) -> Vec<i64> {
        let mut sums = Vec::new();
        for turn in 0..INCREMENTS {
            self.pause(500).await;
            let request = data::IncrementRequest {
                table: self.tables.conditional.clone(),
                partition_key: self.partition.clone(),
                sort_key: Some(text("a")),
                attribute: "n".to_owned(),
                delta: Some(number(1)),
                idempotency_token: format!("{}-{}-{turn}", micros_now(), self.name),
            };
            let begun = Instant::now();
            let sum = loop {
                match self.client().increment(timed(request.clone())).await {
                    Ok(answer) => break answer.into_inner().value.and_then(|value| value.kind),
                    Err(status) => not_done(&status),
                };
                assert!(begun.elapsed() < SETTLES_WITHIN, "an increment is never answered");
                self.pause(100).await;
            };
            match sum {
                Some(value::Kind::IntValue(sum)) => sums.push(sum),
                other => panic!("{other:?}"),
            }
        }
        sums
    }

    /// Writes two rows by one Mutate, again and again, at times of which some are equal. Returns the latest that was acknowledged.
    async fn last_writes(mut self, base: i64) -> i64 {
        let (mut acknowledged, mut turn) = (0, 0);
        while !self.calm.is_cancelled() {
            turn += 1;
            let at = base + self.rng.i64(0..200);
            let value = format!("{at}-{}-{turn}", self.name);
            let request = data::MutateRequest {
                table: self.tables.last_write_wins.clone(),
                partition_key: self.partition.clone(),
                mutations: vec![put("a", &value), put("b", &value)],
                idempotency_token: value,
            };
            let mut client = self.client();
            match client.mutate(timed(request)).await {
                Ok(_) => acknowledged = acknowledged.max(at),
                Err(status) => {
                    not_done(&status);
                }
            }
            // A caller sees what was acknowledged to it at every clone.
            let mut client = self.client();
            if let Ok(row) = self.read(&mut client, &self.tables.last_write_wins, "b").await {
                let seen = row.map_or(0, |row| micros(row.write_time.as_ref()));
                assert!(seen >= acknowledged, "{}: {seen} after {acknowledged}", self.name);
            }
            self.pause(60).await;
        }
        acknowledged
    }
}

/// Numbers of answers that were judged.
#[derive(Debug, Default)]
pub(super) struct Tally {
    known: usize,
    unknown: usize,
    sums: usize,
    last_writes: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { known, unknown, sums, last_writes } = self;
        write!(
            f,
            "{known} answers and {unknown} unknown outcomes of conditional rows, {sums} increments, {last_writes} rows of last writes"
        )
    }
}

/// The callers of one seed, while they call.
pub(super) struct Callers {
    seed: u64,
    base: i64,
    caller: Caller,
    swaps: JoinSet<(u64, Vec<Event>)>,
    sums: JoinSet<(u64, Vec<i64>)>,
    writes: JoinSet<(u64, i64)>,
}

impl Callers {
    /// Starts callers that send to any of these channels until `calm`.
    pub(super) fn start(channels: Vec<Channel>, tables: &Tables, seed: u64, calm: CancellationToken) -> Self {
        let caller = Caller {
            rng: Rng::with_seed(seed),
            name: String::new(),
            clients: channels.into_iter().map(shoal_client::data).collect(),
            tables: tables.clone(),
            partition: String::new(),
            began: Instant::now(),
            calm,
        };
        let base = micros_now();
        let mut callers =
            Self { seed, base, caller, swaps: JoinSet::new(), sums: JoinSet::new(), writes: JoinSet::new() };
        for row in 0..ROWS {
            for caller in 0..CALLERS {
                let one = callers.of_row("swap", row, Some(caller));
                callers.swaps.spawn(async move { (row, one.swaps().await) });
                let one = callers.of_row("sum", row, Some(caller));
                callers.sums.spawn(async move { (row, one.increments().await) });
                let one = callers.of_row("last", row, Some(caller));
                callers.writes.spawn(async move { (row, one.last_writes(base).await) });
            }
        }
        callers
    }

    fn of_row(&self, kind: &str, row: u64, caller: Option<u64>) -> Caller {
        let caller = caller.unwrap_or(CALLERS);
        let seed = (self.seed * ROWS + row) * (CALLERS + 1) + caller;
        Caller {
            rng: Rng::with_seed(seed),
            name: format!("{kind}{caller}"),
            partition: format!("{kind}-{}-{row}", self.seed),
            ..self.caller.clone()
        }
    }

    /// Waits for the callers, reads everything by every clone, and judges.
    pub(super) async fn judged(mut self) -> Tally {
        let mut tally = Tally::default();
        let mut histories: HashMap<u64, Vec<Event>> = HashMap::new();
        for (row, events) in std::mem::take(&mut self.swaps).join_all().await {
            histories.entry(row).or_default().extend(events);
        }
        for (row, mut events) in histories {
            let caller = self.of_row("swap", row, None);
            for client in &caller.clients {
                events.push(caller.last_read(client.clone()).await);
            }
            tally.known += events.iter().filter(|event| event.end.is_some()).count();
            tally.unknown += events.iter().filter(|event| event.end.is_none()).count();
            assert!(linearizable(&events), "seed {}, row {row}: {events:#?}", self.seed);
        }
        let mut sums: HashMap<u64, Vec<i64>> = HashMap::new();
        for (row, told) in std::mem::take(&mut self.sums).join_all().await {
            sums.entry(row).or_default().extend(told);
        }
        for (row, mut told) in sums {
            told.sort_unstable();
            let each: Vec<i64> = (1..).take(told.len()).collect();
            assert_eq!(told, each, "seed {}, sum {row}: each increment counts once", self.seed);
            tally.sums += told.len();
        }
        let mut acknowledged: HashMap<u64, i64> = HashMap::new();
        for (row, at) in std::mem::take(&mut self.writes).join_all().await {
            let latest = acknowledged.entry(row).or_insert(self.base);
            *latest = at.max(*latest);
        }
        for (row, at) in acknowledged {
            self.converged(row, at).await;
            tally.last_writes += 1;
        }
        tally
    }

    /// Asserts that all clones show both rows of one Mutate, which is not earlier than `acknowledged`.
    async fn converged(&self, row: u64, acknowledged: i64) {
        let caller = self.of_row("last", row, None);
        let mut found = Vec::new();
        for client in &caller.clients {
            for key in ["a", "b"] {
                let mut client = client.clone();
                let row = eventually("a last row", SETTLES_WITHIN, async || {
                    caller.read(&mut client, &caller.tables.last_write_wins, key).await.ok()
                });
                let row = row.await.expect("a row");
                found.push((micros(row.write_time.as_ref()), value_of(&row)));
            }
        }
        assert!(found.iter().all(|one| *one == found[0]), "seed {}, row {row}: {found:?}", self.seed);
        assert!(found[0].0 >= acknowledged, "seed {}: {found:?} after {acknowledged}", self.seed);
    }
}
