//! The figures of the process that every Prometheus client shows: CPU time, memory, open files, start. They are read when
//! somebody asks, from `/proc`; elsewhere those that the system does not tell are left out.

use std::fmt::Write as _;

use rustix::param::{clock_ticks_per_second, page_size};

use crate::process::open_files;
use crate::telemetry::families;

/// Returns the lines for a scrape.
pub(crate) fn render() -> String {
    let stat = std::fs::read_to_string("/proc/self/stat").ok();
    let stat = stat.as_deref().and_then(Stat::parse);
    let booted = std::fs::read_to_string("/proc/stat").ok();
    let booted = booted.as_deref().and_then(boot_time);
    let seconds = |ticks: u64| ticks as f64 / clock_ticks_per_second() as f64;
    let figures = [
        ("process_cpu_seconds_total", stat.map(|stat| seconds(stat.cpu_ticks))),
        ("process_resident_memory_bytes", stat.map(|stat| stat.resident_pages as f64 * page_size() as f64)),
        ("process_open_fds", open_files::open().map(|open| open as f64)),
        ("process_max_fds", Some(open_files::limit() as f64)),
        (
            "process_start_time_seconds",
            stat.zip(booted).map(|(stat, booted)| booted as f64 + seconds(stat.start_ticks)),
        ),
    ];
    let mut text = String::new();
    for (name, value) in figures {
        let Some(family) = families::ALL.iter().find(|family| family.name == name) else { continue };
        if let Some(value) = value {
            let (kind, help) = (family.kind.name(), family.help);
            // Writing to a string does not fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        }
    }
    text
}

/// Fields of `/proc/self/stat` (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
    resident_pages: u64,
}

impl Stat {
    /// Parses the one line. The name of the program stands in parentheses and may have spaces and parentheses itself.
    fn parse(line: &str) -> Option<Stat> {
        let (_, rest) = line.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // The first field after the name is number 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Stat { cpu_ticks: field(14)? + field(15)?, start_ticks: field(22)?, resident_pages: field(24)? })
    }
}

/// Reads the time of the system's start from `/proc/stat`, in seconds of Unix time.
fn boot_time(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_spaces_is_skipped() {
        let line = "7 (a ) b) S 1 1 1 0 -1 4194560 5 0 0 0 120 30 0 0 20 0 4 0 9000 1000 250 184";
        let stat = Stat { cpu_ticks: 150, start_ticks: 9000, resident_pages: 250 };
        assert_eq!(Stat::parse(line), Some(stat));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_has_all_its_figures() {
        let text = render();
        let figures = families::ALL.iter().filter(|family| family.name.starts_with("process_"));
        for family in figures {
            let value = text.lines().find_map(|line| line.strip_prefix(family.name)?.strip_prefix(' '));
            let value: f64 = value.expect(family.name).parse().expect("a number");
            assert!(value > 0.0 || family.name == "process_cpu_seconds_total", "{}: {value}", family.name);
        }
    }
}
