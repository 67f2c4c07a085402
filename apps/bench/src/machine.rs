//! Facts about the machine that figures depend on: its CPU and kernel, what else it did, and whether its speed changed
//! between the begin and the end of a benchmark.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::process::affinity::Cpus;

/// Steps of the calibration loop: some tens of milliseconds in an optimized build, ten times that in a debug build.
const STEPS: u32 = 8_000_000;
/// Runs of the calibration loop, whose median counts.
const RUNS: usize = 5;
/// Time for which the machine is watched before a benchmark, to see what others do on it.
const QUIET: Duration = Duration::from_millis(300);
/// Drift of the calibration loop past which the figures of a run are not comparable with each other.
pub(crate) const DRIFT_MAX: f64 = 0.05;
/// Share of the CPUs used by others, or taken by the host, past which the machine was not quiet.
pub(crate) const BUSY_MAX: f64 = 0.1;

/// Facts about the machine during a benchmark. Shares are of all CPUs, from 0 to 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Model of the CPU, as the kernel names it.
    pub(crate) cpu: String,
    /// CPUs of the machine.
    pub(crate) cores: usize,
    /// CPUs that the benchmark may run on, in the notation of the kernel.
    pub(crate) allowed_cpus: String,
    /// Release of the kernel.
    pub(crate) kernel: String,
    /// Physical memory.
    pub(crate) memory_bytes: u64,
    /// Build profile of the measured binary: `debug` or `optimized`.
    pub(crate) build: String,
    /// Load average of the last minute, before.
    pub(crate) load_before: f64,
    /// Load average of the last minute, after.
    pub(crate) load_after: f64,
    /// Share of the CPUs that others used before the benchmark began.
    pub(crate) busy_before: f64,
    /// Share of the CPUs' time that the host gave to other machines during the benchmark.
    pub(crate) steal: f64,
    /// Median time of the calibration loop before the benchmark.
    pub(crate) calibration_before_ms: f64,
    /// Median time of the calibration loop after the benchmark.
    pub(crate) calibration_after_ms: f64,
}

impl Machine {
    /// Returns how much slower the calibration loop was after the benchmark, as a share of its time before.
    pub(crate) fn drift(&self) -> f64 {
        self.calibration_after_ms / self.calibration_before_ms - 1.0
    }

    /// Returns the reasons not to trust the figures of this run.
    pub(crate) fn doubts(&self) -> Vec<String> {
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        let mut doubts = Vec::new();
        if self.build == DEBUG {
            doubts.push(
                "the build is a debug build, whose CPU time is several times that of a release".to_owned(),
            );
        }
        if self.busy_before > BUSY_MAX {
            doubts.push(format!("others used {} of the CPUs before it began", percent(self.busy_before)));
        }
        if self.steal > BUSY_MAX {
            doubts.push(format!("the host took {} of the CPUs' time", percent(self.steal)));
        }
        if self.drift().abs() > DRIFT_MAX {
            doubts.push(format!(
                "a calibration loop took {:+.0} % of its time more after it than before",
                100.0 * self.drift()
            ));
        }
        doubts
    }
}

const DEBUG: &str = "debug";

/// A benchmark under way, whose machine is watched.
#[derive(Debug)]
pub(crate) struct Watch {
    before: Machine,
    ticks: Ticks,
}

impl Watch {
    /// Reads the facts and runs the calibration loop, before anything is started.
    pub(crate) async fn begin() -> anyhow::Result<Watch> {
        let idle = Ticks::now();
        tokio::time::sleep(QUIET).await;
        let busy_before = Ticks::now().since(idle).busy();
        let calibration = calibrate().await?;
        let before = Machine {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            allowed_cpus: Cpus::allowed()?.to_string(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_bytes: field("/proc/meminfo", "MemTotal")
                .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
                .unwrap_or(0)
                * 1024,
            build: if cfg!(debug_assertions) { DEBUG } else { "optimized" }.to_owned(),
            load_before: load(),
            load_after: 0.0,
            busy_before,
            steal: 0.0,
            calibration_before_ms: calibration,
            calibration_after_ms: 0.0,
        };
        Ok(Watch { before, ticks: Ticks::now() })
    }

    /// Returns the share of the CPUs that others used before.
    pub(crate) fn busy_before(&self) -> f64 {
        self.before.busy_before
    }

    /// Reads what changed and runs the calibration loop again, after everything has ended.
    pub(crate) async fn end(self) -> anyhow::Result<Machine> {
        let steal = Ticks::now().since(self.ticks).steal();
        let calibration_after_ms = calibrate().await?;
        Ok(Machine { load_after: load(), steal, calibration_after_ms, ..self.before })
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Returns the first value of a name in a file of lines `name : value`.
fn field(path: &str, name: &str) -> Option<String> {
    read(path).lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then(|| value.trim().to_owned())
    })
}

fn load() -> f64 {
    read("/proc/loadavg").split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0.0)
}

/// Meter of this machine's CPUs.
#[derive(Debug)]
pub(crate) struct CpuMeter(Ticks);

impl CpuMeter {
    pub(crate) fn begin() -> CpuMeter {
        CpuMeter(Ticks::now())
    }

    /// Returns the share of the CPUs that were busy since it began, from 0 to 1.
    pub(crate) fn busy(&self) -> f64 {
        Ticks::now().since(self.0).busy()
    }
}

/// CPU time of the machine in clock ticks since it started, of all CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Ticks {
    all: f64,
    idle: f64,
    stolen: f64,
}

impl Ticks {
    fn now() -> Ticks {
        Ticks::parse(&read("/proc/stat"))
    }

    /// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal (proc(5)).
    fn parse(stat: &str) -> Ticks {
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<f64> =
            line.split_whitespace().skip(1).take(8).filter_map(|t| t.parse().ok()).collect();
        let of = |n: usize| ticks.get(n).copied().unwrap_or(0.0);
        Ticks { all: ticks.iter().sum(), idle: of(3) + of(4), stolen: of(7) }
    }

    fn since(self, before: Ticks) -> Ticks {
        Ticks {
            all: self.all - before.all,
            idle: self.idle - before.idle,
            stolen: self.stolen - before.stolen,
        }
    }

    fn busy(self) -> f64 {
        if self.all > 0.0 { 1.0 - self.idle / self.all } else { 0.0 }
    }

    fn steal(self) -> f64 {
        if self.all > 0.0 { self.stolen / self.all } else { 0.0 }
    }
}

/// Returns the median time of a fixed piece of work on one CPU, in milliseconds.
async fn calibrate() -> anyhow::Result<f64> {
    let times = tokio::task::spawn_blocking(|| (0..RUNS).map(|_| timed()).collect::<Vec<f64>>());
    let mut times = times.await?;
    times.sort_by(f64::total_cmp);
    Ok(times[RUNS / 2])
}

/// Marsaglia's xorshift: each step waits for the one before, so the time is that of the CPU's clock.
fn timed() -> f64 {
    let begun = Instant::now();
    let mut state = std::hint::black_box(0x9E37_79B9_7F4A_7C15_u64);
    for _ in 0..STEPS {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    std::hint::black_box(state);
    begun.elapsed().as_secs_f64() * 1e3
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A quiet machine.
    pub(crate) fn quiet() -> Machine {
        Machine {
            cpu: "A CPU".to_owned(),
            cores: 2,
            allowed_cpus: "0,1".to_owned(),
            kernel: "6.1.0".to_owned(),
            memory_bytes: 4 << 30,
            build: "optimized".to_owned(),
            load_before: 0.1,
            load_after: 1.5,
            busy_before: 0.01,
            steal: 0.0,
            calibration_before_ms: 20.0,
            calibration_after_ms: 20.2,
        }
    }

    #[tokio::test]
    async fn facts_of_this_machine_are_found() {
        let machine = Watch::begin().await.expect("begun").end().await.expect("ended");
        assert!(
            machine.cores > 0 && machine.memory_bytes > 1 << 20 && !machine.kernel.is_empty(),
            "{machine:?}"
        );
        assert!(machine.calibration_before_ms > 0.0 && machine.calibration_after_ms > 0.0, "{machine:?}");
        assert!(
            (0.0..=1.0).contains(&machine.busy_before) && (0.0..=1.0).contains(&machine.steal),
            "{machine:?}"
        );
    }

    #[test]
    fn stolen_time_is_a_share() {
        let before = Ticks::parse("cpu  100 0 50 800 50 0 0 0 9 9\ncpu0 1 2 3");
        let after = Ticks::parse("cpu  150 0 60 810 50 0 10 20 9 9\n");
        let during = after.since(before);
        assert_eq!((during.all, during.idle, during.stolen), (100.0, 10.0, 20.0));
        assert!((during.busy() - 0.9).abs() < 1e-9 && (during.steal() - 0.2).abs() < 1e-9);
    }

    #[test]
    fn a_disturbed_run_is_doubted() {
        assert_eq!(quiet().doubts(), Vec::<String>::new());
        let disturbed = Machine {
            build: DEBUG.to_owned(),
            busy_before: 0.5,
            steal: 0.2,
            calibration_after_ms: 22.0,
            ..quiet()
        };
        let doubts = disturbed.doubts().join("\n");
        for part in ["debug build", "others used 50 %", "the host took 20 %", "+10 % of its time more"] {
            assert!(doubts.contains(part), "{part}: {doubts}");
        }
    }
}
