//! Histories: what callers asked of one row and what they were told, and whether any order of these calls explains it.
//!
//! The search is that of Wing and Gong with the memory of Lowe: it takes one call after the other that may come next, and tries
//! no set of calls twice that left the same value.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::{holding, text, value_of};
use crate::clock::WriteTimestamp;
use crate::conditional::{Comparison, Condition, Outcome};
use crate::data::Data;
use crate::error::Error;
use crate::mutation::Mutation;
use crate::store::{Consistency, Store};
use crate::value::Value;

/// Most calls of one history.
const CALLS_MAX: usize = 128;

type State = Option<String>;

/// A call and its answer.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    /// A STRONG read.
    Read { found: State },
    /// A CheckAndMutate that puts a value in the place of another.
    Swap { expected: State, new: String, answer: Answer },
}

/// Answer to a swap.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Applied,
    Refused {
        found: State,
    },
    /// It may have happened, or may yet happen.
    Unknown,
}

/// A call with its times; none at the end of a call whose answer nobody has.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) call: Call,
    pub(crate) start: u64,
    pub(crate) end: Option<u64>,
}

impl Call {
    /// Returns the value after the call, if the call can be answered so when the value is `state`.
    fn step(&self, state: &State) -> Option<State> {
        match self {
            Call::Read { found } => (found == state).then(|| state.clone()),
            Call::Swap { expected, new, answer } => {
                let applies = expected == state;
                let after = || if applies { Some(new.clone()) } else { state.clone() };
                match answer {
                    Answer::Applied => applies.then(after),
                    Answer::Refused { found } => (!applies && found == state).then(after),
                    Answer::Unknown => Some(after()),
                }
            }
        }
    }
}

/// Returns whether there is an order of the calls, each between its start and its end, that explains every answer.
pub(crate) fn linearizable(events: &[Event]) -> bool {
    assert!(events.len() <= CALLS_MAX, "a longer history takes too long");
    let mut tried = HashSet::new();
    let mut open = vec![(0_u128, State::None)];
    while let Some((done, state)) = open.pop() {
        let left = || events.iter().enumerate().filter(|(i, _)| done & (1 << i) == 0);
        let Some(first_end) = left().filter_map(|(_, event)| event.end).min() else { return true };
        for (i, event) in left().filter(|(_, event)| event.start <= first_end) {
            if let Some(state) = event.call.step(&state)
                && tried.insert((done | 1 << i, state.clone()))
            {
                open.push((done | 1 << i, state));
            }
        }
    }
    false
}

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
                Ok(Outcome::Refused { rows }) => {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn value(value: &str) -> State {
        Some(value.to_owned())
    }

    fn event(call: Call, start: u64, end: u64) -> Event {
        Event { call, start, end: Some(end) }
    }

    fn swap(expected: State, new: &str, answer: Answer) -> Call {
        Call::Swap { expected, new: new.to_owned(), answer }
    }

    #[test]
    fn ordered_answers_are_linearizable() {
        let create = event(swap(None, "1", Answer::Applied), 0, 10);
        let late = event(swap(None, "2", Answer::Refused { found: value("1") }), 5, 20);
        let read = |found, start, end| event(Call::Read { found }, start, end);
        assert!(linearizable(&[create.clone(), late.clone(), read(value("1"), 20, 30)]));
        assert!(linearizable(&[create.clone(), read(None, 1, 9)]));
        assert!(!linearizable(&[create.clone(), read(None, 11, 12)]), "an old value");
        let twice = event(swap(None, "2", Answer::Applied), 5, 20);
        assert!(!linearizable(&[create.clone(), twice]), "two creators");
        let back = [create, late, read(value("2"), 21, 22)];
        assert!(!linearizable(&back), "refused and yet there");
    }

    #[test]
    fn unknown_calls_may_come_late_or_never() {
        let unknown = Event { call: swap(None, "1", Answer::Unknown), start: 0, end: None };
        let read = |found, start, end| event(Call::Read { found }, start, end);
        assert!(linearizable(&[unknown.clone(), read(None, 5, 6), read(value("1"), 7, 8)]));
        assert!(linearizable(&[unknown.clone(), read(None, 5, 6)]));
        assert!(!linearizable(&[unknown, read(value("1"), 5, 6), read(None, 7, 8)]), "gone again");
    }
}
