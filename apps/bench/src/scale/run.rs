//! Run of a load as the report keeps it: counts, errors and whole histograms, and what they say. Runs of the same load
//! are merged by adding their histograms; percentiles are never averaged.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

use crate::load::level::{Demand, Level};
use crate::load::measured::{Measured, NotIssued, code_name};

/// Load of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Load {
    /// An open loop: calls are due at this rate, in calls a second.
    Open { per_second: f64 },
    /// A closed loop of so many callers, each with one call at a time.
    Closed { callers: u32 },
}

/// Calls that failed with one status code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CodeCount {
    /// Name of the gRPC status code.
    pub(crate) code: String,
    pub(crate) calls: u64,
    /// Message of the first of them.
    pub(crate) first: String,
}

/// Calls in flight at a moment of the counted time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InFlightSample {
    pub(crate) at_ms: u64,
    pub(crate) calls: u64,
}

/// A run of a load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) load: Load,
    /// Counted time.
    pub(crate) seconds: f64,
    /// Calls that were due in the counted time.
    pub(crate) due: u64,
    /// Calls that were made.
    pub(crate) issued: u64,
    /// Calls answered OK, whenever the answer came.
    pub(crate) ok: u64,
    /// OK answers that came within the counted time: the achieved throughput.
    pub(crate) ok_within: u64,
    pub(crate) errors: Vec<CodeCount>,
    /// Calls not made because as many as may be were outstanding.
    pub(crate) not_issued_outstanding: u64,
    /// Calls not made because the generator was too late.
    pub(crate) not_issued_generator: u64,
    /// Time from sending to the answer, of the calls answered OK, in microseconds.
    pub(crate) service_time: Times,
    /// Time from the moment at which a call was due to its answer, of the calls answered OK, in microseconds.
    pub(crate) response_time: Times,
    /// Time by which the generator was late to make calls, in microseconds.
    pub(crate) lateness: Times,
    pub(crate) in_flight: Vec<InFlightSample>,
    /// Share of the time for which the generator's busiest thread had a CPU.
    pub(crate) generator_busiest: f64,
    pub(crate) generator_cpu_seconds: f64,
    /// CPU time of the processes under load.
    pub(crate) cpu_seconds: Vec<f64>,
    /// Share of this machine's CPUs that were busy, whoever used them: where it was watched.
    #[serde(default)]
    pub(crate) machine_busy: Option<f64>,
    /// True if somebody ended the run before its time.
    pub(crate) ended_early: bool,
}

/// Histogram of microseconds: in JSON the base64 text of the compressed V2 encoding that HdrHistogram's tools read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Times(pub(crate) Histogram<u64>);

impl Times {
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// Returns a quantile in microseconds: none without samples.
    pub(crate) fn quantile_us(&self, quantile: f64) -> Option<f64> {
        (self.count() > 0).then(|| self.0.value_at_quantile(quantile) as f64)
    }

    /// Returns the mean in microseconds: none without samples.
    pub(crate) fn mean_us(&self) -> Option<f64> {
        (self.count() > 0).then(|| self.0.mean())
    }

    /// Returns how many were not above `limit_us`, as exactly as the histogram's three digits are.
    pub(crate) fn within(&self, limit_us: u64) -> u64 {
        self.0.count_between(0, limit_us.max(1))
    }
}

impl TryFrom<String> for Times {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Times> {
        let bytes = STANDARD.decode(text)?;
        let mut histogram: Histogram<u64> = Deserializer::new().deserialize(&mut bytes.as_slice())?;
        // Unlike those of this program it would not grow when another is added.
        histogram.auto(true);
        Ok(Times(histogram))
    }
}

impl From<Times> for String {
    fn from(times: Times) -> String {
        let mut bytes = Vec::new();
        // Fails only if memory cannot be written to.
        let _ = V2DeflateSerializer::new().serialize(&times.0, &mut bytes);
        STANDARD.encode(bytes)
    }
}

impl Run {
    /// Returns the run of a level and its result.
    pub(crate) fn new(level: &Level, measured: &Measured) -> Run {
        let load = match level.demand {
            Demand::Open { per_second, .. } => Load::Open { per_second },
            Demand::Closed { callers } => {
                Load::Closed { callers: u32::try_from(callers).unwrap_or(u32::MAX) }
            }
        };
        let not_issued = |reason| measured.not_issued.get(&reason).copied().unwrap_or(0);
        let errors = measured.errors.iter().map(|(code, errors)| CodeCount {
            code: code_name(*code).to_owned(),
            calls: errors.calls,
            first: errors.first.clone(),
        });
        Run {
            load,
            seconds: measured.elapsed.as_secs_f64(),
            due: measured.due,
            issued: measured.issued,
            ok: measured.ok,
            ok_within: measured.ok_within,
            errors: errors.collect(),
            not_issued_outstanding: not_issued(NotIssued::OutstandingMax),
            not_issued_generator: not_issued(NotIssued::GeneratorBehind),
            service_time: Times(measured.service_time.clone()),
            response_time: Times(measured.response_time.clone()),
            lateness: Times(measured.lateness.clone()),
            in_flight: measured
                .in_flight
                .iter()
                .map(|sample| InFlightSample {
                    at_ms: u64::try_from(sample.at.as_millis()).unwrap_or(u64::MAX),
                    calls: sample.calls,
                })
                .collect(),
            generator_busiest: measured.generator.busiest,
            generator_cpu_seconds: measured.generator.used.as_secs_f64(),
            cpu_seconds: measured.cpu.iter().map(std::time::Duration::as_secs_f64).collect(),
            machine_busy: None,
            ended_early: measured.ended_early,
        }
    }

    /// Returns OK answers a second.
    pub(crate) fn achieved(&self) -> f64 {
        self.ok_within as f64 / self.seconds
    }

    /// Returns calls due a second.
    pub(crate) fn offered(&self) -> f64 {
        self.due as f64 / self.seconds
    }

    /// Returns how many calls failed.
    pub(crate) fn failed(&self) -> u64 {
        self.errors.iter().map(|errors| errors.calls).sum()
    }

    /// Returns how many due calls were not made.
    pub(crate) fn not_issued(&self) -> u64 {
        self.not_issued_outstanding + self.not_issued_generator
    }

    /// Returns the CPU time of the processes under load for each OK answer, in microseconds: none if nothing was measured.
    pub(crate) fn cpu_us_per_call(&self) -> Option<f64> {
        (!self.cpu_seconds.is_empty() && self.ok_within > 0)
            .then(|| self.cpu_seconds.iter().sum::<f64>() * 1e6 / self.ok_within as f64)
    }

    /// Adds up runs of the same load: none without runs. Calls in flight, which belong to one course, are those of the first.
    pub(crate) fn merged<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Option<Run> {
        let mut runs = runs.into_iter();
        let mut sum = runs.next()?.clone();
        for run in runs {
            sum.add(run);
        }
        Some(sum)
    }

    fn add(&mut self, other: &Run) {
        self.seconds += other.seconds;
        self.due += other.due;
        self.issued += other.issued;
        self.ok += other.ok;
        self.ok_within += other.ok_within;
        for theirs in &other.errors {
            match self.errors.iter_mut().find(|ours| ours.code == theirs.code) {
                Some(ours) => ours.calls += theirs.calls,
                None => self.errors.push(theirs.clone()),
            }
        }
        self.not_issued_outstanding += other.not_issued_outstanding;
        self.not_issued_generator += other.not_issued_generator;
        for (ours, theirs) in [
            (&mut self.service_time, &other.service_time),
            (&mut self.response_time, &other.response_time),
            (&mut self.lateness, &other.lateness),
        ] {
            // Both grow as they need to.
            let _ = ours.0.add(&theirs.0);
        }
        self.generator_busiest = self.generator_busiest.max(other.generator_busiest);
        self.generator_cpu_seconds += other.generator_cpu_seconds;
        for (n, theirs) in other.cpu_seconds.iter().enumerate() {
            match self.cpu_seconds.get_mut(n) {
                Some(ours) => *ours += theirs,
                None => self.cpu_seconds.push(*theirs),
            }
        }
        self.ended_early |= other.ended_early;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::load::measured::histogram;

    /// Returns histograms of the given microseconds.
    pub(crate) fn times(values: impl IntoIterator<Item = u64>) -> Times {
        let mut times = histogram().expect("three digits");
        values.into_iter().for_each(|value| times.record(value).expect("it grows"));
        Times(times)
    }

    /// Returns a run without faults whose calls took `micros`.
    pub(crate) fn run(load: Load, seconds: f64, micros: impl IntoIterator<Item = u64>) -> Run {
        let response_time = times(micros);
        let calls = response_time.count();
        Run {
            load,
            seconds,
            due: calls,
            issued: calls,
            ok: calls,
            ok_within: calls,
            errors: Vec::new(),
            not_issued_outstanding: 0,
            not_issued_generator: 0,
            service_time: response_time.clone(),
            response_time,
            lateness: times([5; 100]),
            in_flight: Vec::new(),
            generator_busiest: 0.2,
            generator_cpu_seconds: 0.2 * seconds,
            cpu_seconds: vec![0.5 * seconds],
            machine_busy: None,
            ended_early: false,
        }
    }

    #[test]
    fn histograms_survive_their_text() {
        let before = times([1, 50, 50, 123_456, 3_600_000_000]);
        let text = serde_json::to_string(&before).expect("written");
        // The cookie of the compressed V2 encoding, by which HdrHistogram's tools know it.
        assert!(text.starts_with("\"HISTF"), "{text}");
        let after: Times = serde_json::from_str(&text).expect("read");
        assert_eq!(after, before);
        assert!(serde_json::from_str::<Times>("\"HISTF\"").is_err());
    }

    #[test]
    fn histograms_that_were_read_merge() {
        let load = Load::Closed { callers: 1 };
        let read = |micros| {
            let text = serde_json::to_string(&run(load, 1.0, [micros])).expect("written");
            serde_json::from_str::<Run>(&text).expect("read")
        };
        let both = Run::merged([&read(1), &read(60_000_000)]).expect("two runs");
        assert_eq!((both.response_time.count(), both.response_time.0.max() > 59_000_000), (2, true));
    }

    #[test]
    fn merged_percentile_is_of_all_calls() {
        let load = Load::Closed { callers: 1 };
        let fast = run(load, 1.0, vec![1_000; 990]);
        let slow = run(load, 1.0, vec![9_000; 10]);
        let both = Run::merged([&fast, &slow]).expect("two runs");
        assert_eq!(both.response_time.quantile_us(0.5), Some(1_000.0));
        // Half of both percentiles would have been 5 ms.
        assert!(both.response_time.quantile_us(0.995).expect("samples") > 8_900.0);
        assert_eq!((both.ok, both.seconds, both.achieved()), (1000, 2.0, 500.0));
    }
}
