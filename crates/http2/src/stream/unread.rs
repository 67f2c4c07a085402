//! A counter of DATA that was received and not released: of one stream, of the owner of several, and of all owners together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts bytes of DATA that were received and are not released, of all streams that [count in
/// it](crate::RecvStream::count_unread). It only counts: the owner decides what is too much, and what follows.
#[derive(Debug, Default)]
pub struct Unread {
    bytes: AtomicUsize,
    /// A counter in which everything counts too that counts in this one.
    whole: Option<Arc<Unread>>,
}

impl Unread {
    /// Makes the counter of one owner. All owners are counted together in `whole`.
    pub fn part_of(whole: Arc<Unread>) -> Unread {
        Unread { bytes: AtomicUsize::new(0), whole: Some(whole) }
    }

    /// Returns how many bytes there are now.
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

    /// Takes off bytes that are no longer held.
    pub fn subtract(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.subtract(bytes);
        }
    }
}
