//! The rival of the law: throughput that grows until one serialized resource is busy all the time, and then stays.
//!
//! The law's contention term is the bound for callers that queue in lockstep. Real callers of a lock or of a shared engine meet
//! by chance, or not at all until the resource is full: throughput bends late, and a fit of the law takes that bend for
//! coherence. Points that this model explains better are contention, whatever the law's β.

use serde::{Deserialize, Serialize};

use crate::scale::usl::fit::Point;

/// Largest N that the queue is computed for, one recursion for each caller.
const CALLERS_MAX: u32 = 4096;
/// Shares that are tried before the best is refined.
const GRID: u32 = 32;
/// Steps of the golden section, each of which shortens the interval to 0.62.
const REFINEMENTS: u32 = 24;

/// Manner in which callers meet at the resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Meeting {
    /// Meeting by chance: a closed queue with exponential times (exact mean value analysis; Reiser and Lavenberg, 1980).
    Random,
    /// Meeting only when it is full: min(γN, γ/share), the asymptotic bound of operational analysis (Denning and Buzen, 1978).
    WhenFull,
}

/// Throughput with one serialized resource.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Saturation {
    pub(crate) meeting: Meeting,
    /// Throughput of one, in the unit of the measured throughput.
    pub(crate) gamma: f64,
    /// Share of a call's time that it holds the resource. Throughput stays below γ / share.
    pub(crate) share: f64,
}

impl Saturation {
    /// Returns the throughput at `n`, which the queue rounds to whole callers.
    pub(crate) fn throughput(&self, n: f64) -> f64 {
        self.gamma * shape(self.meeting, self.share, n)
    }
}

/// Fits both ways to meet and returns the better with its sum of squares.
pub(crate) fn fit(points: &[Point]) -> (Saturation, f64) {
    let (random, full) = (fit_one(Meeting::Random, points), fit_one(Meeting::WhenFull, points));
    if random.1 <= full.1 { random } else { full }
}

fn fit_one(meeting: Meeting, points: &[Point]) -> (Saturation, f64) {
    let at = |share: f64| with_best_gamma(meeting, share, points);
    let shares = (0..=GRID).map(|k| f64::from(k) / f64::from(GRID));
    let best = shares.map(|share| (share, at(share).1)).min_by(|(_, a), (_, b)| a.total_cmp(b));
    let around = best.map_or(0.0, |(share, _)| share);
    let width = 1.0 / f64::from(GRID);
    let (mut low, mut high) = ((around - width).max(0.0), (around + width).min(1.0));
    let golden = (5f64.sqrt() - 1.0) / 2.0;
    for _ in 0..REFINEMENTS {
        let (a, b) = (high - golden * (high - low), low + golden * (high - low));
        if at(a).1 <= at(b).1 { high = b } else { low = a }
    }
    let refined = at(f64::midpoint(low, high));
    let coarse = at(around);
    if refined.1 < coarse.1 { refined } else { coarse }
}

/// Returns the model with the γ of least squares, which is linear once the share is given, and its sum of squares.
fn with_best_gamma(meeting: Meeting, share: f64, points: &[Point]) -> (Saturation, f64) {
    let shapes: Vec<f64> = points.iter().map(|point| shape(meeting, share, point.n)).collect();
    let pairs = || points.iter().zip(&shapes);
    let product: f64 = pairs().map(|(point, shape)| point.weight * point.throughput * shape).sum();
    let square: f64 = pairs().map(|(point, shape)| point.weight * shape * shape).sum();
    let gamma = product / square;
    let squares = pairs().map(|(point, shape)| point.weight * (point.throughput - gamma * shape).powi(2));
    (Saturation { meeting, gamma, share }, squares.sum())
}

/// Returns the throughput at `n` in units of that of one.
fn shape(meeting: Meeting, share: f64, n: f64) -> f64 {
    match meeting {
        Meeting::WhenFull if share * n <= 1.0 => n,
        Meeting::WhenFull => 1.0 / share,
        Meeting::Random => {
            let (mut throughput, mut queued) = (0.0, 0.0);
            for callers in 1..=(n.round() as u32).clamp(1, CALLERS_MAX) {
                let at_resource = share * (1.0 + queued);
                throughput = f64::from(callers) / (1.0 - share + at_resource);
                queued = throughput * at_resource;
            }
            throughput
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(meeting: Meeting, share: f64) {
        let truth = Saturation { meeting, gamma: 120.0, share };
        let points: Vec<Point> = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0]
            .map(|n| Point { n, throughput: truth.throughput(n), weight: 1.0 })
            .to_vec();
        let (found, squares) = fit(&points);
        assert!((found.share - share).abs() < 1e-3, "{found:?} of {truth:?}");
        assert!((found.gamma - truth.gamma).abs() < 0.1, "{found:?} of {truth:?}");
        assert!(squares < 0.1, "{squares}");
    }

    #[test]
    fn exact_points_return_their_share() {
        for share in [0.1, 0.25, 0.5, 0.9] {
            check(Meeting::Random, share);
            check(Meeting::WhenFull, share);
        }
    }

    #[test]
    fn queue_of_two_is_known() {
        // Two callers, half of their time at the resource: 1 / (0.5 + 0.5 × 1.5) for each.
        assert!((shape(Meeting::Random, 0.5, 2.0) - 1.6).abs() < 1e-12);
        assert!((shape(Meeting::Random, 0.0, 8.0) - 8.0).abs() < 1e-12);
        assert!((shape(Meeting::Random, 1.0, 8.0) - 1.0).abs() < 1e-12);
    }
}
