//! Tracks the server processes that a node's connections led to, one after the other.
//!
//! A process that comes back after another one took its place may lack the writes to the other one: such is a fail-over between
//! two living processes, neither a copy of the other. The `run_id` alone does not show it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use redis::{InfoDict, Value};

/// The number of processes to remember. Beyond it the oldest one is forgotten, and every new one counts as come back.
const KNOWN_MAX: usize = 64;

/// A process as a connection met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Met {
    process: u64,
    /// The time of the meeting by the clock of the process, in microseconds since 1970.
    at: u64,
}

impl Met {
    /// Returns the process.
    pub(crate) fn process(self) -> u64 {
        self.process
    }

    /// Reads the answers to `INFO server` and `TIME`; `None` if Redis does not tell, for example because its user may not ask.
    pub(crate) fn of_replies(info: Value, time: Value) -> Option<Met> {
        let info: InfoDict = redis::from_redis_value(info).ok()?;
        let (seconds, micros): (u64, u64) = redis::from_redis_value(time).ok()?;
        Some(Met { process: process_of(&info.get::<String>("run_id")?)?, at: seconds * 1_000_000 + micros })
    }
}

/// Returns the number of a server process: the first 52 bits of its `run_id`, which a double holds exactly.
#[must_use]
pub fn process_of(run_id: &str) -> Option<u64> {
    u64::from_str_radix(run_id.get(..13)?, 16).ok()
}

/// The processes of one node.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    history: RwLock<History>,
    /// Set once a process came back, so that calls need not take the lock before.
    returned: AtomicBool,
}

#[derive(Debug, Default)]
struct History {
    current: Option<u64>,
    /// The processes in the order of their first meeting, each with the time at which it last came back.
    known: Vec<(u64, Option<u64>)>,
    forgot: bool,
}

impl Processes {
    /// Records the process behind a connection that is about to be used. Returns whether the process came back.
    pub(crate) fn met(&self, met: Met) -> bool {
        let mut history = self.history.write().unwrap_or_else(PoisonError::into_inner);
        if history.current == Some(met.process) {
            return false;
        }
        history.current = Some(met.process);
        let came_back = match history.known.iter_mut().find(|(process, _)| *process == met.process) {
            Some((_, back)) => {
                *back = Some(met.at);
                true
            }
            None => {
                if history.known.len() >= KNOWN_MAX {
                    history.known.remove(0);
                    history.forgot = true;
                }
                let forgot = history.forgot;
                history.known.push((met.process, forgot.then_some(met.at)));
                forgot
            }
        };
        if came_back {
            self.returned.store(true, Ordering::Release);
        }
        came_back
    }

    /// Returns the time at which a process last came back, if it did.
    pub(crate) fn returned_at(&self, process: u64) -> Option<u64> {
        if !self.returned.load(Ordering::Acquire) {
            return None;
        }
        let history = self.history.read().unwrap_or_else(PoisonError::into_inner);
        history.known.iter().find(|(known, _)| *known == process)?.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_came_back_only_after_another() {
        let processes = Processes::default();
        let met = |process, at| processes.met(Met { process, at });
        assert!(!met(1, 10) && !met(1, 11), "more connections to the same one");
        assert!(!met(2, 20));
        assert_eq!((processes.returned_at(1), processes.returned_at(2)), (None, None));
        assert!(met(1, 30));
        assert!(!met(1, 31));
        assert_eq!((processes.returned_at(1), processes.returned_at(2)), (Some(30), None));
        assert!(met(2, 40) && met(1, 50));
        assert_eq!((processes.returned_at(1), processes.returned_at(2)), (Some(50), Some(40)));
        assert_eq!(processes.returned_at(3), None);
    }

    #[test]
    fn forgotten_process_counts_as_come_back() {
        let processes = Processes::default();
        for process in 0..=KNOWN_MAX as u64 {
            processes.met(Met { process, at: process });
        }
        assert!(processes.met(Met { process: 0, at: 1000 }));
        assert_eq!(processes.returned_at(0), Some(1000));
    }

    #[test]
    fn process_is_read_from_replies() {
        let info = Value::BulkString(b"# Server\r\nrun_id:00000000000ffabc\r\n".to_vec());
        let time = Value::Array(vec![Value::BulkString(b"2".to_vec()), Value::BulkString(b"5".to_vec())]);
        assert_eq!(Met::of_replies(info.clone(), time), Some(Met { process: 0xff, at: 2_000_005 }));
        assert_eq!(Met::of_replies(info, Value::Nil), None);
        assert_eq!(process_of("short"), None);
    }
}
