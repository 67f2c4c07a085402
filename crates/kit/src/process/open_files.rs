//! The limit on open files and sockets of this process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The highest limit that is asked for: more is never needed, and some systems promise a billion.
const MOST: u64 = 1 << 20;

/// Raises the soft limit to the hard one: 1 024, what most systems begin with, is less than a server's connections.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(MOST).min(MOST);
    if limit.current.is_some_and(|current| current < most) {
        let raised = Rlimit { current: Some(most), maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit on open files stays at {:?}", limit.current);
        }
    }
}

/// Returns how many files may be open at once.
#[must_use]
pub fn limit() -> usize {
    let current = getrlimit(Resource::Nofile).current.unwrap_or(MOST).min(MOST);
    usize::try_from(current).unwrap_or(usize::MAX)
}

/// Returns how many files are open now; none where the system does not tell.
#[must_use]
pub fn open() -> Option<usize> {
    Some(std::fs::read_dir("/dev/fd").ok()?.count())
}
