//! Test of whether the calls in flight of a run stayed level or grew, as they do when more is offered than is served.

use serde::{Deserialize, Serialize};

/// Batches that the samples are averaged into, so that neighbours are nearly independent.
const BATCHES: usize = 10;
/// Mann–Kendall sum of ten batches from which they rise: one-sided p < 0.025 (Kendall, "Rank Correlation Methods", table 1).
const RISING: i32 = 23;
/// Relative growth from the first three batches to the last three below which a rise does not matter.
const GROWTH_MIN: f64 = 0.5;
/// Growth in calls below which a rise does not matter.
const GROWTH_CALLS_MIN: f64 = 2.0;

/// Course of the calls in flight.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Course {
    /// Mean of the first three of ten batches.
    pub(crate) begin: f64,
    /// Mean of the last three.
    pub(crate) end: f64,
    /// Mann–Kendall sum over the ten batches: 45 if each is above all before it.
    pub(crate) rise: i32,
    /// False if they grew throughout, and by an amount that matters.
    pub(crate) stationary: bool,
}

/// Returns the course of samples at even intervals: none with fewer than ten, which say nothing.
pub(crate) fn course(samples: &[f64]) -> Option<Course> {
    if samples.len() < BATCHES {
        return None;
    }
    let bound = |k: usize| k * samples.len() / BATCHES;
    let batches: Vec<f64> = (0..BATCHES)
        .map(|k| {
            let batch = &samples[bound(k)..bound(k + 1)];
            batch.iter().sum::<f64>() / batch.len() as f64
        })
        .collect();
    let mut rise = 0;
    for (k, later) in batches.iter().enumerate() {
        for earlier in &batches[..k] {
            rise += i32::from(later > earlier) - i32::from(later < earlier);
        }
    }
    let begin = batches[..3].iter().sum::<f64>() / 3.0;
    let end = batches[BATCHES - 3..].iter().sum::<f64>() / 3.0;
    let grew = end - begin > GROWTH_CALLS_MIN.max(GROWTH_MIN * begin);
    Some(Course { begin, end, rise, stationary: !(rise >= RISING && grew) })
}

#[cfg(test)]
mod tests {
    use super::*;

    use fastrand::Rng;

    #[test]
    fn growing_queue_is_not_stationary() {
        let samples: Vec<f64> = (0..100).map(|k| 5.0 + 0.2 * f64::from(k)).collect();
        let course = course(&samples).expect("enough samples");
        assert_eq!((course.rise, course.stationary), (45, false));
    }

    #[test]
    fn noise_and_small_rises_are_stationary() {
        let mut random = Rng::with_seed(4);
        let level: Vec<f64> = (0..100).map(|_| 20.0 * random.f64()).collect();
        assert!(course(&level).expect("enough samples").stationary);
        let rises: Vec<f64> = (0..100).map(|k| 50.0 + 0.1 * f64::from(k)).collect();
        assert!(course(&rises).expect("enough samples").stationary);
        let falls: Vec<f64> = (0..100).map(|k| 50.0 - 0.4 * f64::from(k)).collect();
        assert!(course(&falls).expect("enough samples").stationary);
    }

    #[test]
    fn few_samples_say_nothing() {
        assert_eq!(course(&[1.0; 9]), None);
    }
}
