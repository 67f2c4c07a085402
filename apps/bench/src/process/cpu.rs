//! CPU time and memory of a process with its children: the scheduler's own sums, in nanoseconds, over the threads.

use std::path::PathBuf;
use std::time::Duration;

/// CPU time a process and its children have used so far, over the threads that are alive now.
///
/// # Errors
/// When the process is gone or the kernel has no `schedstat`.
pub(crate) fn used(pid: u32) -> anyhow::Result<Duration> {
    let mut nanos = 0;
    for pid in tree(pid) {
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let path: PathBuf = task?.path().join("schedstat");
            // A thread may end between the listing and the reading.
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            nanos += text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(Duration::from_nanos(nanos))
}

/// Returns the CPU time of this process' children that have ended and been waited for, in whole ticks of the kernel.
///
/// # Errors
/// When the kernel does not say.
pub(crate) fn of_ended_children() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The command, in parentheses, may contain anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // cutime and cstime, the 16th and 17th field; the first here is the 3rd.
    let ticks: u64 = fields.iter().skip(13).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// Resident memory of a process and its children in bytes. What they share counts for each.
pub(crate) fn resident(pid: u32) -> anyhow::Result<u64> {
    let mut kib = 0;
    for pid in tree(pid) {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        kib += line
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|n| n.parse::<u64>().ok())
            .unwrap_or(0);
    }
    Ok(kib * 1024)
}

/// A process and all its descendants.
pub(crate) fn tree(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_children_have_used_time() {
        let before = of_ended_children().expect("a time");
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        std::process::Command::new("sh").args(["-c", busy]).status().expect("ran");
        assert!(of_ended_children().expect("a time") > before);
    }

    #[test]
    fn children_count_as_their_process() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let with = tree(std::process::id());
        let _ = child.kill();
        let _ = child.wait();
        assert!(with.contains(&child.id()), "{with:?}");
    }
}
