//! Tracks the slots that move from one node of a Cluster to another, since when they move, and how long calls wait for them.
//!
//! While a slot moves some of its keys are on the node that gives it away (MIGRATING) and the others on the one that takes it
//! (IMPORTING). Redis answers for the keys that a command declares. A command that declares all keys it touches can follow
//! ASK: Redis runs it where all of its keys are, or answers TRYAGAIN. A script that touches keys it does not declare cannot
//! follow: on either node it would miss the other half of its keys without an error. For such a script neither node is right
//! before the last key has moved, so the script waits, and is refused if that takes too long.
//!
//! Such a script declares one key that **never exists** (the common prefix of its keys, with the hash tag). So a
//! MIGRATING node always answers ASK, before the script has run a line, and an IMPORTING one MOVED. A key that exists would let
//! the script begin on half of the data.
//!
//! The link does more than wait: it carries the remaining keys to the new node, unless its configuration turns that off.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::error::LinkError;

/// The time that calls wait for a slot, from the first call that met the move: most slots have moved by then. Later calls try
/// once, so that callers do not pile up behind a move that stands still.
pub(crate) const MOVE_WAIT: Duration = Duration::from_millis(750);

/// The first pause before a call tries again; each pause is twice the one before it.
const PAUSE_MIN: Duration = Duration::from_millis(2);

/// The longest pause: waiting calls must not keep the node busy that gives the slot away.
const PAUSE_MAX: Duration = Duration::from_millis(32);

/// The time without a call after which a slot counts as moved; if a call meets it again, that is a new move.
const FORGET_AFTER: Duration = Duration::from_secs(1);

/// The moves that calls of one link have met. Holds those of the last second.
#[derive(Debug, Default)]
pub(crate) struct Moves(Mutex<HashMap<u16, Move>>);

#[derive(Debug)]
struct Move {
    since: Instant,
    met: Instant,
    /// Set once calls have been refused for the move.
    refused: bool,
}

/// The wait of one call.
#[derive(Debug)]
pub(crate) struct Wait {
    /// The deadline of the call's next request: pauses do not count.
    pub(crate) deadline: Instant,
    pause: Duration,
}

impl Wait {
    pub(crate) fn new(deadline: Instant) -> Wait {
        Wait { deadline, pause: PAUSE_MIN }
    }

    /// Pauses before another try on a slot that moves. Fails if calls have waited for the slot long enough; the call was not
    /// done.
    pub(crate) async fn pause(
        &mut self,
        moves: &Moves,
        slot: u16,
        role: &'static str,
    ) -> Result<(), LinkError> {
        let now = Instant::now();
        let until = moves.met(slot, now) + MOVE_WAIT;
        if now >= until {
            if moves.first_refusal(slot) {
                tracing::warn!(
                    slot,
                    role,
                    "a redis slot moves for long: calls are refused until it has moved"
                );
            }
            return Err(refusal(slot));
        }
        // Calls that met it together do not come back together.
        let pause = self.pause.mul_f64(0.75 + 0.5 * fastrand::f64()).min(until - now);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        metrics::counter!("shoal_redis_moving_slot_waits_total", "role" => role).increment(1);
        sleep(pause).await;
        self.deadline += now.elapsed();
        Ok(())
    }
}

impl Moves {
    /// Records that a call met the slot while it moves, and returns since when it moves.
    fn met(&self, slot: u16, now: Instant) -> Instant {
        let mut moves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        moves.retain(|_, known| now.saturating_duration_since(known.met) < FORGET_AFTER);
        let known = moves.entry(slot).or_insert(Move { since: now, met: now, refused: false });
        known.met = now;
        known.since
    }

    /// Returns whether no call was refused for this move before.
    fn first_refusal(&self, slot: u16) -> bool {
        let mut moves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        moves.get_mut(&slot).is_some_and(|known| !std::mem::replace(&mut known.refused, true))
    }
}

pub(crate) fn refusal(slot: u16) -> LinkError {
    LinkError::Moving(format!("slot {slot} is moving from one node of the redis cluster to another"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_calls_share_the_first_wait() {
        let (moves, begin) = (Moves::default(), Instant::now());
        let after = |millis| begin + Duration::from_millis(millis);
        for millis in (0..3000).step_by(500) {
            assert_eq!(moves.met(7, after(millis)), begin, "one move");
        }
        assert!(moves.first_refusal(7) && !moves.first_refusal(7), "told once");
        assert_eq!(moves.met(8, after(2600)), after(2600), "another slot");
        assert_eq!(moves.met(7, after(3500)), after(3500), "it moves anew");
        assert!(moves.first_refusal(7), "and is told anew");
        assert_eq!(moves.met(9, after(9000)), after(9000));
        assert_eq!(moves.0.lock().unwrap().len(), 1, "what has moved is forgotten");
    }

    #[tokio::test]
    async fn pauses_extend_the_deadline_and_end() {
        let (moves, begin) = (Moves::default(), Instant::now());
        let mut wait = Wait::new(begin);
        while wait.pause(&moves, 7, "test").await.is_ok() {}
        assert!(begin.elapsed() >= MOVE_WAIT);
        assert!(wait.deadline > begin + MOVE_WAIT / 2 && wait.deadline <= Instant::now());
        assert_eq!(Wait::new(begin).pause(&moves, 7, "test").await, Err(refusal(7)), "calls do not pile up");
    }
}
