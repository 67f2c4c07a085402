//! How many files and sockets this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// No process here needs more, and some systems promise a billion.
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

/// How many may be open at once.
#[must_use]
pub fn limit() -> usize {
    let current = getrlimit(Resource::Nofile).current.unwrap_or(MOST).min(MOST);
    usize::try_from(current).unwrap_or(usize::MAX)
}

/// How many are open now; none where that cannot be asked.
#[must_use]
pub fn open() -> Option<usize> {
    Some(std::fs::read_dir("/dev/fd").ok()?.count())
}
