//! Draws one of several indices in proportion to its weight, by Walker's alias method in Vose's form (Vose, "A Linear Algorithm
//! for Generating Random Numbers with a Given Distribution", 1991), in constant time. Randomness is an argument.

use fastrand::Rng;

/// The number of tries for a second index that differs from the first, before an even draw among the others. Of a hundred equal
/// ones the first try succeeds; where one has nearly all the weight, the second one matters little.
const DIFFER_TRIES: usize = 4;

/// A distribution over indices.
#[derive(Debug)]
pub(crate) enum AliasTable {
    /// Indices of equal weight: only their number is kept.
    Even(usize),
    /// Indices of different weights.
    Weighted(Box<[Column]>),
}

/// A column, as probable as any other: the index itself with probability `own`, otherwise `alias`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    own: f32,
    alias: u32,
}

impl AliasTable {
    pub(crate) fn new(weights: &[u32]) -> AliasTable {
        if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            return AliasTable::Even(weights.len());
        }
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let mut left: Vec<f64> =
            weights.iter().map(|weight| f64::from(*weight) * weights.len() as f64 / total).collect();
        let mut columns: Box<[Column]> =
            (0..weights.len()).map(|index| Column { own: 1.0, alias: index as u32 }).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..weights.len()).partition(|index| left[*index] < 1.0);
        // The column of each small index is filled up from a large one, which may become small.
        while let (Some(&giver), Some(taker)) = (large.last(), small.pop()) {
            columns[taker] = Column { own: left[taker] as f32, alias: giver as u32 };
            left[giver] -= 1.0 - left[taker];
            if left[giver] < 1.0 {
                large.pop();
                small.push(giver);
            }
        }
        AliasTable::Weighted(columns)
    }

    /// Draws one index; `None` if there are none.
    pub(crate) fn one(&self, rng: &mut Rng) -> Option<usize> {
        match self {
            AliasTable::Even(0) => None,
            AliasTable::Even(len) => Some(rng.usize(..*len)),
            AliasTable::Weighted(columns) => {
                let index = rng.usize(..columns.len());
                let Column { own, alias } = columns[index];
                Some(if rng.f32() < own { index } else { alias as usize })
            }
        }
    }

    /// Draws two different indices; the same one twice if there is only one.
    pub(crate) fn two(&self, rng: &mut Rng) -> Option<(usize, usize)> {
        let first = self.one(rng)?;
        let len = match self {
            AliasTable::Even(len) => *len,
            AliasTable::Weighted(columns) => columns.len(),
        };
        let tries = match self {
            AliasTable::Weighted(_) if len > 2 => DIFFER_TRIES,
            _ => 0,
        };
        for _ in 0..tries {
            match self.one(rng) {
                Some(second) if second != first => return Some((first, second)),
                _ => {}
            }
        }
        let second = if len == 1 { first } else { (first + rng.usize(1..len)) % len };
        Some((first, second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 7;
    const DRAWS: usize = 100_000;

    /// Draws many times: each index must come up in proportion to its weight.
    #[track_caller]
    fn check(weights: &[u32]) {
        let mut rng = Rng::with_seed(SEED);
        let table = AliasTable::new(weights);
        let mut counts = vec![0.0; weights.len()];
        for _ in 0..DRAWS {
            counts[table.one(&mut rng).unwrap()] += 1.0;
        }
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        for (count, weight) in counts.iter().zip(weights) {
            let expected = f64::from(*weight) / total * DRAWS as f64;
            // Five standard deviations.
            let slack = 5.0 * expected.sqrt() + 1.0;
            assert!((count - expected).abs() < slack, "seed {SEED}: {weights:?} drew {counts:?}");
        }
    }

    #[test]
    fn draws_in_proportion_to_weight() {
        check(&[1; 7]);
        check(&[1, 3]);
        check(&[1, 2, 3, 4, 100]);
        check(&[65_535, 1, 65_535]);
        check(&[5]);
    }

    #[test]
    fn two_draws_differ_if_possible() {
        let mut rng = Rng::with_seed(SEED);
        for weights in [&[1, 1][..], &[1, 9], &[1, 1, 1_000_000], &[3, 3, 3, 3]] {
            let table = AliasTable::new(weights);
            for _ in 0..1_000 {
                let (first, second) = table.two(&mut rng).unwrap();
                assert_ne!(first, second, "seed {SEED}: {weights:?}");
            }
        }
        assert_eq!(AliasTable::new(&[9]).two(&mut rng), Some((0, 0)));
        assert_eq!(AliasTable::new(&[]).two(&mut rng), None);
    }
}
