//! Result of a level of load. Times are histograms in microseconds with three digits, so that repetitions can be merged
//! (percentiles must never be averaged).

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Result of a level of load. Counts are of the calls due in the counted time, unless they say otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    /// Calls that were due: issued and not issued. In a closed loop every call is issued when it is due.
    pub(crate) due: u64,
    /// Calls that were made.
    pub(crate) issued: u64,
    /// Calls answered OK, or with a status that the target accepts as such, whenever the answer came.
    pub(crate) ok: u64,
    /// OK answers that arrived within the counted time, whenever their call was due: the throughput achieved.
    pub(crate) ok_within: u64,
    /// Calls that were made and not answered OK, by gRPC status code. As in gRPC's clients a broken connection is
    /// UNAVAILABLE, and DEADLINE_EXCEEDED what had no answer when the grace was over.
    pub(crate) errors: BTreeMap<u16, Errors>,
    /// Calls that were due and not made.
    pub(crate) not_issued: BTreeMap<NotIssued, u64>,
    /// Time from a call's request being sent to the end of its answer; of the calls answered OK.
    pub(crate) service_time: Histogram<u64>,
    /// Time from the moment at which a call was due to the end of its answer; of the calls answered OK.
    pub(crate) response_time: Histogram<u64>,
    /// Time from the moment at which a call was due to the generator turning to it; of the calls issued.
    pub(crate) lateness: Histogram<u64>,
    /// Calls due and not answered, at even intervals over the counted time.
    pub(crate) in_flight: Vec<InFlight>,
    /// Counted time: the level's, or less if the run was ended early.
    pub(crate) elapsed: Duration,
    /// Issued calls that had to wait for a stream: all connections carried as many calls as their servers allow. The wait
    /// is part of the response time, not of the service time; more connections shorten it.
    pub(crate) waited_for_stream: u64,
    /// CPU time of the generator.
    pub(crate) generator: GeneratorCpu,
    /// CPU time of the processes under load in the counted time, in the order of the target's `pids`.
    pub(crate) cpu: Vec<Duration>,
    /// True if somebody ended the run before its time.
    pub(crate) ended_early: bool,
}

/// Failed calls of one status code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Errors {
    pub(crate) calls: u64,
    /// Message of the first of them.
    pub(crate) first: String,
}

/// Reason for which a call that was due was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NotIssued {
    /// The bound of outstanding calls was reached: the target is too slow for the load.
    OutstandingMax,
    /// The generator turned to it too late for its answer to say anything about the target.
    GeneratorBehind,
}

/// Number of calls due and not answered at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InFlight {
    /// Time since the counted time began.
    pub(crate) at: Duration,
    pub(crate) calls: u64,
}

/// CPU time of the generator over the whole run, warm-up and last answers included.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct GeneratorCpu {
    /// CPU time of all its threads.
    pub(crate) used: Duration,
    /// Share of the time for which its busiest thread had a CPU; 1 is all of it.
    pub(crate) busiest: f64,
    /// Calls made in that time, warm-up included.
    pub(crate) calls: u64,
}

impl Measured {
    /// Returns what nothing has been counted in yet.
    pub(crate) fn empty() -> anyhow::Result<Measured> {
        Ok(Measured {
            due: 0,
            issued: 0,
            ok: 0,
            ok_within: 0,
            errors: BTreeMap::new(),
            not_issued: BTreeMap::new(),
            service_time: histogram()?,
            response_time: histogram()?,
            lateness: histogram()?,
            in_flight: Vec::new(),
            elapsed: Duration::ZERO,
            waited_for_stream: 0,
            generator: GeneratorCpu::default(),
            cpu: Vec::new(),
            ended_early: false,
        })
    }

    /// Returns the calls that were due each second.
    pub(crate) fn offered_per_second(&self) -> f64 {
        self.due as f64 / self.elapsed.as_secs_f64()
    }

    /// Returns the OK answers of each second of the counted time.
    pub(crate) fn achieved_per_second(&self) -> f64 {
        self.ok_within as f64 / self.elapsed.as_secs_f64()
    }

    /// Returns how many calls were made and not answered OK.
    pub(crate) fn failed(&self) -> u64 {
        self.errors.values().map(|errors| errors.calls).sum()
    }

    /// Returns how many calls were due and not made.
    pub(crate) fn not_made(&self) -> u64 {
        self.not_issued.values().sum()
    }

    /// Counts a failed call; the message of the first with its code is kept.
    pub(crate) fn error(&mut self, code: u16, message: impl FnOnce() -> String) {
        let errors = self.errors.entry(code).or_default();
        if errors.calls == 0 {
            errors.first = message();
        }
        errors.calls += 1;
    }

    /// Adds the counts and times of another thread of the same run. What belongs to the run (its time in all, the calls
    /// in flight, the CPU of the target) stays as it is.
    pub(crate) fn add(&mut self, other: Measured) -> anyhow::Result<()> {
        self.due += other.due;
        self.issued += other.issued;
        self.ok += other.ok;
        self.ok_within += other.ok_within;
        for (code, theirs) in other.errors {
            let ours = self.errors.entry(code).or_default();
            if ours.calls == 0 {
                ours.first = theirs.first;
            }
            ours.calls += theirs.calls;
        }
        for (reason, calls) in other.not_issued {
            *self.not_issued.entry(reason).or_default() += calls;
        }
        self.service_time.add(other.service_time)?;
        self.response_time.add(other.response_time)?;
        self.lateness.add(other.lateness)?;
        self.waited_for_stream += other.waited_for_stream;
        self.generator.used += other.generator.used;
        self.generator.busiest = self.generator.busiest.max(other.generator.busiest);
        self.generator.calls += other.generator.calls;
        Ok(())
    }
}

impl GeneratorCpu {
    /// Notes the CPU time that the calling thread has used in its life, which was spent on a run of `elapsed`.
    pub(super) fn spent(&mut self, elapsed: Duration) {
        let used = Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime));
        let used = used.unwrap_or_default();
        self.used += used;
        self.busiest = self.busiest.max(used.as_secs_f64() / elapsed.as_secs_f64());
    }
}

/// Returns an empty histogram of microseconds, with three digits.
pub(crate) fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new(3)?)
}

pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Returns the name of a gRPC status code.
pub(crate) fn code_name(code: u16) -> &'static str {
    shoal_grpc_code::name(code).unwrap_or("UNKNOWN")
}
