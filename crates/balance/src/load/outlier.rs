//! Detects an endpoint that fails so much that it is ejected for a while (Envoy, "Outlier detection"; gRFC A50), and readmits
//! it by a probe: one call whose end decides (the half-open state of a circuit breaker; Nygard, "Release It!").
//!
//! It judges one endpoint and knows nothing of the others: the upstream's state decides how many may be ejected at once.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::load::outlier_window::Window;
use crate::options::Ejection;
use crate::snapshot::EjectionSnapshot;

/// The value of `due_ms` while the endpoint is not ejected.
const FREE: u64 = u64::MAX;
/// The offset in `due_ms` while a probe is under way: this plus the time of its pick. No value from here on is a time of its
/// own.
const PROBING: u64 = 1 << 63;

/// The time after which a probe without a result makes way for another: it may be a stream or a long poll.
const PROBE_MAX_MS: u64 = 5_000;

/// The shortest time between two requests to eject: in an outage every call would ask.
const ASK_AGAIN_MS: u64 = 100;

/// The failures of one endpoint. A success costs one word of the window; only an ejection takes the lock.
#[derive(Debug)]
pub(crate) struct Outlier {
    rules: Option<Ejection>,
    base: Instant,
    consecutive: AtomicU32,
    window: Window,
    /// The time before which picked calls do not count, since they were judged already. Milliseconds since `base`.
    counts_from_ms: AtomicU64,
    asked_ms: AtomicU64,
    /// The time of the next probe in milliseconds since `base`, or [`FREE`], or the time since a probe is [`PROBING`].
    due_ms: AtomicU64,
    record: Mutex<EjectionRecord>,
}

/// The last ejection.
#[derive(Debug)]
struct EjectionRecord {
    reason: String,
    /// The number of ejections in a row.
    times: u32,
    since: Instant,
    /// The time of the last readmission.
    readmitted: Instant,
}

/// The result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probed {
    /// The endpoint served it.
    Well,
    /// The endpoint failed it.
    Badly,
    /// The endpoint received the call, but nobody waited for the result.
    Unknown,
    /// The endpoint never received the call.
    Unsent,
}

impl Outlier {
    pub(crate) fn new(rules: Option<Ejection>, now: Instant) -> Outlier {
        let window = rules.map_or(Duration::from_secs(10), |rules| rules.window);
        Outlier {
            rules,
            base: now,
            consecutive: AtomicU32::new(0),
            window: Window::new(window, now),
            counts_from_ms: AtomicU64::new(0),
            asked_ms: AtomicU64::new(0),
            due_ms: AtomicU64::new(FREE),
            record: Mutex::new(EjectionRecord {
                reason: String::new(),
                times: 0,
                since: now,
                readmitted: now,
            }),
        }
    }

    /// Counts a success, seen at `at`, of a call picked at `picked`.
    pub(crate) fn succeeded(&self, picked: Instant, at: Instant) {
        if !self.counts(picked) {
            return;
        }
        // Reads first: a word that every call writes would bounce between the threads.
        if self.consecutive.load(Ordering::Relaxed) != 0 {
            self.consecutive.store(0, Ordering::Relaxed);
        }
        self.window.add(true, at);
    }

    /// Counts a failure of a call picked at `picked`. Returns the reason if the endpoint should be ejected. Only failures that
    /// `decide` count: others may not be the endpoint's fault, and however many there are, one more decides nothing.
    pub(crate) fn failed(&self, picked: Instant, decides: bool, now: Instant) -> Option<String> {
        let rules = self.rules.as_ref().filter(|_| decides && self.counts(picked))?;
        let consecutive = self.consecutive.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        self.window.add(false, now);
        if consecutive >= rules.consecutive {
            return self.ask(now).then(|| format!("{consecutive} failures in a row"));
        }
        let counts = self.window.counts(now);
        let calls = counts.successes + counts.failures;
        if calls >= u64::from(rules.calls_min) && counts.failures as f64 >= rules.failure_ratio * calls as f64
        {
            let window = rules.window;
            return self
                .ask(now)
                .then(|| format!("{} of {calls} calls within {window:?} failed", counts.failures));
        }
        None
    }

    /// Ejects the endpoint.
    pub(crate) fn eject(&self, reason: &str, now: Instant) {
        let Some(rules) = &self.rules else { return };
        let mut record = self.record();
        // Each window without an ejection reduces the next one (as in Envoy).
        let windows =
            now.saturating_duration_since(record.readmitted).as_millis() / rules.window.as_millis().max(1);
        let forgiven = u32::try_from(windows).unwrap_or(u32::MAX);
        record.times = record.times.saturating_sub(forgiven).saturating_add(1);
        record.reason = reason.to_owned();
        record.since = now;
        self.schedule_probe(&record, rules, now);
    }

    /// Returns whether the endpoint is ejected.
    pub(crate) fn is_ejected(&self) -> bool {
        self.due_ms.load(Ordering::Relaxed) != FREE
    }

    /// Returns whether the caller is to make the one call that decides. If so, it must report the result to
    /// [`Outlier::probed`].
    pub(crate) fn claim_probe(&self, now: Instant) -> bool {
        let (due_ms, now_ms) = (self.due_ms.load(Ordering::Relaxed), self.ms(now));
        let is_due = match due_ms {
            FREE => false,
            PROBING.. => now_ms >= (due_ms - PROBING) + PROBE_MAX_MS,
            _ => now_ms >= due_ms,
        };
        is_due
            && self
                .due_ms
                .compare_exchange(due_ms, PROBING + now_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Records the result of the probe that was picked at `picked`. Returns whether the endpoint is readmitted.
    ///
    /// A probe that the endpoint never received is repeated at once. After one that it received, but whose result nobody saw,
    /// the next is due after the current ejection time: otherwise an endpoint that swallows its calls would get one caller
    /// after the other. Of a probe that took so long that it made way for another, only a success counts.
    pub(crate) fn probed(&self, picked: Instant, probed: Probed, now: Instant) -> bool {
        let Some(rules) = &self.rules else { return false };
        let mut record = self.record();
        let due_ms = self.due_ms.load(Ordering::Relaxed);
        let is_the_last = due_ms == PROBING + self.ms(picked);
        match probed {
            Probed::Well if due_ms != FREE && picked >= record.since => {
                record.readmitted = now;
                self.consecutive.store(0, Ordering::Relaxed);
                self.window.clear();
                self.counts_from_ms.store(self.ms(now), Ordering::Relaxed);
                self.due_ms.store(FREE, Ordering::Relaxed);
                true
            }
            Probed::Badly if is_the_last => {
                record.times = record.times.saturating_add(1);
                self.schedule_probe(&record, rules, now);
                false
            }
            Probed::Unknown if is_the_last => {
                self.schedule_probe(&record, rules, now);
                false
            }
            Probed::Unsent if is_the_last => {
                self.due_ms.store(self.ms(now), Ordering::Relaxed);
                false
            }
            _ => false,
        }
    }

    /// Starts afresh on a new connection, perhaps of a new process: earlier failures do not count, but an ejected endpoint must
    /// show by a probe, due at once, that it works.
    pub(crate) fn joined(&self, now: Instant) {
        self.consecutive.store(0, Ordering::Relaxed);
        self.window.clear();
        self.counts_from_ms.store(self.ms(now), Ordering::Relaxed);
        let due_at_once = |due_ms| (due_ms < PROBING).then(|| self.ms(now));
        let _ = self.due_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due_at_once);
    }

    /// Returns the current ejection, if there is one.
    pub(crate) fn snapshot(&self, now: Instant) -> Option<EjectionSnapshot> {
        let record = self.record();
        let due_ms = self.due_ms.load(Ordering::Relaxed);
        if due_ms == FREE {
            return None;
        }
        let in_ms = if due_ms >= PROBING { 0 } else { due_ms.saturating_sub(self.ms(now)) };
        Some(EjectionSnapshot {
            reason: record.reason.clone(),
            since: now.saturating_duration_since(record.since),
            next_probe: Duration::from_millis(in_ms),
            times: record.times,
        })
    }

    /// Sets the time of the next probe.
    fn schedule_probe(&self, record: &EjectionRecord, rules: &Ejection, now: Instant) {
        let doubled = 1_u32 << record.times.saturating_sub(1).min(20);
        let time =
            rules.base_ejection_time.saturating_mul(doubled).min(rules.max.max(rules.base_ejection_time));
        self.due_ms.store(self.ms(now + time), Ordering::Relaxed);
    }

    fn counts(&self, picked: Instant) -> bool {
        self.ms(picked) >= self.counts_from_ms.load(Ordering::Relaxed) && !self.is_ejected()
    }

    fn ask(&self, now: Instant) -> bool {
        let now_ms = self.ms(now);
        let asked_ms = self.asked_ms.load(Ordering::Relaxed);
        (asked_ms == 0 || now_ms >= asked_ms + ASK_AGAIN_MS)
            && self
                .asked_ms
                .compare_exchange(asked_ms, now_ms.max(1), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    fn ms(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.base).as_millis() as u64
    }

    fn record(&self) -> MutexGuard<'_, EjectionRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    /// An endpoint that is ejected whenever it should be, on its own clock.
    struct Endpoint {
        outlier: Outlier,
        now: Instant,
    }

    impl Endpoint {
        fn new() -> Endpoint {
            let now = Instant::now();
            Endpoint { outlier: Outlier::new(Some(Ejection::default()), now), now }
        }

        fn later(&mut self, time: Duration) {
            self.now += time;
        }

        fn succeeds(&mut self, times: u32) {
            for _ in 0..times {
                self.outlier.succeeded(self.now, self.now);
            }
        }

        /// Records failures. Returns whether the endpoint is ejected.
        fn fails(&mut self, times: u32) -> bool {
            for _ in 0..times {
                if let Some(reason) = self.outlier.failed(self.now, true, self.now) {
                    self.outlier.eject(&reason, self.now);
                }
            }
            self.outlier.is_ejected()
        }

        /// Ends the probe picked now.
        fn probed(&self, probed: Probed) -> bool {
            self.outlier.probed(self.now, probed, self.now)
        }

        /// Returns the seconds until the probe, the ejections in a row, and the reason.
        #[track_caller]
        fn ejected(&self) -> (f64, u32, String) {
            let snapshot = self.outlier.snapshot(self.now).expect("ejected");
            (snapshot.next_probe.as_secs_f64(), snapshot.times, snapshot.reason)
        }
    }

    #[test]
    fn non_deciding_failures_never_eject() {
        let mut endpoint = Endpoint::new();
        for _ in 0..20 {
            assert_eq!(endpoint.outlier.failed(endpoint.now, false, endpoint.now), None);
        }
        assert!(!endpoint.fails(4), "one that does, or four");
        assert!(endpoint.fails(1), "five in a row that do");
    }

    #[test]
    fn five_consecutive_failures_eject() {
        let mut endpoint = Endpoint::new();
        for _ in 0..3 {
            assert!(!endpoint.fails(4));
            endpoint.succeeds(1);
        }
        assert!(!endpoint.fails(4));
        assert!(endpoint.fails(1));
        assert_eq!(endpoint.ejected(), (1.0, 1, "5 failures in a row".into()));
    }

    #[test]
    fn failure_ratio_within_window_ejects() {
        let mut endpoint = Endpoint::new();
        for _ in 0..9 {
            endpoint.succeeds(1);
            assert!(!endpoint.fails(1), "fewer than twenty calls say nothing");
        }
        endpoint.succeeds(1);
        assert!(endpoint.fails(1));
        assert_eq!(endpoint.ejected().2, "10 of 20 calls within 10s failed");

        let mut endpoint = Endpoint::new();
        endpoint.succeeds(11);
        for _ in 0..100 {
            endpoint.succeeds(1);
            assert!(!endpoint.fails(1), "a share below a half is borne");
        }
    }

    #[test]
    fn spread_out_failures_do_not_eject() {
        let mut endpoint = Endpoint::new();
        for _ in 0..100 {
            endpoint.succeeds(1);
            assert!(!endpoint.fails(1));
            endpoint.later(1_300 * MS);
        }
    }

    #[test]
    fn exactly_one_call_is_the_probe() {
        let mut endpoint = Endpoint::new();
        endpoint.fails(5);
        endpoint.later(999 * MS);
        assert!(!endpoint.outlier.claim_probe(endpoint.now));
        endpoint.later(MS);
        assert!(endpoint.outlier.claim_probe(endpoint.now));
        assert!(!endpoint.outlier.claim_probe(endpoint.now + 4_999 * MS), "one at a time");
        assert_eq!(endpoint.ejected().0, 0.0);
        assert!(!endpoint.probed(Probed::Unsent));
        assert!(endpoint.outlier.claim_probe(endpoint.now), "nothing was learnt: another one");
        assert!(endpoint.probed(Probed::Well));
        assert!(!endpoint.outlier.is_ejected());
        assert_eq!(endpoint.outlier.snapshot(endpoint.now), None);
        assert!(!endpoint.outlier.claim_probe(endpoint.now), "one that is free needs no probe");
    }

    #[test]
    fn swallowed_probe_waits_full_ejection_time() {
        let mut endpoint = Endpoint::new();
        endpoint.fails(5);
        endpoint.later(S);
        assert!(endpoint.outlier.claim_probe(endpoint.now));
        endpoint.probed(Probed::Badly);
        for _ in 0..3 {
            assert_eq!((endpoint.ejected().0, endpoint.ejected().1), (2.0, 2), "not doubled");
            endpoint.later(2 * S);
            assert!(endpoint.outlier.claim_probe(endpoint.now));
            assert!(!endpoint.probed(Probed::Unknown));
        }
    }

    #[test]
    fn stale_probe_makes_way_after_limit() {
        let mut endpoint = Endpoint::new();
        endpoint.fails(5);
        endpoint.later(S);
        let first = endpoint.now;
        assert!(endpoint.outlier.claim_probe(first));
        endpoint.later(5 * S);
        assert!(endpoint.outlier.claim_probe(endpoint.now));
        assert!(!endpoint.outlier.claim_probe(endpoint.now));
        for probed in [Probed::Badly, Probed::Unknown, Probed::Unsent] {
            assert!(!endpoint.outlier.probed(first, probed, endpoint.now));
            assert!(!endpoint.outlier.claim_probe(endpoint.now), "the second one decides");
        }
        assert_eq!((endpoint.ejected().0, endpoint.ejected().1), (0.0, 1));
        assert!(endpoint.outlier.probed(first, Probed::Well, endpoint.now), "it works after all");
        assert!(!endpoint.probed(Probed::Badly));
        assert!(!endpoint.outlier.is_ejected());
        endpoint.later(S);
        endpoint.fails(5);
        assert!(!endpoint.outlier.probed(first, Probed::Well, endpoint.now), "that was before");
        assert!(endpoint.outlier.is_ejected());
    }

    #[test]
    fn failed_probes_double_ejection_time() {
        let mut endpoint = Endpoint::new();
        endpoint.fails(5);
        for (times, seconds) in (1..).zip([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]) {
            let (next_probe_s, counted, _) = endpoint.ejected();
            assert_eq!((next_probe_s, counted), (seconds, times));
            endpoint.later(Duration::from_secs_f64(seconds));
            assert!(endpoint.outlier.claim_probe(endpoint.now));
            assert!(!endpoint.probed(Probed::Badly));
        }
    }

    #[test]
    fn repeat_ejections_grow_and_time_heals() {
        let mut endpoint = Endpoint::new();
        for (well_s, seconds) in [(0, 1.0), (1, 2.0), (1, 4.0), (10, 4.0), (20, 2.0), (3600, 1.0)] {
            endpoint.later(well_s * S);
            assert!(endpoint.fails(5));
            assert_eq!(endpoint.ejected().0, seconds, "after {well_s} s without a failure");
            endpoint.later(60 * S);
            assert!(endpoint.outlier.claim_probe(endpoint.now));
            endpoint.probed(Probed::Well);
        }
    }

    #[test]
    fn calls_before_readmission_do_not_count() {
        let mut endpoint = Endpoint::new();
        let before = endpoint.now;
        endpoint.fails(5);
        assert_eq!(endpoint.outlier.failed(endpoint.now, true, endpoint.now), None, "it is out already");
        endpoint.later(S);
        endpoint.outlier.claim_probe(endpoint.now);
        endpoint.probed(Probed::Well);
        for _ in 0..100 {
            assert_eq!(endpoint.outlier.failed(before, true, endpoint.now), None);
        }
        assert!(!endpoint.fails(4));
    }

    #[test]
    fn new_connection_is_probed_at_once() {
        let mut endpoint = Endpoint::new();
        endpoint.fails(4);
        endpoint.outlier.joined(endpoint.now);
        assert!(!endpoint.fails(4), "another process did that");
        assert!(endpoint.fails(1));
        assert!(!endpoint.outlier.claim_probe(endpoint.now));
        endpoint.outlier.joined(endpoint.now);
        assert!(endpoint.outlier.is_ejected());
        assert!(endpoint.outlier.claim_probe(endpoint.now));
        endpoint.outlier.joined(endpoint.now);
        assert!(!endpoint.outlier.claim_probe(endpoint.now), "one is under way");
    }

    #[test]
    fn disallowed_ejection_is_asked_again() {
        let endpoint = Endpoint::new();
        let failed = |at: Instant| endpoint.outlier.failed(at, true, at);
        for _ in 0..4 {
            assert_eq!(failed(endpoint.now), None);
        }
        assert!(failed(endpoint.now).is_some());
        for _ in 0..1_000 {
            assert_eq!(failed(endpoint.now + 99 * MS), None);
        }
        assert!(failed(endpoint.now + 101 * MS).is_some());
    }

    #[test]
    fn no_rules_no_ejection() {
        let now = Instant::now();
        let outlier = Outlier::new(None, now);
        for _ in 0..1_000 {
            assert_eq!(outlier.failed(now, true, now), None);
        }
    }
}
