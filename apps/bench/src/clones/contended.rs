//! Names what held the clones back, as far as the processes of the experiment show it.

use super::{CloneArgs, CloneLevel, Service};
use crate::results::Cell;

/// Share of linear throughput from which nothing is said to be contended.
const LINEAR_MIN: f64 = 0.95;
/// Share of the CPUs of the machine, of one thread or of the generator from which it is full.
const FULL: f64 = 0.9;

/// Returns the share of linear throughput of a number of clones: its median for each clone, by that of the smallest number.
pub(crate) fn of_linear(levels: &[CloneLevel], clones: u16) -> Option<f64> {
    let least = levels.iter().map(|level| level.clones).min()?;
    let each = |clones: u16| {
        let of = levels.iter().filter(|level| level.clones == clones);
        let samples = of.map(|level| level.measured.achieved_per_second()).collect();
        Some(Cell::of(samples)?.median / f64::from(clones))
    };
    Some(each(clones)? / each(least)?)
}

/// Returns sentences about the largest number of clones: that throughput is linear, or what was full when it was not.
pub(crate) fn sentences(service: Service, args: &CloneArgs, levels: &[CloneLevel]) -> Vec<String> {
    let Some(most) = levels.iter().map(|level| level.clones).max() else { return Vec::new() };
    let Some(share) = of_linear(levels, most) else { return Vec::new() };
    let role = service.role();
    let percent = 100.0 * share;
    if share >= LINEAR_MIN {
        return vec![format!(
            "{most} clones of {role} have {percent:.0} % of linear throughput: nothing that they share is contended at {:.0} calls a \
             second.",
            args.per_second() * f64::from(most)
        )];
    }
    let at_most: Vec<&CloneLevel> = levels.iter().filter(|level| level.clones == most).collect();
    let median = |of: &dyn Fn(&CloneLevel) -> Option<f64>| {
        let cell = Cell::of(at_most.iter().filter_map(|level| of(level)).collect());
        cell.map_or(0.0, |cell| cell.median)
    };
    let (machine, redis) = (median(&|level| Some(level.machine_busy)), median(&|level| level.redis_busy));
    let generator = median(&|level| Some(level.measured.generator.busiest));
    let mut full = Vec::new();
    if machine >= FULL {
        full.push(format!(
            "the CPUs of this machine ({:.0} % busy), which a fleet would not share",
            100.0 * machine
        ));
    }
    if redis >= FULL {
        full.push(format!("the one thread of the Redis ({:.0} % busy)", 100.0 * redis));
    }
    if generator >= FULL {
        full.push("the load generator".to_owned());
    }
    let why = if full.is_empty() {
        format!(
            "Neither the machine ({:.0} % busy) nor the Redis nor the generator was full: the time is lost in waiting, for each other \
             or for the engine.",
            100.0 * machine
        )
    } else {
        format!("What was full: {}.", full.join(", and "))
    };
    vec![format!("{most} clones of {role} have {percent:.0} % of linear throughput. {why}")]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::level::Level;
    use crate::load::measured::Measured;

    fn level(clones: u16, per_second: u64, machine_busy: f64, redis_busy: f64) -> CloneLevel {
        let mut measured = Measured::empty().expect("histograms");
        measured.elapsed = Duration::from_secs(1);
        measured.ok_within = per_second;
        CloneLevel {
            clones,
            level: Level::closed(1, Duration::from_secs(1)),
            measured,
            machine_busy,
            redis_busy: Some(redis_busy),
            clones_cpu_us: 1.0,
            gateway_cpu_us: 1.0,
        }
    }

    fn said(levels: &[CloneLevel]) -> String {
        let args = CloneArgs { clones: vec![], workers: 4, service_ms: 50, redis: None, cassandra: None };
        sentences(Service::Jobs, &args, levels).join(" ")
    }

    #[test]
    fn linear_clones_contend_for_nothing() {
        let levels = [level(1, 80, 0.2, 0.1), level(8, 640, 0.5, 0.1), level(8, 610, 0.5, 0.1)];
        assert_eq!(of_linear(&levels, 8), Some(625.0 / 640.0));
        assert!(said(&levels).contains("98 % of linear throughput: nothing"), "{}", said(&levels));
    }

    #[test]
    fn full_resources_are_named() {
        let full = said(&[level(1, 80, 0.2, 0.1), level(8, 320, 0.97, 0.95)]);
        assert!(
            full.contains("50 % of linear") && full.contains("CPUs of this machine (97 % busy)"),
            "{full}"
        );
        assert!(full.contains("the one thread of the Redis (95 % busy)"), "{full}");
        let waiting = said(&[level(1, 80, 0.2, 0.1), level(8, 320, 0.5, 0.1)]);
        assert!(waiting.contains("lost in waiting"), "{waiting}");
    }
}
