//! Power of two choices: of two endpoints drawn at random, the cheaper one (Mitzenmacher, "The Power of Two Choices in
//! Randomized Load Balancing", 2001). Pure: randomness and the comparison are given.

use fastrand::Rng;

/// Picks one of the `items` that are `allowed`, and says which other was drawn; `None` when none is. Of a single one both
/// are the same.
///
/// Draws two different ones, so that with two endpoints the cheaper always wins. Without exclusions it looks at no more
/// than two items; with them it counts once over the list.
///
/// `is_below(a, b)` says that `a` is the better one. Of two equal ones the first drawn stays, so equals share evenly.
pub(crate) fn choose<'a, T>(
    items: &'a [T],
    rng: &mut Rng,
    excluding: bool,
    allowed: impl Fn(&T) -> bool,
    is_below: impl Fn(&T, &T) -> bool,
) -> Option<(&'a T, &'a T)> {
    let better =
        |first: &'a T, second: &'a T| if is_below(second, first) { (second, first) } else { (first, second) };
    if !excluding {
        let (first, second) = draw(items.len(), rng)?;
        return Some(better(&items[first], &items[second]));
    }
    let (first, second) = draw(items.iter().filter(|item| allowed(item)).count(), rng)?;
    let nth = |n| items.iter().filter(|item| allowed(item)).nth(n);
    Some(better(nth(first)?, nth(second)?))
}

/// Two different indices below `len`, the same one twice when there is but one.
fn draw(len: usize, rng: &mut Rng) -> Option<(usize, usize)> {
    match len {
        0 => None,
        1 => Some((0, 0)),
        _ => {
            let first = rng.usize(..len);
            let second = (first + rng.usize(1..len)) % len;
            Some((first, second))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 7;

    fn spread(costs: &[f64], excluded: &[usize]) -> Vec<u32> {
        let mut rng = Rng::with_seed(SEED);
        let indices: Vec<usize> = (0..costs.len()).collect();
        let mut counts = vec![0; costs.len()];
        for _ in 0..10_000 {
            let allowed = |index: &usize| !excluded.contains(index);
            if let Some((index, _)) =
                choose(&indices, &mut rng, !excluded.is_empty(), allowed, |a, b| costs[*a] < costs[*b])
            {
                counts[*index] += 1;
            }
        }
        counts
    }

    #[test]
    fn equal_costs_spread_evenly() {
        let counts = spread(&[1.0; 5], &[]);
        // Chi-square with 4 degrees of freedom, 99.9 %.
        let chi: f64 = counts.iter().map(|n| (f64::from(*n) - 2_000.0).powi(2) / 2_000.0).sum();
        assert!(chi < 18.47, "seed {SEED}: {counts:?} chi {chi}");
    }

    #[test]
    fn the_cheaper_of_two_always_wins_and_the_dearest_of_many_never_does() {
        assert_eq!(spread(&[2.0, 1.0], &[]), [0, 10_000]);
        let counts = spread(&[1.0, 2.0, 3.0], &[]);
        assert_eq!(counts[2], 0, "seed {SEED}: {counts:?}");
        assert!(counts[0] > counts[1], "seed {SEED}: {counts:?}");
    }

    #[test]
    fn an_excluded_one_is_never_picked_however_cheap() {
        let counts = spread(&[0.1, 1.0, 1.0, 1.0], &[0]);
        assert_eq!(counts[0], 0);
        assert!(counts[1..].iter().all(|n| *n > 3_000), "seed {SEED}: {counts:?}");
    }

    #[test]
    fn one_is_picked_alone_and_none_from_nothing() {
        assert_eq!(spread(&[5.0], &[]), [10_000]);
        assert!(spread(&[], &[]).is_empty());
        assert_eq!(spread(&[1.0, 1.0], &[0, 1]), [0, 0]);
    }
}
