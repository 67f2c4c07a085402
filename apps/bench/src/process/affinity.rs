//! CPUs that a process may run on, set by util-linux' `taskset` alike for all that are measured.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use tokio::process::Command;

/// A set of CPUs of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cpus(Vec<usize>);

/// CPUs of the measured process and of the rest: the callers and the upstreams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placing {
    pub(crate) measured: Cpus,
    pub(crate) rest: Cpus,
}

impl Placing {
    /// The rest has CPUs of its own where at least as many are left, and shares all of them otherwise. None: there are
    /// fewer CPUs than that.
    pub(crate) fn of(cores: usize, all: &Cpus) -> Option<Placing> {
        if cores == 0 || cores > all.len() {
            return None;
        }
        let (measured, left) = all.0.split_at(cores);
        let rest = if left.len() >= cores { left } else { &all.0 };
        Some(Placing { measured: Cpus(measured.to_vec()), rest: Cpus(rest.to_vec()) })
    }
}

impl Cpus {
    /// Returns the CPUs that this process may run on now.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub(crate) fn allowed() -> anyhow::Result<Cpus> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        list.and_then(|list| Cpus::parse(list.trim())).context("/proc/self/status names no CPUs")
    }

    /// The kernel's notation: `0-1,4`.
    fn parse(list: &str) -> Option<Cpus> {
        let mut cpus = Vec::new();
        for range in list.split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            cpus.extend(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?);
        }
        Some(Cpus(cpus))
    }

    /// A command that runs `program` on these CPUs, in the same process that is spawned.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("taskset");
        command.args(["-c", &self.to_string()]).arg(program);
        command
    }

    /// Moves this process, with all threads it has, to these CPUs.
    ///
    /// # Errors
    /// When there is no `taskset`, or it refuses.
    pub(crate) async fn move_here(&self) -> anyhow::Result<()> {
        let status = Command::new("taskset")
            .args(["-a", "-p", "-c", &self.to_string(), &std::process::id().to_string()])
            .stdout(Stdio::null())
            .status()
            .await
            .context("taskset (of util-linux) pins what is measured to cores")?;
        ensure!(status.success(), "taskset: {status}");
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl std::fmt::Display for Cpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&numbers.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_kept_apart_where_possible() {
        let placed = |cores, all| {
            let all = Cpus::parse(all).expect("a list");
            Placing::of(cores, &all).map(|p| (p.measured.to_string(), p.rest.to_string()))
        };
        let cpus = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(placed(1, "0-1"), cpus("0", "1"));
        assert_eq!(placed(2, "0-1"), cpus("0,1", "0,1"));
        assert_eq!(placed(2, "0-2"), cpus("0,1", "0,1,2"));
        assert_eq!(placed(2, "1,4-6,9"), cpus("1,4", "5,6,9"));
        assert_eq!(placed(3, "0-1"), None);
        assert_eq!(placed(0, "0-1"), None);
    }

    #[test]
    fn this_process_may_run_somewhere() {
        assert!(Cpus::allowed().expect("Linux").len() > 0);
        assert_eq!(Cpus::parse("0-"), None);
    }
}
