//! How much DATA was received and not released: of one stream, of whoever owns several, and of all owners together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts bytes of DATA that were received and are not released, of all streams that
/// [count in it](crate::RecvStream::count_unread). Counts only: what is too much, and what follows, its owner decides.
#[derive(Debug, Default)]
pub struct Unread {
    bytes: AtomicUsize,
    /// What counts in this counts there too.
    whole: Option<Arc<Unread>>,
}

impl Unread {
    /// Of one owner among others, who are counted together in `whole`.
    pub fn part_of(whole: Arc<Unread>) -> Unread {
        Unread { bytes: AtomicUsize::new(0), whole: Some(whole) }
    }

    /// How many bytes there are now.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts bytes that are held elsewhere.
    pub fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.add(bytes);
        }
    }

    /// So many of them are no longer held.
    pub fn subtract(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.subtract(bytes);
        }
    }
}
