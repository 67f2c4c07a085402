//! Histories: what callers asked of one row and what they were told, and whether any order of these calls explains it.
//!
//! The search is that of Wing and Gong with the memory of Lowe: it takes one call after the other that may come next, and tries
//! no set of calls twice that left the same value.

use std::collections::HashSet;

/// Most calls of one history.
const CALLS_MAX: usize = 128;

/// The value of the row, or none where the row is not there.
pub type State = Option<String>;

/// A call and its answer.
#[derive(Debug, Clone)]
pub enum Call {
    /// A STRONG read.
    Read {
        /// The value that it showed.
        found: State,
    },
    /// A CheckAndMutate that puts a value in the place of another.
    Swap {
        /// The value that it asked for.
        expected: State,
        /// The value that it puts, which no other call puts.
        new: String,
        /// Answer that the caller was given.
        answer: Answer,
    },
}

/// Answer to a swap.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The swap was applied.
    Applied,
    /// The swap was not applied, and never will be.
    Refused {
        /// The value that it met.
        found: State,
    },
    /// The swap may have been applied, or may yet be.
    Unknown,
}

/// A call with its times. A call whose answer nobody has, has no end.
#[derive(Debug, Clone)]
pub struct Event {
    /// The call.
    pub call: Call,
    /// The moment before it was sent, in nanoseconds.
    pub start: u64,
    /// The moment at which its answer was there.
    pub end: Option<u64>,
}

impl Call {
    /// Returns the value after the call, if the call can be answered so when the value is `state`.
    fn step(&self, state: &State) -> Option<State> {
        match self {
            Call::Read { found } => (found == state).then(|| state.clone()),
            Call::Swap { expected, new, answer } => {
                let applies = expected == state;
                match answer {
                    // An unknown one that changes nothing is left out.
                    Answer::Applied | Answer::Unknown => applies.then(|| Some(new.clone())),
                    Answer::Refused { found } => (!applies && found == state).then(|| state.clone()),
                }
            }
        }
    }
}

/// Returns whether there is an order of the calls, each between its start and its end, that explains every answer.
///
/// # Panics
/// When there are more than 128 calls.
#[must_use]
pub fn linearizable(events: &[Event]) -> bool {
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
