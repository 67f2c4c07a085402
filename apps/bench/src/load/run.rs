//! A run of a level: its moments, and the sampler that ends it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::load::level::Level;
use crate::load::live::Live;
use crate::load::measured::{InFlight, Measured};
use crate::load::target::Target;
use crate::process::cpu;

/// Samples of the calls in flight that a run takes at most.
const SAMPLES_MAX: u32 = 500;
/// Bounds of the time between two of them.
const SAMPLE_EVERY_MIN: Duration = Duration::from_millis(5);
const SAMPLE_EVERY_MAX: Duration = Duration::from_millis(100);

/// State that all threads of a run share.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) level: Level,
    pub(super) target: Target,
    pub(super) live: Live,
    pub(super) begun: Instant,
    counted_from: Instant,
    counted_to: Instant,
    /// Set when the counted time is over, by itself or because somebody ended it.
    over: AtomicBool,
}

impl Run {
    pub(super) fn begin(target: &Target, level: Level, live: Live) -> Run {
        let begun = Instant::now();
        Run {
            level,
            target: target.clone(),
            live,
            begun,
            counted_from: begun + level.warm_up,
            counted_to: begun + level.whole(),
            over: AtomicBool::new(false),
        }
    }

    /// Returns true if no more calls are to be made.
    pub(super) fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || self.live.ended()
    }

    /// Returns true if a call due then counts.
    pub(super) fn counts(&self, due: Instant) -> bool {
        due >= self.counted_from
    }

    /// Returns true if an answer at this moment is one of the counted time.
    pub(super) fn within(&self, answered: Instant) -> bool {
        self.counts(answered) && answered < self.counted_to && !self.over()
    }

    /// Watches the calls in flight and the CPU of the processes under load until the counted time is over.
    pub(super) fn sample(&self, pids: &[u32]) -> anyhow::Result<Measured> {
        let used = || -> anyhow::Result<Vec<Duration>> {
            let one =
                |pid: &u32| cpu::used(*pid).with_context(|| format!("process {pid} under load is gone"));
            pids.iter().map(one).collect()
        };
        let every = (self.level.duration / SAMPLES_MAX).clamp(SAMPLE_EVERY_MIN, SAMPLE_EVERY_MAX);
        let mut measured = Measured::empty()?;
        let mut before = None;
        let mut next = self.counted_from;
        while !self.over() {
            let now = Instant::now();
            if now >= self.counted_to {
                break;
            }
            if now >= next {
                if before.is_none() {
                    before = Some(used()?);
                }
                let at = now.saturating_duration_since(self.counted_from);
                measured.in_flight.push(InFlight { at, calls: self.live.outstanding() });
                next += every;
                // It may have been kept from running.
                next = next.max(now);
            }
            std::thread::park_timeout(
                next.min(self.counted_to).saturating_duration_since(now).min(SAMPLE_EVERY_MAX),
            );
        }
        let end = Instant::now().min(self.counted_to);
        measured.ended_early = end < self.counted_to;
        self.over.store(true, Ordering::Relaxed);
        if let Some(before) = before {
            let between = |(after, before): (Duration, Duration)| after.saturating_sub(before);
            measured.cpu = used()?.into_iter().zip(before).map(between).collect();
        }
        measured.elapsed = end.saturating_duration_since(self.counted_from);
        Ok(measured)
    }
}
