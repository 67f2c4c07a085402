//! Callers of one row whose calls may fail, and the history of what they asked and were told.

use std::time::{Duration, Instant};

use shoal_testing::history::{Answer, Call, Event, State};

use super::{holding, text, value_of};
use crate::clock::WriteTimestamp;
use crate::conditional::{Comparison, Condition, Outcome};
use crate::data::Data;
use crate::error::Error;
use crate::mutation::Mutation;
use crate::store::{Consistency, Store};
use crate::value::Value;

/// Runs swaps and reads of one row of a conditional table from several callers over several clones, whose calls may fail.
/// Returns what they were told.
pub(crate) async fn record<S: Store>(
    clones: &[Data<S>],
    table: &str,
    partition: &str,
    seed: u64,
    calls: usize,
) -> Vec<Event> {
    let began = Instant::now();
    let mut callers = Vec::new();
    for caller in 0..3 {
        let (clones, table, partition) = (clones.to_vec(), table.to_owned(), partition.to_owned());
        callers.push(tokio::spawn(async move {
            let mut caller = Caller {
                rng: fastrand::Rng::with_seed(seed * 1_000 + caller),
                name: caller,
                clones,
                table,
                partition,
                began,
                last: None,
            };
            let mut events = Vec::new();
            for _ in 0..calls {
                events.extend(caller.call().await);
            }
            events
        }));
    }
    let mut events = Vec::new();
    for caller in callers {
        events.extend(caller.await.unwrap());
    }
    events
}

struct Caller<S> {
    rng: fastrand::Rng,
    name: u64,
    clones: Vec<Data<S>>,
    table: String,
    partition: String,
    began: Instant,
    last: State,
}

impl<S: Store> Caller<S> {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap()
    }

    fn clone_of_choice(&mut self) -> Data<S> {
        let at = self.rng.usize(..self.clones.len());
        self.clones[at].clone()
    }

    /// Makes a call. Returns none when nothing was done, or nothing was learnt.
    async fn call(&mut self) -> Option<Event> {
        let start = self.now();
        let clone = self.clone_of_choice();
        if self.rng.u8(0..3) == 0 {
            let read = clone.get(&self.table, self.partition.clone(), text("a"), Consistency::Strong).await;
            let found = match read {
                Ok(row) => Some(value_of(&row)),
                Err(Error::RowNotFound) => None,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(self.rng.u64(1..40))).await;
                    return None;
                }
            };
            self.last.clone_from(&found);
            return Some(Event { call: Call::Read { found }, start, end: Some(self.now()) });
        }
        let (expected, new) = (self.last.clone(), format!("{}-{}", self.name, self.rng.u64(..)));
        let token = format!("{}-{}", WriteTimestamp::now().0, new);
        // A caller repeats what is unknown, at any clone, and sometimes gives up.
        let mut answer = Answer::Unknown;
        let mut sent = false;
        for clone in [clone, self.clone_of_choice(), self.clone_of_choice()] {
            let condition = match &expected {
                None => Condition::Absent,
                Some(value) => Condition::Attribute {
                    name: "v".to_owned(),
                    comparison: Comparison::Equal,
                    value: Value::String(value.clone()),
                },
            };
            let put = Mutation::Put { sort_key: text("a"), attributes: holding(&new), ttl: None };
            let outcome = clone
                .check_and_mutate(
                    &self.table,
                    self.partition.clone(),
                    vec![(text("a"), condition)],
                    vec![put],
                    &token,
                )
                .await;
            match outcome {
                Ok(Outcome::Applied { .. }) => answer = Answer::Applied,
                // A first one that is unknown may yet be applied, after this refusal.
                Ok(Outcome::Refused { .. }) if sent => {}
                Ok(Outcome::Refused { rows, .. }) => {
                    answer = Answer::Refused { found: rows.first().map(value_of) };
                }
                Err(Error::OutcomeUnknown { .. }) => {
                    sent = true;
                    if self.rng.bool() {
                        break;
                    }
                    continue;
                }
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(self.rng.u64(1..40))).await;
                    continue;
                }
            }
            break;
        }
        let end = match &answer {
            Answer::Applied => {
                self.last = Some(new.clone());
                Some(self.now())
            }
            Answer::Refused { found } => {
                self.last.clone_from(found);
                Some(self.now())
            }
            Answer::Unknown if sent => None,
            Answer::Unknown => return None,
        };
        Some(Event { call: Call::Swap { expected, new, answer }, start, end })
    }
}
