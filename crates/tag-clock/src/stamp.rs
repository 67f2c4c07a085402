//! Stamps, and the comparison of an entry with those that cover it.

/// The number of stamps that a shard keeps. Past it the oldest are dropped and the floor of the shard rises to the newest of
/// them: entries built before that are misses.
pub const STAMPS_MAX: usize = 100_000;

/// The strength of a stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strength {
    /// Entries built before are never served again.
    Hard,
    /// Entries built before count as expired.
    Soft,
}

impl Strength {
    /// Returns the first byte of the names of its stamps.
    pub fn mark(self) -> char {
        match self {
            Self::Hard => '#',
            Self::Soft => '~',
        }
    }
}

/// The state of an entry, by its stamps alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No stamp is later than the entry.
    Current,
    /// A SOFT stamp is later; no HARD one is.
    Expired {
        /// The clock's value of the latest such stamp.
        at: u64,
    },
    /// A HARD stamp is later.
    Invalidated {
        /// The index of the tag; `None` if it was the floor.
        tag: Option<usize>,
    },
}

/// Compares one entry with stamps as they come.
#[derive(Debug, Clone, Copy)]
pub struct Judge {
    built_at: u64,
    verdict: Verdict,
}

impl Judge {
    /// Starts with the floor of the shard; 0 if there is none.
    #[must_use]
    pub fn new(built_at: u64, floor: u64) -> Self {
        let verdict = if floor > built_at { Verdict::Invalidated { tag: None } } else { Verdict::Current };
        Self { built_at, verdict }
    }

    /// Takes the stamps of the entry's tag with this index; 0 if there is none.
    pub fn tag(&mut self, index: usize, hard: u64, soft: u64) {
        if matches!(self.verdict, Verdict::Invalidated { .. }) {
            return;
        }
        if hard > self.built_at {
            self.verdict = Verdict::Invalidated { tag: Some(index) };
        } else if soft > self.built_at {
            let before = if let Verdict::Expired { at } = self.verdict { at } else { 0 };
            self.verdict = Verdict::Expired { at: soft.max(before) };
        }
    }

    /// Returns the state of the entry.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_stamps_outweigh_soft_ones() {
        let verdict = |floor, stamps: &[(u64, u64)]| {
            let mut judge = Judge::new(10, floor);
            stamps.iter().enumerate().for_each(|(index, (hard, soft))| judge.tag(index, *hard, *soft));
            judge.verdict()
        };
        assert_eq!(verdict(10, &[(10, 10), (0, 0)]), Verdict::Current);
        assert_eq!(verdict(0, &[(0, 12), (0, 11)]), Verdict::Expired { at: 12 });
        assert_eq!(verdict(0, &[(0, 12), (11, 0)]), Verdict::Invalidated { tag: Some(1) });
        assert_eq!(verdict(11, &[(0, 12)]), Verdict::Invalidated { tag: None });
    }
}
