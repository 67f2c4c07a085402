//! The tokens of a session: the pure rules of rotation and of theft detection.
//!
//! A rotation does not replace the token: it names a successor. The old token stays good until the successor is first
//! presented, because the answer that carried it may have been lost; from then on the old one has a short grace for
//! calls under way. A retired token that comes back after its grace is in two hands: the session is revoked
//! (RFC 9700 §4.14.2, refresh token rotation). `store/redis/present.lua` says the same to Redis.

use std::time::Duration;

use crate::clock::Time;
use crate::keys::keyring::Hash;

/// The number of retired tokens that are remembered; an older one is unknown.
pub(crate) const RETIRED_MAX: usize = 8;

/// The hashes that a store keeps of a session's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Secrets {
    pub(crate) current: Hash,
    /// The successor: issued by a rotation and not presented yet.
    pub(crate) next: Option<Hash>,
    /// Replaced tokens, newest first.
    pub(crate) retired: Vec<Retired>,
}

/// A token that was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retired {
    pub(crate) hash: Hash,
    pub(crate) grace_end: Time,
}

/// The state of a presented token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenState {
    /// The token in use. `outdated`: its hash was made with a pepper that is no longer the first.
    Current { outdated: bool },
    /// The successor, for the first time.
    Next,
    /// Retired, and still good.
    Grace,
    /// Retired, and no longer good: somebody has a copy.
    Reused,
    /// Not one of the session's tokens, or one that was forgotten.
    Unknown,
}

impl Secrets {
    pub(crate) fn new(current: Hash) -> Self {
        Self { current, next: None, retired: Vec::new() }
    }

    /// Returns the state of a token. `presented` are the hashes that the store may hold of it, the one for new records
    /// first.
    pub(crate) fn state(&self, presented: &[Hash], now: Time) -> TokenState {
        if let Some(at) = presented.iter().position(|hash| *hash == self.current) {
            return TokenState::Current { outdated: at > 0 };
        }
        if self.next.is_some_and(|next| presented.contains(&next)) {
            return TokenState::Next;
        }
        match self.retired.iter().find(|retired| presented.contains(&retired.hash)) {
            Some(retired) if now < retired.grace_end => TokenState::Grace,
            Some(_) => TokenState::Reused,
            None => TokenState::Unknown,
        }
    }

    /// Presents a token: a successor takes over, an outdated hash is made anew. Returns what the token was before.
    pub(crate) fn present(&mut self, presented: &[Hash], now: Time, grace: Duration) -> TokenState {
        let standing = self.state(presented, now);
        match standing {
            TokenState::Next => {
                self.retired.insert(0, Retired { hash: self.current, grace_end: now.plus(grace) });
                self.retired.truncate(RETIRED_MAX);
                self.current = presented[0];
                self.next = None;
            }
            TokenState::Current { outdated: true } => self.current = presented[0],
            TokenState::Current { outdated: false }
            | TokenState::Grace
            | TokenState::Reused
            | TokenState::Unknown => {}
        }
        standing
    }

    /// Names a successor, unless one of `candidates` is named already: then that stays. Returns whether it is new.
    pub(crate) fn rotate(&mut self, candidates: &[Hash]) -> bool {
        let new = !self.next.is_some_and(|next| candidates.contains(&next));
        if new {
            self.next = candidates.first().copied();
        }
        new
    }

    /// Returns whether the store knows this hash, in any state.
    pub(crate) fn knows(&self, hash: &Hash) -> bool {
        *hash == self.current
            || self.next.as_ref() == Some(hash)
            || self.retired.iter().any(|retired| retired.hash == *hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn hash(n: u8) -> Hash {
        [n; 32]
    }

    fn at(seconds: u64) -> Time {
        Time::default().plus(Duration::from_secs(seconds))
    }

    #[test]
    fn old_token_outlives_successor_by_grace() {
        let mut secrets = Secrets::new(hash(0));
        assert!(secrets.rotate(&[hash(1)]));
        let hour = at(3600);
        assert_eq!(secrets.present(&[hash(0)], hour, GRACE), TokenState::Current { outdated: false });
        assert!(!secrets.rotate(&[hash(1)]), "a lost answer is given again");
        assert_eq!(secrets.present(&[hash(1)], hour, GRACE), TokenState::Next);
        assert_eq!(secrets.state(&[hash(1)], hour), TokenState::Current { outdated: false });
        assert_eq!(secrets.state(&[hash(0)], at(3609)), TokenState::Grace);
        assert_eq!(secrets.state(&[hash(0)], at(3610)), TokenState::Reused);
        assert_eq!(secrets.state(&[hash(9)], at(3610)), TokenState::Unknown);
    }

    #[test]
    fn each_retired_token_has_own_grace() {
        let mut secrets = Secrets::new(hash(0));
        for n in 1..=3 {
            secrets.rotate(&[hash(n)]);
            assert_eq!(secrets.present(&[hash(n)], at(1), GRACE), TokenState::Next);
        }
        for n in 0..3 {
            assert_eq!(secrets.state(&[hash(n)], at(10)), TokenState::Grace, "{n}");
            assert_eq!(secrets.state(&[hash(n)], at(11)), TokenState::Reused, "{n}");
        }
    }

    #[test]
    fn the_ring_forgets_the_ninth() {
        let mut secrets = Secrets::new(hash(0));
        for n in 1..=9 {
            secrets.rotate(&[hash(n)]);
            secrets.present(&[hash(n)], at(0), GRACE);
        }
        assert_eq!(secrets.state(&[hash(0)], at(99)), TokenState::Unknown);
        assert_eq!(secrets.state(&[hash(1)], at(99)), TokenState::Reused);
        assert_eq!(secrets.retired.len(), RETIRED_MAX);
    }

    #[test]
    fn old_pepper_hash_is_renewed() {
        let mut secrets = Secrets::new(hash(2));
        let presented = [hash(1), hash(2)];
        assert_eq!(secrets.present(&presented, at(0), GRACE), TokenState::Current { outdated: true });
        assert_eq!(secrets.current, hash(1));
    }
}
