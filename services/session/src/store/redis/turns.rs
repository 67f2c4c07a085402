//! The schedule of looks at the buckets for expired sessions: at rest a look now and then, in turn, costs next to
//! nothing.
//!
//! A session that outlives a round is seen by a look before it ends. The clone that makes a shorter one says so
//! ([`Announcements`]).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::{Time, millis};
use crate::event::BUCKETS;

/// The time within which every bucket is looked at.
pub(super) const ROUND: Duration = Duration::from_secs(120);

/// The sweeper's knowledge of the buckets.
#[derive(Debug)]
pub(super) struct Turns {
    /// The time at which each bucket is to be looked at; `None`: at once, as nothing is known of it.
    next: [Option<Time>; BUCKETS],
}

impl Default for Turns {
    fn default() -> Self {
        Self { next: [None; BUCKETS] }
    }
}

impl Turns {
    /// Returns the buckets whose turn it is.
    pub(super) fn due(&self, now: Time) -> Vec<u8> {
        let buckets = (0..=u8::MAX).zip(&self.next);
        buckets.filter(|(_, next)| next.is_none_or(|next| next <= now)).map(|(bucket, _)| bucket).collect()
    }

    /// Records a look at a bucket that holds nothing that ends before `first`.
    pub(super) fn looked(&mut self, bucket: u8, now: Time, first: Option<Time>) {
        let next = &mut self.next[usize::from(bucket)];
        let round = match next {
            Some(_) => ROUND,
            // All are looked at together when nothing is known: from then on one after the other.
            None => ROUND * (u32::from(bucket) + 1) / 256,
        };
        let turn = now.plus(round);
        *next = Some(first.map_or(turn, |first| first.min(turn)));
    }

    /// Records that a session in the bucket may end at that time.
    pub(super) fn soon(&mut self, bucket: u8, at: Time) {
        let next = &mut self.next[usize::from(bucket)];
        *next = next.map(|next| next.min(at));
    }
}

/// The announcements of this clone about sessions that end before a round is over; one of them stands for all later ones.
#[derive(Debug)]
pub(super) struct Announcements {
    /// The time at which each bucket will be looked at.
    looks: Mutex<[Option<Instant>; BUCKETS]>,
    /// The longest time in which a session is made.
    margin: Duration,
}

impl Announcements {
    pub(super) fn new(margin: Duration) -> Self {
        Self { looks: Mutex::new([None; BUCKETS]), margin }
    }

    /// Returns in how many milliseconds the bucket must be looked at for a session that is made now and lives this long,
    /// if the sweeper must be told.
    pub(super) fn needed(&self, bucket: u8, lives: Duration, now: Instant) -> Option<i64> {
        if lives >= ROUND {
            return None;
        }
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let covered =
            looks[usize::from(bucket)].is_some_and(|at| at >= now + self.margin && at <= now + lives);
        (!covered).then(|| millis(lives))
    }

    /// Records that the sweeper was told.
    pub(super) fn announced(&self, bucket: u8, lives: Duration, asked: Instant) {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks[usize::from(bucket)] = Some(asked + lives);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_at_rest_take_turns() {
        let mut turns = Turns::default();
        let begun = Time::from_millis(1_000_000);
        assert_eq!(turns.due(begun).len(), BUCKETS, "nothing is known");
        (0..=u8::MAX).for_each(|bucket| turns.looked(bucket, begun, None));
        let mut looks = [0; BUCKETS];
        for second in 1..=ROUND.as_secs() * 2 {
            let now = begun.plus(Duration::from_secs(second));
            let due = turns.due(now);
            assert!(due.len() <= 3, "{} at once", due.len());
            for bucket in due {
                looks[usize::from(bucket)] += 1;
                turns.looked(bucket, now, None);
            }
        }
        assert!(looks.iter().all(|looks| (1..=2).contains(looks)), "{looks:?}");
    }

    #[test]
    fn bucket_due_when_first_session_ends() {
        let mut turns = Turns::default();
        let now = Time::from_millis(0);
        let at = |seconds| now.plus(Duration::from_secs(seconds));
        (0..=u8::MAX).for_each(|bucket| turns.looked(bucket, now, None));
        turns.looked(9, now, Some(at(1)));
        turns.soon(200, at(1));
        turns.soon(200, at(50));
        assert_eq!(turns.due(at(1)), [0, 1, 9, 200]);
        turns.looked(9, at(1), Some(at(1000)));
        assert!(turns.due(at(1).plus(ROUND)).contains(&9), "no look is later than a round");
    }

    #[test]
    fn short_sessions_are_announced_together() {
        let announcements = Announcements::new(Duration::from_millis(300));
        let (second, begun) = (Duration::from_secs, Instant::now());
        assert_eq!(announcements.needed(7, ROUND, begun), None, "its turn comes before");
        assert_eq!(announcements.needed(7, second(20), begun), Some(20_000));
        announcements.announced(7, second(20), begun);
        let now = begun + second(10);
        assert_eq!(announcements.needed(7, second(20), now), None, "the look for the first finds this one");
        assert_eq!(announcements.needed(8, second(20), now), Some(20_000), "another bucket");
        assert_eq!(announcements.needed(7, second(5), now), Some(5_000), "it ends before that look");
        let now = begun + second(20);
        assert_eq!(
            announcements.needed(7, second(20), now),
            Some(20_000),
            "that look may be over before this one is made"
        );
    }
}
